//! Users, roles and who asks, between wire messages, log, storage and the keyspace's own types.

use std::sync::Arc;

use bytes::Bytes;
use mvcc::{AuthCommand, AuthRecord, Caller, Permission, PermissionKind, Role, User};
use prost::Message as _;

use super::BadRequest;
use crate::proto as pb;

impl From<pb::Permission> for Permission {
    fn from(permission: pb::Permission) -> Self {
        use pb::permission::Type;
        let kind = match Type::try_from(permission.perm_type) {
            Ok(Type::Read) => PermissionKind::Read,
            Ok(Type::Write) => PermissionKind::Write,
            Ok(Type::Readwrite) => PermissionKind::ReadWrite,
            Err(_) => PermissionKind::Other(permission.perm_type),
        };
        Self { kind, key: permission.key, range_end: permission.range_end }
    }
}

impl From<Permission> for pb::Permission {
    fn from(permission: Permission) -> Self {
        let perm_type = match permission.kind {
            PermissionKind::Read => pb::permission::Type::Read.into(),
            PermissionKind::Write => pb::permission::Type::Write.into(),
            PermissionKind::ReadWrite => pb::permission::Type::Readwrite.into(),
            PermissionKind::Other(number) => number,
        };
        Self { perm_type, key: permission.key, range_end: permission.range_end }
    }
}

impl From<&User> for pb::User {
    fn from(user: &User) -> Self {
        Self {
            name: Bytes::copy_from_slice(user.name.as_bytes()),
            password: user.password.clone(),
            roles: user.roles.clone(),
            options: Some(pb::UserAddOptions { no_password: user.no_password }),
        }
    }
}

fn text(bytes: &Bytes) -> Result<String, BadRequest> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BadRequest::Command)
}

impl TryFrom<pb::User> for User {
    type Error = BadRequest;

    fn try_from(user: pb::User) -> Result<Self, BadRequest> {
        let no_password = user.options.is_some_and(|options| options.no_password);
        Ok(Self { name: text(&user.name)?, password: user.password, no_password, roles: user.roles })
    }
}

impl From<&Role> for pb::Role {
    fn from(role: &Role) -> Self {
        Self {
            name: Bytes::copy_from_slice(role.name.as_bytes()),
            key_permission: role.permissions.iter().cloned().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Role> for Role {
    type Error = BadRequest;

    fn try_from(role: pb::Role) -> Result<Self, BadRequest> {
        let permissions = role.key_permission.into_iter().map(Into::into).collect();
        Ok(Self { name: text(&role.name)?, permissions })
    }
}

/// The message of a user that has only a name and a password.
fn login(name: &str, password: Bytes, no_password: bool) -> pb::User {
    (&User { name: name.to_owned(), password, no_password, roles: Vec::new() }).into()
}

impl From<AuthCommand> for pb::AuthProposal {
    fn from(command: AuthCommand) -> Self {
        use pb::auth_proposal::Command as Wire;
        let command = match command {
            AuthCommand::Enable => Wire::Enable(pb::AuthEnableRequest {}),
            AuthCommand::Disable => Wire::Disable(pb::AuthDisableRequest {}),
            AuthCommand::Authenticate { name, token } => Wire::Authenticate(pb::Authenticated { name, token }),
            AuthCommand::UserAdd { name, password, no_password } => Wire::UserAdd(login(&name, password, no_password)),
            AuthCommand::UserDelete { name } => Wire::UserDelete(name),
            AuthCommand::UserChangePassword { name, password } => {
                Wire::UserChangePassword(login(&name, password, false))
            }
            AuthCommand::UserGrantRole { user, role } => {
                Wire::UserGrantRole(pb::AuthUserGrantRoleRequest { user, role })
            }
            AuthCommand::UserRevokeRole { user, role } => {
                Wire::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name: user, role })
            }
            AuthCommand::RoleAdd { name } => Wire::RoleAdd(name),
            AuthCommand::RoleDelete { name } => Wire::RoleDelete(name),
            AuthCommand::RoleGrantPermission { role, permission } => {
                let perm = permission.map(Into::into);
                Wire::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: role, perm })
            }
            AuthCommand::RoleRevokePermission { role, key, range_end } => {
                Wire::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
            }
        };
        Self { command: Some(command) }
    }
}

impl TryFrom<pb::AuthProposal> for AuthCommand {
    type Error = BadRequest;

    fn try_from(proposal: pb::AuthProposal) -> Result<Self, BadRequest> {
        use pb::auth_proposal::Command as Wire;
        Ok(match proposal.command.ok_or(BadRequest::Command)? {
            Wire::Enable(pb::AuthEnableRequest {}) => Self::Enable,
            Wire::Disable(pb::AuthDisableRequest {}) => Self::Disable,
            Wire::Authenticate(pb::Authenticated { name, token }) => Self::Authenticate { name, token },
            Wire::UserAdd(user) => {
                let User { name, password, no_password, .. } = user.try_into()?;
                Self::UserAdd { name, password, no_password }
            }
            Wire::UserDelete(name) => Self::UserDelete { name },
            Wire::UserChangePassword(user) => {
                let User { name, password, .. } = user.try_into()?;
                Self::UserChangePassword { name, password }
            }
            Wire::UserGrantRole(pb::AuthUserGrantRoleRequest { user, role }) => Self::UserGrantRole { user, role },
            Wire::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name: user, role }) => {
                Self::UserRevokeRole { user, role }
            }
            Wire::RoleAdd(name) => Self::RoleAdd { name },
            Wire::RoleDelete(name) => Self::RoleDelete { name },
            Wire::RoleGrantPermission(grant) => grant.into(),
            Wire::RoleRevokePermission(revoke) => revoke.into(),
        })
    }
}

