//! Who a client is: tokens, certificates, passwords. What it may do then is decided by `mvcc::Auth`.
//!
//! ```text
//! request ─► Credentials (token, or the certificate's name) ─► Authenticator::identify ─► Caller ─► log, or a read
//! Authenticate ─► password (bcrypt, beside the requests) ─► log ─► a token: simple ones in each member's memory
//! ```

mod jwt;
mod options;
mod password;
mod simple;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Entropy, Timestamp};
use mvcc::{AuthError, Caller, TokenChange, User};
use tokio::sync::Semaphore;

use crate::EtcdError;
use crate::shared::Shared;
use jwt::Jwt;
use options::Options;
use simple::SimpleTokens;

/// Passwords hashed or compared at once: each takes a processor for tens of milliseconds.
const PASSWORDS_MAX: usize = 4;

/// How a member is told who its clients are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthConfig {
    /// `simple`, or `jwt` and its options; empty for no tokens.
    pub(crate) token: String,
    /// How long a simple token lives after its last use.
    pub(crate) token_ttl: Duration,
    /// Cost of the passwords' hashes.
    pub(crate) bcrypt_cost: u32,
}

/// The name in a client certificate that was verified; an extension of the requests of its connection.
#[derive(Debug, Clone)]
pub(crate) struct CertificateName(pub(crate) Arc<str>);

impl CertificateName {
    /// The subject's common name: the last one, when there are several (as Go's `crypto/x509` reads it).
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
        Some(Self(name.unwrap_or_default().into()))
    }
}

/// What a client shows. It cannot be printed: a token must not get into a log.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    token: Option<String>,
    certificate: Option<Arc<str>>,
}

impl Credentials {
    /// Reads them off a request: metadata `token` or `authorization`, and the certificate of its connection, unless the
    /// request was passed on by a JSON gateway, whose certificate says nothing about the client.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let metadata = request.metadata();
        let token = metadata.get("token").or_else(|| metadata.get("authorization"));
        let token = token.map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned());
        let token = token.map(|token| token.strip_prefix("Bearer ").map(str::to_owned).unwrap_or(token));
        let passed_on = metadata.contains_key("grpcgateway-accept");
        let certificate = request.extensions().get::<CertificateName>().filter(|_| !passed_on);
        Self { token, certificate: certificate.map(|name| name.0.clone()) }
    }
}

/// Where tokens come from and are looked up.
enum Tokens {
    Simple(SimpleTokens),
    Jwt(Box<Jwt>),
    None,
}

/// Tells who clients are.
pub(crate) struct Authenticator {
    /// Follows the published state, so that a request costs one look at it while nobody is asked.
    enabled: AtomicBool,
    tokens: Tokens,
    bcrypt_cost: u32,
    passwords: Semaphore,
}

impl Authenticator {
    /// # Errors
    /// In etcd's words, when the token options or their keys cannot be used.
    pub(crate) fn new(config: &AuthConfig) -> Result<Self, EtcdError> {
        let tokens = match Options::parse(&config.token) {
            Ok(Options::Simple) => Tokens::Simple(SimpleTokens::new(config.token_ttl)),
            Ok(Options::Jwt(options)) => Tokens::Jwt(Box::new(Jwt::new(&options).map_err(EtcdError::AuthToken)?)),
            Ok(Options::None) => Tokens::None,
            Err(error) => return Err(EtcdError::AuthToken(error)),
        };
        Ok(Self {
            enabled: AtomicBool::new(false),
            tokens,
            bcrypt_cost: password::cost(config.bcrypt_cost),
            passwords: Semaphore::new(PASSWORDS_MAX),
        })
    }

    /// Whether clients are asked who they are.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Follows the state that is about to be published, or was.
    pub(crate) fn set_enabled(&self, enabled: bool) {
        // The state thread comes here each turn: readers' caches must not pay for that.
        if self.is_enabled() == enabled {
            return;
        }
        self.enabled.store(enabled, Ordering::Release);
        if enabled && matches!(self.tokens, Tokens::Simple(_)) {
            tracing::warn!(target: "etcd", "simple token is not cryptographically signed");
        }
    }

