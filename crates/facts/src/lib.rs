//! What one minor version of Kubernetes consists of, as text: types with their field numbers and flags,
//! resources, group versions, feature gates, printer columns, defaults and the objects a cluster starts with.
//!
//! ```text
//! published Go modules ──cargo xtask facts──► data/<minor>/*.txt ──include_str!──► Set ──► machinery, registry, policy
//! ```
//!
//! The crate holds data only; each file says in its first lines how it is read. Lines starting with `#` are comments.

mod set_1_33;

/// The facts of one minor version.
#[derive(Debug)]
pub struct Set {
    /// "1.33".
    pub minor: &'static str,
    /// Type files by name, e.g. ("core/v1", text), sorted by name.
    pub types: &'static [(&'static str, &'static str)],
    /// One line per resource and subresource, in discovery order.
    pub resources: &'static str,
    /// One line per group version, in discovery order.
    pub groups: &'static str,
    /// One line per feature gate.
    pub features: &'static str,
    /// One line per printer column.
    pub columns: &'static str,
    /// Defaulting rules, for `registry::defaults`.
    pub defaults: &'static str,
    /// JSON lines: ClusterRole, ClusterRoleBinding, Role, RoleBinding.
    pub bootstrap_rbac: &'static str,
    /// JSON lines: PriorityClass, PriorityLevelConfiguration, FlowSchema.
    pub bootstrap_objects: &'static str,
}

/// The set of a minor version such as "1.33", if there is one.
pub fn set(minor: &str) -> Option<&'static Set> {
    SETS.iter().copied().find(|set| set.minor == minor)
}

/// The newest set.
pub fn newest() -> &'static Set {
    &set_1_33::SET
}

/// The description of a type (field empty) or of one of its fields, where known; type names as in `Set::types`.
pub fn prose(_type_name: &str, _field: &str) -> Option<&'static str> {
    None
}

static SETS: &[&Set] = &[&set_1_33::SET];
