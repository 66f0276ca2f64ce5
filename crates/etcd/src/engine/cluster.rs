//! The state thread's dealings with the other members: time, leadership, reads, membership, snapshots.

use std::collections::BTreeSet;

use raft::{Body, MembershipChange, Pace, Refusal};

use super::*;
use crate::checkpoint::Position;
use crate::members::{Change, MemberError};
use crate::proto as pb;

/// A read index that did not come is asked for again after this time (etcd: 500 ms).
const READ_RETRY: Duration = Duration::from_millis(500);
/// This member's name and URLs are told again when they have not arrived after this time.
const PUBLISH_RETRY: Duration = Duration::from_secs(2);
/// Leases that are being revoked are tried again after this time.
const EXPIRE_RETRY: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// What the state thread knows and wants of the cluster.
pub(super) struct Cluster {
    /// As of the last applied entry.
    pub(super) members: Arc<Members>,
    pub(super) timing: Timing,
    /// When the next tick is due, on the monotonic clock.
    next_tick: Duration,
    leader: Option<MemberId>,
    role: Role,
    /// The term of the last applied entry.
    term: Term,
    /// Readers that wait for the next read index.
    reads: Vec<Reply>,
    /// The read index under way, who waits for it, and since when.
    asked: Option<(u64, Vec<Reply>, Duration)>,
    /// Readers that wait until an index is applied.
    confirmed: Vec<(LogIndex, Vec<Reply>)>,
    /// Changes of membership that wait their turn.
    changes: VecDeque<(Change, Reply)>,
    /// The change under way.
    change: Option<(u64, Change, Reply)>,
    /// Since when this member's name and URLs are under way.
    publishing: Option<Duration>,
    /// Leases whose revocation is under way, since when.
    pub(super) expiring: BTreeSet<i64>,
    expiring_since: Duration,
    /// When what leases have left is to be noted next.
    pub(super) next_lease_checkpoint: Option<base::Timestamp>,
    /// The state that came with the snapshot being received.
    offered: Option<Box<Restored>>,
    /// The state was replaced: watches must go back to history.
    pub(super) restored: bool,
    /// Who waits for leadership to move, and until when.
    moving: Vec<(MemberId, Reply, Duration)>,
    /// Whether to stop, and until when leadership may move before.
    leaving: Option<Duration>,
    /// Answers to give once the new state is published.
    pub(super) answers: Vec<(Reply, Result<(), StoreError>)>,
}

impl Cluster {
    pub(super) fn new(members: Members, timing: Timing) -> Self {
        Self {
            members: Arc::new(members),
            timing,
            next_tick: Duration::ZERO,
            leader: None,
            role: Role::Follower,
            term: Term(0),
            reads: Vec::new(),
            asked: None,
            confirmed: Vec::new(),
            changes: VecDeque::new(),
            change: None,
            publishing: None,
            expiring: BTreeSet::new(),
            expiring_since: Duration::ZERO,
            next_lease_checkpoint: None,
            offered: None,
            restored: false,
            moving: Vec::new(),
            leaving: None,
            answers: Vec::new(),
        }
    }
}

impl Engine {
    /// Whether this member is the only voter.
    pub(super) fn is_alone(&self) -> bool {
        let voters = &self.raft.members().voters;
        voters.len() == 1 && voters.contains(&self.shared.member_id)
    }

    pub(super) fn leads(&self) -> bool {
        !self.failed && self.cluster.role == Role::Leader
    }

    /// How long until the next tick; for ever while nobody else takes part. Who is left alone has to take the lead first.
    pub(super) fn until_tick(&self) -> Option<Duration> {
        let members = self.raft.members();
        let quiet = self.is_alone()
            && self.cluster.role == Role::Leader
            && members.learners.is_empty()
            && self.cluster.leaving.is_none();
        (!quiet).then(|| self.cluster.next_tick.saturating_sub(self.shared.clock.monotonic()))
    }

