//! The state thread: the one owner of consensus, keyspace and log.
//!
//! ```text
//! inbox ─► a turn: drain ─► raft.step ─► Persist ─► log (one sync) ─► Synced ─► Apply ─► keyspace
//!                                              publish snapshot ─► watches ─► answers ◄──────┘
//! ```
//! All proposals that wait when a turn begins share one batch and one sync; those that arrive meanwhile share the next.
//! While a member is the only voter, the thread has nothing else to do during a sync and does it itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use bytes::Bytes;
use mvcc::{Applied, Changes, Command, Keyspace};
use prost::Message as _;
use raft::{Entry, EntryKind, Input, LogIndex, Output, Raft};
use tokio::sync::oneshot;

use crate::hub::lock;
use crate::journal::Journal;
use crate::shared::{Answer, Message, Published, Shared};
use crate::{EtcdError, StoreError, convert, proto as pb};

/// Messages taken up in one turn at most.
const TURN_MESSAGES_MAX: usize = 1024;
/// Leases revoked in one turn at most.
const TURN_EXPIRIES_MAX: usize = 256;
/// Rows a compaction looks at in one turn.
const COMPACT_ROWS_MAX: usize = 10_000;
/// A raft tick, when there are other members.
const TICK: Duration = Duration::from_millis(100);

/// A client that waits for its command.
struct Waiting {
    command: Command,
    physical: bool,
    /// Absent for the member's own proposals.
    reply: Option<oneshot::Sender<Answer>>,
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

/// The state thread's state.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    raft: Raft,
    keyspace: Keyspace,
    journal: Journal,
    waiting: HashMap<u64, Waiting>,
    next_context: u64,
    applied: LogIndex,
    /// Answers to give once the new state is published.
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// Compactions that wait for their rows to go.
    physical: Vec<(oneshot::Sender<Answer>, Answer)>,
    changes: Vec<Arc<Changes>>,
    proposals: Vec<raft::Proposal>,
    /// What to tell consensus once the log is durable, while the disk is full.
    unsynced: Option<Input>,
    /// The log is lost: nothing is accepted any more.
    failed: bool,
    dirty: bool,
    stopping: bool,
}

