//! `string.format`: at run time on values, when checking on the types of a literal's arguments.

use machinery::go::quote;

use super::convert::to_string;
use super::{NO_SUCH_OVERLOAD, Outcome, text};
use crate::number::parse_double;
use crate::types::Type;
use crate::value::Val;

/// How many digits after the point where none is said.
const PRECISION: usize = 6;

/// What stands behind a `%`.
#[derive(Clone, Copy)]
enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex { is_upper: bool },
    Octal,
}

impl Clause {
    /// The complaint about an argument of a type it is not for.
    fn refuse(self, given: &str) -> String {
        let text = match self {
            Self::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
            }
            Self::Decimal => "decimal clause can only be used on integers",
            Self::Fixed(_) => "fixed-point clause can only be used on doubles",
            Self::Scientific(_) => "scientific clause can only be used on doubles",
            Self::Binary => "only integers and bools can be formatted as binary",
            Self::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Self::Octal => "octal clause can only be used on integers",
        };
        format!("error during formatting: {text}, was given {given}")
    }
}

/// A part of a format's text.
enum Part<'t> {
    Plain(&'t str),
    /// A clause and the number of its argument.
    Clause(Clause, usize),
}

/// Takes a format apart, calling `each` for its parts, until one fails.
fn parts<E: From<String>>(
    format: &str,
    count: usize,
    mut each: impl FnMut(Part<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let (mut rest, mut used) = (format, 0);
    while let Some(at) = rest.find('%') {
        each(Part::Plain(&rest[..at]))?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            each(Part::Plain("%"))?;
            rest = after;
            continue;
        }
        // The check of literals asks for the argument only after the clause was read.
        if rest.is_empty() && used < count {
            return Err("unexpected end of string".to_owned().into());
        }
        if used >= count {
            return Err(format!("index {used} out of range").into());
        }
        let (clause, length) = clause(rest).map_err(|why| format!("could not parse formatting clause: {why}"))?;
        each(Part::Clause(clause, used))?;
        rest = &rest[length..];
        used += 1;
    }
    each(Part::Plain(rest))?;
    Ok(used)
}

fn clause(text: &str) -> Result<(Clause, usize), String> {
    let mut precision = PRECISION;
    let mut at = 0;
    if let Some(after) = text.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        at = 1 + digits;
        let why = |why: &str| format!("error while parsing precision: {why}");
        if at >= text.len() {
            return Err(why("could not find end of precision specifier"));
        }
        precision = after[..digits].parse().map_err(|_| {
            let digits = quote(&after[..digits]);
            let kind = if digits.len() > 2 { "value out of range" } else { "invalid syntax" };
            why(&format!("error while converting precision to integer: strconv.Atoi: parsing {digits}: {kind}"))
        })?;
        // No number has digits to fill more.
        precision = precision.min(1 << 12);
    }
    let letter = text[at..].chars().next().unwrap_or_default();
    let clause = match letter {
        's' => Clause::Text,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precision),
        'e' => Clause::Scientific(precision),
        'b' => Clause::Binary,
        'x' | 'X' => Clause::Hex { is_upper: letter == 'X' },
        'o' => Clause::Octal,
        // Upstream looks at bytes.
        _ => return Err(format!("unrecognized formatting clause \"{}\"", char::from(text.as_bytes()[at]))),
    };
    Ok((clause, at + 1))
}

/// `'%s'.format([…])`
pub(super) fn format<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::List(given) = &args[1] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let mut out = String::new();
    parts(text(&args[0])?, given.len(), |part| {
        match part {
            Part::Plain(plain) => out.push_str(plain),
            Part::Clause(clause, index) => out.push_str(&apply(clause, &given.get(index).unwrap_or(Val::Null))?),
        }
        Ok::<_, String>(())
    })?;
    Ok(Val::from_string(&out))
}

fn apply(clause: Clause, value: &Val<'_>) -> Result<String, String> {
    let refuse = || clause.refuse(value.type_name());
    Ok(match (clause, value) {
        (Clause::Text, _) => show(value).map_err(|given| clause.refuse(&given))?,
        (Clause::Decimal, Val::Int(i)) => i.to_string(),
        (Clause::Decimal, Val::Uint(u)) => u.to_string(),
        (Clause::Fixed(precision), _) => grouped(&fixed(floating(value).ok_or_else(refuse)?, precision)),
        (Clause::Scientific(precision), _) => scientific(floating(value).ok_or_else(refuse)?, precision),
        (Clause::Binary, Val::Int(i)) => signed(*i, format!("{:b}", i.unsigned_abs())),
        (Clause::Binary, Val::Uint(u)) => format!("{u:b}"),
        (Clause::Binary, Val::Bool(b)) => u8::from(*b).to_string(),
        (Clause::Hex { is_upper }, _) => {
            let lower = match value {
                Val::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
                Val::Uint(u) => format!("{u:x}"),
                Val::String(text) => text.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return Err(refuse()),
            };
            if is_upper { lower.to_uppercase() } else { lower }
        }
        (Clause::Octal, Val::Int(i)) => signed(*i, format!("{:o}", i.unsigned_abs())),
        (Clause::Octal, Val::Uint(u)) => format!("{u:o}"),
        (Clause::Decimal | Clause::Binary | Clause::Octal, _) => return Err(refuse()),
    })
}

