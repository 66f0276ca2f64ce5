//! Tokens, certificates, requests and names of strangers, mutated: no panic, and nothing is accepted that nobody signed.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base::{Entropy, FakeClock, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use fuzz::Fuzz;
use pki::{
    ApiSigner, Approved, Attested, Authority, ClientCertificates, ClientVerifier, Identity, KeyRequest,
    MachineIdentity, MachineSecret, MemoryVault, Profile, Requester, SIGNING_ALGORITHMS, ServingCertificate, Signer,
    SignerCore, api_server_names, client_config, pem, request_identity, request_subject, server_config, subject,
    verify_jwt,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

const RSA_REQUEST: &str = include_str!("../testdata/rsa.csr");
const GROUPS_REQUEST: &str = include_str!("../testdata/groups-in-one-set.csr");
#[rustfmt::skip]
const NAMES: [&str; 16] = [
    "system:masters", "system:nodes", "system:node:", "\0", "\u{202e}", "аdmin", "%2f", "*.", "127.0.0.1", "::1", ",O=", "/CN=",
    "xn--", "\u{ffff}", "kubernetes.default.svc", "localhost",
];

/// A flight of a server: its certificate, and requests for others.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

fn entropy() -> Entropy {
    Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap())
}

fn clock() -> base::Clock {
    FakeClock::new(Timestamp::from_unix_seconds(1_800_000_000)).clock()
}

