//! `--namespace`: clients see a part of the keyspace, below a prefix, as if it were all of it.

use bytes::Bytes;

use crate::proto as pb;
use pb::request_op::Request;
use pb::response_op::Response;

/// What stands before each key in etcd; empty for the whole keyspace.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespace(Bytes);

impl Namespace {
    pub(super) fn new(prefix: &str) -> Self {
        Self(Bytes::copy_from_slice(prefix.as_bytes()))
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// A key or the bounds of a range, as they are in etcd.
    pub(super) fn enter(&self, key: &mut Bytes, range_end: &mut Bytes) {
        if self.is_all() {
            return;
        }
        *key = self.below(key);
        match &range_end[..] {
            [] => {}
            // To the end of the keyspace is to the end of the namespace.
            [0] => *range_end = mvcc::prefix_end(&self.0),
            end => *range_end = self.below(end),
        }
    }

    fn below(&self, key: &[u8]) -> Bytes {
        [&self.0, key].concat().into()
    }

    /// A key as clients know it; nothing for one outside of the namespace.
    pub(super) fn strip(&self, key: &Bytes) -> Option<Bytes> {
        key.starts_with(&self.0).then(|| key.slice(self.0.len()..))
    }

    fn leave(&self, kv: &mut pb::KeyValue) {
        if let Some(key) = self.strip(&kv.key) {
            kv.key = key;
        }
    }

    pub(super) fn enter_txn(&self, txn: &mut pb::TxnRequest) {
        for compare in &mut txn.compare {
            self.enter(&mut compare.key, &mut compare.range_end);
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.enter(&mut range.key, &mut range.range_end),
                Some(Request::RequestPut(put)) => self.enter(&mut put.key, &mut Bytes::new()),
                Some(Request::RequestDeleteRange(delete)) => self.enter(&mut delete.key, &mut delete.range_end),
                Some(Request::RequestTxn(txn)) => self.enter_txn(txn),
                None => {}
            }
        }
    }

    pub(super) fn leave_txn(&self, txn: &mut pb::TxnResponse) {
        for op in &mut txn.responses {
            match &mut op.response {
                Some(Response::ResponseRange(range)) => self.leave_all(&mut range.kvs),
                Some(Response::ResponsePut(put)) => self.leave_all(&mut put.prev_kv),
                Some(Response::ResponseDeleteRange(delete)) => self.leave_all(&mut delete.prev_kvs),
                Some(Response::ResponseTxn(txn)) => self.leave_txn(txn),
                None => {}
            }
        }
    }

    pub(super) fn leave_all<'k>(&self, kvs: impl IntoIterator<Item = &'k mut pb::KeyValue>) {
        kvs.into_iter().for_each(|kv| self.leave(kv));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_namespace() {
        let check = |prefix: &str, key: &str, end: &str, expect: [&[u8]; 2]| {
            let (mut key, mut end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
            Namespace::new(prefix).enter(&mut key, &mut end);
            assert_eq!([&key[..], &end[..]], expect);
        };
        check("ns/", "a", "", [b"ns/a", b""]);
        check("ns/", "a", "c", [b"ns/a", b"ns/c"]);
        check("ns/", "a", "\0", [b"ns/a", b"ns0"]);
        check("ns/", "\0", "\0", [b"ns/\0", b"ns0"]);
        check("", "a", "\0", [b"a", b"\0"]);
        let namespace = Namespace(Bytes::from_static(b"\xff\xff"));
        let (mut key, mut end) = (Bytes::from_static(b"a"), Bytes::from_static(b"\0"));
        namespace.enter(&mut key, &mut end);
        assert_eq!(&end[..], b"\0", "there is nothing behind it");
    }

    #[test]
    fn keys_of_others_are_told_apart() {
        let namespace = Namespace::new("ns/");
        assert_eq!(namespace.strip(&Bytes::from_static(b"ns/a")).as_deref(), Some(&b"a"[..]));
        assert_eq!(namespace.strip(&Bytes::from_static(b"n")), None);
    }
}
