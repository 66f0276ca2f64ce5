//! `Store` on any etcd, over gRPC.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mvcc::{
    DeleteRangeRequest, DeleteRangeResponse, MvccError, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::connector::Connector;
use crate::convert::revision;
use crate::hub::lock;
use crate::store::{LeaseGranted, LeaseTimeToLive, StoreStatus, WatchBatch, WatchRequest};
use crate::{EtcdError, StoreError, proto as pb};

/// Ranges may be large (etcd's own client accepts 2 GiB).
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As Kubernetes' own client: a dead connection is noticed within 40 s.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const WINDOW_BYTES: u32 = 4 << 20;
const REQUESTS_WAITING_MAX: usize = 16;

/// A handle on an etcd cluster.
#[derive(Clone)]
pub struct RemoteStore {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Vec<Channel>,
    /// The endpoint in use; the next one after a failure.
    current: AtomicUsize,
    /// Where to ask each running watch for progress.
    watches: Mutex<Vec<mpsc::WeakSender<pb::WatchRequest>>>,
}

impl RemoteStore {
    /// A store at these endpoints (`http://host:port`, `https://host:port`); connections are made when first needed.
    /// `tls` is for https; the server's name is the endpoint's host.
    ///
    /// # Errors
    /// When an endpoint is no URL, or there is none.
    pub fn connect(endpoints: &[String], tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, EtcdError> {
        let mut channels = Vec::new();
        for endpoint in endpoints {
            let bad = |source: tonic::transport::Error| EtcdError::Connect {
                endpoint: endpoint.clone(),
                source: Box::new(source),
            };
            let wants_tls = endpoint.starts_with("https://");
            // The connector does TLS itself, so that our own certificates and clock are used.
            let plain = endpoint.replacen("https://", "http://", 1);
            let with_scheme = if plain.contains("://") { plain } else { format!("http://{plain}") };
            let built = Endpoint::from_shared(with_scheme).map_err(bad)?;
            let built = built
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES * 4)
                .tcp_nodelay(true);
            let tls = if wants_tls { tls.clone() } else { None };
            if wants_tls && tls.is_none() {
                let source = "https needs certificates".into();
                return Err(EtcdError::Connect { endpoint: endpoint.clone(), source });
            }
            channels.push(built.connect_with_connector_lazy(Connector::new(tls)));
        }
        if channels.is_empty() {
            return Err(EtcdError::Connect { endpoint: String::new(), source: "no endpoint is given".into() });
        }
        let inner = Inner { channels, current: AtomicUsize::new(0), watches: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn channel(&self) -> Channel {
        let current = self.inner.current.load(Ordering::Relaxed);
        self.inner.channels[current % self.inner.channels.len()].clone()
    }

    fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn lease(&self) -> pb::lease_client::LeaseClient<Channel> {
        pb::lease_client::LeaseClient::new(self.channel())
    }

    /// What a status means here; an endpoint that cannot be reached is left for the next.
    fn error(&self, status: Status) -> StoreError {
        let error = store_error(status);
        if matches!(error, StoreError::Unavailable(_) | StoreError::NoLeader | StoreError::Stopped) {
            self.inner.current.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut tries = self.inner.channels.len();
        loop {
            let answer = self.kv().range(timed(request.clone().into())).await;
            match answer.map_err(|status| self.error(status)) {
                Ok(answer) => return Ok(answer.into_inner().into()),
                // A read may be repeated elsewhere.
                Err(StoreError::Unavailable(_) | StoreError::NoLeader) if tries > 1 => tries -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) async fn put(&self, request: PutRequest) -> Result<PutResponse, StoreError> {
        let answer = self.kv().put(timed(request.into())).await.map_err(|status| self.error(status))?;
        Ok(answer.into_inner().into())
    }

    pub(crate) async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, StoreError> {
        let answer = self.kv().delete_range(timed(request.into())).await.map_err(|status| self.error(status))?;
        Ok(answer.into_inner().into())
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        let answer = self.kv().txn(timed(request.into())).await.map_err(|status| self.error(status))?;
        Ok(answer.into_inner().into())
    }

    pub(crate) async fn compact(&self, revision: i64, physical: bool) -> Result<i64, StoreError> {
        let request = timed(pb::CompactionRequest { revision, physical });
        let answer = self.kv().compact(request).await.map_err(|status| self.error(status))?;
        Ok(crate::convert::revision(answer.into_inner().header))
    }

    pub(crate) async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGranted, StoreError> {
        let request = timed(pb::LeaseGrantRequest { ttl, id });
        let answer = self.lease().lease_grant(request).await.map_err(|status| self.error(status))?.into_inner();
        Ok(LeaseGranted { id: answer.id, ttl: answer.ttl, revision: revision(answer.header) })
    }

    pub(crate) async fn lease_revoke(&self, id: i64) -> Result<i64, StoreError> {
        let request = timed(pb::LeaseRevokeRequest { id });
        let answer = self.lease().lease_revoke(request).await.map_err(|status| self.error(status))?;
        Ok(revision(answer.into_inner().header))
    }

    pub(crate) async fn lease_keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        let one = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let answers = self.lease().lease_keep_alive(one).await.map_err(|status| self.error(status))?;
        let answer = answers.into_inner().message().await.map_err(|status| self.error(status))?;
        Ok(answer.map_or(0, |answer| answer.ttl))
    }

    pub(crate) async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLive, StoreError> {
        let request = timed(pb::LeaseTimeToLiveRequest { id, keys });
        let answer = self.lease().lease_time_to_live(request).await.map_err(|status| self.error(status))?.into_inner();
        let (revision, granted_ttl) = (revision(answer.header), answer.granted_ttl);
        Ok(LeaseTimeToLive { revision, ttl: answer.ttl, granted_ttl, keys: answer.keys })
    }

    pub(crate) async fn leases(&self) -> Result<Vec<i64>, StoreError> {
        let request = timed(pb::LeaseLeasesRequest {});
        let answer = self.lease().lease_leases(request).await.map_err(|status| self.error(status))?;
        Ok(answer.into_inner().leases.into_iter().map(|lease| lease.id).collect())
    }

    pub(crate) async fn watch(&self, request: WatchRequest) -> Result<RemoteWatch, StoreError> {
        let (requests, stream) = mpsc::channel(REQUESTS_WAITING_MAX);
        let create = pb::WatchCreateRequest {
            key: request.key,
            range_end: request.range_end,
            start_revision: request.start_revision,
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            ..Default::default()
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let create = pb::WatchRequest { request_union: Some(create) };
        requests.send(create).await.map_err(|_| StoreError::Stopped)?;
        let mut call = Request::new(ReceiverStream::new(stream));
        call.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let client = pb::watch_client::WatchClient::new(self.channel());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        let answers = client.watch(call).await.map_err(|status| self.error(status))?.into_inner();
        let mut watch = RemoteWatch { store: self.clone(), answers, requests, over: false, revision: 0 };
        match watch.message().await? {
            Some(created) if created.created && !created.canceled => {
                watch.revision = revision(created.header);
                let mut watches = lock(&self.inner.watches);
                watches.retain(|sender| sender.upgrade().is_some());
                watches.push(watch.requests.downgrade());
            }
            Some(refused) => return Err(cancelled(refused)),
            None => return Err(StoreError::Unavailable("the watch ended before it began".to_owned())),
        }
        Ok(watch)
    }

    pub(crate) async fn progress(&self) -> Result<(), StoreError> {
        let senders: Vec<_> = lock(&self.inner.watches).iter().filter_map(mpsc::WeakSender::upgrade).collect();
        for sender in senders {
            let ask = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            let _ = sender.send(pb::WatchRequest { request_union: Some(ask) }).await;
        }
        Ok(())
    }

    pub(crate) async fn status(&self) -> Result<StoreStatus, StoreError> {
        let mut client = pb::maintenance_client::MaintenanceClient::new(self.channel());
        let answer = client.status(timed(pb::StatusRequest {})).await.map_err(|status| self.error(status))?;
        let answer = answer.into_inner();
        Ok(StoreStatus {
            version: answer.version,
            db_size: answer.db_size,
            db_size_in_use: answer.db_size_in_use,
            member: answer.header.map_or(0, |header| header.member_id),
            leader: answer.leader,
            revision: revision(answer.header),
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            raft_applied_index: answer.raft_applied_index,
        })
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_TIMEOUT);
    request
}

/// Why a watch was refused or ended.
fn cancelled(answer: pb::WatchResponse) -> StoreError {
    if answer.compact_revision != 0 || answer.cancel_reason.ends_with("has been compacted") {
        return StoreError::Compacted { revision: answer.compact_revision };
    }
    StoreError::Remote { code: Code::Cancelled as i32, message: answer.cancel_reason }
}

/// The errors a caller acts on keep their meaning; all others keep code and text.
fn store_error(status: Status) -> StoreError {
    const KNOWN: [MvccError; 11] = [
        MvccError::EmptyKey,
        MvccError::KeyNotFound,
        MvccError::ValueProvided,
        MvccError::LeaseProvided,
        MvccError::TooManyOps,
        MvccError::DuplicateKey,
        MvccError::FutureRevision,
        MvccError::NoSpace,
        MvccError::LeaseNotFound,
        MvccError::LeaseExists,
        MvccError::LeaseTtlTooLarge,
    ];
    let text = status.message();
    if let Some(known) = KNOWN.into_iter().find(|known| known.text() == text) {
        return StoreError::Refused(known);
    }
    if text == (MvccError::Compacted { revision: 0 }).text() {
        return StoreError::Compacted { revision: 0 };
    }
    match text {
        "etcdserver: request is too large" => StoreError::TooLarge,
        "etcdserver: too many requests" => StoreError::TooManyRequests,
        "etcdserver: no leader" => StoreError::NoLeader,
        "etcdserver: server stopped" => StoreError::Stopped,
        _ if text.starts_with("etcdserver: request timed out") => StoreError::Timeout,
        _ => match status.code() {
            Code::Unavailable => StoreError::Unavailable(text.to_owned()),
            Code::DeadlineExceeded | Code::Cancelled => StoreError::Timeout,
            code => StoreError::Remote { code: code as i32, message: text.to_owned() },
        },
    }
}

/// A watch on a remote etcd.
pub struct RemoteWatch {
    store: RemoteStore,
    answers: Streaming<pb::WatchResponse>,
    /// Kept so that the stream stays open, and for progress.
    requests: mpsc::Sender<pb::WatchRequest>,
    over: bool,
    revision: i64,
}

impl RemoteWatch {
    async fn message(&mut self) -> Result<Option<pb::WatchResponse>, StoreError> {
        self.answers.message().await.map_err(|status| self.store.error(status))
    }

    pub(crate) async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        if self.over {
            return None;
        }
        match self.message().await {
            Ok(Some(answer)) if answer.canceled => {
                self.over = true;
                Some(Err(cancelled(answer)))
            }
            Ok(Some(answer)) => {
                let stated = revision(answer.header);
                let events: Vec<mvcc::Event> = answer.events.into_iter().map(Into::into).collect();
                // While it catches up, etcd states the store's revision although later events are still to come.
                let delivered = events.last().map_or(stated, |event| event.kv.mod_revision);
                self.revision = self.revision.max(delivered);
                Some(Ok(WatchBatch { revision: delivered, events }))
            }
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
        }
    }
}
