//! What the owner of a cluster may say about who gets in and what may be granted to everybody: GKE's `legacyAbac`,
//! `anonymousAuthenticationConfig` and `rbacBindingConfig`.

use machinery::{GroupResource, Status, Value};
use serde::{Deserialize, Serialize};

use crate::RbacKind;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who may come without credentials.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Anonymous {
    /// Nobody: 401.
    Off,
    /// Everybody, as `system:anonymous`; RBAC decides.
    #[default]
    On,
    /// As `On` for these paths, 401 for all others, whatever RBAC says.
    Paths(Vec<String>),
}

impl Anonymous {
    /// GKE's mode LIMITED: the health endpoints.
    pub fn limited() -> Self {
        Self::Paths(["/healthz", "/livez", "/readyz"].map(str::to_owned).to_vec())
    }

    /// May somebody without credentials ask for this path?
    pub fn admits(&self, path: &str) -> bool {
        match self {
            Self::Off => false,
            Self::On => true,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        }
    }
}

/// The settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessSettings {
    pub legacy_abac: bool,
    pub anonymous: Anonymous,
    /// May new bindings name `system:authenticated`?
    pub bind_authenticated: bool,
    /// May new bindings name `system:unauthenticated` or `system:anonymous`?
    pub bind_unauthenticated: bool,
    /// GKE's rule since 1.28: `cluster-admin` is never bound to one of these.
    pub guard_cluster_admin: bool,
    /// The group whose groups count here (`authenticatorGroupsConfig`); empty for none.
    pub security_group: String,
    /// The Cloud KMS key that Secrets are encrypted under in the store (`databaseEncryption`); empty for none.
    pub encryption_key: String,
}

impl Default for AccessSettings {
    /// As upstream has it: nothing is guarded.
    fn default() -> Self {
        Self {
            legacy_abac: false,
            anonymous: Anonymous::On,
            bind_authenticated: true,
            bind_unauthenticated: true,
            guard_cluster_admin: false,
            security_group: String::new(),
            encryption_key: String::new(),
        }
    }
}

impl AccessSettings {
    /// Refuses a role binding that would newly give something to everybody where that is forbidden. Bindings that stand
    /// stay, and may be changed as long as no such subject is added and the role stays.
    ///
    /// # Errors
    /// 403 with the subject and the setting that forbids it.
    pub fn check_binding(&self, kind: RbacKind, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        let resource = match kind {
            RbacKind::RoleBinding => "rolebindings",
            RbacKind::ClusterRoleBinding => "clusterrolebindings",
            RbacKind::Role | RbacKind::ClusterRole => return Ok(()),
        };
        let name = machinery::meta::name(new);
        let refuse = |why: String| Err(Status::forbidden(&GroupResource::new(GROUP, resource), name, &why));
        let admin =
            new.str_at(&["roleRef", "kind"]) == "ClusterRole" && new.str_at(&["roleRef", "name"]) == "cluster-admin";
        let had = old.map(|old| everybody(old).collect::<Vec<_>>()).unwrap_or_default();
        for subject in everybody(new).filter(|subject| !had.contains(subject)) {
            if admin && self.guard_cluster_admin {
                return refuse(format!("the ClusterRole \"cluster-admin\" cannot be bound to {subject:?}"));
            }
            let (open, field) = match subject {
                AUTHENTICATED => (self.bind_authenticated, "enableInsecureBindingSystemAuthenticated"),
                _ => (self.bind_unauthenticated, "enableInsecureBindingSystemUnauthenticated"),
            };
            if !open {
                return refuse(format!(
                    "bindings to {subject:?} are not allowed in this cluster (rbacBindingConfig.{field} is false)"
                ));
            }
        }
        Ok(())
    }
}

/// The subjects of a binding that stand for everybody.
fn everybody(binding: &Value) -> impl Iterator<Item = &'static str> {
    let name = |subject: &Value| match (subject.str_at(&["kind"]), subject.str_at(&["name"])) {
        ("Group", AUTHENTICATED) => Some(AUTHENTICATED),
        ("Group", UNAUTHENTICATED) => Some(UNAUTHENTICATED),
        ("User", ANONYMOUS) => Some(ANONYMOUS),
        _ => None,
    };
    binding["subjects"].items().iter().filter_map(name)
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    fn binding(role: &str, kind: &str, name: &str) -> Value {
        json!({"metadata": {"name": "x"}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": kind, "name": name}]})
    }

    #[test]
    fn everybody_is_guarded_as_the_cluster_says() {
        let gke = AccessSettings { guard_cluster_admin: true, ..AccessSettings::default() };
        let strict = AccessSettings { bind_authenticated: false, bind_unauthenticated: false, ..gke.clone() };
        let check = |settings: &AccessSettings, new: &Value, old: Option<&Value>| {
            settings.check_binding(RbacKind::ClusterRoleBinding, new, old).map_err(|s| (s.code, s.message))
        };
        for (kind, name) in [("Group", AUTHENTICATED), ("Group", UNAUTHENTICATED), ("User", ANONYMOUS)] {
            let (view, admin) = (binding("view", kind, name), binding("cluster-admin", kind, name));
            assert_eq!(check(&AccessSettings::default(), &admin, None), Ok(()), "upstream does not mind");
            assert_eq!(check(&gke, &view, None), Ok(()));
            assert_eq!(check(&gke, &admin, None).unwrap_err().0, 403);
            let (code, text) = check(&strict, &view, None).unwrap_err();
            assert!(
                code == 403 && text.starts_with("clusterrolebindings.rbac.authorization.k8s.io \"x\" is forbidden")
            );
            assert_eq!(check(&strict, &view, Some(&view)), Ok(()), "what stands may stay");
        }
        assert_eq!(
            check(&strict, &binding("cluster-admin", "User", AUTHENTICATED), None),
            Ok(()),
            "a user of that name"
        );
        assert_eq!(check(&strict, &binding("view", "Group", "devs"), None), Ok(()));
    }

    #[test]
    fn the_limited_mode_shows_health_and_nothing_below_it() {
        let limited = Anonymous::limited();
        assert!(limited.admits("/livez") && limited.admits("/readyz") && limited.admits("/healthz"));
        assert!(!limited.admits("/livez/ping") && !limited.admits("/version") && !limited.admits("/livez/"));
        assert!(Anonymous::On.admits("/x") && !Anonymous::Off.admits("/livez"));
    }
}