    /// Follows the log: what the entry at `index` meant for tokens.
    pub(crate) fn follow(&self, change: TokenChange, index: u64, now: Timestamp) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.follow(change, index, now);
        }
    }

    /// Who shows these credentials.
    ///
    /// # Errors
    /// A token that is not ours, or not any more.
    pub(crate) async fn identify(&self, shared: &Shared, credentials: &Credentials) -> Result<Caller, AuthError> {
        let revision = || shared.published().snapshot.auth().revision();
        if !shared.published().snapshot.auth().is_enabled() {
            return Ok(Caller::Anonymous);
        }
        let Some(token) = &credentials.token else {
            let name = credentials.certificate.clone();
            return Ok(name.map_or(Caller::Anonymous, |name| Caller::User { name, revision: revision() }));
        };
        let found = match &self.tokens {
            Tokens::Simple(tokens) => {
                let applied = || shared.published().applied_index;
                // One that names a later entry than this member has applied is waited for (etcd: until the request's
                // deadline).
                let look = tokens.find(token, applied, || shared.clock.now());
                let name = tokio::time::timeout(shared.limits.request_timeout(), look).await.unwrap_or(None);
                name.map(|name| Caller::User { name, revision: revision() })
            }
            Tokens::Jwt(jwt) => {
                let claims = jwt.verify(token, shared.clock.now());
                claims.map(|(name, revision)| Caller::User { name: name.into(), revision })
            }
            Tokens::None => None,
        };
        found.ok_or_else(|| {
            tracing::warn!(target: "etcd", "invalid auth token");
            AuthError::InvalidToken
        })
    }

    /// The first part of a new simple token; empty when tokens are of another kind.
    pub(crate) fn first_part(&self, entropy: &Entropy) -> String {
        match &self.tokens {
            Tokens::Simple(_) => simple::letters(entropy),
            Tokens::Jwt(_) | Tokens::None => String::new(),
        }
    }

    /// The whole token of a user who has shown its password at this revision of users and roles.
    ///
    /// # Errors
    /// When no tokens are made here.
    pub(crate) fn token(&self, name: &str, first: &str, revision: u64, now: Timestamp) -> Result<String, AuthError> {
        match &self.tokens {
            // Gone again already: its password was changed or its user deleted just now.
            Tokens::Simple(tokens) => tokens.whole(first).ok_or(AuthError::InvalidToken),
            Tokens::Jwt(jwt) => jwt.sign(name, revision, now),
            Tokens::None => Err(AuthError::AuthFailed),
        }
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// When it is too long for bcrypt.
    pub(crate) async fn hash(&self, password: String, entropy: &Entropy) -> Result<String, AuthError> {
        let (cost, salt) = (self.bcrypt_cost, entropy.bytes());
        self.blocking(move || password::hash(&password, cost, salt)).await.unwrap_or(Err(AuthError::AuthFailed))
    }

    /// Whether this is a user's password.
    pub(crate) async fn is_password(&self, user: &Arc<User>, password: &str) -> bool {
        let (user, password) = (user.clone(), password.to_owned());
        self.blocking(move || password::is(&user.password, &password)).await.unwrap_or(false)
    }

    /// Runs what is slow on purpose beside the requests, a few at once. Nothing when the process is ending.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _turn = self.passwords.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_where_etcd_reads_them() {
        let check = |metadata: &[(&'static str, &str)], expect: (Option<&str>, Option<&str>)| {
            let mut request = tonic::Request::new(());
            for (name, value) in metadata {
                request.metadata_mut().insert(*name, value.parse().expect("visible letters"));
            }
            request.extensions_mut().insert(CertificateName("cn".into()));
            let found = Credentials::of(&request);
            assert_eq!((found.token.as_deref(), found.certificate.as_deref()), expect, "{metadata:?}");
        };
        let cn = Some("cn");
        check(&[], (None, cn));
        check(&[("token", "a.1")], (Some("a.1"), cn));
        check(&[("authorization", "a.1")], (Some("a.1"), cn));
        check(&[("authorization", "Bearer a.1")], (Some("a.1"), cn));
        check(&[("token", "a.1"), ("authorization", "b.2")], (Some("a.1"), cn));
        check(&[("grpcgateway-accept", "*/*")], (None, None));
        check(&[("grpcgateway-accept", "*/*"), ("authorization", "a.1")], (Some("a.1"), None));
    }

    #[test]
    fn a_certificate_is_of_its_common_name() {
        use rcgen::{CertificateParams, DnType, KeyPair};
        let key = KeyPair::generate().expect("a key");
        let name = |names: &[&str]| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "o");
            for name in names {
                params.distinguished_name.push(DnType::CommonName, *name);
            }
            let certificate = params.self_signed(&key).expect("a certificate");
            CertificateName::of(certificate.der()).map(|name| name.0.to_string())
        };
        assert_eq!(name(&["eve"]), Some("eve".to_owned()));
        assert_eq!(name(&[]), Some(String::new()));
        assert!(CertificateName::of(b"nonsense").is_none());
    }
}
