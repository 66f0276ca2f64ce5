//! Reading and writing `metadata` of an object tree.

use base::Timestamp;

use crate::{ObjectKey, Value};

/// `metadata.name`, empty when absent.
pub fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

/// `metadata.namespace`, empty when absent.
pub fn namespace(object: &Value) -> &str {
    object.str_at(&["metadata", "namespace"])
}

/// `metadata.uid`, empty when absent.
pub fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

/// `metadata.resourceVersion`, empty when absent.
pub fn resource_version(object: &Value) -> &str {
    object.str_at(&["metadata", "resourceVersion"])
}

/// `metadata.generation`, zero when absent.
pub fn generation(object: &Value) -> i64 {
    object.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
}

/// Namespace and name.
pub fn key(object: &Value) -> ObjectKey {
    ObjectKey::new(namespace(object), name(object))
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    Timestamp::parse(object.str_at(&["metadata", "creationTimestamp"])).ok()
}

/// `metadata.deletionTimestamp`, when the object is being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    Timestamp::parse(object.str_at(&["metadata", "deletionTimestamp"])).ok()
}

/// Is the object being deleted?
pub fn is_terminating(object: &Value) -> bool {
    object.at(&["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
}

/// One label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "labels", key])?.as_str()
}

/// One annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.at(&["metadata", "annotations", key])?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].items().iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].items()
}

/// The owner reference with `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o["controller"].as_bool() == Some(true))
}

#[cfg(test)]
mod tests {
    use crate::json;

    #[test]
    fn absent_metadata_reads_as_empty() {
        let object = json!({"kind": "Pod"});
        assert_eq!((super::name(&object), super::generation(&object)), ("", 0));
        assert!(!super::is_terminating(&object));
        assert_eq!(super::finalizers(&object).count(), 0);
    }
}
