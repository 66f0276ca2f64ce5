//! `Store` on a member in this process.

use mvcc::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse,
};

use crate::StoreError;
use crate::store::{LeaseGranted, LeaseTimeToLive, StoreStatus, WatchBatch, WatchRequest};

/// A handle on a member in this process.
#[derive(Clone)]
pub struct LocalStore {}

#[expect(clippy::unused_async, reason = "the calls wait for the state thread, which is not there yet")]
impl LocalStore {
    pub(crate) async fn range(&self, _request: RangeRequest) -> Result<RangeResponse, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn put(&self, _request: PutRequest) -> Result<PutResponse, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn delete_range(&self, _r: DeleteRangeRequest) -> Result<DeleteRangeResponse, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn txn(&self, _request: TxnRequest) -> Result<TxnResponse, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn compact(&self, _revision: i64, _physical: bool) -> Result<i64, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn lease_grant(&self, _ttl: i64, _id: i64) -> Result<LeaseGranted, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn lease_revoke(&self, _id: i64) -> Result<i64, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn lease_keep_alive(&self, _id: i64) -> Result<i64, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn lease_time_to_live(&self, _id: i64, _keys: bool) -> Result<LeaseTimeToLive, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) async fn leases(&self) -> Result<Vec<i64>, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) fn watch(&self, _request: WatchRequest) -> Result<LocalWatch, StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) fn progress(&self) -> Result<(), StoreError> {
        Err(StoreError::Stopped)
    }
    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }
}

/// A watch on a member in this process.
pub struct LocalWatch {}

impl LocalWatch {
    pub(crate) async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        None
    }
}
