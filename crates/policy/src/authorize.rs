//! May the caller do this? `system:masters`, then the Node authorizer, then RBAC, then IAM; the first yes decides.

use crate::iam::{GoogleIdentity, permission_for};
use crate::node::Graph;
use crate::user::MASTERS;
use crate::{Attributes, Decision, Rbac};

/// What the authorizers know, as snapshots.
#[derive(Clone, Debug, Default)]
pub struct Authorizers {
    pub rbac: Rbac,
    pub nodes: Graph,
}

impl Authorizers {
    /// See [`authorize`].
    pub fn authorize(&self, attributes: &Attributes<'_>, google: Option<&GoogleIdentity>) -> Decision {
        authorize(attributes, &self.nodes, &self.rbac, google)
    }
}

/// Asks every authorizer in GKE's order. `google` is there for callers that came with a Google token.
pub fn authorize(attributes: &Attributes<'_>, nodes: &Graph, rbac: &Rbac, google: Option<&GoogleIdentity>) -> Decision {
    if attributes.user.in_group(MASTERS) {
        return Decision::allow("");
    }
    let mut reasons = Vec::new();
    if let Some(decision) = nodes.authorize(attributes) {
        if decision.allowed {
            return decision;
        }
        reasons.push(decision.reason);
    }
    let decision = rbac.authorize(attributes);
    if decision.allowed {
        return decision;
    }
    reasons.push(decision.reason);
    if let Some(google) = google {
        let permission = permission_for(attributes);
        if permission.as_ref().is_some_and(|p| google.may(p)) {
            return Decision::allow("access granted by IAM permissions.");
        }
        if let Some(permission) = permission {
            reasons.push(format!("requires one of [{permission:?}] permission(s)."));
        }
    }
    reasons.retain(|reason| !reason.is_empty());
    Decision::deny(reasons.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UserInfo, forbidden};

    #[test]
    fn iam_is_asked_last_and_named_in_refusals() {
        let user = UserInfo::authenticated("alice@example.com", &[]);
        let list = Attributes::resource(&user, "list", "", "pods").in_namespace("default");
        let google =
            |role: &str| GoogleIdentity { email: user.name.clone(), email_scope: true, roles: vec![role.to_owned()] };
        let authorizers = Authorizers::default();
        let yes = authorizers.authorize(&list, Some(&google("roles/container.viewer")));
        assert_eq!(yes, Decision::allow("access granted by IAM permissions."));
        let no = authorizers.authorize(&list, Some(&google("roles/container.clusterViewer")));
        assert_eq!(
            forbidden(&list, &no).message,
            "pods is forbidden: User \"alice@example.com\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"default\": requires one of [\"container.pods.list\"] permission(s)."
        );
        assert_eq!(authorizers.authorize(&list, None), Decision::deny(""));
        let master = UserInfo::new("m", &[MASTERS]);
        assert!(authorizers.authorize(&Attributes { user: &master, ..list }, None).allowed);
    }
}