    /// Lets consensus know that time has passed, and tries again what did not arrive.
    pub(super) fn tick(&mut self) {
        let now = self.shared.clock.monotonic();
        if self.until_tick() != Some(Duration::ZERO) {
            return;
        }
        // etcd: a heartbeat that comes after twice its interval.
        if self.leads() && now.saturating_sub(self.cluster.next_tick) > self.cluster.timing.tick {
            self.shared.metrics.late_heartbeats.add(1);
        }
        self.cluster.next_tick = now + self.cluster.timing.tick;
        self.step(Input::Tick);
        self.publish_self();
        if self.cluster.asked.as_ref().is_some_and(|(_, _, since)| now.saturating_sub(*since) > READ_RETRY) {
            let (_, readers, _) = self.cluster.asked.take().expect("it was looked at");
            self.shared.metrics.slow_read_indexes.add(1);
            self.cluster.reads.splice(0..0, readers);
        }
        if now.saturating_sub(self.cluster.expiring_since) > EXPIRE_RETRY {
            self.cluster.expiring_since = now;
            self.cluster.expiring.clear();
        }
        for (_, reply, _) in self.cluster.moving.extract_if(.., |(_, _, until)| *until < now) {
            self.cluster.answers.push((reply, Err(StoreError::TransferTimeout)));
        }
        if self.cluster.leaving.is_some_and(|until| until <= now) {
            self.stopping = true;
        }
    }

    /// Messages about the cluster.
    pub(super) fn take_cluster(&mut self, message: Message) -> Result<(), EtcdError> {
        match message {
            Message::Peer { .. } | Message::Unreachable(_) | Message::SnapshotSent(..) if self.failed => {}
            Message::Peer { from, message } => self.step(Input::Receive(from, message)),
            Message::Unreachable(id) => self.step(Input::Unreachable(id)),
            Message::SnapshotSent(to, index) => self.step(Input::SnapshotSent(to, index)),
            Message::Snapshot { from, message, restored, reply } => {
                let index = restored.position.index;
                self.perform()?;
                self.cluster.offered = Some(restored);
                self.step(Input::Receive(from, message));
                self.perform()?;
                self.cluster.offered = None;
                let _ = reply.send(self.applied >= index);
            }
            Message::Removed => self.removed(),
            Message::Read { reply } if self.failed => drop(reply.send(Err(StoreError::Stopped))),
            Message::Read { reply } => self.cluster.reads.push(reply),
            Message::ChangeMembers { change, reply } => {
                if self.leads() {
                    self.cluster.changes.push_back((change, reply));
                } else {
                    let _ = reply.send(Err(MemberError::NotLeader.into()));
                }
            }
            Message::MoveLeader { to, reply } => self.move_leader(to, reply),
            _ => unreachable!("the other messages were taken before"),
        }
        Ok(())
    }

    pub(super) fn send(&self, to: MemberId, message: raft::Message) {
        if let Some(peers) = &self.shared.peers {
            peers.send(to, message);
        }
    }

    /// The role or leader changed.
    pub(super) fn follow_role(&mut self, role: Role, leader: Option<MemberId>) {
        self.dirty = true;
        let (was, had) = (self.cluster.role, self.cluster.leader);
        (self.cluster.role, self.cluster.leader) = (role, leader);
        if role == Role::Leader && was != Role::Leader {
            // Whoever led before may have renewed leases that this member knows nothing of.
            self.keyspace.renew_all(self.shared.clock.now(), self.shared.limits.election_timeout);
            self.cluster.expiring.clear();
        }
        if was == Role::Leader && role != Role::Leader {
            for (_, reply) in self.cluster.changes.drain(..) {
                self.cluster.answers.push((reply, Err(MemberError::NotLeader.into())));
            }
            // Whether the one under way comes to be is the next leader's business.
            if let Some((_, _, reply)) = self.cluster.change.take() {
                self.cluster.answers.push((reply, Err(StoreError::Timeout)));
            }
        }
        if leader != had {
            if leader.is_some() {
                self.shared.metrics.leader_changes.add(1);
            }
            if let Some((_, readers, _)) = self.cluster.asked.take() {
                self.fail_readers(readers);
            }
            self.cluster.publishing = None;
        }
        let arrived = |to: &MemberId| leader == Some(*to);
        for (_, reply, _) in self.cluster.moving.extract_if(.., |(to, _, _)| arrived(to)) {
            self.cluster.answers.push((reply, Ok(())));
        }
        if leader.is_some() {
            self.propose_parked();
            if self.cluster.leaving.is_some() && leader != Some(self.shared.member_id) {
                self.stopping = true;
            }
        }
    }

    /// Gives consensus all proposals that wait, and remembers the term it took them in.
    pub(super) fn propose_all(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let proposals = std::mem::take(&mut self.proposals);
        if !self.is_alone() {
            let term = self.raft.status().term;
            for proposal in &proposals {
                if let Some(waiting) = self.waiting.get_mut(&proposal.context) {
                    waiting.proposed = Some(term);
                }
            }
        }
        self.step(Input::ProposeBatch(proposals));
    }

