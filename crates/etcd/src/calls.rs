//! gRPC calls as they pass: messages, bytes and results are counted for `/metrics`, messages that are too large are
//! refused, and streams that asked for a leader end when there is none.
//!
//! ```text
//! request body ─► Received (counts, refuses) ─► the service ─► Answer (counts, ends) ─► the connection
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::methods::{Kind, METHODS};
use crate::metrics::{Counter, Histogram};
use crate::unary::ended_well;

/// gRPC's codes by number, as the label `grpc_code` has them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Length of what stands before each gRPC message: a flag and the message's length.
pub(crate) const PREFIX: usize = 5;

/// Counts every call, by method.
pub(crate) struct Calls {
    counts: Vec<Counts>,
    rows: HashMap<String, usize>,
    sent_bytes: Counter,
    received_bytes: Counter,
    timed: AtomicBool,
    /// Calls that take longer are told, in nanoseconds; 0 for none.
    slow_nanoseconds: AtomicU64,
}

struct Counts {
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    seconds: Histogram,
}

impl Default for Calls {
    fn default() -> Self {
        let counts = METHODS.iter().map(|_| Counts {
            started: Counter::default(),
            handled: Default::default(),
            received: Counter::default(),
            sent: Counter::default(),
            seconds: Histogram::of_calls(),
        });
        let paths = METHODS.iter().map(|method| format!("/{}/{}", method.service, method.name));
        Self {
            counts: counts.collect(),
            rows: paths.zip(0..).collect(),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            timed: AtomicBool::new(false),
            slow_nanoseconds: AtomicU64::new(0),
        }
    }
}

impl Calls {
    /// Measures how long calls take from now on (`--metrics extensive`).
    pub(crate) fn time(&self) {
        self.timed.store(true, Ordering::Relaxed);
    }

