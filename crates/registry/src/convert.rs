//! Between versions of a kind. Most built-ins have one version, and custom resources without a webhook change their
//! `apiVersion` only; what is left is the autoscaler and events.

use std::sync::Arc;

use machinery::{Value, json};

use crate::row::Resource;

/// The object as `to` shows it. Custom resources whose definition names a webhook are the caller's to convert.
#[must_use]
pub fn convert(object: &Value, to: &Resource) -> Value {
    let from = object.str_at(&["apiVersion"]);
    let target = to.api_version();
    if from == target {
        return object.clone();
    }
    let mut converted = match (from, target.as_str()) {
        ("v1", "events.k8s.io/v1") => event_to_new(object),
        ("events.k8s.io/v1", "v1") => event_to_core(object),
        ("autoscaling/v2", "autoscaling/v1") => autoscaler_to_v1(object),
        ("autoscaling/v1", "autoscaling/v2") => autoscaler_to_v2(object),
        _ => object.clone(),
    };
    converted.set("apiVersion", target);
    converted
}

/// As [`convert`], without a copy when the object is in that version already.
#[must_use]
pub fn shared(object: &Arc<Value>, to: &Resource) -> Arc<Value> {
    if object.str_at(&["apiVersion"]) == to.api_version() { object.clone() } else { Arc::new(convert(object, to)) }
}

/// The object in the version it is stored in, under that version's `apiVersion`.
#[must_use]
pub fn to_storage(object: &Value, row: &Resource, storage: &Resource) -> Value {
    debug_assert_eq!(row.plural, storage.plural, "both rows are of one resource");
    convert(object, storage)
}

/// core name, events.k8s.io name
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn event_to_new(object: &Value) -> Value {
    let mut event = renamed(object, |name| EVENT_FIELDS.iter().find(|(core, _)| *core == name).map(|(_, new)| *new));
    if let Some(component) = event.remove("reportingComponent") {
        event.set("reportingController", component);
    }
    event
}

/// An event of either group with core's names.
pub(crate) fn event_as_core(object: &Value) -> Value {
    event_to_core(object)
}

fn event_to_core(object: &Value) -> Value {
    let mut event = renamed(object, |name| EVENT_FIELDS.iter().find(|(_, new)| *new == name).map(|(core, _)| *core));
    if let Some(controller) = event.remove("reportingController") {
        event.set("reportingComponent", controller);
    }
    event
}

fn renamed(object: &Value, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    object.members().map(|(name, value)| (rename(name).unwrap_or(name).to_owned(), value.clone())).collect()
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// v1 knows one metric, the average CPU utilization; all else rides in annotations.
fn autoscaler_to_v1(object: &Value) -> Value {
    let mut v1 = object.clone();
    let mut annotations: Vec<(&str, String)> = Vec::new();
    let metrics = v1["spec"].remove("metrics").unwrap_or_default();
    let (cpu, others): (Vec<_>, Vec<_>) = metrics.items().iter().cloned().partition(is_cpu_utilization);
    if let Some(first) = cpu.first() {
        let target = first["resource"]["target"]["averageUtilization"].clone();
        v1["spec"].set("targetCPUUtilizationPercentage", target);
    }
    if !others.is_empty() {
        annotations.push((METRICS, Value::Array(others).to_string()));
    }
    if let Some(behavior) = v1["spec"].remove("behavior") {
        annotations.push((BEHAVIOR, behavior.to_string()));
    }
    if v1["status"].as_object().is_some() {
        let current = v1["status"].remove("currentMetrics").unwrap_or_default();
        let (cpu, others): (Vec<_>, Vec<_>) = current.items().iter().cloned().partition(is_cpu_current);
        if let Some(first) = cpu.first() {
            let now = first["resource"]["current"]["averageUtilization"].clone();
            v1["status"].set("currentCPUUtilizationPercentage", now);
        }
        if !others.is_empty() {
            annotations.push((CURRENT_METRICS, Value::Array(others).to_string()));
        }
        if let Some(conditions) = v1["status"].remove("conditions").filter(|c| !c.items().is_empty()) {
            annotations.push((CONDITIONS, conditions.to_string()));
        }
    }
    for (name, text) in annotations {
        *v1.at_mut(&["metadata", "annotations", name]) = text.into();
    }
    v1
}

fn autoscaler_to_v2(object: &Value) -> Value {
    let mut v2 = object.clone();
    let mut take = |name: &str| -> Option<Value> {
        let text = v2.at_mut(&["metadata"]).get_mut("annotations")?.remove(name)?;
        Value::from_slice(text.as_str()?.as_bytes()).ok()
    };
    let (metrics, current, behavior, conditions) =
        (take(METRICS), take(CURRENT_METRICS), take(BEHAVIOR), take(CONDITIONS));
    if v2["metadata"]["annotations"].as_object().is_some_and(machinery::Object::is_empty) {
        v2["metadata"].remove("annotations");
    }
    let mut all: Vec<Value> = Vec::new();
    if let Some(target) = v2["spec"].remove("targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": target.as_i64()});
        let mut metric = json!({"type": "Resource", "resource": {"name": "cpu"}});
        metric["resource"].set("target", target);
        all.push(metric);
    }
    all.extend(metrics.unwrap_or_default().items().iter().cloned());
    if !all.is_empty() {
        v2["spec"].set("metrics", Value::Array(all));
    }
    if let Some(behavior) = behavior {
        v2["spec"].set("behavior", behavior);
    }
    if v2["status"].as_object().is_some() {
        let mut all: Vec<Value> = Vec::new();
        if let Some(now) = v2["status"].remove("currentCPUUtilizationPercentage") {
            let mut metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"value": "0"}}});
            *metric.at_mut(&["resource", "current", "averageUtilization"]) = now;
            all.push(metric);
        }
        all.extend(current.unwrap_or_default().items().iter().cloned());
        v2["status"].set("currentMetrics", if all.is_empty() { Value::Null } else { Value::Array(all) });
        if let Some(conditions) = conditions {
            v2["status"].set("conditions", conditions);
        }
    }
    v2
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric.str_at(&["resource", "name"]) == "cpu" && metric.at(&["resource", "target", "averageUtilization"]).is_some()
}

fn is_cpu_current(metric: &Value) -> bool {
    metric.str_at(&["resource", "name"]) == "cpu" && metric.at(&["resource", "current", "averageUtilization"]).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_and_an_autoscaler_survive_the_way_there_and_back() {
        let event = json!({"apiVersion": "v1", "kind": "Event", "message": "m", "involvedObject": {"name": "p"},
            "reportingComponent": "c", "count": 3, "metadata": {"name": "e"}});
        let new = event_to_new(&event);
        assert_eq!(new["note"], "m".into());
        assert_eq!(event_to_core(&new), event);
        let v2 = json!({"spec": {"maxReplicas": 3, "behavior": {"scaleUp": {}}, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}}]},
            "metadata": {"name": "h"}});
        let v1 = autoscaler_to_v1(&v2);
        assert_eq!(v1["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(autoscaler_to_v2(&v1), v2);
    }
}
