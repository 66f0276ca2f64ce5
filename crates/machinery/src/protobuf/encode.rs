//! Tree to message, byte for byte what Go's marshallers write: plain scalars and structs even when zero, fields in
//! order of their numbers, maps sorted by key.

use base::CalendarTime;
use base64::Engine as _;

use super::wire::Write as _;
use crate::schema::{Field, Shape, Special, Type, Types};
use crate::{Value, duration};

/// Deeper nesting is refused.
const DEPTH_MAX: usize = 200;
const NULL: Value = Value::Null;

/// Encodes a tree as message of type `type_name` (like `core/v1.Pod`). Members the type lacks are skipped.
///
/// # Errors
/// A value whose JSON type does not fit the field.
pub fn encode(types: &Types, type_name: &str, value: &Value) -> Result<Vec<u8>, String> {
    let ty = types.get(type_name).ok_or_else(|| format!("no type {type_name}"))?;
    let mut out = Vec::with_capacity(512);
    Encoder { types, out: &mut out }.message(ty, value, 0)?;
    Ok(out)
}

struct Encoder<'a> {
    types: &'a Types,
    out: &'a mut Vec<u8>,
}

type Step = Result<(), String>;

impl Encoder<'_> {
    fn message(&mut self, ty: &Type, value: &Value, depth: usize) -> Step {
        if depth > DEPTH_MAX {
            return Err("the object is nested too deeply".to_owned());
        }
        match ty.special {
            Special::None => {}
            Special::List => {
                let field = &ty.fields[0];
                return self.list(field, &field.shape, value, depth);
            }
            Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStringArray => {
                return self.schema_or(ty, value, depth);
            }
        }
        if !matches!(value, Value::Object(_) | Value::Null) {
            return Err(format!("{} is {}, not an object", ty.full_name(), value.type_name()));
        }
        for field in ty.numbered() {
            let member = if field.inline { value } else { value.get(field.name).unwrap_or(&NULL) };
            self.field(field, member, depth).map_err(|e| locate(&e, ty, field))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: &Value, depth: usize) -> Step {
        match &field.shape {
            shape @ Shape::List(_) => self.list(field, shape, value, depth),
            Shape::Map(inner) => {
                for (key, member) in value.members() {
                    let mark = self.out.open(field.number);
                    self.out.put_bytes(1, key.as_bytes());
                    match &**inner {
                        Shape::Bytes if member.is_null() => {}
                        list @ Shape::List(_) => self.elements(2, list, member, depth)?,
                        shape => self.value(2, shape, member, depth)?,
                    }
                    self.out.close(mark);
                }
                if matches!(value, Value::Object(_) | Value::Null) { Ok(()) } else { Err(mismatch(value, "a map")) }
            }
            Shape::Ref(name) if field.inline => {
                let Some(inner) = self.types.resolve(name) else { return Ok(()) };
                let mark = self.out.open(field.number);
                self.message(inner, value, depth + 1)?;
                self.out.close(mark);
                Ok(())
            }
            _ if value.is_null() && field.pointer => Ok(()),
            Shape::Bytes if value.is_null() => Ok(()),
            Shape::Ref(name)
                if value.is_null() && self.types.resolve(name).is_none_or(|t| t.special == Special::List) =>
            {
                Ok(())
            }
            shape => self.value(field.number, shape, value, depth),
        }
    }

    fn list(&mut self, field: &Field, shape: &Shape, value: &Value, depth: usize) -> Step {
        self.elements(field.number.max(1), shape, value, depth)
    }

    fn elements(&mut self, number: u32, shape: &Shape, value: &Value, depth: usize) -> Step {
        let Shape::List(inner) = shape else { return Ok(()) };
        match value {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter().try_for_each(|item| self.value(number, inner, item, depth)),
            _ => Err(mismatch(value, "a list")),
        }
    }

    fn value(&mut self, number: u32, shape: &Shape, value: &Value, depth: usize) -> Step {
        match shape {
            Shape::String => match value {
                Value::String(s) => self.out.put_bytes(number, s.as_bytes()),
                Value::Null => self.out.put_bytes(number, &[]),
                _ => return Err(mismatch(value, "a string")),
            },
            Shape::Bool => match value {
                Value::Bool(b) => self.out.put_uint(number, u64::from(*b)),
                Value::Null => self.out.put_uint(number, 0),
                _ => return Err(mismatch(value, "a boolean")),
            },
            Shape::Int32 | Shape::Int64 => self.out.put_uint(number, integer(value)? as u64),
            Shape::Float64 => {
                let n = if value.is_null() { Some(0.0) } else { value.as_f64() };
                self.out.put_tag(number, 1);
                self.out.extend_from_slice(&n.ok_or_else(|| mismatch(value, "a number"))?.to_le_bytes());
            }
            Shape::Bytes => {
                let text = value.as_str().unwrap_or_default();
                let engine = &base64::engine::general_purpose::STANDARD;
                self.out.put_bytes(number, &engine.decode(text).map_err(|e| e.to_string())?);
            }
            _ => {
                let mark = self.out.open(number);
                self.structure(shape, value, depth)?;
                self.out.close(mark);
            }
        }
        Ok(())
    }

    /// The body of what is a message on the wire.
    fn structure(&mut self, shape: &Shape, value: &Value, depth: usize) -> Step {
        match shape {
            Shape::Time | Shape::MicroTime => self.time(matches!(shape, Shape::MicroTime), value)?,
            Shape::Duration => {
                let nanos = if value.is_null() { 0 } else { duration::parse(value.as_str().unwrap_or_default())? };
                self.out.put_uint(1, nanos as u64);
            }
            Shape::Quantity => match value {
                Value::String(s) => self.out.put_bytes(1, s.as_bytes()),
                Value::Null => self.out.put_bytes(1, b"0"),
                other => self.out.put_bytes(1, other.to_string().as_bytes()),
            },
            Shape::IntOrString => {
                let (kind, n, text) = match value {
                    Value::String(s) => (1, 0, s.as_str()),
                    _ => (0, integer(value)?, ""),
                };
                self.out.put_uint(1, kind);
                self.out.put_uint(2, n as u64);
                self.out.put_bytes(3, text.as_bytes());
            }
            Shape::RawExtension | Shape::Json | Shape::FieldsV1 | Shape::Any => {
                if !value.is_null() {
                    self.out.put_bytes(1, &value.to_vec());
                }
            }
            Shape::Ref(name) => match self.types.resolve(name) {
                Some(ty) => self.message(ty, value, depth + 1)?,
                None => return Err(format!("no type {name}")),
            },
            _ => return Err("a list in a list".to_owned()),
        }
        Ok(())
    }

    fn time(&mut self, micro: bool, value: &Value) -> Step {
        if value.is_null() {
            return Ok(());
        }
        let text = value.as_str().ok_or_else(|| mismatch(value, "a time"))?;
        let time = CalendarTime::parse(text).map_err(|e| format!("{text:?} is {e}"))?;
        let (seconds, nanos) = time.parts();
        self.out.put_uint(1, seconds as u64);
        let nanos = nanos / 1000 * 1000;
        self.out.put_uint(2, if micro { nanos as u64 } else { 0 });
        Ok(())
    }

    fn schema_or(&mut self, ty: &Type, value: &Value, depth: usize) -> Step {
        let shape = |number| ty.by_number(number).map(|f| &f.shape);
        if ty.special == Special::SchemaOrBool {
            let allows = value.as_bool().unwrap_or(!value.is_null());
            self.out.put_uint(1, u64::from(allows));
            return match (value, shape(2)) {
                (Value::Object(_), Some(schema)) => self.value(2, schema, value, depth),
                _ => Ok(()),
            };
        }
        match (value, shape(1), shape(2)) {
            (Value::Array(_), _, Some(list)) => self.elements(2, list, value, depth),
            (Value::Object(_), Some(schema), _) => self.value(1, schema, value, depth),
            _ => Ok(()),
        }
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::Null => Ok(0),
        _ => Err(mismatch(value, "an integer")),
    }
}

fn mismatch(value: &Value, wanted: &str) -> String {
    format!("{wanted} is wanted, not {}", value.type_name())
}

fn locate(error: &str, ty: &Type, field: &Field) -> String {
    if error.contains(" in ") { error.to_owned() } else { format!("{error} in {}.{}", ty.name, field.name) }
}
