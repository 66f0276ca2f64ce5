//! Workload Identity: tokens of Kubernetes service accounts exchanged at the Security Token Service, and what the pods may do
//! in the name of Google service accounts.

use std::sync::Arc;

use base::Clock;
use cloud::Auth;
use pki::{MemoryVault, Requester, Signer, SignerCore};
use serde_json::{Value, json};

use crate::support::{Running, Wall, entropy, start};

const POOL: &str = "demo-project.svc.id.goog";
const CLUSTERS: &str = "/v1/projects/demo-project/locations/us-central1-a/clusters";
const MISSING: &str = "robot@demo-project.iam.gserviceaccount.com";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

async fn signer() -> Signer {
    let core = SignerCore::open("c", Arc::new(MemoryVault::default()), Clock::new(Wall), entropy()).unwrap();
    Signer::InProcess(Arc::new(core), Requester::Instance)
}

fn issuer(cluster: &str) -> String {
    format!("https://container.googleapis.com{CLUSTERS}/{cluster}")
}

fn claims(cluster: &str, audience: &str, subject: &str) -> Value {
    let now = Clock::new(Wall).now().unix_seconds();
    json!({"iss": issuer(cluster), "aud": [audience], "sub": subject, "iat": now, "nbf": now, "exp": now + 3600})
}

async fn create(run: &Running, name: &str, pool: &str) -> (u16, Value) {
    let mut cluster = json!({"name": name, "initialNodeCount": 1});
    if !pool.is_empty() {
        cluster["workloadIdentityConfig"] = json!({"workloadPool": pool});
    }
    let (code, answer) = run.call("POST", CLUSTERS, &json!({"cluster": cluster}).to_string()).await;
    if code == 200 {
        run.done(&answer).await;
    }
    (code, answer)
}

async fn exchange(run: &Running, cluster: &str, token: &str) -> (u16, Value) {
    let body = json!({
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "subjectToken": token, "scope": SCOPE,
        "audience": format!("identitynamespace:{POOL}:{}", issuer(cluster)),
        "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token",
        "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
    });
    let (code, text) = run.raw("POST", "/v1/token", "Content-Type: application/json\r\n", &body.to_string()).await;
    (code, serde_json::from_str(&text).unwrap_or_default())
}

