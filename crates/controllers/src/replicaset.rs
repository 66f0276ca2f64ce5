//! ReplicaSets and ReplicationControllers: as many pods as wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::{GroupVersionResource, Value, json, meta};

use crate::action::owner_key;
use crate::conditions::{find, int};
use crate::resource::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use crate::{Action, Change, Context, Controller, Key, Watch, World, pods, selector, template};

pub(crate) static REPLICA_SET: Controller = Controller {
    name: "replicaset-controller",
    watches: &[Watch::own(&REPLICA_SETS), Watch::map(&PODS, |w, c| owners(w, c, &REPLICA_SETS, "ReplicaSet"))],
    reconcile: |cx, key| reconcile(cx, key, &REPLICA_SETS, "apps/v1", "ReplicaSet"),
    settle_ms: 5,
};

pub(crate) static REPLICATION_CONTROLLER: Controller = Controller {
    name: "replication-controller",
    watches: &[
        Watch::own(&REPLICATION_CONTROLLERS),
        Watch::map(&PODS, |w, c| owners(w, c, &REPLICATION_CONTROLLERS, "ReplicationController")),
    ],
    reconcile: |cx, key| reconcile(cx, key, &REPLICATION_CONTROLLERS, "v1", "ReplicationController"),
    settle_ms: 5,
};

/// The most pods made or deleted in one pass, as upstream's.
const BURST: usize = 500;

/// The owners a changed object concerns: its controller, or for an orphan all that select it.
pub(crate) fn owners(world: &World, change: &Change, resource: &'static GroupVersionResource, kind: &str) -> Vec<Key> {
    let mut keys: Vec<Key> = change.objects().filter_map(|o| owner_key(resource, kind, o)).collect();
    for orphan in change.new.iter().filter(|o| meta::controller_of(o).is_none() && !meta::is_terminating(o)) {
        let candidates = world.in_namespace(resource, meta::namespace(orphan));
        keys.extend(candidates.filter(|s| selects(s, orphan)).map(|s| Key::of(resource, s)));
    }
    keys
}

fn selects(owner: &Value, object: &Value) -> bool {
    let (wanted, labels) = (&owner["spec"]["selector"], selector::labels(object));
    if owner.str_at(&["kind"]) == "ReplicationController" {
        return selector::selects(wanted, labels);
    }
    !selector::is_empty(wanted) && selector::matches(wanted, labels)
}

/// Adopts orphans that the owner's selector matches and lets go of what it does not match any more. Empty when all is
/// well.
pub(crate) fn claim(
    cx: &Context<'_>,
    resource: &'static GroupVersionResource,
    owner: &Value,
    api_version: &str,
    kind: &str,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for object in cx.world.controlled(resource, meta::uid(owner)) {
        if !selects(owner, object) && !meta::is_terminating(object) {
            let kept = |r: &&Value| r.str_at(&["uid"]) != meta::uid(owner);
            let kept: Value = meta::owner_references(object).iter().filter(kept).cloned().collect();
            let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": kept}});
            actions.push(Action::patch(resource, object, "", patch));
        }
    }
    if meta::is_terminating(owner) {
        return actions;
    }
    for object in cx.world.in_namespace(resource, meta::namespace(owner)) {
        // A Job counts pods that ended, others have no use for them.
        let finished = *resource == PODS && kind != "Job" && pods::is_finished(object);
        let orphan = meta::controller_of(object).is_none() && !meta::is_terminating(object);
        if orphan && !finished && selects(owner, object) {
            let mut references = meta::owner_references(object).to_vec();
            references.retain(|r| r.str_at(&["uid"]) != meta::uid(owner));
            references.push(crate::action::controller_reference(owner, api_version, kind));
            let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": references}});
            actions.push(Action::patch(resource, object, "", patch));
        }
    }
    actions
}

