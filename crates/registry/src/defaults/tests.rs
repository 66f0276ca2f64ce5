//! The table against upstream's own answers.

use machinery::{GroupVersionKind, Value, json};

use machinery::schema::{self, Types};

use super::*;

const UPSTREAM: &str = include_str!("../../testdata/defaults/upstream.jsonl");

fn table() -> Defaults {
    Defaults::parse(facts::newest().defaults)
}

fn gvk(object: &Value) -> GroupVersionKind {
    GroupVersionKind::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"]))
}

/// The paths where two trees differ, with both values.
fn differences(path: &str, got: &Value, want: &Value, found: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a.iter() {
                differences(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| a.get(key).is_none()) {
                differences(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), x, y, found);
            }
        }
        _ if got != want => found.push(format!("{path}: got {got}, upstream {want}")),
        _ => {}
    }
}

#[test]
fn every_rule_of_the_table_is_read() {
    let defaults = table();
    assert!(defaults.rules.len() > 60);
    for rules in defaults.rules.values() {
        for rule in rules {
            if let Action::Use(name) = rule.action {
                assert!(defaults.rules.contains_key(name), "no rules for {name}");
            }
        }
    }
}

#[test]
fn objects_are_defaulted_as_by_upstream() {
    let defaults = table();
    let mut failures = Vec::new();
    for line in UPSTREAM.lines() {
        let pair = Value::from_slice(line.as_bytes()).expect("recorded JSON");
        let (mut object, want) = (pair["in"].clone(), &pair["out"]);
        let gvk = gvk(&object);
        apply(&defaults, &gvk, &mut object);
        let mut found = Vec::new();
        differences("", &object, want, &mut found);
        failures.extend(found.into_iter().map(|text| format!("{}{text}", gvk.kind)));
    }
    // The stored v2 object gets it, so that v1 clients see it.
    failures.retain(|text| !text.starts_with("HorizontalPodAutoscaler.spec.targetCPUUtilizationPercentage"));
    failures.dedup();
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures[..failures.len().min(80)].join("\n"));
}

#[test]
fn defaulting_twice_changes_nothing_more() {
    let defaults = table();
    for line in UPSTREAM.lines() {
        let pair = Value::from_slice(line.as_bytes()).expect("recorded JSON");
        let mut object = pair["out"].clone();
        apply(&defaults, &gvk(&object), &mut object);
        let mut found = Vec::new();
        differences("", &object, &pair["out"], &mut found);
        found.retain(|text| !text.starts_with(".spec.targetCPUUtilizationPercentage"));
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn members_of_the_wrong_type_are_left_alone() {
    let defaults = table();
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": 1, "spec": {"containers": "x", "volumes": [1]}});
    apply(&defaults, &GroupVersionKind::new("", "v1", "Pod"), &mut pod);
    assert_eq!(pod["spec"]["containers"], "x".into());
}

#[test]
fn a_gate_switches_its_rules() {
    let mut defaults = table();
    let set = GroupVersionKind::new("apps", "v1", "StatefulSet");
    let path = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    let mut object = json!({});
    apply(&defaults, &set, &mut object);
    assert_eq!(object.at(&path), None);
    defaults.set_gate("MaxUnavailableStatefulSet", true);
    apply(&defaults, &set, &mut object);
    assert_eq!(object.at(&path).and_then(Value::as_i64), Some(1));
}

const CREATED: &str = include_str!("../../testdata/recorded/created.jsonl");

/// What admission, strategies and allocators add to a created object beyond its defaults: kind and path.
const NOT_DEFAULTS: &[&str] = &[
    // An empty list that went through upstream's storage (protobuf) comes back as null.
    "CSINode.spec.drivers",
    "Job.spec.selector",
    "Job.spec.template.metadata",
    "LocalSubjectAccessReview.",
    "Namespace.spec",
    "Node.spec",
    "PersistentVolume.status.lastPhaseTransitionTime",
    "Pod.spec.containers[].volumeMounts",
    "Pod.spec.preemptionPolicy",
    "Pod.spec.priority",
    "Pod.spec.serviceAccount",
    "Pod.spec.tolerations",
    "Pod.spec.volumes",
    "Pod.status",
    "Secret.data",
    "Secret.stringData",
    "SelfSubject",
    "Service.spec.clusterIP",
    "Service.spec.healthCheckNodePort",
    "Service.spec.ipFamil",
    "Service.spec.ports[].nodePort",
    "StatefulSet.spec.volumeClaimTemplates[].apiVersion",
    "StatefulSet.spec.volumeClaimTemplates[].kind",
    "SubjectAccessReview.status",
    "TokenReview.status",
];

#[test]
fn created_objects_carry_the_defaults_a_real_server_set() {
    let defaults = table();
    let types = Types::new(facts::newest().types);
    let mut unexpected = Vec::new();
    for line in CREATED.lines() {
        let exchange = Value::from_slice(line.as_bytes()).expect("recorded JSON");
        let mut object = exchange["request"].clone();
        let gvk = gvk(&object);
        let name = type_name(&gvk);
        schema::decode(&types, &name, &mut object).expect("the server took it");
        apply(&defaults, &gvk, &mut object);
        schema::decode(&types, &name, &mut object).expect("defaults fit their types");
        added("", &object, &exchange["answer"], &mut |path, got, want| {
            let place = format!("{}{path}", gvk.kind);
            if !NOT_DEFAULTS.iter().any(|known| place.starts_with(known)) && !path.starts_with(".metadata.") {
                unexpected.push(format!("{place}: got {got}, server {want}"));
            }
        });
    }
    unexpected.sort();
    unexpected.dedup();
    assert!(unexpected.is_empty(), "{} differences:\n{}", unexpected.len(), unexpected.join("\n"));
}

/// Reports where the server's answer differs from ours; list positions are left out of the path.
fn added(path: &str, got: &Value, want: &Value, report: &mut dyn FnMut(&str, &Value, &Value)) {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a.iter().filter(|(key, _)| b.get(key).is_none()) {
                added(&format!("{path}.{key}"), value, &Value::Null, report);
            }
            for (key, value) in b.iter() {
                added(&format!("{path}.{key}"), a.get(key).unwrap_or(&Value::Null), value, report);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(x, y)| added(&format!("{path}[]"), x, y, report));
        }
        _ if got == want => {}
        _ => report(path, got, want),
    }
}
