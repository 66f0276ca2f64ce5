//! From what the API describes (`CertificateConfig`, a signing request) to what goes into a certificate.

use std::net::IpAddr;
use std::time::Duration;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use gke::ApiError;
use machinery::{Value, json};
use pki::{
    CaContents, CidrSubnet, Contents, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{describe, only};

/// The last moment that a certificate can name: the end of 9999 (RFC 5280 §4.1.2.5).
const LAST_SECOND: i64 = 253_402_300_799;

/// Fields of a `Subject` and the types of attributes that they are, in the order in which they are written.
pub(super) const ATTRIBUTES: [(&str, &str, [u64; 4]); 8] = [
    ("countryCode", "COUNTRY_CODE", [2, 5, 4, 6]),
    ("organization", "ORGANIZATION", [2, 5, 4, 10]),
    ("organizationalUnit", "ORGANIZATIONAL_UNIT", [2, 5, 4, 11]),
    ("locality", "LOCALITY", [2, 5, 4, 7]),
    ("province", "PROVINCE", [2, 5, 4, 8]),
    ("streetAddress", "STREET_ADDRESS", [2, 5, 4, 9]),
    ("postalCode", "POSTAL_CODE", [2, 5, 4, 17]),
    ("commonName", "COMMON_NAME", [2, 5, 4, 3]),
];

const KEY_USAGES: [(&str, KeyUsagePurpose); 9] = [
    ("digitalSignature", KeyUsagePurpose::DigitalSignature),
    ("contentCommitment", KeyUsagePurpose::ContentCommitment),
    ("keyEncipherment", KeyUsagePurpose::KeyEncipherment),
    ("dataEncipherment", KeyUsagePurpose::DataEncipherment),
    ("keyAgreement", KeyUsagePurpose::KeyAgreement),
    ("certSign", KeyUsagePurpose::KeyCertSign),
    ("crlSign", KeyUsagePurpose::CrlSign),
    ("encipherOnly", KeyUsagePurpose::EncipherOnly),
    ("decipherOnly", KeyUsagePurpose::DecipherOnly),
];

const EXTENDED_KEY_USAGES: [(&str, ExtendedKeyUsagePurpose); 6] = [
    ("serverAuth", ExtendedKeyUsagePurpose::ServerAuth),
    ("clientAuth", ExtendedKeyUsagePurpose::ClientAuth),
    ("codeSigning", ExtendedKeyUsagePurpose::CodeSigning),
    ("emailProtection", ExtendedKeyUsagePurpose::EmailProtection),
    ("timeStamping", ExtendedKeyUsagePurpose::TimeStamping),
    ("ocspSigning", ExtendedKeyUsagePurpose::OcspSigning),
];

/// From when to when.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Validity {
    /// # Errors
    /// 400 when it ends later than a certificate can say.
    pub(super) fn from(now: Timestamp, seconds: u64) -> Result<Self, ApiError> {
        let left = u64::try_from(LAST_SECOND - now.unix_seconds()).unwrap_or(0);
        if seconds > left {
            return Err(ApiError::invalid(format!("The lifetime of {seconds}s is too long.")));
        }
        Ok(Self { not_before: now, not_after: now + Duration::from_secs(seconds) })
    }

    pub(super) fn backdated(self, seconds: u64) -> Self {
        Self { not_before: self.not_before - Duration::from_secs(seconds), ..self }
    }
}

/// What a certificate is made from.
pub(super) enum Source {
    /// A signing request, PEM.
    Request(String),
    Config(Value),
}

/// A certificate's contents and the key (a DER `SubjectPublicKeyInfo`) it is for.
pub(super) struct Made {
    pub(super) contents: Contents,
    pub(super) public_key: Vec<u8>,
}

impl Source {
    /// # Errors
    /// 400 when it is neither the one nor the other.
    pub(super) fn of(body: &Value) -> Result<Self, ApiError> {
        match (body.str_at(&["pemCsr"]), &body["config"]) {
            ("", config) if !gke::is_empty(config) => Ok(Self::Config(config.clone())),
            (pem, config) if !pem.is_empty() && gke::is_empty(config) => Ok(Self::Request(pem.to_owned())),
            _ => Err(ApiError::invalid("Exactly one of pem_csr and config must be set in a Certificate.")),
        }
    }

    /// As a `Certificate` shows it.
    pub(super) fn shown(&self, mode: &str) -> Value {
        let mode = if mode.is_empty() { "DEFAULT" } else { mode };
        let mut out = json!({"subjectMode": mode});
        match self {
            Self::Request(pem) => out.set("pemCsr", pem.as_str()),
            Self::Config(config) => out.set("config", config.clone()),
        }
        out
    }
}

