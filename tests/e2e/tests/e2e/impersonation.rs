//! Acting as a service account (reference: GKE behaviour §10): gcloud signs, and goes through chains of delegates.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::{Sandbox, on_path, skipped};
use serde_json::Value;

use crate::authentication::{Cloud, curl};
use crate::identities::run;

const DOMAIN: &str = "pilothouse-local.iam.gserviceaccount.com";

/// The certificates that an account's page shows.
fn certificates(sandbox: &Sandbox, account: &str) -> Result<Value> {
    let page = format!("{}/service_accounts/v1/metadata/x509/{account}", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    let (code, text) = curl(&[&page])?;
    ensure!(code == 200, "{code} {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Does openssl find the signature good, by one of the account's certificates?
fn is_good(sandbox: &Sandbox, account: &str, signed: &str, signature: &str) -> Result<bool> {
    let certificates = certificates(sandbox, account)?;
    for (id, certificate) in certificates.as_object().context("certificates by id")? {
        let certificate = sandbox.file(&format!("{id}.pem"), certificate.as_str().context("PEM")?)?;
        let key = run(Command::new("openssl").args(["x509", "-in", &certificate, "-noout", "-pubkey"]))?;
        let key = sandbox.file(&format!("{id}.pub"), &key)?;
        let mut verify = Command::new("openssl");
        verify.args(["dgst", "-sha256", "-verify", &key, "-signature", signature, signed]);
        if verify.output()?.status.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn gcloud_signs_and_acts_through_delegates() -> Result<()> {
    let (Some(program), Some(_), Some(_)) = (on_path("gcloud"), on_path("openssl"), on_path("curl")) else {
        skipped("impersonation", "gcloud, openssl or curl is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--no-cluster"])?;
    let gcloud = |arguments: &[&str]| run(sandbox.command(&program).args(arguments).arg("--quiet"));
    let [alpha, bravo, delta] = ["alpha-sa", "bravo-sa", "delta-sa"].map(|name| format!("{name}@{DOMAIN}"));
    for name in ["alpha-sa", "bravo-sa", "delta-sa"] {
        gcloud(&["iam", "service-accounts", "create", name])?;
    }
    // The owner may sign as anybody; alice as those who let her.
    let alice = Cloud::of(&sandbox).token("alice@example.com", &[])?;
    // The owner's token stands in the environment, before which flags do not count.
    let as_alice = |arguments: &[&str]| {
        let mut command = sandbox.command(&program);
        run(command.env("CLOUDSDK_AUTH_ACCESS_TOKEN", &alice).args(arguments).arg("--quiet"))
    };
    let robot = |email: &str| format!("serviceAccount:{email}");
    for (who, whom) in [("user:alice@example.com".to_owned(), &alpha), (robot(&alpha), &bravo), (robot(&bravo), &delta)]
    {
        let role = ["--role", "roles/iam.serviceAccountTokenCreator", "--member", &who];
        gcloud(&[&["iam", "service-accounts", "add-iam-policy-binding", whom], &role[..]].concat())?;
    }

    let (text, out) = (sandbox.file("text", "to be signed")?, sandbox.file("signature", "")?);
    as_alice(&["iam", "service-accounts", "sign-blob", &text, &out, "--iam-account", &alpha])?;
    ensure!(is_good(&sandbox, &alpha, &text, &out)? && !is_good(&sandbox, &bravo, &text, &out)?);
    let (claims, jwt) = (sandbox.file("claims.json", r#"{"sub": "x", "aud": "y"}"#)?, sandbox.file("jwt", "")?);
    as_alice(&["iam", "service-accounts", "sign-jwt", &claims, &jwt, "--iam-account", &alpha])?;
    let jwt = std::fs::read_to_string(&jwt)?;
    let (head, signature) = jwt.trim().rsplit_once('.').context("three parts")?;
    let signed = sandbox.file("signed", head)?;
    let raw = sandbox.file("raw", "")?;
    std::fs::write(&raw, URL_SAFE_NO_PAD.decode(signature)?)?;
    ensure!(is_good(&sandbox, &alpha, &signed, &raw)?, "{jwt}");
    let refused = as_alice(&["iam", "service-accounts", "sign-blob", &text, &out, "--iam-account", &delta]);
    ensure!(refused.unwrap_err().to_string().contains("iam.serviceAccounts.signBlob"));

    let token = |chain: &[&str]| {
        let chain = format!("--impersonate-service-account={}", chain.join(","));
        as_alice(&["auth", "print-access-token", &chain])
    };
    let info = |token: &str| {
        curl(&[&format!("{}/tokeninfo?access_token={}", sandbox.variable("PILOTHOUSE_ENDPOINT"), token.trim())])
    };
    let (code, said) = info(&token(&[&alpha, &bravo, &delta])?)?;
    ensure!(code == 200 && said.contains(&delta), "{said}");
    // Google names what is missing at the link that breaks.
    for (broken, permission) in [
        (&[delta.as_str()][..], "getAccessToken"),
        (&[&alpha, &delta], "getAccessToken"),
        (&[&bravo, &delta], "implicitDelegation"),
        (&[&alpha, &delta, &bravo], "implicitDelegation"),
    ] {
        let said = token(broken).unwrap_err().to_string();
        let denied = format!("Permission 'iam.serviceAccounts.{permission}' denied on resource (or it may not exist).");
        ensure!(said.contains("PERMISSION_DENIED") && said.contains(&denied), "{broken:?}: {said}");
    }
    // A role that is taken away breaks a chain that held.
    let member = robot(&alpha);
    let role = ["--role", "roles/iam.serviceAccountTokenCreator", "--member", &member];
    gcloud(&[&["iam", "service-accounts", "remove-iam-policy-binding", &bravo], &role[..]].concat())?;
    let said = token(&[&alpha, &bravo, &delta]).unwrap_err().to_string();
    ensure!(said.contains("iam.serviceAccounts.implicitDelegation"), "{said}");
    Ok(())
}
