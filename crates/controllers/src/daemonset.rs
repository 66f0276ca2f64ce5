//! DaemonSets: one pod on every node that fits. Old pods are replaced in rolling updates.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::{Value, json, meta};

use crate::conditions::scaled;
use crate::nodes::tolerates;
use crate::replicaset::owners;
use crate::resource::{DAEMON_SETS, NODES, PODS};
use crate::{Action, Context, Controller, Key, Watch, pods, selector, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "daemon-set-controller",
    watches: &[
        Watch::own(&DAEMON_SETS),
        Watch::map(&PODS, |w, c| owners(w, c, &DAEMON_SETS, "DaemonSet")),
        Watch::map(&NODES, |w, c| {
            let same = |part: &str| c.old.as_ref().zip(c.new.as_ref()).is_some_and(|(o, n)| o[part] == n[part]);
            let labels =
                c.old.as_ref().zip(c.new.as_ref()).is_some_and(|(o, n)| selector::labels(o) == selector::labels(n));
            if same("spec") && labels {
                return Vec::new();
            }
            w.list(&DAEMON_SETS).map(|d| Key::of(&DAEMON_SETS, d)).collect()
        }),
    ],
    reconcile,
    settle_ms: 5,
};

const HASH_LABEL: &str = "controller-revision-hash";

/// What the kubelet's own taints must not keep a daemon from.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

fn tolerations(set: &Value) -> Vec<Value> {
    let mut list = set["spec"]["template"]["spec"]["tolerations"].items().to_vec();
    list.extend(TOLERATED.iter().map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
    list
}

fn wants(set: &Value, node: &Value) -> bool {
    let tolerations = tolerations(set);
    let hard = |t: &&Value| matches!(t.str_at(&["effect"]), "NoSchedule" | "NoExecute");
    let tainted =
        node["spec"]["taints"].items().iter().filter(hard).any(|t| !tolerations.iter().any(|s| tolerates(s, t)));
    !tainted && crate::scheduler::matches_node(&set["spec"]["template"], node)
}

/// The node a daemon's pod is meant for, bound or not.
fn target(pod: &Value) -> &str {
    let bound = pod.str_at(&["spec", "nodeName"]);
    if bound.is_empty() {
        pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
            .as_str()
            .unwrap_or("")
    } else {
        bound
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

fn new_pod(set: &Value, hash: &str, node: &str) -> Value {
    let mut pod = template::pod(&set["spec"]["template"], set, "apps/v1", "DaemonSet");
    template::add_label(&mut pod, &["metadata", "labels"], HASH_LABEL, hash);
    pod["spec"].set("tolerations", tolerations(set));
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let required = pod.at_mut(&["spec", "affinity", "nodeAffinity", REQUIRED]);
    required.set("nodeSelectorTerms", vec![term]);
    pod
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(set) = cx.world.lookup(key) else { return Vec::new() };
    let hash = template::hash(&set["spec"]["template"], None);
    let mut by_node: BTreeMap<&str, Vec<&Arc<Value>>> = BTreeMap::new();
    for pod in cx.world.controlled(&PODS, meta::uid(set)) {
        by_node.entry(target(pod)).or_default().push(pod);
    }
    let wanted: Vec<&str> = cx.world.list(&NODES).filter(|n| wants(set, n)).map(|n| meta::name(n)).collect();
    let current = |p: &&&Arc<Value>| meta::label(p, HASH_LABEL) == Some(hash.as_str());
    let mut actions = Vec::new();
    let on_node = |n: &str| by_node.get(n).map_or(&[][..], Vec::as_slice);
    let all: Vec<&Arc<Value>> =
        wanted.iter().filter_map(|n| on_node(n).iter().find(|p| pods::is_active(p)).copied()).collect();
    let ready = all.iter().filter(|p| pods::is_ready(p)).count();
    let updated = all.iter().filter(current).count();
    let mut status = json!({
        "currentNumberScheduled": all.len(), "numberMisscheduled": by_node.keys().filter(|n| !wanted.contains(n)).count(),
        "desiredNumberScheduled": wanted.len(), "numberReady": ready, "observedGeneration": meta::generation(set),
    });
    let unavailable = wanted.len() - ready;
    for (field, count) in
        [("updatedNumberScheduled", updated), ("numberAvailable", ready), ("numberUnavailable", unavailable)]
    {
        if count > 0 {
            status.set(field, count);
        }
    }
    if !template::equal(&status, &set["status"]) {
        let mut object = Value::clone(set);
        object.set("status", status);
        actions.push(Action::update_status(&DAEMON_SETS, object));
    }
    if meta::is_terminating(set) {
        return actions;
    }
    let bound = set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone();
    let bound = if bound.is_null() { 1 } else { scaled(&bound, wanted.len() as i64, true).max(1) };
    let rolling = set.at(&["spec", "updateStrategy", "type"]).and_then(Value::as_str) != Some("OnDelete");
    let mut budget = if rolling { bound - unavailable as i64 } else { 0 };
    for node in &wanted {
        let here = on_node(node);
        if here.is_empty() {
            let pod = new_pod(set, &hash, node);
            actions.push(Action::create_with_event(&PODS, pod, set, "SuccessfulCreate", "Created pod: "));
        }
        for pod in here.iter().filter(|p| !meta::is_terminating(p)) {
            let stale = rolling && !current(&pod) && (!pods::is_ready(pod) || budget > 0);
            if stale && pods::is_ready(pod) {
                budget -= 1;
            }
            if stale || pods::phase(pod) == "Failed" {
                delete(set, pod, &mut actions);
            }
        }
    }
    let stray = by_node.iter().filter(|(n, _)| !wanted.contains(n)).flat_map(|(_, pods)| pods);
    stray.filter(|p| !meta::is_terminating(p)).for_each(|p| delete(set, p, &mut actions));
    actions
}

fn delete(set: &Value, pod: &Value, actions: &mut Vec<Action>) {
    actions.push(Action::delete(&PODS, pod));
    actions.push(Action::event(set, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))));
}
