//! Do we record a request, and how much of it (the rules upstream's GCE scripts install, in order).

use crate::Attributes;

/// How much of a request an audit entry holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    /// The word in the entry's `level`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// Groups whose objects are harmless to log whole.
const KNOWN_GROUPS: &[&str] = &[
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "extensions",
    "metrics.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// The level for a request.
pub fn level(a: &Attributes<'_>) -> Level {
    let reads = matches!(a.verb, "get" | "list" | "watch");
    if !a.is_resource {
        let quiet = ["/healthz", "/version", "/swagger", "/livez", "/readyz"];
        return if quiet.iter().any(|p| a.path.starts_with(p)) { Level::None } else { Level::Metadata };
    }
    if is_noise(a) {
        return Level::None;
    }
    match (a.group, a.resource) {
        ("", "events") | ("events.k8s.io", "events") => Level::None,
        ("", "nodes" | "pods") if a.subresource == "status" && is_node_agent(a) => Level::Request,
        ("", "secrets" | "configmaps") | ("authentication.k8s.io", "tokenreviews") => Level::Metadata,
        ("", "serviceaccounts") if a.subresource == "token" => Level::Metadata,
        _ if a.verb == "deletecollection"
            && a.user.name == "system:serviceaccount:kube-system:namespace-controller" =>
        {
            Level::Request
        }
        (group, _) if KNOWN_GROUPS.contains(&group) => {
            if reads {
                Level::Request
            } else {
                Level::RequestResponse
            }
        }
        _ => Level::Metadata,
    }
}

fn is_node_agent(a: &Attributes<'_>) -> bool {
    a.user.name == "kubelet" || a.user.name == "system:node-problem-detector" || a.user.in_group(crate::user::NODES)
}

/// What components read all the time and nobody asks about.
fn is_noise(a: &Attributes<'_>) -> bool {
    let controller = matches!(
        a.user.name.as_str(),
        "system:kube-controller-manager"
            | "system:cloud-controller-manager"
            | "system:kube-scheduler"
            | "system:serviceaccount:kube-system:endpoint-controller"
    );
    match (a.verb, a.group, a.resource, a.subresource) {
        ("watch", "", "endpoints" | "services", _) => a.user.name == "system:kube-proxy",
        ("get", "", "nodes", "" | "status") => is_node_agent(a),
        ("get" | "update", "", "endpoints", _) => controller && a.namespace == "kube-system",
        ("get", "", "namespaces", _) => a.user.name == "system:apiserver",
        ("get" | "list", "metrics.k8s.io", _, _) => a.user.name == "system:kube-controller-manager",
        (_, "coordination.k8s.io", "leases", _) => is_node_agent(a) || controller,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    #[test]
    fn secrets_never_show_their_body_and_probes_leave_no_trace() {
        let user = UserInfo::new("u", &[]);
        let cases = [
            (Attributes::resource(&user, "create", "", "secrets"), Level::Metadata),
            (Attributes::resource(&user, "create", "", "pods"), Level::RequestResponse),
            (Attributes::resource(&user, "list", "", "pods"), Level::Request),
            (Attributes::resource(&user, "create", "", "events"), Level::None),
            (Attributes::resource(&user, "create", "example.com", "widgets"), Level::Metadata),
            (Attributes::path(&user, "get", "/livez"), Level::None),
            (Attributes::path(&user, "get", "/metrics"), Level::Metadata),
        ];
        for (attributes, expected) in cases {
            assert_eq!(level(&attributes), expected, "{attributes:?}");
        }
    }
}
