//! Strategic merge patch, after `k8s.io/apimachinery/pkg/util/strategicpatch`: lists with a merge key merge element by
//! element, lists of plain values as sets, and directives in the patch say what merging cannot.

use super::{order, plain, unprocessable};
use crate::schema::{Field, Shape, Type, Types};
use crate::value::Object;
use crate::{Status, Value, go};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// Applies a strategic merge patch to an object of type `type_name`.
///
/// # Errors
/// 400 for malformed directives, 422 where upstream says so, 500 for the rest, as upstream does.
pub fn strategic_merge(original: &Value, patch: &Value, types: &Types, type_name: &str) -> Result<Value, Status> {
    let Some(ty) = types.get(type_name) else {
        return Err(Status::bad_request("strategic merge patch format is not supported"));
    };
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            Merger { types }.map(original.clone(), patch.clone(), &Meta::Struct(ty)).map(Value::Object)
        }
        _ => Err(Status::bad_request("invalid JSON document")),
    }
}

/// What the schema knows about a value.
enum Meta<'a> {
    Struct(&'a Type),
    /// A struct without fields of its own in JSON.
    Opaque(&'static str),
    /// Any other Go kind.
    Other(&'static str),
}

struct FieldMeta<'a> {
    inner: Meta<'a>,
    merge: bool,
    replace: bool,
    key: &'static str,
}

struct Merger<'a> {
    types: &'a Types,
}

type Merged<T> = Result<T, Status>;

impl<'a> Merger<'a> {
    fn meta(&self, shape: &'a Shape) -> Meta<'a> {
        match shape {
            Shape::Ref(name) => match self.types.resolve(name) {
                Some(ty) if self.types.as_list(ty).is_none() => Meta::Struct(ty),
                Some(_) => Meta::Other("slice"),
                None => Meta::Opaque(name.local()),
            },
            Shape::Map(_) => Meta::Other("map"),
            Shape::List(_) | Shape::Bytes => Meta::Other("slice"),
            Shape::String => Meta::Other("string"),
            Shape::Bool => Meta::Other("bool"),
            Shape::Int32 => Meta::Other("int32"),
            Shape::Int64 => Meta::Other("int64"),
            Shape::Float64 => Meta::Other("float64"),
            Shape::Any => Meta::Other("interface"),
            Shape::Time => Meta::Opaque("Time"),
            Shape::MicroTime => Meta::Opaque("MicroTime"),
            Shape::Duration => Meta::Opaque("Duration"),
            Shape::Quantity => Meta::Opaque("Quantity"),
            Shape::IntOrString => Meta::Opaque("IntOrString"),
            Shape::RawExtension => Meta::Opaque("RawExtension"),
            Shape::FieldsV1 => Meta::Opaque("FieldsV1"),
            Shape::Json => Meta::Opaque("JSON"),
        }
    }

    fn field(&self, meta: &Meta<'a>, key: &str) -> Merged<&'a Field> {
        let missing = |name: &str| {
            plain(format!("unable to find api field in struct {name} for the json field {}", go::quote(key)))
        };
        match meta {
            Meta::Struct(ty) => self.types.member(ty, key).ok_or_else(|| missing(ty.name)),
            Meta::Opaque(name) => Err(missing(name)),
            Meta::Other(kind) => {
                Err(plain(format!("merging an object in json but data type is not struct, instead is: {kind}")))
            }
        }
    }

    fn lookup(&self, meta: &Meta<'a>, key: &str, slice: bool) -> Merged<FieldMeta<'a>> {
        let field = self.field(meta, key)?;
        let inner = match (&field.shape, slice) {
            (Shape::List(inner), true) => self.meta(inner),
            (shape, false) => self.meta(shape),
            (shape, true) => match self.meta(shape) {
                Meta::Other("slice") => Meta::Other("string"),
                _ => return Err(plain("expected slice or array type, but got: struct")),
            },
        };
        let key = field.merge_key.unwrap_or_default();
        Ok(FieldMeta { inner, merge: field.patch.merge, replace: field.patch.replace, key })
    }

    fn map(&self, mut original: Object, mut patch: Object, meta: &Meta<'a>) -> Merged<Object> {
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(PATCH);
                    Ok(patch)
                }
                Some("delete") => Ok(Object::new()),
                _ => Err(bad_patch_type(directive, &Value::Object(patch.clone()))),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, meta)?;
        for (key, change) in patch {
            self.member(&mut original, &key, change, meta)?;
        }
        Ok(original)
    }

    fn member(&self, original: &mut Object, key: &str, mut change: Value, meta: &Meta<'a>) -> Merged<()> {
        let delete_list = key.starts_with(DELETE_FROM_LIST);
        let key = if delete_list {
            directive_field(key, DELETE_FROM_LIST, "invalid patch format of primitive list")?
        } else {
            key
        };
        if change.is_null() {
            original.remove(key);
            return Ok(());
        }
        let current = original.get_mut(key);
        let merged = match (current, change) {
            (Some(Value::Object(current)), Value::Object(change)) => {
                let field = self.lookup(meta, key, false)?;
                let merged =
                    if field.replace { change } else { self.map(std::mem::take(current), change, &field.inner)? };
                Some(Value::Object(merged))
            }
            (Some(Value::Array(current)), Value::Array(change)) => {
                let field = self.lookup(meta, key, true)?;
                let merged = if field.merge || delete_list {
                    self.list(std::mem::take(current), change, &field, delete_list)?.0
                } else {
                    change
                };
                Some(Value::Array(merged))
            }
            _ if delete_list => return Ok(()),
            (current, given) => {
                change = given;
                let scalars = current.is_some_and(|c| c.type_name() == change.type_name());
                if !scalars {
                    discard_nulls(&mut change);
                }
                without_directives(change)
            }
        };
        match merged {
            Some(value) => original.insert(key, value),
            None => original.remove(key),
        };
        Ok(())
    }

    /// Lists for which the patch gives the order of elements.
    fn ordered_lists(&self, original: &mut Object, patch: &mut Object, meta: &Meta<'a>) -> Merged<()> {
        let orders: Vec<_> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).map(str::to_owned).collect();
        for directive in orders {
            let order = patch.remove(&directive).unwrap_or_default();
            let Value::Array(order) = order else { return Err(not_a_list(&order)) };
            let bad = "invalid patch format of setElementOrder list";
            let key = directive_field(&directive, ELEMENT_ORDER, bad)?;
            let current = match original.get(key) {
                None => None,
                Some(Value::Array(current)) => Some(current.clone()),
                Some(other) => return Err(not_a_list(other)),
            };
            let change = match patch.get(key) {
                None => None,
                Some(Value::Array(change)) => Some(change.clone()),
                Some(other) => return Err(not_a_list(other)),
            };
            let field = self.lookup(meta, key, true)?;
            check_order(change.as_deref().unwrap_or_default(), &order, field.key)?;
            let mut server_order = current.clone().unwrap_or_default();
            let merged = match (current, change) {
                (None, None) => continue,
                (Some(current), None) => current,
                (None, Some(change)) => match without_directives(Value::Array(change)) {
                    Some(Value::Array(kept)) => kept,
                    _ => continue,
                },
                (Some(current), Some(change)) if field.merge => {
                    let (merged, shared) = self.list(current, change, &field, false)?;
                    server_order = shared.unwrap_or(server_order);
                    merged
                }
                (Some(_), Some(change)) => change,
            };
            element_kind(&server_order, patch.get(key).map_or(&[], |v| v.items()))?;
            check_keys(&merged, field.key)?;
            check_keys(&order, field.key)?;
            let (patched, server) = order::partition(merged, &order, field.key);
            original.insert(key, Value::Array(order::join(patched, server, &order, &server_order, field.key)));
            patch.remove(key);
        }
        Ok(())
    }

