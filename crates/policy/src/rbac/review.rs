//! What may somebody do: the rules behind `SelfSubjectRulesReview` and escalation checks.

use machinery::{Value, json};

use super::{MissingRole, Rbac, Rule};
use crate::UserInfo;

impl Rbac {
    /// All rules that apply to the user in a namespace (empty: cluster-wide ones only), and the roles that bindings name
    /// but that do not exist.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<MissingRole>) {
        let (mut rules, mut missing, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let scopes = if namespace.is_empty() { vec![""] } else { vec!["", namespace] };
        for scope in scopes {
            for binding in self.bindings_of(user, scope) {
                if seen.contains(&&binding.key) {
                    continue;
                }
                seen.push(&binding.key);
                match self.rules_of(binding) {
                    Ok(found) => rules.extend(found.iter().cloned()),
                    Err(role) => missing.push(role),
                }
            }
        }
        (rules, missing)
    }

    /// The `status` of a `SelfSubjectRulesReview`.
    pub fn rules_review(&self, user: &UserInfo, namespace: &str) -> Value {
        let (mut rules, missing) = self.rules_for(user, namespace);
        let mut errors: Vec<String> = missing.iter().map(MissingRole::to_string).collect();
        if user.in_group(crate::user::MASTERS) {
            rules.insert(0, Rule::resources(&["*"], &["*"], &["*"]));
            rules.insert(1, Rule::urls(&["*"], &["*"]));
        }
        let is_node = user.node_name().is_some();
        if is_node {
            errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
        }
        let of = |keep: fn(&Rule) -> bool| rules.iter().filter(|r| keep(r)).map(Rule::to_value).collect::<Vec<_>>();
        let mut status = json!({"incomplete": is_node});
        status.set("resourceRules", of(|r| !r.resources.is_empty()));
        status.set("nonResourceRules", of(|r| !r.non_resource_urls.is_empty()));
        if !errors.is_empty() {
            status.set("evaluationError", errors.join(", "));
        }
        status
    }
}
