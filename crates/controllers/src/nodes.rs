//! Nodes as seen from the control plane: silence is noticed, conditions become taints, taints evict, ranges are assigned.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use machinery::{Value, json, meta};

use crate::resource::{LEASES, NODES, PODS};
use crate::{Action, Change, Context, Controller, DeleteOptions, Key, Watch, World, conditions, pods};

pub(crate) static LIFECYCLE: Controller =
    Controller { name: "node-controller", watches: &[Watch::own(&NODES)], reconcile: lifecycle, settle_ms: 0 };

pub(crate) static TAINT_EVICTION: Controller = Controller {
    name: "node-controller",
    watches: &[Watch::map(&PODS, bound_pod), Watch::map(&NODES, pods_of_tainted)],
    reconcile: evict,
    settle_ms: 0,
};

pub(crate) static IPAM: Controller = Controller {
    name: "node-controller",
    watches: &[Watch::map(&NODES, |_, c| {
        // All nodes share one key: two nodes must not be given the same range.
        let bare = c.new.iter().filter(|n| n.str_at(&["spec", "podCIDR"]).is_empty());
        bare.map(|_| Key::new(&NODES, "", "")).collect()
    })],
    reconcile: assign_ranges,
    settle_ms: 0,
};

pub(crate) static POD_GC: Controller = Controller {
    name: "pod-garbage-collector",
    watches: &[Watch::map(&PODS, lost_pod), Watch::map(&NODES, pods_of_removed)],
    reconcile: collect_lost,
    settle_ms: 0,
};

/// How long a node may be silent (upstream 1.32 and later).
const GRACE: Duration = Duration::from_secs(50);
/// How long a pod may stand on a node that does not exist.
const QUARANTINE: Duration = Duration::from_secs(40);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that taint while true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// When the node last gave a sign of life.
fn last_sign(cx: &Context<'_>, node: &Value) -> Option<Timestamp> {
    let lease = cx.world.get(&LEASES, "kube-node-lease", meta::name(node));
    let renewed = lease.and_then(|l| conditions::time(l, &["spec", "renewTime"]));
    let heartbeat = conditions::of(node, "Ready").and_then(|c| conditions::time(c, &["lastHeartbeatTime"]));
    renewed.max(heartbeat).max(meta::creation_timestamp(node))
}

fn lifecycle(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(node) = cx.world.lookup(key) else { return Vec::new() };
    let mut actions = Vec::new();
    let silent_at = last_sign(cx, node).map_or(cx.now, |t| t + GRACE);
    if silent_at > cx.now {
        actions.push(Action::Requeue { after: silent_at.since(cx.now) });
    } else if let Some(status) = unknown_conditions(cx, node) {
        actions.push(Action::patch(&NODES, node, "status", json!({"status": {"conditions": status}})));
        let message = format!("Node {} status is now: NodeNotReady", meta::name(node));
        actions.push(Action::event(node, "NodeNotReady", message));
        return actions;
    }
    let taints = taints(cx, node);
    if taints.as_slice() != node["spec"]["taints"].items() {
        let metadata = json!({"resourceVersion": meta::resource_version(node)});
        actions.push(Action::patch(&NODES, node, "", json!({"metadata": metadata, "spec": {"taints": taints}})));
    }
    if !conditions::is_true(node, "Ready") {
        actions.extend(cx.world.pods_on(meta::name(node)).filter(|p| pods::is_ready(p)).map(|p| not_ready(cx, p)));
    }
    actions
}

/// A kubelet that is gone cannot say that its pods are.
fn not_ready(cx: &Context<'_>, pod: &Value) -> Action {
    let mut list = pod["status"]["conditions"].clone();
    if let Some(ready) = list.as_array_mut().and_then(|l| l.iter_mut().find(|c| c["type"].as_str() == Some("Ready"))) {
        ready.set("status", "False");
        ready.set("lastTransitionTime", cx.now.rfc3339());
    }
    Action::patch(&PODS, pod, "status", json!({"metadata": {"uid": meta::uid(pod)}, "status": {"conditions": list}}))
}

