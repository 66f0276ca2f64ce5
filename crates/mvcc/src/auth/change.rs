//! How commands change users and roles (etcd: `auth/store`).

use std::sync::Arc;

use super::{Auth, AuthCommand, AuthError, AuthRecord, Permission, ROOT, Role, TokenChange, User};

/// What a command led to beside its answer.
#[derive(Debug, Default)]
pub(crate) struct AuthOutcome {
    /// What to store.
    pub(crate) records: Vec<AuthRecord>,
    pub(crate) tokens: Option<TokenChange>,
}

type Done = Result<AuthOutcome, AuthError>;

impl Auth {
    /// Applies a command; a refused one changes nothing.
    pub(crate) fn apply(&mut self, command: &AuthCommand) -> Done {
        match command {
            AuthCommand::Enable => self.enable(),
            AuthCommand::Disable => Ok(self.disable()),
            AuthCommand::Authenticate { name, token } => self.authenticate(name, token),
            AuthCommand::UserAdd { name, password, no_password } => {
                let password = if *no_password { bytes::Bytes::new() } else { password.clone() };
                self.user_add(User { name: name.clone(), password, no_password: *no_password, roles: Vec::new() })
            }
            AuthCommand::UserDelete { name } => self.user_delete(name),
            AuthCommand::UserChangePassword { name, password } => {
                let user = self.find_user(name)?;
                let password = if user.no_password { bytes::Bytes::new() } else { password.clone() };
                let mut outcome = self.put_user(User { password, ..(*user).clone() });
                outcome.tokens = Some(TokenChange::DropUser(name.clone()));
                Ok(outcome)
            }
            AuthCommand::UserGrantRole { user, role } => self.user_grant_role(user, role),
            AuthCommand::UserRevokeRole { user, role } => self.user_revoke_role(user, role),
            AuthCommand::RoleAdd { name } => self.role_add(name),
            AuthCommand::RoleDelete { name } => self.role_delete(name),
            AuthCommand::RoleGrantPermission { role, permission } => {
                let permission = permission.as_ref().ok_or(AuthError::PermissionNotGiven)?;
                self.role_grant_permission(role, permission)
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                let role = self.find_role(role)?;
                let mut permissions = role.permissions.clone();
                permissions.retain(|own| own.key != *key || own.range_end != *range_end);
                if permissions.len() == role.permissions.len() {
                    return Err(AuthError::PermissionNotGranted);
                }
                Ok(self.put_role(Role { name: role.name.clone(), permissions }))
            }
        }
    }

    fn find_user(&self, name: &str) -> Result<Arc<User>, AuthError> {
        self.users.get(name).cloned().ok_or(AuthError::UserNotFound)
    }

    fn find_role(&self, name: &str) -> Result<Arc<Role>, AuthError> {
        self.roles.get(name).cloned().ok_or(AuthError::RoleNotFound)
    }

    /// The one change that makes no revision.
    fn enable(&mut self) -> Done {
        if self.enabled {
            return Ok(AuthOutcome::default());
        }
        let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
        if !root.has_role(ROOT) {
            return Err(AuthError::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(AuthOutcome { records: vec![self.marks()], tokens: None })
    }

    fn disable(&mut self) -> AuthOutcome {
        if !self.enabled {
            return AuthOutcome::default();
        }
        self.enabled = false;
        self.revision += 1;
        AuthOutcome { records: vec![self.marks()], tokens: Some(TokenChange::DropAll) }
    }

    /// The password was compared before: it must not be in the log, and comparing is slow.
    fn authenticate(&self, name: &str, token: &str) -> Done {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        if self.users.get(name).is_none_or(|user| user.no_password) {
            return Err(AuthError::AuthFailed);
        }
        let issue = TokenChange::Issue { user: name.to_owned(), token: token.to_owned() };
        Ok(AuthOutcome { records: Vec::new(), tokens: (!token.is_empty()).then_some(issue) })
    }

    fn user_add(&mut self, user: User) -> Done {
        if user.name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&user.name) {
            return Err(AuthError::UserAlreadyExist);
        }
        Ok(self.put_user(user))
    }

    fn user_delete(&mut self, name: &str) -> Done {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.find_user(name)?;
        self.users.remove(name);
        self.granted.remove(name);
        let mut outcome = self.changed(vec![AuthRecord::UserGone(name.to_owned())]);
        outcome.tokens = Some(TokenChange::DropUser(name.to_owned()));
        Ok(outcome)
    }

    fn user_grant_role(&mut self, user: &str, role: &str) -> Done {
        let mut user = User::clone(&*self.find_user(user)?);
        // The role root means everything whether or not it was made.
        if role != ROOT {
            self.find_role(role)?;
        }
        let Err(place) = user.roles.binary_search_by(|own| own.as_str().cmp(role)) else {
            return Ok(AuthOutcome::default());
        };
        user.roles.insert(place, role.to_owned());
        Ok(self.put_user(user))
    }

    fn user_revoke_role(&mut self, user: &str, role: &str) -> Done {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let mut user = User::clone(&*self.find_user(user)?);
        if !user.has_role(role) {
            return Err(AuthError::RoleNotGranted);
        }
        user.roles.retain(|own| own != role);
        Ok(self.put_user(user))
    }

    fn role_add(&mut self, name: &str) -> Done {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleAlreadyExist);
        }
        Ok(self.put_role(Role { name: name.to_owned(), permissions: Vec::new() }))
    }

    fn role_delete(&mut self, name: &str) -> Done {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.find_role(name)?;
        self.roles.remove(name);
        let mut records = vec![AuthRecord::RoleGone(name.to_owned())];
        let holders: Vec<Arc<User>> = self.users().filter(|user| user.has_role(name)).cloned().collect();
        for holder in holders {
            let mut user = User::clone(&*holder);
            user.roles.retain(|own| own != name);
            let user = Arc::new(user);
            self.users.insert(user.name.clone(), user.clone());
            self.grant_all(|other| other.name == user.name);
            records.push(AuthRecord::User(user));
        }
        Ok(self.changed(records))
    }

    fn role_grant_permission(&mut self, role: &str, permission: &Permission) -> Done {
        let Permission { key, range_end, .. } = permission;
        if key.is_empty() || !(range_end.is_empty() || range_end[..] == [0] || key < range_end) {
            return Err(AuthError::InvalidManagement);
        }
        let mut role = Role::clone(&*self.find_role(role)?);
        // etcd looks only at the first permission on this key: others on it are added again, and listed twice.
        let place = role.permissions.partition_point(|own| own.key < *key);
        match role.permissions.get_mut(place) {
            Some(own) if own.key == *key && own.range_end == *range_end => own.kind = permission.kind,
            _ => {
                let place = role.permissions.partition_point(|own| own.key <= *key);
                role.permissions.insert(place, permission.clone());
            }
        }
        Ok(self.put_role(role))
    }

    fn put_user(&mut self, user: User) -> AuthOutcome {
        let user = Arc::new(user);
        self.users.insert(user.name.clone(), user.clone());
        self.grant_all(|other| other.name == user.name);
        self.changed(vec![AuthRecord::User(user)])
    }

    fn put_role(&mut self, role: Role) -> AuthOutcome {
        let role = Arc::new(role);
        self.roles.insert(role.name.clone(), role.clone());
        self.grant_all(|user| user.has_role(&role.name));
        self.changed(vec![AuthRecord::Role(role)])
    }

    fn changed(&mut self, mut records: Vec<AuthRecord>) -> AuthOutcome {
        self.revision += 1;
        records.push(self.marks());
        AuthOutcome { records, tokens: None }
    }
}
