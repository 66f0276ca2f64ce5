//! The state machine: inputs in, outputs out.

use std::collections::{BTreeMap, VecDeque};

use base::Rng;

use crate::io::{Config, Input, Output, Refusal, Restored, Role};
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::progress::Progress;
use crate::reads::Reads;
use crate::types::{Entry, HardState, LogIndex, MemberId, Term};

/// One member's part in consensus. It knows no clock, disk or network: [`Raft::step`] is all there is.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    rng: Rng,
    pub(crate) term: Term,
    pub(crate) vote: Option<MemberId>,
    /// What of the term and vote was given out to be written.
    given_out: (Term, Option<MemberId>),
    pub(crate) role: Role,
    pub(crate) leader: Option<MemberId>,
    pub(crate) log: Log,
    pub(crate) commit: LogIndex,
    /// Entries up to here were given out to be applied.
    emitted: LogIndex,
    pub(crate) applied: LogIndex,
    /// Entries up to here are on this member's disk.
    pub(crate) stable: LogIndex,
    /// The term that a restart would find, at least.
    durable_term: Term,
    writes: VecDeque<Write>,
    /// The membership as of an index: the first at the base of the log, the last in force (dissertation §4.1: a change
    /// is in force as soon as it is in the log).
    memberships: Vec<(LogIndex, Membership)>,
    /// Ticks since the leader was heard of, or since the election began.
    pub(crate) elapsed: u32,
    pub(crate) election_timeout: u32,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) votes: BTreeMap<MemberId, bool>,
    pub(crate) progress: BTreeMap<MemberId, Progress>,
    pub(crate) reads: Reads,
    /// The member to hand over to, and for how many ticks that has been tried.
    pub(crate) transfer: Option<(MemberId, u32)>,
    /// The role, leader and term last told.
    told: (Role, Option<MemberId>, Term),
}

/// A write under way: the marks that identify it, and the index it makes durable.
#[derive(Debug)]
struct Write {
    term: Term,
    index: LogIndex,
    durable: LogIndex,
}

/// A summary for status answers and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This member.
    pub id: MemberId,
    /// Its term.
    pub term: Term,
    /// Its role.
    pub role: Role,
    /// Whom it follows.
    pub leader: Option<MemberId>,
    /// Its commit index.
    pub commit: LogIndex,
    /// What the driver said it applied.
    pub applied: LogIndex,
    /// The last entry of its log.
    pub last_index: LogIndex,
    /// The last entry on its disk.
    pub stable: LogIndex,
}

impl Raft {
    /// A member with what it found on its disk; a follower until something happens.
    pub fn new(config: Config, restored: Restored) -> Self {
        assert!(config.id != 0, "a member id is not zero");
        let Restored { hard_state, members, entries, snapshot_index, snapshot_term, applied } = restored;
        let applied = applied.max(snapshot_index);
        let mut memberships = vec![(snapshot_index, members)];
        for entry in &entries {
            push_membership(&mut memberships, entry);
        }
        let log = Log::new(snapshot_index, snapshot_term, entries);
        assert!(applied <= log.last_index(), "applied {applied} lies after the log's end {}", log.last_index());
        let rng = Rng::new(config.seed ^ config.id.rotate_left(32));
        let term = hard_state.term.max(log.last_term());
        let mut raft = Self {
            rng,
            term,
            vote: hard_state.vote.filter(|_| term == hard_state.term),
            given_out: (hard_state.term, hard_state.vote),
            role: Role::Follower,
            leader: None,
            commit: hard_state.commit.max(applied).min(log.last_index()),
            emitted: applied,
            applied,
            stable: log.last_index(),
            log,
            durable_term: hard_state.term,
            writes: VecDeque::new(),
            memberships,
            elapsed: 0,
            election_timeout: 0,
            heartbeat_elapsed: 0,
            votes: BTreeMap::new(),
            progress: BTreeMap::new(),
            reads: Reads::default(),
            transfer: None,
            told: (Role::Follower, None, term),
            config,
        };
        raft.draw_election_timeout();
        raft
    }

