//! Questions about pods that several controllers ask.

use std::cmp::Ordering;

use base::Timestamp;
use machinery::{Value, meta};

use crate::conditions;

/// `status.phase`, `Pending` when absent.
pub fn phase(pod: &Value) -> &str {
    match pod.str_at(&["status", "phase"]) {
        "" => "Pending",
        phase => phase,
    }
}

/// Has it Succeeded or Failed?
pub fn is_finished(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted: what a ReplicaSet counts.
pub fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && !meta::is_terminating(pod)
}

/// Is its condition Ready true?
pub fn is_ready(pod: &Value) -> bool {
    conditions::is_true(pod, "Ready")
}

/// When an available pod of that age becomes available: `Ok` it is, `Err(Some)` at that instant, `Err(None)` not ready.
pub fn available(pod: &Value, min_ready_seconds: i64, now: Timestamp) -> Result<(), Option<Timestamp>> {
    let Some(ready) = conditions::of(pod, "Ready").filter(|c| c["status"].as_str() == Some("True")) else {
        return Err(None);
    };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let since = conditions::time(ready, &["lastTransitionTime"]).ok_or(None)?;
    let at = since + std::time::Duration::from_secs(min_ready_seconds.unsigned_abs());
    if at <= now { Ok(()) } else { Err(Some(at)) }
}

/// Restarts of all containers.
fn restarts(pod: &Value) -> i64 {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists
        .iter()
        .flat_map(|l| pod["status"][*l].items())
        .map(|s| s["restartCount"].as_i64().unwrap_or(0))
        .max()
        .unwrap_or(0)
}

fn ready_since(pod: &Value) -> Option<Timestamp> {
    conditions::of(pod, "Ready").and_then(|c| conditions::time(c, &["lastTransitionTime"]))
}

/// Which pod to give up first: unscheduled, then pending, then not ready, then of low deletion cost, then on a crowded
/// node, then ready for a shorter time, then more restarts, then younger. `crowd` counts the set's pods on a pod's node.
pub fn deletion_order(a: &Value, b: &Value, crowd: impl Fn(&Value) -> usize) -> Ordering {
    let unbound = |p: &Value| p.str_at(&["spec", "nodeName"]).is_empty();
    let rank = |p: &Value| match phase(p) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |p: &Value| {
        meta::annotation(p, "controller.kubernetes.io/pod-deletion-cost")
            .and_then(|c| c.parse::<i64>().ok())
            .unwrap_or(0)
    };
    unbound(b)
        .cmp(&unbound(a))
        .then_with(|| rank(a).cmp(&rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| if is_ready(a) { ready_since(b).cmp(&ready_since(a)) } else { Ordering::Equal })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| meta::creation_timestamp(b).cmp(&meta::creation_timestamp(a)))
        .then_with(|| meta::name(a).cmp(meta::name(b)))
}
