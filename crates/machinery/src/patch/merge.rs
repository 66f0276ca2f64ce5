//! RFC 7386.

use crate::{Status, Value};

/// Is it a merge patch at all, that is, an object?
///
/// # Errors
/// 400, in upstream's words.
pub fn check_merge_patch(patch: &Value) -> Result<(), Status> {
    match patch {
        Value::Object(_) => Ok(()),
        Value::Null => Err(Status::bad_request("Invalid JSON Patch")),
        other => Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            super::json_patch::go_kind(other)
        ))),
    }
}

/// Merges a patch into a document: members replace, null removes, objects merge, anything else replaces.
pub fn merge_patch(document: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *document = without_nulls(patch);
        return;
    };
    let Value::Object(members) = document else {
        *document = without_nulls(patch);
        return;
    };
    for (key, change) in changes.iter() {
        match (members.get_mut(key), change) {
            (None, Value::Null) => {}
            (Some(_), Value::Null) => {
                members.remove(key);
            }
            (Some(member), _) if !member.is_null() => merge_patch(member, change),
            _ => {
                members.insert(key, without_nulls(change));
            }
        }
    }
}

/// A copy without null members; nulls in lists stay.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(o) => o.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        Value::Array(a) => a.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn merges_as_the_rfc_says() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": null}), json!({"b": {"c": null, "d": [null]}}), json!({"a": null, "b": {"d": [null]}})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut document, patch, expect) in cases {
            merge_patch(&mut document, &patch);
            assert_eq!(document, expect);
        }
        assert_eq!(
            check_merge_patch(&json!([])).unwrap_err().message,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }
}
