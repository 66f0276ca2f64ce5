//! What the fleet promises: each process is started again by itself, and a cluster that could not start is tried again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};
use serde_json::{Value, json};

/// Longer than a restart takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(20);

/// The process of a role in the only cluster.
fn pid(sandbox: &Sandbox, role: &str) -> Result<u64> {
    let status = sandbox.status()?;
    let instances = status["clusters"][0]["instances"].as_array().context("instances")?;
    let found = instances.iter().find(|i| i["role"] == role).context("no such role")?;
    found["pid"].as_u64().filter(|pid| *pid > 0).with_context(|| format!("{found}"))
}

fn kill(pid: u64) -> Result<()> {
    ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success());
    Ok(())
}

#[test]
fn a_killed_signer_costs_nobody_a_connection() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let (signer, instance) = (pid(&sandbox, "signer")?, pid(&sandbox, "control-plane")?);
    kill(signer)?;
    // A token is signed by the signer: the request waits for the next one.
    let token = sandbox.kubectl(&["create", "token", "default"])?;
    ensure!(token.split('.').count() == 3, "{token}");
    let restarted = eventually(LIMIT, || pid(&sandbox, "signer"))?;
    ensure!(restarted != signer && pid(&sandbox, "control-plane")? == instance, "more than the signer was restarted");
    let status = sandbox.status()?;
    ensure!(status["clusters"][0]["state"] == "RUNNING", "{status}");
    ensure!(sandbox.pilothouse(&["inspect"])?.contains("etcd-api CA"), "the fleet's own door works again");
    Ok(())
}

#[test]
fn a_killed_instance_comes_back_and_its_signer_stays() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let signer = pid(&sandbox, "signer")?;
    for round in 0..3 {
        let before = pid(&sandbox, "control-plane")?;
        let name = format!("kept-{round}");
        sandbox.kubectl(&["create", "configmap", &name])?;
        kill(before)?;
        eventually(LIMIT, || sandbox.kubectl(&["get", "configmap", &name]))?;
        ensure!(pid(&sandbox, "control-plane")? != before && pid(&sandbox, "signer")? == signer, "round {round}");
    }
    Ok(())
}

/// One request to the cloud as the project's owner.
fn call(sandbox: &Sandbox, verb: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let host = sandbox.variable("GCE_METADATA_HOST");
    let mut stream = TcpStream::connect(host)?;
    let (token, body) = (sandbox.variable("CLOUDSDK_AUTH_ACCESS_TOKEN"), body.to_string());
    write!(
        stream,
        "{verb} /v1/projects/pilothouse-local/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok((head.split(' ').nth(1).context("no code")?.parse()?, serde_json::from_str(body)?))
}

#[test]
fn a_cluster_that_could_not_start_says_why_and_is_tried_again() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--no-cluster"])?;
    let (logs, aside) = (sandbox.data_dir().join("logs"), sandbox.data_dir().join("logs-aside"));
    let in_the_way = |on: bool| -> Result<()> {
        if on {
            fs::rename(&logs, &aside)?;
            fs::write(&logs, "in the way")?;
        } else {
            fs::remove_file(&logs)?;
            fs::rename(&aside, &logs)?;
        }
        Ok(())
    };
    in_the_way(true)?;
    let clusters = "locations/us-central1-a/clusters";
    let body = json!({"cluster": {"name": "late", "initialNodeCount": 1}});
    let (code, answer) = call(&sandbox, "POST", clusters, &body)?;
    ensure!(code == 200, "{answer}");
    let (code, answer) = call(&sandbox, "POST", clusters, &body)?;
    let exists = "Already exists: projects/pilothouse-local/zones/us-central1-a/clusters/late.";
    ensure!(code == 409 && answer["error"]["message"] == exists, "{answer}");
    let late = format!("{clusters}/late");
    let is = |sandbox: &Sandbox, wanted: &str| {
        eventually(LIMIT, || {
            let (_, cluster) = call(sandbox, "GET", &late, &json!({}))?;
            ensure!(cluster["status"] == wanted, "{cluster}");
            Ok(cluster)
        })
    };
    let failed = is(&sandbox, "ERROR")?;
    ensure!(failed["statusMessage"].as_str().is_some_and(|why| why.contains("late-us-central1-a")), "{failed}");
    ensure!(sandbox.pilothouse(&["status"])?.contains("FAILED: "));
    in_the_way(false)?;
    // The fleet goes on trying; a repair follows its success.
    let running = is(&sandbox, "RUNNING")?;
    ensure!(running["endpoint"].is_string() && running.get("statusMessage").is_none(), "{running}");
    // A cluster that ran before and cannot now says so too, and the next start tries it again.
    sandbox.pilothouse(&["down"])?;
    let identity = fs::read_dir(sandbox.data_dir().join("clusters"))?.next().context("no cluster")??.path();
    let identity = identity.join("control-plane-0/identity.json");
    let whole = fs::read(&identity)?;
    fs::write(&identity, "{")?;
    sandbox.up(&[])?;
    let failed = is(&sandbox, "ERROR")?;
    ensure!(failed["statusMessage"].as_str().is_some_and(|why| why.contains("identity.json is damaged")), "{failed}");
    sandbox.pilothouse(&["down"])?;
    fs::write(&identity, whole)?;
    sandbox.up(&[])?;
    is(&sandbox, "RUNNING")?;
    Ok(())
}

#[test]
fn a_certificate_of_the_api_names_every_group() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("certificate requests with many groups", "openssl is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let (key, csr) = (sandbox.file("jane.key", "")?, sandbox.file("jane.csr", "")?);
    // All organizations in one set, as Go's crypto/x509 writes them.
    let arguments =
        ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-multivalue-rdn", "-subj", "/O=dev+O=ops+O=qa/CN=jane"];
    let output = Command::new(openssl).args(arguments).args(["-keyout", &key, "-out", &csr]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let request = base64(&fs::read(&csr)?);
    let manifest = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "jane"}, "spec": {"request": request, "usages": ["client auth"],
        "signerName": "kubernetes.io/kube-apiserver-client"}});
    sandbox.kubectl_with_input(&["create", "-f", "-"], &manifest.to_string())?;
    sandbox.kubectl(&["certificate", "approve", "jane"])?;
    let certificate = eventually(LIMIT, || {
        let text = sandbox.kubectl(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"])?;
        ensure!(!text.is_empty());
        Ok(text)
    })?;
    let config = sandbox.file("jane.kubeconfig", &fs::read_to_string(sandbox.variable("KUBECONFIG"))?)?;
    let with_config = |arguments: &[&str]| sandbox.kubectl(&[&["--kubeconfig", &config], arguments].concat());
    with_config(&["config", "set", "users.jane.client-certificate-data", &certificate])?;
    with_config(&["config", "set-credentials", "jane", "--client-key", &key])?;
    let who = with_config(&["--user", "jane", "auth", "whoami", "-o", "json"])?;
    let who: Value = serde_json::from_str(&who)?;
    let user = &who["status"]["userInfo"];
    let mut groups: Vec<&str> = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    groups.sort_unstable();
    ensure!(user["username"] == "jane" && groups == ["dev", "ops", "qa", "system:authenticated"], "{who}");
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}
