//! Who a pod is at Google with Workload Identity: a Kubernetes service account of any cluster in the project's pool.

use machinery::names::is_dns1123_subdomain;

/// `PROJECT.svc.id.goog[NAMESPACE/ACCOUNT]`, the form in which IAM names it as a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodIdentity {
    pub(crate) pool: String,
    pub(crate) namespace: String,
    pub(crate) account: String,
}

impl PodIdentity {
    /// Reads the form above; anything else is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (pool, rest) = text.split_once('[')?;
        let (namespace, account) = rest.strip_suffix(']')?.split_once('/')?;
        pool.strip_suffix(".svc.id.goog").filter(|project| !project.is_empty())?;
        [namespace, account].iter().all(|name| is_dns1123_subdomain(name).is_empty()).then(|| Self {
            pool: pool.to_owned(),
            namespace: namespace.to_owned(),
            account: account.to_owned(),
        })
    }

    /// The subject of a service-account token, in a pool.
    pub(crate) fn of_subject(pool: &str, subject: &str) -> Option<Self> {
        let (namespace, account) = policy::user::split_service_account(subject)?;
        Self::parse(&format!("{pool}[{namespace}/{account}]"))
    }

    /// As a member.
    pub(crate) fn member_name(&self) -> String {
        format!("{}[{}/{}]", self.pool, self.namespace, self.account)
    }

    /// `//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/subject/ns/NS/sa/SA`, or the set
    /// `…/namespace/NS`.
    pub(crate) fn is_meant_by(&self, kind: &str, name: &str) -> bool {
        let Some(rest) = name.strip_prefix("//iam.googleapis.com/projects/") else { return false };
        let Some((_, rest)) = rest.split_once("/locations/global/workloadIdentityPools/") else { return false };
        let Some(rest) = rest.strip_prefix(&self.pool).and_then(|rest| rest.strip_prefix('/')) else { return false };
        match kind {
            "principal" => rest == format!("subject/ns/{}/sa/{}", self.namespace, self.account),
            _ => rest == format!("namespace/{}", self.namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_and_meant_in_all_their_forms() {
        let pod = PodIdentity::parse("p.svc.id.goog[shop/cart]").unwrap();
        assert_eq!(PodIdentity::of_subject("p.svc.id.goog", "system:serviceaccount:shop:cart"), Some(pod.clone()));
        assert_eq!(pod.member_name(), "p.svc.id.goog[shop/cart]");
        let pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog";
        assert!(pod.is_meant_by("principal", &format!("{pool}/subject/ns/shop/sa/cart")));
        assert!(pod.is_meant_by("principalSet", &format!("{pool}/namespace/shop")));
        for (kind, rest) in [
            ("principal", "/subject/ns/shop/sa/cart2"),
            ("principal", "/namespace/shop"),
            ("principalSet", "/subject/ns/shop/sa/cart"),
            ("principalSet", "/namespace/shop2"),
            ("principalSet", "2/namespace/shop"),
            ("principal", ""),
        ] {
            assert!(!pod.is_meant_by(kind, &format!("{pool}{rest}")), "{kind} {rest}");
        }
        for wrong in [
            "a@b.c",
            "p.svc.id.goog",
            "p.svc.id.goog[]",
            "p.svc.id.goog[a]",
            "p.svc.id.goog[a/b",
            ".svc.id.goog[a/b]",
            "p.svc.id.goog[A/b]",
            "p.svc.id.goog[a/b/c]",
            "p.example[a/b]",
            "p.svc.id.goog[-a/b]",
        ] {
            assert_eq!(PodIdentity::parse(wrong), None, "{wrong}");
        }
    }
}
