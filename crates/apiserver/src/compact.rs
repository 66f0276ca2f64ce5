//! Forgets history older than five minutes, as kube-apiserver does (`--etcd-compaction-interval`).

use std::sync::Arc;
use std::time::Duration;

use crate::server::Inner;

const INTERVAL: Duration = Duration::from_secs(300);

pub(crate) async fn run(server: Arc<Inner>) {
    let mut stop = server.stop.subscribe();
    let mut before = server.caches.revision();
    loop {
        tokio::select! {
            () = crate::watch::stopped(&mut stop) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let now = server.caches.revision();
        if now > before
            && let Err(error) = server.config.store.compact(i64::try_from(before).unwrap_or(0), false).await
        {
            tracing::debug!(%error, "compacting the store");
        }
        before = now;
    }
}
