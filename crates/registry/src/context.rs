//! What a verb is told about the request, and what it may ask back.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use machinery::Value;

use crate::allocation::ServiceNetwork;
use crate::features::Features;

/// Which part of an object a write is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Subresource {
    /// The object itself.
    #[default]
    None,
    Status,
    /// `namespaces/finalize`.
    Finalize,
    /// `certificatesigningrequests/approval`.
    Approval,
    /// `pods/binding`, written as an update of the pod.
    Binding,
    /// `pods/ephemeralcontainers`.
    EphemeralContainers,
    /// `pods/resize`.
    Resize,
    /// `scale`, written as an update of the workload.
    Scale,
}

impl Subresource {
    /// The subresource of that name when it is written as an update of the object.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::None,
            "status" => Self::Status,
            "finalize" => Self::Finalize,
            "approval" => Self::Approval,
            "binding" => Self::Binding,
            "ephemeralcontainers" => Self::EphemeralContainers,
            "resize" => Self::Resize,
            "scale" => Self::Scale,
            _ => return None,
        })
    }
}

/// The request a verb works for. Time and randomness are given, never taken.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The caller's user name, uid, groups and extra (CertificateSigningRequests record them).
    pub user: String,
    pub user_uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
    pub now: Timestamp,
    /// A fresh UUID for a created object.
    pub uid: String,
    /// Five letters of `base::Rng::suffix(5)` for `generateName`.
    pub name_suffix: String,
    /// The namespace in the URL; empty for cluster-scoped resources.
    pub namespace: String,
    /// The name in the URL; empty on create.
    pub name: String,
    pub subresource: Subresource,
    /// Was a patch sent? Then the uid in the object is no precondition of the client's.
    pub is_patch: bool,
    pub dry_run: bool,
    pub features: Features,
    /// The answer to [`Need::ServiceNetwork`].
    pub network: Option<Arc<ServiceNetwork>>,
    /// May pods ask for privileged containers (`--allow-privileged`)?
    pub allow_privileged: bool,
}

/// What a verb needs to know before it can be called; the caller looks it up and puts it into the [`Context`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// The Services' addresses and node ports in use: `Context::network`. Writes that need it must not interleave.
    ServiceNetwork,
}

/// `DeleteOptions.propagationPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub precondition_uid: Option<String>,
    pub precondition_resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    /// The word as sent; validated by `delete`.
    pub propagation_policy: Option<String>,
    pub dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Reads the body of a DELETE; missing members are `None`.
    pub fn from_value(value: &Value) -> Self {
        let text = |path: &[&str]| value.at(path).and_then(Value::as_str).map(str::to_owned);
        Self {
            grace_period_seconds: value["gracePeriodSeconds"].as_i64(),
            precondition_uid: text(&["preconditions", "uid"]),
            precondition_resource_version: text(&["preconditions", "resourceVersion"]),
            orphan_dependents: value["orphanDependents"].as_bool(),
            propagation_policy: text(&["propagationPolicy"]),
            dry_run: value["dryRun"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    /// The policy as a word we know.
    pub fn propagation(&self) -> Option<Propagation> {
        match self.propagation_policy.as_deref() {
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            _ => None,
        }
    }
}

/// What a delete comes to.
#[derive(Clone, PartialEq, Debug)]
pub enum Deletion {
    /// Remove the object from the store (unless it has changed meanwhile).
    Remove,
    /// Store this form, which is marked for deletion; the answer is the object with 202-like semantics of upstream (200).
    Mark(Value),
    /// Deletion is pending already; answer the object as it is.
    Unchanged,
}
