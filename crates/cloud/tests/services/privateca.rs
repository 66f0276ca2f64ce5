//! Certificate Authority Service: pools, roots and certificates as gcloud asks for them, and who may ask.

use std::time::Duration;

use cloud::Auth;
use serde_json::{Value, json};

use crate::support::{Running, start};

const PLACE: &str = "/privateca/v1/projects/demo-project/locations/us-central1";

fn pool_body(more: &Value) -> String {
    let mut body = json!({"tier": "ENTERPRISE", "publishingOptions": {"publishCaCert": false, "publishCrl": false}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn root_body(algorithm: &str) -> Value {
    json!({"type": "SELF_SIGNED", "lifetime": "315360000s", "keySpec": {"algorithm": algorithm}, "config": {
        "subjectConfig": {"subject": {"commonName": "root", "organization": "Demo"}, "subjectAltName": {}},
        "x509Config": {"caOptions": {"isCa": true}, "keyUsage": {"baseKeyUsage": {"certSign": true, "crlSign": true},
            "extendedKeyUsage": {}}, "nameConstraints": {}},
    }})
}

/// Polls an operation until it is over; its response.
async fn done(run: &Running, answer: (u16, Value)) -> Value {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let name = answer.1["name"].as_str().unwrap().to_owned();
    for _ in 0..500 {
        let (code, found) = run.call("GET", &format!("/privateca/v1/{name}"), "").await;
        assert_eq!(code, 200, "{found}");
        if found["done"] == true {
            assert!(found["metadata"]["endTime"].is_string(), "{found}");
            return found["response"].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} does not end");
}

/// A pool `p` with a root `r`, enabled.
async fn with_root(run: &Running, pool: &Value, algorithm: &str) -> Value {
    done(run, run.call("POST", &format!("{PLACE}/caPools?caPoolId=p"), &pool_body(pool)).await).await;
    let path = format!("{PLACE}/caPools/p/certificateAuthorities");
    let body = root_body(algorithm).to_string();
    let made = done(run, run.call("POST", &format!("{path}?certificateAuthorityId=r"), &body).await).await;
    assert_eq!((&made["state"], &made["tier"]), (&json!("STAGED"), &json!("ENTERPRISE")), "{made}");
    done(run, run.call("POST", &format!("{path}/r:enable"), "{}").await).await
}

fn request() -> (String, String) {
    let request = pki::KeyRequest::new("jane", &["a".to_owned()], &["jane.example".to_owned()], &[]).unwrap();
    (request.pem(), pki::pem::public_key(&request.public_key()))
}

fn refused(answer: &(u16, Value), code: u16, text: &str) {
    assert_eq!(answer.0, code, "{}", answer.1);
    let message = answer.1["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(text), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_issues_under_its_root_what_a_request_or_a_description_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let root = with_root(&run, &json!({}), "EC_P256_SHA256").await;
    assert_eq!(root["state"], "ENABLED", "{root}");
    let root_pem = root["pemCaCertificates"][0].as_str().unwrap().to_owned();
    let described = &root["caCertificateDescriptions"][0];
    assert_eq!(described["subjectDescription"]["lifetime"], "315360000s", "{described}");
    assert_eq!(described["x509Description"]["keyUsage"]["baseKeyUsage"], json!({"certSign": true, "crlSign": true}));

    let (csr, public_key) = request();
    let path = format!("{PLACE}/caPools/p/certificates");
    let body = json!({"pemCsr": csr, "lifetime": "3600s"}).to_string();
    let (code, issued) = run.call("POST", &format!("{path}?certificateId=c1"), &body).await;
    assert_eq!(code, 200, "{issued}");
    assert_eq!(issued["pemCertificateChain"], json!([root_pem]));
    let leaf = pki::pem::certificates(issued["pemCertificate"].as_str().unwrap()).unwrap().remove(0);
    let subject = pki::subject(&leaf).unwrap();
    assert!(pki::is_issued_by(&leaf, &root_pem) && !subject.is_ca);
    assert_eq!((subject.common_name.as_str(), subject.dns), ("jane", vec!["jane.example".to_owned()]));
    assert_eq!(subject.not_after.since(subject.not_before), Duration::from_secs(3600));
    refused(&run.call("POST", &format!("{path}?certificateId=c1"), &body).await, 409, "already exists");

    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &public_key);
    let group = |name: &str| json!({"attributes": [{"type": "ORGANIZATION", "value": name}]});
    let config = json!({"publicKey": {"format": "PEM", "key": encoded}, "subjectConfig": {
        "subject": {"rdnSequence": [group("a"), group("b"), {"attributes": [{"type": "COMMON_NAME", "value": "joe"}]}]},
        "subjectAltName": {"ipAddresses": ["127.0.0.1"]}},
        "x509Config": {"caOptions": {"isCa": false}, "keyUsage": {"baseKeyUsage": {"digitalSignature": true},
            "extendedKeyUsage": {"clientAuth": true}}}});
    let body = json!({"config": config, "lifetime": "999999999s", "subjectMode": "RDN_SEQUENCE"});
    let (code, issued) = run.call("POST", &format!("{path}?certificateId=c2"), &body.to_string()).await;
    assert_eq!(code, 200, "{issued}");
    let leaf = pki::pem::certificates(issued["pemCertificate"].as_str().unwrap()).unwrap().remove(0);
    let subject = pki::subject(&leaf).unwrap();
    assert_eq!((subject.organizations.join(","), subject.common_name.as_str()), ("a,b".to_owned(), "joe"));
    // No certificate lives longer than who issued it.
    let whole = pki::subject(&pki::pem::certificates(&root_pem).unwrap()[0]).unwrap();
    assert_eq!(subject.not_after, whole.not_after);
    let described = &issued["certificateDescription"];
    assert_eq!(described["x509Description"]["keyUsage"]["extendedKeyUsage"], json!({"clientAuth": true}));
    assert_eq!(described["authorityKeyId"], root["caCertificateDescriptions"][0]["subjectKeyId"]);

    let (_, list) = run.call("GET", &format!("{path}?pageSize=1"), "").await;
    assert_eq!((list["certificates"].as_array().unwrap().len(), &list["nextPageToken"]), (1, &json!("1")), "{list}");
    let (code, revoked) = run.call("POST", &format!("{path}/c1:revoke"), r#"{"reason": "SUPERSEDED"}"#).await;
    assert_eq!((code, &revoked["revocationDetails"]["revocationState"]), (200, &json!("SUPERSEDED")), "{revoked}");
    refused(
        &run.call("POST", &format!("{path}/c1:revoke"), r#"{"reason": "SUPERSEDED"}"#).await,
        400,
        "already revoked",
    );
    let (_, chains) = run.call("POST", &format!("{PLACE}/caPools/p:fetchCaCerts"), "{}").await;
    assert_eq!(chains["caCerts"], json!([{"certificates": [root_pem]}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_go_through_their_states_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    with_root(&run, &json!({}), "RSA_PKCS1_2048_SHA256").await;
    let authority = format!("{PLACE}/caPools/p/certificateAuthorities/r");
    let act = async |action: &str| run.call("POST", &format!("{authority}:{action}"), "{}").await;
    refused(&run.call("DELETE", &authority, "").await, 400, "state STAGED or DISABLED");
    refused(&act("undelete").await, 400, "state DELETED");
    refused(&run.call("DELETE", &format!("{PLACE}/caPools/p"), "").await, 400, "still has CertificateAuthorities");

    let certificates = format!("{PLACE}/caPools/p/certificates");
    let body = json!({"pemCsr": request().0, "lifetime": "3600s"}).to_string();
    let issue = async |id: &str| run.call("POST", &format!("{certificates}?certificateId={id}"), &body).await;
    assert_eq!(issue("c1").await.0, 200);
    done(&run, act("disable").await).await;
    refused(&issue("c2").await, 400, "no enabled CAs");
    let named = format!("{certificates}?certificateId=c2&issuingCertificateAuthorityId=r");
    refused(&run.call("POST", &named, &body).await, 400, "must be ENABLED or STAGED");
    refused(&run.call("DELETE", &authority, "").await, 400, "`ignore_active_certificates` parameter");
    let deleted = run.call("DELETE", &format!("{authority}?ignoreActiveCertificates=True"), "").await;
    let deleted = done(&run, deleted).await;
    assert_eq!(deleted["state"], "DELETED");
    assert!(deleted["expireTime"].as_str() > deleted["deleteTime"].as_str(), "{deleted}");
    assert_eq!(done(&run, act("undelete").await).await["state"], "DISABLED");
    done(&run, act("enable").await).await;
    drop(run);

    let run = start(dir.path(), Auth::Strict, 0).await;
    let (code, issued) = run.call("POST", &format!("{certificates}?certificateId=c2"), &body).await;
    assert_eq!(code, 200, "{issued}");
    let sealed = std::fs::read(dir.path().join("cloud/state.sealed")).unwrap();
    assert!(!sealed.windows(4).any(|four| four == b"caPo" || four == b"pool"), "the state is sealed");
    done(&run, run.call("POST", &format!("{authority}:disable"), "{}").await).await;
    let gone = format!("{authority}?ignoreActiveCertificates=true&skipGracePeriod=true");
    done(&run, run.call("DELETE", &gone, "").await).await;
    refused(&run.call("GET", &authority, "").await, 404, "was not found");
    done(&run, run.call("DELETE", &format!("{PLACE}/caPools/p"), "").await).await;
    refused(&run.call("GET", &format!("{PLACE}/caPools/p"), "").await, 404, "was not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_s_own_policy_says_who_may_have_certificates_and_its_issuance_policy_which() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let policy = json!({"issuancePolicy": {"maximumLifetime": "3600s", "backdateDuration": "60s",
        "allowedIssuanceModes": {"allowCsrBasedIssuance": true}, "allowedKeyTypes": [{"rsa": {}}]}});
    with_root(&run, &policy, "EC_P384_SHA384").await;
    let certificates = format!("{PLACE}/caPools/p/certificates");
    let token = run.cloud.issue_token("jane@example.com").unwrap();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let ask = async |id: &str, body: &Value| {
        let path = format!("{certificates}?certificateId={id}");
        let (code, text) = run.raw("POST", &path, &bearer, &body.to_string()).await;
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let body = json!({"pemCsr": request().0, "lifetime": "3600s"});
    refused(&ask("c", &body).await, 403, "Permission 'privateca.certificates.create' denied on resource");
    let bindings = json!([{"role": "roles/privateca.certificateRequester", "members": ["user:jane@example.com"]}]);
    let set = json!({"policy": {"bindings": bindings}}).to_string();
    let (code, answer) = run.call("POST", &format!("{PLACE}/caPools/p:setIamPolicy"), &set).await;
    assert_eq!((code, &answer["bindings"]), (200, &bindings), "{answer}");
    // A requester may have certificates, and see none.
    let (code, _) = run.raw("GET", &certificates, &bearer, "").await;
    assert_eq!(code, 403);
    refused(&ask("c", &body).await, 400, "The key's type is not allowed");
    refused(&ask("c", &json!({"pemCsr": request().0, "lifetime": "3601s"})).await, 400, "maximum_lifetime of 3600s");
    refused(&ask("c", &json!({"config": {"subjectConfig": {}}, "lifetime": "1s"})).await, 400, "Config-based issuance");

    let wider = json!({"issuancePolicy": {"backdateDuration": "60s", "allowedKeyTypes": [{"ellipticCurve":
        {"signatureAlgorithm": "ECDSA_P256"}}]}})
    .to_string();
    let path = format!("{PLACE}/caPools/p?updateMask=issuance_policy");
    done(&run, run.call("PATCH", &path, &wider).await).await;
    let (code, issued) = ask("c", &body).await;
    assert_eq!(code, 200, "{issued}");
    let leaf = pki::pem::certificates(issued["pemCertificate"].as_str().unwrap()).unwrap().remove(0);
    let subject = pki::subject(&leaf).unwrap();
    let whole = run.call("GET", &format!("{PLACE}/caPools/p/certificateAuthorities/r"), "").await.1;
    let root = pki::pem::certificates(whole["pemCaCertificates"][0].as_str().unwrap()).unwrap().remove(0);
    // Backdated, though not to before the root was.
    assert!(subject.not_before >= pki::subject(&root).unwrap().not_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_or_not_emulated_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    with_root(&run, &json!({}), "EC_P256_SHA256").await;
    let root = |change: fn(&mut Value)| {
        let mut body = root_body("EC_P256_SHA256");
        change(&mut body);
        body.to_string()
    };
    let roots = "caPools/p/certificateAuthorities?certificateAuthorityId=r2";
    let certificate = "caPools/p/certificates?certificateId=c";
    let csr = request().0;
    let cases: &[(&str, &str, String, u16, &str)] = &[
        ("POST", "caPools?caPoolId=no.dots", pool_body(&json!({})), 400, "ca_pool_id"),
        ("POST", "caPools?caPoolId=q", r#"{"tier": "GOLD"}"#.to_owned(), 400, "ENTERPRISE or DEVOPS"),
        ("POST", "caPools?caPoolId=p", pool_body(&json!({})), 409, "already exists"),
        ("POST", "caPools?caPoolId=q", pool_body(&json!({"bogus": 1})), 400, "Unknown name \"bogus\""),
        (
            "POST",
            "caPools?caPoolId=q",
            pool_body(&json!({"issuancePolicy": {"baselineValues": {"caOptions": {}}}})),
            501,
            "baselineValues",
        ),
        ("POST", roots, root(|body| body["type"] = "SUBORDINATE".into()), 501, "SUBORDINATE"),
        ("POST", roots, root(|body| body["gcsBucket"] = "b".into()), 501, "gcsBucket"),
        ("POST", roots, root(|body| body["keySpec"] = json!({"algorithm": "RSA_PSS_2048_SHA256"})), 501, "RSA_PSS"),
        ("POST", roots, root(|body| body["keySpec"] = json!({"algorithm": "ROT13"})), 400, "ROT13"),
        ("POST", roots, root(|body| body["lifetime"] = "-1s".into()), 400, "Duration"),
        ("POST", roots, root(|body| body["lifetime"] = "999999999999s".into()), 400, "too long"),
        ("POST", roots, root(|body| body["config"]["x509Config"]["caOptions"] = json!({})), 400, "is_ca"),
        ("POST", certificate, json!({"lifetime": "1s"}).to_string(), 400, "Exactly one of"),
        (
            "POST",
            certificate,
            json!({"pemCsr": "nonsense", "lifetime": "1s"}).to_string(),
            400,
            "CSR could not be parsed",
        ),
        (
            "POST",
            certificate,
            json!({"pemCsr": csr, "lifetime": "1s", "certificateTemplate": "t"}).to_string(),
            501,
            "certificateTemplate",
        ),
        (
            "POST",
            "caPools/none/certificates?certificateId=c",
            json!({"pemCsr": csr, "lifetime": "1s"}).to_string(),
            404,
            "was not found",
        ),
        ("GET", "caPools/p/certificates?filter=labels.a:b", String::new(), 501, "filter"),
        ("GET", "certificateTemplates", String::new(), 501, "certificateTemplates"),
        ("GET", "operations/operation-1", String::new(), 404, "was not found"),
    ];
    for (verb, path, body, code, text) in cases {
        let answer = run.call(verb, &format!("{PLACE}/{path}"), body).await;
        if *text == "filter" {
            // Nothing to filter, nothing refused.
            assert_eq!(answer, (200, json!({})));
            continue;
        }
        refused(&answer, *code, text);
    }
    let (code, _) = run.call("GET", "/privateca/v1/projects/demo-project/locations/atlantis/caPools", "").await;
    assert_eq!(code, 404);
    // Without the prefix, beside the container API's own paths.
    let (code, pool) = run.call("GET", "/v1/projects/demo-project/locations/us-central1/caPools/p", "").await;
    assert_eq!((code, &pool["tier"]), (200, &json!("ENTERPRISE")), "{pool}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_clusters_are_the_service_agent_s_to_have() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let root = with_root(&run, &json!({}), "EC_P256_SHA256").await["pemCaCertificates"][0].as_str().unwrap().to_owned();
    let authority = cloud::UserManagedCa {
        pool: "projects/demo-project/locations/us-central1/caPools/p".to_owned(),
        authorities: vec!["r".to_owned()],
        certificates: root.clone(),
    };
    let wanted = pki::OutsideRequest {
        authority: pki::Authority::Cluster,
        public_key: request().1,
        common_name: "system:node:a".to_owned(),
        organizations: vec!["system:nodes".to_owned(), "b".to_owned()],
        dns: vec!["a".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        emails: Vec::new(),
        uris: Vec::new(),
        key_encipherment: false,
        server: true,
        client: false,
        lifetime_seconds: 3600,
    };
    let issue = || run.cloud.issue_certificate("0123456789abcdef", &authority, &wanted);
    let refusal = issue().unwrap_err();
    assert!(refusal.contains("Permission 'privateca.certificates.create' denied"), "{refusal}");
    let agent = "serviceAccount:service-123456789012@container-engine-robot.iam.gserviceaccount.com";
    let bindings = json!([{"role": "roles/privateca.certificateManager", "members": [agent]}]);
    let set = json!({"policy": {"bindings": bindings}}).to_string();
    assert_eq!(run.call("POST", &format!("{PLACE}/caPools/p:setIamPolicy"), &set).await.0, 200);
    let issued = pki::pem::certificates(&issue().unwrap()).unwrap().remove(0);
    let subject = pki::subject(&issued).unwrap();
    assert!(pki::is_issued_by(&issued, &root));
    assert_eq!(
        (subject.common_name, subject.organizations),
        (wanted.common_name.clone(), wanted.organizations.clone())
    );
    assert_eq!((subject.dns, subject.ips), (wanted.dns.clone(), wanted.ips.clone()));
    let (_, list) = run.call("GET", &format!("{PLACE}/caPools/p/certificates"), "").await;
    let name = list["certificates"][0]["name"].as_str().unwrap();
    assert!(name.contains("/certificates/gke-01234567-"), "{name}");
    done(&run, run.call("POST", &format!("{PLACE}/caPools/p/certificateAuthorities/r:disable"), "{}").await).await;
    let refusal = issue().unwrap_err();
    assert!(refusal.contains("There are no enabled CAs in CaPool"), "{refusal}");
}
