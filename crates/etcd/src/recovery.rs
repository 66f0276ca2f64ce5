//! What a member finds on its disk when it starts: checkpoint, then log; the view when the checkpoint is damaged.

use std::collections::BTreeMap;

use base::{Clock, Entropy, Timestamp};
use bytes::{Buf, Bytes, BytesMut};
use disk::{Log, Record};
use mvcc::Keyspace;
use raft::{Entry, EntryKind, HardState, LogIndex, Term};

use crate::error::storage;
use crate::journal::{
    Durable, Journal, Opened, RECORD_BOOTSTRAP, RECORD_ENTRY, RECORD_HARD_STATE, RECORD_RESTART, Storage, bootstrap,
};
use crate::members::{Change, Members};
use crate::proto as pb;
use crate::view::ViewWriter;
use crate::{EtcdError, checkpoint, view};
use pb::member_change::Kind;

/// Everything a member continues from.
pub(crate) struct Recovered {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) keyspace: Keyspace,
    /// As of the restored state.
    pub(crate) members: Members,
    /// Every member that the disk knows an address of.
    pub(crate) known: Members,
    pub(crate) raft: raft::Restored,
    pub(crate) journal: Journal,
}

/// What a member begins with when its disk is empty.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// The members the cluster begins with; none when this member joins a cluster that runs.
    pub(crate) first: Members,
    /// Where other members are.
    pub(crate) known: Members,
}

impl Beginning {
    /// The consensus state of a member that has not begun yet.
    pub(crate) fn raft(&self) -> raft::Restored {
        let entries = self.first.first_entries();
        let commit = entries.last().map_or(LogIndex(0), |last| last.index);
        let term = entries.last().map_or(Term(0), |last| last.term);
        raft::Restored { hard_state: HardState { term, vote: None, commit }, entries, ..raft::Restored::default() }
    }
}

/// The log's content.
#[derive(Default)]
struct Content {
    hard_state: HardState,
    entries: Vec<Entry>,
    segments: BTreeMap<u64, LogIndex>,
    bootstrap: Option<(u64, u64, Members)>,
    /// A state from another member that took the place of the log before it.
    restart: Option<(LogIndex, Term)>,
}

/// Opens a member's storage, or begins it; why it cannot begin matters only then.
pub(crate) fn recover(
    store: Storage,
    entropy: &Entropy,
    clock: &Clock,
    beginning: Result<Beginning, EtcdError>,
    (snapshot_count, force_new_cluster): (u64, bool),
) -> Result<Recovered, EtcdError> {
    let now = clock.now();
    store.disk.create_dir(&store.dir).map_err(|error| storage("making the data directory", error))?;
    let opened = Log::open(store.disk.clone(), &store.dir.join("log"), store.key.clone(), entropy.clone());
    let (mut log, records) = opened.map_err(|error| storage("opening the log", error))?;
    let content = read(records)?;
    if content.bootstrap.is_none() {
        refuse_lost_log(&store)?;
    }
    let restored = match checkpoint::read(&store, now) {
        Ok(None) if content.leads_from_elsewhere() => {
            Some(instead_of_a_lost_checkpoint(&store, entropy, &content, now)?)
        }
        Ok(restored) => restored,
        Err(error) => match from_view(&store, entropy, &content, now) {
            Some(restored) => {
                tracing::warn!(target: "etcd", %error, "the checkpoint is damaged; the view takes its place");
                Some(restored)
            }
            None => return Err(error),
        },
    };
    // How the cluster began does not matter to a member that has begun.
    let (first, (cluster_id, member_id, mut known)) = match &content.bootstrap {
        Some(known) => (None, known.clone()),
        None => {
            let beginning = beginning?;
            (Some(beginning.raft()), (beginning.cluster_id, beginning.member_id, beginning.known))
        }
    };
    let bootstrap = bootstrap(&known, cluster_id, member_id);
    let (index, term, members, keyspace) = match restored {
        Some(checkpoint::Restored { position, keyspace }) => {
            (position.index, position.term, position.members, keyspace)
        }
        None => (LogIndex(0), Term(0), Members::default(), Keyspace::new()),
    };
    let segments = content.segments.clone();
    let (mut hard_state, mut entries) = content.after((index, term), &store)?;
    if let Some(first) = first {
        (hard_state, entries) = (first.hard_state, first.entries);
        write_first(&mut log, hard_state, &entries);
    }
    if !members.is_empty() {
        known = members.clone();
    }
    if force_new_cluster {
        go_on_alone(&mut log, &mut hard_state, &mut entries, (&known, member_id));
    }
    entries.iter().for_each(|entry| known.apply_entry(entry));
    let writer = if store.view {
        let tools = (clock.clone(), entropy.clone());
        let view = ViewWriter::start(store.clone(), tools, index, &keyspace, &members);
        Some(view.map_err(EtcdError::Thread)?)
    } else {
        None
    };
    let log_bytes = entries.iter().map(|entry| i64::try_from(entry.data.len()).unwrap_or(i64::MAX)).sum();
    let opened = Opened { log, bootstrap, segments, hard_state, covered: index, log_bytes };
    let durable = Durable::new(store, opened, snapshot_count, writer);
    let raft = raft::Restored {
        hard_state,
        members: members.consensus(),
        entries,
        snapshot_index: index,
        snapshot_term: term,
        applied: index,
    };
    let journal = Journal::Durable(Box::new(durable));
    Ok(Recovered { cluster_id, member_id, keyspace, members, known, raft, journal })
}

