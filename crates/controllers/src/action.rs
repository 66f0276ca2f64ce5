//! What a controller wants done. The manager does it, with the controller's own identity.

use std::time::Duration;

use machinery::{CompactString, GroupVersionResource, ObjectKey, Value, json, meta};

use crate::world::Key;

/// `propagationPolicy` of a deletion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

/// Conditions and manner of a deletion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteOptions {
    /// Only the object with this uid; empty: whichever has the name.
    pub uid: CompactString,
    /// Only at this version; empty: any.
    pub resource_version: CompactString,
    /// What becomes of dependents; none: the resource's default.
    pub propagation: Option<Propagation>,
    /// `gracePeriodSeconds`; none: the object's own.
    pub grace_seconds: Option<i64>,
}

impl DeleteOptions {
    /// `meta.v1.DeleteOptions` on the wire.
    pub fn to_value(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if !self.uid.is_empty() {
            *options.at_mut(&["preconditions", "uid"]) = self.uid.as_str().into();
        }
        if !self.resource_version.is_empty() {
            *options.at_mut(&["preconditions", "resourceVersion"]) = self.resource_version.as_str().into();
        }
        if let Some(propagation) = self.propagation {
            options.set("propagationPolicy", propagation.as_str());
        }
        if let Some(seconds) = self.grace_seconds {
            options.set("gracePeriodSeconds", seconds);
        }
        options
    }
}

/// Something that happened, for `kubectl describe`.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// The object it is about, as an ObjectReference.
    pub regarding: Value,
    /// `Warning` rather than `Normal`?
    pub warning: bool,
    /// CamelCase word.
    pub reason: &'static str,
    /// Sentence.
    pub message: String,
}

/// What must hold of the machine that a CertificateSigningRequest names, beyond what the API server knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineCheck {
    /// The machine's TPM vouches for the key.
    Attestation,
    /// Names and addresses are the machine's own.
    Addresses,
}

/// A rule by which a CertificateSigningRequest may be approved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Approval {
    /// Asked first; a machine that does not pass gets the request denied.
    pub check: Option<MachineCheck>,
    /// The requester must be allowed to create this subresource of `certificatesigningrequests`.
    pub subresource: &'static str,
    /// Of the condition `Approved`.
    pub message: &'static str,
}