    /// Takes one input and appends what is to be done to `out`. Several steps may share one `out`.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => self.tick(out),
            Input::Receive(from, message) => self.receive(from, message, out),
            Input::Propose { context, data } => self.propose(vec![crate::Proposal { context, data }], out),
            Input::ProposeBatch(proposals) => self.propose(proposals, out),
            Input::ProposeMembership { context, change, data } => self.propose_change(context, change, &data, out),
            Input::ReadIndex { context } => self.read_index(None, context, out),
            Input::Synced { term, index } => self.synced(term, index, out),
            // Reports: drivers drop what these give out, so they give out nothing.
            Input::Applied(index) => return self.applied = self.applied.max(index).min(self.commit),
            Input::TransferLeader(to) => self.transfer_leader(to, out),
            Input::Campaign => self.campaign(false, out),
            Input::Truncated(index) => return self.truncated(index),
            Input::SnapshotSent(to, index) => self.snapshot_sent(to, index, out),
            Input::Unreachable(id) => self.unreachable(id),
        }
        self.emit_committed(out);
        self.write_hard_state(out);
        self.tell_role(out);
    }

    /// A summary of the state.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            term: self.term,
            role: self.role,
            leader: self.leader,
            commit: self.commit,
            applied: self.applied,
            last_index: self.log.last_index(),
            stable: self.stable,
        }
    }

    /// The members in force.
    pub fn members(&self) -> &Membership {
        &self.memberships.last().expect("there is always a membership").1
    }

    /// The memberships that the log goes through, each with the entry that put it in force.
    pub(crate) fn memberships(&self) -> &[(LogIndex, Membership)] {
        &self.memberships
    }

    /// The entry that put them in force, or the base of the log.
    pub(crate) fn membership_since(&self) -> LogIndex {
        self.memberships.last().expect("there is always a membership").0
    }

    /// The members as of an entry that is held or is the last checkpointed one.
    pub fn members_at(&self, index: LogIndex) -> &Membership {
        let at = self.memberships.iter().rev().find(|(from, _)| *from <= index);
        &at.unwrap_or(&self.memberships[0]).1
    }

    /// The term of an entry that is held or is the last checkpointed one.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// The last entry that was forgotten because a checkpoint covers it.
    pub fn first_held(&self) -> LogIndex {
        self.log.base().next()
    }

    /// What the leader knows of a member; `None` on others.
    pub fn progress(&self, id: MemberId) -> Option<&Progress> {
        self.progress.get(&id)
    }

    /// The entries held, for tests and inspection.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(index)
    }

    fn receive(&mut self, from: MemberId, message: Message, out: &mut Vec<Output>) {
        let Message { term, body } = message;
        if term > self.term && !self.newer_term(from, term, &body, out) {
            return;
        }
        if term < self.term {
            self.older_term(from, &body, out);
            return;
        }
        match body {
            Body::PreVote { last_index, last_term } => self.consider_pre_vote(from, term, last_index, last_term, out),
            // A grant is about the next term: one for this term comes too late.
            Body::PreVoteReply { granted: true } => {}
            Body::PreVoteReply { granted: false } => self.count_pre_vote(from, false, out),
            Body::Vote { last_index, last_term, .. } => self.consider_vote(from, last_index, last_term, out),
            Body::VoteReply { granted } => self.count_vote(from, granted, out),
            Body::Append { prev_index, prev_term, entries, commit } => {
                self.follow(from);
                self.accept(from, (prev_index, prev_term), entries, commit, out);
            }
            Body::Heartbeat { commit, read } => {
                self.follow(from);
                self.commit = self.commit.max(commit.min(self.log.last_index()));
                self.send(from, Body::HeartbeatReply { read }, false, out);
            }
            Body::Snapshot(snapshot) => {
                self.follow(from);
                self.restore(from, snapshot, out);
            }
            Body::Appended { index } => self.appended(from, index, out),
            Body::Rejected { index, hint_index, hint_term } => self.refused(from, index, (hint_index, hint_term), out),
            Body::HeartbeatReply { read } => self.heartbeat_answered(from, read, out),
            Body::TimeoutNow => self.campaign(true, out),
            Body::Propose { kind, context, data } => self.forwarded(kind, context, data, out),
            Body::ReadIndex { context } => self.read_index(Some(from), context, out),
            Body::ReadIndexReply { context, index } => out.push(Output::ReadReady { context, index }),
        }
    }

    /// Returns whether to go on with the message.
    fn newer_term(&mut self, from: MemberId, term: Term, body: &Body, out: &mut Vec<Output>) -> bool {
        let (leader, asks_for_vote, forced) = match body {
            Body::PreVote { .. } => (None, true, false),
            Body::Vote { transfer, .. } => (None, true, *transfer),
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => (Some(from), false, false),
            _ => (None, false, false),
        };
        if asks_for_vote && !forced && self.has_live_leader() {
            return false;
        }
        match body {
            // A pre-vote is about a term nobody is in yet.
            Body::PreVote { last_index, last_term } => {
                self.consider_pre_vote(from, term, *last_index, *last_term, out);
                return false;
            }
            Body::PreVoteReply { granted: true } => {
                if term == self.term.next() {
                    self.count_pre_vote(from, true, out);
                }
                return false;
            }
            _ => self.become_follower(term, leader, out),
        }
        true
    }

    /// Tells a deposed leader, or a member left behind with a greater log, about the newer term.
    fn older_term(&mut self, from: MemberId, body: &Body, out: &mut Vec<Output>) {
        match body {
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                self.send(from, Body::HeartbeatReply { read: 0 }, false, out);
            }
            Body::PreVote { .. } => self.send(from, Body::PreVoteReply { granted: false }, false, out),
            _ => {}
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<MemberId>, out: &mut Vec<Output>) {
        if self.role == Role::Leader {
            for context in self.reads.abandon() {
                out.push(Output::Refused { context, reason: Refusal::LeadershipLost });
            }
        }
        if term != self.term {
            (self.term, self.vote) = (term, None);
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.elapsed = 0;
        self.transfer = None;
        self.progress.clear();
        self.votes.clear();
        self.draw_election_timeout();
        self.write_hard_state(out);
    }

    /// A message came from the leader of this term.
    fn follow(&mut self, leader: MemberId) {
        assert!(self.role != Role::Leader, "two leaders in term {}", self.term);
        self.role = Role::Follower;
        self.leader = Some(leader);
        self.elapsed = 0;
        self.votes.clear();
    }

    pub(crate) fn draw_election_timeout(&mut self) {
        let ticks = u64::from(self.config.election_ticks.max(1));
        self.election_timeout = (ticks + self.rng.below(ticks)) as u32;
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.members().voters.contains(&self.config.id)
    }

    /// Appends an entry to the log; a change of membership comes into force.
    pub(crate) fn push_entry(&mut self, entry: Entry) {
        push_membership(&mut self.memberships, &entry);
        self.log.push(entry);
    }

    /// Takes back entries that another leader's log does not have.
    pub(crate) fn truncate(&mut self, index: LogIndex) {
        assert!(index > self.commit, "committed entry {index} would be taken back (commit {})", self.commit);
        self.log.truncate(index);
        self.memberships.retain(|(from, _)| *from < index || *from <= self.log.base());
        let kept = index.previous();
        self.stable = self.stable.min(kept);
        self.writes.iter_mut().for_each(|write| write.durable = write.durable.min(kept));
    }

    fn truncated(&mut self, index: LogIndex) {
        let index = index.min(self.emitted);
        if index <= self.log.base() {
            return;
        }
        self.log.compact(index);
        let keep = self.memberships.iter().rposition(|(from, _)| *from <= index).unwrap_or(0);
        self.memberships.drain(..keep);
    }

    /// The state of a snapshot takes the place of the whole log.
    pub(crate) fn start_after(&mut self, index: LogIndex, term: Term, members: Membership) {
        self.log.reset(index, term);
        self.memberships = vec![(index, members)];
        (self.commit, self.emitted, self.stable, self.applied) = (index, index, index, index);
        self.writes.iter_mut().for_each(|write| write.durable = write.durable.min(index));
    }

    fn emit_committed(&mut self, out: &mut Vec<Output>) {
        if self.commit > self.emitted {
            let entries = self.log.between(self.emitted.next(), self.commit);
            self.emitted = self.commit;
            match out.last_mut() {
                Some(Output::Apply(earlier)) => earlier.extend(entries),
                _ => out.push(Output::Apply(entries)),
            }
        }
    }

    pub(crate) fn write_hard_state(&mut self, out: &mut Vec<Output>) {
        if self.given_out != (self.term, self.vote) {
            self.persist(Vec::new(), out);
        }
    }

    /// Gives out a write, joined to the one before it when nothing came between.
    pub(crate) fn persist(&mut self, new: Vec<Entry>, out: &mut Vec<Output>) {
        let changed = self.given_out != (self.term, self.vote);
        let state = changed.then_some(HardState { term: self.term, vote: self.vote, commit: self.commit });
        self.given_out = (self.term, self.vote);
        let mark = (self.term, self.log.last_index());
        if let Some(Output::Persist { term, index, hard_state, entries }) = out.last_mut() {
            let follows = match (entries.last(), new.first()) {
                (Some(last), Some(first)) => last.index.next() == first.index,
                _ => true,
            };
            if follows {
                entries.extend(new);
                *hard_state = state.or(*hard_state);
                (*term, *index) = mark;
                self.writes.pop_back();
                self.writes.push_back(Write { term: mark.0, index: mark.1, durable: mark.1 });
                return;
            }
        }
        self.writes.push_back(Write { term: mark.0, index: mark.1, durable: mark.1 });
        out.push(Output::Persist { term: mark.0, index: mark.1, hard_state: state, entries: new });
    }

    fn synced(&mut self, term: Term, index: LogIndex, out: &mut Vec<Output>) {
        let Some(place) = self.writes.iter().position(|write| (write.term, write.index) == (term, index)) else {
            return;
        };
        self.durable_term = self.durable_term.max(term);
        let durable = self.writes.drain(..=place).next_back().map_or(self.stable, |write| write.durable);
        if durable > self.stable {
            self.stable = durable;
            if self.role == Role::Leader {
                self.advance_commit(out);
            }
        }
    }

    pub(crate) fn send(&mut self, to: MemberId, body: Body, after_sync: bool, out: &mut Vec<Output>) {
        // The only voter leads before its term is on disk. Were it to send entries then and crash, it would lead again
        // in the same term, with other entries.
        let after_sync = after_sync || (self.role == Role::Leader && self.durable_term < self.term);
        if after_sync {
            self.write_hard_state(out);
        }
        out.push(Output::Send { to, message: Message { term: self.term, body }, after_sync });
    }

    fn tell_role(&mut self, out: &mut Vec<Output>) {
        let now = (self.role, self.leader, self.term);
        if now != self.told {
            self.told = now;
            out.push(Output::Role { role: self.role, leader: self.leader, term: self.term });
        }
    }
}

fn push_membership(memberships: &mut Vec<(LogIndex, Membership)>, entry: &Entry) {
    if let Some((change, _)) = entry.membership_change() {
        let next = memberships.last().expect("there is always a membership").1.with(change);
        memberships.push((entry.index, next));
    }
}
