//! The limit on a client's pings (`--grpc-keepalive-min-time`). Neither hyper nor h2 has a place for it, so it sits
//! below them, on the bytes of the connection: it counts PING frames, and writes the GOAWAY `too_many_pings` itself.
//!
//! The rule is gRPC's (`internal/transport` of grpc-go): a ping is a strike when it comes sooner than allowed after the
//! last one, or within two hours of it while no call is open. Answers in between clear the strikes; the third ends it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const REASON: &[u8] = b"too_many_pings";
/// Strikes that are borne.
const STRIKES_MAX: u32 = 2;
/// How often a client without a call may ping.
const IDLE_INTERVAL: Duration = Duration::from_secs(2 * 3600);

/// Where one direction of a connection is in its frames.
#[derive(Default)]
struct Frames {
    /// Bytes of the preface still to come.
    preface: usize,
    head: [u8; HEAD],
    filled: usize,
    left: usize,
}

impl Frames {
    fn feed(&mut self, mut data: &[u8], mut begins: impl FnMut(u8, u8, u32)) {
        while !data.is_empty() {
            let pass = if self.preface > 0 { &mut self.preface } else { &mut self.left };
            if *pass > 0 {
                let n = (*pass).min(data.len());
                *pass -= n;
                data = &data[n..];
                continue;
            }
            let n = (HEAD - self.filled).min(data.len());
            self.head[self.filled..self.filled + n].copy_from_slice(&data[..n]);
            self.filled += n;
            data = &data[n..];
            if self.filled == HEAD {
                let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
                self.filled = 0;
                self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                begins(kind, flags, u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff);
            }
        }
    }

    /// Bytes to the end of the frame that is under way; nothing between frames.
    fn to_boundary(&self) -> Option<usize> {
        match (self.filled, self.left) {
            (0, 0) => None,
            (0, left) => Some(left),
            (filled, _) => Some(HEAD - filled),
        }
    }
}

/// Counts strikes.
struct Police {
    clock: Clock,
    interval_min: Duration,
    open: Arc<AtomicUsize>,
    last: Option<Duration>,
    strikes: u32,
    /// Whether something was answered since the last ping.
    answered: bool,
}

impl Police {
    /// Whether this ping is one too many.
    fn ping(&mut self) -> bool {
        let now = self.clock.monotonic();
        let since = self.last.replace(now).map(|last| now.saturating_sub(last));
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return false;
        }
        let idle = self.open.load(Ordering::Relaxed) == 0;
        let allowed = if idle { IDLE_INTERVAL } else { self.interval_min };
        if since.is_some_and(|since| since < allowed) {
            self.strikes += 1;
        }
        self.strikes > STRIKES_MAX
    }
}

/// A connection whose client may not ping too often.
pub(crate) struct Policed<S> {
    stream: S,
    police: Police,
    inbound: Frames,
    outbound: Frames,
    /// How much of the preface was seen; nothing for a connection that is not HTTP/2.
    preface: Option<usize>,
    last_stream: u32,
    /// What is left to say before the connection ends.
    goodbye: Option<Vec<u8>>,
}

impl<S> Policed<S> {
    pub(crate) fn new(stream: S, clock: Clock, interval_min: Duration, open: Arc<AtomicUsize>) -> Self {
        let police = Police { clock, interval_min, open, last: None, strikes: 0, answered: false };
        Self {
            stream,
            police,
            inbound: Frames { preface: PREFACE.len(), ..Frames::default() },
            outbound: Frames::default(),
            preface: Some(0),
            last_stream: 0,
            goodbye: None,
        }
    }

    fn received(&mut self, data: &[u8]) {
        let Some(seen) = self.preface else { return };
        let expected = &PREFACE[seen..];
        let n = expected.len().min(data.len());
        if data[..n] != expected[..n] {
            self.preface = None;
            return;
        }
        self.preface = Some(seen + n);
        let (police, last_stream) = (&mut self.police, &mut self.last_stream);
        let mut too_many = false;
        self.inbound.feed(data, |kind, flags, stream| match kind {
            PING if flags & ACK == 0 => too_many |= police.ping(),
            HEADERS => *last_stream = (*last_stream).max(stream),
            _ => {}
        });
        if too_many && self.goodbye.is_none() {
            self.goodbye = Some(goaway(self.last_stream));
        }
    }

