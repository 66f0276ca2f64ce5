//! Lists, maps and sets.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{NO_SUCH_OVERLOAD, Outcome, Row, compare_values, lacks, row};
use crate::number::{INT_OVERFLOW, UINT_OVERFLOW};
use crate::value::{Entries, List, Map, Val};

pub(super) const STANDARD: &[Row] = &[
    row("@in(A, list(A)) -> bool", "in_list", contained),
    row("@in(A, map(A, B)) -> bool", "in_map", contained),
    row("size(bytes) -> int", "size_bytes", size),
    row("bytes::size() -> int", "bytes_size", size),
    row("size(list(A)) -> int", "size_list", size),
    row("list(A)::size() -> int", "list_size", size),
    row("size(map(A, B)) -> int", "size_map", size),
    row("map(A, B)::size() -> int", "map_size", size),
    row("size(string) -> int", "size_string", size),
    row("string::size() -> int", "string_size", size),
];

/// `k8s.io/apiserver/pkg/cel/library/lists.go`
pub(super) const LISTS: &[Row] = &[
    row("list(int)::isSorted() -> bool", "list_int_is_sorted_bool", is_sorted),
    row("list(uint)::isSorted() -> bool", "list_uint_is_sorted_bool", is_sorted),
    row("list(double)::isSorted() -> bool", "list_double_is_sorted_bool", is_sorted),
    row("list(bool)::isSorted() -> bool", "list_bool_is_sorted_bool", is_sorted),
    row("list(duration)::isSorted() -> bool", "list_duration_is_sorted_bool", is_sorted),
    row("list(timestamp)::isSorted() -> bool", "list_timestamp_is_sorted_bool", is_sorted),
    row("list(string)::isSorted() -> bool", "list_string_is_sorted_bool", is_sorted),
    row("list(bytes)::isSorted() -> bool", "list_bytes_is_sorted_bool", is_sorted),
    row("list(int)::sum() -> int", "list_int_sum_int", |args| sum(args, Val::Int(0))),
    row("list(uint)::sum() -> uint", "list_uint_sum_uint", |args| sum(args, Val::Uint(0))),
    row("list(double)::sum() -> double", "list_double_sum_double", |args| sum(args, Val::Double(0.0))),
    row("list(duration)::sum() -> duration", "list_duration_sum_duration", |args| sum(args, Val::Duration(0))),
    row("list(int)::max() -> int", "list_int_max_int", max),
    row("list(uint)::max() -> uint", "list_uint_max_uint", max),
    row("list(double)::max() -> double", "list_double_max_double", max),
    row("list(bool)::max() -> bool", "list_bool_max_bool", max),
    row("list(duration)::max() -> duration", "list_duration_max_duration", max),
    row("list(timestamp)::max() -> timestamp", "list_timestamp_max_timestamp", max),
    row("list(string)::max() -> string", "list_string_max_string", max),
    row("list(bytes)::max() -> bytes", "list_bytes_max_bytes", max),
    row("list(int)::min() -> int", "list_int_min_int", min),
    row("list(uint)::min() -> uint", "list_uint_min_uint", min),
    row("list(double)::min() -> double", "list_double_min_double", min),
    row("list(bool)::min() -> bool", "list_bool_min_bool", min),
    row("list(duration)::min() -> duration", "list_duration_min_duration", min),
    row("list(timestamp)::min() -> timestamp", "list_timestamp_min_timestamp", min),
    row("list(string)::min() -> string", "list_string_min_string", min),
    row("list(bytes)::min() -> bytes", "list_bytes_min_bytes", min),
    row("list(A)::indexOf(A) -> int", "list_a_index_of_int", index_of),
    row("list(A)::lastIndexOf(A) -> int", "list_a_last_index_of_int", last_index_of),
];

/// `cel-go/ext/sets.go`
pub(super) const SETS: &[Row] = &[
    row("sets.contains(list(T), list(T)) -> bool", "list_sets_contains_list", |args| {
        Ok(Val::Bool(holds(list(&args[0])?, list(&args[1])?)))
    }),
    row("sets.equivalent(list(T), list(T)) -> bool", "list_sets_equivalent_list", |args| {
        let (a, b) = (list(&args[0])?, list(&args[1])?);
        Ok(Val::Bool(holds(a, b) && holds(b, a)))
    }),
    row("sets.intersects(list(T), list(T)) -> bool", "list_sets_intersects_list", |args| {
        let (a, b) = (list(&args[0])?, list(&args[1])?);
        Ok(Val::Bool(a.iter().any(|item| b.contains(&item))))
    }),
];

