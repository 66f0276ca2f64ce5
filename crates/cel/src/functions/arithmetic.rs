//! Operators: what overflows is an error, numbers compare across their types.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{NO_SUCH_OVERLOAD, Outcome, Row, lacks, row};
use crate::number::{INT_OVERFLOW, UINT_OVERFLOW, compare};
use crate::value::{List, Val};

pub(super) const ROWS: &[Row] = &[
    row("_?_:_(bool, A, A) -> A", "conditional", special),
    row("_&&_(bool, bool) -> bool", "logical_and", special),
    row("_||_(bool, bool) -> bool", "logical_or", special),
    row("!_(bool) -> bool", "logical_not", not),
    row("@not_strictly_false(bool) -> bool", "not_strictly_false", special),
    row("_==_(A, A) -> bool", "equals", special),
    row("_!=_(A, A) -> bool", "not_equals", special),
    row("_+_(bytes, bytes) -> bytes", "add_bytes", add),
    row("_+_(double, double) -> double", "add_double", add),
    row("_+_(duration, duration) -> duration", "add_duration_duration", add),
    row("_+_(duration, timestamp) -> timestamp", "add_duration_timestamp", add),
    row("_+_(timestamp, duration) -> timestamp", "add_timestamp_duration", add),
    row("_+_(int, int) -> int", "add_int64", add),
    row("_+_(list(A), list(A)) -> list(A)", "add_list", add),
    row("_+_(string, string) -> string", "add_string", add),
    row("_+_(uint, uint) -> uint", "add_uint64", add),
    row("_/_(double, double) -> double", "divide_double", divide),
    row("_/_(int, int) -> int", "divide_int64", divide),
    row("_/_(uint, uint) -> uint", "divide_uint64", divide),
    row("_%_(int, int) -> int", "modulo_int64", modulo),
    row("_%_(uint, uint) -> uint", "modulo_uint64", modulo),
    row("_*_(double, double) -> double", "multiply_double", multiply),
    row("_*_(int, int) -> int", "multiply_int64", multiply),
    row("_*_(uint, uint) -> uint", "multiply_uint64", multiply),
    row("-_(double) -> double", "negate_double", negate),
    row("-_(int) -> int", "negate_int64", negate),
    row("_-_(double, double) -> double", "subtract_double", subtract),
    row("_-_(duration, duration) -> duration", "subtract_duration_duration", subtract),
    row("_-_(int, int) -> int", "subtract_int64", subtract),
    row("_-_(timestamp, duration) -> timestamp", "subtract_timestamp_duration", subtract),
    row("_-_(timestamp, timestamp) -> duration", "subtract_timestamp_timestamp", subtract),
    row("_-_(uint, uint) -> uint", "subtract_uint64", subtract),
    row("_<_(bool, bool) -> bool", "less_bool", less),
    row("_<_(int, int) -> bool", "less_int64", less),
    row("_<_(int, double) -> bool", "less_int64_double", less),
    row("_<_(int, uint) -> bool", "less_int64_uint64", less),
    row("_<_(uint, uint) -> bool", "less_uint64", less),
    row("_<_(uint, double) -> bool", "less_uint64_double", less),
    row("_<_(uint, int) -> bool", "less_uint64_int64", less),
    row("_<_(double, double) -> bool", "less_double", less),
    row("_<_(double, int) -> bool", "less_double_int64", less),
    row("_<_(double, uint) -> bool", "less_double_uint64", less),
    row("_<_(string, string) -> bool", "less_string", less),
    row("_<_(bytes, bytes) -> bool", "less_bytes", less),
    row("_<_(timestamp, timestamp) -> bool", "less_timestamp", less),
    row("_<_(duration, duration) -> bool", "less_duration", less),
    row("_<=_(bool, bool) -> bool", "less_equals_bool", less_equals),
    row("_<=_(int, int) -> bool", "less_equals_int64", less_equals),
    row("_<=_(int, double) -> bool", "less_equals_int64_double", less_equals),
    row("_<=_(int, uint) -> bool", "less_equals_int64_uint64", less_equals),
    row("_<=_(uint, uint) -> bool", "less_equals_uint64", less_equals),
    row("_<=_(uint, double) -> bool", "less_equals_uint64_double", less_equals),
    row("_<=_(uint, int) -> bool", "less_equals_uint64_int64", less_equals),
    row("_<=_(double, double) -> bool", "less_equals_double", less_equals),
    row("_<=_(double, int) -> bool", "less_equals_double_int64", less_equals),
    row("_<=_(double, uint) -> bool", "less_equals_double_uint64", less_equals),
    row("_<=_(string, string) -> bool", "less_equals_string", less_equals),
    row("_<=_(bytes, bytes) -> bool", "less_equals_bytes", less_equals),
    row("_<=_(timestamp, timestamp) -> bool", "less_equals_timestamp", less_equals),
    row("_<=_(duration, duration) -> bool", "less_equals_duration", less_equals),
    row("_>_(bool, bool) -> bool", "greater_bool", greater),
    row("_>_(int, int) -> bool", "greater_int64", greater),
    row("_>_(int, double) -> bool", "greater_int64_double", greater),
    row("_>_(int, uint) -> bool", "greater_int64_uint64", greater),
    row("_>_(uint, uint) -> bool", "greater_uint64", greater),
    row("_>_(uint, double) -> bool", "greater_uint64_double", greater),
    row("_>_(uint, int) -> bool", "greater_uint64_int64", greater),
    row("_>_(double, double) -> bool", "greater_double", greater),
    row("_>_(double, int) -> bool", "greater_double_int64", greater),
    row("_>_(double, uint) -> bool", "greater_double_uint64", greater),
    row("_>_(string, string) -> bool", "greater_string", greater),
    row("_>_(bytes, bytes) -> bool", "greater_bytes", greater),
    row("_>_(timestamp, timestamp) -> bool", "greater_timestamp", greater),
    row("_>_(duration, duration) -> bool", "greater_duration", greater),
    row("_>=_(bool, bool) -> bool", "greater_equals_bool", greater_equals),
    row("_>=_(int, int) -> bool", "greater_equals_int64", greater_equals),
    row("_>=_(int, double) -> bool", "greater_equals_int64_double", greater_equals),
    row("_>=_(int, uint) -> bool", "greater_equals_int64_uint64", greater_equals),
    row("_>=_(uint, uint) -> bool", "greater_equals_uint64", greater_equals),
    row("_>=_(uint, double) -> bool", "greater_equals_uint64_double", greater_equals),
    row("_>=_(uint, int) -> bool", "greater_equals_uint64_int64", greater_equals),
    row("_>=_(double, double) -> bool", "greater_equals_double", greater_equals),
    row("_>=_(double, int) -> bool", "greater_equals_double_int64", greater_equals),
    row("_>=_(double, uint) -> bool", "greater_equals_double_uint64", greater_equals),
    row("_>=_(string, string) -> bool", "greater_equals_string", greater_equals),
    row("_>=_(bytes, bytes) -> bool", "greater_equals_bytes", greater_equals),
    row("_>=_(timestamp, timestamp) -> bool", "greater_equals_timestamp", greater_equals),
    row("_>=_(duration, duration) -> bool", "greater_equals_duration", greater_equals),
    row("_[_](list(A), int) -> A", "index_list", special),
    row("_[_](map(A, B), A) -> B", "index_map", special),
    row("_[?_](list(V), int) -> optional(V)", "list_optindex_optional_int", special),
    row("_[?_](optional(list(V)), int) -> optional(V)", "optional_list_optindex_optional_int", special),
    row("_[?_](map(K, V), K) -> optional(V)", "map_optindex_optional_value", special),
    row("_[?_](optional(map(K, V)), K) -> optional(V)", "optional_map_optindex_optional_value", special),
    row("_[_](optional(list(V)), int) -> optional(V)", "optional_list_index_int", special),
    row("_[_](optional(map(K, V)), K) -> optional(V)", "optional_map_index_value", special),
];

