//! `pilothouse explain can-i`: who decided, and by what; or what the smallest grant would be.
//!
//! It asks where anybody may ask: the API server for its answer (a SubjectAccessReview) and for its roles and bindings, the
//! sandbox for the IAM roles of an account. The rule is then looked up as the API server does, and must agree with what it
//! said.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::{ObjectKey, Value, json, meta};
use manager::HttpsClient;
use manager::api::Request;
use policy::iam::{permission_for, role_allows, roles_with};
use policy::rbac::minimal_rule;
use policy::{Attributes, Rbac, RbacKind, UserInfo};
use serde::Serialize;

use crate::cli::{CanIArgs, OutputFormat};
use crate::config::{is_meant, several};
use crate::control::{self, AccountRoles, AccountWish};
use crate::edge::management_source;
use crate::fleet::report::{ClusterStatus, Status};
use crate::layout::Layout;

/// The port of an endpoint that names none.
const HTTPS: u16 = 443;
const KINDS: [(RbacKind, &str); 4] = [
    (RbacKind::Role, "roles"),
    (RbacKind::ClusterRole, "clusterroles"),
    (RbacKind::RoleBinding, "rolebindings"),
    (RbacKind::ClusterRoleBinding, "clusterrolebindings"),
];

/// What is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    allowed: bool,
    /// `RBAC`, `IAM`, `Node`, `system:masters`, `LegacyABAC`; empty when nobody allows it.
    by: &'static str,
    /// One line each, the deciding one first.
    reasons: Vec<String>,
    /// What would allow it, the smallest first.
    smallest_grants: Vec<String>,
}

/// Answers the question.
///
/// # Errors
/// When no sandbox or no such cluster runs, or a question makes no sense.
pub(crate) async fn can_i(args: &CanIArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let status: Status = control::ask(&layout, "status").await?;
    let cluster = chosen(&status, args)?;
    let api = client(cluster)?;
    let user = who(args, &status);
    let question = Question::read(args, &api).await?;
    let attributes = question.attributes(&user);
    let review = review(&api, &attributes).await?;
    let roles: AccountRoles = control::tell(&layout, "roles", &AccountWish { account: user.name.clone() }).await?;
    let explanation = explain(&attributes, &review, &rbac(&api).await?, &roles.roles);
    match args.output {
        OutputFormat::Json => Ok(serde_json::to_string_pretty(&explanation)? + "\n"),
        OutputFormat::Text => text(&explanation, &attributes),
    }
}

fn chosen<'a>(status: &'a Status, args: &CanIArgs) -> Result<&'a ClusterStatus> {
    let Some(wish) = &args.cluster else { return status.clusters.first().context("no cluster runs here") };
    let meant = status.clusters.iter().filter(|cluster| is_meant(wish, &cluster.location, &cluster.name));
    match &meant.collect::<Vec<_>>()[..] {
        [cluster] => Ok(cluster),
        [] => bail!("no cluster {wish} runs here"),
        all => bail!(several(all.iter().map(|cluster| (&*cluster.location, &*cluster.name)))),
    }
}

/// The user's groups are those that everybody of the kind has, and those that were named.
fn who(args: &CanIArgs, status: &Status) -> UserInfo {
    let name = args.as_user.clone().unwrap_or_else(|| status.cloud.account.clone());
    let mut user = match UserInfo::new(&name, &[]).as_service_account() {
        Some((namespace, account)) => UserInfo::service_account(namespace, account, ""),
        None if name == policy::user::ANONYMOUS => UserInfo::anonymous(),
        None => UserInfo::authenticated(&name, &[]),
    };
    if user.name.starts_with(policy::user::NODE_PREFIX) {
        user.add_group(policy::user::NODES);
    }
    args.as_group.iter().for_each(|group| user.add_group(group));
    user
}

/// The API server, with the credential of the cluster's kubeconfig.
fn client(cluster: &ClusterStatus) -> Result<HttpsClient> {
    let file = &cluster.kubeconfig;
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let config = machinery::yaml::to_value(&bytes).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    let authority = config["clusters"][0].str_at(&["cluster", "certificate-authority-data"]);
    let authority = String::from_utf8(STANDARD.decode(authority)?)?;
    let token = config["users"][0].str_at(&["user", "token"]).to_owned();
    // The way that is open whatever the rules of the endpoints are.
    let address: SocketAddr = match cluster.internal_endpoint.parse() {
        Ok(address) => address,
        Err(_) => SocketAddr::new(cluster.internal_endpoint.parse().context("the cluster's endpoint")?, HTTPS),
    };
    let tls = pki::client_config(&authority, None, &[b"h2"], &crate::system::clock())?;
    let source = management_source(address);
    Ok(HttpsClient::new(address, &address.ip().to_string(), &tls, Some(token), source)?)
}

