//! What becomes of a connection that is not let in: held without an answer, or reset; and how often it is logged.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Silent connections that are kept at once; the oldest gives way.
const HELD_MAX: usize = 256;
/// How long the kernel of a client goes on trying before it gives up (Linux: six repetitions, 127 s).
const HOLD: Duration = Duration::from_secs(127);
/// What a silent connection may send before nothing more is read.
const HEARD_BYTES_MAX: u64 = 64 * 1024;
/// Lines in the log a second; the rest is counted.
const LINES_PER_SECOND: u32 = 5;

/// What a caller sees who is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndpointDeny {
    /// Nothing, until it gives up, as at Google
    #[default]
    Drop,
    /// A reset at once
    Reset,
}

impl EndpointDeny {
    /// As typed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
        }
    }
}

/// The connections that were not let in, of all clusters.
pub(crate) struct Denials {
    pub(crate) deny: EndpointDeny,
    held: Mutex<VecDeque<AbortHandle>>,
}

impl Denials {
    pub(crate) fn new(deny: EndpointDeny) -> Self {
        Self { deny, held: Mutex::default() }
    }

    /// Takes a connection out of sight. Needs a tokio runtime.
    pub(crate) fn take(&self, stream: TcpStream) {
        match self.deny {
            EndpointDeny::Reset => {
                // Closing with unsent data thrown away is a reset (tcp(7), SO_LINGER).
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            EndpointDeny::Drop => {
                let task = tokio::spawn(hold(stream)).abort_handle();
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.retain(|task| !task.is_finished());
                if held.len() >= HELD_MAX
                    && let Some(oldest) = held.pop_front()
                {
                    oldest.abort();
                }
                held.push_back(task);
            }
        }
    }

    /// How many are held now.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|task| !task.is_finished()).count()
    }
}

/// Never answers; ends when the caller does, or would have given up.
async fn hold(stream: TcpStream) {
    let wait = async {
        let mut heard = [0; 1024];
        let mut limited = stream.take(HEARD_BYTES_MAX);
        while limited.limit() > 0 {
            match limited.read(&mut heard).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // It talks too much to be listened to, and is kept waiting all the same.
        std::future::pending::<()>().await;
    };
    let _ = tokio::time::timeout(HOLD, wait).await;
}

/// Lets so many lines a second through, and counts the others.
#[derive(Default)]
pub(crate) struct Lines {
    second: u64,
    written: u32,
    suppressed: u64,
}

impl Lines {
    /// How many lines were left out before this one, if this one is to be written.
    pub(crate) fn admit(&mut self, now: Duration) -> Option<u64> {
        if now.as_secs() != self.second {
            (self.second, self.written) = (now.as_secs(), 0);
        }
        if self.written >= LINES_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn a_reset_connection_ends_at_once_and_a_held_one_says_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (mut near, far) = pair(&listener).await;
        Denials::new(EndpointDeny::Reset).take(far);
        let error = near.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);

        let denials = Denials::new(EndpointDeny::Drop);
        let (mut near, far) = pair(&listener).await;
        denials.take(far);
        near.write_all(b"hello").await.unwrap();
        assert_eq!(near.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(denials.held(), 1);
        drop(near);
        while denials.held() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_gives_way() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let denials = Denials::new(EndpointDeny::Drop);
        let mut callers = Vec::new();
        for _ in 0..=HELD_MAX {
            let (near, far) = pair(&listener).await;
            denials.take(far);
            callers.push(near);
        }
        assert_eq!(callers[0].read(&mut [0]).await.unwrap(), 0, "the oldest is let go");
        while denials.held() > HELD_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(callers[1].try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_flood_is_counted_not_written() {
        let mut lines = Lines::default();
        let second = Duration::from_secs(7);
        assert!((0..LINES_PER_SECOND).all(|_| lines.admit(second) == Some(0)));
        assert_eq!((lines.admit(second), lines.admit(second)), (None, None));
        assert_eq!(lines.admit(Duration::from_secs(8)), Some(2));
        assert_eq!(lines.admit(Duration::from_secs(8)), Some(0));
    }
}
