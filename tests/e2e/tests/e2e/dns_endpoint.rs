//! The DNS endpoint of a cluster (reference: GKE behaviour §5), with kubectl, gcloud and curl.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, on_path, skipped};
use serde_json::{Value, json};

use crate::authentication::Cloud;
use crate::identities::{endpoint, run, user};

const PLACE: &str = "us-central1-a";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A sandbox whose DNS endpoints clients are led to.
struct Led {
    sandbox: Sandbox,
    /// What `env --dns-endpoint` sets beside the rest.
    variables: BTreeMap<String, String>,
    name: String,
}

impl Led {
    fn start(flags: &[&str]) -> Result<Self> {
        let sandbox = Sandbox::start_with(flags)?;
        let text = sandbox.pilothouse(&["env", "--shell", "posix", "--dns-endpoint"])?;
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            let wanted = ["HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"].contains(&name);
            wanted.then(|| (name.to_owned(), value.trim_matches('\'').to_owned()))
        };
        let variables = text.lines().filter_map(line).collect();
        let mut led = Self { sandbox, variables, name: String::new() };
        led.name = led.describe("value(controlPlaneEndpointsConfig.dnsEndpointConfig.endpoint)")?;
        ensure!(led.name.starts_with("gke-") && led.name.ends_with(".us-central1-a.gke.goog"), "{}", led.name);
        Ok(led)
    }

    fn gcloud(&self, arguments: &[&str]) -> Result<String> {
        let gcloud = on_path("gcloud").context("gcloud")?;
        let mut command = self.sandbox.command(gcloud);
        run(command.args(["container", "clusters"]).args(arguments).args(["--quiet", "--zone", PLACE]))
    }

    fn describe(&self, format: &str) -> Result<String> {
        Ok(self.gcloud(&["describe", "demo", "--format", format])?.trim().to_owned())
    }

    fn update(&self, flags: &[&str]) -> Result<()> {
        self.gcloud(&[&["update", "demo"], flags].concat()).map(drop)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.sandbox.command(client("kubectl").context("kubectl")?);
        command.envs(&self.variables).args(arguments);
        Ok(command)
    }

    /// Code and body of a request at the name; a review of oneself unless a path is given.
    fn curl(&self, path: &str, more: &[&str]) -> Result<(String, Value)> {
        let mut command = Command::new("curl");
        command.args(["-s", "-m", "10", "-w", "\n%{http_code}", "--proxy", &self.variables["HTTPS_PROXY"]]);
        command.args(["--cacert", &self.variables["SSL_CERT_FILE"]]).args(more);
        if path == REVIEWS {
            let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
            command.args(["-H", "Content-Type: application/json", "-d", review]);
        }
        let text = run(command.arg(format!("https://{}{path}", self.name)))?;
        let (body, code) = text.rsplit_once('\n').context("curl says the code")?;
        Ok((code.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| body.into())))
    }

    fn with_token(&self, path: &str, token: &str, more: &[&str]) -> Result<(String, Value)> {
        let bearer = format!("Authorization: Bearer {token}");
        self.curl(path, &[&["-H", &bearer], more].concat())
    }

    fn owner(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.sandbox.data_dir().join("user/access-token"))?.trim().to_owned())
    }

    /// How many deletions the API server has refused; nobody else asks for such a thing.
    fn heard(&self) -> Result<usize> {
        let metrics = self.sandbox.kubectl(&["get", "--raw", "/metrics"])?;
        let line =
            metrics.lines().find(|line| line.starts_with("apiserver_request_total{code=\"403\",verb=\"DELETE\"}"));
        let count = line.and_then(|line| line.rsplit_once(' ')).map_or(Ok(0), |(_, count)| count.parse());
        Ok(count?)
    }
}

fn clients() -> bool {
    let missing: Vec<_> = ["gcloud", "curl", "openssl", "gke-gcloud-auth-plugin"]
        .into_iter()
        .filter(|name| on_path(name).is_none())
        .collect();
    if !missing.is_empty() {
        skipped("the DNS endpoint", &format!("{} not on PATH", missing.join(", ")));
    }
    missing.is_empty()
}

