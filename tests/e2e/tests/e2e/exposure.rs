//! Who reaches a control plane from where (reference: GKE behaviour §5), with curl, kubectl and gcloud.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, eventually, on_path, skipped};
use serde_json::{Value, json};

use crate::identities::{endpoint, root, run};
use crate::nodes::kubelets;

const LIMIT: Duration = Duration::from_secs(30);
const PLACE: &str = "us-central1-a";
/// A host on the internet, and the one that is let in.
const STRANGER: &str = "127.0.0.9";
const FRIEND: &str = "127.0.0.10";
const PROVIDER: &str = "127.0.7.1";
const GOOGLE: &str = "127.0.8.1";
const NETWORK: &str = "127.0.16.1";
const OTHER_REGION: &str = "127.0.17.1";
/// What curl ends with when nobody answers in time, and when the connection is reset: while it connects, shakes hands or reads.
const TIMEOUT: &[i32] = &[28];
const RESET: &[i32] = &[7, 35, 56];

/// What curl says of a health check from an address.
fn livez(source: &str, address: &str) -> Result<Outcome> {
    let mut command = Command::new("curl");
    command.args(["--interface", source, "-m", "3", "-sk", "-o", "/dev/null", "-w", "%{http_code}"]);
    let output = command.arg(format!("https://{address}/livez")).stdin(Stdio::null()).output()?;
    let code = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(if output.status.success() { Outcome::Code(code) } else { Outcome::Exit(output.status.code().unwrap_or(-1)) })
}

#[derive(Debug)]
enum Outcome {
    Code(String),
    Exit(i32),
}

fn lets_in(source: &str, address: &str) -> Result<()> {
    let outcome = livez(source, address)?;
    ensure!(matches!(&outcome, Outcome::Code(code) if code == "200"), "{source} at {address}: {outcome:?}");
    Ok(())
}

fn keeps_out(source: &str, address: &str, exits: &[i32]) -> Result<()> {
    let outcome = livez(source, address)?;
    let as_expected = matches!(outcome, Outcome::Exit(code) if exits.contains(&code));
    ensure!(as_expected, "{source} at {address}: {outcome:?}");
    Ok(())
}

/// An object of the API, read or written with the owner's token from an address.
fn api(sandbox: &Sandbox, source: &str, address: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let token = std::fs::read_to_string(sandbox.data_dir().join("user/access-token"))?;
    let mut command = Command::new("curl");
    command.args(["--interface", source, "-m", "10", "-sk", "-H", &format!("Authorization: Bearer {}", token.trim())]);
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    Ok(serde_json::from_str(&run(command.arg(format!("https://{address}{path}")))?)?)
}

/// Are so many nodes ready, as seen through this door?
fn ready(sandbox: &Sandbox, source: &str, address: &str, count: usize) -> Result<()> {
    let nodes = api(sandbox, source, address, "/api/v1/nodes", None)?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    let ready = nodes["items"].as_array().context("items")?.iter().filter(is_ready).count();
    ensure!(ready == count, "{ready} nodes are ready");
    Ok(())
}

/// `ip:port` of the internal endpoint.
fn internal(sandbox: &Sandbox) -> Result<String> {
    let status = sandbox.status()?;
    let endpoint = status["clusters"][0]["internalEndpoint"].as_str().context("an internal endpoint")?.to_owned();
    Ok(if endpoint.contains(':') { endpoint } else { format!("{endpoint}:443") })
}

/// The clients that these tests are about.
fn clients() -> Option<PathBuf> {
    let gcloud = on_path("gcloud");
    if gcloud.is_none() || on_path("curl").is_none() {
        skipped("exposure", "gcloud or curl not on PATH");
        return None;
    }
    gcloud
}

/// gcloud's standard output.
fn gcloud(sandbox: &Sandbox, arguments: &[&str]) -> Result<String> {
    let gcloud = on_path("gcloud").context("gcloud")?;
    run(sandbox.command(gcloud).args(["container", "clusters"]).args(arguments).args(["--quiet", "--zone", PLACE]))
}

fn describe(sandbox: &Sandbox, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&gcloud(sandbox, &["describe", name, "--format=json"])?)?)
}

