//! What a value was before an update, found by the schema (`k8s.io/apiserver/pkg/cel/common.CorrelatedObject`).
//!
//! Members correspond by name and elements of list-type maps by their keys; those of other lists do not correspond.

use super::Structural;
use crate::Value;
use crate::schema::ListType;

/// The old form of a value, with the schema that tells how its parts correspond.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) schema: &'a Structural,
    pub(super) old: &'a Value,
    /// Is it the whole object? Its version, kind and metadata do not correspond.
    pub(super) root: bool,
}

impl<'a> Link<'a> {
    /// The old form of a member that the new form has.
    pub(super) fn member(&self, name: &str) -> Option<Self> {
        if self.root && matches!(name, "apiVersion" | "kind" | "metadata") {
            return None;
        }
        let schema = self.schema.property(name).or_else(|| self.schema.additional())?;
        Some(Self { schema, old: self.old.as_object()?.get(name)?, root: false })
    }

    /// The old form of an element of a list.
    pub(super) fn item(&self, item: &Value) -> Option<Self> {
        if self.schema.list_type != ListType::Map {
            return None;
        }
        let same_keys = |old: &&Value| self.schema.list_map_keys.iter().all(|key| old.get(key) == item.get(key));
        let old = self.old.items().iter().find(same_keys)?;
        Some(Self { schema: self.schema.items.as_deref()?, old, root: false })
    }
}

/// Is the value what it was, elements of list-type maps in any order?
pub(super) fn unchanged(schema: &Structural, old: &Value, new: &Value) -> bool {
    let link = Link { schema, old, root: false };
    match (old, new) {
        (Value::Array(a), Value::Array(b)) if schema.list_type == ListType::Map => {
            let same = |item: &Value| link.item(item).is_some_and(|l| unchanged(l.schema, l.old, item));
            a.len() == b.len() && b.iter().all(same)
        }
        (Value::Object(a), Value::Object(b)) => {
            let same =
                |(name, value): (_, &Value)| link.member(name).is_some_and(|l| unchanged(l.schema, l.old, value));
            a.len() == b.len() && b.iter().all(same)
        }
        _ => old == new,
    }
}
