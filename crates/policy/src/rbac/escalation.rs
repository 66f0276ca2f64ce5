//! Nobody grants what they do not hold: the check on writes of roles and bindings.

use std::collections::BTreeMap;

use machinery::{GroupResource, Status, Value};

use super::{Rbac, RbacKind, Rule, go_list};
use crate::user::MASTERS;
use crate::{Attributes, Decision, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A create or update of one of the four RBAC kinds.
pub struct EscalationRequest<'a> {
    pub kind: RbacKind,
    pub user: &'a UserInfo,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub object: &'a Value,
    /// The object as it was; `None` on create.
    pub old: Option<&'a Value>,
}

/// Refuses a role or binding that would give more than its writer holds, unless the writer is in `system:masters` or
/// `authorize` allows the verbs `escalate` (roles) or `bind` (bindings).
///
/// # Errors
/// 403 with upstream's text; when a binding refers to a role that does not exist, the 404 of the look-up, about the role.
pub fn check_escalation(
    rbac: &Rbac,
    request: &EscalationRequest<'_>,
    authorize: impl Fn(&Attributes<'_>) -> Decision,
) -> Result<(), Status> {
    if request.user.in_group(MASTERS) || only_garbage_collection_fields_change(request) {
        return Ok(());
    }
    match request.kind {
        RbacKind::Role => check_role(rbac, request, "roles", authorize),
        RbacKind::ClusterRole => check_role(rbac, request, "clusterroles", authorize),
        RbacKind::RoleBinding => check_binding(rbac, request, "rolebindings", authorize),
        RbacKind::ClusterRoleBinding => check_binding(rbac, request, "clusterrolebindings", authorize),
    }
}

fn check_role(
    rbac: &Rbac,
    request: &EscalationRequest<'_>,
    resource: &str,
    authorize: impl Fn(&Attributes<'_>) -> Decision,
) -> Result<(), Status> {
    let name = request.old.map_or("", machinery::meta::name);
    let escalate = Attributes {
        namespace: request.namespace,
        name,
        version: "*",
        ..Attributes::resource(request.user, "escalate", GROUP, resource)
    };
    if authorize(&escalate).allowed {
        return Ok(());
    }
    let refuse =
        |why: &str| Status::forbidden(&GroupResource::new(GROUP, resource), machinery::meta::name(request.object), why);
    confirm(rbac, request, &Rule::list(&request.object["rules"])).map_err(|why| refuse(&why))?;
    let aggregates = |role: &Value| !role["aggregationRule"]["clusterRoleSelectors"].items().is_empty();
    if request.kind == RbacKind::ClusterRole && (aggregates(request.object) || request.old.is_some_and(aggregates)) {
        let everything = [Rule::resources(&["*"], &["*"], &["*"]), Rule::urls(&["*"], &["*"])];
        confirm(rbac, request, &everything)
            .map_err(|_| refuse("must have cluster-admin privileges to use the aggregationRule"))?;
    }
    Ok(())
}

fn check_binding(
    rbac: &Rbac,
    request: &EscalationRequest<'_>,
    resource: &str,
    authorize: impl Fn(&Attributes<'_>) -> Decision,
) -> Result<(), Status> {
    let kind = request.object.str_at(&["roleRef", "kind"]);
    let role = request.object.str_at(&["roleRef", "name"]);
    let role_resource = if kind == "Role" { "roles" } else { "clusterroles" };
    let bind = Attributes {
        namespace: request.namespace,
        name: role,
        version: "*",
        ..Attributes::resource(request.user, "bind", GROUP, role_resource)
    };
    if matches!(kind, "Role" | "ClusterRole") && authorize(&bind).allowed {
        return Ok(());
    }
    let rules = rbac.role_rules(kind, role, request.namespace).map_err(|missing| missing.status())?;
    confirm(rbac, request, rules).map_err(|why| {
        Status::forbidden(&GroupResource::new(GROUP, resource), machinery::meta::name(request.object), &why)
    })
}

/// Do the user's own rules cover `wanted`? The error lists what is missing.
fn confirm(rbac: &Rbac, request: &EscalationRequest<'_>, wanted: &[Rule]) -> Result<(), String> {
    let (own, unresolved) = rbac.rules_for(request.user, request.namespace);
    let missing: Vec<Rule> =
        wanted.iter().flat_map(Rule::atoms).filter(|atom| !own.iter().any(|rule| rule.covers(atom))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = joined(missing).iter().map(Rule::compact).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut text = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user.name,
        go_list(&request.user.groups),
        lines.join("\n")
    );
    let mut errors: Vec<String> = Vec::new();
    for error in unresolved.iter().map(|role| role.status().message) {
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
    // Go prints a list whose one element is the aggregate, and an aggregate of several has brackets of its own.
    match errors.as_slice() {
        [] => {}
        [error] => text.push_str(&format!("; resolution errors: [{error}]")),
        several => text.push_str(&format!("; resolution errors: [[{}]]", several.join(", "))),
    }
    Err(text)
}

/// Atoms over the same resource become one rule with several verbs.
fn joined(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut by_target: BTreeMap<Rule, Rule> = BTreeMap::new();
    for atom in atoms {
        let target =
            if atom.non_resource_urls.is_empty() { Rule { verbs: Vec::new(), ..atom.clone() } } else { atom.clone() };
        by_target.entry(target).and_modify(|rule| rule.verbs.extend(atom.verbs.iter().cloned())).or_insert(atom);
    }
    by_target.into_values().collect()
}

/// The garbage collector may edit owner references and finalizers of roles that it could not grant.
fn only_garbage_collection_fields_change(request: &EscalationRequest<'_>) -> bool {
    let Some(old) = request.old else { return false };
    let bare = |object: &Value| {
        let mut copy = object.clone();
        if let Some(metadata) = copy.get_mut("metadata") {
            for field in ["ownerReferences", "finalizers", "resourceVersion", "managedFields"] {
                metadata.remove(field);
            }
        }
        copy
    };
    bare(request.object) == bare(old)
}
