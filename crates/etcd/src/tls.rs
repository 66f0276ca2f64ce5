//! TLS of the client port: certificates that are read again when their files change, and which clients may come in.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::EtcdError;
use crate::error::storage;
use crate::hub::lock;

/// How the client port does TLS.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    /// A list of revoked certificates, read at each connection as in etcd.
    crl: Option<PathBuf>,
    /// Names of which a client's certificate must have one; empty for any.
    names: Vec<ServerName<'static>>,
}

impl From<Arc<rustls::ServerConfig>> for ServerTls {
    fn from(config: Arc<rustls::ServerConfig>) -> Self {
        Self { config, crl: None, names: Vec::new() }
    }
}

/// What to do TLS with, as flags give it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Settings {
    pub(crate) certificate: Certificate,
    /// Whoever these certificates vouch for may come in; empty: everybody.
    pub(crate) trusted_ca: String,
    pub(crate) client_cert_auth: bool,
    pub(crate) crl: String,
    pub(crate) names: Vec<String>,
    pub(crate) version_min: String,
    pub(crate) version_max: String,
    pub(crate) cipher_suites: Vec<String>,
}

/// Where the server's own certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Certificate {
    Files {
        certificate: String,
        key: String,
    },
    /// Made at the start, for these names, valid so many years.
    SelfSigned {
        names: Vec<String>,
        years: i64,
    },
}

impl Default for Certificate {
    fn default() -> Self {
        Self::Files { certificate: String::new(), key: String::new() }
    }
}

