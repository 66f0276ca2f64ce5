//! The issuers of other people's tokens: where their keys are, kept until a token comes that none of them signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::Clock;
use machinery::Value;
use policy::UserInfo;
use policy::jwt::JwtAuthenticator;
use tokio::sync::watch;

use crate::Error;
use crate::outbound::Outbound;

/// Between two tries to find an issuer's configuration (upstream: 10 s).
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
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
struct Issuer {
    config: TrustedIssuer,
    found: ArcSwapOption<Found>,
    /// When keys were last asked for.
    asked: Mutex<Option<Duration>>,
    fetching: tokio::sync::Mutex<()>,
}

/// All issuers.
pub(crate) struct Issuers {
    all: Vec<Arc<Issuer>>,
    clock: Clock,
}

impl Issuers {
    pub(crate) fn new(configs: &[TrustedIssuer], clock: Clock) -> Self {
        let issuer = |config: &TrustedIssuer| {
            Arc::new(Issuer {
                config: config.clone(),
                found: ArcSwapOption::empty(),
                asked: Mutex::default(),
                fetching: tokio::sync::Mutex::default(),
            })
        };
        Self { all: configs.iter().map(issuer).collect(), clock }
    }

    /// Looks for each issuer's configuration until it is found or the server stops.
    pub(crate) fn start(&self, stop: &watch::Sender<bool>) {
        for issuer in &self.all {
            let (issuer, mut stop) = (issuer.clone(), stop.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = issuer.discover() => {}
                    () = crate::watch::stopped(&mut stop) => {}
                }
            });
        }
    }

    /// Whom a token stands for; `None` when its issuer is not one of these.
    ///
    /// # Errors
    /// Why the token is not accepted, for the log.
    pub(crate) async fn user(&self, token: &str, iss: &str) -> Option<Result<UserInfo, String>> {
        let issuer = self.all.iter().find(|issuer| issuer.config.rules.is_issuer_of(iss))?;
        let claims = match issuer.claims(token, &self.clock).await {
            Ok(claims) => claims,
            Err(why) => return Some(Err(why)),
        };
        Some(issuer.config.rules.user(&claims, self.clock.now()))
    }
}

impl Issuer {
    async fn discover(&self) {
        loop {
            match self.look().await {
                Ok(found) => {
                    tracing::info!(issuer = self.config.rules.issuer, keys = found.keys_url, "found an issuer's keys");
                    self.found.store(Some(Arc::new(found)));
                    return;
                }
                Err(why) => tracing::warn!(issuer = self.config.rules.issuer, why, "an issuer is not reached"),
            }
            tokio::time::sleep(DISCOVERY_INTERVAL).await;
        }
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
    async fn claims(&self, token: &str, clock: &Clock) -> Result<Value, String> {
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
