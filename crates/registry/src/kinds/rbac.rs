//! Roles and their bindings.

use machinery::{FieldError, Value};

use crate::strategy::Strategy;
use crate::validation::{At, Errors, go, label_selector, same};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) static ROLE: Strategy = Strategy {
    name: crate::names::path_segment,
    create_on_update: true,
    validate: |at, _, errors| at.field("rules").items().iter().for_each(|rule| policy_rule(rule, true, errors)),
    ..Strategy::PLAIN
};

pub(crate) static CLUSTER_ROLE: Strategy = Strategy {
    name: crate::names::path_segment,
    create_on_update: true,
    validate: |at, _, errors| {
        at.field("rules").items().iter().for_each(|rule| policy_rule(rule, false, errors));
        if at.field("aggregationRule").is_set() {
            let selectors = at.at(&["aggregationRule", "clusterRoleSelectors"]);
            if selectors.is_empty() {
                errors.required(&selectors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for selector in selectors.items() {
                label_selector(&selector, errors);
                if machinery::labels::Selector::from_label_selector(selector.value).is_err() {
                    errors.push(FieldError::invalid(&selector.path, &Value::Null, "invalid label selector."));
                }
            }
        }
    },
    ..Strategy::PLAIN
};

pub(crate) static ROLE_BINDING: Strategy = Strategy {
    name: crate::names::path_segment,
    create_on_update: true,
    validate: |at, _, errors| binding(at, true, errors),
    validate_update: Some(|new, old, _, errors| binding_update(new, old, true, errors)),
    ..Strategy::PLAIN
};

pub(crate) static CLUSTER_ROLE_BINDING: Strategy = Strategy {
    name: crate::names::path_segment,
    create_on_update: true,
    validate: |at, _, errors| binding(at, false, errors),
    validate_update: Some(|new, old, _, errors| binding_update(new, old, false, errors)),
    ..Strategy::PLAIN
};

fn policy_rule(rule: &At<'_>, namespaced: bool, errors: &mut Errors) {
    if rule.field("verbs").is_empty() {
        errors.required(&rule.field("verbs"), "verbs must contain at least one value");
    }
    let urls = rule.field("nonResourceURLs");
    if !urls.is_empty() {
        if namespaced {
            errors.invalid_as(
                &urls,
                go::strings("string", urls.value),
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|m| !rule.field(m).is_empty()) {
            errors.invalid_as(
                &urls,
                go::strings("string", urls.value),
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    if rule.field("apiGroups").is_empty() {
        errors.required(&rule.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if rule.field("resources").is_empty() {
        errors.required(&rule.field("resources"), "resource rules must supply at least one resource");
    }
}

fn binding_update(new: &At<'_>, old: &At<'_>, namespaced: bool, errors: &mut Errors) {
    binding(new, namespaced, errors);
    let role = new.field("roleRef");
    if !same(role.value, old.field("roleRef").value) {
        let text = format!(
            "rbac.RoleRef{{APIGroup:{:?}, Kind:{:?}, Name:{:?}}}",
            role.field("apiGroup").text(),
            role.field("kind").text(),
            role.field("name").text()
        );
        errors.invalid_as(&role, text, "cannot change roleRef");
    }
}

fn binding(at: &At<'_>, namespaced: bool, errors: &mut Errors) {
    let role = at.field("roleRef");
    errors.one_of(&role.field("apiGroup"), &[GROUP]);
    errors.one_of(&role.field("kind"), if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] });
    let name = role.field("name");
    if name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.all_invalid(&name, crate::names::path_segment(name.text(), false));
    }
    for subject in at.field("subjects").items() {
        let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
        if name.is_empty() {
            errors.required(&name, "");
        }
        match kind.text() {
            "ServiceAccount" => {
                if !name.is_empty() {
                    errors.dns_subdomain(&name);
                }
                if !group.is_empty() {
                    errors.not_supported(&group, &[""]);
                }
                if !namespaced && subject.field("namespace").is_empty() {
                    errors.required(&subject.field("namespace"), "");
                }
            }
            "User" | "Group" => errors.one_of(&group, &[GROUP]),
            _ => errors.not_supported(&kind, &["ServiceAccount", "User", "Group"]),
        }
    }
}
