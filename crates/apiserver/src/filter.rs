//! Which objects of a resource a list or watch is about.

use std::sync::Arc;

use machinery::{ObjectKey, Status, fields, labels, meta};
use registry::Resource;
use registry::cache::{Cache, Cached, Event, EventKind};

use crate::info::{ListOptions, RequestInfo};
use crate::watch::{WatchEvent, WatchKind, WatchObject};

/// Namespace, name and selectors.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    row: Arc<Resource>,
    /// Empty for all.
    pub(crate) namespace: String,
    name: Option<String>,
    labels: labels::Selector,
    fields: fields::Selector,
    /// Objects must be converted before fields are read.
    converts: bool,
}

impl Filter {
    /// From a request.
    ///
    /// # Errors
    /// 400 when a field is not selectable.
    pub(crate) fn new(row: &Arc<Resource>, info: &RequestInfo, options: &ListOptions) -> Result<Self, Status> {
        for (field, _, _) in options.fields.requirements() {
            registry::check_selector(row, field)?;
        }
        let name = options.fields.exact("metadata.name").map(str::to_owned);
        Ok(Self {
            namespace: if row.namespaced { info.namespace.clone() } else { String::new() },
            name: name.or_else(|| (!info.name.is_empty()).then(|| info.name.clone())),
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            converts: row.gvk.version != row.storage_version || row.gvk.group != row.storage_group,
            row: row.clone(),
        })
    }

    /// The one object it is about, when name and namespace are fixed.
    pub(crate) fn single(&self) -> Option<ObjectKey> {
        let name = self.name.as_deref()?;
        (!self.row.namespaced || !self.namespace.is_empty()).then(|| ObjectKey::new(&self.namespace, name))
    }

    /// Does it take every object of its namespace?
    pub(crate) fn takes_all(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, cached: &Cached) -> bool {
        let object = &cached.object;
        if !self.namespace.is_empty() && meta::namespace(object) != self.namespace {
            return false;
        }
        if self.name.as_ref().is_some_and(|name| meta::name(object) != name) {
            return false;
        }
        if !self.labels.is_empty() && !self.labels.matches(object["metadata"].get("labels")) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        if self.converts {
            let shown = registry::convert(object, &self.row);
            return self.fields.matches(|field| registry::field(&self.row, &shown, field));
        }
        self.fields.matches(|field| registry::field(&self.row, object, field))
    }

    /// The matching objects of a snapshot in key order, after `start`.
    pub(crate) fn select<'a>(
        &'a self,
        cache: &'a Cache,
        start: Option<&ObjectKey>,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Cached>)> {
        cache.list(&self.namespace, start).filter(|(_, cached)| self.matches(cached))
    }

    /// What a watcher with this filter sees of a change: an object that begins to match is added, one that ceases to
    /// is deleted.
    pub(crate) fn see(&self, event: &Event) -> Option<WatchEvent> {
        if !self.namespace.is_empty() && event.key.namespace != self.namespace {
            return None;
        }
        let now = event.kind != EventKind::Deleted && self.matches(&event.object);
        let before = event.previous.as_ref().is_some_and(|previous| self.matches(previous));
        let (kind, object) = match (before, now) {
            (false, false) => return None,
            (false, true) => (WatchKind::Added, event.object.clone()),
            (true, true) => (WatchKind::Modified, event.object.clone()),
            (true, false) if event.kind == EventKind::Deleted => (WatchKind::Deleted, event.object.clone()),
            (true, false) => {
                let last = event.previous.as_ref()?;
                (WatchKind::Deleted, Arc::new(last.at_revision(event.revision())))
            }
        };
        Some(WatchEvent { kind, object: WatchObject::Cached(object) })
    }
}