    /// The merged list; and, where elements were deleted, the server's order as it stands after that: upstream's
    /// slices share memory, so new elements take the places of deleted ones.
    fn list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        field: &FieldMeta<'a>,
        delete: bool,
    ) -> Merged<(Vec<Value>, Option<Vec<Value>>)> {
        if original.is_empty() && patch.is_empty() {
            return Ok((original, None));
        }
        let objects = element_kind(&original, &patch)?;
        if !objects {
            if delete {
                return Ok((original.into_iter().filter(|item| !patch.contains(item)).collect(), None));
            }
            let mut merged = original.clone();
            merged.extend(patch.iter().cloned());
            let (patched, server) = order::partition(distinct(merged), &patch, "");
            return Ok((order::join(patched, server, &patch, &original, ""), None));
        }
        if field.key.is_empty() {
            let kind = if matches!(field.inner, Meta::Other(_)) { "map" } else { "struct" };
            return Err(plain(format!("cannot merge lists without merge key for {kind}")));
        }
        let len = original.len();
        let (original, patch) = special_elements(original, patch, field.key)?;
        let mut merged = original.clone();
        for change in &patch {
            check_keys(std::slice::from_ref(change), field.key)?;
            match order::position(&merged, change, field.key) {
                Some(at) => {
                    let (Value::Object(current), Value::Object(change)) = (merged[at].take(), change.clone()) else {
                        continue;
                    };
                    merged[at] = Value::Object(self.map(current, change, &field.inner)?);
                }
                None => merged.push(change.clone()),
            }
        }
        check_keys(&merged, field.key)?;
        let shared = (original.len() < len).then(|| merged.iter().take(len).cloned().collect());
        let (patched, server) = order::partition(merged, &patch, field.key);
        Ok((order::join(patched, server, &patch, &original, field.key), shared))
    }
}

