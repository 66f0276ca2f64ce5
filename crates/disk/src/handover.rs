//! Giving a data key to another process: over an inherited socket, never through a file.
//!
//! A child process opens its directory with the key it was given and never sees the platform's.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::error::DiskError;
use crate::key::{DataKey, open_piece, seal_piece};
use crate::platform::{TEMPORARY, write_private};

const SEALED_BY_DATA_KEY: &[u8; 6] = b"PHSD1\n";
const PURPOSE: &str = "sealed file of an instance";

#[derive(Serialize, Deserialize)]
struct HandedOver {
    id: String,
    key: String,
    context: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<HandedOver>,
}

impl HandedOver {
    fn of(key: &DataKey) -> Self {
        Self {
            id: STANDARD.encode(key.id()),
            key: STANDARD.encode(key.secret()),
            context: key.context().to_owned(),
            earlier: key.earlier().iter().map(Self::of).collect(),
        }
    }

    fn take(&self) -> Option<DataKey> {
        let key = Zeroizing::new(STANDARD.decode(&self.key).ok()?);
        let id = STANDARD.decode(&self.id).ok()?.try_into().ok()?;
        let bytes = Zeroizing::new(<[u8; 32]>::try_from(key.as_slice()).ok()?);
        let earlier = self.earlier.iter().map(Self::take).collect::<Option<_>>()?;
        Some(DataKey::from_parts(id, bytes, &self.context).with_earlier(earlier))
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl DataKey {
    /// The key and those before it as text, for [`DataKey::take_over`] in a child process. Whoever reads it can open the
    /// data.
    pub fn hand_over(&self) -> Zeroizing<String> {
        Zeroizing::new(serde_json::to_string(&HandedOver::of(self)).expect("text always serializes"))
    }

    /// The key of such a text; nothing when it is none.
    pub fn take_over(text: &str) -> Option<Self> {
        serde_json::from_str::<HandedOver>(text).ok()?.take()
    }

    /// Writes a small secret under this key: through a temporary file, synced, readable by the owner alone. The file's
    /// name is bound to the content.
    ///
    /// # Errors
    /// As the file system says.
    pub fn seal_file(&self, path: &Path, secret: &[u8], entropy: &Entropy) -> Result<(), DiskError> {
        let mut content = SEALED_BY_DATA_KEY.to_vec();
        content.extend(seal_piece(self, PURPOSE, file_name(path), secret, entropy));
        write_private(path, &content)
    }

    /// Seals the secrets that lie directly in a directory anew with this key, which has to open them. Other files stay as
    /// they are. Nobody may write secrets there meanwhile: what a write that was cut off left behind, which nobody reads, is
    /// removed.
    ///
    /// # Errors
    /// As [`DataKey::open_file`] and [`DataKey::seal_file`].
    pub fn reseal_files(&self, dir: &Path, entropy: &Entropy) -> Result<(), DiskError> {
        for entry in fs::read_dir(dir).map_err(DiskError::io("list", dir))? {
            let path = entry.map_err(DiskError::io("list", dir))?.path();
            let is_sealed = || -> std::io::Result<bool> {
                let mut head = [0; SEALED_BY_DATA_KEY.len()];
                Ok(path.is_file()
                    && fs::File::open(&path)?.read(&mut head)? == head.len()
                    && head == *SEALED_BY_DATA_KEY)
            };
            if !is_sealed().map_err(DiskError::io("read", &path))? {
                continue;
            }
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
            } else {
                self.seal_file(&path, &self.open_file(&path)?, entropy)?;
            }
        }
        Ok(())
    }

    /// Reads what [`DataKey::seal_file`] wrote under the same name.
    ///
    /// # Errors
    /// [`DiskError::Missing`] without the file, [`DiskError::Damaged`] when a byte of it is not as written or another
    /// key wrote it.
    pub fn open_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, DiskError> {
        let content = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(DiskError::Missing { path: path.to_owned() });
            }
            other => other.map_err(DiskError::io("read", path))?,
        };
        content
            .strip_prefix(SEALED_BY_DATA_KEY)
            .and_then(|piece| open_piece(self, PURPOSE, file_name(path), piece))
            .ok_or_else(|| DiskError::damaged(path, 0, "it was altered, or sealed with another key"))
    }
}

fn file_name(path: &Path) -> &[u8] {
    path.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::fake_entropy;

    #[test]
    fn a_key_that_was_handed_over_opens_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let key = DataKey::generate("cluster/c/instance/a", &fake_entropy());
        key.seal_file(&path, b"plain text", &fake_entropy()).unwrap();
        let newer = DataKey::generate("c", &fake_entropy()).with_earlier(vec![key.clone()]);
        for other in [&key, &newer].map(|key| DataKey::take_over(&key.hand_over()).unwrap()) {
            assert_eq!(other.open_file(&path).unwrap().as_slice(), b"plain text");
        }
        fs::write(dir.path().join("log"), "not a sealed file").unwrap();
        newer.reseal_files(dir.path(), &fake_entropy()).unwrap();
        assert_eq!(newer.with_earlier(Vec::new()).open_file(&path).unwrap().as_slice(), b"plain text");
        assert!(key.open_file(&path).is_err());
        assert!(!fs::read(&path).unwrap().windows(5).any(|w| w == b"plain"));
        assert!(DataKey::take_over("{}").is_none());
    }

    #[test]
    fn what_a_write_that_was_cut_off_left_behind_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let (path, torn) = (dir.path().join("secret"), dir.path().join("never-written.tmp"));
        let key = DataKey::generate("c", &fake_entropy());
        key.seal_file(&path, b"plain text", &fake_entropy()).unwrap();
        let newer = DataKey::generate("c", &fake_entropy()).with_earlier(vec![key]);
        let whole = fs::read(&path).unwrap();
        for left in [&whole[..], &whole[..whole.len() / 2]] {
            fs::write(&torn, left).unwrap();
            newer.reseal_files(dir.path(), &fake_entropy()).unwrap();
            assert!(!torn.exists());
            assert_eq!(newer.open_file(&path).unwrap().as_slice(), b"plain text");
        }
    }

    #[test]
    fn a_renamed_or_altered_file_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, renamed) = (dir.path().join("a"), dir.path().join("b"));
        let key = DataKey::generate("c", &fake_entropy());
        key.seal_file(&path, b"x", &fake_entropy()).unwrap();
        fs::copy(&path, &renamed).unwrap();
        assert!(key.open_file(&renamed).is_err());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(key.open_file(&path), Err(DiskError::Damaged { .. })));
    }
}
