//! Keys of a cluster that the user has in Cloud KMS (reference: GKE behaviour §1 and §2, CMCA): gcloud makes them and a cluster on
//! them, openssl verifies a token, and gcloud disables them again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use e2e::{Sandbox, eventually, on_path, skipped};
use serde_json::Value;

use crate::identities::{openssl, run};
use crate::kms::Owner;

const LIMIT: Duration = Duration::from_secs(60);
const PATH: &str = "projects/pilothouse-local/locations/us-central1/keyRings/ring/cryptoKeys";

struct Clients {
    owner: Owner,
}

impl Clients {
    fn cluster(&self, action: &[&str]) -> Result<String> {
        self.owner.gcloud(&[&["container", "clusters"], action, &["--zone", "us-central1-a"]].concat())
    }

    fn describe(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cluster(&["describe", "own", "--format", "json"])?)?)
    }

    fn key(&self, name: &str, purpose: &str, algorithm: &str) -> Result<()> {
        self.owner.keys(&["create", name, "--purpose", purpose, "--default-algorithm", algorithm]).map(drop)
    }

    fn instance(&self) -> Result<Option<u64>> {
        Ok(self.owner.sandbox.status()?["clusters"][0]["instances"][0]["pid"].as_u64())
    }
}

fn create(tokens: &str) -> [String; 6] {
    let version = format!("{PATH}/{tokens}/cryptoKeyVersions/1");
    [
        "create".to_owned(),
        "own".to_owned(),
        "--num-nodes=1".to_owned(),
        format!("--service-account-signing-keys={version}"),
        format!("--service-account-verification-keys={version}"),
        format!("--control-plane-disk-encryption-key={PATH}/disk"),
    ]
}

#[test]
fn tokens_and_disks_of_a_cluster_depend_on_the_user_s_keys() -> Result<()> {
    let (Some(gcloud), Some(_)) = (on_path("gcloud"), on_path("openssl")) else {
        skipped("user-managed keys", "gcloud or openssl is not on PATH");
        return Ok(());
    };
    let mut clients = Clients {
        owner: Owner { sandbox: Sandbox::start_with(&["--no-cluster", "--profile", "2026"])?, program: gcloud },
    };
    clients.owner.make_ring()?;
    clients.key("tokens", "asymmetric-signing", "rsa-sign-pkcs1-3072-sha256")?;
    clients.key("short", "asymmetric-signing", "rsa-sign-pkcs1-2048-sha256")?;
    clients.key("disk", "encryption", "google-symmetric-encryption")?;
    let attempt = |tokens: &str| clients.cluster(&create(tokens).each_ref().map(String::as_str));
    let refused = attempt("tokens").unwrap_err().to_string();
    ensure!(refused.contains("Permission 'cloudkms.cryptoKeyVersions.viewPublicKey' denied on resource"), "{refused}");
    clients.owner.let_gke_use("tokens", "roles/container.cloudKmsKeyUser")?;
    let refused = attempt("tokens").unwrap_err().to_string();
    ensure!(refused.contains("Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource"), "{refused}");
    clients.owner.let_gke_use("disk", "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation")?;
    clients.owner.let_gke_use("short", "roles/container.cloudKmsKeyUser")?;
    let refused = attempt("short").unwrap_err().to_string();
    ensure!(refused.contains("RSA_SIGN_PKCS1_2048_SHA256; service account tokens need"), "{refused}");
    attempt("tokens")?;
    let shown = clients.describe()?;
    let keys = &shown["userManagedKeysConfig"];
    ensure!(keys["serviceAccountSigningKeys"][0] == format!("{PATH}/tokens/cryptoKeyVersions/1").as_str(), "{keys}");
    let version = format!("{PATH}/disk/cryptoKeyVersions/1");
    ensure!(keys["controlPlaneDiskEncryptionKeyVersions"][0] == version.as_str(), "{keys}");
    clients.owner.sandbox.kubectl(&["wait", "--for", "condition=Ready", "node", "--all", "--timeout", "60s"])?;
    tokens(&clients)?;
    disks(&clients)?;
    cloud_without_its_cluster(&mut clients)
}