/// Takes `$patch: delete` and `$patch: replace` elements out of the patch and carries them out.
fn special_elements(original: Vec<Value>, patch: Vec<Value>, key: &str) -> Merged<(Vec<Value>, Vec<Value>)> {
    let mut original = original;
    let mut plain_elements = Vec::with_capacity(patch.len());
    let mut replace = false;
    for element in patch {
        let Some(directive) = element.get(PATCH) else {
            plain_elements.push(element);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                check_keys(std::slice::from_ref(&element), key)?;
                original.retain(|item| item.get(key) != element.get(key));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(plain("merging lists cannot yet be specified in the patch")),
            _ => return Err(bad_patch_type(directive, &element)),
        }
    }
    Ok(if replace { (plain_elements, Vec::new()) } else { (original, plain_elements) })
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Merged<()> {
    let Some(retain) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || Status::bad_request("invalid patch format of retainKeys");
    let Value::Array(retain) = retain else { return Err(bad()) };
    let kept = |key: &str| retain.iter().any(|r| r.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM_LIST) || key.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !directive && !kept(key) {
            return Err(bad());
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// The field a directive like `$setElementOrder/containers` is about.
fn directive_field<'k>(key: &'k str, prefix: &str, error: &str) -> Merged<&'k str> {
    key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| Status::bad_request(error))
}

/// The patch's elements must stand in the order the directive gives.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Merged<()> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let same = |a: &Value, b: &Value| if key.is_empty() { a == b } else { a[key] == b[key] };
    let deletes = |item: &&Value| !key.is_empty() && item.get(PATCH).and_then(Value::as_str) == Some("delete");
    let mut patched = patch.iter().filter(|item| !deletes(item)).peekable();
    let mut rest = order.iter().peekable();
    while let (Some(item), Some(next)) = (patched.peek(), rest.peek()) {
        if item.get(PATCH).is_some() {
            patched.next();
            continue;
        }
        check_keys(std::slice::from_ref(item), key)?;
        check_keys(std::slice::from_ref(next), key)?;
        if same(item, next) {
            patched.next();
        }
        rest.next();
    }
    if patched.peek().is_some() {
        return Err(plain(format!(
            "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
            go::print(&Value::Array(patch.to_vec())),
            go::print(&Value::Array(order.to_vec()))
        )));
    }
    Ok(())
}

fn check_keys(items: &[Value], key: &str) -> Merged<()> {
    if key.is_empty() {
        return Ok(());
    }
    for item in items {
        match item {
            Value::Object(o) if o.contains_key(key) => {}
            Value::Object(_) => {
                return Err(plain(format!("map: {} does not contain declared merge key: {key}", go::print(item))));
            }
            other => {
                let kind = go::type_of(other);
                return Err(plain(format!("expected a map[string]interface {{}}, but received a {kind}")));
            }
        }
    }
    Ok(())
}

/// Are the elements objects? All must be of one kind.
fn element_kind(original: &[Value], patch: &[Value]) -> Merged<bool> {
    let mut all = original.iter().chain(patch);
    let Some(first) = all.next() else { return Err(plain("no elements in any of the given slices")) };
    if matches!(first, Value::Array(_)) {
        return Err(unprocessable());
    }
    if all.all(|item| go::type_of(item) == go::type_of(first)) {
        return Ok(matches!(first, Value::Object(_)));
    }
    let both = [original, patch].map(|l| Value::Array(l.to_vec()));
    Err(plain(format!("list element types are not identical: {}", go::print(&Value::Array(both.to_vec())))))
}

/// Duplicates fall out; as upstream, the last element takes their place.
fn distinct(mut items: Vec<Value>) -> Vec<Value> {
    let mut i = 0;
    while i < items.len() {
        let mut j = i + 1;
        while j < items.len() {
            if items[i] == items[j] {
                items.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
    items
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(o) => {
            o.retain(|_, member| !member.is_null());
            o.iter_mut().for_each(|(_, member)| discard_nulls(member));
        }
        Value::Array(a) => a.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// The value without parts that bear a `$patch` directive; `None` when it bears one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(o) if o.contains_key(PATCH) => None,
        Value::Object(o) => {
            Some(Value::Object(o.into_iter().filter_map(|(k, v)| without_directives(v).map(|v| (k, v))).collect()))
        }
        Value::Array(a) => Some(Value::Array(a.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn bad_patch_type(directive: &Value, map: &Value) -> Status {
    let kind = match directive {
        Value::String(s) => s.to_string(),
        other => format!("%!s({}={})", go::type_of(other), go::print(other)),
    };
    plain(format!("unknown patch type: {kind} in map: {}", go::print(map)))
}

fn not_a_list(value: &Value) -> Status {
    plain(format!("expected a []interface {{}}, but received a {}", go::type_of(value)))
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
