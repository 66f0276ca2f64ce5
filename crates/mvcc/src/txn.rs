//! Transactions, and the single writes that are transactions of one operation.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use crate::keyspace::{Batch, Keyspace};
use crate::row::{Change, Row};
use crate::snapshot::Snapshot;
use crate::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, KeyValue, MvccError, PutRequest,
    PutResponse, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};

/// A write in progress: everything in it shares one revision, and its own reads see it.
pub(crate) struct Write<'a> {
    pub(crate) keyspace: &'a mut Keyspace,
    /// The revision before it.
    pub(crate) begin: i64,
    pub(crate) changes: Vec<Change>,
    pub(crate) batch: Batch,
}

/// Which branch each transaction of a tree takes, decided before anything is written.
struct Path {
    taken: bool,
    /// One for each nested transaction of the taken branch, in order.
    nested: Vec<Path>,
}

impl Snapshot {
    /// Runs a transaction that has only ranges in it.
    ///
    /// # Errors
    /// As [`Snapshot::range`].
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let taken = self.holds(&request.compare);
        let mut response = TxnResponse { revision: self.revision, succeeded: taken, responses: Vec::new() };
        for op in if taken { &request.success } else { &request.failure } {
            if let RequestOp::Range(range) = op {
                self.check_range(range)?;
                response.responses.push(ResponseOp::Range(self.range(range)?));
            }
        }
        Ok(response)
    }

    fn path(&self, request: &TxnRequest) -> Path {
        let taken = self.holds(&request.compare);
        let ops = if taken { &request.success } else { &request.failure };
        let nested = ops.iter().filter_map(|op| match op {
            RequestOp::Txn(txn) => Some(self.path(txn)),
            _ => None,
        });
        Path { taken, nested: nested.collect() }
    }

    fn holds(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| self.holds_one(compare))
    }

    fn holds_one(&self, compare: &Compare) -> bool {
        let mut rows = self.walk(&compare.key, &compare.range_end, self.revision).peekable();
        if rows.peek().is_some() {
            return rows.all(|row| relates(compare, &row.kv));
        }
        // A missing key counts as zeros, but has no value to compare with.
        !matches!(compare.target, CompareTarget::Value(_)) && relates(compare, &KeyValue::default())
    }

    fn check_range(&self, range: &RangeRequest) -> Result<(), MvccError> {
        if range.revision != 0 && range.revision < self.compacted {
            return Err(MvccError::Compacted { revision: self.compacted });
        }
        self.check_revision(range.revision)
    }
}

fn relates(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
        CompareTarget::Unknown => std::cmp::Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::Other => true,
    }
}

impl<'a> Write<'a> {
    pub(crate) fn new(keyspace: &'a mut Keyspace) -> Self {
        let begin = keyspace.state.revision;
        Self { keyspace, begin, changes: Vec::new(), batch: Batch::default() }
    }

    /// The store's revision as this write's own reads see it.
    pub(crate) fn revision(&self) -> i64 {
        if self.changes.is_empty() { self.begin } else { self.begin + 1 }
    }

    pub(crate) fn checked_put(&mut self, request: &PutRequest) -> Result<PutResponse, MvccError> {
        // A put alone looks at its lease first; in a transaction the key comes first (`server/etcdserver/txn`).
        self.check_lease(request)?;
        self.check_put(request)?;
        Ok(self.put(request))
    }

    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, MvccError> {
        let path = self.keyspace.state.path(request);
        self.check(request, &path)?;
        let mut response = self.run(request, &path)?;
        response.revision = self.revision();
        Ok(response)
    }

