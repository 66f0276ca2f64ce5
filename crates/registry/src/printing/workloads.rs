//! Workloads: deployments, sets, jobs, autoscalers, budgets.

use base::Timestamp;
use machinery::{Value, meta};

use super::{Printed, human_duration};

const TEMPLATE: [&str; 3] = ["spec", "template", "spec"];

pub(super) fn cells(kind: &str, p: Printed<'_>) -> Option<Vec<Value>> {
    Some(match kind {
        "Deployment" => deployment(p),
        "ReplicaSet" | "ReplicationController" => replica_set(kind, p),
        "StatefulSet" => {
            let ready = format!("{}/{}", p.int(&["status", "readyReplicas"]), p.int(&["spec", "replicas"]));
            let [names, images] = p.containers(&TEMPLATE);
            vec![p.name(), ready.into(), p.age(), names, images]
        }
        "DaemonSet" => daemon_set(p),
        "Job" => job(p),
        "CronJob" => cron_job(p),
        "PodTemplate" => {
            let [names, images] = p.containers(&["template", "spec"]);
            vec![p.name(), names, images, p.label_map(&["template", "metadata", "labels"])]
        }
        "HorizontalPodAutoscaler" => autoscaler(p),
        "PodDisruptionBudget" => {
            let bound = |key: &str| match &p.object["spec"][key] {
                Value::Null => "N/A".into(),
                Value::Int(n) => n.to_string().into(),
                other => other.clone(),
            };
            let allowed = p.int(&["status", "disruptionsAllowed"]).into();
            vec![p.name(), bound("minAvailable"), bound("maxUnavailable"), allowed, p.age()]
        }
        "ControllerRevision" => {
            let owner = meta::controller_of(p.object).map_or_else(
                || "<none>".to_owned(),
                |o| {
                    let group = o.str_at(&["apiVersion"]).split_once('/').map_or("", |(g, _)| g);
                    let kind = o.str_at(&["kind"]).to_lowercase();
                    let dot = if group.is_empty() { "" } else { "." };
                    format!("{kind}{dot}{group}/{}", o.str_at(&["name"]))
                },
            );
            vec![p.name(), owner.into(), p.int(&["revision"]).into(), p.age()]
        }
        "Scale" => {
            let count = |part: &str| Value::from(p.int(&[part, "replicas"]));
            vec![p.name(), count("spec"), count("status"), p.age()]
        }
        _ => return None,
    })
}

fn deployment(p: Printed<'_>) -> Vec<Value> {
    let ready = format!("{}/{}", p.int(&["status", "readyReplicas"]), p.int(&["spec", "replicas"]));
    let [names, images] = p.containers(&TEMPLATE);
    let selector = match p.selector(&["spec", "selector"]).as_str() {
        Some("<none>") => "".into(),
        Some("<error>") => "<invalid>".into(),
        other => other.unwrap_or_default().into(),
    };
    let count = |key: &str| Value::from(p.int(&["status", key]));
    vec![p.name(), ready.into(), count("updatedReplicas"), count("availableReplicas"), p.age(), names, images, selector]
}

fn replica_set(kind: &str, p: Printed<'_>) -> Vec<Value> {
    let [names, images] = p.containers(&TEMPLATE);
    let selector =
        if kind == "ReplicaSet" { p.selector(&["spec", "selector"]) } else { p.label_map(&["spec", "selector"]) };
    vec![
        p.name(),
        p.int(&["spec", "replicas"]).into(),
        p.int(&["status", "replicas"]).into(),
        p.int(&["status", "readyReplicas"]).into(),
        p.age(),
        names,
        images,
        selector,
    ]
}

fn daemon_set(p: Printed<'_>) -> Vec<Value> {
    let [names, images] = p.containers(&TEMPLATE);
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    let mut cells = vec![p.name()];
    cells.extend(counts.iter().map(|key| Value::from(p.int(&["status", key]))));
    cells.extend([p.label_map(&[TEMPLATE[0], TEMPLATE[1], TEMPLATE[2], "nodeSelector"]), p.age()]);
    cells.extend([names, images, p.selector(&["spec", "selector"])]);
    cells
}

