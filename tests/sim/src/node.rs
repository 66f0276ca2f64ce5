//! One simulated member: the driver of a [`raft::Raft`] over a sealed log on a simulated disk.
//!
//! What it writes: hard states and entries to the log, its state to a checkpoint; both are read back after a crash.

use std::path::Path;
use std::sync::Arc;

use base::Entropy;
use bytes::{Bytes, BytesMut};
use disk::{DataKey, Log, Record, SimDisk, read_checkpoint, write_checkpoint};
use raft::{
    Body, Config, Entry, HardState, Input, LogIndex, MemberId, Membership, Message, Output, Raft, Restored, Snapshot,
    Term,
};

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
/// The log starts again after a snapshot from the leader.
const RESTART: u8 = 3;
const STATE: u8 = 1;
const LOG_DIR: &str = "/member/log";
const CHECKPOINT: &str = "/member/checkpoint";

/// The replicated state: a digest of everything applied, and the point it stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The last applied entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Grows out of every applied entry and its order.
    pub digest: u64,
    /// The members as of the index.
    pub members: Membership,
}

impl State {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.index.next(), "entries are applied in order, without gaps");
        let step = |digest: u64, value: u64| (digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        let mut digest = [entry.index.0, entry.term.0, entry.context].into_iter().fold(self.digest, step);
        digest = entry.data.iter().fold(digest, |digest, byte| step(digest, u64::from(*byte)));
        if let Some((change, _)) = entry.membership_change() {
            self.members = self.members.with(change);
        }
        (self.index, self.term, self.digest) = (entry.index, entry.term, digest);
    }

    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::from(&self.digest.to_le_bytes()[..]);
        Snapshot { index: self.index, term: self.term, members: self.members.clone() }.encode(&mut bytes);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Self {
        let digest = u64::from_le_bytes(bytes.split_to(8)[..].try_into().expect("eight bytes"));
        let Snapshot { index, term, members } = Snapshot::decode(&mut bytes).expect("a state that was written");
        Self { index, term, digest, members }
    }
}

/// A message under way, with the state that belongs to a snapshot.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The sender.
    pub from: MemberId,
    /// The receiver.
    pub to: MemberId,
    /// What is said.
    pub message: Message,
    /// The state of a snapshot.
    pub state: Option<State>,
}

/// What a member did that others may look at.
#[derive(Debug)]
pub enum Event {
    /// Sent a message.
    Sent(Envelope),
    /// Applied an entry; the digest after it.
    Applied(Entry, u64),
    /// Took a snapshot in place of its log.
    Restored(State),
    /// Became the leader of a term.
    Leads(Term),
    /// May answer a read at an index.
    Read(u64, LogIndex),
    /// A proposal or read was refused.
    Refused,
}

/// A member: its disk outlives it, the rest does not.
pub struct Node {
    id: MemberId,
    seed: u64,
    /// The members it is configured with, for as long as its disk says nothing else.
    configured: Membership,
    max_message_bytes: usize,
    disk: SimDisk,
    key: DataKey,
    entropy: Entropy,
    life: Option<Life>,
}

/// What a crash ends.
struct Life {
    raft: Raft,
    log: Log,
    state: State,
    /// The last hard state written, for the next segment.
    hard_state: HardState,
    /// Messages that wait for a sync.
    held: Vec<Envelope>,
    synced: Option<Input>,
    /// The state that came with the snapshot being received.
    offered: Option<State>,
}

