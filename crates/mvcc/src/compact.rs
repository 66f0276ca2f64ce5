//! The physical half of compaction: rows that no reader can reach any more are dropped piece by piece.

use std::sync::Arc;

use crate::HashKv;
use crate::hash::RowHash;
use crate::keyspace::{Batch, Keyspace};
use crate::row::{Row, RowRevision};

/// Checksums of compactions that are remembered (etcd: `hashStorageMaxSize`).
const HASHES_MAX: usize = 10;

/// A compaction under way.
#[derive(Clone)]
pub(crate) struct Compaction {
    target: i64,
    /// Everything before it is done.
    next: RowRevision,
    /// The checksum that etcd makes on the way, over what was there since the compaction before; not made when that one
    /// was interrupted.
    hash: Option<Partial>,
}

#[derive(Clone)]
struct Partial {
    /// Revision of the compaction before.
    previous: i64,
    keeps_any: bool,
    hash: RowHash,
}

impl Compaction {
    /// One whose predecessor may not have ended.
    pub(crate) fn resumed(target: i64) -> Self {
        Self { target, next: RowRevision { main: 0, sub: 0 }, hash: None }
    }
}

impl Keyspace {
    /// Whether rows are still to be dropped.
    pub fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }

    pub(crate) fn begin_compaction(&mut self, target: i64) {
        let mut compaction = Compaction::resumed(target);
        if self.compaction.is_none() {
            let kept = |versions: &crate::snapshot::Versions| {
                versions.at(target).is_some_and(|row| !row.tombstone || row.kv.mod_revision == target)
            };
            let keeps_any = self.state.index.values().any(kept);
            compaction.hash = Some(Partial { previous: self.state.compacted, keeps_any, hash: RowHash::new() });
        }
        self.state.compacted = target;
        self.state.compacting = true;
        self.compaction = Some(compaction);
    }

    /// Looks at up to `rows_max` rows and drops those nobody can reach. The batch says which; when nothing is left to
    /// do, [`Keyspace::is_compacting`] turns false.
    pub fn compact_step(&mut self, rows_max: usize) -> Batch {
        let mut batch = Batch::default();
        let Some(Compaction { target, next, mut hash }) = self.compaction.take() else { return batch };
        let end = RowRevision { main: target, sub: i64::MAX };
        let rows = self.state.rows.range(next..=end).take(rows_max);
        let rows: Vec<Arc<Row>> = rows.map(|(_, row)| row.clone()).collect();
        for row in &rows {
            let reachable = self.reachable(row, target);
            if let Some(partial) = &mut hash {
                partial.add(row, reachable);
            }
            if !reachable {
                self.drop_oldest(row);
                batch.gone.push(row.disk_key());
            }
        }
        if let Some(last) = rows.last().filter(|_| rows.len() == rows_max) {
            let RowRevision { main, sub } = last.revision();
            self.compaction = Some(Compaction { target, next: RowRevision { main, sub: sub + 1 }, hash });
        } else if let Some(Partial { previous, hash, .. }) = hash {
            self.remember(previous, target, hash);
        }
        self.state.compacting = self.compaction.is_some();
        batch
    }

    fn remember(&mut self, previous: i64, target: i64, hash: RowHash) {
        let mut hashes = self.state.hashes.to_vec();
        let revision = self.state.revision;
        hashes.push(HashKv { hash: hash.sum(), compact_revision: previous, hash_revision: target, revision });
        let from = hashes.len().saturating_sub(HASHES_MAX);
        self.state.hashes = hashes.split_off(from).into();
    }

    /// A key's newest version at the compaction's revision stays, unless it is a tombstone older than that revision
    /// (a tombstone exactly there stays for watches that start there).
    fn reachable(&self, row: &Row, target: i64) -> bool {
        self.state.kept(row, target)
    }

    /// Rows are visited oldest first, so the one to drop is its key's oldest.
    fn drop_oldest(&mut self, row: &Row) {
        self.state.rows.remove(&row.revision());
        self.state.size_in_use -= row.size_bytes();
        let keep = self.state.index.get_mut(&row.kv.key).is_some_and(|versions| versions.pop_oldest());
        if !keep {
            self.state.index.remove(&row.kv.key);
        }
    }
}

impl Partial {
    fn add(&mut self, row: &Row, kept: bool) {
        let last_tombstone = row.tombstone && row.kv.mod_revision == self.previous;
        if !last_tombstone && (row.kv.mod_revision > self.previous || kept || !self.keeps_any) {
            self.hash.add(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;
    use crate::{Command, PutRequest};

    #[test]
    fn the_checksum_of_a_compaction_is_etcds_and_outlives_it() {
        let mut keyspace = Keyspace::new();
        for round in 1..=3 {
            for key in ["a", "b", "c", "d"] {
                let value = format!("v{round}{key}").into();
                let put = PutRequest { key: key.into(), value, ..PutRequest::default() };
                keyspace.apply(&Command::Put(put), Timestamp::EPOCH).answer.expect("written");
            }
        }
        let compact = |keyspace: &mut Keyspace, target| {
            keyspace.apply(&Command::Compact(target), Timestamp::EPOCH).answer.expect("compacted");
            while keyspace.is_compacting() {
                keyspace.compact_step(3);
            }
        };
        compact(&mut keyspace, 12);
        // As etcd 3.6.16 told after the same.
        let told = HashKv { hash: 2_145_997_564, compact_revision: -1, hash_revision: 12, revision: 13 };
        assert_eq!(keyspace.state().hash_kv(12), Ok(told));
        compact(&mut keyspace, 13);
        assert_eq!(keyspace.state().hash_kv(12), Ok(told), "it is not asked whether that is compacted away");
        assert_eq!(keyspace.state().hash_kv(13).map(|hash| hash.compact_revision), Ok(12));
        assert_eq!(keyspace.state().hash_kv(0).map(|hash| hash.compact_revision), Ok(13));
    }
}
