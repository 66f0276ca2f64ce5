//! The snapshot that plugins look things up in.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::{GroupResource, Value, meta};

/// Objects as the watch cache has them.
pub trait Reader {
    /// One object; the namespace is empty for cluster-scoped ones.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a namespace, or of the cluster when it is empty.
    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Value>>;
}

/// A reader over a plain map, for tests and small callers.
#[derive(Clone, Debug, Default)]
pub struct MapReader(BTreeMap<(GroupResource, String, String), Arc<Value>>);

impl MapReader {
    /// Adds or replaces an object under its own name.
    pub fn put(&mut self, group: &str, resource: &str, object: Value) {
        let key =
            (GroupResource::new(group, resource), meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        self.0.insert(key, Arc::new(object));
    }
}

impl Reader for MapReader {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(&(resource.clone(), namespace.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Value>> {
        let here =
            |key: &(GroupResource, String, String)| key.0 == *resource && (namespace.is_empty() || key.1 == namespace);
        self.0.iter().filter(|(key, _)| here(key)).map(|(_, object)| object.clone()).collect()
    }
}
