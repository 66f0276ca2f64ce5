use machinery::json;
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType};

use super::*;

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
}

fn named(common_name: &str, organization: &str) -> Vec<u8> {
    request(|params| {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        params.distinguished_name.push(DnType::OrganizationName, text(organization));
        params.distinguished_name.push(DnType::CommonName, text(common_name));
    })
}

#[test]
fn a_request_is_read_as_it_asks_to_be_named() {
    let pem = request(|params| {
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.subject_alt_names = vec![
            SanType::DnsName("a.c.p.internal".try_into().unwrap()),
            SanType::IpAddress("10.128.0.2".parse().unwrap()),
            SanType::Rfc822Name("x@y".try_into().unwrap()),
            SanType::URI("spiffe://x".try_into().unwrap()),
        ];
    });
    let found = verify(&pem).unwrap();
    assert_eq!((found.node(), found.organizations.as_slice()), ("a", &["system:nodes".to_owned()][..]));
    assert_eq!((found.dns.len(), found.ips.len(), found.emails.len(), found.uris.len()), (1, 1, 1, 1));
    assert!(check_kubelet_client(&found, &json!([])).unwrap_err().starts_with("DNS"));
}

#[test]
fn names_keep_every_character_so_that_clever_ones_are_nobody_else() {
    for name in ["system:node:a\0.evil", "ѕystem:node:a", "system:node:a ", "SYSTEM:NODE:a", "\u{202e}a:edon:metsys"] {
        let found = parse(&named(name, "system:nodes")).unwrap();
        assert_eq!(found.common_name, name);
        assert_ne!(found.node(), "a", "{name:?}");
    }
    let masters = parse(&named("x", "system:masters\0")).unwrap();
    assert_ne!(masters.organizations, ["system:masters"]);
}

#[test]
fn the_same_extension_twice_is_refused() {
    let pem = request(|params| {
        params.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())];
        // SEQUENCE { [2] "b" } under the same name.
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 1, b'b'])];
    });
    assert_eq!(verify(&pem).unwrap_err(), "x509: certificate request contains duplicate requested extensions");
}

#[test]
fn malformed_alternative_names_are_refused() {
    let with = |content: Vec<u8>| {
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        verify(&request(|params| params.custom_extensions = vec![extension])).unwrap_err()
    };
    assert_eq!(with(vec![0x30, 5, 0x87, 3, 1, 2, 3]), "x509: cannot parse IP address of length 3");
    assert!(with(vec![0x30, 9, 0x82]).starts_with("x509: "));
    assert!(with(vec![0x30, 4, 0x82, 2, 0xc3, 0xa9]).starts_with("x509: "), "a name that is not ASCII");
}

#[test]
fn what_is_no_request_or_not_signed_by_its_key_is_refused_in_gos_words() {
    let good = named("a", "b");
    let text = String::from_utf8(good.clone()).unwrap();
    let cases = [
        (String::new(), "PEM block type must be CERTIFICATE REQUEST"),
        (text.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "PEM block type must be CERTIFICATE REQUEST"),
        (pem_of(&[]), "asn1: syntax error: sequence truncated"),
        (pem_of(&[0x30, 0]), "asn1: syntax error: sequence truncated"),
        (pem_of(&[0x30, 9, 1]), "asn1: syntax error: data truncated"),
        (pem_of(b"foo"), "asn1: structure error: tags don't match (16 vs {class:1 tag:6 length:111 isCompound:true}) "),
    ];
    for (pem, why) in cases {
        assert!(verify(pem.as_bytes()).unwrap_err().starts_with(why), "{pem}");
    }
    // Another name under the same signature.
    let der = Pem::iter_from_buffer(&good).next().unwrap().unwrap().contents;
    let place = der.windows(2).position(|two| two == [1, b'a']).unwrap() + 1;
    let mut forged = der.clone();
    forged[place] = b'z';
    assert_eq!(verify(&armoured(&forged)).unwrap_err(), "x509: ECDSA verification failure");
    let mut longer = der;
    longer.push(0);
    assert_eq!(verify(&armoured(&longer)).unwrap_err(), "asn1: syntax error: trailing data");
}

