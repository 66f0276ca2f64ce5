//! The platform's key service, as a directory: one platform key that wraps data keys and seals small secrets.
//!
//! It stands for the provider's KMS. A data directory without its platform directory is ciphertext. The context a key
//! was wrapped for is bound to it as associated data: a wrapped key is of no use under another name. Where the user has a key
//! too ([`Platform::with_user_key`]), a data key is sealed under that one first: it takes both to open a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::error::DiskError;
use crate::key::{DataKey, open_piece, seal_piece};

const KEY_FILE: &str = "platform.key";
const WRAP: &str = "PHWRAP01";
const WRAP_USER: &str = "PHUSER01";
const SEAL: &str = "PHFILE01";
const SEALED_MAGIC: &[u8; 8] = b"PHSEAL01";

/// The key service, perhaps with a key of the user's. Clones share it.
#[derive(Clone, Debug)]
pub struct Platform(Arc<Inner>, Option<DataKey>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    key: RwLock<DataKey>,
    /// Held for reading from the use of the key to the file that needs it: who rotates finds all such files.
    in_use: RwLock<()>,
    entropy: Entropy,
}

/// A data key as it is stored: of no use without the platform key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrappedKey {
    /// The data key's id.
    pub key_id: uuid::Uuid,
    /// The platform key that wrapped it.
    pub platform_key_id: uuid::Uuid,
    /// The sealed key, base64.
    pub wrapped: String,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u32,
    #[serde(flatten)]
    key: StoredKey,
    /// Of a rotation that was not finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    id: uuid::Uuid,
    key: String,
}

impl StoredKey {
    fn of(key: &DataKey) -> Self {
        Self { id: uuid::Uuid::from_bytes(key.id()), key: STANDARD.encode(key.secret()) }
    }

