//! Who may do what (reference: gke-behaviour §4): RBAC first, then IAM, and the settings that GKE has for both.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};

use crate::authentication::{CLUSTER, Cloud};

const PODS: &str = "pods is forbidden: User \"alice@example.com\" cannot list resource \"pods\" in API group \"\" in the \
                    namespace \"default\": Required \"container.pods.list\" permission.";

#[test]
fn alice_comes_in_by_iam_or_by_rbac_and_is_told_what_is_missing() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cloud = Cloud::of(&sandbox);
    let alice = cloud.token("alice@example.com", &[])?;
    let get_pods = ["--token", &alice, "get", "pods"];
    let refused = || -> Result<()> {
        let said = sandbox.kubectl_fails(&get_pods)?;
        ensure!(said.contains(PODS), "{said}");
        Ok(())
    };
    let (code, answer) = cloud.as_account(&alice, "GET", CLUSTER, "")?;
    let text = "Required \"container.clusters.get\" permission(s) for \
                \"projects/pilothouse-local/locations/us-central1-a/clusters/demo\".";
    ensure!(code == 403 && answer["error"]["message"] == text, "{code} {answer}");
    refused()?;
    cloud.bind("roles/container.clusterViewer", "user:alice@example.com")?;
    let (code, answer) = cloud.as_account(&alice, "GET", CLUSTER, "")?;
    ensure!(code == 200, "{code} {answer}");
    refused()?;
    cloud.bind("roles/container.viewer", "user:alice@example.com")?;
    // The cloud's word travels to the instance; there is no longer way than that.
    eventually(Duration::from_secs(2), || sandbox.kubectl(&get_pods))?;
    let may = |verb: &str, what: &str| sandbox.kubectl(&["--token", &alice, "auth", "can-i", verb, what]);
    ensure!(may("list", "pods")?.trim() == "yes");
    ensure!(may("create", "pods").is_err() && may("get", "secrets").is_err());
    cloud.unbind("roles/container.viewer")?;
    eventually(Duration::from_secs(2), refused)?;
    sandbox.kubectl(&["create", "rolebinding", "a", "--clusterrole=view", "--user=alice@example.com"])?;
    sandbox.kubectl(&get_pods)?;
    Ok(())
}

#[test]
fn gcloud_changes_the_policy_that_decides() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("gcloud", "not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let bob = Cloud::of(&sandbox).token("bob@example.com", &[])?;
    let policy = |verb: &str| -> Result<()> {
        let project = sandbox.variable("PILOTHOUSE_PROJECT");
        let output = sandbox
            .command(&gcloud)
            .args(["projects", verb, project, "--member=user:bob@example.com", "--role=roles/container.developer"])
            .arg("--quiet")
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let write = |name: &str| sandbox.kubectl(&["--token", &bob, "create", "configmap", name]);
    ensure!(write("a").is_err());
    policy("add-iam-policy-binding")?;
    eventually(Duration::from_secs(2), || write("b"))?;
    // A developer grants nothing: `container.clusterRoles.bind` is an admin's.
    let binding =
        ["--token", &bob, "create", "clusterrolebinding", "x", "--clusterrole=view", "--user=eve@example.com"];
    let said = sandbox.kubectl_fails(&binding)?;
    ensure!(said.contains("Required \"container.clusterRoleBindings.create\" permission."), "{said}");
    policy("remove-iam-policy-binding")?;
    eventually(Duration::from_secs(2), || {
        ensure!(write("c").is_err());
        Ok(())
    })
}

#[test]
fn everybody_is_given_only_what_the_cluster_allows() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cloud = Cloud::of(&sandbox);
    let bind = |name: &str, role: &str, subject: &str| {
        let role = format!("--clusterrole={role}");
        sandbox.kubectl(&["create", "clusterrolebinding", name, &role, subject])
    };
    for subject in ["--group=system:authenticated", "--group=system:unauthenticated", "--user=system:anonymous"] {
        let said =
            format!("{:#}", bind("x", "cluster-admin", subject).err().map_or_else(String::new, |e| e.to_string()));
        ensure!(said.contains("cannot be bound to"), "{subject}: {said}");
    }
    bind("before", "view", "--user=system:anonymous")?;
    let off = r#"{"update":{"desiredRbacBindingConfig":{"enableInsecureBindingSystemUnauthenticated":false}}}"#;
    cloud.change("PUT", CLUSTER, off)?;
    let said =
        format!("{:#}", bind("x", "view", "--user=system:anonymous").err().map_or_else(String::new, |e| e.to_string()));
    ensure!(said.contains("rbacBindingConfig.enableInsecureBindingSystemUnauthenticated is false"), "{said}");
    bind("y", "view", "--group=system:authenticated")?;
    sandbox.kubectl(&["label", "clusterrolebinding", "before", "kept=yes"])?;
    for builtin in ["system:basic-user", "system:discovery", "system:public-info-viewer"] {
        sandbox.kubectl(&["get", "clusterrolebinding", builtin])?;
    }
    Ok(())
}

