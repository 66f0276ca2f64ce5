//! A data directory: who it belongs to, that nobody else uses it, and the key of its content.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DiskError;
use crate::key::DataKey;
use crate::platform::{Platform, WrappedKey, make_private_dir, write_private};

const IDENTITY_FILE: &str = "identity.json";
const LOCK_FILE: &str = "lock";
/// Held while the statement is changed: its fleet and whoever has the directory open both do that.
const STATEMENT_LOCK_FILE: &str = "identity.lock";
const FORMAT: u32 = 1;

/// Whose data it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The instance in it.
    pub instance_id: String,
}

impl Identity {
    fn name(&self) -> String {
        format!("instance {} of cluster {}", self.instance_id, self.cluster_id)
    }

    /// What the data key is bound to.
    fn context(&self) -> String {
        format!("cluster/{}/instance/{}", self.cluster_id, self.instance_id)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityFile {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
    data_key: WrappedKey,
    /// Of a rotation that is under way: they open what is not sealed anew yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier_keys: Vec<WrappedKey>,
}

impl IdentityFile {
    fn unwrap(&self, platform: &Platform, stored_at: &Path) -> Result<DataKey, DiskError> {
        let unwrap = |key| platform.unwrap(key, &self.identity.context(), stored_at);
        let earlier = self.earlier_keys.iter().map(unwrap).collect::<Result<_, _>>()?;
        Ok(unwrap(&self.data_key)?.with_earlier(earlier))
    }

    fn write(&self, path: &Path) -> Result<(), DiskError> {
        let text = serde_json::to_vec_pretty(self).expect("an identity is plain data");
        write_private(&path.join(IDENTITY_FILE), &text)
    }
}

/// A data directory that is open and locked until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    key: DataKey,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it when it does not exist or is empty.
    ///
    /// # Errors
    /// As [`DataDir::open`] and [`DataDir::create`].
    pub fn open_or_create(path: &Path, identity: &Identity, platform: &Platform) -> Result<Self, DiskError> {
        if fs::exists(path.join(IDENTITY_FILE)).map_err(DiskError::io("inspect", path))? {
            Self::open(path, identity, platform)
        } else {
            Self::create(path, identity, platform)
        }
    }

    /// Makes the directory with a data key of its own.
    ///
    /// # Errors
    /// [`DiskError::Foreign`] when it has content.
    pub fn create(path: &Path, identity: &Identity, platform: &Platform) -> Result<Self, DiskError> {
        if !is_unused(path)? {
            return Err(DiskError::Foreign { path: path.to_owned() });
        }
        make_private_dir(path)?;
        let lock = lock(path)?;
        let _held = platform.hold();
        let (key, data_key) = platform.new_data_key(&identity.context());
        let file = IdentityFile { format: FORMAT, identity: identity.clone(), data_key, earlier_keys: Vec::new() };
        file.write(path)?;
        Ok(Self { path: path.to_owned(), identity: identity.clone(), key, _lock: lock })
    }

    /// Opens a directory that must be this instance's.
    ///
    /// # Errors
    /// `instance identity mismatch` for another instance's, also when its statement was edited; [`DiskError::Foreign`],
    /// [`DiskError::Damaged`], [`DiskError::WrongKey`], [`DiskError::Locked`]. Nothing is changed then.
    pub fn open(path: &Path, identity: &Identity, platform: &Platform) -> Result<Self, DiskError> {
        let key = Self::stated_of(path, identity)?.unwrap(platform, &path.join(IDENTITY_FILE))?;
        let lock = lock(path)?;
        make_private_dir(path)?;
        Ok(Self { path: path.to_owned(), identity: identity.clone(), key, _lock: lock })
    }

    /// Opens a directory with the key that the fleet unwrapped for it, in a process that does not hold the platform's.
    ///
    /// # Errors
    /// As [`DataDir::open`]; a key that is bound to another instance is a mismatch.
    pub fn open_with_key(path: &Path, identity: &Identity, key: DataKey) -> Result<Self, DiskError> {
        let file = Self::stated_of(path, identity)?;
        if key.context() != identity.context() {
            let (found, expected) = (file.identity.name(), identity.name());
            return Err(DiskError::IdentityMismatch { path: path.to_owned(), found, expected });
        }
        let lock = lock(path)?;
        make_private_dir(path)?;
        Ok(Self { path: path.to_owned(), identity: identity.clone(), key, _lock: lock })
    }

    /// Gives a directory a new data key, and wraps it and the one before it with the platform's current key. Whoever has
    /// the directory open seals everything anew with the key that is returned, then calls
    /// [`DataDir::forget_earlier_keys`].
    ///
    /// # Errors
    /// [`DiskError::Resealing`] while an earlier rotation is under way; as [`DataDir::open`]. Nothing is changed then.
    pub fn rotate_key(path: &Path, identity: &Identity, platform: &Platform) -> Result<DataKey, DiskError> {
        let _changing = lock_statement(path)?;
        let mut file = Self::stated_of(path, identity)?;
        if !file.earlier_keys.is_empty() {
            return Err(DiskError::Resealing { path: path.to_owned() });
        }
        let before = file.unwrap(platform, &path.join(IDENTITY_FILE))?;
        let (key, wrapped) = platform.new_data_key(&identity.context());
        file.data_key = wrapped;
        file.earlier_keys = vec![platform.wrap(&before)];
        file.write(path)?;
        Ok(key.with_earlier(vec![before]))
    }

    /// Wraps a directory's keys with the platform's current key; they stay the same, and the user's is not needed.
    ///
    /// # Errors
    /// As [`DataDir::open`]. Nothing is changed then.
    pub fn rewrap_key(path: &Path, identity: &Identity, platform: &Platform) -> Result<(), DiskError> {
        let _changing = lock_statement(path)?;
        let mut file = Self::stated_of(path, identity)?;
        let (context, stored_at) = (identity.context(), path.join(IDENTITY_FILE));
        let rewrap = |key: &WrappedKey| platform.rewrap(key, &context, &stored_at);
        file.data_key = rewrap(&file.data_key)?;
        file.earlier_keys = file.earlier_keys.iter().map(rewrap).collect::<Result<_, _>>()?;
        file.write(path)
    }

    /// Everything here is sealed with `key`: those before it are not needed any more.
    ///
    /// # Errors
    /// When the statement cannot be read or written.
    pub fn forget_earlier_keys(path: &Path, key: &DataKey) -> Result<(), DiskError> {
        let _changing = lock_statement(path)?;
        let mut file = Self::stated(path)?;
        if file.data_key.key_id.into_bytes() == key.id() && !file.earlier_keys.is_empty() {
            file.earlier_keys.clear();
            file.write(path)?;
        }
        Ok(())
    }

    /// Whether the directory was made: whoever makes it states last whose it is.
    pub fn is_made(path: &Path) -> bool {
        path.join(IDENTITY_FILE).exists()
    }

    /// Which key seals the directory, and whether a rotation of it is under way, as it says without being opened.
    ///
    /// # Errors
    /// As [`DataDir::identity_of`].
    pub fn keys_of(path: &Path) -> Result<(WrappedKey, bool), DiskError> {
        Self::stated(path).map(|file| (file.data_key, !file.earlier_keys.is_empty()))
    }

    /// Whose directory it says it is, without opening it.
    ///
    /// # Errors
    /// When it states nothing or is damaged.
    pub fn identity_of(path: &Path) -> Result<Identity, DiskError> {
        Self::stated(path).map(|file| file.identity)
    }

    fn stated_of(path: &Path, identity: &Identity) -> Result<IdentityFile, DiskError> {
        let file = Self::stated(path)?;
        if file.identity == *identity {
            return Ok(file);
        }
        let (found, expected) = (file.identity.name(), identity.name());
        Err(DiskError::IdentityMismatch { path: path.to_owned(), found, expected })
    }

    fn stated(path: &Path) -> Result<IdentityFile, DiskError> {
        let file = path.join(IDENTITY_FILE);
        let text = match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(match is_unused(path)? {
                    true => DiskError::Missing { path: file },
                    false => DiskError::Foreign { path: path.to_owned() },
                });
            }
            other => other.map_err(DiskError::io("read", &file))?,
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |_| DiskError::damaged(&file, 0, "the identity is not readable");
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format > FORMAT {
            return Err(DiskError::Newer { path: file, found: format, known: FORMAT });
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The key of its content.
    pub fn data_key(&self) -> &DataKey {
        &self.key
    }
}

/// Whether there is nothing in the way of making it ours: what an interrupted creation left does not count.
fn is_unused(path: &Path) -> Result<bool, DiskError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(DiskError::io("list", path))?,
    };
    for entry in entries {
        let name = entry.map_err(DiskError::io("list", path))?.file_name();
        if name != LOCK_FILE && name != "identity.tmp" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for the right to change the statement. Read, change and write of two processes must not overlap: one would put back
/// a wrapping that the platform is about to forget.
fn lock_statement(path: &Path) -> Result<File, DiskError> {
    let file = path.join(STATEMENT_LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
    let opened = opened.map_err(DiskError::io("open", &file))?;
    opened.lock().map_err(DiskError::io("lock", &file))?;
    Ok(opened)
}

/// Takes the exclusive lock; the operating system gives it back when the process ends, however it ends.
fn lock(path: &Path) -> Result<File, DiskError> {
    let file = path.join(LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
    let opened = opened.map_err(DiskError::io("open", &file))?;
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(DiskError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(DiskError::io("lock", &file)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::fake_entropy;

    fn identity(cluster: &str, instance: &str) -> Identity {
        Identity { cluster_id: cluster.to_owned(), instance_id: instance.to_owned() }
    }

    fn message<T>(result: Result<T, DiskError>) -> String {
        result.map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_serves_its_instance_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let (path, a) = (dir.path().join("data"), identity("c1", "a"));
        let first = DataDir::open_or_create(&path, &a, &platform).unwrap();
        assert!(message(DataDir::open(&path, &a, &platform)).contains("is in use by another process"));
        let secret = *first.data_key().secret();
        drop(first);
        let again = DataDir::open_or_create(&path, &a, &platform).unwrap();
        assert_eq!(*again.data_key().secret(), secret);
    }

    #[test]
    fn a_rotated_key_opens_what_the_one_before_sealed_until_that_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let (path, a) = (dir.path().join("data"), identity("c1", "a"));
        let open = DataDir::create(&path, &a, &platform).unwrap();
        let sealed = path.join("secret.sealed");
        open.data_key().seal_file(&sealed, b"old", &fake_entropy()).unwrap();
        platform.rotate().unwrap();
        let key = DataDir::rotate_key(&path, &a, &platform).unwrap();
        assert!(message(DataDir::rotate_key(&path, &a, &platform)).contains("sealed anew"), "one after the other");
        platform.forget_earlier().unwrap();
        drop(open);
        let again = Platform::load(&dir.path().join("platform"), fake_entropy()).unwrap();
        let open = DataDir::open(&path, &a, &again).unwrap();
        assert_eq!(open.data_key().secret(), key.secret());
        let content = open.data_key().open_file(&sealed).unwrap();
        open.data_key().seal_file(&sealed, &content, &fake_entropy()).unwrap();
        DataDir::forget_earlier_keys(&path, open.data_key()).unwrap();
        drop(open);
        let open = DataDir::open(&path, &a, &again).unwrap();
        assert!(open.data_key().earlier().is_empty());
        assert_eq!(open.data_key().open_file(&sealed).unwrap().as_slice(), b"old");
    }

    #[test]
    fn a_platform_key_is_not_forgotten_under_a_directory_that_forgets_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let (path, a) = (dir.path().join("data"), identity("c1", "a"));
        drop(DataDir::create(&path, &a, &platform).unwrap());
        for round in 0..60 {
            let key = DataDir::rotate_key(&path, &a, &platform).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| DataDir::forget_earlier_keys(&path, &key).unwrap());
                platform.rotate().unwrap();
                DataDir::rewrap_key(&path, &a, &platform).unwrap();
                platform.forget_earlier().unwrap();
            });
            let opened = DataDir::open(&path, &a, &platform).unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert_eq!(opened.data_key().secret(), key.secret());
        }
    }

    #[test]
    fn a_directory_that_is_made_during_a_rotation_is_there_when_the_key_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let a = identity("c1", "a");
        for round in 0..60 {
            let path = dir.path().join(round.to_string());
            std::thread::scope(|scope| {
                scope.spawn(|| drop(DataDir::create(&path, &a, &platform).unwrap()));
                platform.rotate().unwrap();
                if path.join(IDENTITY_FILE).exists() {
                    DataDir::rewrap_key(&path, &a, &platform).unwrap();
                }
                platform.forget_earlier().unwrap();
            });
            let opened = DataDir::open(&path, &a, &platform);
            assert!(opened.is_ok(), "round {round}: {:?}", opened.err());
        }
    }

