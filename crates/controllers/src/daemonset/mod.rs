//! DaemonSets: one pod on every node that fits. Old pods are replaced in rolling updates, by deletion or by surge.

mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::{Value, json, meta};

use crate::conditions::{int, scaled};
use crate::history::{revision, template_of};
use crate::nodes::tolerates;
use crate::replicaset::{claim, owners};
use crate::resource::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use crate::{Action, Change, Context, Controller, Key, Watch, World, pods, selector, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "daemon-set-controller",
    watches: &[
        Watch::own(&DAEMON_SETS),
        Watch::map(&PODS, |w, c| owners(w, c, &DAEMON_SETS, "DaemonSet")),
        Watch::map(&CONTROLLER_REVISIONS, |w, c| owners(w, c, &DAEMON_SETS, "DaemonSet")),
        Watch::map(&NODES, by_node),
    ],
    reconcile,
    settle_ms: 5,
};

const API: (&str, &str) = ("apps/v1", "DaemonSet");
const HASH_LABEL: &str = "controller-revision-hash";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
/// How old a failed pod must be before another takes its place: a pod that fails at once must not keep everybody busy.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// What the kubelet's own taints must not keep a daemon from.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Every set, when what decides about daemons of a node changed.
fn by_node(world: &World, change: &Change) -> Vec<Key> {
    let both = change.old.as_ref().zip(change.new.as_ref());
    if both.is_some_and(|(o, n)| o["spec"] == n["spec"] && selector::labels(o) == selector::labels(n)) {
        return Vec::new();
    }
    world.list(&DAEMON_SETS).map(|d| Key::of(&DAEMON_SETS, d)).collect()
}

fn tolerations(set: &Value) -> Vec<Value> {
    let pod = &set["spec"]["template"]["spec"];
    let mut list = pod["tolerations"].items().to_vec();
    let host = pod["hostNetwork"].as_bool() == Some(true);
    let network = host.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let all = TOLERATED.iter().copied().chain(network);
    list.extend(all.map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
    list
}

/// Should a daemon be started on a node, and may one that is there stay?
fn fits(set: &Value, node: &Value) -> (bool, bool) {
    let template = &set["spec"]["template"];
    let named = template.str_at(&["spec", "nodeName"]);
    if !(named.is_empty() || named == meta::name(node)) || !crate::scheduler::matches_node(template, node) {
        return (false, false);
    }
    let tolerations = tolerations(set);
    let keeps_out = |effects: &[&str]| {
        let hard = |t: &&Value| effects.contains(&t.str_at(&["effect"]));
        node["spec"]["taints"].items().iter().filter(hard).any(|t| !tolerations.iter().any(|s| tolerates(s, t)))
    };
    (!keeps_out(&["NoSchedule", "NoExecute"]), !keeps_out(&["NoExecute"]))
}

/// The node a daemon's pod is meant for, bound or not.
fn target(pod: &Value) -> &str {
    let bound = pod.str_at(&["spec", "nodeName"]);
    if !bound.is_empty() {
        return bound;
    }
    let terms = pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].items();
    let fields = terms.iter().flat_map(|t| t["matchFields"].items());
    let mut named = fields.filter(|f| f.str_at(&["key"]) == "metadata.name");
    named.find_map(|f| f["values"].items().first()?.as_str()).unwrap_or("")
}

/// A pod for one node. Terms of the template's own node affinity are narrowed to it.
fn new_pod(set: &Value, hash: &str, node: &str) -> Value {
    let mut pod = template::pod(&set["spec"]["template"], set, API.0, API.1);
    template::add_label(&mut pod, &["metadata", "labels"], HASH_LABEL, hash);
    pod["spec"].set("tolerations", tolerations(set));
    let here = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = pod.at_mut(&["spec", "affinity", "nodeAffinity", REQUIRED]);
    let mut terms = required["nodeSelectorTerms"].items().to_vec();
    if terms.is_empty() {
        terms.push(Value::object());
    }
    terms.iter_mut().for_each(|t| t.set("matchFields", here.clone()));
    required.set("nodeSelectorTerms", terms);
    pod
}

