//! May the caller do this? `system:masters`, then the Node authorizer, RBAC, legacy ABAC where it is on, and IAM at last;
//! the first yes decides.

use crate::iam::{GoogleIdentity, permission_for};
use crate::node::Graph;
use crate::user::MASTERS;
use crate::{Attributes, Decision, Rbac, abac};

/// What the authorizers know, as snapshots.
#[derive(Clone, Debug, Default)]
pub struct Authorizers {
    pub rbac: Rbac,
    pub nodes: Graph,
}

/// What counts beside the objects in the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// There for callers that came with a Google token.
    pub google: Option<&'a GoogleIdentity>,
    /// GKE's `legacyAbac`.
    pub legacy_abac: bool,
}

impl<'a> From<Option<&'a GoogleIdentity>> for Beside<'a> {
    fn from(google: Option<&'a GoogleIdentity>) -> Self {
        Self { google, legacy_abac: false }
    }
}

impl Authorizers {
    /// Asks every authorizer in GKE's order. A refusal says what each of them had to say, one a line; IAM names the
    /// permission that is missing, in GKE's words.
    pub fn authorize<'a>(&self, attributes: &Attributes<'_>, beside: impl Into<Beside<'a>>) -> Decision {
        let beside = beside.into();
        if attributes.user.in_group(MASTERS) {
            return Decision::allow("");
        }
        let mut reasons = Vec::new();
        if let Some(decision) = self.nodes.authorize(attributes) {
            if decision.allowed {
                return decision;
            }
            reasons.push(decision.reason);
        }
        let decision = self.rbac.authorize(attributes);
        if decision.allowed {
            return decision;
        }
        reasons.push(decision.reason);
        if beside.legacy_abac {
            let decision = abac::authorize(attributes);
            if decision.allowed {
                return decision;
            }
            reasons.push(decision.reason);
        }
        if let Some(google) = beside.google
            && let Some(permission) = permission_for(attributes)
        {
            if google.may(&permission) {
                return Decision::allow(crate::iam::GRANTED);
            }
            reasons.push(format!("Required {permission:?} permission."));
        }
        reasons.retain(|reason| !reason.is_empty());
        Decision::deny(reasons.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UserInfo, forbidden};

    #[test]
    fn iam_is_asked_last_and_named_in_refusals() {
        let user = UserInfo::authenticated("alice@example.com", &[]);
        let list = Attributes::resource(&user, "list", "", "pods").in_namespace("default");
        let google = |role: &str| GoogleIdentity {
            email: user.name.clone(),
            email_scope: true,
            roles: vec![role.to_owned()],
            security_groups: std::collections::BTreeMap::new(),
            expires: None,
        };
        let authorizers = Authorizers::default();
        let yes = authorizers.authorize(&list, Some(&google("roles/container.viewer")));
        assert_eq!(yes, Decision::allow("access granted by IAM permissions."));
        let no = authorizers.authorize(&list, Some(&google("roles/container.clusterViewer")));
        assert_eq!(
            forbidden(&list, &no).message,
            "pods is forbidden: User \"alice@example.com\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"default\": Required \"container.pods.list\" permission."
        );
        assert_eq!(authorizers.authorize(&list, None), Decision::deny(""));
        let master = UserInfo::new("m", &[MASTERS]);
        assert!(authorizers.authorize(&Attributes { user: &master, ..list }, None).allowed);
    }

    #[test]
    fn legacy_abac_counts_only_while_it_is_on() {
        let client = UserInfo::authenticated("client", &[]);
        let list = Attributes::resource(&client, "list", "", "pods");
        let authorizers = Authorizers::default();
        let ask = |legacy_abac| authorizers.authorize(&list, Beside { google: None, legacy_abac });
        assert!(ask(true).allowed && !ask(false).allowed);
        let stranger = UserInfo::authenticated("mallory@example.com", &[]);
        let refused =
            authorizers.authorize(&Attributes { user: &stranger, ..list }, Beside { google: None, legacy_abac: true });
        assert_eq!(refused, Decision::deny("No policy matched."));
    }
}
