//! The physical half of compaction: rows that no reader can reach any more are dropped piece by piece.

use std::sync::Arc;

use crate::keyspace::{Batch, Keyspace};
use crate::row::{Row, RowRevision};

/// A compaction under way.
#[derive(Clone)]
pub(crate) struct Compaction {
    target: i64,
    /// Everything before it is done.
    next: RowRevision,
}

impl Compaction {
    pub(crate) fn new(target: i64) -> Self {
        Self { target, next: RowRevision { main: 0, sub: 0 } }
    }
}

impl Keyspace {
    /// Whether rows are still to be dropped.
    pub fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// Looks at up to `rows_max` rows and drops those nobody can reach. The batch says which; when nothing is left to
    /// do, [`Keyspace::is_compacting`] turns false.
    pub fn compact_step(&mut self, rows_max: usize) -> Batch {
        let mut batch = Batch::default();
        let Some(compaction) = self.compaction.take() else { return batch };
        let Compaction { target, next } = compaction;
        let end = RowRevision { main: target, sub: i64::MAX };
        let rows = self.state.rows.range(next..=end).take(rows_max);
        let rows: Vec<Arc<Row>> = rows.map(|(_, row)| row.clone()).collect();
        for row in &rows {
            if !self.reachable(row, target) {
                self.drop_oldest(row);
                batch.gone.push(row.disk_key());
            }
        }
        if let Some(last) = rows.last().filter(|_| rows.len() == rows_max) {
            let RowRevision { main, sub } = last.revision();
            self.compaction = Some(Compaction { target, next: RowRevision { main, sub: sub + 1 } });
        }
        self.state.compacting = self.compaction.is_some();
        batch
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
