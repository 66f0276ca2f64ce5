//! NodeRestriction: what a kubelet may write, object by object.

use machinery::{GroupResource, Status, Value};
use registry::certificate_request::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, NODE_USER_PREFIX};

use super::{AdmissionRequest, Operation, Reader};
use crate::node::MIRROR_ANNOTATION;

/// Labels with a kubernetes.io name that a kubelet may set on its own node.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

pub(super) fn admit(request: &AdmissionRequest<'_>, object: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    let Some(node) = request.user.node_name() else { return Ok(()) };
    let refuse = |why: String| request.forbidden(Some(object), why);
    if node.is_empty() {
        return Err(refuse(format!("could not determine node from user {:?}", request.user.name)));
    }
    match (request.resource.group.as_str(), request.resource.resource.as_str(), request.subresource) {
        ("", "pods", "") => own_pod(request, node, object, reader),
        ("", "pods", "status") => pod_status(request, node, object),
        ("", "pods", "eviction") => eviction(request, node, object, reader),
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(request, node, object),
        ("", "persistentvolumeclaims", "status") => Ok(()),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => token(request, node, object, reader),
        ("coordination.k8s.io", "leases", _) => lease(request, node, object),
        ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(request, node, object),
        ("storage.k8s.io", "csinodes", _) => named_like_node(request, node, object, "CSINode"),
        _ => Ok(()),
    }
    .map_err(refuse)
}

type Check = Result<(), String>;

