//! A child's own directory, opened with the key that it was handed; the signer's vault lies in one.

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use base::Entropy;
use disk::{DataDir, DataKey, DiskError, Identity, Platform};
use zeroize::Zeroizing;

use crate::fleet::message::Secret;

/// A directory whose files are sealed with its data key; locked while it is open.
pub(crate) struct SealedDirectory {
    directory: DataDir,
    /// Held for reading while a file is written: none is sealed with a key that is about to be forgotten.
    key: RwLock<DataKey>,
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

/// The fleet's part of a rotation: a new data key, wrapped with the platform's current key, and the form of it for the
/// process that has the directory open. `None` while that still seals everything anew from the rotation before; the keys
/// are only wrapped again then.
///
/// # Errors
/// As [`unwrap`].
pub(crate) fn rotate(path: &Path, cluster: &str, instance: &str, platform: &Platform) -> Result<Option<Secret>> {
    match DataDir::rotate_key(path, &identity(cluster, instance), platform) {
        Ok(key) => Ok(Some(Secret(key.hand_over().to_string()))),
        Err(DiskError::Resealing { .. }) => rewrap(path, cluster, instance, platform).map(|()| None),
        Err(other) => Err(other.into()),
    }
}

/// Wraps a directory's keys with the platform's current key.
///
/// # Errors
/// As [`unwrap`].
pub(crate) fn rewrap(path: &Path, cluster: &str, instance: &str, platform: &Platform) -> Result<()> {
    Ok(DataDir::rewrap_key(path, &identity(cluster, instance), platform)?)
}

impl SealedDirectory {
    /// The child's part: opens the directory with the key it was handed.
    ///
    /// # Errors
    /// When the directory is another instance's, in use, or damaged.
    pub(crate) fn open(path: &Path, cluster: &str, instance: &str, key: &Secret, entropy: Entropy) -> Result<Self> {
        let key = DataKey::take_over(&key.0).context("the fleet sent a key of the wrong form")?;
        let directory = DataDir::open_with_key(path, &identity(cluster, instance), key)?;
        let key = RwLock::new(directory.data_key().clone());
        Ok(Self { directory, key, entropy })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn key(&self) -> DataKey {
        self.read_key().clone()
    }

    fn read_key(&self) -> RwLockReadGuard<'_, DataKey> {
        self.key.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something may still be sealed with an earlier key.
    pub(crate) fn has_earlier_keys(&self) -> bool {
        !self.read_key().earlier().is_empty()
    }

    /// Takes a new key from the fleet: what is sealed from now on is sealed with it.
    ///
    /// # Errors
    /// When it is no key.
    pub(crate) fn take_key(&self, key: &Secret) -> Result<()> {
        let key = DataKey::take_over(&key.0).context("the fleet sent a key of the wrong form")?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// Seals the secrets of the directory anew with the current key.
    ///
    /// # Errors
    /// When one cannot be read or written.
    pub(crate) fn reseal_files(&self) -> Result<()> {
        // A writer of its own must not put back what was read before.
        let key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        Ok(key.reseal_files(self.path(), &self.entropy)?)
    }

    /// Everything is sealed with the current key.
    ///
    /// # Errors
    /// When the directory's statement cannot be written.
    pub(crate) fn forget_earlier_keys(&self) -> Result<()> {
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        DataDir::forget_earlier_keys(self.path(), &key)?;
        *key = key.with_earlier(Vec::new());
        Ok(())
    }
}

fn identity(cluster: &str, instance: &str) -> Identity {
    Identity { cluster_id: cluster.to_owned(), instance_id: instance.to_owned() }
}

impl pki::Vault for SealedDirectory {
    fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        match self.read_key().open_file(&self.directory.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(DiskError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn save(&self, name: &str, content: &[u8]) -> Result<(), String> {
        self.read_key().seal_file(&self.directory.join(name), content, &self.entropy).map_err(|e| e.to_string())
    }
}
