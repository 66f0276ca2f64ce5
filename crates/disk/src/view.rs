//! The view: the latest state as sled holds it, one atomic batch after another. It may lag and it may be lost: it is
//! built again from checkpoint and log. sled syncs nothing by itself here, and nothing rests on its syncs.
//!
//! Values are sealed; keys are the caller's and stay readable (the store uses revision numbers). Each opening is an
//! epoch with its own salt, beside which stands the id of its key: a value is `epoch u32 | count u64 | sealed bytes + tag`.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use base::Entropy;
use bytes::Bytes;

use crate::error::DiskError;
use crate::key::{DataKey, SALT_LEN, Sealer};

const PURPOSE: &str = "PHVIEW01";
const EPOCH: u8 = b'e';
const MARK: u8 = b'm';
const ROW: u8 = b'r';
const VALUE_HEAD_LEN: usize = 12;
/// sled's page cache; the live state is in memory elsewhere.
const CACHE_BYTES: u64 = 1 << 20;

/// Changes that become visible together.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    /// Rows to write.
    pub puts: Vec<(Bytes, Bytes)>,
    /// Rows to remove.
    pub deletes: Vec<Bytes>,
    /// Named facts about the rows, such as the applied index.
    pub marks: Vec<(&'static str, Bytes)>,
}

/// The view in a directory of its own.
pub struct View {
    path: PathBuf,
    db: sled::Db,
    key: DataKey,
    epoch: u32,
    sealer: Sealer,
    count: AtomicU64,
    /// Sealers of earlier epochs, made when first needed.
    earlier: Mutex<BTreeMap<u32, Arc<Sealer>>>,
}

/// How often a lock that somebody holds is tried again, and after what time.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_millis(10);

impl View {
    /// Opens the view in a directory, which is made if need be.
    ///
    /// # Errors
    /// When sled cannot open it, even by a panic of its own: call [`View::wipe_dir`] and open again.
    pub fn open(path: &Path, key: DataKey, entropy: &Entropy) -> Result<Self, DiskError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .print_profile_on_drop(false);
        let mut tries = LOCK_TRIES;
        let db = loop {
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
            match opened.map_err(|_| Self::failed(path, "sled panicked while opening"))? {
                Ok(db) => break db,
                // A process that was just started holds all descriptors until it becomes another program.
                Err(error) if tries > 0 && error.to_string().contains("could not acquire lock") => {
                    tries -= 1;
                    std::thread::sleep(LOCK_WAIT);
                }
                Err(error) => return Err(Self::failed(path, error)),
            }
        };
        let salt: [u8; SALT_LEN] = entropy.bytes();
        let last = db.scan_prefix([EPOCH]).keys().next_back().transpose().map_err(|e| Self::failed(path, e))?;
        let epoch = match last {
            Some(key) => {
                epoch_of(&key[1..]).ok_or_else(|| Self::failed(path, "an epoch is malformed"))?.wrapping_add(1)
            }
            None => 1,
        };
        db.insert(epoch_key(epoch), [&salt[..], &key.id()].concat()).map_err(|error| Self::failed(path, error))?;
        let sealer = key.sealer(&salt, PURPOSE);
        let (count, earlier) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { path: path.to_owned(), db, key, epoch, sealer, count, earlier })
    }

    /// Removes a view that does not open.
    ///
    /// # Errors
    /// As the file system says.
    pub fn wipe_dir(path: &Path) -> Result<(), DiskError> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Applies a batch, atomically: after a crash all of it is there or nothing.
    ///
    /// # Errors
    /// When sled fails.
    pub fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut changes = sled::Batch::default();
        for (key, value) in &batch.puts {
            let key = tagged(ROW, key);
            let value = self.seal(&key, value);
            changes.insert(key, value);
        }
        for key in &batch.deletes {
            changes.remove(tagged(ROW, key));
        }
        for (name, value) in &batch.marks {
            let key = tagged(MARK, name.as_bytes());
            let value = self.seal(&key, value);
            changes.insert(key, value);
        }
        self.db.apply_batch(changes).map_err(|error| Self::failed(&self.path, error))
    }

    /// A mark as last applied.
    ///
    /// # Errors
    /// When sled fails or the value does not open.
    pub fn mark(&self, name: &str) -> Result<Option<Bytes>, DiskError> {
        let key = tagged(MARK, name.as_bytes());
        let value = self.db.get(&key).map_err(|error| Self::failed(&self.path, error))?;
        value.map(|value| self.open_value(&key, &value)).transpose()
    }

    /// One row.
    ///
    /// # Errors
    /// When sled fails or the value does not open.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        let key = tagged(ROW, key);
        let value = self.db.get(&key).map_err(|error| Self::failed(&self.path, error))?;
        value.map(|value| self.open_value(&key, &value)).transpose()
    }

    /// All rows in the order of their keys.
    pub fn iterate(&self) -> impl Iterator<Item = Result<(Bytes, Bytes), DiskError>> + '_ {
        self.db.scan_prefix([ROW]).map(|row| {
            let (key, value) = row.map_err(|error| Self::failed(&self.path, error))?;
            Ok((Bytes::copy_from_slice(&key[1..]), self.open_value(&key, &value)?))
        })
    }

    /// Removes all rows and marks.
    ///
    /// # Errors
    /// When sled fails.
    pub fn wipe(&self) -> Result<(), DiskError> {
        for tag in [MARK, ROW] {
            for key in self.db.scan_prefix([tag]).keys() {
                key.and_then(|key| self.db.remove(key)).map_err(|error| Self::failed(&self.path, error))?;
            }
        }
        Ok(())
    }

    /// Writes out what sled buffers. Blocks.
    ///
    /// # Errors
    /// When sled fails.
    pub fn flush(&self) -> Result<(), DiskError> {
        self.db.flush().map(drop).map_err(|error| Self::failed(&self.path, error))
    }

    fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut sealed = Vec::with_capacity(VALUE_HEAD_LEN + value.len() + crate::key::TAG_LEN);
        sealed.extend_from_slice(&self.epoch.to_be_bytes());
        sealed.extend_from_slice(&count.to_be_bytes());
        sealed.extend_from_slice(value);
        self.sealer.seal(count, key, &mut sealed, VALUE_HEAD_LEN);
        sealed
    }

    fn open_value(&self, key: &[u8], value: &[u8]) -> Result<Bytes, DiskError> {
        let broken = || Self::failed(&self.path, "a value does not open");
        let (head, sealed) = value.split_at_checked(VALUE_HEAD_LEN).ok_or_else(broken)?;
        let epoch = epoch_of(&head[..4]).ok_or_else(broken)?;
        let count = u64::from_be_bytes(head[4..].try_into().map_err(|_| broken())?);
        let mut sealed = sealed.to_vec();
        let length = if epoch == self.epoch {
            self.sealer.open(count, key, &mut sealed).map(|plain| plain.len())
        } else {
            self.sealer_of(epoch)?.open(count, key, &mut sealed).map(|plain| plain.len())
        };
        sealed.truncate(length.ok_or_else(broken)?);
        Ok(sealed.into())
    }

    fn sealer_of(&self, epoch: u32) -> Result<Arc<Sealer>, DiskError> {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealer) = earlier.get(&epoch) {
            return Ok(sealer.clone());
        }
        let salt = self.db.get(epoch_key(epoch)).map_err(|error| Self::failed(&self.path, error))?;
        let missing = || Self::failed(&self.path, "an epoch is missing, or its key");
        let epoch_row = salt.ok_or_else(missing)?;
        let (salt, id) = epoch_row.split_first_chunk::<SALT_LEN>().ok_or_else(missing)?;
        let sealer = Arc::new(self.key.of_id(id).ok_or_else(missing)?.sealer(salt, PURPOSE));
        earlier.insert(epoch, sealer.clone());
        Ok(sealer)
    }

    fn failed(path: &Path, what: impl fmt::Display) -> DiskError {
        DiskError::View { path: path.to_owned(), what: what.to_string() }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("path", &self.path).finish_non_exhaustive()
    }
}

