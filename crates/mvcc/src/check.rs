//! What a request must satisfy before it is proposed (etcd checks these at the API, `api/v3rpc/key`).

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{DeleteRangeRequest, MvccError, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Checks a range.
///
/// # Errors
/// An empty key.
pub fn check_range(request: &RangeRequest) -> Result<(), MvccError> {
    if request.key.is_empty() { Err(MvccError::EmptyKey) } else { Ok(()) }
}

/// Checks a put.
///
/// # Errors
/// An empty key; a value or lease given together with `ignore_*`.
pub fn check_put(request: &PutRequest) -> Result<(), MvccError> {
    if request.key.is_empty() {
        return Err(MvccError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(MvccError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(MvccError::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// An empty key.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), MvccError> {
    if request.key.is_empty() { Err(MvccError::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction: each operation, at most `ops_max` of them, no key written twice.
///
/// # Errors
/// The first fault found, in etcd's order.
pub fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), MvccError> {
    check_ops(request, ops_max)?;
    let mut writes = Writes::default();
    collect(&request.success, &mut writes)?;
    let mut writes = Writes::default();
    collect(&request.failure, &mut writes)
}

fn check_ops(request: &TxnRequest, ops_max: usize) -> Result<(), MvccError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = ops_max.checked_sub(ops).ok_or(MvccError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(MvccError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match op {
            RequestOp::Range(range) => check_range(range)?,
            RequestOp::Put(put) => check_put(put)?,
            RequestOp::DeleteRange(delete) => check_delete_range(delete)?,
            RequestOp::Txn(txn) => check_ops(txn, left)?,
            RequestOp::Empty => return Err(MvccError::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations writes.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Writes {
    /// An end of `"\0"` ("all that follow") covers nothing here, as in etcd.
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(from, end)| match &end[..] {
            [] => from == key,
            end => &from[..] <= key && key < end,
        })
    }

    fn put(&mut self, key: &Bytes) -> Result<(), MvccError> {
        if self.deletes(key) || !self.puts.insert(key.clone()) {
            return Err(MvccError::DuplicateKey);
        }
        Ok(())
    }
}

fn collect(ops: &[RequestOp], writes: &mut Writes) -> Result<(), MvccError> {
    for op in ops {
        if let RequestOp::DeleteRange(delete) = op {
            writes.deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        let RequestOp::Txn(txn) = op else { continue };
        let (mut then, mut otherwise) = (Writes::default(), Writes::default());
        collect(&txn.success, &mut then)?;
        collect(&txn.failure, &mut otherwise)?;
        for key in &then.puts {
            writes.put(key)?;
        }
        // The branches exclude each other: they may write the same key.
        for key in otherwise.puts.difference(&then.puts) {
            writes.put(key)?;
        }
        writes.deletes.extend(then.deletes);
        writes.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let RequestOp::Put(put) = op {
            writes.put(&put.key)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> RequestOp {
        RequestOp::Put(PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() })
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let (key, range_end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        RequestOp::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp::Txn(TxnRequest { compare: Vec::new(), success, failure })
    }

    fn check(success: Vec<RequestOp>, expect: Result<(), MvccError>) {
        let request = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        assert_eq!(check_txn(&request, 4), expect, "{request:?}");
    }

    #[test]
    fn a_key_may_be_written_once() {
        let twice = Err(MvccError::DuplicateKey);
        check(vec![put("a"), put("b")], Ok(()));
        check(vec![put("a"), put("a")], twice);
        check(vec![put("b"), delete("a", "c")], twice);
        check(vec![put("c"), delete("a", "c")], Ok(()));
        check(vec![delete("a", "c"), delete("b", "")], Ok(()));
        check(vec![txn(vec![put("a")], vec![put("a")])], Ok(()));
        check(vec![txn(vec![put("a")], vec![]), txn(vec![], vec![put("a")])], twice);
        check(vec![txn(vec![delete("a", "")], vec![]), put("a")], twice);
    }

    #[test]
    fn operations_are_counted_along_the_nesting() {
        check(vec![put("a"), put("b"), put("c"), put("d"), put("e")], Err(MvccError::TooManyOps));
        check(vec![txn(vec![put("a"), put("b"), put("c")], vec![])], Ok(()));
        check(vec![txn(vec![put("a"), put("b"), put("c"), put("d")], vec![])], Err(MvccError::TooManyOps));
        check(vec![RequestOp::Empty], Err(MvccError::KeyNotFound));
        check(vec![put("")], Err(MvccError::EmptyKey));
    }
}