fn unknown_conditions(cx: &Context<'_>, node: &Value) -> Option<Value> {
    let mut list = node["status"]["conditions"].clone();
    let mut changed = false;
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let known = conditions::of(node, kind);
        if known.is_some_and(|c| c.str_at(&["status"]) == "Unknown") {
            continue;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let mut condition = conditions::new(kind, "Unknown", reason, message, cx.now);
        let heartbeat =
            known.map_or_else(|| node["metadata"]["creationTimestamp"].clone(), |c| c["lastHeartbeatTime"].clone());
        condition.set("lastHeartbeatTime", heartbeat);
        changed |= conditions::set(&mut list, condition);
    }
    changed.then_some(list)
}

/// The taints the node should have: its own, and those its conditions bring. What stays keeps its `timeAdded`.
fn taints(cx: &Context<'_>, node: &Value) -> Vec<Value> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match conditions::of(node, "Ready").map_or("", |c| c.str_at(&["status"])) {
        "True" => {}
        "Unknown" => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    let pressing = PRESSURES.iter().filter(|(kind, _)| conditions::is_true(node, kind));
    wanted.extend(pressing.map(|(_, key)| (*key, "NoSchedule")));
    if node["spec"]["unschedulable"].as_bool() == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let managed = |t: &Value| {
        let key = t.str_at(&["key"]);
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, k)| *k == key)
    };
    let is = |t: &Value, (key, effect): (&str, &str)| t.str_at(&["key"]) == key && t.str_at(&["effect"]) == effect;
    let old = node["spec"]["taints"].items();
    let mut taints: Vec<Value> =
        old.iter().filter(|t| !managed(t) || wanted.iter().any(|w| is(t, *w))).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| is(t, (key, effect))) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": cx.now.rfc3339()}));
        }
    }
    taints
}

fn bound_pod(world: &World, change: &Change) -> Vec<Key> {
    let tainted = |p: &&Arc<Value>| {
        let node = world.node(p.str_at(&["spec", "nodeName"]));
        node.is_some_and(|n| evicting(n).next().is_some())
    };
    change.new.iter().filter(tainted).map(|p| Key::of(&PODS, p)).collect()
}

fn pods_of_tainted(world: &World, change: &Change) -> Vec<Key> {
    let Some(node) = change.new.as_ref().filter(|n| evicting(n).next().is_some()) else { return Vec::new() };
    world.pods_on(meta::name(node)).map(|p| Key::of(&PODS, p)).collect()
}

fn evicting(node: &Value) -> impl Iterator<Item = &Value> {
    node["spec"]["taints"].items().iter().filter(|t| t.str_at(&["effect"]) == "NoExecute")
}

/// Does a toleration cover a taint?
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |key: &str| toleration.str_at(&[key]);
    let effect = text("effect").is_empty() || text("effect") == taint.str_at(&["effect"]);
    let key = text("key").is_empty() || text("key") == taint.str_at(&["key"]);
    effect
        && key
        && match text("operator") {
            "Exists" => true,
            "" | "Equal" => !text("key").is_empty() && text("value") == taint.str_at(&["value"]),
            _ => false,
        }
}

