//! The watch caches: one task reads the store's changes and owns every cache; readers take published snapshots.
//!
//! ```text
//! store ──one watch on /registry/──► feeder ─apply─► Cache per resource ─publish─► snapshots, wake-ups
//!                                       └─► RBAC, node graph, custom resources (derived.rs)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use etcd::{EventKind, KeyValue, RangeRequest, StoreError, WatchRequest, prefix_end};
use imbl::OrdMap;
use machinery::{ObjectKey, Status};
use registry::Resource;
use registry::cache::{Cache, CacheEvent, Cached};
use tokio::sync::{mpsc, oneshot, watch};

use crate::derived::Derived;
use crate::encryption::PlainStore;
use crate::stored::{self, Reader};

/// What everything of Kubernetes is under.
pub(crate) const ROOT: &str = "/registry/";
/// A reader that waits longer than this for a revision gets 504.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The published side of one resource's cache.
pub(crate) struct ResourceCache {
    /// The row of the storage version.
    pub(crate) row: Arc<Resource>,
    published: ArcSwap<Cache>,
    changed: watch::Sender<u64>,
    retired: AtomicBool,
}

impl ResourceCache {
    fn new(row: Arc<Resource>, cache: &Cache) -> Arc<Self> {
        Arc::new(Self {
            row,
            published: ArcSwap::from_pointee(cache.snapshot()),
            changed: watch::Sender::new(cache.revision()),
            retired: AtomicBool::new(false),
        })
    }

    /// Has another cache taken its place? Watches of it end.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.changed.send_modify(|_| {});
    }

    pub(crate) fn snapshot(&self) -> Arc<Cache> {
        self.published.load_full()
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Cached>> {
        self.published.load().get(key).cloned()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn publish(&self, cache: &Cache) {
        self.published.store(Arc::new(cache.snapshot()));
        self.changed.send_replace(cache.revision());
    }
}

type ByPrefix = OrdMap<String, Arc<ResourceCache>>;

/// All caches.
pub(crate) struct Caches {
    store: PlainStore,
    reader: Reader,
    by_prefix: ArcSwap<ByPrefix>,
    revision: watch::Sender<u64>,
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Start(Arc<Resource>, oneshot::Sender<()>),
}

struct Owned {
    shared: Arc<ResourceCache>,
    cache: Cache,
    /// The revision it was read at; changes up to it are in already.
    read_at: u64,
}

/// The owner of the caches.
pub(crate) struct Feeder {
    caches: Arc<Caches>,
    orders: mpsc::UnboundedReceiver<Order>,
    owned: BTreeMap<String, Owned>,
    derived: Derived,
    /// Everything up to here has been applied.
    reached: u64,
}

impl Caches {
    /// Reads everything once and publishes it; `run` of the feeder then keeps it so.
    pub(crate) async fn open(
        store: PlainStore,
        reader: Reader,
        rows: Vec<Arc<Resource>>,
        derived: Derived,
    ) -> Result<(Arc<Self>, Feeder), StoreError> {
        let (orders_in, orders) = mpsc::unbounded_channel();
        let (by_prefix, revision) = (ArcSwap::default(), watch::Sender::new(0));
        let caches = Arc::new(Self { store, reader, by_prefix, revision, orders: orders_in });
        let mut feeder = Feeder { caches: caches.clone(), orders, owned: BTreeMap::new(), derived, reached: 0 };
        feeder.load(rows).await?;
        Ok((caches, feeder))
    }

    /// The cache of a resource, started on first use.
    pub(crate) async fn of(&self, row: &Arc<Resource>, storage: &Arc<Resource>) -> Result<Arc<ResourceCache>, Status> {
        if let Some(cache) = self.started(&row.etcd_prefix) {
            return Ok(cache);
        }
        let (done, ready) = oneshot::channel();
        let gone = || Status::unavailable("the watch cache is stopping");
        self.orders.send(Order::Start(storage.clone(), done)).map_err(|_| gone())?;
        ready.await.map_err(|_| gone())?;
        self.started(&row.etcd_prefix).ok_or_else(gone)
    }

    /// The cache under a prefix, if it runs.
    pub(crate) fn started(&self, prefix: &str) -> Option<Arc<ResourceCache>> {
        self.by_prefix.load().get(prefix).cloned()
    }

    /// The store, its values in plain.
    pub(crate) const fn store(&self) -> &PlainStore {
        &self.store
    }

    /// Reads objects as the store has them.
    pub(crate) const fn reader(&self) -> &Reader {
        &self.reader
    }

    pub(crate) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until the caches are as new as `revision`.
    ///
    /// # Errors
    /// 504 when that takes too long.
    pub(crate) async fn wait(&self, revision: u64) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut reached = self.revision.subscribe();
        let waited = tokio::time::timeout(FRESH_TIMEOUT, reached.wait_for(|r| *r >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Status::unavailable("the watch cache is stopping")),
            Err(_) => {
                let text = format!("Timeout: Too large resource version: {revision}, current: {}", self.revision());
                let mut status = Status::timeout(text);
                status.retry_after_seconds = 1;
                status.causes.push(machinery::StatusCause {
                    reason: "ResourceVersionTooLarge".to_owned(),
                    message: "Too large resource version".to_owned(),
                    field: String::new(),
                });
                Err(status)
            }
        }
    }

    /// Waits until the caches show everything that was written before this call.
    ///
    /// # Errors
    /// 504 and what the store answers.
    pub(crate) async fn wait_for_now(&self) -> Result<(), Status> {
        let current = self.store.current_revision().await.map_err(|e| crate::write::store_error(&e))?;
        let current = u64::try_from(current).unwrap_or(0);
        if self.revision() < current {
            self.store.progress().await.map_err(|e| crate::write::store_error(&e))?;
        }
        self.wait(current).await
    }
}

