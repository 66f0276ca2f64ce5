use std::sync::Arc;

use base::Timestamp;
use machinery::json;

use super::*;
use crate::World;

const CREATED: &str = "2026-01-01T00:00:00Z";

fn csr(user: &str, signer: &str, (common_name, ip): (&str, Option<&str>), usages: &[&str]) -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.subject_alt_names.extend(ip.map(|ip| rcgen::SanType::IpAddress(ip.parse().unwrap())));
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let usages: Vec<Value> = usages.iter().map(|usage| Value::from(*usage)).collect();
    let mut request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "r", "uid": "u", "resourceVersion": "1", "creationTimestamp": CREATED},
        "spec": {"username": user, "signerName": signer, "request": STANDARD.encode(pem)}, "status": {}});
    request["spec"].set("usages", usages);
    request
}

fn run(reconcile: fn(&Context<'_>, &Key) -> Vec<Action>, request: &Value, after: Duration) -> Vec<String> {
    let mut world = World::default();
    world.apply(&REQUESTS.group_resource(), Arc::new(request.clone()));
    let now = Timestamp::parse(CREATED).unwrap() + after;
    let cx = Context { world: &world, now, failure: None };
    reconcile(&cx, &Key::of(&REQUESTS, request)).iter().map(ToString::to_string).collect()
}

const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];

#[test]
fn the_rule_depends_on_who_asks_for_whom() {
    let check = |user: &str, signer: &str, name: &str, ip: Option<&str>, usages: &[&str]| {
        run(approve, &csr(user, signer, (name, ip), usages), Duration::ZERO)
    };
    let kubelet = |user: &str, name: &str| check(user, KUBELET_CLIENT_SIGNER, name, None, &CLIENT_USAGES);
    assert_eq!(kubelet("kubelet", "system:node:a"), ["approve r as nodeclient"]);
    assert_eq!(kubelet("system:bootstrap:abcdef", "system:node:a"), ["approve r as nodeclient"]);
    assert_eq!(kubelet("kubelet-bootstrap", "system:node:a"), ["approve r as nodeclient"]);
    assert_eq!(kubelet("system:node:a", "system:node:a"), ["approve r as selfnodeclient, nodeclient"]);
    // The authorizer decides about it, not the approver; no node may create `nodeclient`.
    assert_eq!(kubelet("system:node:a", "system:node:b"), ["approve r as nodeclient"]);
    assert!(kubelet("kubelet", "a").is_empty(), "no node's name");
    let serving = |user: &str, ip, usages: &[&str]| check(user, KUBELET_SERVING_SIGNER, "system:node:a", ip, usages);
    let usages = ["digital signature", "server auth"];
    assert_eq!(serving("system:node:a", Some("10.0.0.1"), &usages), ["approve r as selfnodeclient"]);
    assert!(serving("system:node:b", Some("10.0.0.1"), &usages).is_empty(), "for another node");
    assert!(serving("system:node:a", None, &usages).is_empty(), "without a name");
    assert!(check("kubelet", CLIENT_SIGNER, "system:node:a", None, &CLIENT_USAGES).is_empty(), "never by itself");
    assert!(check("kubelet", "example.com/x", "system:node:a", None, &CLIENT_USAGES).is_empty());
}

#[test]
fn an_attested_node_is_checked_and_others_are_not() {
    let request = csr("kubelet-bootstrap", KUBELET_CLIENT_SIGNER, ("system:node:a", None), &CLIENT_USAGES);
    let rules = approvals(&request, &parsed(&request).unwrap());
    assert_eq!(rules[0].check, Some(MachineCheck::Attestation));
    let request = csr("kubelet", KUBELET_CLIENT_SIGNER, ("system:node:a", None), &CLIENT_USAGES);
    assert_eq!(approvals(&request, &parsed(&request).unwrap())[0].check, None);
}

fn with_condition(mut request: Value, kind: &str) -> Value {
    let condition = json!({"type": kind, "status": "True", "lastUpdateTime": CREATED});
    conditions::set(request.at_mut(&["status", "conditions"]), condition);
    request
}

#[test]
fn what_the_signer_refuses_fails_and_is_not_tried_again() {
    let approved = |request| with_condition(request, "Approved");
    let good = approved(csr("kubelet", KUBELET_CLIENT_SIGNER, ("system:node:a", None), &CLIENT_USAGES));
    assert_eq!(run(sign, &good, Duration::ZERO), ["sign r"]);
    let custom = approved(csr("x", "example.com/x", ("a", None), &["any"]));
    assert!(run(sign, &custom, Duration::ZERO).is_empty(), "somebody else's");
    let bad = approved(csr("x", CLIENT_SIGNER, ("a", None), &["server auth"]));
    let failed = run(sign, &bad, Duration::ZERO);
    assert!(failed[0].contains("SignerValidationFailure"), "{failed:?}");
    assert!(failed[0].contains("invalid usage for client certificate: server auth"), "{failed:?}");
    assert!(run(sign, &with_condition(bad, "Failed"), Duration::ZERO).is_empty());
    assert!(run(sign, &with_condition(good, "Denied"), Duration::ZERO).is_empty());
}

#[test]
fn requests_are_kept_as_long_as_upstream_keeps_them() {
    let hours = |n: u64| Duration::from_secs(n * 60 * 60);
    let deleted = |request: &Value, after: Duration| {
        run(clean, request, after + Duration::from_secs(2)).iter().any(|action| action.starts_with("delete"))
    };
    let open = csr("kubelet", KUBELET_CLIENT_SIGNER, ("system:node:a", None), &CLIENT_USAGES);
    assert!(!deleted(&open, hours(23)) && deleted(&open, hours(24)));
    let approved = with_condition(open.clone(), "Approved");
    assert!(!deleted(&approved, hours(100)), "approved, but nobody signed it");
    for kind in ["Denied", "Failed"] {
        let answered = with_condition(open.clone(), kind);
        assert!(!deleted(&answered, hours(0)) && deleted(&answered, hours(1)), "{kind}");
    }
    let mut issued = approved;
    let mut params = rcgen::CertificateParams::default();
    let key = rcgen::KeyPair::generate().unwrap();
    *issued.at_mut(&["status", "certificate"]) = STANDARD.encode(params.self_signed(&key).unwrap().pem()).into();
    assert!(!deleted(&issued, hours(0)) && deleted(&issued, hours(1)));
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    *issued.at_mut(&["status", "certificate"]) = STANDARD.encode(params.self_signed(&key).unwrap().pem()).into();
    assert!(deleted(&issued, hours(0)), "its certificate has expired");
}
