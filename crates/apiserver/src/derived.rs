//! What is computed from objects as they change: authorization data and the rows of custom resources.

use std::sync::Arc;

use arc_swap::ArcSwap;
use etcd::KeyValue;
use machinery::{ObjectKey, Value, meta};
use policy::{Authorizers, RbacKind};
use registry::{Registry, Resource, SchemaRef};

use crate::stored::Reader;

pub(crate) const CRD_PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// The feeder's copies, and where they are published.
pub(crate) struct Derived {
    authorizers: Authorizers,
    registry: Registry,
    changed: (bool, bool),
    /// Prefixes of custom resources whose objects read otherwise now.
    reshaped: Vec<String>,
    published: Published,
}

/// What readers see.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) authorizers: Arc<ArcSwap<Authorizers>>,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
}

impl Derived {
    pub(crate) fn new(registry: Registry) -> (Self, Published) {
        let published = Published {
            authorizers: Arc::new(ArcSwap::default()),
            registry: Arc::new(ArcSwap::from_pointee(registry.clone())),
        };
        let derived = Self {
            authorizers: Authorizers::default(),
            registry,
            changed: (false, false),
            reshaped: Vec::new(),
            published: published.clone(),
        };
        (derived, published)
    }

    /// Takes in the definitions among these and returns the stored rows they bring.
    pub(crate) fn custom_rows(&mut self, reader: &Reader, kvs: &[KeyValue]) -> Vec<Arc<Resource>> {
        for kv in kvs.iter().filter(|kv| kv.key.starts_with(CRD_PREFIX.as_bytes())) {
            if let Ok(definition) = reader.decode(&kv.value) {
                self.define(meta::name(&definition).to_owned().as_str(), Some(&definition));
            }
        }
        self.registry.stored().into_iter().filter(|row| row.custom.is_some()).collect()
    }

    /// Takes over one object as it is now.
    pub(crate) fn apply(&mut self, row: &Resource, key: &ObjectKey, object: Option<&Value>) {
        match (row.gvk.group.as_str(), row.plural.as_str()) {
            ("rbac.authorization.k8s.io", plural) => {
                if let Some(kind) = RbacKind::of_resource(plural) {
                    self.authorizers.rbac.apply(kind, key, object);
                    self.changed.0 = true;
                }
            }
            ("", "pods" | "persistentvolumes")
            | ("storage.k8s.io", "volumeattachments")
            | ("resource.k8s.io", "resourceslices") => {
                self.authorizers.nodes.apply(&row.plural, key, object);
                self.changed.0 = true;
            }
            ("apiextensions.k8s.io", "customresourcedefinitions") => self.define(&key.name, object),
            _ => {}
        }
    }

    /// The stored row under a prefix, as the definitions are now.
    pub(crate) fn stored_row(&self, prefix: &str) -> Option<Arc<Resource>> {
        self.registry.stored().into_iter().find(|row| row.custom.is_some() && row.etcd_prefix == prefix)
    }

    /// The prefixes of custom resources whose schema has changed since the last call.
    pub(crate) fn take_reshaped(&mut self) -> Vec<String> {
        std::mem::take(&mut self.reshaped)
    }

    fn row_of(&self, definition: &str) -> Option<Arc<Resource>> {
        let is_its = |row: &Arc<Resource>| row.custom.as_ref().is_some_and(|c| c.definition == definition);
        self.registry.stored().into_iter().find(is_its)
    }

    fn define(&mut self, name: &str, object: Option<&Value>) {
        let before = self.row_of(name);
        self.redefine(name, object);
        let reads = |row: &Resource| match &row.schema {
            SchemaRef::Structural(schema) => (schema.open_api.clone(), schema.preserve_unknown_fields),
            SchemaRef::Builtin(_) => (Value::Null, false),
        };
        if let (Some(old), Some(new)) = (before, self.row_of(name))
            && reads(&old) != reads(&new)
        {
            self.reshaped.push(new.etcd_prefix.clone());
        }
    }

    fn redefine(&mut self, name: &str, object: Option<&Value>) {
        let served = object.filter(|definition| crate::crd::is_established(definition));
        self.registry = match served.map(|definition| self.registry.with_crd(definition)) {
            Some(Ok(registry)) => registry,
            Some(Err(errors)) => {
                tracing::warn!(name, ?errors, "a custom resource definition cannot be served");
                self.registry.without_crd(name)
            }
            None => self.registry.without_crd(name),
        };
        self.changed.1 = true;
    }

    /// Lets readers see what has changed.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.changed.0) {
            self.published.authorizers.store(Arc::new(self.authorizers.clone()));
        }
        if std::mem::take(&mut self.changed.1) {
            self.published.registry.store(Arc::new(self.registry.clone()));
        }
    }
}
