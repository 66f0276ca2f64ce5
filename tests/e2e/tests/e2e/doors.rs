//! Every credential at every door: exactly the cells of the table in docs/security.md are let in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Sandbox, eventually};
use pki::{Profile, Requester};
use serde_json::json;

use crate::authentication::{CLUSTER, Cloud};
use crate::control_plane::{OpenedSigner, loopback};
use crate::identities::{clients, create, endpoint, issued, object, openssl, request, run, user};
use crate::nodes::kubelets;

const LIMIT: Duration = Duration::from_secs(30);
const HEADING: &str = "### Every credential at every door";

/// What somebody has to show.
enum Credential {
    Nothing,
    Token(String),
    Certificate((String, String)),
    /// The same, speaking for somebody else.
    Proxy((String, String)),
}

/// The table: what stands in the first column, and the cells under the names of the doors.
fn table() -> Result<Vec<(String, BTreeMap<String, bool>)>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let (_, section) = text.split_once(HEADING).context("the table's heading")?;
    let mut lines = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect() };
    let doors = cells(lines.next().context("a first line")?);
    let mut rows = Vec::new();
    for line in lines.skip(1) {
        let row = cells(line);
        ensure!(row.len() == doors.len(), "{line}");
        let said = |cell: &str| match cell {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => bail!("{other:?} is neither yes nor no"),
        };
        let answers = doors.iter().zip(&row).skip(1).map(|(door, cell)| Ok((door.clone(), said(cell)?)));
        rows.push((row[0].clone(), answers.collect::<Result<_>>()?));
    }
    Ok(rows)
}

/// A serving certificate of a node with its key: an administrator can have one signed by hand.
fn serving(sandbox: &Sandbox) -> Result<(String, String)> {
    let asked = request(sandbox, "serving", "/O=system:nodes/CN=system:node:a", &["-addext", "subjectAltName=DNS:a"])?;
    let usages = ["digital signature", "server auth"];
    let mut approved = object("serving", &asked.csr, "kubernetes.io/kubelet-serving", &usages)?;
    approved["metadata"]["name"] = "serving".into();
    create(sandbox, &approved)?;
    sandbox.kubectl(&["certificate", "approve", "serving"])?;
    Ok((issued(sandbox, "serving")?, asked.key))
}

/// What belongs to the control plane itself.
fn of_the_control_plane(sandbox: &Sandbox) -> Result<Vec<(&'static str, Credential)>> {
    let signer = OpenedSigner::of(sandbox)?;
    let certificate = |name: &str, profile: Profile| -> Result<Credential> {
        let requester = match profile {
            Profile::FrontProxyClient { .. } => Requester::Fleet,
            _ => Requester::Instance,
        };
        Ok(Credential::Certificate(signer.issue(sandbox, name, requester, &profile)?))
    };
    let user = |user: &str| Profile::KubeClient { user: user.to_owned(), groups: Vec::new() };
    let proxy = Profile::FrontProxyClient { name: "front-proxy-client".to_owned() };
    let serving = Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: loopback() };
    let server = pki::api_server_names(loopback()[0], &[]);
    let peer = Profile::EtcdPeer { name: "etcd-0".to_owned(), ips: loopback() };
    let spoken_for = signer.issue(sandbox, "proxy", Requester::Fleet, &proxy)?;
    let cloud = Cloud::of(sandbox);
    let owner = sandbox.variable("CLOUDSDK_AUTH_ACCESS_TOKEN");
    let policy = cloud.as_account(owner, "POST", ":getIamPolicy", "{}")?.1.to_string();
    let agent = policy
        .split("serviceAccount:")
        .find_map(|rest| rest.split('"').next().filter(|m| m.contains("@container-engine-robot.")));
    let agent = agent.context("the service agent has a role")?;
    Ok(vec![
        ("the front proxy's certificate", certificate("silent", proxy)?),
        ("the same, speaking for a user", Credential::Proxy(spoken_for)),
        ("a store member's certificate", certificate("peer", peer)?),
        (
            "the store's serving certificate",
            Credential::Certificate(signer.issue_for_store(sandbox, "store", &serving)?),
        ),
        ("the API server's serving certificate", certificate("server", server)?),
        ("the API server's certificate for kubelets", certificate("kubelets", user("kube-apiserver-kubelet-client"))?),
        ("a certificate of the controllers", certificate("manager", user("system:kube-controller-manager"))?),
        ("a certificate of the scheduler", certificate("scheduler", user("system:kube-scheduler"))?),
        ("the service agent's access token", Credential::Token(cloud.token(agent, &[])?)),
        ("a Google identity token", Credential::Token(identity_token(sandbox)?)),
    ])
}

