//! The `Store` door: the same calls on a member in this process or on any etcd over gRPC.

use bytes::Bytes;
use mvcc::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse,
};

use crate::{LocalStore, RemoteStore, StoreError};

/// A key-value store with etcd's semantics.
#[derive(Clone)]
pub enum Store {
    /// A member in this process.
    Local(LocalStore),
    /// Any etcd, over gRPC.
    Remote(RemoteStore),
}

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchRequest {
    /// First key; ranges as in [`RangeRequest`].
    pub key: Bytes,
    /// End of the range; empty for one key.
    pub range_end: Bytes,
    /// First revision to show; 0 for what comes from now on.
    pub start_revision: i64,
    /// Whether events carry the value before them.
    pub prev_kv: bool,
    /// Whether an empty batch is sent now and then when nothing happens (about every 10 minutes).
    pub progress_notify: bool,
}

/// All events of one or more whole revisions, in order; no event: everything up to `revision` was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchBatch {
    /// Everything up to this revision has now been delivered.
    pub revision: i64,
    /// In the order of their revisions; never part of a revision.
    pub events: Vec<mvcc::Event>,
}

/// A lease as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGranted {
    /// Its id.
    pub id: i64,
    /// Seconds, maybe more than asked for.
    pub ttl: i64,
    /// The store's revision.
    pub revision: i64,
}

/// What a lease has left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseTimeToLive {
    /// The store's revision.
    pub revision: i64,
    /// Whole seconds left; -1 when there is no such lease.
    pub ttl: i64,
    /// Seconds it was granted with.
    pub granted_ttl: i64,
    /// Attached keys, when asked for.
    pub keys: Vec<Bytes>,
}

/// What `Status` of Maintenance tells, as far as both doors know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreStatus {
    /// etcd's version, such as `3.6.8`.
    pub version: String,
    /// Bytes of the database.
    pub db_size: i64,
    /// Bytes of it in use.
    pub db_size_in_use: i64,
    /// The answering member's id.
    pub member: u64,
    /// The leader's member id, 0 for none.
    pub leader: u64,
    /// The store's revision.
    pub revision: i64,
    /// Consensus term.
    pub raft_term: u64,
    /// Index of the last log entry.
    pub raft_index: u64,
    /// Index of the last applied entry.
    pub raft_applied_index: u64,
}

macro_rules! both {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Store::Local($store) => $call,
            Store::Remote($store) => $call,
        }
    };
}

impl Store {
    /// Reads keys; linearizable unless the request says serializable.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        both!(self, store => store.range(request).await)
    }

    /// Writes a key. When it returns, the write is durable and applied.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, StoreError> {
        both!(self, store => store.put(request).await)
    }

    /// Deletes keys.
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, StoreError> {
        both!(self, store => store.delete_range(request).await)
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        both!(self, store => store.txn(request).await)
    }

    /// Forgets history before `revision`; `physical` waits until it is gone. Returns the store's revision.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<i64, StoreError> {
        both!(self, store => store.compact(revision, physical).await)
    }

    /// Grants a lease of `ttl` seconds; id 0 lets the store choose.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGranted, StoreError> {
        both!(self, store => store.lease_grant(ttl, id).await)
    }

    /// Ends a lease and deletes its keys in one revision. Returns the store's revision.
    pub async fn lease_revoke(&self, id: i64) -> Result<i64, StoreError> {
        both!(self, store => store.lease_revoke(id).await)
    }

    /// Renews a lease; returns its TTL in seconds, 0 when there is no such lease.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        both!(self, store => store.lease_keep_alive(id).await)
    }

    /// What a lease has left.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLive, StoreError> {
        both!(self, store => store.lease_time_to_live(id, keys).await)
    }

    /// Ids of all leases, the one that expires first at the front.
    pub async fn leases(&self) -> Result<Vec<i64>, StoreError> {
        both!(self, store => store.leases().await)
    }

    /// Starts to watch. A revision that is compacted away shows as [`StoreError::Compacted`] here or from `next`.
    pub async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        match self {
            Self::Local(store) => store.watch(request).map(Watch::Local),
            Self::Remote(store) => store.watch(request).await.map(Watch::Remote),
        }
    }

    /// The store's revision, linearizable.
    pub async fn current_revision(&self) -> Result<i64, StoreError> {
        let request = RangeRequest { count_only: true, ..RangeRequest::key(Bytes::from_static(b"\0")) };
        Ok(self.range(request).await?.revision)
    }

    /// Asks every watch made through this handle for an empty batch that says how far it is. A local watch answers at
    /// once, a remote one as soon as etcd does.
    pub async fn progress(&self) -> Result<(), StoreError> {
        match self {
            Self::Local(store) => store.progress(),
            Self::Remote(store) => store.progress().await,
        }
    }

    /// Version, sizes and consensus state of the member that answers.
    pub async fn status(&self) -> Result<StoreStatus, StoreError> {
        match self {
            Self::Local(store) => Ok(store.status()),
            Self::Remote(store) => store.status().await,
        }
    }
}

/// A running watch; dropping it ends it.
pub enum Watch {
    /// On a member in this process.
    Local(crate::local_watch::LocalWatch),
    /// On a remote etcd.
    Remote(crate::remote::RemoteWatch),
}

impl Watch {
    /// The next batch. `None` when the store has stopped or the connection ended: resume from the last batch's
    /// revision + 1. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        match self {
            Self::Local(watch) => watch.next().await,
            Self::Remote(watch) => watch.next().await,
        }
    }
}
