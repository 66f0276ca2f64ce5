//! Watches: changes go from the state thread to the watchers they concern; who falls behind reads history instead.
//!
//! ```text
//! state thread ── dispatch(changes) ──► slot (synced): bounded queue ──► Cursor::take ─► the watch's stream
//!                                        slot (behind): nothing            │
//!                                                       snapshot history ◄─┘ until it has caught up
//! ```
//! A revision reaches a watcher once, whole and in order: a slot accepts only revisions from its cursor on, and turns
//! synced only under the hub's lock, when nothing lies between the cursor and what was dispatched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mvcc::{Changes, in_range};
use tokio::sync::Notify;

use crate::shared::Shared;
use crate::store::WatchBatch;

/// Revisions queued for one watcher before it has to read history instead.
const QUEUE_REVISIONS_MAX: usize = 512;
/// Bytes of keys and values after which an answer ends with its revision.
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Revisions with events in one answer of a watcher that catches up (etcd: 1000).
const CATCH_UP_REVISIONS_MAX: usize = 1000;

/// All watchers of a member.
pub(crate) struct Hub {
    /// The last revision dispatched.
    revision: i64,
    next_slot: u64,
    keys: BTreeMap<Bytes, Vec<Arc<Slot>>>,
    ranges: BTreeMap<u64, Arc<Slot>>,
}

/// What one watcher has waiting.
struct Slot {
    id: u64,
    /// The watch's id on its stream, for the ready queue.
    token: i64,
    key: Bytes,
    range_end: Bytes,
    ready: Arc<Ready>,
    inner: Mutex<SlotInner>,
}

struct SlotInner {
    queue: VecDeque<Arc<Changes>>,
    /// Not fed: the cursor reads history.
    behind: bool,
    /// Revisions before it are not for this watcher.
    next: i64,
    announced: bool,
}

/// The watches of one stream that have something to say.
#[derive(Default)]
pub(crate) struct Ready {
    tokens: Mutex<VecDeque<i64>>,
    notify: Notify,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ready {
    pub(crate) fn push(&self, token: i64) {
        lock(&self.tokens).push_back(token);
        self.wake();
    }

    /// As [`Ready::push`] for who will wake all streams at once; true when this one has to be woken.
    fn push_quietly(&self, token: i64) -> bool {
        let mut tokens = lock(&self.tokens);
        tokens.push_back(token);
        // With more in it somebody was woken, or is to be, and looks on until it is empty.
        tokens.len() == 1
    }

    /// Has the stream look at what is ready.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    fn pop(&self) -> Option<i64> {
        lock(&self.tokens).pop_front()
    }

    /// The next watch with something to say. Safe to drop at any moment.
    pub(crate) async fn next(&self) -> i64 {
        loop {
            if let Some(token) = self.pop() {
                return token;
            }
            self.notify.notified().await;
        }
    }
}

impl Hub {
    pub(crate) fn new(revision: i64) -> Self {
        Self { revision, next_slot: 0, keys: BTreeMap::new(), ranges: BTreeMap::new() }
    }

    /// Watches registered.
    pub(crate) fn watchers(&self) -> usize {
        self.ranges.len() + self.keys.values().map(Vec::len).sum::<usize>()
    }

    /// Watchers that read history because they have fallen behind.
    pub(crate) fn slow_watchers(&self) -> usize {
        self.ranges.values().chain(self.keys.values().flatten()).filter(|slot| lock(&slot.inner).behind).count()
    }

    /// Wakes every watcher (the member stops).
    pub(crate) fn wake_all(&self) {
        for slot in self.ranges.values().chain(self.keys.values().flatten()) {
            slot.ready.push(slot.token);
        }
    }

    /// Hands changes to the watchers they concern; returns who has to be woken. Revisions come in order.
    #[must_use]
    pub(crate) fn dispatch(&mut self, all: &[Arc<Changes>]) -> Vec<Arc<Ready>> {
        let mut woken = Vec::new();
        for changes in all {
            self.revision = changes.revision;
            for change in &changes.changes {
                for slot in self.keys.get(&change.row.kv.key).into_iter().flatten() {
                    slot.offer(changes, &mut woken);
                }
            }
            for slot in self.ranges.values() {
                let hit = changes.changes.iter().any(|c| in_range(&c.row.kv.key, &slot.key, &slot.range_end));
                if hit {
                    slot.offer(changes, &mut woken);
                }
            }
        }
        woken
    }

    /// The whole state was replaced by one at this revision: everybody goes back to history.
    pub(crate) fn restored(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
        for slot in self.ranges.values().chain(self.keys.values().flatten()) {
            let mut inner = lock(&slot.inner);
            inner.behind = true;
            if !std::mem::replace(&mut inner.announced, true) {
                drop(inner);
                slot.ready.push(slot.token);
            }
        }
    }

    fn add(&mut self, slot: &Arc<Slot>) {
        if slot.range_end.is_empty() {
            self.keys.entry(slot.key.clone()).or_default().push(slot.clone());
        } else {
            self.ranges.insert(slot.id, slot.clone());
        }
    }

    fn remove(&mut self, slot: &Slot) {
        self.ranges.remove(&slot.id);
        if let Some(slots) = self.keys.get_mut(&slot.key) {
            slots.retain(|other| other.id != slot.id);
            if slots.is_empty() {
                self.keys.remove(&slot.key);
            }
        }
    }
}

