//! Service `Cluster`: the list of members. Changing the membership is not possible yet.

use tonic::{Request, Response, Status};

use super::Api;
use crate::hub::lock;
use crate::proto as pb;

impl Api {
    fn members(&self) -> Vec<pb::Member> {
        let shared = &self.store.shared;
        vec![pb::Member {
            id: shared.member_id,
            name: shared.name.clone(),
            peer_ur_ls: shared.peer_urls.clone(),
            client_ur_ls: lock(&shared.client_urls).clone(),
            is_learner: false,
        }]
    }

    /// What a request about a member that does not exist is told.
    fn find_member(&self, id: u64) -> Result<(), Status> {
        if id == self.store.shared.member_id { Ok(()) } else { Err(Status::not_found("etcdserver: member not found")) }
    }
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("changing the membership is not implemented"))
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Api {
    async fn member_add(
        &self,
        _request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        unimplemented()
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.find_member(request.get_ref().id)?;
        unimplemented()
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.find_member(request.get_ref().id)?;
        unimplemented()
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.check(&request)?;
        // etcd fills no revision here.
        Ok(Response::new(pb::MemberListResponse { header: self.header(0), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.find_member(request.get_ref().id)?;
        Err(Status::failed_precondition("etcdserver: can only promote a learner member"))
    }
}
