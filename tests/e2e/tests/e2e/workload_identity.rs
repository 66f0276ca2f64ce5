//! Workload Identity (reference: GKE behaviour §4): kubectl makes the token of a service account, curl exchanges it, gcloud
//! says as whom it may act.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, on_path, skipped};
use serde_json::{Value, json};

use crate::identities::run;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GSA: &str = "robots@pilothouse-local.iam.gserviceaccount.com";
const POOL: &str = "pilothouse-local.svc.id.goog";

/// Code and body of a POST.
fn post(sandbox: &Sandbox, path: &str, token: &str, body: &Value) -> Result<(String, Value)> {
    let url = format!("{}{path}", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "20", "-w", "\n%{http_code}", "-H", "Content-Type: application/json"]);
    if !token.is_empty() {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let text = run(curl.args(["-d", &body.to_string(), &url]))?;
    let (body, code) = text.rsplit_once('\n').context("curl says the code")?;
    Ok((code.to_owned(), serde_json::from_str(body).with_context(|| body.to_owned())?))
}

/// What the token of a Kubernetes service account is worth at the Security Token Service.
fn exchange(sandbox: &Sandbox, token: &str) -> Result<(String, Value)> {
    let cluster = "https://container.googleapis.com/v1/projects/pilothouse-local/locations/us-central1-a/clusters/wi";
    let body = json!({"grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "scope": SCOPE,
        "audience": format!("identitynamespace:{POOL}:{cluster}"), "subjectToken": token,
        "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token",
        "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt"});
    post(sandbox, "/v1/token", "", &body)
}

#[test]
fn a_service_account_of_the_cluster_acts_as_one_of_google() -> Result<()> {
    let (Some(gcloud), Some(_)) = (on_path("gcloud"), on_path("curl")) else {
        skipped("Workload Identity", "gcloud or curl is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--no-cluster"])?;
    let gcloud = |arguments: &[&str]| run(sandbox.command(&gcloud).args(arguments).arg("--quiet"));
    let create = ["container", "clusters", "create", "wi", "--zone", "us-central1-a", "--num-nodes", "1"];
    gcloud(&[&create[..], &["--workload-pool", POOL]].concat())?;
    let shown = ["container", "clusters", "describe", "wi", "--zone", "us-central1-a"];
    let shown = gcloud(&[&shown[..], &["--format", "value(workloadIdentityConfig.workloadPool)"]].concat())?;
    ensure!(shown.trim() == POOL, "{shown}");
    gcloud(&["iam", "service-accounts", "create", "robots"])?;
    sandbox.kubectl(&["create", "serviceaccount", "cart"])?;

    let token = |audience: &str| sandbox.kubectl(&["create", "token", "cart", "--audience", audience]);
    let (code, answer) = exchange(&sandbox, token("https://elsewhere")?.trim())?;
    ensure!(code == "400" && answer["error"] == "invalid_grant", "{answer}");
    let (code, answer) = exchange(&sandbox, token(POOL)?.trim())?;
    ensure!(code == "200", "{answer}");
    let federated = answer["access_token"].as_str().context("a token")?.to_owned();

    let impersonate = format!("/v1/projects/-/serviceAccounts/{GSA}:generateAccessToken");
    let (code, answer) = post(&sandbox, &impersonate, &federated, &json!({"scope": [SCOPE]}))?;
    ensure!(code == "403" && answer["error"]["status"] == "PERMISSION_DENIED", "{answer}");
    let member = format!("serviceAccount:{POOL}[default/cart]");
    let bind = ["--role", "roles/iam.workloadIdentityUser", "--member", &member];
    gcloud(&[&["iam", "service-accounts", "add-iam-policy-binding", GSA], &bind[..]].concat())?;
    let policy = gcloud(&["iam", "service-accounts", "get-iam-policy", GSA, "--format", "json"])?;
    ensure!(policy.contains(&member), "{policy}");
    let (code, answer) = post(&sandbox, &impersonate, &federated, &json!({"scope": [SCOPE]}))?;
    ensure!(code == "200", "{answer}");
    let own = answer["accessToken"].as_str().context("a token")?;
    let info = format!("{}/tokeninfo?access_token={own}", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    let info = run(Command::new("curl").args(["-sS", "-m", "20", &info]))?;
    ensure!(info.contains(GSA), "{info}");
    gcloud(&[&["iam", "service-accounts", "remove-iam-policy-binding", GSA], &bind[..]].concat())?;
    let (code, answer) = post(&sandbox, &impersonate, &federated, &json!({"scope": [SCOPE]}))?;
    ensure!(code == "403", "{answer}");
    Ok(())
}
