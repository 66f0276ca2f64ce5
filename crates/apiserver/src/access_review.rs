//! The specs of access reviews: checked as `pkg/apis/authorization/validation` does, and read as attributes.

use machinery::fields::{Operator, Selector};
use machinery::{FieldError, FieldErrors, FieldPath, Status, Value, json, labels};
use policy::{Attributes, Decision, GoogleIdentity, UserInfo};

use crate::server::Inner;

/// Which of the three reviews it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    Own,
    Cluster,
    /// With the namespace of the request.
    Local(&'a str),
}

/// Checks a review.
///
/// # Errors
/// 422 with every field at fault; 400 when a local review is about another namespace.
pub(crate) fn check(review: &Value, kind: Kind<'_>) -> Result<(), Status> {
    let spec = &review["spec"];
    let path = FieldPath::new("spec");
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = FieldErrors::new();
    if !resource.is_null() && !other.is_null() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), other, why));
    }
    if resource.is_null() && other.is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&path.child("resourceAttributes"), &Value::Null, why));
    }
    if kind != Kind::Own && spec.str_at(&["user"]).is_empty() && spec["groups"].items().is_empty() {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&path.child("user"), &"".into(), why));
    }
    let at = FieldPath::new("spec.resourceAttributes");
    check_selector(&resource["fieldSelector"], &at.child("fieldSelector"), false, &mut errors);
    check_selector(&resource["labelSelector"], &at.child("labelSelector"), true, &mut errors);
    check_metadata(&review["metadata"], kind, &mut errors);
    if let Kind::Local(namespace) = kind {
        let given = resource.str_at(&["namespace"]);
        if !resource.is_null() && given != namespace {
            let at = FieldPath::new("spec.resourceAttributes.namespace");
            errors.push(FieldError::invalid(&at, &given.into(), "must match metadata.namespace"));
        }
        if !other.is_null() {
            let at = FieldPath::new("spec.nonResourceAttributes");
            errors.push(FieldError::invalid(&at, other, "disallowed on this kind of request"));
        }
    }
    // Upstream names the kind as the decoded object does, which then has none any more.
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authorization.k8s.io", "", "", &errors)) }
}

fn check_metadata(metadata: &Value, kind: Kind<'_>, errors: &mut FieldErrors) {
    let allowed = |name: &str| {
        matches!(name, "creationTimestamp" | "managedFields") || name == "namespace" && matches!(kind, Kind::Local(_))
    };
    if metadata.members().any(|(name, value)| !allowed(name) && !value.is_null()) {
        let why = if matches!(kind, Kind::Local(_)) { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid(&FieldPath::new("metadata"), metadata, why));
    }
}

fn check_selector(selector: &Value, path: &FieldPath, of_labels: bool, errors: &mut FieldErrors) {
    if selector.is_null() {
        return;
    }
    let (raw, requirements) = (selector.str_at(&["rawSelector"]), selector["requirements"].items());
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(&path.child("rawSelector"), &raw.into(), why));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(&path.child("requirements"), why));
    }
    for (i, requirement) in requirements.iter().enumerate() {
        check_requirement(requirement, &path.child("requirements").index(i), of_labels, errors);
    }
}

/// Operators that are not known are let through: a newer client may know more.
fn check_requirement(requirement: &Value, path: &FieldPath, of_labels: bool, errors: &mut FieldErrors) {
    let (key, values) = (requirement.str_at(&["key"]), requirement["values"].items());
    if !of_labels && key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), "must be specified"));
    }
    match requirement.str_at(&["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), why));
        }
        _ => {}
    }
    if of_labels {
        for why in machinery::names::is_qualified_name(key) {
            errors.push(FieldError::invalid(&path.child("key"), &key.into(), why));
        }
        for (i, value) in values.iter().enumerate() {
            for why in machinery::names::is_valid_label_value(value.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(&path.child("values").index(i), value, why));
            }
        }
    }
}

