//! RFC 6902 with the leniences of `evanphx/json-patch` v4, which the API server uses: negative indices count from the
//! end, `replace` of a missing member adds it, a missing member tests equal to null.

use super::unprocessable;
use crate::value::CompactString;
use crate::{Reason, Status, Value};

/// More operations than this are refused.
const OPERATIONS_MAX: usize = 10_000;
/// What all `copy` operations of one patch may add, in values.
const COPIED_VALUES_MAX: usize = 1_000_000;
/// Nesting, as for JSON that is read: each operation could deepen the document, and whatever walks it uses the stack.
const DEPTH_MAX: usize = 128;

/// Applies a JSON patch to a document.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 when an operation does not apply.
pub fn json_patch(document: &Value, patch: &Value) -> Result<Value, Status> {
    let Some(operations) = patch.as_array() else {
        let what = go_kind(patch);
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type []handlers.jsonPatchOp"
        )));
    };
    if let Some(bad) = operations.iter().find(|o| o.as_object().is_none() && !o.is_null()) {
        let what = go_kind(bad);
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type handlers.jsonPatchOp"
        )));
    }
    if operations.len() > OPERATIONS_MAX {
        let text =
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(Status::new(Reason::RequestEntityTooLarge, text));
    }
    let mut document = document.clone();
    let mut copied = 0;
    for operation in operations {
        apply(&mut document, operation, &mut copied).ok_or_else(unprocessable)?;
    }
    Ok(document)
}

