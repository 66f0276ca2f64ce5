//! etcd's users, roles and permissions: who may do what.
//!
//! ```text
//! Command::Auth ─► Snapshot::permit(caller) ─► Auth::apply ─► records (disk), TokenChange (whoever keeps tokens)
//! other commands ─► Snapshot::permit(caller) ─► the keyspace
//! ```
//! Passwords come hashed and tokens are kept elsewhere: both need time or chance, which an applied command must not.

mod change;
mod granted;
mod permit;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use imbl::OrdMap;

pub use types::{AuthCommand, AuthError, AuthRecord, Caller, Permission, PermissionKind, Role, TokenChange, User};

use granted::Granted;

/// The user that must exist, and the role it must have, before authentication can be enabled.
pub(crate) const ROOT: &str = "root";

/// Users, roles and whether they matter. Cloning is O(1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: OrdMap<String, Arc<User>>,
    roles: OrdMap<String, Arc<Role>>,
    /// What the roles of each user add up to; follows the two above.
    granted: OrdMap<String, Arc<Granted>>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: OrdMap::new(), roles: OrdMap::new(), granted: OrdMap::new() }
    }
}

impl Auth {
    /// Whether callers are asked who they are.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// 1 at first, and one more after each change of users, roles and permissions.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// A role by name.
    pub fn role(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter().map(|(_, user)| user)
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.iter().map(|(_, role)| role)
    }

    /// Everything, in the form a checkpoint keeps.
    pub fn records(&self) -> impl Iterator<Item = AuthRecord> {
        let users = self.users().cloned().map(AuthRecord::User);
        let roles = self.roles().cloned().map(AuthRecord::Role);
        users.chain(roles).chain([self.marks()])
    }

    /// Rebuilds it from its records, in any order.
    pub fn restore(records: impl IntoIterator<Item = AuthRecord>) -> Self {
        let mut auth = Self::default();
        for record in records {
            match record {
                AuthRecord::Marks { enabled, revision } => (auth.enabled, auth.revision) = (enabled, revision),
                AuthRecord::User(user) => drop(auth.users.insert(user.name.clone(), user)),
                AuthRecord::UserGone(name) => drop(auth.users.remove(&name)),
                AuthRecord::Role(role) => drop(auth.roles.insert(role.name.clone(), role)),
                AuthRecord::RoleGone(name) => drop(auth.roles.remove(&name)),
            }
        }
        auth.grant_all(|_| true);
        auth
    }

    fn marks(&self) -> AuthRecord {
        AuthRecord::Marks { enabled: self.enabled, revision: self.revision }
    }

    /// Adds up again what the users concerned may do.
    fn grant_all(&mut self, concerned: impl Fn(&User) -> bool) {
        for (name, user) in &self.users {
            if concerned(user) {
                let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
                self.granted.insert(name.clone(), Arc::new(Granted::new(roles)));
            }
        }
    }
}
