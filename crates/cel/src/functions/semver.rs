//! Semantic versions (`k8s.io/apiserver/pkg/cel/library/semverlib.go` over `blang/semver`).

use std::cmp::Ordering;
use std::fmt;

use machinery::go::quote;

use super::{NO_SUCH_OVERLOAD, Outcome, Row, row, text};
use crate::opaque::Opaque;
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("semver(string) -> kubernetes.Semver", "string_to_semver", |args| made(args, false)),
    row("semver(string, bool) -> kubernetes.Semver", "string_bool_to_semver", |args| made(args, flag(&args[1])?)),
    row("isSemver(string) -> bool", "is_semver_string", |args| Ok(Val::Bool(read(text(&args[0])?, false).is_ok()))),
    row("isSemver(string, bool) -> bool", "is_semver_string_bool", |args| {
        Ok(Val::Bool(read(text(&args[0])?, flag(&args[1])?).is_ok()))
    }),
    row("kubernetes.Semver::isGreaterThan(kubernetes.Semver) -> bool", "semver_is_greater_than", |args| {
        Ok(Val::Bool(version(&args[0])?.cmp(version(&args[1])?).is_gt()))
    }),
    row("kubernetes.Semver::isLessThan(kubernetes.Semver) -> bool", "semver_is_less_than", |args| {
        Ok(Val::Bool(version(&args[0])?.cmp(version(&args[1])?).is_lt()))
    }),
    row("kubernetes.Semver::compareTo(kubernetes.Semver) -> int", "semver_compare_to", |args| {
        Ok(Val::Int(version(&args[0])?.cmp(version(&args[1])?) as i64))
    }),
    row("kubernetes.Semver::major() -> int", "semver_major", |args| Ok(Val::Int(version(&args[0])?.numbers[0] as i64))),
    row("kubernetes.Semver::minor() -> int", "semver_minor", |args| Ok(Val::Int(version(&args[0])?.numbers[1] as i64))),
    row("kubernetes.Semver::patch() -> int", "semver_patch", |args| Ok(Val::Int(version(&args[0])?.numbers[2] as i64))),
];

/// A version: what is compared, and how it is written.
#[derive(Clone, Debug)]
pub struct Version {
    numbers: [u64; 3],
    before: Vec<Identifier>,
    build: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Identifier {
    Number(u64),
    Word(String),
}

impl Version {
    /// `-rc` comes before the release, what is built is not compared.
    pub(crate) fn cmp(&self, other: &Self) -> Ordering {
        let by_release = match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.before.cmp(&other.before),
        };
        self.numbers.cmp(&other.numbers).then(by_release)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (i, identifier) in self.before.iter().enumerate() {
            f.write_str(if i == 0 { "-" } else { "." })?;
            match identifier {
                Identifier::Number(number) => write!(f, "{number}")?,
                Identifier::Word(word) => f.write_str(word)?,
            }
        }
        for (i, part) in self.build.iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "+" } else { "." })?;
        }
        Ok(())
    }
}

fn version<'v>(value: &'v Val<'_>) -> Result<&'v Version, String> {
    match value {
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Semver(version) => Ok(version),
            _ => Err(NO_SUCH_OVERLOAD.to_owned()),
        },
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn flag(value: &Val<'_>) -> Result<bool, String> {
    if let Val::Bool(b) = value { Ok(*b) } else { Err(NO_SUCH_OVERLOAD.to_owned()) }
}

fn made<'a>(args: &[Val<'a>], is_lenient: bool) -> Outcome<'a> {
    Ok(Val::from_opaque(Opaque::Semver(read(text(&args[0])?, is_lenient)?)))
}

fn read(text: &str, is_lenient: bool) -> Result<Version, String> {
    if is_lenient { parse(&normal(text)?) } else { parse(text) }
}

/// `v1.02` as `1.2.0`
fn normal(text: &str) -> Result<String, String> {
    let mut parts: Vec<String> = text.strip_prefix('v').unwrap_or(text).splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|part| part.len() > 1) {
        let trimmed = part.trim_start_matches('0');
        let needs_zero = !trimmed.starts_with(|c: char| c.is_ascii_digit());
        *part = format!("{}{trimmed}", if needs_zero { "0" } else { "" });
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn has_leading_zeroes(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        let kind = if text.is_empty() { "invalid syntax" } else { "value out of range" };
        format!("strconv.ParseUint: parsing {}: {kind}", quote(text))
    })
}

fn parse(text: &str) -> Result<Version, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else { return Err("No Major.Minor.Patch elements found".to_owned()) };
    let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
    let (patch, before) = rest.split_once('-').map_or((rest, None), |(patch, before)| (patch, Some(before)));
    let mut numbers = [0; 3];
    for (i, (part, name)) in [(major, "major"), (minor, "minor"), (patch, "patch")].into_iter().enumerate() {
        if !is_number(part) {
            return Err(format!("Invalid character(s) found in {name} number {}", quote(part)));
        }
        if has_leading_zeroes(part) {
            let name = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
            return Err(format!("{name} number must not contain leading zeroes {}", quote(part)));
        }
        numbers[i] = number(part)?;
    }
    let before = before.into_iter().flat_map(|b| b.split('.')).map(identifier).collect::<Result<_, _>>()?;
    let build = build.into_iter().flat_map(|b| b.split('.')).map(build_part).collect::<Result<_, _>>()?;
    Ok(Version { numbers, before, build })
}

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if is_number(text) {
        if has_leading_zeroes(text) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quote(text)));
        }
        return Ok(Identifier::Number(number(text)?));
    }
    if is_alphanumeric(text) {
        return Ok(Identifier::Word(text.to_owned()));
    }
    Err(format!("Invalid character(s) found in prerelease {}", quote(text)))
}

fn build_part(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("Build meta data is empty".to_owned());
    }
    if !is_alphanumeric(text) {
        return Err(format!("Invalid character(s) found in build meta data {}", quote(text)));
    }
    Ok(text.to_owned())
}