    fn take(&self) -> Option<DataKey> {
        let decoded = Zeroizing::new(STANDARD.decode(&self.key).ok()?);
        let bytes = <[u8; 32]>::try_from(&decoded[..]).ok()?;
        Some(DataKey::from_parts(self.id.into_bytes(), Zeroizing::new(bytes), "platform"))
    }
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Platform {
    /// Opens the key service in a directory; makes it, with a fresh key, when there is none or it is empty.
    ///
    /// # Errors
    /// [`DiskError::MissingKey`] when the directory has content but no key.
    pub fn open(dir: &Path, entropy: Entropy) -> Result<Self, DiskError> {
        make_private_dir(dir)?;
        let path = dir.join(KEY_FILE);
        let others = fs::read_dir(dir).map_err(DiskError::io("list", dir))?.next().is_some();
        match fs::exists(&path) {
            Ok(false) if others => Err(DiskError::MissingKey { path }),
            Ok(false) => Self::create(dir, entropy),
            _ => Self::load(dir, entropy),
        }
    }

    /// Opens a key service that must exist.
    ///
    /// # Errors
    /// [`DiskError::MissingKey`] names the key's path; nothing is changed.
    pub fn load(dir: &Path, entropy: Entropy) -> Result<Self, DiskError> {
        let path = dir.join(KEY_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(DiskError::MissingKey { path }),
            other => Zeroizing::new(other.map_err(DiskError::io("read", &path))?),
        };
        let damaged = || DiskError::damaged(&path, 0, "the platform key is not readable");
        let file: KeyFile = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if file.version != 1 {
            return Err(DiskError::Newer { path, found: file.version, known: 1 });
        }
        let earlier = file.earlier.iter().map(StoredKey::take).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let key = RwLock::new(file.key.take().ok_or_else(damaged)?.with_earlier(earlier));
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), key, in_use: RwLock::default(), entropy }), None))
    }

    fn create(dir: &Path, entropy: Entropy) -> Result<Self, DiskError> {
        let key = DataKey::from_parts(entropy.uuid().into_bytes(), Zeroizing::new(entropy.bytes()), "platform");
        write_key(&dir.join(KEY_FILE), &key)?;
        Self::load(dir, entropy)
    }

    /// This key service for data keys that are of no use without a secret of the user's either.
    #[must_use]
    pub fn with_user_key(&self, secret: Zeroizing<[u8; 32]>) -> Self {
        Self(Arc::clone(&self.0), Some(DataKey::from_parts([0; 16], secret, "user")))
    }

    /// Makes a new platform key: what is wrapped or sealed from now on is under it. The earlier one opens what was before,
    /// until [`Platform::forget_earlier`].
    ///
    /// # Errors
    /// When the key file cannot be written; the key stays then.
    pub fn rotate(&self) -> Result<(), DiskError> {
        let _nobody = self.0.in_use.write().unwrap_or_else(PoisonError::into_inner);
        let before = self.key();
        let earlier =
            std::iter::once(before.with_earlier(Vec::new())).chain(before.earlier().iter().cloned()).collect();
        let id = self.0.entropy.uuid().into_bytes();
        let key = DataKey::from_parts(id, Zeroizing::new(self.0.entropy.bytes()), "platform").with_earlier(earlier);
        self.replace(key)
    }

    /// Everything is wrapped with the current key: those before it are removed from the key file.
    ///
    /// # Errors
    /// When the key file cannot be written; nothing is forgotten then.
    pub fn forget_earlier(&self) -> Result<(), DiskError> {
        let key = self.key();
        if key.earlier().is_empty() { Ok(()) } else { self.replace(key.with_earlier(Vec::new())) }
    }

    /// Whether a rotation was begun and not finished.
    pub fn has_earlier(&self) -> bool {
        !self.key().earlier().is_empty()
    }

    /// Until this is dropped, what the current key wraps can be written before the key changes.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.0.in_use.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, key: DataKey) -> Result<(), DiskError> {
        write_key(&self.key_path(), &key)?;
        *self.0.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn key(&self) -> DataKey {
        self.0.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the key service keeps its key.
    pub fn key_path(&self) -> PathBuf {
        self.0.dir.join(KEY_FILE)
    }

    /// Makes a data key for a context such as `cluster/<id>/instance/<id>`, and its form for storage.
    pub fn new_data_key(&self, context: &str) -> (DataKey, WrappedKey) {
        let id = self.0.entropy.uuid();
        let key = DataKey::from_parts(id.into_bytes(), Zeroizing::new(self.0.entropy.bytes()), context);
        let wrapped = self.wrap(&key);
        (key, wrapped)
    }

    /// A data key's form for storage, under the current platform key.
    pub(crate) fn wrap(&self, key: &DataKey) -> WrappedKey {
        let id = uuid::Uuid::from_bytes(key.id());
        let aad = wrap_aad(id, key.context());
        match &self.1 {
            Some(user) => self.wrap_bytes(id, &aad, &seal_piece(user, WRAP_USER, &aad, key.secret(), &self.0.entropy)),
            None => self.wrap_bytes(id, &aad, key.secret()),
        }
    }

    fn wrap_bytes(&self, key_id: uuid::Uuid, aad: &[u8], bytes: &[u8]) -> WrappedKey {
        let platform = self.key();
        let wrapped = STANDARD.encode(seal_piece(&platform, WRAP, aad, bytes, &self.0.entropy));
        WrappedKey { key_id, platform_key_id: uuid::Uuid::from_bytes(platform.id()), wrapped }
    }

    fn unwrap_bytes(
        &self,
        wrapped: &WrappedKey,
        aad: &[u8],
        stored_at: &Path,
    ) -> Result<Zeroizing<Vec<u8>>, DiskError> {
        let piece = STANDARD.decode(&wrapped.wrapped).map_err(|_| self.wrong(stored_at))?;
        open_piece(&self.key(), WRAP, aad, &piece).ok_or_else(|| self.wrong(stored_at))
    }

    fn wrong(&self, stored_at: &Path) -> DiskError {
        DiskError::WrongKey { path: stored_at.to_owned(), key: self.key_path() }
    }

    /// The data key of a stored form, for the context it was made for.
    ///
    /// # Errors
    /// [`DiskError::WrongKey`] names `stored_at` and the platform key's path, [`DiskError::WrongUserKey`] `stored_at`.
    pub fn unwrap(&self, wrapped: &WrappedKey, context: &str, stored_at: &Path) -> Result<DataKey, DiskError> {
        let aad = wrap_aad(wrapped.key_id, context);
        let mut secret = self.unwrap_bytes(wrapped, &aad, stored_at)?;
        let wrong = || DiskError::WrongUserKey { path: stored_at.to_owned() };
        if let Some(user) = &self.1 {
            secret = open_piece(user, WRAP_USER, &aad, &secret).ok_or_else(wrong)?;
        }
        let bytes = <[u8; 32]>::try_from(&secret[..]).map_err(|_| wrong())?;
        Ok(DataKey::from_parts(wrapped.key_id.into_bytes(), Zeroizing::new(bytes), context))
    }

    /// The same data key under the current platform key; the user's is not needed.
    ///
    /// # Errors
    /// As [`Platform::unwrap`].
    pub(crate) fn rewrap(
        &self,
        wrapped: &WrappedKey,
        context: &str,
        stored_at: &Path,
    ) -> Result<WrappedKey, DiskError> {
        let aad = wrap_aad(wrapped.key_id, context);
        Ok(self.wrap_bytes(wrapped.key_id, &aad, &self.unwrap_bytes(wrapped, &aad, stored_at)?))
    }

    /// Writes a small secret, sealed for a context, through a temporary file, synced, readable by the owner alone.
    ///
    /// # Errors
    /// As the file system says.
    pub fn seal_file(&self, path: &Path, context: &str, secret: &[u8]) -> Result<(), DiskError> {
        let _held = self.hold();
        let mut content = SEALED_MAGIC.to_vec();
        content.extend(seal_piece(&self.key(), SEAL, context.as_bytes(), secret, &self.0.entropy));
        write_private(path, &content)
    }

    /// Reads what [`Platform::seal_file`] wrote for the same context.
    ///
    /// # Errors
    /// [`DiskError::Missing`] without the file, [`DiskError::WrongKey`] when it does not open.
    pub fn open_file(&self, path: &Path, context: &str) -> Result<Zeroizing<Vec<u8>>, DiskError> {
        let content = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(DiskError::Missing { path: path.to_owned() });
            }
            other => other.map_err(DiskError::io("read", path))?,
        };
        let Some(piece) = content.strip_prefix(SEALED_MAGIC) else {
            return Err(DiskError::damaged(path, 0, "the head is not one of ours"));
        };
        open_piece(&self.key(), SEAL, context.as_bytes(), piece)
            .ok_or_else(|| DiskError::WrongKey { path: path.to_owned(), key: self.key_path() })
    }
}