/// The key that is shown verifies the tokens, and without it there are no new ones; those of before are good.
fn tokens(clients: &Clients) -> Result<()> {
    let sandbox = &clients.owner.sandbox;
    let token = sandbox.kubectl(&["create", "token", "default"])?;
    let public = sandbox.file("tokens.pem", "")?;
    clients.owner.keys(&["versions", "get-public-key", "1", "--key", "tokens", "--output-file", &public])?;
    let (signed, signature) = token.trim().rsplit_once('.').context("no token")?;
    let text = sandbox.file("token.txt", signed)?;
    let file = sandbox.file("token.sig", "")?;
    std::fs::write(&file, URL_SAFE_NO_PAD.decode(signature)?)?;
    openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &file, &text])?;
    let place = "v1/projects/pilothouse-local/locations/us-central1-a/clusters/own";
    let url = format!("{}/{place}/jwks", sandbox.variable("PILOTHOUSE_ENDPOINT"));
    let set: Value = serde_json::from_str(&run(Command::new("curl").args(["-sf", &url]))?)?;
    ensure!(set["keys"].as_array().map(Vec::len) == Some(1), "{set}");
    let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap_or_default())?)?;
    ensure!(head["kid"] == set["keys"][0]["kid"] && head["alg"] == "RS256", "{head} {set}");

    let review = || {
        let body = format!(
            r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{}"}}}}"#,
            token.trim()
        );
        let reviewed = sandbox.kubectl_with_input(&["create", "-f", "-", "-o", "jsonpath={.status}"], &body)?;
        ensure!(reviewed.contains("system:serviceaccount:default:default"), "{reviewed}");
        anyhow::Ok(())
    };
    review()?;
    clients.owner.first_version("disable", "tokens")?;
    let refused = sandbox.kubectl_fails(&["create", "token", "default"])?;
    ensure!(refused.contains("tokens/cryptoKeyVersions/1 is not enabled, current state is: DISABLED"), "{refused}");
    review()?;
    clients.owner.first_version("enable", "tokens")?;
    sandbox.kubectl(&["create", "token", "default"]).map(drop)
}

/// What runs goes on without the key of its disks; it does not start again before it is enabled.
fn disks(clients: &Clients) -> Result<()> {
    let sandbox = &clients.owner.sandbox;
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"])?;
    clients.owner.first_version("disable", "disk")?;
    sandbox.kubectl(&["get", "configmap", "kept"])?;
    let shown = clients.describe()?;
    let condition = &shown["conditions"][0];
    ensure!(shown["status"] == "DEGRADED" && condition["code"] == "CLOUD_KMS_KEY_ERROR", "{condition}");
    let before = clients.instance()?.context("no instance")?;
    ensure!(Command::new("kill").args(["-9", &before.to_string()]).status()?.success());
    eventually(LIMIT, || {
        let said = sandbox.status()?.to_string();
        ensure!(
            said.contains("the key of the control plane's disks cannot be used") && said.contains("DISABLED"),
            "{said}"
        );
        Ok(())
    })?;
    sandbox.kubectl_fails(&["get", "configmap", "kept", "--request-timeout", "5s"])?;
    // The statement of the data directory is of no use to who has the platform's key alone.
    let file = run(Command::new("find").arg(sandbox.data_dir()).args(["-name", "disk-key.json"]))?;
    let text = std::fs::read(file.trim())?;
    let kept: Value = serde_json::from_slice(&text)?;
    ensure!(kept["key"] == format!("{PATH}/disk").as_str(), "{kept}");
    ensure!(STANDARD.decode(kept["ciphertext"].as_str().unwrap_or_default())?.len() > 32, "{kept}");
    // Wrapped twice is longer than wrapped once.
    let wrapped = |part: &str| -> Result<usize> {
        let identity = Path::new(file.trim()).with_file_name(part).join("identity.json");
        let identity: Value = serde_json::from_slice(&std::fs::read(identity)?)?;
        Ok(identity["dataKey"]["wrapped"].as_str().context("no wrapped key")?.len())
    };
    ensure!(
        wrapped("control-plane-0")? > wrapped("signer")?,
        "the platform's key alone opens the instance's directory"
    );
    clients.owner.first_version("enable", "disk")?;
    std::fs::remove_file(file.trim())?;
    eventually(LIMIT, || {
        let said = sandbox.status()?.to_string();
        ensure!(said.contains("disk-key.json is missing or damaged; restore it"), "{said}");
        Ok(())
    })?;
    std::fs::write(file.trim(), text)?;
    eventually(LIMIT, || sandbox.kubectl(&["get", "configmap", "kept"]))?;
    sandbox.pilothouse(&["rotate-keys"])?;
    clients.owner.first_version("disable", "disk")?;
    let refused = sandbox.pilothouse(&["rotate-keys"]).unwrap_err().to_string();
    ensure!(refused.contains("the key of the control plane's disks cannot be used"), "{refused}");
    clients.owner.first_version("enable", "disk")?;
    sandbox.pilothouse(&["rotate-keys"])?;
    sandbox.kubectl(&["get", "configmap", "kept"]).map(drop)
}

/// A cluster that `up` promises and that cannot start does not take the cloud with it: the cloud has the key.
fn cloud_without_its_cluster(clients: &mut Clients) -> Result<()> {
    clients.owner.first_version("disable", "disk")?;
    let sandbox = &mut clients.owner.sandbox;
    sandbox.pilothouse(&["down"])?;
    let refused = sandbox.up(&["--cluster", "own", "--location", "us-central1-a"]).unwrap_err().to_string();
    ensure!(refused.contains("the key of the control plane's disks cannot be used"), "{refused}");
    ensure!(refused.contains("what else is there runs"), "{refused}");
    sandbox.up(&[])?;
    clients.owner.first_version("enable", "disk")?;
    eventually(LIMIT, || clients.owner.sandbox.kubectl(&["get", "configmap", "kept"])).map(drop)
}
