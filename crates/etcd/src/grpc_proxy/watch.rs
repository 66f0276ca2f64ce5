//! Service `Watch`: a client's stream, with watches that others may share (`server/proxy/grpcproxy/watch.go`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::broadcast::{Queue, Range, Ranges, Watcher};
use super::kv::Kv;
use super::upstream::Caller;
use crate::grpc::refused_watch as refused;
use crate::proto as pb;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

/// Answers of watches that may wait for one client's stream.
const QUEUE_MAX: usize = 1024;
/// Answers that may wait for its connection.
const ANSWERS_WAITING_MAX: usize = 16;

type Answer = Result<pb::WatchResponse, Status>;

/// The client has gone.
struct Gone;

/// Opens streams.
pub(super) struct Watches {
    kv: Arc<Kv>,
    ranges: Arc<Ranges>,
    next_stream: AtomicU64,
}

struct Stream {
    id: u64,
    kv: Arc<Kv>,
    ranges: Arc<Ranges>,
    caller: Caller,
    answers: mpsc::Sender<Answer>,
    queue: Queue,
    slow: Arc<Notify>,
    watches: BTreeMap<i64, Range>,
    next_id: i64,
}

impl Watches {
    pub(super) fn new(kv: Arc<Kv>, ranges: Arc<Ranges>) -> Self {
        Self { kv, ranges, next_stream: AtomicU64::new(0) }
    }

    /// Serves a client's stream in a task of its own.
    pub(super) fn open(&self, caller: Caller, requests: Streaming<pb::WatchRequest>) -> ReceiverStream<Answer> {
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let task = Stream {
            id: self.next_stream.fetch_add(1, Ordering::Relaxed),
            kv: self.kv.clone(),
            ranges: self.ranges.clone(),
            caller,
            answers,
            queue,
            slow: Arc::default(),
            watches: BTreeMap::new(),
            next_id: 0,
        };
        tokio::spawn(task.run(requests, queued));
        ReceiverStream::new(stream)
    }
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>, mut queued: mpsc::Receiver<pb::WatchResponse>) {
        let slow = self.slow.clone();
        loop {
            let done = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.request(request).await,
                    Ok(None) | Err(_) => Err(Gone),
                },
                Some(answer) = queued.recv() => self.forward(answer).await,
                () = slow.notified() => Err(Gone),
                () = self.answers.closed() => Err(Gone),
            };
            if done.is_err() {
                break;
            }
        }
        let _ = self.answers.try_send(Err(Status::cancelled("context canceled")));
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) | None => {
                tracing::error!(target: "etcd", ?request, "not supported request type by gRPC proxy");
                Ok(())
            }
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Gone> {
        if request.start_revision < 0 {
            return self.refuse("etcdserver: mvcc: required revision has been compacted").await;
        }
        let range: Range = (request.key, request.range_end);
        // Whoever shares a watch has to be asked about it.
        if let Err(status) = self.may_watch(&range).await {
            let text = status.message();
            return match text.starts_with("etcdserver:") {
                true => self.refuse(text).await,
                false => self.refuse(&format!("rpc error: code = {:?} desc = {text}", status.code())).await,
            };
        }
        if !range.1.is_empty() && range.1 != b"\0"[..] && range.1 <= range.0 {
            return self.refuse("").await;
        }
        let filter = |kind: FilterType| request.filters.contains(&i32::from(kind));
        let (id, start, progress) = (self.next_id, request.start_revision, request.progress_notify);
        self.next_id += 1;
        let watcher = Watcher {
            id: (self.id, id),
            next: start,
            progress,
            prev_kv: request.prev_kv,
            no_put: filter(FilterType::Noput),
            no_delete: filter(FilterType::Nodelete),
            last_header: None,
            queue: self.queue.clone(),
            slow: self.slow.clone(),
        };
        self.watches.insert(id, range.clone());
        tracing::debug!(target: "etcd", key = ?range.0, end = ?range.1, watcher_id = id, "create watcher");
        self.ranges.add(range, watcher, &self.caller);
        Ok(())
    }

    async fn may_watch(&self, (key, range_end): &Range) -> Result<(), Status> {
        let all = || Bytes::from_static(b"\0");
        let (key, range_end) = if key.is_empty() { (all(), all()) } else { (key.clone(), range_end.clone()) };
        let request =
            pb::RangeRequest { key, range_end, serializable: true, count_only: true, limit: 1, ..Default::default() };
        self.kv.get(&self.caller, request).await.map(drop)
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Gone> {
        let Some(range) = self.watches.remove(&id) else { return Ok(()) };
        let header = self.ranges.remove(&range, (self.id, id)).or_else(|| Some(pb::ResponseHeader::default()));
        tracing::debug!(target: "etcd", watcher_id = id, "cancel watcher");
        self.send(pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() }).await
    }

    async fn refuse(&mut self, reason: &str) -> Result<(), Gone> {
        self.send(refused(Some(pb::ResponseHeader::default()), reason)).await
    }

    /// Hands on what came from etcd, unless the client has cancelled that watch meanwhile.
    async fn forward(&mut self, answer: pb::WatchResponse) -> Result<(), Gone> {
        if !self.watches.contains_key(&answer.watch_id) {
            return Ok(());
        }
        if answer.canceled {
            self.watches.remove(&answer.watch_id);
        }
        self.send(answer).await
    }

    async fn send(&self, answer: pb::WatchResponse) -> Result<(), Gone> {
        tokio::select! {
            sent = self.answers.send(Ok(answer)) => sent.map_err(|_| Gone),
            // A client that takes nothing would keep its stream here for ever.
            () = self.slow.notified() => Err(Gone),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for (id, range) in &self.watches {
            self.ranges.remove(range, (self.id, *id));
        }
    }
}
