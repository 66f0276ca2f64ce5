//! What a job makes of failed pods, and when it has succeeded.

use std::collections::BTreeSet;

use machinery::{FieldError, Value, names};

use crate::validation::{At, Errors};

const FAILURE_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const SUCCESS_RULES_MAX: usize = 20;
const INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// `spec.podFailurePolicy`.
pub(super) fn failure_policy(spec: &At<'_>, errors: &mut Errors) {
    let rules = spec.at(&["podFailurePolicy", "rules"]);
    too_many(&rules, FAILURE_RULES_MAX, errors);
    let pod = spec.at(&["template", "spec"]);
    let containers: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| pod.field(list).items())
        .map(|container| container.field("name").text())
        .collect();
    for rule in rules.items() {
        let (action, codes, conditions) =
            (rule.field("action"), rule.field("onExitCodes"), rule.field("onPodConditions"));
        match action.text() {
            "" => errors.required(&action, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.field("backoffLimitPerIndex").is_set() => {
                errors.invalid(&action, "requires the backoffLimitPerIndex to be set");
            }
            _ => errors.one_of(&action, &ACTIONS),
        }
        if codes.is_set() {
            exit_codes(&codes, &containers, errors);
        }
        pod_conditions(&conditions, errors);
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => {
                errors.invalid_bare(&rule, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, false) => {
                errors.invalid_bare(&rule, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

fn too_many(at: &At<'_>, max: usize, errors: &mut Errors) {
    if at.items().len() > max {
        errors.push(FieldError::too_many(&at.path, at.items().len(), max));
    }
}

fn exit_codes(at: &At<'_>, containers: &BTreeSet<&str>, errors: &mut Errors) {
    let (operator, container, values) = (at.field("operator"), at.field("containerName"), at.field("values"));
    if operator.is_empty() {
        errors.required(&operator, "valid values: [\"In\" \"NotIn\"]");
    } else {
        errors.one_of(&operator, &["In", "NotIn"]);
    }
    if container.is_set() && !containers.contains(container.text()) {
        errors.invalid(&container, "must be one of the container or initContainer names in the pod template");
    }
    let codes: Vec<i64> = values.items().iter().map(|v| v.int().unwrap_or(0)).collect();
    let shown = |nil: bool| {
        let list: Vec<String> = codes.iter().map(i64::to_string).collect();
        if nil { "[]int32(nil)".to_owned() } else { format!("[]int32{{{}}}", list.join(", ")) }
    };
    if codes.is_empty() {
        errors.invalid_as(&values, shown(!values.is_set()), "at least one value is required");
    }
    too_many(&values, EXIT_CODES_MAX, errors);
    let mut seen = BTreeSet::new();
    for (code, value) in codes.iter().zip(values.items()) {
        if operator.text() == "In" && *code == 0 {
            errors.invalid(&value, "must not be 0 for the In operator");
        }
        if !seen.insert(*code) {
            errors.duplicate(&value);
        }
    }
    if !codes.is_sorted() {
        errors.invalid_as(&values, shown(false), "must be ordered");
    }
}

fn pod_conditions(at: &At<'_>, errors: &mut Errors) {
    too_many(at, CONDITIONS_MAX, errors);
    for pattern in at.items() {
        let (kind, status) = (pattern.field("type"), pattern.field("status"));
        errors.all_invalid(&kind, names::is_qualified_name(kind.text()));
        if status.is_empty() {
            errors.required(&status, "valid values: [\"False\" \"True\" \"Unknown\"]");
        } else {
            errors.one_of(&status, &["False", "True", "Unknown"]);
        }
    }
}

/// `spec.successPolicy` of an indexed job.
pub(super) fn success_policy(spec: &At<'_>, errors: &mut Errors) {
    let rules = spec.at(&["successPolicy", "rules"]);
    let completions = spec.field("completions").int().unwrap_or(0);
    if rules.is_empty() {
        errors.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    }
    too_many(&rules, SUCCESS_RULES_MAX, errors);
    for rule in rules.items() {
        let (count, indexes) = (rule.field("succeededCount"), rule.field("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            errors.required(&rule, "at least one of succeededCount or succeededIndexes must be specified");
        }
        if indexes.text().len() > INDEXES_BYTES_MAX {
            errors.push(FieldError::too_long(&indexes.path, INDEXES_BYTES_MAX));
        }
        let total = count_indexes(indexes.text(), completions).unwrap_or_else(|complaint| {
            errors.invalid(&indexes, format!("error parsing succeededIndexes: {complaint}"));
            0
        });
        errors.not_negative(&count);
        let Some(wanted) = count.int() else { continue };
        if wanted > completions {
            let text = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&count, text);
        }
        if indexes.is_set() && wanted > total {
            let text = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&count, text);
        }
    }
}

/// How many indexes a text like `0,2-4` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let parts: Vec<&str> = interval.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let index = |part: &str| {
            let n: i64 = part.parse().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
            if n >= completions { Err(format!("too large index: {part:?}")) } else { Ok(n) }
        };
        let first = index(parts[0])?;
        let end = match parts.get(1) {
            Some(part) => index(part)?,
            None => first,
        };
        if parts.len() == 2 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if let Some(previous) = last.filter(|l| *l >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// `spec.podReplacementPolicy`.
pub(super) fn replacement_policy(spec: &At<'_>, errors: &mut Errors) {
    let policy = spec.field("podReplacementPolicy");
    if matches!(policy.value, Value::Null) {
        return;
    }
    if spec.field("podFailurePolicy").is_set() {
        errors.one_of(&policy, &["Failed"]);
    } else {
        errors.one_of(&policy, &["Failed", "TerminatingOrFailed"]);
    }
}
