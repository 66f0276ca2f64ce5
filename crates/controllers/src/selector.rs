//! Matching objects by label: `metav1.LabelSelector` trees and plain maps.

use machinery::{Value, meta};

/// Does a `metav1.LabelSelector` match these labels? Null matches nothing, the empty selector everything; an operator
/// nobody knows matches nothing.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    !selector.is_null()
        && selector["matchLabels"].members().all(|(k, v)| labels.get(k) == Some(v))
        && selector["matchExpressions"].items().iter().all(|e| expression(e, labels))
}

/// Does a plain map (a Service's or ReplicationController's) select these labels? The empty map selects nothing.
pub fn selects(map: &Value, labels: &Value) -> bool {
    map.members().next().is_some() && map.members().all(|(k, v)| labels.get(k) == Some(v))
}

/// Has a LabelSelector no requirement at all?
pub fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"].members().next().is_none() && selector["matchExpressions"].items().is_empty()
}

/// The labels of an object.
pub fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

/// One requirement `{key, operator, values}` over a map of labels; also a node selector's.
pub fn expression(requirement: &Value, labels: &Value) -> bool {
    let found = labels.get(requirement.str_at(&["key"])).and_then(Value::as_str);
    let values = requirement["values"].items();
    let listed = |text: &str| values.iter().any(|v| v.as_str() == Some(text));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || values.first().and_then(Value::as_str).and_then(number);
    match requirement.str_at(&["operator"]) {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found.and_then(number).zip(bound()).is_some_and(|(f, b)| f > b),
        "Lt" => found.and_then(number).zip(bound()).is_some_and(|(f, b)| f < b),
        _ => false,
    }
}

/// Does a NodeSelector match a node? Terms are alternatives; a term without requirements matches nothing.
pub fn node_selector(selector: &Value, node: &Value) -> bool {
    selector["nodeSelectorTerms"].items().iter().any(|term| node_selector_term(term, node))
}

/// Does one NodeSelectorTerm match a node?
pub fn node_selector_term(term: &Value, node: &Value) -> bool {
    let (expressions, fields) = (term["matchExpressions"].items(), term["matchFields"].items());
    let name: Value = [("metadata.name", meta::name(node))].into_iter().collect();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|e| expression(e, labels(node)))
        && fields.iter().all(|e| expression(e, &name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn selectors_match_as_documented() {
        let labels = json!({"app": "web", "tier": "5"});
        let check = |selector: Value| matches(&selector, &labels);
        assert!(check(json!({})));
        assert!(!check(Value::Null));
        assert!(check(json!({"matchLabels": {"app": "web"}})));
        assert!(!check(json!({"matchLabels": {"app": "db"}})));
        assert!(check(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]},
            {"key": "none", "operator": "DoesNotExist"}, {"key": "tier", "operator": "Gt", "values": ["4"]}]})));
        assert!(!selects(&json!({}), &labels));
    }
}