impl ServerTls {
    /// Reads the files and puts it together. `now` dates a self-signed certificate.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub(crate) fn new(settings: &Settings, now: base::Timestamp) -> Result<Self, EtcdError> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        restrict(&mut provider.cipher_suites, &settings.cipher_suites)?;
        let provider = Arc::new(provider);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(&settings.version_min, &settings.version_max))
            .map_err(|error| storage("setting up TLS", error))?;
        let builder = if settings.trusted_ca.is_empty() && !settings.client_cert_auth {
            builder.with_no_client_auth()
        } else {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(&settings.trusted_ca)? {
                roots.add(certificate).map_err(|error| storage("reading --trusted-ca-file", error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| storage("setting up client certificates", error))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = match &settings.certificate {
            Certificate::Files { certificate, key } => {
                builder.with_cert_resolver(Arc::new(Reloading::new(certificate.into(), key.into())?))
            }
            Certificate::SelfSigned { names, years } => {
                let (certificate, key) = self_signed(names, *years, now)?;
                let config = builder.with_single_cert(vec![certificate], key);
                config.map_err(|error| storage("using the generated certificate", error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let names = settings.names.iter().map(|name| {
            ServerName::try_from(name.clone()).map_err(|error| storage("reading --client-cert-allowed-hostname", error))
        });
        Ok(Self {
            config: Arc::new(config),
            crl: (!settings.crl.is_empty()).then(|| PathBuf::from(&settings.crl)),
            names: names.collect::<Result<_, _>>()?,
        })
    }

    /// Whether a client that finished its handshake may stay.
    ///
    /// # Errors
    /// In etcd's words (`client/pkg/transport`).
    pub(crate) fn check(&self, connection: &rustls::ServerConnection) -> Result<(), String> {
        let Some(chain) = connection.peer_certificates() else { return Ok(()) };
        if let Some(crl) = &self.crl {
            check_revoked(crl, chain)?;
        }
        let Some(leaf) = chain.first().filter(|_| !self.names.is_empty()) else { return Ok(()) };
        let leaf = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
        let named = self.names.iter().any(|name| rustls::client::verify_server_name(&leaf, name).is_ok());
        if named { Ok(()) } else { Err("client certificate authentication failed".to_owned()) }
    }
}

pub(crate) fn check_revoked(crl: &Path, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let bytes = fs::read(crl).map_err(|error| error.to_string())?;
    let der = match x509_parser::pem::parse_x509_pem(&bytes) {
        Ok((_, pem)) => pem.contents,
        Err(_) => bytes,
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
    for certificate in chain {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let serial = certificate.raw_serial();
        if list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == serial) {
            let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(format!("transport: certificate serial {hex} revoked"));
        }
    }
    Ok(())
}

pub(crate) fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| storage(&format!("reading certificates from {path}"), error))
}

/// The protocol versions between two of etcd's names; an empty one sets no bound.
pub(crate) fn versions(min: &str, max: &str) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if min != "TLS1.3" {
        versions.push(&rustls::version::TLS12);
    }
    if max != "TLS1.2" {
        versions.push(&rustls::version::TLS13);
    }
    versions
}

/// Keeps the suites of TLS 1.2 that are named; those of 1.3 cannot be chosen, as in Go.
pub(crate) fn restrict(suites: &mut Vec<rustls::SupportedCipherSuite>, names: &[String]) -> Result<(), EtcdError> {
    if names.is_empty() {
        return Ok(());
    }
    suites.retain(|suite| {
        let name = format!("{:?}", suite.suite());
        suite.tls13().is_some() || names.iter().any(|wanted| name == *wanted || name == format!("{wanted}_SHA256"))
    });
    if suites.iter().all(|suite| suite.tls13().is_some()) {
        return Err(EtcdError::Damaged(format!("--cipher-suites: none of {} is offered here", names.join(", "))));
    }
    Ok(())
}

/// A self-signed certificate that lives as long as the process.
fn self_signed(
    names: &[String],
    years: i64,
    now: base::Timestamp,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), EtcdError> {
    let failed = |error: rcgen::Error| storage("generating a certificate (--auto-tls)", error);
    let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "etcd");
    let start =
        time::OffsetDateTime::from_unix_timestamp(now.unix_seconds()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    params.not_before = start;
    params.not_after = start.saturating_add(time::Duration::days(365 * years));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|what| EtcdError::Damaged(what.to_owned()))?;
    Ok((certificate.der().clone(), key))
}

/// A self-signed certificate and its key in two files of a directory; those that are there already stay (etcd's
/// `SelfCert`, but for the form of the key).
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn self_signed_to(
    dir: &Path,
    names: &[String],
    years: i64,
    now: base::Timestamp,
) -> Result<(String, String), EtcdError> {
    let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
    let failed = |error| storage(&format!("writing a certificate to {}", dir.display()), error);
    if !cert_path.exists() || !key_path.exists() {
        let (certificate, key) = self_signed(names, years, now)?;
        fs::create_dir_all(dir).map_err(failed)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        fs::write(&cert_path, pem("CERTIFICATE", &certificate)).map_err(failed)?;
        let mut file = fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600).open(&key_path);
        file.and_then(|mut file| file.write_all(pem("PRIVATE KEY", key.secret_der()).as_bytes())).map_err(failed)?;
        tracing::info!(target: "etcd", path = %cert_path.display(), "created cert file");
    }
    Ok((cert_path.display().to_string(), key_path.display().to_string()))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// When two files were last changed.
type Stamp = [(SystemTime, u64); 2];

/// A certificate and key that are read again when a file has changed. etcd reads them at every handshake.
#[derive(Debug)]
pub(crate) struct Reloading {
    certificate: PathBuf,
    key: PathBuf,
    loaded: Mutex<(Stamp, Arc<CertifiedKey>)>,
}

impl Reloading {
    /// Reads both files.
    ///
    /// # Errors
    /// When they cannot be read or do not fit together.
    pub(crate) fn new(certificate: PathBuf, key: PathBuf) -> Result<Self, EtcdError> {
        let stamp = stamp(&certificate, &key)
            .map_err(|error| storage(&format!("reading {} and {}", certificate.display(), key.display()), error))?;
        let loaded = load(&certificate, &key)?;
        Ok(Self { certificate, key, loaded: Mutex::new((stamp, loaded)) })
    }
}

fn stamp(certificate: &Path, key: &Path) -> std::io::Result<Stamp> {
    let of = |path: &Path| -> std::io::Result<(SystemTime, u64)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.modified()?, metadata.len()))
    };
    Ok([of(certificate)?, of(key)?])
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, EtcdError> {
    let chain = certificates(&certificate.display().to_string())?;
    let shown = key.display();
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| storage(&format!("reading the key {shown}"), error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let loaded = CertifiedKey::from_der(chain, key, &provider);
    loaded.map(Arc::new).map_err(|error| storage(&format!("using {} and {shown}", certificate.display()), error))
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Reloading {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Reloading {
    fn current(&self) -> Arc<CertifiedKey> {
        let mut loaded = lock(&self.loaded);
        match stamp(&self.certificate, &self.key) {
            Ok(stamp) if stamp == loaded.0 => {}
            Ok(stamp) => match load(&self.certificate, &self.key) {
                Ok(certificate) => *loaded = (stamp, certificate),
                // Half of a replaced pair: the pair before it goes on until the other half is there.
                Err(error) => tracing::warn!(target: "etcd", %error, "the changed certificate cannot be used"),
            },
            Err(error) => tracing::warn!(target: "etcd", %error, "failed to find the certificate's files"),
        }
        loaded.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_suites_are_narrowed() {
        assert_eq!(versions("TLS1.2", "").len(), 2);
        assert_eq!(versions("TLS1.3", ""), [&rustls::version::TLS13]);
        assert_eq!(versions("", "TLS1.2"), [&rustls::version::TLS12]);
        let all = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
        let mut suites = all.clone();
        restrict(&mut suites, &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".to_owned()]).expect("offered");
        assert_eq!(suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        assert!(restrict(&mut all.clone(), &["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()]).is_err());
    }

    #[test]
    fn a_changed_certificate_is_taken_up_and_half_of_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let write = |certificate_too: bool| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
            fs::write(&key, made.signing_key.serialize_pem()).expect("written");
            if certificate_too {
                fs::write(
                    &certificate,
                    made.cert.pem()
                        + "\n".repeat(fs::metadata(&certificate).map_or(0, |m| m.len() % 7 + 1) as usize).as_str(),
                )
                .expect("written");
            }
        };
        write(true);
        let reloading = Reloading::new(certificate.clone(), key.clone()).expect("readable");
        let first = lock(&reloading.loaded).1.cert.clone();
        write(false);
        assert!(load(&certificate, &key).is_err(), "the halves do not fit");
        write(true);
        let second = load(&certificate, &key).expect("readable").cert.clone();
        assert_ne!(first, second);
    }
}
