//! Authorities and token keys of a cluster that somebody else holds: the user, in Certificate Authority Service and Cloud KMS. The
//! signer goes on saying who may have which certificate and token, has each one made at the other end of a stream, and looks at
//! what it gets before it passes it on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tracing::debug;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::door::{read_frame, write_frame};
use crate::profile::{Authority, Profile};
use crate::subject::{is_issued_by, subject};
use crate::token_key::{unsigned_token, verification_keys};
use crate::{SignerError, issuing, pem, verify_jwt};

/// A certificate that an outside authority shall issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideRequest {
    pub authority: Authority,
    /// PEM.
    pub public_key: String,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// May the key encipher beside signing?
    pub key_encipherment: bool,
    /// Is it for a server, for a client?
    pub server: bool,
    pub client: bool,
    pub lifetime_seconds: u64,
}

/// What a signer asks for at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutsideCall {
    /// A certificate; answered with its PEM form.
    Certificate(OutsideRequest),
    /// A signature (RSASSA-PKCS1-v1_5) by the token key over this SHA-256 digest, base64; answered in base64.
    TokenSignature(String),
}

/// Public keys (PEM, SubjectPublicKeyInfo) of service-account tokens that are signed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideTokenKeys {
    /// The RSA key that signs; one of those that verify.
    pub signing: String,
    pub verification: Vec<String>,
}

/// The answer, or why there is none.
#[derive(Serialize, Deserialize)]
struct Answer(Result<String, String>);

/// Authorities whose keys are not here: their certificates (PEM, perhaps several of one pool), the token keys that are not here
/// either, and the way to who has them sign.
pub struct OutsideAuthorities {
    certificates: BTreeMap<Authority, String>,
    token_keys: Option<TokenKeys>,
    stream: Mutex<UnixStream>,
}

/// Both as JWK sets; that of the key that signs has one member.
struct TokenKeys {
    signing: Value,
    verification: Value,
}

impl OutsideAuthorities {
    /// The other end of the stream is [`serve_outside`]'s.
    ///
    /// # Errors
    /// When a token key cannot be read, or is none that tokens are signed with.
    pub fn new(
        certificates: BTreeMap<Authority, String>,
        token_keys: Option<&OutsideTokenKeys>,
        stream: UnixStream,
    ) -> Result<Arc<Self>, SignerError> {
        let read = |keys: &OutsideTokenKeys| {
            let signing = verification_keys(std::slice::from_ref(&keys.signing))?;
            Ok(TokenKeys { signing, verification: verification_keys(&keys.verification)? })
        };
        let token_keys = token_keys.map(read).transpose()?;
        Ok(Arc::new(Self { certificates, token_keys, stream: Mutex::new(stream) }))
    }

    /// What verifies the tokens that are signed outside; `None` where they are not.
    pub(crate) fn jwks(&self) -> Option<&Value> {
        self.token_keys.as_ref().map(|keys| &keys.verification)
    }

    /// Has a token with these claims signed.
    pub(crate) async fn sign_jwt(self: &Arc<Self>, claims: &Value) -> Result<String, SignerError> {
        let none = || SignerError::Outside("it has no token key".to_owned());
        let keys = self.token_keys.as_ref().ok_or_else(none)?;
        let text = unsigned_token(&keys.signing["keys"][0], claims);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let signature = self.ask(OutsideCall::TokenSignature(STANDARD.encode(digest))).await?;
        let signature = STANDARD.decode(signature).map_err(|e| SignerError::Outside(e.to_string()))?;
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
        match verify_jwt(&token, &keys.verification, &["RS256"]) {
            Some(_) => Ok(token),
            None => Err(SignerError::Outside("what it signed is not what was asked for".to_owned())),
        }
    }

    /// What an authority's certificates are trusted by, PEM; `None` for one that is not outside.
    pub(crate) fn certificate(&self, authority: Authority) -> Option<&str> {
        self.certificates.get(&authority).map(String::as_str)
    }

    /// Has a request signed for a purpose.
    pub(crate) async fn issue(
        self: &Arc<Self>,
        csr: &[u8],
        profile: &Profile,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let public_key = issuing::request_key(csr)?;
        let request = profile.outside(pem::public_key(&public_key), lifetime.as_secs());
        let text = self.ask(OutsideCall::Certificate(request.clone())).await?;
        let issued = pem::certificates(&text)?.remove(0);
        match self.is_what_was_asked(&issued, profile, &public_key, &request) {
            true => Ok(issued),
            false => Err(SignerError::Outside("what it issued is not what was asked for".to_owned())),
        }
    }