/// What is asked about, in the API server's own terms.
#[derive(Default)]
struct Question {
    verb: String,
    namespace: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
    path: String,
}

impl Question {
    async fn read(args: &CanIArgs, api: &HttpsClient) -> Result<Self> {
        let (verb, what) = (args.verb.to_lowercase(), args.what.as_str());
        if what.starts_with('/') {
            return Ok(Self { verb, path: what.to_owned(), ..Self::default() });
        }
        let (what, subresource) = what.split_once('/').unwrap_or((what, ""));
        let (resource, group) = what.split_once('.').unwrap_or((what, ""));
        let (group, resource, namespaced) = match known(api, resource, group).await? {
            Some(found) => found,
            // `users`, `groups` and the like exist for authorization alone.
            None => (group.to_owned(), resource.to_owned(), false),
        };
        let subresource = if subresource.is_empty() { args.subresource.clone() } else { subresource.to_owned() };
        let namespace = if namespaced && !args.all_namespaces { args.namespace.clone() } else { String::new() };
        let name = args.name.clone().unwrap_or_default();
        Ok(Self { verb, namespace, group, resource, subresource, name, path: String::new() })
    }

    fn attributes<'a>(&'a self, user: &'a UserInfo) -> Attributes<'a> {
        if !self.path.is_empty() {
            return Attributes::path(user, &self.verb, &self.path);
        }
        Attributes {
            namespace: &self.namespace,
            subresource: &self.subresource,
            name: &self.name,
            ..Attributes::resource(user, &self.verb, &self.group, &self.resource)
        }
    }
}

/// Group, plural and scope of a resource that was named by plural, singular, kind or short name, by discovery.
async fn known(api: &HttpsClient, name: &str, group: &str) -> Result<Option<(String, String, bool)>> {
    const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for root in ["/api", "/apis"] {
        let document = api.call(Request { accept: ACCEPT, ..Request::get(root) }).await?;
        for one in document["items"].items() {
            let found = one.str_at(&["metadata", "name"]);
            if !group.is_empty() && found != group {
                continue;
            }
            let resources = one["versions"].items().iter().flat_map(|version| version["resources"].items());
            for resource in resources {
                let plural = resource.str_at(&["resource"]);
                let names = [plural, resource.str_at(&["singularResource"])];
                let kind = resource.str_at(&["responseKind", "kind"]);
                let short = resource["shortNames"].items().iter().any(|s| s.as_str() == Some(name));
                if names.contains(&name) || kind.eq_ignore_ascii_case(name) || short {
                    let namespaced = resource.str_at(&["scope"]) == "Namespaced";
                    return Ok(Some((found.to_owned(), plural.to_owned(), namespaced)));
                }
            }
        }
    }
    if group.is_empty() || !group.contains('.') {
        return Ok(None);
    }
    bail!("the cluster serves no {name}.{group}")
}

/// The API server's own answer.
async fn review(api: &HttpsClient, a: &Attributes<'_>) -> Result<Value> {
    let mut spec = json!({"user": a.user.name});
    spec.set("groups", a.user.groups.clone());
    if a.is_resource {
        spec.set(
            "resourceAttributes",
            json!({"verb": a.verb, "group": a.group, "version": "*", "resource": a.resource,
                "subresource": a.subresource, "name": a.name, "namespace": a.namespace}),
        );
    } else {
        spec.set("nonResourceAttributes", json!({"verb": a.verb, "path": a.path}));
    }
    let mut body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"});
    body.set("spec", spec);
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    Ok(api.call(Request::new("POST", path, Some(body))).await?["status"].clone())
}

async fn rbac(api: &HttpsClient) -> Result<Rbac> {
    let mut rbac = Rbac::new();
    for (kind, plural) in KINDS {
        let list = api.call(Request::get(format!("/apis/rbac.authorization.k8s.io/v1/{plural}"))).await?;
        for object in list["items"].items() {
            let key = ObjectKey::new(meta::namespace(object), meta::name(object));
            rbac.apply(kind, &key, Some(object));
        }
    }
    Ok(rbac)
}

