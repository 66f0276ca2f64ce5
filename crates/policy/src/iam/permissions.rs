//! The IAM permission that a Kubernetes request needs: `container.<resource>.<verb>`.

use crate::Attributes;

/// Resources with a permission family of their own: API group, plural, name in IAM.
/// Everything else is `thirdPartyObjects`.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("", "bindings", "bindings"),
    ("", "componentstatuses", "componentStatuses"),
    ("", "configmaps", "configMaps"),
    ("", "endpoints", "endpoints"),
    ("", "events", "events"),
    ("events.k8s.io", "events", "events"),
    ("", "limitranges", "limitRanges"),
    ("", "namespaces", "namespaces"),
    ("", "nodes", "nodes"),
    ("", "persistentvolumeclaims", "persistentVolumeClaims"),
    ("", "persistentvolumes", "persistentVolumes"),
    ("", "pods", "pods"),
    ("", "podtemplates", "podTemplates"),
    ("", "replicationcontrollers", "replicationControllers"),
    ("", "resourcequotas", "resourceQuotas"),
    ("", "secrets", "secrets"),
    ("", "serviceaccounts", "serviceAccounts"),
    ("", "services", "services"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "mutatingWebhookConfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "validatingWebhookConfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "customResourceDefinitions"),
    ("apiregistration.k8s.io", "apiservices", "apiServices"),
    ("apps", "controllerrevisions", "controllerRevisions"),
    ("apps", "daemonsets", "daemonSets"),
    ("apps", "deployments", "deployments"),
    ("apps", "replicasets", "replicaSets"),
    ("apps", "statefulsets", "statefulSets"),
    ("authentication.k8s.io", "tokenreviews", "tokenReviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "localSubjectAccessReviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "selfSubjectAccessReviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "selfSubjectRulesReviews"),
    ("authorization.k8s.io", "subjectaccessreviews", "subjectAccessReviews"),
    ("autoscaling", "horizontalpodautoscalers", "horizontalPodAutoscalers"),
    ("batch", "cronjobs", "cronJobs"),
    ("batch", "jobs", "jobs"),
    ("certificates.k8s.io", "certificatesigningrequests", "certificateSigningRequests"),
    ("cloud.google.com", "backendconfigs", "backendConfigs"),
    ("networking.gke.io", "frontendconfigs", "frontendConfigs"),
    ("networking.gke.io", "managedcertificates", "managedCertificates"),
    ("coordination.k8s.io", "leases", "leases"),
    ("discovery.k8s.io", "endpointslices", "endpointSlices"),
    ("networking.k8s.io", "ingresses", "ingresses"),
    ("networking.k8s.io", "networkpolicies", "networkPolicies"),
    ("node.k8s.io", "runtimeclasses", "runtimeClasses"),
    ("policy", "poddisruptionbudgets", "podDisruptionBudgets"),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "clusterRoleBindings"),
    ("rbac.authorization.k8s.io", "clusterroles", "clusterRoles"),
    ("rbac.authorization.k8s.io", "rolebindings", "roleBindings"),
    ("rbac.authorization.k8s.io", "roles", "roles"),
    ("scheduling.k8s.io", "priorityclasses", "priorityClasses"),
    ("snapshot.storage.k8s.io", "volumesnapshotclasses", "volumeSnapshotClasses"),
    ("snapshot.storage.k8s.io", "volumesnapshotcontents", "volumeSnapshotContents"),
    ("snapshot.storage.k8s.io", "volumesnapshots", "volumeSnapshots"),
    ("storage.k8s.io", "csidrivers", "csiDrivers"),
    ("storage.k8s.io", "csinodes", "csiNodes"),
    ("storage.k8s.io", "storageclasses", "storageClasses"),
    ("storage.k8s.io", "volumeattachments", "volumeAttachments"),
];

/// The permission that allows the request; `None` for paths that are no resources, which IAM does not govern.
/// IAM knows no watch (it counts as list), no patch (update) and no deletecollection (delete).
pub fn permission_for(a: &Attributes<'_>) -> Option<String> {
    if !a.is_resource {
        return None;
    }
    // Acting as somebody is one right over the whole cluster.
    if a.verb == "impersonate" {
        return Some("container.clusters.impersonate".to_owned());
    }
    let family = FAMILIES
        .iter()
        .find(|(group, plural, _)| *group == a.group && *plural == a.resource)
        .map_or("thirdPartyObjects", |(_, _, family)| family);
    let verb = match a.verb {
        "watch" => "list",
        "patch" => "update",
        "deletecollection" => "delete",
        verb => verb,
    };
    Some(format!("container.{family}.{}", action(verb, a.subresource)))
}

fn action(verb: &str, subresource: &str) -> String {
    match (subresource, verb) {
        ("", verb) => verb.to_owned(),
        ("log", _) => "getLogs".to_owned(),
        ("portforward", _) => "portForward".to_owned(),
        ("eviction", _) => "evict".to_owned(),
        ("binding", _) => "create".to_owned(),
        ("token", _) => "createToken".to_owned(),
        ("approval", _) => "approve".to_owned(),
        ("finalize", _) => "finalize".to_owned(),
        (verbs @ ("exec" | "attach" | "proxy" | "initialize" | "rollback"), _) => verbs.to_owned(),
        (other, verb) => {
            let verb = if verb == "get" { "get" } else { "update" };
            let mut capital = other.to_owned();
            capital[..1].make_ascii_uppercase();
            format!("{verb}{capital}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    #[test]
    fn requests_map_to_the_permissions_of_the_iam_reference() {
        let user = UserInfo::default();
        let cases = [
            ("list", "", "pods", "", "container.pods.list"),
            ("watch", "apps", "replicasets", "", "container.replicaSets.list"),
            ("get", "", "pods", "log", "container.pods.getLogs"),
            ("create", "", "pods", "exec", "container.pods.exec"),
            ("patch", "apps", "deployments", "scale", "container.deployments.updateScale"),
            ("get", "apps", "deployments", "status", "container.deployments.getStatus"),
            ("create", "", "serviceaccounts", "token", "container.serviceAccounts.createToken"),
            ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "container.clusterRoles.bind"),
            ("impersonate", "", "users", "", "container.clusters.impersonate"),
            ("deletecollection", "example.com", "widgets", "", "container.thirdPartyObjects.delete"),
        ];
        for (verb, group, resource, subresource, permission) in cases {
            let a = Attributes { subresource, ..Attributes::resource(&user, verb, group, resource) };
            assert_eq!(permission_for(&a).as_deref(), Some(permission));
        }
        assert_eq!(permission_for(&Attributes::path(&user, "get", "/version")), None);
    }
}
