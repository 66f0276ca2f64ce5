//! What the authorities promise, seen from outside.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Entropy, FakeClock, Timestamp};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::*;

pub(crate) fn clock() -> FakeClock {
    FakeClock::new(Timestamp::from_unix_seconds(1_800_000_000))
}

pub(crate) fn entropy() -> Entropy {
    Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap())
}

fn signer(clock: &Clock) -> Arc<SignerCore> {
    Arc::new(SignerCore::open("c", Arc::new(MemoryVault::default()), clock.clone(), entropy()).unwrap())
}

fn kube_client(user: &str, group: &str) -> Profile {
    Profile::KubeClient { user: user.to_owned(), groups: vec![group.to_owned()] }
}

/// The etcd API CA, as an instance has it.
async fn held(door: &Signer) -> HeldAuthority {
    let Signer::InProcess(core, _) = door else { panic!("in this process") };
    let metadata = Signer::InProcess(core.clone(), Requester::Metadata);
    let certificate = metadata.certificate(Authority::EtcdApi).await.unwrap();
    let key = metadata.authority_key(Authority::EtcdApi).await.unwrap();
    HeldAuthority::new(Authority::EtcdApi, &certificate, &key, clock().clock(), entropy()).unwrap()
}

#[tokio::test]
async fn one_key_leaves_the_signer_and_to_one_requester_only() {
    let core = signer(&clock().clock());
    let mut handed_out = Vec::new();
    for requester in [Requester::Instance, Requester::Fleet, Requester::Metadata] {
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve_signer(core.clone(), requester, far));
        for door in [Signer::InProcess(core.clone(), requester), Signer::Socket(SignerClient::new(near))] {
            for authority in Authority::ALL {
                match door.authority_key(authority).await {
                    Ok(key) => handed_out.push((requester, authority, key)),
                    Err(error) => assert!(error.to_string().contains("may not ask for the key of the"), "{error}"),
                }
            }
        }
    }
    let whose: Vec<_> = handed_out.iter().map(|(requester, authority, _)| (*requester, *authority)).collect();
    assert_eq!(whose, [(Requester::Metadata, Authority::EtcdApi); 2]);
    assert_eq!(handed_out[0].2, handed_out[1].2);
    let metadata = Signer::InProcess(core, Requester::Metadata);
    assert!(request_identity(&metadata, &Profile::EtcdClient { name: "x".to_owned() }, None).await.is_err());
    assert!(metadata.sign_jwt(json!({"sub": "x"})).await.is_err());
}

#[tokio::test]
async fn a_held_authority_signs_for_its_own_purpose_and_only_with_its_own_key() {
    let clock = clock().clock();
    let (door, other) = (signer(&clock), signer(&clock));
    let door = Signer::InProcess(door, Requester::Instance);
    let held = held(&door).await;
    let made = held.issue(&Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: vec![] }, None).unwrap();
    assert!(is_issued_by(&made.chain()[0], &door.certificate(Authority::EtcdApi).await.unwrap()));
    let dates = subject(&made.chain()[0]).unwrap();
    assert_eq!(dates.not_after.since(dates.not_before), Duration::from_secs((365 * 24 + 1) * 60 * 60));
    assert!(ServingCertificate::new(&made).is_ok());
    let refused = held.issue(&kube_client("admin", "system:masters"), None).unwrap_err();
    assert_eq!(refused.to_string(), "the holder of the etcd-api CA may not ask for kube-client");
    let key = Signer::InProcess(other, Requester::Metadata).authority_key(Authority::EtcdApi).await.unwrap();
    let mixed = HeldAuthority::new(Authority::EtcdApi, &held.certificate_pem(), &key, clock, entropy());
    assert_eq!(mixed.unwrap_err(), SignerError::DamagedState);
}