fn explain(attributes: &Attributes<'_>, review: &Value, rbac: &Rbac, roles: &[String]) -> Explanation {
    let yes =
        |by, reason: String| Explanation { allowed: true, by, reasons: vec![reason], smallest_grants: Vec::new() };
    let permission = permission_for(attributes);
    if attributes.user.in_group(policy::user::MASTERS) {
        return yes("system:masters", "the group \"system:masters\" may do everything".to_owned());
    }
    let by_server = review["allowed"].as_bool() == Some(true);
    let node = attributes.user.node_name().is_some() && by_server;
    if let Some(grant) = rbac.deciding(attributes).filter(|_| by_server) {
        return yes(
            "RBAC",
            format!(
                "{} {:?} binds {} {:?} to {}; rule {} of it allows this: {}",
                grant.binding_kind,
                grant.binding,
                grant.role_kind,
                grant.role,
                grant.subject,
                grant.rule_index,
                grant.rule.compact()
            ),
        );
    }
    if node {
        return yes("Node", "the Node authorizer: the object belongs to what runs on this node".to_owned());
    }
    if by_server {
        return yes("LegacyABAC", "legacy authorization is enabled in this cluster (legacyAbac.enabled)".to_owned());
    }
    let holder = permission.as_ref().and_then(|p| roles.iter().find(|role| role_allows(role, p)).map(|role| (role, p)));
    if let Some((role, permission)) = holder {
        return yes("IAM", format!("the IAM role {role} on the project holds {permission:?}"));
    }
    let said = review.str_at(&["reason"]);
    let mut reasons = vec![format!("{}: no authorizer allows it", policy::denial(attributes))];
    reasons.extend((!said.is_empty()).then(|| said.to_owned()));
    reasons
        .extend(permission.as_ref().filter(|_| is_google(attributes)).map(|p| format!("Required {p:?} permission.")));
    Explanation { allowed: false, by: "", reasons, smallest_grants: grants(attributes, rbac, permission.as_deref()) }
}

fn grants(attributes: &Attributes<'_>, rbac: &Rbac, permission: Option<&str>) -> Vec<String> {
    let mut grants = vec![format!("a rule of its own: {}", minimal_rule(attributes).compact())];
    if let Some((kind, name)) = rbac.smallest_role(attributes) {
        grants.push(format!("a binding to {kind} {name:?}"));
    }
    if let Some(role) = permission.filter(|_| is_google(attributes)).and_then(|p| roles_with(p).next()) {
        grants.push(format!("the IAM role {role} on the project"));
    }
    grants
}

/// Could it be a Google account, for which IAM counts?
fn is_google(attributes: &Attributes<'_>) -> bool {
    attributes.user.name.contains('@') && !attributes.user.name.starts_with("system:")
}

fn text(explanation: &Explanation, attributes: &Attributes<'_>) -> Result<String> {
    let mut out = String::new();
    let verdict = if explanation.allowed { "yes" } else { "no" };
    writeln!(out, "{verdict}  {}", attributes.user.name)?;
    if explanation.allowed {
        writeln!(out, "  decided by {}", explanation.by)?;
    }
    for reason in &explanation.reasons {
        writeln!(out, "  {reason}")?;
    }
    if !explanation.smallest_grants.is_empty() {
        writeln!(out, "  what would allow it:")?;
    }
    for grant in &explanation.smallest_grants {
        writeln!(out, "    {grant}")?;
    }
    ensure!(!out.is_empty(), "there is always a verdict");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_names_its_decider_or_the_smallest_grant() {
        let mut rbac = Rbac::new();
        let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        rbac.apply(RbacKind::ClusterRole, &ObjectKey::new("", "reader"), Some(&role));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": "alice@example.com"}]});
        rbac.apply(RbacKind::ClusterRoleBinding, &ObjectKey::new("", "b"), Some(&binding));
        let (yes, no) = (json!({"allowed": true}), json!({"allowed": false}));
        let alice = UserInfo::authenticated("alice@example.com", &[]);
        let get = Attributes::resource(&alice, "get", "", "pods").in_namespace("d");
        let by_rule = explain(&get, &yes, &rbac, &[]);
        assert_eq!(by_rule.by, "RBAC");
        assert!(by_rule.reasons[0].contains("ClusterRoleBinding \"b\" binds ClusterRole \"reader\""), "{by_rule:?}");
        let list = Attributes { verb: "list", ..get };
        let by_iam = explain(&list, &no, &rbac, &["roles/container.viewer".to_owned()]);
        assert!(by_iam.allowed && by_iam.by == "IAM" && by_iam.reasons[0].contains("roles/container.viewer"));
        let refused = explain(&list, &no, &rbac, &[]);
        assert!(!refused.allowed && refused.by.is_empty());
        assert_eq!(
            refused.smallest_grants,
            [
                r#"a rule of its own: {APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
                "the IAM role roles/container.viewer on the project"
            ]
        );
        let node = UserInfo::new("system:node:n", &["system:nodes"]);
        assert_eq!(explain(&Attributes { user: &node, ..list }, &yes, &rbac, &[]).by, "Node");
        let master = UserInfo::new("m", &["system:masters"]);
        assert_eq!(explain(&Attributes { user: &master, ..list }, &yes, &rbac, &[]).by, "system:masters");
    }
}
