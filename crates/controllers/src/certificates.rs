//! CertificateSigningRequests: those of kubelets are approved when they come from the node they name, approved ones are
//! signed by the cluster CA, old ones are deleted.
//!
//! The approver follows GKE's (`cloud-provider-gcp`, `node_csr_approver.go`) with upstream's rule for a node's own renewal
//! (`csrapproving`); signer and cleaner are upstream's (`pkg/controller/certificates`). The key of the CA is elsewhere:
//! signing is asked of a port, and so is whether a machine is the one it says.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::{Value, meta};
use registry::certificate_request::{
    self, CLIENT_SIGNER, CertificateRequest, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER,
};

use crate::action::{Approval, MachineCheck};
use crate::resource::CERTIFICATE_SIGNING_REQUESTS as REQUESTS;
use crate::{Action, Context, Controller, Key, Watch, conditions};

/// GKE's approver has a user of its own; upstream's may not approve serving certificates.
pub(crate) static APPROVING: Controller = Controller {
    name: "system:gcp-controller-manager",
    watches: &[Watch::own(&REQUESTS)],
    reconcile: approve,
    settle_ms: 0,
};

pub(crate) static SIGNING: Controller =
    Controller { name: "certificate-controller", watches: &[Watch::own(&REQUESTS)], reconcile: sign, settle_ms: 0 };

pub(crate) static CLEANING: Controller =
    Controller { name: "certificate-controller", watches: &[Watch::own(&REQUESTS)], reconcile: clean, settle_ms: 0 };

/// The user of attested nodes (GKE's shielded nodes) until they have a certificate of their own.
const ATTESTED_BOOTSTRAP: &str = "kubelet-bootstrap";
/// How long a request stays that was approved and signed, denied or failed, and one that nobody answered.
const ANSWERED_FOR: Duration = Duration::from_secs(60 * 60);
const PENDING_FOR: Duration = Duration::from_secs(24 * 60 * 60);

fn parsed(request: &Value) -> Option<CertificateRequest> {
    certificate_request::parse(&STANDARD.decode(request.str_at(&["spec", "request"])).ok()?).ok()
}

fn has(request: &Value, kind: &str) -> bool {
    conditions::of(request, kind).is_some()
}

fn is_issued(request: &Value) -> bool {
    !request.str_at(&["status", "certificate"]).is_empty()
}

/// Which rules could approve a request, in the order in which they are tried.
fn approvals(request: &Value, asked: &CertificateRequest) -> Vec<Approval> {
    let spec = &request["spec"];
    let user = spec.str_at(&["username"]);
    let own = user == asked.common_name;
    let rule = |check, subresource, message| Approval { check, subresource, message };
    match spec.str_at(&["signerName"]) {
        KUBELET_CLIENT_SIGNER if certificate_request::check_kubelet_client(asked, &spec["usages"]).is_ok() => {
            let attested = rule(
                Some(MachineCheck::Attestation),
                "nodeclient",
                "Auto approving kubelet client certificate with TPM attestation after SubjectAccessReview.",
            );
            if user == ATTESTED_BOOTSTRAP {
                return vec![attested];
            }
            let renewal = "Auto approving self kubelet client certificate after SubjectAccessReview.";
            let first =
                rule(None, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
            if own { vec![rule(None, "selfnodeclient", renewal), first] } else { vec![first] }
        }
        KUBELET_SERVING_SIGNER if own && certificate_request::check_kubelet_serving(asked, &spec["usages"]).is_ok() => {
            let message = "Auto approving kubelet server certificate after SubjectAccessReview.";
            vec![rule(Some(MachineCheck::Addresses), "selfnodeclient", message)]
        }
        _ => Vec::new(),
    }
}

fn approve(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(request) = cx.world.lookup(key) else { return Vec::new() };
    if is_issued(request) || has(request, "Approved") || has(request, "Denied") || meta::is_terminating(request) {
        return Vec::new();
    }
    let rules = parsed(request).map(|asked| approvals(request, &asked)).unwrap_or_default();
    if rules.is_empty() {
        return Vec::new();
    }
    vec![Action::Approve { request: Value::clone(request), rules }]
}

fn sign(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(request) = cx.world.lookup(key) else { return Vec::new() };
    let approved = has(request, "Approved") && !has(request, "Denied") && !conditions::is_true(request, "Failed");
    if !approved || is_issued(request) || meta::is_terminating(request) {
        return Vec::new();
    }
    let Some(asked) = parsed(request) else { return Vec::new() };
    let usages = &request["spec"]["usages"];
    let verdict = match request.str_at(&["spec", "signerName"]) {
        CLIENT_SIGNER => certificate_request::check_client(usages),
        KUBELET_CLIENT_SIGNER => certificate_request::check_kubelet_client(&asked, usages),
        KUBELET_SERVING_SIGNER => certificate_request::check_kubelet_serving(&asked, usages),
        // Somebody else's.
        _ => return Vec::new(),
    };
    match verdict {
        Ok(()) => vec![Action::Sign { request: Value::clone(request) }],
        Err(why) => {
            let mut failed = Value::clone(request);
            let mut condition = conditions::new("Failed", "True", "SignerValidationFailure", &why, cx.now);
            condition.set("lastUpdateTime", cx.now.rfc3339());
            conditions::set(failed.at_mut(&["status", "conditions"]), condition);
            vec![Action::update_status(&REQUESTS, failed)]
        }
    }
}

/// Upstream looks at all requests once an hour; here each is looked at when its time has come.
fn clean(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(request) = cx.world.lookup(key) else { return Vec::new() };
    let updated = |kind| conditions::of(request, kind).and_then(|c| conditions::time(c, &["lastUpdateTime"]));
    let list = request["status"]["conditions"].items();
    let mut due = Vec::new();
    if list.is_empty() {
        due.extend(meta::creation_timestamp(request).map(|at| at + PENDING_FOR));
    }
    for kind in ["Denied", "Failed"] {
        due.extend(updated(kind).map(|at| at + ANSWERED_FOR));
    }
    if is_issued(request) && has(request, "Approved") {
        due.extend(updated("Approved").map(|at| at + ANSWERED_FOR));
        let chain = STANDARD.decode(request.str_at(&["status", "certificate"])).unwrap_or_default();
        due.extend(certificate_request::not_after(&chain));
    }
    match due.into_iter().min() {
        Some(at) if at >= cx.now => {
            vec![Action::Requeue { after: at.since(cx.now) + Duration::from_secs(1) }]
        }
        Some(_) => vec![Action::delete(&REQUESTS, request)],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
