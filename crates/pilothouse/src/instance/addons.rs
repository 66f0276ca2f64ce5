//! What GKE's addon manager puts into a cluster for its nodes: who may bootstrap, renew, approve, and talk to kubelets.
//! Each object is made when it is missing, and left alone when it is there.

use std::sync::Arc;

use apiserver::{ApiServer, Body, Caller, Request};
use http::Method;
use machinery::{Status, Value, json, meta};
use manager::{Api, InProcess};
use policy::UserInfo;
use tracing::warn;

/// The API server's user towards kubelets.
pub(crate) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// The user that nodes share until they have a certificate of their own: `kubelet`, or where machines attest themselves
/// (shielded nodes) `kubelet-bootstrap` (`cloud-provider-gcp`).
pub(crate) const fn bootstrap_user(shielded: bool) -> &'static str {
    if shielded { "kubelet-bootstrap" } else { "kubelet" }
}

/// Rights that every cluster with nodes needs.
pub(crate) async fn install(server: &ApiServer) {
    let approver = json!({"metadata": {"name": "system:gcp-controller-manager"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"],
            "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"],
            "verbs": ["update"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"], "resourceNames":
            ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
    ]});
    ensure(server, "clusterroles", "ClusterRole", approver).await;
    let renewal = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let bindings = [
        ("system:gcp-controller-manager", "system:gcp-controller-manager", "User", "system:gcp-controller-manager"),
        ("gce:beta:kubelet-certificate-rotation", renewal, "Group", "system:nodes"),
        ("kube-apiserver-kubelet-api-admin", "system:kubelet-api-admin", "User", KUBELET_CLIENT),
    ];
    for (name, role, kind, subject) in bindings {
        bind(server, name, role, kind, subject).await;
    }
}

/// Lets a bootstrap user file a node's first request and have it approved.
pub(crate) async fn let_bootstrap(server: &ApiServer, user: &str) {
    let approved = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    bind(server, &format!("{user}-node-bootstrapper"), "system:node-bootstrapper", "User", user).await;
    bind(server, &format!("{user}-certificate-bootstrap"), approved, "User", user).await;
}

/// Reads a service account as GKE's metadata server does, which runs on nodes under an account of its own; the right to do so
/// is installed with the first question.
///
/// # Errors
/// What the API server says.
pub(super) async fn read_as_metadata_server(
    server: &ApiServer,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>, Status> {
    let (own, reader) = ("gke-metadata-server", "gce:gke-metadata-server-reader");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let user = UserInfo::authenticated(&format!("system:serviceaccount:kube-system:{own}"), &groups);
    let api = Api::InProcess(InProcess::new(server.clone(), Caller::Verified(user)));
    let read =
        || api.call(manager::api::Request::get(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")));
    match read().await {
        Err(status) if status.code == 403 => {}
        answer => return answer,
    }
    let role = json!({"metadata": {"name": reader}, "rules": [
        {"apiGroups": [""], "resources": ["pods", "serviceaccounts"], "verbs": ["get", "list", "watch"]}]});
    ensure(server, "clusterroles", "ClusterRole", role).await;
    let binding = json!({"metadata": {"name": reader},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": reader},
        "subjects": [{"kind": "ServiceAccount", "name": own, "namespace": "kube-system"}]});
    ensure(server, "clusterrolebindings", "ClusterRoleBinding", binding).await;
    read().await
}

/// Lets nodes ask for tokens of their pods for this audience, the project's workload pool.
pub(super) async fn let_nodes_ask_for(server: &ApiServer, audience: &str) {
    let name = "gce:gke-metadata-server-token-audience";
    let mut rule = json!({"apiGroups": [""], "verbs": ["request-serviceaccounts-token-audience"]});
    rule.set("resources", vec![Value::from(audience)]);
    let mut role = json!({"metadata": {"name": name}});
    role.set("rules", vec![rule]);
    ensure(server, "clusterroles", "ClusterRole", role).await;
    bind(server, name, name, "Group", policy::user::NODES).await;
}

async fn bind(server: &ApiServer, name: &str, role: &str, kind: &str, subject: &str) {
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": kind, "name": subject}]});
    ensure(server, "clusterrolebindings", "ClusterRoleBinding", binding).await;
}

async fn ensure(server: &ApiServer, plural: &str, kind: &str, mut object: Value) {
    object.set("apiVersion", "rbac.authorization.k8s.io/v1");
    object.set("kind", kind);
    object["metadata"].set("labels", json!({"addonmanager.kubernetes.io/mode": "EnsureExists"}));
    let name = meta::name(&object).to_owned();
    let user = UserInfo::authenticated("system:addon-manager", &[policy::user::MASTERS]);
    let found = format!("{RBAC}/{plural}/{name}");
    if server.handle(Request::verified(&user, Method::GET, &found, "", Body::Empty)).await.code == 200 {
        return;
    }
    let path = format!("{RBAC}/{plural}");
    let reply = server.handle(Request::verified(&user, Method::POST, &path, "", Body::Tree(object))).await;
    // Another instance may have been faster.
    if reply.code != 201 && reply.code != 409 {
        warn!(kind, name, code = reply.code, "an addon could not be installed");
    }
}