/// The entries every log of the cluster begins with; they are on disk with the first sync.
fn write_first(log: &mut Log, hard_state: HardState, entries: &[Entry]) {
    let mut bytes = BytesMut::new();
    for entry in entries {
        bytes.clear();
        entry.encode(&mut bytes);
        log.append(RECORD_ENTRY, &bytes);
    }
    bytes.clear();
    hard_state.encode(&mut bytes);
    log.append(RECORD_HARD_STATE, &bytes);
}

/// Makes this member the only one (`--force-new-cluster`): entries that remove everybody else follow all that the log has,
/// and count as committed. etcd forgets what its log does not know to be committed; but what the others had acknowledged
/// can be among that. Nothing changes for a member that is the only one already.
fn go_on_alone(log: &mut Log, hard_state: &mut HardState, entries: &mut Vec<Entry>, (known, me): (&Members, u64)) {
    let mut members = known.clone();
    entries.iter().for_each(|entry| members.apply_entry(entry));
    let others: Vec<u64> = members.list().iter().map(|member| member.id).filter(|id| *id != me).collect();
    if others.is_empty() && !members.is_learner(me) {
        return;
    }
    let mut index = entries.last().map_or(hard_state.commit, |last| last.index);
    let mut add = |change: Change| {
        index = index.next();
        let (change, data) = change.consensus();
        let data = change.encode(&data);
        entries.push(Entry { term: hard_state.term, index, kind: EntryKind::Membership, context: 0, data });
    };
    if members.is_learner(me) {
        add(Change::new(Kind::Promote, pb::Member { id: me, ..pb::Member::default() }));
    }
    for id in &others {
        add(Change::new(Kind::Remove, pb::Member { id: *id, ..pb::Member::default() }));
    }
    hard_state.commit = index;
    let others: Vec<String> = others.iter().map(|id| format!("{id:x}")).collect();
    tracing::warn!(target: "etcd", removed = others.join(","), "forced into a new cluster of this member alone");
    let from = entries.len() - others.len() - usize::from(members.is_learner(me));
    write_first(log, *hard_state, &entries[from..]);
}

/// A log without content is a new member's only if there is nothing that came from one: what was acknowledged since the
/// checkpoint would be lost in silence.
fn refuse_lost_log(store: &Storage) -> Result<(), EtcdError> {
    let names = store.disk.list(&store.dir).unwrap_or_default();
    let Some(left) = ["checkpoint", "view"].iter().find(|left| names.iter().any(|name| name == *left)) else {
        return Ok(());
    };
    let (log, left) = (store.dir.join("log"), store.dir.join(left));
    let (log, left) = (log.display(), left.display());
    Err(EtcdError::Damaged(format!(
        "{log} is empty or gone, but {left} is there: the log was lost, and with it what was acknowledged last"
    )))
}

