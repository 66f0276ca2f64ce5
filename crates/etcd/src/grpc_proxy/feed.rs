//! A watch at etcd that goes on where it was when its connection breaks, at whatever endpoint can be reached.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::kv::Kv;
use super::upstream::{Caller, Repeat, told};
use crate::proto as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;

/// How long after a failure a watch is made again at first, and at most.
const BACKOFF: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// What is watched. Keys are those that clients know.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    pub(super) key: Bytes,
    /// As in a range; empty for one key.
    pub(super) range_end: Bytes,
    /// The first revision that is told; 0 for what happens from now on.
    pub(super) start: i64,
    pub(super) progress: bool,
}

/// The answers to one watch: once that it was created, then what happens.
pub(super) struct Feed {
    kv: Arc<Kv>,
    caller: Caller,
    watched: Watched,
    stream: Option<Open>,
    created: bool,
    backoff: Duration,
}

struct Open {
    answers: Streaming<pb::WatchResponse>,
    /// Kept, as the stream ends with it.
    _requests: mpsc::Sender<pb::WatchRequest>,
}

impl Feed {
    pub(super) fn new(kv: Arc<Kv>, caller: Caller, watched: Watched) -> Self {
        Self { kv, caller, watched, stream: None, created: false, backoff: BACKOFF }
    }

    /// The next answer. Once one is `canceled` there is no other.
    ///
    /// # Errors
    /// When etcd refuses the watch for good; one that cannot be reached is waited for, unless a leader was asked for.
    pub(super) async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        loop {
            match self.answer().await {
                Ok(answer) => {
                    self.backoff = BACKOFF;
                    let again = answer.created && !answer.canceled && std::mem::replace(&mut self.created, true);
                    self.note(&answer);
                    if !again {
                        return Ok(self.leave(answer));
                    }
                }
                Err(status) => {
                    self.stream = None;
                    let passing = matches!(status.code(), Code::Unavailable | Code::Internal);
                    if !passing || (self.caller.needs_leader && status.message() == "etcdserver: no leader") {
                        return Err(status);
                    }
                    tokio::time::sleep(self.backoff).await;
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Whether etcd has told that the watch was created.
    pub(super) fn is_created(&self) -> bool {
        self.created
    }

    async fn answer(&mut self) -> Result<pb::WatchResponse, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(open(&self.kv, &self.caller, &self.watched).await?),
        };
        let answer = stream.answers.message().await.map_err(told)?;
        answer.ok_or_else(|| Status::unavailable("the watch ended"))
    }

    /// Where a watch that takes this one's place has to begin.
    fn note(&mut self, answer: &pb::WatchResponse) {
        let stated = answer.header.map_or(0, |header| header.revision);
        // While it catches up, etcd states the store's revision although earlier events are still to come.
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        match last {
            Some(last) => self.watched.start = last + 1,
            None if answer.created && self.watched.start > 0 => {}
            None => self.watched.start = self.watched.start.max(stated + 1),
        }
    }

    fn leave(&self, mut answer: pb::WatchResponse) -> pb::WatchResponse {
        let namespace = self.kv.namespace();
        for event in &mut answer.events {
            namespace.leave_all(&mut event.kv);
            namespace.leave_all(&mut event.prev_kv);
        }
        answer
    }
}

async fn open(kv: &Kv, caller: &Caller, watched: &Watched) -> Result<Open, Status> {
    let (mut key, mut range_end) = (watched.key.clone(), watched.range_end.clone());
    kv.namespace().enter(&mut key, &mut range_end);
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: watched.start,
        progress_notify: watched.progress,
        prev_kv: true,
        ..Default::default()
    };
    let create = &pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let upstream = kv.upstream();
    upstream
        .call(Repeat::Elsewhere, async move |channel| {
            let (requests, stream) = mpsc::channel(1);
            let _ = requests.try_send(create.clone());
            let mut client = WatchClient::new(channel).max_decoding_message_size(upstream.receive_bytes_max());
            let answers = client.watch(caller.ask(ReceiverStream::new(stream))).await?.into_inner();
            Ok(Open { answers, _requests: requests })
        })
        .await
}
