//! Whether the certificate a member shows is its own.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::listen::{Place, Url};

/// How far the certificate of a caller must be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    /// It must be good for the host of one of the member's peer URLs.
    Strict,
    /// So must those that name hosts; those that name none are taken (etcd: `checkCertSAN`).
    Names,
    /// None is asked for, or its names are not looked at (`--peer-skip-client-san-verification`).
    Unasked,
}

impl Binding {
    /// Whether the caller with these peer URLs may show this certificate. Whether its authority is trusted was decided in
    /// the handshake.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(
        self,
        certificate: Option<&CertificateDer<'_>>,
        peer_urls: &[String],
    ) -> Result<(), &'static str> {
        match (self, certificate) {
            (Self::Unasked, _) => Ok(()),
            (_, None) => Err("no certificate was shown"),
            (Self::Names, Some(certificate)) if names_no_host(certificate) => Ok(()),
            (_, Some(certificate)) if is_of(certificate, peer_urls) => Ok(()),
            _ => Err("the certificate is not that of the member"),
        }
    }
}

/// Whether a certificate is good for the host of one of the member's peer URLs: etcd checks a peer's names so, too
/// (`client/pkg/transport`).
fn is_of(certificate: &CertificateDer<'_>, peer_urls: &[String]) -> bool {
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
    peer_urls.iter().filter_map(|url| server_name(url)).any(|name| verify_server_name(&certificate, &name).is_ok())
}

fn names_no_host(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.subject_alternative_name().is_ok_and(|names| names.is_none()))
}

/// The host of a URL, as TLS names it.
pub(super) fn server_name(url: &str) -> Option<ServerName<'static>> {
    match Url::parse(url).ok()?.place {
        Place::Tcp(host, _) => ServerName::try_from(host).ok(),
        // Go takes the host of `unixs://localhost:1` for the server's name.
        Place::Unix(path) => {
            let host = path.to_str()?.rsplit_once(':').map(|(host, _)| host.to_owned())?;
            ServerName::try_from(host).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_bound_to_the_hosts_of_the_peer_urls() {
        let made = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            rcgen::generate_simple_self_signed(names).expect("made").cert.der().clone()
        };
        let urls = ["https://127.0.0.1:1".to_owned(), "https://[::1]:1".to_owned()];
        let (own, other, none) = (made(&["::1"]), made(&["localhost"]), made(&[]));
        let check = |binding: Binding, certificate: Option<&CertificateDer<'_>>, good: bool| {
            assert_eq!(binding.check(certificate, &urls).is_ok(), good, "{binding:?}");
        };
        check(Binding::Strict, Some(&own), true);
        check(Binding::Strict, Some(&other), false);
        check(Binding::Strict, Some(&none), false);
        check(Binding::Names, Some(&own), true);
        check(Binding::Names, Some(&other), false);
        check(Binding::Names, Some(&none), true);
        check(Binding::Names, None, false);
        check(Binding::Unasked, None, true);
        check(Binding::Unasked, Some(&other), true);
    }
}
