//! Service `Watch`: many watches on one stream, one task for each stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Rng;
use bytes::Bytes;
use mvcc::{Event, EventKind};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::hub::{Cursor, Ready, Taken};
use crate::proto as pb;

/// The id that stands for no watch, or for all of a stream.
const NO_WATCH: i64 = -1;
/// Answers that may wait for the connection; when it is full, watchers fall back to history.
const ANSWERS_WAITING_MAX: usize = 16;

type Answer = Result<pb::WatchResponse, Status>;

/// The client has gone.
struct Gone;

struct Stream {
    api: Api,
    answers: mpsc::Sender<Answer>,
    ready: Arc<Ready>,
    watches: BTreeMap<i64, Watching>,
    next_id: i64,
}

struct Watching {
    cursor: Cursor,
    fragment: bool,
    no_put: bool,
    no_delete: bool,
    /// Whether it asked for progress, and whether nothing was sent since the last look.
    progress: Option<bool>,
}

#[tonic::async_trait]
impl pb::watch_server::Watch for Api {
    type WatchStream = ReceiverStream<Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS_WAITING_MAX);
        let api = Api { store: self.client_of_stream(&request) };
        let stream_task = Stream { api, answers, ready: Arc::default(), watches: BTreeMap::new(), next_id: 0 };
        self.store.shared.metrics.watch_streams.add(1);
        tokio::spawn(stream_task.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        let shared = self.api.store.shared.clone();
        let ready = self.ready.clone();
        // etcd: the interval and up to a tenth of it, so that streams do not all speak at once.
        let interval = shared.watch_progress_interval;
        let tenth = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX) / 10;
        let jitter = Rng::new(u64::from_le_bytes(shared.entropy.bytes())).below(tenth.max(1));
        let period = interval + std::time::Duration::from_millis(jitter);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let mut open = true;
        while !shared.is_stopped() {
            let done = tokio::select! {
                request = requests.message(), if open => match request {
                    Ok(Some(request)) => self.request(request).await,
                    // The client says no more, but may still listen.
                    Ok(None) => { open = false; Ok(()) }
                    Err(status) => {
                        let _ = self.answers.try_send(Err(status));
                        Err(Gone)
                    }
                },
                id = ready.next() => self.deliver(id).await,
                _ = ticks.tick() => self.tick().await,
                () = self.answers.closed() => Err(Gone),
            };
            if done.is_err() {
                break;
            }
        }
        if shared.is_stopped() {
            let _ = self.answers.try_send(Err(super::status(crate::StoreError::Stopped)));
        }
        shared.metrics.watch_streams_ended.add(1);
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), Gone> {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                if self.watches.remove(&request.watch_id).is_none() {
                    return Ok(());
                }
                let header = self.api.header(self.api.revision());
                let watch_id = request.watch_id;
                self.send(pb::WatchResponse { header, watch_id, canceled: true, ..Default::default() }).await
            }
            Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), Gone> {
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
        let range_end = request.range_end;
        if request.start_revision < 0 {
            return self.refuse("etcdserver: mvcc: required revision has been compacted").await;
        }
        let permit =
            |snapshot: &mvcc::Snapshot, caller: &mvcc::Caller| snapshot.auth().permit_read(caller, &key, &range_end);
        if let Err(error) = self.api.store.permit(permit).await {
            let refusal = super::status(error);
            // etcd prints the whole error here, as its language does.
            return self.refuse(&format!("rpc error: code = {:?} desc = {}", refusal.code(), refusal.message())).await;
        }
        if !range_end.is_empty() && range_end != b"\0"[..] && key >= range_end {
            return self.refuse("mvcc: watcher range is empty").await;
        }
        let id = match request.watch_id {
            0 => self.fresh_id(),
            id if self.watches.contains_key(&id) => {
                return self.refuse("mvcc: duplicate watch ID provided on the WatchStream").await;
            }
            id => id,
        };
        let (range, start) = ((key, range_end), request.start_revision);
        let shared = &self.api.store.shared;
        let (cursor, revision) = Cursor::new(shared, &self.ready, id, range, start, request.prev_kv);
        let filter = |kind: pb::watch_create_request::FilterType| request.filters.contains(&i32::from(kind));
        let watching = Watching {
            cursor,
            fragment: request.fragment,
            no_put: filter(pb::watch_create_request::FilterType::Noput),
            no_delete: filter(pb::watch_create_request::FilterType::Nodelete),
            progress: request.progress_notify.then_some(true),
        };
        self.watches.insert(id, watching);
        let header = self.api.header(revision);
        self.send(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() }).await
    }

    fn fresh_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn refuse(&mut self, reason: &str) -> Result<(), Gone> {
        self.send(refused(self.api.header(self.api.revision()), reason)).await
    }

    /// Sends one batch of a watch, and comes back to it later: the others get their turn.
    async fn deliver(&mut self, id: i64) -> Result<(), Gone> {
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        match watching.cursor.take() {
            Taken::Idle => Ok(()),
            Taken::Compacted(compact_revision) => {
                self.watches.remove(&id);
                // etcd gives neither a reason nor a revision here.
                let header = self.api.header(0);
                let answer =
                    pb::WatchResponse { header, watch_id: id, canceled: true, compact_revision, ..Default::default() };
                self.send(answer).await
            }
            Taken::Batch(batch, revision) => {
                self.ready.push(id);
                self.send_batch(id, batch.events, revision).await
            }
        }
    }

    async fn send_batch(&mut self, id: i64, events: Vec<Event>, revision: i64) -> Result<(), Gone> {
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        let (no_put, no_delete) = (watching.no_put, watching.no_delete);
        let wanted = |event: &Event| match event.kind {
            EventKind::Put => !no_put,
            EventKind::Delete => !no_delete,
        };
        let events: Vec<pb::Event> = events.into_iter().filter(wanted).map(Into::into).collect();
        if events.is_empty() {
            return Ok(());
        }
        if let Some(quiet) = &mut watching.progress {
            *quiet = false;
        }
        let fragment = watching.fragment;
        let header = self.api.header(revision);
        let answer = pb::WatchResponse { header, watch_id: id, events, ..Default::default() };
        if !fragment {
            return self.send(answer).await;
        }
        for part in fragments(answer, self.api.store.shared.limits.request_bytes_max) {
            self.send(part).await?;
        }
        Ok(())
    }

    /// A client asks how far the stream is: told only when all its watches have everything.
    async fn progress(&mut self) -> Result<(), Gone> {
        let mut revision = None;
        for watching in self.watches.values() {
            match watching.cursor.synced() {
                Some(synced) => revision = Some(revision.map_or(synced, |least: i64| least.min(synced))),
                None => return Ok(()),
            }
        }
        let Some(revision) = revision else { return Ok(()) };
        let header = self.api.header(revision);
        self.send(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() }).await
    }

    async fn tick(&mut self) -> Result<(), Gone> {
        let mut quiet = Vec::new();
        for (id, watching) in &mut self.watches {
            if watching.progress == Some(true)
                && let Some(revision) = watching.cursor.synced()
            {
                quiet.push((*id, revision));
            }
            watching.progress = watching.progress.map(|_| true);
        }
        for (watch_id, revision) in quiet {
            let header = self.api.header(revision);
            self.send(pb::WatchResponse { header, watch_id, ..Default::default() }).await?;
        }
        Ok(())
    }

    async fn send(&self, answer: pb::WatchResponse) -> Result<(), Gone> {
        self.answers.send(Ok(answer)).await.map_err(|_| Gone)
    }
}

