//! Lists that are sets or maps must not hold an element twice.

use super::Structural;
use crate::schema::ListType;
use crate::{CompactString, FieldError, FieldErrors, FieldPath, Value};

pub(super) fn validate(schema: &Structural, value: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter() {
                if let Some(property) = schema.property(name) {
                    validate(property, member, &path.child(name), errors);
                } else if let Some(additional) = schema.additional() {
                    validate(additional, member, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                ListType::Set => {
                    for i in repeated(items.iter()) {
                        errors.push(FieldError::duplicate(&path.index(i), &items[i]));
                    }
                }
                ListType::Map => map(schema, items, path, errors),
                ListType::Atomic | ListType::Unset => {}
            }
            if let Some(inner) = &schema.items {
                for (i, item) in
                    items.iter().enumerate().filter(|(_, v)| matches!(v, Value::Object(_) | Value::Array(_)))
                {
                    validate(inner, item, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn map(schema: &Structural, items: &[Value], path: &FieldPath, errors: &mut FieldErrors) {
    for (i, item) in items.iter().enumerate() {
        if !matches!(item, Value::Object(_) | Value::Null) {
            let detail = "must be an object for an array of list-type map";
            errors.push(FieldError::invalid(&path.index(i), item, detail));
            return;
        }
    }
    let key = |item: &Value| -> Value {
        let member = |name: &CompactString| item.get(name).map(|v| (name.clone(), v.clone()));
        schema.list_map_keys.iter().filter_map(member).collect()
    };
    let keys: Vec<Value> = items.iter().map(key).collect();
    for i in repeated(keys.iter()) {
        errors.push(FieldError::duplicate(&path.index(i), &keys[i]));
    }
}

/// The place of the second of equal values; further ones are not reported.
fn repeated<'v>(values: impl Iterator<Item = &'v Value>) -> Vec<usize> {
    let mut texts: Vec<(String, usize)> = values.enumerate().map(|(i, v)| (v.to_string(), i)).collect();
    texts.sort_unstable();
    let mut second: Vec<usize> = Vec::new();
    for i in 1..texts.len() {
        let first_of_run = i == 1 || texts[i - 2].0 != texts[i].0;
        if texts[i].0 == texts[i - 1].0 && first_of_run {
            second.push(texts[i].1);
        }
    }
    second.sort_unstable();
    second
}