/// What a service account shows to others.
fn identity_token(sandbox: &Sandbox) -> Result<String> {
    let (cloud, owner) = (Cloud::of(sandbox), sandbox.variable("CLOUDSDK_AUTH_ACCESS_TOKEN"));
    let (code, made) = cloud.as_account(owner, "POST", "serviceAccounts", r#"{"accountId":"robots"}"#)?;
    let email = made["email"].as_str().with_context(|| format!("{code} {made}"))?;
    cloud.bind("roles/iam.serviceAccountTokenCreator", "user:alice@example.com")?;
    let alice = cloud.token("alice@example.com", &[])?;
    let asked = json!({"audience": "https://kubernetes.default.svc", "includeEmail": true}).to_string();
    let (code, answer) =
        cloud.as_account(&alice, "POST", &format!("serviceAccounts/{email}:generateIdToken"), &asked)?;
    Ok(answer["token"].as_str().with_context(|| format!("{code} {answer}"))?.to_owned())
}

fn credentials(ours: &Sandbox, theirs: &Sandbox) -> Result<BTreeMap<&'static str, Credential>> {
    let certificate = |pair: (String, String)| Credential::Certificate(pair);
    let google = std::fs::read_to_string(ours.data_dir().join("user/access-token"))?.trim().to_owned();
    let account = ours.kubectl(&["create", "token", "default"])?.trim().to_owned();
    let files = ["etcd-client.crt", "etcd-client.key"].map(|name| ours.data_dir().join("user").join(name));
    let [store, store_key] = files.map(|file| file.display().to_string());
    let (own, own_key) = (ours.file("self.crt", "")?, ours.file("self.key", "")?);
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let subject = ["-subj", "/O=system:masters/CN=admin", "-keyout", &own_key, "-out", &own];
    openssl(&[&["req", "-x509"], &curve[..], &subject].concat())?;
    let mut all = BTreeMap::from([
        ("nothing", Credential::Nothing),
        ("a Google access token", Credential::Token(google)),
        ("a service account's token", Credential::Token(account)),
        ("a user's certificate", certificate(user(ours, "jane", "/O=dev/CN=jane")?)),
        ("a node's client certificate", certificate(user(ours, "a", "/O=system:nodes/CN=system:node:a")?)),
        ("the bootstrap certificate", certificate(user(ours, "kubelet-bootstrap", "/CN=kubelet-bootstrap")?)),
        ("a kubelet's serving certificate", certificate(serving(ours)?)),
        ("a store client's certificate", certificate((store, store_key))),
        ("a user's certificate of another cluster", certificate(user(theirs, "jane", "/O=dev/CN=jane")?)),
        ("a self-signed certificate", certificate((own, own_key))),
    ]);
    all.extend(of_the_control_plane(ours)?);
    Ok(all)
}

