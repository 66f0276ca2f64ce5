//! Service `Lease`: renewals of all clients go to etcd on one stream for each token, and those that ask for the same lease at
//! the same time share one (`server/proxy/grpcproxy/lease.go`).
//!
//! etcd's proxy renews in its clients' stead, a third of a lease's time apart, and lets them wait for it; here a client's
//! question is passed on at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::kv::Kv;
use super::upstream::{Caller, Repeat, Upstream, told};
use crate::hub::lock;
use crate::proto as pb;
use pb::lease_client::LeaseClient;

/// Renewals that may wait for etcd's stream.
const QUEUE_MAX: usize = 256;
/// Renewals that one client may have under way, and answers that may wait for its connection.
const RENEWALS_MAX: usize = 256;
const ANSWERS_WAITING_MAX: usize = 16;
/// A renewal that no endpoint has answered for so long has failed (etcd's client: its time for connecting, and a second).
const PATIENCE: Duration = Duration::from_secs(6);
/// How long after a failure the stream is opened again.
const BACKOFF: Duration = Duration::from_millis(100);
/// A stream that nobody needs is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Answer = Result<pb::LeaseKeepAliveResponse, Status>;

/// A client's question.
struct Renewal {
    id: i64,
    answer: oneshot::Sender<Answer>,
}

/// Leases behind the proxy.
pub(super) struct Leases {
    kv: Arc<Kv>,
    streams: Mutex<BTreeMap<Option<String>, mpsc::Sender<Renewal>>>,
}

impl Leases {
    pub(super) fn new(kv: Arc<Kv>) -> Self {
        Self { kv, streams: Mutex::default() }
    }

    pub(super) async fn time_to_live(
        &self,
        caller: &Caller,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let mut answer: pb::LeaseTimeToLiveResponse =
            self.kv.upstream().ask(path, caller, &request, Repeat::Always).await?;
        // Clients of a namespace do not see what else hangs on a lease.
        let namespace = self.kv.namespace();
        answer.keys = answer.keys.iter().filter_map(|key| namespace.strip(key)).collect();
        Ok(answer)
    }

    /// Serves a client's stream in a task of its own.
    pub(super) fn keep_alive(
        self: &Arc<Self>,
        caller: Caller,
        mut requests: Streaming<pb::LeaseKeepAliveRequest>,
    ) -> ReceiverStream<Answer> {
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        let leases = self.clone();
        tokio::spawn(async move {
            let mut renewals = FuturesUnordered::new();
            let mut open = true;
            while open || !renewals.is_empty() {
                tokio::select! {
                    request = requests.message(), if open && renewals.len() < RENEWALS_MAX => match request {
                        Ok(Some(request)) => renewals.push(leases.renew(&caller, request.id)),
                        Ok(None) | Err(_) => open = false,
                    },
                    Some(answer) = renewals.next(), if !renewals.is_empty() => {
                        let failed = answer.is_err();
                        if answers.send(answer).await.is_err() || failed {
                            return;
                        }
                    }
                    () = answers.closed() => return,
                }
            }
        });
        ReceiverStream::new(stream)
    }

    /// Renews a lease once.
    ///
    /// # Errors
    /// When etcd refuses, or cannot be reached for some seconds.
    pub(super) async fn renew(&self, caller: &Caller, id: i64) -> Answer {
        let (answer, answered) = oneshot::channel();
        let mut renewal = Renewal { id, answer };
        loop {
            match self.stream(caller).send(renewal).await {
                Ok(()) => break,
                // It was about to end, as it was idle.
                Err(mpsc::error::SendError(back)) => renewal = back,
            }
        }
        answered.await.unwrap_or_else(|_| Err(Status::cancelled("the client connection is closing")))
    }

    fn stream(&self, caller: &Caller) -> mpsc::Sender<Renewal> {
        let mut streams = lock(&self.streams);
        if let Some(stream) = streams.get(&caller.token).filter(|stream| !stream.is_closed()) {
            return stream.clone();
        }
        let (renewals, queue) = mpsc::channel(QUEUE_MAX);
        // What has ended meanwhile is forgotten.
        streams.retain(|_, stream| !stream.is_closed());
        streams.insert(caller.token.clone(), renewals.clone());
        let caller = Caller { needs_leader: true, ..caller.clone() };
        tokio::spawn(Line { kv: self.kv.clone(), caller, waiting: BTreeMap::new() }.run(queue));
        renewals
    }
}

