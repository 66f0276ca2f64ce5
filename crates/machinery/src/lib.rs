//! The API machinery: objects as JSON trees and every algorithm over them that does not depend on which kinds exist.

mod field;
pub mod meta;
mod resource;
mod status;
mod value;

#[doc(hidden)]
pub use serde_json;

pub use field::{FieldError, FieldErrorKind, FieldErrors, FieldPath};
pub use resource::{GroupResource, GroupVersionKind, GroupVersionResource, ObjectKey};
pub use status::{Reason, Status, StatusCause};
pub use value::{CompactString, Object, Value};