    fn sent(&mut self, data: &[u8]) {
        if self.preface.is_some() {
            let answered = &mut self.police.answered;
            self.outbound.feed(data, |kind, _, _| *answered |= matches!(kind, DATA | HEADERS));
        }
    }
}

fn goaway(last_stream: u32) -> Vec<u8> {
    let length = u32::try_from(8 + REASON.len()).unwrap_or_default().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(last_stream.to_be_bytes());
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(REASON);
    frame
}

impl<S: AsyncRead + Unpin> AsyncRead for Policed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Policed<S> {
    /// Ends the frame under way, says goodbye, and fails: nothing else is written.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(rest) = self.outbound.to_boundary() {
            let data = &data[..rest.min(data.len())];
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
            self.sent(&data[..n]);
            return Poll::Ready(Ok(n));
        }
        while let Some(goodbye) = self.goodbye.as_mut().filter(|goodbye| !goodbye.is_empty()) {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, goodbye))?;
            goodbye.drain(..n);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        tracing::warn!(target: "etcd", "a client pings too often; its connection is closed");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "got too many pings from the client")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Policed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.goodbye.is_some() {
            return self.poll_goodbye(cx, buf);
        }
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.sent(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.goodbye.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_goodbye(cx, first);
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let n = left.min(buf.len());
            self.sent(&buf[..n]);
            left -= n;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use base::{FakeClock, Timestamp};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PING_FRAME: [u8; 17] = [0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    struct Rig {
        clock: FakeClock,
        client: tokio::io::DuplexStream,
        server: Policed<tokio::io::DuplexStream>,
        open: Arc<AtomicUsize>,
    }

    impl Rig {
        fn new() -> Self {
            let clock = FakeClock::new(Timestamp::EPOCH);
            let open = Arc::new(AtomicUsize::new(1));
            let (client, server) = tokio::io::duplex(4096);
            let server = Policed::new(server, clock.clock(), Duration::from_secs(5), open.clone());
            Self { clock, client, server, open }
        }

        /// The client sends, the server reads.
        async fn send(&mut self, bytes: &[u8]) {
            self.client.write_all(bytes).await.expect("room");
            let mut read = vec![0; bytes.len()];
            self.server.read_exact(&mut read).await.expect("what was sent");
            assert_eq!(read, bytes);
        }

        async fn pings(&mut self, after: Duration) {
            self.clock.advance(after);
            self.send(&PING_FRAME).await;
        }
    }

    #[tokio::test]
    async fn the_fourth_ping_in_a_row_is_answered_with_goaway_between_frames() {
        let mut rig = Rig::new();
        rig.send(PREFACE).await;
        // Half of a SETTINGS frame with a payload of six bytes is out already.
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9];
        rig.server.write_all(&settings[..11]).await.expect("room");
        for _ in 0..3 {
            rig.pings(Duration::from_secs(1)).await;
        }
        assert!(rig.server.goodbye.is_none(), "the first is free, and two strikes are borne");
        rig.pings(Duration::from_secs(1)).await;
        let rest = [&settings[11..], &PING_FRAME[..]].concat();
        let error = rig.server.write_all(&rest).await.expect_err("the connection ends");
        assert_eq!(error.to_string(), "got too many pings from the client");
        drop(rig.server);
        let mut seen = Vec::new();
        rig.client.read_to_end(&mut seen).await.expect("readable");
        assert_eq!(seen, [&settings[..], &goaway(0)].concat());
    }

    #[tokio::test]
    async fn slow_pings_and_pings_between_answers_are_borne() {
        let mut rig = Rig::new();
        rig.send(PREFACE).await;
        for _ in 0..10 {
            rig.pings(Duration::from_secs(5)).await;
        }
        for _ in 0..10 {
            rig.server.write_all(&[0, 0, 0, DATA, 0, 0, 0, 0, 1]).await.expect("room");
            rig.pings(Duration::ZERO).await;
        }
        assert!(rig.server.goodbye.is_none());
        rig.open.store(0, Ordering::Relaxed);
        for _ in 0..4 {
            rig.pings(Duration::from_secs(60)).await;
        }
        assert!(rig.server.goodbye.is_some(), "without a call, a ping in two hours is enough");
    }

    #[tokio::test]
    async fn http_1_is_let_through() {
        let mut rig = Rig::new();
        rig.send(b"PRETTY /health HTTP/1.1\r\n\r\n").await;
        for _ in 0..5 {
            rig.send(&PING_FRAME).await;
        }
        assert!(rig.server.goodbye.is_none());
    }
}
