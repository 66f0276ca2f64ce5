//! A running watch: reads the watch cache's history from where it stands, at its own pace. A reader that falls behind
//! what is kept gets 410 and an end, as upstream's does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use machinery::{Status, Value, json};
use registry::Resource;
use registry::cache::Cached;
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::caches::{Caches, ResourceCache};
use crate::filter::Filter;

/// About how often upstream sends bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// What a watch event tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl WatchKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }
}

/// The object of a watch event.
#[derive(Clone, Debug)]
pub enum WatchObject {
    /// As the watch cache has it, in the stored version.
    Cached(Arc<Cached>),
    /// A bookmark or a `Status`.
    Tree(Value),
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: WatchKind,
    pub object: WatchObject,
}

impl WatchEvent {
    /// The object as the row shows it, shared with the watch cache where that holds it in this version.
    pub fn shown(&self, row: &Resource) -> Arc<Value> {
        match &self.object {
            WatchObject::Tree(value) => Arc::new(value.clone()),
            WatchObject::Cached(cached) => registry::shared(&cached.object, row),
        }
    }
}

/// Where a watch begins.
pub(crate) enum Begin {
    /// After this revision.
    After(u64),
    /// With what is there, as ADDED; then a bookmark that says so if `mark` is set.
    Initial { mark: bool },
}

/// A running watch; dropping it ends it.
pub struct WatchStream {
    /// The row that was asked for.
    pub row: Arc<Resource>,
    cache: Arc<ResourceCache>,
    changed: watch::Receiver<u64>,
    progress: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    filter: Filter,
    /// Everything up to this revision has been looked at.
    seen: u64,
    pending: VecDeque<WatchEvent>,
    bookmarks: bool,
    next_bookmark: Pin<Box<Sleep>>,
    deadline: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl WatchStream {
    pub(crate) fn new(
        caches: &Caches,
        cache: Arc<ResourceCache>,
        filter: Filter,
        row: Arc<Resource>,
        begin: Begin,
        (bookmarks, timeout): (bool, Option<Duration>),
        stop: watch::Receiver<bool>,
    ) -> Self {
        let changed = cache.subscribe();
        let progress = caches.subscribe();
        let mut stream = Self {
            row,
            changed,
            progress,
            stop,
            filter,
            seen: 0,
            pending: VecDeque::new(),
            bookmarks,
            next_bookmark: Box::pin(tokio::time::sleep(BOOKMARK_INTERVAL)),
            deadline: timeout.map(|t| Box::pin(tokio::time::sleep(t))),
            over: false,
            cache,
        };
        match begin {
            Begin::After(revision) => stream.seen = revision,
            Begin::Initial { mark } => stream.initial(mark),
        }
        stream
    }

    fn initial(&mut self, mark: bool) {
        let reached = *self.progress.borrow();
        let snapshot = self.cache.snapshot();
        self.seen = snapshot.revision().max(reached);
        let added = |(_, cached): (_, &Arc<Cached>)| WatchEvent {
            kind: WatchKind::Added,
            object: WatchObject::Cached(cached.clone()),
        };
        self.pending.extend(self.filter.select(&snapshot, None).map(added));
        if mark {
            let mut bookmark = self.bookmark();
            *bookmark.at_mut(&["metadata", "annotations", "k8s.io/initial-events-end"]) = "true".into();
            self.pending.push_back(WatchEvent { kind: WatchKind::Bookmark, object: WatchObject::Tree(bookmark) });
        }
    }

    fn bookmark(&self) -> Value {
        let mut bookmark = json!({"metadata": {"resourceVersion": self.seen.to_string(), "creationTimestamp": null}});
        bookmark.set("kind", self.row.gvk.kind.as_str());
        bookmark.set("apiVersion", self.row.api_version());
        bookmark
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            // Asked before and after: reading takes the news that it was retired along, and what is read before is not all.
            let retired = self.cache.is_retired();
            self.read();
            if self.pending.is_empty() {
                if retired {
                    self.end();
                } else if !self.cache.is_retired() {
                    self.wait().await;
                }
            }
        }
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        if self.pending.is_empty() && !self.over {
            self.read();
        }
        self.pending.pop_front()
    }

    fn read(&mut self) {
        self.changed.mark_unchanged();
        let reached = *self.progress.borrow();
        let snapshot = self.cache.snapshot();
        if snapshot.revision() <= self.seen {
            self.seen = self.seen.max(reached);
            return;
        }
        let Some(events) = snapshot.events_since(self.seen) else {
            let text = format!("too old resource version: {} ({})", self.seen, snapshot.oldest());
            let status = Status::expired(text).to_value();
            self.pending.push_back(WatchEvent { kind: WatchKind::Error, object: WatchObject::Tree(status) });
            self.over = true;
            return;
        };
        self.pending.extend(events.filter_map(|event| self.filter.see(event)));
        self.seen = snapshot.revision().max(reached);
    }

    async fn wait(&mut self) {
        enum Woken {
            Changed(bool),
            Ended,
            Bookmark,
        }
        let deadline = async {
            match &mut self.deadline {
                Some(deadline) => deadline.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            changed = self.changed.changed() => Woken::Changed(changed.is_ok()),
            () = deadline => Woken::Ended,
            () = self.next_bookmark.as_mut(), if self.bookmarks => Woken::Bookmark,
            () = stopped(&mut self.stop) => Woken::Ended,
        };
        match woken {
            Woken::Changed(alive) => self.over |= !alive,
            Woken::Ended => self.end(),
            Woken::Bookmark => {
                self.next_bookmark = Box::pin(tokio::time::sleep(BOOKMARK_INTERVAL));
                self.push_bookmark();
            }
        }
    }

    fn push_bookmark(&mut self) {
        self.read();
        let event = WatchEvent { kind: WatchKind::Bookmark, object: WatchObject::Tree(self.bookmark()) };
        self.pending.push_back(event);
    }

    /// The last bookmark lets the client resume from where it was left.
    fn end(&mut self) {
        if self.bookmarks {
            self.push_bookmark();
        }
        self.over = true;
    }
}

/// Waits until the server stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
