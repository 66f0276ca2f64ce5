//! The view: the rows in sled, keyed by revision, behind the log by a bounded amount. Nothing waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Clock, Entropy, Timestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use disk::{DataKey, DiskError, View};
use mvcc::{Batch, Keyspace, Marks, Row, Snapshot};
use raft::{LogIndex, Term};
use tokio::sync::oneshot;

use crate::checkpoint::{
    Position, Restored, decode_alarm, decode_lease, decode_marks, encode_alarm, encode_lease, encode_marks,
};
use crate::convert;
use crate::journal::Storage;
use crate::members::Members;
use crate::metrics::Histogram;

const MARK: &str = "position";
const MEMBERS: &str = "members";
const LEASE: &[u8] = b"lease";
const ALARM: &[u8] = b"alarm";
const AUTH: &[u8] = b"auth";
/// Rows that may wait for sled; beyond that they are dropped and the view is built again from a snapshot.
const LAG_ROWS_MAX: usize = 100_000;
/// Rows in one batch of a rebuild.
const REBUILD_ROWS: usize = 1000;
/// Rows merged into one batch.
const MERGE_ROWS_MAX: usize = 4000;
/// How long changes are gathered for one batch: sled's cost is by the batch.
const MERGE_TIME: Duration = Duration::from_millis(200);

enum Work {
    Change(LogIndex, Marks, Batch, Option<Bytes>),
    Rebuild(Base),
    /// Build it anew, sealed with another key; told when nothing sealed with the one before is left.
    Reseal(DataKey, Base, oneshot::Sender<bool>),
    Close,
}

/// A state to build the view from.
struct Base {
    index: LogIndex,
    marks: Marks,
    snapshot: Snapshot,
    members: Bytes,
}

/// Hands changes to the view's thread.
pub(crate) struct ViewWriter {
    sender: Sender<Work>,
    /// Rows handed over and not yet written.
    lag: Arc<AtomicUsize>,
    /// Whether changes are dropped until the lag is gone.
    dropping: bool,
    /// The members last told.
    members: Bytes,
    thread: Option<JoinHandle<()>>,
    /// How long the view takes for its batches.
    commits: Arc<Histogram>,
}

impl ViewWriter {
    /// Starts the thread. `restored` is where the state stands: the view is built again unless it stands there or later
    /// entries lead there.
    pub(crate) fn start(
        storage: Storage,
        (clock, entropy): (Clock, Entropy),
        restored: LogIndex,
        keyspace: &Keyspace,
        members: &Members,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let lag = Arc::new(AtomicUsize::new(0));
        let members = Bytes::from(members.encode());
        let (marks, snapshot) = (keyspace.marks(), keyspace.snapshot());
        let base = Base { index: restored, marks, snapshot, members: members.clone() };
        let (thread_lag, commits) = (lag.clone(), Arc::<Histogram>::default());
        let times = commits.clone();
        let thread = std::thread::Builder::new()
            .name("etcd-view".to_owned())
            .spawn(move || run(storage, &entropy, base, &receiver, (&thread_lag, &clock, &times)))?;
        Ok(Self { sender, lag, dropping: false, members, thread: Some(thread), commits })
    }

    /// How long the view takes for its batches.
    pub(crate) fn commits(&self) -> Arc<Histogram> {
        self.commits.clone()
    }

    pub(crate) fn send(&mut self, index: LogIndex, keyspace: &Keyspace, batch: Batch) {
        self.change(index, keyspace, batch, None);
    }

    pub(crate) fn send_members(&mut self, index: LogIndex, keyspace: &Keyspace, members: &Members) {
        self.members = members.encode().into();
        self.change(index, keyspace, Batch::default(), Some(self.members.clone()));
    }

    /// Another state takes the place of everything.
    pub(crate) fn replace(&mut self, index: LogIndex, keyspace: &Keyspace, members: &Members) {
        self.members = members.encode().into();
        self.dropping = false;
        self.rebuild(index, keyspace);
    }