/// `cel-go/ext/comprehensions.go`: what the macros of two variables put their result together with.
pub(super) const COMPREHENSIONS: &[Row] = &[
    row("cel.@mapInsert(map(K, V), K, V) -> map(K, V)", "@mapInsert_map_key_value", insert_value),
    row("cel.@mapInsert(map(K, V), map(K, V)) -> map(K, V)", "@mapInsert_map_map", insert_map),
];

fn list<'v, 'a>(value: &'v Val<'a>) -> Result<&'v List<'a>, String> {
    if let Val::List(list) = value { Ok(list) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn holds(all: &List<'_>, some: &List<'_>) -> bool {
    some.iter().all(|item| all.contains(&item))
}

fn contained<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[1] {
        Val::List(list) => Ok(Val::Bool(list.contains(&args[0]))),
        Val::Map(map) => Ok(Val::Bool(map.get(&args[0]).is_some())),
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn size<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args[0].sized() {
        Some(size) => Ok(Val::Int(size as i64)),
        None => lacks(&args[0], "size"),
    }
}

fn is_sorted<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut before: Option<Val<'_>> = None;
    for item in list(&args[0])?.iter() {
        compare_values(&item, &item, "").or_else(|why| {
            if why.starts_with("NaN") { Ok(Ordering::Equal) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
        })?;
        if before.is_some_and(|before| compare_values(&before, &item, "") == Ok(Ordering::Greater)) {
            return Ok(Val::Bool(false));
        }
        before = Some(item);
    }
    Ok(Val::Bool(true))
}

fn sum<'a>(args: &[Val<'a>], zero: Val<'a>) -> Outcome<'a> {
    list(&args[0])?.iter().try_fold(zero, |sum, item| match (&sum, &item) {
        (Val::Int(a), Val::Int(b)) => a.checked_add(*b).map(Val::Int).ok_or_else(|| INT_OVERFLOW.to_owned()),
        (Val::Uint(a), Val::Uint(b)) => a.checked_add(*b).map(Val::Uint).ok_or_else(|| UINT_OVERFLOW.to_owned()),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map(Val::Duration).ok_or_else(|| INT_OVERFLOW.to_owned())
        }
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    })
}

fn max<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    best(args, "max", Ordering::Less)
}

fn min<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    best(args, "min", Ordering::Greater)
}

/// The element that no other replaces: another replaces it when the two are ordered so.
fn best<'a>(args: &[Val<'a>], name: &str, replaced: Ordering) -> Outcome<'a> {
    let mut items = list(&args[0])?.iter();
    let first = items.next().ok_or_else(|| format!("{name} called on empty list"))?;
    Ok(items.fold(first, |best, item| if compare_values(&best, &item, "") == Ok(replaced) { item } else { best }))
}

fn index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let found = list(&args[0])?.iter().position(|item| item.equals(&args[1]));
    Ok(Val::Int(found.map_or(-1, |i| i as i64)))
}

fn last_index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let list = list(&args[0])?;
    let found = (0..list.len()).rev().find(|i| list.get(*i).is_some_and(|item| item.equals(&args[1])));
    Ok(Val::Int(found.map_or(-1, |i| i as i64)))
}

/// Puts entries into a map whose keys must be new. The map is changed in place when nobody else holds it.
pub(crate) fn insert<'a>(map: Val<'a>, entries: impl IntoIterator<Item = (Val<'a>, Val<'a>)>) -> Outcome<'a> {
    let Val::Map(map) = map else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let mut into = match map {
        Map::Shared(entries) => entries,
        Map::Json(_) => {
            let mut copy = Entries::default();
            map.iter().try_for_each(|(key, value)| copy.insert(key, value))?;
            Arc::new(copy)
        }
    };
    for (key, value) in entries {
        if Map::Shared(Arc::clone(&into)).get(&key).is_some() {
            return Err(format!("insert failed: key {key} already exists"));
        }
        Arc::make_mut(&mut into).insert(key, value)?;
    }
    Ok(Val::Map(Map::Shared(into)))
}

fn insert_value<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    insert(args[0].clone(), [(args[1].clone(), args[2].clone())])
}

fn insert_map<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::Map(more) = &args[1] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    insert(args[0].clone(), more.iter())
}