/// As the holder of this token.
async fn call_as(run: &Running, token: &str, path: &str, body: &Value) -> (u16, Value) {
    let (code, text) = run.raw("POST", path, &format!("Authorization: Bearer {token}\r\n"), &body.to_string()).await;
    (code, serde_json::from_str(&text).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_the_projects_and_switched_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let (code, answer) = create(&run, "wrong", "other.svc.id.goog").await;
    assert!(code == 400 && answer["error"]["message"].as_str().unwrap().contains(POOL), "{answer}");
    create(&run, "demo", POOL).await;
    let show = async || run.call("GET", &format!("{CLUSTERS}/demo"), "").await.1;
    let cluster = show().await;
    assert_eq!(cluster["workloadIdentityConfig"], json!({"workloadPool": POOL}));
    assert_eq!(cluster["nodePools"][0]["config"]["workloadMetadataConfig"], json!({"mode": "GKE_METADATA"}));
    for (pool, code) in [("other.svc.id.goog", 400), ("", 200), (POOL, 200)] {
        let update = json!({"update": {"desiredWorkloadIdentityConfig": {"workloadPool": pool}}});
        let (got, answer) = run.call("PUT", &format!("{CLUSTERS}/demo"), &update.to_string()).await;
        assert_eq!(got, code, "{pool}: {answer}");
        if code == 200 {
            run.done(&answer).await;
            assert_eq!(show().await["workloadIdentityConfig"]["workloadPool"].as_str().unwrap_or_default(), pool);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_told_what_their_pods_see_and_gkes_server_needs_a_pool_of_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    create(&run, "demo", POOL).await;
    create(&run, "plain", "").await;
    let put = async |cluster: &str, body: Value| {
        let path = format!("{CLUSTERS}/{cluster}/nodePools/default-pool");
        let (code, answer) = run.call("PUT", &path, &body.to_string()).await;
        if code == 200 {
            run.done(&answer).await;
        }
        (code, answer)
    };
    let mode = |mode: &str| json!({"workloadMetadataConfig": {"mode": mode}});
    let shown = async |version: &str, cluster: &str| {
        let path = format!("{}/{cluster}/nodePools/default-pool", CLUSTERS.replacen("v1", version, 1));
        run.call("GET", &path, "").await.1["config"]["workloadMetadataConfig"].clone()
    };
    assert_eq!(shown("v1", "plain").await, Value::Null);
    let (code, answer) = put("plain", mode("GKE_METADATA")).await;
    assert!(code == 400 && answer["error"]["status"] == "INVALID_ARGUMENT", "{answer}");
    for (wanted, older) in [("GCE_METADATA", "EXPOSE"), ("GKE_METADATA", "GKE_METADATA_SERVER")] {
        let (code, answer) = put("demo", mode(wanted)).await;
        assert!(code == 200 && answer["operationType"] == "UPGRADE_NODES", "{answer}");
        assert_eq!(shown("v1", "demo").await, json!({"mode": wanted}));
        assert_eq!(shown("v1beta1", "demo").await, json!({"mode": wanted, "nodeMetadata": older}));
    }
    for (body, code) in [(json!({}), 400), (json!({"machineType": "e2-small"}), 501), (mode("NEITHER"), 400)] {
        assert_eq!(put("demo", body.clone()).await.0, code, "{body}");
    }
    let pool = json!({"nodePool": {"name": "x", "initialNodeCount": 1, "config": mode("GKE_METADATA")}});
    assert_eq!(run.call("POST", &format!("{CLUSTERS}/plain/nodePools"), &pool.to_string()).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_exchanged_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let (own, foreign) = (signer().await, signer().await);
    *run.fleet.keys.lock().unwrap() = Some(own.jwks().await.unwrap());
    create(&run, "demo", POOL).await;
    create(&run, "plain", "").await;
    let subject = "system:serviceaccount:shop:cart";
    let good = own.sign_jwt(claims("demo", POOL, subject)).await.unwrap();
    let (code, answer) = exchange(&run, "demo", &good).await;
    assert!(
        code == 200 && answer["token_type"] == "Bearer" && answer["expires_in"].as_i64().unwrap() > 3000,
        "{answer}"
    );
    let mut old = claims("demo", POOL, subject);
    old["exp"] = json!(old["iat"].as_i64().unwrap() - 1);
    let cases = [
        (
            own.sign_jwt(claims("demo", "https://elsewhere", subject)).await.unwrap(),
            "invalid_grant",
            "The audience in ID Token [",
        ),
        (own.sign_jwt(claims("plain", POOL, subject)).await.unwrap(), "invalid_grant", "The issuer in ID Token"),
        (
            own.sign_jwt(claims("demo", POOL, "system:node:a")).await.unwrap(),
            "invalid_grant",
            "not a service account's",
        ),
        (own.sign_jwt(old).await.unwrap(), "invalid_grant", "is stale to sign-in."),
        (foreign.sign_jwt(claims("demo", POOL, subject)).await.unwrap(), "invalid_grant", "could not be verified"),
        (String::new(), "invalid_grant", "could not be verified"),
    ];
    for (token, error, text) in cases {
        let (code, answer) = exchange(&run, "demo", &token).await;
        let why = answer["error_description"].as_str().unwrap_or_default();
        assert!(code == 400 && answer["error"] == error && why.contains(text), "{text}: {answer}");
    }
    for cluster in ["plain", "nowhere"] {
        let (code, answer) = exchange(&run, cluster, &good).await;
        assert!(code == 400 && answer["error"] == "invalid_target", "{cluster}: {answer}");
    }
    let (code, text) = run.raw("POST", "/v1/token", "", "grant_type=password").await;
    assert!(code == 400 && text.contains("Invalid value for \\\"grantType\\\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_acts_as_the_account_whose_policy_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let own = signer().await;
    *run.fleet.keys.lock().unwrap() = Some(own.jwks().await.unwrap());
    run.call("POST", "/v1/projects/demo-project/serviceAccounts", &json!({"accountId": "robots"}).to_string()).await;
    let account = "robots@demo-project.iam.gserviceaccount.com";
    let policy = format!("/v1/projects/demo-project/serviceAccounts/{account}");
    let set = async |member: &str| {
        let bindings = json!([{"role": "roles/iam.workloadIdentityUser", "members": [member]}]);
        run.call("POST", &format!("{policy}:setIamPolicy"), &json!({"policy": {"bindings": bindings}}).to_string())
            .await
    };
    let member = format!("serviceAccount:{POOL}[shop/cart]");
    let (code, answer) = set(&member).await;
    let missing = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(code == 400 && missing.starts_with(&format!("Identity Pool does not exist ({POOL}).")), "{answer}");
    create(&run, "demo", POOL).await;

    let pod = async |name: &str| {
        let subject = format!("system:serviceaccount:shop:{name}");
        let token = own.sign_jwt(claims("demo", POOL, &subject)).await.unwrap();
        exchange(&run, "demo", &token).await.1["access_token"].as_str().unwrap_or_default().to_owned()
    };
    let (cart, other) = (pod("cart").await, pod("other").await);
    let (access, identity) = (
        format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken"),
        format!("/v1/projects/-/serviceAccounts/{account}:generateIdToken"),
    );
    let (scope, audience) = (json!({"scope": [SCOPE]}), json!({"audience": "https://x", "includeEmail": true}));
    let (code, answer) = call_as(&run, &cart, &access, &scope).await;
    let denied = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
    assert!(code == 403 && answer["error"]["message"] == denied, "{answer}");

    let pool =
        format!("principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/{POOL}");
    for member in [member, format!("{pool}/subject/ns/shop/sa/cart")] {
        let (code, answer) = set(&member).await;
        assert_eq!(code, 200, "{answer}");
        let (_, shown) = run.call("POST", &format!("{policy}:getIamPolicy"), "{}").await;
        assert_eq!(shown["bindings"][0]["members"][0], member.as_str());
        let (code, answer) = call_as(&run, &cart, &access, &scope).await;
        assert!(code == 200 && answer["expireTime"].as_str().unwrap().ends_with('Z'), "{answer}");
        let token = answer["accessToken"].as_str().unwrap();
        assert_eq!(run.cloud.resolve_token(token).unwrap().email, account);
        let (code, answer) = call_as(&run, &cart, &identity, &audience).await;
        assert!(code == 200 && answer["token"].as_str().unwrap().split('.').count() == 3, "{answer}");
        for (token, path, body) in [(&other, &access, &scope), (&other, &identity, &audience)] {
            assert_eq!(call_as(&run, token, path, body).await.0, 403);
        }
    }
    // No email: nobody at an API server. And nothing in the project but what its policy gives.
    assert!(!run.cloud.resolve_token(&cart).unwrap().email_scope);
    let (code, _) = run.raw("GET", CLUSTERS, &format!("Authorization: Bearer {cart}\r\n"), "").await;
    assert_eq!(code, 403);
    for (body, text) in [
        (json!({}), "Scope required."),
        (json!({"scope": [SCOPE], "lifetime": "3601s"}), "The access token lifetime cannot exceed 3600 seconds."),
    ] {
        let (code, answer) = call_as(&run, &cart, &access, &body).await;
        assert!(code == 400 && answer["error"]["message"] == text, "{answer}");
    }
    let gone = format!("/v1/projects/-/serviceAccounts/{MISSING}:generateAccessToken");
    assert_eq!(call_as(&run, &cart, &gone, &scope).await.0, 403, "one that is not there");
}
