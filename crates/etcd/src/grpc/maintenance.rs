//! Service `Maintenance`.

use mvcc::{Alarm, AlarmKind};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, snapshot, status};
use crate::database::cluster_version;
use crate::{LocalStore, convert, proto as pb};

impl Api {
    fn status_response(&self) -> pb::StatusResponse {
        let shared = &self.store.shared;
        let published = shared.published();
        let snapshot = &published.snapshot;
        let mut errors = Vec::new();
        if published.leader == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        for alarm in snapshot.alarms() {
            let kind = if alarm.kind == AlarmKind::NoSpace { "NOSPACE" } else { "CORRUPT" };
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member));
        }
        pb::StatusResponse {
            header: self.header(snapshot.revision()),
            version: crate::VERSION.to_owned(),
            db_size: snapshot.size_bytes(),
            leader: published.leader,
            raft_index: published.raft_index,
            raft_term: published.term,
            raft_applied_index: published.applied_index,
            errors,
            db_size_in_use: snapshot.size_in_use_bytes(),
            is_learner: published.learner,
            storage_version: cluster_version(snapshot).to_owned(),
            db_size_quota: shared.limits.quota_bytes,
            downgrade_info: Some(downgrade_info(snapshot)),
        }
    }

    async fn change_alarm(
        &self,
        store: &LocalStore,
        request: &pb::AlarmRequest,
        raise: bool,
    ) -> Result<Vec<pb::AlarmMember>, Status> {
        let member = pb::AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let Some(alarm) = convert::alarm(member) else { return Ok(Vec::new()) };
        let alarms = store.alarm(alarm, raise).await.map_err(status)?;
        Ok(alarms.into_iter().map(Into::into).collect())
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Api {
    type SnapshotStream = ReceiverStream<Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction as Action;
        self.check(&request)?;
        let store = self.client(&request);
        let request = request.into_inner();
        let action = Action::try_from(request.action);
        let permit = if action == Ok(Action::Get) { store.permit_named().await } else { store.permit_admin().await };
        permit.map_err(status)?;
        let alarms = match action {
            Ok(Action::Get) => {
                let asked = convert::alarm(pb::AlarmMember { member_id: 0, alarm: request.alarm });
                let wanted = |alarm: &Alarm| asked.is_none_or(|asked| asked.kind == alarm.kind);
                let active = self.store.shared.published().snapshot.alarms();
                active.into_iter().filter(wanted).map(Into::into).collect()
            }
            Ok(Action::Activate) => self.change_alarm(&store, &request, true).await?,
            Ok(Action::Deactivate) => self.change_alarm(&store, &request, false).await?,
            Err(_) => Vec::new(),
        };
        Ok(Response::new(pb::AlarmResponse { header: self.header(self.revision()), alarms }))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_named().await.map_err(status)?;
        Ok(Response::new(self.status_response()))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        self.store.defragment().await.map_err(status)?;
        // etcd fills no header here.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        let database = self.database();
        let revision = database.snapshot.revision();
        let hash = blocking(move || Ok(database.hash())).await?;
        Ok(Response::new(pb::HashResponse { header: self.header(revision), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        let revision = request.into_inner().revision;
        let snapshot = self.store.shared.published().snapshot.clone();
        let hash = blocking(move || snapshot.hash_kv(revision)).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header(hash.revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        Ok(Response::new(snapshot::send(self.database())))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.check(&request)?;
        self.client(&request).permit_admin().await.map_err(status)?;
        self.store.move_leader(request.get_ref().target_id).await.map_err(status)?;
        // etcd fills no header here.
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.check(&request)?;
        let store = self.client(&request);
        store.permit_admin().await.map_err(status)?;
        let version = self.change_version(&store, request.get_ref()).await?;
        Ok(Response::new(pb::DowngradeResponse { header: self.header(self.revision()), version }))
    }
}

fn downgrade_info(snapshot: &mvcc::Snapshot) -> pb::DowngradeInfo {
    let enabled = snapshot.downgrade().is_some();
    let target_version = if enabled { cluster_version(snapshot).to_owned() } else { String::new() };
    pb::DowngradeInfo { enabled, target_version }
}

/// Runs what may take long for a large store beside the requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, mvcc::MvccError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| status(crate::StoreError::Stopped))?.map_err(|error| status(error.into()))
}
