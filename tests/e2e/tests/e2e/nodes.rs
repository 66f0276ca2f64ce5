//! How nodes join and are talked to (reference: GKE behaviour §1), with kubectl, curl, openssl and gcloud.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, say, skipped};
use serde_json::Value;

use crate::identities::{
    CLIENT_USAGES, as_user, clients, create, create_fails, endpoint, handshake, issued, object, openssl, request, root,
    run, user,
};

const LIMIT: Duration = Duration::from_secs(30);
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Each node of the default cluster with the address of its kubelet, by name.
pub(crate) fn kubelets(sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
    let clusters = std::fs::read_dir(sandbox.data_dir().join("clusters"))?;
    let id = sandbox.status()?["clusters"][0]["id"].as_str().context("an id")?.to_owned();
    for directory in clusters {
        let directory = directory?.path();
        if id.starts_with(directory.file_name().and_then(|name| name.to_str()).unwrap_or("-")) {
            let machines: Value = serde_json::from_slice(&std::fs::read(directory.join("machines.json"))?)?;
            let machines = machines.as_object().context("a map")?;
            let address = |machine: &Value| machine["kubelet"].as_str().unwrap_or_default().to_owned();
            return Ok(machines.iter().map(|(name, machine)| (name.clone(), address(machine))).collect());
        }
    }
    Ok(Vec::new())
}

/// The requests of a signer: name, requester and condition.
fn requests(sandbox: &Sandbox, signer: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&sandbox.kubectl(&["get", "csr", "-o", "json"])?)?;
    let items = list["items"].as_array().context("items")?.iter();
    Ok(items.filter(|request| request["spec"]["signerName"] == signer).cloned().collect())
}

fn all_joined(sandbox: &Sandbox, count: usize) -> Result<()> {
    eventually(LIMIT, || {
        let nodes = sandbox.kubectl(&["get", "nodes", "--no-headers"])?;
        ensure!(nodes.lines().filter(|line| line.contains(" Ready")).count() == count, "{nodes}");
        let serving = requests(sandbox, KUBELET_SERVING)?;
        let issued = serving.iter().filter(|request| !request["status"]["certificate"].is_null()).count();
        ensure!(issued >= count, "{issued} serving certificates");
        Ok(())
    })
}

#[test]
fn nodes_join_by_request_and_go_on_with_what_they_got() -> Result<()> {
    let mut sandbox = Sandbox::start()?;
    all_joined(&sandbox, 3)?;
    let client = requests(&sandbox, KUBELET_CLIENT)?;
    ensure!(client.len() == 3, "{client:?}");
    for request in &client {
        ensure!(request["spec"]["username"] == "kubelet-bootstrap", "{request}");
        let condition = &request["status"]["conditions"][0];
        let message = "Auto approving kubelet client certificate with TPM attestation after SubjectAccessReview.";
        ensure!(condition["type"] == "Approved" && condition["message"] == message, "{condition}");
    }
    for request in requests(&sandbox, KUBELET_SERVING)? {
        let user = request["spec"]["username"].as_str().unwrap_or_default().to_owned();
        ensure!(user.starts_with("system:node:gke-demo-"), "{user}");
        let condition = &request["status"]["conditions"][0];
        ensure!(condition["message"] == "Auto approving kubelet server certificate after SubjectAccessReview.");
    }
    let logs = sandbox.pilothouse(&["logs"])?;
    for line in logs.lines().filter(|line| line.contains("node registered")) {
        say(&format!("{}\n", line.split(" INFO ").nth(1).unwrap_or_default()));
    }

    // Another start: no new request, the same certificates.
    let all = |sandbox: &Sandbox| Ok::<_, anyhow::Error>(requests(sandbox, KUBELET_CLIENT)?.len());
    let before = all(&sandbox)?;
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&[])?;
    eventually(LIMIT, || {
        let logs = sandbox.pilothouse(&["logs"])?;
        ensure!(logs.lines().filter(|line| line.contains("stored=true")).count() == 3, "not all have started");
        Ok(())
    })?;
    all_joined(&sandbox, 3)?;
    ensure!(all(&sandbox)? == before, "a stored certificate was not used");
    Ok(())
}