/// A set with what it is made of.
struct Set<'a> {
    cx: &'a Context<'a>,
    object: &'a Value,
    /// The label of pods that are of the template as it is now.
    hash: &'a str,
    min_ready_seconds: i64,
    nodes: Vec<&'a Arc<Value>>,
    /// Pods by the node they are meant for; bound ones first, then the oldest.
    pods: BTreeMap<&'a str, Vec<&'a Arc<Value>>>,
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(object) = cx.world.lookup(key) else { return Vec::new() };
    let mut adoptions = claim(cx, &PODS, object, API.0, API.1);
    adoptions.extend(claim(cx, &CONTROLLER_REVISIONS, object, API.0, API.1));
    if !adoptions.is_empty() {
        return adoptions;
    }
    let mut revisions = cx.world.controlled(&CONTROLLER_REVISIONS, meta::uid(object));
    revisions.sort_by_key(|r| (r["revision"].as_i64(), meta::name(r).to_owned()));
    let newest = revisions.last().and_then(|r| r["revision"].as_i64()).unwrap_or(0);
    let wanted = &object["spec"]["template"];
    let Some(current) = revisions.iter().rev().find(|r| template::equal(&template_of(r), wanted)) else {
        if meta::is_terminating(object) {
            return Vec::new();
        }
        return vec![new_revision(object, newest + 1)];
    };
    if current["revision"].as_i64() != Some(newest) && !meta::is_terminating(object) {
        let mut again = Value::clone(current);
        again.set("revision", newest + 1);
        return vec![Action::update(&CONTROLLER_REVISIONS, again)];
    }
    let mut set = Set {
        cx,
        object,
        hash: meta::label(current, HASH_LABEL).unwrap_or_default(),
        min_ready_seconds: int(object, &["spec", "minReadySeconds"], 0),
        nodes: cx.world.list(&NODES).collect(),
        pods: BTreeMap::new(),
    };
    for pod in cx.world.controlled(&PODS, meta::uid(object)) {
        if !(pods::is_finished(pod) && meta::is_terminating(pod)) {
            set.pods.entry(target(pod)).or_default().push(pod);
        }
    }
    let age = |p: &&Arc<Value>| {
        (p.str_at(&["spec", "nodeName"]).is_empty(), meta::creation_timestamp(p), meta::name(p).to_owned())
    };
    set.pods.values_mut().for_each(|same| same.sort_by_key(age));
    let mut actions = set.status();
    if !meta::is_terminating(object) {
        let before = actions.len();
        set.manage(&mut actions);
        if actions.len() == before {
            set.roll_out(&mut actions);
        }
        set.prune(&revisions, meta::name(current), &mut actions);
    }
    actions
}

fn new_revision(set: &Value, number: i64) -> Action {
    let mut object = revision(set, API, HASH_LABEL, number);
    if let Some(annotations) = set.at(&["metadata", "annotations"]).filter(|a| !a.is_null()) {
        object["metadata"].set("annotations", annotations.clone());
    }
    Action::create(&CONTROLLER_REVISIONS, object)
}