#[test]
fn the_front_end_asks_who_calls_and_iam_before_the_api_server_hears() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let led = Led::start(&["--nodes", "1"])?;
    let owner = led.owner()?;
    let (code, answer) = led.with_token("/livez", &owner, &[])?;
    ensure!(code == "403" && answer.to_string().contains("allowExternalTraffic"), "off: {code} {answer}");
    led.update(&["--enable-dns-access"])?;
    let (code, answer) = led.with_token("/livez", &owner, &[])?;
    ensure!((code.as_str(), &answer) == ("200", &json!("ok")), "on: {code} {answer}");
    let (code, answer) = led.curl("/livez", &[])?;
    ensure!(code == "401" && answer["error"]["status"] == "UNAUTHENTICATED", "{code} {answer}");

    let cloud = Cloud::of(&led.sandbox);
    let alice = cloud.token("alice@example.com", &[])?;
    let reader = format!("--user={}", led.sandbox.status()?["cloud"]["account"].as_str().context("an account")?);
    led.sandbox.kubectl(&["create", "clusterrolebinding", "reader", "--clusterrole=system:monitoring", &reader])?;
    let path = "/api/v1/namespaces/default/limitranges/none";
    let delete = ["-X", "DELETE"];
    let before = led.heard()?;
    let (code, answer) = led.with_token(path, &alice, &delete)?;
    let message = "Required \"container.clusters.connect\" permission(s) for \
                   \"projects/pilothouse-local/locations/us-central1-a/clusters/demo\".";
    ensure!(code == "403" && answer["error"]["message"] == message, "{code} {answer}");
    ensure!(led.heard()? == before, "the API server heard of it");
    cloud.bind("roles/container.clusterViewer", "user:alice@example.com")?;
    let (code, answer) = led.with_token(path, &alice, &delete)?;
    ensure!(code == "403" && answer["kind"] == "Status", "the API server decides now: {code} {answer}");
    ensure!(led.heard()? > before);

    let smuggled = ["-H", "X-Remote-User: admin", "-H", "X-Remote-Group: system:masters"];
    let (code, answer) = led.with_token(REVIEWS, &alice, &smuggled)?;
    ensure!(code == "201" && answer["status"]["userInfo"]["username"] == "alice@example.com", "{code} {answer}");

    let account = led.sandbox.kubectl(&["create", "token", "default"])?.trim().to_owned();
    let jane = user(&led.sandbox, "jane", "/O=dev/CN=jane")?;
    let certificate = ["--cert", jane.0.as_str(), "--key", jane.1.as_str()];
    ensure!(led.with_token(REVIEWS, &account, &[])?.0 == "401");
    ensure!(led.curl(REVIEWS, &certificate)?.0 == "401");
    led.update(&["--enable-k8s-tokens-via-dns", "--enable-k8s-certs-via-dns"])?;
    let (code, answer) = led.with_token(REVIEWS, &account, &[])?;
    let who = &answer["status"]["userInfo"];
    ensure!(code == "201" && who["username"] == "system:serviceaccount:default:default", "{code} {answer}");
    let (code, answer) = led.curl(REVIEWS, &[&certificate[..], &smuggled].concat())?;
    let who = &answer["status"]["userInfo"];
    ensure!(code == "201" && who["username"] == "jane", "{code} {answer}");
    ensure!(who["groups"] == json!(["dev", "system:authenticated"]), "{who}");
    ensure!(led.with_token(REVIEWS, "forged", &[])?.0 == "401");

    let trust = led.sandbox.pilothouse(&["inspect", "trust"])?;
    ensure!(trust.contains("front end -> API server: mutual TLS"), "{trust}");
    let mut elsewhere = Command::new("curl");
    elsewhere.args(["-s", "-m", "10", "--proxy", &led.variables["HTTPS_PROXY"], "https://example.com/"]);
    ensure!(elsewhere.output()?.status.code() == Some(56), "nothing else is tunnelled");
    led.update(&["--no-enable-dns-access"])?;
    ensure!(led.with_token("/livez", &owner, &[])?.0 == "403");
    Ok(())
}

#[test]
fn kubectl_works_by_name_alone_when_addresses_are_off() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let led = Led::start(&["--nodes", "1", "--profile", "2026", "--endpoint-deny", "reset"])?;
    led.gcloud(&["get-credentials", "demo", "--dns-endpoint"])?;
    let config = led.sandbox.kubectl(&["config", "view", "--minify", "--raw", "-o", "json"])?;
    let config: Value = serde_json::from_str(&config)?;
    let cluster = &config["clusters"][0]["cluster"];
    ensure!(cluster["server"] == format!("https://{}", led.name), "{cluster}");
    ensure!(cluster.get("certificate-authority-data").is_none(), "{cluster}");
    run(&mut led.kubectl(&["get", "namespaces"])?)?;
    let stranger = led.kubectl(&["get", "namespaces"])?.env_remove("SSL_CERT_FILE").output()?;
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    ensure!(!stranger.status.success() && said.contains("unknown authority"), "{said}");

    led.update(&["--enable-master-authorized-networks", "--master-authorized-networks", "127.0.0.10/32"])?;
    run(&mut led.kubectl(&["get", "namespaces"])?)?;
    led.update(&["--no-enable-ip-access"])?;
    ensure!(led.describe("value(endpoint)")? == led.name);
    led.gcloud(&["get-credentials", "demo"])?;
    let external = endpoint(&led.sandbox)?;
    let outcome = Command::new("curl").args(["-sk", "-m", "3", &format!("https://{external}/livez")]).output()?;
    ensure!(!outcome.status.success(), "an address that is off");

    let mut watch = led.kubectl(&["get", "configmaps", "--watch", "-o", "name"])?;
    let mut watch = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let first = lines.next().context("the root CA's")??;
    run(&mut led.kubectl(&["create", "configmap", "news"])?)?;
    let second = lines.next().context("the stream flows")??;
    watch.kill()?;
    watch.wait()?;
    ensure!((first.as_str(), second.as_str()) == ("configmap/kube-root-ca.crt", "configmap/news"), "{first} {second}");
    e2e::eventually(Duration::from_secs(30), || {
        let nodes = run(&mut led.kubectl(&["get", "nodes", "--no-headers"])?)?;
        ensure!(nodes.contains(" Ready"), "{nodes}");
        Ok(())
    })
}
