//! What exists at Google and is not emulated yet: refused with 501, so that nobody believes it to be in force.

use machinery::Value;

use crate::ApiError;

/// Switches of a new cluster that would be a promise about security or behaviour: refused when on.
const AT_CREATE: &[&[&str]] = &[
    &["binaryAuthorization", "enabled"],
    &["networkPolicy", "enabled"],
    &["confidentialNodes", "enabled"],
    &["enableKubernetesAlpha"],
    &["identityServiceConfig", "enabled"],
    &["ipAllocationPolicy", "useRoutes"],
];

/// Refuses a new cluster that asks for something in the list.
///
/// # Errors
/// 501 naming the field.
pub(crate) fn at_create(cluster: &Value) -> Result<(), ApiError> {
    match AT_CREATE.iter().find(|path| cluster.at(path).and_then(Value::as_bool) == Some(true)) {
        Some(path) => Err(ApiError::unimplemented(&format!("cluster.{}", path.join(".")))),
        None => Ok(()),
    }
}

/// The refused paths, for docs/compat.md.
pub fn refused_fields() -> impl Iterator<Item = String> {
    AT_CREATE.iter().map(|path| format!("cluster.{}", path.join(".")))
}
