//! Preemption: room for an important pod, taken from less important ones.
//!
//! ```text
//!  fits nowhere ──► per node: would it fit without less important pods? which of them may stay all the same?
//!      ──► the node where that hurts least ──► status.nominatedNodeName; its victims are marked and deleted
//! ```
//!
//! The pod is decided about again when the victims are gone. Until then the room they leave is kept for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use machinery::{CompactString, ObjectKey, Value, json, meta};

use super::filter::Candidate;
use super::{Misfits, Node, Scheduler, priority};
use crate::conditions::{self, int, time};
use crate::resource::PODS;
use crate::{Action, selector};

/// Reason of the condition `DisruptionTarget` on a victim.
const BY_SCHEDULER: &str = "PreemptionByScheduler";

type Nodes = BTreeMap<CompactString, Node>;
type Victims = BTreeMap<ObjectKey, Arc<Value>>;

/// One way to make room.
struct Plan<'a> {
    node: &'a CompactString,
    victims: Victims,
    /// How many of them a disruption budget would have kept.
    violations: usize,
}

/// Why preemption was not tried, in upstream's words; none when it was.
pub(super) fn ineligible(scheduler: &Scheduler, pod: &Value, misfits: &Misfits) -> Option<&'static str> {
    if pod.str_at(&["spec", "preemptionPolicy"]) == "Never" {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = pod.str_at(&["status", "nominatedNodeName"]);
    let node = scheduler.nodes.get(nominated)?;
    if misfits.get(nominated).is_some_and(|m| !m.resolvable) {
        return None;
    }
    let leaving = |other: &Arc<Value>| {
        let marked = conditions::of(other, "DisruptionTarget").is_some_and(|c| c.str_at(&["reason"]) == BY_SCHEDULER);
        priority(other) < priority(pod) && meta::is_terminating(other) && marked
    };
    node.pods.values().any(leaving).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The node to free for a pod and what to do for that; none when nothing helps.
pub(super) fn preempt(
    scheduler: &Scheduler,
    pod: &Arc<Value>,
    misfits: &Misfits,
    now: Timestamp,
) -> Option<(CompactString, Vec<Action>)> {
    let lesser_on = |name: &CompactString| {
        scheduler.nodes.get(name).is_some_and(|node| node.pods.values().any(|p| priority(p) < priority(pod)))
    };
    let mut helpful = misfits.iter().filter(|(name, misfit)| misfit.resolvable && lesser_on(name)).peekable();
    helpful.peek()?;
    // Only one node at a time differs from what is.
    let mut nodes = scheduler.nodes.clone();
    let plans = helpful.filter_map(|(name, _)| plan(scheduler, pod, &mut nodes, name));
    let best = plans.min_by_key(|p| cost(p, now))?;
    let mut actions = Vec::new();
    for victim in best.victims.values().filter(|v| !meta::is_terminating(v)) {
        actions.extend(evict(&scheduler.name, pod, victim, best.node, now));
    }
    let lesser = scheduler.nominated.iter().filter(|(_, node)| *node == best.node);
    let lesser = lesser.filter_map(|(key, _)| scheduler.pending.get(key)).filter(|p| priority(p) < priority(pod));
    actions.extend(lesser.map(|other| {
        let patch = json!({"metadata": {"uid": meta::uid(other)}, "status": {"nominatedNodeName": Value::Null}});
        Action::patch(&PODS, other, "status", patch)
    }));
    Some((best.node.clone(), actions))
}

/// The pods to take from one node, if that makes room at all.
fn plan<'a>(scheduler: &Scheduler, pod: &Value, nodes: &mut Nodes, name: &'a CompactString) -> Option<Plan<'a>> {
    let whole = nodes.get(name)?.clone();
    let mut lesser: Vec<(ObjectKey, Arc<Value>)> =
        whole.pods.iter().filter(|(_, p)| priority(p) < priority(pod)).map(|(k, p)| (k.clone(), p.clone())).collect();
    let mut stripped = whole.clone();
    lesser.iter().for_each(|(key, p)| stripped.account(key, p, false));
    let found = reprieve(scheduler, pod, nodes, stripped, &mut lesser);
    nodes.insert(name.clone(), whole);
    let (victims, violations) = found?;
    Some(Plan { node: name, victims, violations })
}

