//! Objects in the store: keys, the stored form and back.

use bytes::Bytes;
use machinery::{ObjectKey, Value};
use registry::Resource;

/// The stored form: JSON of the storage version without resourceVersion.
pub(crate) fn encode(row: &Resource, storage: &Resource, object: &Value) -> Bytes {
    let mut stored = registry::to_storage(object, row, storage);
    if let Some(metadata) = stored.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    Bytes::from(stored.to_vec())
}

/// Reads what is stored; an error names what is wrong with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, String> {
    if bytes.starts_with(machinery::protobuf::MAGIC) {
        return Err("stored as protobuf".to_owned());
    }
    let value = Value::from_slice(bytes).map_err(|e| e.to_string())?;
    if value.as_object().is_none() || value["metadata"].as_object().is_none() {
        return Err("not an object".to_owned());
    }
    Ok(value)
}

/// Namespace and name of a key after the resource's prefix.
pub(crate) fn object_key(row: &Resource, rest: &str) -> Option<ObjectKey> {
    if row.namespaced {
        let (namespace, name) = rest.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| ObjectKey::new(namespace, name))
    } else {
        (!rest.is_empty() && !rest.contains('/')).then(|| ObjectKey::new("", rest))
    }
}