#[test]
fn nobody_grants_what_they_do_not_hold() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl(&[
        "create",
        "clusterrole",
        "granter",
        "--verb=create,update,get,patch",
        "--resource=roles,rolebindings",
    ])?;
    sandbox.kubectl(&["create", "clusterrolebinding", "granter", "--clusterrole=granter", "--user=carol"])?;
    let carol = |arguments: &[&str]| {
        let mut all = vec!["--as=carol"];
        all.extend(arguments);
        sandbox.kubectl(&all)
    };
    let more = ["create", "role", "r", "--verb=get", "--resource=secrets"];
    let said = format!("{:#}", carol(&more).err().map_or_else(String::new, |e| e.to_string()));
    ensure!(said.contains("is attempting to grant RBAC permissions not currently held"), "{said}");
    ensure!(carol(&["create", "rolebinding", "b", "--clusterrole=admin", "--user=carol"]).is_err());
    carol(&["create", "role", "r", "--verb=get", "--resource=roles"])?;
    sandbox.kubectl(&[
        "create",
        "clusterrole",
        "binder",
        "--verb=bind",
        "--resource=clusterroles",
        "--resource-name=admin",
    ])?;
    sandbox.kubectl(&["create", "clusterrolebinding", "binder", "--clusterrole=binder", "--user=carol"])?;
    carol(&["create", "rolebinding", "b", "--clusterrole=admin", "--user=carol"])?;
    Ok(())
}

#[test]
fn every_decision_can_be_explained() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cloud = Cloud::of(&sandbox);
    let explain = |arguments: &[&str]| {
        let mut all = vec!["explain", "can-i", "--as", "alice@example.com"];
        all.extend(arguments);
        sandbox.pilothouse(&all)
    };
    let refused = explain(&["get", "pods"])?;
    for part in [
        "no  alice@example.com",
        "Required \"container.pods.get\" permission.",
        "a rule of its own: {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
        "the IAM role roles/container.viewer on the project",
    ] {
        ensure!(refused.contains(part), "{part} is not in\n{refused}");
    }
    cloud.bind("roles/container.viewer", "user:alice@example.com")?;
    let by_iam = explain(&["get", "po"])?;
    ensure!(by_iam.contains("decided by IAM") && by_iam.contains("roles/container.viewer"), "{by_iam}");
    sandbox.kubectl(&["create", "rolebinding", "devs", "--clusterrole=view", "--group=devs"])?;
    let by_rule = explain(&["list", "deploy", "--as-group", "devs"])?;
    ensure!(
        by_rule.contains("RoleBinding \"default/devs\" binds ClusterRole \"view\" to Group \"devs\"; rule "),
        "{by_rule}"
    );
    let json: serde_json::Value = serde_json::from_str(&explain(&["delete", "secrets", "-o", "json"])?)?;
    ensure!(json["allowed"] == false && json["smallestGrants"].as_array().is_some_and(|g| !g.is_empty()), "{json}");
    let master =
        sandbox.pilothouse(&["explain", "can-i", "--as", "x", "--as-group", "system:masters", "get", "/metrics"])?;
    ensure!(master.contains("decided by system:masters"), "{master}");
    Ok(())
}
