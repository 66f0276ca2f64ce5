//! Keys change while everything runs, and what they sealed can still be read.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// (directory, data key, platform key) of each directory, once nothing is sealed with an earlier key any more.
fn keys(sandbox: &Sandbox) -> Result<Vec<[String; 3]>> {
    eventually(LIMIT, || {
        let inspection: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "-o", "json"])?)?;
        let keys = inspection["keys"].as_array().context("no keys")?;
        ensure!(keys.iter().all(|key| key["resealing"] == false), "still sealing anew");
        let text = |key: &Value, name: &str| key[name].as_str().unwrap_or_default().to_owned();
        Ok(keys.iter().map(|key| ["dataDir", "dataKeyId", "platformKeyId"].map(|name| text(key, name))).collect())
    })
}

/// Whether a file below the directory was sealed with the key, by the id in its head (disk::frame).
fn is_sealed_with(directory: &Path, id: &[u8; 16]) -> Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => is_sealed_with(&path, id)?,
            false => std::fs::read(&path)?.get(8..24).is_some_and(|found| found == id),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn rotated_keys_seal_everything_anew_and_nothing_is_lost() -> Result<()> {
    let mut sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "secret", "generic", "before", "--from-literal=k=MARKER-BEFORE"])?;
    let before = keys(&sandbox)?;
    ensure!(before.len() == 2, "signer and instance: {before:?}");
    let told = sandbox.pilothouse(&["rotate-keys"])?;
    ensure!(told.contains("2 data keys"), "{told}");
    sandbox.kubectl(&["create", "secret", "generic", "meanwhile", "--from-literal=k=MARKER-MEANWHILE"])?;
    let after = keys(&sandbox)?;
    for ([directory, old, old_platform], [_, new, new_platform]) in before.iter().zip(&after) {
        ensure!(old != new && old_platform != new_platform, "{directory}: {old} {new}");
        ensure!(
            !is_sealed_with(Path::new(directory), uuid::Uuid::parse_str(old)?.as_bytes())?,
            "{directory} has files of the key before"
        );
    }
    // Killed in the middle of the next one, all of it.
    sandbox.pilothouse(&["rotate-keys"])?;
    for (pid, _) in sandbox.processes()? {
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    }
    // A process that is being killed holds its directory for a moment after it is gone from the list.
    eventually(LIMIT, || sandbox.up(&[]))?;
    for (name, value) in [("before", "MARKER-BEFORE"), ("meanwhile", "MARKER-MEANWHILE")] {
        let found = sandbox.kubectl(&["get", "secret", name, "-o", "go-template={{.data.k | base64decode}}"])?;
        ensure!(found == value, "{name}: {found}");
    }
    let last = keys(&sandbox)?;
    ensure!(last.iter().zip(&after).all(|(last, after)| last[1] != after[1]), "the second rotation was finished");
    Ok(())
}
