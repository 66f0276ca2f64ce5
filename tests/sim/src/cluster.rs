//! A simulated cluster: members, a network that loses, repeats, delays and parts, and the rules that must hold.

use std::collections::{BTreeMap, BTreeSet};

use base::{Entropy, Rng};
use bytes::Bytes;
use raft::{Entry, Input, LogIndex, MemberId, Membership, MembershipChange, Role, Snapshot, Term};

use crate::node::{Envelope, Event, Node, State};

/// Messages under way at most: beyond, the oldest are lost.
const NETWORK_MAX: usize = 2000;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// Anything, anywhere; members come and go.
    Anywhere,
    /// What befalls leaders: they lose power soon after their election, or the others lose sight of them while their clock
    /// stands, so that they believe to lead for long.
    Leaders,
}

/// Bytes of entries in one message, usually.
const MESSAGE_BYTES: usize = 200;

/// A whole cluster under one seed.
pub struct Cluster {
    rng: Rng,
    entropy: Entropy,
    seed: u64,
    nodes: BTreeMap<MemberId, Node>,
    network: Vec<Envelope>,
    /// Pairs that do not hear one another.
    parted: BTreeSet<(MemberId, MemberId)>,
    rules: Rules,
    next_context: u64,
    faults: Option<Faults>,
    /// A leader that loses power after so many messages.
    doomed: Option<(MemberId, u64)>,
    /// The member whose clock stands.
    stopped: Option<MemberId>,
}

/// What has been seen, and must never be contradicted.
#[derive(Default)]
struct Rules {
    /// Each term's leader.
    leaders: BTreeMap<Term, MemberId>,
    /// Each committed entry, and the digest of the state after it.
    committed: BTreeMap<LogIndex, (Entry, u64)>,
    /// Reads under way: what was committed when they began.
    reads: BTreeMap<u64, LogIndex>,
    /// Reads that were answered.
    reads_answered: u64,
}

impl Rules {
    fn last(&self) -> LogIndex {
        self.committed.last_key_value().map_or(LogIndex(0), |(index, _)| *index)
    }

    /// Whether nothing forbids it; says what does.
    fn see(&mut self, id: MemberId, node: &Node, event: &Event) {
        match event {
            Event::Leads(term) => {
                let leader = *self.leaders.entry(*term).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {term}");
                self.leader_is_complete(id, node);
            }
            Event::Applied(entry, digest) => {
                let (known, known_digest) =
                    self.committed.entry(entry.index).or_insert_with(|| (entry.clone(), *digest));
                assert_eq!(known, entry, "member {id} applied another entry at {}", entry.index);
                assert_eq!(known_digest, digest, "member {id} has another state at {}", entry.index);
            }
            Event::Restored(State { index, term, digest, .. }) => {
                let (entry, known) = &self.committed[index];
                assert_eq!((entry.term, known), (*term, digest), "member {id} took a snapshot that never was");
            }
            Event::Read(context, index) => {
                if let Some(committed) = self.reads.remove(context) {
                    assert!(*index >= committed, "member {id} reads at {index}, {committed} was committed before");
                    self.reads_answered += 1;
                }
            }
            Event::Sent(_) | Event::Refused => {}
        }
    }

    /// A leader's log holds every entry committed in a term before its own (dissertation §3.6.3). Votes may come late: others
    /// can have gone on to later terms by then.
    fn leader_is_complete(&self, id: MemberId, node: &Node) {
        let raft = node.raft().expect("a leader runs");
        let term = raft.status().term;
        for (index, (entry, _)) in self.committed.range(raft.first_held()..) {
            if entry.term < term {
                assert_eq!(raft.term_at(*index), Some(entry.term), "leader {id} of term {term} lacks entry {index}");
            }
        }
    }
}

/// Predictable bytes: nothing here is secret.
fn fake_entropy(seed: u64) -> Entropy {
    let next = std::sync::atomic::AtomicU64::new(seed << 20);
    Entropy::new(move |buffer| {
        let mut rng = Rng::new(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next_u64().to_le_bytes()[..chunk.len()]);
        }
    })
}

impl Cluster {
    /// A cluster of so many voters.
    pub fn new(seed: u64, voters: u64, faults: Faults) -> Self {
        let entropy = fake_entropy(seed);
        let members = Membership::of_voters(1..=voters);
        // Leaders are to fail between two entries too.
        let max_bytes = if faults == Faults::Leaders && seed.is_multiple_of(2) { 1 } else { MESSAGE_BYTES };
        let node = |id| (id, Node::new(id, members.clone(), seed, &entropy, max_bytes));
        Self {
            rng: Rng::new(seed),
            nodes: (1..=voters).map(node).collect(),
            entropy: entropy.clone(),
            seed,
            network: Vec::new(),
            parted: BTreeSet::new(),
            rules: Rules::default(),
            next_context: 1,
            faults: Some(faults),
            doomed: None,
            stopped: None,
        }
    }

    /// How many entries were committed.
    pub fn committed(&self) -> u64 {
        self.rules.last().0
    }

    /// How many reads were answered.
    pub fn reads_answered(&self) -> u64 {
        self.rules.reads_answered
    }

