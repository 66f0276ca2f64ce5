//! TLS among members, as etcd's `--peer-*` flags set it up: certificates that are read again when their files change, and
//! which certificates are taken.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::Binding;
use crate::EtcdError;
use crate::error::storage;
use crate::flags::Flags;
use crate::tls::{Reloading, certificates, check_revoked, restrict, self_signed_to, versions};

/// What a certificate is refused with that its authority vouches for and the flags do not name (Go's `crypto/tls` sends
/// the same alert).
const NOT_ALLOWED: Error = Error::InvalidCertificate(CertificateError::NotValidForName);

/// Both sides of TLS among members.
#[derive(Clone)]
pub(crate) struct PeerTls {
    /// For the peer port.
    pub(crate) server: Arc<rustls::ServerConfig>,
    /// For calls to other members.
    pub(crate) client: Arc<rustls::ClientConfig>,
    /// How far a caller's certificate must be its own.
    pub(crate) binding: Binding,
}

impl PeerTls {
    /// Reads the flags and the files they name; nothing when no flag wants TLS. `hosts` are this member's, for a
    /// certificate that is made (`--peer-auto-tls`), below `data_dir`.
    ///
    /// # Errors
    /// When a file cannot be read or used, or flags contradict each other.
    pub(crate) fn new(
        flags: &Flags,
        data_dir: &Path,
        hosts: &[String],
        now: base::Timestamp,
    ) -> Result<Option<Self>, EtcdError> {
        let (mut cert, mut key) = (flags.text("peer-cert-file").to_owned(), flags.text("peer-key-file").to_owned());
        let given = !cert.is_empty() || !key.is_empty();
        let made = flags.is_set("peer-auto-tls") && !given;
        if flags.is_set("peer-auto-tls") && given {
            tracing::warn!(target: "etcd", "ignoring peer auto TLS since certs given");
        }
        if made {
            let years = flags.number("self-signed-cert-validity").max(1);
            (cert, key) = self_signed_to(&data_dir.join("fixtures").join("peer"), hosts, years, now)?;
        } else if !given {
            return Ok(None);
        }
        if cert.is_empty() || key.is_empty() {
            let text = format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]");
            return Err(EtcdError::Damaged(text));
        }
        let allowed = Allowed::new(flags)?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        restrict(&mut provider.cipher_suites, &flags.list("cipher-suites"))?;
        let provider = Arc::new(provider);
        let parts = Parts { flags, provider, allowed, trusted: trusted(flags, made)?, made };
        let own = Arc::new(Reloading::new(cert.into(), key.into())?);
        let server = parts.server(own.clone())?;
        let client = parts.client(own)?;
        let skip = flags.is_set("peer-skip-client-san-verification")
            || flags.is_set("experimental-peer-skip-client-san-verification");
        let binding = if parts.trusted.is_none() || skip { Binding::Unasked } else { Binding::Names };
        Ok(Some(Self { server: Arc::new(server), client: Arc::new(client), binding }))
    }
}

/// The authorities that vouch for members; nothing when members are not asked for certificates.
fn trusted(flags: &Flags, made: bool) -> Result<Option<Arc<RootCertStore>>, EtcdError> {
    let path = flags.text("peer-trusted-ca-file");
    if made || (path.is_empty() && !flags.is_set("peer-client-cert-auth")) {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| storage(&format!("reading {path}"), error))?;
    }
    Ok(Some(Arc::new(roots)))
}

/// What both sides are made of.
struct Parts<'a> {
    flags: &'a Flags,
    provider: Arc<CryptoProvider>,
    allowed: Allowed,
    trusted: Option<Arc<RootCertStore>>,
    /// Members make their certificates themselves, and nobody vouches for them.
    made: bool,
}

