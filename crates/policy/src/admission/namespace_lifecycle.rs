//! NamespaceLifecycle: nothing is made in a namespace that is not there or that goes, and three namespaces never go.

use machinery::{GroupResource, Status, StatusCause, Value};

use super::{AdmissionRequest, Operation, Reader};

/// Namespaces that cannot be deleted.
pub(super) const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(request: &AdmissionRequest<'_>, object: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    let namespaces = GroupResource::new("", "namespaces");
    let is_namespace = request.resource.group_resource() == namespaces;
    if request.operation == Operation::Delete && is_namespace && IMMORTAL.contains(&request.name) {
        return Err(Status::forbidden(&namespaces, request.name, "this namespace may not be deleted"));
    }
    let watched = matches!(request.operation, Operation::Create | Operation::Update);
    let review =
        request.resource.group == "authorization.k8s.io" && request.resource.resource == "localsubjectaccessreviews";
    if request.namespace.is_empty() || is_namespace || !watched || review {
        return Ok(());
    }
    let Some(namespace) = reader.get(&namespaces, "", request.namespace) else {
        return Err(Status::not_found(&namespaces, request.namespace));
    };
    if request.operation == Operation::Create && namespace.str_at(&["status", "phase"]) == "Terminating" {
        let name = request.namespace;
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = request.forbidden(Some(object), why);
        status.causes.push(StatusCause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        return Err(status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn a_namespace_that_goes_takes_nothing_new() {
        let mut reader = reader();
        reader.put("", "namespaces", json!({"metadata": {"name": "x"}, "status": {"phase": "Terminating"}}));
        let case = Case::create("", "configmaps", "x", json!({"metadata": {"name": "c"}}));
        let refused = case.mutate_by(admit, &reader).unwrap_err();
        assert_eq!(
            refused.message,
            "configmaps \"c\" is forbidden: unable to create new content in namespace x because it is being terminated"
        );
        assert_eq!(refused.causes[0].reason, "NamespaceTerminating");
        let nowhere = Case::create("", "configmaps", "nowhere", json!({}));
        assert_eq!(nowhere.mutate_by(admit, &reader).unwrap_err().message, "namespaces \"nowhere\" not found");
        assert!(Case::create("", "configmaps", "default", json!({})).mutate_by(admit, &reader).is_ok());
        let delete =
            Case { operation: Operation::Delete, name: "default", ..Case::create("", "namespaces", "", json!({})) };
        assert_eq!(
            delete.mutate_by(admit, &reader).unwrap_err().message,
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        );
    }
}
