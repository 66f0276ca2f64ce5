//! Shall we: the built-in admission plugins, each one file and one row in [`PLUGINS`], run in upstream's order.
//!
//! ```text
//! mutate(request, object, reader) ─► object with defaults filled in         (webhooks run between the two)
//! validate(request, reader)       ─► refused or not         quota::charges ─► quotas whose usage must be written
//! ```

mod certificates;
mod default_tolerations;
mod ingress_class;
mod limit_ranger;
mod mirror_pod;
mod namespace_lifecycle;
mod node_audience;
mod node_restriction;
mod node_taint;
mod priority;
pub mod quota;
mod reader;
mod runtime_class;
mod service_account;
mod storage;

use base::Timestamp;
use machinery::{CompactString, GroupVersionKind, GroupVersionResource, Status, Value};

pub use reader::{MapReader, Reader};

use crate::{Attributes, UserInfo};

/// What is done to the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// The word in an `AdmissionReview`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write that admission looks at.
pub struct AdmissionRequest<'a> {
    pub operation: Operation,
    pub kind: &'a GroupVersionKind,
    pub resource: &'a GroupVersionResource,
    pub subresource: &'a str,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Empty while a generated name is not made yet.
    pub name: &'a str,
    /// The new object; `None` on delete, and during [`mutate`], which gets it apart.
    pub object: Option<&'a Value>,
    /// The object as it was, on update and delete.
    pub old: Option<&'a Value>,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    pub now: Timestamp,
    /// Makes generated names; another one for each request.
    pub seed: u64,
    /// Asks the authorizers about further rights of the user.
    pub may: &'a dyn Fn(&Attributes<'_>) -> bool,
}

impl AdmissionRequest<'_> {
    fn is(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource && self.subresource.is_empty()
    }

    fn is_sub(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource && self.subresource == subresource
    }

    fn object(&self) -> &Value {
        static NULL: Value = Value::Null;
        self.object.unwrap_or(&NULL)
    }

    fn old(&self) -> &Value {
        static NULL: Value = Value::Null;
        self.old.unwrap_or(&NULL)
    }

    /// 403 with the object's name, or what it would be generated from.
    fn forbidden(&self, object: Option<&Value>, why: impl AsRef<str>) -> Status {
        let object = object.or(self.object);
        let named = |object: &Value| {
            let name = CompactString::from(machinery::meta::name(object));
            if name.is_empty() { object.str_at(&["metadata", "generateName"]).into() } else { name }
        };
        let name = if self.name.is_empty() { object.map(named).unwrap_or_default() } else { self.name.into() };
        let name = if name.is_empty() { "Unknown" } else { name.as_str() };
        Status::forbidden(&self.resource.group_resource(), name, why.as_ref())
    }
}

type Mutate = fn(&AdmissionRequest<'_>, &mut Value, &dyn Reader) -> Result<(), Status>;
type Validate = fn(&AdmissionRequest<'_>, &dyn Reader) -> Result<(), Status>;

/// One plugin under its upstream name.
pub struct Plugin {
    pub name: &'static str,
    pub mutate: Option<Mutate>,
    pub validate: Option<Validate>,
}

/// All plugins, in the order in which they run (upstream `AllOrderedPlugins`).
pub static PLUGINS: &[Plugin] = &[
    Plugin { name: "NamespaceLifecycle", mutate: Some(namespace_lifecycle::admit), validate: None },
    Plugin { name: "LimitRanger", mutate: Some(limit_ranger::mutate), validate: Some(limit_ranger::validate) },
    Plugin { name: "ServiceAccount", mutate: Some(service_account::mutate), validate: Some(service_account::validate) },
    Plugin { name: "NodeRestriction", mutate: Some(node_restriction::admit), validate: None },
    Plugin { name: "TaintNodesByCondition", mutate: Some(node_taint::mutate), validate: None },
    Plugin { name: "Priority", mutate: Some(priority::mutate), validate: Some(priority::validate) },
    Plugin { name: "DefaultTolerationSeconds", mutate: Some(default_tolerations::mutate), validate: None },
    Plugin { name: "DefaultStorageClass", mutate: Some(storage::default_class), validate: None },
    Plugin { name: "StorageObjectInUseProtection", mutate: Some(storage::protect), validate: None },
    Plugin { name: "PersistentVolumeClaimResize", mutate: None, validate: Some(storage::resize) },
    Plugin { name: "RuntimeClass", mutate: Some(runtime_class::mutate), validate: Some(runtime_class::validate) },
    Plugin { name: "CertificateApproval", mutate: None, validate: Some(certificates::approval) },
    Plugin { name: "CertificateSigning", mutate: None, validate: Some(certificates::signing) },
    Plugin { name: "CertificateSubjectRestriction", mutate: None, validate: Some(certificates::subject_restriction) },
    Plugin { name: "DefaultIngressClass", mutate: Some(ingress_class::mutate), validate: None },
    // ResourceQuota is last, and apart: see `quota::charges`.
];

/// Runs the mutating half of every plugin on `object` (null on delete and connect).
///
/// # Errors
/// The first refusal.
pub fn mutate(request: &AdmissionRequest<'_>, object: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    PLUGINS.iter().filter_map(|plugin| plugin.mutate).try_for_each(|mutate| mutate(request, object, reader))
}

/// Runs the validating half of every plugin; `request.object` is the object as it will be stored.
///
/// # Errors
/// The first refusal.
pub fn validate(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    PLUGINS.iter().filter_map(|plugin| plugin.validate).try_for_each(|validate| validate(request, reader))
}

#[cfg(test)]
pub(crate) mod testing;
