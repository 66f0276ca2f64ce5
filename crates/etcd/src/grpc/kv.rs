//! Service `KV`.

use tonic::{Request, Response, Status};

use super::{Api, bad_request, status};
use crate::proto as pb;

#[tonic::async_trait]
impl pb::kv_server::Kv for Api {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.check_vote(request.get_ref().serializable)?;
        self.check(&request)?;
        let store = self.client(&request);
        let request = request.into_inner();
        if request.key.is_empty() {
            return Err(status(mvcc::MvccError::EmptyKey.into()));
        }
        if !request.range_end.is_empty() {
            // It may be a long one: others on this connection need not wait for it.
            tokio::task::yield_now().await;
        }
        let request = request.try_into().map_err(bad_request)?;
        let answer = store.range(request).await.map_err(status)?;
        let header = self.header(answer.revision);
        Ok(Response::new(pb::RangeResponse { header, ..answer.into() }))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.check_vote(false)?;
        self.check(&request)?;
        let store = self.client(&request);
        let answer = store.put(request.into_inner().into()).await.map_err(status)?;
        let header = self.header(answer.revision);
        Ok(Response::new(pb::PutResponse { header, ..answer.into() }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.check_vote(false)?;
        self.check(&request)?;
        let store = self.client(&request);
        let answer = store.delete_range(request.into_inner().into()).await.map_err(status)?;
        let header = self.header(answer.revision);
        Ok(Response::new(pb::DeleteRangeResponse { header, ..answer.into() }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.check_vote(false)?;
        self.check(&request)?;
        let store = self.client(&request);
        let request = request.into_inner().try_into().map_err(bad_request)?;
        let answer = store.txn(request).await.map_err(status)?;
        let header = self.header(answer.revision);
        Ok(Response::new(pb::TxnResponse { header, ..answer.into() }))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.check_vote(false)?;
        self.check(&request)?;
        let store = self.client(&request);
        let pb::CompactionRequest { revision, physical } = request.into_inner();
        let revision = store.compact(revision, physical).await.map_err(status)?;
        Ok(Response::new(pb::CompactionResponse { header: self.header(revision) }))
    }
}
