//! Watchers of the same range share watches at etcd (`server/proxy/grpcproxy/watch_broadcasts.go`).
//!
//! ```text
//! etcd ─ one watch ─► broadcast ─► watcher, watcher, …     each filtered by what it asked for and has seen
//! ```
//!
//! A watcher joins a broadcast that has not passed its start revision, else it gets one of its own; once that has caught up
//! with another of its range, the two become one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::feed::{Feed, Watched};
use super::kv::Kv;
use super::upstream::Caller;
use crate::hub::lock;
use crate::metrics::Counter;
use crate::proto as pb;

/// A broadcast with so many watchers is not moved to another.
const MOVED_MAX: usize = 5;
/// A client that takes nothing for so long, while its queue is full, is sent away.
const PATIENCE: Duration = Duration::from_millis(50);

/// Key and end of a range, as in a request.
pub(super) type Range = (Bytes, Bytes);
/// A client's stream, and the watch's id there.
pub(super) type WatcherId = (u64, i64);
/// What goes to a client's stream.
pub(super) type Queue = mpsc::Sender<pb::WatchResponse>;

/// What a client asked for, and what it has seen.
pub(super) struct Watcher {
    pub(super) id: WatcherId,
    /// The next revision that it has to be told of; 0 before that is known.
    pub(super) next: i64,
    pub(super) progress: bool,
    pub(super) prev_kv: bool,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) last_header: Option<pb::ResponseHeader>,
    pub(super) queue: Queue,
    /// Told when the client's stream has to end, as it is too slow.
    pub(super) slow: Arc<Notify>,
}

/// One watch at etcd.
struct Broadcast {
    id: u64,
    /// The next revision that will come.
    next: i64,
    /// Whether etcd has answered yet.
    begun: bool,
    watchers: BTreeMap<WatcherId, Watcher>,
    task: AbortHandle,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    ranges: BTreeMap<Range, Vec<Broadcast>>,
}

/// All watches of the proxy.
pub(super) struct Ranges {
    kv: Arc<Kv>,
    inner: Mutex<Inner>,
    /// Answers that etcd did not have to send.
    pub(super) coalesced: Counter,
}

/// Answers, and whose they are.
type Posts = Vec<(Queue, Arc<Notify>, pb::WatchResponse)>;

impl Ranges {
    pub(super) fn new(kv: Arc<Kv>) -> Self {
        Self { kv, inner: Mutex::default(), coalesced: Counter::default() }
    }

    /// Watchers that share somebody else's watch.
    pub(super) fn sharing(&self) -> usize {
        let inner = lock(&self.inner);
        inner.ranges.values().flatten().map(|broadcast| broadcast.watchers.len().saturating_sub(1)).sum()
    }

    /// Adds a watcher; `caller` is who makes the watch at etcd, if one has to be made.
    pub(super) fn add(self: &Arc<Self>, range: Range, watcher: Watcher, caller: &Caller) {
        let mut inner = lock(&self.inner);
        let id = inner.next_id;
        inner.next_id += 1;
        let broadcasts = inner.ranges.entry(range.clone()).or_default();
        if let Some(broadcast) = broadcasts.iter_mut().find(|broadcast| broadcast.fits(&watcher)) {
            broadcast.join(watcher);
            return;
        }
        let next = watcher.next;
        let (key, range_end) = range.clone();
        let watched = Watched { key, range_end, start: next, progress: true };
        let caller = Caller { needs_leader: false, ..caller.clone() };
        let feed = Feed::new(self.kv.clone(), caller, watched);
        let task = tokio::spawn(self.clone().run(range, id, feed)).abort_handle();
        let watchers = BTreeMap::from([(watcher.id, watcher)]);
        broadcasts.push(Broadcast { id, next, begun: false, watchers, task });
    }

    /// Takes a watcher away, with the watch that is then nobody's. Its last header.
    pub(super) fn remove(&self, range: &Range, id: WatcherId) -> Option<pb::ResponseHeader> {
        let mut inner = lock(&self.inner);
        let broadcasts = inner.ranges.get_mut(range)?;
        let at = broadcasts.iter().position(|broadcast| broadcast.watchers.contains_key(&id))?;
        let watcher = broadcasts[at].watchers.remove(&id)?;
        if broadcasts[at].watchers.is_empty() {
            broadcasts.swap_remove(at).task.abort();
        }
        if broadcasts.is_empty() {
            inner.ranges.remove(range);
        }
        watcher.last_header
    }

    async fn run(self: Arc<Self>, range: Range, id: u64, mut feed: Feed) {
        loop {
            let answer = feed.next().await.unwrap_or_else(|status| pb::WatchResponse {
                header: Some(pb::ResponseHeader::default()),
                created: !feed.is_created(),
                canceled: true,
                cancel_reason: status.message().to_owned(),
                ..Default::default()
            });
            for (queue, slow, answer) in self.broadcast(&range, id, &answer) {
                if tokio::time::timeout(PATIENCE, queue.send(answer)).await.is_err() {
                    tracing::error!(target: "etcd", "a client does not take its watch's answers; its stream is ended");
                    slow.notify_one();
                }
            }
            if answer.canceled || self.is_moved(&range, id) {
                self.end(&range, id);
                return;
            }
        }
    }