/// Puts pods back as long as the new one still fits: first those that a budget protects, the most important first.
fn reprieve(
    scheduler: &Scheduler,
    pod: &Value,
    nodes: &mut Nodes,
    mut stripped: Node,
    lesser: &mut [(ObjectKey, Arc<Value>)],
) -> Option<(Victims, usize)> {
    let mut fits = |node: &Node| {
        nodes.insert(meta::name(&node.object).into(), node.clone());
        Candidate::new(pod, nodes, &scheduler.refusing).check(node).is_none()
    };
    if !fits(&stripped) {
        return None;
    }
    let start = |p: &Value| time(p, &["status", "startTime"]).unwrap_or(Timestamp::from_unix_nanos(i64::MAX));
    lesser.sort_by_key(|(_, p)| (Reverse(priority(p)), start(p)));
    let mut allowed: Vec<(&Arc<Value>, i64)> =
        scheduler.budgets.values().map(|b| (b, int(b, &["status", "disruptionsAllowed"], 0))).collect();
    let (protected, free): (Vec<_>, Vec<_>) = lesser.iter().partition(|(_, victim)| violates(&mut allowed, victim));
    let (mut victims, mut violations) = (Victims::new(), 0);
    for (n, (key, other)) in protected.iter().chain(&free).enumerate() {
        stripped.account(key, other, true);
        if fits(&stripped) {
            continue;
        }
        stripped.account(key, other, false);
        victims.insert(key.clone(), other.clone());
        violations += usize::from(n < protected.len());
    }
    Some((victims, violations))
}

/// Would losing this pod too go beyond what a budget allows? Each pod uses up what it costs.
fn violates(allowed: &mut [(&Arc<Value>, i64)], pod: &Value) -> bool {
    let mut violated = false;
    let labels = selector::labels(pod);
    for (budget, left) in allowed.iter_mut().filter(|(b, _)| meta::namespace(b) == meta::namespace(pod)) {
        let wanted = &budget["spec"]["selector"];
        let counted = budget["status"]["disruptedPods"].get(meta::name(pod)).is_some();
        if labels.members().next().is_none()
            || selector::is_empty(wanted)
            || counted
            || !selector::matches(wanted, labels)
        {
            continue;
        }
        *left -= 1;
        violated |= *left < 0;
    }
    violated
}

/// What a plan costs: budgets, then the most important victim, then all of them, then their number, then how long the
/// most important ones have run.
fn cost(plan: &Plan<'_>, now: Timestamp) -> (usize, i64, i64, usize, Reverse<Timestamp>) {
    let highest = plan.victims.values().map(|v| priority(v)).max().unwrap_or(i64::MIN);
    // Counted from the lowest of all, so that fewer victims are less also with priorities below zero.
    let sum = plan.victims.values().map(|v| priority(v) + i64::from(i32::MAX) + 1).sum();
    let most = plan.victims.values().filter(|v| priority(v) == highest);
    let earliest = most.map(|v| time(v, &["status", "startTime"]).unwrap_or(now)).min();
    (plan.violations, highest, sum, plan.victims.len(), Reverse(earliest.unwrap_or(now)))
}

/// Marks a victim, then deletes it: who watches it sees why.
fn evict(scheduler: &str, pod: &Value, victim: &Value, node: &str, now: Timestamp) -> Vec<Action> {
    let mut marked = victim.clone();
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let condition = conditions::new("DisruptionTarget", "True", BY_SCHEDULER, &message, now);
    conditions::set(marked.at_mut(&["status", "conditions"]), condition);
    let told = format!("Preempted by pod {} on node {node}", meta::uid(pod));
    vec![Action::update_status(&PODS, marked), Action::delete(&PODS, victim), Action::event(victim, "Preempted", told)]
}