#[tokio::test]
async fn two_clusters_share_no_authority() {
    let clock = clock().clock();
    let mut seen = Vec::new();
    for core in [signer(&clock), signer(&clock)] {
        let door = Signer::InProcess(core, Requester::Instance);
        for authority in Authority::ALL {
            let pem = door.certificate(authority).await.unwrap();
            let der = pem::certificates(&pem).unwrap().remove(0);
            let subject = subject(&der).unwrap();
            assert!(subject.is_ca);
            assert_eq!(subject.not_after.since(subject.not_before), Duration::from_secs(10_950 * 24 * 60 * 60));
            seen.extend([sha256(&der), subject.common_name]);
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[tokio::test]
async fn a_certificate_of_one_purpose_is_refused_for_another() {
    let fake = clock();
    let clock = fake.clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    let cluster = ClientVerifier::new(&door.certificate(Authority::Cluster).await.unwrap(), &clock).unwrap();
    let ok = request_identity(&door, &kube_client("alice", "dev"), None).await.unwrap();
    cluster.verify(ok.chain()).unwrap();
    let subject = subject(&ok.chain()[0]).unwrap();
    assert_eq!((subject.common_name.as_str(), subject.organizations), ("alice", vec!["dev".to_owned()]));
    let others = [
        Profile::EtcdPeer { name: "m0".to_owned(), ips: vec![] },
        Profile::FrontProxyClient { name: "front-proxy-client".to_owned() },
        api_server_names("10.0.0.1".parse().unwrap(), &[]),
    ];
    for profile in others {
        let other = request_identity(&door, &profile, None).await.unwrap();
        assert!(cluster.verify(other.chain()).is_err(), "{} passes as a Kubernetes client", profile.name());
    }
    let store = held(&door).await.issue(&Profile::EtcdClient { name: "kube-apiserver".to_owned() }, None).unwrap();
    assert!(cluster.verify(store.chain()).is_err(), "a client of the store passes as a Kubernetes client");
    fake.advance(Duration::from_secs(366 * 24 * 60 * 60));
    assert!(cluster.verify(ok.chain()).is_err(), "expired on the emulator's clock");
}

#[tokio::test]
async fn every_group_of_a_user_stands_in_the_certificate() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    let cluster = ClientVerifier::new(&door.certificate(Authority::Cluster).await.unwrap(), &clock).unwrap();
    let many: Vec<String> = (0..300).map(|i| format!("group-{i}-ü")).collect();
    for groups in [Vec::new(), vec!["dev".to_owned(), "dev".to_owned(), "ops".to_owned()], many] {
        let profile = Profile::KubeClient { user: "bob".to_owned(), groups: groups.clone() };
        let identity = request_identity(&door, &profile, None).await.unwrap();
        cluster.verify(identity.chain()).unwrap();
        let named = subject(&identity.chain()[0]).unwrap();
        assert_eq!((named.common_name.as_str(), named.organizations), ("bob", groups));
    }
    let masters =
        Profile::KubeClient { user: "bob".to_owned(), groups: vec!["x".to_owned(), "system:masters".to_owned()] };
    let masters = request_identity(&door, &masters, None).await;
    assert!(matches!(masters, Err(SignerError::Refused { .. })), "an instance made itself an administrator");
}

#[tokio::test]
async fn requests_of_other_programs_are_read_whatever_their_key_and_the_form_of_their_name() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    let cluster = ClientVerifier::new(&door.certificate(Authority::Cluster).await.unwrap(), &clock).unwrap();
    // Made by openssl: all organizations in one set, as Go's crypto/x509 writes them, and an RSA key with a name.
    for text in [include_str!("../testdata/groups-in-one-set.csr"), include_str!("../testdata/rsa.csr")] {
        let csr = pem::signing_request(text).unwrap();
        let mut asked = request_subject(&csr).unwrap();
        // DER orders a set by its encoding.
        asked.organizations.sort();
        assert_eq!((asked.common_name.as_str(), asked.organizations.join(" ").as_str()), ("jane", "dev ops qa"));
        let profile = Profile::KubeClient { user: asked.common_name, groups: asked.organizations };
        let certificate = door.issue(&csr, &profile, None).await.unwrap();
        cluster.verify(std::slice::from_ref(&certificate)).unwrap();
        let named = subject(&certificate).unwrap();
        assert_eq!((named.organizations.len(), named.dns.len()), (3, 0));
        let mut forged = csr.clone();
        *forged.last_mut().unwrap() ^= 1;
        let refused = door.issue(&forged, &profile, None).await.unwrap_err();
        assert_eq!(refused.to_string(), "the certificate request is not valid: its signature is wrong");
    }
}

/// Go's `crypto/rsa` takes keys from 1024 bits up.
#[tokio::test]
async fn short_rsa_keys_get_certificates_and_forgers_do_not() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    for text in [
        include_str!("../../base/testdata/rsa-1024-sha256.csr"),
        include_str!("../../base/testdata/rsa-1024-sha512.csr"),
    ] {
        let csr = pem::signing_request(text).unwrap();
        let certificate = door.issue(&csr, &kube_client("jane", "devs"), None).await.unwrap();
        assert_eq!(subject(&certificate).unwrap().common_name, "jane");
        let mut forged = csr;
        *forged.last_mut().unwrap() ^= 1;
        let refused = door.issue(&forged, &kube_client("jane", "devs"), None).await.unwrap_err();
        assert_eq!(refused.to_string(), "the certificate request is not valid: its signature is wrong");
    }
}