impl Node {
    /// A member with an empty disk.
    pub fn new(id: MemberId, configured: Membership, seed: u64, entropy: &Entropy, max_message_bytes: usize) -> Self {
        let disk = SimDisk::new(seed ^ id);
        let key = DataKey::generate(&format!("member/{id}"), entropy);
        let mut node =
            Self { id, seed, configured, max_message_bytes, disk, key, entropy: entropy.clone(), life: None };
        node.start();
        node
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Its state machine, while it runs.
    pub fn raft(&self) -> Option<&Raft> {
        self.life.as_ref().map(|life| &life.raft)
    }

    /// Its replicated state, while it runs.
    pub fn state(&self) -> Option<&State> {
        self.life.as_ref().map(|life| &life.state)
    }

    /// The machine loses power: what was not synced may be gone.
    pub fn crash(&mut self) {
        self.life = None;
        self.disk.crash();
    }

    /// Reads the disk and runs again.
    pub fn start(&mut self) {
        let state = match read_checkpoint(&self.disk, Path::new(CHECKPOINT), &self.key) {
            Ok(records) => State::decode(records[0].bytes.clone()),
            Err(disk::DiskError::Missing { .. }) => State { members: self.configured.clone(), ..State::default() },
            Err(error) => panic!("member {}: {error}", self.id),
        };
        let disk = Arc::new(self.disk.clone());
        let opened = Log::open(disk, Path::new(LOG_DIR), self.key.clone(), self.entropy.clone());
        let (mut log, records) = opened.unwrap_or_else(|error| panic!("member {}: {error}", self.id));
        log.set_segment_bytes(2000);
        let (hard_state, entries) = recover(&state, records);
        let mut config = Config::new(self.id, self.seed);
        config.max_inflight_messages = 4;
        config.max_message_bytes = self.max_message_bytes;
        let restored = Restored {
            hard_state,
            members: state.members.clone(),
            entries,
            snapshot_index: state.index,
            snapshot_term: state.term,
            applied: state.index,
        };
        let raft = Raft::new(config, restored);
        self.life = Some(Life { raft, log, state, hard_state, held: Vec::new(), synced: None, offered: None });
    }

    /// Feeds an input and does what comes out, except for the sync.
    pub fn step(&mut self, input: Input) -> Vec<Event> {
        let mut out = Vec::new();
        let Some(life) = &mut self.life else { return Vec::new() };
        life.raft.step(input, &mut out);
        self.perform(out)
    }

    /// A message arrives.
    pub fn receive(&mut self, envelope: Envelope) -> Vec<Event> {
        if let Some(life) = &mut self.life {
            life.offered = envelope.state;
        }
        self.step(Input::Receive(envelope.from, envelope.message))
    }

    /// The disk finishes writing.
    pub fn sync(&mut self) -> Vec<Event> {
        let Some(life) = &mut self.life else { return Vec::new() };
        life.log.sync().expect("the disk works");
        let mut events: Vec<Event> = life.held.drain(..).map(Event::Sent).collect();
        if let Some(synced) = life.synced.take() {
            events.extend(self.step(synced));
        }
        events
    }

    /// Writes a checkpoint and forgets the log before it.
    pub fn checkpoint(&mut self) {
        let Some(life) = &mut self.life else { return };
        // What is applied may be ahead of this disk: a checkpoint must not be ahead of the log.
        if life.raft.status().stable < life.state.index || life.synced.is_some() {
            return;
        }
        write_state(&self.disk, &self.key, &self.entropy, &life.state);
        let segment = life.log.roll().expect("the disk works");
        write_hard_state(&mut life.log, life.hard_state);
        let mut index = life.state.index.next();
        while let Some(entry) = life.raft.entry(index) {
            write_entry(&mut life.log, entry);
            index = index.next();
        }
        life.log.sync().expect("the disk works");
        life.log.cut(segment).expect("the disk works");
        let applied = life.state.index;
        life.raft.step(Input::Truncated(applied), &mut Vec::new());
    }

    fn perform(&mut self, outputs: Vec<Output>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut snapshots = Vec::new();
        let (id, Some(life)) = (self.id, &mut self.life) else { return events };
        for output in outputs {
            match output {
                Output::Persist { term, index, hard_state, entries } => {
                    if let Some(hard_state) = hard_state {
                        life.hard_state = hard_state;
                        write_hard_state(&mut life.log, hard_state);
                    }
                    entries.iter().for_each(|entry| write_entry(&mut life.log, entry));
                    life.synced = Some(Input::Synced { term, index });
                }
                Output::Send { to, message, after_sync } => {
                    let envelope = Envelope { from: id, to, message, state: None };
                    match after_sync && life.synced.is_some() {
                        true => life.held.push(envelope),
                        false => events.push(Event::Sent(envelope)),
                    }
                }
                Output::Apply(entries) => {
                    for entry in entries {
                        life.state.apply(&entry);
                        events.push(Event::Applied(entry, life.state.digest));
                    }
                }
                Output::Restore(snapshot) => {
                    let state = life.offered.take().expect("a snapshot comes with its state");
                    assert_eq!((state.index, state.term), (snapshot.index, snapshot.term));
                    write_state(&self.disk, &self.key, &self.entropy, &state);
                    let mark = state.encode();
                    life.log.append(RESTART, &mark);
                    life.log.sync().expect("the disk works");
                    life.state = state.clone();
                    events.push(Event::Restored(state));
                }
                Output::SendSnapshot { to } => snapshots.push(to),
                Output::Role { role: raft::Role::Leader, term, .. } => events.push(Event::Leads(term)),
                Output::Role { .. } => {}
                Output::ReadReady { context, index } => events.push(Event::Read(context, index)),
                Output::Refused { .. } => events.push(Event::Refused),
            }
        }
        let (state, term) = (life.state.clone(), life.raft.status().term);
        for to in snapshots {
            let snapshot = Snapshot { index: state.index, term: state.term, members: state.members.clone() };
            let message = Message { term, body: Body::Snapshot(snapshot) };
            events.push(Event::Sent(Envelope { from: id, to, message, state: Some(state.clone()) }));
        }
        events
    }
}

fn write_state(disk: &SimDisk, key: &DataKey, entropy: &Entropy, state: &State) {
    let bytes = state.encode();
    write_checkpoint(disk, Path::new(CHECKPOINT), key, entropy, [(STATE, &bytes[..])]).expect("the disk works");
}

fn write_entry(log: &mut Log, entry: &Entry) {
    let mut bytes = BytesMut::new();
    entry.encode(&mut bytes);
    log.append(ENTRY, &bytes);
}

fn write_hard_state(log: &mut Log, hard_state: HardState) {
    let mut bytes = BytesMut::new();
    hard_state.encode(&mut bytes);
    log.append(HARD_STATE, &bytes);
}

/// The last hard state, and the entries that follow the checkpoint.
fn recover(state: &State, records: Vec<Record>) -> (HardState, Vec<Entry>) {
    let mut hard_state = HardState::default();
    let mut entries: Vec<Entry> = Vec::new();
    let mut base = None;
    for Record { kind, mut bytes, .. } in records {
        match kind {
            HARD_STATE => hard_state = HardState::decode(&mut bytes).expect("a hard state that was written"),
            ENTRY => {
                let entry = Entry::decode(&mut bytes).expect("an entry that was written");
                entries.retain(|earlier| earlier.index < entry.index);
                entries.push(entry);
            }
            RESTART => {
                let restart = State::decode(bytes);
                base = Some((restart.index, restart.term));
                entries.clear();
            }
            _ => panic!("a record of kind {kind}"),
        }
    }
    // Entries after the checkpoint count if the log is known to lead up to it: it holds the checkpoint's entry, or it
    // starts right after it. Otherwise the checkpoint came from the leader and the old log leads elsewhere.
    let holds = entries.iter().any(|entry| (entry.index, entry.term) == (state.index, state.term));
    let follows = entries.first().is_some_and(|first| first.index == state.index.next());
    if !(holds || follows || base == Some((state.index, state.term))) {
        entries.clear();
    }
    entries.retain(|entry| entry.index > state.index);
    (hard_state, entries)
}
