//! Priority levels and flow schemas.

use std::collections::BTreeSet;

use machinery::{Value, json, names};

use crate::strategy::{Generation, Strategy};
use crate::validation::{At, Errors, go, same};

/// Most queues of a level.
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that deals a flow its queues.
const HASH_BITS_MAX: u32 = 60;
/// Lowest precedence a schema can have.
const PRECEDENCE_MAX: i64 = 10_000;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(crate) static LEVEL: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, _, errors| {
        const ROUND_TRIP: &str = "flowcontrol.k8s.io/preserve-zero-concurrency-shares";
        let annotations = at.at(&["metadata", "annotations"]);
        if annotations.field(ROUND_TRIP).is_set() {
            errors.forbidden(&annotations, format!("annotation '{ROUND_TRIP}' is forbidden"));
        }
        let name = at.at(&["metadata", "name"]);
        level(&at.field("spec"), name.text(), errors);
        mandatory_level(&at.field("spec"), name.text(), errors);
        conditions(at, errors);
    },
    validate_subresource: |at, _, _, errors| conditions(at, errors),
    ..Strategy::PLAIN
};

fn level(spec: &At<'_>, name: &str, errors: &mut Errors) {
    let (kind, limited, exempt) = (spec.field("type"), spec.field("limited"), spec.field("exempt"));
    if (name == "exempt") != (kind.text() == "Exempt") {
        errors.invalid(&kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.forbidden(&limited, "must be nil if the type is not Limited");
            }
            shares(&exempt, errors);
            lendable(&exempt, errors);
        }
        "Limited" => {
            if exempt.is_set() {
                errors.forbidden(&exempt, "must be nil if the type is Limited");
            }
            if !limited.is_set() {
                errors.required(&limited, "must not be empty when type is Limited");
                return;
            }
            shares(&limited, errors);
            response(&limited.field("limitResponse"), errors);
            lendable(&limited, errors);
            let borrowing = limited.field("borrowingLimitPercent");
            if borrowing.int().is_some_and(|n| n < 0) {
                errors.invalid(&borrowing, "if specified, must be a non-negative integer");
            }
        }
        _ => errors.not_supported(&kind, &["Exempt", "Limited"]),
    }
}

fn shares(at: &At<'_>, errors: &mut Errors) {
    let shares = at.field("nominalConcurrencyShares");
    if shares.int().is_some_and(|n| n < 0) {
        errors.invalid(&shares, "must be a non-negative integer");
    }
}

fn lendable(at: &At<'_>, errors: &mut Errors) {
    let lendable = at.field("lendablePercent");
    if lendable.int().is_some_and(|n| !(0..=100).contains(&n)) {
        errors.invalid(&lendable, "must be between 0 and 100, inclusive");
    }
}

fn response(at: &At<'_>, errors: &mut Errors) {
    let (kind, queuing) = (at.field("type"), at.field("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            errors.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.is_set() => {
            errors.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => queues(&queuing, errors),
        _ => errors.not_supported(&kind, &["Queue", "Reject"]),
    }
}

fn queues(at: &At<'_>, errors: &mut Errors) {
    const POSITIVE: &str = "must be positive";
    let number = |member: &str| at.field(member).int().unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.invalid_value(&at.field("queueLengthLimit"), length, POSITIVE);
    }
    if queues <= 0 {
        errors.invalid_value(&at.field("queues"), queues, POSITIVE);
    } else if queues > QUEUES_MAX {
        errors.invalid(&at.field("queues"), format!("must not be greater than {QUEUES_MAX}"));
    }
    let at = at.field("handSize");
    if hand <= 0 {
        errors.invalid_value(&at, hand, POSITIVE);
    } else if hand > queues {
        errors.invalid(&at, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > f64::from(HASH_BITS_MAX) {
        let text = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.invalid(&at, text);
    }
}

/// Bits a hash needs to deal a hand from a deck (`shufflesharding.RequiredEntropyBits`).
fn entropy_bits(deck: i64, hand: i64) -> f64 {
    let number = |n: i64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    (number(deck).log2() * number(hand)).ceil()
}

/// The levels that the API server itself keeps may not be changed; of `exempt` its `exempt` part may.
fn mandatory_level(spec: &At<'_>, name: &str, errors: &mut Errors) {
    let mut have = spec.value.clone();
    let (want, text) = match name {
        "exempt" => {
            have.remove("exempt");
            (json!({"type": "Exempt"}), "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value")
        }
        "catch-all" => (
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}}),
            "spec of 'catch-all' must equal the fixed value",
        ),
        _ => return,
    };
    if !same(&have, &want) {
        errors.invalid(spec, text);
    }
}

