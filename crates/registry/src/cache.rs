//! The watch cache as a value: objects by key in a persistent map, recent events in a bounded ring.
//!
//! One `Cache` per stored resource. The owner applies events in revision order and publishes [`Cache::snapshot`]s,
//! which cost a few pointer copies; readers list and look back in them without any lock.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use imbl::{OrdMap, Vector};
use machinery::{CompactString, ObjectKey, Value, meta};

/// Events kept at least, as long as their objects' encodings stay within [`HISTORY_BYTES_MAX`].
pub const HISTORY_EVENTS_MAX: usize = 10_000;
/// Rough bytes of the kept events' objects; older events go when there is more.
pub const HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Encodings an object is kept in: two versions as JSON and as protobuf, with and without the watch frame.
const ENCODINGS: usize = 8;

/// An object at one revision with the encodings made of it so far.
#[derive(Debug)]
pub struct Cached {
    /// In the storage version, `metadata.resourceVersion` in place; callers in this process share it.
    pub object: Arc<Value>,
    /// The revision that wrote it.
    pub revision: u64,
    /// Bytes of the stored form, for the bound on memory.
    pub size_bytes: usize,
    /// Boxed: most objects are never asked for in most encodings.
    encodings: [OnceLock<Box<(Encoding, Bytes)>>; ENCODINGS],
}

/// Which shared encoding: the API version served and the media type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// `v1`, `apps/v1`.
    pub api_version: CompactString,
    pub format: Format,
}

/// How an object is put into bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Json,
    /// The `k8s\0` envelope included.
    Protobuf,
    /// The bare message, as an item of a protobuf list has it.
    ProtobufItem,
}

impl Cached {
    /// Puts the revision into the object. `size_bytes` is the length of the stored value.
    pub fn new(mut object: Value, revision: u64, size_bytes: usize) -> Self {
        if object.as_object().is_some() {
            if object["metadata"].as_object().is_none() {
                object.set("metadata", Value::object());
            }
            object["metadata"].set("resourceVersion", revision.to_string());
        }
        Self { object: Arc::new(object), revision, size_bytes, encodings: Default::default() }
    }

    /// The same object as of a later revision, as the event of its deletion shows it.
    #[must_use]
    pub fn at_revision(&self, revision: u64) -> Self {
        Self::new(Value::clone(&self.object), revision, self.size_bytes)
    }

    /// The bytes in an encoding: made by `encode` on first use, shared afterwards.
    pub fn encoded(&self, encoding: &Encoding, encode: impl FnOnce(&Value) -> Bytes) -> Bytes {
        for slot in &self.encodings {
            match slot.get() {
                Some(made) if made.0 == *encoding => return made.1.clone(),
                Some(_) => {}
                None => {
                    let bytes = encode(&self.object);
                    // Somebody else may have filled the slot meanwhile; then ours is simply not shared.
                    let _ = slot.set(Box::new((encoding.clone(), bytes.clone())));
                    return bytes;
                }
            }
        }
        encode(&self.object)
    }
}

/// What happened to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// A change as the store reports it.
#[derive(Clone, Debug)]
pub struct CacheEvent {
    pub revision: u64,
    pub key: ObjectKey,
    /// The new object without resourceVersion and its size; `None` when it was deleted.
    pub object: Option<(Value, usize)>,
}

/// A change as watchers see it.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    pub key: ObjectKey,
    /// The new object; of a deletion the last one, carrying the deletion's revision.
    pub object: Arc<Cached>,
    /// The object before, for watchers whose selectors it matched.
    pub previous: Option<Arc<Cached>>,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision
    }
}

/// All objects of a resource and the recent past. Clone is O(1).
#[derive(Clone, Debug, Default)]
pub struct Cache {
    objects: OrdMap<ObjectKey, Arc<Cached>>,
    /// How many objects each namespace has, so that an empty one costs nothing to list.
    namespaces: OrdMap<CompactString, usize>,
    revision: u64,
    /// Events after this revision are all in `history`.
    history_from: u64,
    history: Vector<Arc<Event>>,
    history_bytes: usize,
}

impl Cache {
    /// An empty cache that knows of no past before `revision`.
    pub fn new(revision: u64) -> Self {
        Self { revision, history_from: revision, ..Self::default() }
    }

    /// A cache holding what a list at `revision` answered.
    pub fn restore(revision: u64, objects: impl IntoIterator<Item = Cached>) -> Self {
        let mut cache = Self::new(revision);
        for object in objects {
            cache.put(meta::key(&object.object), Arc::new(object));
        }
        cache
    }

    /// Takes in one change; a revision may bring several. Older revisions than the newest are ignored.
    pub fn apply(&mut self, event: CacheEvent) -> Option<Arc<Event>> {
        if event.revision < self.revision {
            return None;
        }
        self.revision = event.revision;
        let previous = self.objects.get(&event.key).cloned();
        let made = match event.object {
            Some((object, size_bytes)) => {
                let cached = Arc::new(Cached::new(object, event.revision, size_bytes));
                self.put(event.key.clone(), cached.clone());
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                Event { kind, key: event.key, object: cached, previous }
            }
            None => {
                let last = previous?;
                self.take(&event.key);
                let cached = Arc::new(last.at_revision(event.revision));
                Event { kind: EventKind::Deleted, key: event.key, object: cached, previous: Some(last) }
            }
        };
        let made = Arc::new(made);
        self.remember(made.clone());
        Some(made)
    }

