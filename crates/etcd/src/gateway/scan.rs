//! Cuts JSON values off a body, and says what is wrong with one in the words of Go's `encoding/json`, which etcd's
//! gateway reads with.

use std::ops::Range;

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A whole value.
    Value(Range<usize>),
    /// Nothing but space.
    Nothing,
    /// The beginning of a value.
    More,
    /// No JSON.
    Bad(String),
}

enum Stop {
    End,
    Bad(String),
}

struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// Looks at the first value; `whole` when nothing follows these bytes.
pub(super) fn scan(bytes: &[u8], whole: bool) -> Scan {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.space();
    let start = scanner.at;
    if start == bytes.len() {
        return Scan::Nothing;
    }
    match scanner.value() {
        // A number may go on in the next bytes.
        Ok(()) if !whole && scanner.at == bytes.len() && bytes[start] != b'{' => Scan::More,
        Ok(()) => Scan::Value(start..scanner.at),
        Err(Stop::End) if whole => Scan::Bad("unexpected EOF".to_owned()),
        Err(Stop::End) => Scan::More,
        Err(Stop::Bad(what)) => Scan::Bad(what),
    }
}

impl Scanner<'_> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::End)
    }

    fn peek_past_space(&mut self) -> Result<u8, Stop> {
        self.space();
        self.peek()
    }

    fn bad<T>(&self, byte: u8, context: &str) -> Result<T, Stop> {
        let shown = match byte {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            byte => format!("'{}'", char::from(byte).escape_debug()),
        };
        Err(Stop::Bad(format!("invalid character {shown} {context}")))
    }

    fn value(&mut self) -> Result<(), Stop> {
        // For each open bracket, whether it is an object's.
        let mut open = Vec::new();
        loop {
            let ended = match self.peek_past_space()? {
                b'{' => {
                    self.at += 1;
                    open.push(true);
                    self.peek_past_space()? == b'}' || {
                        self.key()?;
                        false
                    }
                }
                b'[' => {
                    self.at += 1;
                    open.push(false);
                    self.peek_past_space()? == b']'
                }
                _ => {
                    self.scalar()?;
                    true
                }
            };
            if ended && self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value, or an empty bracket: closes what ends here. True when nothing is open any more.
    fn close(&mut self, open: &mut Vec<bool>) -> Result<bool, Stop> {
        while let Some(object) = open.last() {
            match (object, self.peek_past_space()?) {
                (true, b'}') | (false, b']') => {
                    self.at += 1;
                    open.pop();
                }
                (true, b',') => {
                    self.at += 1;
                    self.key()?;
                    return Ok(false);
                }
                (false, b',') => {
                    self.at += 1;
                    return Ok(false);
                }
                (true, byte) => return self.bad(byte, "after object key:value pair"),
                (false, byte) => return self.bad(byte, "after array element"),
            }
        }
        Ok(true)
    }

    fn key(&mut self) -> Result<(), Stop> {
        match self.peek_past_space()? {
            b'"' => self.string()?,
            byte => return self.bad(byte, "looking for beginning of object key string"),
        }
        match self.peek_past_space()? {
            b':' => self.at += 1,
            byte => return self.bad(byte, "after object key"),
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            byte => self.bad(byte, "looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Stop> {
        for expected in word.bytes() {
            let byte = self.peek()?;
            if byte != expected {
                return self.bad(byte, &format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.at += 1;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                0..0x20 => return self.bad(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), Stop> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    let byte = self.peek()?;
                    if !byte.is_ascii_hexdigit() {
                        return self.bad(byte, "in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
                Ok(())
            }
            byte => self.bad(byte, "in string escape code"),
        }
    }

    fn number(&mut self) -> Result<(), Stop> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.peek().is_ok_and(|byte| byte == b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if self.peek().is_ok_and(|byte| matches!(byte, b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self, context: &str) -> Result<(), Stop> {
        let byte = self.peek()?;
        if !byte.is_ascii_digit() {
            return self.bad(byte, context);
        }
        while self.peek().is_ok_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_off_one_by_one() {
        let check = |text: &str, expect: Scan| assert_eq!(scan(text.as_bytes(), false), expect, "{text}");
        check(r#" {"a":[1,{}, []],"b":"}"} {"#, Scan::Value(1..25));
        check("{}{}", Scan::Value(0..2));
        check("  \n", Scan::Nothing);
        check(r#"{"a":"#, Scan::More);
        check("12", Scan::More);
        assert_eq!(scan(b"12", true), Scan::Value(0..2));
        assert_eq!(scan(b"{", true), Scan::Bad("unexpected EOF".to_owned()));
    }

    #[test]
    fn faults_are_told_in_the_words_of_go() {
        let check = |text: &str, expect: &str| {
            assert_eq!(scan(text.as_bytes(), true), Scan::Bad(format!("invalid character {expect}")), "{text}");
        };
        check("x", "'x' looking for beginning of value");
        check("{a:1}", "'a' looking for beginning of object key string");
        check(r#"{"a" 1}"#, "'1' after object key");
        check(r#"{"a":1 "b":2}"#, "'\"' after object key:value pair");
        check("[1 2]", "'2' after array element");
        check("{\"a\":tru}", "'}' in literal true (expecting 'e')");
        check(r#"{"a":"\x"}"#, "'x' in string escape code");
        check("{\"a\":\"\n\"}", "'\\n' in string literal");
        check("{\"a\":1.}", "'}' after decimal point in numeric literal");
        check("{\"a\":-}", "'}' in numeric literal");
        check("{\"a\":01}", "'1' after object key:value pair");
        check("{'a':1}", r"'\'' looking for beginning of object key string");
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_serde_on_what_is_json(text in r#"[\[\]{},:"a0-9.eE \\u-]{0,24}|.{0,12}"#) {
            let serde = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            let ours = match scan(text.as_bytes(), true) {
                Scan::Value(range) => text.as_bytes()[range.end..].iter().all(u8::is_ascii_whitespace),
                _ => false,
            };
            proptest::prop_assert_eq!(ours, serde);
        }
    }
}
