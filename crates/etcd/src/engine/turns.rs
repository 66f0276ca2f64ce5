//! Who takes the turns: a thread of its own, or, for a client that is alone, the client's own task.
//!
//! ```text
//! many writers:  tasks ─► inbox ─► the state thread: one turn, one sync for all that wait ─► answers
//! one writer:    task ─► a turn where it stands ─► answer
//! ```
//! Waking the thread and waking the task again takes as long as a sync. A lone writer can only wait for the sync anyhow, so its
//! task does the turn itself: as long as writes came one by one for a while, nobody read in between, the disk is fast, and
//! nothing else is going on. Before it does, all connections are heard: one thread for them all sees no others that wait.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError, Weak};

use super::*;

/// Turns with one write each, and nobody else waiting, before the next one is taken by its client.
const LONE_TURNS_MIN: u32 = 16;
/// Syncs that take longer on average must not hold up the tasks of a client's thread.
const SYNC_MAX: Duration = Duration::from_millis(2);
/// The average is of about so many syncs.
const SYNCS: u32 = 8;

/// What tells a lone writer from several.
#[derive(Default)]
pub(super) struct Pattern {
    /// Turns with one write each, one after the other.
    lone_turns: u32,
    /// Ranges answered until the last turn.
    ranges: u64,
    /// How long syncs take on average.
    sync: Duration,
}

impl Pattern {
    /// A turn is over that took up so many writes, so many more wait, and so many ranges were answered in all.
    fn took(&mut self, writes: usize, waiting: usize, ranges: u64) {
        let read = std::mem::replace(&mut self.ranges, ranges) != ranges;
        if writes > 1 || waiting > 0 || read || self.sync > SYNC_MAX {
            self.lone_turns = 0;
        } else if writes == 1 {
            self.lone_turns = self.lone_turns.saturating_add(1);
        }
    }

    fn is_lone(&self) -> bool {
        self.lone_turns >= LONE_TURNS_MIN
    }

    pub(super) fn synced(&mut self, took: Duration) {
        self.sync = self.sync - self.sync / SYNCS + took / SYNCS;
    }
}

/// The engine, while it runs, for whoever takes a turn.
type Seat = Mutex<Option<Engine>>;

/// Where a client finds the engine.
#[derive(Default)]
pub(crate) struct Turns {
    seat: OnceLock<Weak<Seat>>,
    /// Whether one client alone has written for a while.
    lone: AtomicBool,
}

impl Turns {
    /// Takes a turn with this write here and now, if that is the best for all: blocks for a sync then. Otherwise the write
    /// comes back, for the inbox.
    pub(crate) async fn take(&self, write: Message, pending: &AtomicUsize) -> Result<(), Message> {
        if !self.lone.load(Ordering::Relaxed) {
            return Err(write);
        }
        let counted = Counted(Some(pending));
        tokio::task::yield_now().await;
        if counted.keep() > 1 {
            return Err(write);
        }
        let Some(seat) = self.seat.get().and_then(Weak::upgrade) else { return Err(write) };
        let mut engine = match seat.try_lock() {
            Ok(engine) => engine,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Err(write),
        };
        let Some(engine) = engine.as_mut().filter(|engine| engine.is_free()) else { return Err(write) };
        let _watched = Watched(engine.shared.clone());
        engine.turn_or_fail(write, None);
        Ok(())
    }
}

/// A write that counts as pending and was handed to nobody yet: its client may go, and then it counts no more.
struct Counted<'a>(Option<&'a AtomicUsize>);

impl Counted<'_> {
    /// Leaves it to who answers the write to count it off; returns how many are pending.
    fn keep(mut self) -> usize {
        self.0.take().map_or(0, |pending| pending.load(Ordering::Relaxed))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(pending) = self.0 {
            pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Has the thread look at a turn that panicked elsewhere: it ends the process.
struct Watched(Arc<Shared>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Message::Wake);
        }
    }
}

/// Tells everybody that the state thread is gone, also when it panicked.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
        lock(&self.0.hub).wake_all();
        self.0.ended.send_replace(true);
    }
}

