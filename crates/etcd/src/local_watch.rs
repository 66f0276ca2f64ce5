//! Watches on a member in this process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::StoreError;
use crate::hub::{Cursor, Ready, Taken};
use crate::shared::Shared;
use crate::store::{WatchBatch, WatchRequest};

/// A watch on a member in this process.
pub struct LocalWatch {
    shared: Arc<Shared>,
    ready: Arc<Ready>,
    cursor: Cursor,
    /// The cursor may have more.
    busy: bool,
    over: bool,
    /// Requests for progress already answered.
    asked: u64,
    interval: Option<Duration>,
}

impl LocalWatch {
    pub(crate) fn new(shared: &Arc<Shared>, request: WatchRequest) -> Self {
        let ready = Arc::new(Ready::default());
        let range = (request.key, request.range_end);
        let (cursor, _) = Cursor::new(shared, &ready, 0, range, request.start_revision, request.prev_kv);
        let asked = shared.progress_asked.load(Ordering::Acquire);
        let interval = request.progress_notify.then_some(shared.watch_progress_interval);
        Self { shared: shared.clone(), ready, cursor, busy: false, over: false, asked, interval }
    }

    pub(crate) async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        loop {
            if self.over || self.shared.is_stopped() {
                return None;
            }
            if self.busy {
                match self.cursor.take() {
                    Taken::Batch(batch, _) => return Some(Ok(batch)),
                    Taken::Idle => self.busy = false,
                    Taken::Compacted(revision) => {
                        self.over = true;
                        return Some(Err(StoreError::Compacted { revision }));
                    }
                }
            }
            let asked = self.shared.progress_asked.load(Ordering::Acquire);
            if asked != self.asked
                && let Some(revision) = self.cursor.synced()
            {
                self.asked = asked;
                return Some(Ok(WatchBatch { revision, events: Vec::new() }));
            }
            match self.interval {
                None => drop(self.ready.next().await),
                Some(interval) => {
                    if tokio::time::timeout(interval, self.ready.next()).await.is_err()
                        && let Some(revision) = self.cursor.synced()
                    {
                        return Some(Ok(WatchBatch { revision, events: Vec::new() }));
                    }
                }
            }
            self.busy = true;
        }
    }
}