/// What is said of a watch that cannot be: that it was made, and is over.
pub(crate) fn refused(header: Option<pb::ResponseHeader>, reason: &str) -> pb::WatchResponse {
    pb::WatchResponse {
        header,
        watch_id: NO_WATCH,
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    }
}

/// Cuts an answer into parts of at most `bytes_max`, a single event excepted.
fn fragments(mut whole: pb::WatchResponse, bytes_max: usize) -> Vec<pb::WatchResponse> {
    if whole.encoded_len() < bytes_max || whole.events.len() < 2 {
        return vec![whole];
    }
    let events = std::mem::take(&mut whole.events);
    let head = whole.encoded_len() + 2;
    let mut parts = Vec::new();
    let (mut part, mut size) = (pb::WatchResponse { fragment: true, ..whole.clone() }, head);
    for event in events {
        let length = event.encoded_len() + 6;
        if !part.events.is_empty() && size + length >= bytes_max {
            parts.push(std::mem::replace(&mut part, pb::WatchResponse { fragment: true, ..whole.clone() }));
            size = head;
        }
        size += length;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_part_is_not_marked_as_a_fragment() {
        let kv = pb::KeyValue { value: Bytes::from(vec![0; 400]), ..Default::default() };
        let event = pb::Event { kv: Some(kv), ..Default::default() };
        let whole = pb::WatchResponse { events: vec![event; 5], ..Default::default() };
        let parts = fragments(whole.clone(), 1000);
        assert_eq!(parts.iter().map(|part| part.events.len()).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(parts.iter().map(|part| part.fragment).collect::<Vec<_>>(), [true, true, false]);
        assert!(parts.iter().all(|part| part.encoded_len() <= 1000));
        assert_eq!(fragments(whole.clone(), 10_000), vec![whole]);
    }
}
