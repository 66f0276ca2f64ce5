//! CertificateSigningRequests of kubelets: approved when a bootstrapping or a running node asks for itself, and signed by
//! the cluster CA once approved. The key of that CA is elsewhere: signing is asked of a port.

use machinery::{Value, meta};

use crate::resource::CERTIFICATE_SIGNING_REQUESTS as REQUESTS;
use crate::{Action, Context, Controller, Key, Watch, conditions};

pub(crate) static APPROVING: Controller =
    Controller { name: "certificate-controller", watches: &[Watch::own(&REQUESTS)], reconcile: approve, settle_ms: 0 };

pub(crate) static SIGNING: Controller =
    Controller { name: "certificate-controller", watches: &[Watch::own(&REQUESTS)], reconcile: sign, settle_ms: 0 };

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

fn usages(request: &Value, wanted: &str) -> bool {
    let allowed = ["key encipherment", "digital signature", wanted];
    let listed = request["spec"]["usages"].items();
    listed.iter().any(|u| u.as_str() == Some(wanted))
        && listed.iter().all(|u| u.as_str().is_some_and(|u| allowed.contains(&u)))
}

/// The kubelet asks with its bootstrap identity or its own; the server's strategy recorded which.
fn approve(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(request) = cx.world.lookup(key) else { return Vec::new() };
    if ["Approved", "Denied"].iter().any(|c| conditions::of(request, c).is_some()) {
        return Vec::new();
    }
    let spec = &request["spec"];
    let in_group = |group: &str| spec["groups"].items().iter().any(|g| g.as_str() == Some(group));
    let node = spec.str_at(&["username"]).starts_with("system:node:") && in_group("system:nodes");
    let granted = match spec.str_at(&["signerName"]) {
        KUBELET_CLIENT => (node || in_group("system:bootstrappers")) && usages(request, "client auth"),
        KUBELET_SERVING => node && usages(request, "server auth"),
        _ => false,
    };
    if !granted {
        return Vec::new();
    }
    let mut object = Value::clone(request);
    let mut condition =
        conditions::new("Approved", "True", "AutoApproved", "Auto approving a kubelet certificate for a node.", cx.now);
    condition.set("lastUpdateTime", cx.now.rfc3339());
    conditions::set(object.at_mut(&["status", "conditions"]), condition);
    vec![Action::Update { resource: REQUESTS.clone(), subresource: "approval", object }]
}

fn sign(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(request) = cx.world.lookup(key) else { return Vec::new() };
    let approved = conditions::is_true(request, "Approved") && !conditions::is_true(request, "Denied");
    let open = request.str_at(&["status", "certificate"]).is_empty() && !conditions::is_true(request, "Failed");
    let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&request.str_at(&["spec", "signerName"]));
    if approved && open && ours && !meta::is_terminating(request) {
        return vec![Action::Sign { request: Value::clone(request) }];
    }
    Vec::new()
}
