//! What is in a certificate, or in a signing request, in the API's words.

use std::net::IpAddr;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gke::ApiError;
use machinery::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{
    ExtendedKeyUsage, GeneralName, GeneralSubtree, KeyUsage, NameConstraints, ParsedExtension, X509Extension,
};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::contents::ATTRIBUTES;

/// The `CertificateDescription` of a certificate, PEM; empty for what is none.
pub(super) fn certificate(pem: &str) -> Value {
    let mut out = Value::object();
    let Ok(list) = pki::pem::certificates(pem) else { return out };
    let Ok((_, parsed)) = X509Certificate::from_der(&list[0]) else { return out };
    let read = Extensions::of(parsed.extensions().iter());
    let validity = parsed.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let time = |seconds| Timestamp::from_unix_seconds(seconds).rfc3339();
    let mut subject_description = json!({
        "hexSerialNumber": hex(parsed.raw_serial()), "lifetime": format!("{}s", to - from), "notBeforeTime": time(from),
        "notAfterTime": time(to),
    });
    subject_description.set("subject", subject(parsed.subject(), false));
    subject_description.set("subjectAltName", read.names);
    out.set("subjectDescription", subject_description);
    out.set("x509Description", read.x509);
    out.set("publicKey", public_key(pem));
    for (field, id) in [("subjectKeyId", read.subject_key_id), ("authorityKeyId", read.authority_key_id)] {
        if let Some(id) = id {
            out.set(field, json!({"keyId": id}));
        }
    }
    out.set("certFingerprint", json!({"sha256Hash": pki::sha256(&list[0])}));
    out.set("tbsCertificateDigest", pki::sha256(parsed.tbs_certificate.as_ref()));
    out
}

/// The `PublicKey` of a certificate, PEM.
pub(super) fn public_key(pem: &str) -> Value {
    let Ok(list) = pki::pem::certificates(pem) else { return Value::Null };
    let Ok((_, parsed)) = X509Certificate::from_der(&list[0]) else { return Value::Null };
    json!({"format": "PEM", "key": STANDARD.encode(pki::pem::public_key(parsed.public_key().raw))})
}

/// The `CertificateConfig` that a signing request (DER) describes, without its key. The subject is taken exactly, or as far as
/// the API has fields for it.
///
/// # Errors
/// 400 when it cannot be read.
pub(super) fn request(der: &[u8], exact: bool) -> Result<Value, ApiError> {
    let wrong = |_| ApiError::invalid("The PEM CSR could not be parsed.");
    let (_, parsed) = X509CertificationRequest::from_der(der).map_err(wrong)?;
    let info = &parsed.certification_request_info;
    let mut extensions = Vec::new();
    for attribute in info.iter_attributes() {
        if let x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() {
            extensions.extend(asked.extensions.iter());
        }
    }
    let read = Extensions::of(extensions.into_iter());
    let mut config = json!({"subjectConfig": {}});
    config["subjectConfig"].set("subject", subject(&info.subject, exact));
    config["subjectConfig"].set("subjectAltName", read.names);
    config.set("x509Config", read.x509);
    Ok(config)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn numbers(oid: &Oid<'_>) -> Vec<i64> {
    oid.iter().map(|parts| parts.filter_map(|part| i64::try_from(part).ok()).collect()).unwrap_or_default()
}

fn subject(name: &X509Name<'_>, exact: bool) -> Value {
    let mut out = Value::object();
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or("").to_owned();
    if exact {
        let attribute = |attribute: &AttributeTypeAndValue<'_>| {
            let path = numbers(attribute.attr_type());
            json!({"objectId": {"objectIdPath": path}, "value": text(attribute)})
        };
        let relative = name.iter_rdn().map(|relative| {
            let attributes: Vec<Value> = relative.iter().map(attribute).collect();
            let mut one = Value::object();
            one.set("attributes", attributes);
            one
        });
        out.set("rdnSequence", relative.collect::<Vec<_>>());
        return out;
    }
    for attribute in name.iter_attributes() {
        let path = numbers(attribute.attr_type());
        let same = |kind: &[u64; 4]| path.iter().copied().eq(kind.iter().map(|part| i64::try_from(*part).unwrap_or(0)));
        if let Some((field, ..)) = ATTRIBUTES.iter().find(|(.., kind)| same(kind)) {
            out.set(field, text(attribute));
        }
    }
    out
}

/// What extensions say.
struct Extensions {
    names: Value,
    x509: Value,
    subject_key_id: Option<String>,
    authority_key_id: Option<String>,
}

