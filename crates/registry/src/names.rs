//! Name rules as strategies use them: `(name, is a generateName prefix) → complaints`.

use machinery::names;

/// The rule for a prefix: a trailing dash is filled in by the suffix that follows.
fn masked(name: &str, prefix: bool) -> String {
    if !prefix || name.len() < 2 || !name.ends_with('-') {
        return name.to_owned();
    }
    let mut masked: Vec<char> = name.chars().collect();
    masked.truncate(masked.len().saturating_sub(2));
    masked.into_iter().chain(['a']).collect()
}

/// RFC 1123 subdomain: most kinds.
pub(crate) fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_subdomain(&masked(name, prefix))
}

/// RFC 1123 label: namespaces.
pub(crate) fn label(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_label(&masked(name, prefix))
}

/// RFC 1035 label: services.
pub(crate) fn label_1035(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1035_label(&masked(name, prefix))
}

/// Anything that can stand in a URL path: RBAC kinds.
pub(crate) fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix { names::is_valid_path_segment_prefix(name) } else { names::is_valid_path_segment_name(name) }
}

/// No rule of its own (checked elsewhere).
pub(crate) fn any(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}