/// A kubelet asks for certificates of its own name only.
fn signing_request(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Check {
    let of_nodes = [KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER];
    if request.operation != Operation::Create || !of_nodes.contains(&object.str_at(&["spec", "signerName"])) {
        return Ok(());
    }
    let asked = super::certificates::parsed(object).map_err(|why| format!("unable to parse csr: {why}"))?;
    if asked.common_name == format!("{NODE_USER_PREFIX}{node}") {
        return Ok(());
    }
    Err(format!("can only create a node CSR with CN=system:node:{node}"))
}

fn stored_pod(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<std::sync::Arc<Value>, String> {
    let name = request.name;
    reader
        .get(&GroupResource::new("", "pods"), request.namespace, name)
        .ok_or_else(|| format!("pods {name:?} not found"))
}

fn own_pod(request: &AdmissionRequest<'_>, node: &str, pod: &Value, reader: &dyn Reader) -> Check {
    match request.operation {
        Operation::Create => mirror_pod(node, pod),
        Operation::Delete => {
            let stored = stored_pod(request, reader)?;
            if stored.str_at(&["spec", "nodeName"]) == node {
                return Ok(());
            }
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        other @ (Operation::Update | Operation::Connect) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            other.as_str()
        )),
    }
}

fn mirror_pod(node: &str, pod: &Value) -> Check {
    if pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null() {
        return Err(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].items();
    if owners.len() > 1 {
        return Err(format!("node {node:?} can only create pods with a single owner reference set to itself"));
    }
    if let Some(owner) = owners.first() {
        let itself = owner.str_at(&["apiVersion"]) == "v1"
            && owner.str_at(&["kind"]) == "Node"
            && owner.str_at(&["name"]) == node;
        if !itself {
            return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if owner["controller"].as_bool() != Some(true) {
            return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner["blockOwnerDeletion"].as_bool() == Some(true) {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
    }
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    Ok(())
}

fn pod_status(request: &AdmissionRequest<'_>, node: &str, pod: &Value) -> Check {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", request.operation.as_str()));
    }
    if request.old().str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if request.old()["metadata"]["labels"] != pod["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    Ok(())
}

fn eviction(request: &AdmissionRequest<'_>, node: &str, eviction: &Value, reader: &dyn Reader) -> Check {
    let named = machinery::meta::name(eviction);
    if request.name.is_empty() || !named.is_empty() && named != request.name {
        return Err("could not determine pod from request data".to_owned());
    }
    if stored_pod(request, reader)?.str_at(&["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
}

fn own_node(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Check {
    let requested = if request.name.is_empty() { machinery::meta::name(object) } else { request.name };
    if requested != node {
        return Err(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    match request.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(&Value::Null, &object["metadata"]["labels"]);
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")))
        }
        Operation::Update => {
            let old = request.old();
            if old["spec"]["taints"] != object["spec"]["taints"] {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if old["metadata"]["ownerReferences"] != object["metadata"]["ownerReferences"] {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(&old["metadata"]["labels"], &object["metadata"]["labels"]);
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")))
        }
        Operation::Delete | Operation::Connect => Ok(()),
    }
}

/// Of the labels that differ, those a kubelet must not touch, sorted.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let mut keys: Vec<&str> = old.members().filter(|(k, v)| new[*k] != **v).map(|(k, _)| k).collect();
    keys.extend(new.members().filter(|(k, v)| old[*k] != **v).map(|(k, _)| k));
    keys.sort_unstable();
    keys.dedup();
    let within = |namespace: &str, domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    keys.retain(|key| {
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        let kubernetes = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
        let kubelets = KUBELET_LABELS.contains(key)
            || within(namespace, "kubelet.kubernetes.io")
            || within(namespace, "node.kubernetes.io");
        within(namespace, "node-restriction.kubernetes.io") || kubernetes && !kubelets
    });
    keys.into_iter().map(str::to_owned).collect()
}

fn token(request: &AdmissionRequest<'_>, node: &str, review: &Value, reader: &dyn Reader) -> Check {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let bound = &review["spec"]["boundObjectRef"];
    let version = bound.str_at(&["apiVersion"]);
    if bound.str_at(&["kind"]) != "Pod" || version != "v1" || bound.str_at(&["name"]).is_empty() {
        return Err("node requested token not bound to a pod".to_owned());
    }
    let uid = bound.str_at(&["uid"]);
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let name = bound.str_at(&["name"]);
    let pod = reader
        .get(&GroupResource::new("", "pods"), request.namespace, name)
        .ok_or_else(|| format!("pods {name:?} not found"))?;
    if machinery::meta::uid(&pod) != uid {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    super::node_audience::check(request, review, &pod, reader)
}

fn lease(request: &AdmissionRequest<'_>, node: &str, lease: &Value) -> Check {
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    named_like_node(request, node, lease, "node lease")
}

fn named_like_node(request: &AdmissionRequest<'_>, node: &str, object: &Value, what: &str) -> Check {
    let name = if request.operation == Operation::Create { machinery::meta::name(object) } else { request.name };
    if name == node {
        return Ok(());
    }
    Err(format!("can only access {what} with the same name as the requesting node"))
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::UserInfo;
    use crate::admission::testing::{Case, reader};
    use crate::user::NODES;

    #[test]
    fn a_node_touches_itself_only() {
        let user = UserInfo::new("system:node:n1", &[NODES]);
        let check = |resource, object: Value| {
            let case = Case { user: user.clone(), ..Case::create("", resource, "default", object) };
            case.mutate_by(admit, &reader()).map(|_| ()).map_err(|s| s.message)
        };
        assert_eq!(
            check("nodes", json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux"}}})),
            Ok(())
        );
        assert_eq!(
            check("nodes", json!({"metadata": {"name": "n2"}})).unwrap_err(),
            "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
        );
        assert!(
            check("nodes", json!({"metadata": {"name": "n1", "labels": {"node-restriction.kubernetes.io/x": "y"}}}))
                .unwrap_err()
                .ends_with("is not allowed to set the following labels: node-restriction.kubernetes.io/x")
        );
        assert!(check("pods", json!({"metadata": {"name": "p"}})).unwrap_err().contains("can only create mirror pods"));
        assert_eq!(check("configmaps", json!({})), Ok(()));
    }
}