/// The equality requirements of the field selector, and what could not be read of both selectors: that part is left out,
/// which can only make the question broader (`BuildEvaluationError`).
fn selectors(resource: &Value) -> (Vec<(String, String)>, Vec<String>) {
    let mut complaints = Vec::new();
    let mut complain = |which: &str, some: bool| {
        let partially = if some { "partially " } else { "" };
        complaints.push(format!("spec.resourceAttributes.{which} {partially}ignored due to parse error"));
    };
    let field = &resource["fieldSelector"];
    let (mut equal, mut read, mut broken) = (Vec::new(), 0, false);
    match Selector::parse(field.str_at(&["rawSelector"])) {
        Ok(selector) => {
            let all = selector.requirements().filter(|(_, operator, _)| *operator == Operator::Equals);
            equal.extend(all.map(|(key, _, value)| (key.to_owned(), value.to_owned())));
        }
        Err(_) => broken = true,
    }
    for requirement in field["requirements"].items() {
        match (requirement.str_at(&["operator"]), requirement["values"].items()) {
            (operator @ ("In" | "NotIn"), [value]) => {
                read += 1;
                if operator == "In" {
                    let key = requirement.str_at(&["key"]).to_owned();
                    equal.push((key, value.as_str().unwrap_or_default().to_owned()));
                }
            }
            _ => broken = true,
        }
    }
    if broken {
        complain("fieldSelector", read > 0);
    }
    let label = &resource["labelSelector"];
    let known = |r: &&Value| matches!(r.str_at(&["operator"]), "In" | "NotIn" | "Exists" | "DoesNotExist");
    let requirements = label["requirements"].items();
    let good = requirements.iter().filter(known).count();
    if labels::Selector::parse(label.str_at(&["rawSelector"])).is_err() || good < requirements.len() {
        complain("labelSelector", good > 0);
    }
    (equal, complaints)
}

impl Inner {
    /// The `status` of a review that was checked.
    pub(crate) fn access_status(&self, spec: &Value, user: &UserInfo, google: Option<&GoogleIdentity>) -> Value {
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if resource.is_null() {
            let a = Attributes::path(user, path.str_at(&["verb"]), path.str_at(&["path"]));
            return status(self.authorize(&a, google), &[]);
        }
        let (equal, complaints) = selectors(resource);
        let equal: Vec<(&str, &str)> = equal.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let version = resource.str_at(&["version"]);
        let a = Attributes {
            namespace: resource.str_at(&["namespace"]),
            version: if version.is_empty() { "*" } else { version },
            subresource: resource.str_at(&["subresource"]),
            name: resource.str_at(&["name"]),
            field_selector: &equal,
            ..Attributes::resource(
                user,
                resource.str_at(&["verb"]),
                resource.str_at(&["group"]),
                resource.str_at(&["resource"]),
            )
        };
        status(self.authorize(&a, google), &complaints)
    }
}

fn status(decision: Decision, complaints: &[String]) -> Value {
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status.set("reason", decision.reason);
    }
    if !complaints.is_empty() {
        status.set("evaluationError", complaints.join("; "));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_far_as_they_can_be() {
        let read = |selector: Value| {
            let (equal, complaints) = selectors(&json!({}).tap("fieldSelector", selector));
            (equal.len(), complaints.join("; "))
        };
        let ignored = "spec.resourceAttributes.fieldSelector ignored due to parse error".to_owned();
        assert_eq!(read(json!({"rawSelector": "a=b,c!=d"})), (1, String::new()));
        assert_eq!(read(json!({"rawSelector": "a"})), (0, ignored.clone()));
        let one = json!({"key": "a", "operator": "In", "values": ["b"]});
        let two = json!({"key": "a", "operator": "In", "values": ["b", "c"]});
        let list = |items: Vec<Value>| json!({}).tap("requirements", items.into_iter().collect::<Value>());
        assert_eq!(read(list(vec![one.clone()])), (1, String::new()));
        assert_eq!(read(list(vec![two.clone()])), (0, ignored.clone()));
        assert_eq!(read(list(vec![one, two])), (1, ignored.replace("ignored", "partially ignored")));
    }

    trait Tap {
        fn tap(self, key: &str, value: Value) -> Value;
    }

    impl Tap for Value {
        fn tap(mut self, key: &str, value: Value) -> Value {
            self.set(key, value);
            self
        }
    }
}