fn evict(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(pod) = cx.world.lookup(key).filter(|p| !meta::is_terminating(p)) else { return Vec::new() };
    let Some(node) = cx.world.node(pod.str_at(&["spec", "nodeName"])) else { return Vec::new() };
    let mut deadline: Option<Timestamp> = None;
    for taint in evicting(node) {
        let mut covering = pod["spec"]["tolerations"].items().iter().filter(|t| tolerates(t, taint)).peekable();
        if covering.peek().is_none() {
            deadline = Some(cx.now);
            break;
        }
        let since = conditions::time(taint, &["timeAdded"]).unwrap_or(cx.now);
        let seconds = covering.filter_map(|t| t["tolerationSeconds"].as_i64()).min();
        let until = seconds.map(|s| since + Duration::from_secs(s.max(0).unsigned_abs()));
        deadline = [deadline, until].into_iter().flatten().min();
    }
    match deadline {
        None => Vec::new(),
        Some(at) if at > cx.now => vec![Action::Requeue { after: at.since(cx.now) }],
        Some(_) => {
            let mut list = pod["status"]["conditions"].clone();
            let message = "Taint manager: deleting due to NoExecute taint";
            conditions::set(
                &mut list,
                conditions::new("DisruptionTarget", "True", "DeletionByTaintManager", message, cx.now),
            );
            let patch = json!({"metadata": {"uid": meta::uid(pod)}, "status": {"conditions": list}});
            let told = format!("Marking for deletion Pod {}", meta::key(pod));
            vec![
                Action::patch(&PODS, pod, "status", patch),
                Action::event(pod, "TaintManagerEviction", told),
                Action::delete(&PODS, pod),
            ]
        }
    }
}

fn assign_ranges(cx: &Context<'_>, _: &Key) -> Vec<Action> {
    let settings = cx.world.settings();
    let Some(range) = settings.pod_cidr else { return Vec::new() };
    let length = settings.node_prefix_length.clamp(range.prefix_len(), 30);
    let used: BTreeSet<String> =
        cx.world.list(&NODES).map(|n| n.str_at(&["spec", "podCIDR"]).to_owned()).filter(|c| !c.is_empty()).collect();
    let step = 1_u32 << (32 - u32::from(length));
    let count = 1_u32 << u32::from(length - range.prefix_len());
    let base = u32::from(range.network());
    let mut free = (0..count).map(|i| format!("{}/{length}", Ipv4Addr::from(base + i * step)));
    let mut actions = Vec::new();
    for node in cx.world.list(&NODES).filter(|n| n.str_at(&["spec", "podCIDR"]).is_empty()) {
        match free.find(|c| !used.contains(c)) {
            Some(cidr) => {
                actions.push(Action::patch(&NODES, node, "", json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})));
            }
            None => actions.push(Action::warning(node, "CIDRNotAvailable", "Node status is now: CIDRNotAvailable")),
        }
    }
    actions
}

fn is_lost(world: &World, pod: &Value) -> bool {
    let node = pod.str_at(&["spec", "nodeName"]);
    !node.is_empty() && world.node(node).is_none()
}

fn lost_pod(world: &World, change: &Change) -> Vec<Key> {
    change.new.iter().filter(|p| is_lost(world, p)).map(|p| Key::of(&PODS, p)).collect()
}

fn pods_of_removed(world: &World, change: &Change) -> Vec<Key> {
    let removed = change.old.iter().filter(|_| change.new.is_none());
    removed.flat_map(|n| world.pods_on(meta::name(n))).map(|p| Key::of(&PODS, p)).collect()
}

fn collect_lost(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(pod) = cx.world.lookup(key).filter(|p| is_lost(cx.world, p)) else { return Vec::new() };
    let settled = meta::creation_timestamp(pod).map_or(cx.now, |t| t + QUARANTINE);
    if settled > cx.now {
        return vec![Action::Requeue { after: settled.since(cx.now) }];
    }
    let mut list = pod["status"]["conditions"].clone();
    let message = "PodGC: node no longer exists";
    conditions::set(&mut list, conditions::new("DisruptionTarget", "True", "DeletionByPodGC", message, cx.now));
    let phase = if pods::is_finished(pod) { pods::phase(pod) } else { "Failed" };
    let patch = json!({"metadata": {"uid": meta::uid(pod)}, "status": {"phase": phase, "conditions": list}});
    let force = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    vec![Action::patch(&PODS, pod, "status", patch), Action::delete_with(&PODS, pod, force)]
}
