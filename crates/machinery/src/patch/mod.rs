//! The three patches of the Kubernetes API: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.
//!
//! All work on copies or whole values: a failed patch leaves no half-changed object behind.

mod json_patch;
mod merge;
mod order;
mod strategic;

pub use json_patch::json_patch;
pub use merge::{check_merge_patch, merge_patch};
pub use strategic::strategic_merge;

use crate::{Reason, Status};

/// What the API answers when a well-formed patch does not apply; the cause stays in the server.
fn unprocessable() -> Status {
    Status::generic(Reason::Invalid, "the server rejected our request due to an error in our request")
}

/// How upstream reports an error without a status of its own.
fn plain(text: impl Into<String>) -> Status {
    Status::new(Reason::Unknown, text)
}
