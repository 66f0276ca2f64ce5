//! Who is let in (reference: gke-behaviour §4): Google tokens, client certificates, nobody in particular.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::{Sandbox, eventually, on_path};
use serde_json::Value;

/// The default cluster, below the project.
pub(crate) const CLUSTER: &str = "locations/us-central1-a/clusters/demo";

/// The cloud of a sandbox, by curl.
pub(crate) struct Cloud<'a>(&'a Sandbox);

impl<'a> Cloud<'a> {
    pub(crate) const fn of(sandbox: &'a Sandbox) -> Self {
        Self(sandbox)
    }

    /// A token of an account.
    pub(crate) fn token(&self, account: &str, scopes: &[&str]) -> Result<String> {
        let scopes = scopes.join(",");
        let mut arguments = vec!["token", account];
        if !scopes.is_empty() {
            arguments.extend(["--scopes", &scopes]);
        }
        Ok(self.0.pilothouse(&arguments)?.trim().to_owned())
    }

    /// One request of an account; code and body. The path is below the project.
    pub(crate) fn as_account(&self, token: &str, verb: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let (base, project) = (self.0.variable("PILOTHOUSE_ENDPOINT"), self.0.variable("PILOTHOUSE_PROJECT"));
        let separator = if path.starts_with(':') { "" } else { "/" };
        let url = format!("{base}/v1/projects/{project}{separator}{path}");
        let (code, text) = curl(&["-X", verb, "-H", &format!("Authorization: Bearer {token}"), "-d", body, &url])?;
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    fn as_owner(&self, verb: &str, path: &str, body: &str) -> Result<Value> {
        let (code, answer) = self.as_account(self.0.variable("CLOUDSDK_AUTH_ACCESS_TOKEN"), verb, path, body)?;
        ensure!(code == 200, "{verb} {path}: {code} {answer}");
        Ok(answer)
    }

    /// A change of a cluster, until it is done.
    pub(crate) fn change(&self, verb: &str, path: &str, body: &str) -> Result<()> {
        let begun = self.as_owner(verb, path, body)?;
        let name = begun["name"].as_str().context("an operation")?.to_owned();
        e2e::eventually(std::time::Duration::from_secs(30), || {
            let operation = self.as_owner("GET", &format!("locations/us-central1-a/operations/{name}"), "")?;
            ensure!(operation["status"] == "DONE", "{operation}");
            Ok(operation)
        })
        .and_then(|operation| if operation["error"].is_null() { Ok(()) } else { bail!("{operation}") })
    }

    /// Gives a member a role on the project.
    pub(crate) fn bind(&self, role: &str, member: &str) -> Result<()> {
        let mut policy = self.as_owner("POST", ":getIamPolicy", "{}")?;
        let binding = serde_json::json!({"role": role, "members": [member]});
        policy["bindings"].as_array_mut().context("bindings")?.push(binding);
        self.as_owner("POST", ":setIamPolicy", &serde_json::json!({"policy": policy}).to_string()).map(drop)
    }

    /// Takes a role from everybody.
    pub(crate) fn unbind(&self, role: &str) -> Result<()> {
        let mut policy = self.as_owner("POST", ":getIamPolicy", "{}")?;
        policy["bindings"].as_array_mut().context("bindings")?.retain(|binding| binding["role"] != role);
        self.as_owner("POST", ":setIamPolicy", &serde_json::json!({"policy": policy}).to_string()).map(drop)
    }
}

/// curl, whatever the certificate; code and body.
pub(crate) fn curl(arguments: &[&str]) -> Result<(u16, String)> {
    let curl = on_path("curl").context("no curl")?;
    let output = Command::new(curl).args(["-sk", "--noproxy", "*", "-w", "\n%{http_code}"]).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("curl said nothing")?;
    Ok((code.parse()?, body.to_owned()))
}

/// `https://ENDPOINT` of a cluster.
fn endpoint(sandbox: &Sandbox, name: &str) -> Result<String> {
    let status = sandbox.status()?;
    let clusters = status["clusters"].as_array().context("clusters")?;
    let found = clusters.iter().find(|cluster| cluster["name"] == name).context("the cluster")?;
    Ok(format!("https://{}", found["endpoint"].as_str().context("an endpoint")?))
}

#[test]
fn a_token_without_the_email_is_nobodys_and_a_new_cluster_has_no_other_credentials() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cloud = Cloud::of(&sandbox);
    let silent = cloud.token("alice@example.com", &["cloud-platform"])?;
    let said = sandbox.kubectl_fails(&["--token", &silent, "get", "pods"])?;
    ensure!(said.contains("You must be logged in to the server"), "{said}");
    let alice = cloud.token("alice@example.com", &[])?;
    let whoami = sandbox.kubectl(&["--token", &alice, "auth", "whoami", "-o", "jsonpath={.status.userInfo}"])?;
    ensure!(whoami.contains("alice@example.com") && whoami.contains("system:authenticated"), "{whoami}");

