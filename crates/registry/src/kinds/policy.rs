//! Disruption budgets, autoscalers, quotas, limit ranges, priority classes.

use std::collections::BTreeSet;

use machinery::names;
use machinery::quantity::Quantity;

use super::workloads::int_or_percent;
use crate::strategy::{Generation, Strategy};
use crate::validation::container::{is_standard_resource, non_negative_quantity, quantity};
use crate::validation::{At, Errors, go, label_selector};

pub(crate) static BUDGET: Strategy = Strategy {
    generation: Generation::Spec,
    unconditional_update: false,
    validate: |at, _, errors| {
        let spec = at.field("spec");
        let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
        if least.is_set() && most.is_set() {
            errors.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for bound in [least, most].iter().filter(|b| b.is_set()) {
            int_or_percent(bound, errors);
            let percent = bound.text().strip_suffix('%').and_then(|n| n.parse::<i64>().ok());
            if percent.is_some_and(|n| n > 100) {
                errors.invalid_as(bound, go::int_or_string(bound.value), "must not be greater than 100%");
            }
        }
        label_selector(&spec.field("selector"), errors);
        let policy = spec.field("unhealthyPodEvictionPolicy");
        if policy.is_set() {
            errors.one_of(&policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
    },
    ..Strategy::PLAIN
};

pub(crate) static AUTOSCALER: Strategy = Strategy {
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
    for member in ["kind", "name"] {
        let at = spec.at(&["scaleTargetRef", member]);
        if at.is_empty() {
            errors.required(&at, "");
        } else {
            errors.all_invalid(&at, names::is_valid_path_segment_name(at.text()));
        }
    }
    let metrics = spec.field("metrics");
    metrics.items().iter().for_each(|metric| metric_spec(metric, errors));
    let outside = metrics.items().iter().any(|m| matches!(m.field("type").text(), "Object" | "External"));
    if min.int() == Some(0) && !outside {
        errors.forbidden(
            &metrics,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
}

const METRIC_SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("External", "external"),
    ("ContainerResource", "containerResource"),
];

fn metric_spec(at: &At<'_>, errors: &mut Errors) {
    let kind = at.field("type");
    let known = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric source type");
    }
    let expected = METRIC_SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, member)| *member);
    let Some(expected) = expected else {
        errors.not_supported(&kind, &known);
        return;
    };
    let source = at.field(expected);
    if !source.is_set() {
        errors.required(&source, "must populate information for the given metric source");
    }
    for (_, other) in METRIC_SOURCES.iter().filter(|(_, m)| *m != expected && at.field(m).is_set()) {
        errors.forbidden(&at.field(other), "must populate the given metric source only");
    }
    if expected == "resource" && source.is_set() {
        if source.field("name").is_empty() {
            errors.required(&source.field("name"), "must specify a resource name");
        }
        metric_target(&source.field("target"), errors);
    }
}

fn metric_target(at: &At<'_>, errors: &mut Errors) {
    let (kind, share, amount) = (at.field("type"), at.field("averageUtilization"), at.field("averageValue"));
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        errors.invalid(&kind, "must be either Utilization, Value, or AverageValue");
    }
    if amount.is_set() && quantity(&amount).is_some_and(|q| q <= Quantity::default()) {
        errors.invalid(&amount, "must be positive");
    }
    if share.int().is_some_and(|n| n < 1) {
        errors.invalid(&share, "must be greater than 0");
    }
    match (share.is_set(), amount.is_set()) {
        (false, false) => errors.required(&share, "must set either a target raw value or a target utilization"),
        (true, true) => errors.forbidden(&amount, "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

pub(crate) static QUOTA: Strategy = Strategy {
    validate: |at, _, errors| quota(&at.field("spec"), errors),
    validate_update: Some(|new, old, _, errors| {
        quota(&new.field("spec"), errors);
        let scopes = |at: &At<'_>| -> BTreeSet<String> {
            at.at(&["spec", "scopes"]).items().iter().map(|s| s.text().to_owned()).collect()
        };
        if scopes(new) != scopes(old) {
            errors.invalid(&new.at(&["spec", "scopes"]), crate::validation::IMMUTABLE);
        }
    }),
    ..Strategy::PLAIN
};

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn quota(spec: &At<'_>, errors: &mut Errors) {
    for (name, amount) in spec.field("hard").entries() {
        let complaints = names::is_qualified_name(name);
        let known = name.contains('/') || is_standard_resource(name);
        for complaint in &complaints {
            errors.invalid_as(&amount, name.to_owned(), complaint.as_str());
        }
        if complaints.is_empty() && !known {
            errors.invalid_as(&amount, name.to_owned(), "must be a standard resource type or fully qualified");
            errors.invalid_as(&amount, name.to_owned(), "must be a standard resource for quota");
        }
        non_negative_quantity(&amount, errors);
        let counted = matches!(
            name,
            "pods"
                | "services"
                | "secrets"
                | "configmaps"
                | "resourcequotas"
                | "replicationcontrollers"
                | "persistentvolumeclaims"
        ) || name.starts_with("services.")
            || name.starts_with("count/");
        if counted && quantity(&amount).is_some_and(|q| q.milli_value() % 1000 != 0) {
            errors.invalid_as(&amount, go::quantity(amount.value), "must be an integer");
        }
    }
    let scopes = spec.field("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.invalid_as(&scopes, go::strings("core.ResourceQuotaScope", scopes.value), "unsupported scope");
        }
    }
    let has = |name: &str| scopes.items().iter().any(|s| s.text() == name);
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(a) && has(b) {
            errors.invalid_as(&scopes, go::strings("core.ResourceQuotaScope", scopes.value), "conflicting scopes");
        }
    }
}

