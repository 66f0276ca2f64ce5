//! The key of the user's that the directories of a cluster's instances are encrypted under, beside the platform's
//! (`controlPlaneDiskEncryptionKey`): a secret of the cluster that Cloud KMS has encrypted. Each start of an instance asks Cloud
//! KMS for it, as attaching a disk does; what runs goes on.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Error, Result, anyhow, bail};
use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud::Cloud;
use disk::Platform;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::fleet::Fleet;
use crate::fleet::cluster::Cluster;
use crate::fleet::starting::SIGNER;
use crate::layout::write_private;

const FILE: &str = "disk-key.json";
const LOST: &str = "is missing or damaged; restore it from a backup, the cluster's data is lost without it";
/// The instances of a regional cluster start side by side and share one secret.
static MAKING: Mutex<()> = Mutex::new(());

/// The secret as it is kept: of no use without the key that encrypted it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wrapped {
    /// The name of the key in Cloud KMS.
    key: String,
    /// Base64.
    ciphertext: String,
}

/// The platform as it wraps the data keys of the cluster's instances.
///
/// # Errors
/// In Cloud KMS's words when the user's key cannot be used.
pub(crate) async fn platform(fleet: &Fleet, cluster: &Cluster) -> Result<Platform> {
    let key = cluster.spec().user_managed_keys.disk.clone();
    if key.is_empty() {
        return Ok(fleet.platform.clone());
    }
    let cloud = fleet.cloud.get().cloned().context("the cloud is not there yet")?;
    let (id, directory) = (cluster.spec().id.clone(), fleet.layout().cluster(&cluster.spec().id));
    let entropy = fleet.entropy.clone();
    let is_in_use = cluster.sealed_directories(fleet.layout()).iter().any(|(name, _)| name != SIGNER);
    let secret = tokio::task::spawn_blocking(move || {
        let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        match stored(&cloud, &id, &directory)? {
            Some(secret) => Ok(secret),
            None if is_in_use => bail!("{} {LOST}", directory.join(FILE).display()),
            None => make(&cloud, &key, &id, &directory, &entropy),
        }
    });
    Ok(fleet.platform.with_user_key(secret.await??))
}

fn refused(text: String) -> Error {
    anyhow!("the key of the control plane's disks cannot be used: {text}")
}

fn stored(cloud: &Cloud, id: &str, directory: &Path) -> Result<Option<Zeroizing<[u8; 32]>>> {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let lost = || format!("{} {LOST}", path.display());
    let wrapped: Wrapped = serde_json::from_slice(&text).with_context(lost)?;
    let sealed = STANDARD.decode(&wrapped.ciphertext).with_context(lost)?;
    let opened = cloud.decrypt_for_disk(&wrapped.key, &sealed, id).map_err(refused)?;
    Ok(Some(Zeroizing::new(<[u8; 32]>::try_from(opened.as_slice()).ok().with_context(lost)?)))
}

fn make(cloud: &Cloud, key: &str, id: &str, directory: &Path, entropy: &Entropy) -> Result<Zeroizing<[u8; 32]>> {
    let secret = Zeroizing::new(entropy.bytes::<32>());
    let sealed = cloud.encrypt_for_disk(key, secret.as_slice(), id).map_err(refused)?;
    let wrapped = Wrapped { key: key.to_owned(), ciphertext: STANDARD.encode(sealed) };
    write_private(&directory.join(FILE), &serde_json::to_vec_pretty(&wrapped)?)?;
    // What it is about to wrap is lost without it.
    File::open(directory).and_then(|directory| directory.sync_all())?;
    Ok(secret)
}
