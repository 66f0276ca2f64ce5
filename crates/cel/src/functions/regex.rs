//! Regular expressions: Go's syntax (RE2) put into that of the `regex` crate, both of which run in linear time.

use super::{NO_SUCH_OVERLOAD, Outcome, Row, int, row, text};
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("string::find(string) -> string", "string_find_string", |args| {
        let pattern = Pattern::new(text(&args[1])?).map_err(|why| format!("Illegal regex: {why}"))?;
        pattern.find(&args[0])
    }),
    row("string::findAll(string) -> list(string)", "string_find_all_string", find_all),
    row("string::findAll(string, int) -> list(string)", "string_find_all_string_int", find_all),
];

/// Go's limit for `{n,m}`.
const REPEAT_MAX: u32 = 1000;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(regex::Regex);

impl Pattern {
    /// Compiles.
    ///
    /// # Errors
    /// In the words of Go's `regexp`, for the mistakes that are told apart here.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let wrong = |(kind, part): (&str, &str)| match part {
            "" => format!("error parsing regexp: {kind}"),
            _ => format!("error parsing regexp: {kind}: `{part}`"),
        };
        let translated = translate(pattern).map_err(wrong)?;
        regex::Regex::new(&translated).map(Self).map_err(|_| wrong(("invalid syntax", pattern)))
    }

    pub(crate) fn matches<'a>(&self, subject: &Val<'_>) -> Outcome<'a> {
        Ok(Val::Bool(self.0.is_match(text(subject)?)))
    }

    pub(crate) fn find<'a>(&self, subject: &Val<'_>) -> Outcome<'a> {
        Ok(Val::from_string(self.0.find(text(subject)?).map_or("", |found| found.as_str())))
    }

    pub(crate) fn find_all<'a>(&self, subject: &Val<'_>, most: Option<&Val<'_>>) -> Outcome<'a> {
        let subject = text(subject)?;
        let most = usize::try_from(most.map_or(Ok(-1), int)?).unwrap_or(usize::MAX);
        // Go takes no empty match that touches the one before.
        let mut end = None;
        let all = self.0.find_iter(subject).filter(|found| {
            let is_taken = !(found.is_empty() && end == Some(found.start()));
            end = Some(found.end());
            is_taken
        });
        Ok(Val::from_texts(all.take(most).map(|found| found.as_str())))
    }
}

/// `matches`, where the pattern is not known before.
pub(super) fn matches<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    if !matches!(args[0], Val::String(_)) {
        return Err(match args[0] {
            Val::Timestamp(_) | Val::Duration(_) => NO_SUCH_OVERLOAD.to_owned(),
            _ => format!("{NO_SUCH_OVERLOAD}: matches"),
        });
    }
    Pattern::new(text(&args[1])?)?.matches(&args[0])
}

fn find_all<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let pattern = Pattern::new(text(&args[1])?).map_err(|why| format!("Illegal regex: {why}"))?;
    pattern.find_all(&args[0], args.get(2))
}

type Wrong<'p> = (&'static str, &'p str);

/// Go's pattern in the crate's syntax: classes of ASCII letters, literal texts, what the crate alone understands escaped.
fn translate(pattern: &str) -> Result<String, Wrong<'_>> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut groups = Vec::new();
    let mut at = 0;
    // Where the last repetition began, when nothing came after it.
    let mut repeated: Option<usize> = None;
    while let Some(c) = pattern[at..].chars().next() {
        let begin = at;
        at += c.len_utf8();
        let mut is_repetition = false;
        match c {
            '\\' => at = escape(pattern, begin, &mut out)?,
            '[' => at = class(pattern, begin, &mut out)?,
            '(' => {
                groups.push(begin);
                at = group(pattern, begin, &mut out)?;
            }
            ')' => {
                if groups.pop().is_none() {
                    return Err(("unexpected )", &pattern[begin..]));
                }
                out.push(')');
            }
            '*' | '+' | '?' => {
                at = repetition(pattern, begin, at, repeated, &mut out)?;
                is_repetition = true;
            }
            '{' => match counted(&pattern[begin..]) {
                Some((length, least, most)) => {
                    if most.is_some_and(|most| least > most) || least.max(most.unwrap_or(0)) > REPEAT_MAX {
                        return Err(("invalid repeat count", &pattern[begin..begin + length]));
                    }
                    at = repetition(pattern, begin, begin + length, repeated, &mut out)?;
                    is_repetition = true;
                }
                None => out.push_str("\\{"),
            },
            '}' => out.push_str("\\}"),
            ']' => out.push_str("\\]"),
            _ => out.push(c),
        }
        repeated = is_repetition.then_some(begin);
    }
    if groups.pop().is_some() {
        return Err(("missing closing )", pattern));
    }
    Ok(out)
}