pub(super) const fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Option<()> {
    let path = operation.get("path")?.as_str();
    let value = || operation.get("value").cloned().unwrap_or_default();
    match operation.get("op")?.as_str()? {
        "add" => add(document, path?, value()),
        "remove" => remove(document, path?).map(|_| ()),
        "replace" => replace(document, path?, value()),
        "move" => {
            let from = operation.get("from")?.as_str()?;
            let value = remove(document, from)?;
            add(document, path?, value)
        }
        "copy" => {
            let from = operation.get("from")?.as_str()?;
            let value = read(document, from)?.cloned().unwrap_or_default();
            *copied += size(&value);
            if *copied > COPIED_VALUES_MAX {
                return None;
            }
            add(document, path?, value)
        }
        "test" => {
            let wanted = value();
            let path = path?;
            if path.is_empty() {
                return (*document == wanted).then_some(());
            }
            let found = read(document, path)?;
            (found.unwrap_or(&Value::Null) == &wanted).then_some(())
        }
        _ => None,
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(a) => 1 + a.iter().map(size).sum::<usize>(),
        Value::Object(o) => 1 + o.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// Would the value at this place stay within [`DEPTH_MAX`]?
fn fits(path: &str, value: &Value) -> Option<()> {
    let above = path.bytes().filter(|b| *b == b'/').count();
    (above + depth(value) <= DEPTH_MAX).then_some(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(a) => 1 + a.iter().map(depth).max().unwrap_or(0),
        Value::Object(o) => 1 + o.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn decode(token: &str) -> CompactString {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~").into() } else { token.into() }
}

/// The container a pointer leads into, and the last token.
fn split(path: &str) -> Option<(impl Iterator<Item = CompactString> + '_, CompactString)> {
    let (parents, last) = path.rsplit_once('/')?;
    let parents = parents.split('/').skip(1).map(decode);
    Some((parents, decode(last)))
}

fn parent(document: &Value, tokens: impl Iterator<Item = CompactString>) -> Option<&Value> {
    let mut at = document;
    for token in tokens {
        at = match at {
            Value::Object(o) => o.get(&token)?,
            Value::Array(a) => a.get(index(&token, a.len())?)?,
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some(at)
}

fn parent_mut(document: &mut Value, tokens: impl Iterator<Item = CompactString>) -> Option<&mut Value> {
    let mut at = document;
    for token in tokens {
        at = match at {
            Value::Object(o) => o.get_mut(&token)?,
            Value::Array(a) => {
                let i = index(&token, a.len())?;
                a.get_mut(i)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some(at)
}

/// A place in a list of `len`; negative ones count from the end.
fn index(token: &str, len: usize) -> Option<usize> {
    let i: i64 = token.parse().ok()?;
    let i = if i < 0 { i64::try_from(len).ok()? + i } else { i };
    usize::try_from(i).ok()
}

/// `Some(None)` for a missing member, `None` when the pointer leads nowhere.
fn read<'v>(document: &'v Value, path: &str) -> Option<Option<&'v Value>> {
    let (tokens, last) = split(path)?;
    match parent(document, tokens)? {
        Value::Object(o) => Some(o.get(&last)),
        Value::Array(a) => a.get(index(&last, a.len())?).map(Some),
        _ => None,
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    fits(path, &value)?;
    let (tokens, last) = split(path)?;
    match parent_mut(document, tokens)? {
        Value::Object(o) => {
            o.insert(last, value);
        }
        Value::Array(a) if last == "-" => a.push(value),
        Value::Array(a) => {
            let i = index(&last, a.len() + 1).filter(|i| *i <= a.len())?;
            a.insert(i, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<Value> {
    let (tokens, last) = split(path)?;
    match parent_mut(document, tokens)? {
        Value::Object(o) => o.remove(&last),
        Value::Array(a) => {
            let i = index(&last, a.len()).filter(|i| *i < a.len())?;
            Some(a.remove(i))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return None;
        }
        *document = value;
        return Some(());
    }
    fits(path, &value)?;
    let (tokens, last) = split(path)?;
    match parent_mut(document, tokens)? {
        Value::Object(o) => {
            o.insert(last, value);
        }
        Value::Array(a) => {
            let i = index(&last, a.len())?;
            *a.get_mut(i)? = value;
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn operations_apply_in_order() {
        let document = json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 1}});
        let patch = json!([
            {"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/-", "value": 4},
            {"op": "add", "path": "/a/b/1", "value": 9},
            {"op": "remove", "path": "/a/b/-1"},
            {"op": "replace", "path": "/a/new", "value": null},
            {"op": "copy", "from": "/a/b/1", "path": "/c"},
            {"op": "move", "from": "/x~1y/~0", "path": "/d"},
            {"op": "test", "path": "/nothing", "value": null},
        ]);
        assert_eq!(
            json_patch(&document, &patch).unwrap(),
            json!({"a": {"b": [1, 9, 2, 3], "new": null}, "c": 9, "d": 1, "x/y": {}})
        );
    }

    #[test]
    fn operations_cannot_dig_without_end() {
        let dig = json!({"op": "copy", "from": "/a", "path": "/a/a"});
        assert!(json_patch(&json!({"a": {}}), &Value::Array(vec![dig.clone(); 100])).is_ok());
        let status = json_patch(&json!({"a": {}}), &Value::Array(vec![dig; 1000])).unwrap_err();
        assert_eq!(status.code, 422);
    }

    #[test]
    fn what_does_not_apply_is_422_and_what_is_no_patch_400() {
        let document = json!({"a": [1]});
        for operation in [
            json!({"op": "remove", "path": "/b"}),
            json!({"op": "add", "path": "/b/c", "value": 1}),
            json!({"op": "add", "path": "/a/5", "value": 1}),
            json!({"op": "replace", "path": "/a/1", "value": 1}),
            json!({"op": "test", "path": "/a/0", "value": 2}),
            json!({"op": "jump", "path": "/a"}),
            json!({"op": "add"}),
            json!({"op": "add", "path": "", "value": {}}),
            json!({"op": "move", "from": "/x", "path": "/y"}),
        ] {
            let status = json_patch(&document, &Value::Array(vec![operation])).unwrap_err();
            assert_eq!((status.code, status.message), (422, unprocessable().message));
        }
        let status = json_patch(&document, &json!({})).unwrap_err();
        assert_eq!(
            (status.code, status.message.as_str()),
            (400, "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp")
        );
        let many = Value::Array(vec![json!({"op": "test", "path": "/b"}); OPERATIONS_MAX + 1]);
        assert_eq!(json_patch(&document, &many).unwrap_err().code, 413);
    }
}
