//! Whether the certificate a member shows is its own.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use crate::members::address;

/// Whether a certificate is good for the host of one of the member's peer URLs: etcd checks a peer's names so, too
/// (`client/pkg/transport`). Whether its authority is trusted was decided in the handshake.
pub(super) fn is_of(certificate: &CertificateDer<'_>, peer_urls: &[String]) -> bool {
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
    peer_urls.iter().filter_map(|url| server_name(url)).any(|name| verify_server_name(&certificate, &name).is_ok())
}

/// The host of a URL, as TLS names it.
pub(super) fn server_name(url: &str) -> Option<ServerName<'static>> {
    let (host, _) = address(url).ok()?;
    let (host, _) = host.rsplit_once(':')?;
    ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned()).ok()
}
