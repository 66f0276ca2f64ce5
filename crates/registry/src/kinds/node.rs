//! Nodes.

use std::collections::BTreeSet;

use machinery::{FieldError, Value, names};

use crate::context::Subresource;
use crate::strategy::{StatusRule, Strategy, flag};
use crate::validation::addresses::{CIDR, one_family};
use crate::validation::container::non_negative_quantity;
use crate::validation::scheduling::TAINT_EFFECTS;
use crate::validation::{At, Errors, go, same};

pub(crate) static STRATEGY: Strategy = Strategy {
    status: StatusRule::GivenOnCreate,
    selectable: &[flag("spec.unschedulable")],
    prepare_create: |node, _| {
        drop_unless_used(node, &Value::Null, "spec", "configSource");
        drop_unless_used(node, &Value::Null, "status", "config");
    },
    prepare_update: |new, old, _| drop_unless_used(new, old, "spec", "configSource"),
    prepare_subresource: |new, old, cx| {
        if cx.subresource == Subresource::Status {
            drop_unless_used(new, old, "status", "config");
        }
    },
    validate: |at, _, errors| {
        taints(&at.at(&["spec", "taints"]), errors);
        let cidrs = at.at(&["spec", "podCIDRs"]);
        for cidr in cidrs.items() {
            if cidr.text().parse::<ipnet::IpNet>().is_err() {
                errors.invalid(&cidr, CIDR);
            }
        }
        let list = cidrs.items();
        if list.len() > 2 || list.len() == 2 && one_family(list[0].text(), list[1].text()) {
            let text = "may specify no more than one CIDR for each IP family";
            errors.invalid_as(&cidrs, go::strings("string", cidrs.value), text);
        }
        amounts(at, errors);
    },
    validate_update: Some(update),
    validate_subresource: |new, old, cx, errors| {
        if cx.subresource == Subresource::Status {
            update(new, old, cx, errors);
        }
    },
    // Upstream looks at what is left after dropping: of `configSource` it never warns on create.
    warnings: |node| {
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        if node.str_at(&["spec", "externalID"]).is_empty() { Vec::new() } else { vec![text.to_owned()] }
    },
    ..Strategy::PLAIN
};

/// Dynamic kubelet configuration is gone since 1.24: its fields are kept where they stand already, and nowhere else
/// (`dropDisabledFields`).
fn drop_unless_used(node: &mut Value, old: &Value, part: &str, member: &str) {
    if old[part][member].is_null()
        && let Some(part) = node.get_mut(part)
    {
        part.remove(member);
    }
}

fn update(new: &At<'_>, old: &At<'_>, _: &crate::context::Context, errors: &mut Errors) {
    let addresses = new.at(&["status", "addresses"]).items();
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].iter().any(|a| same(a.value, address.value)) {
            errors.duplicate(address);
        }
    }
    let (now, then) = (new.at(&["spec", "podCIDRs"]), old.at(&["spec", "podCIDRs"]));
    if !then.is_empty() && !same(now.value, then.value) {
        errors.forbidden(&now, "node updates may not change podCIDR except from \"\" to valid");
    }
    let (now, then) = (new.at(&["spec", "providerID"]), old.at(&["spec", "providerID"]));
    if !then.is_empty() && now.text() != then.text() {
        errors.forbidden(&now, "node updates may not change providerID except from \"\" to valid");
    }
    taints(&new.at(&["spec", "taints"]), errors);
}

/// What a node has and gives.
fn amounts(at: &At<'_>, errors: &mut Errors) {
    for list in ["capacity", "allocatable"].map(|m| at.at(&["status", m])) {
        for (name, amount) in list.entries() {
            non_negative_quantity(&amount.renamed(list.path.child(name)), errors);
        }
    }
}

fn taints(at: &At<'_>, errors: &mut Errors) {
    // Upstream's path starts at `metadata`.
    let at = at.renamed(machinery::FieldPath::new("metadata").child("taints"));
    let mut seen = BTreeSet::new();
    for taint in at.items() {
        let (key, value, effect) = (taint.field("key"), taint.field("value"), taint.field("effect"));
        errors.all_invalid(&key, names::is_qualified_name(key.text()));
        let complaints = names::is_valid_label_value(value.text());
        if !complaints.is_empty() {
            errors.invalid(&value, complaints.join(";"));
        }
        errors.one_of_required(&effect, &TAINT_EFFECTS);
        if !seen.insert((effect.text(), key.text())) {
            let mut error = FieldError::duplicate(&taint.path, taint.value);
            error.value = format!(
                "core.Taint{{Key:{:?}, Value:{:?}, Effect:{:?}, TimeAdded:<nil>}}",
                key.text(),
                value.text(),
                effect.text()
            );
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::Context;

    #[test]
    fn the_configuration_of_kubelets_is_no_longer_taken() {
        let full = json!({"spec": {"configSource": {"configMap": {}}, "providerID": "x"},
            "status": {"config": {"error": "e"}, "phase": "Running"}});
        let bare = json!({"spec": {"providerID": "x"}, "status": {"phase": "Running"}});
        let status = Context { subresource: Subresource::Status, ..Context::default() };
        let updated = |old: &Value| {
            let mut node = full.clone();
            (STRATEGY.prepare_update)(&mut node, old, &Context::default());
            (STRATEGY.prepare_subresource)(&mut node, old, &status);
            node
        };
        let mut created = full.clone();
        (STRATEGY.prepare_create)(&mut created, &Context::default());
        assert_eq!(created, bare);
        assert_eq!(updated(&bare), bare);
        assert_eq!(updated(&full), full, "what an older server stored stays");
        let mut empty = Value::object();
        (STRATEGY.prepare_create)(&mut empty, &Context::default());
        assert_eq!(empty, Value::object());
    }

    #[test]
    fn only_what_is_kept_is_warned_about() {
        assert!(STRATEGY.warnings_on_create(&json!({"spec": {}})).is_empty());
        assert_eq!(
            STRATEGY.warnings_on_create(&json!({"spec": {"externalID": "x"}})),
            ["spec.externalID: this field is deprecated, and is unused by Kubernetes"]
        );
    }
}