/// One effect. Neighbouring creations, deletions, patches, bindings and events may run at the same time and in any order;
/// an update waits for all before it and is skipped when one of them failed.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// POST an object (its `metadata.namespace` says where).
    /// With an `event`, the new object's name is appended to its message.
    Create { resource: GroupVersionResource, object: Value, event: Option<Event> },
    /// PUT an object, or with a `subresource` (`status`, `finalize`, `approval`) that of it. Stale versions conflict.
    Update { resource: GroupVersionResource, subresource: &'static str, object: Value },
    /// JSON merge PATCH.
    Patch { resource: GroupVersionResource, object: ObjectKey, subresource: &'static str, patch: Value },
    /// Strategic merge PATCH that takes one finalizer away, whatever else happened to the object meanwhile. For built-in
    /// kinds only.
    RemoveFinalizer { resource: GroupVersionResource, object: ObjectKey, uid: CompactString, finalizer: &'static str },
    /// DELETE one object.
    Delete { resource: GroupVersionResource, object: ObjectKey, options: DeleteOptions },
    /// DELETE all objects of a resource in a namespace.
    DeleteCollection { resource: GroupVersionResource, namespace: CompactString },
    /// POST pods/binding.
    Bind { pod: ObjectKey, uid: CompactString, node: CompactString },
    /// Record an event; a failure to do so is of no consequence.
    Event(Event),
    /// Have the cluster's signer answer a CertificateSigningRequest (the port `Signer`), then PUT its `status`.
    Sign { request: Value },
    /// Have the first rule that applies decide on a CertificateSigningRequest, by SubjectAccessReview, then PUT its `approval`.
    /// Nothing is done when none allows it.
    Approve { request: Value, rules: Vec<Approval> },
    /// Have the cluster's signer make a token of these claims, then PUT the Secret with it in `data.token`.
    SignToken { secret: Value, claims: Value },
    /// Ask the API, not the world, for an object. While it exists with that uid (empty: with any), all that follows is
    /// skipped.
    EnsureAbsent { resource: GroupVersionResource, object: ObjectKey, uid: CompactString },
    /// Look at the key again after a while, whatever happens.
    Requeue { after: Duration },
}

impl Action {
    /// POST.
    pub fn create(resource: &GroupVersionResource, object: Value) -> Self {
        Self::Create { resource: resource.clone(), object, event: None }
    }

    /// POST, and when it worked a `Normal` event: `message` followed by the new object's name.
    pub fn create_with_event(
        resource: &GroupVersionResource,
        object: Value,
        regarding: &Value,
        reason: &'static str,
        message: &str,
    ) -> Self {
        let event = Event { regarding: reference(regarding), warning: false, reason, message: message.to_owned() };
        Self::Create { resource: resource.clone(), object, event: Some(event) }
    }

    /// PUT the whole object.
    pub fn update(resource: &GroupVersionResource, object: Value) -> Self {
        Self::Update { resource: resource.clone(), subresource: "", object }
    }

    /// PUT its status.
    pub fn update_status(resource: &GroupVersionResource, object: Value) -> Self {
        Self::Update { resource: resource.clone(), subresource: "status", object }
    }

    /// PATCH; the patch should carry `metadata.uid` where another object of the name must not be hit.
    pub fn patch(resource: &GroupVersionResource, object: &Value, subresource: &'static str, patch: Value) -> Self {
        Self::Patch { resource: resource.clone(), object: meta::key(object), subresource, patch }
    }

    /// Takes a finalizer away from exactly this object.
    pub fn remove_finalizer(resource: &GroupVersionResource, object: &Value, finalizer: &'static str) -> Self {
        let uid = meta::uid(object).into();
        Self::RemoveFinalizer { resource: resource.clone(), object: meta::key(object), uid, finalizer }
    }

    /// DELETE exactly this object, by uid.
    pub fn delete(resource: &GroupVersionResource, object: &Value) -> Self {
        Self::delete_with(resource, object, DeleteOptions::default())
    }

    /// DELETE exactly this object, in a manner.
    pub fn delete_with(resource: &GroupVersionResource, object: &Value, options: DeleteOptions) -> Self {
        let options = DeleteOptions { uid: meta::uid(object).into(), ..options };
        Self::Delete { resource: resource.clone(), object: meta::key(object), options }
    }

    /// A `Normal` event about an object.
    pub fn event(regarding: &Value, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event(Event { regarding: reference(regarding), warning: false, reason, message: message.into() })
    }

    /// A `Warning` event about an object.
    pub fn warning(regarding: &Value, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event(Event { regarding: reference(regarding), warning: true, reason, message: message.into() })
    }
}

/// One line per action, for scenarios and traces.
impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sub = |s: &str| if s.is_empty() { String::new() } else { format!("/{s}") };
        let named = |r: &GroupVersionResource, s: &str| format!("{}{}", r.group_resource(), sub(s));
        match self {
            Self::Create { resource, object, .. } => write!(f, "create {} {object}", named(resource, "")),
            Self::Update { resource, subresource, object } => {
                let shown = if *subresource == "status" { &object["status"] } else { object };
                write!(f, "update {} {} {shown}", named(resource, subresource), meta::key(object))
            }
            Self::Patch { resource, object, subresource, patch } => {
                write!(f, "patch {} {object} {patch}", named(resource, subresource))
            }
            Self::RemoveFinalizer { resource, object, finalizer, .. } => {
                write!(f, "unfinalize {} {object} {finalizer}", named(resource, ""))
            }
            Self::Delete { resource, object, options } => {
                write!(f, "delete {} {object} {}", named(resource, ""), options.to_value())
            }
            Self::DeleteCollection { resource, namespace } => {
                write!(f, "delete-all {} in {namespace}", named(resource, ""))
            }
            Self::Bind { pod, node, .. } => write!(f, "bind {pod} to {node}"),
            Self::Event(event) => {
                let kind = if event.warning { "Warning" } else { "Normal" };
                write!(f, "event {kind} {} {}", event.reason, event.message)
            }
            Self::Sign { request } => write!(f, "sign {}", meta::name(request)),
            Self::Approve { request, rules } => {
                let rules: Vec<&str> = rules.iter().map(|rule| rule.subresource).collect();
                write!(f, "approve {} as {}", meta::name(request), rules.join(", "))
            }
            Self::SignToken { secret, claims } => {
                write!(f, "sign-token {} for {}", meta::key(secret), claims.str_at(&["sub"]))
            }
            Self::EnsureAbsent { resource, object, .. } => write!(f, "ensure-absent {} {object}", named(resource, "")),
            Self::Requeue { after } => write!(f, "requeue {after:?}"),
        }
    }
}

/// An ObjectReference to an object.
pub fn reference(object: &Value) -> Value {
    let mut reference = json!({
        "kind": object["kind"].as_str(), "apiVersion": object["apiVersion"].as_str(),
        "name": meta::name(object), "uid": meta::uid(object),
    });
    if !meta::namespace(object).is_empty() {
        reference.set("namespace", meta::namespace(object));
    }
    if !meta::resource_version(object).is_empty() {
        reference.set("resourceVersion", meta::resource_version(object));
    }
    reference
}

/// An OwnerReference that makes `owner` the controller. `api_version` and `kind` are the owner's.
pub fn controller_reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true})
}

/// The key of the controller that owns `object`, when it is of this resource and kind.
pub fn owner_key(resource: &GroupVersionResource, kind: &str, object: &Value) -> Option<Key> {
    let owner = meta::controller_of(object).filter(|o| o.str_at(&["kind"]) == kind)?;
    let group = owner.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
    (group == resource.group).then(|| Key::new(resource, meta::namespace(object), owner.str_at(&["name"])))
}