    /// The store has reached `revision` without a change here (progress).
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// The state now; later changes do not touch it.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        self.clone()
    }

    /// The newest revision this state includes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Cached>> {
        self.objects.get(key)
    }

    /// How many objects a namespace has; all when it is empty.
    pub fn count(&self, namespace: &str) -> usize {
        if namespace.is_empty() { self.objects.len() } else { self.namespaces.get(namespace).copied().unwrap_or(0) }
    }

    /// The objects of a namespace (all when empty) in key order, after `start` if given.
    pub fn list<'a>(
        &'a self,
        namespace: &'a str,
        start: Option<&ObjectKey>,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Cached>)> {
        use std::ops::Bound;
        let first = ObjectKey::new(namespace, "");
        let lower = match start {
            Some(key) if *key >= first => Bound::Excluded(key.clone()),
            _ => Bound::Included(first),
        };
        self.objects
            .range((lower, Bound::Unbounded))
            .take_while(move |(key, _)| namespace.is_empty() || key.namespace == namespace)
    }

    /// The changes after `revision` in order; `None` when some of them are forgotten (410 for the client).
    pub fn events_since(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.history_from {
            return None;
        }
        let first = self.history.binary_search_by(|e| {
            if e.revision() <= revision { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater }
        });
        let skip = first.unwrap_or_else(|at| at);
        // By index: walking a persistent vector from the front would cost what is skipped.
        Some((skip..self.history.len()).filter_map(|i| self.history.get(i)))
    }

    /// The oldest revision [`Cache::events_since`] answers for.
    pub fn oldest(&self) -> u64 {
        self.history_from
    }

    fn put(&mut self, key: ObjectKey, object: Arc<Cached>) {
        if self.objects.insert(key.clone(), object).is_none() {
            *self.namespaces.entry(key.namespace).or_insert(0) += 1;
        }
    }

    fn take(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_none() {
            return;
        }
        let left = self.namespaces.get(&key.namespace).map_or(0, |n| n - 1);
        if left == 0 {
            self.namespaces.remove(&key.namespace);
        } else {
            self.namespaces.insert(key.namespace.clone(), left);
        }
    }

    fn remember(&mut self, event: Arc<Event>) {
        self.history_bytes += event.object.size_bytes;
        self.history.push_back(event);
        while self.history.len() > HISTORY_EVENTS_MAX
            || (self.history.len() > 1 && self.history_bytes > HISTORY_BYTES_MAX)
        {
            let Some(gone) = self.history.pop_front() else { return };
            self.history_bytes -= gone.object.size_bytes;
            self.history_from = gone.revision();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    fn put(revision: u64, namespace: &str, name: &str) -> CacheEvent {
        let object = json!({"metadata": {"name": name, "namespace": namespace}});
        CacheEvent { revision, key: ObjectKey::new(namespace, name), object: Some((object, 10)) }
    }

    fn delete(revision: u64, namespace: &str, name: &str) -> CacheEvent {
        CacheEvent { revision, key: ObjectKey::new(namespace, name), object: None }
    }

    #[test]
    fn a_snapshot_is_not_touched_by_later_changes() {
        let mut cache = Cache::new(1);
        cache.apply(put(2, "a", "x"));
        let before = cache.snapshot();
        cache.apply(put(3, "a", "y"));
        cache.apply(delete(4, "a", "x"));
        assert_eq!((before.len(), cache.len(), cache.revision()), (1, 1, 4));
        assert_eq!(before.list("a", None).next().unwrap().1.object.str_at(&["metadata", "resourceVersion"]), "2");
    }

    #[test]
    fn events_come_in_order_and_a_deletion_carries_its_own_revision() {
        let mut cache = Cache::new(1);
        for event in [put(2, "a", "x"), put(3, "a", "x"), delete(5, "a", "x"), delete(6, "a", "x")] {
            cache.apply(event);
        }
        let seen: Vec<_> = cache.events_since(2).unwrap().map(|e| (e.kind, e.revision())).collect();
        assert_eq!(seen, [(EventKind::Modified, 3), (EventKind::Deleted, 5)]);
        assert!(cache.events_since(0).is_none());
        assert_eq!(cache.revision(), 6);
    }

    #[test]
    fn lists_stay_in_their_namespace_and_continue_after_a_key() {
        let mut cache = Cache::new(0);
        for (revision, (namespace, name)) in (1..).zip([("a", "x"), ("ab", "x"), ("b", "x"), ("b", "y"), ("c", "x")]) {
            cache.apply(put(revision, namespace, name));
        }
        let names = |namespace, start: Option<ObjectKey>| -> Vec<String> {
            cache.list(namespace, start.as_ref()).map(|(key, _)| key.to_string()).collect()
        };
        assert_eq!(names("b", None), ["b/x", "b/y"]);
        assert_eq!(names("b", Some(ObjectKey::new("b", "x"))), ["b/y"]);
        assert_eq!(names("", Some(ObjectKey::new("b", "x"))), ["b/y", "c/x"]);
        assert_eq!((cache.count("b"), cache.count("z"), cache.count("")), (2, 0, 5));
    }

    #[test]
    fn at_least_ten_thousand_events_can_be_resumed_from() {
        let mut cache = Cache::new(0);
        for revision in 1..=10_002 {
            cache.apply(put(revision, "a", "x"));
        }
        assert!(cache.events_since(1).is_none());
        assert_eq!(cache.events_since(2).unwrap().count(), 10_000);
    }

    #[test]
    fn an_encoding_is_made_once() {
        let cached = Cached::new(json!({"metadata": {}}), 7, 0);
        let json = Encoding { api_version: "v1".into(), format: Format::Json };
        let made = cached.encoded(&json, |v| v.to_vec().into());
        assert_eq!(cached.encoded(&json, |_| unreachable!("it is there")), made);
    }
}