    /// Has the view made anew from the state at `index`.
    pub(crate) fn rebuild(&mut self, index: LogIndex, keyspace: &Keyspace) {
        self.lag.fetch_add(1, Ordering::AcqRel);
        let _ = self.sender.send(Work::Rebuild(self.base(index, keyspace)));
    }

    /// Has the view made anew under another key.
    pub(crate) fn reseal(&mut self, key: DataKey, index: LogIndex, keyspace: &Keyspace, done: oneshot::Sender<bool>) {
        self.lag.fetch_add(1, Ordering::AcqRel);
        let _ = self.sender.send(Work::Reseal(key, self.base(index, keyspace), done));
    }

    fn base(&self, index: LogIndex, keyspace: &Keyspace) -> Base {
        Base { index, marks: keyspace.marks(), snapshot: keyspace.snapshot(), members: self.members.clone() }
    }

    fn change(&mut self, index: LogIndex, keyspace: &Keyspace, batch: Batch, members: Option<Bytes>) {
        let lag = self.lag.load(Ordering::Acquire);
        if self.dropping {
            if lag == 0 {
                self.dropping = false;
                self.rebuild(index, keyspace);
            }
            return;
        }
        if lag > LAG_ROWS_MAX {
            tracing::warn!(target: "etcd", "the view is too far behind; it will be built again");
            self.dropping = true;
            return;
        }
        self.lag.fetch_add(1 + batch.rows.len() + batch.gone.len(), Ordering::AcqRel);
        let _ = self.sender.send(Work::Change(index, keyspace.marks(), batch, members));
    }