impl SlotInner {
    /// Whole revisions off the front, up to a bounded number of bytes.
    fn take_some(&mut self) -> VecDeque<Arc<Changes>> {
        let mut bytes = 0;
        let size = |changes: &Changes| -> usize {
            changes.changes.iter().map(|change| change.row.kv.key.len() + change.row.kv.value.len()).sum()
        };
        let end = self.queue.iter().position(|changes| {
            bytes += size(changes);
            bytes >= BATCH_BYTES_MAX
        });
        match end {
            Some(end) if end + 1 < self.queue.len() => self.queue.drain(..=end).collect(),
            _ => std::mem::take(&mut self.queue),
        }
    }
}

impl Slot {
    fn offer(&self, changes: &Arc<Changes>, woken: &mut Vec<Arc<Ready>>) {
        let mut inner = lock(&self.inner);
        if inner.behind || changes.revision < inner.next {
            return;
        }
        // A transaction with several hits on a single-key watcher is offered once for each of them.
        if inner.queue.back().is_some_and(|last| last.revision == changes.revision) {
            return;
        }
        if inner.queue.len() == QUEUE_REVISIONS_MAX {
            inner.behind = true;
        } else {
            inner.queue.push_back(changes.clone());
        }
        if !inner.announced {
            inner.announced = true;
            drop(inner);
            if self.ready.push_quietly(self.token) {
                woken.push(self.ready.clone());
            }
        }
    }
}

/// One watcher's place in the stream of changes.
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    prev_kv: bool,
    /// The first revision not yet looked at.
    next: i64,
}

/// What [`Cursor::take`] found.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken {
    /// Events of whole revisions; and the revision that the answer's header says, which for history is the store's.
    Batch(WatchBatch, i64),
    /// Nothing at the moment: the ready queue will name this watch again.
    Idle,
    /// Overtaken by a compaction to this revision; the watch is over.
    Compacted(i64),
}

impl Cursor {
    /// Registers a watcher. `start` 0: from now on. Also returns the store's revision at this moment.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        ready: &Arc<Ready>,
        token: i64,
        (key, range_end): (Bytes, Bytes),
        start: i64,
        prev_kv: bool,
    ) -> (Self, i64) {
        let mut hub = lock(&shared.hub);
        let current = shared.published().snapshot.revision().max(hub.revision);
        let next = if start > 0 { start } else { current + 1 };
        let behind = next <= hub.revision;
        let inner = SlotInner { queue: VecDeque::new(), behind, next, announced: behind };
        let id = hub.next_slot;
        hub.next_slot += 1;
        let slot = Arc::new(Slot { id, token, key, range_end, ready: ready.clone(), inner: Mutex::new(inner) });
        hub.add(&slot);
        drop(hub);
        if behind {
            ready.push(token);
        }
        (Self { shared: shared.clone(), slot, prev_kv, next }, current)
    }

    /// What is there to deliver. Call it again until it is idle.
    pub(crate) fn take(&mut self) -> Taken {
        loop {
            let (queued, behind) = {
                let mut inner = lock(&self.slot.inner);
                let queued = inner.take_some();
                if queued.is_empty() && !inner.behind {
                    inner.announced = false;
                }
                (queued, inner.behind)
            };
            if let Some(last) = queued.back() {
                self.next = last.revision + 1;
                return Taken::Batch(self.collect(&queued, last.revision), last.revision);
            }
            if !behind {
                return Taken::Idle;
            }
            if let Some(taken) = self.catch_up() {
                return taken;
            }
        }
    }

    fn collect(&self, queued: &VecDeque<Arc<Changes>>, revision: i64) -> WatchBatch {
        let changes = queued.iter().flat_map(|changes| &changes.changes);
        let hits = changes.filter(|c| in_range(&c.row.kv.key, &self.slot.key, &self.slot.range_end));
        WatchBatch { revision, events: hits.map(|change| change.event(self.prev_kv)).collect() }
    }

    /// Reads a piece of history; when there is none left, lets the hub feed this watcher again.
    fn catch_up(&mut self) -> Option<Taken> {
        let published = self.shared.published();
        let (key, range_end) = (&self.slot.key, &self.slot.range_end);
        let history = published.snapshot.history(key, range_end, self.next, self.prev_kv, CATCH_UP_REVISIONS_MAX);
        let history = match history {
            Ok(history) => history,
            Err(_) => return Some(Taken::Compacted(published.snapshot.compacted())),
        };
        self.next = self.next.max(history.through + 1);
        if !history.events.is_empty() {
            let last = history.events.last().map_or(history.through, |event| event.kv.mod_revision);
            let batch = WatchBatch { revision: last, events: history.events };
            return Some(Taken::Batch(batch, published.snapshot.revision()));
        }
        let hub = lock(&self.shared.hub);
        if self.next > hub.revision {
            let mut inner = lock(&self.slot.inner);
            inner.behind = false;
            inner.next = self.next;
        }
        None
    }

    /// Whether everything up to a revision was delivered; if so, that revision.
    pub(crate) fn synced(&self) -> Option<i64> {
        let hub = lock(&self.shared.hub);
        let inner = lock(&self.slot.inner);
        let synced = !inner.behind && inner.queue.is_empty() && inner.next <= hub.revision + 1;
        synced.then_some(hub.revision)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        lock(&self.shared.hub).remove(&self.slot);
    }
}
