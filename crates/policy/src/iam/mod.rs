//! Google's side of authorization: IAM permissions for Kubernetes requests, and which roles hold them.

mod permissions;
mod roles;

pub use permissions::permission_for;
pub use roles::{is_known_role, role_allows};

/// A Google account that a token stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GoogleIdentity {
    pub email: String,
    /// Does the token's scope show the email? Without it the API server does not authenticate the caller.
    pub email_scope: bool,
    /// Roles on the cluster's project, by its IAM policy: `roles/container.viewer`, …
    pub roles: Vec<String>,
}

impl GoogleIdentity {
    /// Does one of the roles hold the permission?
    pub fn may(&self, permission: &str) -> bool {
        self.roles.iter().any(|role| role_allows(role, permission))
    }
}
