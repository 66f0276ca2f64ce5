//! Values. Objects are not copied to be looked at: lists, maps and texts may borrow from a JSON tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use machinery::{Object, Value};

use crate::number;
use crate::opaque::Opaque;
use crate::time::{Time, duration_text};
use crate::types::Type;

/// Text, borrowed or shared.
#[derive(Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A list, borrowed or shared.
#[derive(Clone)]
pub enum List<'a> {
    Json(&'a [Value]),
    Shared(Arc<Vec<Val<'a>>>),
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Shared(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::Json(items) => items.get(index).map(Val::from),
            Self::Shared(items) => items.get(index).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Val<'a>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    pub(crate) fn contains(&self, wanted: &Val<'_>) -> bool {
        self.iter().any(|item| wanted.equals(&item))
    }
}

/// What finds an entry: numbers of equal value are one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Null,
    Bool(bool),
    Int(i128),
    Double(u64),
    String(Box<str>),
}

/// A map, borrowed or shared.
#[derive(Clone)]
pub enum Map<'a> {
    Json(&'a Object),
    Shared(Arc<Entries<'a>>),
}

/// The entries of a shared map, found by key.
#[derive(Clone, Default)]
pub struct Entries<'a>(BTreeMap<Key, (Val<'a>, Val<'a>)>);

impl<'a> Entries<'a> {
    /// Sets an entry; `Err` when nothing of that kind can be a key.
    pub(crate) fn insert(&mut self, key: Val<'a>, value: Val<'a>) -> Result<(), String> {
        let Some(found) = key.as_key() else { return Err(format!("unsupported key type: {}", key.type_name())) };
        self.0.insert(found, (key, value));
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &Val<'_>) {
        if let Some(key) = key.as_key() {
            self.0.remove(&key);
        }
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(object) => object.len(),
            Self::Shared(entries) => entries.0.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &Val<'_>) -> Option<Val<'a>> {
        match self {
            Self::Json(object) => match key {
                Val::String(key) => object.get(key).map(Val::from),
                _ => None,
            },
            Self::Shared(entries) => {
                let find = |key: &Key| entries.0.get(key).map(|(_, value)| value.clone());
                match key {
                    Val::Double(d) => find(&Key::Double(d.to_bits()))
                        .or_else(|| number::whole(*d).and_then(|whole| find(&Key::Int(whole)))),
                    _ => find(&key.as_key()?),
                }
            }
        }
    }

    pub fn iter(&self) -> Box<dyn Iterator<Item = (Val<'a>, Val<'a>)> + '_> {
        match self {
            Self::Json(object) => {
                let object: &'a Object = object;
                Box::new(object.iter().map(|(key, value)| (Val::String(Text::Borrowed(key)), Val::from(value))))
            }
            Self::Shared(entries) => Box::new(entries.0.values().cloned()),
        }
    }
}

/// A value.
#[derive(Clone)]
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Time),
    /// In nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Type(Type),
    Optional(Option<Arc<Val<'a>>>),
    /// A value of a Kubernetes library.
    Opaque(Arc<Opaque>),
}

/// The value of a JSON tree, which it borrows: whole numbers are ints, others doubles.
impl<'a> From<&'a Value> for Val<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Float(f) => Self::Double(*f),
            Value::String(s) => Self::String(Text::Borrowed(s)),
            Value::Array(items) => Self::List(List::Json(items)),
            Value::Object(object) => Self::Map(Map::Json(object)),
        }
    }
}

impl<'a> Val<'a> {
    /// Shared text.
    pub fn from_string(text: &str) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A shared list.
    pub fn from_list(items: Vec<Self>) -> Self {
        Self::List(List::Shared(Arc::new(items)))
    }

