//! The state thread: the owner of consensus, keyspace and log ([`turns`] says who else may take a turn).
//!
//! ```text
//! inbox ─► a turn: drain ─► raft.step ─► Persist ─► log (one sync) ─► Synced ─► Apply ─► keyspace
//!                                              publish snapshot ─► watches ─► answers ◄──────┘
//! ```
//! All proposals that wait when a turn begins share one batch and one sync; those that arrive meanwhile share the next.
//! What a leader sends is on its way before its own sync begins, so the thread does the sync itself.

mod cluster;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use mvcc::{Applied, Caller, Changes, Command, Keyspace};
use prost::Message as _;
use raft::{Entry, EntryKind, Input, LogIndex, MemberId, Output, Raft, Role, Term};
use tokio::sync::oneshot;

use crate::answers::{Answers, News};
use crate::checkpoint::Restored;
use crate::hub::lock;
use crate::journal::Journal;
use crate::members::Members;
use crate::shared::{Answer, Message, Published, Shared};
use crate::{EtcdError, StoreError, convert, proto as pb};

/// Messages taken up in one turn at most.
const TURN_MESSAGES_MAX: usize = 1024;
/// Leases revoked in one turn at most.
const TURN_EXPIRIES_MAX: usize = 256;
/// Leases whose remaining time one entry of the log notes (etcd: `maxLeaseCheckpointBatchSize`).
const LEASE_CHECKPOINTS_MAX: usize = 1000;
/// Rows a compaction looks at in one turn.
const COMPACT_ROWS_MAX: usize = 10_000;
/// Bytes of the entries kept in memory behind a checkpoint for members that are a little behind.
const CATCH_UP_BYTES: usize = 32 << 20;

/// The TTL of a renewed lease, 0 for one that is not there.
type Renewed = Result<i64, StoreError>;

pub(crate) use turns::Turns;

/// A client that waits for its command.
struct Waiting {
    caller: Caller,
    command: Command,
    /// The command's form in the log, to propose it again when there was no leader.
    data: Bytes,
    /// The term in which it was last proposed; nothing while it waits for a leader.
    proposed: Option<Term>,
    physical: bool,
    /// Absent for the member's own proposals.
    reply: Option<oneshot::Sender<Answer>>,
}

/// How consensus keeps time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A tick of consensus.
    pub(crate) tick: Duration,
    /// Ticks without a leader before an election.
    pub(crate) election_ticks: u32,
    /// Whether changes of membership are checked against the members' health.
    pub(crate) strict_reconfiguration: bool,
    /// Entries kept behind a checkpoint for members that are a little behind.
    pub(crate) catch_up_entries: u64,
    /// Learners that the cluster takes at once.
    pub(crate) learners_max: usize,
    /// How often what leases have left is noted in the log, if it is.
    pub(crate) lease_checkpoints: Option<Duration>,
}

/// The state thread's state.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    raft: Raft,
    keyspace: Keyspace,
    journal: Journal,
    waiting: HashMap<u64, Waiting>,
    next_context: u64,
    applied: LogIndex,
    /// Up to here the log was there when the member started: tokens of that time are void.
    restored: LogIndex,
    /// Answers to give once the new state is published.
    answers: Answers,
    /// The same for renewals of leases.
    renewals: Vec<(oneshot::Sender<Renewed>, Renewed)>,
    /// Compactions that wait for their rows to go.
    physical: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// Who waits for the disk to be tidied: by the checkpoint that is being written, or by one yet to be begun.
    defragmenting: Vec<oneshot::Sender<()>>,
    to_defragment: Vec<oneshot::Sender<()>>,
    /// Who waits for the log to be sealed anew.
    resealing: Vec<oneshot::Sender<bool>>,
    changes: Vec<Arc<Changes>>,
    proposals: Vec<raft::Proposal>,
    /// What consensus asks for and was not done yet.
    out: Vec<Output>,
    /// What to tell consensus once the log is durable, while the disk is full.
    unsynced: Option<Input>,
    /// Messages that wait for the log to be durable.
    held: Vec<(MemberId, raft::Message)>,
    /// Commands that wait for a leader.
    parked: Vec<u64>,
    cluster: cluster::Cluster,
    pattern: turns::Pattern,
    /// The log is lost: nothing is accepted any more.
    failed: bool,
    dirty: bool,
    stopping: bool,
}

