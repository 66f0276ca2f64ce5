//! `gcloud kms`: key rings, keys, versions and their life, what keys do, and who may use them.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};
use serde_json::Value;

use crate::authentication::Cloud;
use crate::identities::{openssl, run};

const LIMIT: Duration = Duration::from_secs(30);
const PLACE: [&str; 4] = ["--location", "us-central1", "--keyring", "ring"];

/// gcloud as the owner of a sandbox' project, for those who want keys for clusters; their ring is called `ring`.
pub(crate) struct Owner {
    pub(crate) sandbox: Sandbox,
    pub(crate) program: PathBuf,
}

impl Owner {
    pub(crate) fn gcloud(&self, arguments: &[&str]) -> Result<String> {
        run(self.sandbox.command(&self.program).args(arguments).arg("--quiet"))
    }

    pub(crate) fn make_ring(&self) -> Result<()> {
        self.gcloud(&["kms", "keyrings", "create", PLACE[3], PLACE[0], PLACE[1]]).map(drop)
    }

    /// `gcloud kms keys …` in the ring.
    pub(crate) fn keys(&self, arguments: &[&str]) -> Result<String> {
        self.gcloud(&[&["kms", "keys"], arguments, &PLACE].concat())
    }

    pub(crate) fn first_version(&self, action: &str, key: &str) -> Result<()> {
        self.keys(&["versions", action, "1", "--key", key]).map(drop)
    }

    /// GKE's own account in the project, as a member of policies.
    pub(crate) fn service_agent(&self) -> Result<String> {
        let number = self.gcloud(&["projects", "list", "--format", "value(projectNumber)"])?;
        Ok(format!("serviceAccount:service-{}@container-engine-robot.iam.gserviceaccount.com", number.trim()))
    }

    pub(crate) fn let_gke_use(&self, key: &str, role: &str) -> Result<()> {
        let agent = self.service_agent()?;
        self.keys(&["add-iam-policy-binding", key, "--member", &agent, "--role", role]).map(drop)
    }
}

/// `gcloud kms …` of one caller.
struct Kms<'a> {
    sandbox: &'a Sandbox,
    gcloud: PathBuf,
    token: Option<String>,
}

