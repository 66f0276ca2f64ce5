//! Streams of the gateway: JSON values of a body become messages as they arrive, messages become lines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost_reflect::MessageDescriptor;
use tonic::Status;

use super::scan::{Scan, scan};
use super::{Route, decode, failure, frame, status_json};
use crate::calls::{Answer, PREFIX};

/// The messages of a request. A value that is no message ends them without a word, as in etcd.
pub(super) struct Messages {
    body: Incoming,
    input: MessageDescriptor,
    bytes_max: usize,
    waiting: BytesMut,
    whole: bool,
    over: bool,
}

impl Messages {
    pub(super) fn new(body: Incoming, input: MessageDescriptor, bytes_max: usize) -> Self {
        Self { body, input, bytes_max, waiting: BytesMut::new(), whole: false, over: false }
    }

    /// The next message that is there. Nothing: more bytes are needed, or it is over.
    fn cut(&mut self) -> Option<Bytes> {
        let scanned = scan(&self.waiting, self.whole);
        let message = match scanned {
            Scan::Value(range) => {
                let end = range.end;
                let message = decode::decode(&self.waiting[range], &self.input);
                let _ = self.waiting.split_to(end);
                message.ok()
            }
            Scan::Nothing | Scan::More if !self.whole && self.waiting.len() <= self.bytes_max => return None,
            Scan::Nothing | Scan::More | Scan::Bad(_) => None,
        };
        self.over = message.is_none();
        message.map(|message| frame(&message))
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(message) = self.cut() {
                return Poll::Ready(Some(Ok(Frame::data(message))));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.waiting.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => self.over = true,
                None => self.whole = true,
            }
        }
    }
}

/// The line that ends a stream which failed.
pub(super) fn error_line(status: &Status) -> Bytes {
    format!("{{\"error\":{}}}\n", status_json(status)).into()
}

/// The lines of a response: `{"result":…}` for each message, `{"error":…}` at the end of one that failed.
pub(super) struct Lines {
    body: Answer,
    route: Route,
    waiting: BytesMut,
    first: Option<Bytes>,
    over: bool,
}

impl Lines {
    /// Waits for the first message, or the end.
    pub(super) async fn begin(body: Answer, route: Route) -> Result<Self, Status> {
        let mut lines = Self { body, route, waiting: BytesMut::new(), first: None, over: false };
        while !lines.over {
            if let Some(line) = lines.cut()? {
                lines.first = Some(line);
                break;
            }
            match lines.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(status) = frame.trailers_ref().and_then(failure) {
                        return Err(status);
                    }
                    lines.waiting.extend(frame.into_data().ok());
                }
                Some(Err(status)) => return Err(status),
                None => lines.over = true,
            }
        }
        Ok(lines)
    }

    /// The next line that is there.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(prefix) = self.waiting.first_chunk::<PREFIX>() else { return Ok(None) };
        let [_, length @ ..] = *prefix;
        let end = PREFIX + usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX - PREFIX);
        if self.waiting.len() < end {
            return Ok(None);
        }
        let framed = self.waiting.split_to(end);
        let mut line = BytesMut::from(&b"{\"result\":"[..]);
        self.route.write(&framed, &mut line)?;
        line.extend_from_slice(b"}\n");
        Ok(Some(line.freeze()))
    }

    fn last(&mut self, status: &Status) -> Frame<Bytes> {
        self.over = true;
        Frame::data(error_line(status))
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            match self.cut() {
                Ok(Some(line)) => return Poll::Ready(Some(Ok(Frame::data(line)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Ok(self.last(&status)))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(status) = frame.trailers_ref().and_then(failure) {
                        return Poll::Ready(Some(Ok(self.last(&status))));
                    }
                    self.waiting.extend(frame.into_data().ok());
                }
                Some(Err(status)) => return Poll::Ready(Some(Ok(self.last(&status)))),
                None => self.over = true,
            }
        }
    }
}
