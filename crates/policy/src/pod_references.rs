//! The Secrets and ConfigMaps that a pod names, wherever it can name one (`pkg/api/pod` `VisitPodSecretNames`,
//! `VisitPodConfigmapNames`).
//!
//! References of references (pod → claim → volume → secret) are not followed; empty names are none.

use machinery::Value;

/// Volume sources of pods with a reference to a Secret, and the way to its name.
const SECRET_OF_VOLUME: [&[&str]; 10] = [
    &["azureFile", "secretName"],
    &["cephfs", "secretRef", "name"],
    &["cinder", "secretRef", "name"],
    &["csi", "nodePublishSecretRef", "name"],
    &["flexVolume", "secretRef", "name"],
    &["iscsi", "secretRef", "name"],
    &["rbd", "secretRef", "name"],
    &["scaleIO", "secretRef", "name"],
    &["secret", "secretName"],
    &["storageos", "secretRef", "name"],
];

/// The names of the Secrets, in no order that means anything, some perhaps twice.
pub(crate) fn secrets(pod: &Value) -> impl Iterator<Item = &str> {
    let pulls = pod["spec"]["imagePullSecrets"].items().iter().map(|secret| secret.str_at(&["name"]));
    let of_containers = containers(pod).flat_map(|container| of_container(container, "secretRef", "secretKeyRef"));
    let of_volumes = volumes(pod).flat_map(|volume| {
        let parts = projected(volume).map(|source| source.str_at(&["secret", "name"]));
        SECRET_OF_VOLUME.iter().map(move |path| volume.str_at(path)).chain(parts)
    });
    pulls.chain(of_containers).chain(of_volumes).filter(|name| !name.is_empty())
}

/// The names of the ConfigMaps, likewise.
pub(crate) fn config_maps(pod: &Value) -> impl Iterator<Item = &str> {
    let of_containers =
        containers(pod).flat_map(|container| of_container(container, "configMapRef", "configMapKeyRef"));
    let of_volumes = volumes(pod).flat_map(|volume| {
        let whole = volume.str_at(&["configMap", "name"]);
        projected(volume).map(|source| source.str_at(&["configMap", "name"])).chain([whole])
    });
    of_containers.chain(of_volumes).filter(|name| !name.is_empty())
}

/// The pod's volumes.
pub(crate) fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["volumes"].items().iter()
}

/// What is projected into a volume.
pub(crate) fn projected(volume: &Value) -> impl Iterator<Item = &Value> {
    volume["projected"]["sources"].items().iter()
}

/// Containers of all three kinds.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| pod["spec"][list].items())
}

/// The names in a container's environment: whole objects under `whole`, single keys under `key`.
fn of_container<'a>(container: &'a Value, whole: &'static str, key: &'static str) -> impl Iterator<Item = &'a str> {
    let from = container["envFrom"].items().iter().map(move |source| source.str_at(&[whole, "name"]));
    from.chain(container["env"].items().iter().map(move |env| env.str_at(&["valueFrom", key, "name"])))
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        names.join(" ")
    }

    #[test]
    fn every_place_that_names_a_secret_or_a_configmap_is_seen() {
        let container = |prefix: &str| {
            let name = |what: &str| format!("{prefix}-{what}");
            json!({"envFrom": [{"secretRef": {"name": name("s")}}, {"configMapRef": {"name": name("m")}}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": name("sk"), "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": name("mk"), "key": "k"}}}]})
        };
        let mut pod = json!({"spec": {"imagePullSecrets": [{"name": "pull"}, {"name": ""}], "volumes": [
            {"azureFile": {"secretName": "azure"}}, {"cephfs": {"secretRef": {"name": "ceph"}}},
            {"cinder": {"secretRef": {"name": "cinder"}}}, {"csi": {"nodePublishSecretRef": {"name": "csi"}}},
            {"flexVolume": {"secretRef": {"name": "flex"}}}, {"iscsi": {"secretRef": {"name": "iscsi"}}},
            {"rbd": {"secretRef": {"name": "rbd"}}}, {"scaleIO": {"secretRef": {"name": "scale"}}},
            {"storageos": {"secretRef": {"name": "storage"}}}, {"secret": {"secretName": "whole"}},
            {"configMap": {"name": "map"}}, {"emptyDir": {}},
            {"projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "map-part"}}]}}]}});
        for (list, prefix) in [("initContainers", "i"), ("containers", "c"), ("ephemeralContainers", "e")] {
            pod["spec"].set(list, vec![container(prefix)]);
        }
        assert_eq!(
            sorted(secrets(&pod)),
            "azure c-s c-sk ceph cinder csi e-s e-sk flex i-s i-sk iscsi part pull rbd scale storage whole"
        );
        assert_eq!(sorted(config_maps(&pod)), "c-m c-mk e-m e-mk i-m i-mk map map-part");
        assert_eq!(sorted(secrets(&json!({}))), "");
    }
}