impl Engine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: Receiver<Message>,
        raft: Raft,
        keyspace: Keyspace,
        journal: Journal,
    ) -> Self {
        let applied = raft.status().applied;
        let next_context = u64::from_le_bytes(shared.entropy.bytes());
        Self {
            shared,
            inbox,
            raft,
            keyspace,
            journal,
            waiting: HashMap::new(),
            next_context,
            applied,
            answers: Vec::new(),
            physical: Vec::new(),
            changes: Vec::new(),
            proposals: Vec::new(),
            unsynced: None,
            failed: false,
            dirty: false,
            stopping: false,
        }
    }

    /// Takes the lead when this is the only voter, and replays what the log holds beyond the restored state.
    pub(crate) fn begin(&mut self) -> Result<(), EtcdError> {
        let mut out = Vec::new();
        let alone = self.raft.members().voters.len() == 1;
        self.raft.step(if alone { Input::Campaign } else { Input::Tick }, &mut out);
        self.perform(out)?;
        self.keyspace.renew_all(self.shared.clock.now(), Duration::ZERO);
        self.dirty = true;
        self.publish();
        Ok(())
    }

    /// Runs until it is told to stop or every handle is gone.
    pub(crate) fn run(mut self) {
        let _ended = Ended(self.shared.clone());
        while !self.stopping {
            let Some(first) = self.wait() else { break };
            if let Err(error) = self.turn(first) {
                self.fail(&error);
            }
        }
        self.journal.close();
    }

    /// The next message; `Wake` when the clock asks for a turn; nothing when all handles are gone.
    fn wait(&mut self) -> Option<Message> {
        let timeout = self.timeout();
        if timeout == Some(Duration::ZERO) {
            return match self.inbox.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Empty) => Some(Message::Wake),
                Err(TryRecvError::Disconnected) => None,
            };
        }
        match timeout {
            None => self.inbox.recv().ok(),
            Some(timeout) => match self.inbox.recv_timeout(timeout) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => Some(Message::Wake),
                Err(RecvTimeoutError::Disconnected) => None,
            },
        }
    }

    /// How long the thread may sleep: for ever when no lease runs, nothing compacts and there is no other member.
    fn timeout(&self) -> Option<Duration> {
        if self.failed {
            return None;
        }
        if self.keyspace.is_compacting() {
            return Some(Duration::ZERO);
        }
        let tick = (self.raft.members().voters.len() > 1).then_some(TICK);
        let lease = self.keyspace.next_expiry().map(|expiry| {
            // A little late is allowed, and spares a second wake-up for the rounding of the sleep.
            expiry.since(self.shared.clock.now()) + Duration::from_millis(1)
        });
        match (tick, lease) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn turn(&mut self, first: Message) -> Result<(), EtcdError> {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            self.take(message)?;
            taken += 1;
            next = if taken < TURN_MESSAGES_MAX && !self.stopping { self.inbox.try_recv().ok() } else { None };
        }
        if self.unsynced.is_some() {
            let mut out = Vec::new();
            self.sync(&mut out)?;
            self.perform(out)?;
        }
        if self.unsynced.is_some() {
            self.proposals.clear();
            self.give_up_waiting(&StoreError::Timeout);
        }
        self.expire();
        if !self.proposals.is_empty() {
            let mut out = Vec::new();
            self.raft.step(Input::ProposeBatch(std::mem::take(&mut self.proposals)), &mut out);
            self.perform(out)?;
        }
        if self.keyspace.is_compacting() {
            let batch = self.keyspace.compact_step(COMPACT_ROWS_MAX);
            self.journal.view(self.applied, &self.keyspace, batch);
            self.dirty = true;
            if !self.keyspace.is_compacting() {
                self.answers.append(&mut self.physical);
            }
        }
        self.publish();
        self.journal.maybe_checkpoint(&self.shared, &self.keyspace, &self.raft, self.applied)
    }

    fn take(&mut self, message: Message) -> Result<(), EtcdError> {
        match message {
            Message::Propose { command, data, physical, reply } => {
                if self.failed {
                    self.shared.pending.fetch_sub(1, Ordering::Relaxed);
                    let _ = reply.send(Err(StoreError::Stopped));
                } else {
                    self.propose(data, Waiting { command, physical, reply: Some(reply) });
                }
            }
            Message::Renew { id, reply } => {
                let ttl = self.keyspace.renew(id, self.shared.clock.now()).unwrap_or(0);
                self.dirty = true;
                let _ = reply.send(ttl);
            }
            Message::Defragment { reply } => {
                self.keyspace.defragment();
                self.dirty = true;
                self.publish();
                let _ = reply.send(());
            }
            Message::Checkpointed(done) => {
                if let Some(index) = self.journal.checkpointed(done)? {
                    self.raft.step(Input::Truncated(index), &mut Vec::new());
                }
            }
            Message::Wake => {
                if self.raft.members().voters.len() > 1 {
                    let mut out = Vec::new();
                    self.raft.step(Input::Tick, &mut out);
                    self.perform(out)?;
                }
            }
            Message::Stop => self.stopping = true,
        }
        Ok(())
    }

    fn propose(&mut self, data: Bytes, waiting: Waiting) {
        let context = self.next_context;
        self.next_context = self.next_context.wrapping_add(1);
        self.proposals.push(raft::Proposal { context, data });
        self.waiting.insert(context, waiting);
    }

    /// Revokes leases that have run out: the leader's business, through the log.
    fn expire(&mut self) {
        if self.failed || self.keyspace.next_expiry().is_none_or(|expiry| expiry > self.shared.clock.now()) {
            return;
        }
        for id in self.keyspace.expired(self.shared.clock.now(), TURN_EXPIRIES_MAX) {
            let command = Command::LeaseRevoke { id };
            self.propose(convert::encode(&command), Waiting { command, physical: false, reply: None });
        }
    }

    /// Does what consensus asks for, until it asks for nothing more.
    fn perform(&mut self, mut out: Vec<Output>) -> Result<(), EtcdError> {
        while !out.is_empty() {
            let mut persisted = None;
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Persist { term, index, hard_state, entries } => {
                        self.journal.append(hard_state, &entries);
                        persisted = Some(Input::Synced { term, index });
                    }
                    Output::Apply(entries) => self.apply_all(entries)?,
                    Output::Refused { context, .. } => {
                        self.shared.metrics.proposals_failed.add(1);
                        self.answer(context, Err(StoreError::NoLeader));
                    }
                    Output::Role { .. } => {
                        self.shared.metrics.leader_changes.add(1);
                        self.dirty = true;
                    }
                    // There are no other members yet, and reads of the only voter need no round.
                    Output::Send { .. }
                    | Output::Restore(_)
                    | Output::ReadReady { .. }
                    | Output::SendSnapshot { .. } => {}
                }
            }
            if let Some(synced) = persisted {
                self.unsynced = Some(synced);
                self.sync(&mut out)?;
            }
        }
        Ok(())
    }

    /// Makes the log durable. While the disk is full, the clients that wait are told so, and each turn tries again.
    fn sync(&mut self, out: &mut Vec<Output>) -> Result<(), EtcdError> {
        let Some(synced) = self.unsynced.take() else { return Ok(()) };
        let start = self.shared.clock.monotonic();
        match self.journal.sync() {
            Ok(()) => {
                self.shared.metrics.sync.observe(self.shared.clock.monotonic().saturating_sub(start));
                self.raft.step(synced, out);
                Ok(())
            }
            Err(error) if error.is_full() => {
                tracing::error!(target: "etcd", %error, "the disk is full: writes wait for space");
                self.unsynced = Some(synced);
                self.give_up_waiting(&StoreError::Timeout);
                Ok(())
            }
            Err(error) => Err(crate::error::storage("writing the log", error)),
        }
    }

    /// Tells everybody who waits for a command that its outcome is not known.
    fn give_up_waiting(&mut self, error: &StoreError) {
        let lost = std::mem::take(&mut self.waiting).into_values().filter_map(|waiting| waiting.reply);
        self.answers.extend(lost.map(|reply| (reply, Err(error.clone()))));
    }

    fn apply_all(&mut self, entries: Vec<Entry>) -> Result<(), EtcdError> {
        let now = self.shared.clock.now();
        for entry in entries {
            self.applied = entry.index;
            self.dirty = true;
            if entry.kind != EntryKind::Normal {
                continue;
            }
            self.shared.metrics.proposals_committed.add(1);
            match self.waiting.remove(&entry.context) {
                Some(waiting) => {
                    let Applied { answer, changes, batch } = self.keyspace.apply(&waiting.command, now);
                    self.changes.extend(changes);
                    self.journal.view(entry.index, &self.keyspace, batch);
                    self.keep(waiting, answer.map_err(Into::into));
                }
                None => self.replay(&entry, now)?,
            }
        }
        self.raft.step(Input::Applied(self.applied), &mut Vec::new());
        Ok(())
    }

    /// Applies an entry that nobody here waits for: another member's, or from before a restart.
    fn replay(&mut self, entry: &Entry, now: base::Timestamp) -> Result<(), EtcdError> {
        let damaged = || EtcdError::Damaged(format!("log entry {} holds no command", entry.index));
        let proposal = pb::Proposal::decode(entry.data.clone()).map_err(|_| damaged())?;
        let command = convert::command(proposal).map_err(|_| damaged())?;
        let Applied { changes, batch, .. } = self.keyspace.apply(&command, now);
        self.changes.extend(changes);
        self.journal.view(entry.index, &self.keyspace, batch);
        Ok(())
    }

    fn keep(&mut self, waiting: Waiting, answer: Answer) {
        let Some(reply) = waiting.reply else { return };
        if waiting.physical && answer.is_ok() {
            self.physical.push((reply, answer));
        } else {
            self.answers.push((reply, answer));
        }
    }

    fn answer(&mut self, context: u64, answer: Answer) {
        if let Some(Waiting { reply: Some(reply), .. }) = self.waiting.remove(&context) {
            self.answers.push((reply, answer));
        }
    }

    /// Shows the new state to readers, then to watches, then answers: whoever has an answer can read what it says.
    fn publish(&mut self) {
        if self.dirty {
            self.dirty = false;
            let status = self.raft.status();
            self.shared.publish(Published {
                snapshot: self.keyspace.snapshot(),
                term: status.term.0,
                // A member without a log must not look healthy.
                leader: if self.failed { 0 } else { status.leader.unwrap_or(0) },
                raft_index: status.last_index.0,
                applied_index: self.applied.0,
            });
        }
        if !self.changes.is_empty() {
            lock(&self.shared.hub).dispatch(&self.changes);
            self.changes.clear();
        }
        for (reply, answer) in self.answers.drain(..) {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            let _ = reply.send(answer);
        }
    }

    /// The log cannot be written: nothing is accepted any more, only serializable reads go on. What was not answered stays unknown.
    fn fail(&mut self, error: &EtcdError) {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "etcd", %error, cause, "the log cannot be written: this member refuses writes from now on");
        self.failed = true;
        self.dirty = true;
        self.proposals.clear();
        self.give_up_waiting(&StoreError::Stopped);
        self.publish();
    }
}
