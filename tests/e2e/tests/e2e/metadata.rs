//! Metadata servers (reference: GKE behaviour §1, §4, §10), with curl and openssl.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually};
use serde_json::Value;

use crate::identities::{clients, openssl, run};

const LIMIT: Duration = Duration::from_secs(30);
const FLAVOR: [&str; 2] = ["-H", "Metadata-Flavor: Google"];

/// The instances of the first cluster, with the addresses of their metadata servers.
fn instances(sandbox: &Sandbox) -> Result<Vec<(String, u32, String)>> {
    let status = sandbox.status()?;
    let all = status["clusters"][0]["instances"].as_array().context("instances")?.clone();
    let one = |instance: &Value| {
        let metadata = instance["metadata"].as_str()?.to_owned();
        let pid = u32::try_from(instance["pid"].as_u64()?).ok()?;
        Some((instance["name"].as_str()?.to_owned(), pid, metadata))
    };
    Ok(all.iter().filter_map(one).collect())
}

fn logs(sandbox: &Sandbox, process: &str) -> Result<String> {
    sandbox.pilothouse(&["logs", process])
}

/// Where the store serves its clients, and by whom its certificate is signed.
fn issuer(sandbox: &Sandbox, place: usize) -> Result<String> {
    let status = sandbox.status()?;
    let endpoint = status["clusters"][0]["etcdEndpoints"][place].as_str().context("an endpoint")?.to_owned();
    let address = endpoint.trim_start_matches("https://").to_owned();
    // It wants a certificate of us and has none: that it hangs up does not matter here.
    let output = Command::new("openssl").args(["s_client", "-connect", &address]).stdin(Stdio::null()).output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let leaf = sandbox.file(&format!("store-{place}.pem"), &shown)?;
    openssl(&["x509", "-in", &leaf, "-noout", "-issuer"])
}

#[test]
fn an_instance_has_the_etcd_ca_from_its_metadata_and_nobody_else_is_heard() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let found = instances(&sandbox)?;
    let [(name, pid, server)] = &found[..] else { anyhow::bail!("one instance: {found:?}") };
    let alias = server.split(':').next().unwrap_or_default();
    let url = format!("http://{server}/computeMetadata/v1/instance/attributes/kube-env");
    // As whoever: with the header, from the instance's own address, as another user's process could not even.
    for more in [&[][..], &["--interface", alias], &["-H", "Host: metadata.google.internal"]] {
        let output = Command::new("curl").args(["-sS", "-m", "5"]).args(FLAVOR).args(more).arg(&url).output()?;
        ensure!(!output.status.success() && output.stdout.is_empty(), "{more:?}: {output:?}");
    }
    let cloud = logs(&sandbox, "cloud")?;
    ensure!(cloud.matches("refused a connection: it is not this instance's").count() >= 3, "{cloud}");
    ensure!(cloud.contains("handed the key of the etcd API CA to the instance"), "{cloud}");

    // What the signer did, and what it no longer does.
    let signer = logs(&sandbox, "demo-us-central1-a-signer")?;
    let hand_over = signer.lines().find(|line| line.contains("handed out the key of an authority"));
    let hand_over = hand_over.context("the signer's log tells")?;
    ensure!(
        hand_over.contains("requester=\"metadata\"") && hand_over.contains("authority=\"etcd-api\""),
        "{hand_over}"
    );
    ensure!(!signer.contains("profile=\"etcd-serving\"") && !signer.contains("PRIVATE KEY"), "{signer}");
    let instance = logs(&sandbox, &format!("demo-us-central1-a-{name}"))?;
    for subject in ["etcd", "kube-apiserver"] {
        let issued = format!("subject=\"{subject}\"");
        let line = |line: &str| line.contains(" authority: issued ") && line.contains(&issued);
        ensure!(instance.lines().any(line), "{subject}: {instance}");
    }
    ensure!(!instance.contains("PRIVATE KEY") && !cloud.contains("PRIVATE KEY"));

    // It is used: by the API server towards its store, and for the store itself.
    let trust: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "trust", "-o", "json"])?)?;
    let connections = trust[0]["connections"].as_array().context("connections")?;
    let own =
        connections.iter().find(|c| c["from"] == format!("API server {name}") && c["to"] == format!("store {name}"));
    let own = own.context("the API server uses its store")?;
    let certificates = trust[0]["certificates"].as_array().context("certificates")?;
    let shown = certificates.iter().find(|c| c["sha256"] == own["client"]).context("its certificate")?;
    ensure!(shown["authority"] == "etcd-api" && shown["subject"] == "CN=kube-apiserver", "{shown}");

    // A new instance asks anew; the authority stays.
    let before = issuer(&sandbox, 0)?;
    run(Command::new("kill").args(["-9", &pid.to_string()]))?;
    eventually(LIMIT, || {
        let now = instances(&sandbox)?;
        ensure!(now.first().is_some_and(|(_, other, same)| other != pid && same == server), "{now:?}");
        sandbox.kubectl(&["get", "ns"])
    })?;
    ensure!(issuer(&sandbox, 0)? == before);
    let handed = logs(&sandbox, "cloud")?.matches("handed the key").count();
    ensure!(handed == 2, "{handed} hand-overs for two starts");
    Ok(())
}

#[test]
fn instances_of_a_region_have_a_server_each_and_one_authority() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let mut sandbox = Sandbox::start_with(&["--region", "us-central1", "--nodes", "0"])?;
    let before = instances(&sandbox)?;
    let mut addresses: Vec<&String> = before.iter().map(|(_, _, address)| address).collect();
    addresses.sort();
    addresses.dedup();
    ensure!(before.len() == 3 && addresses.len() == 3, "{before:?}");
    let authority = issuer(&sandbox, 0)?;
    ensure!(issuer(&sandbox, 1)? == authority && issuer(&sandbox, 2)? == authority);
    // The signer dies; an instance that starts after that gets the key from its successor.
    let signer = sandbox.processes()?.into_iter().find(|(_, role)| role == "signer").context("it runs")?.0;
    run(Command::new("kill").args(["-9", &signer.to_string()]))?;
    run(Command::new("kill").args(["-9", &before[1].1.to_string()]))?;
    eventually(LIMIT, || {
        let now = instances(&sandbox)?;
        ensure!(now.len() == 3 && now[1].1 != before[1].1, "{now:?}");
        Ok(())
    })?;
    ensure!(issuer(&sandbox, 1)? == authority);
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&[])?;
    let again: Vec<String> = instances(&sandbox)?.into_iter().map(|(_, _, address)| address).collect();
    ensure!(again == before.iter().map(|(_, _, address)| address.clone()).collect::<Vec<_>>(), "{again:?}");
    ensure!(issuer(&sandbox, 2)? == authority);
    Ok(())
}

#[test]
fn in_one_process_it_is_the_same() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--in-process", "--nodes", "0"])?;
    let cloud = logs(&sandbox, "cloud")?;
    for line in ["handed out the key of an authority", "took the etcd API CA from the metadata server"] {
        ensure!(cloud.contains(line), "{line}: {cloud}");
    }
    let server = sandbox.status()?["clusters"][0]["instances"][0]["metadata"].as_str().context("a server")?.to_owned();
    let output =
        Command::new("curl").args(["-sS", "-m", "5"]).args(FLAVOR).arg(format!("http://{server}/")).output()?;
    ensure!(!output.status.success(), "{output:?}");
    Ok(())
}