#[test]
fn a_kubelet_is_talked_to_over_mutual_tls_by_those_who_may() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "2"])?;
    all_joined(&sandbox, 2)?;
    let root = root(&sandbox, "root.pem")?;
    let nodes = kubelets(&sandbox)?;
    let (name, address) = &nodes[0];
    eventually(LIMIT, || {
        let (good, text) = handshake(address, &["-CAfile", &root, "-verify_hostname", name])?;
        ensure!(good && text.contains("Verify return code: 0"), "{text}");
        Ok(())
    })?;
    // Another node's certificate is not good for this one's name.
    let (good, text) = handshake(&nodes[1].1, &["-CAfile", &root, "-verify_hostname", name])?;
    ensure!(!good && text.contains("hostname mismatch"), "{text}");

    let ip = address.split(':').next().unwrap_or_default();
    let curl = |more: &[&str], path: &str| {
        let mut command = Command::new("curl");
        let url = format!("https://{address}{path}");
        run(command.args(["-s", "-w", "\n%{http_code}", "--cacert", &root]).args(more).arg(url))
    };
    ensure!(curl(&[], "/pods")? == "Unauthorized\n401", "{ip}");
    let token = sandbox.kubectl(&["create", "token", "default"])?.trim().to_owned();
    let header = format!("Authorization: Bearer {token}");
    let account = "system:serviceaccount:default:default";
    let forbidden = format!("Forbidden (user={account}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n\n403");
    ensure!(curl(&["-H", &header], "/pods")? == forbidden);
    ensure!(curl(&["-H", "Authorization: Bearer nonsense"], "/pods")?.ends_with("\n401"));
    sandbox.kubectl(&["create", "clusterrole", "health", "--verb=get", "--resource=nodes/healthz"])?;
    sandbox.kubectl(&[
        "create",
        "clusterrolebinding",
        "h",
        "--clusterrole=health",
        "--serviceaccount=default:default",
    ])?;
    eventually(LIMIT, || {
        ensure!(curl(&["-H", &header], "/healthz")? == "ok\n200");
        Ok(())
    })?;
    ensure!(curl(&["-H", &header], "/metrics")?.ends_with("\n403"), "healthz is not metrics");
    let jane = user(&sandbox, "jane", "/CN=jane")?;
    let certificate = ["--cert", &jane.0, "--key", &jane.1];
    ensure!(curl(&certificate, "/pods")?.contains("user=jane"), "a certificate of the cluster is somebody");
    let etcd =
        ["etcd-client.crt", "etcd-client.key"].map(|f| sandbox.data_dir().join("user").join(f).display().to_string());
    ensure!(curl(&["--cert", &etcd[0], "--key", &etcd[1]], "/pods")? == "Unauthorized\n401", "the store's is nobody");

    // The API server has a certificate of its own for this.
    sandbox.kubectl(&["run", "web", "--image=nginx"])?;
    sandbox.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"])?;
    let on = sandbox.kubectl(&["get", "pod", "web", "-o", "jsonpath={.spec.nodeName}"])?;
    let proxied = |path: &str| sandbox.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{on}/proxy{path}")]);
    ensure!(proxied("/healthz")? == "ok");
    eventually(LIMIT, || {
        let pods: Value = serde_json::from_str(&proxied("/runningpods/")?)?;
        ensure!(pods["items"][0]["metadata"]["name"] == "web", "{pods}");
        Ok(())
    })?;
    let metrics = proxied("/metrics")?;
    ensure!(metrics.contains("kubelet_certificate_manager_client_ttl_seconds 315"), "{metrics}");
    let no_such = sandbox.kubectl_fails(&["get", "--raw", "/api/v1/nodes/nobody/proxy/healthz"])?;
    ensure!(no_such.contains("not found"), "{no_such}");
    Ok(())
}

#[test]
fn a_node_speaks_for_itself_only() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let a = user(&sandbox, "a", "/O=system:nodes/CN=system:node:a")?;
    let (root, server) = (root(&sandbox, "root.pem")?, format!("https://{}", endpoint(&sandbox)?));
    let flags = as_user(&a, &root, &server);
    let file_as = |name: &str, asked: &Value| -> Result<Vec<String>> {
        let file = sandbox.file(&format!("{name}.json"), &asked.to_string())?;
        Ok(flags.iter().copied().chain(["create", "-f", &file]).map(str::to_owned).collect())
    };
    let text = |words: &[String]| -> Vec<String> { words.to_vec() };
    let b = request(&sandbox, "b", "/O=system:nodes/CN=system:node:b", &[])?;
    let words = text(&file_as("b", &object("b", &b.csr, KUBELET_CLIENT, &CLIENT_USAGES)?)?);
    let refused = sandbox.kubectl_fails(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(refused.contains("can only create a node CSR with CN=system:node:a"), "{refused}");
    // Its own renewal is approved; a serving certificate for an address that is not the machine's is denied.
    let own = request(&sandbox, "own", "/O=system:nodes/CN=system:node:a", &[])?;
    let words = file_as("own", &object("own", &own.csr, KUBELET_CLIENT, &CLIENT_USAGES)?)?;
    sandbox.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let renewed = issued(&sandbox, "own")?;
    ensure!(openssl(&["x509", "-in", &renewed, "-noout", "-subject"])?.contains("system:node:a"));
    let names = ["-addext", "subjectAltName=DNS:kubernetes.default.svc,IP:34.118.224.1"];
    let serving = request(&sandbox, "serving", "/O=system:nodes/CN=system:node:a", &names)?;
    let asked = object("serving", &serving.csr, KUBELET_SERVING, &["digital signature", "server auth"])?;
    let words = file_as("serving", &asked)?;
    sandbox.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    eventually(LIMIT, || {
        let listed = sandbox.kubectl(&["get", "csr", "serving", "--no-headers"])?;
        ensure!(listed.trim().ends_with("Denied"), "{listed}");
        Ok(())
    })
}

