//! Application-layer encryption of Secrets (reference: GKE behaviour §2): gcloud gives a cluster its key, kubectl writes,
//! etcdctl sees what is stored; and what becomes of it when the key is disabled and enabled again.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, eventually, on_path, skipped};
use serde_json::Value;

use crate::kms::Owner;

const LIMIT: Duration = Duration::from_secs(60);
const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";
const ZONE: [&str; 2] = ["--zone", "us-central1-a"];

struct Clients {
    owner: Owner,
    etcdctl: PathBuf,
}

impl Clients {
    fn cluster(&self, action: &[&str]) -> Result<String> {
        self.owner.gcloud(&[&["container", "clusters"], action, &ZONE].concat())
    }

    fn describe(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cluster(&["describe", "demo", "--format", "json"])?)?)
    }

    /// As the store has a Secret.
    fn stored(&self, secret: &str) -> Result<Vec<u8>> {
        let key = format!("/registry/secrets/default/{secret}");
        let output = self.owner.sandbox.command(&self.etcdctl).args(["get", "--print-value-only", &key]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    fn is_stored_under(&self, secret: &str, key: &str) -> Result<()> {
        let stored = self.stored(secret)?;
        let has = |text: &str| stored.windows(text.len()).any(|part| part == text.as_bytes());
        let text = String::from_utf8_lossy(&stored).into_owned();
        ensure!(stored.starts_with(b"k8s:enc:kms:v2:cloudkms:") && !has("MARKER"), "{text}");
        ensure!(has(&format!("/cryptoKeys/{key}/cryptoKeyVersions/1")), "{text}");
        Ok(())
    }

    fn read(&self, secret: &str) -> Result<String> {
        self.owner.sandbox.kubectl(&["get", "secret", secret, "-o", "go-template={{.data.k | base64decode}}"])
    }

    fn write(&self, secret: &str) -> Result<String> {
        self.owner.sandbox.kubectl(&[
            "create",
            "secret",
            "generic",
            secret,
            &format!("--from-literal=k=MARKER-{secret}"),
        ])
    }

    fn key(&self, name: &str) -> Result<String> {
        self.owner.keys(&["create", name, "--purpose", "encryption"])?;
        Ok(self.owner.keys(&["describe", name, "--format", "value(name)"])?.trim().to_owned())
    }

    /// Ends the control plane's process; the fleet starts it again.
    fn restart(&self) -> Result<()> {
        let pid = |status: &Value| status["clusters"][0]["instances"][0]["pid"].as_u64();
        let before = self.owner.sandbox.status()?;
        let before = pid(&before).context("no instance")?;
        ensure!(Command::new("kill").args(["-9", &before.to_string()]).status()?.success());
        eventually(LIMIT, || {
            let now = pid(&self.owner.sandbox.status()?);
            ensure!(now.is_some_and(|now| now != before), "not started again yet");
            self.owner.sandbox.kubectl(&["get", "--raw", "/livez"]).map(drop)
        })
    }
}

#[test]
fn secrets_are_encrypted_under_the_owners_key_and_depend_on_it() -> Result<()> {
    let (Some(gcloud), Some(etcdctl)) = (on_path("gcloud"), client("etcdctl")) else {
        skipped("application-layer encryption", "gcloud or etcdctl is not there");
        return Ok(());
    };
    let clients =
        Clients { owner: Owner { sandbox: Sandbox::start_with(&["--nodes", "0"])?, program: gcloud }, etcdctl };
    clients.write("before")?;
    ensure!(clients.stored("before")?.starts_with(b"{"), "nothing is encrypted in the store by itself");
    clients.owner.make_ring()?;
    let key = clients.key("one")?;
    let update = ["update", "demo", "--database-encryption-key", &key];
    let denied = clients.cluster(&update).unwrap_err().to_string();
    ensure!(denied.contains("Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource"), "{denied}");
    clients.owner.let_gke_use("one", ROLE)?;
    let elsewhere =
        ["container", "clusters", "create", "far", "--zone", "europe-west1-b", "--database-encryption-key", &key];
    let refused = clients.owner.gcloud(&elsewhere).unwrap_err().to_string();
    ensure!(refused.contains("database_encryption.key_name"), "{refused}");
    clients.cluster(&update)?;
    let shown = clients.describe()?;
    let encryption = &shown["databaseEncryption"];
    ensure!(encryption["state"] == "ENCRYPTED" && encryption["keyName"] == key.as_str(), "{encryption}");
    ensure!(encryption["currentState"] == "CURRENT_STATE_ENCRYPTED", "{encryption}");
    clients.write("s")?;
    clients.is_stored_under("s", "one")?;
    // What was there before is stored anew.
    eventually(LIMIT, || clients.is_stored_under("before", "one"))?;
    ensure!(clients.read("s")? == "MARKER-s" && clients.read("before")? == "MARKER-before");
    clients.owner.sandbox.kubectl(&["create", "configmap", "c", "--from-literal=k=v"])?;

    disabled(&clients)?;
    another_key(&clients)
}

/// The check list of the reference: the key's version is disabled, the control plane starts again, the version is enabled.
fn disabled(clients: &Clients) -> Result<()> {
    clients.owner.first_version("disable", "one")?;
    eventually(LIMIT, || {
        let said = clients.write("t").err().context("a new Secret is still stored")?.to_string();
        ensure!(said.contains("encryptedDEKSource with keyID hash") && said.contains("expired at"), "{said}");
        Ok(())
    })?;
    ensure!(clients.read("s")? == "MARKER-s", "the DEK is known as long as the process lives");
    clients.restart()?;
    let said = clients.owner.sandbox.kubectl_fails(&["get", "secret", "s"])?;
    ensure!(said.contains("Internal error occurred: got unexpected nil transformer"), "{said}");
    let said = clients.owner.sandbox.kubectl_fails(&["get", "secrets"])?;
    ensure!(said.contains("unable to transform key \"/registry/secrets/default/"), "{said}");
    clients.owner.sandbox.kubectl(&["get", "configmap", "c"])?;
    let shown = clients.describe()?;
    ensure!(shown["status"] == "DEGRADED", "{shown}");
    let condition = &shown["conditions"][0];
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(
        condition["code"] == "CLOUD_KMS_KEY_ERROR"
            && message.ends_with("/cryptoKeys/one/cryptoKeyVersions/1 is not enabled, current state is: DISABLED"),
        "{condition}"
    );
    clients.owner.first_version("enable", "one")?;
    eventually(LIMIT, || {
        ensure!(clients.read("s")? == "MARKER-s");
        let listed = clients.owner.sandbox.kubectl(&["get", "secrets", "-o", "name"])?;
        ensure!(listed.contains("secret/s") && listed.contains("secret/before"), "{listed}");
        clients.write("t").map(drop)
    })?;
    ensure!(clients.describe()?["status"] == "RUNNING");
    Ok(())
}

fn another_key(clients: &Clients) -> Result<()> {
    let key = clients.key("two")?;
    clients.owner.let_gke_use("two", ROLE)?;
    clients.cluster(&["update", "demo", "--database-encryption-key", &key])?;
    for secret in ["before", "s", "t"] {
        eventually(LIMIT, || clients.is_stored_under(secret, "two"))?;
    }
    let shown = clients.describe()?;
    let older = shown["databaseEncryption"]["decryptionKeys"][0].as_str().unwrap_or_default().to_owned();
    ensure!(older.ends_with("/cryptoKeys/one"), "{}", shown["databaseEncryption"]);
    // The key before is of no use any more, a restart included.
    clients.owner.first_version("disable", "one")?;
    clients.restart()?;
    ensure!(clients.read("t")? == "MARKER-t");
    clients.cluster(&["update", "demo", "--disable-database-encryption"])?;
    for secret in ["before", "s", "t"] {
        eventually(LIMIT, || {
            let stored = clients.stored(secret)?;
            ensure!(stored.starts_with(b"{"), "{}", String::from_utf8_lossy(&stored));
            Ok(())
        })?;
    }
    ensure!(clients.describe()?["databaseEncryption"]["state"] == "DECRYPTED" && clients.read("s")? == "MARKER-s");
    // And from the beginning.
    let create = ["create", "other", "--num-nodes", "1", "--database-encryption-key", &key];
    clients.cluster(&create)?;
    let state = clients.cluster(&["describe", "other", "--format", "value(databaseEncryption.state)"])?;
    ensure!(state.trim() == "ENCRYPTED", "{state}");
    Ok(())
}
