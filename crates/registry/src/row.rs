//! One row of the table: a resource as its version shows it.

use std::sync::Arc;

use machinery::{CompactString, GroupResource, GroupVersionKind, GroupVersionResource};

use crate::custom::CustomSchema;
use crate::strategy::Strategy;

/// A resource in one version. Built-ins and custom resources are the same type.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Group, version and kind of the objects.
    pub gvk: GroupVersionKind,
    pub plural: CompactString,
    pub singular: CompactString,
    pub short: Vec<CompactString>,
    pub categories: Vec<CompactString>,
    pub namespaced: bool,
    /// In discovery order: `create`, `delete`, …
    pub verbs: Vec<CompactString>,
    /// By name, sorted: `status`, `scale`, `binding`…
    pub subresources: Vec<SubresourceRow>,
    /// The version objects are stored in.
    pub storage_version: CompactString,
    /// The group objects are stored in; differs from the row's only for `events.k8s.io` (stored as core).
    pub storage_group: CompactString,
    /// `/registry/pods/`, with the slash; empty when nothing is stored (reviews).
    pub etcd_prefix: String,
    /// Discovery's `storageVersionHash`.
    pub storage_version_hash: CompactString,
    pub schema: SchemaRef,
    pub strategy: &'static Strategy,
    /// Columns of the Table after `Name` (which is always first).
    pub columns: Vec<Column>,
    /// Custom resources: what their definition says beyond the above.
    pub custom: Option<Arc<CustomRow>>,
    /// A CustomResourceDefinition version's deprecation warning, sent as `Warning`.
    pub warning: Option<String>,
}

/// A subresource that discovery lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceRow {
    pub name: CompactString,
    /// Kind of the body; its group and version are the parent's unless it says otherwise (`autoscaling/v1 Scale`).
    pub kind: GroupVersionKind,
    pub verbs: Vec<CompactString>,
    /// The facts type of the body, `autoscaling/v1.Scale`; empty when unknown (proxies).
    pub type_name: CompactString,
}

/// Where the fields of a resource are described.
#[derive(Clone, Debug)]
pub enum SchemaRef {
    /// A type of the facts, such as `core/v1.Pod`.
    Builtin(CompactString),
    /// A custom resource's schema.
    Structural(Arc<CustomSchema>),
}

/// A Table column.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `date`…
    pub type_name: String,
    pub format: String,
    pub description: String,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i64,
    /// Custom resources: where the cell's value is.
    pub json_path: String,
}

/// What a CustomResourceDefinition says about one version.
#[derive(Clone, Debug, Default)]
pub struct CustomRow {
    /// Name of the definition.
    pub definition: String,
    pub list_kind: String,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    /// JSON paths of `selectableFields`, with the dot.
    pub selectable: Vec<String>,
    /// All served versions, best first.
    pub versions: Vec<CompactString>,
    /// `spec.conversion` asks a webhook.
    pub conversion_webhook: bool,
}

/// A custom resource's scale subresource: JSON paths with the leading dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

impl Resource {
    /// Group and plural name, as errors name the resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.gvk.group, &self.plural)
    }

    /// Group, version and plural name.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&self.gvk.group, &self.gvk.version, &self.plural)
    }

    /// `apps/v1`.
    pub fn api_version(&self) -> String {
        self.gvk.api_version()
    }

    /// `v1` or `apps/v1` of the stored form.
    pub fn storage_api_version(&self) -> String {
        GroupVersionKind::new(&self.storage_group, &self.storage_version, "").api_version()
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) if !custom.list_kind.is_empty() => custom.list_kind.clone(),
            _ => format!("{}List", self.gvk.kind),
        }
    }

    /// Is the verb served?
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The subresource `name`.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceRow> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Does it have `/status`? Then the main resource never changes `status`.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The facts type's name; empty for custom resources.
    pub fn type_name(&self) -> &str {
        match &self.schema {
            SchemaRef::Builtin(name) => name,
            SchemaRef::Structural(_) => "",
        }
    }

    /// Where the object is stored.
    pub fn etcd_key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.etcd_prefix)
        } else {
            format!("{}{name}", self.etcd_prefix)
        }
    }

    /// The prefix of all objects of a namespace, or of all when it is empty.
    pub fn etcd_prefix_of(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.namespaced {
            self.etcd_prefix.clone()
        } else {
            format!("{}{namespace}/", self.etcd_prefix)
        }
    }
}
