//! What one minor version of Kubernetes consists of, as text: types with their field numbers and flags,
//! resources, group versions, feature gates, printer columns, defaults and the objects a cluster starts with.
//!
//! ```text
//! published Go modules ──cargo xtask facts──► data/<minor>/*.txt ──include_str!──► Set ──► machinery, registry, policy
//! ```
//!
//! The crate holds data only; each file says in its first lines how it is read. Lines starting with `#` are comments.

use std::collections::BTreeMap;
use std::sync::OnceLock;

mod set_1_33;

/// The facts of one minor version.
#[derive(Debug)]
pub struct Set {
    /// "1.33".
    pub minor: &'static str,
    /// Type files by name, e.g. ("core/v1", text), sorted by name.
    pub types: &'static [(&'static str, &'static str)],
    /// One line per resource and subresource, in discovery order.
    pub resources: &'static str,
    /// One line per group version, in discovery order.
    pub groups: &'static str,
    /// One line per feature gate.
    pub features: &'static str,
    /// One line per printer column.
    pub columns: &'static str,
    /// Defaulting rules, for `registry::defaults`.
    pub defaults: &'static str,
    /// JSON lines: ClusterRole, ClusterRoleBinding, Role, RoleBinding.
    pub bootstrap_rbac: &'static str,
    /// JSON lines: PriorityClass, PriorityLevelConfiguration, FlowSchema.
    pub bootstrap_objects: &'static str,
}

/// The set of a minor version such as "1.33", if there is one.
pub fn set(minor: &str) -> Option<&'static Set> {
    SETS.iter().copied().find(|set| set.minor == minor)
}

/// The newest set.
pub fn newest() -> &'static Set {
    &set_1_33::SET
}

/// The description of a type (field empty) or of one of its fields, where known; type names as in `Set::types`.
/// Descriptions are there when the source of k8s-openapi was at hand as the program was built (`cargo fetch`).
pub fn prose(type_name: &str, field: &str) -> Option<&'static str> {
    static TEXTS: OnceLock<BTreeMap<&str, String>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| PROSE.lines().filter_map(described).collect());
    let found =
        if field.is_empty() { texts.get(type_name) } else { texts.get(format!("{type_name} {field}").as_str()) };
    found.map(String::as_str)
}

/// Splits `key TAB text` and restores the line breaks of the text.
fn described(line: &'static str) -> Option<(&'static str, String)> {
    let (key, text) = line.split_once('\t')?;
    let mut whole = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        whole.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                other => other.unwrap_or('\\'),
            },
            _ => c,
        });
    }
    Some((key, whole))
}

static PROSE: &str = include_str!(concat!(env!("OUT_DIR"), "/prose.txt"));

static SETS: &[&Set] = &[&set_1_33::SET];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_found_by_minor() {
        assert_eq!(set("1.33").map(|set| set.minor), Some("1.33"));
        assert!(set("1.12").is_none());
    }

    #[test]
    fn descriptions_are_known_or_all_absent() {
        if PROSE.is_empty() {
            assert_eq!(prose("core/v1.Pod", "spec"), None);
            return;
        }
        for (type_name, field) in [
            ("core/v1.Pod", ""),
            ("core/v1.Pod", "spec"),
            ("core/v1.PodSpec", "hostIPC"),
            ("meta/v1.ObjectMeta", "uid"),
        ] {
            assert!(prose(type_name, field).is_some_and(|text| text.len() > 10), "{type_name} {field}");
        }
        assert_eq!(prose("core/v1.Pod", "nothing"), None);
    }

    #[test]
    fn every_line_of_a_type_file_is_a_comment_a_type_or_a_field() {
        for (name, text) in newest().types {
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let words = line.split_whitespace().count();
                assert!(
                    if line.starts_with("type ") { words == 3 } else { line.starts_with("  ") && words >= 3 },
                    "{name}: {line}"
                );
            }
        }
    }

    #[test]
    fn every_resource_has_its_type() {
        let set = newest();
        for line in set.resources.lines().filter(|line| !line.starts_with('#')) {
            let type_name = line.split(' ').find_map(|word| word.strip_prefix("type=")).expect("a resource has a type");
            let (file, name) = type_name.split_once('.').expect("a type lies in a file");
            let text = set.types.iter().find(|(known, _)| *known == file).map_or("", |(_, text)| text);
            assert!(text.contains(&format!("\ntype {name} ")), "{line}");
        }
    }
}