fn signed(value: i64, digits: String) -> String {
    if value < 0 { format!("-{digits}") } else { digits }
}

/// A double, or one of the three texts that stand for one.
fn floating(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Double(d) => Some(*d),
        Val::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => parse_double(text),
        _ => None,
    }
}

fn special(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

fn fixed(value: f64, precision: usize) -> String {
    special(value).map_or_else(|| format!("{value:.precision$}"), str::to_owned)
}

/// The digits before the point in groups of three, as the locale en-US has them.
fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = sign.to_owned();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && c.is_ascii_digit() && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `1.500000×10⁰³`: upstream takes the precision for the width.
fn scientific(value: f64, width: usize) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let plain = format!("{value:.PRECISION$e}");
    let (digits, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |rest| ("⁻", rest));
    let raised = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let exponent: String =
        format!("{exponent:0>2}").bytes().filter_map(|b| raised.get(usize::from(b - b'0'))).collect();
    let text = format!("{digits}×10{sign}{exponent}");
    format!("{text:>width$}")
}

/// What `%s` writes; `Err` is the name of a type that it does not know.
fn show(value: &Val<'_>) -> Result<String, String> {
    match value {
        Val::Null => Ok("null".to_owned()),
        Val::List(_) | Val::Map(_) => nested(value),
        Val::Optional(_) | Val::Opaque(_) => Err(value.type_name().to_owned()),
        _ => Ok(match to_string(std::slice::from_ref(value)) {
            Ok(Val::String(text)) => text.to_string(),
            _ => value.to_string(),
        }),
    }
}

/// A value within a list or a map: texts in quotes, numbers with six digits.
fn nested(value: &Val<'_>) -> Result<String, String> {
    Ok(match value {
        Val::String(text) => quote(text),
        Val::Bytes(bytes) => format!("b{}", quote(&String::from_utf8_lossy(bytes))),
        Val::Double(d) if d.is_finite() => format!("{d:.PRECISION$}"),
        Val::Double(_) => quote(&value.to_string()),
        Val::Timestamp(_) => format!("timestamp({})", quote(&show(value)?)),
        Val::Duration(_) => format!("duration({})", quote(&show(value)?)),
        Val::List(list) => {
            let items = list.iter().map(|item| nested(&item)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Val::Map(map) => {
            let entry = |(key, value): (Val<'_>, Val<'_>)| Ok((nested(&key)?, nested(&value)?));
            let mut entries = map.iter().map(entry).collect::<Result<Vec<_>, String>>()?;
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => show(value)?,
    })
}

/// What is wrong with a literal format: about the argument of that number, or about all of it.
pub(crate) struct FormatFault {
    pub(crate) argument: Option<usize>,
    pub(crate) message: String,
}

impl From<String> for FormatFault {
    fn from(message: String) -> Self {
        Self { argument: None, message }
    }
}

/// Checks a literal format against the types of its arguments.
///
/// # Errors
/// As `string.format` itself would complain.
pub(crate) fn check_literal(format: &str, types: &[&Type]) -> Result<(), FormatFault> {
    let used = parts(format, types.len(), |part| match part {
        Part::Plain(_) => Ok(()),
        Part::Clause(clause, index) if fits(clause, types[index]) => Ok(()),
        Part::Clause(clause, index) => {
            Err(FormatFault { argument: Some(index), message: clause.refuse(types[index].name()) })
        }
    })?;
    if types.len() > used {
        let count = types.len();
        let text = format!("too many arguments supplied to string.format (expected {used}, got {count})");
        return Err(text.into());
    }
    Ok(())
}

const fn fits(clause: Clause, given: &Type) -> bool {
    use Type::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, Null, String, Timestamp, Uint};
    match clause {
        _ if matches!(given, Dyn) => true,
        Clause::Text => matches!(
            given,
            List(_)
                | Map(_)
                | Int
                | Uint
                | Double
                | Bool
                | String
                | Timestamp
                | Bytes
                | Duration
                | Type::Type(_)
                | Null
        ),
        Clause::Decimal | Clause::Octal => matches!(given, Int | Uint),
        Clause::Fixed(_) | Clause::Scientific(_) => matches!(given, Double | String),
        Clause::Binary => matches!(given, Int | Uint | Bool),
        Clause::Hex { .. } => matches!(given, Int | Uint | String | Bytes),
    }
}