    /// Proposes again what waited for a leader, unless its client has gone.
    fn propose_parked(&mut self) {
        for context in std::mem::take(&mut self.parked) {
            let gone = |waiting: &Waiting| waiting.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
            match self.waiting.get(&context) {
                Some(waiting) if !gone(waiting) => {
                    self.proposals.push(raft::Proposal { context, data: waiting.data.clone() });
                }
                _ => self.answer(context, Err(StoreError::Timeout)),
            }
        }
        self.propose_all();
    }

    /// An entry of a newer term was applied: what was proposed in an older one and has not come yet never will, as
    /// every entry of an older term lies before this one and messages of older terms are not heard any more. It can be
    /// proposed again without being done twice.
    pub(super) fn follow_term(&mut self, term: Term) {
        if term <= self.cluster.term || self.waiting.is_empty() {
            self.cluster.term = self.cluster.term.max(term);
            return;
        }
        self.cluster.term = term;
        let lost = |waiting: &Waiting| waiting.proposed.is_some_and(|proposed| proposed < term);
        let mut contexts: Vec<u64> =
            self.waiting.iter().filter(|(_, w)| lost(w)).map(|(context, _)| *context).collect();
        contexts.sort_unstable();
        for context in &contexts {
            self.park(*context);
        }
        if !contexts.is_empty() && self.cluster.leader.is_some() {
            self.propose_parked();
        }
    }

    fn park(&mut self, context: u64) {
        if let Some(waiting) = self.waiting.get_mut(&context) {
            waiting.proposed = None;
            self.parked.push(context);
        }
    }

    /// Consensus did not take a proposal or a read.
    pub(super) fn refused(&mut self, context: u64, reason: Refusal) {
        if self.cluster.asked.as_ref().is_some_and(|(asked, _, _)| *asked == context) {
            let (_, readers, _) = self.cluster.asked.take().expect("it was looked at");
            match reason {
                Refusal::LeadershipLost => self.fail_readers(readers),
                _ => self.cluster.reads.splice(0..0, readers).for_each(drop),
            }
        } else if self.cluster.change.as_ref().is_some_and(|(change, _, _)| *change == context) {
            let (_, change, reply) = self.cluster.change.take().expect("it was looked at");
            let refusal = match reason {
                Refusal::ChangePending | Refusal::Transferring => {
                    return self.cluster.changes.push_front((change, reply));
                }
                Refusal::InvalidChange => MemberError::NotEnoughStarted,
                Refusal::NoLeader | Refusal::LeadershipLost => MemberError::NotLeader,
            };
            self.cluster.answers.push((reply, Err(refusal.into())));
        } else if matches!(reason, Refusal::NoLeader | Refusal::Transferring) && self.waiting.contains_key(&context) {
            self.park(context);
        } else {
            self.shared.metrics.proposals_failed.add(1);
            self.answer(context, Err(StoreError::NoLeader));
        }
    }

    fn fail_readers(&mut self, readers: Vec<Reply>) {
        self.shared.metrics.failed_read_indexes.add(1);
        self.cluster.answers.extend(readers.into_iter().map(|reply| (reply, Err(StoreError::LeaderChanged))));
    }

    /// Asks consensus for an index at which all waiting readers may read.
    pub(super) fn ask_for_index(&mut self) {
        if self.cluster.asked.is_some() || self.cluster.reads.is_empty() || self.cluster.leader.is_none() {
            return;
        }
        let context = self.fresh_context();
        let readers = std::mem::take(&mut self.cluster.reads);
        self.cluster.asked = Some((context, readers, self.shared.clock.monotonic()));
        self.step(Input::ReadIndex { context });
    }

    pub(super) fn index_confirmed(&mut self, context: u64, index: LogIndex) {
        if let Some((asked, readers, since)) = self.cluster.asked.take() {
            if asked == context {
                self.cluster.confirmed.push((index, readers));
                self.read_up_to_applied();
                self.ask_for_index();
            } else {
                self.cluster.asked = Some((asked, readers, since));
            }
        }
    }