/// The evaluator itself does these.
fn special<'a>(_: &[Val<'a>]) -> Outcome<'a> {
    Err(NO_SUCH_OVERLOAD.to_owned())
}

fn wrong<'a>() -> Outcome<'a> {
    Err(NO_SUCH_OVERLOAD.to_owned())
}

fn checked_int<'a>(result: Option<i64>) -> Outcome<'a> {
    result.map(Val::Int).ok_or_else(|| INT_OVERFLOW.to_owned())
}

fn checked_uint<'a>(result: Option<u64>) -> Outcome<'a> {
    result.map(Val::Uint).ok_or_else(|| UINT_OVERFLOW.to_owned())
}

fn checked_duration<'a>(result: Option<i64>) -> Outcome<'a> {
    result.map(Val::Duration).ok_or_else(|| INT_OVERFLOW.to_owned())
}

/// What a condition of a comprehension makes of a value that may be an error: only `false` ends it.
pub(crate) fn not_strictly_false<'a>(value: Result<Val<'a>, String>) -> Val<'a> {
    match value {
        Ok(Val::Bool(b)) => Val::Bool(b),
        _ => Val::Bool(true),
    }
}

fn not<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Bool(b) => Ok(Val::Bool(!b)),
        _ => wrong(),
    }
}

fn add<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked_int(a.checked_add(*b)),
        (Val::Uint(a), Val::Uint(b)) => checked_uint(a.checked_add(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => Ok(Val::from_string(&[&**a, &**b].concat())),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes(Arc::from([&**a, &**b].concat()))),
        (Val::Duration(a), Val::Duration(b)) => checked_duration(a.checked_add(*b)),
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
            Ok(Val::Timestamp(t.plus(*d)?))
        }
        (Val::List(a), Val::List(b)) => Ok(join(a, b)),
        (
            Val::Int(_)
            | Val::Uint(_)
            | Val::Double(_)
            | Val::String(_)
            | Val::Bytes(_)
            | Val::Duration(_)
            | Val::Timestamp(_)
            | Val::List(_),
            _,
        ) => wrong(),
        (other, _) => lacks(other, "_+_"),
    }
}

