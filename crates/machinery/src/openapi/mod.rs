//! OpenAPI from schemas: v3 component schemas and v2 definitions of built-in and custom kinds, and the protobuf form
//! of a v2 document, which is the only one kubectl asks for.

mod builtin;
mod custom;
mod gnostic;

pub use builtin::{Prose, definition_name, definitions, schema};
pub use custom::{custom_resource, custom_resource_list, custom_schema};
pub use gnostic::{V2_MEDIA_TYPE, encode_v2};

/// Which OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V2,
    V3,
}

impl Version {
    /// What references to schemas start with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}
