//! The signer: certificate signing requests and claims in, certificates and tokens out. One key leaves it, that of the
//! etcd API CA, to the metadata servers of the cluster's instances and to nobody else.
//!
//! Who asks is known from the socket (or handle) that the fleet gave away, never from what the caller says; a table says
//! what each may have. Every issuance and refusal is a log event of target `signer`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::{Clock, Entropy};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::authorities::Authorities;
use crate::outside::OutsideAuthorities;
use crate::profile::{Authority, Profile};
use crate::subject::{sha256, subject};
use crate::token_key::{TokenKey, verification_keys};
use crate::{SignerError, pem};

/// The group that RBAC is not asked about.
pub(crate) const ADMINISTRATORS: &str = "system:masters";
const AUTHORITIES_FILE: &str = "authorities";
const TOKEN_KEY_FILE: &str = "service-account-key";

/// Where a signer keeps its state; what it writes is sealed by the vault.
pub trait Vault: Send + Sync + 'static {
    /// The content of a file, `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or unsealed; the text names the file.
    fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String>;

    /// Replaces a file, durably.
    ///
    /// # Errors
    /// When it cannot be written; the text names the file.
    fn save(&self, name: &str, content: &[u8]) -> Result<(), String>;
}

/// Who holds the other end of a door to the signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requester {
    /// A control-plane instance: its own identities, those of its controllers and nodes, tokens.
    Instance,
    /// The fleet, for the user: client certificates of the store, and the one GKE issues for a cluster's owner. And for the
    /// front end of the DNS endpoint: to speak for the callers whose certificates it checked. Nothing of the control plane.
    Fleet,
    /// The metadata servers of the cluster's instances: the key of the etcd API CA, and nothing else.
    Metadata,
}

impl Requester {
    const fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Fleet => "fleet",
            Self::Metadata => "metadata",
        }
    }

    /// An API server that was broken into must not be able to make itself an administrator for good. Whoever has the key of
    /// the etcd API CA itself needs no certificates of it from here.
    fn may_have(self, profile: &Profile, etcd_is_outside: bool) -> bool {
        match self {
            Self::Instance => match profile {
                Profile::KubeClient { groups, .. } => !groups.iter().any(|g| g == ADMINISTRATORS),
                Profile::Approved(approved) => !approved.organizations.iter().any(|g| g == ADMINISTRATORS),
                // It has the etcd API CA itself, from its metadata server, unless the user has it.
                Profile::EtcdServing { .. } | Profile::EtcdClient { .. } => etcd_is_outside,
                Profile::ApiServerServing { .. }
                | Profile::EtcdPeer { .. }
                | Profile::KubeletServing { .. }
                | Profile::FrontProxyClient { .. } => true,
            },
            Self::Fleet => match profile {
                // `--issue-client-certificate`: a name that RBAC knows nothing of.
                Profile::KubeClient { user, groups } => user == "client" && groups.is_empty(),
                _ => matches!(profile, Profile::EtcdClient { .. } | Profile::FrontProxyClient { .. }),
            },
            Self::Metadata => false,
        }
    }

    /// Whose private key it may have.
    fn may_hold(self, authority: Authority) -> bool {
        self == Self::Metadata && authority == Authority::EtcdApi
    }
}

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Call {
    Issue { csr: String, profile: Profile, lifetime_seconds: Option<u64> },
    Certificate { authority: Authority },
    AuthorityKey { authority: Authority },
    SignJwt { claims: Value },
    Jwks,
}

/// A signer's state: four authorities and, as soon as it is made, the token key; some may be outside.
pub struct SignerCore {
    cluster: String,
    authorities: Authorities,
    outside: Option<Arc<OutsideAuthorities>>,
    token_key: watch::Receiver<Option<Arc<TokenKey>>>,
    jwks: OnceLock<Value>,
    clock: Clock,
    entropy: Entropy,
}

impl SignerCore {
    /// Opens the state in the vault, or makes it: the authorities at once, the RSA key in a thread of its own.
    ///
    /// # Errors
    /// When the state cannot be read, or not be written.
    pub fn open(cluster: &str, vault: Arc<dyn Vault>, clock: Clock, entropy: Entropy) -> Result<Self, SignerError> {
        Self::open_with(cluster, vault, None, clock, entropy)
    }

