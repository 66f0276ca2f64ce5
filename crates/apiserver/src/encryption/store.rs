//! The store with its values in plain.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd::{EventKind, RangeRequest, RangeResponse, Store, StoreError, Watch, WatchBatch, WatchRequest};

use super::Encryption;

/// Reads the store, and opens what it reads.
#[derive(Clone)]
pub(crate) struct PlainStore {
    store: Store,
    encryption: Arc<Encryption>,
}

impl PlainStore {
    pub(crate) const fn new(store: Store, encryption: Arc<Encryption>) -> Self {
        Self { store, encryption }
    }

    /// See [`Store::range`].
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut found = self.store.range(request).await?;
        let mut failed = BTreeMap::new();
        for kv in &mut found.kvs {
            self.encryption.open(&kv.key, &mut kv.value, &mut failed).await;
        }
        Ok(found)
    }

    /// See [`Store::watch`].
    pub(crate) async fn watch(&self, request: WatchRequest) -> Result<PlainWatch, StoreError> {
        let watch = self.store.watch(request).await?;
        Ok(PlainWatch { watch, encryption: self.encryption.clone() })
    }

    /// See [`Store::current_revision`].
    pub(crate) async fn current_revision(&self) -> Result<i64, StoreError> {
        self.store.current_revision().await
    }

    /// See [`Store::progress`].
    pub(crate) async fn progress(&self) -> Result<(), StoreError> {
        self.store.progress().await
    }

    /// Completes when values that could not be opened may be now.
    pub(crate) async fn readable_again(&self) {
        self.encryption.readable.notified().await;
    }
}

/// A watch whose events are in plain.
pub(crate) struct PlainWatch {
    watch: Watch,
    encryption: Arc<Encryption>,
}

impl PlainWatch {
    /// See [`Watch::next`]. Dropped half-way it may lose a batch: whoever stops waiting for it must read anew.
    pub(crate) async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        self.watch.next().await
    }

    /// Opens the values of a batch.
    pub(crate) async fn open(&self, batch: &mut WatchBatch) {
        let mut failed = BTreeMap::new();
        for event in &mut batch.events {
            match event.kind {
                EventKind::Put => self.encryption.open(&event.kv.key, &mut event.kv.value, &mut failed).await,
                EventKind::Delete => self.encryption.forget(&event.kv.key),
            }
        }
    }
}