#[tokio::test]
async fn the_fleet_cannot_make_itself_a_cluster_administrator() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Fleet);
    let refused = request_identity(&door, &kube_client("x", "system:masters"), None).await.unwrap_err();
    assert!(matches!(refused, SignerError::Refused { .. }), "{refused}");
    assert!(door.sign_jwt(json!({"sub": "x"})).await.is_err());
    request_identity(&door, &Profile::EtcdClient { name: "etcdctl".to_owned() }, None).await.unwrap();
}

#[tokio::test]
async fn a_signer_in_another_process_answers_overlapping_calls() {
    let clock = clock().clock();
    let (near, far) = UnixStream::pair().unwrap();
    tokio::spawn(serve_signer(signer(&clock), Requester::Instance, far));
    let door = Signer::Socket(SignerClient::new(near));
    let token = door.sign_jwt(json!({"sub": "system:serviceaccount:default:default"}));
    let certificate = door.certificate(Authority::EtcdApi);
    let (token, certificate) = tokio::join!(token, certificate);
    assert!(certificate.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let jwks = door.jwks().await.unwrap();
    let token = token.unwrap();
    let claims = verify_jwt(&token, &jwks, &["RS256"]).expect("the token verifies against the published keys");
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    let (head, rest) = token.split_once('.').unwrap();
    let forged = format!("{head}.{}", rest.replacen('e', "f", 1));
    assert!(verify_jwt(&forged, &jwks, &["RS256"]).is_none());
}

#[tokio::test]
async fn calls_wait_for_a_signer_that_is_started_again_but_not_for_ever() {
    let clock = clock().clock();
    let (near, far) = UnixStream::pair().unwrap();
    let client = SignerClient::new(near);
    let door = Signer::Socket(client.clone());
    let asked = door.certificate(Authority::Cluster);
    let restarted = async {
        drop(far);
        tokio::task::yield_now().await;
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve_signer(signer(&clock), Requester::Instance, far));
        client.reconnect(near);
    };
    let (answer, ()) = tokio::join!(asked, restarted);
    answer.unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    client.reconnect(near);
    drop(far);
    let refused = door.certificate(Authority::Cluster).await.unwrap_err();
    assert_eq!(refused.to_string(), "the signer does not answer: its process is gone");
}

#[tokio::test]
async fn the_authorities_survive_a_restart() {
    let vault = Arc::new(MemoryVault::default());
    let clock = clock().clock();
    let open = || {
        let core = SignerCore::open("c", Arc::clone(&vault) as Arc<dyn Vault>, clock.clone(), entropy()).unwrap();
        Signer::InProcess(Arc::new(core), Requester::Instance)
    };
    let first = open();
    let before = (first.certificate(Authority::Cluster).await.unwrap(), first.jwks().await.unwrap());
    let second = open();
    assert_eq!(before, (second.certificate(Authority::Cluster).await.unwrap(), second.jwks().await.unwrap()));
}

