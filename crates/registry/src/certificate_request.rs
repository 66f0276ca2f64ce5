//! Certificate requests (PKCS #10, RFC 2986) as the CertificateSigningRequest API sees them: what they ask for, whether
//! they are signed by their own key, and what the signers of `kubernetes.io` want of them.
//!
//! Texts are those of Go's `crypto/x509` and `encoding/asn1` and of `pkg/apis/certificates`, where they can be told apart
//! here. Names are read as Go reads them (the last common name counts), so that nobody is approved for one name and
//! signed for another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base::Timestamp;
use machinery::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// `kubernetes.io/kube-apiserver-client`
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// `kubernetes.io/kube-apiserver-client-kubelet`
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// `kubernetes.io/kubelet-serving`
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// What a node's user name begins with.
pub const NODE_USER_PREFIX: &str = "system:node:";

/// The tag of a SEQUENCE.
const SEQUENCE: u8 = 0x30;
const NODES_GROUP: &str = "system:nodes";

/// What a request asks to be named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CertificateRequest {
    /// CN, the last one.
    pub common_name: String,
    /// Every O.
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

impl CertificateRequest {
    /// The node that a request of a kubelet names; empty when it names none.
    pub fn node(&self) -> &str {
        self.common_name.strip_prefix(NODE_USER_PREFIX).unwrap_or_default()
    }
}

/// Reads the first PEM block, which must be a request.
///
/// # Errors
/// In Go's words.
pub fn parse(pem: &[u8]) -> Result<CertificateRequest, String> {
    let der = der(pem)?;
    names(&read(&der)?)
}

/// As [`parse`], and the request must be signed by the key it is for.
///
/// # Errors
/// In Go's words.
pub fn verify(pem: &[u8]) -> Result<CertificateRequest, String> {
    let der = der(pem)?;
    let request = read(&der)?;
    let found = names(&request)?;
    // Go lets requests be signed with SHA-1, as certificates may not be.
    base::request_signature::verify(&request).map_err(|error| match error {
        x509_parser::error::X509Error::SignatureVerificationError => wrong_signature(&request).to_owned(),
        _ => "x509: cannot verify signature: algorithm unimplemented".to_owned(),
    })?;
    Ok(found)
}

fn wrong_signature(request: &X509CertificationRequest<'_>) -> &'static str {
    use x509_parser::public_key::PublicKey;
    match request.certification_request_info.subject_pki.parsed() {
        Ok(PublicKey::RSA(_)) => "crypto/rsa: verification error",
        Ok(PublicKey::EC(_)) => "x509: ECDSA verification failure",
        _ => "x509: Ed25519 verification failure",
    }
}

/// The request itself: the content of the first PEM block. Whoever signs or judges a request takes it from here, so that all
/// mean the same one, whatever else the text holds.
///
/// # Errors
/// When the first block is something else.
pub fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    match Pem::iter_from_buffer(pem).next() {
        Some(Ok(block)) if block.label == "CERTIFICATE REQUEST" => Ok(block.contents),
        _ => Err("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    }
}

fn read(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    use x509_parser::nom::Err::Incomplete;
    outermost(der)?;
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data".to_owned()),
        Err(Incomplete(_)) => Err("asn1: syntax error: data truncated".to_owned()),
        Err(_) => Err("asn1: structure error: malformed certificate request".to_owned()),
    }
}

/// What Go says of the outermost element before it looks into it.
fn outermost(der: &[u8]) -> Result<(), String> {
    let truncated = || Err("asn1: syntax error: data truncated".to_owned());
    let [tag, first, rest @ ..] = der else {
        return if der.is_empty() { Err("asn1: syntax error: sequence truncated".to_owned()) } else { truncated() };
    };
    let digits = usize::from(first & 0x7f);
    let (length, content) = match (first & 0x80 == 0, rest.split_at_checked(digits)) {
        (true, _) => (digits, rest),
        (false, Some((length, content))) if (1..=4).contains(&digits) => {
            (length.iter().fold(0, |n, digit| n << 8 | usize::from(*digit)), content)
        }
        _ => return truncated(),
    };
    if *tag != SEQUENCE {
        let (class, compound, number) = (tag >> 6, tag & 0x20 != 0, tag & 0x1f);
        return Err(format!(
            "asn1: structure error: tags don't match (16 vs {{class:{class} tag:{number} length:{length} \
             isCompound:{compound}}}) {{optional:false explicit:false application:false private:false \
             defaultValue:<nil> tag:<nil> stringType:0 timeType:0 set:false omitEmpty:false}} certificateRequest @{}",
            der.len() - content.len()
        ));
    }
    if content.len() < length {
        return truncated();
    }
    if length == 0 { Err("asn1: syntax error: sequence truncated".to_owned()) } else { Ok(()) }
}

fn names(request: &X509CertificationRequest<'_>) -> Result<CertificateRequest, String> {
    let text = |attribute: &AttributeTypeAndValue<'_>| {
        attribute
            .as_str()
            .map(str::to_owned)
            .map_err(|_| "x509: invalid RDNSequence: invalid attribute value".to_owned())
    };
    let name = &request.certification_request_info.subject;
    let mut found = CertificateRequest {
        common_name: name.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect::<Result<_, _>>()?,
        ..CertificateRequest::default()
    };
    let mut seen = BTreeSet::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            if !seen.insert(extension.oid.to_id_string()) {
                return Err("x509: certificate request contains duplicate requested extensions".to_owned());
            }
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    names.general_names.iter().try_for_each(|name| add(&mut found, name))?;
                }
                ParsedExtension::ParseError { .. } => return Err("x509: invalid subject alternative names".to_owned()),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Kinds of names that Go does not know are passed over.
