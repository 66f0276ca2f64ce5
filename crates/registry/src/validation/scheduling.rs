//! Where a pod may run: tolerations, affinity, topology spread.

use machinery::names;

use super::{At, Errors, POSITIVE, label_selector};

pub(crate) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `spec.tolerations`.
pub(crate) fn tolerations(at: &At<'_>, errors: &mut Errors) {
    for toleration in at.items() {
        let (key, operator, value, effect) = (
            toleration.field("key"),
            toleration.field("operator"),
            toleration.field("value"),
            toleration.field("effect"),
        );
        if !key.is_empty() {
            errors.all_invalid(&key, names::is_qualified_name(key.text()));
        } else if operator.text() != "Exists" {
            errors.invalid(
                &operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.field("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            errors.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "Equal" | "" => {
                let complaints = names::is_valid_label_value(value.text());
                if !complaints.is_empty() {
                    errors.invalid_value(&operator, value.text(), complaints.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid_value(&operator, value.text(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            _ => errors.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&effect, &TAINT_EFFECTS);
        }
    }
}

/// `spec.affinity`.
pub(crate) fn affinity(at: &At<'_>, errors: &mut Errors) {
    let node = at.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errors);
    }
    for term in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term, errors);
        node_selector_term(&term.field("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.field(kind);
        for term in pods.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_affinity_term(&term, errors);
        }
        for term in pods.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&term, errors);
            pod_affinity_term(&term.field("podAffinityTerm"), errors);
        }
    }
}

fn weight(at: &At<'_>, errors: &mut Errors) {
    let weight = at.field("weight");
    let number = weight.int().unwrap_or(0);
    if !(1..=100).contains(&number) {
        errors.invalid_value(&weight, number, "must be in the range 1-100");
    }
}

/// A `core/v1 NodeSelector`.
pub(crate) fn node_selector(at: &At<'_>, errors: &mut Errors) {
    let terms = at.field("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&terms, "must have at least one node selector term");
    }
    terms.items().iter().for_each(|term| node_selector_term(term, errors));
}

fn node_selector_term(at: &At<'_>, errors: &mut Errors) {
    for requirement in at.field("matchExpressions").items() {
        let (operator, values) = (requirement.field("operator"), requirement.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.items().len() != 1 => {
                errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.invalid(&operator, "not a valid selector operator"),
        }
        let key = requirement.field("key");
        errors.all_invalid(&key, names::is_qualified_name(key.text()));
    }
    for requirement in at.field("matchFields").items() {
        let (operator, values, key) =
            (requirement.field("operator"), requirement.field("values"), requirement.field("key"));
        match operator.text() {
            "In" | "NotIn" if values.items().len() != 1 => {
                errors.required(
                    &values,
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
            "In" | "NotIn" => {}
            _ => errors.invalid(&operator, "not a valid selector operator"),
        }
        if key.text() == "metadata.name" {
            for value in values.items() {
                errors.dns_subdomain(&value);
            }
        } else {
            errors.invalid(&key, "not a valid field selector key");
        }
    }
}

fn pod_affinity_term(at: &At<'_>, errors: &mut Errors) {
    label_selector(&at.field("labelSelector"), errors);
    label_selector(&at.field("namespaceSelector"), errors);
    for name in at.field("namespaces").items() {
        for complaint in names::is_dns1123_label(name.text()) {
            errors.invalid_value(&at.field("namespace"), name.text(), complaint);
        }
    }
    let key = at.field("topologyKey");
    if key.is_empty() {
        errors.required(&key, "can not be empty");
    }
    errors.all_invalid(&key, names::is_qualified_name(key.text()));
}

/// `spec.topologySpreadConstraints`.
pub(crate) fn topology_spread(at: &At<'_>, errors: &mut Errors) {
    let all = at.items();
    for (i, constraint) in all.iter().enumerate() {
        let (skew, key, action) =
            (constraint.field("maxSkew"), constraint.field("topologyKey"), constraint.field("whenUnsatisfiable"));
        if skew.int().unwrap_or(0) <= 0 {
            errors.invalid_value(&skew, skew.int().unwrap_or(0), POSITIVE);
        }
        if key.is_empty() {
            errors.required(&key, "can not be empty");
        }
        errors.one_of(&action, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |c: &At<'_>| {
            c.field("topologyKey").text() == key.text() && c.field("whenUnsatisfiable").text() == action.text()
        };
        if all[i + 1..].iter().any(same) {
            let pair = machinery::Value::from(format!("{{{}, {}}}", key.text(), action.text()));
            errors.duplicate(&At { value: &pair, path: constraint.path.child("{topologyKey, whenUnsatisfiable}") });
        }
        let domains = constraint.field("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            errors.invalid(&domains, POSITIVE);
        }
        if domains.is_set() && action.text() != "DoNotSchedule" {
            let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
            errors.invalid(&domains, text);
        }
        label_selector(&constraint.field("labelSelector"), errors);
    }
}
