//! `--restore FILE`: a snapshot of an etcd becomes a member's data directory, as with `etcdutl snapshot restore`. The
//! member belongs to a new cluster: who the old members were, and their log, is forgotten.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use base::{Entropy, Timestamp};
use bytes::BytesMut;
use disk::Log;
use mvcc::Keyspace;
use raft::HardState;

use crate::EtcdError;
use crate::bolt::{BoltError, Entry, Reader};
use crate::checkpoint::{self, Position};
use crate::database::Found;
use crate::error::storage;
use crate::journal::{RECORD_BOOTSTRAP, RECORD_HARD_STATE, Storage, bootstrap};
use crate::recovery::Beginning;

/// A snapshot ends in a checksum if its length says so: a database is a multiple of this (`etcdutl/snapshot`).
const SECTOR_BYTES: u64 = 512;
/// Files from this size on tell how far reading them is.
const PROGRESS_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// What to restore, with etcdutl's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) file: PathBuf,
    /// Take a file whose checksum is missing or wrong.
    pub(crate) skip_hash_check: bool,
    /// Let the revision jump by this much and forget all history; 0 for neither.
    pub(crate) bump_revision: i64,
}

impl Restore {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it is no snapshot, its checksum is missing or wrong, or it holds what cannot be restored.
    pub(crate) fn read(&self, now: Timestamp) -> Result<Keyspace, EtcdError> {
        self.read_with_index(now).map(|(keyspace, _)| keyspace)
    }

    /// As [`Restore::read`], and the last entry of the log whose effect is in it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn read_with_index(&self, now: Timestamp) -> Result<(Keyspace, u64), EtcdError> {
        let shown = self.file.display();
        let mut file = File::open(&self.file).map_err(|error| storage(&format!("opening {shown}"), error))?;
        let length = self.check_hash(&mut file)?;
        let mut found = Found::default();
        let opened = Reader::open(BufReader::new(file), length);
        let mut reader = opened.map_err(|error| storage(&format!("restoring {shown}"), error))?;
        let mut progress = Progress::new(&self.file, reader.size_bytes());
        let read = reader.walk(|Entry { bucket, key, value }| -> Result<(), Refusal> {
            progress.add(key.len() + value.len());
            found.take(bucket, key, value).map_err(Refusal::Content)
        });
        read.map_err(|refusal| match refusal {
            Refusal::File(error) => storage(&format!("restoring {shown}"), error),
            Refusal::Content(what) => EtcdError::Snapshot(format!("{shown} cannot be restored: {what}")),
        })?;
        let refuse = |what: &str| EtcdError::Snapshot(format!("{shown} cannot be restored: {what}"));
        if self.bump_revision > 0 {
            found.bump(self.bump_revision).map_err(refuse)?;
        }
        let (marks, auth, index) = (found.marks(), found.take_auth(), found.consistent_index);
        let Found { rows, leases, alarms, .. } = found;
        let keyspace = Keyspace::restore(rows, leases, alarms, marks, now);
        let mut keyspace = keyspace.map_err(|_| refuse("its keys contradict each other"))?;
        keyspace.restore_auth(auth);
        Ok((keyspace, index))
    }

    /// The length of the database in the file, once its checksum is right.
    fn check_hash(&self, file: &mut File) -> Result<u64, EtcdError> {
        let shown = self.file.display();
        let failed = |error| storage(&format!("reading {shown}"), error);
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let has_hash = length % SECTOR_BYTES == SHA256_OUTPUT_LEN as u64;
        let database = if has_hash { length - SHA256_OUTPUT_LEN as u64 } else { length };
        if self.skip_hash_check {
            return Ok(database);
        }
        if !has_hash {
            return Err(EtcdError::Snapshot("snapshot missing hash but --skip-hash-check=false".to_owned()));
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (mut digest, mut buffer, mut left) = (Context::new(&SHA256), vec![0; BUFFER_BYTES], database);
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..part]).map_err(failed)?;
            digest.update(&buffer[..part]);
            left -= part as u64;
        }
        let mut expected = [0; SHA256_OUTPUT_LEN];
        file.read_exact(&mut expected).map_err(failed)?;
        let got = digest.finish();
        if got.as_ref() == expected {
            return Ok(database);
        }
        let (expected, got) = (go_bytes(&expected), go_bytes(got.as_ref()));
        Err(EtcdError::Snapshot(format!("expected sha256 {expected}, got {got}")))
    }
}