#[tokio::test]
async fn mutual_tls_holds_between_identities_of_one_authority_only() {
    let clock = clock().clock();
    let (ours, stranger) = (
        Signer::InProcess(signer(&clock), Requester::Instance),
        Signer::InProcess(signer(&clock), Requester::Instance),
    );
    let authority = ours.certificate(Authority::EtcdApi).await.unwrap();
    let profile = Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: vec![] };
    let serving = ServingCertificate::new(&held(&ours).await.issue(&profile, None).unwrap()).unwrap();
    let server = server_config(serving, ClientCertificates::Required(&authority), &[b"h2"], &clock).unwrap();
    for (door, works) in [(&ours, true), (&stranger, false)] {
        let profile = Profile::EtcdClient { name: "kube-apiserver".to_owned() };
        let identity = held(door).await.issue(&profile, None).unwrap();
        let client = client_config(&authority, Some(&identity), &[b"h2"], &clock).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let accepted = tokio_rustls::TlsAcceptor::from(Arc::clone(&server)).accept(far);
        let name = ServerName::try_from("localhost").unwrap();
        let connected = async {
            let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
            stream.write_all(b"x").await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let answered = async {
            let mut stream = accepted.await?;
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            stream.flush().await
        };
        let (client_side, server_side) = tokio::join!(connected, answered);
        assert_eq!((client_side.is_ok(), server_side.is_ok()), (works, works));
    }
}

/// A key and a certificate in the encodings that openssl and Go write.
#[tokio::test]
async fn keys_from_elsewhere_are_used_as_they_are() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    let made = request_identity(&door, &kube_client("jane", "dev"), None).await.unwrap();
    let read = Identity::from_pem(&made.certificate_pem(), &made.key_pem()).unwrap();
    assert_eq!((read.certificate_pem(), read.key_pem()), (made.certificate_pem(), made.key_pem()));
    assert!(ServingCertificate::new(&read).is_ok());
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n";
    let other = Identity::from_pem(&made.certificate_pem(), sec1).unwrap();
    assert_eq!(other.key_pem().as_str(), sec1);
    assert!(ServingCertificate::new(&other).is_err(), "it is no key at all");
    assert!(Identity::from_pem(&made.certificate_pem(), "").is_err());
    assert!(Identity::from_pem("", &made.key_pem()).is_err());
}

fn approved(signer: ApiSigner, name: &str, group: &str, dns: &[&str]) -> Profile {
    Profile::Approved(Box::new(Approved {
        signer,
        common_name: name.to_owned(),
        organizations: vec![group.to_owned()],
        dns: dns.iter().map(|name| (*name).to_owned()).collect(),
        ips: Vec::new(),
        emails: Vec::new(),
        uris: Vec::new(),
        key_encipherment: false,
        requested_by: "kubelet".to_owned(),
    }))
}

#[tokio::test]
async fn each_requester_gets_what_the_table_says() {
    let core = signer(&clock().clock());
    let (instance, fleet) =
        (Signer::InProcess(core.clone(), Requester::Instance), Signer::InProcess(core, Requester::Fleet));
    let name = |name: &str| name.to_owned();
    let node = "system:node:a";
    let table = [
        // profile, the instance may, the fleet may
        (api_server_names("10.0.0.1".parse().unwrap(), &[]), true, false),
        (Profile::EtcdServing { dns: vec![name("localhost")], ips: Vec::new() }, false, false),
        (Profile::EtcdClient { name: name("kube-apiserver") }, false, true),
        (Profile::EtcdClient { name: name("root") }, false, true),
        (Profile::EtcdPeer { name: name("m0"), ips: Vec::new() }, true, false),
        (kube_client("kubelet-bootstrap", "x"), true, false),
        (kube_client("alice", "system:masters"), false, false),
        (Profile::KubeletServing { node: name("a"), dns: vec![name("a")], ips: Vec::new() }, true, false),
        (Profile::FrontProxyClient { name: name("front-proxy-client") }, true, true),
        (approved(ApiSigner::Client, "jane", "dev", &[]), true, false),
        (approved(ApiSigner::Client, "jane", "system:masters", &[]), false, false),
        (approved(ApiSigner::KubeletClient, node, "system:nodes", &[]), true, false),
        (approved(ApiSigner::KubeletClient, node, "dev", &[]), false, false),
        (approved(ApiSigner::KubeletClient, node, "system:nodes", &["a"]), false, false),
        (approved(ApiSigner::KubeletClient, "jane", "system:nodes", &[]), false, false),
        (approved(ApiSigner::KubeletServing, node, "system:nodes", &["a"]), true, false),
        (approved(ApiSigner::KubeletServing, node, "system:nodes", &[]), false, false),
        (approved(ApiSigner::KubeletServing, "kubernetes", "system:nodes", &["kubernetes.default.svc"]), false, false),
    ];
    for (profile, to_instance, to_fleet) in table {
        for (door, may) in [(&instance, to_instance), (&fleet, to_fleet)] {
            let answer = request_identity(door, &profile, None).await;
            assert_eq!(answer.is_ok(), may, "{profile:?}");
            assert!(may || matches!(answer, Err(SignerError::Refused { .. })));
        }
        let token = fleet.sign_jwt(json!({"sub": "x"})).await;
        assert!(matches!(token, Err(SignerError::Refused { .. })));
    }
}

