//! JSON into messages by their descriptors, as Go's `protojson` does with `DiscardUnknown`: fields by either of their
//! names, numbers also as text, bytes in both alphabets of base64, and its words for what does not fit.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// How deep messages may lie in each other; protobuf's own decoder goes no deeper.
const DEPTH_MAX: usize = 100;

/// Reads `text`, which is one JSON value with nothing around it.
///
/// # Errors
/// In the words of `protojson`.
pub(super) fn decode(text: &[u8], message: &MessageDescriptor) -> Result<DynamicMessage, String> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let (line, column) = position(text, error.valid_up_to());
        format!("proto: syntax error (line {line}:{column}): invalid UTF-8 in string")
    })?;
    let mut reader = Reader { text, at: 0 };
    reader.message(message, 0).map_err(|fault| {
        let (line, column) = position(text.as_bytes(), fault.at);
        let syntax = if fault.syntax { "syntax error " } else { "" };
        format!("proto: {syntax}(line {line}:{column}): {}", fault.what)
    })
}

fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    (lines + 1, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}

struct Fault {
    at: usize,
    syntax: bool,
    what: String,
}

/// A scalar, a name, or an opening bracket.
struct Token<'t> {
    at: usize,
    raw: &'t str,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    /// The next byte that is neither space nor a separator; the text is known to be JSON.
    fn peek(&mut self) -> u8 {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|byte| !b" \t\r\n,:".contains(byte)).unwrap_or(rest.len());
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn token(&mut self) -> Token<'t> {
        let first = self.peek();
        let at = self.at;
        let rest = &self.text[at..];
        let length = match first {
            b'"' => string_length(rest),
            b'{' | b'}' | b'[' | b']' => 1,
            _ => rest.find([' ', '\t', '\r', '\n', ',', ':', '}', ']']).unwrap_or(rest.len()),
        };
        self.at += length;
        Token { at, raw: &rest[..length] }
    }

    /// Passes over a value that nobody wants.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.token().raw {
                "{" | "[" => depth += 1,
                "}" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> Result<DynamicMessage, Fault> {
        let open = self.token();
        if open.raw != "{" {
            return Err(unexpected(&open));
        }
        if depth > DEPTH_MAX {
            return Err(Fault { at: open.at, syntax: false, what: "exceeded max recursion depth".to_owned() });
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let (mut seen, mut chosen) = (BTreeSet::new(), BTreeSet::new());
        while self.peek() != b'}' {
            let name = self.token();
            let plain = string(&name)?;
            let field = descriptor.get_field_by_json_name(&plain).or_else(|| descriptor.get_field_by_name(&plain));
            let Some(field) = field else {
                self.skip();
                continue;
            };
            if !seen.insert(field.number()) {
                return Err(fault(&name, format!("duplicate field {}", name.raw)));
            }
            if self.peek() == b'n' {
                self.skip();
                continue;
            }
            if field.is_list() {
                self.list(&field, &mut message, depth)?;
                continue;
            }
            if let Some(oneof) = field.containing_oneof()
                && !chosen.insert(oneof.full_name().to_owned())
            {
                let (raw, oneof) = (name.raw, oneof.full_name());
                return Err(fault(&name, format!("error parsing {raw}, oneof {oneof} is already set")));
            }
            if let Some(value) = self.singular(&field, depth)? {
                message.set_field(&field, value);
            }
        }
        self.at += 1;
        Ok(message)
    }

    fn list(&mut self, field: &FieldDescriptor, message: &mut DynamicMessage, depth: usize) -> Result<(), Fault> {
        let open = self.token();
        if open.raw != "[" {
            return Err(unexpected(&open));
        }
        let mut values = Vec::new();
        while self.peek() != b']' {
            values.extend(self.singular(field, depth)?);
        }
        self.at += 1;
        message.set_field(field, Value::List(values));
        Ok(())
    }

    /// A value of a field, or one element of it; nothing for an enum's name that is not known.
    fn singular(&mut self, field: &FieldDescriptor, depth: usize) -> Result<Option<Value>, Fault> {
        if let Kind::Message(descriptor) = field.kind() {
            return self.message(&descriptor, depth + 1).map(|message| Some(Value::Message(message)));
        }
        let token = self.token();
        let is_text = token.raw.starts_with('"');
        let text = if is_text { string(&token)? } else { token.raw.to_owned() };
        let (kind, value) = match field.kind() {
            Kind::Bool if !is_text => ("bool", text.parse().ok().map(Value::Bool)),
            Kind::Bool => ("bool", None),
            Kind::String => ("string", is_text.then_some(Value::String(text))),
            Kind::Bytes => ("bytes", is_text.then(|| base64(&text)).flatten().map(Value::Bytes)),
            Kind::Enum(values) if is_text => match values.get_value_by_name(&text) {
                Some(value) => ("enum", Some(Value::EnumNumber(value.number()))),
                None => return Ok(None),
            },
            Kind::Enum(_) => ("enum", integer(&text).map(Value::EnumNumber)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => ("int32", integer(&text).map(Value::I32)),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => ("int64", integer(&text).map(Value::I64)),
            Kind::Uint32 | Kind::Fixed32 => ("uint32", integer(&text).map(Value::U32)),
            Kind::Uint64 | Kind::Fixed64 => ("uint64", integer(&text).map(Value::U64)),
            Kind::Float => ("float", text.parse().ok().map(Value::F32)),
            Kind::Double => ("double", text.parse().ok().map(Value::F64)),
            Kind::Message(_) => ("message", None),
        };
        let (name, raw) = (field.json_name(), token.raw);
        value.map(Some).ok_or_else(|| fault(&token, format!("invalid value for {kind} field {name}: {raw}")))
    }
}

fn fault(token: &Token<'_>, what: String) -> Fault {
    Fault { at: token.at, syntax: false, what }
}

fn unexpected(token: &Token<'_>) -> Fault {
    Fault { at: token.at, syntax: true, what: format!("unexpected token {}", token.raw) }
}

/// Length of a string with its quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// What a string stands for. Go refuses halves of surrogate pairs, as serde does.
fn string(token: &Token<'_>) -> Result<String, Fault> {
    let invalid =
        |_| Fault { at: token.at, syntax: true, what: format!("invalid escape code {} in string", token.raw) };
    serde_json::from_str(token.raw).map_err(invalid)
}

fn base64(text: &str) -> Option<Bytes> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let padding =
        if text.len().is_multiple_of(4) { DecodePaddingMode::RequireCanonical } else { DecodePaddingMode::RequireNone };
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config).decode(text).ok().map(Bytes::from)
}

