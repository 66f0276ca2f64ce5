//! The scheduler: a queue of pods without a node, what every node has left, and one decision at a time.
//!
//! It is fed changes ([`Scheduler::observe`]) and asked for decisions ([`Scheduler::decide`]). A pod it places counts as
//! placed at once (the assume cache); [`Scheduler::bind_failed`] takes that back. Ties are broken by a seeded generator.

mod filter;
mod preempt;
pub mod request;
mod score;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{Rng, Timestamp};
use machinery::{CompactString, ObjectKey, Value, json, meta};

use crate::resource::{NODES, POD_DISRUPTION_BUDGETS, PODS};
use crate::world::is;
use crate::{Action, Change, conditions, pods};

pub use filter::Misfit;
pub(crate) use filter::matches_node;
use request::{Amounts, host_ports, of_pod};

/// A node and what runs on it.
#[derive(Clone)]
struct Node {
    object: Arc<Value>,
    allocatable: Amounts,
    requested: Amounts,
    pods: BTreeMap<ObjectKey, Arc<Value>>,
    ports: BTreeMap<(CompactString, CompactString, i64), usize>,
    /// Pods by the uid of their controller.
    owners: BTreeMap<CompactString, usize>,
}

/// Where a pod stands.
struct Placed {
    pod: Arc<Value>,
    node: CompactString,
    /// Decided by us, not yet seen in the API.
    assumed: bool,
}

/// A pod that did not fit, or whose binding failed.
struct Waiting {
    attempts: u32,
    retry_at: Timestamp,
    /// Something changed since: worth another attempt.
    moved: bool,
}

/// One decision: what the manager should do for one pod.
pub struct Decision {
    /// The pod.
    pub pod: ObjectKey,
    /// Its node, or none when it fits nowhere.
    pub node: Option<CompactString>,
    /// Binding and event, or condition and event.
    pub actions: Vec<Action>,
}

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Enough nodes to choose from, as upstream's `minFeasibleNodesToFind`.
const FEASIBLE_MIN: usize = 100;

type Place = (Reverse<i64>, Option<Timestamp>, ObjectKey);

/// See the module.
pub struct Scheduler {
    name: String,
    nodes: BTreeMap<CompactString, Node>,
    /// Pods on nodes we have not seen yet.
    placed: BTreeMap<ObjectKey, Placed>,
    pending: BTreeMap<ObjectKey, Arc<Value>>,
    active: BTreeSet<Place>,
    waiting: BTreeMap<ObjectKey, Waiting>,
    /// Pods with required anti-affinity: they may refuse newcomers.
    refusing: BTreeSet<ObjectKey>,
    /// Pending pods that room is being made for, and where.
    nominated: BTreeMap<ObjectKey, CompactString>,
    budgets: BTreeMap<ObjectKey, Arc<Value>>,
    rng: Rng,
}

