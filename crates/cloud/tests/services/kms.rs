//! Cloud KMS over HTTP: resources and their life, what keys do, who may, and Google's words for what is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud::Auth;
use cloud::kms::{Signed, VersionState};
use serde_json::{Value, json};

use crate::support::{Running, start};

const HERE: &str = "/v1/projects/demo-project/locations/us-central1";
const AGENT: &str = "service-123456789012@container-engine-robot.iam.gserviceaccount.com";
const RING: &str = "projects/demo-project/locations/us-central1/keyRings/ring";

async fn ok(run: &Running, verb: &str, path: &str, body: Value) -> Value {
    let (code, answer) = run.call(verb, path, &body.to_string()).await;
    assert_eq!(code, 200, "{verb} {path}: {answer}");
    answer
}

async fn refused(run: &Running, verb: &str, path: &str, body: Value) -> (u16, String) {
    let (code, answer) = run.call(verb, path, &body.to_string()).await;
    assert_ne!(code, 200, "{verb} {path}: {answer}");
    (code, answer["error"]["message"].as_str().unwrap_or_default().to_owned())
}

async fn with_key(run: &Running, id: &str, key: Value) -> String {
    run.call("POST", &format!("{HERE}/keyRings?keyRingId=ring"), "{}").await;
    ok(run, "POST", &format!("/v1/{RING}/cryptoKeys?cryptoKeyId={id}"), key).await;
    format!("{RING}/cryptoKeys/{id}")
}

fn symmetric() -> Value {
    json!({"purpose": "ENCRYPT_DECRYPT"})
}

fn signing(algorithm: &str) -> Value {
    json!({"purpose": "ASYMMETRIC_SIGN", "versionTemplate": {"algorithm": algorithm}})
}

