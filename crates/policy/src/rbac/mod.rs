//! Role-based access control: a snapshot of all roles and bindings, indexed by subject.
//!
//! ```text
//! apply(kind, key, object) ─► roles, bindings, index: subject ─► bindings      clone is O(1)
//! authorize(attributes)    ─► bindings of the user and of each group ─► role ─► rules
//! ```

mod escalation;
mod explain;
mod missing_role;
mod review;
mod rules;

use std::sync::Arc;

use imbl::OrdMap;
use machinery::{CompactString, ObjectKey, Value};

pub use escalation::{EscalationRequest, check_escalation};
pub use explain::{Grant, minimal_rule};
pub use missing_role::MissingRole;
pub(crate) use rules::go_list;
pub use rules::{Rule, missing_rules};

use crate::user::SERVICE_ACCOUNT_PREFIX;
use crate::{Attributes, Decision, UserInfo};

/// The four kinds an [`Rbac`] is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RbacKind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl RbacKind {
    /// The kind served under `rbac.authorization.k8s.io/<resource>`.
    pub fn of_resource(resource: &str) -> Option<Self> {
        match resource {
            "roles" => Some(Self::Role),
            "clusterroles" => Some(Self::ClusterRole),
            "rolebindings" => Some(Self::RoleBinding),
            "clusterrolebindings" => Some(Self::ClusterRoleBinding),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SubjectKind {
    User,
    Group,
    ServiceAccount,
}

#[derive(Debug)]
struct Subject {
    kind: SubjectKind,
    /// The user or group name to compare with; of a service account its whole user name.
    matches: CompactString,
    /// As reasons name it: `name`, or `name/namespace` of a service account.
    shown: String,
}

#[derive(Debug)]
struct Binding {
    key: ObjectKey,
    role_kind: CompactString,
    role: CompactString,
    subjects: Vec<Subject>,
}

/// Groups and users have different keys; the namespace is that of the binding, empty for cluster bindings.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SubjectKey {
    namespace: CompactString,
    group: bool,
    name: CompactString,
}

/// One role of a subject, with the bindings that give it, by name; never none.
#[derive(Clone, Debug)]
struct Granted(Vec<Arc<Binding>>);

/// All RBAC objects of a cluster. Cloning is cheap; a clone does not see later changes.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    roles: OrdMap<ObjectKey, Arc<Vec<Rule>>>,
    bindings: OrdMap<ObjectKey, Arc<Binding>>,
    /// By role: many bindings of a subject may lead to few roles, and each is looked at once.
    by_subject: OrdMap<SubjectKey, Vec<Granted>>,
}

impl Rbac {
    /// Nobody may do anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over one object as it is now; `None` when it is gone.
    pub fn apply(&mut self, kind: RbacKind, key: &ObjectKey, object: Option<&Value>) {
        match kind {
            RbacKind::Role | RbacKind::ClusterRole => match object {
                Some(object) => {
                    self.roles.insert(key.clone(), Arc::new(Rule::list(&object["rules"])));
                }
                None => {
                    self.roles.remove(key);
                }
            },
            RbacKind::RoleBinding | RbacKind::ClusterRoleBinding => self.apply_binding(key, object),
        }
    }

    fn apply_binding(&mut self, key: &ObjectKey, object: Option<&Value>) {
        if let Some(old) = self.bindings.remove(key) {
            for subject in subject_keys(&old) {
                if let Some(granted) = self.by_subject.get_mut(&subject) {
                    unbind(granted, &old);
                    if granted.is_empty() {
                        self.by_subject.remove(&subject);
                    }
                }
            }
        }
        let Some(object) = object else { return };
        let binding = Arc::new(Binding::from_value(key, object));
        for subject in subject_keys(&binding) {
            bind(self.by_subject.entry(subject).or_default(), &binding);
        }
        self.bindings.insert(key.clone(), binding);
    }