/// What a source asks for.
///
/// # Errors
/// 400 when it is wrong, 501 for what is not emulated.
pub(super) fn of_source(source: &Source, mode: &str, validity: Validity) -> Result<Made, ApiError> {
    let exact = match mode {
        "" | "SUBJECT_REQUEST_MODE_UNSPECIFIED" | "DEFAULT" => false,
        "RDN_SEQUENCE" => true,
        other => return Err(ApiError::unimplemented(&format!("certificate.subjectMode {other}"))),
    };
    match source {
        Source::Request(text) => {
            let wrong =
                |error: pki::SignerError| ApiError::invalid(format!("The PEM CSR could not be parsed: {error}."));
            let der = pki::pem::signing_request(text).map_err(wrong)?;
            let public_key = pki::request_key(&der).map_err(wrong)?;
            let config = describe::request(&der, exact)?;
            Ok(Made { contents: of_config(&config, "certificate.pem_csr", validity)?, public_key })
        }
        Source::Config(config) => {
            if !exact && !gke::is_empty(&config["subjectConfig"]["subject"]["rdnSequence"]) {
                let text = "A subject with an rdn_sequence needs the subject_mode RDN_SEQUENCE.";
                return Err(ApiError::invalid(text));
            }
            let contents = of_config(config, "certificate.config", validity)?;
            Ok(Made { contents, public_key: public_key(&config["publicKey"])? })
        }
    }
}

/// Bytes of JSON: base64, of either alphabet.
fn bytes(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| {
        ApiError::invalid(format!("Invalid value at '{field}' (TYPE_BYTES), Base64 decoding failed for \"{text}\""))
    })
}

fn public_key(key: &Value) -> Result<Vec<u8>, ApiError> {
    let wrong = || ApiError::invalid("The public_key of a config must be a PEM-encoded public key.");
    if key.str_at(&["format"]) != "PEM" {
        return Err(wrong());
    }
    let text = bytes("certificate.config.public_key.key", key.str_at(&["key"]))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|_| wrong())?;
    let whole = SubjectPublicKeyInfo::from_der(&pem.contents).is_ok_and(|(rest, _)| rest.is_empty());
    if pem.label == "PUBLIC KEY" && whole { Ok(pem.contents) } else { Err(wrong()) }
}

/// May the pool certify this key?
///
/// # Errors
/// 400 when it may not.
pub(super) fn check_key(allowed: &Value, public_key: &[u8]) -> Result<(), ApiError> {
    if allowed.items().is_empty() {
        return Ok(());
    }
    let refused = || ApiError::invalid("The key's type is not allowed by the CaPool's issuance policy.");
    let (_, info) = SubjectPublicKeyInfo::from_der(public_key).map_err(|_| refused())?;
    let key = info.parsed().map_err(|_| refused())?;
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64());
    let fits = |kind: &Value| match &key {
        PublicKey::RSA(rsa) if kind.get("rsa").is_some() => {
            let (bits, rsa) = (i64::try_from(rsa.key_size()).unwrap_or(i64::MAX), &kind["rsa"]);
            let most = number(&rsa["maxModulusSize"]).filter(|most| *most > 0);
            bits >= number(&rsa["minModulusSize"]).unwrap_or(0) && most.is_none_or(|most| bits <= most)
        }
        PublicKey::EC(point) if kind.get("ellipticCurve").is_some() => {
            match kind["ellipticCurve"].str_at(&["signatureAlgorithm"]) {
                "ECDSA_P256" => point.key_size() == 256,
                "ECDSA_P384" => point.key_size() == 384,
                "" | "EC_SIGNATURE_ALGORITHM_UNSPECIFIED" => true,
                _ => false,
            }
        }
        _ => false,
    };
    if allowed.items().iter().any(fits) { Ok(()) } else { Err(refused()) }
}