impl Parts<'_> {
    fn versions(&self) -> Vec<&'static rustls::SupportedProtocolVersion> {
        versions(self.flags.text("tls-min-version"), self.flags.text("tls-max-version"))
    }

    fn server(&self, own: Arc<Reloading>) -> Result<rustls::ServerConfig, EtcdError> {
        let builder = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions())
            .map_err(|error| storage("setting up TLS among members", error))?;
        let builder = match &self.trusted {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let inner = WebPkiClientVerifier::builder_with_provider(roots.clone(), self.provider.clone()).build();
                let inner = inner.map_err(|error| storage("reading --peer-trusted-ca-file", error))?;
                builder.with_client_cert_verifier(Arc::new(Callers { inner, allowed: self.allowed.clone() }))
            }
        };
        Ok(builder.with_cert_resolver(own))
    }

    fn client(&self, own: Arc<Reloading>) -> Result<rustls::ClientConfig, EtcdError> {
        let builder = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions())
            .map_err(|error| storage("setting up TLS among members", error))?;
        let inner = match &self.trusted {
            None => None,
            Some(roots) => {
                let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), self.provider.clone()).build();
                Some(inner.map_err(|error| storage("reading --peer-trusted-ca-file", error))?)
            }
        };
        let trust = if self.made || inner.is_some() { Trust::Judged(inner) } else { Trust::Nobody };
        let allowed = Allowed { crl: None, ..self.allowed.clone() };
        let verifier = Called { trust, provider: self.provider.clone(), allowed };
        let (cert, key) = (self.flags.text("peer-client-cert-file"), self.flags.text("peer-client-key-file"));
        if cert.is_empty() != key.is_empty() {
            let what = "ClientKeyFile and ClientCertFile must both be present or both absent";
            return Err(EtcdError::Damaged(format!("{what}: key: {key}, cert: {cert}]")));
        }
        let shown = if cert.is_empty() { own } else { Arc::new(Reloading::new(cert.into(), key.into())?) };
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_client_cert_resolver(shown))
    }
}

/// TLS for calls to another cluster: `authority` vouches for it (nothing: anybody may answer), and a certificate is shown
/// if one is named.
///
/// # Errors
/// When a file cannot be read or used.
pub(crate) fn client_config(authority: Option<&str>, cert: &str, key: &str) -> Result<rustls::ClientConfig, EtcdError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let inner = match authority {
        None => None,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| storage(&format!("reading {path}"), error))?;
            }
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            Some(inner.map_err(|error| storage(&format!("reading {path}"), error))?)
        }
    };
    let allowed = Allowed { names: Vec::new(), hosts: Vec::new(), crl: None };
    let verifier = Arc::new(Called { trust: Trust::Judged(inner), provider: provider.clone(), allowed });
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| storage("setting up TLS", error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    if cert.is_empty() && key.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_client_cert_resolver(Arc::new(Reloading::new(cert.into(), key.into())?)))
}

/// Which certificates are taken, of those that an authority vouches for.
#[derive(Debug, Clone)]
struct Allowed {
    /// Common names; empty for any (`--peer-cert-allowed-cn`).
    names: Vec<String>,
    /// Hosts that a certificate must be good for one of; empty for any (`--peer-cert-allowed-hostname`).
    hosts: Vec<ServerName<'static>>,
    /// A list of revoked ones, read at each connection (`--peer-crl-file`).
    crl: Option<PathBuf>,
}

impl Allowed {
    fn new(flags: &Flags) -> Result<Self, EtcdError> {
        let (names, hosts) = (flags.list("peer-cert-allowed-cn"), flags.list("peer-cert-allowed-hostname"));
        if !names.is_empty() && !hosts.is_empty() {
            let text = "AllowedCNs and AllowedHostnames are mutually exclusive";
            return Err(EtcdError::Damaged(format!("{text} (cns={names:?}, hostnames={hosts:?})")));
        }
        let host = |host: String| {
            ServerName::try_from(host).map_err(|error| storage("reading --peer-cert-allowed-hostname", error))
        };
        let crl = flags.text("peer-crl-file");
        Ok(Self {
            names,
            hosts: hosts.into_iter().map(host).collect::<Result<_, _>>()?,
            crl: (!crl.is_empty()).then(|| crl.into()),
        })
    }

    fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let Some(leaf) = chain.first() else { return Ok(()) };
        if !self.names.is_empty() {
            let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
            let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            if !names.any(|name| self.names.iter().any(|allowed| allowed == name)) {
                return Err(NOT_ALLOWED);
            }
        }
        if !self.hosts.is_empty() {
            let parsed = ParsedCertificate::try_from(leaf)?;
            if !self.hosts.iter().any(|host| rustls::client::verify_server_name(&parsed, host).is_ok()) {
                return Err(NOT_ALLOWED);
            }
        }
        let Some(crl) = &self.crl else { return Ok(()) };
        check_revoked(crl, chain).map_err(|why| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(io::Error::other(why)))))
        })
    }
}

/// Judges the certificates of members that call.
#[derive(Debug)]
struct Callers {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Allowed,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, between, now)?;
        let chain: Vec<_> = std::iter::once(leaf).chain(between).cloned().collect();
        self.allowed.check(&chain).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Whose word counts for the certificate of whoever is called.
