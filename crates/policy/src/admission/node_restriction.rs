//! NodeRestriction: what a kubelet may write, object by object.

use std::sync::Arc;

use machinery::{GroupResource, Status, Value};
use registry::certificate_request::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, NODE_USER_PREFIX};

use super::{AdmissionRequest, Operation, Reader};

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
    check(request, node, object, reader).map_err(|refusal| match refusal {
        Refusal::Forbidden(why) => refuse(why),
        Refusal::Answer(status) => status,
    })
}

/// Why a kubelet is refused.
pub(super) enum Refusal {
    /// The reason for a 403 about the object.
    Forbidden(String),
    /// The answer of a look-up, which the client gets as it is.
    Answer(Status),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Forbidden(why)
    }
}

fn check(request: &AdmissionRequest<'_>, node: &str, object: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    match (request.resource.group.as_str(), request.resource.resource.as_str(), request.subresource) {
        ("", "pods", "") => return own_pod(request, node, object, reader),
        ("", "pods", "eviction") => return eviction(request, node, object, reader),
        ("", "serviceaccounts", "token") => return token(request, node, object, reader),
        ("", "pods", "status") => pod_status(request, node, object),
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(request, node, object),
        ("", "persistentvolumeclaims", "status") => Ok(()),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("coordination.k8s.io", "leases", _) => lease(request, node, object),
        ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(request, node, object),
        ("storage.k8s.io", "csinodes", _) => named_like_node(request, node, object, "CSINode"),
        _ => Ok(()),
    }
    .map_err(Refusal::from)
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

/// A pod of the request's namespace; one that is not there is named as upstream's lister names it: one thing, not the
/// resource.
fn stored_pod(request: &AdmissionRequest<'_>, name: &str, reader: &dyn Reader) -> Result<Arc<Value>, Refusal> {
    let missing = || Refusal::Answer(Status::not_found(&GroupResource::new("", "pod"), name));
    reader.get(&GroupResource::new("", "pods"), request.namespace, name).ok_or_else(missing)
}

fn own_pod(request: &AdmissionRequest<'_>, node: &str, pod: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    match request.operation {
        Operation::Create => super::mirror_pod::check(node, pod, reader),
        Operation::Delete => {
            let stored = stored_pod(request, request.name, reader)?;
            if stored.str_at(&["spec", "nodeName"]) == node {
                return Ok(());
            }
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself").into())
        }
        other @ (Operation::Update | Operation::Connect) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            other.as_str()
        )
        .into()),
    }
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

fn eviction(request: &AdmissionRequest<'_>, node: &str, eviction: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    let named = machinery::meta::name(eviction);
    if request.name.is_empty() || !named.is_empty() && named != request.name {
        return Err("could not determine pod from request data".to_owned().into());
    }
    if stored_pod(request, request.name, reader)?.str_at(&["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(format!("node {node} can only evict pods with spec.nodeName set to itself").into())
}

fn own_node(request: &AdmissionRequest<'_>, node: &str, object: &Value) -> Check {
    let requested = if request.name.is_empty() { machinery::meta::name(object) } else { request.name };
    if requested != node {
        return Err(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    match request.operation {
        Operation::Create => {
            // What a node's spec names, the node may read: it would give itself access. The text is upstream's.
            if !object["spec"]["configSource"].is_null() {
                return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            let forbidden = forbidden_labels(&Value::Null, &object["metadata"]["labels"]);
            if forbidden.is_empty() {
                return Ok(());
            }
            Err(format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")))
        }
        Operation::Update => {
            let old = request.old();
            let source = &object["spec"]["configSource"];
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
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

fn token(request: &AdmissionRequest<'_>, node: &str, review: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let bound = &review["spec"]["boundObjectRef"];
    let version = bound.str_at(&["apiVersion"]);
    if bound.str_at(&["kind"]) != "Pod" || version != "v1" || bound.str_at(&["name"]).is_empty() {
        return Err("node requested token not bound to a pod".to_owned().into());
    }
    let uid = bound.str_at(&["uid"]);
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned().into());
    }
    let pod = stored_pod(request, bound.str_at(&["name"]), reader)?;
    if machinery::meta::uid(&pod) != uid {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        )
        .into());
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned().into());
    }
    Ok(super::node_audience::check(request, review, &pod, reader)?)
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
        let check = |resource: &'static str, object: Value| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let name = if subresource.is_empty() { "" } else { "p" };
            let case = Case { user: user.clone(), subresource, name, ..Case::create("", resource, "default", object) };
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
        let lost = check("pods/eviction", json!({"metadata": {"name": "p"}})).unwrap_err();
        assert_eq!(lost, "pod \"p\" not found", "the look-up's own answer");
    }

    #[test]
    fn a_node_does_not_say_where_its_configuration_is() {
        let user = UserInfo::new("system:node:n1", &[NODES]);
        let node = |map: &str| {
            let mut node = json!({"metadata": {"name": "n1"}, "spec": {}});
            if !map.is_empty() {
                *node.at_mut(&["spec", "configSource", "configMap", "name"]) = map.into();
            }
            node
        };
        let check = |old: Option<Value>, new: Value, subresource| {
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let user = user.clone();
            let case = Case { operation, old, subresource, user, name: "n1", ..Case::create("", "nodes", "", new) };
            case.mutate_by(admit, &reader()).map(|_| ()).map_err(|status| status.message)
        };
        let refused = |why: &str| Err(format!("nodes \"n1\" is forbidden: node \"n1\" is not allowed to {why}"));
        let created = refused("create pods with a non-nil configSource");
        let updated = refused("update configSource to a new non-nil configSource");
        assert_eq!(check(None, node("a"), ""), created);
        assert_eq!(check(Some(node("")), node("a"), ""), updated);
        assert_eq!(check(Some(node("a")), node("b"), "status"), updated);
        assert_eq!(check(Some(node("a")), node("a"), ""), Ok(()));
        assert_eq!(check(Some(node("a")), node(""), "status"), Ok(()));
    }
}
