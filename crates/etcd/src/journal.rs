//! What makes the state survive: the log, checkpoints, and the view that follows behind.
//!
//! ```text
//! DIR/log/         entries and hard state, synced before they count
//! DIR/checkpoint   the whole state at one entry; log segments it covers are removed
//! DIR/view/        sled, behind by a bounded amount; only read when the checkpoint cannot be
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::Entropy;
use bytes::{BufMut, BytesMut};
use disk::{DataKey, Disk, DiskError, Log};
use mvcc::{Batch, Keyspace};
use raft::{Entry, HardState, LogIndex, Raft};
use tokio::sync::oneshot;

use crate::checkpoint::{self, Position};
use crate::members::Members;
use crate::metrics::Histogram;
use crate::shared::{Message, Shared};
use crate::view::ViewWriter;
use crate::{EtcdError, error::storage};

pub(crate) const RECORD_HARD_STATE: u8 = 1;
pub(crate) const RECORD_ENTRY: u8 = 2;
/// Whose log it is, and where other members were when it began.
pub(crate) const RECORD_BOOTSTRAP: u8 = 3;
/// A state that came from another member took the place of everything before: its index and term.
pub(crate) const RECORD_RESTART: u8 = 4;

/// A checkpoint is not due before the log has this share of the state's size: it costs as much as the state is large.
const CHECKPOINT_STATE_SHARE: i64 = 2;
/// A checkpoint is due when the log has grown by this much, however few entries it has: they are held in memory.
const CHECKPOINT_LOG_BYTES: i64 = 64 << 20;

/// Where a member's state is kept.
#[derive(Clone)]
pub struct Storage {
    /// The directory; `log`, `checkpoint` and `view` in it are the member's.
    pub dir: PathBuf,
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// Seals everything in it.
    pub key: DataKey,
    /// Whether to keep the sled view (it needs real files).
    pub view: bool,
}

/// Where entries go before they count.
pub(crate) enum Journal {
    /// Nowhere: the state dies with the process.
    Volatile,
    /// To a directory.
    Durable(Box<Durable>),
}

pub(crate) struct Durable {
    storage: Storage,
    log: Log,
    /// Whose log it is: written into every segment, as older ones are removed.
    bootstrap: BytesMut,
    hard_state: HardState,
    /// The last index in each segment.
    segments: BTreeMap<u64, LogIndex>,
    /// The last index appended.
    last: LogIndex,
    scratch: BytesMut,
    snapshot_count: u64,
    /// What the last checkpoint covers.
    covered: LogIndex,
    log_bytes: i64,
    checkpointing: bool,
    resealing: Resealing,
    /// Writes the last checkpoint that was begun.
    writer: Option<JoinHandle<()>>,
    view: Option<ViewWriter>,
}

/// How far a change of the key has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resealing {
    /// Everything is sealed with the current key.
    Done,
    /// A checkpoint has to be written with it.
    Wanted,
    /// That is under way, or done: the segments before this one have to go.
    Before(u64),
}

/// A log as it was found.
pub(crate) struct Opened {
    pub(crate) log: Log,
    /// The first record of each of its segments.
    pub(crate) bootstrap: BytesMut,
    /// The last index in each segment.
    pub(crate) segments: BTreeMap<u64, LogIndex>,
    pub(crate) hard_state: HardState,
    /// What the checkpoint covers.
    pub(crate) covered: LogIndex,
    /// Bytes of the entries after it.
    pub(crate) log_bytes: i64,
}

impl Durable {
    pub(crate) fn new(storage: Storage, opened: Opened, snapshot_count: u64, view: Option<ViewWriter>) -> Self {
        let Opened { mut log, bootstrap, segments, hard_state, covered, log_bytes } = opened;
        log.append(RECORD_BOOTSTRAP, &bootstrap);
        Self {
            last: segments.values().copied().max().unwrap_or(covered),
            storage,
            log,
            bootstrap,
            hard_state,
            segments,
            scratch: BytesMut::new(),
            snapshot_count,
            covered,
            log_bytes,
            checkpointing: false,
            resealing: Resealing::Done,
            writer: None,
            view,
        }
    }

    fn write_hard_state(&mut self) {
        self.scratch.clear();
        self.hard_state.encode(&mut self.scratch);
        self.log.append(RECORD_HARD_STATE, &self.scratch);
    }

    fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state;
            self.write_hard_state();
        }
        for entry in entries {
            self.scratch.clear();
            entry.encode(&mut self.scratch);
            self.log.append(RECORD_ENTRY, &self.scratch);
            self.last = entry.index;
            self.log_bytes += i64::try_from(self.scratch.len()).unwrap_or(i64::MAX);
        }
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let segment = self.log.sync()?;
        self.segments.insert(segment, self.last);
        Ok(())
    }

    fn is_due(&self, keyspace: &Keyspace, applied: LogIndex) -> bool {
        let entries = applied.0.saturating_sub(self.covered.0);
        let pays = self.log_bytes >= keyspace.state().size_in_use_bytes() / CHECKPOINT_STATE_SHARE;
        let resealing = match self.resealing {
            Resealing::Done => false,
            Resealing::Wanted => true,
            // What was not applied when the last one was begun.
            Resealing::Before(_) => entries > 0,
        };
        !self.checkpointing
            && (resealing
                || (entries >= self.snapshot_count && pays)
                || (self.log_bytes >= CHECKPOINT_LOG_BYTES && pays && entries > 0))
    }

    /// Starts a checkpoint in the background and a new segment, so that all older ones can go once it is there.
    fn begin_checkpoint(
        &mut self,
        shared: &Arc<Shared>,
        keyspace: &Keyspace,
        raft: &Raft,
        (applied, members): (LogIndex, &Members),
    ) -> Result<(), EtcdError> {
        let segment = self.log.roll().map_err(|error| storage("starting a log segment", error))?;
        if self.resealing == Resealing::Wanted {
            self.resealing = Resealing::Before(segment);
        }
        self.log.append(RECORD_BOOTSTRAP, &self.bootstrap);
        self.write_hard_state();
        self.log_bytes = 0;
        self.checkpointing = true;
        let position = Position {
            index: applied,
            term: raft.term_at(applied).unwrap_or_default(),
            members: members.clone(),
            marks: keyspace.marks(),
        };
        let (snapshot, shared, storage) = (keyspace.snapshot(), shared.clone(), self.storage.clone());
        let write = move || {
            let entropy = shared.entropy.clone();
            let done = checkpoint::write(&storage, &entropy, &position, &snapshot);
            let _ = shared.send(Message::Checkpointed(done.map(|()| position.index.0)));
        };
        let thread = std::thread::Builder::new().name("etcd-checkpoint".to_owned()).spawn(write);
        self.writer = Some(thread.map_err(EtcdError::Thread)?);
        Ok(())
    }

    /// The checkpoint comes first: a log that does not lead up to a checkpoint is known to be of no use.
    fn restore(&mut self, entropy: &Entropy, position: &Position, keyspace: &Keyspace) -> Result<(), EtcdError> {
        checkpoint::write(&self.storage, entropy, position, &keyspace.snapshot())?;
        self.scratch.clear();
        self.scratch.put_u64_le(position.index.0);
        self.scratch.put_u64_le(position.term.0);
        self.log.append(RECORD_RESTART, &self.scratch);
        (self.last, self.covered, self.log_bytes) = (position.index, position.index, 0);
        self.sync().map_err(|error| storage("writing the log", error))?;
        if let Some(view) = &mut self.view {
            view.replace(position.index, keyspace, &position.members);
        }
        Ok(())
    }

    fn cut(&mut self, index: LogIndex) -> Result<(), EtcdError> {
        self.covered = index;
        let current = self.log.segment();
        let covered = |(segment, last): (&u64, &LogIndex)| *segment < current && *last <= index;
        let mut cut = self.segments.iter().take_while(|(s, l)| covered((s, l))).map(|(segment, _)| segment + 1).last();
        if let Resealing::Before(first) = self.resealing
            && self.segments.range(..first).all(covered)
        {
            // Segments without entries go too.
            cut = Some(first);
        }
        let Some(before) = cut else { return Ok(()) };
        self.sync().map_err(|error| storage("writing the log", error))?;
        self.log.cut(before).map_err(|error| storage("cutting the log", error))?;
        self.segments = self.segments.split_off(&before);
        if self.resealing == Resealing::Before(before) {
            self.resealing = Resealing::Done;
        }
        Ok(())
    }
}