/// The row and the rest of a key, by the longest started prefix.
fn locate<'a, 'k, T>(map: &'a mut BTreeMap<String, T>, key: &'k str) -> Option<(&'k str, &'a mut T, &'k str)> {
    let (at, _) = key.match_indices('/').skip(2).find(|(at, _)| map.contains_key(&key[..=*at]))?;
    Some((&key[..=at], map.get_mut(&key[..=at])?, &key[at + 1..]))
}

fn cached(reader: &Reader, row: &Resource, kv: &KeyValue, rest: &str) -> Option<(ObjectKey, Cached)> {
    let key = stored::object_key(row, rest)?;
    match reader.decode_as(row, &kv.value) {
        Ok(object) => Some((key, Cached::new(object, revision(kv.mod_revision), kv.value.len()))),
        Err(why) => {
            tracing::warn!(key = %String::from_utf8_lossy(&kv.key), %why, "an object in the store cannot be read");
            None
        }
    }
}

pub(crate) fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Feeder {
    /// One range over everything, split among the rows; those of custom resources are known once their definitions are.
    async fn load(&mut self, mut rows: Vec<Arc<Resource>>) -> Result<(), StoreError> {
        let all = self.caches.store.range(RangeRequest::prefix(Bytes::from_static(ROOT.as_bytes()))).await?;
        let at = revision(all.revision);
        rows.extend(self.derived.custom_rows(&self.caches.reader, &all.kvs));
        let mut split: BTreeMap<String, (Arc<Resource>, Vec<Cached>)> =
            rows.into_iter().map(|row| (row.etcd_prefix.clone(), (row, Vec::new()))).collect();
        for kv in &all.kvs {
            let Ok(text) = std::str::from_utf8(&kv.key) else { continue };
            let Some((_, (row, objects), rest)) = locate(&mut split, text) else { continue };
            if let Some((_, object)) = cached(&self.caches.reader, row, kv, rest) {
                objects.push(object);
            }
        }
        let mut published = ByPrefix::new();
        for (prefix, (row, objects)) in split {
            for object in &objects {
                self.derived.apply(&row, &machinery::meta::key(&object.object), Some(&*object.object));
            }
            let cache = Cache::restore(at, objects);
            let shared = ResourceCache::new(row, &cache);
            published.insert(prefix.clone(), shared.clone());
            self.owned.insert(prefix, Owned { shared, cache, read_at: at });
        }
        // Watchers of an earlier load find their cache gone and begin anew.
        self.caches.by_prefix.store(Arc::new(published));
        self.derived.publish();
        self.reached = at;
        self.caches.revision.send_replace(at);
        Ok(())
    }

    /// Applies changes until the server stops.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = crate::watch::stopped(&mut stop) => return,
                () = self.follow() => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Follows the store until its watch ends; history that is gone means reading everything again.
    async fn follow(&mut self) {
        let request = WatchRequest {
            key: Bytes::from_static(ROOT.as_bytes()),
            range_end: prefix_end(ROOT.as_bytes()),
            start_revision: i64::try_from(self.reached + 1).unwrap_or(i64::MAX),
            prev_kv: false,
            progress_notify: true,
        };
        let caches = self.caches.clone();
        let mut watch = match self.caches.store.watch(request).await {
            Ok(watch) => watch,
            Err(error) => return self.recover(&error).await,
        };
        loop {
            tokio::select! {
                batch = watch.next() => match batch {
                    Some(Ok(mut batch)) => {
                        watch.open(&mut batch).await;
                        self.apply(revision(batch.revision), batch.events);
                    }
                    Some(Err(error)) => return self.recover(&error).await,
                    None => return,
                },
                () = caches.store.readable_again() => return self.reload().await,
                order = self.orders.recv() => match order {
                    Some(Order::Start(row, done)) => {
                        if let Err(error) = self.start(row).await {
                            tracing::warn!(%error, "starting a watch cache");
                        }
                        let _ = done.send(());
                    }
                    None => return,
                },
            }
        }
    }

    async fn recover(&mut self, error: &StoreError) {
        tracing::warn!(%error, "the store's watch broke off");
        if matches!(error, StoreError::Compacted { .. }) {
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let rows = self.owned.values().map(|owned| owned.shared.row.clone()).collect();
        if let Err(error) = self.load(rows).await {
            tracing::warn!(%error, "reading the store again");
        }
    }

    async fn start(&mut self, row: Arc<Resource>) -> Result<(), StoreError> {
        if self.owned.contains_key(&row.etcd_prefix) {
            return Ok(());
        }
        // Who asked may have seen an older definition.
        let row = self.derived.stored_row(&row.etcd_prefix).unwrap_or(row);
        let all = self.caches.store.range(RangeRequest::prefix(Bytes::from(row.etcd_prefix.clone()))).await?;
        let objects = all.kvs.iter().filter_map(|kv| {
            let text = std::str::from_utf8(&kv.key).ok()?;
            Some(cached(&self.caches.reader, &row, kv, text.strip_prefix(&row.etcd_prefix)?)?.1)
        });
        let cache = Cache::restore(revision(all.revision), objects.collect::<Vec<_>>());
        let prefix = row.etcd_prefix.clone();
        let shared = ResourceCache::new(row, &cache);
        let read_at = revision(all.revision);
        self.owned.insert(prefix.clone(), Owned { shared: shared.clone(), cache, read_at });
        self.caches.by_prefix.rcu(|map| {
            let mut map = (**map).clone();
            map.insert(prefix.clone(), shared.clone());
            map
        });
        Ok(())
    }

    /// What was read by an older schema is forgotten; who asks next has it read anew.
    fn retire(&mut self, prefix: &str) {
        let Some(owned) = self.owned.remove(prefix) else { return };
        self.caches.by_prefix.rcu(|map| map.without(prefix));
        owned.shared.retire();
    }

    fn apply(&mut self, upto: u64, events: Vec<etcd::Event>) {
        let mut touched: Vec<String> = Vec::new();
        for event in events {
            let Ok(text) = std::str::from_utf8(&event.kv.key) else { continue };
            let Some((prefix, owned, rest)) = locate(&mut self.owned, text) else { continue };
            let row = owned.shared.row.clone();
            let Some(key) = stored::object_key(&row, rest) else { continue };
            let at = revision(event.kv.mod_revision);
            if at <= owned.read_at {
                continue;
            }
            let object = match event.kind {
                EventKind::Delete => None,
                EventKind::Put => match self.caches.reader.decode_as(&row, &event.kv.value) {
                    Ok(object) => Some((object, event.kv.value.len())),
                    Err(why) => {
                        tracing::warn!(key = text, %why, "an object in the store cannot be read");
                        continue;
                    }
                },
            };
            self.derived.apply(&row, &key, object.as_ref().map(|(object, _)| object));
            owned.cache.apply(CacheEvent { revision: at, key, object });
            if touched.last().is_none_or(|last| last != prefix) {
                touched.push(prefix.to_owned());
            }
        }
        touched.sort_unstable();
        touched.dedup();
        self.derived.publish();
        for owned in touched.iter().filter_map(|prefix| self.owned.get(prefix)) {
            owned.shared.publish(&owned.cache);
        }
        for prefix in self.derived.take_reshaped() {
            self.retire(&prefix);
        }
        self.reached = self.reached.max(upto);
        self.caches.revision.send_if_modified(|r| {
            let newer = self.reached > *r;
            *r = self.reached.max(*r);
            newer
        });
    }
}