pub(crate) static LIMIT_RANGE: Strategy = Strategy {
    create_on_update: true,
    validate: |at, _, errors| {
        let mut seen = BTreeSet::new();
        for limit in at.at(&["spec", "limits"]).items() {
            let kind = limit.field("type");
            if kind.text().contains('.') || kind.text().contains('/') {
                errors.all_invalid(&kind, names::is_qualified_name(kind.text()));
            } else if !["Container", "PersistentVolumeClaim", "Pod"].contains(&kind.text()) {
                errors.invalid(&kind, "must be a standard limit type or fully qualified");
            }
            if !seen.insert(kind.text()) {
                errors.duplicate(&kind);
            }
            limits(&limit, errors);
        }
    },
    ..Strategy::PLAIN
};

fn limits(limit: &At<'_>, errors: &mut Errors) {
    if limit.field("type").text() == "Pod" {
        for member in ["default", "defaultRequest"].iter().map(|m| limit.field(m)).filter(|m| !m.is_empty()) {
            errors.forbidden(&member, "may not be specified when `type` is 'Pod'");
        }
    }
    let mut resources: BTreeSet<&str> = BTreeSet::new();
    for member in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        resources.extend(limit.field(member).entries().iter().map(|(name, _)| *name));
    }
    if limit.field("type").text() == "PersistentVolumeClaim"
        && !limit.at(&["min", "storage"]).is_set()
        && !limit.at(&["max", "storage"]).is_set()
    {
        errors.required(
            &limit.field("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for resource in resources {
        bounds(limit, resource, errors);
    }
}

fn bounds(limit: &At<'_>, resource: &str, errors: &mut Errors) {
    let read = |member: &str| {
        let at = limit.field(member);
        let value = at.field(resource);
        let at = At { value: value.value, path: at.path.key(resource) };
        quantity(&at).map(|q| (q, at))
    };
    let (min, max, default, request) = (read("min"), read("max"), read("default"), read("defaultRequest"));
    let mut check = |low: &Option<(Quantity, At<'_>)>,
                     high: &Option<(Quantity, At<'_>)>,
                     at_low: bool,
                     show_low: bool,
                     text: [&str; 2]| {
        if let (Some((low_amount, low_at)), Some((high_amount, high_at))) = (low, high)
            && low_amount > high_amount
        {
            let at = if at_low { low_at } else { high_at };
            let shown = if show_low { low_at } else { high_at };
            errors.invalid_as(
                at,
                go::quantity(shown.value),
                format!("{} value {low_amount} is greater than {} value {high_amount}", text[0], text[1]),
            );
        }
    };
    check(&min, &max, true, true, ["min", "max"]);
    check(&min, &request, false, false, ["min", "default request"]);
    check(&request, &max, true, true, ["default request", "max"]);
    check(&request, &default, true, true, ["default request", "default limit"]);
    check(&min, &default, false, true, ["min", "default"]);
    check(&default, &max, true, false, ["default", "max"]);
    let one = Quantity::parse("1").unwrap_or_default();
    if let Some((ratio, at)) = read("maxLimitRequestRatio").filter(|(r, _)| *r < one) {
        errors.invalid_as(&at, go::quantity(at.value), format!("ratio {ratio} is less than 1"));
    }
}

/// Highest priority a user may define; system classes lie above.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(crate) static PRIORITY_CLASS: Strategy = Strategy {
    generation: Generation::Unused,
    prepare_create: |class, _| class["metadata"].set("generation", 1),
    validate: |at, _, errors| {
        let (name, value) = (at.at(&["metadata", "name"]), at.field("value"));
        let priority = value.int().unwrap_or(0);
        if name.text().starts_with("system-") {
            system_class(at, &name, priority, errors);
        } else if priority > USER_PRIORITY_MAX {
            errors
                .forbidden(&value, format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
        }
        let policy = at.field("preemptionPolicy");
        if policy.is_set() {
            errors.one_of_required(&policy, &["PreemptLowerPriority", "Never"]);
        }
    },
    validate_update: Some(|new, old, _, errors| {
        if new.field("value").int().unwrap_or(0) != old.field("value").int().unwrap_or(0) {
            errors.forbidden(&new.field("value"), "may not be changed in an update.");
        }
        errors.immutable(&new.field("preemptionPolicy"), &old.field("preemptionPolicy"));
    }),
    ..Strategy::PLAIN
};

fn system_class(at: &At<'_>, name: &At<'_>, priority: i64, errors: &mut Errors) {
    let known = SYSTEM_CLASSES.iter().find(|(class, _)| *class == name.text());
    let why = match known {
        None => format!("{} is not a known system priority class", name.text()),
        Some((class, value)) if *value != priority => format!("value of {class} PriorityClass must be {value}"),
        Some((class, _)) if at.field("globalDefault").truth() => {
            format!("globalDefault of {class} PriorityClass must be false")
        }
        Some(_) => return,
    };
    let text = "priority class names with 'system-' prefix are reserved for system use only. error: ";
    errors.forbidden(name, format!("{text}{why}"));
}