    /// Makes each watcher's own answer of one of etcd's.
    fn broadcast(&self, range: &Range, id: u64, answer: &pb::WatchResponse) -> Posts {
        let mut inner = lock(&self.inner);
        let broadcasts = inner.ranges.get_mut(range);
        let Some(broadcast) = broadcasts.and_then(|all| all.iter_mut().find(|broadcast| broadcast.id == id)) else {
            return Vec::new();
        };
        broadcast.note(answer);
        self.coalesced.add(broadcast.watchers.len().saturating_sub(1) as u64);
        let posts = broadcast.watchers.values_mut().filter_map(|watcher| {
            let answer = watcher.answer(answer)?;
            Some((watcher.queue.clone(), watcher.slow.clone(), answer))
        });
        posts.collect()
    }

    /// Moves the watchers of a broadcast to another that has not passed them; tells whether that left it without any.
    fn is_moved(&self, range: &Range, id: u64) -> bool {
        let mut inner = lock(&self.inner);
        let Some(broadcasts) = inner.ranges.get_mut(range) else { return true };
        let Some(from) = broadcasts.iter().position(|broadcast| broadcast.id == id) else { return true };
        if broadcasts[from].watchers.len() >= MOVED_MAX {
            return false;
        }
        let next = broadcasts[from].next;
        let fits = |to: &Broadcast| to.id != id && to.begun && to.next <= next;
        let Some(to) = broadcasts.iter().position(fits) else { return false };
        let moved = std::mem::take(&mut broadcasts[from].watchers);
        broadcasts[to].watchers.extend(moved);
        true
    }

    fn end(&self, range: &Range, id: u64) {
        let mut inner = lock(&self.inner);
        let Some(broadcasts) = inner.ranges.get_mut(range) else { return };
        broadcasts.retain(|broadcast| broadcast.id != id);
        if broadcasts.is_empty() {
            inner.ranges.remove(range);
        }
    }
}

impl Broadcast {
    /// Whether a watcher misses nothing here. One that begins with the present cannot join before there is one.
    fn fits(&self, watcher: &Watcher) -> bool {
        self.next <= watcher.next && (self.next != 0 || watcher.next == 0)
    }

    fn join(&mut self, watcher: Watcher) {
        if self.begun {
            // etcd has told already that the watch was created.
            let header = Some(pb::ResponseHeader { revision: watcher.next, ..Default::default() });
            let answer = pb::WatchResponse { header, watch_id: watcher.id.1, created: true, ..Default::default() };
            if watcher.queue.try_send(answer).is_err() {
                watcher.slow.notify_one();
                return;
            }
        }
        self.watchers.insert(watcher.id, watcher);
    }

    fn note(&mut self, answer: &pb::WatchResponse) {
        let stated = answer.header.map_or(0, |header| header.revision);
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        // A watch that begins with a given revision does so whatever the store's was when it was made.
        if self.begun || self.next == 0 {
            self.next = self.next.max(last.unwrap_or(stated) + 1);
        }
        self.begun = true;
    }
}

impl Watcher {
    /// What the client is told of an answer of etcd's, if anything.
    fn answer(&mut self, answer: &pb::WatchResponse) -> Option<pb::WatchResponse> {
        let revision = answer.header.map_or(0, |header| header.revision);
        let quiet = answer.events.is_empty() && !answer.created && !answer.canceled && answer.compact_revision == 0;
        let is_progress = quiet && revision != 0;
        if (is_progress && !self.progress) || (self.next > revision && !answer.events.is_empty()) {
            return None;
        }
        if self.next == 0 {
            self.next = revision + 1;
        }
        let mut last = 0;
        let mut events = Vec::with_capacity(answer.events.len());
        for event in &answer.events {
            let changed = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if changed < self.next {
                continue;
            }
            last = changed;
            let filtered =
                if event.r#type == i32::from(pb::event::EventType::Delete) { self.no_delete } else { self.no_put };
            if !filtered {
                let prev_kv = event.prev_kv.clone().filter(|_| self.prev_kv);
                events.push(pb::Event { prev_kv, ..event.clone() });
            }
        }
        // Only now, as several events may have one revision.
        self.next = self.next.max(last + 1);
        if quiet != is_progress || (events.is_empty() && !answer.events.is_empty()) {
            return None;
        }
        self.last_header = answer.header;
        Some(pb::WatchResponse {
            header: answer.header,
            watch_id: self.id.1,
            created: answer.created,
            canceled: answer.canceled,
            compact_revision: answer.compact_revision,
            cancel_reason: answer.cancel_reason.clone(),
            events,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests;