impl Journal {
    /// Takes entries and hard state; they are durable after [`Journal::sync`].
    pub(crate) fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        if let Self::Durable(durable) = self {
            durable.append(hard_state, entries);
        }
    }

    /// How long the view takes for its batches; nobody adds to it where there is none.
    pub(crate) fn commits(&self) -> Arc<Histogram> {
        let view = match self {
            Self::Volatile => None,
            Self::Durable(durable) => durable.view.as_ref(),
        };
        view.map(ViewWriter::commits).unwrap_or_default()
    }

    /// Makes durable what was appended. When the disk is full it may be tried again.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        match self {
            Self::Volatile => Ok(()),
            Self::Durable(durable) => durable.sync(),
        }
    }

    /// Tells the view what the entry at `index` changed.
    pub(crate) fn view(&mut self, index: LogIndex, keyspace: &Keyspace, batch: Batch) {
        if let Self::Durable(durable) = self
            && let Some(view) = &mut durable.view
        {
            view.send(index, keyspace, batch);
        }
    }

    /// Tells the view who the members are after the entry at `index`.
    pub(crate) fn view_members(&mut self, index: LogIndex, keyspace: &Keyspace, members: &Members) {
        if let Self::Durable(durable) = self
            && let Some(view) = &mut durable.view
        {
            view.send_members(index, keyspace, members);
        }
    }

    /// A state that came from another member takes the place of everything: durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the log must not be used any more then.
    pub(crate) fn restore(
        &mut self,
        entropy: &Entropy,
        position: &Position,
        keyspace: &Keyspace,
    ) -> Result<(), EtcdError> {
        match self {
            Self::Volatile => Ok(()),
            Self::Durable(durable) => durable.restore(entropy, position, keyspace),
        }
    }

    pub(crate) fn maybe_checkpoint(
        &mut self,
        shared: &Arc<Shared>,
        keyspace: &Keyspace,
        raft: &Raft,
        (applied, members): (LogIndex, &Members),
    ) -> Result<(), EtcdError> {
        match self {
            Self::Durable(durable) if durable.is_due(keyspace, applied) => {
                durable.begin_checkpoint(shared, keyspace, raft, (applied, members))
            }
            _ => Ok(()),
        }
    }

    /// Gives space back to the disk: a checkpoint takes the log's place, and the view is made anew. Whether a checkpoint is
    /// under way that tells when that is done.
    pub(crate) fn defragment(
        &mut self,
        shared: &Arc<Shared>,
        keyspace: &Keyspace,
        raft: &Raft,
        (applied, members): (LogIndex, &Members),
    ) -> Result<bool, EtcdError> {
        let Self::Durable(durable) = self else { return Ok(false) };
        if let Some(view) = &mut durable.view {
            view.rebuild(applied, keyspace);
        }
        if !durable.checkpointing && applied > durable.covered {
            durable.begin_checkpoint(shared, keyspace, raft, (applied, members))?;
        }
        Ok(durable.checkpointing)
    }

    /// Seals everything anew with another key: a checkpoint and a new segment take the log's place.
    pub(crate) fn reseal(&mut self, key: DataKey, applied: LogIndex, keyspace: &Keyspace, view: oneshot::Sender<bool>) {
        let Self::Durable(durable) = self else {
            let _ = view.send(true);
            return;
        };
        durable.storage.key = key.clone();
        durable.log.set_key(key.clone());
        durable.resealing = Resealing::Wanted;
        match &mut durable.view {
            Some(writer) => writer.reseal(key, applied, keyspace, view),
            None => {
                let _ = view.send(true);
            }
        }
    }

    /// Whether everything in log and checkpoint is sealed with the current key.
    pub(crate) fn is_resealed(&self) -> bool {
        match self {
            Self::Volatile => true,
            Self::Durable(durable) => durable.resealing == Resealing::Done && !durable.checkpointing,
        }
    }

    /// A checkpoint was made, or could not be: what it covers may go. Returns what may be forgotten.
    pub(crate) fn checkpointed(&mut self, done: Result<u64, EtcdError>) -> Result<Option<LogIndex>, EtcdError> {
        let Self::Durable(durable) = self else { return Ok(None) };
        durable.checkpointing = false;
        match done {
            Ok(index) => {
                durable.cut(LogIndex(index))?;
                Ok(Some(LogIndex(index)))
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(target: "etcd", %error, cause, "a checkpoint failed; the log keeps everything");
                Ok(None)
            }
        }
    }

    /// Waits for a checkpoint that is being written, and ends the view's thread.
    pub(crate) fn close(self) {
        let Self::Durable(durable) = self else { return };
        if let Some(writer) = durable.writer {
            let _ = writer.join();
        }
        if let Some(view) = durable.view {
            view.close();
        }
    }
}

/// The first record of a segment: whose log it is, and where the other members were when it began.
pub(crate) fn bootstrap(known: &Members, cluster_id: u64, member_id: u64) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u64_le(cluster_id);
    out.put_u64_le(member_id);
    out.put_slice(&known.encode());
    out
}
