//! Groups of accounts: who administers them, who is in them by others, and what that is worth in policies and clusters.

use cloud::Auth;
use serde_json::{Value, json};

use crate::support::{Running, start};

const SECURITY: &str = "gke-security-groups@example.com";

async fn create(run: &Running, email: &str) -> (u16, Value) {
    let labels = json!({"cloudidentity.googleapis.com/groups.discussion_forum": ""});
    let body = json!({"groupKey": {"id": email}, "parent": "customerId/C01", "labels": labels});
    run.call("POST", "/v1/groups?initialGroupConfig=EMPTY&alt=json", &body.to_string()).await
}

async fn name(run: &Running, email: &str) -> String {
    let (code, found) = run.call("GET", &format!("/v1/groups:lookup?groupKey.id={email}"), "").await;
    assert_eq!(code, 200, "{found}");
    found["name"].as_str().unwrap().to_owned()
}

async fn add(run: &Running, group: &str, member: &str) -> (u16, Value) {
    let body = json!({"preferredMemberKey": {"id": member}, "roles": [{"name": "MEMBER"}]}).to_string();
    run.call("POST", &format!("/v1/{}/memberships", name(run, group).await), &body).await
}

fn seen(run: &Running, email: &str) -> Vec<String> {
    let token = run.cloud.issue_token(email).unwrap();
    let identity = run.cloud.resolve_token(&token).unwrap();
    identity.security_groups.get(SECURITY).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_groups_in_the_group_for_security_are_seen_with_those_groups() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    for email in [SECURITY, "devs@example.com", "web@example.com", "chess@example.com"] {
        let (code, answer) = create(&run, email).await;
        assert!(code == 200 && answer["done"] == true && answer["response"]["groupKey"]["id"] == email, "{answer}");
    }
    assert_eq!(create(&run, "Devs@example.com").await.0, 409);
    assert_eq!(seen(&run, "dev@example.com"), Vec::<String>::new());
    let changes = run.cloud.access_changes();
    for (group, member) in [
        (SECURITY, "devs@example.com"),
        ("devs@example.com", "web@example.com"),
        ("web@example.com", "dev@example.com"),
        ("chess@example.com", "dev@example.com"),
    ] {
        let before = *changes.borrow();
        assert_eq!(add(&run, group, member).await.0, 200, "{group} {member}");
        assert!(*changes.borrow() > before, "clusters are told");
    }
    assert_eq!(seen(&run, "dev@example.com"), ["devs@example.com", "web@example.com"], "and not of chess");
    for (group, member, code) in [
        ("web@example.com", "dev@example.com", 409),
        ("web@example.com", "devs@example.com", 400),
        ("web@example.com", "web@example.com", 400),
        ("web@example.com", "nobody", 400),
    ] {
        assert_eq!(add(&run, group, member).await.0, code, "{group} {member}");
    }

    // In a policy a group stands for its members.
    let outsider = run.cloud.issue_token("dev@example.com").unwrap();
    let roles = |token: &str| run.cloud.resolve_token(token).unwrap().roles;
    assert!(!roles(&outsider).contains(&"roles/container.viewer".to_owned()));
    let mut policy = run.call("POST", "/v1/projects/demo-project:getIamPolicy", "{}").await.1;
    let binding = json!({"role": "roles/container.viewer", "members": ["group:devs@example.com"]});
    policy["bindings"].as_array_mut().unwrap().push(binding);
    let body = json!({"policy": policy}).to_string();
    assert_eq!(run.call("POST", "/v1/projects/demo-project:setIamPolicy", &body).await.0, 200);
    assert!(roles(&outsider).contains(&"roles/container.viewer".to_owned()));

    // Who leaves is seen without the group; so is everybody when it is gone.
    let web = name(&run, "web@example.com").await;
    let found = run.call("GET", &format!("/v1/{web}/memberships:lookup?memberKey.id=dev@example.com"), "").await.1;
    let membership = found["name"].as_str().unwrap();
    let shown = run.call("GET", &format!("/v1/{web}/memberships"), "").await.1;
    assert_eq!(shown["memberships"][0]["preferredMemberKey"]["id"], "dev@example.com", "{shown}");
    assert_eq!(run.call("DELETE", &format!("/v1/{membership}"), "").await.0, 200);
    assert_eq!(seen(&run, "dev@example.com"), Vec::<String>::new());
    assert_eq!(add(&run, "web@example.com", "dev@example.com").await.0, 200);
    let devs = name(&run, "devs@example.com").await;
    assert_eq!(run.call("DELETE", &format!("/v1/{devs}"), "").await.0, 200);
    assert_eq!(seen(&run, "dev@example.com"), Vec::<String>::new());
    let query = "parent%20==%20'customerId/C01'%20%26%26%20'cloudidentity.googleapis.com/groups.discussion_forum'%20in%20labels";
    let (code, found) = run.call("GET", &format!("/v1/groups:search?query={query}"), "").await;
    assert!(code == 200 && found["groups"].as_array().unwrap().len() == 3, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_may_set_the_policy_administers_groups() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    assert_eq!(create(&run, "devs@example.com").await.0, 200);
    let token = run.cloud.issue_token("alice@example.com").unwrap();
    let id = name(&run, "devs@example.com").await;
    for (verb, path) in [
        ("GET", "/v1/groups:lookup?groupKey.id=devs@example.com".to_owned()),
        ("POST", "/v1/groups".to_owned()),
        ("DELETE", format!("/v1/{id}")),
        ("POST", format!("/v1/{id}/memberships")),
    ] {
        let (code, text) = run.raw(verb, &path, &format!("Authorization: Bearer {token}\r\n"), "{}").await;
        assert!(code == 403 && text.contains("Error(2028): Permission denied for resource groups"), "{path}: {text}");
    }
    for (email, parent) in [("devs", "customers/C01"), ("a@example.com", "organizations/1"), ("a@example.com", "")] {
        let labels = json!({"cloudidentity.googleapis.com/groups.discussion_forum": ""});
        let body = json!({"groupKey": {"id": email}, "parent": parent, "labels": labels}).to_string();
        assert_eq!(run.call("POST", "/v1/groups", &body).await.0, 400, "{email} {parent}");
    }
}