impl Engine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        raft: Raft,
        keyspace: Keyspace,
        journal: Journal,
        (members, timing): (Members, Timing),
    ) -> Self {
        let (applied, restored) = (raft.status().applied, raft.status().last_index);
        let next_context = u64::from_le_bytes(shared.entropy.bytes());
        Self {
            shared,
            raft,
            keyspace,
            journal,
            waiting: HashMap::new(),
            next_context,
            applied,
            restored,
            answers: Vec::new(),
            renewals: Vec::new(),
            physical: Vec::new(),
            defragmenting: Vec::new(),
            to_defragment: Vec::new(),
            resealing: Vec::new(),
            changes: Vec::new(),
            proposals: Vec::new(),
            out: Vec::new(),
            unsynced: None,
            held: Vec::new(),
            parked: Vec::new(),
            cluster: cluster::Cluster::new(members, timing),
            pattern: turns::Pattern::default(),
            failed: false,
            dirty: false,
            stopping: false,
        }
    }

    /// Takes the lead when this is the only voter, and replays what the log holds beyond the restored state.
    pub(crate) fn begin(&mut self) -> Result<(), EtcdError> {
        let alone = self.is_alone();
        if alone {
            self.step(Input::Campaign);
        } else {
            // Whoever starts waits one tick less than a whole time-out for a leader (etcd's
            // `--initial-election-tick-advance`); that there is one shows in the pre-vote.
            (1..self.cluster.timing.election_ticks).for_each(|_| self.step(Input::Tick));
        }
        self.perform()?;
        if alone {
            self.keyspace.renew_all(self.shared.clock.now(), Duration::ZERO);
            self.publish_self();
            self.perform()?;
        }
        self.dirty = true;
        self.publish();
        Ok(())
    }

    fn step(&mut self, input: Input) {
        self.raft.step(input, &mut self.out);
    }

    /// How long the thread may sleep: for ever when no lease runs, nothing compacts and there is no other member.
    fn timeout(&self) -> Option<Duration> {
        if self.failed {
            return None;
        }
        if self.keyspace.is_compacting() {
            return Some(Duration::ZERO);
        }
        let tick = self.until_tick();
        let lease = self.keyspace.next_expiry().filter(|_| self.leads()).map(|expiry| {
            let next = self.cluster.next_lease_checkpoint.map_or(expiry, |next| next.min(expiry));
            // A little late is allowed, and spares a second wake-up for the rounding of the sleep.
            next.since(self.shared.clock.now()) + Duration::from_millis(1)
        });
        match (tick, lease) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes up a message and those that wait in the inbox, and does all that follows from them. Returns how many of them
    /// were writes.
    fn turn(&mut self, first: Message, inbox: Option<&Receiver<Message>>) -> Result<usize, EtcdError> {
        let mut next = Some(first);
        let mut taken = 0;
        let mut writes = 0;
        while let Some(message) = next {
            writes += usize::from(matches!(message, Message::Propose { .. }));
            self.take(message)?;
            taken += 1;
            next =
                inbox.filter(|_| taken < TURN_MESSAGES_MAX && !self.stopping).and_then(|inbox| inbox.try_recv().ok());
        }
        if self.unsynced.is_some() {
            self.sync()?;
        }
        if self.unsynced.is_some() {
            self.proposals.clear();
            self.give_up_waiting(&StoreError::Timeout);
        }
        if !self.failed {
            self.tick();
            self.expire();
            self.checkpoint_leases();
            self.propose_all();
            self.ask_for_index();
            self.pump_changes();
            self.perform()?;
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
        if self.unsynced.is_some() || self.failed {
            // What is applied may be ahead of this disk: a checkpoint must not be ahead of the log.
            return Ok(writes);
        }
        self.tend_disk()?;
        Ok(writes)
    }

    /// Begins a checkpoint when one is due or wanted.
    fn tend_disk(&mut self) -> Result<(), EtcdError> {
        let at = (self.applied, &*self.cluster.members);
        if !self.to_defragment.is_empty() {
            let waits = self.journal.defragment(&self.shared, &self.keyspace, &self.raft, at)?;
            let to_defragment = std::mem::take(&mut self.to_defragment);
            if waits {
                self.defragmenting.extend(to_defragment);
            } else {
                for reply in to_defragment {
                    let _ = reply.send(());
                }
            }
        }
        self.journal.maybe_checkpoint(&self.shared, &self.keyspace, &self.raft, at)?;
        if self.journal.is_resealed() {
            self.resealed(true);
        }
        Ok(())
    }

    fn resealed(&mut self, whole: bool) {
        for reply in self.resealing.drain(..) {
            let _ = reply.send(whole);
        }
    }

    fn take(&mut self, message: Message) -> Result<(), EtcdError> {
        match message {
            Message::Propose { caller, command, data, physical, reply } => {
                if self.failed {
                    self.shared.pending.fetch_sub(1, Ordering::Relaxed);
                    let _ = reply.send(Err(StoreError::Stopped));
                } else {
                    self.propose(Waiting { caller, command, data, proposed: None, physical, reply: Some(reply) });
                }
            }
            Message::Renew { id, reply } => {
                let renewed = if self.leads() {
                    self.dirty = true;
                    Ok(self.keyspace.renew(id, self.shared.clock.now()).unwrap_or(0))
                } else {
                    Err(StoreError::NoLeader)
                };
                self.renewals.push((reply, renewed));
            }
            Message::Defragment { .. } if self.failed => {}
            Message::Reseal { .. } if self.failed => {}
            Message::Defragment { reply } => {
                self.keyspace.defragment();
                self.dirty = true;
                self.publish();
                self.to_defragment.push(reply);
            }
            Message::Reseal { key, journal, view } => {
                self.journal.reseal(key, self.applied, &self.keyspace, view);
                self.resealing.push(journal);
            }
            Message::Checkpointed(done) => {
                if done.is_err() {
                    self.resealed(false);
                }
                if let Some(index) = self.journal.checkpointed(done)? {
                    self.step(Input::Truncated(self.forgettable(index)));
                }
                for reply in self.defragmenting.drain(..) {
                    let _ = reply.send(());
                }
            }
            Message::Wake => {}
            Message::Stop => self.stop(),
            about_cluster => return self.take_cluster(about_cluster),
        }
        Ok(())
    }

    fn propose(&mut self, waiting: Waiting) {
        let context = self.fresh_context();
        self.proposals.push(raft::Proposal { context, data: waiting.data.clone() });
        self.waiting.insert(context, waiting);
    }

    fn fresh_context(&mut self) -> u64 {
        let context = self.next_context;
        self.next_context = self.next_context.wrapping_add(1);
        context
    }

    /// Revokes leases that have run out: the leader's business, through the log.
    fn expire(&mut self) {
        if !self.leads() || self.keyspace.next_expiry().is_none_or(|expiry| expiry > self.shared.clock.now()) {
            return;
        }
        for id in self.keyspace.expired(self.shared.clock.now(), TURN_EXPIRIES_MAX) {
            let command = Command::LeaseRevoke { id };
            if self.cluster.expiring.insert(id) {
                self.propose_own(command);
            }
        }
    }

    /// Notes in the log what leases have left, now and then: the leader's business. So a new leader does not begin those
    /// of hours anew.
    fn checkpoint_leases(&mut self) {
        let Some(interval) = self.cluster.timing.lease_checkpoints else { return };
        let now = self.shared.clock.now();
        if !self.leads() || self.cluster.next_lease_checkpoint.is_none_or(|next| next > now) {
            return;
        }
        self.cluster.next_lease_checkpoint = None;
        for some in self.keyspace.lease_checkpoints(now, interval).chunks(LEASE_CHECKPOINTS_MAX) {
            self.propose_own(Command::LeaseCheckpoint(some.to_vec()));
        }
    }

    /// Decides when that is due next.
    fn plan_lease_checkpoint(&mut self) {
        let Some(interval) = self.cluster.timing.lease_checkpoints else { return };
        if self.leads() && self.keyspace.next_expiry().is_some() {
            self.cluster.next_lease_checkpoint.get_or_insert(self.shared.clock.now() + interval);
        } else {
            self.cluster.next_lease_checkpoint = None;
        }
    }

    /// Proposes what this member itself wants.
    fn propose_own(&mut self, command: Command) {
        let caller = Caller::Member;
        let data = convert::encode(&caller, &command);
        self.propose(Waiting { caller, command, data, proposed: None, physical: false, reply: None });
    }

    /// Does what consensus asks for, until it asks for nothing more.
    fn perform(&mut self) -> Result<(), EtcdError> {
        while !self.out.is_empty() {
            let mut persisted = None;
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::Persist { term, index, hard_state, entries } => {
                        self.learn_addresses(&entries);
                        self.journal.append(hard_state, &entries);
                        persisted = Some(Input::Synced { term, index });
                    }
                    Output::Send { to, message, after_sync } => {
                        if after_sync && (persisted.is_some() || self.unsynced.is_some()) {
                            self.held.push((to, message));
                        } else {
                            self.send(to, message);
                        }
                    }
                    Output::Apply(entries) => self.apply_all(entries)?,
                    Output::Refused { context, reason } => self.refused(context, reason),
                    Output::Role { role, leader, .. } => self.follow_role(role, leader),
                    Output::ReadReady { context, index } => self.index_confirmed(context, index),
                    Output::Restore(_) => self.restore()?,
                    Output::SendSnapshot { to } => self.send_snapshot(to),
                }
            }
            if let Some(synced) = persisted {
                self.unsynced = Some(synced);
            }
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the log durable. While the disk is full, the clients that wait are told so, and each turn tries again.
    fn sync(&mut self) -> Result<(), EtcdError> {
        let Some(synced) = self.unsynced.take() else { return Ok(()) };
        let start = self.shared.clock.monotonic();
        match self.journal.sync() {
            Ok(()) => {
                let took = self.shared.clock.monotonic().saturating_sub(start);
                self.shared.metrics.sync.observe(took);
                self.pattern.synced(took);
                for (to, message) in std::mem::take(&mut self.held) {
                    self.send(to, message);
                }
                self.step(synced);
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
        self.cluster.expiring.clear();
        let lost = std::mem::take(&mut self.waiting).into_values().filter_map(|waiting| waiting.reply);
        self.answers.extend(lost.map(|reply| (reply, Err(error.clone()))));
    }

    fn apply_all(&mut self, entries: Vec<Entry>) -> Result<(), EtcdError> {
        let now = self.shared.clock.now();
        for entry in entries {
            self.applied = entry.index;
            self.dirty = true;
            self.follow_term(entry.term);
            if entry.kind == EntryKind::Membership {
                self.apply_membership(&entry);
            }
            if entry.kind != EntryKind::Normal {
                continue;
            }
            self.shared.metrics.proposals_committed.add(1);
            match self.waiting.remove(&entry.context) {
                Some(waiting) => {
                    let answer = self.apply(entry.index, &waiting.caller, &waiting.command, now);
                    self.keep(waiting, answer);
                }
                None => self.replay(&entry, now)?,
            }
        }
        self.step(Input::Applied(self.applied));
        self.read_up_to_applied();
        Ok(())
    }

    /// Applies an entry that nobody here waits for: another member's, or from before a restart.
    fn replay(&mut self, entry: &Entry, now: base::Timestamp) -> Result<(), EtcdError> {
        let damaged = || EtcdError::Damaged(format!("log entry {} holds no command", entry.index));
        let proposal = pb::Proposal::decode(entry.data.clone()).map_err(|_| damaged())?;
        let (caller, command) = convert::command(proposal).map_err(|_| damaged())?;
        let _ = self.apply(entry.index, &caller, &command, now);
        Ok(())
    }

    fn apply(&mut self, index: LogIndex, caller: &Caller, command: &Command, now: base::Timestamp) -> Answer {
        let is_expired = matches!(command, Command::LeaseRevoke { id } if self.cluster.expiring.remove(id));
        let start = self.shared.clock.monotonic();
        let Applied { answer, changes, batch, tokens } = self.keyspace.apply_for(caller, command, now);
        self.shared.applied_in(self.shared.clock.monotonic().saturating_sub(start));
        if answer.is_ok() {
            self.count(command, is_expired);
        }
        self.changes.extend(changes);
        self.journal.view(index, &self.keyspace, batch);
        if let Some(change) = tokens.filter(|_| index > self.restored) {
            self.shared.auth.follow(change, index.0, now);
        }
        answer.map_err(Into::into)
    }

    fn count(&self, command: &Command, is_expired: bool) {
        let metrics = &self.shared.metrics;
        match command {
            Command::LeaseGrant { .. } => metrics.leases_granted.add(1),
            Command::LeaseRevoke { .. } => {
                metrics.leases_revoked.add(1);
                metrics.leases_expired.add(u64::from(is_expired));
            }
            _ => {}
        }
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
            // Whoever finds authentication enabled asks, whoever finds the state asks too: the flag is never the later.
            let asks = self.keyspace.state().auth().is_enabled();
            if asks {
                self.shared.auth.set_enabled(true);
            }
            self.shared.publish(Published {
                snapshot: self.keyspace.snapshot(),
                term: status.term.0,
                // A member without a log must not look healthy.
                leader: if self.failed { 0 } else { status.leader.unwrap_or(0) },
                raft_index: status.last_index.0,
                applied_index: self.applied.0,
                members: self.cluster.members.clone(),
                alone: self.is_alone(),
                learner: self.cluster.members.is_learner(self.shared.member_id),
            });
            self.shared.auth.set_enabled(asks);
        }
        if std::mem::take(&mut self.cluster.restored) {
            lock(&self.shared.hub).restored(self.keyspace.state().revision());
        }
        let mut news = News { answers: std::mem::take(&mut self.answers), watches: Vec::new() };
        if !self.changes.is_empty() {
            news.watches = lock(&self.shared.hub).dispatch(&self.changes);
            self.changes.clear();
        }
        self.shared.pending.fetch_sub(news.answers.len(), Ordering::Relaxed);
        self.shared.delivery.send(news);
        for (reply, renewed) in self.renewals.drain(..) {
            let _ = reply.send(renewed);
        }
        for (reply, answer) in self.cluster.answers.drain(..) {
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
        self.out.clear();
        self.held.clear();
        self.to_defragment.clear();
        self.resealed(false);
        self.give_up_waiting(&StoreError::Stopped);
        self.give_up_cluster(&StoreError::Stopped);
        self.publish();
    }
}