    /// Tells of calls that take longer from now on (`--warning-unary-request-duration`).
    pub(crate) fn warn_after(&self, slow: Duration) {
        self.slow_nanoseconds.store(u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A call begins; nothing when there is no such method.
    pub(crate) fn begin(self: &Arc<Self>, path: &str, clock: &Clock) -> Option<Call> {
        let row = *self.rows.get(path)?;
        self.counts[row].started.add(1);
        let timed = self.timed.load(Ordering::Relaxed);
        let told = self.slow_nanoseconds.load(Ordering::Relaxed) > 0 && METHODS[row].kind == Kind::Unary;
        let started = (timed || told).then(|| (clock.clone(), clock.monotonic()));
        Some(Call { calls: self.clone(), row, started, done: false })
    }

    /// The lines of `/metrics`.
    pub(crate) fn print(&self, out: &mut String) {
        let labels = |row: usize| {
            let method = &METHODS[row];
            let (name, service, kind) = (method.name, method.service, method.kind.name());
            format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
        };
        let mut family = |name: &str, value: &dyn Fn(&Counts) -> u64| {
            let _ = writeln!(out, "# TYPE {name} counter");
            for (row, counts) in self.counts.iter().enumerate() {
                let _ = writeln!(out, "{name}{{{}}} {}", labels(row), value(counts));
            }
        };
        family("grpc_server_started_total", &|counts| counts.started.get());
        family("grpc_server_msg_received_total", &|counts| counts.received.get());
        family("grpc_server_msg_sent_total", &|counts| counts.sent.get());
        let _ = writeln!(out, "# TYPE grpc_server_handled_total counter");
        for (code, name) in CODES.iter().enumerate() {
            for (row, counts) in self.counts.iter().enumerate() {
                let (labels, count) = (labels(row), counts.handled[code].get());
                let _ = writeln!(out, "grpc_server_handled_total{{grpc_code=\"{name}\",{labels}}} {count}");
            }
        }
        if self.timed.load(Ordering::Relaxed) {
            let _ = writeln!(out, "# TYPE grpc_server_handling_seconds histogram");
            for (row, counts) in self.counts.iter().enumerate() {
                counts.seconds.lines("grpc_server_handling_seconds", &format!("{},", labels(row)), out);
            }
        }
        for (name, bytes) in [("sent", &self.sent_bytes), ("received", &self.received_bytes)] {
            let name = format!("etcd_network_client_grpc_{name}_bytes_total");
            let _ = writeln!(out, "# TYPE {name} counter\n{name} {}", bytes.get());
        }
    }
}

/// A call under way. Dropped before it is finished, it counts as cancelled by its client.
pub(crate) struct Call {
    calls: Arc<Calls>,
    row: usize,
    started: Option<(Clock, Duration)>,
    done: bool,
}

impl Call {
    pub(crate) fn kind(&self) -> Kind {
        METHODS[self.row].kind
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let counts = &self.calls.counts[self.row];
        if let Some(counter) = usize::try_from(i32::from(code)).ok().and_then(|code| counts.handled.get(code)) {
            counter.add(1);
        }
        let Some((clock, started)) = &self.started else { return };
        let took = clock.monotonic().saturating_sub(*started);
        if self.calls.timed.load(Ordering::Relaxed) {
            counts.seconds.observe(took);
        }
        let slow = self.calls.slow_nanoseconds.load(Ordering::Relaxed);
        if slow > 0 && took > Duration::from_nanos(slow) && self.kind() == Kind::Unary {
            let method = &METHODS[self.row];
            let response_type = format!("/{}/{}", method.service, method.name);
            tracing::warn!(target: "etcd", time_spent = ?took, response_type, "request stats");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

/// Where a body is in its messages.
#[derive(Default)]
struct Frames {
    prefix: [u8; PREFIX],
    filled: usize,
    left: usize,
}

impl Frames {
    /// Takes up a piece of the body; tells the length of each message that begins in it.
    fn feed(&mut self, mut data: &[u8], mut begins: impl FnMut(usize)) {
        while !data.is_empty() {
            if self.left > 0 {
                let n = self.left.min(data.len());
                self.left -= n;
                data = &data[n..];
                continue;
            }
            let n = (PREFIX - self.filled).min(data.len());
            self.prefix[self.filled..self.filled + n].copy_from_slice(&data[..n]);
            self.filled += n;
            data = &data[n..];
            if self.filled == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.filled = 0;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                begins(self.left);
            }
        }
    }
}

/// Where a call's messages come from.
pub(crate) enum Inbound {
    /// A connection.
    Wire(Incoming),
    /// The JSON gateway.
    Local(Body),
}

/// A request's body.
pub(crate) struct Received {
    body: Inbound,
    frames: Frames,
    bytes_max: usize,
    calls: Arc<Calls>,
    row: usize,
}

impl Received {
    pub(crate) fn new(body: Inbound, call: &Call, bytes_max: usize) -> Self {
        Self { body, frames: Frames::default(), bytes_max, calls: call.calls.clone(), row: call.row }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = match &mut this.body {
            Inbound::Wire(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(|e| Status::from_error(Box::new(e))))
            }
            Inbound::Local(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let (calls, counts, max) = (&this.calls, &this.calls.counts[this.row], this.bytes_max);
            let mut too_large = None;
            this.frames.feed(data, |length| {
                counts.received.add(1);
                calls.received_bytes.add(length as u64);
                too_large = too_large.or((length > max).then_some(length));
            });
            if let Some(length) = too_large {
                return Poll::Ready(Some(Err(too_large_message(length, max))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inbound::Wire(body) => body.is_end_stream(),
            Inbound::Local(body) => body.is_end_stream(),
        }
    }
}

/// What gRPC for Go says of a message that is larger than the server takes.
pub(crate) fn too_large_message(length: usize, max: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({length} vs. {max})"))
}

/// Counts the open calls of a connection.
pub(crate) struct Open(Arc<AtomicUsize>);

impl Open {
    pub(crate) fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Done when a member has been without a leader for too long.
pub(crate) type Leaderless = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a call answers.
pub(crate) enum Reply {
    /// As a service streams it.
    Stream(Body),
    /// One message, with what stands before it, and that it went well.
    Message {
        /// Nothing once it is on its way.
        message: Option<Bytes>,
        /// The trailers are on their way too.
        ended: bool,
    },
}

impl Default for Reply {
    fn default() -> Self {
        Self::Stream(Body::empty())
    }
}

impl From<Body> for Reply {
    fn from(body: Body) -> Self {
        Self::Stream(body)
    }
}

impl Reply {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self {
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Message { ended: true, .. } => Poll::Ready(None),
            Self::Message { message, ended } => Poll::Ready(Some(Ok(match message.take() {
                Some(message) => Frame::data(message),
                None => {
                    *ended = true;
                    Frame::trailers(ended_well())
                }
            }))),
        }
    }
}

/// A response's body: a call's, or of plain HTTP.
pub(crate) struct Answer {
    body: Reply,
    call: Option<(Call, Frames)>,
    leaderless: Option<Leaderless>,
    open: Option<Open>,
}

impl Answer {
    /// The answer to a plain HTTP request.
    pub(crate) fn plain(response: Response<Body>) -> Response<Self> {
        response.map(|body| Self { body: body.into(), call: None, leaderless: None, open: None })
    }

    /// The answer to a call. `leaderless` ends it with etcd's error.
    pub(crate) fn to_call(
        response: Response<impl Into<Reply>>,
        mut call: Call,
        leaderless: Option<Leaderless>,
        open: Option<Open>,
    ) -> Response<Self> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            call.finish(status.code());
        }
        response.map(|body| Self { body: body.into(), call: Some((call, Frames::default())), leaderless, open })
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.body.poll_frame(cx) else {
            let leaderless = this.leaderless.as_mut().is_some_and(|lost| lost.as_mut().poll(cx).is_ready());
            if !leaderless {
                return Poll::Pending;
            }
            this.leaderless = None;
            this.body = Reply::default();
            let status = crate::grpc::status(crate::StoreError::NoLeader);
            if let Some((call, _)) = &mut this.call {
                call.finish(status.code());
            }
            let mut trailers = http::HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        };
        let Some((call, frames)) = &mut this.call else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (calls, counts) = (&call.calls, &call.calls.counts[call.row]);
                    frames.feed(data, |length| {
                        counts.sent.add(1);
                        calls.sent_bytes.add(length as u64);
                    });
                } else if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    call.finish(status.code());
                }
            }
            Some(Err(status)) => call.finish(status.code()),
            None => drop(this.open.take()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Reply::Stream(body) => body.is_end_stream(),
            Reply::Message { ended, .. } => *ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Reply::Stream(body) => body.size_hint(),
            Reply::Message { message, .. } => SizeHint::with_exact(message.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{FakeClock, Timestamp};
    use http_body_util::BodyExt as _;

    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
        out.extend(message);
        out
    }

    fn call(calls: &Arc<Calls>) -> Call {
        let clock = FakeClock::new(Timestamp::EPOCH);
        calls.begin("/etcdserverpb.KV/Range", &clock.clock()).expect("a method")
    }

    fn line(calls: &Calls, wanted: &str) -> String {
        let mut page = String::new();
        calls.print(&mut page);
        let method = "grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\"";
        let found = page.lines().find(|line| line.starts_with(wanted) && line.contains(method));
        found.unwrap_or_default().rsplit(' ').next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn messages_are_counted_however_the_bytes_are_cut() {
        for piece in [1, 3, 7, 100] {
            let calls = Arc::<Calls>::default();
            let call = call(&calls);
            let bytes = [frame(b"abc"), frame(b""), frame(&[7; 20])].concat();
            let pieces: Vec<_> =
                bytes.chunks(piece).map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
            let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(pieces)));
            let all = Received::new(Inbound::Local(body), &call, 20).collect().await.expect("small enough").to_bytes();
            assert_eq!(all, bytes);
            assert_eq!(line(&calls, "grpc_server_msg_received_total"), "3", "pieces of {piece}");
            let body = Body::new(http_body_util::Full::new(Bytes::from(frame(&[0; 21]))));
            let refused = Received::new(Inbound::Local(body), &call, 20).collect().await.expect_err("too large");
            assert_eq!(refused.message(), "grpc: received message larger than max (21 vs. 20)");
        }
    }

    #[tokio::test]
    async fn a_call_ends_with_its_code_or_as_cancelled() {
        let calls = Arc::<Calls>::default();
        let handled = |code: &str| line(&calls, &format!("grpc_server_handled_total{{grpc_code=\"{code}\""));
        let refused = Status::not_found("x").into_http::<Body>();
        drop(Answer::to_call(refused, call(&calls), None, None));
        assert_eq!((handled("NotFound"), handled("Canceled")), ("1".to_owned(), "0".to_owned()));
        drop(Answer::to_call(Response::new(Body::empty()), call(&calls), None, None));
        assert_eq!(handled("Canceled"), "1");
        assert_eq!(line(&calls, "grpc_server_started_total"), "2");
    }

    #[tokio::test]
    async fn a_stream_without_a_leader_ends_with_etcds_error() {
        let calls = Arc::<Calls>::default();
        let silent = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Status>>());
        let response = Response::new(Body::new(silent));
        let answer = Answer::to_call(response, call(&calls), Some(Box::pin(async {})), None);
        let end = answer.into_body().collect().await.expect("an end");
        let status = end.trailers().and_then(Status::from_header_map).expect("a status");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
        assert_eq!(line(&calls, "grpc_server_handled_total{grpc_code=\"Unavailable\""), "1");
    }
}