/// What comes of a request for a node's certificate that is filed with a stolen bootstrap credential.
fn impersonate(sandbox: &Sandbox, bootstrap: &str, blocks: &str) -> Result<String> {
    let thief = user(sandbox, bootstrap, &format!("/CN={bootstrap}"))?;
    let (root, server) = (root(sandbox, "root.pem")?, format!("https://{}", endpoint(sandbox)?));
    let victim = format!("/O=system:nodes/CN=system:node:{}", kubelets(sandbox)?[0].0);
    let asked = request(sandbox, "victim", &victim, &[])?;
    let text = std::fs::read_to_string(&asked.csr)? + blocks;
    let csr = sandbox.file("with-blocks.csr", &text)?;
    let file = sandbox.file("victim.json", &object("victim", &csr, KUBELET_CLIENT, &CLIENT_USAGES)?.to_string())?;
    sandbox.kubectl(&[&as_user(&thief, &root, &server)[..], &["create", "-f", &file]].concat())?;
    // A later request that is decided shows that this one was looked at.
    let later = request(sandbox, "later", "/O=system:nodes/CN=system:node:later", &[])?;
    let later = object("later", &later.csr, KUBELET_CLIENT, &CLIENT_USAGES)?;
    create(sandbox, &later)?;
    sandbox.kubectl(&["certificate", "approve", "later"])?;
    issued(sandbox, "later")?;
    let listed = sandbox.kubectl(&["get", "csr", "victim", "--no-headers"])?;
    Ok(listed.split_whitespace().last().unwrap_or_default().to_owned())
}

#[test]
fn a_stolen_bootstrap_secret_is_of_no_use_where_machines_attest_themselves() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    all_joined(&sandbox, 1)?;
    let condition = impersonate(&sandbox, "kubelet-bootstrap", "")?;
    ensure!(condition == "Pending", "without attestation: {condition}");
    // The blocks of the node's own, real request, around another key.
    let real = requests(&sandbox, KUBELET_CLIENT)?;
    let real =
        real.iter().find(|request| request["metadata"]["name"].as_str().unwrap_or_default().starts_with("node-csr-"));
    let encoded = real.and_then(|request| request["spec"]["request"].as_str()).context("the node's own request")?;
    let file = sandbox.file("real.b64", encoded)?;
    let text = run(Command::new("base64").args(["-d", &file]))?;
    let (_, blocks) = text.split_once("-----END CERTIFICATE REQUEST-----\n").context("a request")?;
    ensure!(blocks.contains("ATTESTATION SIGNATURE"), "{text}");
    for name in ["victim", "later", "kubelet-bootstrap"] {
        sandbox.kubectl(&["delete", "csr", name])?;
    }
    let condition = impersonate(&sandbox, "kubelet-bootstrap", blocks)?;
    ensure!(condition == "Denied", "with another key's attestation: {condition}");
    Ok(())
}

#[test]
fn a_stolen_bootstrap_secret_is_any_node_where_they_do_not() -> Result<()> {
    let Some(gcloud) = on_path("gcloud").filter(|_| clients()) else {
        skipped("unshielded nodes", "gcloud, openssl or curl is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--no-cluster"])?;
    let create = ["container", "clusters", "create", "open", "--zone", "us-central1-a", "--num-nodes", "1"];
    run(sandbox.command(&gcloud).args(create).args(["--no-enable-shielded-nodes", "--quiet"]))?;
    all_joined(&sandbox, 1)?;
    let joined = requests(&sandbox, KUBELET_CLIENT)?;
    ensure!(joined[0]["spec"]["username"] == "kubelet", "{joined:?}");
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    ensure!(joined[0]["status"]["conditions"][0]["message"] == message, "{joined:?}");
    eventually(LIMIT, || {
        let condition = impersonate(&sandbox, "kubelet", "").inspect_err(|_| {
            for name in ["victim", "later", "kubelet"] {
                let _ = sandbox.kubectl(&["delete", "csr", name, "--ignore-not-found"]);
            }
        })?;
        ensure!(condition.contains("Issued"), "{condition}");
        Ok(())
    })?;
    // Not even there for whom no machine's kind of request is meant.
    let masters = request(&sandbox, "masters", "/O=system:masters/CN=system:node:x", &[])?;
    let refused = create_fails(&sandbox, &object("m", &masters.csr, crate::identities::CLIENT, &CLIENT_USAGES)?)?;
    ensure!(refused.contains("system:masters group is not allowed"), "{refused}");
    Ok(())
}
