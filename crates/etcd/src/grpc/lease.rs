//! Service `Lease`.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, status};
use crate::proto as pb;

#[tonic::async_trait]
impl pb::lease_server::Lease for Api {
    type LeaseKeepAliveStream = ReceiverStream<Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.check(&request)?;
        let store = self.client(&request);
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        let granted = store.lease_grant(ttl, id).await.map_err(status)?;
        let header = self.header(granted.revision);
        Ok(Response::new(pb::LeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.check(&request)?;
        let store = self.client(&request);
        let revision = store.lease_revoke(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.check(&request)?;
        let store = self.client_of_stream(&request);
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(4);
        let api = self.clone();
        tokio::spawn(async move {
            loop {
                let id = match requests.message().await {
                    Ok(Some(request)) => request.id,
                    Ok(None) => return,
                    Err(status) => return drop(answers.send(Err(status)).await),
                };
                // The header is filled before the lease is renewed, as in etcd.
                let header = api.header(api.revision());
                let answer = store.lease_keep_alive(id).await.map_err(status);
                let failed = answer.is_err();
                let answer = answer.map(|ttl| pb::LeaseKeepAliveResponse { header, id, ttl });
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.check(&request)?;
        let store = self.client(&request);
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let left = store.lease_time_to_live(id, keys).await.map_err(status)?;
        let header = self.header(left.revision);
        let granted_ttl = left.granted_ttl;
        Ok(Response::new(pb::LeaseTimeToLiveResponse { header, id, ttl: left.ttl, granted_ttl, keys: left.keys }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.check(&request)?;
        let ids = self.client(&request).leases().await.map_err(status)?;
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header(self.revision()), leases }))
    }
}
