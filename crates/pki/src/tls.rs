//! TLS configurations: 1.2 floor, one crypto library, certificates judged by the emulator's clock.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use base::Clock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::Identity;
use crate::server_verifier::ServerVerifier;
use crate::{SignerError, pem};

#[derive(Debug)]
struct WallTime(Clock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&self.0))
    }
}

fn unix_time(clock: &Clock) -> UnixTime {
    let seconds = u64::try_from(clock.now().unix_seconds()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn bad(error: impl std::fmt::Display) -> SignerError {
    SignerError::BadRequest(error.to_string())
}

fn roots(authority_pem: &str) -> Result<RootCertStore, SignerError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(authority_pem)? {
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

/// A server's certificate that can be exchanged while connections are open.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    /// Serves this identity from now on.
    ///
    /// # Errors
    /// When the key does not fit the certificate.
    pub fn new(identity: &Identity) -> Result<Arc<Self>, SignerError> {
        Ok(Arc::new(Self(ArcSwap::new(certified(identity)?))))
    }

    /// New connections get this identity; open ones keep theirs.
    ///
    /// # Errors
    /// When the key does not fit the certificate.
    pub fn replace(&self, identity: &Identity) -> Result<(), SignerError> {
        self.0.store(certified(identity)?);
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Do key and certificate belong together?
///
/// # Errors
/// When they do not.
pub(crate) fn check_pair(identity: &Identity) -> Result<(), SignerError> {
    certified(identity).map(drop)
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, SignerError> {
    CertifiedKey::from_der(identity.chain().to_vec(), identity.private_key(), &provider()).map(Arc::new).map_err(bad)
}

/// What a server wants to see of its callers.
pub enum ClientCertificates<'a> {
    /// None are asked for.
    None,
    /// One of this authority, or no connection (the store).
    Required(&'a str),
    /// Any may be shown; whether it counts is decided later, by [`ClientVerifier`] (the API server: a certificate of a
    /// stranger is a 401, not a broken handshake).
    Requested,
}

/// A server's configuration.
///
/// # Errors
/// When an authority is not PEM.
pub fn server_config(
    serving: Arc<ServingCertificate>,
    clients: ClientCertificates<'_>,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ServerConfig>, SignerError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(WallTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(bad)?;
    let builder = match clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Required(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider).build().map_err(bad)?,
        ),
        ClientCertificates::Requested => {
            let algorithms = provider.signature_verification_algorithms;
            builder.with_client_cert_verifier(Arc::new(PossessionOnly { algorithms }))
        }
    };
    let mut config = builder.with_cert_resolver(serving);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's configuration: trusts servers of this authority alone, or one that shows its very certificate; shows this
/// identity where it is asked to.
///
/// # Errors
/// When the authority is not PEM or the key does not fit the certificate.
pub fn client_config(
    authority_pem: &str,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ClientConfig>, SignerError> {
    let provider = provider();
    let verifier = ServerVerifier::new(pem::certificates(authority_pem)?, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_details(provider, Arc::new(WallTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain().to_vec(), identity.private_key()).map_err(bad)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client's certificate that can be exchanged: new connections show the new one.
#[derive(Debug, Default)]
pub struct ClientIdentity(ArcSwapOption<CertifiedKey>);

impl ClientIdentity {
    /// Shows nothing until it has a certificate.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Shows this identity from now on.
    ///
    /// # Errors
    /// When the key does not fit the certificate.
    pub fn replace(&self, identity: &Identity) -> Result<(), SignerError> {
        self.0.store(Some(certified(identity)?));
        Ok(())
    }

    /// The certificate that is shown now, DER.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.0.load().as_ref().and_then(|key| key.cert.first().cloned())
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// As [`client_config`] with an identity that changes. Sessions are not resumed: a resumed one would go on under the
/// certificate of before.
///
/// # Errors
/// When the authority is not PEM.
pub fn client_config_with(
    authority_pem: &str,
    identity: Arc<ClientIdentity>,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Result<Arc<ClientConfig>, SignerError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(WallTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(roots(authority_pem)?)
        .with_client_cert_resolver(identity);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The chain that a server shows when it is asked as `name`, leaf first. It has the leaf's key; whom it is trusted by is the
/// caller's question.
///
/// # Errors
/// When there is no handshake.
pub async fn shown_by<S>(stream: S, name: &str) -> Result<Vec<CertificateDer<'static>>, SignerError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let provider = provider();
    let verifier = Arc::new(AnyServer { algorithms: provider.signature_verification_algorithms });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(bad)?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(bad)?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

/// Takes any certificate whose key the server has: for looking, never for talking.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Judges certificates that were shown in a handshake of [`ClientCertificates::Requested`].
#[derive(Debug)]
pub struct ClientVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Clock,
}

impl ClientVerifier {
    /// For certificates of this authority (or these, in one PEM).
    ///
    /// # Errors
    /// When it is not PEM.
    pub fn new(authority_pem: &str, clock: &Clock) -> Result<Self, SignerError> {
        let roots = Arc::new(roots(authority_pem)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(bad)?;
        Ok(Self { verifier, clock: clock.clone() })
    }

    /// Does the chain (leaf first) lead to the authority now, and may the leaf be a client?
    ///
    /// # Errors
    /// With the reason.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), SignerError> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Err(bad("no certificate")) };
        self.verifier.verify_client_cert(leaf, intermediates, unix_time(&self.clock)).map_err(bad)?;
        Ok(())
    }
}

/// Proves that the caller has the key of the certificate it shows, and no more.
#[derive(Debug)]
struct PossessionOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for PossessionOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
