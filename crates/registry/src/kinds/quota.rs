//! Resource quotas and limit ranges.

use std::collections::BTreeSet;

use machinery::names;
use machinery::quantity::Quantity;

use crate::strategy::Strategy;
use crate::validation::container::{is_standard_resource, non_negative_quantity, quantity};
use crate::validation::resources::{container_resource, resource_name};
use crate::validation::{At, Errors, go};

pub(crate) static QUOTA: Strategy = Strategy {
    validate: |at, _, errors| quota(&at.field("spec"), errors),
    validate_update: Some(|new, old, _, errors| {
        quota(&new.field("spec"), errors);
        let scopes = |at: &At<'_>| -> BTreeSet<String> {
            at.at(&["spec", "scopes"]).items().iter().map(|s| s.text().to_owned()).collect()
        };
        if scopes(new) != scopes(old) {
            let at = new.at(&["spec", "scopes"]);
            errors.invalid_as(&at, go::strings("core.ResourceQuotaScope", at.value), crate::validation::IMMUTABLE);
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
        resource_name(name, &amount.path, errors);
        if !name.contains('/') && !is_quota_resource(name) {
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
    scopes(spec, errors);
    selected_scopes(spec, errors);
}

fn is_quota_resource(name: &str) -> bool {
    is_standard_resource(name) && name != "storage" && name != "hugepages-" && !name.starts_with("limits.hugepages-")
}

/// Can a quota of the scope count the resource?
fn scope_takes(scope: &str, resource: &str) -> bool {
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || compute.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn unsuited(spec: &At<'_>, scope: &str) -> usize {
    let hard = spec.field("hard").entries();
    hard.iter().filter(|(name, _)| is_quota_resource(name) && !scope_takes(scope, name)).count()
}

fn conflicting(spec: &At<'_>, has: &dyn Fn(&str) -> bool, errors: &mut Errors) {
    let at = spec.field("scopes");
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(a) && has(b) {
            errors.invalid_as(&at, go::strings("core.ResourceQuotaScope", at.value), "conflicting scopes");
        }
    }
}

fn scopes(spec: &At<'_>, errors: &mut Errors) {
    let at = spec.field("scopes");
    let shown = || go::strings("core.ResourceQuotaScope", at.value);
    for scope in at.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.invalid_as(&at, shown(), "unsupported scope");
        }
        for _ in 0..unsuited(spec, scope.text()) {
            errors.invalid_as(&at, shown(), "unsupported scope applied to resource");
        }
    }
    conflicting(spec, &|name| at.items().iter().any(|s| s.text() == name), errors);
}

fn selected_scopes(spec: &At<'_>, errors: &mut Errors) {
    const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
    let expressions = spec.at(&["scopeSelector", "matchExpressions"]);
    for expression in expressions.items() {
        // The complaints name the list, not the element.
        let member = |name: &str| expression.field(name).renamed(expressions.path.child(name));
        let (scope, operator, values) = (member("scopeName"), member("operator"), member("values"));
        if !SCOPES.contains(&scope.text()) {
            errors.invalid(&scope, "unsupported scope");
        }
        for _ in 0..unsuited(spec, scope.text()) {
            errors.invalid(&expressions, "unsupported scope applied to resource");
        }
        let plain = !matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass");
        if plain && SCOPES.contains(&scope.text()) && operator.text() != "Exists" {
            errors.invalid(&operator, ONLY_EXISTS);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => errors
                .required(&values, "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid_as(
                &values,
                go::strings("string", values.value),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&operator, "not a valid selector operator"),
        }
    }
    let has = |name: &str| expressions.items().iter().any(|e| e.field("scopeName").text() == name);
    conflicting(spec, &has, errors);
}

pub(crate) static LIMIT_RANGE: Strategy = Strategy {
    create_on_update: true,
    validate: |at, _, errors| {
        let mut seen = BTreeSet::new();
        for limit in at.at(&["spec", "limits"]).items() {
            let kind = limit.field("type");
            let complaints = names::is_qualified_name(kind.text());
            let standard = ["Container", "PersistentVolumeClaim", "Pod"].contains(&kind.text());
            if complaints.is_empty() && !kind.text().contains('/') && !standard {
                errors.invalid(&kind, "must be a standard limit type or fully qualified");
            }
            errors.all_invalid(&kind, complaints);
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
    let pod = limit.field("type").text() == "Pod";
    let container = pod || limit.field("type").text() == "Container";
    let mut resources: BTreeSet<&str> = BTreeSet::new();
    for member in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if pod && member.starts_with("default") {
            continue;
        }
        for (name, amount) in limit.field(member).entries() {
            if container {
                container_resource(name, &amount.path, errors);
            } else {
                resource_name(name, &amount.path, errors);
            }
            resources.insert(name);
        }
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
    if let (Some((amount, _)), Some((asked, at))) = (&default, &request)
        && (resource.starts_with("hugepages-") || resource.contains('/') && !resource.contains("kubernetes.io/"))
        && amount != asked
    {
        let text = format!("default value {amount} must equal to defaultRequest value {asked} in {resource}");
        errors.invalid_as(at, go::quantity(at.value), text);
    }
    if let Some((ratio, at)) = read("maxLimitRequestRatio") {
        ratio_bounds(&ratio, &at, min.map(|m| m.0).as_ref(), max.map(|m| m.0).as_ref(), errors);
    }
}

fn ratio_bounds(ratio: &Quantity, at: &At<'_>, min: Option<&Quantity>, max: Option<&Quantity>, errors: &mut Errors) {
    if *ratio < Quantity::parse("1").unwrap_or_default() {
        errors.invalid_as(at, go::quantity(at.value), format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            errors.invalid_as(at, go::quantity(at.value), format!("ratio {ratio} is greater than max/min = {most:.6}"));
        }
    }
}
