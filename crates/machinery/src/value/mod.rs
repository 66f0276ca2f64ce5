//! The JSON tree every object is: compact (32 bytes a value, short strings inline), objects sorted by key.
//!
//! The methods bear serde_json's names. Objects are sorted vectors: deterministic order, cheap to clone and compare,
//! and small, which is what a watch cache full of them needs.

mod de;
mod object;
mod ser;

use std::fmt;
use std::ops::{Index, IndexMut};

pub use compact_str::CompactString;
pub use object::Object;

/// A JSON value.
#[derive(Clone, PartialEq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction or exponent that fits 64 signed bits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(CompactString),
    /// A list.
    Array(Vec<Value>),
    /// Members sorted by name, each name once.
    Object(Object),
}

static NULL: Value = Value::Null;

impl Value {
    /// An empty object.
    pub const fn object() -> Self {
        Self::Object(Object::new())
    }

    /// Parses JSON.
    ///
    /// # Errors
    /// Syntax errors, and nesting beyond 128 levels, with line and column.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Parses JSON and names the members that stood twice, as `duplicate field "spec.foo"` (at most a hundred); the
    /// last of each is kept.
    ///
    /// # Errors
    /// As [`Value::from_slice`].
    pub fn from_slice_checked(bytes: &[u8]) -> Result<(Self, Vec<String>), serde_json::Error> {
        let (value, found) = de::from_slice_checked(bytes)?;
        Ok((value, found.iter().map(|path| format!("duplicate field {}", crate::go::quote(path))).collect()))
    }

    /// Sorts complaints about members of a JSON text, `unknown field "spec.foo"` and `duplicate field "spec.bar"`, as a
    /// reader that goes through it would make them: a duplicate is one when it comes for the second time.
    pub fn sort_complaints(bytes: &[u8], complaints: &mut [String]) {
        let places = de::places(bytes);
        let place = |complaint: &String| {
            let path = complaint.split_once(" field ").map_or("", |(_, path)| path);
            let at = places.get(path).map_or(&[][..], Vec::as_slice);
            at.get(usize::from(complaint.starts_with("duplicate"))).or(at.last()).copied()
        };
        complaints.sort_by_key(|complaint| place(complaint).unwrap_or(usize::MAX));
    }

    /// Compact JSON.
    pub fn to_vec(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tree with string keys always serializes")
    }

    /// The member `key`, when this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// The member `key` to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }

    /// Follows member names from here; `None` as soon as one is missing.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// Follows member names from here, making objects (also in place of null) where they are missing.
    ///
    /// # Panics
    /// When a value on the way is neither object nor null; check the shape of foreign input first.
    pub fn at_mut(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |value, key| {
            if value.is_null() {
                *value = Self::object();
            }
            value.as_object_mut().expect("only objects have members").entry(key)
        })
    }

    /// The text at a path of member names; empty when absent or no text.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Self::as_str).unwrap_or_default()
    }

    /// Sets a member of this object (null becomes an object first).
    ///
    /// # Panics
    /// When this is neither object nor null.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        *self.at_mut(&[key]) = value.into();
    }

    /// Removes a member, giving it back.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.as_object_mut()?.remove(key)
    }

    /// Replaces this by null, giving back what was there.
    pub fn take(&mut self) -> Value {
        std::mem::take(self)
    }

    /// Is it null?
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The boolean, if it is one.
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The integer, if it is one that fits 64 signed bits.
    pub const fn as_i64(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    /// The number, integer or not.
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(n) => Some(*n),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// The list, if it is one.
    pub fn as_array(&self) -> Option<&Vec<Value>> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The list to change, if it is one.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The object, if it is one.
    pub const fn as_object(&self) -> Option<&Object> {
        if let Self::Object(o) = self { Some(o) } else { None }
    }

    /// The object to change, if it is one.
    pub const fn as_object_mut(&mut self) -> Option<&mut Object> {
        if let Self::Object(o) = self { Some(o) } else { None }
    }

    /// The elements; none when this is no list.
    pub fn items(&self) -> &[Value] {
        self.as_array().map_or(&[], Vec::as_slice)
    }

    /// The members in order; none when this is no object.
    pub fn members(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> {
        self.as_object().into_iter().flat_map(Object::iter)
    }

    /// How error messages name the JSON type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) => "integer",
            Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// RFC 6901.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).try_fold(
            self,
            |v, token| match v {
                Self::Object(o) => o.get(&token),
                Self::Array(a) => token.parse::<usize>().ok().and_then(|i| a.get(i)),
                _ => None,
            },
        )
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Absent members read as null.
impl Index<&str> for Value {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

/// Absent elements read as null.
impl Index<usize> for Value {
    type Output = Value;
    fn index(&self, index: usize) -> &Value {
        self.items().get(index).unwrap_or(&NULL)
    }
}

/// As [`Value::at_mut`] with one name.
impl IndexMut<&str> for Value {
    fn index_mut(&mut self, key: &str) -> &mut Value {
        self.at_mut(&[key])
    }
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $make:expr),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from($v: $from) -> Self {
                $make
            }
        })*
    };
}