impl From<pb::AuthRoleGrantPermissionRequest> for AuthCommand {
    fn from(request: pb::AuthRoleGrantPermissionRequest) -> Self {
        Self::RoleGrantPermission { role: request.name, permission: request.perm.map(Into::into) }
    }
}

impl From<pb::AuthRoleRevokePermissionRequest> for AuthCommand {
    fn from(request: pb::AuthRoleRevokePermissionRequest) -> Self {
        let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = request;
        Self::RoleRevokePermission { role, key, range_end }
    }
}

/// Who asks, in a proposal: its fields `caller` and `member`.
pub(super) fn write_caller(caller: &Caller) -> (Option<pb::Caller>, bool) {
    match caller {
        Caller::Member => (None, true),
        Caller::Anonymous => (None, false),
        Caller::User { name, revision } => (Some(pb::Caller { name: (**name).to_owned(), revision: *revision }), false),
    }
}

pub(super) fn read_caller(caller: Option<pb::Caller>, member: bool) -> Caller {
    match caller {
        Some(pb::Caller { name, revision }) => Caller::User { name: name.into(), revision },
        None if member => Caller::Member,
        None => Caller::Anonymous,
    }
}

/// What a stored piece is filed under, and its bytes (none when it is gone): `u` and the name of a user, `r` and that of
/// a role, or nothing else. Users and roles have etcd's own form (`authpb`).
pub(crate) fn store_record(record: &AuthRecord) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = |kind: u8, name: &str| [&[kind], name.as_bytes()].concat();
    match record {
        AuthRecord::Marks { enabled, revision } => {
            let marks = pb::AuthMarks { enabled: *enabled, revision: *revision };
            (Vec::new(), Some(marks.encode_to_vec()))
        }
        AuthRecord::User(user) => (key(b'u', &user.name), Some(pb::User::from(&**user).encode_to_vec())),
        AuthRecord::UserGone(name) => (key(b'u', name), None),
        AuthRecord::Role(role) => (key(b'r', &role.name), Some(pb::Role::from(&**role).encode_to_vec())),
        AuthRecord::RoleGone(name) => (key(b'r', name), None),
    }
}

/// Reads back what [`store_record`] wrote; nothing when it makes no sense.
pub(crate) fn load_record(key: &[u8], value: &[u8]) -> Option<AuthRecord> {
    let record = match key.first() {
        None => {
            let pb::AuthMarks { enabled, revision } = pb::AuthMarks::decode(value).ok()?;
            AuthRecord::Marks { enabled, revision }
        }
        Some(b'u') => AuthRecord::User(Arc::new(pb::User::decode(value).ok()?.try_into().ok()?)),
        Some(b'r') => AuthRecord::Role(Arc::new(pb::Role::decode(value).ok()?.try_into().ok()?)),
        Some(_) => return None,
    };
    (store_record(&record).0 == key).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_callers_survive_the_log() {
        let name = || "eve".to_owned();
        let permission = Permission { kind: PermissionKind::Other(9), key: "k".into(), range_end: "l".into() };
        let commands = [
            AuthCommand::Enable,
            AuthCommand::Disable,
            AuthCommand::Authenticate { name: name(), token: "abc".to_owned() },
            AuthCommand::UserAdd { name: name(), password: "hash".into(), no_password: false },
            AuthCommand::UserAdd { name: name(), password: Bytes::new(), no_password: true },
            AuthCommand::UserDelete { name: name() },
            AuthCommand::UserChangePassword { name: name(), password: "hash".into() },
            AuthCommand::UserGrantRole { user: name(), role: "r".to_owned() },
            AuthCommand::UserRevokeRole { user: name(), role: "r".to_owned() },
            AuthCommand::RoleAdd { name: name() },
            AuthCommand::RoleDelete { name: name() },
            AuthCommand::RoleGrantPermission { role: name(), permission: Some(permission) },
            AuthCommand::RoleGrantPermission { role: name(), permission: None },
            AuthCommand::RoleRevokePermission { role: name(), key: "k".into(), range_end: "l".into() },
        ];
        let user = |name: &str, revision| Caller::User { name: name.into(), revision };
        let callers = [Caller::Member, Caller::Anonymous, user("eve", 3), user("", 0)];
        for command in commands.map(mvcc::Command::Auth) {
            for caller in &callers {
                let bytes = super::super::encode(caller, &command);
                let read = pb::Proposal::decode(bytes).map(super::super::command).expect("a proposal");
                assert_eq!(read, Ok((caller.clone(), command.clone())));
            }
        }
    }

    #[test]
    fn records_survive_storage() {
        let roles = vec!["a".to_owned()];
        let user = User { name: "eve".to_owned(), password: "hash".into(), no_password: false, roles };
        let permission = Permission { kind: PermissionKind::Write, key: "k".into(), range_end: "\0".into() };
        let role = Role { name: "a".to_owned(), permissions: vec![permission] };
        let marks = AuthRecord::Marks { enabled: true, revision: 7 };
        for record in [AuthRecord::User(Arc::new(user)), AuthRecord::Role(Arc::new(role)), marks] {
            let (key, value) = store_record(&record);
            let value = value.expect("it is there");
            assert_eq!(load_record(&key, &value), Some(record));
            assert_eq!(load_record(b"x", &value), None);
        }
        assert_eq!(store_record(&AuthRecord::UserGone("eve".to_owned())), (b"ueve".to_vec(), None));
        assert_eq!(store_record(&AuthRecord::RoleGone("a".to_owned())), (b"ra".to_vec(), None));
    }
}
