//! Texts, by code point (cel-go's `ext/strings.go`, version 2).

use super::format::format;
use super::regex::matches;
use super::{NO_SUCH_OVERLOAD, Outcome, Row, int, row, text};
use crate::value::Val;

pub(super) const STANDARD: &[Row] = &[
    row("string::contains(string) -> bool", "contains_string", |args| {
        Ok(Val::Bool(text(&args[0])?.contains(text(&args[1])?)))
    }),
    row("string::endsWith(string) -> bool", "ends_with_string", |args| {
        Ok(Val::Bool(text(&args[0])?.ends_with(text(&args[1])?)))
    }),
    row("string::startsWith(string) -> bool", "starts_with_string", |args| {
        Ok(Val::Bool(text(&args[0])?.starts_with(text(&args[1])?)))
    }),
    row("matches(string, string) -> bool", "matches", matches),
    row("string::matches(string) -> bool", "matches_string", matches),
];

pub(super) const ROWS: &[Row] = &[
    row("string::charAt(int) -> string", "string_char_at_int", char_at),
    row("string::indexOf(string) -> int", "string_index_of_string", index_of),
    row("string::indexOf(string, int) -> int", "string_index_of_string_int", index_of),
    row("string::lastIndexOf(string) -> int", "string_last_index_of_string", last_index_of),
    row("string::lastIndexOf(string, int) -> int", "string_last_index_of_string_int", last_index_of),
    row("string::lowerAscii() -> string", "string_lower_ascii", |args| {
        Ok(Val::from_string(&text(&args[0])?.to_ascii_lowercase()))
    }),
    row("string::replace(string, string) -> string", "string_replace_string_string", replace),
    row("string::replace(string, string, int) -> string", "string_replace_string_string_int", replace),
    row("string::split(string) -> list(string)", "string_split_string", split),
    row("string::split(string, int) -> list(string)", "string_split_string_int", split),
    row("string::substring(int) -> string", "string_substring_int", substring),
    row("string::substring(int, int) -> string", "string_substring_int_int", substring),
    row("string::trim() -> string", "string_trim", |args| Ok(Val::from_string(text(&args[0])?.trim()))),
    row("string::upperAscii() -> string", "string_upper_ascii", |args| {
        Ok(Val::from_string(&text(&args[0])?.to_ascii_uppercase()))
    }),
    row("string::format(list(dyn)) -> string", "string_format", format),
    row("strings.quote(string) -> string", "strings_quote", quote),
    row("list(string)::join() -> string", "list_join", join),
    row("list(string)::join(string) -> string", "list_join_string", join),
];

fn out_of_range<'a>(index: i64) -> Outcome<'a> {
    Err(format!("index out of range: {index}"))
}

fn char_at<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (text, index) = (text(&args[0])?, int(&args[1])?);
    let length = text.chars().count();
    match usize::try_from(index) {
        Ok(index) if index <= length => {
            let one: String = text.chars().skip(index).take(1).collect();
            Ok(Val::from_string(&one))
        }
        _ => out_of_range(index),
    }
}

fn index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (whole, part) = (text(&args[0])?, text(&args[1])?);
    let offset = args.get(2).map_or(Ok(0), int)?;
    if part.is_empty() {
        return Ok(Val::Int(offset));
    }
    let Ok(skip) = usize::try_from(offset) else { return out_of_range(offset) };
    let Some((begin, _)) = whole.char_indices().nth(skip) else { return Ok(Val::Int(-1)) };
    let found = whole[begin..].find(part).map(|at| offset + whole[begin..begin + at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (whole, part) = (text(&args[0])?, text(&args[1])?);
    let length = whole.chars().count() as i64;
    let offset = match args.get(2) {
        Some(offset) => int(offset)?,
        None if part.is_empty() => length,
        None => length - 1,
    };
    if part.is_empty() {
        return Ok(Val::Int(offset));
    }
    if offset < 0 {
        return out_of_range(offset);
    }
    if offset >= length {
        return Ok(Val::Int(-1));
    }
    // A match may begin at the offset at the latest.
    let last = whole.char_indices().nth(offset as usize).map_or(whole.len(), |(at, _)| at);
    let end = whole.len().min(last + part.len());
    let end = (end..=whole.len()).find(|at| whole.is_char_boundary(*at)).unwrap_or(whole.len());
    let found = whole[..end].rfind(part).map(|at| whole[..at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}

fn replace<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (whole, old, new) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let most = args.get(3).map_or(Ok(-1), int)?;
    Ok(Val::from_string(&match usize::try_from(most) {
        Ok(most) => whole.replacen(old, new, most),
        Err(_) => whole.replace(old, new),
    }))
}

fn split<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (whole, separator) = (text(&args[0])?, text(&args[1])?);
    let most = usize::try_from(args.get(2).map_or(Ok(-1), int)?).ok();
    if most == Some(0) {
        return Ok(Val::from_list(Vec::new()));
    }
    let most = most.unwrap_or(usize::MAX);
    if !separator.is_empty() {
        return Ok(Val::from_texts(whole.splitn(most, separator)));
    }
    // Without a separator each character stands alone.
    let mut parts = Vec::new();
    let mut rest = whole;
    while let Some(first) = rest.chars().next() {
        let end = if parts.len() + 1 == most { rest.len() } else { first.len_utf8() };
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    Ok(Val::from_texts(parts))
}

fn substring<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let (whole, start) = (text(&args[0])?, int(&args[1])?);
    let length = whole.chars().count() as i64;
    let end = args.get(2).map_or(Ok(length.max(start)), int)?;
    if start > end {
        return Err(format!("invalid substring range. start: {start}, end: {end}"));
    }
    if start < 0 || start > length {
        return out_of_range(start);
    }
    if end < 0 || end > length {
        return out_of_range(end);
    }
    let part: String = whole.chars().skip(start as usize).take((end - start) as usize).collect();
    Ok(Val::from_string(&part))
}

fn quote<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut out = String::from("\"");
    for c in text(&args[0])?.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            _ => out.push(c),
        }
    }
    out.push('"');
    Ok(Val::from_string(&out))
}

fn join<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::List(list) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let separator = args.get(1).map_or(Ok(""), text)?;
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let part = item.as_str().ok_or_else(|| format!("join: invalid input: {item}"))?;
        out.push_str(if i == 0 { "" } else { separator });
        out.push_str(part);
    }
    Ok(Val::from_string(&out))
}
