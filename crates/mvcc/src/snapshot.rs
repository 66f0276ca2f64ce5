//! The keyspace as it stands at one moment: an O(1) clone that any thread may read.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet, Vector};

use crate::auth::Auth;
use crate::lease::{Lease, LeaseRecord};
use crate::row::{Change, Changes, Row, RowRevision};
use crate::{Alarm, AlarmKind, Event, HashKv, Marks, MvccError};

/// Bytes in use of a database like etcd's before anything is stored (it reports 20 KiB, 16 KiB of it in use).
const EMPTY_SIZE_BYTES: i64 = 12_300;
const PAGE_BYTES: i64 = 4_096;

/// Bytes of keys and values after which a piece of history ends with its revision.
const HISTORY_BYTES_MAX: usize = 2 << 20;

/// All kept versions of one key.
#[derive(Clone)]
pub(crate) struct Versions {
    pub(crate) newest: Arc<Row>,
    /// Oldest first; absent for most keys.
    pub(crate) older: Option<Arc<Vector<Arc<Row>>>>,
}

impl Versions {
    /// The version in force at a revision, tombstones included.
    pub(crate) fn at(&self, revision: i64) -> Option<&Arc<Row>> {
        if self.newest.kv.mod_revision <= revision {
            return Some(&self.newest);
        }
        let older = self.older.as_deref()?;
        let (mut low, mut high) = (0, older.len());
        while low < high {
            let middle = low.midpoint(high);
            if older[middle].kv.mod_revision <= revision {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        older.get(low.checked_sub(1)?)
    }

    /// The version a reader at a revision sees, if the key exists there.
    pub(crate) fn live(&self, revision: i64) -> Option<&Arc<Row>> {
        self.at(revision).filter(|row| !row.tombstone)
    }

    pub(crate) fn push(&mut self, row: Arc<Row>) {
        let previous = std::mem::replace(&mut self.newest, row);
        let older = self.older.get_or_insert_with(Arc::default);
        Arc::make_mut(older).push_back(previous);
    }

    /// Drops the oldest version; false when it is the only one, and the key itself has to go.
    pub(crate) fn pop_oldest(&mut self) -> bool {
        let Some(older) = &mut self.older else { return false };
        let older = Arc::make_mut(older);
        older.pop_front();
        if older.is_empty() {
            self.older = None;
        }
        true
    }
}

/// The keyspace at one moment. Cloning is O(1).
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) index: OrdMap<Bytes, Versions>,
    pub(crate) rows: OrdMap<RowRevision, Arc<Row>>,
    /// Keys that exist.
    pub(crate) live: usize,
    pub(crate) leases: OrdMap<i64, Lease>,
    pub(crate) alarms: OrdSet<Alarm>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// Whether rows are still to be dropped.
    pub(crate) compacting: bool,
    pub(crate) downgrade: Option<u8>,
    /// Checksums that compactions made, oldest first.
    pub(crate) hashes: Arc<[HashKv]>,
    pub(crate) size_in_use: i64,
    pub(crate) size: i64,
}

/// A piece of history, see [`Snapshot::history`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The matching events, in order, whole revisions only.
    pub events: Vec<Event>,
    /// Everything up to this revision was looked at.
    pub through: i64,
}

impl Snapshot {
    pub(crate) fn empty() -> Self {
        Self {
            index: OrdMap::new(),
            rows: OrdMap::new(),
            live: 0,
            leases: OrdMap::new(),
            alarms: OrdSet::new(),
            auth: Arc::default(),
            revision: 1,
            compacted: -1,
            compacting: false,
            downgrade: None,
            hashes: Arc::default(),
            size_in_use: EMPTY_SIZE_BYTES,
            size: 5 * PAGE_BYTES,
        }
    }

    /// The store's revision; 1 when nothing was ever written.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction; -1 when there was none.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// What to store beside the rows.
    pub fn marks(&self) -> Marks {
        Marks {
            revision: self.revision,
            compacted: self.compacted,
            compaction_finished: !self.compacting,
            downgrade: self.downgrade,
        }
    }

    /// The minor version of 3 that the cluster is being taken down to.
    pub fn downgrade(&self) -> Option<u8> {
        self.downgrade
    }

    /// Bytes a database like etcd's would take.
    pub fn size_bytes(&self) -> i64 {
        self.size
    }

    /// Bytes of it in use.
    pub fn size_in_use_bytes(&self) -> i64 {
        self.size_in_use.next_multiple_of_page()
    }

    /// Keys that exist.
    pub fn keys_total(&self) -> usize {
        self.live
    }

