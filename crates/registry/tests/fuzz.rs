//! Certificate requests as strangers file them, mutated: no panic, one meaning for all who look, and the policy of each signer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fuzz::Fuzz;
use machinery::json;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use registry::certificate_request::{
    check_chain, check_client, check_kubelet_client, check_kubelet_serving, der, not_after, parse, verify,
};

fn request(common_name: &str, organization: &str, names: &[SanType]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.subject_alt_names = names.to_vec();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(der))
}

fn seeds() -> Vec<Vec<u8>> {
    let dns = SanType::DnsName("a.b".try_into().unwrap());
    let ip = SanType::IpAddress("10.0.0.1".parse().unwrap());
    let mail = SanType::Rfc822Name("j@example.com".try_into().unwrap());
    let uri = SanType::URI("spiffe://a/b".try_into().unwrap());
    vec![
        request("system:node:a", "system:nodes", &[]),
        request("system:node:a", "system:nodes", &[dns.clone(), ip]),
        request("jane", "dev", &[dns, mail, uri]),
    ]
}

#[test]
fn a_mutated_request_means_what_its_own_key_signed_or_is_refused() {
    let seeds = seeds();
    let good: Vec<_> = seeds.iter().map(|seed| verify(pem(seed).as_bytes()).unwrap()).collect();
    let words = ["system:masters", "system:node:", "\u{0}", "\u{30}\u{0}", "a\u{0}b", "127.0.0.1"];
    Fuzz::of(seeds).words(words).costly(2).run(|bytes| {
        let text = pem(bytes);
        let (parsed, verified) = (parse(text.as_bytes()), verify(text.as_bytes()));
        if let Ok(named) = &verified {
            assert!(good.contains(named), "nobody signed for {named:?}");
            assert_eq!(parsed.as_ref(), Ok(named));
        }
        let Ok(named) = parsed else { return };
        let (client, server) =
            (json!(["digital signature", "client auth"]), json!(["digital signature", "server auth"]));
        let is_node = named.organizations == ["system:nodes"] && named.common_name.starts_with("system:node:");
        let others = named.emails.len() + named.uris.len();
        if check_kubelet_client(&named, &client).is_ok() {
            assert!(is_node && others + named.dns.len() + named.ips.len() == 0, "{named:?}");
        }
        if check_kubelet_serving(&named, &server).is_ok() {
            assert!(is_node && others == 0 && named.dns.len() + named.ips.len() > 0, "{named:?}");
        }
        assert!(check_kubelet_client(&named, &server).is_err() && check_client(&server).is_err());
    });
}

#[test]
fn texts_of_requests_have_one_meaning() {
    let texts: Vec<String> = seeds().iter().map(|seed| pem(seed)).collect();
    let two = texts[0].clone() + &texts[1];
    let words =
        ["-----BEGIN CERTIFICATE REQUEST-----", "-----END ", "CERTIFICATE", "Proc-Type: 4,ENCRYPTED\n", "\r\n", "="];
    Fuzz::of(texts.iter().cloned().chain([two])).words(words).run(|bytes| {
        // What is parsed is what is signed and attested: the content that `der` gives.
        if let Ok(named) = parse(bytes) {
            assert_eq!(parse(pem(&der(bytes).unwrap()).as_bytes()), Ok(named));
        }
        let _ = (verify(bytes), check_chain(bytes), not_after(bytes));
    });
}
