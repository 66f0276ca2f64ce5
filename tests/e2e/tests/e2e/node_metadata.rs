//! Metadata servers of nodes and pods (reference: GKE behaviour §4, §10), with curl, kubectl, gcloud and google-auth.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, python, skipped};
use serde_json::{Value, json};

use crate::identities::{clients, run};

const LIMIT: Duration = Duration::from_secs(30);
const PROJECT: &str = "pilothouse-local";
const POOL: &str = "pilothouse-local.svc.id.goog";
const GSA: &str = "robots@pilothouse-local.iam.gserviceaccount.com";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const FLAVOR: &str = "Metadata-Flavor: Google";
const NO_FLAVOR: &str = "Metadata-Flavor:";
const UNBOUND: &str = "Unable to generate access token; IAM returned 403 Forbidden: Permission \
                       'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\nThis error could be \
                       caused by a missing IAM policy binding on the target IAM service account.\n";

/// What `pilothouse env` sets for a program on a node or in a pod.
fn environment(sandbox: &Sandbox, whose: &[&str]) -> Result<BTreeMap<String, String>> {
    let text = sandbox.pilothouse(&[&["env", "--shell", "posix"], whose].concat())?;
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').to_owned()))
    };
    Ok(text.lines().filter_map(line).filter(|(name, _)| name != "PATH").collect())
}

/// `ip` or `ip:port` of the metadata server.
fn server(sandbox: &Sandbox, whose: &[&str]) -> Result<String> {
    Ok(environment(sandbox, whose)?.get("GCE_METADATA_HOST").context("a server")?.clone())
}

/// The pod's, once it runs.
fn pod_server(sandbox: &Sandbox, pod: &str) -> Result<String> {
    eventually(LIMIT, || server(sandbox, &["--pod", pod]))
}

/// Code and body; 000 where nobody answers.
fn ask(server: &str, path: &str, more: &[&str]) -> Result<(String, String)> {
    let url = format!("http://{server}/computeMetadata/v1/{path}");
    // An empty header of curl's takes none away that stands beside it.
    let flavor = if more.contains(&NO_FLAVOR) { &[][..] } else { &["-H", FLAVOR] };
    let mut curl = Command::new("curl");
    let output = curl.args(["-s", "-m", "20", "-w", "\n%{http_code}"]).args(flavor).args(more).arg(&url).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("curl says the code")?;
    Ok((code.to_owned(), body.to_owned()))
}

fn says(server: &str, path: &str, expected: &str) -> Result<()> {
    let (code, body) = ask(server, path, &[])?;
    ensure!(code == "200" && body.trim_end() == expected, "{path}: {code} {body}");
    Ok(())
}

