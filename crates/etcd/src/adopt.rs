//! A data directory of etcd's own becomes ours: what `etcdutl snapshot restore` made, or an etcd left that was stopped.
//!
//! Its database holds the state, its write-ahead log who the member is. Entries that the log has and the database has not
//! are commands in etcd's own form, which nobody here reads: then it is refused, and an etcd must be started on it once
//! more and stopped. The old files stay, as `member.etcd`.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::EtcdError;
use crate::error::storage;

/// Bits of a frame's head that tell the record's length; those above tell the padding (`server/storage/wal`).
const LENGTH_BITS: u64 = 0x00ff_ffff_ffff_ffff;
const PADDED: u64 = 1 << 63;
/// Kinds of records.
const METADATA: i64 = 1;
const ENTRY: i64 = 2;

#[derive(Clone, PartialEq, Message)]
struct WalRecord {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(bytes = "bytes", optional, tag = "3")]
    data: Option<bytes::Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct WalMetadata {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WalEntry {
    #[prost(uint64, tag = "3")]
    index: u64,
}

/// A member of etcd's, as its directory tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    dir: PathBuf,
    pub(crate) member_id: u64,
    pub(crate) cluster_id: u64,
    /// Of the last entry in the log.
    pub(crate) last_index: u64,
}

impl Foreign {
    /// Looks for a member of etcd's in a data directory; nothing when there is none.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub(crate) fn find(data_dir: &Path) -> Result<Option<Self>, EtcdError> {
        let dir = data_dir.join("member");
        if !dir.join("snap").join("db").is_file() || dir.join("log").exists() {
            return Ok(None);
        }
        let wal = dir.join("wal");
        let failed = |error| storage(&format!("reading {}", wal.display()), error);
        let mut files: Vec<PathBuf> = fs::read_dir(&wal)
            .map_err(failed)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
            .collect();
        files.sort_unstable();
        let (mut metadata, mut last_index) = (None, 0);
        for file in &files {
            let bytes = fs::read(file).map_err(failed)?;
            let damaged = || EtcdError::Damaged(format!("{} cannot be read", file.display()));
            for record in records(&bytes) {
                let record = record.ok_or_else(damaged)?;
                let data = record.data.unwrap_or_default();
                match record.kind {
                    METADATA => metadata = Some(WalMetadata::decode(data).map_err(|_| damaged())?),
                    // A later entry takes the place of an earlier one of its index and of all after that.
                    ENTRY => last_index = WalEntry::decode(data).map_err(|_| damaged())?.index,
                    _ => {}
                }
            }
        }
        let Some(WalMetadata { node_id: member_id, cluster_id }) = metadata else {
            return Err(EtcdError::Damaged(format!("{} does not say whose it is", wal.display())));
        };
        Ok(Some(Self { dir, member_id, cluster_id, last_index }))
    }

    /// The file of its state.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join("snap").join("db")
    }

    /// Puts the directory out of the way.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, EtcdError> {
        let aside = self.dir.with_file_name("member.etcd");
        let renamed = fs::rename(&self.dir, &aside);
        renamed.map_err(|error| storage(&format!("renaming {} to {}", self.dir.display(), aside.display()), error))?;
        Ok(aside)
    }
}

/// The records of a file of the log; nothing for one that cannot be read, which is the last.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = Option<WalRecord>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let head = u64::from_le_bytes(*head);
        if head == 0 {
            // The rest of the file was not written yet.
            return None;
        }
        let padding = if head & PADDED == 0 { 0 } else { (head >> 56) & 7 };
        let length = usize::try_from(head & LENGTH_BITS).unwrap_or(usize::MAX);
        let padded = length.saturating_add(usize::try_from(padding).unwrap_or(0));
        let Some((frame, rest)) = rest.split_at_checked(padded) else {
            bytes = &[];
            return Some(None);
        };
        bytes = rest;
        Some(WalRecord::decode(&frame[..length]).ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: i64, data: Vec<u8>) -> Vec<u8> {
        let record = WalRecord { kind, data: Some(data.into()) }.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut head = record.len() as u64;
        if padding > 0 {
            head |= (0x80 | padding as u64) << 56;
        }
        [&head.to_le_bytes()[..], &record, &vec![0; padding]].concat()
    }

    #[test]
    fn the_log_tells_whose_it_is_and_how_far_it_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let member = dir.path().join("member");
        assert_eq!(Foreign::find(dir.path()).expect("readable"), None);
        fs::create_dir_all(member.join("snap")).expect("made");
        fs::create_dir_all(member.join("wal")).expect("made");
        fs::write(member.join("snap/db"), b"").expect("written");
        assert!(Foreign::find(dir.path()).is_err(), "nothing says whose it is");
        let metadata = WalMetadata { node_id: 7, cluster_id: 9 }.encode_to_vec();
        let entry = |index| frame(ENTRY, WalEntry { index }.encode_to_vec());
        let first = [frame(METADATA, metadata), entry(1), entry(2), vec![0; 64]].concat();
        fs::write(member.join("wal/0000-0000.wal"), first).expect("written");
        fs::write(member.join("wal/0001-0003.wal"), entry(3)).expect("written");
        let found = Foreign::find(dir.path()).expect("readable").expect("there");
        assert_eq!((found.member_id, found.cluster_id, found.last_index), (7, 9, 3));
        fs::write(member.join("wal/0001-0003.wal"), &entry(3)[..9]).expect("written");
        assert!(Foreign::find(dir.path()).is_err(), "half a record");
        let aside = found.set_aside().expect("renamed");
        assert!(aside.join("snap/db").exists() && !member.exists());
    }
}
