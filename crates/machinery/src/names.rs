//! Which names are allowed where, in the words of `k8s.io/apimachinery/pkg/util/validation`.
//!
//! Every function returns what is wrong with the text; nothing returned means it is fine.

const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_FORMAT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const QUALIFIED_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const DNS1123_LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const WILDCARD_FORMAT: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";

/// Longest label in DNS, and longest label value, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest subdomain in DNS, in bytes.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;

/// `must be no more than N characters`
pub fn max_length_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be between A and B, inclusive`
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// The text for a value that does not match the regular expression `format`.
pub fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

fn lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn matches_dns1123_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    lower(*first) && lower(*last) && bytes.iter().all(|b| lower(*b) || *b == b'-')
}

fn matches_dns1123_subdomain(text: &str) -> bool {
    text.split('.').all(matches_dns1123_label)
}

fn matches_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check(text: &str, max: usize, matches: bool, error: impl FnOnce() -> String) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > max {
        errors.push(max_length_error(max));
    }
    if !matches {
        errors.push(error());
    }
    errors
}

/// A name with an optional DNS prefix, as label and annotation keys are: `example.com/MyName`.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let examples = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(is_dns1123_subdomain(first).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        (Some(_), Some(_)) => {
            let text = regex_error(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, examples);
            return vec![format!(
                "a qualified name {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        errors.push(format!("name part {}", max_length_error(LABEL_BYTES_MAX)));
    }
    if !matches_qualified(name) {
        errors.push(format!("name part {}", regex_error(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, examples)));
    }
    errors
}

/// The value of a label.
pub fn is_valid_label_value(text: &str) -> Vec<String> {
    check(text, LABEL_BYTES_MAX, text.is_empty() || matches_qualified(text), || {
        regex_error(LABEL_VALUE_MESSAGE, LABEL_VALUE_FORMAT, &["MyValue", "my_value", "12345"])
    })
}

/// A DNS label as RFC 1123 has it: namespaces, containers.
pub fn is_dns1123_label(text: &str) -> Vec<String> {
    check(text, LABEL_BYTES_MAX, matches_dns1123_label(text), || {
        if matches_dns1123_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            regex_error(DNS1123_LABEL_MESSAGE, DNS1123_LABEL_FORMAT, &["my-name", "123-abc"])
        }
    })
}

/// A DNS subdomain as RFC 1123 has it: the names of most objects.
pub fn is_dns1123_subdomain(text: &str) -> Vec<String> {
    check(text, SUBDOMAIN_BYTES_MAX, matches_dns1123_subdomain(text), || {
        regex_error(DNS1123_SUBDOMAIN_MESSAGE, DNS1123_SUBDOMAIN_FORMAT, &["example.com"])
    })
}

/// A DNS label as RFC 1035 has it: Services.
pub fn is_dns1035_label(text: &str) -> Vec<String> {
    let matches = matches_dns1123_label(text) && text.as_bytes()[0].is_ascii_lowercase();
    check(text, LABEL_BYTES_MAX, matches, || {
        regex_error(DNS1035_LABEL_MESSAGE, DNS1035_LABEL_FORMAT, &["my-name", "abc-123"])
    })
}

/// `*.` followed by a subdomain.
pub fn is_wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let matches = text.strip_prefix("*.").is_some_and(matches_dns1123_subdomain);
    check(text, SUBDOMAIN_BYTES_MAX, matches, || regex_error(WILDCARD_MESSAGE, WILDCARD_FORMAT, &["*.example.com"]))
}

/// An identifier of the C language.
pub fn is_c_identifier(text: &str) -> Vec<String> {
    let matches = text.bytes().enumerate().all(|(i, b)| match b {
        b'_' => true,
        b'0'..=b'9' => i > 0,
        _ => b.is_ascii_alphabetic(),
    });
    if matches && !text.is_empty() {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A port number, 1 to 65535.
pub fn is_valid_port_number(port: i64) -> Vec<String> {
    is_in_range(port, 1, 65535)
}

/// A number between two others, both included.
pub fn is_in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![range_error(low, high)] }
}

/// The name of a container's port (an IANA service name).
pub fn is_valid_port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(max_length_error(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `12%`
pub fn is_valid_percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub fn is_http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

fn relative_path_errors(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable, by the strict rule.
pub fn is_env_var_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.is_empty() || text.as_bytes()[0].is_ascii_digit() || !text.bytes().all(ok) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        let examples = &["my.env-name", "MY_ENV.NAME", "MyEnvName1"];
        errors.push(regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", examples));
    }
    errors.extend(relative_path_errors(text));
    errors
}

/// The name of an environment variable, by the rule since 1.30: printable ASCII without `=`.
pub fn is_relaxed_env_var_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(text: &str) -> Vec<String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let mut errors = check(text, SUBDOMAIN_BYTES_MAX, !text.is_empty() && text.bytes().all(ok), || {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"])
    });
    errors.extend(relative_path_errors(text));
    errors
}

/// A name that can stand in a URL path: the names of RBAC objects.
pub fn is_valid_path_segment_name(text: &str) -> Vec<String> {
    match text {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    ['/', '%'].into_iter().filter(|c| text.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// What precedes a generated suffix: checked as if the suffix were there.
pub fn is_valid_path_segment_prefix(text: &str) -> Vec<String> {
    ['/', '%'].into_iter().filter(|c| text.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass_and_bad_ones_are_explained_as_upstream_does() {
        let none: &[&str] = &[];
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        assert_eq!(is_dns1123_label("abc"), none);
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(is_dns1123_label("A"), [label]);
        assert_eq!(is_dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(is_qualified_name("example.com/Some_Name.x"), none);
        assert_eq!(is_qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(is_qualified_name("a/b/c").len(), 1);
        assert_eq!(is_qualified_name("").len(), 2);
        assert_eq!(is_valid_label_value(""), none);
        assert_eq!(is_dns1035_label("1a").len(), 1);
        assert_eq!(is_dns1035_label("").len(), 1);
        assert_eq!(is_wildcard_dns1123_subdomain("*.a.b"), none);
        assert_eq!(is_valid_path_segment_name("a%b/c"), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(is_config_map_key("..x"), ["must not start with '..'"]);
        assert_eq!(is_env_var_name("1A").len(), 1);
        assert_eq!(is_valid_percent("10%"), none);
        assert_eq!(is_valid_port_name("http-1"), none);
    }

    #[test]
    fn the_examples_are_listed_as_go_joins_them() {
        assert_eq!(
            regex_error("bad", "x+", &["x", "xx"]),
            "bad (e.g. 'x',  or 'xx', regex used for validation is 'x+')"
        );
        assert_eq!(regex_error("bad", "x+", &[]), "bad (regex used for validation is 'x+')");
    }
}