    /// A list of texts.
    pub fn from_texts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::from_list(texts.into_iter().map(|text| Self::from_string(text.as_ref())).collect())
    }

    pub(crate) fn from_opaque(value: Opaque) -> Self {
        Self::Opaque(Arc::new(value))
    }

    pub(crate) fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The name of its type at run time.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Opaque(value) => value.type_name(),
        }
    }

    /// Its type at run time, which knows no parameters.
    pub(crate) fn type_of(&self) -> Type {
        match self {
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::Null => Type::Null,
            _ => crate::types::read(self.type_name()),
        }
    }

    /// What finds it in a map.
    pub(crate) fn as_key(&self) -> Option<Key> {
        Some(match self {
            Self::Null => Key::Null,
            Self::Bool(b) => Key::Bool(*b),
            Self::Int(i) => Key::Int(i128::from(*i)),
            Self::Uint(u) => Key::Int(i128::from(*u)),
            Self::Double(d) => Key::Double(d.to_bits()),
            Self::String(s) => Key::String(Box::from(&**s)),
            _ => return None,
        })
    }

    /// How big it is, for what costs: characters, bytes, elements, entries; 1 for all else.
    pub(crate) fn size(&self) -> u64 {
        self.sized().unwrap_or(1)
    }

    /// The size of what has one.
    pub(crate) fn sized(&self) -> Option<u64> {
        Some(match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Opaque(value) => value.size()?,
            _ => return None,
        })
    }

    /// Equality as `==` has it where nothing goes wrong: across numeric types, element by element.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        self.try_equals(other).unwrap_or(false)
    }

    /// Equality; `None` where the types say "no such overload".
    pub(crate) fn try_equals(&self, other: &Val<'_>) -> Option<bool> {
        Some(match (self, other) {
            (Self::Null, Val::Null) => true,
            (Self::Null, _) | (_, Val::Null) => false,
            (Self::Bool(a), Val::Bool(b)) => a == b,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Val::Int(_) | Val::Uint(_) | Val::Double(_)) => {
                number::compare(self, other) == Some(Ordering::Equal)
            }
            (Self::String(a), Val::String(b)) => **a == **b,
            (Self::Bytes(a), Val::Bytes(b)) => a == b,
            (Self::Timestamp(a), Val::Timestamp(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Duration(a), Val::Duration(b)) => a == b,
            (Self::Type(a), Val::Type(b)) => a.name() == b.name(),
            (Self::List(a), Val::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(&b)),
            (Self::Map(a), Val::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(&k).is_some_and(|other| v.equals(&other)))
            }
            (Self::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => return a.try_equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Opaque(a), Val::Opaque(b)) => return a.equals(b),
            (Self::Opaque(_), _) => return None,
            _ => false,
        })
    }

    /// A copy that borrows nothing.
    pub fn into_owned(self) -> Val<'static> {
        match self {
            Self::Null => Val::Null,
            Self::Bool(b) => Val::Bool(b),
            Self::Int(i) => Val::Int(i),
            Self::Uint(u) => Val::Uint(u),
            Self::Double(d) => Val::Double(d),
            Self::String(Text::Borrowed(text)) => Val::from_string(text),
            Self::String(Text::Shared(text)) => Val::String(Text::Shared(text)),
            Self::Bytes(bytes) => Val::Bytes(bytes),
            Self::Timestamp(time) => Val::Timestamp(time),
            Self::Duration(nanos) => Val::Duration(nanos),
            Self::List(list) => Val::from_list(list.iter().map(Val::into_owned).collect()),
            Self::Map(map) => {
                let entry =
                    |(key, value): (Val<'_>, Val<'_>)| Some((key.as_key()?, (key.into_owned(), value.into_owned())));
                Val::Map(Map::Shared(Arc::new(Entries(map.iter().filter_map(entry).collect()))))
            }
            Self::Type(t) => Val::Type(t),
            Self::Optional(inner) => Val::Optional(inner.map(|inner| Arc::new((*inner).clone().into_owned()))),
            Self::Opaque(value) => Val::Opaque(value),
        }
    }
}

/// As Go's `%v` prints cel-go's value in a message.
impl fmt::Display for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL_VALUE"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Uint(u) => write!(f, "{u}"),
            Self::Double(d) => f.write_str(&number::double_text(*d)),
            Self::String(text) => f.write_str(text),
            Self::Bytes(bytes) => write!(f, "{bytes:?}"),
            Self::Timestamp(time) => write!(f, "{time}"),
            Self::Duration(nanos) => f.write_str(&duration_text(*nanos)),
            Self::List(list) => {
                f.write_str("[")?;
                for (i, item) in list.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
            Self::Type(t) => f.write_str(t.name()),
            Self::Optional(None) => f.write_str("optional.none()"),
            Self::Optional(Some(inner)) => write!(f, "optional({inner})"),
            Self::Opaque(value) => write!(f, "{value}"),
        }
    }
}

impl fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.type_name())
    }
}
