//! Who are you, may you, shall we, do we record it: every decision about a request, as pure functions.
//!
//! ```text
//! certificate, token claims ─authn─► UserInfo ─authorize─► Decision ─admission─► object, or a Status
//!                                              masters, node, RBAC, ABAC, IAM
//! ```

pub mod abac;
mod access;
pub mod admission;
mod attributes;
pub mod audit;
pub mod authn;
mod authorize;
pub mod iam;
pub mod jwt;
pub mod node;
mod pod_references;
pub mod rbac;
pub mod user;

pub use access::{AccessSettings, Anonymous};
pub use attributes::{Attributes, Decision, denial, forbidden};
pub use authorize::{Authorizers, Beside};
pub use iam::GoogleIdentity;
pub use rbac::{Rbac, RbacKind};
pub use user::UserInfo;
