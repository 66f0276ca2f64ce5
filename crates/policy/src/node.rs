//! The Node authorizer: a kubelet reads what its own pods refer to, and writes what is its own.
//!
//! ```text
//! secret, configmap, claim, service account ──► pod ──► node          persistent volume ──► claim
//! ```
//! The graph is fed with pods, persistent volumes and volume attachments as they change; a clone is O(1).

mod rules;

use imbl::{OrdMap, OrdSet};
use machinery::{CompactString, ObjectKey, Value};

use crate::{Attributes, Decision, pod_references};

/// Static pods' copies in the API carry this annotation; they never give a node access to anything.
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What a pod can refer to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Referent {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
    Pod,
    Volume,
    Attachment,
    Slice,
}

type Vertex = (Referent, ObjectKey);

/// What is tied to which node. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Object to the nodes it is tied to, each with the number of ties.
    nodes_of: OrdMap<Vertex, OrdMap<CompactString, u32>>,
    /// What a source (pod, volume, …) tied, so that it can be untied.
    ties: OrdMap<Vertex, (CompactString, OrdSet<Vertex>)>,
    /// Claim to the volume bound to it.
    volume_of_claim: OrdMap<ObjectKey, CompactString>,
    claim_of_volume: OrdMap<CompactString, (ObjectKey, Option<ObjectKey>)>,
}

impl Graph {
    /// Nothing is tied to any node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over one object of `resource` ("pods", "persistentvolumes", "volumeattachments", "resourceslices"; others
    /// are ignored) as it is now, or `None` when it is gone.
    pub fn apply(&mut self, resource: &str, key: &ObjectKey, object: Option<&Value>) {
        match resource {
            "pods" => {
                let vertex = (Referent::Pod, key.clone());
                let node = object.map_or("", |pod| pod.str_at(&["spec", "nodeName"]));
                self.retie(vertex, node, object.map(|pod| pod_referents(key, pod)).unwrap_or_default());
            }
            "persistentvolumes" => self.apply_volume(&key.name, object),
            "volumeattachments" => {
                let node = object.map_or("", |o| o.str_at(&["spec", "nodeName"]));
                self.retie((Referent::Attachment, key.clone()), node, Vec::new());
            }
            "resourceslices" => {
                let node = object.map_or("", |o| o.str_at(&["spec", "nodeName"]));
                self.retie((Referent::Slice, key.clone()), node, Vec::new());
            }
            _ => {}
        }
    }

    fn apply_volume(&mut self, name: &CompactString, volume: Option<&Value>) {
        if let Some((claim, _)) = self.claim_of_volume.remove(name) {
            self.volume_of_claim.remove(&claim);
        }
        let Some(volume) = volume else { return };
        let claim = &volume["spec"]["claimRef"];
        if claim.is_null() {
            return;
        }
        let claim = ObjectKey::new(claim.str_at(&["namespace"]), claim.str_at(&["name"]));
        let secret = ["controllerExpandSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"]
            .iter()
            .map(|field| &volume["spec"]["csi"][*field])
            .find(|secret| !secret.is_null())
            .map(|secret| ObjectKey::new(secret.str_at(&["namespace"]), secret.str_at(&["name"])));
        self.volume_of_claim.insert(claim.clone(), name.clone());
        self.claim_of_volume.insert(name.clone(), (claim, secret));
    }

    fn retie(&mut self, source: Vertex, node: &str, referents: Vec<Vertex>) {
        if let Some((node, tied)) = self.ties.remove(&source) {
            for vertex in tied {
                let Some(counts) = self.nodes_of.get_mut(&vertex) else { continue };
                match counts.get(&node).copied() {
                    Some(count) if count > 1 => {
                        counts.insert(node.clone(), count - 1);
                    }
                    _ => {
                        counts.remove(&node);
                    }
                }
                if counts.is_empty() {
                    self.nodes_of.remove(&vertex);
                }
            }
        }
        if node.is_empty() {
            return;
        }
        let node = CompactString::from(node);
        let tied: OrdSet<Vertex> = referents.into_iter().chain([source.clone()]).collect();
        for vertex in &tied {
            *self.nodes_of.entry(vertex.clone()).or_default().entry(node.clone()).or_insert(0) += 1;
        }
        self.ties.insert(source, (node, tied));
    }

    fn tied(&self, node: &str, kind: Referent, namespace: &str, name: &str) -> bool {
        let key = ObjectKey::new(namespace, name);
        if kind == Referent::Volume {
            return self
                .claim_of_volume
                .get(&key.name)
                .is_some_and(|(claim, _)| self.tied(node, Referent::Claim, &claim.namespace, &claim.name));
        }
        if self.nodes_of.get(&(kind, key.clone())).is_some_and(|nodes| nodes.contains_key(node)) {
            return true;
        }
        kind == Referent::Secret
            && self.claim_of_volume.values().any(|(claim, secret)| {
                secret.as_ref() == Some(&key) && self.tied(node, Referent::Claim, &claim.namespace, &claim.name)
            })
    }

