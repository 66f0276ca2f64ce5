//! Disruption budgets and priority classes.

use super::workloads::int_or_percent;
use crate::strategy::{Generation, Strategy};
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
