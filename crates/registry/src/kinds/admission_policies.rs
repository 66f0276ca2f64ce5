//! Validating and mutating admission policies and their bindings; what they match.
//!
//! Expressions must be there; whether they compile is not judged here.

use std::collections::BTreeSet;

use machinery::{FieldError, names};

use super::webhooks::{FAILURE_POLICIES, MATCH_POLICIES, match_conditions, rule_with_operations};
use crate::strategy::{Generation, Strategy};
use crate::validation::{At, Errors, go, label_selector};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const VALUE_EXPRESSION_BYTES_MAX: usize = 5 * 1024;
/// What an expression may not be called: words of CEL.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(crate) static POLICY: Strategy = Strategy {
    generation: Generation::Spec,
    unconditional_update: false,
    validate: |at, _, errors| policy(at, errors),
    ..Strategy::PLAIN
};

pub(crate) static BINDING: Strategy = Strategy {
    generation: Generation::Spec,
    unconditional_update: false,
    validate: |at, _, errors| {
        let spec = at.field("spec");
        binding(&spec, errors);
        actions(&spec.field("validationActions"), errors);
    },
    ..Strategy::PLAIN
};

pub(crate) static MUTATING_POLICY: Strategy = Strategy {
    generation: Generation::Spec,
    unconditional_update: false,
    validate: |at, _, errors| mutating_policy(&at.field("spec"), errors),
    ..Strategy::PLAIN
};

pub(crate) static MUTATING_BINDING: Strategy = Strategy {
    generation: Generation::Spec,
    unconditional_update: false,
    validate: |at, _, errors| binding(&at.field("spec"), errors),
    ..Strategy::PLAIN
};

fn policy(at: &At<'_>, errors: &mut Errors) {
    let spec = at.field("spec");
    common(&spec, errors);
    let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for list in [validations, annotations] {
            errors.required(&list, "validations or auditAnnotations must contain at least one item");
        }
        return;
    }
    validations.items().iter().for_each(|v| validation(v, errors));
    if annotations.items().len() > AUDIT_ANNOTATIONS_MAX {
        errors.invalid(&annotations, format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations"));
    }
    let name = at.at(&["metadata", "name"]);
    let mut seen = BTreeSet::new();
    for annotation in annotations.items() {
        let (key, value) = (annotation.field("key"), annotation.field("valueExpression"));
        let full = format!("{}/{}", name.text(), key.text());
        if name.is_empty() {
            errors.invalid(&key, "requires metadata.name be non-empty");
        } else {
            names::is_qualified_name(&full).into_iter().for_each(|c| errors.invalid_value(&key, full.as_str(), c));
        }
        if value.text().trim().is_empty() {
            errors.required(&value, "valueExpression is not specified");
        } else if value.text().trim().len() > VALUE_EXPRESSION_BYTES_MAX {
            errors.required(&value, &format!("must not exceed {VALUE_EXPRESSION_BYTES_MAX} bytes in length"));
        }
        if !seen.insert(key.text()) {
            errors.push(FieldError::duplicate(&key.path, &key.text().into()));
        }
    }
}

/// What validating and mutating policies share.
fn common(spec: &At<'_>, errors: &mut Errors) {
    errors.one_of_required(&spec.field("failurePolicy"), &FAILURE_POLICIES);
    if spec.field("paramKind").is_set() {
        param_kind(&spec.field("paramKind"), errors);
    }
    let constraints = spec.field("matchConstraints");
    if constraints.is_set() {
        match_resources(&constraints, errors);
        if constraints.field("resourceRules").is_empty() {
            errors.required(&constraints.field("resourceRules"), "");
        }
    } else {
        errors.required(&constraints, "");
    }
    match_conditions(&spec.field("matchConditions"), errors);
    for variable in spec.field("variables").items() {
        let (name, expression) = (variable.field("name"), variable.field("expression"));
        if name.text().trim().is_empty() {
            errors.required(&name, "name is not specified");
        } else if !is_cel_identifier(name.text()) {
            errors.invalid(&name, "name is not a valid CEL identifier");
        }
        if expression.text().trim().is_empty() {
            errors.required(&expression, "expression is not specified");
        }
    }
}

fn is_cel_identifier(name: &str) -> bool {
    names::is_c_identifier(name).is_empty() && !RESERVED.contains(&name)
}

fn param_kind(at: &At<'_>, errors: &mut Errors) {
    let (version, kind) = (at.field("apiVersion"), at.field("kind"));
    let parts: Vec<&str> = version.text().split('/').collect();
    let pair = match parts.as_slice() {
        ["", ""] => Some(("", "")),
        [version] => Some(("", *version)),
        [group, version] => Some((*group, *version)),
        _ => None,
    };
    match pair {
        _ if version.is_empty() => errors.required(&version, ""),
        None => errors.invalid(&version, format!("unexpected GroupVersion string: {}", version.text())),
        Some((group, bare)) => {
            let complaints = if group.is_empty() { Vec::new() } else { names::is_dns1123_subdomain(group) };
            if !complaints.is_empty() {
                errors.invalid_value(&version, group, complaints.join(","));
            }
            let complaints = names::is_dns1035_label(bare);
            if bare.is_empty() {
                errors.invalid(&version, "version must be specified");
            } else if !complaints.is_empty() {
                errors.invalid_value(&version, bare, complaints.join(","));
            }
        }
    }
    let complaints = names::is_dns1035_label(&kind.text().to_lowercase());
    if kind.is_empty() {
        errors.required(&kind, "");
    } else if !complaints.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
        errors.invalid(&kind, text);
    }
}