impl Kms<'_> {
    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.sandbox.command(&self.gcloud);
        if let Some(token) = &self.token {
            command.env("CLOUDSDK_AUTH_ACCESS_TOKEN", token);
        }
        Ok(command.arg("kms").args(arguments).args(PLACE).arg("--quiet").output()?)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gcloud kms {arguments:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(!output.status.success(), "gcloud kms {arguments:?} succeeded");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn version(&self, action: &str, key: &str, number: &str) -> Result<Value> {
        let text = self.run(&["keys", "versions", action, number, "--key", key, "--format", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }
}

#[test]
fn keys_encrypt_sign_rest_and_are_destroyed_as_gcloud_says() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("Cloud KMS", "gcloud is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let owner = Kms { sandbox: &sandbox, gcloud: gcloud.clone(), token: None };
    run(sandbox.command(&gcloud).args(["kms", "keyrings", "create", "ring", "--location", "us-central1", "--quiet"]))?;
    let mars =
        run(sandbox.command(&gcloud).args(["kms", "keyrings", "create", "ring", "--location", "mars", "--quiet"]));
    let refused = mars.unwrap_err().to_string();
    ensure!(refused.contains("Cloud KMS is not available in 'mars'"), "{refused}");
    owner.run(&["keys", "create", "one", "--purpose", "encryption", "--labels", "team=a"])?;
    let next = ["--rotation-period", "30d", "--next-rotation-time", "2099-01-01T00:00:00Z"];
    owner.run(&[&["keys", "update", "one"][..], &next].concat())?;
    let shown: Value = serde_json::from_str(&owner.run(&["keys", "describe", "one", "--format", "json"])?)?;
    ensure!(shown["rotationPeriod"] == "2592000s" && shown["labels"]["team"] == "a", "{shown}");
    ensure!(shown["primary"]["algorithm"] == "GOOGLE_SYMMETRIC_ENCRYPTION", "{shown}");

    let plain = sandbox.file("plain.txt", "a secret text")?;
    let (sealed, opened) = (format!("{plain}.sealed"), format!("{plain}.opened"));
    let encrypt = ["encrypt", "--key", "one", "--plaintext-file", &plain, "--ciphertext-file", &sealed];
    let decrypt = ["decrypt", "--key", "one", "--ciphertext-file", &sealed, "--plaintext-file", &opened];
    owner.run(&encrypt)?;
    ensure!(!std::fs::read(&sealed)?.windows(6).any(|part| part == b"secret"), "it is in the clear");
    owner.run(&decrypt)?;
    ensure!(std::fs::read_to_string(&opened)? == "a secret text");
    versions(&owner, &encrypt, &decrypt)?;
    signatures(&owner, &plain)?;

    let alice = Cloud::of(&sandbox).token("alice@example.com", &[])?;
    let alice = Kms { sandbox: &sandbox, gcloud, token: Some(alice) };
    let denied = alice.fails(&decrypt)?;
    ensure!(denied.contains("Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource"), "{denied}");
    let role = ["--member", "user:alice@example.com", "--role", "roles/cloudkms.cryptoKeyDecrypter"];
    owner.run(&[&["keys", "add-iam-policy-binding", "one"][..], &role].concat())?;
    eventually(LIMIT, || alice.run(&decrypt))?;
    let denied = alice.fails(&encrypt)?;
    ensure!(denied.contains("useToEncrypt"), "{denied}");
    owner.run(&[&["keys", "remove-iam-policy-binding", "one"][..], &role].concat())?;
    alice.fails(&decrypt)?;
    Ok(())
}

/// Disabled, enabled, destroyed, restored; and a second version that becomes the primary one.
fn versions(owner: &Kms<'_>, encrypt: &[&str], decrypt: &[&str]) -> Result<()> {
    ensure!(owner.version("disable", "one", "1")?["state"] == "DISABLED");
    let refused = owner.fails(encrypt)?;
    ensure!(
        refused.contains("FAILED_PRECONDITION")
            && refused.contains("/cryptoKeys/one/cryptoKeyVersions/1 is not enabled, current state is: DISABLED."),
        "{refused}"
    );
    owner.fails(decrypt)?;
    ensure!(owner.version("enable", "one", "1")?["state"] == "ENABLED");
    owner.run(decrypt)?;
    owner.run(&["keys", "versions", "create", "--key", "one", "--primary"])?;
    owner.run(decrypt)?;
    let destroyed = owner.version("destroy", "one", "1")?;
    ensure!(destroyed["state"] == "DESTROY_SCHEDULED" && destroyed["destroyTime"].is_string(), "{destroyed}");
    let refused = owner.fails(decrypt)?;
    ensure!(refused.contains("current state is: DESTROY_SCHEDULED."), "{refused}");
    ensure!(owner.version("restore", "one", "1")?["state"] == "DISABLED");
    owner.version("enable", "one", "1")?;
    owner.run(decrypt)?;
    let listed = owner.run(&["keys", "versions", "list", "--key", "one", "--format", "value(name,state)"])?;
    ensure!(listed.lines().count() == 2 && !listed.contains("DISABLED"), "{listed}");
    Ok(())
}

fn signatures(owner: &Kms<'_>, file: &str) -> Result<()> {
    for algorithm in ["rsa-sign-pkcs1-2048-sha256", "ec-sign-p256-sha256"] {
        let create = ["keys", "create", algorithm, "--purpose", "asymmetric-signing", "--default-algorithm", algorithm];
        owner.run(&create)?;
        let (public, signature) = (format!("{file}.{algorithm}.pem"), format!("{file}.{algorithm}.signature"));
        let version = ["--key", algorithm, "--version", "1"];
        owner.run(&["keys", "versions", "get-public-key", "1", "--key", algorithm, "--output-file", &public])?;
        let files = ["--digest-algorithm", "sha256", "--input-file", file, "--signature-file", &signature];
        owner.run(&[&["asymmetric-sign"][..], &version, &files].concat())?;
        let verified = openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &signature, file])?;
        ensure!(verified.contains("Verified OK"), "{verified}");
        std::fs::write(format!("{file}.other"), "another text").context("a file to compare")?;
        let other = ["dgst", "-sha256", "-verify", &public, "-signature", &signature, &format!("{file}.other")];
        ensure!(openssl(&other).is_err(), "{algorithm} verifies anything");
    }
    Ok(())
}