fn repetition<'p>(
    pattern: &'p str,
    begin: usize,
    end: usize,
    repeated: Option<usize>,
    out: &mut String,
) -> Result<usize, Wrong<'p>> {
    let before = pattern[..begin].chars().next_back();
    let is_escaped = pattern[..begin].ends_with("\\(") || pattern[..begin].ends_with("\\|");
    if !is_escaped && matches!(before, None | Some('(' | '|')) {
        return Err(("missing argument to repetition operator", &pattern[begin..end]));
    }
    let end = if pattern[end..].starts_with('?') { end + 1 } else { end };
    if let Some(first) = repeated {
        return Err(("invalid nested repetition operator", &pattern[first..end]));
    }
    out.push_str(&pattern[begin..end]);
    Ok(end)
}

/// `{2}`, `{2,}` or `{2,3}`: its length and bounds.
fn counted(text: &str) -> Option<(usize, u32, Option<u32>)> {
    let end = text.find('}')?;
    let inner = &text[1..end];
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse().unwrap_or(u32::MAX))
    };
    let (least, most) = match inner.split_once(',') {
        None => (number(inner)?, Some(number(inner)?)),
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    Some((end + 1, least, most))
}

fn group<'p>(pattern: &'p str, begin: usize, out: &mut String) -> Result<usize, Wrong<'p>> {
    let rest = &pattern[begin + 1..];
    let Some(inner) = rest.strip_prefix('?') else {
        out.push('(');
        return Ok(begin + 1);
    };
    if let Some(named) = inner.strip_prefix("P<").or_else(|| inner.strip_prefix('<')) {
        let skipped = inner.len() - named.len();
        let Some(end) = named.find('>') else { return Err(("invalid named capture", &pattern[begin..])) };
        let is_name = end > 0 && named[..end].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let whole = begin + 2 + skipped + end + 1;
        if !is_name {
            return Err(("invalid named capture", &pattern[begin..whole]));
        }
        // The name matters to nobody here, and the crate allows fewer.
        out.push('(');
        return Ok(whole);
    }
    let flags = inner.bytes().take_while(|b| b"imsU-".contains(b)).count();
    match inner.as_bytes().get(flags) {
        Some(b':' | b')') => {
            let end = begin + 2 + flags;
            let closes = inner.as_bytes()[flags] == b')';
            if closes && flags == 0 {
                return Err(("missing argument to repetition operator", "?"));
            }
            out.push_str(&pattern[begin..=end]);
            // A group of flags alone closes itself: the loop counts it as open.
            if closes {
                out.pop();
                return Ok(end);
            }
            Ok(end + 1)
        }
        Some(_) => {
            let next = inner[flags..].chars().next().map_or(0, char::len_utf8);
            Err(("invalid or unsupported Perl syntax", &pattern[begin..begin + 2 + flags + next]))
        }
        None => Err(("missing closing )", pattern)),
    }
}

/// What stands for an ASCII class, within brackets or without.
const fn perl_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => "[\\t\\n\\x0C\\r ]",
        'S' => "[^\\t\\n\\x0C\\r ]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

fn escape<'p>(pattern: &'p str, begin: usize, out: &mut String) -> Result<usize, Wrong<'p>> {
    let Some(letter) = pattern[begin + 1..].chars().next() else {
        return Err(("trailing backslash at end of expression", ""));
    };
    let end = begin + 1 + letter.len_utf8();
    if let Some(class) = perl_class(letter) {
        out.push_str(class);
        return Ok(end);
    }
    match letter {
        'Q' => {
            let literal = &pattern[end..];
            let (literal, length) = literal.find("\\E").map_or((literal, literal.len()), |at| (&literal[..at], at + 2));
            out.push_str(&regex::escape(literal));
            return Ok(end + length);
        }
        'E' => return Ok(end),
        'b' => out.push_str("(?-u:\\b)"),
        'B' => out.push_str("(?-u:\\B)"),
        'A' | 'z' => {
            out.push('\\');
            out.push(letter);
        }
        _ => return escaped_char(pattern, begin, letter, out),
    }
    Ok(end)
}

