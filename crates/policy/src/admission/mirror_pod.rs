//! NodeRestriction on the pods that a kubelet may create: copies of its static pods, that refer to nothing else in the API
//! (`plugin/pkg/admission/noderestriction` `admitPodCreate`).

use machinery::{GroupResource, Status, Value, meta};

use super::Reader;
use super::node_restriction::Refusal;
use crate::node::MIRROR_ANNOTATION;
use crate::pod_references;

/// Refuses a pod that is no mirror pod of the node, or that would give the node access to further objects.
///
/// # Errors
/// The reason for a 403; 404 when the node is not there.
pub(super) fn check(node: &str, pod: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    if pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null() {
        let why =
            format!("pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods");
        return Err(why.into());
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself").into());
    }
    owner(node, pod, reader)?;
    match referents(pod) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}").into()),
        None => Ok(()),
    }
}

/// The one owner is the node itself.
fn owner(node: &str, pod: &Value, reader: &dyn Reader) -> Result<(), Refusal> {
    let owner = match pod["metadata"]["ownerReferences"].items() {
        [owner] => owner,
        [] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself").into()),
        _ => {
            let why = format!("node {node:?} can only create pods with a single owner reference set to itself");
            return Err(why.into());
        }
    };
    let named = ["apiVersion", "kind", "name"].map(|member| owner.str_at(&[member]));
    if named != ["v1", "Node", node] {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself").into());
    }
    if owner["controller"].as_bool() != Some(true) {
        return Err(
            format!("node {node:?} can only create pods with a controller owner reference set to itself").into()
        );
    }
    if owner["blockOwnerDeletion"].as_bool() == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference").into());
    }
    let Some(stored) = reader.get(&GroupResource::new("", "nodes"), "", node) else {
        // Upstream's lister names one thing, not the resource.
        return Err(Refusal::Answer(Status::not_found(&GroupResource::new("", "node"), node)));
    };
    let (given, uid) = (owner.str_at(&["uid"]), meta::uid(&stored));
    // "expected" and "got" stand as upstream has them: what the pod says comes first.
    if given != uid {
        return Err(format!("node {node} UID mismatch: expected {given} got {uid}").into());
    }
    Ok(())
}

/// The first kind of API object the pod refers to, in upstream's words and order.
fn referents(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    // The older name of the field is an alias (`Convert_v1_PodSpec_To_core_PodSpec`).
    if ["serviceAccountName", "serviceAccount"].iter().any(|member| !spec.str_at(&[member]).is_empty()) {
        return Some("a service account");
    }
    if pod_references::secrets(pod).next().is_some() {
        return Some("secrets");
    }
    if pod_references::config_maps(pod).next().is_some() {
        return Some("configmaps");
    }
    let mut sources = pod_references::volumes(pod).flat_map(pod_references::projected);
    if sources.any(|source| !source["clusterTrustBundle"].is_null()) {
        return Some("clustertrustbundles");
    }
    if pod_references::volumes(pod).any(|volume| !volume["persistentVolumeClaim"].is_null()) {
        return Some("persistentvolumeclaims");
    }
    (!spec["resourceClaims"].items().is_empty()).then_some("resourceclaims")
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::UserInfo;
    use crate::admission::testing::{Case, reader};
    use crate::user::NODES;

    /// A mirror pod of node n1, with something changed.
    fn mirror(path: &[&str], value: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}});
        if !path.is_empty() {
            *pod.at_mut(path) = value;
        }
        pod
    }

    /// The answer: the reason of a 403, or the whole message of another code.
    fn refused(pod: Value, node_uid: Option<&str>) -> String {
        let mut reader = reader();
        if let Some(uid) = node_uid {
            let mut node = json!({"metadata": {"name": "n1"}});
            node["metadata"].set("uid", uid);
            reader.put("", "nodes", node);
        }
        let user = UserInfo::new("system:node:n1", &[NODES]);
        let case = Case { user, ..Case::create("", "pods", "default", pod) };
        match case.mutate_by(super::super::node_restriction::admit, &reader) {
            Ok(_) => String::new(),
            Err(status) if status.code == 403 => {
                let text = status.message.strip_prefix("pods \"p\" is forbidden: ").unwrap();
                text.strip_prefix("node \"n1\" ").unwrap_or(text).to_owned()
            }
            Err(status) => format!("{} {}", status.code, status.message),
        }
    }

    #[test]
    fn a_mirror_pod_belongs_to_its_node() {
        let owner = |member: &str, value: Value| {
            let mut owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true});
            owner.set(member, value);
            mirror(&["metadata", "ownerReferences"], Value::Array(vec![owner]))
        };
        let itself = "can only create pods with an owner reference set to itself";
        let cases = [
            (mirror(&[], Value::Null), ""),
            (
                mirror(&["metadata", "annotations"], Value::Null),
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
            ),
            (mirror(&["spec", "nodeName"], "n2".into()), "can only create pods with spec.nodeName set to itself"),
            (mirror(&["metadata", "ownerReferences"], Value::Null), itself),
            (
                mirror(&["metadata", "ownerReferences"], json!([{}, {}])),
                "can only create pods with a single owner reference set to itself",
            ),
            (owner("apiVersion", "v2".into()), itself),
            (owner("kind", "Pod".into()), itself),
            (owner("name", "n2".into()), itself),
            (owner("controller", false.into()), "can only create pods with a controller owner reference set to itself"),
            (owner("controller", Value::Null), "can only create pods with a controller owner reference set to itself"),
            (owner("blockOwnerDeletion", true.into()), "must not set blockOwnerDeletion on an owner reference"),
            (owner("blockOwnerDeletion", false.into()), ""),
            (owner("uid", "u2".into()), "node n1 UID mismatch: expected u2 got u1"),
        ];
        for (pod, expect) in cases {
            assert_eq!(refused(pod.clone(), Some("u1")), expect, "{pod}");
        }
        assert_eq!(refused(mirror(&[], Value::Null), None), "404 node \"n1\" not found");
    }

    #[test]
    fn a_mirror_pod_refers_to_nothing_else() {
        let volume = |source: Value| mirror(&["spec", "volumes"], Value::Array(vec![source]));
        let container = |list: &str, container: Value| mirror(&["spec", list], Value::Array(vec![container]));
        let cases = [
            (mirror(&["spec", "serviceAccount"], "sa".into()), "a service account"),
            (volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})), "secrets"),
            (container("containers", json!({"envFrom": [{"configMapRef": {"name": "m"}}]})), "configmaps"),
            (
                container("initContainers", json!({"env": [{"valueFrom": {"configMapKeyRef": {"name": "m"}}}]})),
                "configmaps",
            ),
            (volume(json!({"configMap": {"name": "m"}})), "configmaps"),
            (volume(json!({"projected": {"sources": [{"configMap": {"name": "m"}}]}})), "configmaps"),
            (volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}})), "clustertrustbundles"),
            (volume(json!({"persistentVolumeClaim": {"claimName": "c"}})), "persistentvolumeclaims"),
            (mirror(&["spec", "resourceClaims"], json!([{"name": "r"}])), "resourceclaims"),
        ];
        for (pod, expect) in cases {
            let expect = format!("can not create pods that reference {expect}");
            assert_eq!(refused(pod.clone(), Some("u1")), expect, "{pod}");
        }
        assert_eq!(refused(volume(json!({"emptyDir": {}})), Some("u1")), "");
    }
}
