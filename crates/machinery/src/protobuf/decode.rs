//! Message to tree, in the form Go prints: zeros of plain `omitempty` fields dropped, zeros behind pointers kept.

use base::CalendarTime;
use base64::Engine as _;

use super::wire::{Reader, Wire};
use crate::schema::{Field, Shape, Special, Type, Types, is_empty, zero};
use crate::value::{CompactString, Object};
use crate::{Value, duration};

/// Deeper nesting is refused.
const DEPTH_MAX: usize = 100;
/// So many values are always allowed; beyond, one per byte of input.
const VALUES_MIN: usize = 4096;
/// `time.Time{}` in seconds since the epoch.
const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

type Members = Vec<(CompactString, Value)>;

/// Decodes a message of type `type_name` (like `core/v1.Pod`). Unknown fields are skipped.
///
/// # Errors
/// Bytes that are no such message, nested too deeply, or that would unfold into far more memory than they take.
pub fn decode(types: &Types, type_name: &str, bytes: &[u8]) -> Result<Value, String> {
    let ty = types.get(type_name).ok_or_else(|| format!("no type {type_name}"))?;
    Decoder { types, budget: VALUES_MIN.max(bytes.len()) }.message(ty, bytes, 0)
}

struct Decoder<'a> {
    types: &'a Types,
    budget: usize,
}

/// Members of an object being read; maps are gathered apart, to be sorted once.
#[derive(Default)]
struct Partial<'a> {
    members: Members,
    maps: Vec<(&'a str, Members)>,
}

impl Partial<'_> {
    fn set(&mut self, name: &'static str, value: Value) {
        match self.members.iter_mut().rev().find(|(n, _)| n == name) {
            Some(member) => member.1 = value,
            None => self.members.push((CompactString::const_new(name), value)),
        }
    }

    fn list(&mut self, name: &'static str) -> &mut Vec<Value> {
        let at = self.members.iter().rposition(|(n, _)| n == name).unwrap_or_else(|| {
            self.members.push((CompactString::const_new(name), Value::Array(Vec::new())));
            self.members.len() - 1
        });
        if !matches!(self.members[at].1, Value::Array(_)) {
            self.members[at].1 = Value::Array(Vec::new());
        }
        self.members[at].1.as_array_mut().expect("a list was put there")
    }
}

impl<'a> Decoder<'a> {
    fn spend(&mut self, values: usize) -> Result<(), String> {
        self.budget = self.budget.checked_sub(values).ok_or("proto: the message unfolds into too many values")?;
        Ok(())
    }