/// An escape that stands for a character or a Unicode class, also within brackets.
fn escaped_char<'p>(pattern: &'p str, begin: usize, letter: char, out: &mut String) -> Result<usize, Wrong<'p>> {
    let end = begin + 1 + letter.len_utf8();
    match letter {
        'p' | 'P' => {
            let rest = &pattern[end..];
            let length = if rest.starts_with('{') {
                rest.find('}').map(|at| at + 1)
            } else {
                rest.chars().next().map(char::len_utf8)
            };
            let Some(length) = length else { return Err(("invalid character class range", &pattern[begin..])) };
            let whole = &pattern[begin..end + length];
            if regex::Regex::new(whole).is_err() {
                return Err(("invalid character class range", whole));
            }
            out.push_str(whole);
            Ok(end + length)
        }
        'x' => {
            let rest = &pattern[end..];
            let (digits, length) = match rest.strip_prefix('{') {
                Some(inner) => inner.find('}').map_or(("", 1), |at| (&inner[..at], at + 2)),
                None => (rest.get(..2).unwrap_or_default(), 2),
            };
            let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            let Some(c) = code else { return Err(("invalid escape sequence", &pattern[begin..end])) };
            out.push_str(&regex::escape(&c.to_string()));
            Ok(end + length)
        }
        '0'..='7' => {
            let octal = pattern[begin + 1..].bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            if letter != '0' && octal == 1 {
                return Err(("invalid escape sequence", &pattern[begin..end]));
            }
            let code = u32::from_str_radix(&pattern[begin + 1..begin + 1 + octal], 8).unwrap_or_default();
            out.push_str(&format!("\\x{{{code:x}}}"));
            Ok(begin + 1 + octal)
        }
        'a' | 'f' | 'n' | 'r' | 't' | 'v' => {
            out.push('\\');
            out.push(letter);
            Ok(end)
        }
        _ if letter.is_ascii_punctuation() => {
            out.push_str(&regex::escape(&letter.to_string()));
            if !out.ends_with('\\') && regex::escape(&letter.to_string()).len() == 1 {
                // Some punctuation needs no escape outside of brackets and does inside.
                out.pop();
                out.push_str(&format!("\\x{{{:x}}}", u32::from(letter)));
            }
            Ok(end)
        }
        _ => Err(("invalid escape sequence", &pattern[begin..end])),
    }
}

fn class<'p>(pattern: &'p str, begin: usize, out: &mut String) -> Result<usize, Wrong<'p>> {
    let mut at = begin + 1;
    out.push('[');
    if pattern[at..].starts_with('^') {
        out.push('^');
        at += 1;
    }
    let mut is_first = true;
    loop {
        let Some(c) = pattern[at..].chars().next() else { return Err(("missing closing ]", &pattern[begin..])) };
        match c {
            ']' if !is_first => {
                out.push(']');
                return Ok(at + 1);
            }
            '[' if pattern[at..].starts_with("[:") => match pattern[at..].find(":]") {
                Some(end) => {
                    let named = &pattern[at..at + end + 2];
                    if regex::Regex::new(&format!("[{named}]")).is_err() {
                        return Err(("invalid character class range", named));
                    }
                    out.push_str(named);
                    at += end + 2;
                }
                None => {
                    out.push_str("\\[");
                    at += 1;
                }
            },
            '\\' => {
                let letter = pattern[at + 1..].chars().next();
                let Some(letter) = letter else { return Err(("trailing backslash at end of expression", "")) };
                match perl_class(letter) {
                    Some(class) => {
                        out.push_str(class);
                        at += 2;
                    }
                    None => at = escaped_char(pattern, at, letter, out)?,
                }
            }
            '[' | '&' | '~' | ']' => {
                out.push('\\');
                out.push(c);
                at += 1;
            }
            // Between two ends it is a range, else itself.
            '-' if !is_first && !pattern[at + 1..].starts_with(']') && !pattern[at + 1..].starts_with('-') => {
                let high = pattern[at + 1..].chars().next();
                let low = pattern[..at].chars().next_back();
                if low > high && high != Some('\\') && high != Some('[') {
                    let end = at + 1 + high.map_or(0, char::len_utf8);
                    let start = at - low.map_or(0, char::len_utf8);
                    return Err(("invalid character class range", &pattern[start..end]));
                }
                out.push('-');
                at += 1;
            }
            '-' => {
                out.push_str("\\-");
                at += 1;
            }
            _ => {
                out.push(c);
                at += c.len_utf8();
            }
        }
        is_first = false;
    }
}