/// Body and code of an answer; code 000 when TLS did not come about.
fn curl(credential: &Credential, more: &[&str], url: &str) -> Result<(String, String)> {
    let mut command = Command::new("curl");
    command.args(["-sk", "-m", "10", "-w", "\n%{http_code}"]).args(more).stdin(Stdio::null());
    match credential {
        Credential::Nothing => {}
        Credential::Token(token) => {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        Credential::Certificate((certificate, key)) => {
            command.args(["--cert", certificate, "--key", key]);
        }
        Credential::Proxy((certificate, key)) => {
            command.args([
                "--cert",
                certificate,
                "--key",
                key,
                "-H",
                "X-Remote-User: jane",
                "-H",
                "X-Remote-Group: dev",
            ]);
        }
    }
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("curl says the code")?;
    Ok((body.to_owned(), code.to_owned()))
}

fn is_let_in(sandbox: &Sandbox, door: &str, credential: &Credential) -> Result<bool> {
    let status = sandbox.status()?;
    let store = status["clusters"][0]["etcdEndpoints"][0].as_str().context("an endpoint")?.to_owned();
    Ok(match door {
        "API server" => {
            let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
            let more = ["-H", "Content-Type: application/json", "-d", review];
            let url = format!("https://{}/apis/authentication.k8s.io/v1/selfsubjectreviews", endpoint(sandbox)?);
            let (body, code) = curl(credential, &more, &url)?;
            ensure!(matches!(code.as_str(), "201" | "401" | "403"), "{code}: {body}");
            code == "201"
        }
        "store clients" => curl(credential, &[], &format!("{store}/health"))?.1 == "200",
        "store peers" => {
            let peers = status["clusters"][0]["instances"][0]["addresses"][2].as_str().context("three addresses")?;
            curl(credential, &[], &format!("https://{peers}/version"))?.1 != "000"
        }
        "kubelet" => {
            let (body, code) = curl(credential, &[], &format!("https://{}/pods", kubelets(sandbox)?[0].1))?;
            ensure!(matches!(code.as_str(), "200" | "401" | "403"), "{code}: {body}");
            code != "401"
        }
        "metadata" => {
            let server = status["clusters"][0]["instances"][0]["metadata"].as_str().context("a metadata server")?;
            let more = ["-H", "Metadata-Flavor: Google"];
            curl(credential, &more, &format!("http://{server}/computeMetadata/v1/"))?.1 != "000"
        }
        "cloud" => {
            let (cloud, project) = (&status["cloud"]["endpoint"], &status["cloud"]["project"]);
            let (cloud, project) = (cloud.as_str().context("a URL")?, project.as_str().context("an id")?);
            curl(credential, &[], &format!("{cloud}/v1/projects/{project}/locations/-/clusters"))?.1 == "200"
        }
        "DNS endpoint" => {
            let inspected = sandbox.pilothouse(&["inspect", "endpoints", "-o", "json"])?;
            let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
            let address = inspected["clusters"][0]["endpoints"][2]["address"].as_str().context("a name")?.to_owned();
            let (name, address) = address.split_once(" at ").context("a name at an address")?;
            let more = ["--connect-to", &format!("::{address}")];
            curl(credential, &more, &format!("https://{name}/api"))?.1 == "200"
        }
        // Nobody can so much as knock: what is shown does not matter.
        "signer" => !listening(sandbox, "signer")?.is_empty(),
        other => bail!("no such door: {other}"),
    })
}

#[test]
fn every_door_lets_in_whom_the_documentation_names_and_nobody_else() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let (ours, theirs) = (Sandbox::start_with(&["--nodes", "1"])?, Sandbox::start_with(&["--nodes", "1"])?);
    let credentials = credentials(&ours, &theirs)?;
    let kubelet = format!("https://{}/healthz", kubelets(&ours)?[0].1);
    eventually(LIMIT, || {
        ensure!(curl(&Credential::Nothing, &[], &kubelet)?.1 == "401", "the kubelet does not serve yet");
        Ok(())
    })?;
    let dns =
        r#"{"update":{"desiredControlPlaneEndpointsConfig":{"dnsEndpointConfig":{"allowExternalTraffic":true}}}}"#;
    Cloud::of(&ours).change("PUT", CLUSTER, dns)?;
    let table = table()?;
    ensure!(table.len() == credentials.len(), "the table and the test name the same credentials");
    let mut wrong = Vec::new();
    for (name, doors) in table {
        let credential = credentials.get(name.as_str()).with_context(|| format!("no such credential: {name}"))?;
        ensure!(doors.len() == 8, "{name}");
        for (door, expected) in doors {
            if is_let_in(&ours, &door, credential)? != expected {
                wrong.push(format!("{name} at {door}: docs/security.md says {expected}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The picture of trust tells of the same authorities, and of no certificate of anybody else.
    let trust: serde_json::Value = serde_json::from_str(&ours.pilothouse(&["inspect", "trust", "-o", "json"])?)?;
    let certificates = trust[0]["certificates"].as_array().context("certificates")?.clone();
    for certificate in &certificates {
        for field in ["sha256", "subject", "issuer", "isCa", "notAfter", "usedFor"] {
            ensure!(!certificate[field].is_null(), "{field} of {certificate}");
        }
        ensure!(certificate["authority"] != "", "{certificate}");
    }
    ensure!(trust[0]["silent"].as_array().is_some_and(Vec::is_empty), "{trust}");
    let shown = run(Command::new("openssl").args(["s_client", "-connect", &endpoint(&ours)?]))?;
    let leaf = ours.file("leaf.pem", &shown)?;
    let digest = openssl(&["x509", "-in", &leaf, "-noout", "-fingerprint", "-sha256"])?;
    let digest = digest.trim().rsplit('=').next().unwrap_or_default().replace(':', "").to_lowercase();
    let api = certificates.iter().find(|certificate| certificate["usedFor"] == "API server");
    ensure!(api.is_some_and(|api| api["sha256"] == digest.as_str()), "{digest} is not in {certificates:?}");
    let kubelet = certificates.iter().filter(|c| c["usedFor"].as_str().unwrap_or_default().starts_with("kubelet "));
    ensure!(kubelet.count() == 2, "a kubelet's serving and client certificates: {certificates:?}");
    let text = ours.pilothouse(&["inspect", "trust"])?;
    ensure!(text.contains("cluster CA") && text.contains(": mutual TLS"), "{text}");
    ensure!(ours.pilothouse(&["inspect", "trust", "-o", "svg"])?.starts_with("<svg "));
    Ok(())
}

/// The listening sockets of the processes with a role, TCP and Unix, as the kernel names them.
fn listening(sandbox: &Sandbox, role: &str) -> Result<Vec<String>> {
    // State 0A of TCP; a Unix socket that accepts has the flag 00010000.
    let mut all: Vec<String> = Vec::new();
    for (file, state, inode) in [("tcp", (3, "0A"), 9), ("tcp6", (3, "0A"), 9), ("unix", (3, "00010000"), 6)] {
        let table = std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.get(state.0) == Some(&state.1));
        all.extend(rows.filter_map(|row| Some(format!("socket:[{}]", row.get(inode)?))));
    }
    let mut found = Vec::new();
    for (process, _) in sandbox.processes()?.into_iter().filter(|(_, is)| is == role) {
        for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            let target = target.display().to_string();
            found.extend(all.contains(&target).then_some(target));
        }
    }
    Ok(found)
}

#[test]
fn the_signer_listens_nowhere() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    ensure!(sandbox.processes()?.iter().any(|(_, role)| role == "signer"), "it runs");
    ensure!(!listening(&sandbox, "instance")?.is_empty(), "the API server listens, if nobody else does");
    let found = listening(&sandbox, "signer")?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}
