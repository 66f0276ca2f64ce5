//! The issuers of other people's tokens: where their keys are, kept until a token comes that none of them signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use base::Clock;
use machinery::Value;
use policy::UserInfo;
use policy::jwt::JwtAuthenticator;
use tokio::sync::watch;

use crate::Error;
use crate::distributed::Sources;
use crate::outbound::Outbound;

/// Between two tries to find an issuer's configuration (upstream: 10 s).
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// How long new issuers may take to be found before a new configuration is given up (upstream: a minute).
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);
/// Strangers' tokens do not make the server ask for keys more often than this.
const KEYS_INTERVAL: Duration = Duration::from_secs(5);

/// An issuer as configured: its rules, and how its server is trusted.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    pub rules: JwtAuthenticator,
    /// Trusts the issuer's server.
    pub tls: Arc<rustls::ClientConfig>,
}

/// What was found at the issuer.
struct Found {
    keys_url: String,
    keys: serde_json::Value,
}

/// One issuer at work.
pub(crate) struct Issuer {
    pub(crate) config: TrustedIssuer,
    /// Where claims come from that its tokens only point to.
    pub(crate) sources: Sources,
    found: ArcSwapOption<Found>,
    /// Told when it is found.
    ready: watch::Sender<bool>,
    /// When keys were last asked for.
    asked: Mutex<Option<Duration>>,
    fetching: tokio::sync::Mutex<()>,
    given_up: watch::Sender<bool>,
}

/// All issuers.
pub(crate) struct Issuers {
    all: ArcSwap<Vec<Arc<Issuer>>>,
    clock: Clock,
}

impl Issuers {
    pub(crate) fn new(configs: &[TrustedIssuer], clock: Clock) -> Self {
        Self { all: ArcSwap::from_pointee(configs.iter().map(Issuer::new).collect()), clock }
    }

    /// Looks for each issuer's configuration until it is found or the server stops.
    pub(crate) fn start(&self, stop: &watch::Sender<bool>) {
        self.all.load().iter().for_each(|issuer| issuer.start(stop));
    }

    /// Puts other issuers in the place of these, as soon as all of them are found; who stays as it was keeps its keys.
    ///
    /// # Errors
    /// When one is not found in time: then all stays as it was.
    pub(crate) async fn replace(&self, configs: &[TrustedIssuer], stop: &watch::Sender<bool>) -> Result<(), String> {
        let before = self.all.load_full();
        let mut fresh = Vec::new();
        let all: Vec<Arc<Issuer>> = configs
            .iter()
            .map(|config| match before.iter().find(|issuer| issuer.config.rules == config.rules) {
                Some(same) => same.clone(),
                None => {
                    let issuer = Issuer::new(config);
                    issuer.start(stop);
                    fresh.push(issuer.clone());
                    issuer
                }
            })
            .collect();
        let ready = async {
            for issuer in &fresh {
                let _ = issuer.ready.subscribe().wait_for(|ready| *ready).await;
            }
        };
        if tokio::time::timeout(REPLACE_TIMEOUT, ready).await.is_err() {
            fresh.iter().for_each(|issuer| issuer.abandon());
            let late = fresh.iter().find(|issuer| issuer.found.load().is_none());
            let name = late.map(|issuer| issuer.config.rules.issuer.clone()).unwrap_or_default();
            return Err(format!("oidc: authenticator for issuer {name:?} is not initialized"));
        }
        // Who is no longer one is looked for no longer.
        before.iter().filter(|old| !all.iter().any(|issuer| Arc::ptr_eq(old, issuer))).for_each(|old| old.abandon());
        self.all.store(Arc::new(all));
        Ok(())
    }

    /// Whom a token stands for; `None` when its issuer is not one of these.
    ///
    /// # Errors
    /// Why the token is not accepted, for the log.
    pub(crate) async fn user(&self, token: &str, iss: &str) -> Option<Result<UserInfo, String>> {
        let all = self.all.load_full();
        let issuer = all.iter().find(|issuer| issuer.config.rules.is_issuer_of(iss))?;
        let claims = match issuer.claims(token, &self.clock).await {
            Ok(claims) => issuer.expand(token, claims, &self.clock).await,
            Err(why) => Err(why),
        };
        Some(claims.and_then(|claims| issuer.config.rules.user(&claims, self.clock.now())))
    }
}

