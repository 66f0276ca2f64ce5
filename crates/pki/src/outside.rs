//! Authorities of a cluster whose keys somebody else holds: the user's, in Certificate Authority Service. The signer goes on
//! saying who may have which certificate, has each one made at the other end of a stream, and looks at what it gets before
//! it passes it on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tracing::debug;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::door::{read_frame, write_frame};
use crate::profile::{Authority, Profile};
use crate::subject::{is_issued_by, subject};
use crate::{SignerError, issuing, pem};

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

/// The answer: a certificate, PEM, or why there is none.
#[derive(Serialize, Deserialize)]
struct Answer(Result<String, String>);

/// Authorities whose keys are not here: their certificates (PEM, perhaps several of one pool), and the way to who has them
/// sign.
pub struct OutsideAuthorities {
    certificates: BTreeMap<Authority, String>,
    stream: Mutex<UnixStream>,
}

impl OutsideAuthorities {
    /// The other end of the stream is [`serve_outside`]'s.
    pub fn new(certificates: BTreeMap<Authority, String>, stream: UnixStream) -> Arc<Self> {
        Arc::new(Self { certificates, stream: Mutex::new(stream) })
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
        let other = Arc::clone(self);
        let asked = request.clone();
        // A caller that gives up must not leave an answer behind for the next one.
        let answer = tokio::spawn(async move { other.exchange(&asked).await }).await;
        let text = answer.map_err(|e| SignerError::Outside(e.to_string()))??;
        let issued = pem::certificates(&text)?.remove(0);
        match self.is_what_was_asked(&issued, profile, &public_key, &request) {
            true => Ok(issued),
            false => Err(SignerError::Outside("what it issued is not what was asked for".to_owned())),
        }
    }

    async fn exchange(&self, request: &OutsideRequest) -> Result<String, SignerError> {
        let gone = |_| SignerError::Outside("it cannot be reached".to_owned());
        let mut stream = self.stream.lock().await;
        write_frame(&mut *stream, request).await.map_err(gone)?;
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
pub async fn serve_outside<A>(mut stream: UnixStream, issue: impl Fn(OutsideRequest) -> A)
where
    A: Future<Output = Result<String, String>>,
{
    loop {
        let request = match read_frame::<OutsideRequest>(&mut stream).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                debug!(target: "signer", %error, "closed a stream that does not speak the signer's language");
                return;
            }
        };
        if write_frame(&mut stream, &Answer(issue(request).await)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let answer = move |request: OutsideRequest| {
            let (key, root) = (Arc::clone(&signing), issuer.clone());
            async move {
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
        let outside = OutsideAuthorities::new(held, near);
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
}
