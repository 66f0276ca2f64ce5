//! Legacy ABAC as GKE switches it on (`legacyAbac.enabled`): a fixed policy file beside RBAC.
//!
//! Its lines are those that upstream's GCE scripts install (`cluster/gce/manifests/abac-authz-policy.jsonl`): everything
//! for the cluster's old administrators, kubelets and proxies, the holder of the issued client certificate and every
//! service account. GKE's nodes, which have names of their own since, count like kubelets.

use crate::user::NODES;
use crate::{Attributes, Decision};

/// Users who may do everything. `client` is the name in the certificate of `--issue-client-certificate`.
const USERS: [&str; 5] = ["admin", "kubelet", "kube_proxy", "kubecfg", "client"];
const GROUPS: [&str; 2] = ["system:serviceaccounts", NODES];

/// May the request pass by the policy file alone? The reasons are upstream's (`pkg/auth/authorizer/abac`).
pub fn authorize(attributes: &Attributes<'_>) -> Decision {
    let user = attributes.user;
    if USERS.contains(&user.name.as_str()) || GROUPS.iter().any(|group| user.in_group(group)) {
        return Decision::allow("");
    }
    Decision::deny("No policy matched.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    #[test]
    fn it_widens_what_is_in_the_cluster_and_no_google_account() {
        let cases = [
            (UserInfo::authenticated("client", &[]), true),
            (UserInfo::service_account("default", "default", ""), true),
            (UserInfo::authenticated("system:node:a", &[NODES]), true),
            (UserInfo::authenticated("alice@example.com", &[]), false),
            (UserInfo::anonymous(), false),
        ];
        for (user, allowed) in cases {
            for attributes in
                [Attributes::resource(&user, "delete", "apps", "deployments"), Attributes::path(&user, "get", "/x")]
            {
                assert_eq!(authorize(&attributes).allowed, allowed, "{user:?}");
            }
        }
    }
}
