//! Google's side of authorization: IAM permissions for Kubernetes requests, and which roles hold them.

mod permissions;
mod roles;

use std::collections::BTreeMap;

pub use permissions::permission_for;
pub use roles::{is_known_role, is_possible_role, role_allows, roles_with};

/// The reason of a decision that IAM made (GKE's audit label `authorization.k8s.io/reason`).
pub const GRANTED: &str = "access granted by IAM permissions.";

/// A Google account that a token stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GoogleIdentity {
    pub email: String,
    /// Does the token's scope show the email? Without it the API server does not authenticate the caller.
    pub email_scope: bool,
    /// Roles on the cluster's project, by its IAM policy: `roles/container.viewer`, …
    pub roles: Vec<String>,
    /// By the address of a group for security (`gke-security-groups@DOMAIN`): those of its groups that the account is in.
    pub security_groups: BTreeMap<String, Vec<String>>,
    /// When the token ends, in Unix seconds; `None` for one that does not.
    pub expires: Option<i64>,
}

impl GoogleIdentity {
    /// Does one of the roles hold the permission?
    pub fn may(&self, permission: &str) -> bool {
        self.deciding_role(permission).is_some()
    }

    /// The first role that holds the permission.
    pub fn deciding_role(&self, permission: &str) -> Option<&str> {
        self.roles.iter().map(String::as_str).find(|role| role_allows(role, permission))
    }
}
