//! What a request wants, and the answer to it.

use machinery::{GroupResource, Status};

use crate::UserInfo;

/// What an authorizer looks at. Strings that do not apply are empty.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// Lower case: get, list, watch, create, update, patch, delete, deletecollection, …; for paths the HTTP method.
    pub verb: &'a str,
    pub namespace: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    /// False for paths such as `/healthz`: then only `verb` and `path` count.
    pub is_resource: bool,
    pub path: &'a str,
    /// The equality requirements (field, value) of the request's field selector; the Node authorizer reads them.
    pub field_selector: &'a [(&'a str, &'a str)],
}

impl<'a> Attributes<'a> {
    /// A request for a resource; narrow it with struct update syntax.
    pub const fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            namespace: "",
            group,
            version: "",
            resource,
            subresource: "",
            name: "",
            is_resource: true,
            path: "",
            field_selector: &[],
        }
    }

    /// A request for a path that is no resource.
    pub const fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self { path, is_resource: false, ..Self::resource(user, verb, "", "") }
    }

    /// In a namespace.
    #[must_use]
    pub const fn in_namespace(self, namespace: &'a str) -> Self {
        Self { namespace, ..self }
    }

    /// For one object.
    #[must_use]
    pub const fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }
}

/// The answer, with the reason that ends up in audit entries and access reviews.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub allowed: bool,
    /// On allow: what granted it. On deny: what each authorizer had to say, one a line; often empty.
    pub reason: String,
}

impl Decision {
    /// Yes.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into() }
    }

    /// No.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into() }
    }
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`
/// (`k8s.io/apiserver` responsewriters).
pub fn denial(attributes: &Attributes<'_>) -> String {
    let Attributes { user, verb, namespace, group, resource, subresource, path, .. } = attributes;
    let who = if user.name.is_empty() { String::new() } else { format!("User {:?} ", user.name) };
    if !attributes.is_resource {
        return format!("{who}cannot {verb} path {path:?}");
    }
    let what = if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!("{who}cannot {verb} resource {what:?} in API group {group:?} {place}")
}

/// The 403 for a refused request; a reason of the decision is appended to the sentence.
pub fn forbidden(attributes: &Attributes<'_>, decision: &Decision) -> Status {
    let mut why = denial(attributes);
    if !decision.reason.is_empty() {
        why = format!("{why}: {}", decision.reason);
    }
    if attributes.is_resource {
        return Status::forbidden(&GroupResource::new(attributes.group, attributes.resource), attributes.name, &why);
    }
    // Its details are there and empty, as upstream has them.
    Status { generic: true, ..Status::new(machinery::Reason::Forbidden, format!("forbidden: {why}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_kubernetes_prints_them() {
        let user = UserInfo::new("x", &[]);
        let pods = Attributes::resource(&user, "list", "", "pods").in_namespace("default");
        let no = Decision::deny("");
        let cases = [
            (
                pods,
                r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes { subresource: "log", verb: "get", name: "p", ..pods },
                r#"pods "p" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default""#,
            ),
            (
                Attributes::resource(&user, "list", "apps", "deployments"),
                r#"deployments.apps is forbidden: User "x" cannot list resource "deployments" in API group "apps" at the cluster scope"#,
            ),
            (Attributes::path(&user, "get", "/metrics"), r#"forbidden: User "x" cannot get path "/metrics""#),
        ];
        for (attributes, text) in cases {
            assert_eq!(forbidden(&attributes, &no).message, text);
        }
        assert!(forbidden(&pods, &Decision::deny("why")).message.ends_with("\"default\": why"));
    }
}