/// The log was cut after a checkpoint that is not there any more.
fn instead_of_a_lost_checkpoint(
    store: &Storage,
    entropy: &Entropy,
    content: &Content,
    now: Timestamp,
) -> Result<checkpoint::Restored, EtcdError> {
    let path = store.dir.join("checkpoint");
    let Some(restored) = from_view(store, entropy, content, now) else {
        return Err(EtcdError::Damaged(format!(
            "{} is gone, and the log alone does not hold the state: it begins later",
            path.display()
        )));
    };
    tracing::warn!(target: "etcd", path = %path.display(), "the checkpoint is gone; the view takes its place");
    Ok(restored)
}

/// The view helps only if the log goes on where it ends.
fn from_view(store: &Storage, entropy: &Entropy, content: &Content, now: Timestamp) -> Option<checkpoint::Restored> {
    if !store.view {
        return None;
    }
    let mut restored = view::read(store, entropy, now)?;
    let index = restored.position.index;
    let last = content.entries.iter().find(|entry| entry.index == index)?;
    restored.position.term = last.term;
    Some(restored)
}

fn read(records: Vec<Record>) -> Result<Content, EtcdError> {
    let mut content = Content::default();
    for Record { segment, kind, mut bytes } in records {
        let known = match kind {
            RECORD_HARD_STATE => HardState::decode(&mut bytes).map(|state| content.hard_state = state).is_ok(),
            RECORD_ENTRY => match Entry::decode(&mut bytes) {
                Ok(entry) => content.push(segment, entry),
                Err(_) => false,
            },
            RECORD_RESTART => content.restart(bytes).is_some(),
            RECORD_BOOTSTRAP => read_bootstrap(bytes).map(|found| content.bootstrap = Some(found)).is_some(),
            _ => false,
        };
        if !known {
            return Err(EtcdError::Damaged(format!("log segment {segment} holds a record that cannot be read")));
        }
    }
    Ok(content)
}

impl Content {
    /// A state from another member makes everything before it void.
    fn restart(&mut self, mut bytes: Bytes) -> Option<()> {
        let mark = (LogIndex(bytes.try_get_u64_le().ok()?), Term(bytes.try_get_u64_le().ok()?));
        self.restart = Some(mark);
        self.entries.clear();
        Some(())
    }

    /// Whether the log follows a state that it does not hold itself.
    fn leads_from_elsewhere(&self) -> bool {
        match self.entries.first() {
            Some(first) => first.index > LogIndex(1),
            None => self.hard_state.commit > LogIndex(0),
        }
    }

    /// The hard state and the entries that follow a checkpoint. They count if the log is known to lead up to it: it
    /// holds the checkpoint's entry, begins right after it, or says that it was begun anew there. Otherwise the
    /// checkpoint came from another member, before a crash, and the old log leads elsewhere.
    fn after(mut self, (index, term): (LogIndex, Term), store: &Storage) -> Result<(HardState, Vec<Entry>), EtcdError> {
        let holds = self.entries.iter().any(|entry| (entry.index, entry.term) == (index, term));
        let follows = self.entries.first().is_some_and(|first| first.index == index.next());
        let ends_before = self.entries.last().is_none_or(|last| last.index <= index);
        let conflicts = self.entries.iter().any(|entry| entry.index == index && entry.term != term);
        if !(holds || follows || self.restart == Some((index, term))) {
            if !ends_before && !conflicts {
                let path = store.dir.display();
                let text = format!("{path}: the log begins after entry {index}, where the checkpoint ends");
                return Err(EtcdError::Damaged(text));
            }
            self.entries.clear();
        }
        self.entries.retain(|entry| entry.index > index);
        Ok((self.hard_state, self.entries))
    }

    /// An entry replaces the entry of the same index and all after it.
    fn push(&mut self, segment: u64, entry: Entry) -> bool {
        if let Some(first) = self.entries.first() {
            let Some(at) = entry.index.0.checked_sub(first.index.0) else { return false };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at > self.entries.len() {
                return false;
            }
            self.entries.truncate(at);
        }
        self.segments.insert(segment, entry.index);
        self.entries.push(entry);
        true
    }
}

fn read_bootstrap(mut bytes: Bytes) -> Option<(u64, u64, Members)> {
    let (cluster, member) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    Some((cluster, member, Members::decode(&bytes)?))
}
