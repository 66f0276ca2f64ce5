//! What locks and elections stand on: keys below a prefix, each kept by a lease, the oldest of them first. As in etcd
//! both are clients of the store: they go through the same calls as everybody, with their caller's credentials.

use bytes::Bytes;
use mvcc::EventKind;
use tonic::{Extensions, Request, Status, metadata::MetadataMap};

use super::Api;
use crate::proto as pb;
use crate::proto::kv_server::Kv as _;
use crate::proto::lease_server::Lease as _;
use crate::{Store, WatchRequest, prefix_end};

/// Seconds that a lease lives when the caller brings none. Nobody renews it: etcd leaves it to itself at once.
const SESSION_TTL: i64 = 60;

/// A caller of the store inside of the server.
#[derive(Clone)]
pub(super) struct Session {
    api: Api,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Session {
    /// One with the caller's credentials; its request's message comes back.
    pub(super) fn new<T>(api: &Api, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { api: api.clone(), metadata, extensions }, message)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// The lease given, or a new one.
    pub(super) async fn lease(&self, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let request = self.request(pb::LeaseGrantRequest { ttl: SESSION_TTL, id: 0 });
        let granted = self.api.lease_grant(request).await.map_err(plain)?;
        Ok(granted.into_inner().id)
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.api.txn(self.request(request)).await.map_err(plain)?.into_inner())
    }

    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(self.api.range(self.request(request)).await.map_err(plain)?.into_inner())
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = self.request(pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() });
        Ok(self.api.delete_range(request).await.map_err(plain)?.into_inner())
    }

    /// Watches keys, which the caller has already read.
    pub(super) async fn watch(&self, request: WatchRequest) -> Result<crate::Watch, Status> {
        Store::Local(self.api.store.clone()).watch(request).await.map_err(|error| plain(super::status(error)))
    }

    /// Waits until every key below the prefix that is as old as `created` or older is gone.
    pub(super) async fn wait_until_first(&self, prefix: &Bytes, created: i64) -> Result<(), Status> {
        loop {
            let request = pb::RangeRequest {
                sort_order: pb::range_request::SortOrder::Descend.into(),
                max_create_revision: created,
                ..first_below(prefix)
            };
            let answer = self.range(request).await?;
            let Some(last) = answer.kvs.into_iter().next() else { return Ok(()) };
            let revision = answer.header.map_or(0, |header| header.revision);
            self.wait_until_deleted(last.key, revision).await?;
        }
    }

    async fn wait_until_deleted(&self, key: Bytes, start_revision: i64) -> Result<(), Status> {
        let mut watch = self.watch(WatchRequest { key, start_revision, ..WatchRequest::default() }).await?;
        while let Some(batch) = watch.next().await {
            let batch = batch.map_err(|error| plain(super::status(error)))?;
            if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
                return Ok(());
            }
        }
        Err(plain(super::status(crate::StoreError::Stopped)))
    }

    /// The header of an answer about a revision.
    pub(super) fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        self.api.header(revision)
    }
}

/// The oldest key below a prefix.
pub(super) fn first_below(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..pb::RangeRequest::default()
    }
}

/// `name/`.
pub(super) fn prefix(name: &Bytes) -> Bytes {
    [name, &b"/"[..]].concat().into()
}

/// `name/<lease in hex>`; a negative lease has its sign, as Go prints it.
pub(super) fn key_of(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// Whether the key was made at this revision; 0 when it does not exist.
pub(super) fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        target: pb::compare::CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..pb::Compare::default()
    }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..pb::PutRequest::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

pub(super) fn get(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(request)) }
}

pub(super) fn one(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() }
}

/// The first key that the operation `index` of a transaction read.
pub(super) fn found(answer: &pb::TxnResponse, index: usize) -> Option<&pb::KeyValue> {
    match &answer.responses.get(index)?.response {
        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

/// etcd's two services hand on errors of its client, which gRPC knows no code of: the text stays.
fn plain(status: Status) -> Status {
    Status::unknown(status.message())
}