fn join<'a>(a: &List<'a>, b: &List<'a>) -> Val<'a> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => Val::List(b.clone()),
        (_, true) => Val::List(a.clone()),
        _ => Val::from_list(a.iter().chain(b.iter()).collect()),
    }
}

fn subtract<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked_int(a.checked_sub(*b)),
        (Val::Uint(a), Val::Uint(b)) => checked_uint(a.checked_sub(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Val::Duration(a), Val::Duration(b)) => checked_duration(a.checked_sub(*b)),
        (Val::Timestamp(t), Val::Duration(d)) => Ok(Val::Timestamp(t.plus(d.checked_neg().ok_or(INT_OVERFLOW)?)?)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.since(b)?)),
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), _) => wrong(),
        (other, _) => lacks(other, "_-_"),
    }
}

fn multiply<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(a), Val::Int(b)) => checked_int(a.checked_mul(*b)),
        (Val::Uint(a), Val::Uint(b)) => checked_uint(a.checked_mul(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), _) => wrong(),
        (other, _) => lacks(other, "_*_"),
    }
}

fn divide<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err("division by zero".to_owned()),
        (Val::Int(a), Val::Int(b)) => checked_int(a.checked_div(*b)),
        (Val::Uint(a), Val::Uint(b)) => checked_uint(a.checked_div(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), _) => wrong(),
        (other, _) => lacks(other, "_/_"),
    }
}

fn modulo<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match (&args[0], &args[1]) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => Err("modulus by zero".to_owned()),
        (Val::Int(a), Val::Int(b)) => checked_int(a.checked_rem(*b)),
        (Val::Uint(a), Val::Uint(b)) => checked_uint(a.checked_rem(*b)),
        (Val::Int(_) | Val::Uint(_), _) => wrong(),
        (other, _) => lacks(other, "_%_"),
    }
}

fn negate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match &args[0] {
        Val::Int(i) => checked_int(i.checked_neg()),
        Val::Double(d) => Ok(Val::Double(-d)),
        Val::Duration(d) => checked_duration(d.checked_neg()),
        Val::Bool(_) => wrong(),
        other => lacks(other, "-_"),
    }
}

/// How two values are ordered.
///
/// # Errors
/// When they are not, in cel-go's words; `operator` is named where the first has no order at all.
pub(crate) fn compare_values(a: &Val<'_>, b: &Val<'_>, operator: &str) -> Result<Ordering, String> {
    let order = match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => a.cmp(b),
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), Val::Int(_) | Val::Uint(_) | Val::Double(_)) => {
            return compare(a, b).ok_or_else(|| "NaN values cannot be ordered".to_owned());
        }
        (Val::String(a), Val::String(b)) => (**a).cmp(&**b),
        (Val::Bytes(a), Val::Bytes(b)) => a.cmp(b),
        (Val::Timestamp(a), Val::Timestamp(b)) => a.cmp(b),
        (Val::Duration(a), Val::Duration(b)) => a.cmp(b),
        (
            Val::Bool(_)
            | Val::Int(_)
            | Val::Uint(_)
            | Val::Double(_)
            | Val::String(_)
            | Val::Bytes(_)
            | Val::Timestamp(_)
            | Val::Duration(_),
            _,
        ) => return Err(NO_SUCH_OVERLOAD.to_owned()),
        _ => return Err(format!("{NO_SUCH_OVERLOAD}: {operator}")),
    };
    Ok(order)
}

fn less<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    compare_values(&args[0], &args[1], "_<_").map(|order| Val::Bool(order.is_lt()))
}

fn less_equals<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    compare_values(&args[0], &args[1], "_<=_").map(|order| Val::Bool(order.is_le()))
}

fn greater<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    compare_values(&args[0], &args[1], "_>_").map(|order| Val::Bool(order.is_gt()))
}

fn greater_equals<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    compare_values(&args[0], &args[1], "_>=_").map(|order| Val::Bool(order.is_ge()))
}
