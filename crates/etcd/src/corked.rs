//! Writes what a connection has to say in one piece.
//!
//! h2 flushes after nearly each frame: a hundred watchers on one connection were a hundred system calls an event, and the answer
//! to a client's PING one of its own. Here a flush waits until the connection's task is about to sleep.
//!
//! ```text
//! hyper ─ write, flush, write, flush ─► Corked ─► buffer        one poll of the connection
//! drive ────────────────────────────── uncork ──► one write     at its end
//! ```

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hub::lock;

/// What is held back at most; a connection with more to say writes in between.
const HELD_BYTES_MAX: usize = 64 << 10;
/// A write of this size gains nothing by being copied.
const LARGE_BYTES: usize = 16 << 10;

struct Held<S> {
    stream: S,
    buffer: Vec<u8>,
    /// So much of the buffer was written already.
    written: usize,
}

impl<S: AsyncWrite + Unpin> Held<S> {
    /// Hands the stream all that is held.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes room, or tells that `length` bytes are to be written as they are.
    fn poll_is_large(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<bool>> {
        let large = length >= LARGE_BYTES;
        if large || self.buffer.len() >= HELD_BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(large))
    }
}

/// A stream that holds back what is written to it, until its task sleeps; see [`drive`].
pub(crate) struct Corked<S>(Arc<Mutex<Held<S>>>);

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.0);
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if ready!(held.poll_is_large(cx, length))? {
            return Pin::new(&mut held.stream).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| held.buffer.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is held goes when the task sleeps.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        ready!(held.poll_uncork(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

/// Runs the connection that `serve` makes of the stream, and writes what it has to say at the end of each of its turns.
///
/// # Errors
/// Those of the connection, and of writing.
pub(crate) async fn drive<S, F, E>(stream: S, serve: impl FnOnce(Corked<S>) -> F) -> Result<(), E>
where
    S: AsyncWrite + Unpin,
    F: Future<Output = Result<(), E>>,
    E: From<io::Error>,
{
    let held = Arc::new(Mutex::new(Held { stream, buffer: Vec::new(), written: 0 }));
    let mut connection = pin!(serve(Corked(held.clone())));
    std::future::poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        match lock(&held).poll_uncork(cx) {
            Poll::Ready(Err(error)) if polled.is_pending() => Poll::Ready(Err(error.into())),
            _ => polled,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// A stream that counts what it is asked to write.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
            lock(&self.writes).push(n);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// What arrives of what `speak` writes over a pipe of so many bytes, and in which pieces it was written.
    async fn heard<F>(pipe: usize, speak: impl FnOnce(Corked<Counted>) -> F) -> (Vec<u8>, Vec<usize>)
    where
        F: Future<Output = io::Result<()>>,
    {
        let (stream, mut there) = tokio::io::duplex(pipe);
        let writes = Arc::<Mutex<Vec<usize>>>::default();
        let counted = Counted { stream, writes: writes.clone() };
        let mut heard = Vec::new();
        let (spoken, read) = tokio::join!(drive(counted, speak), there.read_to_end(&mut heard));
        spoken.expect("written");
        read.expect("read");
        let writes = lock(&writes).clone();
        (heard, writes)
    }

    #[tokio::test]
    async fn what_is_flushed_in_one_turn_is_written_at_once_and_each_turn_for_itself() {
        let (heard, writes) = heard(1 << 20, |mut corked| async move {
            for _ in 0..100 {
                corked.write_all(&[7; 300]).await?;
                corked.flush().await?;
            }
            tokio::task::yield_now().await;
            corked.write_all(&[8; 10]).await?;
            corked.flush().await?;
            tokio::task::yield_now().await;
            corked.shutdown().await
        })
        .await;
        assert_eq!(writes, [30_000, 10]);
        assert_eq!(heard.len(), 30_010);
    }

    #[tokio::test]
    async fn everything_arrives_in_order_over_a_narrow_pipe() {
        let said: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let pieces = said.clone();
        let (heard, _) = heard(1000, |mut corked| async move {
            let mut left = &pieces[..];
            for size in [1, 20_000, 9, 70_000, 300, 100, 16 << 10, 64 << 10].into_iter().cycle() {
                let (piece, rest) = left.split_at(left.len().min(size));
                corked.write_all(piece).await?;
                corked.flush().await?;
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            corked.shutdown().await
        })
        .await;
        assert!(heard == said);
    }

    #[tokio::test]
    async fn no_more_is_held_than_the_limit() {
        let (_, writes) = heard(1 << 20, |mut corked| async move {
            for _ in 0..100 {
                corked.write_all(&[7; 10_000]).await?;
            }
            corked.shutdown().await
        })
        .await;
        assert!(writes.iter().all(|n| *n < HELD_BYTES_MAX + 10_000), "{writes:?}");
    }

    #[tokio::test]
    async fn a_connection_whose_client_is_gone_ends() {
        let (stream, there) = tokio::io::duplex(100);
        drop(there);
        let ended = drive(stream, |mut corked| async move {
            corked.write_all(b"hello").await?;
            std::future::pending::<io::Result<()>>().await
        });
        assert_eq!(ended.await.expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }
}
