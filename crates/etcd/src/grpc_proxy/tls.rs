//! TLS on both sides of the proxy.

use std::path::Path;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::flags::Flags;
use crate::EtcdError;
use crate::error::storage;
use crate::peers::tls::client_config;
use crate::tls::{Certificate, ServerTls, Settings, certificates, self_signed_to};

/// Whether any of these flags is given, of which an authority's comes first.
fn any(flags: &Flags, names: [&str; 3]) -> bool {
    names.iter().any(|name| !flags.text(name).is_empty())
}

fn check_pair(certificate: &str, key: &str) -> Result<(), EtcdError> {
    if certificate.is_empty() == key.is_empty() {
        return Ok(());
    }
    let text = format!("KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]");
    Err(EtcdError::Damaged(text))
}

/// For clients; nothing without a certificate. `now` dates one that is made.
///
/// # Errors
/// When a file cannot be read, written or used.
pub(super) fn server(flags: &Flags, now: base::Timestamp) -> Result<Option<ServerTls>, EtcdError> {
    let (mut certificate, mut key) = (flags.text("cert-file").to_owned(), flags.text("key-file").to_owned());
    if !any(flags, ["trusted-ca-file", "cert-file", "key-file"]) {
        if !flags.is_set("auto-tls") {
            return Ok(None);
        }
        let dir = Path::new(flags.text("data-dir")).join("fixtures").join("proxy");
        let address = flags.text("listen-addr");
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (certificate, key) = self_signed_to(&dir, &[host], flags.number("self-signed-cert-validity").max(1), now)?;
    }
    check_pair(&certificate, &key)?;
    if certificate.is_empty() {
        return Err(EtcdError::Damaged("KeyFile and CertFile are not presented".to_owned()));
    }
    tracing::info!(target: "etcd", cert = certificate, key, trusted_ca = flags.text("trusted-ca-file"), "gRPC proxy server TLS");
    let settings = Settings {
        certificate: Certificate::Files { certificate, key },
        trusted_ca: flags.text("trusted-ca-file").to_owned(),
        crl: flags.text("client-crl-file").to_owned(),
        version_min: flags.text("tls-min-version").to_owned(),
        version_max: flags.text("tls-max-version").to_owned(),
        cipher_suites: flags.list("listen-cipher-suites"),
        ..Settings::default()
    };
    ServerTls::new(&settings, now).map(Some)
}

/// Towards etcd; nothing without a flag that asks for it.
///
/// # Errors
/// When a file cannot be read or used, or the certificate has a common name: etcd would take it for a user's, and every
/// client of the proxy for that user.
pub(super) fn client(flags: &Flags) -> Result<Option<rustls::ClientConfig>, EtcdError> {
    let insecure = flags.is_set("insecure-skip-tls-verify");
    let [authority, certificate, key] = ["cacert", "cert", "key"].map(|name| flags.text(name));
    if !any(flags, ["cacert", "cert", "key"]) && !insecure {
        return Ok(None);
    }
    check_pair(certificate, key)?;
    if authority.is_empty() && !insecure {
        return Err(EtcdError::Damaged("--cert needs --cacert or --insecure-skip-tls-verify here".to_owned()));
    }
    if !certificate.is_empty() {
        check_nameless(certificate)?;
    }
    if insecure {
        tracing::warn!(target: "etcd", "--insecure-skip-tls-verify was given: any certificate of etcd's is taken");
    }
    tracing::info!(target: "etcd", cert = certificate, key, trusted_ca = authority, "gRPC proxy client TLS");
    client_config((!insecure).then_some(authority), certificate, key).map(Some)
}

/// Towards the proxy itself, for its own health; it believes whatever answers when nobody vouches for its certificate.
///
/// # Errors
/// When a file cannot be read or used.
pub(super) fn own(flags: &Flags) -> Result<Option<rustls::ClientConfig>, EtcdError> {
    let [authority, certificate, key] = ["trusted-ca-file", "cert-file", "key-file"].map(|name| flags.text(name));
    if !any(flags, ["trusted-ca-file", "cert-file", "key-file"]) && !flags.is_set("auto-tls") {
        return Ok(None);
    }
    client_config((!authority.is_empty()).then_some(authority), certificate, key).map(Some)
}

fn check_nameless(path: &str) -> Result<(), EtcdError> {
    for certificate in certificates(path)? {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| storage(&format!("reading {path}"), error))?;
        let name = parsed.subject().iter_common_name().find_map(|name| name.as_str().ok());
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return Err(EtcdError::Damaged(format!("cert has non empty Common Name ({name}): {path}")));
        }
    }
    Ok(())
}
