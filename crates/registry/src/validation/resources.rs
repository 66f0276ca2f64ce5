//! Limits, requests and quantities.

use machinery::quantity::Quantity;
use machinery::{FieldPath, Value, names};

use super::{At, Errors, NOT_NEGATIVE};

/// Limits and requests of a container.
pub(crate) fn resources(at: &At<'_>, errors: &mut Errors) {
    let (limits, requests) = (at.field("limits"), at.field("requests"));
    amounts(&limits, errors);
    amounts(&requests, errors);
    for (name, request) in requests.entries() {
        let extended = !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage");
        let limit = limits.field(name);
        let (Some(asked), Some(most)) = (quantity(&request), quantity(&limit)) else {
            if extended && !limit.is_set() {
                errors.required(&limits, "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let shown = Value::from(asked.to_string());
        let at_requests = At { value: &shown, path: requests.path.clone() };
        if extended && asked != most {
            errors.invalid(&at_requests, format!("must be equal to {name} limit of {most}"));
        } else if asked > most {
            errors.invalid(&at_requests, format!("must be less than or equal to {name} limit of {most}"));
        }
    }
}

/// Amounts of resources that a container may have.
pub(crate) fn amounts(at: &At<'_>, errors: &mut Errors) {
    for (name, amount) in at.entries() {
        container_resource(name, &amount.path, errors);
        non_negative_quantity(&amount, errors);
        whole_pages(name, &amount, errors);
    }
}

/// Huge pages come whole.
fn whole_pages(name: &str, at: &At<'_>, errors: &mut Errors) {
    let size = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok()).map(|q| q.value());
    let (Some(size), Some(amount)) = (size.filter(|s| *s > 0), quantity(at)) else { return };
    if amount.value() % size != 0 {
        errors.invalid_value(at, amount.to_string(), format!("{amount} is not positive integer multiple of {name}"));
    }
}

/// The rules of a resource's name that hold for containers.
pub(crate) fn container_resource(name: &str, path: &FieldPath, errors: &mut Errors) {
    resource_name(name, path, errors);
    let value = Value::from(name);
    let at = At { value: &value, path: path.clone() };
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid_as(&at, name.to_owned(), "must be a standard resource for containers");
    } else if name.contains('/') && name.starts_with("requests.") {
        errors.invalid_as(&at, name.to_owned(), "doesn't follow extended resource name standard");
    }
}

/// The rules that hold for every resource's name.
pub(crate) fn resource_name(name: &str, path: &FieldPath, errors: &mut Errors) {
    let value = Value::from(name);
    let at = At { value: &value, path: path.clone() };
    let complaints = names::is_qualified_name(name);
    if complaints.is_empty() && !name.contains('/') && !is_standard_resource(name) {
        errors.invalid_as(&at, name.to_owned(), "must be a standard resource type or fully qualified");
    }
    complaints.into_iter().for_each(|c| errors.invalid_as(&at, name.to_owned(), c));
}

/// Names without a domain that Kubernetes knows for some object.
pub(crate) fn is_standard_resource(name: &str) -> bool {
    const KNOWN: [&str; 22] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
        "requests.hugepages-",
        "hugepages-",
    ];
    KNOWN.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// The quantity of a field, when it can be read.
pub(crate) fn quantity(at: &At<'_>) -> Option<Quantity> {
    match at.value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Int(n) => Quantity::parse(&n.to_string()).ok(),
        _ => None,
    }
}

/// Below zero is invalid.
pub(crate) fn non_negative_quantity(at: &At<'_>, errors: &mut Errors) {
    if let Some(amount) = quantity(at).filter(|q| *q < Quantity::default()) {
        errors.invalid_value(at, amount.to_string(), NOT_NEGATIVE);
    }
}