fn write_key(path: &Path, key: &DataKey) -> Result<(), DiskError> {
    let file =
        KeyFile { version: 1, key: StoredKey::of(key), earlier: key.earlier().iter().map(StoredKey::of).collect() };
    let text = Zeroizing::new(serde_json::to_vec_pretty(&file).expect("a key file is plain data"));
    write_private(path, &text)
}

fn wrap_aad(id: uuid::Uuid, context: &str) -> Vec<u8> {
    [id.as_bytes(), context.as_bytes()].concat()
}

/// Makes a directory for the owner alone, with its parents; closes one that is open to others.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), DiskError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(DiskError::io("create", dir))?;
    let mode = fs::metadata(dir).map_err(DiskError::io("inspect", dir))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(DiskError::io("close to others", dir))?;
        tracing::warn!(dir = %dir.display(), "the directory was open to other users and was closed to them");
    }
    Ok(())
}

/// How a file ends that is not whole yet.
pub(crate) const TEMPORARY: &str = "tmp";

/// Writes a file for the owner alone: through a temporary one, synced, renamed, the directory synced.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension(TEMPORARY);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(DiskError::io("remove", &temporary)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(DiskError::io("create", &temporary))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(DiskError::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(DiskError::io("rename", &temporary))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DiskError::io("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::fake_entropy;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_wrapped_key_opens_only_on_its_platform_and_for_its_context() {
        let dir = tempfile::tempdir().unwrap();
        let a = Platform::open(&dir.path().join("a"), fake_entropy()).unwrap();
        let b = Platform::open(&dir.path().join("b"), Entropy::new(|buffer| buffer.fill(9))).unwrap();
        let (key, wrapped) = a.new_data_key("cluster/1");
        let path = Path::new("/data/identity.json");
        assert_eq!(a.unwrap(&wrapped, "cluster/1", path).unwrap().secret(), key.secret());
        let again = Platform::open(&dir.path().join("a"), fake_entropy()).unwrap();
        assert_eq!(again.unwrap(&wrapped, "cluster/1", path).unwrap().secret(), key.secret());
        assert!(matches!(a.unwrap(&wrapped, "cluster/2", path), Err(DiskError::WrongKey { .. })));
        let error = b.unwrap(&wrapped, "cluster/1", path).unwrap_err().to_string();
        assert!(error.contains("/data/identity.json") && error.contains("b/platform.key"), "{error}");
    }

    #[test]
    fn a_key_that_was_wrapped_with_one_of_the_users_opens_with_it_alone_whatever_the_platform_does() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("a"), fake_entropy()).unwrap();
        let [both, other] = [1, 2].map(|byte| platform.with_user_key(Zeroizing::new([byte; 32])));
        let path = Path::new("/data/identity.json");
        let (key, wrapped) = both.new_data_key("cluster/1");
        platform.rotate().unwrap();
        let again = platform.rewrap(&wrapped, "cluster/1", path).unwrap();
        platform.forget_earlier().unwrap();
        assert!(matches!(both.unwrap(&wrapped, "cluster/1", path), Err(DiskError::WrongKey { .. })));
        assert_eq!(both.unwrap(&again, "cluster/1", path).unwrap().secret(), key.secret());
        for without in [&other, &platform] {
            assert!(matches!(without.unwrap(&again, "cluster/1", path), Err(DiskError::WrongUserKey { .. })));
        }
        let (_, plain) = platform.new_data_key("cluster/1");
        assert!(matches!(both.unwrap(&plain, "cluster/1", path), Err(DiskError::WrongUserKey { .. })));
    }

    #[test]
    fn a_lost_platform_key_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let platform = Platform::open(&path, fake_entropy()).unwrap();
        platform.seal_file(&path.join("x.sealed"), "x", b"secret").unwrap();
        fs::remove_file(platform.key_path()).unwrap();
        for opened in [Platform::open(&path, fake_entropy()), Platform::load(&path, fake_entropy())] {
            let error = opened.unwrap_err().to_string();
            assert!(error.contains("p/platform.key is missing"), "{error}");
        }
        assert!(!platform.key_path().exists());
    }

    #[test]
    fn sealed_files_are_private_and_bound_to_their_context() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::open(&dir.path().join("p"), fake_entropy()).unwrap();
        let path = dir.path().join("key.sealed");
        platform.seal_file(&path, "ca/1", b"-----BEGIN PRIVATE KEY-----").unwrap();
        platform.seal_file(&path, "ca/1", b"-----BEGIN PRIVATE KEY----- 2").unwrap();
        assert_eq!(platform.open_file(&path, "ca/1").unwrap().as_slice(), b"-----BEGIN PRIVATE KEY----- 2");
        assert!(platform.open_file(&path, "ca/2").is_err());
        assert!(!fs::read(&path).unwrap().windows(5).any(|window| window == b"BEGIN"));
        assert_eq!((mode(&path), mode(&platform.key_path()), mode(&dir.path().join("p"))), (0o600, 0o600, 0o700));
    }
}
