//! Accepting at the metadata servers of nodes and pods: who is let in, and as whom.
//!
//! A connection must come from a process of our own user, and from an address that stands for the machine or pod in question:
//! 127.0.0.1, from where whoever plays it calls, or its own. Everybody else is reset, as if nobody were there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use super::http;

/// Callers of the servers of one cluster at a time; some of them wait for changes.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Between two tries when descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Who answers whom: none for a caller at this address who is not let in.
pub(super) type Admit = Arc<dyn Fn(IpAddr) -> Option<http::Handler> + Send + Sync>;

/// Serves until the task is ended; its connections end with it.
pub(super) async fn serve(listener: TcpListener, name: String, room: Arc<Semaphore>, admit: Admit) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    warn!(target: "metadata", server = name, %peer, "too many connections, one was closed");
                    continue;
                };
                let (admit, name) = (Arc::clone(&admit), name.clone());
                connections.spawn(async move {
                    match welcome(&stream, peer, &admit).await {
                        Some(handler) => http::serve(stream, handler).await,
                        None => turn_away(&stream, peer, &name),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(target: "metadata", server = name, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn welcome(stream: &TcpStream, peer: SocketAddr, admit: &Admit) -> Option<http::Handler> {
    let handler = admit(peer.ip())?;
    let local = stream.local_addr().ok()?;
    // Reads what the kernel lists.
    let ours = tokio::task::spawn_blocking(move || cloud::same_user(peer, local)).await;
    ours.is_ok_and(|ours| ours).then_some(handler)
}

/// Reset, without a word.
fn turn_away(stream: &TcpStream, peer: SocketAddr, name: &str) {
    warn!(target: "metadata", server = name, %peer, "refused a connection: it is not from this machine or pod");
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Is it the address from which everything calls that does not choose one?
pub(super) fn is_unnamed(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
}
