//! What makes the state survive: the log, checkpoints, and the view that follows behind.

use std::sync::Arc;

use mvcc::{Batch, Keyspace};
use raft::{Entry, HardState, LogIndex, Raft};

use crate::EtcdError;
use crate::shared::Shared;

/// Where entries go before they count.
pub(crate) enum Journal {
    /// Nowhere: the state dies with the process.
    Volatile,
}

impl Journal {
    /// Takes entries and hard state; they are durable after [`Journal::sync`].
    pub(crate) fn append(&mut self, _hard_state: Option<HardState>, _entries: &[Entry]) {}

    pub(crate) fn sync(&mut self) -> Result<(), EtcdError> {
        Ok(())
    }

    /// Tells the view what the entry at `index` changed.
    pub(crate) fn view(&mut self, _index: LogIndex, _keyspace: &Keyspace, _batch: Batch) {}

    pub(crate) fn maybe_checkpoint(
        &mut self,
        _shared: &Arc<Shared>,
        _keyspace: &Keyspace,
        _raft: &Raft,
        _applied: LogIndex,
    ) -> Result<(), EtcdError> {
        Ok(())
    }

    /// A checkpoint was made: what it covers may go.
    pub(crate) fn checkpointed(&mut self, done: Result<u64, EtcdError>) -> Result<LogIndex, EtcdError> {
        done.map(LogIndex)
    }

    pub(crate) fn close(&mut self, _keyspace: &Keyspace, _applied: LogIndex) {}
}
