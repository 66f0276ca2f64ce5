//! A regional cluster: three instances with a member of the store each, and any one of them may go.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, eventually, on_path, skipped};
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
fn an_instance_that_is_frozen_gets_no_connections_until_it_answers_again() -> Result<()> {
    let sandbox = start()?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    let instances = list(&sandbox, "instances")?;
    let frozen = instances.first().context("there are three")?["pid"].as_u64().context("it runs")?;
    let signal = |name: &str| crate::core_dumps::signal(frozen.try_into()?, name);
    let serves = || {
        // Connections go round: none of these may be the frozen one's.
        for _ in 0..6 {
            sandbox.kubectl(&["get", "--raw", "/livez", "--request-timeout=3s"])?;
        }
        Ok(())
    };
    signal("STOP")?;
    eventually(LIMIT, serves)?;
    let shown = sandbox.pilothouse(&["status"])?;
    ensure!(shown.contains("it does not answer"), "{shown}");
    signal("CONT")?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    eventually(LIMIT, || {
        let shown = sandbox.pilothouse(&["status"])?;
        ensure!(!shown.contains("it does not answer"), "{shown}");
        Ok(())
    })?;
    serves()
}

/// Two of three members are silent: writes fail by themselves and within bounds. One that is back is a majority again.
#[test]
fn without_a_majority_writes_fail_in_bounded_time_and_nothing_is_lost() -> Result<()> {
    let Some(kubectl) = client("kubectl") else {
        skipped("writes without a majority", "kubectl is not built and not on PATH");
        return Ok(());
    };
    let sandbox = start()?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    let create = |name: &str| sandbox.kubectl(&["create", "configmap", name]);
    create("before")?;
    let instances = list(&sandbox, "instances")?;
    let pid = |place: usize| instances.get(place).and_then(|one| one["pid"].as_u64()).context("it runs");
    let signal = |place: usize, name: &str| crate::core_dumps::signal(pid(place)?.try_into()?, name);
    signal(0, "STOP")?;
    signal(1, "STOP")?;
    // Upstream's limit of a request is a minute; who outlives this one is ended with code 124.
    let mut bounded = sandbox.command("timeout");
    bounded.arg("70").arg(&kubectl).args(["create", "configmap", "meanwhile"]);
    let output = bounded.output();
    signal(0, "CONT")?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && !said.is_empty(), "{:?}: {said}", output.status);
    eventually(LIMIT, || create("after"))?;
    signal(1, "CONT")?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    let kept = sandbox.kubectl(&["get", "configmaps", "-o", "name"])?;
    ensure!(kept.contains("configmap/before") && kept.contains("configmap/after"), "{kept}");
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

#[test]
fn a_region_in_one_process_has_three_members_and_serves() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--location", "us-central1", "--nodes", "1", "--in-process"])?;
    eventually(LIMIT, || all_healthy(&sandbox))?;
    ensure!(sandbox.processes()?.len() == 1, "{:?}", sandbox.processes()?);
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    sandbox.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"])?;
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&["--in-process"])?;
    ensure!(sandbox.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"])? == "b");
    eventually(LIMIT, || all_healthy(&sandbox))?;
    Ok(())
}

#[test]
fn gcloud_makes_a_regional_cluster_of_three_members() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("a regional cluster by gcloud", "not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output =
            sandbox.command(&gcloud).args(["container", "clusters"]).args(arguments).arg("--quiet").output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gcloud {arguments:?}: {err}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&["create", "wide", "--region", "us-central1", "--num-nodes", "1"])?;
    let described =
        run(&["describe", "wide", "--region", "us-central1", "--format=value(currentNodeCount,locations)"])?;
    ensure!(described.starts_with("3\t"), "a node in each of three zones: {described}");
    let wide = || -> Result<Vec<Value>> {
        let status = sandbox.status()?;
        let clusters = status["clusters"].as_array().context("clusters")?;
        let wide = clusters.iter().find(|cluster| cluster["name"] == "wide").context("it is listed")?;
        let members = wide["members"].as_array().context("members")?.clone();
        ensure!(members.len() == 3 && members.iter().all(|member| member["healthy"] == true), "{members:?}");
        Ok(members)
    };
    let members = eventually(LIMIT, wide)?;
    ensure!(members.iter().filter(|member| member["leader"] == true).count() == 1, "{members:?}");
    if on_path("gke-gcloud-auth-plugin").is_some() {
        sandbox.kubectl(&["create", "configmap", "there", "--from-literal=a=b"])?;
    } else {
        skipped("kubectl in a regional cluster by gcloud", "gke-gcloud-auth-plugin is not on PATH");
    }
    run(&["delete", "wide", "--region", "us-central1"])?;
    ensure!(!run(&["list", "--format=value(name)"])?.contains("wide"));
    Ok(())
}