    let described = cloud.as_owner("GET", CLUSTER, "")?;
    for field in ["username", "password", "clientCertificate", "clientKey"] {
        ensure!(described["masterAuth"][field].is_null(), "{field}");
    }
    let api = endpoint(&sandbox, "demo")?;
    ensure!(curl(&["-u", "admin:x", &format!("{api}/version")])?.0 == 401);
    let body = r#"{"cluster":{"name":"old","initialNodeCount":1,"masterAuth":{"username":"admin"}}}"#;
    let owner = sandbox.variable("CLOUDSDK_AUTH_ACCESS_TOKEN");
    let (code, answer) = cloud.as_account(owner, "POST", "locations/us-central1-a/clusters", body)?;
    let text = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(
        code == 400 && text.starts_with("Basic authentication was removed for GKE cluster versions >= 1.19."),
        "{answer}"
    );

    // Classic: who comes without credentials may look at the version.
    ensure!(curl(&[&format!("{api}/version")])?.0 == 200 && curl(&[&format!("{api}/api/v1/pods")])?.0 == 403);
    let limited = r#"{"update":{"desiredAnonymousAuthenticationConfig":{"mode":"LIMITED"}}}"#;
    cloud.change("PUT", CLUSTER, limited)?;
    ensure!(curl(&[&format!("{api}/version")])?.0 == 401 && curl(&[&format!("{api}/livez")])?.0 == 200);
    sandbox.kubectl(&["get", "--raw", "/version"])?;
    Ok(())
}

#[test]
fn in_2026_nobody_in_particular_sees_only_health() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--profile", "2026"])?;
    let api = endpoint(&sandbox, "demo")?;
    for (path, code) in [("/version", 401), ("/livez", 200), ("/readyz", 200), ("/healthz", 200), ("/livez/ping", 401)]
    {
        let (found, body) = curl(&[&format!("{api}{path}")])?;
        ensure!(found == code, "{path}: {found} {body}");
    }
    Ok(())
}

