//! What users can rely on from the scheduler.

use super::*;

fn node(name: &str, cpu: &str, extra: Value) -> Change {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}, "spec": {}});
    for (key, value) in extra.members() {
        node["spec"].set(key, value.clone());
    }
    Change { resource: NODES.group_resource(), old: None, new: Some(Arc::new(node)) }
}

fn pod(name: &str, cpu: &str, extra: Value) -> Change {
    let mut pod = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    for (key, value) in extra.members() {
        pod["spec"].set(key, value.clone());
    }
    Change { resource: PODS.group_resource(), old: None, new: Some(Arc::new(pod)) }
}

fn run(changes: Vec<Change>) -> Vec<String> {
    let mut scheduler = Scheduler::new("default-scheduler", 1);
    changes.iter().for_each(|c| scheduler.observe(c));
    let decisions = scheduler.decide(Timestamp::EPOCH, 100);
    let told = |d: Decision| match (d.node, d.actions.last()) {
        (Some(node), _) => format!("{} {node}", d.pod.name),
        (None, Some(Action::Event(event))) => format!("{} {}", d.pod.name, event.message),
        (None, _) => unreachable!("a failure is always told"),
    };
    decisions.into_iter().map(told).collect()
}

#[test]
fn pods_spread_and_then_wait_with_the_reason() {
    let mut changes: Vec<Change> = ["a", "b"].iter().map(|n| node(n, "1", Value::object())).collect();
    changes.extend(["p1", "p2", "p3"].iter().map(|n| pod(n, "600m", Value::object())));
    let mut told = run(changes);
    let reason = "p3 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
                  2 No preemption victims found for incoming pod.";
    assert_eq!(told.pop().unwrap(), reason);
    let nodes: BTreeSet<&str> = told.iter().map(|t| &t[3..]).collect();
    assert_eq!(nodes.len(), 2, "{told:?}");
}

#[test]
fn taints_selectors_and_cordons_are_told_apart() {
    let changes = vec![
        node("a", "1", json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]})),
        node("b", "1", json!({"unschedulable": true})),
        node("c", "1", Value::object()),
        pod("p", "1m", json!({"nodeSelector": {"disk": "ssd"}})),
    ];
    let reason = "p 0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had \
                  untolerated taint {k: v}, 1 node(s) were unschedulable. preemption: 0/3 nodes are available: \
                  3 Preemption is not helpful for scheduling.";
    assert_eq!(run(changes), [reason]);
}

#[test]
fn anti_affinity_keeps_replicas_apart() {
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let mut changes: Vec<Change> = ["a", "b"].iter().map(|n| node(n, "1", Value::object())).collect();
    changes.extend(["p1", "p2", "p3"].iter().map(|n| pod(n, "1m", apart.clone())));
    let told = run(changes);
    assert!(told[2].contains("2 node(s) didn't match pod anti-affinity rules"), "{told:?}");
}

#[test]
fn a_more_important_pod_goes_first_and_a_freed_place_is_used() {
    let mut scheduler = Scheduler::new("default-scheduler", 1);
    scheduler.observe(&node("a", "1", Value::object()));
    scheduler.observe(&pod("low", "1", Value::object()));
    scheduler.observe(&pod("high", "1", json!({"priority": 9})));
    let first = scheduler.decide(Timestamp::EPOCH, 9);
    assert_eq!((first[0].pod.name.as_str(), first[1].node.is_some()), ("high", false));
    assert!(scheduler.next_wake().is_none(), "nothing changed, nothing to try");
    let high = pod("high", "1", json!({"priority": 9}));
    scheduler.observe(&Change { resource: high.resource.clone(), old: high.new, new: None });
    let at = scheduler.next_wake().expect("worth another attempt");
    assert_eq!(scheduler.decide(at, 9)[0].node.as_deref(), Some("a"));
}

fn placed(name: &str, cpu: &str, node: &str, priority: i64) -> Change {
    pod(name, cpu, json!({"nodeName": node, "priority": priority}))
}