pub(crate) static SCHEMA: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, _, errors| {
        let name = at.at(&["metadata", "name"]);
        schema(&at.field("spec"), name.text(), errors);
        mandatory_schema(&at.field("spec"), name.text(), errors);
        conditions(at, errors);
    },
    validate_subresource: |at, _, _, errors| conditions(at, errors),
    ..Strategy::PLAIN
};

fn schema(spec: &At<'_>, name: &str, errors: &mut Errors) {
    let at = spec.field("matchingPrecedence");
    let precedence = at.int().unwrap_or(0);
    if precedence <= 0 {
        errors.invalid_value(&at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(&at, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        errors.invalid(&at, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let distinguisher = spec.field("distinguisherMethod");
    let method = distinguisher.field("type");
    if distinguisher.is_set() && !["ByNamespace", "ByUser"].contains(&method.text()) {
        let mut error = machinery::FieldError::not_supported(&method.path, method.value, &["ByNamespace", "ByUser"]);
        error.value = format!("&flowcontrol.FlowDistinguisherMethod{{Type:{:?}}}", method.text());
        errors.push(error);
    }
    let level = spec.at(&["priorityLevelConfiguration", "name"]);
    if level.is_empty() {
        errors.required(&level, "must reference a priority level");
    } else {
        errors.dns_subdomain(&level);
    }
    for rule in spec.field("rules").items() {
        let subjects = rule.field("subjects");
        if subjects.is_empty() {
            errors.required(&subjects, "subjects must contain at least one value");
        }
        subjects.items().iter().for_each(|s| subject(s, errors));
        let (resources, others) = (rule.field("resourceRules"), rule.field("nonResourceRules"));
        if resources.is_empty() && others.is_empty() {
            errors.required(&rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        resources.items().iter().for_each(|r| resource_rule(r, errors));
        others.items().iter().for_each(|r| non_resource_rule(r, errors));
    }
}

fn subject(at: &At<'_>, errors: &mut Errors) {
    const MEMBERS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = at.field("kind");
    let Some((_, own)) = MEMBERS.iter().find(|(k, _)| *k == kind.text()) else {
        errors.not_supported(&kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let body = at.field(own);
    let name = body.field("name");
    if !body.is_set() {
        errors.required(&body, &format!("{own} is required when subject kind is '{}'", kind.text()));
    } else {
        if name.is_empty() {
            errors.required(&name, "");
        } else if *own == "serviceAccount" && name.text() != "*" {
            errors.dns_subdomain(&name);
        }
        let namespace = body.field("namespace");
        if *own == "serviceAccount" && namespace.is_empty() {
            errors.required(&namespace, "must specify namespace for service account");
        } else if *own == "serviceAccount" {
            errors.dns_label(&namespace);
        }
    }
    for (other, member) in MEMBERS.iter().filter(|(_, m)| m != own && at.field(m).is_set()) {
        errors.forbidden(&at.field(member), format!("{member} is forbidden when subject kind is not '{other}'"));
    }
}

/// A list that must not be empty and in which a star stands alone. Is it a list of other words?
fn wild_list(at: &At<'_>, empty: &str, others: &str, errors: &mut Errors) -> bool {
    if at.is_empty() {
        errors.required(at, empty);
        return false;
    }
    let wild = at.items().iter().any(|i| i.text() == "*");
    if wild && at.items().len() > 1 {
        errors.invalid_as(
            at,
            go::strings("string", at.value),
            format!("if '*' is present, must not specify other {others}"),
        );
    }
    !wild
}

fn verbs(at: &At<'_>, errors: &mut Errors) {
    if wild_list(at, "verbs must contain at least one value", "verbs", errors)
        && at.items().iter().any(|v| !VERBS.contains(&v.text()))
    {
        let mut error = machinery::FieldError::not_supported(&at.path, &Value::Null, &VERBS);
        error.value = go::strings("string", at.value);
        errors.push(error);
    }
}

fn resource_rule(rule: &At<'_>, errors: &mut Errors) {
    verbs(&rule.field("verbs"), errors);
    let (groups, resources) = (rule.field("apiGroups"), rule.field("resources"));
    wild_list(&groups, "resource rules must supply at least one api group", "api groups", errors);
    wild_list(&resources, "resource rules must supply at least one resource", "resources", errors);
    let namespaces = rule.field("namespaces");
    if namespaces.is_empty() && rule.field("clusterScope").truth() {
        return;
    }
    let empty = "resource rules that are not cluster scoped must supply at least one namespace";
    if wild_list(&namespaces, empty, "namespaces", errors) {
        for namespace in namespaces.items() {
            for complaint in names::is_dns1123_label(namespace.text()) {
                let text = format!("each member of this list must be '*' or a DNS-1123 label; {complaint}");
                errors.invalid(&namespace, text);
            }
        }
    }
}

fn non_resource_rule(rule: &At<'_>, errors: &mut Errors) {
    verbs(&rule.field("verbs"), errors);
    let urls = rule.field("nonResourceURLs");
    if !wild_list(&urls, "nonResourceURLs must contain at least one value", "non-resource URLs", errors) {
        return;
    }
    for url in urls.items() {
        let path = url.text();
        let stars = path.matches('*').count();
        let complaint = match path {
            "" => "must not be empty",
            "/" => continue,
            _ if !path.starts_with('/') => "must start with slash",
            _ if path.contains(' ') => "must not contain white-space",
            _ if path.contains("//") => "must not contain double slash",
            _ if stars > 1 || stars == 1 && !path.ends_with("/*") => "wildcard can only do suffix matching",
            _ => continue,
        };
        errors.invalid(&url, complaint);
    }
}

fn mandatory_schema(spec: &At<'_>, name: &str, errors: &mut Errors) {
    let all =
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
    let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let schema = |precedence: i64, distinguisher: Value, subjects: Value| {
        json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": name},
            "distinguisherMethod": distinguisher,
            "rules": [{"subjects": subjects, "resourceRules": all.clone(), "nonResourceRules": paths.clone()}]})
    };
    let want = match name {
        "exempt" => schema(1, Value::Null, Value::Array(vec![group("system:masters")])),
        "catch-all" => schema(
            PRECEDENCE_MAX,
            json!({"type": "ByUser"}),
            Value::Array(vec![group("system:unauthenticated"), group("system:authenticated")]),
        ),
        _ => return,
    };
    if !same(spec.value, &want) {
        errors.invalid_as(spec, go_schema(spec), format!("spec of '{name}' must equal the fixed value"));
    }
}

/// As Go prints a spec; where it prints addresses, nothing is imitated.
fn go_schema(spec: &At<'_>) -> String {
    let pointer = |at: &At<'_>| if at.is_set() { "0x0" } else { "nil" };
    format!(
        "flowcontrol.FlowSchemaSpec{{PriorityLevelConfiguration:flowcontrol.PriorityLevelConfigurationReference{{Name:{:?}}}, MatchingPrecedence:{}, DistinguisherMethod:(*flowcontrol.FlowDistinguisherMethod)({}), Rules:[]flowcontrol.PolicyRulesWithSubjects{}}}",
        spec.at(&["priorityLevelConfiguration", "name"]).text(),
        spec.field("matchingPrecedence").int().unwrap_or(0),
        pointer(&spec.field("distinguisherMethod")),
        if spec.field("rules").is_empty() { "(nil)" } else { "{...}" },
    )
}

fn conditions(at: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for condition in at.at(&["status", "conditions"]).items() {
        let kind = condition.field("type");
        if !seen.insert(kind.text()) {
            errors.duplicate(&kind);
        }
        if kind.is_empty() {
            errors.required(&kind, "must not be empty");
        }
    }
}
