//! What exists at Google and is not emulated yet: refused with 501, so that nobody believes it to be in force.

use machinery::Value;

use crate::ApiError;
use crate::merge::is_empty;

/// Fields of a new cluster that would be a promise about security or behaviour: refused when set to this.
const AT_CREATE: &[(&[&str], Set)] = &[
    (&["binaryAuthorization", "enabled"], Set::True),
    (&["networkPolicy", "enabled"], Set::True),
    (&["confidentialNodes", "enabled"], Set::True),
    (&["enableKubernetesAlpha"], Set::True),
    (&["identityServiceConfig", "enabled"], Set::True),
    (&["ipAllocationPolicy", "useRoutes"], Set::True),
];

#[derive(Clone, Copy)]
enum Set {
    True,
    Any,
}

/// Refuses a new cluster that asks for something in the list.
///
/// # Errors
/// 501 naming the field.
pub(crate) fn at_create(cluster: &Value) -> Result<(), ApiError> {
    for (path, set) in AT_CREATE {
        let Some(value) = cluster.at(path) else { continue };
        let hit = match set {
            Set::True => value.as_bool() == Some(true),
            Set::Any => !is_empty(value) && value.as_str() != Some(""),
        };
        if hit {
            return Err(ApiError::unimplemented(&format!("cluster.{}", path.join("."))));
        }
    }
    Ok(())
}

/// The refused paths, for docs/compat.md.
pub fn refused_fields() -> impl Iterator<Item = String> {
    AT_CREATE.iter().map(|(path, _)| format!("cluster.{}", path.join(".")))
}
