//! The libraries: one row per overload. A row says how it is called, by which id it is known, and what it does.

mod arithmetic;
mod authorizer;
mod collections;
mod convert;
mod format;
mod named_formats;
mod net;
mod optional;
mod quantity;
mod regex;
mod semver;
mod strings;
mod times;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::types::{Type, read, split};
use crate::value::Val;

pub(crate) use self::semver::Version;
pub(crate) use self::url::Url;
pub(crate) use arithmetic::{compare_values, not_strictly_false};
pub use authorizer::{Authorizer, Decision, Question};
pub(crate) use authorizer::{Check, question};
pub(crate) use collections::insert as insert_entries;
pub(crate) use format::check_literal as check_format_literal;
pub(crate) use named_formats::NamedFormat;
pub(crate) use regex::Pattern;

/// What a function gives: a value, or cel-go's error text.
pub(crate) type Outcome<'a> = Result<Val<'a>, String>;

/// What a function does.
pub(crate) type Function = for<'a> fn(&[Val<'a>]) -> Outcome<'a>;

/// cel-go's words for arguments that a function cannot take.
pub(crate) const NO_SUCH_OVERLOAD: &str = "no such overload";

/// `signature` is `name(types) -> type`, `receiver::name(types) -> type` for what is called on a value.
pub(crate) struct Row {
    pub(crate) signature: &'static str,
    pub(crate) id: &'static str,
    pub(crate) call: Function,
}

const fn row(signature: &'static str, id: &'static str, call: Function) -> Row {
    Row { signature, id, call }
}

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) is_member: bool,
    /// The receiver first.
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    /// The parameters of its types.
    pub(crate) params: Vec<Arc<str>>,
    pub(crate) call: Function,
    /// Are arguments of the wrong type kept from it?
    pub(crate) is_guarded: bool,
}

/// The functions by name.
pub(crate) type Library = BTreeMap<&'static str, Vec<Overload>>;

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let mut library = Library::new();
    for (rows, is_guarded) in [
        (arithmetic::ROWS, false),
        (collections::STANDARD, false),
        (convert::DYNAMIC, false),
        (strings::STANDARD, false),
        (convert::ROWS, true),
        (times::ROWS, true),
        (self::url::ROWS, true),
        (regex::ROWS, true),
        (collections::LISTS, true),
        (optional::ROWS, true),
        (authorizer::ROWS, true),
        (quantity::ROWS, true),
        (strings::ROWS, true),
        (collections::SETS, true),
        (net::ROWS, true),
        (named_formats::ROWS, true),
        (collections::COMPREHENSIONS, true),
        (self::semver::ROWS, true),
    ] {
        rows.iter().for_each(|row| add(&mut library, row, is_guarded));
    }
    library
});

/// All functions.
pub(crate) fn library() -> &'static Library {
    &LIBRARY
}

static TYPES: LazyLock<Vec<Type>> = LazyLock::new(|| {
    let names = "bool, bytes, double, duration, int, list(A), map(A, B), null, string, timestamp, type, uint, \
                 optional(A), net.IP, net.CIDR";
    split(names).into_iter().map(read).collect()
});

/// The types whose names are values. (Kubernetes registers those of its addresses, not those of its objects.)
pub(crate) fn registered_types() -> &'static [Type] {
    &TYPES
}

fn add(library: &mut Library, row: &'static Row, is_guarded: bool) {
    let (receiver, call) = match row.signature.split_once("::") {
        Some((receiver, call)) => (Some(receiver), call),
        None => (None, row.signature),
    };
    let (call, result) = call.split_once("->").expect("a row says what it yields");
    let (name, args) = call.trim().split_once('(').expect("a row has parentheses");
    let args = args.strip_suffix(')').expect("a row closes its parentheses");
    let args: Vec<Type> = receiver.into_iter().chain(split(args)).map(read).collect();
    let result = read(result);
    let mut params = Vec::new();
    args.iter().chain([&result]).for_each(|known| gather(known, &mut params));
    let overload =
        Overload { id: row.id, is_member: receiver.is_some(), args, result, params, call: row.call, is_guarded };
    library.entry(name).or_default().push(overload);
}

fn gather(known: &Type, params: &mut Vec<Arc<str>>) {
    match known {
        Type::Param(name) if !params.contains(name) => params.push(Arc::clone(name)),
        Type::List(inner) | Type::Type(Some(inner)) => gather(inner, params),
        Type::Map(pair) => {
            gather(&pair.0, params);
            gather(&pair.1, params);
        }
        Type::Opaque(_, inner) => inner.iter().for_each(|inner| gather(inner, params)),
        _ => {}
    }
}

impl Overload {
    /// Could these values be meant?
    pub(crate) fn takes(&self, values: &[Val<'_>]) -> bool {
        let fits = |(wanted, given): (&Type, &Val<'_>)| may_be(given, wanted);
        self.args.len() == values.len() && (!self.is_guarded || self.args.iter().zip(values).all(fits))
    }
}

/// Could a value be of that type? Of what a list or a map holds only the first is looked at, as upstream does.
fn may_be(value: &Val<'_>, wanted: &Type) -> bool {
    match (wanted, value) {
        (Type::Dyn | Type::Any | Type::Param(_), _) => true,
        (Type::List(element), Val::List(list)) => list.get(0).is_none_or(|first| may_be(&first, element)),
        (Type::Map(pair), Val::Map(map)) => {
            map.iter().next().is_none_or(|(key, value)| may_be(&key, &pair.0) && may_be(&value, &pair.1))
        }
        _ => wanted.name() == value.type_name(),
    }
}

/// `no such overload: name(int, string)`
pub(crate) fn no_such_overload(name: &str, values: &[Val<'_>]) -> String {
    let types: Vec<&str> = values.iter().map(Val::type_name).collect();
    format!("{NO_SUCH_OVERLOAD}: {name}({})", types.join(", "))
}

/// What is said of a value that lacks an operator: texts and times could have received the call and do not know it.
fn lacks<'a>(value: &Val<'_>, name: &str) -> Outcome<'a> {
    Err(match value {
        Val::String(_) | Val::Timestamp(_) | Val::Duration(_) => NO_SUCH_OVERLOAD.to_owned(),
        _ => format!("{NO_SUCH_OVERLOAD}: {name}"),
    })
}

fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| NO_SUCH_OVERLOAD.to_owned())
}

fn int(value: &Val<'_>) -> Result<i64, String> {
    if let Val::Int(i) = value { Ok(*i) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}