impl Extensions {
    fn of<'a>(all: impl Iterator<Item = &'a X509Extension<'a>>) -> Self {
        let mut out = Self {
            names: Value::object(),
            x509: json!({"keyUsage": {}, "caOptions": {}}),
            subject_key_id: None,
            authority_key_id: None,
        };
        let mut others = Vec::new();
        for extension in all {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    let mut options = json!({"isCa": constraints.ca});
                    if let Some(length) = constraints.path_len_constraint {
                        options.set("maxIssuerPathLength", i64::from(length));
                    }
                    out.x509.set("caOptions", options);
                }
                ParsedExtension::KeyUsage(usage) => out.x509["keyUsage"].set("baseKeyUsage", key_usage(usage)),
                ParsedExtension::ExtendedKeyUsage(usage) => out.extended_key_usage(usage),
                ParsedExtension::SubjectAlternativeName(names) => out.alternative_names(&names.general_names),
                ParsedExtension::NameConstraints(constraints) => {
                    out.x509.set("nameConstraints", name_constraints(constraints, extension.critical));
                }
                ParsedExtension::SubjectKeyIdentifier(id) => out.subject_key_id = Some(hex(id.0)),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    out.authority_key_id = id.key_identifier.as_ref().map(|id| hex(id.0));
                }
                _ => others.push(json!({
                    "objectId": {"objectIdPath": numbers(&extension.oid)}, "critical": extension.critical,
                    "value": STANDARD.encode(extension.value),
                })),
            }
        }
        if !others.is_empty() {
            out.x509.set("additionalExtensions", others);
        }
        out
    }

    fn extended_key_usage(&mut self, usage: &ExtendedKeyUsage<'_>) {
        let mut known = Value::object();
        for (name, set) in [
            ("serverAuth", usage.server_auth),
            ("clientAuth", usage.client_auth),
            ("codeSigning", usage.code_signing),
            ("emailProtection", usage.email_protection),
            ("timeStamping", usage.time_stamping),
            ("ocspSigning", usage.ocsp_signing),
        ] {
            if set {
                known.set(name, true);
            }
        }
        let any = usage.any.then(|| vec![2, 5, 29, 37, 0]);
        let others = usage.other.iter().map(numbers).chain(any);
        let others: Vec<Value> = others.map(|path| json!({"objectIdPath": path})).collect();
        self.x509["keyUsage"].set("extendedKeyUsage", known);
        if !others.is_empty() {
            self.x509["keyUsage"].set("unknownExtendedKeyUsages", others);
        }
    }

    fn alternative_names(&mut self, names: &[GeneralName<'_>]) {
        let mut add = |field: &str, text: String| {
            let mut list = self.names[field].items().to_vec();
            list.push(text.into());
            self.names.set(field, list);
        };
        for name in names {
            match name {
                GeneralName::DNSName(name) => add("dnsNames", (*name).to_owned()),
                GeneralName::RFC822Name(name) => add("emailAddresses", (*name).to_owned()),
                GeneralName::URI(name) => add("uris", (*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Some(ip) = address(bytes) {
                        add("ipAddresses", ip.to_string());
                    }
                }
                _ => {}
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok().or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

fn key_usage(usage: &KeyUsage) -> Value {
    let mut out = Value::object();
    for (name, set) in [
        ("digitalSignature", usage.digital_signature()),
        ("contentCommitment", usage.non_repudiation()),
        ("keyEncipherment", usage.key_encipherment()),
        ("dataEncipherment", usage.data_encipherment()),
        ("keyAgreement", usage.key_agreement()),
        ("certSign", usage.key_cert_sign()),
        ("crlSign", usage.crl_sign()),
        ("encipherOnly", usage.encipher_only()),
        ("decipherOnly", usage.decipher_only()),
    ] {
        if set {
            out.set(name, true);
        }
    }
    out
}

fn name_constraints(constraints: &NameConstraints<'_>, critical: bool) -> Value {
    let mut out = json!({"critical": critical});
    let mut add = |prefix: &str, trees: &Option<Vec<GeneralSubtree<'_>>>| {
        for tree in trees.iter().flatten() {
            let (kind, text) = match &tree.base {
                GeneralName::DNSName(name) => ("DnsNames", (*name).to_owned()),
                GeneralName::RFC822Name(name) => ("EmailAddresses", (*name).to_owned()),
                GeneralName::URI(name) => ("Uris", (*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let (ip, mask) = bytes.split_at(bytes.len() / 2);
                    let Some(ip) = address(ip) else { continue };
                    ("IpRanges", format!("{ip}/{}", mask.iter().map(|byte| byte.count_ones()).sum::<u32>()))
                }
                _ => continue,
            };
            let field = format!("{prefix}{kind}");
            let mut list = out[field.as_str()].items().to_vec();
            list.push(text.into());
            out.set(&field, list);
        }
    };
    add("permitted", &constraints.permitted_subtrees);
    add("excluded", &constraints.excluded_subtrees);
    out
}
