//! Everything that keeps a cluster's objects in line, as pure functions: controllers, the scheduler, simulated kubelets.
//!
//! ```text
//!  watch events ──► World ──► Controller::watches: which keys? ──► reconcile(context, key) ──► Vec<Action>
//!                    ▲                                                                            │
//!                    └───────────────────── answers of the API ◄── the manager acts ◄─────────────┘
//! ```
//!
//! A controller is level-triggered: it looks at the [`World`], never at what just happened, and returns what should be
//! done. The crate `manager` fills the world, calls and acts. The same functions run against a fake store in tests.

pub mod action;
pub mod conditions;
pub mod kubelet;
pub mod pods;
pub mod resource;
pub mod scheduler;
pub mod selector;
pub mod template;
pub mod world;

mod account_tokens;
mod certificates;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod history;
mod job;
mod mirroring;
mod namespace;
mod nodes;
mod publisher;
mod quota;
mod replicaset;
mod roles;
mod statefulset;

use base::Timestamp;
use machinery::{GroupVersionResource, Status, meta};

pub use action::{Action, DeleteOptions, Event, Propagation};
pub use resource::ResourceType;
pub use world::{Change, Key, Settings, World};

/// What a reconcile function is given.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The cluster as the manager last saw it, our own writes included.
    pub world: &'a World,
    /// The emulator's wall time.
    pub now: Timestamp,
    /// Why the last attempt at this key failed, if it did.
    pub failure: Option<&'a Status>,
}

/// A resource a controller watches, and which keys a change of it concerns.
pub struct Watch {
    /// Which resource; `None`: every one.
    pub resource: Option<&'static GroupVersionResource>,
    /// The keys to look at again.
    pub keys: fn(&World, &Change) -> Vec<Key>,
}

/// One row of [`ALL`].
pub struct Controller {
    /// Its identity is `system:serviceaccount:kube-system:<name>`, as upstream's, or the name itself when it begins with
    /// `system:`.
    pub name: &'static str,
    /// What it watches.
    pub watches: &'static [Watch],
    /// What it wants done about a key. Must be idempotent: it is called again after every change and failure.
    pub reconcile: fn(&Context<'_>, &Key) -> Vec<Action>,
    /// How long changes of a key may gather before it is looked at, in milliseconds.
    pub settle_ms: u64,
}

/// The controllers that act as `system:kube-controller-manager` itself, as upstream's root client.
pub const WITHOUT_ACCOUNT: &[&str] = &["serviceaccount-token-controller"];

/// Every controller.
pub static ALL: &[&Controller] = &[
    &deployment::CONTROLLER,
    &replicaset::REPLICA_SET,
    &replicaset::REPLICATION_CONTROLLER,
    &daemonset::CONTROLLER,
    &statefulset::CONTROLLER,
    &job::JOB,
    &job::TTL_AFTER_FINISHED,
    &cronjob::CONTROLLER,
    &disruption::CONTROLLER,
    &quota::CONTROLLER,
    &namespace::CONTROLLER,
    &publisher::SERVICE_ACCOUNT,
    &publisher::ROOT_CA,
    &account_tokens::CONTROLLER,
    &garbage::CONTROLLER,
    &endpoints::ENDPOINT_SLICE,
    &endpoints::ENDPOINTS,
    &mirroring::CONTROLLER,
    &nodes::LIFECYCLE,
    &nodes::TAINT_EVICTION,
    &nodes::IPAM,
    &nodes::POD_GC,
    &roles::CONTROLLER,
    &certificates::APPROVING,
    &certificates::SIGNING,
    &certificates::CLEANING,
];

/// The changed object's own key.
pub(crate) fn own_key(_: &World, change: &Change) -> Vec<Key> {
    change.new.iter().map(|o| Key { resource: change.resource.clone(), object: meta::key(o) }).collect()
}

impl Watch {
    /// Changes of a resource concern the changed object itself.
    pub(crate) const fn own(resource: &'static GroupVersionResource) -> Self {
        Self { resource: Some(resource), keys: own_key }
    }

    /// Changes of a resource concern what `keys` says.
    pub(crate) const fn map(resource: &'static GroupVersionResource, keys: fn(&World, &Change) -> Vec<Key>) -> Self {
        Self { resource: Some(resource), keys }
    }
}

impl Change {
    /// The object before and after, as far as there was one.
    pub fn objects(&self) -> impl Iterator<Item = &machinery::Value> {
        self.old.iter().chain(&self.new).map(|o| &**o)
    }
}
