//! Types as the checker knows them, and how messages write them.

use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Type {
    /// `google.protobuf.Any`: unlike `dyn` it is no range of a comprehension.
    Any,
    Bool,
    Bytes,
    Double,
    Duration,
    /// Known when the expression runs.
    Dyn,
    /// Of an expression that was found wrong.
    Error,
    Int,
    Null,
    String,
    Timestamp,
    Uint,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// A type without fields, perhaps with parameters, as `net.IP` and `optional_type(int)`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// A type with fields, by name.
    Struct(Arc<str>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A parameter of a function's signature.
    Param(Arc<str>),
    /// A type that is being found out.
    Var(u32),
}

impl Type {
    /// `list(element)`
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// `map(key, value)`
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// `optional_type(inner)`
    pub fn optional(inner: Self) -> Self {
        Self::Opaque("optional_type".into(), Arc::from(vec![inner]))
    }

    /// The type with fields of this name.
    pub fn object(name: &str) -> Self {
        Self::Struct(name.into())
    }

    pub(crate) fn type_of(inner: Self) -> Self {
        Self::Type(Some(Arc::new(inner)))
    }

    /// Is its nature known only at run time?
    pub(crate) const fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    /// What is inside, when this is an optional.
    pub(crate) fn unwrap_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if &**name == "optional_type" => params.first(),
            _ => None,
        }
    }

    /// The name without parameters, as values know it.
    pub fn name(&self) -> &str {
        match self {
            Self::Any => "google.protobuf.Any",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
            Self::Double => "double",
            Self::Duration => "google.protobuf.Duration",
            Self::Dyn => "dyn",
            Self::Error => "error",
            Self::Int => "int",
            Self::Null => "null_type",
            Self::String => "string",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Uint => "uint",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Opaque(name, _) | Self::Struct(name) | Self::Param(name) => name,
            Self::Type(_) => "type",
            Self::Var(_) => "_var",
        }
    }

    /// Is it the same, where variables and parameters may stand for each other? (cel-go's `IsEquivalentType`)
    pub(crate) fn is_equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Param(_) | Self::Var(_), Self::Param(_) | Self::Var(_)) => true,
            (Self::List(a), Self::List(b)) => a.is_equivalent(b),
            (Self::Map(a), Self::Map(b)) => a.0.is_equivalent(&b.0) && a.1.is_equivalent(&b.1),
            (Self::Opaque(a, x), Self::Opaque(b, y)) => {
                a == b && x.len() == y.len() && x.iter().zip(y.iter()).all(|(x, y)| x.is_equivalent(y))
            }
            (Self::Type(Some(a)), Self::Type(Some(b))) => a.is_equivalent(b),
            _ => self == other,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, plain: fn(&Self) -> &str) -> fmt::Result {
        let inside = |f: &mut fmt::Formatter<'_>, name: &str, params: &[&Self]| {
            write!(f, "{name}(")?;
            for (i, param) in params.iter().enumerate() {
                f.write_str(if i == 0 { "" } else { ", " })?;
                param.write(f, plain)?;
            }
            f.write_str(")")
        };
        match self {
            Self::List(element) => inside(f, "list", &[element]),
            Self::Map(pair) => inside(f, "map", &[&pair.0, &pair.1]),
            Self::Opaque(name, params) if !params.is_empty() => inside(f, name, &params.iter().collect::<Vec<_>>()),
            Self::Type(Some(inner)) => inside(f, "type", &[inner]),
            Self::Var(number) => write!(f, "_var{number}"),
            _ => f.write_str(plain(self)),
        }
    }
}

/// As the checker's messages write it: `list(int)`, `timestamp`, `null`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |plain| match plain {
            Self::Any => "any",
            Self::Duration => "duration",
            Self::Error => "!error!",
            Self::Null => "null",
            Self::Timestamp => "timestamp",
            other => other.name(),
        })
    }
}

/// A type with the names of run time, as `cel.Type.String` writes it: `google.protobuf.Timestamp`, `null_type`.
pub struct Declared<'t>(pub &'t Type);

impl fmt::Display for Declared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, Type::name)
    }
}

/// Reads `int`, `list(A)`, `map(string, list(string))`, `optional(kubernetes.NamedFormat)` from a table's row.
///
/// # Panics
/// When the row is not written so.
pub(crate) fn read(text: &str) -> Type {
    let text = text.trim();
    let Some(open) = text.find('(') else {
        return match text {
            "any" => Type::Any,
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "duration" => Type::Duration,
            "dyn" => Type::Dyn,
            "int" => Type::Int,
            "null" => Type::Null,
            "string" => Type::String,
            "timestamp" => Type::Timestamp,
            "type" => Type::Type(None),
            "uint" => Type::Uint,
            "net.IP" | "net.CIDR" => Type::Opaque(text.into(), Arc::from(Vec::new())),
            _ if text.len() == 1 => Type::Param(text.into()),
            _ => Type::Struct(text.into()),
        };
    };
    let mut params = split(&text[open + 1..text.len() - 1]).into_iter().map(read);
    let mut param = || params.next().expect("a row gives each parameter");
    match &text[..open] {
        "list" => Type::list(param()),
        "map" => Type::map(param(), param()),
        "type" => Type::type_of(param()),
        "optional" => Type::optional(param()),
        other => panic!("{other} has no parameters"),
    }
}

/// Splits at the commas that stand in no parentheses.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if !text[begin..].trim().is_empty() {
        parts.push(&text[begin..]);
    }
    parts
}