fn add(found: &mut CertificateRequest, name: &GeneralName<'_>) -> Result<(), String> {
    let ascii = |text: &str, kind: &str| {
        if text.is_ascii() { Ok(text.to_owned()) } else { Err(format!("x509: SAN {kind} is malformed")) }
    };
    match name {
        GeneralName::DNSName(name) => found.dns.push(ascii(name, "dNSName")?),
        GeneralName::RFC822Name(name) => found.emails.push(ascii(name, "rfc822Name")?),
        GeneralName::URI(name) => found.uris.push(ascii(name, "uniformResourceIdentifier")?),
        GeneralName::IPAddress(bytes) => found.ips.push(address(bytes)?),
        _ => {}
    }
    Ok(())
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).map_err(|_| format!("x509: cannot parse IP address of length {}", bytes.len()))
}

/// A chain of certificates in PEM, as a signer may put into `status.certificate`.
///
/// # Errors
/// In upstream's words.
pub fn check_chain(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        blocks += 1;
        if X509Certificate::from_der(&block.contents).is_err() {
            return Err("x509: malformed certificate".to_owned());
        }
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

/// When the first certificate of a chain in PEM ends.
pub fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(Timestamp::from_unix_seconds(certificate.validity().not_after.timestamp()))
}

/// What `kube-apiserver-client-kubelet` refuses to sign. `usages` is `spec.usages`.
///
/// # Errors
/// What is wrong, as the condition `Failed` says it.
pub fn check_kubelet_client(request: &CertificateRequest, usages: &Value) -> Result<(), String> {
    let refuse = |text: &str| Err(text.to_owned());
    if request.organizations != [NODES_GROUP] {
        return refuse("subject organization is not system:nodes");
    }
    if !request.dns.is_empty() {
        return refuse("DNS subjectAltNames are not allowed");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.ips.is_empty() {
        return refuse("IP subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    if !request.common_name.starts_with(NODE_USER_PREFIX) {
        return refuse("subject common name does not begin with system:node:");
    }
    exact_usages(usages, "client auth")
}

/// What `kubelet-serving` refuses to sign.
///
/// # Errors
/// As [`check_kubelet_client`].
pub fn check_kubelet_serving(request: &CertificateRequest, usages: &Value) -> Result<(), String> {
    let refuse = |text: &str| Err(text.to_owned());
    if request.organizations != [NODES_GROUP] {
        return refuse("subject organization is not system:nodes");
    }
    if request.dns.is_empty() && request.ips.is_empty() {
        return refuse("DNS or IP subjectAltName is required");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    exact_usages(usages, "server auth")?;
    if !request.common_name.starts_with(NODE_USER_PREFIX) {
        return refuse("subject common name does not begin with system:node:");
    }
    Ok(())
}

/// What `kube-apiserver-client` refuses to sign.
///
/// # Errors
/// As [`check_kubelet_client`].
pub fn check_client(usages: &Value) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment"];
    let listed = usages.items().iter().map(|usage| usage.as_str().unwrap_or_default());
    if let Some(other) = listed.clone().find(|usage| *usage != "client auth" && !optional.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if listed.clone().any(|usage| usage == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}

/// Exactly a signature and the wanted use, with or without encipherment, which only RSA keys have.
fn exact_usages(usages: &Value, wanted: &str) -> Result<(), String> {
    let listed: BTreeSet<&str> = usages.items().iter().map(|usage| usage.as_str().unwrap_or_default()).collect();
    let (plain, rsa) = (
        BTreeSet::from(["digital signature", wanted]),
        BTreeSet::from(["digital signature", "key encipherment", wanted]),
    );
    if listed == plain || listed == rsa {
        return Ok(());
    }
    let mut all: Vec<&str> = rsa.into_iter().collect();
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

#[cfg(test)]
mod tests;
