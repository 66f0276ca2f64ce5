//! Reading values with serde; a second reader also tells which members stood twice.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{CompactString, Object, Value};

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        items.shrink_to_fit();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members: Vec<(CompactString, Value)> = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Value::Object(Object::from_unsorted(members)))
    }
}

/// More repeated members than this are not collected.
const DUPLICATES_MAX: usize = 100;

/// Parses JSON and names the members that stood twice: `spec.containers[0].name`.
pub(super) fn from_slice_checked(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let found = RefCell::new(Vec::new());
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Checked { at: &Place::Root, found: &found }.deserialize(&mut json)?;
    json.end()?;
    Ok((value, found.into_inner()))
}

/// Where the reader stands: links on the stack, made into text only when something is found.
enum Place<'p> {
    Root,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => f.write_str(name),
            Self::Member(outer, name) => write!(f, "{outer}.{name}"),
            Self::Item(outer, i) => write!(f, "{outer}[{i}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Checked<'p> {
    at: &'p Place<'p>,
    found: &'p RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let at = Place::Item(self.at, items.len());
            let Some(item) = seq.next_element_seed(Checked { at: &at, found: self.found })? else { break };
            items.push(item);
        }
        items.shrink_to_fit();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members: Vec<(CompactString, Value)> = Vec::new();
        while let Some(key) = map.next_key::<CompactString>()? {
            let value = map.next_value_seed(Checked { at: &Place::Member(self.at, &key), found: self.found })?;
            members.push((key, value));
        }
        let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_str()).collect();
        if !keys.is_sorted_by(|a, b| a < b) {
            keys.sort_unstable();
            let mut found = self.found.borrow_mut();
            let mut last = None;
            for pair in keys.windows(2).filter(|pair| pair[0] == pair[1]) {
                if Some(pair[0]) != last && found.len() < DUPLICATES_MAX {
                    found.push(Place::Member(self.at, pair[0]).to_string());
                }
                last = Some(pair[0]);
            }
        }
        Ok(Value::Object(Object::from_unsorted(members)))
    }
}

/// Which members stand where: for each quoted path the numbers of its occurrences, counted through the text. Only for
/// telling mistakes in their order; a text that cannot be read has no places.
pub(super) fn places(bytes: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let found = RefCell::new((0, BTreeMap::new()));
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = Numbered { at: &Place::Root, found: &found }.deserialize(&mut json);
    if read.is_err() { BTreeMap::new() } else { found.into_inner().1 }
}

#[derive(Clone, Copy)]
struct Numbered<'p> {
    at: &'p Place<'p>,
    found: &'p RefCell<(usize, BTreeMap<String, Vec<usize>>)>,
}

impl<'de> DeserializeSeed<'de> for Numbered<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Numbered<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut i = 0;
        while seq.next_element_seed(Numbered { at: &Place::Item(self.at, i), found: self.found })?.is_some() {
            i += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<CompactString>()? {
            let at = Place::Member(self.at, &key);
            {
                let mut found = self.found.borrow_mut();
                found.0 += 1;
                let number = found.0;
                found.1.entry(crate::go::quote(&at.to_string())).or_default().push(number);
            }
            map.next_value_seed(Numbered { at: &at, found: self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn complaints_are_told_in_the_order_of_the_text() {
        let text = br#"{"a": {"x": 1, "n": 1, "n": 2}, "b": [{"y": 1}], "a": 2}"#;
        let (_, mut complaints) = Value::from_slice_checked(text).unwrap();
        complaints.extend(["a.x", "b[0].y"].map(|path| format!("unknown field {path:?}")));
        Value::sort_complaints(text, &mut complaints);
        let expect = [
            r#"unknown field "a.x""#,
            r#"duplicate field "a.n""#,
            r#"unknown field "b[0].y""#,
            r#"duplicate field "a""#,
        ];
        assert_eq!(complaints, expect);
    }
}