fn job(p: Printed<'_>) -> Vec<Value> {
    let succeeded = p.int(&["status", "succeeded"]);
    let completions = match (p.object["spec"]["completions"].as_i64(), p.int(&["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |key: &str| Timestamp::parse(p.text(&["status", key])).ok();
    let duration = time("startTime").map_or_else(String::new, |start| {
        let end = time("completionTime").unwrap_or(p.now);
        human_duration((end.unix_nanos() - start.unix_nanos()).div_euclid(1_000_000_000))
    });
    let has = |name: &str| p.condition(name).is_some_and(|c| c.str_at(&["status"]) == "True");
    let status = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if meta::is_terminating(p.object) => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let [names, images] = p.containers(&TEMPLATE);
    vec![
        p.name(),
        status.into(),
        completions.into(),
        duration.into(),
        p.age(),
        names,
        images,
        p.selector(&["spec", "selector"]),
    ]
}

fn cron_job(p: Printed<'_>) -> Vec<Value> {
    let suspended = match p.object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match p.text(&["status", "lastScheduleTime"]) {
        "" => "<none>".to_owned(),
        _ => p.since(&["status", "lastScheduleTime"]),
    };
    let [names, images] = p.containers(&["spec", "jobTemplate", "spec", "template", "spec"]);
    vec![
        p.name(),
        p.text(&["spec", "schedule"]).into(),
        p.text_or(&["spec", "timeZone"], "<none>"),
        suspended.into(),
        p.items(&["status", "active"]).len().into(),
        last.into(),
        p.age(),
        names,
        images,
        p.selector(&["spec", "jobTemplate", "spec", "selector"]),
    ]
}

fn autoscaler(p: Printed<'_>) -> Vec<Value> {
    let target = &p.object["spec"]["scaleTargetRef"];
    let reference = format!("{}/{}", target.str_at(&["kind"]), target.str_at(&["name"]));
    let minimum = p.object["spec"]["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        p.name(),
        reference.into(),
        metrics(p).into(),
        minimum.into(),
        p.int(&["spec", "maxReplicas"]).into(),
        p.int(&["status", "currentReplicas"]).into(),
        p.age(),
    ]
}

/// At most this many metrics are spelled out.
const METRICS_SHOWN_MAX: usize = 2;

fn metrics(p: Printed<'_>) -> String {
    let mut specs = p.items(&["spec", "metrics"]).to_vec();
    if let Some(cpu) = p.object["spec"]["targetCPUUtilizationPercentage"].as_i64() {
        let current = p.object["status"]["currentCPUUtilizationPercentage"].as_i64();
        let current = current.map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
        return format!("cpu: {current}/{cpu}%");
    }
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let count = specs.len();
    specs.truncate(METRICS_SHOWN_MAX);
    let statuses = p.items(&["status", "currentMetrics"]);
    let shown: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric(spec, statuses.get(i))).collect();
    let shown = shown.join(", ");
    if count > METRICS_SHOWN_MAX { format!("{shown} + {} more...", count - METRICS_SHOWN_MAX) } else { shown }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let source = match spec.str_at(&["type"]) {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = &spec[source]["target"];
    let current = status.map_or(Value::Null, |s| s[source]["current"].clone());
    let known = |value: &Value| value.as_str().map_or_else(|| "<unknown>".to_owned(), str::to_owned);
    let by_average = !target["averageValue"].is_null();
    match (source, by_average) {
        ("pods", _) => format!("{}/{}", known(&current["averageValue"]), target.str_at(&["averageValue"])),
        ("external" | "object", true) => {
            format!("{}/{} (avg)", known(&current["averageValue"]), target.str_at(&["averageValue"]))
        }
        ("external" | "object", false) => format!("{}/{}", known(&current["value"]), target.str_at(&["value"])),
        (_, true) => {
            let name = spec[source].str_at(&["name"]);
            format!("{name}: {}/{}", known(&current["averageValue"]), target.str_at(&["averageValue"]))
        }
        (_, false) => {
            let percent = |v: &Value, unset: &str| v.as_i64().map_or_else(|| unset.to_owned(), |n| format!("{n}%"));
            let name = spec[source].str_at(&["name"]);
            let now = percent(&current["averageUtilization"], "<unknown>");
            format!("{name}: {now}/{}", percent(&target["averageUtilization"], "<auto>"))
        }
    }
}