    /// As [`Self::open`], where somebody else has some of the authorities.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        cluster: &str,
        vault: Arc<dyn Vault>,
        outside: Option<Arc<OutsideAuthorities>>,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, SignerError> {
        let elsewhere = |authority| outside.as_ref().is_some_and(|outside| outside.certificate(authority).is_some());
        let own: Vec<Authority> = Authority::ALL.into_iter().filter(|authority| !elsewhere(*authority)).collect();
        let authorities = match vault.load(AUTHORITIES_FILE).map_err(SignerError::Storage)? {
            Some(bytes) => Authorities::from_bytes(&own, &bytes)?,
            None => {
                let made = Authorities::create(&own, &clock, &entropy)?;
                vault.save(AUTHORITIES_FILE, &made.to_bytes()).map_err(SignerError::Storage)?;
                info!(target: "signer", cluster, "made the certificate authorities");
                made
            }
        };
        let (token_key, jwks) = match outside.as_ref().and_then(|outside| outside.jwks()) {
            Some(set) => (watch::channel(None).1, OnceLock::from(set.clone())),
            None => (open_token_key(vault)?, OnceLock::new()),
        };
        Ok(Self { cluster: cluster.to_owned(), authorities, outside, token_key, jwks, clock, entropy })
    }

    /// A signer that stores nothing: its authorities are gone with the process, its token key (RSA or EC) comes from
    /// elsewhere, as PEM. Tokens are verified by `token_keys` where there are any, and by the public half of the key else; as
    /// at kube-apiserver the key that signs need not be among them.
    ///
    /// # Errors
    /// When a key is not usable, or a text has none.
    pub fn with_token_key(
        cluster: &str,
        token_key: &str,
        token_keys: &[String],
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, SignerError> {
        let key = TokenKey::from_pem(token_key)?;
        let jwks = OnceLock::from(if token_keys.is_empty() { key.jwks() } else { verification_keys(token_keys)? });
        let authorities = Authorities::create(&Authority::ALL, &clock, &entropy)?;
        let (_, token_key) = watch::channel(Some(Arc::new(key)));
        Ok(Self { cluster: cluster.to_owned(), authorities, outside: None, token_key, jwks, clock, entropy })
    }

    /// Who has an authority's key, where it is not here.
    fn outside(&self, authority: Authority) -> Option<(&Arc<OutsideAuthorities>, &str)> {
        let outside = self.outside.as_ref()?;
        Some((outside, outside.certificate(authority)?))
    }

    /// Signs a request for a purpose; at most the profile's lifetime.
    pub(crate) async fn issue(
        &self,
        requester: Requester,
        csr: &[u8],
        profile: &Profile,
        lifetime: Option<Duration>,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let refused = |error: &SignerError| {
            let (subject, groups) = profile.subject();
            warn!(target: "signer", cluster = self.cluster, requester = requester.name(), profile = profile.name(),
                subject, groups = groups.join(","), requested_by = profile.requested_by(), request_sha256 = sha256(csr),
                %error, "refused");
        };
        let etcd_is_outside = self.outside(Authority::EtcdApi).is_some();
        if !requester.may_have(profile, etcd_is_outside) || !profile.is_well_formed() {
            let (requester, what) = (requester.name().to_owned(), profile.name().to_owned());
            return Err(SignerError::Refused { requester, what }).inspect_err(refused);
        }
        let issued = match self.outside(profile.authority()) {
            Some((outside, _)) => {
                let most = profile.lifetime();
                outside.issue(csr, profile, lifetime.map_or(most, |asked| asked.min(most))).await
            }
            None => {
                let (not_before, whole) = profile.validity(self.clock.now(), lifetime);
                self.authorities.issue(csr, profile, not_before, whole, &self.entropy)
            }
        }
        .inspect_err(refused)?;
        let names = subject(&issued)?;
        info!(target: "signer", cluster = self.cluster, requester = requester.name(), profile = profile.name(),
            authority = profile.authority().name(), serial = names.serial, subject = names.common_name,
            groups = names.organizations.join(","), requested_by = profile.requested_by(), sha256 = sha256(&issued), not_after = %names.not_after, "issued");
        Ok(issued)
    }

    /// An authority's certificate as PEM.
    pub(crate) fn certificate(&self, authority: Authority) -> String {
        if let Some((_, certificates)) = self.outside(authority) {
            return certificates.to_owned();
        }
        pem::certificate(self.authorities.certificate(authority))
    }

    /// An authority's private key as PEM, for a requester who may hold it; each hand-over is a log entry.
    pub(crate) fn authority_key(
        &self,
        requester: Requester,
        authority: Authority,
    ) -> Result<Zeroizing<String>, SignerError> {
        if !requester.may_hold(authority) || self.outside(authority).is_some() {
            warn!(target: "signer", cluster = self.cluster, requester = requester.name(), authority = authority.name(),
                "refused the key of an authority");
            let what = format!("the key of the {} CA", authority.name());
            return Err(SignerError::Refused { requester: requester.name().to_owned(), what });
        }
        info!(target: "signer", cluster = self.cluster, requester = requester.name(), authority = authority.name(),
            sha256 = sha256(self.authorities.certificate(authority)), "handed out the key of an authority");
        Ok(self.authorities.key(authority))
    }

    /// The token key, waiting for it while it is being made.
    async fn token_key(&self) -> Result<Arc<TokenKey>, SignerError> {
        let mut receiver = self.token_key.clone();
        let ready = receiver.wait_for(Option::is_some).await;
        ready.ok().and_then(|key| key.clone()).ok_or_else(|| {
            SignerError::KeyGeneration("the token key could not be made; see the signer's log".to_owned())
        })
    }

    /// Signs claims as they are: issuer, audience and times are the API server's business.
    pub(crate) async fn sign_jwt(&self, claims: &Value) -> Result<String, SignerError> {
        let token = match self.outside.as_ref().filter(|outside| outside.jwks().is_some()) {
            Some(outside) => outside.sign_jwt(claims).await.inspect_err(|error| {
                warn!(target: "signer", cluster = self.cluster, %error, "no token");
            })?,
            None => self.token_key().await?.sign(claims)?,
        };
        info!(target: "signer", cluster = self.cluster, subject = claims["sub"].as_str().unwrap_or_default(),
            jti = claims["jti"].as_str().unwrap_or_default(), "signed a token");
        Ok(token)
    }

    /// The keys that verify tokens.
    pub(crate) async fn jwks(&self) -> Result<Value, SignerError> {
        if let Some(set) = self.jwks.get() {
            return Ok(set.clone());
        }
        let key = self.token_key().await?;
        Ok(self.jwks.get_or_init(|| key.jwks()).clone())
    }

    /// Answers one call of the wire form.
    pub(crate) async fn answer(&self, requester: Requester, call: Call) -> Result<Value, SignerError> {
        match call {
            Call::Issue { csr, profile, lifetime_seconds } => {
                let csr = pem::signing_request(&csr)?;
                let lifetime = lifetime_seconds.map(Duration::from_secs);
                Ok(pem::certificate(&self.issue(requester, &csr, &profile, lifetime).await?).into())
            }
            Call::Certificate { authority } => Ok(self.certificate(authority).into()),
            Call::SignJwt { .. } if requester != Requester::Instance => {
                warn!(target: "signer", cluster = self.cluster, requester = requester.name(), "refused a token");
                Err(SignerError::Refused { requester: requester.name().to_owned(), what: "a token".to_owned() })
            }
            Call::SignJwt { claims } => Ok(self.sign_jwt(&claims).await?.into()),
            Call::Jwks => self.jwks().await,
            // Travels apart from other answers: what holds it is wiped.
            Call::AuthorityKey { .. } => Err(SignerError::BadRequest("a key is no plain answer".to_owned())),
        }
    }
}

impl std::fmt::Debug for SignerCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignerCore").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The cluster's own token key: at once, or when it is made.
fn open_token_key(vault: Arc<dyn Vault>) -> Result<watch::Receiver<Option<Arc<TokenKey>>>, SignerError> {
    let (sender, token_key) = watch::channel(None);
    if let Some(bytes) = vault.load(TOKEN_KEY_FILE).map_err(SignerError::Storage)? {
        sender.send_replace(Some(Arc::new(TokenKey::from_bytes(&bytes)?)));
        return Ok(token_key);
    }
    let make = move || match make_token_key(vault.as_ref()) {
        Ok(key) => {
            sender.send_replace(Some(Arc::new(key)));
        }
        Err(error) => warn!(target: "signer", %error, "no token key"),
    };
    let thread = std::thread::Builder::new().name("token-key".to_owned());
    thread.spawn(make).map_err(|e| SignerError::KeyGeneration(e.to_string()))?;
    Ok(token_key)
}

fn make_token_key(vault: &dyn Vault) -> Result<TokenKey, SignerError> {
    let key = TokenKey::generate()?;
    vault.save(TOKEN_KEY_FILE, &key.to_bytes()?).map_err(SignerError::Storage)?;
    Ok(key)
}
