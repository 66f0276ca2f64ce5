//! Nothing acknowledged is lost, whichever processes are killed at whichever moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually};

/// Rounds of killing; more in the full tier.
fn rounds() -> usize {
    if std::env::var("PILOTHOUSE_TEST_TIER").is_ok_and(|t| t == "full") { 50 } else { 10 }
}

#[test]
fn acknowledged_objects_survive_kill_9_of_every_process() -> Result<()> {
    let mut sandbox = Sandbox::start()?;
    let mut acknowledged = 0;
    for round in 0..rounds() {
        for i in 0..3 {
            sandbox.kubectl(&["create", "configmap", &format!("kept-{round}-{i}")])?;
            acknowledged += 1;
        }
        let pids = pids(&sandbox)?;
        // Every other round only the cluster's processes die, and come back by themselves.
        let (victims, cloud_dies) = if round % 2 == 0 { (pids.as_slice(), true) } else { (&pids[1..], false) };
        let names: Vec<String> = victims.iter().map(u64::to_string).collect();
        let status = std::process::Command::new("kill").arg("-9").args(&names).status()?;
        ensure!(status.success(), "kill {names:?}");
        if cloud_dies {
            eventually(Duration::from_secs(10), || sandbox.up(&[]))?;
        }
        let listed = eventually(Duration::from_secs(10), || sandbox.kubectl(&["get", "configmaps", "-o", "name"]))?;
        let found = listed.lines().filter(|l| l.starts_with("configmap/kept-")).count();
        ensure!(found == acknowledged, "round {round}: {found} of {acknowledged} are there");
    }
    Ok(())
}

/// The cloud's process first, then those of the clusters.
fn pids(sandbox: &Sandbox) -> Result<Vec<u64>> {
    let status = sandbox.status()?;
    let mut pids = vec![status["cloud"]["pid"].as_u64().context("the cloud's pid")?];
    for cluster in status["clusters"].as_array().context("clusters")? {
        for instance in cluster["instances"].as_array().context("instances")? {
            pids.push(instance["pid"].as_u64().context("pid")?);
        }
    }
    Ok(pids)
}
