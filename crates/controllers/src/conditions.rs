//! `status.conditions`, and instants in objects.

use base::Timestamp;
use machinery::{Value, json};

/// The condition of a type, if the list has it.
pub fn find<'a>(conditions: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions.items().iter().find(|c| c["type"].as_str() == Some(kind))
}

/// The condition of a type in an object's status.
pub fn of<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    find(&object["status"]["conditions"], kind)
}

/// Is the condition of a type `True` in an object's status?
pub fn is_true(object: &Value, kind: &str) -> bool {
    of(object, kind).is_some_and(|c| c["status"].as_str() == Some("True"))
}

/// A condition that changed now.
pub fn new(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": now.rfc3339()});
    for (key, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition.set(key, text);
        }
    }
    condition
}

/// Puts a condition in place of one of its type. Keeps the transition time when the status is the same; changes nothing
/// when status, reason and message are.
pub fn set(conditions: &mut Value, mut condition: Value) -> bool {
    if !matches!(conditions, Value::Array(_)) {
        *conditions = Value::Array(Vec::new());
    }
    let list = conditions.as_array_mut().expect("just made one");
    let Some(old) = list.iter_mut().find(|c| c["type"] == condition["type"]) else {
        list.push(condition);
        return true;
    };
    if ["status", "reason", "message"].iter().all(|k| old[*k] == condition[*k]) {
        return false;
    }
    if old["status"] == condition["status"] && !old["lastTransitionTime"].is_null() {
        condition.set("lastTransitionTime", old["lastTransitionTime"].clone());
    }
    *old = condition;
    true
}

/// Takes the condition of a type away.
pub fn remove(conditions: &mut Value, kind: &str) {
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c["type"].as_str() != Some(kind));
    }
}

/// The instant at a path.
pub fn time(object: &Value, path: &[&str]) -> Option<Timestamp> {
    Timestamp::parse(object.str_at(path)).ok()
}

/// The integer at a path, or the default.
pub fn int(object: &Value, path: &[&str], default: i64) -> i64 {
    object.at(path).and_then(Value::as_i64).unwrap_or(default)
}

/// An int-or-percentage of `total`, rounded up or down; zero when it is neither.
pub fn scaled(value: &Value, total: i64, round_up: bool) -> i64 {
    match value {
        Value::Int(n) => *n,
        Value::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0);
            let product = percent.saturating_mul(total);
            if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        assert_eq!((scaled(&"25%".into(), 10, true), scaled(&"25%".into(), 10, false)), (3, 2));
        assert_eq!(scaled(&Value::Int(4), 10, true), 4);
    }

    #[test]
    fn a_condition_keeps_its_transition_time_while_its_status_stays() {
        let t = |s| Timestamp::from_unix_seconds(s);
        let mut list = Value::Null;
        assert!(set(&mut list, new("Ready", "True", "A", "", t(1))));
        assert!(!set(&mut list, new("Ready", "True", "A", "", t(2))));
        assert!(set(&mut list, new("Ready", "True", "B", "", t(3))));
        assert_eq!(time(find(&list, "Ready").unwrap(), &["lastTransitionTime"]), Some(t(1)));
    }
}
