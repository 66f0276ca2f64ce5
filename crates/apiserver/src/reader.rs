//! Admission's view of the watch caches.

use std::sync::Arc;

use machinery::{GroupResource, ObjectKey, Value};
use policy::admission::Reader;
use registry::Registry;

use crate::caches::{Caches, ResourceCache};

/// Looks things up in the caches; built-ins are all started with the server.
pub(crate) struct CacheReader<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) registry: Arc<Registry>,
}

impl CacheReader<'_> {
    fn cache(&self, resource: &GroupResource) -> Option<Arc<ResourceCache>> {
        let row = self.registry.preferred(resource)?;
        self.caches.started(&row.etcd_prefix)
    }
}

impl Reader for CacheReader<'_> {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        Some(self.cache(resource)?.get(&ObjectKey::new(namespace, name))?.object.clone())
    }

    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Value>> {
        let Some(cache) = self.cache(resource) else { return Vec::new() };
        let snapshot = cache.snapshot();
        snapshot.list(namespace, None).map(|(_, cached)| cached.object.clone()).collect()
    }
}