/// What the cloud knows of an account's access token.
fn token_info(sandbox: &Sandbox, answer: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(answer).with_context(|| answer.to_owned())?;
    ensure!(answer["token_type"] == "Bearer" && answer["expires_in"].as_i64().is_some_and(|s| s > 3000), "{answer}");
    let token = answer["access_token"].as_str().context("a token")?;
    let url = format!("{}/tokeninfo?access_token={token}", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    run(Command::new("curl").args(["-sS", "-m", "20", &url]))
}

/// Runs a pod that lives as long as nobody deletes it.
fn run_pod(sandbox: &Sandbox, name: &str, account: &str, host_network: bool) -> Result<()> {
    let spec = json!({"spec": {"serviceAccountName": account, "hostNetwork": host_network}});
    sandbox.kubectl(&["run", name, "--image", "app", "--overrides", &spec.to_string()]).map(drop)
}

/// A cluster with Workload Identity of one node, with gcloud.
struct WithPool {
    sandbox: Sandbox,
    gcloud: PathBuf,
}

impl WithPool {
    fn start(what: &str) -> Result<Option<Self>> {
        let (Some(gcloud), true) = (on_path("gcloud"), clients()) else {
            skipped(what, "gcloud or curl is not on PATH");
            return Ok(None);
        };
        let sandbox = Sandbox::start_with(&["--no-cluster"])?;
        let all = Self { sandbox, gcloud };
        let create = ["container", "clusters", "create", "wi", "--zone", "us-central1-a", "--num-nodes", "1"];
        all.gcloud(&[&create[..], &["--workload-pool", POOL]].concat())?;
        all.gcloud(&["iam", "service-accounts", "create", "robots"])?;
        all.sandbox.kubectl(&["create", "serviceaccount", "cart"])?;
        Ok(Some(all))
    }

    fn gcloud(&self, arguments: &[&str]) -> Result<String> {
        run(self.sandbox.command(&self.gcloud).args(arguments).arg("--quiet"))
    }

    fn pools(&self, what: &str, more: &[&str]) -> Result<String> {
        let place = ["--cluster", "wi", "--zone", "us-central1-a"];
        self.gcloud(&[&["container", "node-pools", what], more, &place].concat())
    }

    /// Lets the pods of `default/cart` act as the Google account, or no longer.
    fn bind(&self, action: &str) -> Result<String> {
        let member = format!("serviceAccount:{POOL}[default/cart]");
        let role = ["--role", "roles/iam.workloadIdentityUser", "--member", &member];
        self.gcloud(&[&["iam", "service-accounts", action, GSA], &role[..]].concat())
    }
}

#[test]
fn a_pod_has_the_tokens_of_its_account_and_sees_little_of_its_node() -> Result<()> {
    let Some(all) = WithPool::start("metadata of pods")? else { return Ok(()) };
    let sandbox = &all.sandbox;
    run_pod(sandbox, "cart", "cart", false)?;
    let pod = pod_server(sandbox, "default/cart")?;
    let node = sandbox.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    ensure!(sandbox.kubectl(&["get", "nodes", "-l", "iam.gke.io/gke-metadata-server-enabled=true"])?.contains(&node));
    ensure!(server(sandbox, &["--pod", "default/cart"])? == pod, "it keeps its server");

    // Of the machine: where it is, and nothing else.
    says(&pod, "project/project-id", PROJECT)?;
    says(&pod, "instance/attributes/", "cluster-location\ncluster-name\ncluster-uid")?;
    says(&pod, "instance/attributes/cluster-name", "wi")?;
    ensure!(ask(&pod, "instance/zone", &[])?.1.ends_with("/zones/us-central1-a"));
    for hidden in ["instance/attributes/kube-env", "instance/name", "instance/tags", "instance/disks/"] {
        let answer = ask(&pod, hidden, &[])?;
        ensure!(answer == ("403".to_owned(), "This metadata endpoint is concealed.\n".to_owned()), "{answer:?}");
    }
    for (more, text) in [
        (["-H", NO_FLAVOR], "Missing Metadata-Flavor:Google header."),
        (["-H", "X-Forwarded-For: 10.0.0.1"], "X-Forwarded-For"),
        (["-H", "Host: rebound.example"], "not one of this server"),
    ] {
        let (code, body) = ask(&pod, "instance/service-accounts/default/token", &more)?;
        ensure!(code == "403" && body.contains(text), "{more:?}: {code} {body}");
    }

    // Without an annotation it is itself.
    says(&pod, "instance/service-accounts/default/email", POOL)?;
    let (code, answer) = ask(&pod, "instance/service-accounts/default/token", &[])?;
    ensure!(code == "200", "{answer}");
    let info = token_info(sandbox, &answer)?;
    ensure!(!info.contains("gserviceaccount"), "{info}");
    let (code, answer) = ask(&pod, "instance/service-accounts/default/identity?audience=a", &[])?;
    ensure!(code == "404" && answer.contains("Unable to generate identity token"), "{code} {answer}");

    // With one it is the Google account, if that lets it.
    sandbox.kubectl(&["annotate", "serviceaccount", "cart", &format!("iam.gke.io/gcp-service-account={GSA}")])?;
    says(&pod, "instance/service-accounts/default/email", GSA)?;
    let (code, answer) = ask(&pod, "instance/service-accounts/default/token", &[])?;
    ensure!(code == "403" && answer.starts_with(UNBOUND), "{code} {answer}");
    all.bind("add-iam-policy-binding")?;
    let (code, answer) = ask(&pod, &format!("instance/service-accounts/{GSA}/token"), &[])?;
    ensure!(code == "200" && token_info(sandbox, &answer)?.contains(GSA), "{code} {answer}");
    let (code, answer) = ask(&pod, "instance/service-accounts/default/identity?audience=a&format=full", &[])?;
    ensure!(code == "200" && answer.split('.').count() == 3, "{code} {answer}");
    all.bind("remove-iam-policy-binding")?;
    ensure!(ask(&pod, "instance/service-accounts/default/token", &[])?.0 == "403");
    Ok(())
}

#[test]
fn each_pod_is_itself_alone_as_long_as_it_lives() -> Result<()> {
    let Some(all) = WithPool::start("metadata of several pods")? else { return Ok(()) };
    let sandbox = &all.sandbox;
    sandbox.kubectl(&["annotate", "serviceaccount", "cart", &format!("iam.gke.io/gcp-service-account={GSA}")])?;
    for (name, account, host) in [("cart", "cart", false), ("other", "default", false), ("agent", "cart", true)] {
        run_pod(sandbox, name, account, host)?;
    }
    let [cart, other] = ["default/cart", "other"].map(|pod| pod_server(sandbox, pod));
    let (cart, other) = (cart?, other?);
    let node = sandbox.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let machine = server(sandbox, &["--node", &node])?;
    ensure!(pod_server(sandbox, "default/agent")? == machine, "the host's network is the node's");
    says(&machine, "instance/name", &node)?;
    let compute = ask(&machine, "instance/service-accounts/default/email", &[])?.1;
    ensure!(compute.ends_with("-compute@developer.gserviceaccount.com"), "{compute}");

    // Who asks is told by the address: a pod's own one at the node's server too, another's nowhere else.
    let alias = |server: &str| server.split(':').next().unwrap_or_default().to_owned();
    let (cart_ip, other_ip) = (alias(&cart), alias(&other));
    let email = "instance/service-accounts/default/email";
    let from = |server: &str, ip: &str| ask(server, email, &["--interface", ip]);
    ensure!(from(&machine, &cart_ip)? == ("200".to_owned(), GSA.to_owned()));
    ensure!(from(&machine, &other_ip)? == ("200".to_owned(), POOL.to_owned()));
    ensure!(from(&cart, &cart_ip)? == ("200".to_owned(), GSA.to_owned()));
    for (server, ip) in [(&cart, other_ip.as_str()), (&other, cart_ip.as_str()), (&machine, "127.0.16.1")] {
        ensure!(from(server, ip)?.0 == "000", "{server} from {ip}");
    }
    ensure!(sandbox.pilothouse(&["logs", "cloud"])?.contains("it is not from this machine or pod"));

    // The instance dies and comes back: the pods are the same.
    let instance = sandbox.processes()?.into_iter().find(|(_, role)| role == "instance").context("it runs")?.0;
    run(Command::new("kill").args(["-9", &instance.to_string()]))?;
    eventually(LIMIT, || says(&cart, email, GSA))?;
    ensure!(server(sandbox, &["--pod", "default/cart"])? == cart);

    // A pod that is deleted takes its server along; one of the same name is another.
    sandbox.kubectl(&["delete", "pod", "cart", "--wait=false"])?;
    eventually(LIMIT, || {
        ensure!(ask(&cart, email, &[])?.0 == "000");
        Ok(())
    })?;
    let gone = sandbox.pilothouse(&["env", "--pod", "default/cart"]).unwrap_err().to_string();
    ensure!(gone.contains("no node of cluster wi has a pod default/cart"), "{gone}");
    run_pod(sandbox, "cart", "cart", false)?;
    ensure!(pod_server(sandbox, "default/cart")? != cart);
    ensure!(ask(&cart, email, &[])?.0 == "000");

    // With the machine's own metadata, pods see the machine's.
    all.pools("update", &["default-pool", "--workload-metadata", "GCE_METADATA"])?;
    ensure!(ask(&other, email, &[])?.0 == "000");
    ensure!(pod_server(sandbox, "other")? == machine);
    says(&machine, email, &compute)?;
    eventually(LIMIT, || {
        let labelled =
            sandbox.kubectl(&["get", "nodes", "-o", "name", "-l", "iam.gke.io/gke-metadata-server-enabled"])?;
        ensure!(labelled.trim().is_empty(), "{labelled}");
        Ok(())
    })?;
    all.pools("update", &["default-pool", "--workload-metadata", "GKE_METADATA"])?;
    ensure!(pod_server(sandbox, "other")? != machine);
    Ok(())
}

#[test]
fn google_auth_finds_a_pods_credentials_and_they_are_good_at_cloud_and_cluster() -> Result<()> {
    let Some(python) = python() else {
        skipped("google-auth", "python3 with venv is not installed");
        return Ok(());
    };
    let Some(all) = WithPool::start("google-auth")? else { return Ok(()) };
    let sandbox = &all.sandbox;
    run_pod(sandbox, "cart", "cart", false)?;
    pod_server(sandbox, "default/cart")?;
    let script = sandbox.file("pod_identity.py", include_str!("../../clients/pod_identity.py"))?;
    let authority = crate::identities::root(sandbox, "ca.crt")?;
    let endpoint = sandbox.status()?["clusters"][0]["endpoint"].as_str().context("an endpoint")?.to_owned();
    let cloud = sandbox.variable("PILOTHOUSE_ENDPOINT").to_owned();
    let inside = environment(sandbox, &["--pod", "default/cart"])?;
    ensure!(!inside.contains_key("KUBECONFIG") && !inside.contains_key("CLOUDSDK_AUTH_ACCESS_TOKEN"));
    let program = || -> Result<Value> {
        let mut command = Command::new(&python);
        command.env_clear().envs(&inside).env("HOME", sandbox.data_dir());
        let text = run(command.args([&script, &cloud, &endpoint, &authority, "https://shop.example"]))?;
        serde_json::from_str(&text).context(text)
    };

    // Its own: no email, so nobody at the cluster; at the cloud what its principal is granted.
    let own = program()?;
    ensure!(own["kind"] == "google.auth.compute_engine.credentials" && own["account"] == POOL, "{own}");
    ensure!(own["clusters"] == 403 && own["pods"]["code"] == 401, "{own}");
    let member = format!("serviceAccount:{POOL}[default/cart]");
    let grant = |member: &str| {
        all.gcloud(&[
            "projects",
            "add-iam-policy-binding",
            PROJECT,
            "--role=roles/container.viewer",
            "--member",
            member,
        ])
    };
    grant(&member)?;
    ensure!(program()?["clusters"] == 200);

    // As a Google account: refused in the words that google-auth hands on, then with the account's roles in both places.
    sandbox.kubectl(&["annotate", "serviceaccount", "cart", &format!("iam.gke.io/gcp-service-account={GSA}")])?;
    let refused = program()?;
    ensure!(refused["refused"].as_str().is_some_and(|text| text.contains("IAM returned 403 Forbidden")), "{refused}");
    all.bind("add-iam-policy-binding")?;
    let robot = program()?;
    ensure!(robot["account"] == GSA && robot["clusters"] == 403 && robot["pods"]["code"] == 403, "{robot}");
    let why = robot["pods"]["body"]["message"].as_str().context("a refusal")?;
    ensure!(why.contains(&format!("User \"{GSA}\" cannot list resource \"pods\"")), "{why}");
    let identity = json!({"iss": "https://accounts.google.com", "email": GSA, "email_verified": true});
    ensure!(robot["identity"] == identity, "{robot}");
    grant(&format!("serviceAccount:{GSA}"))?;
    eventually(LIMIT, || {
        let robot = program()?;
        ensure!(robot["clusters"] == 200 && robot["pods"]["code"] == 200, "{robot}");
        ensure!(robot["pods"]["body"]["items"][0]["metadata"]["name"] == "cart", "{robot}");
        Ok(())
    })
}

#[test]
fn a_nodes_server_says_what_compute_engine_says_of_the_machine() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let mut sandbox = Sandbox::start_with(&["--nodes", "2"])?;
    let servers = |sandbox: &Sandbox| -> Result<BTreeMap<String, String>> {
        let status = sandbox.status()?;
        let all = status["clusters"][0]["nodeMetadata"].as_object().context("servers")?.clone();
        Ok(all.into_iter().map(|(node, server)| (node, server.as_str().unwrap_or_default().to_owned())).collect())
    };
    let before = servers(&sandbox)?;
    let [(node, server), (other, second)] = &before.clone().into_iter().collect::<Vec<_>>()[..] else {
        anyhow::bail!("two nodes: {before:?}")
    };
    ensure!(server != second);
    says(server, "instance/name", node)?;
    says(server, "instance/hostname", &format!("{node}.us-central1-a.c.{PROJECT}.internal"))?;
    says(server, "instance/attributes/cluster-location", "us-central1-a")?;
    says(server, "instance/attributes/disable-legacy-endpoints", "true")?;
    ensure!(ask(server, "instance/id", &[])? != ask(second, "instance/id", &[])?);
    let tags: Vec<String> = serde_json::from_str(&ask(server, "instance/tags", &[])?.1)?;
    ensure!(tags.len() == 1 && tags[0].starts_with("gke-demo-") && tags[0].ends_with("-node"), "{tags:?}");
    let scopes = ask(server, "instance/service-accounts/default/scopes", &[])?.1;
    ensure!(scopes.contains("auth/devstorage.read_only\n") && !scopes.contains(SCOPE), "{scopes}");
    let (code, answer) = ask(server, "instance/service-accounts/default/token", &[])?;
    let info = token_info(&sandbox, &answer)?;
    ensure!(code == "200" && info.contains("devstorage.read_only") && !info.contains("userinfo.email"), "{info}");
    let (code, answer) = ask(server, "instance/service-accounts/default/identity?audience=a&format=full", &[])?;
    ensure!(code == "200" && answer.split('.').count() == 3, "{answer}");

    // The credential that all machines were made with lies there, as at Google; pods without Workload Identity see it too.
    let (code, kube_env) = ask(server, "instance/attributes/kube-env", &[])?;
    ensure!(code == "200" && kube_env.contains("TPM_BOOTSTRAP_KEY: ") && kube_env.contains("CA_CERT: "), "{kube_env}");
    run_pod(&sandbox, "app", "default", false)?;
    let seen = pod_server(&sandbox, "app")?;
    ensure!([server, second].iter().any(|node| node.trim_end_matches(":80") == seen), "{seen}");
    for more in [["-H", NO_FLAVOR], ["-H", "X-Forwarded-For: 10.0.0.1"], ["-H", "Host: rebound.example"]] {
        ensure!(ask(server, "instance/name", &more)?.0 == "403", "{more:?}");
    }
    ensure!(ask(server, "instance/name", &["--interface", "127.0.7.1"])?.0 == "000");

    // Remembered, and given back.
    sandbox.pilothouse(&["down"])?;
    ensure!(ask(server, "instance/name", &[])?.0 == "000");
    sandbox.up(&[])?;
    ensure!(servers(&sandbox)? == before);
    says(second, "instance/name", other)?;
    if let Some(gcloud) = on_path("gcloud") {
        let resize = ["container", "clusters", "resize", "demo", "--zone", "us-central1-a", "--num-nodes", "1"];
        run(sandbox.command(gcloud).args(resize).arg("--quiet"))?;
        let left = servers(&sandbox)?;
        let gone = before.iter().find(|(node, _)| !left.contains_key(*node)).context("one is gone")?.1;
        ensure!(left.len() == 1 && ask(gone, "instance/name", &[])?.0 == "000");
    }
    Ok(())
}

