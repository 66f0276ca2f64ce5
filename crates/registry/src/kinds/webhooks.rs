//! Admission webhook configurations and API services.

use std::collections::BTreeSet;

use machinery::{FieldError, names};

use crate::strategy::{Generation, StatusRule, Strategy};
use crate::validation::{At, Errors, go, label_selector};

pub(crate) static MUTATING: Strategy = Strategy {
    generation: Generation::Content,
    unconditional_update: false,
    validate: |at, _, errors| configuration(at, true, errors),
    ..Strategy::PLAIN
};

pub(crate) static VALIDATING: Strategy = Strategy {
    generation: Generation::Content,
    unconditional_update: false,
    validate: |at, _, errors| configuration(at, false, errors),
    ..Strategy::PLAIN
};

pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const CONDITIONS_MAX: usize = 64;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

fn configuration(at: &At<'_>, mutating: bool, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for hook in at.field("webhooks").items() {
        webhook(&hook, mutating, errors);
        review_versions(&hook.field("admissionReviewVersions"), errors);
        let name = hook.field("name");
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
    }
}

fn webhook(hook: &At<'_>, mutating: bool, errors: &mut Errors) {
    fully_qualified(&hook.field("name"), errors);
    hook.field("rules").items().iter().for_each(|rule| rule_with_operations(rule, errors));
    for (member, words) in [("failurePolicy", FAILURE_POLICIES), ("matchPolicy", MATCH_POLICIES)] {
        if hook.field(member).is_set() {
            errors.one_of(&hook.field(member), &words);
        }
    }
    let effects = hook.field("sideEffects");
    if effects.is_set() {
        errors.one_of(&effects, &["None", "NoneOnDryRun"]);
    } else {
        errors.required(&effects, "must specify one of None, NoneOnDryRun");
    }
    let seconds = hook.field("timeoutSeconds");
    if seconds.int().is_some_and(|s| !(1..=30).contains(&s)) {
        errors.invalid(&seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for selector in ["namespaceSelector", "objectSelector"].map(|m| hook.field(m)) {
        if selector.is_set() {
            label_selector(&selector, errors);
        }
    }
    let reinvocation = hook.field("reinvocationPolicy");
    if mutating && reinvocation.is_set() {
        errors.one_of(&reinvocation, &["IfNeeded", "Never"]);
    }
    client_config(&hook.field("clientConfig"), errors);
    match_conditions(&hook.field("matchConditions"), errors);
}

/// Conditions under which a webhook or a policy is asked at all.
pub(super) fn match_conditions(at: &At<'_>, errors: &mut Errors) {
    if at.items().len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(&at.path, at.items().len(), CONDITIONS_MAX));
    }
    let mut seen = BTreeSet::new();
    for condition in at.items() {
        let (name, expression) = (condition.field("name"), condition.field("expression"));
        if expression.text().trim().is_empty() {
            errors.required(&expression, "");
        }
        if name.is_empty() {
            errors.required(&name, "");
            continue;
        }
        errors.all_invalid(&name, names::is_qualified_name(name.text()));
        if !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
    }
}

/// A webhook is reached by URL or by Service.
pub(crate) fn client_config(at: &At<'_>, errors: &mut Errors) {
    let (url, service) = (at.field("url"), at.field("service"));
    if url.is_set() == service.is_set() {
        errors.required(at, "exactly one of url or service is required");
        return;
    }
    if url.is_set() {
        webhook_url(&url, errors);
        return;
    }
    for (member, text) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if service.field(member).is_empty() {
            errors.required(&service.field(member), text);
        }
    }
    let port = service.field("port");
    if let Some(number) = port.int().filter(|n| !names::is_valid_port_number(*n).is_empty()) {
        let complaints = names::is_valid_port_number(number);
        errors.invalid(&port, format!("port is not valid: {}", complaints.join(", ")));
    }
    let path = service.field("path");
    if !path.is_set() || path.text() == "/" {
        return;
    }
    if !path.text().starts_with('/') {
        errors.invalid(&path, "must start with a '/'");
    }
    let rest: String = path.text().chars().skip(1).collect();
    for (i, segment) in rest.strip_suffix('/').unwrap_or(&rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(&path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for complaint in names::is_dns1123_subdomain(segment) {
            errors.invalid(&path, format!("segment[{i}]: {complaint}"));
        }
    }
}