#[tokio::test(flavor = "multi_thread")]
async fn rings_keys_and_versions_are_made_listed_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let ring = ok(&run, "POST", &format!("{HERE}/keyRings?keyRingId=ring"), json!({})).await;
    assert_eq!(ring["name"], RING);
    let again = refused(&run, "POST", &format!("{HERE}/keyRings?keyRingId=ring"), json!({})).await;
    assert_eq!(again, (409, format!("KeyRing {RING} already exists.")));
    let (code, text) = refused(&run, "POST", &format!("{HERE}/keyRings?keyRingId=a.b"), json!({})).await;
    assert!(code == 400 && text.contains("[a-zA-Z0-9_-]{1,63}"), "{text}");
    let (code, text) = refused(&run, "GET", "/v1/projects/demo-project/locations/mars/keyRings", json!({})).await;
    assert!(code == 400 && text.contains("The request concerns location 'mars' but was sent to location"), "{text}");
    let (code, text) = refused(&run, "GET", &format!("{HERE}/keyRings/none"), json!({})).await;
    assert_eq!((code, text), (404, format!("KeyRing {}none not found.", RING.trim_end_matches("ring"))));

    let key = json!({"purpose": "ENCRYPT_DECRYPT", "labels": {"team": "a"}, "rotationPeriod": "86400s",
        "nextRotationTime": "2099-01-01T00:00:00Z", "destroyScheduledDuration": "172800s"});
    let name = with_key(&run, "one", key).await;
    let shown = ok(&run, "GET", &format!("/v1/{name}"), json!({})).await;
    assert_eq!(shown["primary"]["name"], format!("{name}/cryptoKeyVersions/1"));
    assert_eq!(shown["primary"]["state"], "ENABLED");
    assert_eq!(
        shown["versionTemplate"],
        json!({"protectionLevel": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"})
    );
    assert_eq!(
        (&shown["rotationPeriod"], &shown["nextRotationTime"]),
        (&json!("86400s"), &json!("2099-01-01T00:00:00Z"))
    );
    assert_eq!((&shown["destroyScheduledDuration"], &shown["labels"]), (&json!("172800s"), &json!({"team": "a"})));
    with_key(&run, "two", symmetric()).await;
    let page = ok(&run, "GET", &format!("/v1/{RING}/cryptoKeys?pageSize=1"), json!({})).await;
    assert_eq!((page["cryptoKeys"].as_array().unwrap().len(), &page["totalSize"]), (1, &json!(2)));
    let token = page["nextPageToken"].as_str().unwrap();
    let page = ok(&run, "GET", &format!("/v1/{RING}/cryptoKeys?pageSize=1&pageToken={token}"), json!({})).await;
    assert_eq!(page["cryptoKeys"][0]["name"], format!("{RING}/cryptoKeys/two"));
    assert!(page["nextPageToken"].is_null());

    let sealed = ok(&run, "POST", &format!("/v1/{name}:encrypt"), json!({"plaintext": "YWJj"})).await;
    let body = json!({"ciphertext": sealed["ciphertext"]});
    drop(run);
    let run = start(dir.path(), Auth::Strict, 0).await;
    let opened = ok(&run, "POST", &format!("/v1/{name}:decrypt"), body).await;
    assert_eq!(opened["plaintext"], "YWJj");
    for file in walk(dir.path()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(8).any(|part| part == b"keyRings"), "{} is not sealed", file.display());
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_here_is_refused_and_nothing_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    with_key(&run, "one", symmetric()).await;
    let path = format!("/v1/{RING}/cryptoKeys?cryptoKeyId=x");
    let day = "86400s";
    for (key, code) in [
        (json!({}), 400),
        (json!({"purpose": "MAC", "versionTemplate": {"algorithm": "HMAC_SHA256"}}), 501),
        (json!({"purpose": "ASYMMETRIC_SIGN"}), 400),
        (signing("RSA_SIGN_PSS_2048_SHA256"), 501),
        (signing("GOOGLE_SYMMETRIC_ENCRYPTION"), 400),
        (json!({"purpose": "ENCRYPT_DECRYPT", "versionTemplate": {"protectionLevel": "HSM"}}), 501),
        (json!({"purpose": "ENCRYPT_DECRYPT", "importOnly": true}), 501),
        (json!({"purpose": "ENCRYPT_DECRYPT", "colour": "red"}), 400),
        (json!({"purpose": "ENCRYPT_DECRYPT", "rotationPeriod": day}), 400),
        (
            json!({"purpose": "ENCRYPT_DECRYPT", "rotationPeriod": "60s", "nextRotationTime": "2099-01-01T00:00:00Z"}),
            400,
        ),
        (json!({"purpose": "ENCRYPT_DECRYPT", "nextRotationTime": "2001-01-01T00:00:00Z"}), 400),
        (json!({"purpose": "ENCRYPT_DECRYPT", "destroyScheduledDuration": "60s"}), 400),
        (json!({"purpose": "ENCRYPT_DECRYPT", "labels": {"Big": "x"}}), 400),
    ] {
        assert_eq!(refused(&run, "POST", &path, key.clone()).await.0, code, "{key}");
    }
    for (verb, path, code) in [
        ("POST", format!("/v1/{RING}/cryptoKeys/one/cryptoKeyVersions:import"), 501),
        ("POST", format!("/v1/{RING}/importJobs?importJobId=x"), 501),
        ("POST", format!("/v1/{RING}/cryptoKeys/one/cryptoKeyVersions/1:macSign"), 400),
        ("POST", format!("/v1/{RING}/cryptoKeys/one/cryptoKeyVersions/1:asymmetricSign"), 400),
        ("POST", format!("/v1/{RING}/cryptoKeys/one/cryptoKeyVersions/2:destroy"), 404),
        ("DELETE", format!("/v1/{RING}/cryptoKeys/one"), 404),
        ("PATCH", format!("/v1/{RING}/cryptoKeys/one?updateMask=purpose"), 400),
    ] {
        let body = if path.ends_with(":asymmetricSign") { json!({"data": "YWJj"}) } else { json!({}) };
        assert_eq!(refused(&run, verb, &path, body).await.0, code, "{verb} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_enabled_is_of_no_use_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let key = with_key(&run, "one", symmetric()).await;
    let version = format!("{key}/cryptoKeyVersions/1");
    let sealed = ok(&run, "POST", &format!("/v1/{key}:encrypt"), json!({"plaintext": "YWJj"})).await;
    assert_eq!(sealed["name"], version);
    let opening = json!({"ciphertext": sealed["ciphertext"]});
    let state = |state: &str| json!({"state": state});
    ok(&run, "PATCH", &format!("/v1/{version}?updateMask=state"), state("DISABLED")).await;
    let (code, answer) = run.call("POST", &format!("/v1/{key}:encrypt"), r#"{"plaintext": "YWJj"}"#).await;
    assert_eq!((code, &answer["error"]["status"]), (400, &json!("FAILED_PRECONDITION")));
    assert_eq!(answer["error"]["message"], format!("{version} is not enabled, current state is: DISABLED."));
    let details = answer["error"]["details"].as_array().unwrap();
    let violations = json!([{"type": "KEY_DISABLED", "subject": version}]);
    assert!(details.iter().any(|detail| detail["violations"] == violations), "{answer}");
    assert_eq!(refused(&run, "POST", &format!("/v1/{key}:decrypt"), opening.clone()).await.0, 400);
    assert_eq!(run.cloud.kms().facts(&key).unwrap().version.map(|v| (v.0, v.1)), Some((1, VersionState::Disabled)));

    let destroyed = ok(&run, "POST", &format!("/v1/{version}:destroy"), json!({})).await;
    assert_eq!(destroyed["state"], "DESTROY_SCHEDULED");
    assert!(destroyed["destroyTime"].is_string());
    let (_, text) = refused(&run, "POST", &format!("/v1/{key}:decrypt"), opening.clone()).await;
    assert!(text.ends_with("current state is: DESTROY_SCHEDULED."), "{text}");
    assert_eq!(refused(&run, "PATCH", &format!("/v1/{version}?updateMask=state"), state("ENABLED")).await.0, 400);
    assert_eq!(ok(&run, "POST", &format!("/v1/{version}:restore"), json!({})).await["state"], "DISABLED");
    ok(&run, "PATCH", &format!("/v1/{version}?updateMask=state"), state("ENABLED")).await;
    let opened = ok(&run, "POST", &format!("/v1/{key}:decrypt"), opening.clone()).await;
    assert_eq!((&opened["plaintext"], &opened["usedPrimary"]), (&json!("YWJj"), &json!(true)));

    // Another version decrypts nothing of the first one's, and becomes primary only when it is told.
    let made = ok(&run, "POST", &format!("/v1/{key}/cryptoKeyVersions"), json!({})).await;
    assert_eq!(made["name"], format!("{key}/cryptoKeyVersions/2"));
    let shown = ok(&run, "POST", &format!("/v1/{key}:updatePrimaryVersion"), json!({"cryptoKeyVersionId": "2"})).await;
    assert_eq!(shown["primary"]["name"], made["name"]);
    let opened = ok(&run, "POST", &format!("/v1/{key}:decrypt"), opening.clone()).await;
    assert!(opened["usedPrimary"].is_null(), "{opened}");
    let other = with_key(&run, "other", symmetric()).await;
    let foreign = refused(&run, "POST", &format!("/v1/{other}:decrypt"), opening.clone()).await;
    assert_eq!(foreign, (400, "Decryption failed: verify that 'name' refers to the correct CryptoKey.".to_owned()));
    let mut with_more = opening;
    with_more["additionalAuthenticatedData"] = json!("bW9yZQ==");
    let wrong = refused(&run, "POST", &format!("/v1/{key}:decrypt"), with_more).await;
    assert_eq!(wrong, (400, "Decryption failed: the ciphertext is invalid.".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_both_kinds_sign_and_the_rest_of_this_process_may_ask_as_an_account() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    for (id, algorithm) in [("rsa", "RSA_SIGN_PKCS1_2048_SHA256"), ("ec", "EC_SIGN_P256_SHA256")] {
        let version = format!("{}/cryptoKeyVersions/1", with_key(&run, id, signing(algorithm)).await);
        let signed = ok(&run, "POST", &format!("/v1/{version}:asymmetricSign"), json!({"data": "YWJj"})).await;
        let public = ok(&run, "GET", &format!("/v1/{version}/publicKey"), json!({})).await;
        assert_eq!(public["algorithm"], algorithm);
        let kms = run.cloud.kms();
        let key = kms.public_key("dev@example.com", &version).unwrap();
        assert_eq!(public["pem"], key.pem);
        let verify = |signature: &[u8]| match id {
            "ec" => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.der).unwrap().verify_sig(b"abc", signature).is_ok()
            }
            _ => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.der)
                .unwrap()
                .verify_sig(b"abc", signature)
                .is_ok(),
        };
        assert!(verify(&STANDARD.decode(signed["signature"].as_str().unwrap()).unwrap()), "{id}");
        assert!(verify(&kms.sign("dev@example.com", &version, Signed::Data(b"abc")).unwrap()), "{id}");
        let stranger = kms.sign("stranger@example.com", &version, Signed::Data(b"abc")).unwrap_err();
        let key = version.split("/cryptoKeyVersions").next().unwrap();
        assert_eq!(
            stranger.message,
            format!(
                "Permission 'cloudkms.cryptoKeyVersions.useToSign' denied on resource '{key}' (or it may not exist)."
            )
        );
        assert_eq!(refused(&run, "POST", &format!("/v1/{key}:encrypt"), json!({"plaintext": "YWJj"})).await.0, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_counts_on_the_project_the_ring_or_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let key = with_key(&run, "one", symmetric()).await;
    let other = with_key(&run, "two", symmetric()).await;
    let kms = run.cloud.kms();
    let may = |key: &str| kms.encrypt("alice@example.com", key, b"x", b"").is_ok();
    let policy = |role: &str| json!({"policy": {"bindings": [{"role": role, "members": ["user:alice@example.com"]}]}});
    assert!(!may(&key));
    let role = "roles/cloudkms.cryptoKeyEncrypter";
    let set = ok(&run, "POST", &format!("/v1/{key}:setIamPolicy"), policy(role)).await;
    assert!(may(&key) && !may(&other));
    let sealed = kms.encrypt("alice@example.com", &key, b"x", b"").unwrap().ciphertext;
    let denied = kms.decrypt("alice@example.com", &key, &sealed, b"").err().unwrap();
    assert!(denied.message.starts_with("Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied"), "{denied}");
    let mut stale = policy(role);
    stale["policy"]["etag"] = set["etag"].clone();
    ok(&run, "POST", &format!("/v1/{key}:setIamPolicy"), stale.clone()).await;
    assert_eq!(refused(&run, "POST", &format!("/v1/{key}:setIamPolicy"), stale).await.0, 409);
    let got = ok(&run, "GET", &format!("/v1/{key}:getIamPolicy"), json!({})).await;
    assert_eq!(got["bindings"][0]["role"], role);

    ok(&run, "POST", &format!("/v1/{RING}:setIamPolicy"), policy("roles/cloudkms.cryptoKeyEncrypterDecrypter")).await;
    assert!(may(&other) && kms.decrypt("alice@example.com", &key, &sealed, b"").is_ok());
    let (code, _) = refused(&run, "POST", &format!("/v1/{RING}:setIamPolicy"), policy("roles/cloudkms.king")).await;
    assert_eq!(code, 400);
    let alice = run.cloud.access_token("alice@example.com", Vec::new()).unwrap();
    let auth = format!("Authorization: Bearer {alice}\r\n");
    let (code, text) = run.raw("GET", &format!("/v1/{key}"), &auth, "").await;
    assert!(code == 403 && text.contains("Permission 'cloudkms.cryptoKeys.get' denied on resource"), "{text}");
    let asked = json!({"permissions": ["cloudkms.cryptoKeyVersions.useToEncrypt", "cloudkms.cryptoKeys.get"]});
    let (_, text) = run.raw("POST", &format!("/v1/{key}:testIamPermissions"), &auth, &asked.to_string()).await;
    let held: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(held, json!({"permissions": ["cloudkms.cryptoKeyVersions.useToEncrypt"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_has_a_key_that_gke_may_use_and_says_so_when_it_may_not() {
    const CLUSTERS: &str = "/v1/projects/demo-project/locations/us-central1-a/clusters";
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let key = with_key(&run, "one", symmetric()).await;
    let encryption = |key: &str| json!({"state": "ENCRYPTED", "keyName": key});
    let create =
        |key: &str| json!({"cluster": {"name": "demo", "initialNodeCount": 1, "databaseEncryption": encryption(key)}});
    let (code, text) = refused(&run, "POST", CLUSTERS, create(&key)).await;
    let denied = format!(
        "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource '{key}' (or it may not exist)."
    );
    assert_eq!((code, text), (403, denied));
    let role =
        |role: &str| json!({"policy": {"bindings": [{"role": role, "members": [format!("serviceAccount:{AGENT}")]}]}});
    ok(&run, "POST", &format!("/v1/{key}:setIamPolicy"), role("roles/cloudkms.cryptoKeyEncrypter")).await;
    let (_, text) = refused(&run, "POST", CLUSTERS, create(&key)).await;
    assert!(text.contains("useToDecrypt"), "both are needed: {text}");
    ok(&run, "POST", &format!("/v1/{key}:setIamPolicy"), role("roles/cloudkms.cryptoKeyEncrypterDecrypter")).await;
    let operation = ok(&run, "POST", CLUSTERS, create(&key)).await;
    run.done(&operation).await;
    let path = format!("{CLUSTERS}/demo");
    let cluster = ok(&run, "GET", &path, json!({})).await;
    let shown = json!({"state": "ENCRYPTED", "keyName": key, "currentState": "CURRENT_STATE_ENCRYPTED"});
    assert_eq!(cluster["databaseEncryption"], shown);

    // Only for this cluster, and with its keys alone.
    let id = cluster["id"].as_str().unwrap();
    let sealed = run.cloud.encrypt_for(id, &key, b"a DEK").unwrap();
    assert_eq!(sealed.version, format!("{key}/cryptoKeyVersions/1"));
    assert_eq!(run.cloud.decrypt_for(id, &key, &sealed.ciphertext).unwrap().1[..], *b"a DEK");
    let other = with_key(&run, "two", symmetric()).await;
    ok(&run, "POST", &format!("/v1/{other}:setIamPolicy"), role("roles/cloudkms.cryptoKeyEncrypterDecrypter")).await;
    assert!(run.cloud.encrypt_for(id, &other, b"a DEK").unwrap_err().message.contains("not a key of this cluster"));
    assert!(run.cloud.encrypt_for("another", &key, b"a DEK").is_err());

    let changes = run.cloud.access_changes();
    let before = *changes.borrow();
    let version = format!("/v1/{key}/cryptoKeyVersions/1?updateMask=state");
    ok(&run, "PATCH", &version, json!({"state": "DISABLED"})).await;
    assert_ne!(*changes.borrow(), before, "whoever keeps what keys made is told");
    let cluster = ok(&run, "GET", &path, json!({})).await;
    let why = format!("{key}/cryptoKeyVersions/1 is not enabled, current state is: DISABLED");
    assert_eq!((&cluster["status"], &cluster["statusMessage"]), (&json!("DEGRADED"), &json!(why)));
    let condition = json!([{"code": "CLOUD_KMS_KEY_ERROR", "canonicalCode": "FAILED_PRECONDITION", "message": why}]);
    assert_eq!(cluster["conditions"], condition);
    ok(&run, "PATCH", &version, json!({"state": "ENABLED"})).await;
    assert_eq!(ok(&run, "GET", &path, json!({})).await["status"], "RUNNING");

    let update = |config: Value| json!({"update": {"desiredDatabaseEncryption": config}});
    let (code, text) = refused(&run, "PUT", &path, update(encryption(&other.replace("us-central1", "global")))).await;
    assert!(code == 400 && text.contains("needs a key in \"us-central1\""), "{text}");
    let operation = ok(&run, "PUT", &path, update(encryption(&other))).await;
    run.done(&operation).await;
    let shown = ok(&run, "GET", &path, json!({})).await["databaseEncryption"].clone();
    assert_eq!((&shown["keyName"], &shown["decryptionKeys"]), (&json!(other), &json!([key])));
    assert!(run.cloud.decrypt_for(id, &key, &sealed.ciphertext).is_ok(), "what is stored under the key before is read");
    let operation = ok(&run, "PUT", &path, update(json!({"state": "DECRYPTED"}))).await;
    run.done(&operation).await;
    let shown = ok(&run, "GET", &path, json!({})).await["databaseEncryption"].clone();
    let off = json!({"state": "DECRYPTED", "currentState": "CURRENT_STATE_DECRYPTED", "decryptionKeys": [other, key]});
    assert_eq!(shown, off);
    let told: Vec<String> = run.fleet.configured.lock().unwrap().iter().map(|s| s.encryption_key.clone()).collect();
    assert_eq!(told, [other, String::new()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_only_delegate_has_disks_encrypted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let key = with_key(&run, "disk", symmetric()).await;
    let why = run.cloud.encrypt_for_disk(&key, b"a secret", "c1").unwrap_err();
    assert!(why.contains("Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource"), "{why}");
    let role = "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation";
    let agent = format!("serviceAccount:{AGENT}");
    let policy = json!({"policy": {"bindings": [{"role": role, "members": [agent]}]}});
    ok(&run, "POST", &format!("/v1/{key}:setIamPolicy"), policy).await;
    let sealed = run.cloud.encrypt_for_disk(&key, b"a secret", "c1").unwrap();
    assert_eq!(run.cloud.decrypt_for_disk(&key, &sealed, "c1").unwrap()[..], *b"a secret");
    assert!(run.cloud.decrypt_for_disk(&key, &sealed, "c2").unwrap_err().contains("Decryption failed"));
    assert!(run.cloud.kms().encrypt(AGENT, &key, b"a secret", b"c1").is_err(), "it may not itself");
    let version = format!("/v1/{key}/cryptoKeyVersions/1?updateMask=state");
    ok(&run, "PATCH", &version, json!({"state": "DISABLED"})).await;
    let why = run.cloud.decrypt_for_disk(&key, &sealed, "c1").unwrap_err();
    assert!(why.ends_with("is not enabled, current state is: DISABLED."), "{why}");
}
