//! Reads a JSON tree as Go would into its structs and print it again: checks types, prunes unknown fields, brings
//! times and quantities into their canonical form, drops empty fields and adds those Go always prints.

use base::CalendarTime;

use super::{Field, Index, Shape, Special, Type, Types};
use crate::quantity::Quantity;
use crate::{Value, duration};

/// More strict errors than this are not collected.
const STRICT_ERRORS_MAX: usize = 100;
/// What Go prints as null.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// What [`decode`] found besides the object.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Decoded {
    /// `unknown field "spec.foo"`, at most a hundred; the fields are gone from the object.
    pub strict: Vec<String>,
}

/// Reads `value` as type `name` (like `core/v1.Pod`), in place, into the form Go prints.
///
/// # Errors
/// A type mismatch, in the words of Go's JSON decoder; the tree is then in no defined state.
pub fn decode(types: &Types, name: &str, value: &mut Value) -> Result<Decoded, String> {
    let Some(ty) = types.get(name) else { return Err(format!("no type {name}")) };
    let mut walk = Walk::new(types, true);
    walk.object_of(ty, value)?;
    match walk.mismatch {
        Some(error) => Err(error),
        None => Ok(Decoded { strict: walk.strict }),
    }
}

/// Removes the fields type `name` does not have; returns `unknown field "…"` for each (at most a hundred).
/// Values of the wrong type are left alone.
pub fn prune(types: &Types, name: &str, value: &mut Value) -> Vec<String> {
    let Some(ty) = types.get(name) else { return Vec::new() };
    let mut walk = Walk::new(types, false);
    // Without normalizing, nothing fails.
    let _ = walk.object_of(ty, value);
    walk.strict
}

/// The first type mismatch, in the words of Go's JSON decoder.
pub fn decode_errors(types: &Types, name: &str, value: &Value) -> Option<String> {
    decode(types, name, &mut value.clone()).err()
}

/// What Go prints for a field nobody set.
pub fn zero(types: &Types, field: &Field) -> Value {
    if field.pointer { Value::Null } else { zero_of(types, &field.shape) }
}

fn zero_of(types: &Types, shape: &Shape) -> Value {
    match shape {
        Shape::String => "".into(),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::Int(0),
        Shape::Duration => "0s".into(),
        Shape::Quantity => "0".into(),
        Shape::FieldsV1 => Value::object(),
        Shape::Bytes
        | Shape::Time
        | Shape::MicroTime
        | Shape::RawExtension
        | Shape::Json
        | Shape::Any
        | Shape::List(_)
        | Shape::Map(_) => Value::Null,
        Shape::Ref(name) => match types.resolve(name) {
            Some(ty) if ty.special == Special::None => zero_object(types, types.index(ty)),
            Some(ty) if ty.special == Special::SchemaOrBool => Value::Bool(false),
            _ => Value::Null,
        },
    }
}

fn zero_object(types: &Types, index: &Index) -> Value {
    index
        .always
        .iter()
        .map(|i| {
            let member = &index.members[usize::from(*i)];
            (member.name, zero(types, types.field(member)))
        })
        .collect()
}

struct Walk<'a> {
    types: &'a Types,
    normalize: bool,
    strict: Vec<String>,
    /// The first mismatch; Go reads on after it.
    mismatch: Option<String>,
    /// `spec.containers[0]`
    path: String,
    /// Field names only, for mismatches.
    stack: Vec<&'static str>,
    owner: Option<&'a Type>,
}

type Step = Result<(), String>;

impl<'a> Walk<'a> {
    const fn new(types: &'a Types, normalize: bool) -> Self {
        Self {
            types,
            normalize,
            strict: Vec::new(),
            mismatch: None,
            path: String::new(),
            stack: Vec::new(),
            owner: None,
        }
    }

    fn object_of(&mut self, ty: &'a Type, value: &mut Value) -> Step {
        match ty.special {
            Special::None => {}
            Special::List => return self.value(&ty.fields[0].shape, value),
            Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStringArray => {
                return self.schema_or(ty, value);
            }
        }
        let Value::Object(object) = value else {
            self.wrong(value, &ty.go_name());
            return Ok(());
        };
        let (index, outer) = (self.types.index(ty), self.owner.replace(ty));
        let mut result = Ok(());
        let mut at = 0;
        let mut always_seen = 0;
        object.retain(|name, member| {
            // Both sides are sorted: walk them together.
            while index.members.get(at).is_some_and(|m| m.name < name) {
                at += 1;
            }
            let Some(known) = index.members.get(at).filter(|m| m.name == name) else {
                self.unknown(name);
                return false;
            };
            let field = self.types.field(known);
            let mark = self.enter(name);
            self.stack.push(known.name);
            let keep = match self.member(field, known.always, member) {
                Ok(keep) => keep,
                Err(error) => {
                    if result.is_ok() {
                        result = Err(error);
                    }
                    true
                }
            };
            self.stack.pop();
            self.path.truncate(mark);
            always_seen += usize::from(keep && known.always);
            keep
        });
        if self.normalize && always_seen < index.always.len() {
            for i in &index.always {
                let member = &index.members[usize::from(*i)];
                if !object.contains_key(member.name) {
                    object.insert(member.name, zero(self.types, self.types.field(member)));
                }
            }
        }
        self.owner = outer;
        result
    }