/// Parts are taken off the end, as RFC 3986 has them: fragment, query, then authority.
fn webhook_url(at: &At<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = at.text().split_once('#').unwrap_or((at.text(), ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    if scheme != "https" {
        errors.invalid_value(at, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.invalid_value(at, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid_value(at, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid_value(at, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid_value(at, query, "query parameters are not permitted in the URL");
    }
}

fn fully_qualified(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
        return;
    }
    let complaints = names::is_dns1123_subdomain(at.text());
    if !complaints.is_empty() {
        errors.invalid(at, complaints.join(","));
    } else if at.text().split('.').count() < 3 {
        errors.invalid(at, "should be a domain with at least three segments separated by dots");
    }
}

/// What a webhook or a policy is about.
pub(super) fn rule_with_operations(rule: &At<'_>, errors: &mut Errors) {
    let wild = |at: &At<'_>| at.items().len() > 1 && at.items().iter().any(|i| i.text() == "*");
    let operations = rule.field("operations");
    if operations.is_empty() {
        errors.required(&operations, "");
    }
    if wild(&operations) {
        errors.invalid_as(
            &operations,
            go::strings("admissionregistration.OperationType", operations.value),
            "if '*' is present, must not specify other operations",
        );
    }
    operations.items().iter().for_each(|operation| errors.one_of(operation, &OPERATIONS));
    for (member, text) in [
        ("apiGroups", "if '*' is present, must not specify other API groups"),
        ("apiVersions", "if '*' is present, must not specify other API versions"),
    ] {
        let list = rule.field(member);
        if list.is_empty() {
            errors.required(&list, "");
        }
        if wild(&list) {
            errors.invalid_as(&list, go::strings("string", list.value), text);
        }
        if member == "apiVersions" {
            list.items().iter().filter(|v| v.is_empty()).for_each(|version| errors.required(version, ""));
        }
    }
    rule_resources(&rule.field("resources"), errors);
    let scope = rule.field("scope");
    if scope.is_set() {
        errors.one_of(&scope, &["*", "Cluster", "Namespaced"]);
    }
}

fn rule_resources(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
    }
    let (mut all_parts_of, mut part_of_all) = (BTreeSet::new(), BTreeSet::new());
    let mut bare = false;
    for item in at.items() {
        let Some((resource, part)) = item.text().split_once('/') else {
            if item.is_empty() {
                errors.required(&item, "");
            } else {
                // The last one without a slash decides, as upstream has it.
                bare = item.text() != "*";
            }
            continue;
        };
        if all_parts_of.contains(resource) {
            let text = format!("if '{resource}/*' is present, must not specify {}", item.text());
            errors.invalid(&item, text);
        }
        if part_of_all.contains(part) {
            errors.invalid(&item, format!("if '*/{part}' is present, must not specify {}", item.text()));
        }
        if part == "*" {
            all_parts_of.insert(resource);
        }
        if resource == "*" {
            part_of_all.insert(part);
        }
    }
    let has = |word: &str| at.items().iter().any(|i| i.text() == word);
    if at.items().len() > 1 && has("*/*") {
        let text = "if '*/*' is present, must not specify other resources";
        errors.invalid_as(at, go::strings("string", at.value), text);
    }
    if has("*") && bare {
        let text = "if '*' is present, must not specify other resources without subresources";
        errors.invalid_as(at, go::strings("string", at.value), text);
    }
}

fn review_versions(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "must specify one of v1, v1beta1");
        return;
    }
    let mut seen = BTreeSet::new();
    for version in at.items() {
        if seen.insert(version.text()) {
            errors.all_invalid(&version, names::is_dns1035_label(version.text()));
        } else {
            errors.invalid(&version, "duplicate version");
        }
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        errors.invalid_as(at, go::strings("string", at.value), "must include at least one of v1, v1beta1");
    }
}

pub(crate) static API_SERVICE: Strategy = Strategy {
    name: crate::names::path_segment,
    status: StatusRule::Separate,
    prepare_create: |service, cx| {
        let mut status = machinery::Value::object();
        if service["spec"]["service"].is_null() {
            // A local one is served here, so it is available at once.
            let mut condition = machinery::json!({"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available"});
            condition.set("lastTransitionTime", cx.now.rfc3339());
            status.set("conditions", machinery::Value::Array(vec![condition]));
        }
        service.set("status", status);
    },
    validate: |at, _, errors| api_service(at, errors),
    ..Strategy::PLAIN
};

fn api_service(at: &At<'_>, errors: &mut Errors) {
    let (spec, name) = (at.field("spec"), at.at(&["metadata", "name"]));
    let (group, version) = (spec.field("group"), spec.field("version"));
    let required = format!("{}.{}", version.text(), group.text());
    if name.text() != required {
        errors.invalid(&name, format!("must be `spec.version+\".\"+spec.group`: {required:?}"));
    }
    if group.is_empty() && version.text() != "v1" {
        errors.required(&group, "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        errors.dns_subdomain(&group);
    }
    errors.all_invalid(&version, names::is_dns1035_label(version.text()));
    for (member, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let at = spec.field(member);
        let number = at.int().unwrap_or(0);
        if !(1..=max).contains(&number) {
            errors.invalid_value(&at, number, format!("must be positive and less than {max}"));
        }
    }
    let (service, insecure, bundle) =
        (spec.field("service"), spec.field("insecureSkipTLSVerify"), spec.field("caBundle"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", super::from_base64(bundle.text()).unwrap_or_default().len());
            errors.push(FieldError::invalid(&bundle.path, &shown.into(), "local APIServices may not have a caBundle"));
        }
        if insecure.truth() {
            errors.invalid(&insecure, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for member in ["namespace", "name"] {
        if service.field(member).is_empty() {
            errors.required(&service.field(member), "");
        }
    }
    let port = service.field("port");
    if let Some(number) = port.int() {
        let complaints = names::is_valid_port_number(number);
        if !complaints.is_empty() {
            errors.invalid(&port, format!("port is not valid: {}", complaints.join(", ")));
        }
    }
    if insecure.truth() && !bundle.is_empty() {
        errors.invalid(&insecure, "may not be true if caBundle is present");
    }
}
