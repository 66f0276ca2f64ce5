//! Project policies and tokens over HTTP: Google's words for what is refused, and who may do what afterwards.

use cloud::Auth;
use serde_json::{Value, json};

use crate::support::{Running, start};

const PROJECT: &str = "/v1/projects/demo-project";

async fn policy(run: &Running) -> Value {
    run.call("POST", &format!("{PROJECT}:getIamPolicy"), "{}").await.1
}

async fn set(run: &Running, bindings: Value) -> (u16, Value) {
    let mut policy = policy(run).await;
    for binding in bindings.as_array().expect("a list") {
        policy["bindings"].as_array_mut().expect("a list").push(binding.clone());
    }
    run.call("POST", &format!("{PROJECT}:setIamPolicy"), &json!({"policy": policy}).to_string()).await
}

fn bind(role: &str, member: &str) -> Value {
    json!([{"role": role, "members": [member]}])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_read_changed_and_refused_in_googles_words() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let viewer = "roles/container.viewer";
    for (role, member, text) in [
        (
            viewer,
            "alice@example.com",
            "The member alice@example.com is of an unknown type. Please set a valid type prefix for the member.",
        ),
        (
            viewer,
            "robot:a@example.com",
            "The member robot:a@example.com is of an unknown type. Please set a valid type prefix for the member.",
        ),
        (
            viewer,
            "user:x@demo-project.iam.gserviceaccount.com",
            "Principal x@demo-project.iam.gserviceaccount.com is of type \"serviceAccount\". The principal should appear as",
        ),
        (
            viewer,
            "serviceAccount:x@demo-project.iam.gserviceaccount.com",
            "Service account x@demo-project.iam.gserviceaccount.com does not exist.",
        ),
        (viewer, "serviceAccount:alice@example.com", "Principal alice@example.com is of type \"user\"."),
        (viewer, "user:alice", "Invalid principal user:alice"),
        (viewer, "user:a@@example.com", "Invalid principal user:a@@example.com"),
        (viewer, "domain:not a domain", "Invalid principal domain:not a domain"),
        ("roles/container.king", "user:a@example.com", "Role roles/container.king is not supported for this resource."),
        ("viewer", "user:a@example.com", "Role viewer is not supported for this resource."),
        (
            "projects/demo-project/roles/own",
            "user:a@example.com",
            "Role (projects/demo-project/roles/own) does not exist in the resource's hierarchy.",
        ),
    ] {
        let (code, answer) = set(&run, bind(role, member)).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(code == 400 && message.starts_with(text), "{role} {member}: {code} {answer}");
        assert_eq!(answer["error"]["status"], "INVALID_ARGUMENT");
    }
    let before = policy(&run).await;
    for member in
        ["user:Alice@Example.com", "group:devs@example.com", "domain:example.org", "allAuthenticatedUsers", "allUsers"]
    {
        let (code, answer) = set(&run, bind(viewer, member)).await;
        assert_eq!(code, 200, "{answer}");
    }
    let after = policy(&run).await;
    let members =
        after["bindings"].as_array().unwrap().iter().find(|b| b["role"] == viewer).unwrap()["members"].clone();
    let wanted =
        ["allAuthenticatedUsers", "allUsers", "domain:example.org", "group:devs@example.com", "user:alice@example.com"];
    assert_eq!(members, json!(wanted));
    let stale = json!({"policy": before}).to_string();
    let (code, answer) = run.call("POST", &format!("{PROJECT}:setIamPolicy"), &stale).await;
    assert_eq!((code, &answer["error"]["status"]), (409, &"ABORTED".into()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gke_asks_iam_and_names_the_permission() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let token = run.cloud.access_token("alice@example.com", Vec::new()).unwrap();
    let path = format!("{PROJECT}/locations/us-central1-a/clusters/demo");
    let ask = async || {
        let (code, text) = run.raw("GET", &path, &format!("Authorization: Bearer {token}\r\n"), "").await;
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (code, answer) = ask().await;
    let text = "Required \"container.clusters.get\" permission(s) for \
                \"projects/demo-project/locations/us-central1-a/clusters/demo\".";
    assert_eq!((code, answer["error"]["message"].as_str()), (403, Some(text)));
    assert_eq!(answer["error"]["status"], "PERMISSION_DENIED");
    let mut changes = run.cloud.access_changes();
    changes.mark_unchanged();
    for member in ["user:alice@example.com", "domain:example.com", "allAuthenticatedUsers"] {
        assert_eq!(set(&run, bind("roles/container.clusterViewer", member)).await.0, 200);
        assert!(changes.has_changed().unwrap(), "instances are told");
        changes.mark_unchanged();
        assert_eq!(ask().await.0, 404, "{member} may look, there is only nothing to see");
        let mut policy = policy(&run).await;
        policy["bindings"].as_array_mut().unwrap().retain(|b| b["role"] != "roles/container.clusterViewer");
        run.call("POST", &format!("{PROJECT}:setIamPolicy"), &json!({"policy": policy}).to_string()).await;
        changes.mark_unchanged();
        assert_eq!(ask().await.0, 403, "{member}");
    }
    let revoked = run.call("POST", &format!("/revoke?token={token}"), "").await;
    assert_eq!(revoked.0, 200);
    assert!(changes.has_changed().unwrap() && run.cloud.resolve_token(&token).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_show_the_email_only_with_its_scope() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let scope = |name: &str| vec![format!("https://www.googleapis.com/auth/{name}")];
    for (scopes, shown) in [(Vec::new(), true), (scope("cloud-platform"), false), (scope("userinfo.email"), true)] {
        let token = run.cloud.access_token("Bob@example.com", scopes).unwrap();
        let found = run.cloud.resolve_token(&token).unwrap();
        assert_eq!((found.email.as_str(), found.email_scope), ("bob@example.com", shown));
        assert!(found.expires.is_some());
    }
    for bad in ["bob", "", "a b@example.com", "x@demo-project.iam.gserviceaccount.com"] {
        assert!(run.cloud.access_token(bad, Vec::new()).is_err(), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_read_how_a_clusters_tokens_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let body = json!({"cluster": {"name": "demo", "initialNodeCount": 1}}).to_string();
    let clusters = format!("{PROJECT}/locations/us-central1-a/clusters");
    run.call("POST", &clusters, &body).await;
    let ask = async |path: &str| {
        let (code, text) = run.raw("GET", &format!("{clusters}/{path}"), "", "").await;
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let issuer = "https://container.googleapis.com/v1/projects/demo-project/locations/us-central1-a/clusters/demo";
    let (code, config) = ask("demo/.well-known/openid-configuration").await;
    assert_eq!((code, &config["issuer"], &config["jwks_uri"]), (200, &issuer.into(), &format!("{issuer}/jwks").into()));
    assert_eq!(ask("demo/jwks").await, (200, json!({"keys": [{"kid": "k"}]})));
    assert_eq!((ask("other/jwks").await.0, ask("demo").await.0), (404, 401));
}
