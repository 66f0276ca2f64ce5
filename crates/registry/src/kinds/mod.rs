//! One file per kind that has rules, and the look-up from resource to rules.

pub(crate) mod namespace;

use crate::strategy::Strategy;

static PLAIN: Strategy = Strategy::PLAIN;

/// The rules of a built-in resource.
pub(crate) fn strategy(group: &str, plural: &str) -> &'static Strategy {
    match (group, plural) {
        ("", "namespaces") => &namespace::STRATEGY,
        _ => &PLAIN,
    }
}

/// Where a resource's objects are stored, as upstream's storage factory has it.
pub(crate) fn etcd_prefix(group: &str, plural: &str) -> String {
    let path = match (group, plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiextensions.k8s.io", _) | ("apiregistration.k8s.io", _) => return format!("/registry/{group}/{plural}/"),
        _ => plural,
    };
    format!("/registry/{path}/")
}

/// The gate that switches a resource on whose group version is served anyway.
pub(crate) fn feature_of(group: &str, plural: &str) -> Option<&'static str> {
    Some(match (group, plural) {
        ("storage.k8s.io", "volumeattributesclasses") => "VolumeAttributesClass",
        ("certificates.k8s.io", "clustertrustbundles") => "ClusterTrustBundle",
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings") => {
            "MutatingAdmissionPolicy"
        }
        ("resource.k8s.io", "devicetaintrules") => "DRADeviceTaints",
        ("resource.k8s.io", _) => "DynamicResourceAllocation",
        ("internal.apiserver.k8s.io", _) => "StorageVersionAPI",
        ("storagemigration.k8s.io", _) => "StorageVersionMigrator",
        ("coordination.k8s.io", "leasecandidates") => "CoordinatedLeaderElection",
        _ => return None,
    })
}
