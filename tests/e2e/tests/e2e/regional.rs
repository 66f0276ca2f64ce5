//! A regional cluster: three instances with a member of the store each, and any one of them may go.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, eventually, skipped};
use serde_json::Value;

/// How long an election and a restart may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn start() -> Result<Sandbox> {
    Sandbox::start_with(&["--location", "us-central1", "--nodes", "1"])
}

/// The default cluster's entries of a list in `status`.
fn list(sandbox: &Sandbox, name: &str) -> Result<Vec<Value>> {
    let status = sandbox.status()?;
    let entries = status["clusters"][0][name].as_array().with_context(|| format!("no {name} in {status}"))?;
    Ok(entries.clone())
}

fn all_healthy(sandbox: &Sandbox) -> Result<Vec<Value>> {
    let members = list(sandbox, "members")?;
    let healthy = members.iter().filter(|member| member["healthy"] == true).count();
    let leaders = members.iter().filter(|member| member["leader"] == true).count();
    ensure!((members.len(), healthy, leaders) == (3, 3, 1), "{members:?}");
    Ok(members)
}

fn kill_9(pid: &Value) -> Result<()> {
    let pid = pid.as_u64().context("it runs")?.to_string();
    ensure!(Command::new("kill").args(["-9", &pid]).status()?.success(), "kill {pid}");
    Ok(())
}

#[test]
fn a_regional_cluster_serves_on_when_the_leader_of_its_store_is_killed() -> Result<()> {
    let sandbox = start()?;
    let members = eventually(LIMIT, || all_healthy(&sandbox))?;
    ensure!(list(&sandbox, "etcdEndpoints")?.len() == 3, "three members have three endpoints");
    sandbox.kubectl(&["create", "deployment", "web", "--image=nginx", "--replicas=3"])?;
    sandbox.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let nodes = "jsonpath={.items[*].metadata.labels.topology\\.kubernetes\\.io/zone}";
    let zones = sandbox.kubectl(&["get", "nodes", "-o", nodes])?;
    let mut zones: Vec<&str> = zones.split_whitespace().collect();
    zones.sort_unstable();
    zones.dedup();
    ensure!(zones.len() == 3, "a node in each zone: {zones:?}");

    for round in 0..3 {
        let members = if round == 0 { members.clone() } else { eventually(LIMIT, || all_healthy(&sandbox))? };
        let leader = members.iter().find(|member| member["leader"] == true).context("one leads")?;
        let instances = list(&sandbox, "instances")?;
        let instance = instances.iter().find(|instance| instance["name"] == leader["name"]);
        kill_9(&instance.context("it has an instance")?["pid"])?;
        let name = format!("after-{round}");
        eventually(LIMIT, || sandbox.kubectl(&["create", "configmap", &name, "--from-literal=a=b"]))?;
    }
    let kept = sandbox.kubectl(&["get", "configmaps", "-o", "name"])?;
    ensure!((0..3).all(|round| kept.contains(&format!("configmap/after-{round}"))), "{kept}");
    eventually(LIMIT, || all_healthy(&sandbox))?;
    sandbox.kubectl(&["scale", "deployment", "web", "--replicas=6"])?;
    sandbox.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn members_hear_only_certificates_of_their_own_authority() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("peers without certificate", "etcdctl is not built and not on PATH");
        return Ok(());
    };
    let sandbox = start()?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    let listed = sandbox.command(&etcdctl).args(["member", "list"]).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Id, status, name, peer URLs, client URLs.
    let peer = listed.split(", ").nth(3).context("a member and its peer URL")?;
    let mut stranger = sandbox.command(&etcdctl);
    stranger.env_remove("ETCDCTL_ENDPOINTS").args(["--endpoints", peer, "--command-timeout=2s", "get", "a"]);
    ensure!(!stranger.output()?.status.success(), "a client's certificate is none of a member's: {peer}");
    let logs = sandbox.pilothouse(&["logs", "-n", "200"])?;
    ensure!(logs.contains("rejected connection on peer endpoint"), "{logs}");
    Ok(())
}

#[test]
fn a_regional_cluster_comes_back_with_everything_after_all_of_it_was_killed() -> Result<()> {
    let mut sandbox = start()?;
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    for (pid, _) in sandbox.processes()? {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    }
    eventually(LIMIT, || sandbox.up(&[]))?;
    ensure!(sandbox.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"])? == "b");
    eventually(LIMIT, || all_healthy(&sandbox))?;
    Ok(())
}