    fn message(&mut self, ty: &'a Type, bytes: &[u8], depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("proto: the message is nested too deeply".to_owned());
        }
        match ty.special {
            Special::None => {}
            Special::List => return self.alias(&ty.fields[0], bytes, depth),
            Special::SchemaOrArray | Special::SchemaOrBool | Special::SchemaOrStringArray => {
                return self.schema_or(ty, bytes, depth);
            }
        }
        let index = self.types.index(ty);
        let mut partial = Partial { members: Vec::with_capacity(index.always.len() + 4), maps: Vec::new() };
        self.fields(ty, bytes, depth, &mut partial)?;
        let Partial { mut members, maps } = partial;
        for (name, entries) in maps {
            let name = index
                .members
                .iter()
                .find(|m| m.name == name)
                .map_or_else(|| name.into(), |m| CompactString::const_new(m.name));
            members.push((name, Value::Object(Object::from_unsorted(entries))));
        }
        for i in &index.always {
            let member = &index.members[usize::from(*i)];
            if !members.iter().any(|(name, _)| name == member.name) {
                let value = zero(self.types, self.types.field(member));
                self.spend(1 + value.as_object().map_or(0, |o| 2 * o.len()))?;
                members.push((CompactString::const_new(member.name), value));
            }
        }
        Ok(Value::Object(Object::from_unsorted(members)))
    }

    fn fields(&mut self, ty: &'a Type, bytes: &[u8], depth: usize, into: &mut Partial<'a>) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("proto: the message is nested too deeply".to_owned());
        }
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            let Some(field) = ty.by_number(number) else { continue };
            self.field(field, wire, depth, into).map_err(|e| locate(e, ty, field))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &'a Field, wire: Wire<'_>, depth: usize, into: &mut Partial<'a>) -> Result<(), String> {
        match &field.shape {
            Shape::Ref(name) if field.inline => match self.types.resolve(name) {
                Some(inner) => self.fields(inner, wire.bytes()?, depth + 1, into),
                None => Ok(()),
            },
            Shape::List(inner) => {
                let list = std::mem::take(into.list(field.name));
                *into.list(field.name) = self.elements(inner, wire, depth, list)?;
                Ok(())
            }
            Shape::Map(inner) => {
                let entry = self.entry(inner, wire.bytes()?, depth)?;
                match into.maps.iter_mut().rev().find(|(name, _)| *name == field.name) {
                    Some((_, entries)) => entries.push(entry),
                    None => into.maps.push((field.name, vec![entry])),
                }
                Ok(())
            }
            shape => {
                let value = self.value(shape, wire, depth)?;
                let absent = value.is_null() && !field.always();
                if !absent && (field.pointer || !field.omitempty || !is_empty(shape, &value)) {
                    into.set(field.name, value);
                } else {
                    into.members.retain(|(name, _)| name != field.name);
                }
                Ok(())
            }
        }
    }

    /// One element, or a packed run of them, appended to `list`.
    fn elements(
        &mut self,
        inner: &'a Shape,
        wire: Wire<'_>,
        depth: usize,
        mut list: Vec<Value>,
    ) -> Result<Vec<Value>, String> {
        let scalar = matches!(inner, Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64);
        match wire {
            Wire::Bytes(packed) if scalar => {
                let mut reader = Reader(packed);
                while !reader.0.is_empty() {
                    let wire = if matches!(inner, Shape::Float64) {
                        Wire::Fixed64(u64::from_le_bytes(reader.array()?))
                    } else {
                        Wire::Varint(reader.varint()?)
                    };
                    list.push(self.value(inner, wire, depth)?);
                }
            }
            wire => list.push(self.value(inner, wire, depth)?),
        }
        Ok(list)
    }

    fn entry(&mut self, inner: &'a Shape, bytes: &[u8], depth: usize) -> Result<(CompactString, Value), String> {
        let mut reader = Reader(bytes);
        let (mut key, mut value) = (CompactString::default(), None);
        while let Some((number, wire)) = reader.field()? {
            match number {
                1 => key = wire.text()?.into(),
                2 => match inner {
                    Shape::List(element) => {
                        let list = value.take().and_then(|v| if let Value::Array(a) = v { Some(a) } else { None });
                        value = Some(Value::Array(self.elements(element, wire, depth, list.unwrap_or_default())?));
                    }
                    _ => value = Some(self.value(inner, wire, depth)?),
                },
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => {
                let wire = if matches!(inner, Shape::Float64) { Wire::Fixed64(0) } else { Wire::Varint(0) };
                let scalar = matches!(inner, Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64);
                self.value(inner, if scalar { wire } else { Wire::Bytes(&[]) }, depth)?
            }
        };
        Ok((key, value))
    }

    fn value(&mut self, shape: &'a Shape, wire: Wire<'_>, depth: usize) -> Result<Value, String> {
        self.spend(1)?;
        Ok(match shape {
            Shape::String => match std::str::from_utf8(wire.bytes()?) {
                Ok(text) => text.into(),
                Err(_) => Value::String(wire.text()?.into()),
            },
            Shape::Bool => Value::Bool(wire.varint()? != 0),
            Shape::Int32 => Value::Int(i64::from(wire.varint()? as i32)),
            Shape::Int64 => Value::Int(wire.varint()? as i64),
            Shape::Float64 => match wire {
                Wire::Fixed64(bits) => Value::Float(f64::from_bits(bits)),
                _ => return Err("proto: wrong wireType".to_owned()),
            },
            Shape::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
            Shape::Time | Shape::MicroTime => time(matches!(shape, Shape::MicroTime), wire.bytes()?)?,
            Shape::Duration => duration::print(single(wire)?.map_or(Ok(0), Wire::varint)? as i64).into(),
            Shape::Quantity => quantity(wire)?,
            Shape::IntOrString => int_or_string(wire.bytes()?)?,
            Shape::RawExtension | Shape::Json | Shape::FieldsV1 | Shape::Any => self.raw(shape, wire)?,
            Shape::Ref(name) => match self.types.resolve(name) {
                Some(ty) => self.message(ty, wire.bytes()?, depth + 1)?,
                None => Value::Null,
            },
            Shape::List(_) | Shape::Map(_) => return Err("proto: a list in a list".to_owned()),
        })
    }

    fn raw(&mut self, shape: &Shape, wire: Wire<'_>) -> Result<Value, String> {
        let bytes = single(wire)?.map_or(Ok(&[][..]), Wire::bytes)?;
        if bytes.is_empty() {
            return Ok(if matches!(shape, Shape::FieldsV1) { Value::object() } else { Value::Null });
        }
        Value::from_slice(bytes).map_err(|e| format!("embedded JSON: {e}"))
    }

    fn alias(&mut self, field: &'a Field, bytes: &[u8], depth: usize) -> Result<Value, String> {
        let Shape::List(inner) = &field.shape else { return Ok(Value::Null) };
        let mut list = Vec::new();
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            if number == field.number.max(1) {
                list = self.elements(inner, wire, depth, list)?;
            }
        }
        Ok(Value::Array(list))
    }

    fn schema_or(&mut self, ty: &'a Type, bytes: &[u8], depth: usize) -> Result<Value, String> {
        let mut reader = Reader(bytes);
        let mut found = if ty.special == Special::SchemaOrBool { Value::Bool(false) } else { Value::Null };
        while let Some((number, wire)) = reader.field()? {
            let Some(field) = ty.by_number(number) else { continue };
            found = match (&field.shape, found) {
                (Shape::List(inner), Value::Array(list)) => Value::Array(self.elements(inner, wire, depth, list)?),
                (Shape::List(inner), _) => Value::Array(self.elements(inner, wire, depth, Vec::new())?),
                (shape, _) => self.value(shape, wire, depth)?,
            };
        }
        Ok(found)
    }
}

