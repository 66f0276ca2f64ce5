//! Whom a certificate names.

use std::net::IpAddr;

use base::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::SignerError;

/// The readable parts of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user, for Kubernetes clients.
    pub common_name: String,
    /// O: the groups, for Kubernetes clients.
    pub organizations: Vec<String>,
    /// The issuer's CN.
    pub issuer: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// May it sign certificates?
    pub is_ca: bool,
}

/// Reads a certificate in DER form.
///
/// # Errors
/// When it is no certificate.
pub fn subject(der: &[u8]) -> Result<Subject, SignerError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| SignerError::BadRequest(format!("not a certificate: {e}")))?;
    let mut dns = Vec::new();
    let mut ips = Vec::new();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or("").to_owned();
    Ok(Subject {
        // As Go's `pkix.Name`: the last one counts.
        common_name: certificate.subject().iter_common_name().last().map(text).unwrap_or_default(),
        organizations: certificate.subject().iter_organization().map(text).collect(),
        issuer: certificate.issuer().iter_common_name().next().map(text).unwrap_or_default(),
        dns,
        ips,
        serial: certificate.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
        not_before: Timestamp::from_unix_seconds(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_unix_seconds(certificate.validity().not_after.timestamp()),
        is_ca: certificate.is_ca(),
    })
}

/// Whom a signing request (DER) asks to name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestSubject {
    /// CN.
    pub common_name: String,
    /// O.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
}

/// Reads a signing request. Its self-signature is checked when it is signed, not here.
///
/// # Errors
/// When it is no request.
pub fn request_subject(der: &[u8]) -> Result<RequestSubject, SignerError> {
    let (_, request) = X509CertificationRequest::from_der(der)
        .map_err(|e| SignerError::BadRequest(format!("not a certificate request: {e}")))?;
    let name = &request.certification_request_info.subject;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or("").to_owned();
    let mut subject = RequestSubject {
        common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect(),
        ..RequestSubject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => subject.dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => subject.ips.extend(address(bytes)),
                    _ => {}
                }
            }
        }
    }
    Ok(subject)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok().or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

/// Lower-case hexadecimal SHA-256, as certificates are named in logs and by `inspect`.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-512/256, with which kubelets name their first certificate request.
pub fn sha512_256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512_256, bytes).as_ref().to_vec()
}

/// Is a certificate (DER) signed by this authority (PEM)? Neither dates nor purposes are looked at.
pub fn is_issued_by(der: &[u8], authority_pem: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let authorities = crate::pem::certificates(authority_pem).unwrap_or_default();
    authorities.iter().any(|authority| {
        X509Certificate::from_der(authority)
            .is_ok_and(|(_, authority)| certificate.verify_signature(Some(authority.public_key())).is_ok())
    })
}
