//! Horizontal pod autoscalers.

use machinery::names;
use machinery::quantity::Quantity;

use crate::strategy::Strategy;
use crate::validation::container::{non_negative_quantity, quantity};
use crate::validation::resources::container_resource;
use crate::validation::{At, Errors, POSITIVE, go};

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

pub(crate) static STRATEGY: Strategy = Strategy {
    validate: |at, cx, errors| {
        let least = i64::from(!cx.features.enabled("HPAScaleToZero"));
        autoscaler(&at.field("spec"), least, errors);
    },
    ..Strategy::PLAIN
};

fn autoscaler(spec: &At<'_>, least: i64, errors: &mut Errors) {
    let (min, max) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if min.int().is_some_and(|n| n < least) {
        errors.invalid(&min, format!("must be greater than or equal to {least}"));
    }
    let most = max.int().unwrap_or(0);
    if most < 1 {
        errors.invalid_value(&max, most, "must be greater than 0");
    }
    if min.int().is_some_and(|n| most < n) {
        errors.invalid_value(&max, most, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec.field("scaleTargetRef"), errors);
    let metrics = spec.field("metrics");
    metrics.items().iter().for_each(|metric| metric_spec(metric, errors));
    let outside = metrics.items().iter().any(|m| matches!(m.field("type").text(), "Object" | "External"));
    if min.int() == Some(0) && !outside {
        errors.forbidden(
            &metrics,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    // Version 1 says as one number what version 2 says as the first of its metrics.
    let share = spec.field("targetCPUUtilizationPercentage");
    if share.int().is_some_and(|n| n < 1) {
        let path = metrics.path.index(0).child("resource").child("target").child("averageUtilization");
        errors.invalid(&share.renamed(path), "must be greater than 0");
    }
    for rules in ["scaleUp", "scaleDown"].map(|m| spec.at(&["behavior", m])).iter().filter(|r| r.is_set()) {
        scaling_rules(rules, errors);
    }
}

/// Kind and name of another object.
fn reference(at: &At<'_>, errors: &mut Errors) {
    for at in ["kind", "name"].map(|m| at.field(m)) {
        if at.is_empty() {
            errors.required(&at, "");
        } else {
            errors.all_invalid(&at, names::is_valid_path_segment_name(at.text()));
        }
    }
}

fn scaling_rules(at: &At<'_>, errors: &mut Errors) {
    let (window, select, policies) =
        (at.field("stabilizationWindowSeconds"), at.field("selectPolicy"), at.field("policies"));
    match window.int() {
        Some(seconds) if seconds < 0 => errors.invalid(&window, "must be greater than or equal to zero"),
        Some(seconds) if seconds > WINDOW_SECONDS_MAX => {
            errors.invalid(&window, format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
        }
        _ => {}
    }
    if select.is_set() {
        errors.one_of(&select, &["Disabled", "Max", "Min"]);
    }
    if policies.is_empty() {
        errors.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        errors.one_of(&policy.field("type"), &["Percent", "Pods"]);
        for at in ["value", "periodSeconds"].map(|m| policy.field(m)) {
            let number = at.int().unwrap_or(0);
            if number <= 0 {
                errors.invalid_value(&at, number, POSITIVE);
            }
        }
        let period = policy.field("periodSeconds");
        if period.int().is_some_and(|s| s > PERIOD_SECONDS_MAX) {
            errors.invalid(&period, format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
        }
    }
    non_negative_quantity(&at.field("tolerance"), errors);
}

/// Types of metrics and the member that says more, in the order upstream looks at them.
const METRIC_SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metric_spec(at: &At<'_>, errors: &mut Errors) {
    let kind = at.field("type");
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric source type");
    }
    errors.one_of(&kind, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
    let present: Vec<&str> = METRIC_SOURCES.iter().map(|(_, m)| *m).filter(|m| at.field(m).is_set()).collect();
    if let Some(first) = present.first() {
        metric_source(first, &at.field(first), errors);
    }
    let expected = METRIC_SOURCES.iter().find(|(name, _)| *name == kind.text()).map_or("", |(_, member)| member);
    if !expected.is_empty() && !at.field(expected).is_set() {
        errors.required(&at.field(expected), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|m| **m != expected) {
            errors.forbidden(&at.field(other), "must populate the given metric source only");
        }
    }
}

fn metric_source(member: &str, source: &At<'_>, errors: &mut Errors) {
    let target = source.field("target");
    let (value, average) = (target.field("value"), target.field("averageValue"));
    if member == "object" {
        reference(&source.field("describedObject"), errors);
    }
    if matches!(member, "object" | "external" | "pods") {
        let name = source.at(&["metric", "name"]);
        if name.is_empty() {
            errors.required(&name, "must specify a metric name");
        } else {
            errors.all_invalid(&name, names::is_valid_path_segment_name(name.text()));
        }
    } else if source.field("name").is_empty() {
        errors.required(&source.field("name"), "must specify a resource name");
    } else if member == "containerResource" {
        container_resource(source.field("name").text(), &source.field("name").path, errors);
    }
    let container = source.field("container");
    if member == "containerResource" && container.is_empty() {
        errors.required(&container, "must specify a container");
    } else if member == "containerResource" {
        errors.dns_label(&container);
    }
    metric_target(&target, errors);
    let neither = !value.is_set() && !average.is_set();
    match member {
        "object" if neither => errors.required(&average, "must set either a target value or averageValue"),
        "external" if neither => {
            errors.required(&average, "must set either a target value for metric or a per-pod target");
        }
        "external" if value.is_set() && average.is_set() => {
            errors.forbidden(&value, "may not set both a target value for metric and a per-pod target");
        }
        "pods" if !average.is_set() => errors.required(&average, "must specify a positive target averageValue"),
        "resource" | "containerResource" => {
            let share = target.field("averageUtilization");
            match (share.is_set(), average.is_set()) {
                (false, false) => {
                    errors.required(&share, "must set either a target raw value or a target utilization");
                }
                (true, true) => {
                    errors.forbidden(&average, "may not set both a target raw value and a target utilization");
                }
                _ => {}
            }
        }
        _ => {}
    }
}

fn metric_target(at: &At<'_>, errors: &mut Errors) {
    let (kind, share) = (at.field("type"), at.field("averageUtilization"));
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        errors.invalid(&kind, "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|m| at.field(m)) {
        if quantity(&amount).is_some_and(|q| q <= Quantity::default()) {
            errors.invalid_as(&amount, go::quantity(amount.value), "must be positive");
        }
    }
    if share.int().is_some_and(|n| n < 1) {
        errors.invalid(&share, "must be greater than 0");
    }
}
