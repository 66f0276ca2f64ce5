//! PEM in and out (RFC 7468).

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::SignerError;

const LINE: usize = 64;
/// The label of a signing request.
pub(crate) const REQUEST: &str = "CERTIFICATE REQUEST";

/// One certificate as PEM.
pub fn certificate(der: &CertificateDer<'_>) -> String {
    encode("CERTIFICATE", der)
}

/// All certificates of a PEM text, at least one.
///
/// # Errors
/// When it holds none, or something that is not PEM.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, SignerError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(SignerError::BadRequest("no certificate in PEM form".to_owned())),
    }
}

/// The signing request of a PEM text, as DER.
///
/// # Errors
/// When it holds none.
pub fn signing_request(text: &str) -> Result<Vec<u8>, SignerError> {
    CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
        .map(|csr| csr.to_vec())
        .map_err(|_| SignerError::BadRequest("no certificate request in PEM form".to_owned()))
}

/// A public key (a DER `SubjectPublicKeyInfo`) as PEM.
pub fn public_key(der: &[u8]) -> String {
    encode("PUBLIC KEY", der)
}

/// Anything as PEM.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(LINE) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// A signing request as PEM.
pub(crate) fn request(der: &[u8]) -> String {
    encode(REQUEST, der)
}

/// All blocks of a text with their labels; what is no block is passed over.
pub(crate) fn sections(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = after.split_once("-----") else { break };
        let Some((body, after)) = body.split_once(&format!("-----END {label}-----")) else { break };
        let letters: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        found.extend(STANDARD.decode(letters).ok().map(|content| (label.to_owned(), content)));
        rest = after;
    }
    found
}
