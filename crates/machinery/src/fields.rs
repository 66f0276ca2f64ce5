//! Field selectors: `metadata.name=x,spec.nodeName!=y`.

use std::fmt;

/// How a field is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    Equals,
    NotEquals,
}

/// One comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Requirement {
    field: String,
    operator: Operator,
    value: String,
}

/// A conjunction of comparisons; the empty one matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// Reads the query syntax; a backslash escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// In the words of `k8s.io/apimachinery/pkg/fields`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let (field, operator, value) =
                split_term(term).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            requirements.push(Requirement { field: field.to_owned(), operator, value: unescape(value)? });
        }
        // A comparison with nothing restricts nothing when the field is unnamed.
        requirements.retain(|r| !(r.field.is_empty() && r.value.is_empty()));
        Ok(Self(requirements))
    }

    /// A selector of one equality.
    pub fn equals(field: &str, value: &str) -> Self {
        Self(vec![Requirement { field: field.to_owned(), operator: Operator::Equals, value: value.to_owned() }])
    }

    /// Does an object match whose fields `get` reads? An unset field reads as empty.
    pub fn matches(&self, get: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|r| (get(&r.field).unwrap_or_default() == r.value) == (r.operator == Operator::Equals))
    }

    /// Field, operator and value of each comparison.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, Operator, &str)> {
        self.0.iter().map(|r| (r.field.as_str(), r.operator, r.value.as_str()))
    }

    /// The value `field` must have, if the selector demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.field == field && r.operator == Operator::Equals).map(|r| r.value.as_str())
    }

    /// Does it match everything?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let operator = if r.operator == Operator::Equals { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

/// Escapes a value for use in a selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, Operator, &str)> {
    let at = term.find(['!', '=']).and_then(|first| {
        (first..term.len())
            .find(|i| term.is_char_boundary(*i) && (term[*i..].starts_with("!=") || term[*i..].starts_with('=')))
    })?;
    let rest = &term[at..];
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((&term[..at], Operator::NotEquals, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((&term[..at], Operator::Equals, value))
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prints_and_refuses_as_upstream_does() {
        let cases = [
            ("a=b", Ok("a=b")),
            ("a!=b,c==d", Ok("a!=b,c=d")),
            ("a=b\\,c", Ok("a=b\\,c")),
            ("", Ok("")),
            ("a", Err("invalid selector: 'a'; can't understand 'a'")),
            ("a=b\\x", Err("invalid field selector: invalid escape sequence: \\x")),
            ("a=b=c", Err("invalid field selector: unescaped character in value: 61")),
            ("a=\\", Err("invalid field selector: invalid escape sequence: \\")),
        ];
        for (text, expect) in cases {
            let got = Selector::parse(text).map(|s| s.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn an_unset_field_reads_as_empty() {
        let selector = Selector::parse("spec.nodeName=,metadata.name!=x").unwrap();
        assert!(selector.matches(|_| None));
        assert!(!selector.matches(|f| (f == "spec.nodeName").then(|| "n".to_owned())));
        assert!(!selector.matches(|f| (f == "metadata.name").then(|| "x".to_owned())));
        assert_eq!(Selector::parse("metadata.name=x").unwrap().exact("metadata.name"), Some("x"));
    }
}
