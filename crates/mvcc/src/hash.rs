//! `HashKV`: a checksum over the stored rows that is equal on every member, and equal to etcd's own.

use crate::MvccError;
use crate::row::{Row, RowRevision};
use crate::snapshot::Snapshot;

/// Answer to `HashKV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// Revision of the last compaction, -1 for none.
    pub compact_revision: i64,
    /// The revision it was computed for.
    pub hash_revision: i64,
    /// The store's revision.
    pub revision: i64,
}

/// The checksum while it is made.
#[derive(Clone)]
pub(crate) struct RowHash(u32);

impl RowHash {
    pub(crate) fn new() -> Self {
        Self(crc32c::crc32c(b"key"))
    }

    pub(crate) fn add(&mut self, row: &Row) {
        self.0 = crc32c::crc32c_append(self.0, &row.disk_key());
        self.0 = crc32c::crc32c_append(self.0, &row.disk_value());
    }

    pub(crate) fn sum(&self) -> u32 {
        self.0
    }
}

impl Snapshot {
    /// Whether compaction to `target` keeps a row.
    pub(crate) fn kept(&self, row: &Row, target: i64) -> bool {
        if row.kv.mod_revision > target {
            return true;
        }
        let versions = self.index.get(&row.kv.key);
        let keeper = versions.and_then(|versions| versions.at(target)).map(|keeper| keeper.revision());
        keeper == Some(row.revision()) && !(row.tombstone && row.kv.mod_revision < target)
    }

    /// The checksum of everything up to `revision` (0 for now) that compaction keeps. Of what lies before the compaction
    /// only versions still in force at `revision` count, unless there are none (etcd: `storage/mvcc/hash`). A compaction's
    /// own revision has the checksum that was made while it ran, as long as the process lives.
    ///
    /// # Errors
    /// Future or compacted revision.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, MvccError> {
        if let Some(made) = self.hashes.iter().find(|made| revision > 0 && made.hash_revision == revision) {
            return Ok(HashKv { revision: self.revision, ..*made });
        }
        self.check_revision(revision)?;
        let asked = if revision <= 0 { self.revision } else { revision };
        let end = RowRevision { main: asked, sub: i64::MAX };
        let any_live = self.index.iter().any(|(_, versions)| versions.live(asked).is_some());
        let mut hash = RowHash::new();
        for (_, row) in self.rows.range(..=end) {
            if row.kv.mod_revision <= self.compacted && !self.counts(row, asked, any_live) {
                continue;
            }
            hash.add(row);
        }
        Ok(HashKv { hash: hash.sum(), compact_revision: self.compacted, hash_revision: asked, revision: self.revision })
    }

    /// The checksums that compactions made, as long as they are remembered.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.hashes.to_vec()
    }

    fn counts(&self, row: &Row, asked: i64, any_live: bool) -> bool {
        let last_tombstone = row.tombstone && row.kv.mod_revision == self.compacted;
        let live = || self.index.get(&row.kv.key).and_then(|versions| versions.live(asked));
        let in_force = || live().is_some_and(|live| live.revision() == row.revision());
        !last_tombstone && self.kept(row, self.compacted) && (!any_live || in_force())
    }
}