/// Why an entry ends the reading.
enum Refusal {
    File(BoltError),
    Content(&'static str),
}

impl From<BoltError> for Refusal {
    fn from(error: BoltError) -> Self {
        Self::File(error)
    }
}

/// Bytes as Go prints them.
fn go_bytes(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

/// Says how far a large file is read.
struct Progress<'a> {
    file: &'a Path,
    total: u64,
    done: u64,
    /// Tenths that were told.
    told: u64,
}

impl<'a> Progress<'a> {
    fn new(file: &'a Path, total: u64) -> Self {
        Self { file, total, done: 0, told: 0 }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let tenths = self.done.saturating_mul(10) / self.total.max(1);
        if self.total >= PROGRESS_BYTES && tenths > self.told {
            self.told = tenths;
            let (file, megabytes) = (self.file.display(), self.done >> 20);
            tracing::info!(target: "etcd", %file, megabytes, of = self.total >> 20, "restoring a snapshot");
        }
    }
}

/// etcdutl's refusal of a directory that has content.
///
/// # Errors
/// When there is something in it, or it cannot be read.
pub(crate) fn check_empty(data_dir: &Path) -> Result<(), EtcdError> {
    let empty = match std::fs::read_dir(data_dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let refusal = || EtcdError::Snapshot(format!("data-dir {data_dir:?} not empty or could not be read"));
    if empty { Ok(()) } else { Err(refusal()) }
}

/// Makes the state a member's: a checkpoint, and a log that goes on from it. The log comes last: without it the member
/// does not start, so that a half-written directory is not taken for a small one.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn install(
    store: &Storage,
    entropy: &Entropy,
    beginning: &Beginning,
    keyspace: &Keyspace,
) -> Result<(), EtcdError> {
    // As if the log had begun as every log does.
    let HardState { term, commit, .. } = beginning.raft().hard_state;
    let position = Position { index: commit, term, members: beginning.first.clone(), marks: keyspace.marks() };
    store.disk.create_dir(&store.dir).map_err(|error| storage("making the data directory", error))?;
    checkpoint::write(store, entropy, &position, &keyspace.snapshot())?;
    let opened = Log::open(store.disk.clone(), &store.dir.join("log"), store.key.clone(), entropy.clone());
    let (mut log, _) = opened.map_err(|error| storage("opening the log", error))?;
    log.append(RECORD_BOOTSTRAP, &bootstrap(&beginning.known, beginning.cluster_id, beginning.member_id));
    let mut hard_state = BytesMut::new();
    HardState { term, vote: None, commit }.encode(&mut hard_state);
    log.append(RECORD_HARD_STATE, &hard_state);
    log.sync().map(drop).map_err(|error| storage("writing the log", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by etcd 3.6.16 and etcdctl: 120 keys in two transactions, some of them changed or deleted, one with a lease;
    /// compacted at revision 4.
    const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/etcd-3.6.16.snapshot");

    fn read(path: &Path, skip_hash_check: bool, bump_revision: i64) -> Result<Keyspace, String> {
        let restore = Restore { file: path.to_owned(), skip_hash_check, bump_revision };
        restore.read(Timestamp::from_unix_seconds(1)).map_err(|error| match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }

    #[test]
    fn a_real_snapshot_has_the_checksum_that_etcd_tells() {
        let keyspace = read(Path::new(REAL), false, 0).expect("a good file");
        let hash = keyspace.state().hash_kv(0).expect("readable");
        assert_eq!((hash.hash, hash.revision, hash.compact_revision), (1_450_412_628, 9, 4));
        let leases: Vec<_> = keyspace.state().lease_records().collect();
        assert_eq!(leases, [mvcc::LeaseRecord { id: 0x390d_a215_7319_0704, ttl: 600, remaining_ttl: 0 }]);
        let bumped = read(Path::new(REAL), false, 1000).expect("a good file");
        assert_eq!((bumped.marks().revision, bumped.marks().compacted, bumped.is_compacting()), (1009, 1009, true));
    }

    #[test]
    fn what_is_no_whole_snapshot_is_refused() {
        let good = std::fs::read(REAL).expect("a file");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let check = |bytes: &[u8], skip: bool, expect: &str| {
            std::fs::write(file.path(), bytes).expect("written");
            let error = read(file.path(), skip, 0).map(drop).expect_err(expect);
            assert!(error.contains(expect), "{error}");
        };
        check(&good[..good.len() - 32], false, "snapshot missing hash but --skip-hash-check=false");
        let mut changed = good.clone();
        changed[5000] ^= 1;
        check(&changed, false, "expected sha256 [");
        check(&good[..8192], true, "it is cut off: 8192 bytes of 36864");
        check(b"", true, "it is no bbolt database");
        check(&[7; 32], false, "expected sha256 [7 7 ");
    }
}
