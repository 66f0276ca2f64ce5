//! Looks after the key: asks now and then whether it is good, at once when something changed, and stores everything anew
//! when it became another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd::{Compare, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest};
use tokio::sync::watch;

use super::{Encryption, SECRETS};
use crate::server::Inner;

/// Between two questions to a KMS that answers, and one that does not (upstream's `kmsv2PluginHealthz…Interval`).
const GOOD_INTERVAL: Duration = Duration::from_secs(60);
const BAD_INTERVAL: Duration = Duration::from_secs(10);
/// Secrets that are read at once to be stored anew.
const PAGE: i64 = 500;

/// Runs until the server stops. A cluster without a key costs nothing.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let encryption = inner.encryption.clone();
    let mut stop = inner.stop.subscribe();
    let mut changes = encryption.keys.changes();
    {
        // Encryption may have been switched off, and the server stopped before everything was stored anew.
        let mut state = encryption.lock();
        state.rewrite |= state.has_encrypted && state.key.is_empty();
    }
    loop {
        let is_good = encryption.probe().await;
        if is_good && encryption.lock().rewrite {
            inner.rewrite_secrets().await;
        }
        let is_read = encryption.lock().unreadable.is_empty();
        if is_good && !is_read && inner.can_read_more().await {
            encryption.readable.notify_one();
        }
        let is_busy = {
            let state = encryption.lock();
            !state.key.is_empty() || !is_read || state.rewrite
        };
        let pause = if is_good && is_read { GOOD_INTERVAL } else { BAD_INTERVAL };
        tokio::select! {
            () = crate::watch::stopped(&mut stop) => return,
            () = encryption.wake.notified(), if is_read => {}
            () = changed(&mut changes), if is_busy => {}
            () = tokio::time::sleep(pause), if is_busy => {}
        }
    }
}

/// The next change; never, when nobody can tell of one any more.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = changes
        && receiver.changed().await.is_ok()
    {
        receiver.borrow_and_update();
        return;
    }
    *changes = None;
    std::future::pending::<()>().await;
}

impl Encryption {
    /// A key of the store that is gone.
    pub(super) fn forget(&self, key: &Bytes) {
        let mut state = self.lock();
        if !state.unreadable.is_empty() {
            state.unreadable.remove(key);
        }
    }
}

impl Inner {
    /// Can a value be opened that could not before? It counts as unreadable until the caches have it.
    async fn can_read_more(&self) -> bool {
        let keys: Vec<Bytes> = self.encryption.lock().unreadable.keys().cloned().collect();
        let mut failed = BTreeMap::new();
        for key in keys {
            let Ok(found) = self.config.store.range(RangeRequest::key(key)).await else { return false };
            let Some(kv) = found.kvs.first() else { continue };
            if self.encryption.opened(&kv.key, &kv.value, &mut failed).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Stores every Secret that is not encrypted as the cluster says. Whoever changes one meanwhile has done it already.
    async fn rewrite_secrets(&self) {
        self.encryption.lock().rewrite = false;
        if let Err(why) = self.try_rewrite_secrets().await {
            tracing::warn!(why, "Secrets are not all stored under the cluster's key yet");
            self.encryption.lock().rewrite = true;
        }
    }

    async fn try_rewrite_secrets(&self) -> Result<(), String> {
        let end = etcd::prefix_end(SECRETS.as_bytes());
        let mut key = Bytes::from_static(SECRETS.as_bytes());
        let (mut rewritten, mut failed, mut outcome) = (0, BTreeMap::new(), Ok(()));
        loop {
            let request = RangeRequest { key, range_end: end.clone(), limit: PAGE, ..RangeRequest::default() };
            let found = self.config.store.range(request).await.map_err(|e| e.to_string())?;
            for kv in found.kvs.iter().filter(|kv| !self.encryption.is_fresh(&kv.value)) {
                match self.rewrite_secret(kv, &mut failed).await {
                    Ok(is_written) => rewritten += u32::from(is_written),
                    Err(why) => outcome = Err(why),
                }
            }
            match found.kvs.last() {
                Some(last) if found.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => break,
            }
        }
        if rewritten > 0 {
            tracing::info!(rewritten, "Secrets are stored as the cluster's key says");
        }
        outcome
    }

    async fn rewrite_secret(
        &self,
        kv: &KeyValue,
        failed: &mut BTreeMap<(String, Bytes), String>,
    ) -> Result<bool, String> {
        let mut value = kv.value.clone();
        self.encryption.open(&kv.key, &mut value, failed).await;
        if let Some(why) = self.encryption.failure(&kv.key) {
            return Err(why);
        }
        let value = self.encryption.seal(&kv.key, value)?;
        let put = PutRequest { key: kv.key.clone(), value, lease: kv.lease, ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![Compare::mod_revision(kv.key.clone(), kv.mod_revision)],
            success: vec![RequestOp::Put(put)],
            failure: Vec::new(),
        };
        Ok(self.config.store.txn(txn).await.map_err(|e| e.to_string())?.succeeded)
    }
}
