//! The three storage plugins: default class, protection of volumes in use, and who may grow a claim.

use std::cmp::Reverse;
use std::sync::Arc;

use machinery::{GroupResource, Status, Value, meta};

use super::{AdmissionRequest, Operation, Reader};

const DEFAULT_MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn classes() -> GroupResource {
    GroupResource::new("storage.k8s.io", "storageclasses")
}

/// Of several defaults the newest counts, then the first by name.
pub(super) fn newest_first(class: &Arc<Value>) -> (Reverse<String>, String) {
    (Reverse(class.str_at(&["metadata", "creationTimestamp"]).to_owned()), meta::name(class).to_owned())
}

/// DefaultStorageClass.
pub(super) fn default_class(
    request: &AdmissionRequest<'_>,
    claim: &mut Value,
    reader: &dyn Reader,
) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let annotated = !claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_null();
    if annotated || !claim["spec"]["storageClassName"].is_null() {
        return Ok(());
    }
    let is_default =
        |class: &Value| DEFAULT_MARKS.iter().any(|m| class["metadata"]["annotations"][*m].as_str() == Some("true"));
    let all = reader.list(&classes(), "");
    if let Some(class) = all.iter().filter(|class| is_default(class)).min_by_key(|class| newest_first(class)) {
        claim["spec"]["storageClassName"] = meta::name(class).into();
    }
    Ok(())
}

/// StorageObjectInUseProtection: the finalizers that the protection controllers take away again.
pub(super) fn protect(request: &AdmissionRequest<'_>, object: &mut Value, _: &dyn Reader) -> Result<(), Status> {
    let finalizer = if request.operation != Operation::Create {
        return Ok(());
    } else if request.is("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if request.is("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else {
        return Ok(());
    };
    let finalizers = &mut object["metadata"]["finalizers"];
    if finalizers.is_null() {
        *finalizers = Value::Array(Vec::new());
    }
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| f.as_str() == Some(finalizer))
    {
        list.push(finalizer.into());
    }
    Ok(())
}

/// PersistentVolumeClaimResize.
pub(super) fn resize(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Update || !request.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Value| claim.str_at(&["spec", "resources", "requests", "storage"]).to_owned();
    let (new, old) = (request.object(), request.old());
    if size(new) == size(old) {
        return Ok(());
    }
    if old.str_at(&["status", "phase"]) != "Bound" {
        return Err(request.forbidden(None, "Only bound persistent volume claims can be expanded"));
    }
    let class = reader.get(&classes(), "", new.str_at(&["spec", "storageClassName"]));
    if class.is_none_or(|class| class["allowVolumeExpansion"].as_bool() != Some(true)) {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                   support resize";
        return Err(request.forbidden(None, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn a_claim_gets_the_newest_default_class_and_protection() {
        let mut reader = reader();
        for (name, created) in [("a", "2020-01-01T00:00:00Z"), ("b", "2021-01-01T00:00:00Z")] {
            let class = json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
            reader.put("storage.k8s.io", "storageclasses", class);
        }
        let claim = Case::create("", "persistentvolumeclaims", "default", json!({"spec": {}}));
        let made = claim.mutate_by(default_class, &reader).unwrap();
        assert_eq!(made.str_at(&["spec", "storageClassName"]), "b");
        let made = claim.mutate_by(protect, &reader).unwrap();
        assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
}