fn match_resources(at: &At<'_>, errors: &mut Errors) {
    errors.one_of_required(&at.field("matchPolicy"), &MATCH_POLICIES);
    for selector in ["namespaceSelector", "objectSelector"].map(|m| at.field(m)) {
        if selector.is_set() {
            label_selector(&selector, errors);
        } else {
            errors.required(&selector, "");
        }
    }
    for rule in ["resourceRules", "excludeResourceRules"].iter().flat_map(|m| at.field(m).items()) {
        let mut seen = BTreeSet::new();
        for name in rule.field("resourceNames").items() {
            errors.all_invalid(&name, names::is_valid_path_segment_name(name.text()));
            if !seen.insert(name.text()) {
                errors.duplicate(&name);
            }
        }
        rule_with_operations(&rule, errors);
    }
}

fn validation(at: &At<'_>, errors: &mut Errors) {
    let (expression, message) = (at.field("expression"), at.field("message"));
    if expression.text().trim().is_empty() {
        errors.required(&expression, "expression is not specified");
    }
    let computed = at.field("messageExpression");
    if !computed.is_empty() && computed.text().trim().is_empty() {
        errors.invalid(&computed, "must be non-empty if specified");
    }
    if !message.is_empty() && message.text().trim().is_empty() {
        errors.invalid(&message, "message must be non-empty if specified");
    } else if message.text().trim().contains(['\n', '\r']) {
        errors.invalid(&message, "message must not contain line breaks");
    }
    let reason = at.field("reason");
    if reason.is_set() {
        errors.one_of(&reason, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
    }
}

fn mutating_policy(spec: &At<'_>, errors: &mut Errors) {
    common(spec, errors);
    let reinvocation = spec.field("reinvocationPolicy");
    if !reinvocation.is_set() {
        errors.required(&reinvocation, "");
    } else {
        errors.one_of(&reinvocation, &["IfNeeded", "Never"]);
    }
    let mutations = spec.field("mutations");
    if mutations.is_empty() {
        errors.required(&mutations, "mutations must contain at least one item");
    }
    for rule in spec.at(&["matchConstraints", "resourceRules"]).items() {
        let operations = spec.at(&["matchConstraints", "resourceRules", "operations"]);
        for operation in rule.field("operations").items() {
            errors.one_of(&operation.renamed(operations.path.clone()), &["*", "CONNECT", "CREATE", "UPDATE"]);
        }
    }
    mutations.items().iter().for_each(|m| mutation(m, errors));
}

fn mutation(at: &At<'_>, errors: &mut Errors) {
    const FORMS: [(&str, &str); 2] = [("JSONPatch", "jsonPatch"), ("ApplyConfiguration", "applyConfiguration")];
    let kind = at.field("patchType");
    errors.one_of_required(&kind, &["ApplyConfiguration", "JSONPatch"]);
    let Some((word, own)) = FORMS.iter().find(|(word, _)| *word == kind.text()) else { return };
    let body = at.field(own);
    if !body.is_set() {
        errors.required(&body, &format!("must be specified when patchType is {word}"));
    } else if body.field("expression").text().trim().is_empty() {
        errors.required(&body.field("expression"), "");
    }
    for (_, other) in FORMS.iter().filter(|(_, m)| m != own && at.field(m).is_set()) {
        let text = format!("must not be specified when patchType is {word}");
        errors.invalid_value(&at.field(other), format!("{{{other}}}"), text);
    }
}

fn binding(spec: &At<'_>, errors: &mut Errors) {
    let policy = spec.field("policyName");
    if policy.is_empty() {
        errors.required(&policy, "");
    } else {
        errors.dns_subdomain(&policy);
    }
    if spec.field("paramRef").is_set() {
        param_ref(&spec.field("paramRef"), errors);
    }
    if spec.field("matchResources").is_set() {
        match_resources(&spec.field("matchResources"), errors);
    }
}

fn param_ref(at: &At<'_>, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector, missing) = (at.field("name"), at.field("selector"), at.field("parameterNotFoundAction"));
    if !name.is_empty() {
        errors.all_invalid(&name, names::is_valid_path_segment_name(name.text()));
        if selector.is_set() {
            errors.forbidden(&name, EXCLUSIVE);
        }
    }
    if selector.is_set() {
        label_selector(&selector, errors);
        if !name.is_empty() {
            errors.forbidden(&selector, EXCLUSIVE);
        }
    }
    if name.is_empty() && !selector.is_set() {
        errors.required(at, "one of name or selector must be specified");
    }
    errors.one_of_required(&missing, &["Deny", "Allow"]);
}

fn actions(at: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for action in at.items() {
        errors.one_of(&action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.text()) {
            errors.duplicate(&action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid_as(at, go::strings("admissionregistration.ValidationAction", at.value), text);
    }
    if seen.is_empty() {
        errors.required(at, "at least one validation action is required");
    }
}