    /// Everything is checked against the state before the transaction, so that nothing can fail half-way.
    fn check(&self, request: &TxnRequest, path: &Path) -> Result<(), MvccError> {
        let mut nested = path.nested.iter();
        for op in branch(request, path) {
            match op {
                RequestOp::Range(range) => self.keyspace.state.check_range(range)?,
                RequestOp::Put(put) => self.check_put(put)?,
                RequestOp::Txn(txn) => {
                    if let Some(path) = nested.next() {
                        self.check(txn, path)?;
                    }
                }
                RequestOp::DeleteRange(_) | RequestOp::Empty => {}
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), MvccError> {
        let state = &self.keyspace.state;
        if (put.ignore_value || put.ignore_lease)
            && state.index.get(&put.key).and_then(|versions| versions.live(i64::MAX)).is_none()
        {
            return Err(MvccError::KeyNotFound);
        }
        self.check_lease(put)
    }

    fn check_lease(&self, put: &PutRequest) -> Result<(), MvccError> {
        if put.lease != 0 && !self.keyspace.state.leases.contains_key(&put.lease) {
            return Err(MvccError::LeaseNotFound);
        }
        Ok(())
    }

    fn run(&mut self, request: &TxnRequest, path: &Path) -> Result<TxnResponse, MvccError> {
        let mut response = TxnResponse { revision: 0, succeeded: path.taken, responses: Vec::new() };
        let mut nested = path.nested.iter();
        for op in branch(request, path) {
            let answer = match op {
                RequestOp::Range(range) => ResponseOp::Range(self.keyspace.state.range_at(range, self.revision())?),
                RequestOp::Put(put) => ResponseOp::Put(self.put(put)),
                RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete_range(delete)),
                RequestOp::Txn(txn) => match nested.next() {
                    Some(path) => ResponseOp::Txn(self.run(txn, path)?),
                    None => continue,
                },
                RequestOp::Empty => continue,
            };
            response.responses.push(answer);
        }
        Ok(response)
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let revision = self.begin + 1;
        let sub = self.changes.len() as i64;
        let versions = self.keyspace.state.index.get(&request.key);
        let old = versions.and_then(|versions| versions.live(revision)).cloned();
        // The newest version's key is shared; values are copied to their exact size, because what arrives is a slice
        // of a larger network buffer that must not be kept alive.
        let key = versions.map_or_else(|| Bytes::copy_from_slice(&request.key), |v| v.newest.kv.key.clone());
        let prev = versions.and_then(|versions| versions.live(self.begin)).cloned();
        let mut kv = KeyValue {
            key,
            value: Bytes::copy_from_slice(&request.value),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: request.lease,
        };
        let old_lease = old.as_ref().map_or(0, |old| old.kv.lease);
        if let Some(old) = &old {
            kv.create_revision = old.kv.create_revision;
            kv.version = old.kv.version + 1;
            if request.ignore_value {
                kv.value = old.kv.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old_lease;
            }
        }
        if old_lease != kv.lease {
            self.keyspace.detach(old_lease, &kv.key);
            self.keyspace.attach(kv.lease, &kv.key);
        }
        self.record(Row { kv, sub, tombstone: false }, prev);
        PutResponse { revision, prev_kv: old.filter(|_| request.prev_kv).map(|row| row.kv.clone()) }
    }

    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let current = self.revision();
        let walk = self.keyspace.state.walk(&request.key, &request.range_end, current);
        let found: Vec<Arc<Row>> = walk.cloned().collect();
        for row in &found {
            self.delete(&row.kv.key);
        }
        let prev_kvs = if request.prev_kv { found.iter().map(|row| row.kv.clone()).collect() } else { Vec::new() };
        DeleteRangeResponse { revision: self.revision(), deleted: found.len() as i64, prev_kvs }
    }

    /// Deletes a key that is there.
    pub(crate) fn delete(&mut self, key: &Bytes) {
        let current = self.revision();
        let sub = self.changes.len() as i64;
        let Some(versions) = self.keyspace.state.index.get(key) else { return };
        let Some(old) = versions.live(current).cloned() else { return };
        let prev = versions.live(self.begin).cloned();
        self.keyspace.detach(old.kv.lease, key);
        let kv = KeyValue { key: old.kv.key.clone(), mod_revision: self.begin + 1, ..KeyValue::default() };
        self.record(Row { kv, sub, tombstone: true }, prev);
    }
}

fn branch<'r>(request: &'r TxnRequest, path: &Path) -> &'r [RequestOp] {
    if path.taken { &request.success } else { &request.failure }
}