/// Code and message of a refused update.
fn refused(sandbox: &Sandbox, update: &Value) -> Result<(i64, String)> {
    let token = std::fs::read_to_string(sandbox.data_dir().join("user/access-token"))?;
    let project = sandbox.variable("PILOTHOUSE_PROJECT");
    let cluster = format!("/v1/projects/{project}/locations/{PLACE}/clusters/demo");
    let url = format!("{}{cluster}", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    let body = json!({"update": update}).to_string();
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let answer = run(Command::new("curl").args(["-s", "-X", "PUT", "-H", &bearer, "-d", &body, &url]))?;
    let answer: Value = serde_json::from_str(&answer)?;
    let error = &answer["error"];
    Ok((error["code"].as_i64().unwrap_or(0), error["message"].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn authorized_networks_decide_before_tls_and_change_live() -> Result<()> {
    if clients().is_none() {
        return Ok(());
    }
    let mut sandbox = Sandbox::start()?;
    let external = endpoint(&sandbox)?;
    lets_in(STRANGER, &external)?;
    eventually(LIMIT, || ready(&sandbox, STRANGER, &external, 3))?;

    let kubectl = client("kubectl").context("no kubectl")?;
    let mut watch = sandbox.command(kubectl);
    watch.args(["get", "configmaps", "-n", "default", "--watch", "-o", "name"]).stdout(Stdio::piped());
    let mut watch = watch.spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let first = lines.next().context("the root CA's")??;
    ensure!(first == "configmap/kube-root-ca.crt", "{first}");

    let flag = format!("{FRIEND}/32");
    gcloud(
        &sandbox,
        &["update", "demo", "--enable-master-authorized-networks", "--master-authorized-networks", &flag],
    )?;
    keeps_out(STRANGER, &external, TIMEOUT)?;
    keeps_out("127.0.0.1", &external, TIMEOUT)?;
    lets_in(FRIEND, &external)?;
    let node = kubelets(&sandbox)?[0].1.clone();
    let node = node.split(':').next().context("an address")?;
    for source in [node, PROVIDER, GOOGLE] {
        lets_in(source, &external)?;
    }
    lets_in(NETWORK, &internal(&sandbox)?)?;

    let object = json!({"metadata": {"name": "news"}});
    api(&sandbox, FRIEND, &external, "/api/v1/namespaces/default/configmaps", Some(&object))?;
    let second = lines.next().context("an open connection goes on")??;
    watch.kill()?;
    watch.wait()?;
    ensure!(second == "configmap/news", "{second}");

    let inspected: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "endpoints", "-o", "json"])?)?;
    let cluster = &inspected["clusters"][0];
    ensure!(cluster["denied"].as_u64() >= Some(2) && cluster["settings"]["authorized"][0] == flag, "{inspected}");
    let log = sandbox.pilothouse(&["logs", "cloud"])?;
    ensure!(log.contains("a connection is not let in: no authorized network has the address"), "{log}");

    gcloud(&sandbox, &["update", "demo", "--no-enable-google-cloud-access"])?;
    keeps_out(GOOGLE, &external, TIMEOUT)?;
    lets_in(FRIEND, &external)?;

    sandbox.pilothouse(&["down"])?;
    let address = internal(&sandbox);
    ensure!(address.is_err(), "nothing runs");
    sandbox.up(&["--endpoint-deny", "reset"])?;
    ensure!(endpoint(&sandbox)? == external, "the address stays");
    keeps_out(STRANGER, &external, RESET)?;
    eventually(LIMIT, || ready(&sandbox, FRIEND, &external, 3))?;

    gcloud(&sandbox, &["update", "demo", "--no-enable-master-authorized-networks"])?;
    lets_in(STRANGER, &external)?;
    sandbox.kubectl(&["get", "nodes"])?;
    Ok(())
}

#[test]
fn a_private_endpoint_serves_the_network_and_nobody_else() -> Result<()> {
    if clients().is_none() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--endpoint-deny", "reset", "--nodes", "1"])?;
    let (external, internal) = (endpoint(&sandbox)?, internal(&sandbox)?);
    lets_in(NETWORK, &internal)?;
    keeps_out(STRANGER, &internal, RESET)?;
    let authority = root(&sandbox, "root.pem")?;
    run(Command::new("curl")
        .args(["-sf", "--interface", NETWORK, "--cacert", &authority])
        .arg(format!("https://{internal}/livez")))?;

    gcloud(&sandbox, &["update", "demo", "--enable-private-endpoint"])?;
    for source in [STRANGER, NETWORK, GOOGLE, PROVIDER] {
        keeps_out(source, &external, RESET)?;
    }
    lets_in(NETWORK, &internal)?;
    keeps_out(OTHER_REGION, &internal, RESET)?;
    let described = describe(&sandbox, "demo")?;
    let shown = internal.trim_end_matches(":443");
    ensure!(described["endpoint"] == shown, "{}", described["endpoint"]);
    let ip = &described["controlPlaneEndpointsConfig"]["ipEndpointsConfig"];
    ensure!(ip["enablePublicEndpoint"] == false && ip["publicEndpoint"].is_null(), "{ip}");
    ensure!(described["privateClusterConfig"]["enablePrivateEndpoint"] == true, "{described}");
    gcloud(&sandbox, &["get-credentials", "demo", "--internal-ip"])?;
    let server = sandbox.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    ensure!(server == format!("https://{shown}"), "{server}");
    eventually(LIMIT, || ready(&sandbox, NETWORK, &internal, 1))?;
    let explained = sandbox.pilothouse(&["explain", "can-i", "get", "pods"])?;
    ensure!(explained.starts_with("yes"), "{explained}");
    let trust = sandbox.pilothouse(&["inspect", "trust"])?;
    ensure!(!trust.contains("NO ANSWER"), "{trust}");

    gcloud(&sandbox, &["update", "demo", "--enable-master-global-access"])?;
    lets_in(OTHER_REGION, &internal)?;

    for (update, text) in [
        (
            json!({"desiredMasterAuthorizedNetworksConfig": {"enabled": true,
                "cidrBlocks": (0..51).map(|i| json!({"cidrBlock": format!("10.0.{i}.0/24")})).collect::<Vec<_>>()}}),
            "Invalid master authorized networks",
        ),
        (
            json!({"desiredEnablePrivateEndpoint": true,
                "desiredControlPlaneEndpointsConfig": {"ipEndpointsConfig": {"enablePublicEndpoint": false}}}),
            "must not be set",
        ),
    ] {
        let (code, message) = refused(&sandbox, &update)?;
        ensure!(code == 400 && message.contains(text), "{code}: {message}");
    }
    gcloud(&sandbox, &["update", "demo", "--no-enable-private-endpoint"])?;
    lets_in(STRANGER, &external)
}

#[test]
fn a_cluster_can_be_born_private() -> Result<()> {
    if clients().is_none() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--endpoint-deny", "reset", "--no-cluster"])?;
    let flags = ["--enable-private-nodes", "--enable-private-endpoint", "--enable-ip-alias", "--num-nodes", "2"];
    let networks = ["--enable-master-authorized-networks", "--master-authorized-networks", "127.0.16.0/30"];
    let block = ["--master-ipv4-cidr", "172.16.0.32/28"];
    gcloud(&sandbox, &[&["create", "locked"], &flags[..], &networks, &block].concat())?;
    let described = describe(&sandbox, "locked")?;
    let (private, public) = (&described["privateClusterConfig"], endpoint(&sandbox)?);
    ensure!(private["privateEndpoint"] == described["endpoint"], "{described}");
    ensure!(private["masterIpv4CidrBlock"] == "172.16.0.32/28", "{described}");
    let enforced = &described["masterAuthorizedNetworksConfig"]["privateEndpointEnforcementEnabled"];
    ensure!(*enforced == true, "{described}");
    let internal = internal(&sandbox)?;
    eventually(LIMIT, || ready(&sandbox, NETWORK, &internal, 2))?;
    keeps_out("127.0.16.9", &internal, RESET)?;
    keeps_out(NETWORK, &public, RESET)
}

#[test]
fn where_addresses_cannot_be_aliases_the_port_tells_who_is_inside() -> Result<()> {
    if clients().is_none() {
        return Ok(());
    }
    let flags = ["--endpoint-deny", "reset", "--nodes", "2"];
    let Some(mut sandbox) = Sandbox::start_without_aliases(&flags)? else {
        skipped("a machine without aliases", "this user cannot make a network with `unshare` and `ip`");
        return Ok(());
    };
    sandbox.kubectl(&["wait", "--for", "condition=Ready", "node", "--all", "--timeout", "60s"])?;
    gcloud(&sandbox, &["create", "second", "--num-nodes", "1"])?;
    sandbox.kubectl(&["wait", "--for", "condition=Ready", "node", "--all", "--timeout", "60s"])?;
    let inspected = sandbox.pilothouse(&["inspect", "endpoints"])?;
    ensure!(inspected.contains("addresses cannot be aliased here"), "{inspected}");
    let addresses = sandbox.pilothouse(&["inspect", "endpoints", "-o", "json"])?;
    ensure!(!addresses.contains("https://127.") && addresses.contains("127.0.0.1:"), "{addresses}");

    // From outside only a network that nobody is in: whoever uses the external port is refused, as no address tells more.
    let networks = ["--enable-master-authorized-networks", "--master-authorized-networks", "203.0.113.0/24"];
    gcloud(&sandbox, &[&["update", "second"], &networks[..]].concat())?;
    let refused = sandbox.kubectl_fails(&["get", "nodes"])?;
    ensure!(refused.contains("127.0.0.1:") && refused.contains("reset"), "{refused}");
    gcloud(&sandbox, &["get-credentials", "second", "--internal-ip"])?;
    sandbox.kubectl(&["get", "nodes"])?;

    sandbox.pilothouse(&["down"])?;
    sandbox.up(&flags)?;
    let context = format!("gke_{}_{PLACE}_second", sandbox.variable("PILOTHOUSE_PROJECT"));
    eventually(LIMIT, || {
        let nodes = sandbox.kubectl(&["--context", &context, "get", "nodes", "-o", "name"])?;
        ensure!(nodes.contains("gke-second-"), "{nodes}");
        Ok(())
    })
}