value_from! {
    bool => |v| Self::Bool(v),
    i32 => |v| Self::Int(i64::from(v)),
    u16 => |v| Self::Int(i64::from(v)),
    u32 => |v| Self::Int(i64::from(v)),
    i64 => |v| Self::Int(v),
    u64 => |v| i64::try_from(v).map_or(Self::Float(v as f64), Self::Int),
    usize => |v| Self::from(v as u64),
    f64 => |v| Self::Float(v),
    &str => |v| Self::String(v.into()),
    &String => |v| Self::String(v.as_str().into()),
    String => |v| Self::String(v.into()),
    CompactString => |v| Self::String(v),
    Object => |v| Self::Object(v),
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Self {
        Self::Array(v.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

impl<K: Into<CompactString>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self::Object(iter.into_iter().collect())
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Self::Array(iter.into_iter().map(Into::into).collect())
    }
}

impl From<serde_json::Value> for Value {
    fn from(v: serde_json::Value) -> Self {
        match v {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(b),
            serde_json::Value::Number(n) => {
                n.as_i64().map_or_else(|| Self::Float(n.as_f64().unwrap_or(0.0)), Self::Int)
            }
            serde_json::Value::String(s) => Self::String(s.into()),
            serde_json::Value::Array(a) => a.into_iter().collect(),
            serde_json::Value::Object(o) => o.into_iter().collect(),
        }
    }
}

/// Writes a [`Value`] as JSON text, with Rust expressions (anything `Serialize`) in place of values.
#[macro_export]
macro_rules! json {
    ($($json:tt)+) => { $crate::Value::from($crate::serde_json::json!($($json)+)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_at_32_bytes_a_value() {
        assert_eq!(std::mem::size_of::<Value>(), 32);
    }

    #[test]
    fn parses_prints_sorted_and_keeps_the_last_of_duplicate_names() {
        let v = Value::from_slice(br#"{"b":1,"a":[true,null,1.5,"x"],"b":2,"n":18446744073709551615}"#).unwrap();
        assert_eq!(v.to_string(), r#"{"a":[true,null,1.5,"x"],"b":2,"n":1.8446744073709552e+19}"#);
    }

    #[test]
    fn members_that_stand_twice_are_named() {
        let (v, twice) = Value::from_slice_checked(br#"{"b":[{"c":1,"d":{},"c":2}],"a":1,"a":2,"a":3}"#).unwrap();
        assert_eq!(v, json!({"a": 3, "b": [{"c": 2, "d": {}}]}));
        assert_eq!(twice, ["duplicate field \"b[0].c\"", "duplicate field \"a\""]);
        assert!(Value::from_slice_checked(b"{} x").is_err());
    }

    #[test]
    fn reading_what_is_absent_gives_null_and_writing_makes_it() {
        let mut v = Value::Null;
        assert!(v["metadata"]["labels"]["x"].is_null());
        *v.at_mut(&["metadata", "name"]) = "n".into();
        v["metadata"]["uid"] = "u".into();
        assert_eq!(v, json!({"metadata": {"name": "n", "uid": "u"}}));
        assert_eq!(v.pointer("/metadata/name"), Some(&"n".into()));
    }

    #[test]
    fn refuses_bottomless_nesting_instead_of_overflowing_the_stack() {
        let deep = "[".repeat(10_000);
        assert!(Value::from_slice(deep.as_bytes()).is_err());
    }
}
