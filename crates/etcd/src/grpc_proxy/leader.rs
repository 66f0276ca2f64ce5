//! Whether the cluster has a leader, for streams that end without one (`server/proxy/grpcproxy/leader.go`): seen from a
//! watch that itself asks for one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::feed::{Feed, Watched};
use super::kv::Kv;
use super::upstream::Caller;

/// The key that is watched; nothing ever happens to it.
const KEY: &[u8] = b"__lostleader";
/// No revision comes so far.
const NEVER: i64 = i64::MAX - 2;
/// How soon a lost leader is looked for again, and one that cannot be watched for.
const AGAIN: Duration = Duration::from_millis(100);
const REFUSED: Duration = Duration::from_secs(1);

/// Tells of a lost leader.
#[derive(Clone)]
pub(super) struct Leader(watch::Receiver<bool>);

impl Leader {
    /// Watches from now on, for as long as the task runs that is returned.
    pub(super) fn new(kv: Arc<Kv>) -> (Self, impl Future<Output = ()> + Send) {
        let (lost, receiver) = watch::channel(false);
        (Self(receiver), run(kv, lost))
    }

    pub(super) fn is_lost(&self) -> bool {
        *self.0.borrow()
    }

    /// Done when there is no leader.
    pub(super) async fn lost(mut self) {
        if self.0.wait_for(|lost| *lost).await.is_err() {
            // Nobody looks any more: the proxy ends.
            std::future::pending::<()>().await;
        }
    }
}

async fn run(kv: Arc<Kv>, lost: watch::Sender<bool>) {
    let caller = Caller { token: None, needs_leader: true };
    loop {
        let watched = Watched { key: Bytes::from_static(KEY), start: NEVER, ..Watched::default() };
        let mut feed = Feed::new(kv.clone(), caller.clone(), watched);
        let pause = loop {
            match feed.next().await {
                // A member that refuses the watch itself has looked for a leader before.
                Ok(answer) if answer.canceled => break REFUSED,
                Ok(_) => drop(lost.send_replace(false)),
                Err(status) if status.message() == "etcdserver: no leader" => {
                    lost.send_replace(true);
                    break AGAIN;
                }
                Err(_) => break REFUSED,
            }
        };
        if pause == REFUSED {
            lost.send_replace(false);
        }
        tokio::time::sleep(pause).await;
    }
}
