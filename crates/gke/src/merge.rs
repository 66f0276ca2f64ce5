//! Small tools over JSON trees.

use machinery::Value;

/// Lays `over` on `base`: objects member by member, everything else replaced.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base.as_object().is_some(), over.as_object()) {
        (true, Some(members)) => {
            for (key, value) in members.iter() {
                match base.get_mut(key) {
                    Some(own) => merge(own, value),
                    None => base.set(key, value.clone()),
                }
            }
        }
        _ => *base = over.clone(),
    }
}

/// Is it absent, or an object without members?
pub fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(machinery::Object::is_empty)
}

/// The last segment of a link or path: short names are used where links may be sent.
pub(crate) fn short(link: &str) -> &str {
    link.rsplit('/').next().unwrap_or(link)
}

/// A path from `projects/` on, whatever host stood before it; a bare name is put under `prefix`.
pub(crate) fn long(link: &str, prefix: &str) -> String {
    match link.find("projects/") {
        Some(at) => link[at..].to_owned(),
        None => format!("{prefix}/{link}"),
    }
}