fn locate(error: String, ty: &Type, field: &Field) -> String {
    if error.starts_with("proto: wrong wireType") && !error.contains("for field") {
        return format!("{error} for field {}.{}", ty.name, field.name);
    }
    error
}

/// Field 1 of a message that has no other.
fn single(wire: Wire<'_>) -> Result<Option<Wire<'_>>, String> {
    let mut found = None;
    let mut reader = Reader(wire.bytes()?);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn quantity(wire: Wire<'_>) -> Result<Value, String> {
    let text = single(wire)?.map_or(Ok(std::borrow::Cow::Borrowed("0")), Wire::text)?;
    if text.is_empty() {
        return Ok("0".into());
    }
    let parsed = crate::quantity::Quantity::parse(text.trim())?;
    Ok(parsed.to_string().into())
}

fn time(micro: bool, bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = wire.varint()? as i64,
            2 => nanos = wire.varint()? as i32,
            _ => {}
        }
    }
    if seconds == ZERO_TIME_SECONDS && nanos == 0 {
        return Ok(Value::Null);
    }
    let instant = CalendarTime::from_parts(seconds, nanos).ok_or("proto: a time is out of range")?;
    Ok(if micro { instant.rfc3339_micros() } else { instant.rfc3339() }.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut kind, mut number_value, mut text) = (0, 0, CompactString::default());
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => kind = wire.varint()?,
            2 => number_value = wire.varint()? as i32,
            3 => text = wire.text()?.into(),
            _ => {}
        }
    }
    Ok(if kind == 1 { Value::String(text) } else { number_value.into() })
}
