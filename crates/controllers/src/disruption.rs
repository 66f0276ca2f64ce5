//! PodDisruptionBudgets: how many of their pods may be evicted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::{GroupVersionResource, Value, json, meta};

use crate::conditions::{int, scaled};
use crate::resource::{
    DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
};
use crate::{Action, Change, Context, Controller, Key, Watch, World, conditions, pods, selector, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "disruption-controller",
    watches: &[
        Watch::own(&POD_DISRUPTION_BUDGETS),
        Watch::map(&PODS, |world, change| {
            let covers = |b: &&Arc<Value>| change.objects().any(|pod| covers(b, pod));
            in_namespace(world, change)
                .into_iter()
                .filter(covers)
                .map(|b| Key::of(&POD_DISRUPTION_BUDGETS, b))
                .collect()
        }),
        Watch::map(&DEPLOYMENTS, all),
        Watch::map(&REPLICA_SETS, all),
        Watch::map(&REPLICATION_CONTROLLERS, all),
        Watch::map(&STATEFUL_SETS, all),
    ],
    reconcile,
    settle_ms: 5,
};

/// An eviction that no deletion has followed within this time is forgotten.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

fn in_namespace<'a>(world: &'a World, change: &Change) -> Vec<&'a Arc<Value>> {
    let Some(object) = change.objects().next() else { return Vec::new() };
    world.in_namespace(&POD_DISRUPTION_BUDGETS, meta::namespace(object)).collect()
}

/// Every budget of the namespace, when the number of replicas changed.
fn all(world: &World, change: &Change) -> Vec<Key> {
    let replicas = |o: &Option<Arc<Value>>| o.as_ref().map(|o| o["spec"]["replicas"].clone());
    if replicas(&change.old) == replicas(&change.new) {
        return Vec::new();
    }
    in_namespace(world, change).into_iter().map(|b| Key::of(&POD_DISRUPTION_BUDGETS, b)).collect()
}

/// An empty selector covers every pod of the namespace, an absent one none (`policy/v1`).
fn covers(budget: &Value, pod: &Value) -> bool {
    let wanted = &budget["spec"]["selector"];
    !wanted.is_null() && selector::matches(wanted, selector::labels(pod))
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(budget) = cx.world.lookup(key) else { return Vec::new() };
    let namespace = meta::namespace(budget);
    let covered: Vec<&Arc<Value>> = cx.world.in_namespace(&PODS, namespace).filter(|p| covers(budget, p)).collect();
    let (pending, next) = pending(cx, budget, &covered);
    let healthy =
        |p: &&&Arc<Value>| !meta::is_terminating(p) && pods::is_ready(p) && pending.get(meta::name(p)).is_none();
    let current = covered.iter().filter(healthy).count() as i64;
    let mut status = json!({"observedGeneration": meta::generation(budget), "currentHealthy": current});
    if pending.members().next().is_some() {
        status.set("disruptedPods", pending);
    }
    let (expected, desired, failure) = match expectation(cx.world, budget, &covered) {
        Ok((expected, desired)) => (expected, desired, None),
        Err(text) => (covered.len() as i64, 0, Some(text)),
    };
    let allowed = if expected <= 0 || failure.is_some() { 0 } else { (current - desired).max(0) };
    for (field, count) in [("desiredHealthy", desired), ("expectedPods", expected), ("disruptionsAllowed", allowed)] {
        status.set(field, count);
    }
    let mut list = budget["status"]["conditions"].clone();
    let (state, reason) = match (&failure, allowed > 0) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, true) => ("True", "SufficientPods"),
        (None, false) => ("False", "InsufficientPods"),
    };
    let mut condition = conditions::new("DisruptionAllowed", state, reason, failure.as_deref().unwrap_or(""), cx.now);
    condition.set("observedGeneration", meta::generation(budget));
    if failure.is_none() {
        condition.set("message", "");
    }
    conditions::set(&mut list, condition);
    status.set("conditions", list);
    let mut actions = Vec::new();
    if !template::equal(&status, &budget["status"]) {
        let mut object = Value::clone(budget);
        object.set("status", status);
        actions.push(Action::update_status(&POD_DISRUPTION_BUDGETS, object));
        if let Some(text) = failure {
            actions.push(Action::warning(budget, "CalculateExpectedPodCountFailed", text));
        } else if covered.is_empty() {
            actions.push(Action::event(budget, "NoPods", "No matching pods found"));
        }
    }
    actions.extend(next.map(|after| Action::Requeue { after }));
    actions
}

/// Evictions that were granted and whose pods are still there, and when the first of them times out.
fn pending(cx: &Context<'_>, budget: &Value, covered: &[&Arc<Value>]) -> (Value, Option<Duration>) {
    let (mut kept, mut next) = (Value::object(), None);
    for (name, since) in budget["status"]["disruptedPods"].members() {
        let Some(granted) = since.as_str().and_then(|t| base::Timestamp::parse(t).ok()) else { continue };
        let until = granted + EVICTION_TIMEOUT;
        let there = covered.iter().any(|p| meta::name(p) == name && !meta::is_terminating(p));
        if there && until > cx.now {
            kept.set(name, since.clone());
            let left = until.since(cx.now);
            next = Some(next.map_or(left, |n: Duration| n.min(left)));
        }
    }
    (kept, next)
}

/// How many pods there should be, and how many of them must stay healthy. A share or a maximum needs the pods'
/// controllers, which say how many pods they want.
fn expectation(world: &World, budget: &Value, covered: &[&Arc<Value>]) -> Result<(i64, i64), String> {
    let spec = &budget["spec"];
    let most = &spec["maxUnavailable"];
    if !most.is_null() {
        let expected = wanted_by_controllers(world, covered)?;
        return Ok((expected, (expected - scaled(most, expected, true)).max(0)));
    }
    match &spec["minAvailable"] {
        Value::Int(n) => Ok((covered.len() as i64, *n)),
        Value::Null => Ok((covered.len() as i64, 0)),
        share => {
            let expected = wanted_by_controllers(world, covered)?;
            Ok((expected, scaled(share, expected, true)))
        }
    }
}

fn wanted_by_controllers(world: &World, covered: &[&Arc<Value>]) -> Result<i64, String> {
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for pod in covered {
        let Some(owner) = meta::controller_of(pod) else { continue };
        let namespace = meta::namespace(pod);
        let (kind, name) = (owner.str_at(&["kind"]), owner.str_at(&["name"]));
        let found = |resource: &GroupVersionResource, name: &str| world.get(resource, namespace, name);
        let set = match kind {
            "ReplicaSet" => {
                let set = found(&REPLICA_SETS, name);
                let above = set.and_then(|s| meta::controller_of(s)).filter(|o| o.str_at(&["kind"]) == "Deployment");
                above.and_then(|o| found(&DEPLOYMENTS, o.str_at(&["name"]))).or(set)
            }
            "ReplicationController" => found(&REPLICATION_CONTROLLERS, name),
            "StatefulSet" => found(&STATEFUL_SETS, name),
            _ => None,
        };
        let Some(set) = set else {
            return Err(format!("found no controllers for pod {:?}", meta::name(pod)));
        };
        wanted.insert(meta::uid(set).to_owned(), int(set, &["spec", "replicas"], 1));
    }
    Ok(wanted.values().sum())
}