#[tokio::test]
async fn approved_requests_are_dated_as_upstream_dates_them() {
    let fake = clock();
    let now = fake.clock().now();
    let door = Signer::InProcess(signer(&fake.clock()), Requester::Instance);
    let profile = approved(ApiSigner::KubeletClient, "system:node:a", "system:nodes", &[]);
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
    let year = 365 * 24 * hour;
    for (asked, until) in [
        (Some(10 * minute), 10 * minute),
        (Some(8 * hour), 8 * hour - 5 * minute),
        (None, year - 5 * minute),
        (Some(10 * year), year - 5 * minute),
    ] {
        let issued = request_identity(&door, &profile, asked).await.unwrap();
        let dates = subject(&issued.chain()[0]).unwrap();
        assert_eq!((dates.not_before, dates.not_after), (now - 5 * minute, now + until), "{asked:?}");
        assert!(!dates.is_ca);
    }
}

#[tokio::test]
async fn a_client_shows_the_certificate_it_has_at_the_time() {
    let clock = clock().clock();
    let door = Signer::InProcess(signer(&clock), Requester::Instance);
    let authority = door.certificate(Authority::Cluster).await.unwrap();
    let server = request_identity(&door, &api_server_names("127.0.0.1".parse().unwrap(), &[]), None).await.unwrap();
    let serving = ServingCertificate::new(&server).unwrap();
    let tls = server_config(serving, ClientCertificates::Requested, &[], &clock).unwrap();
    let identity = ClientIdentity::none();
    let client = client_config_with(&authority, identity.clone(), &[], &clock).unwrap();
    let mut shown = Vec::new();
    for user in ["", "first", "second"] {
        if !user.is_empty() {
            identity.replace(&request_identity(&door, &kube_client(user, "g"), None).await.unwrap()).unwrap();
        }
        let (near, far) = UnixStream::pair().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.clone());
        let accepted = tokio::spawn(async move { acceptor.accept(far).await.unwrap() });
        let connector = tokio_rustls::TlsConnector::from(client.clone());
        let mut near = connector.connect(ServerName::try_from("kubernetes").unwrap(), near).await.unwrap();
        near.write_all(b"x").await.unwrap();
        let far = accepted.await.unwrap();
        let chain = far.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        shown.push(chain.first().map(|leaf| subject(leaf).unwrap().common_name).unwrap_or_default());
        assert_eq!(identity.certificate(), chain.first().cloned());
    }
    assert_eq!(shown, ["", "first", "second"]);
}

#[test]
fn a_request_is_completed_by_its_own_certificate_only() {
    let groups = ["system:nodes".to_owned(), "x".to_owned()];
    let request = KeyRequest::new("system:node:a", &groups, &["a".to_owned()], &["10.0.0.1".parse().unwrap()]).unwrap();
    let named = request_subject(request.der()).unwrap();
    assert_eq!((named.common_name.as_str(), named.organizations.as_slice()), ("system:node:a", &groups[..]));
    assert_eq!((named.dns.len(), named.ips.len()), (1, 1));
    let stranger = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    assert!(request.complete(&stranger).is_err());
    assert!(request.complete("nothing").is_err());
}
