//! Who are you, may you, shall we, do we record it: every decision about a request, as pure functions.
//!
//! ```text
//! certificate, token claims ─authn─► UserInfo ─authorize─► Decision ─admission─► object, or a Status
//!                                              masters, node, RBAC, IAM
//! ```

pub mod admission;
mod attributes;
pub mod audit;
pub mod authn;
mod authorize;
pub mod iam;
pub mod node;
pub mod rbac;
pub mod user;

pub use attributes::{Attributes, Decision, denial, forbidden};
pub use authorize::{Authorizers, authorize};
pub use iam::GoogleIdentity;
pub use rbac::{Rbac, RbacKind};
pub use user::UserInfo;
