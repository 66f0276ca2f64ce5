//! etcdctl, client-go and the Python client.

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, python, skipped};

#[test]
fn etcdctl_reads_what_kubernetes_wrote() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("etcdctl", "not built and not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = sandbox.command(&etcdctl).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(run(&["get", "/registry/namespaces/default", "--keys-only"])?.trim() == "/registry/namespaces/default");
    run(&["put", "mine", "1"])?;
    ensure!(run(&["get", "mine", "--print-value-only"])?.trim() == "1");
    ensure!(run(&["endpoint", "health"])?.is_empty() || run(&["endpoint", "status"])?.contains("3.6."));
    let count = run(&["get", "/registry/", "--prefix", "--count-only", "--write-out=fields"])?;
    ensure!(count.contains("\"Count\""), "{count}");
    Ok(())
}

#[test]
fn etcd_refuses_callers_without_a_certificate_of_its_own_authority() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("etcdctl without certificate", "not built and not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let output = sandbox
        .command(&etcdctl)
        .env_remove("ETCDCTL_CERT")
        .env_remove("ETCDCTL_KEY")
        .args(["get", "x", "--command-timeout=2s", "--dial-timeout=1s"])
        .output()?;
    ensure!(!output.status.success(), "a caller without a certificate got in");
    Ok(())
}

#[test]
fn client_go_typed_clients_informers_and_scale_work_over_protobuf() -> Result<()> {
    let Some(program) = client("clientgo") else {
        skipped("client-go", "go is not installed");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let output = sandbox.command(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

const PYTHON_PROGRAM: &str = r#"
from kubernetes import client, config, watch
config.load_kube_config()
core = client.CoreV1Api()
made = core.create_namespaced_config_map("default", {"metadata": {"generateName": "py-"}, "data": {"k": "v"}})
name = made.metadata.name
core.patch_namespaced_config_map(name, "default", {"data": {"k": "w"}})
assert core.read_namespaced_config_map(name, "default").data == {"k": "w"}
seen = []
w = watch.Watch()
for event in w.stream(core.list_namespaced_config_map, "default", timeout_seconds=5, field_selector="metadata.name=" + name):
    seen.append(event["type"])
    if event["type"] == "ADDED":
        core.delete_namespaced_config_map(name, "default")
    if event["type"] == "DELETED":
        w.stop()
assert seen == ["ADDED", "DELETED"], seen
try:
    core.read_namespaced_config_map(name, "default")
    raise SystemExit("still there")
except client.ApiException as e:
    assert e.status == 404, e
print("nodes", len(core.list_node().items))
"#;

#[test]
fn a_python_client_of_the_json_gateway_reads_writes_watches_leases_and_locks() -> Result<()> {
    let Some(python) = python() else {
        skipped("the Python gateway client", "python3 with venv is not installed");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let script = sandbox.file("gateway.py", include_str!("../../clients/gateway.py"))?;
    let output = sandbox.command(python).arg(script).output().context("python does not run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("members 1"), "{text}");
    Ok(())
}

#[test]
fn the_python_client_creates_patches_watches_and_deletes() -> Result<()> {
    let Some(python) = python() else {
        skipped("the Python client", "python3 with venv is not installed");
        return Ok(());
    };
    let sandbox = Sandbox::start()?;
    let script = sandbox.file("client.py", PYTHON_PROGRAM)?;
    let output = sandbox.command(python).arg(script).output().context("python does not run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("nodes 3"), "{text}");
    Ok(())
}