/// A signer of its own, as an instance asks it.
fn signer() -> (Signer, Runtime) {
    let core = SignerCore::open("c", Arc::new(MemoryVault::default()), clock(), entropy()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (Signer::InProcess(Arc::new(core), Requester::Instance), runtime)
}

fn user(name: &str, groups: &[&str]) -> Profile {
    Profile::KubeClient { user: name.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Tokens with good signatures of an RSA and of an EC key, and the set of both.
fn tokens() -> (Vec<String>, Value) {
    let (signer, runtime) = signer();
    let claims =
        json!({"iss": "https://i", "sub": "system:serviceaccount:default:x", "aud": ["a"], "exp": 1_800_003_600});
    let by_rsa = runtime.block_on(signer.sign_jwt(claims.clone())).unwrap();
    let mut set = runtime.block_on(signer.jwks()).unwrap();
    let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = curve.public_key().as_ref();
    let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
    set["keys"].as_array_mut().unwrap().push(json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": x, "y": y}));
    let text = format!("{}.{}", encoded(r#"{"alg":"ES256","kid":"e"}"#), encoded(claims.to_string()));
    let signature = curve.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    (vec![by_rsa, format!("{text}.{}", encoded(signature))], set)
}

#[test]
fn a_mutated_token_is_accepted_as_it_was_signed_or_not_at_all() {
    let (good, set) = tokens();
    let words = ["none", "HS256", "RS512", "ES256", ".", "..", "=", "eyJhbGciOiJub25lIn0", "\n", " "];
    Fuzz::of(good.clone()).words(words).costly(4).run(|bytes| {
        let token = String::from_utf8_lossy(bytes);
        let accepted = verify_jwt(&token, &set, &SIGNING_ALGORITHMS).is_some();
        assert_eq!(accepted, good.iter().any(|one| *one == token), "{token}");
    });
    // The same one layer down: header and claims as JSON, encoded again, under a good signature.
    let decoded = |token: &String| -> Vec<u8> {
        let parts: Vec<&str> = token.split('.').collect();
        let json = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        [&json(parts[0])[..], b"\n", &json(parts[1]), b"\n", parts[2].as_bytes()].concat()
    };
    let words =
        [r#""alg":"none","#, r#""crit":["b64"],"#, r#""alg":"HS256""#, r#""kid":null"#, "[[[[", "1e999", "\\u0000"];
    Fuzz::of(good.iter().map(decoded)).words(words).costly(4).run(|bytes| {
        let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
        let (head, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let signature = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let token = format!("{}.{}.{signature}", encoded(head), encoded(claims));
        assert_eq!(verify_jwt(&token, &set, &SIGNING_ALGORITHMS).is_some(), good.contains(&token), "{token}");
    });
}

#[test]
fn a_mutated_key_set_never_makes_another_token_good() {
    let (good, set) = tokens();
    let forged = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(r#"{"sub":"root"}"#));
    let words =
        [r#""kty":"oct","k":"AA""#, r#""crv":"P-521""#, r#""e":"AQ""#, r#""n":"AQ""#, r#""alg":"none""#, "{}", "[]"];
    Fuzz::of([set.to_string()]).words(words).costly(8).run(|bytes| {
        let Ok(set) = serde_json::from_slice::<Value>(bytes) else { return };
        for token in &good {
            let _ = verify_jwt(token, &set, &SIGNING_ALGORITHMS);
        }
        assert!(verify_jwt(&forged, &set, &SIGNING_ALGORITHMS).is_none());
    });
}

#[test]
fn a_mutated_certificate_is_nobodys() {
    let (signer, runtime) = signer();
    let issue = |profile: &Profile| -> Vec<u8> {
        runtime.block_on(request_identity(&signer, profile, None)).unwrap().chain()[0].to_vec()
    };
    let (dns, ips) = (vec!["a".to_owned()], vec!["::1".parse().unwrap()]);
    let node = Profile::KubeletServing { node: "a".to_owned(), dns, ips };
    let proxy = Profile::FrontProxyClient { name: "front-proxy-client".to_owned() };
    let clients = [issue(&user("jane", &["dev", "ops"])), issue(&user("system:node:a", &["system:nodes"]))];
    let others = [issue(&node), issue(&proxy)];
    let authority = runtime.block_on(signer.certificate(Authority::Cluster)).unwrap();
    let verifier = ClientVerifier::new(&authority, &clock()).unwrap();
    Fuzz::of(clients.iter().chain(&others).cloned()).words(NAMES).costly(4).run(|bytes| {
        let named = subject(bytes);
        let _ = pki::is_issued_by(bytes, &authority);
        let accepted = verifier.verify(&[CertificateDer::from(bytes)]).is_ok();
        assert_eq!(accepted, clients.iter().any(|good| good == bytes));
        assert!(!accepted || named.is_ok(), "whoever comes in has a name");
    });
}

#[test]
fn a_mutated_request_gets_a_certificate_for_a_key_that_signed_it_or_none() {
    let (signer, runtime) = signer();
    let (groups, dns, ips) = (["system:nodes".to_owned()], ["a".to_owned()], ["::1".parse().unwrap()]);
    let made = KeyRequest::new("system:node:a", &groups, &dns, &ips);
    let mut seeds = vec![made.unwrap().der().to_vec()];
    seeds.extend([RSA_REQUEST, GROUPS_REQUEST].map(|text| pem::signing_request(text).unwrap()));
    let key = |der: &[u8]| -> Option<Vec<u8>> {
        let (_, request) = X509CertificationRequest::from_der(der).ok()?;
        Some(request.certification_request_info.subject_pki.raw.to_vec())
    };
    let keys: Vec<_> = seeds.iter().filter_map(|der| key(der)).collect();
    assert_eq!(keys.len(), seeds.len());
    let profile = user("jane", &["dev"]);
    Fuzz::of(seeds).words(NAMES).costly(4).run(|bytes| {
        let _ = request_subject(bytes);
        let Ok(issued) = runtime.block_on(signer.issue(bytes, &profile, None)) else { return };
        let (_, certificate) = X509Certificate::from_der(&issued).unwrap();
        assert!(keys.iter().any(|key| key == certificate.public_key().raw), "a key that signed nothing");
        let named = subject(&issued).unwrap();
        assert_eq!((named.common_name.as_str(), named.organizations), ("jane", vec!["dev".to_owned()]));
    });
}

#[test]
fn whoever_is_asked_for_is_named_or_nobody_is() {
    let (door, runtime) = signer();
    let csr = KeyRequest::new("x", &[], &[], &[]).unwrap();
    let seeds =
        ["jane\ndev\nexample.com\nj@example.com\nspiffe://a/b", "system:node:a\nsystem:nodes\na.b\n\n", "é\n\n*.a\n\n"];
    Fuzz::of(seeds).words(NAMES).words(["\n", "\n\n", "@", "://"]).costly(8).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.split('\n').collect();
        let line = |number: usize| (*lines.get(number).unwrap_or(&"")).to_owned();
        let list = |number: usize| Some(line(number)).filter(|text| !text.is_empty()).into_iter().collect::<Vec<_>>();
        for signer in [ApiSigner::Client, ApiSigner::KubeletClient, ApiSigner::KubeletServing] {
            let dns = if signer == ApiSigner::KubeletClient { Vec::new() } else { list(2) };
            let others = |number: usize| if signer == ApiSigner::Client { list(number) } else { Vec::new() };
            let approved = Approved {
                signer,
                common_name: line(0),
                organizations: list(1),
                dns: dns.clone(),
                ips: Vec::new(),
                emails: others(3),
                uris: others(4),
                key_encipherment: false,
                requested_by: "jane".to_owned(),
            };
            let profile = Profile::Approved(Box::new(approved));
            let Ok(issued) = runtime.block_on(door.issue(csr.der(), &profile, None)) else { continue };
            let named = subject(&issued).unwrap();
            assert_eq!((named.common_name, &named.organizations, named.dns), (line(0), &list(1), dns));
            assert!(!named.organizations.iter().any(|group| group == "system:masters"), "an administrator");
        }
    });
}

#[test]
fn texts_of_keys_and_certificates_are_read_or_refused() {
    let (signer, runtime) = signer();
    let identity = runtime.block_on(request_identity(&signer, &user("jane", &[]), None)).unwrap();
    let (chain, key) = (identity.certificate_pem(), identity.key_pem().to_string());
    let words = ["-----BEGIN ", "-----END ", "-----", "CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "\r\n", "="];
    Fuzz::of([chain.clone(), key.clone(), format!("{chain}{key}")]).words(words).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = (pem::certificates(&text), pem::signing_request(&text), Identity::from_pem(&text, &key).is_ok());
        let _ = (Identity::from_pem(&chain, &text).is_ok(), ClientVerifier::new(&text, &clock()).is_ok());
    });
}

#[test]
fn a_machine_vouches_for_no_key_but_its_own_however_the_text_is_put_together() {
    let secret = MachineSecret::generate(&entropy());
    let machine =
        |name: &str| MachineIdentity { zone: "z".to_owned(), name: name.to_owned(), project_name: "p".to_owned() };
    let request = |name: &str| KeyRequest::new(name, &["system:nodes".to_owned()], &[], &[]).unwrap();
    let (a, b, stolen) = (request("system:node:a"), request("system:node:b"), request("system:node:a"));
    let attested = [secret.attest(&machine("a"), a.der()).unwrap(), secret.attest(&machine("b"), b.der()).unwrap()];
    let blocks: Vec<String> =
        attested.iter().flat_map(|text| text.split_inclusive("-----\n").map(str::to_owned)).collect();
    let mut seeds = attested.to_vec();
    seeds.push(stolen.pem() + &attested[0]);
    seeds.push(attested[0].clone() + &stolen.pem());
    let name = STANDARD.encode(r#"{"zone":"z","name":"a","project_name":"p"}"#);
    Fuzz::of(seeds).words(blocks).words([name]).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        for name in ["a", "b"] {
            assert_ne!(secret.check(&text, stolen.der(), &machine(name)), Attested::Good, "{name}: {text}");
        }
        assert_ne!(secret.check(&text, b.der(), &machine("a")), Attested::Good, "{text}");
    });
}

/// What a client says first.
fn hello(config: &Arc<rustls::ClientConfig>, name: &str) -> Vec<u8> {
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::clone(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_mutated_client_hello_opens_nothing() {
    let (signer, runtime) = signer();
    let authority = runtime.block_on(signer.certificate(Authority::Cluster)).unwrap();
    let names = api_server_names([10, 0, 0, 1].into(), &[[127, 0, 0, 1].into()]);
    let identity = runtime.block_on(request_identity(&signer, &names, None)).unwrap();
    let serving = ServingCertificate::new(&identity).unwrap();
    let clients = ClientCertificates::Requested;
    let server = server_config(serving, clients, &[b"h2", b"http/1.1"], &clock()).unwrap();
    let client = client_config(&authority, None, &[b"h2"], &clock()).unwrap();
    let seeds = ["kubernetes.default.svc", "gke-0123456789abcdef-42.us-central1-a.gke.goog", "127.0.0.1"]
        .map(|name| hello(&client, name));
    // Lengths that lie, a name with a zero, records of other kinds, and other protocols.
    let words: [&[u8]; 10] = [
        b"\xff\xff",
        b"\0\0",
        b"\0\x05a\0b.c",
        b"\x16\x03\x01",
        b"\x16\x03\x00\x40\0",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x17\x03\x03",
        b"\x14\x03\x03\0\x01\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x02h2",
    ];
    Fuzz::of(seeds).words(words).costly(4).run(|bytes| {
        let mut connection = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        let mut rest = bytes;
        let mut answered = Vec::new();
        while !rest.is_empty() {
            let read = connection.read_tls(&mut rest);
            let processed = connection.process_new_packets().map(|_| ());
            while connection.wants_write() {
                connection.write_tls(&mut answered).unwrap();
            }
            if processed.is_err() || !read.is_ok_and(|count| count > 0) {
                break;
            }
        }
        assert!(connection.is_handshaking() && connection.peer_certificates().is_none(), "opened");
        assert!(answered.len() <= ANSWER_BYTES_MAX, "{} bytes for {}", answered.len(), bytes.len());
        // Handshake, change of cipher, alert or sealed; never something else.
        assert!(answered.first().is_none_or(|kind| (0x14..=0x17).contains(kind)), "{}", answered.escape_ascii());
    });
}