#[derive(Debug)]
enum Trust {
    /// That of an authority; without one any certificate will do, as members that make theirs have nobody to vouch for them.
    Judged(Option<Arc<WebPkiServerVerifier>>),
    /// Nobody's: certificates are given, but no authority is (etcd asks the system's then).
    Nobody,
}

/// Judges the certificates of members that are called.
#[derive(Debug)]
struct Called {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    allowed: Allowed,
}

impl ServerCertVerifier for Called {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match &self.trust {
            Trust::Judged(Some(inner)) => inner.verify_server_cert(leaf, between, name, ocsp, now)?,
            Trust::Judged(None) => ServerCertVerified::assertion(),
            Trust::Nobody => return Err(CertificateError::UnknownIssuer.into()),
        };
        self.allowed.check(std::slice::from_ref(leaf)).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A failed handshake in Go's words, where it has its own: who reads etcd's log knows those.
pub(crate) fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match cause {
        Some(error) if *error == NOT_ALLOWED => "client certificate authentication failed".to_owned(),
        Some(Error::NoCertificatesPresented) => "tls: client didn't provide a certificate".to_owned(),
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_in_words(*alert)),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.to_string(),
        Some(Error::InvalidMessage(_)) => "tls: first record does not look like a TLS handshake".to_owned(),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

fn alert_in_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::BadCertificate => "bad certificate".to_owned(),
        AlertDescription::UnsupportedCertificate => "unsupported certificate".to_owned(),
        AlertDescription::CertificateRevoked => "revoked certificate".to_owned(),
        AlertDescription::CertificateExpired => "expired certificate".to_owned(),
        AlertDescription::CertificateUnknown => "unknown certificate".to_owned(),
        AlertDescription::UnknownCA => "unknown certificate authority".to_owned(),
        AlertDescription::HandshakeFailure => "handshake failure".to_owned(),
        AlertDescription::ProtocolVersion => "protocol version not supported".to_owned(),
        AlertDescription::CertificateRequired => "certificate required".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(args: &[&str]) -> Result<Allowed, EtcdError> {
        let args = args.iter().map(std::ffi::OsString::from).collect();
        Allowed::new(&Flags::parse(args, |_| None).expect("each has its form"))
    }

    #[test]
    fn a_certificate_must_have_an_allowed_name() {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("made");
        params.distinguished_name.push(rcgen::DnType::CommonName, "example.com");
        let key = rcgen::KeyPair::generate().expect("made");
        let chain = [params.self_signed(&key).expect("made").der().clone()];
        let check = |args: &[&str], expect| {
            assert_eq!(allowed(args).expect("good flags").check(&chain), expect, "{args:?}");
        };
        check(&[], Ok(()));
        check(&["--peer-cert-allowed-cn=other.com,example.com"], Ok(()));
        check(&["--peer-cert-allowed-cn=other.com"], Err(NOT_ALLOWED));
        check(&["--peer-cert-allowed-hostname=localhost"], Ok(()));
        check(&["--peer-cert-allowed-hostname=example.com"], Err(NOT_ALLOWED));
        let both = allowed(&["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"]).expect_err("both");
        assert_eq!(
            both.to_string(),
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])"
        );
    }

    #[test]
    fn without_an_authority_only_members_that_make_their_certificates_are_called() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let name = ServerName::try_from("localhost").expect("a name");
        let judge = |trust: Trust| {
            let allowed = Allowed { names: Vec::new(), hosts: Vec::new(), crl: None };
            let called = Called { trust, provider: provider.clone(), allowed };
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 31));
            called.verify_server_cert(made.cert.der(), &[], &name, &[], now).map(drop)
        };
        assert_eq!(judge(Trust::Judged(None)), Ok(()));
        assert_eq!(judge(Trust::Nobody), Err(CertificateError::UnknownIssuer.into()));
    }

    #[test]
    fn failures_are_told_in_gos_words() {
        let check = |error: Error, expect: &str| {
            assert_eq!(in_words(&io::Error::new(io::ErrorKind::InvalidData, error)), expect);
        };
        check(Error::AlertReceived(AlertDescription::BadCertificate), "remote error: tls: bad certificate");
        check(NOT_ALLOWED, "client certificate authentication failed");
        check(Error::NoCertificatesPresented, "tls: client didn't provide a certificate");
    }
}