    /// A caller that gives up must not leave an answer behind for the next one.
    async fn ask(self: &Arc<Self>, call: OutsideCall) -> Result<String, SignerError> {
        let other = Arc::clone(self);
        let answer = tokio::spawn(async move { other.exchange(&call).await }).await;
        answer.map_err(|e| SignerError::Outside(e.to_string()))?
    }

    async fn exchange(&self, call: &OutsideCall) -> Result<String, SignerError> {
        let gone = |_| SignerError::Outside("it cannot be reached".to_owned());
        let mut stream = self.stream.lock().await;
        write_frame(&mut *stream, call).await.map_err(gone)?;
        let Some(Answer(answer)) = read_frame(&mut *stream).await.map_err(gone)? else {
            return Err(SignerError::Outside("it cannot be reached".to_owned()));
        };
        answer.map_err(SignerError::Outside)
    }

    fn is_what_was_asked(
        &self,
        issued: &CertificateDer<'_>,
        profile: &Profile,
        public_key: &[u8],
        request: &OutsideRequest,
    ) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(issued) else { return false };
        let Ok(names) = subject(issued) else { return false };
        let trusted = self.certificate(request.authority).unwrap_or_default();
        is_issued_by(issued, trusted)
            && parsed.public_key().raw == public_key
            && parsed.subject().as_raw() == profile.distinguished_name()
            && (&names.dns, &names.ips) == (&request.dns, &request.ips)
            && !names.is_ca
    }
}

impl std::fmt::Debug for OutsideAuthorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutsideAuthorities").field("authorities", &self.certificates.keys()).finish_non_exhaustive()
    }
}

