//! Characters to tokens, with the mistakes that ANTLR's lexer reports and how it goes on after them.

/// What a token is. The order is that of the grammar, in which error messages name what was expected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Eof,
    Equals,
    NotEquals,
    In,
    Less,
    LessEquals,
    GreaterEquals,
    Greater,
    And,
    Or,
    LeftBracket,
    RightBracket,
    LeftBrace,
    RightBrace,
    LeftParen,
    RightParen,
    Dot,
    Comma,
    Minus,
    Exclamation,
    Question,
    Colon,
    Plus,
    Star,
    Slash,
    Percent,
    True,
    False,
    Null,
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Identifier,
    Escaped,
}

/// Fixed texts of the punctuation, longest first.
const FIXED: &[(&str, Kind)] = &[
    ("==", Kind::Equals),
    ("!=", Kind::NotEquals),
    ("<=", Kind::LessEquals),
    (">=", Kind::GreaterEquals),
    ("&&", Kind::And),
    ("||", Kind::Or),
    ("<", Kind::Less),
    (">", Kind::Greater),
    ("[", Kind::LeftBracket),
    ("]", Kind::RightBracket),
    ("{", Kind::LeftBrace),
    ("}", Kind::RightBrace),
    ("(", Kind::LeftParen),
    (")", Kind::RightParen),
    (".", Kind::Dot),
    (",", Kind::Comma),
    ("-", Kind::Minus),
    ("!", Kind::Exclamation),
    ("?", Kind::Question),
    (":", Kind::Colon),
    ("+", Kind::Plus),
    ("*", Kind::Star),
    ("/", Kind::Slash),
    ("%", Kind::Percent),
];

impl Kind {
    /// How messages name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eof => "<EOF>",
            Self::In => "'in'",
            Self::True => "'true'",
            Self::False => "'false'",
            Self::Null => "'null'",
            Self::Float => "NUM_FLOAT",
            Self::Int => "NUM_INT",
            Self::Uint => "NUM_UINT",
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Identifier => "IDENTIFIER",
            Self::Escaped => "ESC_IDENTIFIER",
            Self::Equals => "'=='",
            Self::NotEquals => "'!='",
            Self::Less => "'<'",
            Self::LessEquals => "'<='",
            Self::GreaterEquals => "'>='",
            Self::Greater => "'>'",
            Self::And => "'&&'",
            Self::Or => "'||'",
            Self::LeftBracket => "'['",
            Self::RightBracket => "']'",
            Self::LeftBrace => "'{'",
            Self::RightBrace => "'}'",
            Self::LeftParen => "'('",
            Self::RightParen => "')'",
            Self::Dot => "'.'",
            Self::Comma => "','",
            Self::Minus => "'-'",
            Self::Exclamation => "'!'",
            Self::Question => "'?'",
            Self::Colon => "':'",
            Self::Plus => "'+'",
            Self::Star => "'*'",
            Self::Slash => "'/'",
            Self::Percent => "'%'",
        }
    }
}

/// A token: bytes `start..end` of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The tokens, the end of the text last, and the places and texts that are none.
pub(crate) fn tokens(source: &str) -> (Vec<Token>, Vec<(usize, String)>) {
    let mut found = Vec::with_capacity(source.len() / 3 + 2);
    let mut wrong = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        match first {
            ' ' | '\t' | '\r' | '\n' | '\u{c}' => at += 1,
            '/' if source[at..].starts_with("//") => {
                at = source[at..].find('\n').map_or(source.len(), |end| at + end);
            }
            _ => match scan(&source[at..], first) {
                Ok((kind, length)) => {
                    found.push(Token { kind, start: at, end: at + length });
                    at += length;
                }
                Err(length) => {
                    // The character that did not fit belongs to the message and is skipped.
                    let rest = &source[at + length..];
                    let end = at + length + rest.chars().next().map_or(0, char::len_utf8);
                    wrong.push((at, format!("token recognition error at: '{}'", &source[at..end])));
                    at = end;
                }
            },
        }
    }
    found.push(Token { kind: Kind::Eof, start: source.len(), end: source.len() });
    (found, wrong)
}

