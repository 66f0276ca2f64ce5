//! Where the elements of a merged list end up: the patch's order rules, what only the server has is fitted in.

use crate::Value;

/// What tells elements apart: the merge key's value, or the element itself.
fn identity<'v>(item: &'v Value, key: &str) -> &'v Value {
    if key.is_empty() { item } else { &item[key] }
}

/// The place in `list` of the element with the same identity.
pub(super) fn position(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    let wanted = identity(item, key);
    list.iter().position(|other| identity(other, key) == wanted)
}

/// Splits `merged` into elements that are in `order` and those only the server has.
pub(super) fn partition(merged: Vec<Value>, order: &[Value], key: &str) -> (Vec<Value>, Vec<Value>) {
    merged.into_iter().partition(|item| position(order, item, key).is_some())
}

/// Joins both parts: `patched` in the order of `patch_order`, `server` in that of `server_order`, each server element
/// before the first patched one it preceded.
pub(super) fn join(
    patched: Vec<Value>,
    server: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: &str,
) -> Vec<Value> {
    let place = |item: &Value| position(server_order, item, key);
    let patched = sorted(patched, |item| position(patch_order, item, key));
    let server = sorted(server, place);
    let mut out = Vec::with_capacity(patched.len() + server.len());
    let mut patched = patched.into_iter().map(|item| (place(&item), item)).peekable();
    for item in server {
        let at = place(&item);
        while let Some((next, _)) = patched.peek() {
            if at.is_some() && next.is_some() && at < *next {
                break;
            }
            out.extend(patched.next().map(|(_, item)| item));
        }
        out.push(item);
    }
    out.extend(patched.map(|(_, item)| item));
    out
}

fn sorted(items: Vec<Value>, place: impl Fn(&Value) -> Option<usize>) -> Vec<Value> {
    let mut placed: Vec<(usize, Value)> = items.into_iter().map(|i| (place(&i).unwrap_or(usize::MAX), i)).collect();
    placed.sort_by_key(|(at, _)| *at);
    placed.into_iter().map(|(_, item)| item).collect()
}
