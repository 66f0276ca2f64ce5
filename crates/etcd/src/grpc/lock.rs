//! Service `v3lockpb.Lock`: whoever has the oldest key below `name/` holds the lock.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Api;
use super::session::{Session, created_at, first_below, found, get, key_of, one, prefix, put};
use crate::proto as pb;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

/// A key in the queue of a lock. Dropped while it waits (its client went away), it is deleted.
struct Queued {
    session: Session,
    key: Option<Bytes>,
}

impl Queued {
    /// Leaves the queue.
    async fn leave(mut self) {
        if let Some(key) = self.key.take() {
            let _ = self.session.delete(key).await;
        }
    }

    /// Keeps the key.
    fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let (Some(key), Ok(runtime)) = (self.key.take(), tokio::runtime::Handle::try_current()) {
            let session = self.session.clone();
            runtime.spawn(async move { session.delete(key).await.map(drop) });
        }
    }
}

#[tonic::async_trait]
impl pb::v3lockpb::lock_server::Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.check(&request)?;
        let (session, request) = Session::new(self, request);
        let lease = session.lease(request.lease).await?;
        let prefix = prefix(&request.name);
        let key = key_of(&prefix, lease);
        let owner = || get(first_below(&prefix));
        let txn = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, Bytes::new(), lease), owner()],
            failure: vec![get(one(&key)), owner()],
        };
        let answer = session.txn(txn).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let mine = match found(&answer, 0) {
            // The session has its key already: the lock is held or waited for by somebody of the same lease.
            Some(kv) if !answer.succeeded => kv.create_revision,
            _ => revision,
        };
        if found(&answer, 1).is_none_or(|owner| owner.create_revision == mine) {
            return Ok(Response::new(LockResponse { header: answer.header, key }));
        }
        let queued = Queued { session: session.clone(), key: Some(key.clone()) };
        let waited = session.wait_until_first(&prefix, mine - 1).await;
        let held = match waited {
            Ok(()) => session.range(one(&key)).await,
            Err(error) => Err(error),
        };
        match held {
            Ok(held) => {
                queued.keep();
                if held.kvs.is_empty() {
                    return Err(Status::unknown("mutex: session is expired"));
                }
                Ok(Response::new(LockResponse { header: held.header, key }))
            }
            Err(error) => {
                queued.leave().await;
                Err(error)
            }
        }
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.check(&request)?;
        let (session, request) = Session::new(self, request);
        let answer = session.delete(request.key).await?;
        Ok(Response::new(UnlockResponse { header: answer.header }))
    }
}