    /// Lets readers go whose index is applied.
    pub(super) fn read_up_to_applied(&mut self) {
        let applied = self.applied;
        for (_, readers) in self.cluster.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            self.cluster.answers.extend(readers.into_iter().map(|reply| (reply, Ok(()))));
        }
    }

    /// Begins the next change of membership when none is under way.
    pub(super) fn pump_changes(&mut self) {
        while self.cluster.change.is_none() && self.leads() {
            let Some((change, reply)) = self.cluster.changes.pop_front() else { return };
            if let Err(refusal) = self.may_change(&change) {
                self.cluster.answers.push((reply, Err(refusal.into())));
                continue;
            }
            let (consensus, data) = change.consensus();
            let context = self.fresh_context();
            self.cluster.change = Some((context, change, reply));
            self.step(Input::ProposeMembership { context, change: consensus, data });
        }
    }

    fn may_change(&self, change: &Change) -> Result<(), MemberError> {
        use pb::member_change::Kind;
        let members = &self.cluster.members;
        members.validate(change, self.cluster.timing.learners_max)?;
        if change.kind == Kind::Promote && !self.is_in_sync(change.member.id) {
            return Err(MemberError::LearnerNotReady);
        }
        if !self.cluster.timing.strict_reconfiguration {
            return Ok(());
        }
        let connected = |id| self.shared.peers.as_ref()?.connected_for(id).map(|time| time.as_secs());
        members.check_strictly(change, self.shared.member_id, connected)
    }

    /// Whether a learner has nearly everything (etcd: nine tenths of the leader's log).
    fn is_in_sync(&self, id: MemberId) -> bool {
        let last = self.raft.status().last_index.0;
        let matched =
            self.raft.progress(id).filter(|p| !matches!(p.pace, Pace::Snapshot(_))).map_or(0, |p| p.matched.0);
        matched as f64 >= last as f64 * 0.9
    }

    /// An entry about members takes effect.
    pub(super) fn apply_membership(&mut self, entry: &Entry) {
        let Some((change, data)) = entry.membership_change() else { return };
        let mut members = Members::clone(&self.cluster.members);
        members.apply(change, &data);
        self.cluster.members = Arc::new(members);
        if let Some(peers) = &self.shared.peers {
            peers.set_members(&self.cluster.members);
        }
        self.journal.view_members(entry.index, &self.keyspace, &self.cluster.members);
        if self.cluster.change.as_ref().is_some_and(|(context, _, _)| *context == entry.context) {
            let (_, _, reply) = self.cluster.change.take().expect("it was looked at");
            self.cluster.answers.push((reply, Ok(())));
        }
        match change {
            MembershipChange::Remove(id) if id == self.shared.member_id => self.removed(),
            MembershipChange::Remove(id) => {
                tracing::info!(target: "etcd", member = %format_args!("{id:x}"), "a member was removed");
            }
            _ => {}
        }
    }

    /// New members must be reachable before their entry is committed: it takes them to commit it.
    pub(super) fn learn_addresses(&self, entries: &[Entry]) {
        let Some(peers) = &self.shared.peers else { return };
        for (change, data) in entries.iter().filter_map(Entry::membership_change) {
            if let (MembershipChange::AddLearner(id) | MembershipChange::AddVoter(id), Ok(member)) =
                (change, pb::Member::decode(data))
            {
                peers.learn(id, member.peer_ur_ls);
            }
        }
    }

    /// Tells the cluster this member's name and client URLs, if it does not know them.
    pub(super) fn publish_self(&mut self) {
        let now = self.shared.clock.monotonic();
        let id = self.shared.member_id;
        let Some(known) = self.cluster.members.get(id) else { return };
        let waits = self.cluster.publishing.is_some_and(|since| now.saturating_sub(since) < PUBLISH_RETRY);
        let urls = lock(&self.shared.client_urls);
        if self.cluster.leader.is_none() || waits || (known.name == self.shared.name && known.client_ur_ls == *urls) {
            return;
        }
        let (name, client_ur_ls) = (self.shared.name.clone(), urls.clone());
        drop(urls);
        let member = pb::Member { id, name, client_ur_ls, ..pb::Member::default() };
        let data = member.encode_to_vec().into();
        self.cluster.publishing = Some(now);
        let context = self.fresh_context();
        self.step(Input::ProposeMembership { context, change: MembershipChange::Update(id), data });
    }

    fn removed(&mut self) {
        if !self.shared.removed.swap(true, Ordering::AcqRel) {
            tracing::warn!(target: "etcd", "this member was removed from its cluster and stops");
            // The others must hear of the commit first, and who asked here of the answer: several heartbeats. etcd takes a
            // whole second; who waits that long for its process sees it gone.
            self.cluster.leaving = Some(self.shared.clock.monotonic() + self.shared.limits.election_timeout / 2);
        }
    }

    fn move_leader(&mut self, to: MemberId, reply: Reply) {
        if !self.leads() {
            return drop(reply.send(Err(MemberError::NotLeader.into())));
        }
        if !self.raft.members().voters.contains(&to) {
            return drop(reply.send(Err(MemberError::BadTransferee.into())));
        }
        if to == self.shared.member_id {
            return drop(reply.send(Ok(())));
        }
        let patience = self.shared.limits.election_timeout * 5;
        self.cluster.moving.push((to, reply, self.shared.clock.monotonic() + patience));
        self.step(Input::TransferLeader(to));
    }

    /// Stops, after leadership went to another member if there is one that can take it.
    pub(super) fn stop(&mut self) {
        let me = self.shared.member_id;
        let able =
            |id: &MemberId| self.raft.progress(*id).is_some_and(|p| p.recent_active && p.pace == Pace::Replicate);
        let voters = self.raft.members().voters.iter().copied().filter(|id| *id != me);
        let best = voters.filter(able).max_by_key(|id| self.raft.progress(*id).map(|p| p.matched));
        match best {
            Some(to) if self.leads() && self.cluster.leaving.is_none() => {
                tracing::info!(target: "etcd", to = %format_args!("{to:x}"), "handing leadership over before stopping");
                self.cluster.leaving = Some(self.shared.clock.monotonic() + self.shared.limits.election_timeout);
                self.step(Input::TransferLeader(to));
            }
            _ => self.stopping = true,
        }
    }

    /// The last entry a checkpoint lets go of: members that are a little behind still get the entries.
    pub(super) fn forgettable(&self, covered: LogIndex) -> LogIndex {
        if self.is_alone() {
            return covered;
        }
        let (mut index, mut bytes) = (covered, 0);
        while covered.0 - index.0 < self.cluster.timing.catch_up_entries && index >= self.raft.first_held() {
            bytes += self.raft.entry(index).map_or(0, |entry| entry.data.len() + 64);
            if bytes > CATCH_UP_BYTES {
                break;
            }
            index = index.previous();
        }
        index
    }

    pub(super) fn position(&self) -> Position {
        Position {
            index: self.applied,
            term: self.raft.term_at(self.applied).unwrap_or_default(),
            members: Members::clone(&self.cluster.members),
            marks: self.keyspace.marks(),
        }
    }

    pub(super) fn send_snapshot(&mut self, to: MemberId) {
        let Some(peers) = self.shared.peers.clone() else { return };
        let position = self.position();
        let members = self.raft.members_at(self.applied).clone();
        let snapshot = raft::Snapshot { index: position.index, term: position.term, members };
        let message = raft::Message { term: self.raft.status().term, body: Body::Snapshot(snapshot) };
        peers.send_snapshot(to, message, position, self.keyspace.snapshot());
    }

    /// The state that came with a snapshot takes the place of this member's.
    pub(super) fn restore(&mut self) -> Result<(), EtcdError> {
        let offered = self.cluster.offered.take().expect("consensus restores only what was offered");
        let Restored { position, keyspace } = *offered;
        self.journal.restore(&self.shared.entropy, &position, &keyspace)?;
        self.applied = position.index;
        self.keyspace = keyspace;
        self.cluster.members = Arc::new(position.members);
        if let Some(peers) = &self.shared.peers {
            peers.set_members(&self.cluster.members);
        }
        self.changes.clear();
        (self.cluster.restored, self.dirty) = (true, true);
        // Whether what was proposed here is part of the new state is not known.
        self.give_up_waiting(&StoreError::Timeout);
        self.read_up_to_applied();
        Ok(())
    }

    /// Nothing more can be promised to anybody.
    pub(super) fn give_up_cluster(&mut self, error: &StoreError) {
        let asked = self.cluster.asked.take().map(|(_, readers, _)| readers).unwrap_or_default();
        let confirmed = self.cluster.confirmed.drain(..).flat_map(|(_, readers)| readers);
        let change = self.cluster.change.take().map(|(_, _, reply)| reply);
        let all = (self.cluster.reads.drain(..).chain(asked))
            .chain(confirmed)
            .chain(self.cluster.changes.drain(..).map(|(_, reply)| reply))
            .chain(change)
            .chain(self.cluster.moving.drain(..).map(|(_, reply, _)| reply));
        self.cluster.answers.extend(all.map(|reply| (reply, Err(error.clone()))));
    }
}
