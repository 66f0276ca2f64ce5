//! Service `KV`: requests go to etcd within the namespace, and answers of ranges are kept for clients that take a stale one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tonic::{Code, Status};

use super::cache::{Cache, Found, compacted};
use super::namespace::Namespace;
use super::upstream::{Caller, Repeat, Upstream};
use crate::hub::lock;
use crate::metrics::Counter;
use crate::proto as pb;
use pb::request_op::Request;
use pb::response_op::Response;

/// A cluster of n members is asked so many times n, before there is nobody who knows what was seen already.
const ROUNDS_MAX: usize = 5;

/// The keyspace behind the proxy.
pub(super) struct Kv {
    upstream: Arc<Upstream>,
    namespace: Namespace,
    order: Option<Order>,
    cache: Mutex<Cache>,
    /// Ranges that were answered without etcd, and that were not.
    pub(super) hits: Counter,
    pub(super) misses: Counter,
}

/// The newest revision that any answer had (`--experimental-serializable-ordering`): none goes back behind it.
#[derive(Default)]
struct Order(AtomicI64);

impl Kv {
    pub(super) fn new(upstream: Arc<Upstream>, namespace: Namespace, ordered: bool) -> Self {
        Self {
            upstream,
            namespace,
            order: ordered.then(Order::default),
            cache: Mutex::default(),
            hits: Counter::default(),
            misses: Counter::default(),
        }
    }

    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(super) fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    pub(super) async fn range(&self, caller: &Caller, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        if request.serializable {
            match lock(&self.cache).get(caller, &request) {
                Found::Answer(answer) => {
                    self.hits.add(1);
                    return Ok(*answer);
                }
                Found::Compacted => {
                    self.hits.add(1);
                    return Err(compacted());
                }
                Found::Nothing => self.misses.add(1),
            }
        }
        let answer = self.get(caller, request.clone()).await?;
        lock(&self.cache).add(caller, &request, &answer);
        Ok(answer)
    }

    /// As etcd answers now.
    pub(super) async fn get(
        &self,
        caller: &Caller,
        mut request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        self.check(&request.key)?;
        self.namespace.enter(&mut request.key, &mut request.range_end);
        let revision = |answer: &pb::RangeResponse| answer.header.map_or(0, |header| header.revision);
        let mut answer: pb::RangeResponse =
            self.in_order("/etcdserverpb.KV/Range", caller, &request, Repeat::Always, revision).await?;
        self.namespace.leave_all(&mut answer.kvs);
        Ok(answer)
    }

    pub(super) async fn put(&self, caller: &Caller, mut request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.check(&request.key)?;
        let key = request.key.clone();
        lock(&self.cache).invalidate(&key, b"");
        self.namespace.enter(&mut request.key, &mut Bytes::new());
        let answer = self.upstream.ask("/etcdserverpb.KV/Put", caller, &request, Repeat::Elsewhere).await;
        // Once more: somebody may have read the old value before the new one was there.
        lock(&self.cache).invalidate(&key, b"");
        let mut answer: pb::PutResponse = answer?;
        self.namespace.leave_all(&mut answer.prev_kv);
        Ok(answer)
    }

    pub(super) async fn delete_range(
        &self,
        caller: &Caller,
        mut request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        self.check(&request.key)?;
        let (key, range_end) = (request.key.clone(), request.range_end.clone());
        lock(&self.cache).invalidate(&key, &range_end);
        self.namespace.enter(&mut request.key, &mut request.range_end);
        let answer = self.upstream.ask("/etcdserverpb.KV/DeleteRange", caller, &request, Repeat::Elsewhere).await;
        lock(&self.cache).invalidate(&key, &range_end);
        let mut answer: pb::DeleteRangeResponse = answer?;
        self.namespace.leave_all(&mut answer.prev_kvs);
        Ok(answer)
    }

    pub(super) async fn txn(&self, caller: &Caller, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let mut inner = request.clone();
        self.namespace.enter_txn(&mut inner);
        let revision = |answer: &pb::TxnResponse| answer.header.map_or(0, |header| header.revision);
        // Only what writes nothing may be asked again where it was answered already.
        let order = if writes(&request) { None } else { self.order.as_ref() };
        let path = "/etcdserverpb.KV/Txn";
        let answer: Result<pb::TxnResponse, Status> = match order {
            Some(_) => self.in_order(path, caller, &inner, Repeat::Elsewhere, revision).await,
            None => self.upstream.ask(path, caller, &inner, Repeat::Elsewhere).await,
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                // It may have been carried out.
                invalidate(&mut lock(&self.cache), &request);
                return Err(status);
            }
        };
        self.namespace.leave_txn(&mut answer);
        let mut cache = lock(&self.cache);
        // A comparison that fails tells that what is kept of its key may be old.
        invalidate(&mut cache, &request);
        let ops = if answer.succeeded { &request.success } else { &request.failure };
        for (op, answer) in ops.iter().zip(&answer.responses) {
            if let (Some(Request::RequestRange(range)), Some(Response::ResponseRange(answer))) =
                (&op.request, &answer.response)
                && !writes(&request)
            {
                cache.add(caller, range, answer);
            }
        }
        Ok(answer)
    }

    pub(super) async fn compact(
        &self,
        caller: &Caller,
        request: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, Status> {
        let answer = self.upstream.ask("/etcdserverpb.KV/Compact", caller, &request, Repeat::Elsewhere).await?;
        lock(&self.cache).compact(request.revision);
        Ok(answer)
    }

    /// Within a namespace an empty key is none in etcd, so it is refused here.
    fn check(&self, key: &[u8]) -> Result<(), Status> {
        if key.is_empty() && !self.namespace.is_all() {
            return Err(Status::invalid_argument("etcdserver: key is not provided"));
        }
        Ok(())
    }

    /// Asks until the answer is not older than what was seen before, if that is wanted.
    async fn in_order<A: prost::Message + Default>(
        &self,
        path: &'static str,
        caller: &Caller,
        request: &impl prost::Message,
        repeat: Repeat,
        revision: impl Fn(&A) -> i64,
    ) -> Result<A, Status> {
        let Some(Order(seen)) = &self.order else { return self.upstream.ask(path, caller, request, repeat).await };
        let least = seen.load(Ordering::Acquire);
        for _ in 0..=ROUNDS_MAX * self.upstream.endpoints().len() {
            let answer: A = self.upstream.ask(path, caller, request, repeat).await?;
            if revision(&answer) >= least {
                seen.fetch_max(revision(&answer), Ordering::AcqRel);
                return Ok(answer);
            }
        }
        let text = "etcdclient: no cluster members have a revision higher than the previously received revision";
        Err(Status::new(Code::Unknown, text))
    }
}

/// Whether any branch of a transaction can change anything.
fn writes(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => false,
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(txn)) => writes(txn),
    })
}

/// Forgets what any branch of a transaction may have changed, and what it compared.
fn invalidate(cache: &mut Cache, txn: &pb::TxnRequest) {
    for compare in &txn.compare {
        cache.invalidate(&compare.key, &compare.range_end);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestPut(put)) => cache.invalidate(&put.key, b""),
            Some(Request::RequestDeleteRange(delete)) => cache.invalidate(&delete.key, &delete.range_end),
            Some(Request::RequestTxn(txn)) => invalidate(cache, txn),
            Some(Request::RequestRange(_)) | None => {}
        }
    }
}