#[test]
fn gkes_metadata_server_is_for_clusters_with_a_workload_pool() -> Result<()> {
    let Some(all) = WithPool::start("modes of node pools")? else { return Ok(()) };
    let mode = |name: &str| {
        let shown = all.pools("describe", &[name, "--format", "value(config.workloadMetadataConfig.mode)"])?;
        anyhow::Ok(shown.trim().to_owned())
    };
    ensure!(mode("default-pool")? == "GKE_METADATA");
    all.pools("create", &["plain", "--num-nodes", "1", "--workload-metadata", "GCE_METADATA"])?;
    ensure!(mode("plain")? == "GCE_METADATA");
    all.pools("create", &["usual", "--num-nodes", "1"])?;
    ensure!(mode("usual")? == "GKE_METADATA");
    all.pools("update", &["plain", "--workload-metadata", "GKE_METADATA"])?;
    ensure!(mode("plain")? == "GKE_METADATA");

    all.gcloud(&["container", "clusters", "create", "without", "--zone", "us-central1-b", "--num-nodes", "1"])?;
    let wrong = ["container", "node-pools", "create", "x", "--cluster", "without", "--zone", "us-central1-b"];
    let refused = all.gcloud(&[&wrong[..], &["--workload-metadata", "GKE_METADATA"]].concat()).unwrap_err().to_string();
    ensure!(refused.contains("code=400") && refused.contains("Workload Identity must be enabled"), "{refused}");
    Ok(())
}

#[test]
fn in_one_process_and_in_a_region_pods_find_their_nodes_too() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    for flags in [&["--in-process", "--nodes", "1"][..], &["--region", "us-central1", "--nodes", "1"]] {
        let sandbox = Sandbox::start_with(flags)?;
        run_pod(&sandbox, "app", "default", false)?;
        let server = pod_server(&sandbox, "app")?;
        let node = sandbox.kubectl(&["get", "pod", "app", "-o", "jsonpath={.spec.nodeName}"])?;
        says(&server, "instance/name", &node)?;
        let (code, kube_env) = ask(&server, "instance/attributes/kube-env", &[])?;
        ensure!(code == "200" && kube_env.contains("TPM_BOOTSTRAP_KEY: "), "{flags:?}: {kube_env}");
    }
    Ok(())
}