impl Set<'_> {
    fn on(&self, node: &str) -> &[&Arc<Value>] {
        self.pods.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_current(&self, pod: &Value) -> bool {
        meta::label(pod, HASH_LABEL) == Some(self.hash)
    }

    fn is_available(&self, pod: &Value) -> bool {
        pods::available(pod, self.min_ready_seconds, self.cx.now).is_ok()
    }

    fn surge_max(&self) -> i64 {
        scaled(&self.object["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], self.desired(), true)
    }

    fn desired(&self) -> i64 {
        self.nodes.iter().filter(|n| fits(self.object, n).0).count() as i64
    }

    fn create(&self, node: &str, actions: &mut Vec<Action>) {
        let pod = new_pod(self.object, self.hash, node);
        actions.push(Action::create_with_event(&PODS, pod, self.object, "SuccessfulCreate", "Created pod: "));
    }

    fn delete(&self, pod: &Value, actions: &mut Vec<Action>) {
        actions.push(Action::delete(&PODS, pod));
        actions.push(Action::event(self.object, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))));
    }

    /// One pod on each node that wants one; with surge an old and a new one while the new one comes up.
    fn manage(&self, actions: &mut Vec<Action>) {
        for node in &self.nodes {
            let (run, stay) = fits(self.object, node);
            let here = self.on(meta::name(node));
            let alive = here.iter().filter(|p| !meta::is_terminating(p));
            if run && here.is_empty() {
                self.create(meta::name(node), actions);
            } else if stay {
                let mut running = Vec::new();
                for pod in alive {
                    match pods::phase(pod) {
                        "Failed" => self.replace_failed(pod, node, actions),
                        "Succeeded" => self.bury(pod, node, "SucceededDaemonPod", "succeeded", actions),
                        _ => running.push(*pod),
                    }
                }
                self.thin(meta::name(node), run, &running, actions);
            } else {
                alive.for_each(|p| self.delete(p, actions));
            }
        }
        // Nobody will ever bind these; bound ones are the pod garbage collector's.
        let known = |name: &str| self.nodes.iter().any(|n| meta::name(n) == name);
        let lost = self.pods.iter().filter(|(node, _)| !known(node)).flat_map(|(_, pods)| pods);
        let unbound = lost.filter(|p| p.str_at(&["spec", "nodeName"]).is_empty() && !meta::is_terminating(p));
        unbound.for_each(|p| self.delete(p, actions));
    }

    fn bury(&self, pod: &Value, node: &Value, reason: &'static str, how: &str, actions: &mut Vec<Action>) {
        let (namespace, name, node) = (meta::namespace(pod), meta::name(pod), meta::name(node));
        let (verb, warning) = if how == "failed" { ("kill", true) } else { ("delete", false) };
        let text = format!("Found {how} daemon pod {namespace}/{name} on node {node}, will try to {verb} it");
        let tell = if warning { Action::warning } else { Action::event };
        actions.push(tell(self.object, reason, text));
        self.delete(pod, actions);
    }

    fn replace_failed(&self, pod: &Value, node: &Value, actions: &mut Vec<Action>) {
        let due = meta::creation_timestamp(pod).map(|at| at + FAILED_FOR).filter(|at| *at > self.cx.now);
        match due {
            Some(at) => actions.push(Action::Requeue { after: at.since(self.cx.now) }),
            None => self.bury(pod, node, "FailedDaemonPod", "failed", actions),
        }
    }

    /// Takes back what is too much on a node.
    fn thin(&self, node: &str, run: bool, running: &[&Arc<Value>], actions: &mut Vec<Action>) {
        if self.surge_max() == 0 {
            running.iter().skip(1).for_each(|p| self.delete(p, actions));
            return;
        }
        if running.is_empty() && run && !self.on(node).iter().any(|p| !meta::is_terminating(p)) {
            self.create(node, actions);
        }
        let mut new = running.iter().filter(|p| self.is_current(p));
        let mut old = running.iter().filter(|p| !self.is_current(p));
        let first = (new.next(), old.next());
        new.chain(old).for_each(|p| self.delete(p, actions));
        if let (Some(new), Some(old)) = first
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete(old, actions);
        }
    }

    /// The set's status. Conditions are nobody's of ours: they stay.
    fn status(&self) -> Vec<Action> {
        let (mut desired, mut scheduled, mut misplaced, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
        let mut next: Option<base::Timestamp> = None;
        for node in &self.nodes {
            let pod = self.on(meta::name(node)).first();
            let run = fits(self.object, node).0;
            desired += i64::from(run);
            misplaced += i64::from(!run && pod.is_some());
            let Some(pod) = pod.filter(|_| run) else { continue };
            scheduled += 1;
            ready += i64::from(pods::is_ready(pod));
            updated += i64::from(self.is_current(pod));
            match pods::available(pod, self.min_ready_seconds, self.cx.now) {
                Ok(()) => available += 1,
                Err(at) => next = [next, at].into_iter().flatten().min(),
            }
        }
        let mut status = self.object["status"].clone();
        if status.is_null() {
            status = Value::object();
        }
        status.set("observedGeneration", meta::generation(self.object));
        for (field, count) in [
            ("currentNumberScheduled", scheduled),
            ("numberMisscheduled", misplaced),
            ("desiredNumberScheduled", desired),
            ("numberReady", ready),
        ] {
            status.set(field, count);
        }
        for (field, count) in [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
        ] {
            status.remove(field);
            if count > 0 {
                status.set(field, count);
            }
        }
        let mut actions = Vec::new();
        if !template::equal(&status, &self.object["status"]) {
            let mut object = self.object.clone();
            object.set("status", status);
            actions.push(Action::update_status(&DAEMON_SETS, object));
        }
        actions.extend(next.map(|at| Action::Requeue { after: at.since(self.cx.now).max(Duration::from_millis(1)) }));
        actions
    }

    /// Lets revisions go that no pod has, beyond the history limit, oldest first.
    fn prune(&self, revisions: &[&Arc<Value>], current: &str, actions: &mut Vec<Action>) {
        let keep = usize::try_from(int(self.object, &["spec", "revisionHistoryLimit"], 10)).unwrap_or(0);
        let old: Vec<&&Arc<Value>> = revisions.iter().filter(|r| meta::name(r) != current).collect();
        let mut surplus = old.len().saturating_sub(keep);
        let live = |r: &Value| {
            let hash = meta::label(r, HASH_LABEL);
            self.pods.values().flatten().any(|p| meta::label(p, HASH_LABEL) == hash)
        };
        for revision in old.into_iter().filter(|r| !live(r)) {
            if surplus == 0 {
                return;
            }
            surplus -= 1;
            actions.push(Action::delete(&CONTROLLER_REVISIONS, revision));
        }
    }
}
