//! Checkpoints: a whole state in one sealed file that is there completely or not at all.

use std::path::{Path, PathBuf};

use base::Entropy;

use crate::error::DiskError;
use crate::frame::{self, End, Frames, HEAD_LEN, Pending, Record};
use crate::key::DataKey;
use crate::real::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"PHCKPT01";
/// The mark of the last record, which counts the others; callers use smaller ones.
const END_KIND: u8 = 255;
/// Pending bytes that are written out.
const WRITE_BYTES: usize = 4 << 20;

/// A checkpoint being written, under a temporary name until it is finished.
pub struct CheckpointWriter<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    frames: Frames,
    pending: Pending,
    scratch: Vec<u8>,
    count: u64,
}

impl<'a> CheckpointWriter<'a> {
    /// Begins a checkpoint that will be at `path`; one that is there stays until the new one is whole.
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn create(disk: &'a dyn Disk, path: &Path, key: &DataKey, entropy: &Entropy) -> Result<Self, DiskError> {
        let temporary = path.with_extension("tmp");
        if disk.read(&temporary).is_ok() {
            disk.remove(&temporary).map_err(DiskError::io("remove", &temporary))?;
        }
        let mut file = disk.create(&temporary).map_err(DiskError::io("create", &temporary))?;
        let (frames, head) = Frames::begin(MAGIC, key, 0, [0, 0], entropy.bytes());
        file.append(&head).map_err(DiskError::io("write", &temporary))?;
        let (path, scratch) = (path.to_owned(), Vec::new());
        Ok(Self { disk, path, temporary, file, frames, pending: Pending::default(), scratch, count: 0 })
    }

    /// Adds a record; its kind must not be 255.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&mut self, kind: u8, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(kind != END_KIND, "the end mark is not the caller's");
        self.pending.push(kind, bytes);
        self.count += 1;
        if self.pending.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    /// Ends the checkpoint: synced, then renamed into place, then the directory synced.
    ///
    /// # Errors
    /// When any of that fails; the checkpoint that was there before then still is.
    pub fn finish(mut self) -> Result<(), DiskError> {
        self.pending.push(END_KIND, &self.count.to_le_bytes());
        self.write()?;
        self.file.sync().map_err(DiskError::io("sync", &self.temporary))?;
        self.disk.rename(&self.temporary, &self.path).map_err(DiskError::io("rename", &self.temporary))?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        self.disk.sync_dir(dir).map_err(DiskError::io("sync", dir))
    }

    fn write(&mut self) -> Result<(), DiskError> {
        self.scratch.clear();
        self.frames.frames(0, &self.pending, &mut self.scratch);
        self.file.append(&self.scratch).map_err(DiskError::io("write", &self.temporary))?;
        self.pending.clear();
        Ok(())
    }
}

/// Writes a checkpoint in one call.
///
/// # Errors
/// As [`CheckpointWriter`].
pub fn write_checkpoint<'r>(
    disk: &dyn Disk,
    path: &Path,
    key: &DataKey,
    entropy: &Entropy,
    records: impl IntoIterator<Item = (u8, &'r [u8])>,
) -> Result<(), DiskError> {
    let mut writer = CheckpointWriter::create(disk, path, key, entropy)?;
    for (kind, bytes) in records {
        writer.record(kind, bytes)?;
    }
    writer.finish()
}

/// Reads a checkpoint's records.
///
/// # Errors
/// [`DiskError::Missing`] without one; [`DiskError::Damaged`] when a byte of it is not as written or its end is cut off.
pub fn read_checkpoint(disk: &dyn Disk, path: &Path, key: &DataKey) -> Result<Vec<Record>, DiskError> {
    let mut bytes = match disk.read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DiskError::Missing { path: path.to_owned() });
        }
        other => other.map_err(DiskError::io("read", path))?,
    };
    let head = frame::read_head(MAGIC, key, path, &bytes)?;
    let length = bytes.len() as u64;
    let mut records = Vec::new();
    let (end, how) = frame::read_frames(&head, path, &mut bytes, Some(length.max(HEAD_LEN as u64)), &mut records)?;
    let count = (records.len() as u64).saturating_sub(1).to_le_bytes();
    let ends = records.pop().is_some_and(|last| last.kind == END_KIND && last.bytes[..] == count);
    if !ends || matches!(how, End::Torn) {
        return Err(DiskError::damaged(path, end, "its end is missing"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::fake_entropy;
    use crate::sim::SimDisk;

    const PATH: &str = "/d/a.checkpoint";

    #[test]
    fn a_checkpoint_is_there_whole_or_as_before() {
        for seed in 0..50 {
            let (disk, entropy) = (SimDisk::new(seed), fake_entropy());
            let key = DataKey::generate("test", &entropy);
            let first = [(1, &b"one"[..]), (2, b"two")];
            write_checkpoint(&disk, Path::new(PATH), &key, &entropy, first).unwrap();
            let mut second = CheckpointWriter::create(&disk, Path::new(PATH), &key, &entropy).unwrap();
            second.record(3, &[7; 5000]).unwrap();
            second.write().unwrap();
            disk.crash();
            let read = read_checkpoint(&disk, Path::new(PATH), &key).unwrap();
            assert_eq!(read.iter().map(|r| (r.kind, &r.bytes[..])).collect::<Vec<_>>(), first, "seed {seed}");
            write_checkpoint(&disk, Path::new(PATH), &key, &entropy, [(4, &b"new"[..])]).unwrap();
            disk.crash();
            assert_eq!(read_checkpoint(&disk, Path::new(PATH), &key).unwrap().len(), 1, "seed {seed}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (disk, entropy) = (SimDisk::new(1), fake_entropy());
        let key = DataKey::generate("test", &entropy);
        let path = Path::new(PATH);
        let rewrite = || write_checkpoint(&disk, path, &key, &entropy, [(1, &b"content"[..])]).unwrap();
        rewrite();
        let length = disk.read(path).unwrap().len() as u64;
        for offset in 0..length {
            rewrite();
            disk.flip_bit(path, offset);
            let error = read_checkpoint(&disk, path, &key).unwrap_err();
            assert!(matches!(error, DiskError::Damaged { .. }), "offset {offset}: {error}");
        }
        assert!(matches!(read_checkpoint(&disk, Path::new("/d/b"), &key).unwrap_err(), DiskError::Missing { .. }));
    }
}