impl Engine {
    /// Runs until it is told to stop or every handle is gone.
    pub(crate) fn run(self, inbox: &Receiver<Message>) {
        let shared = self.shared.clone();
        let _ended = Ended(shared.clone());
        let seat = Arc::new(Mutex::new(Some(self)));
        let _ = shared.turns.seat.set(Arc::downgrade(&seat));
        loop {
            let timeout = next_timeout(&mut sit(&seat));
            let Some(first) = timeout.and_then(|timeout| wait(inbox, timeout)) else { break };
            if let Some(engine) = sit(&seat).as_mut() {
                engine.turn_or_fail(first, Some(inbox));
            }
        }
        let Some(engine) = sit(&seat).take() else { return };
        if let Some(peers) = &engine.shared.peers {
            peers.close();
        }
        engine.journal.close();
    }

    /// Whether nothing is going on but single writes of the only voter.
    fn is_free(&self) -> bool {
        let quiet = self.unsynced.is_none() && !self.stopping && !self.keyspace.is_compacting();
        quiet && self.is_alone() && self.leads() && self.pattern.is_lone()
    }

    fn turn_or_fail(&mut self, first: Message, inbox: Option<&Receiver<Message>>) {
        match self.turn(first, inbox) {
            Ok(writes) => {
                let (waiting, ranges) = (self.shared.pending.load(Ordering::Relaxed), self.shared.metrics.ranges.get());
                self.pattern.took(writes, waiting, ranges);
                self.shared.turns.lone.store(self.pattern.is_lone(), Ordering::Relaxed);
            }
            Err(error) => self.fail(&error),
        }
    }
}

fn sit(seat: &Seat) -> MutexGuard<'_, Option<Engine>> {
    seat.lock().expect("a turn that panicked ends the process")
}

/// How long the thread may sleep, `Some(None)` for ever; nothing when it is to end.
fn next_timeout(engine: &mut Option<Engine>) -> Option<Option<Duration>> {
    let engine = engine.as_mut().filter(|engine| !engine.stopping)?;
    engine.plan_lease_checkpoint();
    Some(engine.timeout())
}

/// The next message; `Wake` when the clock asks for a turn; nothing when all handles are gone.
fn wait(inbox: &Receiver<Message>, timeout: Option<Duration>) -> Option<Message> {
    match timeout {
        Some(Duration::ZERO) => match inbox.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) => Some(Message::Wake),
            Err(TryRecvError::Disconnected) => None,
        },
        None => inbox.recv().ok(),
        Some(timeout) => match inbox.recv_timeout(timeout) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => Some(Message::Wake),
            Err(RecvTimeoutError::Disconnected) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pattern after `turns` of one write.
    fn after(turns: u32) -> Pattern {
        let mut pattern = Pattern::default();
        (0..turns).for_each(|_| pattern.took(1, 0, 0));
        pattern
    }

    #[test]
    fn a_writer_is_alone_after_a_while_and_until_somebody_else_writes_or_reads() {
        let long = LONE_TURNS_MIN;
        assert!(!after(long - 1).is_lone());
        assert!(after(long).is_lone());
        for (writes, waiting, ranges) in [(2, 0, 0), (1, 1, 0), (0, 1, 0), (1, 0, 1)] {
            let mut pattern = after(long);
            pattern.took(writes, waiting, ranges);
            assert!(!pattern.is_lone(), "{writes} writes, {waiting} waiting, {ranges} ranges");
        }
        let mut pattern = after(long);
        pattern.took(0, 0, 0);
        assert!(pattern.is_lone(), "a turn without a write says nothing");
    }

    #[test]
    fn a_slow_disk_is_the_threads() {
        let mut pattern = after(LONE_TURNS_MIN);
        pattern.synced(SYNC_MAX * 2);
        pattern.took(1, 0, 0);
        assert!(pattern.is_lone(), "one says nothing");
        (0..SYNCS * 2).for_each(|_| pattern.synced(SYNC_MAX * 2));
        pattern.took(1, 0, 0);
        assert!(!pattern.is_lone());
    }
}
