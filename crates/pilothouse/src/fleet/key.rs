//! A child's own directory, opened with the key that it was handed; the signer's vault lies in one.

use std::path::Path;

use anyhow::{Context, Result};
use base::Entropy;
use disk::{DataDir, DataKey, DiskError, Identity, Platform};
use zeroize::Zeroizing;

use crate::fleet::message::Secret;

/// A directory whose files are sealed with its data key; locked while it is open.
pub(crate) struct SealedDirectory {
    directory: DataDir,
    entropy: Entropy,
}

/// The fleet's part: makes the directory where it is missing, checks whose it is, and unwraps its key.
///
/// # Errors
/// When it belongs to another cluster, is damaged, or its key is missing.
pub(crate) fn unwrap(path: &Path, cluster: &str, instance: &str, platform: &Platform) -> Result<Secret> {
    let directory = DataDir::open_or_create(path, &identity(cluster, instance), platform)?;
    Ok(Secret(directory.data_key().hand_over().to_string()))
}

impl SealedDirectory {
    /// The child's part: opens the directory with the key it was handed.
    ///
    /// # Errors
    /// When the directory is another instance's, in use, or damaged.
    pub(crate) fn open(path: &Path, cluster: &str, instance: &str, key: &Secret, entropy: Entropy) -> Result<Self> {
        let key = DataKey::take_over(&key.0).context("the fleet sent a key of the wrong form")?;
        let directory = DataDir::open_with_key(path, &identity(cluster, instance), key)?;
        Ok(Self { directory, entropy })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn key(&self) -> &DataKey {
        self.directory.data_key()
    }
}

fn identity(cluster: &str, instance: &str) -> Identity {
    Identity { cluster_id: cluster.to_owned(), instance_id: instance.to_owned() }
}

impl pki::Vault for SealedDirectory {
    fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        match self.key().open_file(&self.directory.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(DiskError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn save(&self, name: &str, content: &[u8]) -> Result<(), String> {
        self.key().seal_file(&self.directory.join(name), content, &self.entropy).map_err(|e| e.to_string())
    }
}