/// Node that is freed, and the victims.
fn preempted(changes: Vec<Change>) -> (String, Vec<String>) {
    let mut scheduler = Scheduler::new("default-scheduler", 1);
    changes.iter().for_each(|c| scheduler.observe(c));
    let decision = scheduler.decide(Timestamp::EPOCH, 1).pop().expect("there is a pod to decide about");
    let (mut node, mut victims) = (String::new(), Vec::new());
    for action in decision.actions {
        match action {
            Action::Patch { patch, .. } => node = patch.str_at(&["status", "nominatedNodeName"]).to_owned(),
            Action::Delete { object, .. } => victims.push(object.name.to_string()),
            _ => {}
        }
    }
    (node, victims)
}

fn budget(allowed: i64) -> Change {
    let budget = json!({"metadata": {"name": "b", "namespace": "d"}, "status": {"disruptionsAllowed": allowed},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    Change { resource: POD_DISRUPTION_BUDGETS.group_resource(), old: None, new: Some(Arc::new(budget)) }
}

#[test]
fn an_important_pod_takes_room_where_it_hurts_least() {
    let nodes = || vec![node("a", "1", Value::object()), node("b", "1", Value::object())];
    let check = |others: Vec<Change>, important: Change, expect: (&str, &[&str])| {
        let all = nodes().into_iter().chain(others).chain([important]).collect();
        let (node, victims) = preempted(all);
        assert_eq!((node.as_str(), victims.iter().map(String::as_str).collect::<Vec<_>>().as_slice()), expect);
    };
    let important = || pod("p", "600m", json!({"priority": 9}));
    check(vec![placed("x", "1", "a", 5), placed("y", "1", "b", 3)], important(), ("b", &["y"]));
    // As few as make room, the least important ones.
    let four = vec![placed("x", "1", "a", 9), placed("u", "300m", "b", 4), placed("v", "300m", "b", 2)];
    check(four, pod("p", "500m", json!({"priority": 9})), ("b", &["v"]));
    // Nobody gives way to an equal, nor to one that does not want it.
    check(vec![placed("x", "1", "a", 9), placed("y", "1", "b", 9)], important(), ("", &[]));
    let meek = pod("p", "600m", json!({"priority": 9, "preemptionPolicy": "Never"}));
    check(vec![placed("x", "1", "a", 1), placed("y", "1", "b", 1)], meek, ("", &[]));
    // Budgets weigh more than importance.
    let mut other = placed("x", "1", "a", 5);
    let mut object = Value::clone(other.new.as_ref().unwrap());
    object["metadata"].set("labels", json!({"app": "db"}));
    other.new = Some(Arc::new(object));
    check(vec![other, placed("y", "1", "b", 3), budget(0)], important(), ("a", &["x"]));
}

#[test]
fn room_that_was_made_is_kept() {
    let mut scheduler = Scheduler::new("default-scheduler", 1);
    scheduler.observe(&node("a", "1", Value::object()));
    scheduler.observe(&placed("x", "1", "a", 1));
    scheduler.observe(&pod("p", "800m", json!({"priority": 9})));
    assert!(scheduler.decide(Timestamp::EPOCH, 1)[0].node.is_none());
    let gone = placed("x", "1", "a", 1);
    scheduler.observe(&Change { resource: gone.resource.clone(), old: gone.new, new: None });
    scheduler.observe(&pod("q", "500m", json!({"priority": 5})));
    let decided = scheduler.decide(Timestamp::EPOCH, 1);
    assert_eq!((decided[0].pod.name.as_str(), decided[0].node.is_none()), ("q", true));
    let at = scheduler.next_wake().expect("its victim is gone");
    let decided: Vec<(String, bool)> =
        scheduler.decide(at, 9).into_iter().map(|d| (d.pod.name.to_string(), d.node.is_some())).collect();
    assert_eq!(decided[0], ("p".to_owned(), true));
}