/// The stream to etcd, in one client's name.
struct Line {
    kv: Arc<Kv>,
    caller: Caller,
    /// Who waits for which lease, and since when.
    waiting: BTreeMap<i64, Vec<(Instant, oneshot::Sender<Answer>)>>,
}

type Open = (mpsc::Sender<pb::LeaseKeepAliveRequest>, Streaming<pb::LeaseKeepAliveResponse>);

impl Line {
    async fn run(mut self, mut queue: mpsc::Receiver<Renewal>) {
        while let Ok(Some(first)) = tokio::time::timeout(IDLE_MAX, queue.recv()).await {
            self.take(first);
            while !self.waiting.is_empty() {
                let ids: Vec<i64> = self.waiting.keys().copied().collect();
                let failed = match open(self.kv.upstream(), &self.caller, &ids).await {
                    Ok(stream) => self.exchange(stream, &mut queue).await,
                    Err(status) => Some(status),
                };
                let Some(status) = failed else { break };
                self.fail(&status);
                if !self.waiting.is_empty() {
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
        queue.close();
        // Whoever came at the last moment is told to come again by the closed queue, or here.
        while let Some(renewal) = queue.recv().await {
            let _ = renewal.answer.send(Err(Status::unavailable("the stream of renewals is closing")));
        }
    }

    /// Adds a question; tells whether etcd has to be asked.
    fn take(&mut self, renewal: Renewal) -> bool {
        let waiting = self.waiting.entry(renewal.id).or_default();
        waiting.push((Instant::now(), renewal.answer));
        waiting.len() == 1
    }

    /// Asks and answers until the stream breaks (why), or has been idle.
    async fn exchange(&mut self, (asks, mut answers): Open, queue: &mut mpsc::Receiver<Renewal>) -> Option<Status> {
        loop {
            tokio::select! {
                renewal = queue.recv() => {
                    let renewal = renewal?;
                    let id = renewal.id;
                    if self.take(renewal) && asks.send(pb::LeaseKeepAliveRequest { id }).await.is_err() {
                        return Some(Status::unavailable("the stream of renewals ended"));
                    }
                }
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        for (_, waiting) in self.waiting.remove(&answer.id).into_iter().flatten() {
                            let _ = waiting.send(Ok(answer));
                        }
                    }
                    Ok(None) => return Some(Status::unavailable("the stream of renewals ended")),
                    Err(status) => return Some(told(status)),
                },
                () = tokio::time::sleep(IDLE_MAX), if self.waiting.is_empty() => return None,
                () = tokio::time::sleep(PATIENCE), if !self.waiting.is_empty() => {
                    return Some(Status::unavailable("etcd does not answer"));
                }
            }
        }
    }

    /// Tells those who cannot or will not wait longer that it failed.
    fn fail(&mut self, status: &Status) {
        let passing = matches!(status.code(), Code::Unavailable | Code::Internal);
        for waiting in self.waiting.values_mut() {
            let patient = |since: &Instant| passing && since.elapsed() < PATIENCE;
            for (_, answer) in waiting.extract_if(.., |(since, _)| !patient(since)) {
                let _ = answer.send(Err(Status::new(status.code(), status.message())));
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }
}

/// Opens a stream that asks for these leases at once.
async fn open(upstream: &Upstream, caller: &Caller, ids: &[i64]) -> Result<Open, Status> {
    upstream
        .call(Repeat::Elsewhere, move |channel| async move {
            let (asks, stream) = mpsc::channel(QUEUE_MAX.max(ids.len()));
            for id in ids {
                let _ = asks.try_send(pb::LeaseKeepAliveRequest { id: *id });
            }
            let answers = LeaseClient::new(channel).lease_keep_alive(caller.ask(ReceiverStream::new(stream))).await?;
            Ok((asks, answers.into_inner()))
        })
        .await
}
