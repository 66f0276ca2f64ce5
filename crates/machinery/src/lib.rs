//! The API machinery: objects as JSON trees and every algorithm over them that does not depend on which kinds exist.

pub mod duration;
mod field;
pub mod fields;
pub mod go;
pub mod labels;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
#[cfg(test)]
mod properties;
pub mod protobuf;
pub mod quantity;
mod resource;
pub mod schema;
mod status;
mod value;
pub mod yaml;

#[doc(hidden)]
pub use serde_json;

pub use field::{FieldError, FieldErrorKind, FieldErrors, FieldPath};
pub use resource::{GroupResource, GroupVersionKind, GroupVersionResource, ObjectKey};
pub use status::{Reason, Status, StatusCause};
pub use value::{CompactString, Object, Value};
