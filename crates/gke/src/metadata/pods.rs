//! What a pod sees where GKE's metadata server runs on its node (Workload Identity): little of the machine, and its own
//! account instead of the machine's. Texts are those that GKE's server gives.

use super::{Machine, Outcome, Reply, Request, answer};

const CONCEALED: &str = "This metadata endpoint is concealed.";
const HELP: &str = "https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity#authenticating_to";
/// What tokens are good for unless the pod asks for less.
pub const POD_SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"];

/// Reads the tree for a pod; `machine` has the pod's account in place of its own. What else the machine would say is
/// concealed.
pub fn answer_for_pod(machine: &Machine, request: &Request) -> Outcome {
    let missing = |outcome: &Outcome| matches!(outcome, Outcome::Done(reply) if reply.code == 404);
    let seen = answer(&machine.tree_for_pods(), request);
    if missing(&seen) && !missing(&answer(&machine.tree(), request)) {
        return Outcome::Done(Reply::refused(403, CONCEALED));
    }
    seen
}

/// IAM did not give a token in the name of the Google account; `what` is `access token` or `identity token`.
pub fn no_token(what: &str, code: u16, message: &str) -> Reply {
    let reason = match code {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        _ => return internal_error(),
    };
    let mut text = format!("Unable to generate {what}; IAM returned {code} {reason}: {message}\n");
    if code == 403 {
        text += "This error could be caused by a missing IAM policy binding on the target IAM service account.\n";
        text += &format!("For more information, refer to the Workload Identity documentation:\n\t{HELP}\n\n");
    }
    Reply::new(code, "text/plain; charset=utf-8", text)
}

/// The server itself cannot.
pub fn internal_error() -> Reply {
    Reply::refused(500, "GKE Metadata Server: Internal Server Error")
}