impl Issuer {
    pub(crate) fn new(config: &TrustedIssuer) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            sources: Sources::default(),
            found: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            asked: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            given_up: watch::Sender::new(false),
        })
    }

    fn start(self: &Arc<Self>, stop: &watch::Sender<bool>) {
        let (issuer, mut stop, mut given_up) = (self.clone(), stop.subscribe(), self.given_up.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = issuer.discover() => {}
                () = crate::watch::stopped(&mut stop) => {}
                () = crate::watch::stopped(&mut given_up) => {}
            }
        });
    }

    /// Looks for it no longer.
    fn abandon(&self) {
        self.given_up.send_replace(true);
    }

    async fn discover(&self) {
        loop {
            match self.find().await {
                Ok(()) => {
                    self.ready.send_replace(true);
                    return;
                }
                Err(why) => tracing::warn!(issuer = self.config.rules.issuer, why, "an issuer is not reached"),
            }
            tokio::time::sleep(DISCOVERY_INTERVAL).await;
        }
    }

    /// Looks for it once.
    pub(crate) async fn find(&self) -> Result<(), String> {
        let found = self.look().await?;
        tracing::info!(issuer = self.config.rules.issuer, keys = found.keys_url, "found an issuer's keys");
        self.found.store(Some(Arc::new(found)));
        Ok(())
    }

    async fn look(&self) -> Result<Found, String> {
        let document = self.json(&self.config.rules.configuration_url()).await?;
        let issuer = document["issuer"].as_str().unwrap_or_default();
        if issuer != self.config.rules.issuer {
            let wanted = &self.config.rules.issuer;
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {wanted:?} got {issuer:?}"
            ));
        }
        let keys_url = document["jwks_uri"].as_str().ok_or("its configuration has no jwks_uri")?.to_owned();
        let keys = self.json(&keys_url).await?;
        Ok(Found { keys_url, keys })
    }

    async fn json(&self, url: &str) -> Result<serde_json::Value, String> {
        let (code, body) = Outbound::get(url).send(Some(&self.config.tls)).await?;
        if code != 200 {
            return Err(format!("{url} answered {code}"));
        }
        serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
    }

    /// The claims, when the issuer signed them.
    pub(crate) async fn claims(&self, token: &str, clock: &Clock) -> Result<Value, String> {
        let Some(found) = self.found.load_full() else { return Err("oidc: authenticator not initialized".to_owned()) };
        let algorithms = &self.config.rules.algorithms;
        if let Some(claims) = pki::verify_jwt(token, &found.keys, algorithms) {
            return Ok(Value::from(claims));
        }
        let bad = || "oidc: verify token: failed to verify signature".to_owned();
        // The issuer may have new keys. One asks, the others wait for what it hears.
        let _one = self.fetching.lock().await;
        let current = self.found.load_full().ok_or_else(bad)?;
        let keys = if Arc::ptr_eq(&current, &found) {
            if !self.may_ask(clock.monotonic()) {
                return Err(bad());
            }
            let keys = self.json(&found.keys_url).await?;
            self.found.store(Some(Arc::new(Found { keys_url: found.keys_url.clone(), keys: keys.clone() })));
            keys
        } else {
            current.keys.clone()
        };
        pki::verify_jwt(token, &keys, algorithms).map(Value::from).ok_or_else(bad)
    }

    fn may_ask(&self, now: Duration) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked.is_none_or(|at| now.saturating_sub(at) >= KEYS_INTERVAL);
        if may {
            *asked = Some(now);
        }
        may
    }
}

impl TrustedIssuer {
    /// Rules with the trust they name: `certificate_authority`, else `roots` (PEM of the system's authorities).
    ///
    /// # Errors
    /// When the PEM is none.
    pub fn new(rules: JwtAuthenticator, roots: &str, clock: &Clock) -> Result<Self, Error> {
        let pem = if rules.certificate_authority.is_empty() { roots } else { &rules.certificate_authority };
        let tls = pki::client_config(pem, None, &[], clock).map_err(Error::Certificates)?;
        Ok(Self { rules, tls })
    }
}
