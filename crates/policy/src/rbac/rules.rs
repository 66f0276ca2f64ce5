//! One RBAC rule: does it allow a request, does it cover another rule.

use machinery::{CompactString, Value, json};

use crate::Attributes;

/// A `PolicyRule` of `rbac.authorization.k8s.io/v1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rule {
    pub verbs: Vec<CompactString>,
    pub api_groups: Vec<CompactString>,
    pub resources: Vec<CompactString>,
    pub resource_names: Vec<CompactString>,
    pub non_resource_urls: Vec<CompactString>,
}

fn texts(value: &Value) -> Vec<CompactString> {
    value.items().iter().filter_map(Value::as_str).map(CompactString::from).collect()
}

fn has(set: &[CompactString], element: &str) -> bool {
    set.iter().any(|e| e == element)
}

fn has_or_star(set: &[CompactString], element: &str) -> bool {
    set.iter().any(|e| e == "*" || e == element)
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

impl Rule {
    /// Reads one rule; fields of a wrong type count as absent.
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: texts(&value["verbs"]),
            api_groups: texts(&value["apiGroups"]),
            resources: texts(&value["resources"]),
            resource_names: texts(&value["resourceNames"]),
            non_resource_urls: texts(&value["nonResourceURLs"]),
        }
    }

    /// Reads `rules` of a role.
    pub fn list(rules: &Value) -> Vec<Self> {
        rules.items().iter().map(Self::from_value).collect()
    }

    /// A rule over resources.
    pub fn resources(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|t| CompactString::from(*t)).collect();
        Self { verbs: owned(verbs), api_groups: owned(groups), resources: owned(resources), ..Self::default() }
    }

    /// A rule over paths.
    pub fn urls(verbs: &[&str], urls: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|t| CompactString::from(*t)).collect();
        Self { verbs: owned(verbs), non_resource_urls: owned(urls), ..Self::default() }
    }

    /// The rule as the API shows it; empty lists are left out.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"verbs": []});
        let fields = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        for (key, list) in fields {
            if !list.is_empty() {
                value.set(key, list.clone());
            }
        }
        value
    }

    /// Does it allow the request?
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has_or_star(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, a.path));
        }
        has_or_star(&self.api_groups, a.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, a.resource, a.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, a.name))
    }

    /// Does it hold everything the atomic rule `part` grants?
    pub(crate) fn covers(&self, part: &Self) -> bool {
        let names = self.resource_names.is_empty()
            || !part.resource_names.is_empty() && part.resource_names.iter().all(|n| has(&self.resource_names, n));
        part.verbs.iter().all(|v| has_or_star(&self.verbs, v))
            && part.api_groups.iter().all(|g| has_or_star(&self.api_groups, g))
            && part.resources.iter().all(|r| self.covers_resource(r))
            && names
            && part.non_resource_urls.iter().all(|u| self.non_resource_urls.iter().any(|own| url_matches(own, u)))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        has_or_star(&self.resources, resource)
            || resource.split_once('/').is_some_and(|(_, sub)| self.resources.iter().any(|r| *r == format!("*/{sub}")))
    }

    /// The rule taken apart: at most one verb, group, resource and name each.
    pub(crate) fn atoms(&self) -> Vec<Self> {
        let one = |text: &CompactString| vec![text.clone()];
        let names: Vec<Vec<CompactString>> = if self.resource_names.is_empty() {
            vec![Vec::new()]
        } else {
            self.resource_names.iter().map(one).collect()
        };
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    atoms.extend(names.iter().map(|name| Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: name.clone(),
                        non_resource_urls: Vec::new(),
                    }));
                }
            }
        }
        for url in &self.non_resource_urls {
            atoms.extend(self.verbs.iter().map(|verb| Self {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Self::default()
            }));
        }
        atoms
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`, as escalation errors print it.
    pub fn compact(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = fields
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", go_list(list)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// What `wanted` grants and `have` does not, in its smallest parts (`rbac/reconciliation`: what a role lacks is added, and
/// what somebody widened is not narrowed).
pub fn missing_rules(have: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::atoms).filter(|atom| !have.iter().any(|rule| rule.covers(atom))).collect()
}

/// A list of strings as Go's `%q` prints it.
pub(crate) fn go_list(list: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| format!("{:?}", s.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if subresource.is_empty() {
        return pattern == resource;
    }
    pattern.split_once('/').is_some_and(|(r, s)| s == subresource && (r == "*" || r == resource))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    #[test]
    fn a_role_lacks_what_no_rule_of_it_covers() {
        let wanted = [Rule::resources(&["get", "list"], &[""], &["pods", "nodes"])];
        let wide = [Rule::resources(&["*"], &["*"], &["*"])];
        assert!(missing_rules(&wide, &wanted).is_empty() && missing_rules(&wanted, &wanted).is_empty());
        let some = [Rule::resources(&["get"], &[""], &["*"]), Rule::resources(&["list"], &[""], &["pods"])];
        assert_eq!(missing_rules(&some, &wanted), [Rule::resources(&["list"], &[""], &["nodes"])]);
    }

    #[test]
    fn patterns_match_as_upstream_has_them() {
        let user = UserInfo::new("u", &[]);
        let request = |verb, group, resource, subresource, name| Attributes {
            subresource,
            name,
            ..Attributes::resource(&user, verb, group, resource)
        };
        let mut named = Rule::resources(&["get"], &[""], &["pods"]);
        named.resource_names = vec!["a".into()];
        let cases = [
            (Rule::resources(&["get"], &[""], &["pods"]), request("get", "", "pods", "", ""), true),
            (Rule::resources(&["get"], &[""], &["pods"]), request("get", "", "pods", "log", ""), false),
            (Rule::resources(&["get"], &[""], &["pods/log"]), request("get", "", "pods", "log", ""), true),
            (
                Rule::resources(&["*"], &["*"], &["*/scale"]),
                request("update", "apps", "deployments", "scale", ""),
                true,
            ),
            (Rule::resources(&["*"], &["*"], &["*/scale"]), request("update", "apps", "deployments", "", ""), false),
            (Rule::resources(&["*"], &["*"], &["*"]), request("x", "y", "z", "w", "n"), true),
            (Rule::resources(&["get"], &["apps"], &["pods"]), request("get", "", "pods", "", ""), false),
            (named.clone(), request("get", "", "pods", "", "a"), true),
            (named.clone(), request("get", "", "pods", "", ""), false),
            (Rule::urls(&["get"], &["/healthz", "/apis/*"]), Attributes::path(&user, "get", "/apis/apps"), true),
            (Rule::urls(&["get"], &["/healthz", "/apis/*"]), Attributes::path(&user, "get", "/apis"), false),
            (Rule::urls(&["get"], &["*"]), Attributes::path(&user, "get", "/x"), true),
            (Rule::resources(&["*"], &["*"], &["*"]), Attributes::path(&user, "get", "/x"), false),
        ];
        for (rule, attributes, expected) in cases {
            assert_eq!(rule.allows(&attributes), expected, "{rule:?} {attributes:?}");
        }
    }
}