/// The longest token at the start of `text`; else how far the reading came.
fn scan(text: &str, first: char) -> Result<(Kind, usize), usize> {
    let bytes = text.as_bytes();
    match first {
        '0'..='9' => Ok(number(bytes)),
        '.' if bytes.get(1).is_some_and(u8::is_ascii_digit) => Ok(number(bytes)),
        '\'' | '"' => quoted(bytes, 0, false).map(|length| (Kind::String, length)),
        '`' => {
            let inner = bytes[1..].iter().take_while(|b| b.is_ascii_alphanumeric() || b"_.-/ ".contains(b)).count();
            match bytes.get(inner + 1) {
                Some(b'`') if inner > 0 => Ok((Kind::Escaped, inner + 2)),
                _ => Err(inner + 1),
            }
        }
        'a'..='z' | 'A'..='Z' | '_' => Ok(word(text, bytes)),
        _ => match FIXED.iter().find(|(fixed, _)| text.starts_with(fixed)) {
            Some((fixed, kind)) => Ok((*kind, fixed.len())),
            None if matches!(first, '=' | '&' | '|') => Err(1),
            None => Err(0),
        },
    }
}

fn word(text: &str, bytes: &[u8]) -> (Kind, usize) {
    let mut prefix = 0;
    let is_bytes = matches!(bytes[0], b'b' | b'B');
    if is_bytes {
        prefix += 1;
    }
    let is_raw = matches!(bytes.get(prefix), Some(b'r' | b'R'));
    if is_raw {
        prefix += 1;
    }
    if prefix > 0
        && matches!(bytes.get(prefix), Some(b'\'' | b'"'))
        && let Ok(end) = quoted(bytes, prefix, is_raw)
    {
        return (if is_bytes { Kind::Bytes } else { Kind::String }, end);
    }
    let length = bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let kind = match &text[..length] {
        "in" => Kind::In,
        "true" => Kind::True,
        "false" => Kind::False,
        "null" => Kind::Null,
        _ => Kind::Identifier,
    };
    (kind, length)
}

fn digits(bytes: &[u8], from: usize) -> usize {
    bytes.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count()
}

fn number(bytes: &[u8]) -> (Kind, usize) {
    if bytes.starts_with(b"0x") {
        let hex = bytes[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if hex > 0 {
            let is_uint = matches!(bytes.get(2 + hex), Some(b'u' | b'U'));
            return if is_uint { (Kind::Uint, 3 + hex) } else { (Kind::Int, 2 + hex) };
        }
    }
    let whole = digits(bytes, 0);
    let mut end = whole;
    let mut is_float = false;
    if bytes.get(end) == Some(&b'.') && digits(bytes, end + 1) > 0 {
        end += 1 + digits(bytes, end + 1);
        is_float = true;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(bytes, end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
            is_float = true;
        }
    }
    match bytes.get(end) {
        _ if is_float => (Kind::Float, end),
        Some(b'u' | b'U') => (Kind::Uint, end + 1),
        _ => (Kind::Int, end),
    }
}

/// The end of the quoted text whose quote is at `from`; else how far the reading came.
fn quoted(bytes: &[u8], from: usize, is_raw: bool) -> Result<usize, usize> {
    let quote = bytes[from];
    let triple = [quote; 3];
    if bytes[from..].starts_with(&triple)
        && let Ok(end) = closing(bytes, from + 3, &triple, is_raw)
    {
        return Ok(end);
    }
    closing(bytes, from + 1, &triple[..1], is_raw)
}

fn closing(bytes: &[u8], from: usize, close: &[u8], is_raw: bool) -> Result<usize, usize> {
    let mut at = from;
    loop {
        if bytes[at..].starts_with(close) {
            return Ok(at + close.len());
        }
        match bytes.get(at) {
            None => return Err(at),
            Some(b'\n' | b'\r') if close.len() == 1 => return Err(at),
            Some(b'\\') if !is_raw => at = escape(bytes, at + 1)?,
            Some(_) => at += 1,
        }
    }
}

fn escape(bytes: &[u8], at: usize) -> Result<usize, usize> {
    let expect = |count: usize, is_wanted: fn(&u8) -> bool| {
        let fit = bytes[at + 1..].iter().take(count).take_while(|b| is_wanted(b)).count();
        if fit == count { Ok(at + 1 + count) } else { Err(at + 1 + fit) }
    };
    match bytes.get(at) {
        Some(b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`') => Ok(at + 1),
        Some(b'x' | b'X') => expect(2, u8::is_ascii_hexdigit),
        Some(b'u') => expect(4, u8::is_ascii_hexdigit),
        Some(b'U') => expect(8, u8::is_ascii_hexdigit),
        Some(b'0'..=b'3') => expect(2, |b| (b'0'..=b'7').contains(b)),
        _ => Err(at),
    }
}