fn reconcile(
    cx: &Context<'_>,
    key: &Key,
    resource: &'static GroupVersionResource,
    api_version: &str,
    kind: &str,
) -> Vec<Action> {
    let Some(set) = cx.world.lookup(key) else { return Vec::new() };
    let mut actions = claim(cx, &PODS, set, api_version, kind);
    let released = |p: &&Arc<Value>| selects(set, p);
    let owned: Vec<&Arc<Value>> = cx.world.controlled(&PODS, meta::uid(set)).into_iter().filter(released).collect();
    let active: Vec<&Arc<Value>> = owned.into_iter().filter(|p| pods::is_active(p)).collect();
    let adopting = actions.len();
    let wanted = int(set, &["spec", "replicas"], 1).max(0) as usize;
    let status = status(cx, set, &active, wanted);
    // Before the pods, so that a failing creation does not keep the failure from being told.
    if !template::equal(&status, &set["status"]) {
        let mut object = Value::clone(set);
        object.set("status", status);
        actions.push(Action::update_status(resource, object));
    }
    if !meta::is_terminating(set) && adopting == 0 {
        if active.len() < wanted {
            let count = (wanted - active.len()).min(BURST);
            let pod = template::pod(&set["spec"]["template"], set, api_version, kind);
            let create = || Action::create_with_event(&PODS, pod.clone(), set, "SuccessfulCreate", "Created pod: ");
            actions.extend((0..count).map(|_| create()));
            if let Some(failure) = cx.failure {
                actions.push(Action::warning(set, "FailedCreate", format!("Error creating: {failure}")));
            }
        } else {
            let surplus = surplus(&active, active.len() - wanted);
            for pod in surplus {
                actions.push(Action::delete(&PODS, pod));
                actions.push(Action::event(set, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))));
            }
        }
    }
    if let Some(after) = next_available(cx, set, &active) {
        actions.push(Action::Requeue { after });
    }
    actions
}

/// The pods to give up, worst first.
fn surplus<'a>(active: &[&'a Arc<Value>], count: usize) -> Vec<&'a Arc<Value>> {
    if count == 0 {
        return Vec::new();
    }
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in active {
        *on_node.entry(pod.str_at(&["spec", "nodeName"])).or_default() += 1;
    }
    let crowd = |p: &Value| on_node.get(p.str_at(&["spec", "nodeName"])).copied().unwrap_or(0);
    let mut sorted = active.to_vec();
    sorted.sort_by(|a, b| pods::deletion_order(a, b, crowd));
    sorted.truncate(count.min(BURST));
    sorted
}

fn status(cx: &Context<'_>, set: &Value, active: &[&Arc<Value>], wanted: usize) -> Value {
    let min_ready = int(set, &["spec", "minReadySeconds"], 0);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let labeled =
        active.iter().filter(|p| labels.members().all(|(k, v)| selector::labels(p).get(k) == Some(v))).count();
    let ready = active.iter().filter(|p| pods::is_ready(p)).count();
    let available = active.iter().filter(|p| pods::available(p, min_ready, cx.now).is_ok()).count();
    // `replicas` is the one count that Go writes when it is zero.
    let mut status = json!({"observedGeneration": meta::generation(set), "replicas": active.len()});
    for (field, count) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if count > 0 {
            status.set(field, count);
        }
    }
    let mut conditions = set["status"]["conditions"].clone();
    match (cx.failure, find(&conditions, "ReplicaFailure")) {
        (Some(failure), None) if active.len() != wanted => {
            let reason = if active.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            let message = failure.to_string();
            crate::conditions::set(
                &mut conditions,
                crate::conditions::new("ReplicaFailure", "True", reason, &message, cx.now),
            );
        }
        (None, Some(_)) => crate::conditions::remove(&mut conditions, "ReplicaFailure"),
        _ => {}
    }
    if !conditions.items().is_empty() {
        status.set("conditions", conditions);
    }
    status
}

/// How long until the next ready pod has been ready for long enough.
fn next_available(cx: &Context<'_>, set: &Value, active: &[&Arc<Value>]) -> Option<Duration> {
    let min_ready = int(set, &["spec", "minReadySeconds"], 0);
    let at = active.iter().filter_map(|p| pods::available(p, min_ready, cx.now).err().flatten()).min()?;
    Some(at.since(cx.now))
}