    pub(crate) fn close(mut self) {
        let _ = self.sender.send(Work::Close);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn open(storage: &Storage, entropy: &Entropy) -> Result<View, DiskError> {
    let path = storage.dir.join("view");
    View::open(&path, storage.key.clone(), entropy).or_else(|error| {
        tracing::warn!(target: "etcd", %error, "the view is damaged and is built again");
        View::wipe_dir(&path)?;
        View::open(&path, storage.key.clone(), entropy)
    })
}

fn run(
    mut storage: Storage,
    entropy: &Entropy,
    base: Base,
    work: &Receiver<Work>,
    (lag, clock, commits): (&AtomicUsize, &Clock, &Histogram),
) {
    // Nothing is opened before there is something to write: an empty member starts without it.
    let Ok(first) = work.recv() else { return };
    if matches!(first, Work::Close) {
        return;
    }
    let result = open(&storage, entropy).and_then(|view| {
        let anew = |old: View, key: Option<DataKey>| {
            drop(old);
            storage.key = key.unwrap_or_else(|| storage.key.clone());
            View::wipe_dir(&storage.dir.join("view"))?;
            open(&storage, entropy)
        };
        follow(view, anew, base, first, work, (lag, clock, commits))
    });
    if let Err(error) = result {
        tracing::error!(target: "etcd", %error, "the view is given up; the log and checkpoints keep everything");
        // Whoever sends goes on counting; draining keeps its memory bounded.
        while let Ok(work) = work.recv() {
            match work {
                Work::Change(_, _, batch, _) => release(lag, 1 + batch.rows.len() + batch.gone.len()),
                Work::Rebuild(..) | Work::Reseal(..) => release(lag, 1),
                Work::Close => return,
            }
        }
    }
}

fn release(lag: &AtomicUsize, rows: usize) {
    lag.fetch_sub(rows, Ordering::AcqRel);
}

fn follow(
    mut view: View,
    mut anew: impl FnMut(View, Option<DataKey>) -> Result<View, DiskError>,
    base: Base,
    first: Work,
    work: &Receiver<Work>,
    (lag, clock, commits): (&AtomicUsize, &Clock, &Histogram),
) -> Result<(), DiskError> {
    let mut at = position(&view).map_or(LogIndex(0), |(index, _)| index);
    if at < base.index {
        rebuild(&view, &base)?;
        at = base.index;
    }
    drop(base);
    let mut next = Some(first);
    while let Some(current) = next.take() {
        match current {
            Work::Close => return view.flush(),
            Work::Rebuild(base) => {
                // sled gives no space back to the disk, a new one takes none.
                view = anew(view, None)?;
                rebuild(&view, &base)?;
                at = base.index;
                release(lag, 1);
            }
            Work::Reseal(key, base, done) => {
                view = anew(view, Some(key))?;
                rebuild(&view, &base)?;
                at = base.index;
                release(lag, 1);
                let _ = done.send(true);
            }
            Work::Change(index, marks, batch, members) => {
                // Ends early when the view is closed.
                std::thread::park_timeout(MERGE_TIME);
                let mut merged = disk::Batch::default();
                let mut rows = 0;
                let mut end = (index, marks);
                let mut change = Some((index, marks, batch, members));
                while let Some((index, marks, batch, members)) = change.take() {
                    rows += 1 + batch.rows.len() + batch.gone.len();
                    // What a compaction drops may repeat an index; it does no harm twice.
                    if index >= at {
                        add(&mut merged, &batch);
                        end = (index, marks);
                        merged.marks.extend(members.map(|members| (MEMBERS, members)));
                    }
                    if rows < MERGE_ROWS_MAX {
                        match work.try_recv() {
                            Ok(Work::Change(index, marks, batch, members)) => {
                                change = Some((index, marks, batch, members))
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => {}
                        }
                    }
                }
                merged.marks.push((MARK, encode_position(end.0, end.1)));
                let start = clock.monotonic();
                view.apply(&merged)?;
                commits.observe(clock.monotonic().saturating_sub(start));
                at = at.max(end.0);
                release(lag, rows);
            }
        }
        if next.is_none() {
            next = work.recv().ok();
        }
    }
    view.flush()
}

fn encode_position(index: LogIndex, marks: Marks) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64_le(index.0);
    encode_marks(marks, &mut out);
    out.freeze()
}

fn position(view: &View) -> Option<(LogIndex, Marks)> {
    let mut bytes = view.mark(MARK).ok()??;
    Some((LogIndex(bytes.try_get_u64_le().ok()?), decode_marks(&mut bytes)?))
}

fn tagged(tag: &[u8], rest: &[u8]) -> Bytes {
    [tag, rest].concat().into()
}

fn add(merged: &mut disk::Batch, batch: &Batch) {
    let row = |row: &Arc<Row>| (row.disk_key().into(), row.disk_value().into());
    merged.puts.extend(batch.rows.iter().map(row));
    for key in &batch.gone {
        // A row made and dropped within one merged batch must not come back: sled applies puts before deletes.
        merged.deletes.push(key.clone().into());
    }
    for (id, record) in &batch.leases {
        let key = tagged(LEASE, &id.to_be_bytes());
        match record {
            Some(record) => {
                merged.deletes.retain(|deleted| *deleted != key);
                merged.puts.push((key, encode_lease(*record).into()));
            }
            None => merged.deletes.push(key),
        }
    }
    for (alarm, raised) in &batch.alarms {
        let key = tagged(ALARM, &encode_alarm(*alarm));
        if *raised {
            merged.deletes.retain(|deleted| *deleted != key);
            merged.puts.push((key, Bytes::new()));
        } else {
            merged.deletes.push(key);
        }
    }
    for record in &batch.auth {
        let (key, value) = convert::store_record(record);
        let key = tagged(AUTH, &key);
        match value {
            Some(value) => {
                merged.deletes.retain(|deleted| *deleted != key);
                merged.puts.push((key, value.into()));
            }
            None => merged.deletes.push(key),
        }
    }
}

fn rebuild(view: &View, base: &Base) -> Result<(), DiskError> {
    let snapshot = &base.snapshot;
    view.wipe()?;
    let mut batch = disk::Batch::default();
    for row in snapshot.rows() {
        batch.puts.push((row.disk_key().into(), row.disk_value().into()));
        if batch.puts.len() == REBUILD_ROWS {
            view.apply(&std::mem::take(&mut batch))?;
        }
    }
    let leases = snapshot.lease_records().map(|record| (record.id, Some(record))).collect();
    let alarms = snapshot.alarms().into_iter().map(|alarm| (alarm, true)).collect();
    let auth = snapshot.auth().records().collect();
    add(&mut batch, &Batch { leases, alarms, auth, ..Batch::default() });
    batch.marks.push((MARK, encode_position(base.index, base.marks)));
    batch.marks.push((MEMBERS, base.members.clone()));
    view.apply(&batch)
}

/// Reads the state back from the view: for a member whose checkpoint is damaged. The entry's term is not known here.
pub(crate) fn read(storage: &Storage, entropy: &Entropy, now: Timestamp) -> Option<Restored> {
    let view = View::open(&storage.dir.join("view"), storage.key.clone(), entropy).ok()?;
    let (index, marks) = position(&view)?;
    let members = Members::decode(&view.mark(MEMBERS).ok()??)?;
    let (mut rows, mut leases, mut alarms, mut auth) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in view.iterate() {
        let (key, mut value) = row.ok()?;
        if let Some(id) = key.strip_prefix(LEASE) {
            leases.push(decode_lease(i64::from_be_bytes(id.try_into().ok()?), &mut value)?);
        } else if let Some(alarm) = key.strip_prefix(ALARM) {
            alarms.push(decode_alarm(&mut Bytes::copy_from_slice(alarm))?);
        } else if let Some(key) = key.strip_prefix(AUTH) {
            auth.push(convert::load_record(key, &value)?);
        } else {
            rows.push(Row::from_disk(&key, &value).ok()?);
        }
    }
    let mut keyspace = Keyspace::restore(rows, leases, alarms, marks, now).ok()?;
    keyspace.restore_auth(auth);
    Some(Restored { position: Position { index, term: Term(0), members, marks }, keyspace })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base::{FakeClock, Rng};
    use disk::{DataKey, RealDisk};
    use mvcc::{DeleteRangeRequest, PutRequest};

    use super::*;
    use crate::{Member, MemberConfig};

    fn size_bytes(path: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(path) else {
            return std::fs::metadata(path).map_or(0, |meta| meta.len());
        };
        entries.map(|entry| size_bytes(&entry.expect("readable").path())).sum()
    }

    #[tokio::test]
    async fn defragmentation_gives_space_back_to_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let rng = std::sync::Mutex::new(Rng::new(1));
        let entropy = Entropy::new(move |buffer| {
            let mut rng = rng.lock().expect("no panic while it is held");
            buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
        });
        let key = DataKey::generate("test", &entropy);
        let storage = Storage { dir: dir.path().join("member"), disk: Arc::new(RealDisk), key, view: true };
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1000)).clock();
        let config = MemberConfig::new("test", clock, entropy);
        let config = MemberConfig { storage: Some(storage), snapshot_count: 1_000_000, ..config };
        let member = Member::start(config.clone()).expect("starts");
        let store = member.store();
        for n in 0..200 {
            let put =
                PutRequest { key: format!("{n}").into(), value: vec![b'v'; 50_000].into(), ..PutRequest::default() };
            store.put(put).await.expect("written");
        }
        let full = member.status();
        let all = DeleteRangeRequest { key: "0".into(), range_end: "a".into(), prev_kv: false };
        let revision = store.delete_range(all).await.expect("deleted").revision;
        store.compact(revision, true).await.expect("compacted");
        let compacted = member.status();
        assert!(full.db_size > 10_000_000 && compacted.db_size >= full.db_size, "the file is as large as it was");
        assert!(compacted.db_size_in_use < full.db_size_in_use / 10, "but mostly unused");
        let before = size_bytes(dir.path());
        member.defragment().await.expect("done");
        assert!(member.status().db_size < full.db_size / 10);
        member.stop();
        let after = size_bytes(dir.path());
        assert!(before > 10_000_000 && after < before / 10, "{before} bytes, then {after}");
        let member = Member::start(config).expect("starts again");
        assert_eq!(member.store().current_revision().await, Ok(revision));
    }
}
