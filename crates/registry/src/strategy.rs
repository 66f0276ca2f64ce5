//! What is special about a kind: the rules that data cannot express.
//!
//! A kind without rules has [`Strategy::PLAIN`]. The generic verbs call these functions at upstream's points
//! (`k8s.io/apiserver/pkg/registry/rest`): prepare, validate, and for updates the same against what was stored.

use machinery::Value;

use crate::context::{Context, DeleteOptions, Deletion, Propagation};
use crate::validation::{At, Errors};

/// Rules of one kind.
pub struct Strategy {
    /// Is this a good name? (`true`: a `generateName` prefix.) Answers with complaints. Checked when creating.
    pub(crate) name: fn(&str, bool) -> Vec<String>,
    /// Does `metadata.generation` count changes of the desired state?
    pub(crate) generation: Generation,
    /// Members beside `metadata` that a status write cannot change and a main write owns; the generic default is all but `status`.
    pub(crate) status: StatusRule,
    /// May a PUT create the object?
    pub(crate) create_on_update: bool,
    /// May a PUT come without resourceVersion?
    pub(crate) unconditional_update: bool,
    /// What happens to dependents when the client does not say.
    pub(crate) propagation: Propagation,
    /// Fields that selectors may name besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: &'static [Selectable],
    pub(crate) prepare_create: fn(&mut Value, &Context),
    /// New, old.
    pub(crate) prepare_update: fn(&mut Value, &Value, &Context),
    pub(crate) validate: fn(&At<'_>, &Context, &mut Errors),
    /// New, old; metadata has been validated. The default validates the new object alone.
    pub(crate) validate_update: Option<fn(&At<'_>, &At<'_>, &Context, &mut Errors)>,
    /// Subresource writes: new, old.
    pub(crate) prepare_subresource: fn(&mut Value, &Value, &Context),
    pub(crate) validate_subresource: fn(&At<'_>, &At<'_>, &Context, &mut Errors),
    /// Decides on a graceful deletion and fills the grace period; `None` when the kind has none.
    pub(crate) graceful: Option<fn(&Value, &mut DeleteOptions) -> bool>,
    /// What deleting an object comes to, where the kind has rules of its own; `None`: the general ones apply.
    pub(crate) delete: fn(&Value, &Context) -> Option<Deletion>,
    /// `Warning` headers of a create.
    pub(crate) warnings: fn(&Value) -> Vec<String>,
}

/// When `metadata.generation` is bumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Generation {
    /// Never; the field keeps what it had.
    Unused,
    /// When `spec` changes.
    Spec,
    /// When anything outside `metadata` and `status` changes (also labels or annotations where listed).
    Content,
    /// When `spec` or the annotations change (ReplicaSets and Deployments: upstream's oddity since 1.0).
    SpecOrAnnotations,
}

/// What becomes of `status` in writes to the main resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatusRule {
    /// Dropped on create, kept as stored on update.
    Separate,
    /// Taken on create (nodes), kept as stored on update.
    GivenOnCreate,
    /// Part of the object like anything else.
    Ordinary,
}

/// A field that field selectors may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selectable {
    /// As written in the selector.
    pub(crate) label: &'static str,
    /// Members on the way, separated by dots.
    pub(crate) path: &'static str,
    /// What an unset field reads as.
    pub(crate) unset: &'static str,
    /// The path that is read when the first one is empty; none: itself.
    pub(crate) instead: &'static str,
}

/// A selectable field that reads empty when unset.
pub(crate) const fn text(label: &'static str) -> Selectable {
    Selectable { label, path: label, unset: "", instead: "" }
}

/// A selectable boolean: `false` when unset.
pub(crate) const fn flag(label: &'static str) -> Selectable {
    Selectable { label, path: label, unset: "false", instead: "" }
}

impl Strategy {
    /// No rules beyond names that are DNS subdomains.
    pub(crate) const PLAIN: Self = Self {
        name: crate::names::subdomain,
        generation: Generation::Unused,
        status: StatusRule::Separate,
        create_on_update: false,
        unconditional_update: true,
        propagation: Propagation::Background,
        selectable: &[],
        prepare_create: |_, _| {},
        prepare_update: |_, _, _| {},
        validate: |_, _, _| {},
        validate_update: None,
        prepare_subresource: |_, _, _| {},
        validate_subresource: |_, _, _, _| {},
        graceful: None,
        delete: |_, _| None,
        warnings: |_| Vec::new(),
    };
}

impl Strategy {
    /// May a PUT create the object when it is not there?
    pub fn creates_on_update(&self) -> bool {
        self.create_on_update
    }

    /// `Warning` headers of a create.
    pub fn warnings_on_create(&self, object: &Value) -> Vec<String> {
        (self.warnings)(object)
    }
}

impl std::fmt::Debug for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Strategy")
            .field("generation", &self.generation)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
