//! Service `Cluster`: who the members are, and changes of that.

use tonic::{Request, Response, Status};

use super::{Api, status};
use crate::local::check_urls;
use crate::proto as pb;

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Api {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.check(&request)?;
        // Addresses are looked at before it is asked who asks.
        check_urls(&request.get_ref().peer_ur_ls).map_err(|error| status(error.into()))?;
        self.client(&request).permit_admin().await.map_err(status)?;
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let member = Some(self.store.member_add(peer_ur_ls, is_learner).await.map_err(status)?);
        let (header, members) = (self.header(0), self.store.members());
        Ok(Response::new(pb::MemberAddResponse { header, member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        self.store.member_remove(request.get_ref().id).await.map_err(status)?;
        let members = self.store.members();
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(0), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        self.store.member_update(id, peer_ur_ls).await.map_err(status)?;
        let members = self.store.members();
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(0), members }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_named().await.map_err(status)?;
        self.store.linearize(!request.get_ref().linearizable).await.map_err(status)?;
        // etcd fills no revision here.
        Ok(Response::new(pb::MemberListResponse { header: self.header(0), members: self.store.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        self.store.member_promote(request.get_ref().id).await.map_err(status)?;
        let members = self.store.members();
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(0), members }))
    }
}
