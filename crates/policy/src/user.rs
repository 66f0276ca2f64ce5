//! Who a request comes from, whatever proved it.

use std::collections::BTreeMap;

use machinery::Value;
use machinery::names::{is_dns1123_label, is_dns1123_subdomain};

/// Everybody who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of a caller without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that no authorizer restricts (`k8s.io/apiserver` `SystemPrivilegedGroup`).
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The prefix of a kubelet's user name.
pub const NODE_PREFIX: &str = "system:node:";
/// The prefix of a service account's user name: `system:serviceaccount:<namespace>:<name>`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A user as Kubernetes sees one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserInfo {
    pub name: String,
    /// Empty when the authenticator knows none.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in the given groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() }
    }

    /// A user in the given groups and in `system:authenticated`.
    pub fn authenticated(name: &str, groups: &[&str]) -> Self {
        let mut user = Self::new(name, groups);
        user.add_group(AUTHENTICATED);
        user
    }

    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// The service account's user, with the groups every service account has.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut user = Self::authenticated(
            &format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        );
        uid.clone_into(&mut user.uid);
        user
    }

    /// Joins a group once.
    pub fn add_group(&mut self, group: &str) {
        if !self.in_group(group) {
            self.groups.push(group.to_owned());
        }
    }

    /// Is the user a member?
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Is it a caller without credentials?
    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// The node's name when this is a kubelet: `Some("")` for one that does not say which.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.in_group(NODES).then_some(name)
    }

    /// Namespace and name when this is a service account.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// The form in `SelfSubjectReview`, `TokenReview`, audit entries and `AdmissionReview`.
    pub fn to_value(&self) -> Value {
        let mut value = Value::object();
        value.set("username", self.name.as_str());
        if !self.uid.is_empty() {
            value.set("uid", self.uid.as_str());
        }
        if !self.groups.is_empty() {
            value.set("groups", self.groups.clone());
        }
        if !self.extra.is_empty() {
            value.set("extra", self.extra.iter().map(|(k, v)| (k.as_str(), Value::from(v.clone()))).collect::<Value>());
        }
        value
    }

    /// Reads the form of [`UserInfo::to_value`]; `user` is accepted for `username` (access reviews name it so).
    pub fn from_value(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let name = value.get("username").or_else(|| value.get("user")).map(text).unwrap_or_default();
        Self {
            name,
            uid: value.str_at(&["uid"]).to_owned(),
            groups: value["groups"].items().iter().map(text).collect(),
            extra: value["extra"]
                .members()
                .map(|(k, v)| (k.to_owned(), v.items().iter().map(text).collect()))
                .collect(),
        }
    }
}

/// Namespace and name in a service account's user name. `None` for any other user, also for one whose name only begins
/// like that: both parts must be names that such objects can have (`k8s.io/apiserver` `serviceaccount.SplitUsername`).
pub fn split_service_account(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let valid = is_dns1123_label(namespace).is_empty() && is_dns1123_subdomain(name).is_empty();
    valid.then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_carry_their_three_groups() {
        let user = UserInfo::service_account("ns", "sa", "u");
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
        assert_eq!(user.as_service_account(), Some(("ns", "sa")));
        assert_eq!(UserInfo::from_value(&user.to_value()), user);
    }

    #[test]
    fn only_names_that_accounts_can_have_are_split() {
        let cases = [
            ("system:serviceaccount:ns:sa", Some(("ns", "sa"))),
            ("system:serviceaccount:ns:s.a-1", Some(("ns", "s.a-1"))),
            ("system:serviceaccount:a_b:c", None),
            ("system:serviceaccount:a.b:c", None),
            ("system:serviceaccount:a:B", None),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount::c", None),
            ("system:serviceaccount:a:", None),
            ("system:serviceaccount:a", None),
            ("system:serviceaccounts:a:b", None),
            ("alice", None),
        ];
        for (name, expect) in cases {
            assert_eq!(split_service_account(name), expect, "{name}");
            assert_eq!(UserInfo::new(name, &[]).as_service_account(), expect, "{name}");
        }
    }

    #[test]
    fn a_node_needs_name_and_group() {
        assert_eq!(UserInfo::new("system:node:a", &[NODES]).node_name(), Some("a"));
        assert_eq!(UserInfo::new("system:node:a", &[]).node_name(), None);
        assert_eq!(UserInfo::new("a", &[NODES]).node_name(), None);
    }
}