    /// `None` when the caller is no node; otherwise what the Node authorizer says.
    pub fn authorize(&self, a: &Attributes<'_>) -> Option<Decision> {
        let node = a.user.node_name()?;
        if node.is_empty() {
            return Some(Decision::deny(format!("unknown node for user {:?}", a.user.name)));
        }
        Some(match rules::check(self, node, a) {
            Ok(()) => Decision::allow(""),
            Err(reason) => Decision::deny(reason),
        })
    }
}

fn pod_referents(key: &ObjectKey, pod: &Value) -> Vec<Vertex> {
    if !pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null() {
        return Vec::new();
    }
    let spec = &pod["spec"];
    let mut found = Vec::new();
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.push((kind, ObjectKey::new(&key.namespace, name)));
        }
    };
    add(Referent::ServiceAccount, spec.str_at(&["serviceAccountName"]));
    pod_references::secrets(pod).for_each(|name| add(Referent::Secret, name));
    pod_references::config_maps(pod).for_each(|name| add(Referent::ConfigMap, name));
    for volume in pod_references::volumes(pod) {
        add(Referent::Claim, volume.str_at(&["persistentVolumeClaim", "claimName"]));
        if !volume["ephemeral"].is_null() {
            add(Referent::Claim, &format!("{}-{}", key.name, volume.str_at(&["name"])));
        }
    }
    for claim in pod["status"]["resourceClaimStatuses"].items() {
        add(Referent::ResourceClaim, claim.str_at(&["resourceClaimName"]));
    }
    for claim in spec["resourceClaims"].items() {
        add(Referent::ResourceClaim, claim.str_at(&["resourceClaimName"]));
    }
    found
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::UserInfo;
    use crate::user::NODES;

    #[test]
    fn a_kubelet_reads_what_its_own_pods_use_and_nothing_else() {
        let mut graph = Graph::new();
        let pod = json!({"spec": {"nodeName": "n1", "serviceAccountName": "sa", "volumes": [
            {"name": "s", "secret": {"secretName": "s1"}}, {"name": "c", "persistentVolumeClaim": {"claimName": "pvc"}}]}});
        graph.apply("pods", &ObjectKey::new("d", "p"), Some(&pod));
        let volume = json!({"spec": {"claimRef": {"namespace": "d", "name": "pvc"}}});
        graph.apply("persistentvolumes", &ObjectKey::new("", "pv"), Some(&volume));
        let n1 = UserInfo::authenticated("system:node:n1", &[NODES]);
        let n2 = UserInfo::authenticated("system:node:n2", &[NODES]);
        let get = |user, resource, namespace, name| {
            Attributes::resource(user, "get", "", resource).in_namespace(namespace).named(name)
        };
        let lost = "no relationship found between node 'n2' and this object";
        let lease = |name| Attributes::resource(&n1, "update", "coordination.k8s.io", "leases").named(name);
        let cases = [
            (get(&n1, "secrets", "d", "s1"), true, ""),
            (get(&n2, "secrets", "d", "s1"), false, lost),
            (get(&n1, "persistentvolumes", "", "pv"), true, ""),
            (get(&n2, "persistentvolumes", "", "pv"), false, lost),
            (get(&n1, "nodes", "", "n1"), true, ""),
            (get(&n1, "nodes", "", "n2"), false, "node 'n1' cannot read 'n2', only its own Node object"),
            (lease("n1").in_namespace("kube-node-lease"), true, ""),
            (
                lease("n2").in_namespace("kube-node-lease"),
                false,
                "can only access node lease with the same name as the requesting node",
            ),
            (Attributes { verb: "list", ..get(&n1, "services", "", "") }, true, ""),
            (Attributes { verb: "delete", ..get(&n1, "services", "d", "x") }, false, ""),
            (
                Attributes { verb: "list", ..get(&n1, "pods", "", "") },
                false,
                "can only list/watch pods with spec.nodeName field selector",
            ),
            (
                Attributes { verb: "list", field_selector: &[("spec.nodeName", "n1")], ..get(&n1, "pods", "", "") },
                true,
                "",
            ),
        ];
        for (attributes, allowed, reason) in cases {
            let expected = Decision { allowed, reason: reason.to_owned() };
            assert_eq!(graph.authorize(&attributes), Some(expected), "{attributes:?}");
        }
        graph.apply("pods", &ObjectKey::new("d", "p"), None);
        assert!(!graph.authorize(&get(&n1, "secrets", "d", "s1")).unwrap().allowed);
        assert_eq!(graph.authorize(&get(&UserInfo::new("u", &[]), "secrets", "d", "s1")), None);
    }
}