impl Scheduler {
    /// `name` is the `spec.schedulerName` it answers to.
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            nodes: BTreeMap::new(),
            placed: BTreeMap::new(),
            pending: BTreeMap::new(),
            active: BTreeSet::new(),
            waiting: BTreeMap::new(),
            refusing: BTreeSet::new(),
            nominated: BTreeMap::new(),
            budgets: BTreeMap::new(),
            rng: Rng::new(seed),
        }
    }

    /// Takes a change of a node, a pod or a disruption budget in; others do not matter.
    pub fn observe(&mut self, change: &Change) {
        if is(&change.resource, &NODES) {
            self.observe_node(change);
        } else if is(&change.resource, &PODS) {
            self.observe_pod(change);
        } else if is(&change.resource, &POD_DISRUPTION_BUDGETS) {
            let Some(key) = change.objects().next().map(meta::key) else { return };
            match &change.new {
                Some(budget) => drop(self.budgets.insert(key, budget.clone())),
                None => drop(self.budgets.remove(&key)),
            }
        }
    }

    fn observe_node(&mut self, change: &Change) {
        let Some(new) = &change.new else {
            if let Some(old) = &change.old {
                self.nodes.remove(meta::name(old));
            }
            return;
        };
        let name = CompactString::from(meta::name(new));
        let allocatable = Amounts::of(&new["status"]["allocatable"]);
        if let Some(node) = self.nodes.get_mut(&name) {
            let same = node.allocatable == allocatable
                && node.object["spec"] == new["spec"]
                && node.object["metadata"]["labels"] == new["metadata"]["labels"];
            node.object = new.clone();
            node.allocatable = allocatable;
            if same {
                return;
            }
        } else {
            let mut node = Node {
                object: new.clone(),
                allocatable,
                requested: Amounts::default(),
                pods: BTreeMap::new(),
                ports: BTreeMap::new(),
                owners: BTreeMap::new(),
            };
            for (key, placed) in self.placed.iter().filter(|(_, p)| p.node == name) {
                node.account(key, &placed.pod, true);
            }
            self.nodes.insert(name, node);
        }
        self.move_waiting();
    }

    fn observe_pod(&mut self, change: &Change) {
        let Some(key) = change.objects().next().map(meta::key) else { return };
        let Some(new) = change.new.as_ref().filter(|p| !pods::is_finished(p)) else {
            self.forget(&key);
            self.dequeue(&key);
            return;
        };
        let node = new.str_at(&["spec", "nodeName"]);
        if !node.is_empty() {
            self.dequeue(&key);
            let known = self.placed.get(&key).is_some_and(|p| p.node == node && meta::uid(&p.pod) == meta::uid(new));
            if known {
                self.refresh(&key, new);
            } else {
                self.forget(&key);
                self.place(key, new.clone(), node.into(), false);
            }
            return;
        }
        if let Some(placed) = self.placed.get(&key) {
            if placed.assumed && meta::uid(&placed.pod) == meta::uid(new) {
                return;
            }
            self.forget(&key);
        }
        self.enqueue(key, new);
    }

    fn enqueue(&mut self, key: ObjectKey, pod: &Arc<Value>) {
        let scheduler = pod["spec"]["schedulerName"].as_str().filter(|s| !s.is_empty()).unwrap_or("default-scheduler");
        let gated = !pod["spec"]["schedulingGates"].items().is_empty();
        if scheduler != self.name || gated || meta::is_terminating(pod) {
            self.dequeue(&key);
            return;
        }
        match pod.str_at(&["status", "nominatedNodeName"]) {
            "" => drop(self.nominated.remove(&key)),
            node => drop(self.nominated.insert(key.clone(), node.into())),
        }
        let old = self.pending.insert(key.clone(), pod.clone());
        let same = old
            .as_ref()
            .is_some_and(|o| o["spec"] == pod["spec"] && o["metadata"]["labels"] == pod["metadata"]["labels"]);
        if same {
            return;
        }
        if let Some(old) = old {
            self.active.remove(&place_of(&key, &old));
        }
        self.waiting.remove(&key);
        self.active.insert(place_of(&key, pod));
    }

    fn dequeue(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.pending.remove(key) {
            self.active.remove(&place_of(key, &pod));
            self.waiting.remove(key);
            if self.nominated.remove(key).is_some() {
                // The room that was kept for it is anybody's.
                self.move_waiting();
            }
        }
    }

    /// A newer form of a pod that stays where it is.
    fn refresh(&mut self, key: &ObjectKey, pod: &Arc<Value>) {
        if let Some(placed) = self.placed.get_mut(key) {
            placed.pod = pod.clone();
            placed.assumed = false;
            if let Some(held) = self.nodes.get_mut(&placed.node).and_then(|n| n.pods.get_mut(key)) {
                *held = pod.clone();
            }
        }
    }

    fn place(&mut self, key: ObjectKey, pod: Arc<Value>, node: CompactString, assumed: bool) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.account(&key, &pod, true);
        }
        if !filter::terms(&pod, "podAntiAffinity").is_empty() {
            self.refusing.insert(key.clone());
        }
        self.placed.insert(key, Placed { pod, node, assumed });
        if !assumed {
            // Somebody's affinity may be satisfied now.
            self.move_waiting();
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        if let Some(placed) = self.placed.remove(key) {
            self.refusing.remove(key);
            if let Some(node) = self.nodes.get_mut(&placed.node) {
                node.account(key, &placed.pod, false);
            }
            self.move_waiting();
        }
    }

    fn move_waiting(&mut self) {
        self.waiting.values_mut().for_each(|w| w.moved = true);
    }

    /// The binding was refused: the pod is pending again, after a while. So is one for which room could not be made.
    pub fn bind_failed(&mut self, key: &ObjectKey, now: Timestamp) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.moved = true;
        }
        if self.placed.get(key).is_some_and(|p| p.assumed) {
            let pod = self.placed[key].pod.clone();
            self.forget(key);
            self.pending.insert(key.clone(), pod);
            self.wait(key, now, true);
        }
    }

    fn wait(&mut self, key: &ObjectKey, now: Timestamp, moved: bool) {
        let attempts = self.waiting.get(key).map_or(0, |w| w.attempts) + 1;
        let backoff = (BACKOFF_FIRST * 2_u32.saturating_pow(attempts.min(8) - 1)).min(BACKOFF_MAX);
        self.waiting.insert(key.clone(), Waiting { attempts, retry_at: now + backoff, moved });
    }

    /// When the next pod in back-off is due, if any is worth another attempt.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let due =
            |w: &Waiting| (w.moved && !w.retry_at.eq(&Timestamp::from_unix_nanos(i64::MAX))).then_some(w.retry_at);
        self.waiting.values().filter_map(due).min()
    }

    /// How many pods wait for a decision now.
    pub fn backlog(&self) -> usize {
        self.active.len()
    }

    /// Decides about at most `max` pods, most important first.
    pub fn decide(&mut self, now: Timestamp, max: usize) -> Vec<Decision> {
        let due: Vec<ObjectKey> =
            self.waiting.iter().filter(|(_, w)| w.moved && w.retry_at <= now).map(|(k, _)| k.clone()).collect();
        for key in due {
            // The attempts are kept until the pod is placed or gone.
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.moved = false;
            }
            if let Some(pod) = self.pending.get(&key) {
                self.active.insert(place_of(&key, pod));
            }
        }
        let mut decisions = Vec::new();
        while decisions.len() < max {
            let Some((_, _, key)) = self.active.pop_first() else { break };
            let Some(pod) = self.pending.get(&key).cloned() else { continue };
            decisions.push(self.decide_one(key, &pod, now));
        }
        decisions
    }

    fn decide_one(&mut self, key: ObjectKey, pod: &Arc<Value>, now: Timestamp) -> Decision {
        match self.choose(&key, pod) {
            Ok(node) => {
                self.pending.remove(&key);
                self.nominated.remove(&key);
                self.waiting.remove(&key);
                self.place(key.clone(), pod.clone(), node.clone(), true);
                let message = format!("Successfully assigned {key} to {node}");
                let uid = meta::uid(pod).into();
                let actions = vec![
                    Action::Bind { pod: key.clone(), uid, node: node.clone() },
                    Action::event(pod, "Scheduled", message),
                ];
                Decision { pod: key, node: Some(node), actions }
            }
            Err(misfits) => {
                self.wait(&key, now, false);
                let actions = self.make_room(&key, pod, &misfits, now);
                Decision { pod: key, node: None, actions }
            }
        }
    }

    /// What is done for a pod that fits nowhere: less important ones go, or its owner is told why it waits.
    fn make_room(&mut self, key: &ObjectKey, pod: &Arc<Value>, misfits: &Misfits, now: Timestamp) -> Vec<Action> {
        if self.nodes.is_empty() {
            return unschedulable(pod, "no nodes available to schedule pods", None, now);
        }
        let head = explain(self.nodes.len(), misfits);
        if let Some(why) = preempt::ineligible(self, pod, misfits) {
            return unschedulable(pod, &format!("{head} preemption: {why}"), None, now);
        }
        match preempt::preempt(self, pod, misfits, now) {
            Some((node, mut actions)) => {
                self.nominated.insert(key.clone(), node.clone());
                actions.extend(unschedulable(pod, &head, Some(&node), now));
                actions
            }
            None => {
                let why = in_vain(self.nodes.len(), misfits);
                unschedulable(pod, &format!("{head} preemption: {why}"), None, now)
            }
        }
    }

    /// The node as it will be when the pods have come for which room is kept there, those that matter less than this one
    /// left out.
    fn expected(&self, key: &ObjectKey, pod: &Value, name: &CompactString) -> Option<Node> {
        let others = self.nominated.iter().filter(|(other, node)| *node == name && *other != key);
        let others = others.filter_map(|(other, _)| Some((other, self.pending.get(other)?)));
        let mut more = others.filter(|(_, other)| priority(other) >= priority(pod)).peekable();
        more.peek()?;
        let mut node = self.nodes.get(name)?.clone();
        more.for_each(|(other, object)| node.account(other, object, true));
        Some(node)
    }

    /// The best node, or why each does not fit.
    fn choose(&mut self, key: &ObjectKey, pod: &Value) -> Result<CompactString, Misfits> {
        if self.nodes.is_empty() {
            return Err(BTreeMap::new());
        }
        let candidate = filter::Candidate::new(pod, &self.nodes, &self.refusing);
        let enough = enough_nodes(self.nodes.len());
        let start = self.rng.below(self.nodes.len() as u64) as usize;
        let mut feasible: Vec<(&CompactString, i64)> = Vec::new();
        let mut misfits = Misfits::new();
        let misfit = |name: &CompactString, node: &Node| {
            let expected = if self.nominated.is_empty() { None } else { self.expected(key, pod, name) };
            candidate.check(node).or_else(|| expected.and_then(|node| candidate.check(&node)))
        };
        // Where room was made for it, it goes.
        let own = pod.str_at(&["status", "nominatedNodeName"]);
        if let Some((name, _)) = self.nodes.get_key_value(own).filter(|(name, node)| misfit(name, node).is_none()) {
            return Ok(name.clone());
        }
        for (name, node) in self.nodes.iter().skip(start).chain(self.nodes.iter().take(start)) {
            match misfit(name, node) {
                Some(misfit) => drop(misfits.insert(name.clone(), misfit)),
                None => feasible.push((name, score::score(&candidate, node))),
            }
            if feasible.len() >= enough {
                break;
            }
        }
        let Some(best) = feasible.iter().map(|(_, score)| *score).max() else {
            return Err(misfits);
        };
        let mut ties: Vec<&CompactString> = feasible.iter().filter(|(_, s)| *s == best).map(|(n, _)| *n).collect();
        ties.sort();
        Ok(ties[self.rng.below(ties.len() as u64) as usize].clone())
    }
}