#[test]
fn the_issued_client_certificate_comes_in_and_legacy_authorization_widens_and_narrows_it() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cloud = Cloud::of(&sandbox);
    let body = r#"{"cluster":{"name":"c2","initialNodeCount":1,
        "masterAuth":{"clientCertificateConfig":{"issueClientCertificate":true}}}}"#;
    cloud.change("POST", "locations/us-central1-a/clusters", body)?;
    let path = "locations/us-central1-a/clusters/c2";
    let shown = cloud.as_owner("GET", path, "")?;
    let pem = |field: &str| -> Result<String> {
        let text = STANDARD.decode(shown["masterAuth"][field].as_str().context("it is shown to the owner")?)?;
        sandbox.file(field, std::str::from_utf8(&text)?)
    };
    let (certificate, key) = (pem("clientCertificate")?, pem("clientKey")?);
    cloud.bind("roles/container.clusterViewer", "user:alice@example.com")?;
    let (code, seen) = cloud.as_account(&cloud.token("alice@example.com", &[])?, "GET", path, "")?;
    ensure!(
        code == 200 && seen["masterAuth"]["clientKey"].is_null() && seen["masterAuth"]["clientCertificate"].is_null()
    );

    let pods = format!("{}/api/v1/namespaces/default/pods", endpoint(&sandbox, "c2")?);
    let ask = || curl(&["--cert", &certificate, "--key", &key, &pods]);
    let (code, text) = ask()?;
    ensure!(code == 403 && text.contains("User \\\"client\\\" cannot list resource"), "{code} {text}");
    for (enabled, code) in [("true", 200), ("false", 403)] {
        cloud.change("POST", &format!("{path}:setLegacyAbac"), &format!(r#"{{"enabled":{enabled}}}"#))?;
        let (found, text) = ask()?;
        ensure!(found == code, "{enabled}: {found} {text}");
    }
    let foreign = format!("{}/api/v1/namespaces/default/pods", endpoint(&sandbox, "demo")?);
    ensure!(curl(&["--cert", &certificate, "--key", &key, &foreign])?.0 == 401, "another cluster's certificate");
    Ok(())
}

const TOKEN_SECRET: &str = "
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: robot-token
  annotations: {kubernetes.io/service-account.name: robot}
";

#[test]
fn a_secrets_token_is_filled_in_used_and_gone_with_its_account() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let limit = std::time::Duration::from_secs(10);
    sandbox.kubectl(&["create", "serviceaccount", "robot"])?;
    sandbox.kubectl_with_input(&["apply", "-f", "-"], TOKEN_SECRET)?;
    let field = |path: &str| sandbox.kubectl(&["get", "secret", "robot-token", "-o", &format!("jsonpath={path}")]);
    let token = eventually(limit, || {
        let data = field("{.data.token}")?;
        ensure!(!data.is_empty(), "not yet");
        Ok(String::from_utf8(STANDARD.decode(data)?)?)
    })?;
    ensure!(
        String::from_utf8(STANDARD.decode(field("{.data.ca\\.crt}")?)?)?.starts_with("-----BEGIN CERTIFICATE-----")
    );
    ensure!(STANDARD.decode(field("{.data.namespace}")?)? == b"default");
    let whoami =
        || sandbox.kubectl(&["--token", &token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    ensure!(whoami()? == "system:serviceaccount:default:robot");
    eventually(limit, || {
        let used = field("{.metadata.labels.kubernetes\\.io/legacy-token-last-used}")?;
        ensure!(used.len() == "2026-01-01".len(), "{used}");
        Ok(())
    })?;
    sandbox.kubectl(&["label", "secret", "robot-token", "kubernetes.io/legacy-token-invalid-since=2026-01-01"])?;
    ensure!(whoami().is_err(), "it is marked");
    sandbox.kubectl(&["label", "secret", "robot-token", "kubernetes.io/legacy-token-invalid-since-"])?;
    whoami()?;
    sandbox.kubectl(&["delete", "serviceaccount", "robot"])?;
    ensure!(whoami().is_err(), "its account is gone");
    eventually(limit, || {
        ensure!(sandbox.kubectl_fails(&["get", "secret", "robot-token"])?.contains("not found"));
        Ok(())
    })
}

#[test]
fn bound_tokens_end_with_what_they_are_bound_to() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "serviceaccount", "robot"])?;
    let robot = r#"--overrides={"spec":{"serviceAccountName":"robot"}}"#;
    sandbox.kubectl(&["run", "p", "--image=nginx", robot])?;
    sandbox.kubectl(&["create", "secret", "generic", "s"])?;
    let make = |more: &[&str]| -> Result<String> {
        let mut arguments = vec!["create", "token", "robot"];
        arguments.extend(more);
        Ok(sandbox.kubectl(&arguments)?.trim().to_owned())
    };
    let whoami =
        |token: &str| sandbox.kubectl(&["--token", token, "auth", "whoami", "-o", "jsonpath={.status.userInfo}"]);
    let to_pod = make(&["--bound-object-kind=Pod", "--bound-object-name=p"])?;
    let to_secret = make(&["--bound-object-kind=Secret", "--bound-object-name=s"])?;
    let elsewhere = make(&["--audience=elsewhere"])?;
    ensure!(whoami(&to_pod)?.contains("authentication.kubernetes.io/pod-name"));
    whoami(&to_secret)?;
    ensure!(whoami(&elsewhere).is_err(), "it is for another server");
    ensure!(
        make(&["--duration=5m"])
            .is_err_and(|e| e.to_string().contains("may not specify a duration less than 10 minutes"))
    );
    sandbox.kubectl(&["delete", "secret", "s"])?;
    ensure!(whoami(&to_secret).is_err(), "its Secret is gone");
    sandbox.kubectl(&["delete", "pod", "p", "--force", "--grace-period=0"])?;
    ensure!(whoami(&to_pod).is_err(), "its Pod is gone");
    let plain = make(&[])?;
    whoami(&plain)?;
    // GKE's own API shows the keys to anybody, and the token names one of them.
    let head = plain.split('.').next().context("a head")?;
    let head: Value = serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head)?)?;
    let project =
        format!("{}/v1/projects/{}", sandbox.variable("PILOTHOUSE_ENDPOINT"), sandbox.variable("PILOTHOUSE_PROJECT"));
    let (code, keys) = curl(&[&format!("{project}/{CLUSTER}/jwks")])?;
    let keys: Value = serde_json::from_str(&keys)?;
    ensure!(code == 200 && keys["keys"][0]["kid"] == head["kid"], "{code} {keys} {head}");
    sandbox.kubectl(&["delete", "serviceaccount", "robot"])?;
    sandbox.kubectl(&["create", "serviceaccount", "robot"])?;
    ensure!(whoami(&plain).is_err(), "the account is another one of the same name");
    Ok(())
}