    /// May the request pass by RBAC alone? Cluster bindings are asked before those of the namespace, a subject's by role.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut missing = Vec::new();
        let namespaces = ["", attributes.namespace];
        let scopes = if attributes.namespace.is_empty() { &namespaces[..1] } else { &namespaces[..] };
        for namespace in scopes {
            for binding in self.granted_to(attributes.user, namespace).map(Granted::first) {
                match self.rules_of(binding) {
                    Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                        return Decision::allow(format!("RBAC: allowed by {}", binding.describe(attributes.user)));
                    }
                    Ok(_) => {}
                    Err(role) if missing.contains(&role.to_string()) => {}
                    Err(role) => missing.push(role.to_string()),
                }
            }
        }
        match missing.len() {
            0 => Decision::deny(""),
            1 => Decision::deny(format!("RBAC: {}", missing[0])),
            _ => Decision::deny(format!("RBAC: [{}]", missing.join(", "))),
        }
    }

    /// The bindings that name the user or one of its groups, each once per subject that matches.
    fn bindings_of<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.granted_to(user, namespace).flat_map(|granted| &granted.0)
    }

    /// The roles that are bound to the user or to one of its groups, likewise.
    fn granted_to<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Granted> {
        let key = |group, name: &str| SubjectKey { namespace: namespace.into(), group, name: name.into() };
        std::iter::once(key(false, &user.name))
            .chain(user.groups.iter().map(move |group| key(true, group)))
            .filter_map(|key| self.by_subject.get(&key))
            .flatten()
    }

    fn rules_of(&self, binding: &Binding) -> Result<&Arc<Vec<Rule>>, MissingRole> {
        self.role_rules(&binding.role_kind, &binding.role, &binding.key.namespace)
    }

    /// The rules of a role that a binding in `namespace` refers to.
    ///
    /// # Errors
    /// What is missing when there is no such role, or no such kind of role.
    pub(crate) fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<&Arc<Vec<Rule>>, MissingRole> {
        let key = match kind {
            "ClusterRole" => Some(ObjectKey::new("", name)),
            "Role" => Some(ObjectKey::new(namespace, name)),
            _ => None,
        };
        let missing = || MissingRole { kind: kind.into(), name: name.into() };
        key.and_then(|key| self.roles.get(&key)).ok_or_else(missing)
    }
}

impl Granted {
    fn first(&self) -> &Arc<Binding> {
        &self.0[0]
    }
}

fn bind(granted: &mut Vec<Granted>, binding: &Arc<Binding>) {
    match granted.binary_search_by(|other| other.first().role().cmp(&binding.role())) {
        Ok(place) => {
            let bindings = &mut granted[place].0;
            // A binding may name a subject twice.
            if let Err(place) = bindings.binary_search_by(|other| other.key.cmp(&binding.key)) {
                bindings.insert(place, binding.clone());
            }
        }
        Err(place) => granted.insert(place, Granted(vec![binding.clone()])),
    }
}

fn unbind(granted: &mut Vec<Granted>, binding: &Binding) {
    if let Ok(place) = granted.binary_search_by(|other| other.first().role().cmp(&binding.role())) {
        granted[place].0.retain(|other| other.key != binding.key);
        if granted[place].0.is_empty() {
            granted.remove(place);
        }
    }
}

impl Binding {
    fn role(&self) -> (&str, &str) {
        (&self.role_kind, &self.role)
    }

    fn from_value(key: &ObjectKey, object: &Value) -> Self {
        let subjects =
            object["subjects"].items().iter().filter_map(|s| Subject::from_value(s, &key.namespace)).collect();
        Self {
            key: key.clone(),
            role_kind: object.str_at(&["roleRef", "kind"]).into(),
            role: object.str_at(&["roleRef", "name"]).into(),
            subjects,
        }
    }

    fn describe(&self, user: &UserInfo) -> String {
        let (what, name) = if self.key.namespace.is_empty() {
            ("ClusterRoleBinding", self.key.name.to_string())
        } else {
            ("RoleBinding", format!("{}/{}", self.key.name, self.key.namespace))
        };
        let subject = self.subjects.iter().find(|s| s.applies_to(user)).map(Subject::describe).unwrap_or_default();
        format!("{what} {name:?} of {} {:?} to {subject}", self.role_kind, self.role)
    }
}

impl Subject {
    fn from_value(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = value.str_at(&["name"]);
        let kind = match value.str_at(&["kind"]) {
            "User" => SubjectKind::User,
            "Group" => SubjectKind::Group,
            "ServiceAccount" => SubjectKind::ServiceAccount,
            _ => return None,
        };
        if kind != SubjectKind::ServiceAccount {
            return Some(Self { kind, matches: name.into(), shown: name.to_owned() });
        }
        let own = value.str_at(&["namespace"]);
        let namespace = if own.is_empty() { binding_namespace } else { own };
        (!namespace.is_empty()).then(|| Self {
            kind,
            matches: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}").into(),
            shown: format!("{name}/{namespace}"),
        })
    }

    fn applies_to(&self, user: &UserInfo) -> bool {
        match self.kind {
            SubjectKind::Group => user.in_group(&self.matches),
            SubjectKind::User | SubjectKind::ServiceAccount => self.matches == user.name,
        }
    }

    fn describe(&self) -> String {
        let kind = match self.kind {
            SubjectKind::User => "User",
            SubjectKind::Group => "Group",
            SubjectKind::ServiceAccount => "ServiceAccount",
        };
        format!("{kind} {:?}", self.shown)
    }
}

fn subject_keys(binding: &Binding) -> Vec<SubjectKey> {
    let key = |s: &Subject| SubjectKey {
        namespace: binding.key.namespace.clone(),
        group: s.kind == SubjectKind::Group,
        name: s.matches.clone(),
    };
    binding.subjects.iter().map(key).collect()
}

#[cfg(test)]
mod tests;