impl Node {
    fn account(&mut self, key: &ObjectKey, pod: &Arc<Value>, add: bool) {
        if add == self.pods.contains_key(key) {
            return;
        }
        self.requested.add(&of_pod(pod), if add { 1 } else { -1 });
        let owner = meta::controller_of(pod).map(|o| CompactString::from(o.str_at(&["uid"])));
        if add {
            self.pods.insert(key.clone(), pod.clone());
            host_ports(pod).into_iter().for_each(|p| *self.ports.entry(p).or_default() += 1);
            owner.into_iter().for_each(|o| *self.owners.entry(o).or_default() += 1);
        } else {
            self.pods.remove(key);
            host_ports(pod).into_iter().for_each(|p| less(&mut self.ports, p));
            owner.into_iter().for_each(|o| less(&mut self.owners, o));
        }
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let std::collections::btree_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

fn priority(pod: &Value) -> i64 {
    conditions::int(pod, &["spec", "priority"], 0)
}

fn place_of(key: &ObjectKey, pod: &Value) -> Place {
    (Reverse(priority(pod)), meta::creation_timestamp(pod), key.clone())
}

/// How many feasible nodes are enough: all of a small cluster, a shrinking share of a large one.
fn enough_nodes(all: usize) -> usize {
    if all < FEASIBLE_MIN {
        return all;
    }
    let percent = 50_usize.saturating_sub(all / 125).max(5);
    (all * percent / 100).max(FEASIBLE_MIN)
}

type Misfits = BTreeMap<CompactString, Misfit>;

/// `3 of this, 1 of that`, in the order of the text.
fn listed<'a>(all: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{all} nodes are available: {}.", parts.join(", "))
}

/// Upstream's sentence: how many nodes, how many of each reason.
fn explain(all: usize, misfits: &Misfits) -> String {
    listed(all, misfits.values().flat_map(|m| m.reasons.iter().map(String::as_str)))
}

/// And why preemption does not help.
fn in_vain(all: usize, misfits: &Misfits) -> String {
    let outcome = |m: &Misfit| match m.resolvable {
        true => "No preemption victims found for incoming pod",
        false => "Preemption is not helpful for scheduling",
    };
    listed(all, misfits.values().map(outcome))
}

fn unschedulable(pod: &Value, message: &str, nominated: Option<&str>, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut list = pod["status"]["conditions"].clone();
    let mut condition = conditions::new("PodScheduled", "False", "Unschedulable", message, now);
    condition.set("lastProbeTime", Value::Null);
    let mut status = Value::object();
    if conditions::set(&mut list, condition) {
        status.set("conditions", list);
    }
    if let Some(node) = nominated.filter(|node| *node != pod.str_at(&["status", "nominatedNodeName"])) {
        status.set("nominatedNodeName", node);
    }
    if status.members().next().is_some() {
        let patch = json!({"metadata": {"uid": meta::uid(pod)}, "status": status});
        actions.push(Action::patch(&PODS, pod, "status", patch));
    }
    actions.push(Action::warning(pod, "FailedScheduling", message));
    actions
}

#[cfg(test)]
mod tests;
