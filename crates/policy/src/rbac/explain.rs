//! Which rule decided, or which one would: the same look-up as `authorize`, with its reasons kept.

use machinery::{CompactString, ObjectKey};

use super::{Binding, Granted, Rbac, Rule};
use crate::Attributes;

/// A stand-in for "everything of its kind" when grants are compared.
const STAR_WEIGHT: usize = 1000;

/// The binding and the rule that allow a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// `ClusterRoleBinding` or `RoleBinding`.
    pub binding_kind: &'static str,
    /// `name`, or `namespace/name`.
    pub binding: String,
    /// `ClusterRole` or `Role`.
    pub role_kind: String,
    pub role: String,
    /// `Group "devs"`: the subject of the binding that is met.
    pub subject: String,
    /// Its place among the role's rules, from 0.
    pub rule_index: usize,
    pub rule: Rule,
}

impl Rbac {
    /// The first grant that allows the request, in the order in which RBAC looks; `None` when RBAC does not.
    pub fn deciding(&self, attributes: &Attributes<'_>) -> Option<Grant> {
        let scopes = if attributes.namespace.is_empty() { vec![""] } else { vec!["", attributes.namespace] };
        for scope in scopes {
            for binding in self.granted_to(attributes.user, scope).map(Granted::first) {
                let Ok(rules) = self.rules_of(binding) else { continue };
                if let Some(rule_index) = rules.iter().position(|rule| rule.allows(attributes)) {
                    return Some(grant(binding, attributes, rule_index, rules[rule_index].clone()));
                }
            }
        }
        None
    }

    /// Of the roles that could be bound and would allow the request, the one that gives least: kind and name. What is there
    /// for the system's own parts is named only when nothing else would do.
    pub fn smallest_role(&self, attributes: &Attributes<'_>) -> Option<(&'static str, CompactString)> {
        let fits = |key: &ObjectKey| {
            key.namespace.is_empty() || attributes.is_resource && key.namespace == attributes.namespace
        };
        let would = self.roles.iter().filter(|(key, _)| fits(key));
        let would = would.filter(|(_, rules)| rules.iter().any(|rule| rule.allows(attributes)));
        let (key, _) = would.min_by_key(|(key, rules)| {
            (key.name.starts_with("system:"), rules.iter().map(breadth).sum::<usize>(), (*key).clone())
        })?;
        Some((if key.namespace.is_empty() { "ClusterRole" } else { "Role" }, key.name.clone()))
    }
}

fn grant(binding: &Binding, attributes: &Attributes<'_>, rule_index: usize, rule: Rule) -> Grant {
    let cluster = binding.key.namespace.is_empty();
    let subject = binding.subjects.iter().find(|s| s.applies_to(attributes.user));
    Grant {
        binding_kind: if cluster { "ClusterRoleBinding" } else { "RoleBinding" },
        binding: binding.key.to_string(),
        role_kind: binding.role_kind.to_string(),
        role: binding.role.to_string(),
        subject: subject.map(super::Subject::describe).unwrap_or_default(),
        rule_index,
        rule,
    }
}

/// How much a rule gives, roughly: the product of its lists, a star counting for many.
fn breadth(rule: &Rule) -> usize {
    let of = |list: &[CompactString]| -> usize {
        list.iter().map(|element| if element.contains('*') { STAR_WEIGHT } else { 1 }).sum::<usize>().max(1)
    };
    let named = if rule.resource_names.is_empty() { 2 } else { 1 };
    of(&rule.verbs) * (of(&rule.api_groups) * of(&rule.resources) * named + rule.non_resource_urls.len())
}

/// The rule that allows this request and as little else as a rule can.
pub fn minimal_rule(attributes: &Attributes<'_>) -> Rule {
    if !attributes.is_resource {
        return Rule::urls(&[attributes.verb], &[attributes.path]);
    }
    let resource = match attributes.subresource {
        "" => attributes.resource.to_owned(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let mut rule = Rule::resources(&[attributes.verb], &[attributes.group], &[&resource]);
    if !attributes.name.is_empty() {
        rule.resource_names = vec![attributes.name.into()];
    }
    rule
}

#[cfg(test)]
mod tests {
    use machinery::{Value, json};

    use super::*;
    use crate::{RbacKind, UserInfo};

    fn rbac() -> Rbac {
        let mut rbac = Rbac::new();
        let mut apply = |kind, namespace: &str, name: &str, object: Value| {
            rbac.apply(kind, &ObjectKey::new(namespace, name), Some(&object));
        };
        let all = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
        apply(RbacKind::ClusterRole, "", "cluster-admin", all);
        let view = json!({"rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]});
        apply(RbacKind::ClusterRole, "", "view", view);
        let one = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        apply(RbacKind::ClusterRole, "", "system:controller:x", one.clone());
        apply(RbacKind::Role, "d", "reader", one);
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "x"}, {"kind": "Group", "name": "devs"}]});
        apply(RbacKind::RoleBinding, "d", "dev", binding);
        rbac
    }

    #[test]
    fn the_deciding_rule_is_named_with_its_place() {
        let user = UserInfo::authenticated("alice", &["devs"]);
        let list = Attributes::resource(&user, "list", "", "pods").in_namespace("d");
        let grant = rbac().deciding(&list).unwrap();
        assert_eq!((grant.binding_kind, grant.binding.as_str()), ("RoleBinding", "d/dev"));
        assert_eq!((grant.role_kind.as_str(), grant.role.as_str(), grant.rule_index), ("ClusterRole", "view", 1));
        assert_eq!(grant.subject, "Group \"devs\"");
        assert_eq!(rbac().deciding(&Attributes { namespace: "other", ..list }), None);
        assert_eq!(rbac().authorize(&list).allowed, rbac().deciding(&list).is_some());
    }

    #[test]
    fn the_smallest_grant_that_would_do_is_found() {
        let user = UserInfo::default();
        let smallest = |verb, namespace| {
            let attributes = Attributes::resource(&user, verb, "", "pods").in_namespace(namespace);
            rbac().smallest_role(&attributes).map(|(kind, name)| format!("{kind} {name}"))
        };
        assert_eq!(smallest("get", "d").as_deref(), Some("Role reader"));
        assert_eq!(smallest("get", "e").as_deref(), Some("ClusterRole view"));
        assert_eq!(smallest("delete", "d").as_deref(), Some("ClusterRole cluster-admin"));
        let log = Attributes { subresource: "log", name: "p", ..Attributes::resource(&user, "get", "", "pods") };
        assert_eq!(
            minimal_rule(&log).compact(),
            r#"{APIGroups:[""], Resources:["pods/log"], ResourceNames:["p"], Verbs:["get"]}"#
        );
        assert_eq!(rbac().smallest_role(&Attributes::path(&user, "get", "/x")), None);
    }
}