/// Go's `crypto/rsa` takes keys from 1024 bits up. Made by openssl for the name jane.
#[test]
fn short_rsa_keys_count() {
    let testdata = [
        include_str!("../../../base/testdata/rsa-1024-sha256.csr"),
        include_str!("../../../base/testdata/rsa-1024-sha512.csr"),
    ];
    for pem in testdata {
        let found = verify(pem.as_bytes()).unwrap();
        assert_eq!((found.common_name.as_str(), found.organizations.as_slice()), ("jane", &["devs".to_owned()][..]));
        let mut forged = Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap().contents;
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(verify(&armoured(&forged)).unwrap_err(), "crypto/rsa: verification error");
    }
}

fn pem_of(der: &[u8]) -> String {
    String::from_utf8(armoured(der)).unwrap()
}

fn armoured(der: &[u8]) -> Vec<u8> {
    let body: String = der.chunks(3).map(encode).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n").into_bytes()
}

fn encode(chunk: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let n = (0..3).fold(0_usize, |n, i| n << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
    let letter = |i: usize| if i <= chunk.len() { char::from(LETTERS[n >> (18 - 6 * i) & 63]) } else { '=' };
    (0..4).map(letter).collect()
}

#[test]
fn each_signer_of_kubernetes_has_its_rules() {
    let node = CertificateRequest {
        common_name: "system:node:a".to_owned(),
        organizations: vec!["system:nodes".to_owned()],
        ..CertificateRequest::default()
    };
    let serving = CertificateRequest { ips: vec![IpAddr::from([10, 0, 0, 1])], ..node.clone() };
    let client_usages = json!(["client auth", "digital signature"]);
    assert_eq!(check_kubelet_client(&node, &client_usages), Ok(()));
    assert_eq!(check_kubelet_client(&node, &json!(["digital signature", "key encipherment", "client auth"])), Ok(()));
    let usages = "usages did not match [client auth digital signature key encipherment]";
    assert_eq!(check_kubelet_client(&node, &json!(["client auth"])).unwrap_err(), usages);
    assert_eq!(check_kubelet_client(&serving, &client_usages).unwrap_err(), "IP subjectAltNames are not allowed");
    let two = CertificateRequest { organizations: vec!["system:nodes".to_owned(), "x".to_owned()], ..node.clone() };
    assert_eq!(check_kubelet_client(&two, &client_usages).unwrap_err(), "subject organization is not system:nodes");
    let other = CertificateRequest { common_name: "a".to_owned(), ..node.clone() };
    assert!(check_kubelet_client(&other, &client_usages).unwrap_err().contains("does not begin with system:node:"));
    assert_eq!(check_kubelet_serving(&serving, &json!(["server auth", "digital signature"])), Ok(()));
    let none = check_kubelet_serving(&node, &json!(["server auth", "digital signature"]));
    assert_eq!(none.unwrap_err(), "DNS or IP subjectAltName is required");
    assert!(check_kubelet_serving(&serving, &client_usages).is_err());
    assert_eq!(check_client(&json!(["client auth"])), Ok(()));
    assert_eq!(check_client(&json!([])).unwrap_err(), "missing required usage for client certificate: client auth");
    let wrong = check_client(&json!(["client auth", "server auth"]));
    assert_eq!(wrong.unwrap_err(), "invalid usage for client certificate: server auth");
}

#[test]
fn a_chain_is_certificates_and_nothing_else() {
    let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    assert_eq!(check_chain(certificate.as_bytes()), Ok(()));
    assert!(not_after(certificate.as_bytes()).is_some());
    let request = String::from_utf8(named("a", "b")).unwrap();
    let both = format!("{certificate}{request}");
    let why = "only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\"";
    assert_eq!(check_chain(both.as_bytes()).unwrap_err(), why);
    assert_eq!(check_chain(b"text").unwrap_err(), "must contain at least one CERTIFICATE PEM block");
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (verify(&bytes), check_chain(&bytes), not_after(&bytes));
        let _ = (verify(&armoured(&bytes)), not_after(&armoured(&bytes)));
    }

    #[test]
    fn a_changed_request_is_never_taken_for_another(place in 0_usize..500, bit in 0_u8..8) {
        let pem = named("system:node:a", "system:nodes");
        let mut der = Pem::iter_from_buffer(&pem).next().unwrap().unwrap().contents;
        let place = place % der.len();
        der[place] ^= 1 << bit;
        if let Ok(found) = verify(&armoured(&der)) {
            prop_assert_eq!(found.common_name, "system:node:a");
        }
    }
}
