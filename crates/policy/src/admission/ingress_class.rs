//! DefaultIngressClass: an Ingress without a class gets the one marked as default.

use machinery::{GroupResource, Status, Value, meta};

use super::{AdmissionRequest, Operation, Reader};

pub(super) const MARK: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) fn mutate(request: &AdmissionRequest<'_>, ingress: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("networking.k8s.io", "ingresses") {
        return Ok(());
    }
    let old_way = !ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null();
    if !ingress["spec"]["ingressClassName"].is_null() || old_way {
        return Ok(());
    }
    let classes = reader.list(&GroupResource::new("networking.k8s.io", "ingressclasses"), "");
    let newest = classes
        .iter()
        .filter(|class| class["metadata"]["annotations"][MARK].as_str() == Some("true"))
        .min_by_key(|class| super::storage::newest_first(class));
    if let Some(class) = newest {
        ingress["spec"]["ingressClassName"] = meta::name(class).into();
    }
    Ok(())
}
