//! Conversions between types.

use std::sync::Arc;

use super::{NO_SUCH_OVERLOAD, Outcome, Row, row};
use crate::number::{
    INT_OVERFLOW, UINT_OVERFLOW, double_text, double_to_int, double_to_uint, parse_double, parse_int, parse_uint,
};
use crate::opaque::Opaque;
use crate::time::{Time, duration_seconds_text, parse_duration};
use crate::value::Val;

pub(super) const DYNAMIC: &[Row] =
    &[row("type(A) -> type(A)", "type", |args| Ok(Val::Type(args[0].type_of()))), row("dyn(A) -> dyn", "to_dyn", same)];

pub(super) const ROWS: &[Row] = &[
    row("bool(bool) -> bool", "bool_to_bool", same),
    row("bool(string) -> bool", "string_to_bool", to_bool),
    row("bytes(bytes) -> bytes", "bytes_to_bytes", same),
    row("bytes(string) -> bytes", "string_to_bytes", to_bytes),
    row("double(double) -> double", "double_to_double", same),
    row("double(int) -> double", "int64_to_double", to_double),
    row("double(string) -> double", "string_to_double", to_double),
    row("double(uint) -> double", "uint64_to_double", to_double),
    row("duration(duration) -> duration", "duration_to_duration", same),
    row("duration(int) -> duration", "int64_to_duration", to_duration),
    row("duration(string) -> duration", "string_to_duration", to_duration),
    row("int(int) -> int", "int64_to_int64", same),
    row("int(double) -> int", "double_to_int64", to_int),
    row("int(duration) -> int", "duration_to_int64", to_int),
    row("int(string) -> int", "string_to_int64", to_int),
    row("int(timestamp) -> int", "timestamp_to_int64", to_int),
    row("int(uint) -> int", "uint64_to_int64", to_int),
    row("string(string) -> string", "string_to_string", same),
    row("string(bool) -> string", "bool_to_string", to_string),
    row("string(bytes) -> string", "bytes_to_string", to_string),
    row("string(double) -> string", "double_to_string", to_string),
    row("string(duration) -> string", "duration_to_string", to_string),
    row("string(int) -> string", "int64_to_string", to_string),
    row("string(timestamp) -> string", "timestamp_to_string", to_string),
    row("string(uint) -> string", "uint64_to_string", to_string),
    row("timestamp(timestamp) -> timestamp", "timestamp_to_timestamp", same),
    row("timestamp(int) -> timestamp", "int64_to_timestamp", to_timestamp),
    row("timestamp(string) -> timestamp", "string_to_timestamp", to_timestamp),
    row("uint(uint) -> uint", "uint64_to_uint64", same),
    row("uint(double) -> uint", "double_to_uint64", to_uint),
    row("uint(int) -> uint", "int64_to_uint64", to_uint),
    row("uint(string) -> uint", "string_to_uint64", to_uint),
];

fn same<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(args[0].clone())
}

fn wrong<'a>(from: &Val<'_>, to: &str) -> Outcome<'a> {
    Err(format!("type conversion error from '{}' to '{to}'", from.type_name()))
}

fn to_bool<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args[0].as_str() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Val::Bool(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Val::Bool(false)),
        _ => wrong(&args[0], "bool"),
    }
}

fn to_bytes<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args[0].as_str() {
        Some(text) => Ok(Val::Bytes(Arc::from(text.as_bytes()))),
        None => wrong(&args[0], "bytes"),
    }
}

fn to_double<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let double = match &args[0] {
        Val::Int(i) => Some(*i as f64),
        Val::Uint(u) => Some(*u as f64),
        Val::String(text) => parse_double(text),
        _ => None,
    };
    double.map_or_else(|| wrong(&args[0], "double"), |d| Ok(Val::Double(d)))
}

fn to_duration<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    match args[0].as_str().and_then(parse_duration) {
        Some(nanos) => Ok(Val::Duration(nanos)),
        None => wrong(&args[0], "google.protobuf.Duration"),
    }
}

fn to_int<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let int = match &args[0] {
        Val::Double(d) => Some(double_to_int(*d)?),
        Val::Duration(nanos) => Some(*nanos),
        Val::Timestamp(time) => Some(time.seconds),
        Val::Uint(u) => Some(i64::try_from(*u).map_err(|_| INT_OVERFLOW)?),
        Val::String(text) => parse_int(text),
        _ => None,
    };
    int.map_or_else(|| wrong(&args[0], "int"), |i| Ok(Val::Int(i)))
}

fn to_uint<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let uint = match &args[0] {
        Val::Double(d) => Some(double_to_uint(*d)?),
        Val::Int(i) => Some(u64::try_from(*i).map_err(|_| UINT_OVERFLOW)?),
        Val::String(text) => parse_uint(text),
        _ => None,
    };
    uint.map_or_else(|| wrong(&args[0], "uint"), |u| Ok(Val::Uint(u)))
}

fn to_timestamp<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let time = match &args[0] {
        Val::Int(seconds) => Some(Time::utc(*seconds, 0)),
        Val::String(text) => Time::parse(text),
        _ => None,
    };
    match time {
        Some(time) if time.is_in_range() => Ok(Val::Timestamp(time)),
        Some(_) => Err("timestamp overflow".to_owned()),
        None => wrong(&args[0], "google.protobuf.Timestamp"),
    }
}

/// `string(…)` of whatever has it.
pub(super) fn to_string<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::from_string(&match &args[0] {
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => double_text(*d),
        Val::String(text) => text.to_string(),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err("invalid UTF-8 in bytes, cannot convert to string".to_owned()),
        },
        Val::Timestamp(time) => time.to_string(),
        Val::Duration(nanos) => duration_seconds_text(*nanos),
        Val::Type(known) => known.name().to_owned(),
        Val::Opaque(value) if matches!(**value, Opaque::Ip(_) | Opaque::Cidr(..)) => value.to_string(),
        _ => return Err(NO_SUCH_OVERLOAD.to_owned()),
    }))
}