fn tagged(tag: u8, key: &[u8]) -> Vec<u8> {
    [&[tag], key].concat()
}

fn epoch_key(epoch: u32) -> Vec<u8> {
    tagged(EPOCH, &epoch.to_be_bytes())
}

fn epoch_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::fake_entropy;

    fn rows(view: &View) -> Vec<(Bytes, Bytes)> {
        view.iterate().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn rows_and_marks_outlive_their_process_sealed() {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), fake_entropy());
        let (path, key) = (dir.path().join("view"), DataKey::generate("test", &entropy));
        let row = |k: &'static [u8], v: &'static [u8]| (Bytes::from_static(k), Bytes::from_static(v));
        {
            let view = View::open(&path, key.clone(), &entropy).unwrap();
            let puts = vec![row(b"b", b"PLAINTEXT-MARKER"), row(b"a", b"1"), row(b"c", b"3")];
            view.apply(&Batch { puts, deletes: vec![], marks: vec![("applied", Bytes::from_static(b"7"))] }).unwrap();
            view.flush().unwrap();
        }
        let view = View::open(&path, key.clone(), &entropy).unwrap();
        let deletes = vec![Bytes::from_static(b"c")];
        view.apply(&Batch { puts: vec![row(b"a", b"2")], deletes, marks: vec![] }).unwrap();
        assert_eq!(rows(&view), [row(b"a", b"2"), row(b"b", b"PLAINTEXT-MARKER")]);
        assert_eq!(view.mark("applied").unwrap().as_deref(), Some(&b"7"[..]));
        assert_eq!(view.get(b"b").unwrap().as_deref(), Some(&b"PLAINTEXT-MARKER"[..]));
        view.flush().unwrap();
        drop(view);
        for file in std::fs::read_dir(&path).unwrap().filter_map(|f| std::fs::read(f.unwrap().path()).ok()) {
            assert!(!file.windows(16).any(|window| window == b"PLAINTEXT-MARKER"));
        }
        let newer = DataKey::generate("test", &entropy).with_earlier(vec![key]);
        let view = View::open(&path, newer, &entropy).unwrap();
        assert_eq!(view.get(b"b").unwrap().as_deref(), Some(&b"PLAINTEXT-MARKER"[..]));
        drop(view);
        let other = View::open(&path, DataKey::generate("test", &entropy), &entropy).unwrap();
        assert!(other.iterate().next().unwrap().is_err());
        other.wipe().unwrap();
        assert!(rows(&other).is_empty());
        assert_eq!(other.mark("applied").unwrap(), None);
    }
}