    /// Faults, clients and time for so many rounds.
    pub fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            match self.faults {
                Some(Faults::Anywhere) => self.break_something(),
                Some(Faults::Leaders) => self.strike_leaders(),
                None => {}
            }
            self.clients();
            self.time_and_messages();
            self.check_agreement();
        }
    }

    /// Ends all faults, lets the members agree, and checks that they do and that they still work.
    ///
    /// # Panics
    /// When they do not.
    pub fn heal(&mut self) {
        self.faults = None;
        self.doomed = None;
        self.reunite();
        for node in self.nodes.values_mut().filter(|node| !node.is_up()) {
            node.start();
        }
        self.run(150);
        let before = self.committed();
        self.run(100);
        assert!(self.committed() > before, "seed {}: a healed cluster takes no writes", self.seed);
        let members = self.leader().map(|id| self.nodes[&id].raft().expect("it runs").members().clone());
        let members = members.unwrap_or_else(|| panic!("seed {}: a healed cluster has no leader", self.seed));
        self.settle();
        let last = self.rules.last();
        for id in members.members() {
            let state = self.nodes[&id].state().expect("it runs");
            assert_eq!(state.index, last, "seed {}: member {id} lags for ever", self.seed);
        }
    }

    /// Time without clients, until everything is applied everywhere.
    fn settle(&mut self) {
        for _ in 0..60 {
            self.time_and_messages();
        }
    }

    fn leader(&self) -> Option<MemberId> {
        let leads = |node: &Node| {
            Some((node.raft()?.status().role == Role::Leader).then(|| node.raft().map(|r| r.status().term)))
        };
        let leaders = self.nodes.iter().filter_map(|(id, node)| Some((leads(node)??, *id)));
        leaders.max().map(|(_, id)| id)
    }

    fn break_something(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        match self.rng.below(60) {
            0 | 1 => self.crash_or_start(id),
            2 => self.part(&ids),
            3 | 4 => self.reunite(),
            5 | 6 => self.nodes.get_mut(&id).expect("it is there").checkpoint(),
            7 => self.input(id, Input::Campaign),
            8 => {
                if let Some(leader) = self.leader() {
                    self.input(leader, Input::TransferLeader(id));
                }
            }
            9 => self.change_membership(),
            10 => {
                // Power fails everywhere at once.
                for id in &ids {
                    self.nodes.get_mut(id).expect("it is there").crash();
                }
                self.network.clear();
                for id in ids.iter().filter(|_| !self.rng.one_in(4)) {
                    self.nodes.get_mut(id).expect("it is there").start();
                }
            }
            _ => {}
        }
    }

    fn strike_leaders(&mut self) {
        let down = self.nodes.values_mut().filter(|node| !node.is_up());
        for node in down {
            if self.rng.one_in(20) {
                node.start();
            }
        }
        match self.rng.below(40) {
            0 | 1 => {
                if let Some(leader) = self.leader() {
                    self.reunite();
                    let others = self.nodes.keys().filter(|id| **id != leader);
                    self.parted = others.flat_map(|id| [(*id, leader), (leader, *id)]).collect();
                    self.stopped = Some(leader);
                }
            }
            2 => self.reunite(),
            _ => {}
        }
    }

    /// Everybody hears everybody, and all clocks go.
    fn reunite(&mut self) {
        self.parted.clear();
        self.stopped = None;
    }

    fn crash_or_start(&mut self, id: MemberId) {
        let node = self.nodes.get_mut(&id).expect("it is there");
        if node.is_up() { node.crash() } else { node.start() }
    }

    /// Two sides that do not hear one another, or one member that is heard but does not hear.
    fn part(&mut self, ids: &[MemberId]) {
        self.parted.clear();
        let one_way = self.rng.one_in(4);
        let (side, rest): (Vec<MemberId>, Vec<MemberId>) = ids.iter().partition(|_| self.rng.one_in(2));
        for (a, b) in side.iter().flat_map(|a| rest.iter().map(move |b| (*a, *b))) {
            self.parted.insert((a, b));
            if !one_way {
                self.parted.insert((b, a));
            }
        }
    }

    fn change_membership(&mut self) {
        let Some(leader) = self.leader() else { return };
        let raft = self.nodes[&leader].raft().expect("a leader runs");
        let members = raft.members().clone();
        let any = |ids: &BTreeSet<MemberId>, rng: &mut Rng| {
            ids.iter().nth(rng.below(ids.len().max(1) as u64) as usize).copied()
        };
        let change = match self.rng.below(3) {
            0 if members.members().count() < 6 => {
                let id = self.nodes.keys().next_back().copied().unwrap_or(0) + 1;
                let change = MembershipChange::AddLearner(id);
                let node = Node::new(id, members.with(change), self.seed, &self.entropy, MESSAGE_BYTES);
                self.nodes.insert(id, node);
                change
            }
            1 => match any(&members.learners, &mut self.rng) {
                // As etcd: a learner becomes a voter once it has caught up.
                Some(id) if raft.progress(id).is_some_and(|p| p.matched.0 + 20 > raft.status().commit.0) => {
                    MembershipChange::AddVoter(id)
                }
                _ => return,
            },
            _ if members.voters.len() > 2 => match any(&members.voters, &mut self.rng) {
                Some(id) => MembershipChange::Remove(id),
                None => return,
            },
            _ => return,
        };
        let context = self.context();
        self.input(leader, Input::ProposeMembership { context, change, data: Bytes::new() });
    }

    fn context(&mut self) -> u64 {
        self.next_context += 1;
        self.next_context
    }

    /// Clients write and read through any member.
    fn clients(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for id in ids {
            if self.rng.one_in(4) {
                let context = self.context();
                let data = Bytes::from(vec![context as u8; self.rng.below(120) as usize]);
                self.input(id, Input::Propose { context, data });
            }
            if self.rng.one_in(6) && self.nodes[&id].is_up() {
                let context = self.context();
                self.rules.reads.insert(context, self.rules.last());
                self.input(id, Input::ReadIndex { context });
            }
        }
    }

    /// Everybody's clock moves, messages arrive in any order, disks finish when they please.
    fn time_and_messages(&mut self) {
        let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
        for id in ids.iter().copied() {
            if self.stopped == Some(id) {
                continue;
            }
            let ticks = if self.faults.is_some() { [0, 1, 1, 1, 1, 1, 1, 2][self.rng.below(8) as usize] } else { 1 };
            (0..ticks).for_each(|_| self.input(id, Input::Tick));
        }
        let deliveries = self.network.len() as u64 * 2 + 4;
        for _ in 0..deliveries {
            if self.rng.one_in(3) {
                let id = ids[self.rng.below(ids.len() as u64) as usize];
                let events = self.nodes.get_mut(&id).expect("it is there").sync();
                self.follow(id, events);
            }
            self.deliver_one();
            self.doom();
        }
        if self.faults.is_none() {
            for id in ids {
                let events = self.nodes.get_mut(&id).expect("it is there").sync();
                self.follow(id, events);
            }
        }
    }

    fn doom(&mut self) {
        self.doomed = match self.doomed.take() {
            Some((id, 0)) => {
                self.nodes.get_mut(&id).expect("it is there").crash();
                None
            }
            other => other.map(|(id, messages)| (id, messages - 1)),
        };
    }

    fn deliver_one(&mut self) {
        if self.network.is_empty() {
            return;
        }
        // Mostly near the front: late messages are late, not lost for good.
        let reach = if self.rng.one_in(5) { self.network.len() } else { self.network.len().min(6) };
        let place = self.rng.below(reach as u64) as usize;
        let again = self.faults.is_some() && self.rng.one_in(20);
        let envelope = if again { self.network[place].clone() } else { self.network.remove(place) };
        let lost = self.faults.is_some() && self.rng.one_in(12);
        let Envelope { from, to, .. } = envelope;
        let reaches = !lost && !self.parted.contains(&(from, to)) && self.nodes.get(&to).is_some_and(Node::is_up);
        if let (raft::Body::Snapshot(Snapshot { index, .. }), false) = (&envelope.message.body, again) {
            let report = Input::SnapshotSent(to, reaches.then_some(*index));
            self.input(from, report);
        }
        if reaches {
            let events = self.nodes.get_mut(&to).expect("it is there").receive(envelope);
            self.follow(to, events);
        }
    }

    fn input(&mut self, id: MemberId, input: Input) {
        let events = self.nodes.get_mut(&id).expect("it is there").step(input);
        self.follow(id, events);
    }

    fn follow(&mut self, id: MemberId, events: Vec<Event>) {
        for event in events {
            self.rules.see(id, &self.nodes[&id], &event);
            if self.faults == Some(Faults::Leaders) && matches!(event, Event::Leads(_)) && !self.rng.one_in(4) {
                let most = [3, 40][self.rng.below(2) as usize];
                self.doomed = Some((id, self.rng.below(most)));
            }
            if let Event::Sent(envelope) = event {
                // What goes over the wire is what the codec makes of it.
                let message = raft::Message::decode(envelope.message.encode()).expect("what was encoded decodes");
                assert_eq!(message, envelope.message);
                self.network.push(envelope);
            }
        }
        if self.network.len() > NETWORK_MAX {
            self.network.drain(..self.network.len() - NETWORK_MAX);
        }
    }

    /// Log matching (dissertation §3.5): where two logs have an entry of the same index and term, they are equal before.
    fn check_agreement(&self) {
        let running: Vec<_> = self.nodes.values().filter_map(Node::raft).collect();
        for (place, a) in running.iter().enumerate() {
            for b in &running[place + 1..] {
                let first = a.first_held().max(b.first_held());
                let last = a.status().last_index.min(b.status().last_index);
                let mut agree = false;
                let mut index = last;
                while index >= first && index.0 > 0 {
                    let equal = a.term_at(index) == b.term_at(index);
                    assert!(equal || !agree, "seed {}: logs part before they agree, at {index}", self.seed);
                    if equal {
                        assert_eq!(a.entry(index), b.entry(index), "seed {}: entries differ at {index}", self.seed);
                    }
                    agree |= equal;
                    index = index.previous();
                }
            }
        }
    }
}
