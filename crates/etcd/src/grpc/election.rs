//! Service `v3electionpb.Election`: whoever has the oldest key below `name/` leads; its value is what it proclaims.

use bytes::Bytes;
use mvcc::EventKind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Api;
use super::session::{Session, created_at, first_below, found, get, key_of, one, prefix, put};
use crate::proto as pb;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use crate::{WatchRequest, prefix_end};

/// Answers that wait for an observer.
const ANSWERS_WAITING_MAX: usize = 4;

/// A candidate. Dropped while it waits (its client went away), it resigns.
struct Candidate {
    session: Session,
    key: Bytes,
    revision: i64,
    waiting: bool,
}

impl Candidate {
    async fn proclaim(&self, value: Bytes, lease: i64) -> Result<Option<pb::ResponseHeader>, Status> {
        let txn = pb::TxnRequest {
            compare: vec![created_at(&self.key, self.revision)],
            success: vec![put(&self.key, value, lease)],
            failure: Vec::new(),
        };
        let answer = self.session.txn(txn).await?;
        if answer.succeeded { Ok(answer.header) } else { Err(Status::unknown("election: not leader")) }
    }

    async fn resign(&self) -> Result<Option<pb::ResponseHeader>, Status> {
        let delete = pb::DeleteRangeRequest { key: self.key.clone(), ..pb::DeleteRangeRequest::default() };
        let delete = pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) };
        let compare = vec![created_at(&self.key, self.revision)];
        let txn = pb::TxnRequest { compare, success: vec![delete], failure: Vec::new() };
        Ok(self.session.txn(txn).await?.header)
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.waiting, tokio::runtime::Handle::try_current()) {
            let (session, key) = (self.session.clone(), self.key.clone());
            let again = Self { session, key, revision: self.revision, waiting: false };
            runtime.spawn(async move { again.resign().await.map(drop) });
        }
    }
}

/// The leadership that a request names.
async fn named<T>(
    api: &Api,
    request: Request<T>,
    leader: impl FnOnce(&T) -> Option<LeaderKey>,
) -> Result<(Candidate, i64, T), Status> {
    api.check(&request)?;
    let (session, message) = Session::new(api, request);
    let leader = leader(&message).ok_or_else(|| Status::unknown("\"leader\" field must be provided"))?;
    let lease = session.lease(leader.lease).await?;
    Ok((Candidate { session, key: leader.key, revision: leader.rev, waiting: false }, lease, message))
}

#[tonic::async_trait]
impl pb::v3electionpb::election_server::Election for Api {
    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.check(&request)?;
        let (session, request) = Session::new(self, request);
        let lease = session.lease(request.lease).await?;
        let prefix = prefix(&request.name);
        let key = key_of(&prefix, lease);
        let txn = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put(&key, request.value.clone(), lease)],
            failure: vec![get(one(&key))],
        };
        let answer = session.txn(txn).await?;
        let mut candidate = Candidate {
            session: session.clone(),
            key: key.clone(),
            revision: answer.header.map_or(0, |header| header.revision),
            waiting: false,
        };
        if let Some(kv) = found(&answer, 0).filter(|_| !answer.succeeded) {
            candidate.revision = kv.create_revision;
            if kv.value != request.value
                && let Err(error) = candidate.proclaim(request.value.clone(), lease).await
            {
                let _ = candidate.resign().await;
                return Err(error);
            }
        }
        candidate.waiting = true;
        let waited = session.wait_until_first(&prefix, candidate.revision - 1).await;
        candidate.waiting = false;
        waited?;
        let leader = LeaderKey { name: request.name, key, rev: candidate.revision, lease };
        Ok(Response::new(CampaignResponse { header: answer.header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let (candidate, lease, request) = named(self, request, |request| request.leader.clone()).await?;
        let header = candidate.proclaim(request.value, lease).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.check(&request)?;
        let (session, request) = Session::new(self, request);
        let answer = session.range(first_below(&prefix(&request.name))).await?;
        let kv = answer.kvs.into_iter().next().ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse { header: answer.header, kv: Some(kv) }))
    }

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.check(&request)?;
        let (session, request) = Session::new(self, request);
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        let observer = Observer { session, prefix: prefix(&request.name), answers };
        tokio::spawn(async move {
            let gone = observer.answers.clone();
            // Errors end the stream without a word, as in etcd.
            tokio::select! {
                _ = observer.run() => {}
                () = gone.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (candidate, _, _) = named(self, request, |request| request.leader.clone()).await?;
        let header = candidate.resign().await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

/// Tells one leader after the other, and what each proclaims.
struct Observer {
    session: Session,
    prefix: Bytes,
    answers: mpsc::Sender<Result<LeaderResponse, Status>>,
}

impl Observer {
    /// Until the client or the member is gone.
    async fn run(&self) -> Result<(), Status> {
        loop {
            let answer = self.session.range(first_below(&self.prefix)).await?;
            let revision = answer.header.map_or(0, |header| header.revision);
            let (revision, kv) = match answer.kvs.into_iter().next() {
                Some(kv) => (revision, kv),
                None => self.first_candidate(revision).await?,
            };
            let key = kv.key.clone();
            self.tell(revision, kv).await?;
            self.follow(key, revision + 1).await?;
        }
    }

    async fn tell(&self, revision: i64, kv: pb::KeyValue) -> Result<(), Status> {
        let answer = LeaderResponse { header: self.session.header(revision), kv: Some(kv) };
        self.answers.send(Ok(answer)).await.map_err(|_| Status::cancelled("the observer has gone"))
    }

    /// Waits for the first key below the prefix.
    async fn first_candidate(&self, start_revision: i64) -> Result<(i64, pb::KeyValue), Status> {
        let (key, range_end) = (self.prefix.clone(), prefix_end(&self.prefix));
        let mut watch =
            self.session.watch(WatchRequest { key, range_end, start_revision, ..WatchRequest::default() }).await?;
        while let Some(batch) = watch.next().await {
            let batch = batch.map_err(super::status)?;
            if let Some(event) = batch.events.into_iter().find(|event| event.kind == EventKind::Put) {
                return Ok((event.kv.mod_revision, event.kv.into()));
            }
        }
        Err(super::status(crate::StoreError::Stopped))
    }

    /// Tells what a leader proclaims until its key is deleted.
    async fn follow(&self, key: Bytes, start_revision: i64) -> Result<(), Status> {
        let mut watch = self.session.watch(WatchRequest { key, start_revision, ..WatchRequest::default() }).await?;
        while let Some(batch) = watch.next().await {
            let batch = batch.map_err(super::status)?;
            for event in batch.events {
                if event.kind == EventKind::Delete {
                    return Ok(());
                }
                self.tell(batch.revision, event.kv.into()).await?;
            }
        }
        Err(super::status(crate::StoreError::Stopped))
    }
}
