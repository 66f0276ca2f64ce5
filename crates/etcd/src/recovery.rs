//! What a member finds on its disk when it starts: checkpoint, then log; the view when the checkpoint is damaged.

use std::collections::BTreeMap;

use base::{Entropy, Timestamp};
use bytes::{Buf, Bytes};
use disk::{Log, Record};
use mvcc::Keyspace;
use raft::{Entry, HardState, LogIndex, Membership};

use crate::error::storage;
use crate::journal::{Durable, Journal, Opened, RECORD_BOOTSTRAP, RECORD_ENTRY, RECORD_HARD_STATE, Storage, bootstrap};
use crate::view::ViewWriter;
use crate::{EtcdError, checkpoint, view};

/// Everything a member continues from.
pub(crate) struct Recovered {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) keyspace: Keyspace,
    pub(crate) raft: raft::Restored,
    pub(crate) journal: Journal,
}

/// The log's content.
#[derive(Default)]
struct Content {
    hard_state: HardState,
    entries: Vec<Entry>,
    segments: BTreeMap<u64, LogIndex>,
    bootstrap: Option<(u64, u64, Membership)>,
}

/// Opens a member's storage. A new one begins with the given ids and this member alone.
pub(crate) fn recover(
    store: Storage,
    entropy: &Entropy,
    now: Timestamp,
    (cluster_id, member_id): (u64, u64),
    snapshot_count: u64,
) -> Result<Recovered, EtcdError> {
    store.disk.create_dir(&store.dir).map_err(|error| storage("making the data directory", error))?;
    let opened = Log::open(store.disk.clone(), &store.dir.join("log"), store.key.clone(), entropy.clone());
    let (log, records) = opened.map_err(|error| storage("opening the log", error))?;
    let content = read(records)?;
    let (cluster_id, member_id, members) = match &content.bootstrap {
        Some((cluster, member, members)) => (*cluster, *member, members.clone()),
        None => (cluster_id, member_id, Membership { voters: [member_id].into(), ..Membership::default() }),
    };
    let restored = match checkpoint::read(&store, now) {
        Ok(restored) => restored,
        Err(error) => match from_view(&store, entropy, &members, &content, now) {
            Some(restored) => {
                tracing::warn!(target: "etcd", %error, "the checkpoint is damaged; the view takes its place");
                Some(restored)
            }
            None => return Err(error),
        },
    };
    let (index, term, members, keyspace) = match restored {
        Some(restored) => {
            let position = restored.position;
            (position.index, position.term, position.members, restored.keyspace)
        }
        None => (LogIndex(0), raft::Term(0), members, Keyspace::new()),
    };
    let entries: Vec<Entry> = content.entries.into_iter().filter(|entry| entry.index > index).collect();
    if entries.first().is_some_and(|first| first.index != index.next()) {
        let path = store.dir.display();
        return Err(EtcdError::Damaged(format!(
            "{path}: the log begins after entry {index}, where the checkpoint ends"
        )));
    }
    let bootstrap = bootstrap(&members, cluster_id, member_id);
    let writer = if store.view {
        Some(ViewWriter::start(store.clone(), entropy.clone(), index, &keyspace).map_err(EtcdError::Thread)?)
    } else {
        None
    };
    let hard_state = content.hard_state;
    let log_bytes = entries.iter().map(|entry| i64::try_from(entry.data.len()).unwrap_or(i64::MAX)).sum();
    let opened = Opened { log, bootstrap, segments: content.segments, hard_state, covered: index, log_bytes };
    let durable = Durable::new(store, opened, snapshot_count, writer);
    let raft =
        raft::Restored { hard_state, members, entries, snapshot_index: index, snapshot_term: term, applied: index };
    Ok(Recovered { cluster_id, member_id, keyspace, raft, journal: Journal::Durable(Box::new(durable)) })
}

/// The view helps only if the log goes on where it ends.
fn from_view(
    store: &Storage,
    entropy: &Entropy,
    members: &Membership,
    content: &Content,
    now: Timestamp,
) -> Option<checkpoint::Restored> {
    if !store.view {
        return None;
    }
    let mut restored = view::read(store, entropy, members.clone(), now)?;
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

fn read_bootstrap(mut bytes: Bytes) -> Option<(u64, u64, Membership)> {
    let (cluster, member) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    Some((cluster, member, Membership::decode(&mut bytes).ok()?))
}
