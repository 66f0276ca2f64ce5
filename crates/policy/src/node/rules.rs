//! Which requests of a node pass, resource by resource (upstream `plugin/pkg/auth/authorizer/node`).

use std::sync::LazyLock;

use super::{Graph, Referent};
use crate::Attributes;
use crate::rbac::Rule;

const NODE_LEASES: &str = "kube-node-lease";
const OWN_VERBS: [&str; 5] = ["get", "create", "update", "patch", "delete"];

type Check = Result<(), String>;

/// What any node may do, whichever it is (bootstrap policy `NodeRules`, as of 1.33 with default gates).
static STATIC_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let read = ["get", "list", "watch"];
    vec![
        Rule::resources(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        Rule::resources(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews", "localsubjectaccessreviews"]),
        Rule::resources(&read, &[""], &["services"]),
        Rule::resources(&["create", "update", "patch"], &[""], &["events"]),
        Rule::resources(&["get"], &[""], &["endpoints"]),
        Rule::resources(&["create", "get", "list", "watch"], &["certificates.k8s.io"], &["certificatesigningrequests"]),
        Rule::resources(&read, &["storage.k8s.io"], &["csidrivers"]),
        Rule::resources(&read, &["node.k8s.io"], &["runtimeclasses"]),
    ]
});

pub(super) fn check(graph: &Graph, node: &str, a: &Attributes<'_>) -> Check {
    if a.is_resource {
        match (a.group, a.resource) {
            ("", "secrets") => return read_namespaced(graph, node, Referent::Secret, a),
            ("", "configmaps") => return read_namespaced(graph, node, Referent::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => return claim_status(graph, node, a),
            ("", "persistentvolumeclaims") => return get(graph, node, Referent::Claim, a),
            ("", "persistentvolumes") => return get(graph, node, Referent::Volume, a),
            ("resource.k8s.io", "resourceclaims") => return get(graph, node, Referent::ResourceClaim, a),
            ("storage.k8s.io", "volumeattachments") => return get(graph, node, Referent::Attachment, a),
            ("", "serviceaccounts") => return service_account(graph, node, a),
            ("coordination.k8s.io", "leases") => return lease(node, a),
            ("storage.k8s.io", "csinodes") => return csi_node(node, a),
            ("resource.k8s.io", "resourceslices") => return slice(graph, node, a),
            ("", "nodes") => return own_node(node, a),
            ("", "pods") => return pod(graph, node, a),
            _ => {}
        }
    }
    if STATIC_RULES.iter().any(|rule| rule.allows(a)) { Ok(()) } else { Err(String::new()) }
}

fn refuse(text: &str) -> Check {
    Err(text.to_owned())
}

fn tied(graph: &Graph, node: &str, kind: Referent, a: &Attributes<'_>) -> Check {
    if a.name.is_empty() {
        return refuse("No Object name found");
    }
    if graph.tied(node, kind, a.namespace, a.name) {
        return Ok(());
    }
    Err(format!("no relationship found between node '{node}' and this object"))
}

fn read_namespaced(graph: &Graph, node: &str, kind: Referent, a: &Attributes<'_>) -> Check {
    if !matches!(a.verb, "get" | "list" | "watch") {
        return refuse("can only read resources of this type");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return refuse("can only read namespaced object of this type");
    }
    tied(graph, node, kind, a)
}

fn get(graph: &Graph, node: &str, kind: Referent, a: &Attributes<'_>) -> Check {
    if a.verb != "get" {
        return refuse("can only get individual resources of this type");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot get subresource");
    }
    tied(graph, node, kind, a)
}

fn claim_status(graph: &Graph, node: &str, a: &Attributes<'_>) -> Check {
    if !matches!(a.verb, "update" | "patch") {
        return refuse("can only get/update/patch this type");
    }
    tied(graph, node, Referent::Claim, a)
}

fn service_account(graph: &Graph, node: &str, a: &Attributes<'_>) -> Check {
    if a.verb == "get" && a.subresource.is_empty() {
        return refuse("not allowed to get service accounts");
    }
    if a.verb != "create" || a.name.is_empty() {
        return refuse("can only create tokens for individual service accounts");
    }
    if a.subresource != "token" {
        return refuse("can only create token subresource of serviceaccount");
    }
    tied(graph, node, Referent::ServiceAccount, a)
}

fn lease(node: &str, a: &Attributes<'_>) -> Check {
    if !OWN_VERBS.contains(&a.verb) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != NODE_LEASES {
        return Err(format!("can only access leases in the {NODE_LEASES:?} system namespace"));
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Check {
    if !OWN_VERBS.contains(&a.verb) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn slice(graph: &Graph, node: &str, a: &Attributes<'_>) -> Check {
    if !a.subresource.is_empty() {
        return refuse("cannot authorize ResourceSlice subresources");
    }
    match a.verb {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => tied(graph, node, Referent::Slice, a),
        "watch" | "list" | "deletecollection" if a.field_selector.contains(&("spec.nodeName", node)) => Ok(()),
        "watch" | "list" | "deletecollection" => {
            refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => refuse(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, \
             deletecollection",
        ),
    }
}

fn own_node(node: &str, a: &Attributes<'_>) -> Check {
    match (a.subresource, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => refuse(""),
    }
}

fn pod(graph: &Graph, node: &str, a: &Attributes<'_>) -> Check {
    match (a.subresource, a.verb) {
        ("", "get") => get(graph, node, Referent::Pod, a),
        ("", "list" | "watch") if a.field_selector.contains(&("spec.nodeName", node)) => Ok(()),
        ("", "list" | "watch") if !a.name.is_empty() => tied(graph, node, Referent::Pod, a),
        ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => refuse(""),
    }
}