/// A whole number, which may be written with a fraction of zeros and an exponent.
fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    if let Ok(number) = text.parse::<i128>() {
        let canonical = !text.starts_with('+')
            && (text.trim_start_matches('-') == "0" || !text.trim_start_matches('-').starts_with('0'));
        return canonical.then(|| T::try_from(number).ok()).flatten();
    }
    let number: &serde_json::value::RawValue = serde_json::from_str(text).ok().filter(|_| text.trim() == text)?;
    let (sign, digits) = match number.get().strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, number.get()),
    };
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
    let shift = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return T::try_from(0).ok();
    }
    let text = if shift >= 0 {
        // No integer here has more than 20 digits.
        let zeros = usize::try_from(shift).ok().filter(|zeros| *zeros <= 20)?;
        format!("{digits}{}", "0".repeat(zeros))
    } else {
        let cut = usize::try_from(-shift).ok()?;
        let kept = digits.len().checked_sub(cut)?;
        let (kept, cut) = digits.split_at(kept);
        cut.bytes().all(|digit| digit == b'0').then(|| kept.to_owned())?
    };
    let text = if text.is_empty() { "0" } else { &text };
    T::try_from(text.parse::<i128>().ok()? * sign).ok()
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::proto as pb;

    fn read(message: &str, text: &str) -> Result<DynamicMessage, String> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).expect("good descriptors");
        let message = pool.get_message_by_name(&format!("etcdserverpb.{message}")).expect("a message");
        decode(text.as_bytes(), &message)
    }

    #[test]
    fn fields_go_by_either_name_and_numbers_by_either_form() {
        let check = |text: &str, expect: pb::RangeRequest| {
            let read = read("RangeRequest", text).expect(text).transcode_to::<pb::RangeRequest>().expect("the same");
            assert_eq!(read, expect, "{text}");
        };
        let range = |key: &'static str, end: &'static str, limit| pb::RangeRequest {
            key: Bytes::from(key),
            range_end: Bytes::from(end),
            limit,
            ..pb::RangeRequest::default()
        };
        check(r#"{"key":"Zm9v","range_end":"Zm9w","limit":"7"}"#, range("foo", "fop", 7));
        check(r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":7}"#, range("foo", "fop", 7));
        check(r#"{"key":"Zm8","limit":1.0,"other":{"a":[1,"]"]},"range_end":null}"#, range("fo", "", 1));
        check(r#"{"key":"Pz8_","limit":"1e1"}"#, range("???", "", 10));
        check(r#"{"key":"Pz8/","limit":0.5e1,"sort_order":"NO_SUCH_ORDER"}"#, range("???", "", 5));
        check(r#"{"limit":-0}"#, range("", "", 0));
    }

    #[test]
    fn what_does_not_fit_is_told_in_the_words_of_go() {
        let check = |text: &str, expect: &str| {
            assert_eq!(read("RangeRequest", text).expect_err(text), format!("proto: {expect}"), "{text}");
        };
        check(r#"{"key":"Zm9v","limit":1.5}"#, "(line 1:23): invalid value for int64 field limit: 1.5");
        check(r#"{"key":"!!"}"#, r#"(line 1:8): invalid value for bytes field key: "!!""#);
        check(r#"{"key":5}"#, "(line 1:8): invalid value for bytes field key: 5");
        check("[]", "syntax error (line 1:1): unexpected token [");
        check("null", "syntax error (line 1:1): unexpected token null");
        check(r#"{"serializable":"true"}"#, r#"(line 1:17): invalid value for bool field serializable: "true""#);
        check("{\"key\":\"Zm9v\",\n \"key\":1}", "(line 2:2): duplicate field \"key\"");
        check(r#"{"range_end":{}}"#, "(line 1:14): invalid value for bytes field rangeEnd: {");
        let twice = r#"{"version":1,"lease":2}"#;
        let expect =
            r#"proto: (line 1:14): error parsing "lease", oneof etcdserverpb.Compare.target_union is already set"#;
        assert_eq!(read("Compare", twice).expect_err("twice"), expect);
        let list = read("TxnRequest", r#"{"compare":{}}"#).expect_err("no list");
        assert_eq!(list, "proto: syntax error (line 1:12): unexpected token {");
    }

    #[test]
    fn mutated_requests_are_read_or_refused() {
        use crate::gateway::scan::{Scan, scan};
        let txn = r#"{"compare":[{"key":"Zm9v","result":"EQUAL","target":"VERSION","version":"1"}],"success":[{"request_put":{
            "key":"Zm9v","value":"YmFy","lease":1e1,"prev_kv":true}}],"failure":[{"request_range":{"key":"Zm8="}}]}"#;
        let put = r#"{"key":"Pz8_","value":"","lease":"-9223372036854775808","ignore_value":false}"#;
        let words = [
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\u",
            "\\ud800",
            "1e400",
            "1e99999999999",
            "-0",
            "0.1e1",
            "null",
            "=",
            ":",
            ",",
            "\0",
        ];
        fuzz::Fuzz::of([txn, put]).words(words).run(|bytes| {
            for whole in [true, false] {
                // Only what was scanned is decoded.
                let Scan::Value(range) = scan(bytes, whole) else { continue };
                for name in ["TxnRequest", "PutRequest"] {
                    let pool = POOL.get_or_init(|| DescriptorPool::decode(pb::DESCRIPTORS).expect("good descriptors"));
                    let message = pool.get_message_by_name(&format!("etcdserverpb.{name}")).expect("a message");
                    let _ = decode(&bytes[range.clone()], &message);
                }
            }
        });
    }

    static POOL: std::sync::OnceLock<DescriptorPool> = std::sync::OnceLock::new();

    #[test]
    fn nesting_has_an_end() {
        let deep = "{\"success\":[{\"request_txn\":".repeat(200) + "{}" + &"}]}".repeat(200);
        assert!(read("TxnRequest", &deep).expect_err("too deep").ends_with("exceeded max recursion depth"));
    }

    #[test]
    fn integers_keep_to_their_size() {
        assert_eq!(integer::<i64>("9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer::<i64>("9223372036854775808"), None);
        assert_eq!(integer::<u64>("18446744073709551615"), Some(u64::MAX));
        assert_eq!(integer::<u64>("-1"), None);
        assert_eq!(integer::<i64>("1.20e2"), Some(120));
        assert_eq!(integer::<i64>("120e-1"), Some(12));
        assert_eq!(integer::<i64>("125e-1"), None);
        assert_eq!(integer::<i64>("1e400"), None);
        assert_eq!(integer::<i64>("007"), None);
        assert_eq!(integer::<i64>(""), None);
        assert_eq!(integer::<i64>(" 1"), None);
    }
}
