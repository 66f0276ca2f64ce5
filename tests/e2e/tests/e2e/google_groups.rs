//! Groups of Google accounts in a cluster (reference: GKE behaviour §4): gcloud makes them, kubectl is let in by them.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};

use crate::authentication::Cloud;
use crate::identities::run;

const LIMIT: Duration = Duration::from_secs(30);
const ZONE: [&str; 2] = ["--zone", "us-central1-a"];
const SECURITY: &str = "gke-security-groups@example.com";

#[test]
fn members_of_a_security_groups_groups_have_what_is_bound_to_these() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("groups of Google accounts", "gcloud is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let gcloud = |arguments: &[&str]| run(sandbox.command(&gcloud).args(arguments).arg("--quiet"));
    let member = |action: &str, group: &str, member: &str| {
        gcloud(&["identity", "groups", "memberships", action, "--group-email", group, "--member-email", member])
    };
    for group in [SECURITY, "devs@example.com", "juniors@example.com", "chess@example.com"] {
        gcloud(&["identity", "groups", "create", group, "--customer", "C0pilot", "--display-name", "some"])?;
    }
    member("add", SECURITY, "devs@example.com")?;
    member("add", "devs@example.com", "alice@example.com")?;
    member("add", "chess@example.com", "alice@example.com")?;
    member("add", "devs@example.com", "juniors@example.com")?;
    member("add", "juniors@example.com", "bob@example.com")?;
    let listed = gcloud(&["identity", "groups", "memberships", "list", "--group-email", "devs@example.com"])?;
    ensure!(listed.contains("alice@example.com"), "{listed}");

    let alice = Cloud::of(&sandbox).token("alice@example.com", &[])?;
    let bob = Cloud::of(&sandbox).token("bob@example.com", &[])?;
    let groups = || sandbox.kubectl(&["--token", &alice, "auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"]);
    ensure!(groups()? == r#"["system:authenticated"]"#, "{}", groups()?);
    let update = ["container", "clusters", "update", "demo", "--security-group"];
    let refused = gcloud(&[&update[..], &["devs@example.com"], &ZONE].concat()).unwrap_err().to_string();
    ensure!(refused.contains("gke-security-groups@yourdomain.com"), "{refused}");
    gcloud(&[&update[..], &[SECURITY], &ZONE].concat())?;
    let format = ["--format", "value(authenticatorGroupsConfig.enabled,authenticatorGroupsConfig.securityGroup)"];
    let shown = gcloud(&[&["container", "clusters", "describe", "demo"][..], &ZONE, &format].concat())?;
    ensure!(shown.trim() == format!("True\t{SECURITY}"), "{shown}");
    eventually(LIMIT, || {
        ensure!(groups()? == r#"["devs@example.com","system:authenticated"]"#, "{}", groups()?);
        Ok(())
    })?;

    let pods = ["--token", &alice, "get", "pods"];
    let said = sandbox.kubectl_fails(&pods)?;
    ensure!(said.contains("Forbidden"), "{said}");
    let bind = ["create", "rolebinding", "devs", "--clusterrole", "view", "--group"];
    sandbox.kubectl(&[&bind[..], &["devs@example.com"]].concat())?;
    eventually(LIMIT, || sandbox.kubectl(&pods))?;
    // Whoever is in a group of the group, until that one is taken out.
    let nested = ["--token", &bob, "get", "pods"];
    eventually(LIMIT, || sandbox.kubectl(&nested))?;
    let refused = |request: &[&str]| {
        eventually(LIMIT, || {
            let said = sandbox.kubectl_fails(request)?;
            ensure!(said.contains("Forbidden"), "{said}");
            Ok(())
        })
    };
    member("delete", "devs@example.com", "juniors@example.com")?;
    refused(&nested)?;
    ensure!(sandbox.kubectl(&pods).is_ok(), "alice is there still");
    member("delete", "devs@example.com", "alice@example.com")?;
    refused(&pods)?;

    // At creation too.
    let create = ["container", "clusters", "create", "other", "--num-nodes", "1", "--security-group", SECURITY];
    gcloud(&[&create[..], &ZONE].concat())?;
    let shown = gcloud(&[&["container", "clusters", "describe", "other"][..], &ZONE, &format].concat())?;
    ensure!(shown.contains(SECURITY), "{shown}");
    Ok(())
}