    #[test]
    fn another_instances_directory_is_refused_also_when_its_statement_is_edited() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let (path, a, b) = (dir.path().join("data"), identity("c1", "a"), identity("c2", "a"));
        drop(DataDir::create(&path, &a, &platform).unwrap());
        let refusal = message(DataDir::open(&path, &b, &platform));
        assert!(refusal.starts_with("instance identity mismatch: "), "{refusal}");
        let statement = path.join(IDENTITY_FILE);
        let edited = fs::read_to_string(&statement).unwrap().replace("c1", "c2");
        fs::write(&statement, edited).unwrap();
        assert!(message(DataDir::open(&path, &b, &platform)).contains("sealed with another key"));
    }

    #[test]
    fn foreign_damaged_and_newer_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("platform"), fake_entropy()).unwrap();
        let a = identity("c1", "a");
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "x").unwrap();
        for opened in [DataDir::open(&foreign, &a, &platform), DataDir::open_or_create(&foreign, &a, &platform)] {
            assert!(message(opened).contains("is not empty and not a data directory"));
        }
        assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
        let path = dir.path().join("data");
        drop(DataDir::create(&path, &a, &platform).unwrap());
        fs::write(path.join(IDENTITY_FILE), "{\"format\": 2}").unwrap();
        assert!(message(DataDir::open(&path, &a, &platform)).contains("has format 2, this version reads up to 1"));
        fs::write(path.join(IDENTITY_FILE), "{").unwrap();
        assert!(message(DataDir::open(&path, &a, &platform)).contains("identity.json is damaged at offset 0"));
    }
}
