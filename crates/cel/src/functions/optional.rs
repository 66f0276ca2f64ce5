//! Values that may be absent (`cel-go/cel/library.go`).

use std::sync::Arc;

use super::{NO_SUCH_OVERLOAD, Outcome, Row, row};
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("optional.of(V) -> optional(V)", "optional_of", |args| Ok(Val::some(args[0].clone()))),
    row("optional.ofNonZeroValue(V) -> optional(V)", "optional_ofNonZeroValue", of_non_zero),
    row("optional.none() -> optional(V)", "optional_none", |_| Ok(Val::Optional(None))),
    row("optional(V)::value() -> V", "optional_value", |args| match optional(&args[0])? {
        Some(inner) => Ok((**inner).clone()),
        None => Err("optional.none() dereference".to_owned()),
    }),
    row("optional(V)::hasValue() -> bool", "optional_hasValue", |args| Ok(Val::Bool(optional(&args[0])?.is_some()))),
    row("optional(V)::or(optional(V)) -> optional(V)", "optional_or_optional", |_| Err(NO_SUCH_OVERLOAD.to_owned())),
    row("optional(V)::orValue(V) -> V", "optional_orValue_value", |_| Err(NO_SUCH_OVERLOAD.to_owned())),
    row("list(V)::last() -> optional(V)", "list_last", |args| element(args, usize::wrapping_sub)),
    row("list(V)::first() -> optional(V)", "list_first", |args| element(args, |_, _| 0)),
    row("optional.unwrap(list(optional(V))) -> list(V)", "optional_unwrap", unwrap),
    row("list(optional(V))::unwrapOpt() -> list(V)", "optional_unwrapOpt", unwrap),
];

fn optional<'v, 'a>(value: &'v Val<'a>) -> Result<Option<&'v Arc<Val<'a>>>, String> {
    if let Val::Optional(inner) = value { Ok(inner.as_ref()) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn of_non_zero<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let is_zero = match &args[0] {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => true,
        Val::Double(d) => *d == 0.0,
        Val::String(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(list) => list.is_empty(),
        Val::Map(map) => map.is_empty(),
        Val::Timestamp(time) => time.seconds == crate::time::SECONDS_MIN && time.nanos == 0,
        _ => false,
    };
    Ok(if is_zero { Val::Optional(None) } else { Val::some(args[0].clone()) })
}

fn element<'a>(args: &[Val<'a>], index: fn(usize, usize) -> usize) -> Outcome<'a> {
    let Val::List(list) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    Ok(Val::Optional(list.get(index(list.len(), 1)).map(Arc::new)))
}

fn unwrap<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::List(list) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let mut present = Vec::new();
    for item in list.iter() {
        match item {
            Val::Optional(Some(inner)) => present.push((*inner).clone()),
            Val::Optional(None) => {}
            other => return Err(format!("value {other} is not optional")),
        }
    }
    Ok(Val::from_list(present))
}
