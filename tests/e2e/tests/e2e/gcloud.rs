//! The real gcloud and its kubectl plugin, where they are installed.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};

#[test]
fn gcloud_creates_describes_lists_and_deletes_clusters() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("gcloud", "not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = sandbox.command(&gcloud).args(arguments).arg("--quiet").output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gcloud {arguments:?}: {err}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&["container", "clusters", "create", "demo2", "--zone", "us-central1-b", "--num-nodes", "2"])?;
    let listed = run(&["container", "clusters", "list", "--format=value(name,status)"])?;
    ensure!(listed.contains("demo2\tRUNNING"), "{listed}");
    let described = run(&["container", "clusters", "describe", "demo2", "--zone", "us-central1-b", "--format=json"])?;
    let cluster: serde_json::Value = serde_json::from_str(&described)?;
    ensure!(cluster["currentNodeCount"] == 2, "{cluster}");
    if on_path("gke-gcloud-auth-plugin").is_some() {
        eventually(Duration::from_secs(10), || {
            let nodes = sandbox.kubectl(&["get", "nodes"])?;
            ensure!(nodes.lines().filter(|l| l.contains(" Ready")).count() == 2, "{nodes}");
            Ok(())
        })?;
        run(&["container", "clusters", "get-credentials", "demo", "--zone", "us-central1-a"])?;
        ensure!(sandbox.kubectl(&["config", "current-context"])?.contains("us-central1-a_demo"));
        sandbox.kubectl(&["get", "namespaces"])?;
    } else {
        skipped("gke-gcloud-auth-plugin", "not on PATH");
    }
    run(&["container", "clusters", "delete", "demo2", "--zone", "us-central1-b"])?;
    let listed = run(&["container", "clusters", "list", "--format=value(name)"])?;
    ensure!(listed.trim() == "demo", "{listed}");
    Ok(())
}
