//! Objects in the store: keys, the stored form and back.

use std::sync::Arc;

use bytes::Bytes;
use machinery::schema::Types;
use machinery::{GroupVersionKind, ObjectKey, Value, protobuf};
use registry::{Registry, Resource, SchemaRef};

/// The stored form: JSON of the storage version without resourceVersion.
pub(crate) fn encode(row: &Resource, storage: &Resource, object: &Value) -> Bytes {
    let mut stored = registry::to_storage(object, row, storage);
    if let Some(metadata) = stored.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    Bytes::from(stored.to_vec())
}

/// Reads what is stored: JSON, and the protobuf that a kube-apiserver on the same store writes.
pub(crate) struct Reader {
    types: Arc<Types>,
    /// Only built-in kinds have a protobuf form.
    builtin: Registry,
}

impl Reader {
    pub(crate) const fn new(types: Arc<Types>, builtin: Registry) -> Self {
        Self { types, builtin }
    }

    /// An error names what is wrong with it.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Value, String> {
        let value = if bytes.starts_with(protobuf::MAGIC) {
            self.decode_protobuf(bytes)?
        } else {
            Value::from_slice(bytes).map_err(|e| e.to_string())?
        };
        if value.as_object().is_none() || value["metadata"].as_object().is_none() {
            return Err("not an object".to_owned());
        }
        Ok(value)
    }

    /// As [`Reader::decode`]; a custom resource is pruned and defaulted by its schema as it is now, whatever was stored.
    pub(crate) fn decode_as(&self, row: &Resource, bytes: &[u8]) -> Result<Value, String> {
        let mut object = self.decode(bytes)?;
        if let SchemaRef::Structural(schema) = &row.schema {
            schema.prune_and_default(&mut object);
        }
        Ok(object)
    }

    /// The version it was written in may be an older one of those that its group has.
    fn decode_protobuf(&self, bytes: &[u8]) -> Result<Value, String> {
        let unknown = protobuf::unwrap_unknown(bytes)?;
        let kind = GroupVersionKind::of(&unknown.api_version, &unknown.kind);
        let row = self
            .builtin
            .kind(&kind)
            .ok_or_else(|| format!("kind {} of {} is not known", unknown.kind, unknown.api_version))?;
        let object = protobuf::decode_object(&self.types, row.type_name(), &unknown)?;
        Ok(match self.builtin.storage_row(row) {
            Some(storage) if storage.gvk != row.gvk => registry::to_storage(&object, row, storage),
            _ => object,
        })
    }
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
