//! IAM Service Account Credentials: signatures in an account's name, chains of delegates, and the pages with its public keys.

use base::Clock;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cloud::Auth;
use serde_json::{Value, json};

use crate::support::{Running, Wall, start};

const ACCOUNTS: &str = "/v1/projects/-/serviceAccounts";

fn address(name: &str) -> String {
    format!("{name}@demo-project.iam.gserviceaccount.com")
}

async fn account(run: &Running, name: &str) {
    let body = json!({"accountId": name}).to_string();
    let (code, answer) = run.call("POST", "/v1/projects/demo-project/serviceAccounts", &body).await;
    assert_eq!(code, 200, "{answer}");
}

/// Lets a member act as an account.
async fn allow(run: &Running, member: &str, name: &str) {
    let bindings = json!([{"role": "roles/iam.serviceAccountTokenCreator", "members": [member]}]);
    let path = format!("{ACCOUNTS}/{}:setIamPolicy", address(name));
    let (code, answer) = run.call("POST", &path, &json!({"policy": {"bindings": bindings}}).to_string()).await;
    assert_eq!(code, 200, "{answer}");
}

async fn act(run: &Running, name: &str, action: &str, body: Value) -> (u16, Value) {
    run.call("POST", &format!("{ACCOUNTS}/{}:{action}", address(name)), &body.to_string()).await
}

async fn page(run: &Running, path: &str) -> (u16, Value) {
    let (code, text) = run.raw("GET", path, "", "").await;
    (code, serde_json::from_str(&text).unwrap_or_default())
}

fn delegates(names: &[&str]) -> Value {
    names.iter().map(|name| format!("projects/-/serviceAccounts/{}", address(name))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_link_of_a_chain_needs_its_right() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    for name in ["alpha-sa", "bravo-sa", "delta-sa"] {
        account(&run, name).await;
    }
    let scope = "https://www.googleapis.com/auth/cloud-platform";
    let ask = async |chain: Value| {
        act(&run, "delta-sa", "generateAccessToken", json!({"scope": [scope], "delegates": chain})).await
    };
    let full = delegates(&["alpha-sa", "bravo-sa"]);
    let refused = async |chain: Value, permission: &str| {
        let (code, answer) = ask(chain.clone()).await;
        let text = format!("Permission 'iam.serviceAccounts.{permission}' denied on resource (or it may not exist).");
        assert_eq!((code, &answer["error"]["message"]), (403, &text.into()), "{chain}: {answer}");
    };
    refused(full.clone(), "implicitDelegation").await;
    allow(&run, "user:dev@example.com", "alpha-sa").await;
    refused(full.clone(), "implicitDelegation").await;
    allow(&run, &format!("serviceAccount:{}", address("alpha-sa")), "bravo-sa").await;
    refused(full.clone(), "getAccessToken").await;
    allow(&run, &format!("serviceAccount:{}", address("bravo-sa")), "delta-sa").await;
    let (code, answer) = ask(full.clone()).await;
    assert_eq!(code, 200, "{answer}");
    let token = answer["accessToken"].as_str().unwrap();
    let (_, info) = page(&run, &format!("/tokeninfo?access_token={token}")).await;
    assert_eq!(info["email"], address("delta-sa").as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_verify_by_the_published_keys_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    for name in ["alpha-sa", "bravo-sa"] {
        account(&run, name).await;
        allow(&run, "user:dev@example.com", name).await;
    }
    let now = Clock::new(Wall).now().unix_seconds();
    let claims = json!({"iss": address("alpha-sa"), "sub": "x", "aud": "y", "exp": now + 3600});
    let (code, signed) = act(&run, "alpha-sa", "signJwt", json!({"payload": claims.to_string()})).await;
    assert_eq!(code, 200, "{signed}");
    let jwt = signed["signedJwt"].as_str().unwrap();
    let keys = async |name: &str| page(&run, &format!("/service_accounts/v1/metadata/jwk/{}", address(name))).await.1;
    assert_eq!(pki::verify_jwt(jwt, &keys("alpha-sa").await, &["RS256"]), Some(claims));
    assert_eq!(pki::verify_jwt(jwt, &keys("bravo-sa").await, &["RS256"]), None);
    let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(head, json!({"alg": "RS256", "typ": "JWT", "kid": signed["keyId"]}));

    // A certificate holds the same key; bytes of a JWT signed as a blob give the same signature.
    let (text, _) = jwt.rsplit_once('.').unwrap();
    let (code, blob) = act(&run, "alpha-sa", "signBlob", json!({"payload": STANDARD.encode(text)})).await;
    assert_eq!((code, &blob["keyId"]), (200, &signed["keyId"]), "{blob}");
    let signature = STANDARD.decode(blob["signedBlob"].as_str().unwrap()).unwrap();
    assert_eq!(format!("{text}.{}", URL_SAFE_NO_PAD.encode(&signature)), jwt);
    let (_, older) = act(&run, "alpha-sa", "signBlob", json!({"bytesToSign": STANDARD.encode(text)})).await;
    assert_eq!(older["signature"], blob["signedBlob"]);
    let (_, certificates) = page(&run, &format!("/robot/v1/metadata/x509/{}", address("alpha-sa"))).await;
    let certificate = certificates[signed["keyId"].as_str().unwrap()].as_str().unwrap();
    let certificate = pki::pem::certificates(certificate).unwrap().remove(0);
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let key = &parsed.public_key().subject_public_key.data;
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, key);
    assert!(key.verify(text.as_bytes(), &signature).is_ok() && key.verify(b"other", &signature).is_err());

    // Keys of users stand on the page too, and such a token is worth an access token.
    let path = format!("/v1/projects/demo-project/serviceAccounts/{}/keys", address("alpha-sa"));
    assert_eq!(run.call("POST", &path, "{}").await.0, 200);
    assert_eq!(keys("alpha-sa").await["keys"].as_array().unwrap().len(), 2);
    let claims = json!({"iss": address("alpha-sa"), "aud": "y", "exp": now + 3600, "iat": now, "scope": "openid"});
    let (_, signed) = act(&run, "alpha-sa", "signJwt", json!({"payload": claims.to_string()})).await;
    let form = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
        signed["signedJwt"].as_str().unwrap()
    );
    let (code, text) = run.raw("POST", "/token", "Content-Type: application/x-www-form-urlencoded\r\n", &form).await;
    assert_eq!(code, 200, "{text}");

    for (payload, good) in [
        (json!({"exp": now + 12 * 3600 + 60}), false),
        (json!({"exp": now - 1}), false),
        (json!({"exp": "soon"}), false),
        (json!([1]), false),
        (json!({}), true),
    ] {
        let code = act(&run, "alpha-sa", "signJwt", json!({"payload": payload.to_string()})).await.0;
        assert_eq!(code == 200, good, "{payload}: {code}");
    }
    assert_eq!(act(&run, "alpha-sa", "signJwt", json!({"payload": "no JSON"})).await.0, 400);
    assert_eq!(act(&run, "alpha-sa", "signBlob", json!({"payload": "!"})).await.0, 400);
    let (code, answer) = page(&run, "/service_accounts/v1/metadata/x509/nobody@example.com").await;
    assert_eq!(code, 404, "{answer}");
}