/// Answers a signer's requests, one after the other, until it closes the stream.
pub async fn serve_outside<A>(mut stream: UnixStream, answer: impl Fn(OutsideCall) -> A)
where
    A: Future<Output = Result<String, String>>,
{
    loop {
        let call = match read_frame::<OutsideCall>(&mut stream).await {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(error) => {
                debug!(target: "signer", %error, "closed a stream that does not speak the signer's language");
                return;
            }
        };
        if write_frame(&mut stream, &Answer(answer(call).await)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_lc_rs::digest::{Digest, SHA256};
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

    use super::*;
    use crate::signer::Vault;
    use crate::tests::{clock, entropy};
    use crate::{
        AuthorityKey, CaContents, Contents, KeyAlgorithm, KeyUsagePurpose, MemoryVault, Requester, Signer, SignerCore,
        request_identity,
    };

    fn contents(attributes: &[(u64, &str)], ca: CaContents) -> Contents {
        let now = clock().clock().now();
        Contents {
            subject: attributes.iter().map(|(kind, value)| (vec![2, 5, 4, *kind], (*value).to_owned())).collect(),
            dns: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            ips: Vec::new(),
            key_usages: vec![KeyUsagePurpose::KeyCertSign],
            extended_key_usages: Vec::new(),
            ca,
            name_constraints: None,
            subject_key_id: None,
            extensions: Vec::new(),
            not_before: now,
            not_after: now + Duration::from_secs(1000),
        }
    }

    #[tokio::test]
    async fn certificates_of_outside_authorities_are_had_there_and_looked_at() {
        let key = Arc::new(AuthorityKey::generate(KeyAlgorithm::EcP256).unwrap());
        let root = key.certify_itself(&contents(&[(3, "root")], CaContents::Unconstrained), &entropy()).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let (signing, issuer) = (Arc::clone(&key), root.clone());
        let answer = move |call: OutsideCall| {
            let (key, root) = (Arc::clone(&signing), issuer.clone());
            async move {
                let OutsideCall::Certificate(request) = call else { panic!("{call:?}") };
                let name = match request.common_name.as_str() {
                    "nobody" => return Err("There are no enabled CAs".to_owned()),
                    "liar" => "system:masters",
                    name => name,
                };
                let groups = request.organizations.iter().map(|group| (10, group.as_str()));
                let subject: Vec<(u64, &str)> = groups.chain([(3, name)]).collect();
                let mut made = contents(&subject, CaContents::No);
                (made.dns, made.ips) = (request.dns, request.ips);
                let (_, parsed) = x509_parser::pem::parse_x509_pem(request.public_key.as_bytes()).unwrap();
                let leaf = key.certify(&root, &made, &parsed.contents, &entropy()).unwrap();
                Ok(pem::certificate(&leaf))
            }
        };
        tokio::spawn(serve_outside(far, answer));
        let bundle = pem::certificate(&root);
        let held =
            BTreeMap::from([Authority::Cluster, Authority::EtcdApi].map(|authority| (authority, bundle.clone())));
        let outside = OutsideAuthorities::new(held, None, near).unwrap();
        let vault = Arc::new(MemoryVault::default());
        let open =
            || SignerCore::open_with("c", vault.clone(), Some(outside.clone()), clock().clock(), entropy()).unwrap();
        drop(open());
        // The keys that it does hold are the same after a restart.
        let core = Arc::new(open());
        let instance = Signer::InProcess(core.clone(), Requester::Instance);
        let user =
            |name: &str| Profile::KubeClient { user: name.to_owned(), groups: vec!["a".to_owned(), "b".to_owned()] };
        let identity = request_identity(&instance, &user("jane"), None).await.unwrap();
        assert!(is_issued_by(&identity.chain()[0], &bundle));
        assert_eq!(instance.certificate(Authority::Cluster).await.unwrap(), bundle);
        let serving = crate::api_server_names("10.8.0.1".parse().unwrap(), &["127.0.0.1".parse().unwrap()]);
        request_identity(&instance, &serving, None).await.unwrap();
        // Its key is nowhere here: an instance has the store's certificates from the signer, like all others.
        let store = Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: Vec::new() };
        request_identity(&instance, &store, None).await.unwrap();
        let metadata = Signer::InProcess(core.clone(), Requester::Metadata);
        assert!(metadata.authority_key(Authority::EtcdApi).await.is_err());
        for (name, why) in [("nobody", "There are no enabled CAs"), ("liar", "is not what was asked for")] {
            let error = request_identity(&instance, &user(name), None).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let error = request_identity(&Signer::InProcess(core.clone(), Requester::Fleet), &user("jane"), None).await;
        assert!(matches!(error, Err(SignerError::Refused { .. })), "policy comes first");
        let own = Profile::EtcdPeer { name: "m".to_owned(), ips: Vec::new() };
        let peer = request_identity(&instance, &own, None).await.unwrap();
        assert!(is_issued_by(&peer.chain()[0], &core.certificate(Authority::EtcdPeer)));
        // A state that holds other authorities than it should is another cluster's.
        assert!(SignerCore::open("c", vault.clone(), clock().clock(), entropy()).is_err());
    }

    #[tokio::test]
    async fn tokens_of_an_outside_key_are_signed_there_and_looked_at() {
        let keys = [RsaKeyPair::generate(KeySize::Rsa3072).unwrap(), RsaKeyPair::generate(KeySize::Rsa2048).unwrap()];
        let public = keys.each_ref().map(|key| {
            let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
            pem::public_key(der.as_ref())
        });
        let (near, far) = UnixStream::pair().unwrap();
        let (keys, which) = (Arc::new(keys), Arc::new(AtomicUsize::new(0)));
        let now = Arc::clone(&which);
        tokio::spawn(serve_outside(far, move |call| {
            let (keys, which) = (Arc::clone(&keys), now.load(Ordering::Relaxed));
            async move {
                let OutsideCall::TokenSignature(digest) = call else { panic!("{call:?}") };
                let digest = STANDARD.decode(digest).unwrap();
                let digest = Digest::import_less_safe(&digest, &SHA256).unwrap();
                let key = keys.get(which).ok_or("k is not enabled, current state is: DISABLED.")?;
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).unwrap();
                Ok(STANDARD.encode(signature))
            }
        }));
        let verification = vec![public[1].clone(), public[0].clone()];
        let token_keys = OutsideTokenKeys { signing: public[0].clone(), verification };
        let outside = OutsideAuthorities::new(BTreeMap::new(), Some(&token_keys), near).unwrap();
        let vault = Arc::new(MemoryVault::default());
        let core = SignerCore::open_with("c", vault.clone(), Some(outside), clock().clock(), entropy()).unwrap();
        let instance = Signer::InProcess(Arc::new(core), Requester::Instance);
        let set = instance.jwks().await.unwrap();
        assert_eq!(set["keys"].as_array().map(Vec::len), Some(2));
        let claims = serde_json::json!({"sub": "system:serviceaccount:a:b"});
        let token = instance.sign_jwt(claims.clone()).await.unwrap();
        assert_eq!(verify_jwt(&token, &set, &["RS256"]), Some(claims.clone()));
        // Another key than it should be, and none.
        for (place, why) in [(1, "is not what was asked for"), (2, "current state is: DISABLED")] {
            which.store(place, Ordering::Relaxed);
            let error = instance.sign_jwt(claims.clone()).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        // The cluster has no key of its own beside it.
        assert!(vault.load("service-account-key").unwrap().is_none());
    }
}