    /// The active alarms.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.alarms.iter().copied().collect()
    }

    /// Whether an alarm of this kind is active.
    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Every kept version, oldest first: what a checkpoint writes.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// Every lease.
    pub fn lease_records(&self) -> impl Iterator<Item = LeaseRecord> {
        self.leases.iter().map(|(id, lease)| LeaseRecord {
            id: *id,
            ttl: lease.granted_ttl,
            remaining_ttl: lease.remaining_ttl,
        })
    }

    /// Walks the keys of a range, at one revision, in key order.
    pub(crate) fn walk<'a>(
        &'a self,
        key: &'a [u8],
        range_end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a Arc<Row>> {
        let single = if range_end.is_empty() { self.index.get(key) } else { None };
        let bounds = bounds(key, range_end);
        let many = bounds.map(|bounds| self.index.range::<_, [u8]>(bounds));
        let many = many.into_iter().flatten().map(|(_, versions)| versions);
        single.into_iter().chain(many).filter_map(move |versions| versions.live(revision))
    }

    /// Whether a single key or a range holds this revision's reader a readable past.
    pub(crate) fn check_revision(&self, revision: i64) -> Result<(), MvccError> {
        if revision > self.revision {
            return Err(MvccError::FutureRevision);
        }
        if revision > 0 && revision < self.compacted {
            return Err(MvccError::Compacted { revision: self.compacted });
        }
        Ok(())
    }

    /// Events of a range from `start` on, at most `revisions_max` revisions (or about 2 MiB) of
    /// them and never part of one.
    ///
    /// # Errors
    /// [`MvccError::Compacted`] when `start` lies before the last compaction.
    pub fn history(
        &self,
        key: &[u8],
        range_end: &[u8],
        start: i64,
        prev_kv: bool,
        revisions_max: usize,
    ) -> Result<History, MvccError> {
        if start < self.compacted {
            return Err(MvccError::Compacted { revision: self.compacted });
        }
        let mut history = History { events: Vec::new(), through: self.revision };
        let from = RowRevision { main: start, sub: 0 };
        let (mut revisions, mut last, mut bytes) = (0, 0, 0);
        for (_, row) in self.rows.range(from..) {
            if !in_range(&row.kv.key, key, range_end) {
                continue;
            }
            if row.kv.mod_revision != last {
                if revisions == revisions_max || bytes >= HISTORY_BYTES_MAX {
                    history.through = row.kv.mod_revision - 1;
                    break;
                }
                last = row.kv.mod_revision;
                revisions += 1;
            }
            bytes += row.kv.key.len() + row.kv.value.len();
            let prev = if prev_kv { self.before(row) } else { None };
            history.events.push(Change { row: row.clone(), prev }.event(prev_kv));
        }
        Ok(history)
    }

    /// Every change after `after`, one element per revision: what a follower of all watches needs.
    pub fn changes_after(&self, after: i64) -> Vec<Changes> {
        let mut all: Vec<Changes> = Vec::new();
        for (_, row) in self.rows.range(RowRevision { main: after + 1, sub: 0 }..) {
            let change = Change { row: row.clone(), prev: self.before(row) };
            match all.last_mut() {
                Some(last) if last.revision == row.kv.mod_revision => last.changes.push(change),
                _ => all.push(Changes { revision: row.kv.mod_revision, changes: vec![change] }),
            }
        }
        all
    }

    /// The version a row's transaction found, unless it is compacted away.
    fn before(&self, row: &Row) -> Option<Arc<Row>> {
        let before = row.kv.mod_revision - 1;
        if before < self.compacted {
            return None;
        }
        self.index.get(&row.kv.key)?.live(before).cloned()
    }

    /// The keys attached to leases that do not exist: empty in a sound store.
    pub fn orphans(&self) -> BTreeSet<Bytes> {
        let live = self.index.iter().filter_map(|(key, versions)| Some((key, versions.live(self.revision)?)));
        let lost = live.filter(|(_, row)| row.kv.lease != 0 && !self.leases.contains_key(&row.kv.lease));
        lost.map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn account(&mut self, bytes: i64) {
        self.size_in_use += bytes;
        let pages = self.size_in_use.next_multiple_of_page() + PAGE_BYTES;
        self.size = self.size.max(pages);
    }

    /// What `Defragment` does: gives back what compaction left unused.
    pub(crate) fn shrink(&mut self) {
        self.size = self.size_in_use.next_multiple_of_page() + PAGE_BYTES;
    }
}

trait Pages {
    fn next_multiple_of_page(self) -> i64;
}

impl Pages for i64 {
    fn next_multiple_of_page(self) -> i64 {
        (self + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES
    }
}

type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keys from `key` up to `range_end`; nothing for a single key or an empty range.
fn bounds<'a>(key: &'a [u8], range_end: &'a [u8]) -> Option<KeyBounds<'a>> {
    match range_end {
        [] => None,
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        _ => (key < range_end).then_some((Bound::Included(key), Bound::Excluded(range_end))),
    }
}

/// Whether a key lies in a range as requests write it.
pub fn in_range(candidate: &[u8], key: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => candidate == key,
        [0] => candidate >= key,
        _ => candidate >= key && candidate < range_end,
    }
}