    /// Should the member stay?
    fn member(&mut self, field: &'a Field, always: bool, value: &mut Value) -> Result<bool, String> {
        if value.is_null() {
            if self.normalize && always {
                *value = zero(self.types, field);
            }
            return Ok(!self.normalize || always);
        }
        self.value(&field.shape, value)?;
        Ok(!(self.normalize && field.omitempty && !field.pointer && is_empty(&field.shape, value)))
    }

    fn value(&mut self, shape: &'a Shape, value: &mut Value) -> Step {
        match (shape, &mut *value) {
            (Shape::Ref(name), _) => match self.types.resolve(name) {
                Some(ty) => return self.object_of(ty, value),
                None => return Ok(()),
            },
            (Shape::List(inner), Value::Array(items)) => return self.items(inner, items),
            (Shape::Map(inner), Value::Object(members)) => {
                let mut result = Ok(());
                for (name, member) in members.iter_mut() {
                    let mark = self.enter(name);
                    let step = self.element(inner, member);
                    self.path.truncate(mark);
                    if result.is_ok() {
                        result = step;
                    }
                }
                return result;
            }
            _ if !self.normalize => return Ok(()),
            (Shape::String, Value::String(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Int64, Value::Int(_))
            | (Shape::Float64, Value::Int(_) | Value::Float(_))
            | (Shape::RawExtension | Shape::Json | Shape::Any, _)
            | (Shape::FieldsV1, Value::Object(_)) => return Ok(()),
            (Shape::Int32, Value::Int(n)) if i32::try_from(*n).is_ok() => return Ok(()),
            (Shape::Bytes, Value::String(_)) => self.bytes(value),
            (Shape::Time | Shape::MicroTime, _) => return self.time(matches!(shape, Shape::MicroTime), value),
            (Shape::Duration, _) => return self.duration(value),
            (Shape::Quantity, _) => return quantity(value),
            (Shape::IntOrString, _) => return self.int_or_string(value),
            _ => {
                let name = self.go_name(shape);
                self.wrong(value, &name);
            }
        }
        Ok(())
    }

    fn items(&mut self, inner: &'a Shape, items: &mut [Value]) -> Step {
        if self.normalize && matches!(inner, Shape::String) && items.iter().all(|i| matches!(i, Value::String(_))) {
            return Ok(());
        }
        for (i, item) in items.iter_mut().enumerate() {
            let mark = self.path.len();
            self.path.push('[');
            self.path.push_str(&i.to_string());
            self.path.push(']');
            let step = self.element(inner, item);
            self.path.truncate(mark);
            step?;
        }
        Ok(())
    }

    fn element(&mut self, shape: &'a Shape, value: &mut Value) -> Step {
        if value.is_null() {
            if self.normalize {
                *value = zero_of(self.types, shape);
            }
            return Ok(());
        }
        self.value(shape, value)
    }

    fn schema_or(&mut self, ty: &'a Type, value: &mut Value) -> Step {
        let field = |number| ty.by_number(number).map(|f| &f.shape);
        match (ty.special, &*value) {
            (Special::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Special::SchemaOrArray | Special::SchemaOrStringArray, Value::Array(_)) => {
                field(2).map_or(Ok(()), |shape| self.value(shape, value))
            }
            (_, Value::Object(_)) => {
                let number = if ty.special == Special::SchemaOrBool { 2 } else { 1 };
                field(number).map_or(Ok(()), |shape| self.value(shape, value))
            }
            (Special::SchemaOrBool, _) => Err("boolean or JSON schema expected".to_owned()),
            _ if !self.normalize => Ok(()),
            // Go leaves anything else empty.
            _ => {
                *value = Value::Null;
                Ok(())
            }
        }
    }

    fn bytes(&mut self, value: &mut Value) {
        use base64::Engine as _;
        let engine = &base64::engine::general_purpose::STANDARD;
        let Value::String(text) = value else { return };
        let error = match engine.decode(text.as_bytes()) {
            Ok(_) => return,
            Err(error) => error,
        };
        // Go skips line ends.
        let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        if joined.len() < text.len() && engine.decode(joined.as_bytes()).is_ok() {
            *text = joined.into();
            return;
        }
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        self.mismatched(format!("illegal base64 data at input byte {at}"));
    }

    fn time(&mut self, micro: bool, value: &mut Value) -> Step {
        let Value::String(text) = value else {
            return Err(self.mismatch_text(value, "string"));
        };
        if text == ZERO_TIME || (micro && text == "0001-01-01T00:00:00.000000Z") {
            *value = Value::Null;
            return Ok(());
        }
        let (layout, printed) =
            if micro { ("2006-01-02T15:04:05.000000Z07:00", 27) } else { ("2006-01-02T15:04:05Z07:00", 20) };
        let Ok(time) = CalendarTime::parse(text) else {
            let text = crate::go::quote(text);
            return Err(format!("parsing time {text} as \"{layout}\": cannot parse {text} as \"2006\""));
        };
        if text.len() != printed || !text.ends_with('Z') || text.as_bytes()[10] != b'T' {
            *text = if micro { time.rfc3339_micros() } else { time.rfc3339() }.into();
        }
        Ok(())
    }

    fn duration(&mut self, value: &mut Value) -> Step {
        let Value::String(text) = value else {
            return Err(self.mismatch_text(value, "string"));
        };
        *value = duration::print(duration::parse(text)?).into();
        Ok(())
    }

    fn int_or_string(&mut self, value: &Value) -> Step {
        match value {
            Value::String(_) => Ok(()),
            Value::Int(n) if i32::try_from(*n).is_ok() => Ok(()),
            _ => Err(self.mismatch_text(value, "int32")),
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    fn unknown(&mut self, name: &str) {
        if self.strict.len() >= STRICT_ERRORS_MAX {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        self.strict.push(format!("unknown field {}", crate::go::quote(&format!("{}{dot}{name}", self.path))));
    }

    fn wrong(&mut self, value: &Value, go_type: &str) {
        if self.normalize {
            let text = self.mismatch_text(value, go_type);
            self.mismatched(text);
        }
    }

    fn mismatched(&mut self, text: String) {
        self.mismatch.get_or_insert(text);
    }

    fn mismatch_text(&self, value: &Value, go_type: &str) -> String {
        let what = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Int(n) if go_type.starts_with("int") => format!("number {n}"),
            Value::Float(n) if go_type.starts_with("int") => format!("number {n:?}"),
            Value::Int(_) | Value::Float(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        match self.owner {
            Some(owner) if !self.stack.is_empty() => format!(
                "json: cannot unmarshal {what} into Go struct field {}.{} of type {go_type}",
                owner.name,
                self.stack.join(".")
            ),
            _ => format!("json: cannot unmarshal {what} into Go value of type {go_type}"),
        }
    }

    fn go_name(&self, shape: &Shape) -> String {
        match shape {
            Shape::String => "string".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Float64 => "float64".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Duration => "v1.Duration".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::RawExtension => "runtime.RawExtension".to_owned(),
            Shape::FieldsV1 => "v1.FieldsV1".to_owned(),
            Shape::Json => "v1.JSON".to_owned(),
            Shape::Any => "interface {}".to_owned(),
            Shape::Ref(name) => self.types.resolve(name).map_or_else(|| name.local().to_owned(), Type::go_name),
            Shape::List(inner) => format!("[]{}", self.go_name(inner)),
            Shape::Map(inner) => match &**inner {
                Shape::Quantity => "v1.ResourceList".to_owned(),
                other => format!("map[string]{}", self.go_name(other)),
            },
        }
    }
}

fn quantity(value: &mut Value) -> Step {
    let parsed = match &*value {
        Value::String(text) => Quantity::parse(text.trim())?,
        other => Quantity::parse(&other.to_string())?,
    };
    let text = parsed.to_string();
    if value.as_str() != Some(text.as_str()) {
        *value = text.into();
    }
    Ok(())
}

/// Would Go's `omitempty` leave it out?
pub(crate) fn is_empty(shape: &Shape, value: &Value) -> bool {
    match value {
        Value::Null => !shape.is_struct(),
        Value::Bool(b) => !b && matches!(shape, Shape::Bool),
        Value::Int(n) => *n == 0 && matches!(shape, Shape::Int32 | Shape::Int64 | Shape::Float64),
        Value::Float(n) => *n == 0.0,
        Value::String(s) => s.is_empty() && matches!(shape, Shape::String | Shape::Bytes),
        Value::Array(a) => a.is_empty() && matches!(shape, Shape::List(_) | Shape::Ref(_)),
        Value::Object(o) => o.is_empty() && matches!(shape, Shape::Map(_)),
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