/// What a `CertificateConfig` describes, its key apart.
///
/// # Errors
/// 400 when it is wrong, 501 for what is not emulated.
pub(super) fn of_config(config: &Value, field: &str, validity: Validity) -> Result<Contents, ApiError> {
    only(config, field, &["subjectConfig", "x509Config", "publicKey", "subjectKeyId"], &[])?;
    let (names, x509) = (&config["subjectConfig"], &config["x509Config"]);
    only(names, &format!("{field}.subject_config"), &["subject", "subjectAltName"], &[])?;
    let others = &names["subjectAltName"];
    let known = ["dnsNames", "emailAddresses", "ipAddresses", "uris"];
    only(others, &format!("{field}.subject_config.subject_alt_name"), &known, &["customSans"])?;
    let known = ["keyUsage", "caOptions", "nameConstraints", "additionalExtensions"];
    only(x509, &format!("{field}.x509_config"), &known, &["policyIds", "aiaOcspServers"])?;
    let subject = subject(&names["subject"], field)?;
    let texts = |name: &str| -> Vec<String> {
        others[name].items().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let address = |text: &String| {
        text.parse::<IpAddr>().map_err(|_| ApiError::invalid(format!("Invalid IP address {text:?} in {field}.")))
    };
    let contents = Contents {
        subject,
        dns: texts("dnsNames"),
        emails: texts("emailAddresses"),
        uris: texts("uris"),
        ips: texts("ipAddresses").iter().map(address).collect::<Result<_, _>>()?,
        key_usages: key_usages(&x509["keyUsage"]["baseKeyUsage"], field)?,
        extended_key_usages: extended_key_usages(&x509["keyUsage"], field)?,
        ca: ca(&x509["caOptions"], field)?,
        name_constraints: name_constraints(&x509["nameConstraints"], field)?,
        subject_key_id: key_id(&config["subjectKeyId"], field)?,
        extensions: x509["additionalExtensions"].items().iter().map(extension).collect::<Result<_, _>>()?,
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    let named = contents.dns.len() + contents.emails.len() + contents.uris.len() + contents.ips.len();
    if contents.subject.is_empty() && named == 0 {
        return Err(ApiError::invalid("A certificate must have a subject or a subject alternative name."));
    }
    Ok(contents)
}

fn subject(subject: &Value, field: &str) -> Result<Vec<(Vec<u64>, String)>, ApiError> {
    let at = format!("{field}.subject_config.subject");
    let plain = ATTRIBUTES.iter().map(|(name, ..)| *name);
    only(subject, &at, &plain.chain(["rdnSequence"]).collect::<Vec<_>>(), &[])?;
    let names = subject["rdnSequence"].items();
    if names.is_empty() {
        let held = ATTRIBUTES.iter().map(|(name, _, kind)| (kind.to_vec(), subject.str_at(&[name]).to_owned()));
        return Ok(held.filter(|(_, value)| !value.is_empty()).collect());
    }
    let mut all = Vec::new();
    for name in names {
        let [attribute] = name["attributes"].items() else {
            return Err(ApiError::unimplemented(&format!("{at}.rdn_sequence with several attributes in one")));
        };
        let kind = match attribute.str_at(&["type"]) {
            "" => path(&attribute["objectId"])?,
            name => {
                let found = ATTRIBUTES.iter().find(|(_, kind, _)| *kind == name).map(|(.., path)| path.to_vec());
                found.ok_or_else(|| ApiError::invalid(format!("Invalid value at '{at}.rdn_sequence': {name:?}")))?
            }
        };
        all.push((kind, attribute.str_at(&["value"]).to_owned()));
    }
    Ok(all)
}

/// The numbers of an `ObjectId`.
fn path(object: &Value) -> Result<Vec<u64>, ApiError> {
    let numbers =
        object["objectIdPath"].items().iter().map(|number| number.as_i64().and_then(|n| u64::try_from(n).ok()));
    let path: Option<Vec<u64>> = numbers.collect();
    let possible = |path: &Vec<u64>| path.len() >= 2 && path[0] <= 2 && (path[0] == 2 || path[1] < 40);
    path.filter(possible).ok_or_else(|| ApiError::invalid("An object_id_path is no object identifier."))
}

fn key_usages(usages: &Value, field: &str) -> Result<Vec<KeyUsagePurpose>, ApiError> {
    let names: Vec<&str> = KEY_USAGES.iter().map(|(name, _)| *name).collect();
    only(usages, &format!("{field}.x509_config.key_usage.base_key_usage"), &names, &[])?;
    let set = KEY_USAGES.into_iter().filter(|(name, _)| usages[*name].as_bool() == Some(true));
    Ok(set.map(|(_, usage)| usage).collect())
}

fn extended_key_usages(usage: &Value, field: &str) -> Result<Vec<ExtendedKeyUsagePurpose>, ApiError> {
    let at = format!("{field}.x509_config.key_usage");
    only(usage, &at, &["baseKeyUsage", "extendedKeyUsage", "unknownExtendedKeyUsages"], &[])?;
    let usages = &usage["extendedKeyUsage"];
    let names: Vec<&str> = EXTENDED_KEY_USAGES.iter().map(|(name, _)| *name).collect();
    only(usages, &format!("{at}.extended_key_usage"), &names, &[])?;
    let mut all: Vec<_> = EXTENDED_KEY_USAGES
        .into_iter()
        .filter(|(name, _)| usages[*name].as_bool() == Some(true))
        .map(|(_, usage)| usage)
        .collect();
    for other in usage["unknownExtendedKeyUsages"].items() {
        all.push(ExtendedKeyUsagePurpose::Other(path(other)?));
    }
    Ok(all)
}

fn ca(options: &Value, field: &str) -> Result<CaContents, ApiError> {
    only(options, &format!("{field}.x509_config.ca_options"), &["isCa", "maxIssuerPathLength"], &[])?;
    match (options["isCa"].as_bool().unwrap_or(false), options["maxIssuerPathLength"].as_i64()) {
        (true, None) => Ok(CaContents::Unconstrained),
        (true, Some(length)) => {
            let wrong = |_| ApiError::invalid(format!("Invalid max_issuer_path_length {length}."));
            Ok(CaContents::Constrained(u8::try_from(length).map_err(wrong)?))
        }
        (false, None | Some(0)) => Ok(CaContents::No),
        (false, Some(_)) => Err(ApiError::invalid("A max_issuer_path_length needs is_ca.")),
    }
}

fn name_constraints(asked: &Value, field: &str) -> Result<Option<NameConstraints>, ApiError> {
    let at = format!("{field}.x509_config.name_constraints");
    let known = [
        "critical",
        "permittedDnsNames",
        "excludedDnsNames",
        "permittedIpRanges",
        "excludedIpRanges",
        "permittedEmailAddresses",
        "excludedEmailAddresses",
    ];
    only(asked, &at, &known, &["permittedUris", "excludedUris"])?;
    let mut constraints = NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: Vec::new() };
    for (prefix, list) in
        [("permitted", &mut constraints.permitted_subtrees), ("excluded", &mut constraints.excluded_subtrees)]
    {
        let texts = |kind: &str| -> Vec<String> {
            asked[format!("{prefix}{kind}").as_str()]
                .items()
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        list.extend(texts("DnsNames").into_iter().map(GeneralSubtree::DnsName));
        list.extend(texts("EmailAddresses").into_iter().map(GeneralSubtree::Rfc822Name));
        for range in texts("IpRanges") {
            let parsed =
                range.split_once('/').and_then(|(ip, bits)| Some((ip.parse::<IpAddr>().ok()?, bits.parse().ok()?)));
            let fits = |(ip, bits): &(IpAddr, u8)| *bits <= if ip.is_ipv4() { 32 } else { 128 };
            let wrong = || ApiError::invalid(format!("Invalid IP range {range:?} in {at}."));
            let (ip, bits) = parsed.filter(fits).ok_or_else(wrong)?;
            list.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, bits)));
        }
    }
    if constraints.permitted_subtrees.is_empty() && constraints.excluded_subtrees.is_empty() {
        return Ok(None);
    }
    if asked["critical"].as_bool() != Some(true) {
        return Err(ApiError::unimplemented(&format!("{at} that are not critical")));
    }
    Ok(Some(constraints))
}

fn key_id(asked: &Value, field: &str) -> Result<Option<Vec<u8>>, ApiError> {
    let text = asked.str_at(&["keyId"]);
    let pairs = || (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    match pairs().collect::<Option<Vec<u8>>>() {
        Some(id) if id.is_empty() => Ok(None),
        Some(id) => Ok(Some(id)),
        None => {
            Err(ApiError::invalid(format!("Invalid {field}.subject_key_id.key_id {text:?}: it must be hexadecimal.")))
        }
    }
}

/// Extensions that the API has fields for come by those.
fn extension(asked: &Value) -> Result<(Vec<u64>, bool, Vec<u8>), ApiError> {
    let kind = path(&asked["objectId"])?;
    if matches!(kind.as_slice(), [2, 5, 29, 14 | 15 | 17 | 19 | 30 | 35 | 37]) {
        return Err(ApiError::invalid(format!("The extension {kind:?} must not be an additional_extension.")));
    }
    let content = bytes("additional_extensions.value", asked.str_at(&["value"]))?;
    Ok((kind, asked["critical"].as_bool().unwrap_or(false), content))
}
