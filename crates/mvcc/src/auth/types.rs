//! The words of etcd's service `Auth`, without its wire format.

use std::sync::Arc;

use bytes::Bytes;

/// Who asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The cluster itself and what runs in a member's process: may do everything.
    Member,
    /// A client that did not say who it is.
    Anonymous,
    /// A client that showed a token or a certificate.
    User {
        /// Its name; such a user need not exist.
        name: Arc<str>,
        /// The revision of users and roles when it showed that.
        revision: u64,
    },
}

/// A user as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Its name; never empty.
    pub name: String,
    /// The bcrypt hash of its password; empty when it has none.
    pub password: Bytes,
    /// Made without a password for good: it comes by certificate or signed token.
    pub no_password: bool,
    /// Its roles, sorted.
    pub roles: Vec<String>,
}

impl User {
    /// Whether it has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }
}

/// A role as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    /// Its name; never empty.
    pub name: String,
    /// By key.
    pub permissions: Vec<Permission>,
}

/// A right on a range of keys; ranges as in [`crate::RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// To do what.
    pub kind: PermissionKind,
    /// First key.
    pub key: Bytes,
    /// End of the range; empty for one key.
    pub range_end: Bytes,
}

/// What a permission is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermissionKind {
    /// Reading and watching.
    Read,
    /// Putting and deleting.
    Write,
    /// Both.
    ReadWrite,
    /// A number etcd does not know: it keeps it, and it allows nothing.
    Other(i32),
}

/// A change of users and roles, through the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// Ask callers who they are from now on.
    Enable,
    /// Ask no more.
    Disable,
    /// A user has shown its password; gives it a token.
    Authenticate {
        /// The user.
        name: String,
        /// First part of its simple token; empty when tokens are of another kind.
        token: String,
    },
    /// Makes a user.
    UserAdd {
        /// Its name.
        name: String,
        /// Hash of its password.
        password: Bytes,
        /// Without a password for good.
        no_password: bool,
    },
    /// Deletes a user.
    UserDelete {
        /// Its name.
        name: String,
    },
    /// Sets a password.
    UserChangePassword {
        /// Whose.
        name: String,
        /// Its hash.
        password: Bytes,
    },
    /// Gives a user a role.
    UserGrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    UserRevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// Makes a role.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// Deletes a role, and takes it from all users.
    RoleDelete {
        /// Its name.
        name: String,
    },
    /// Gives a role a permission.
    RoleGrantPermission {
        /// The role.
        role: String,
        /// Absent when the request had none, which etcd refuses.
        permission: Option<Permission>,
    },
    /// Takes a permission from a role.
    RoleRevokePermission {
        /// The role.
        role: String,
        /// The permission's first key.
        key: Bytes,
        /// The permission's end.
        range_end: Bytes,
    },
}

/// A stored piece of users and roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthRecord {
    /// What there is once.
    Marks {
        /// Whether callers are asked who they are.
        enabled: bool,
        /// The revision of users and roles.
        revision: u64,
    },
    /// A user, new or changed.
    User(Arc<User>),
    /// A user is gone.
    UserGone(String),
    /// A role, new or changed.
    Role(Arc<Role>),
    /// A role is gone.
    RoleGone(String),
}

/// What a command means for tokens that are not signed: each member keeps those in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    /// The user has a token that begins like this.
    Issue {
        /// The user.
        user: String,
        /// Its first part.
        token: String,
    },
    /// This user's tokens are void.
    DropUser(String),
    /// All tokens are void.
    DropAll,
}

/// Why something was refused to a caller. The texts are etcd's: clients match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// Enabling needs a user `root`.
    RootUserNotExist,
    /// Enabling needs the role `root` for that user.
    RootRoleNotExist,
    /// The user's name is taken.
    UserAlreadyExist,
    /// No name given: neither for a new user, nor by a caller.
    UserEmpty,
    /// No such user.
    UserNotFound,
    /// The role's name is taken.
    RoleAlreadyExist,
    /// No such role.
    RoleNotFound,
    /// A role without a name.
    RoleEmpty,
    /// Wrong name or password.
    AuthFailed,
    /// A password for a user made without one.
    NoPasswordUser,
    /// More than bcrypt takes.
    PasswordTooLong,
    /// A permission is missing in the request.
    PermissionNotGiven,
    /// The caller may not do that.
    PermissionDenied,
    /// The user does not have that role.
    RoleNotGranted,
    /// The role does not have that permission.
    PermissionNotGranted,
    /// Users and roles do not matter at the moment.
    NotEnabled,
    /// The caller authenticated before the last change of users and roles.
    OldRevision,
    /// The token is unknown, expired or not signed by us.
    InvalidToken,
    /// What would lock everybody out, and ranges that make no sense.
    InvalidManagement,
    /// Tokens are only verified here, never made.
    VerifyOnly,
}

impl AuthError {
    /// etcd's text (`api/v3rpc/rpctypes`; what has no entry there goes out as the server has it).
    pub const fn text(self) -> &'static str {
        match self {
            Self::RootUserNotExist => "etcdserver: root user does not exist",
            Self::RootRoleNotExist => "etcdserver: root user does not have root role",
            Self::UserAlreadyExist => "etcdserver: user name already exists",
            Self::UserEmpty => "etcdserver: user name is empty",
            Self::UserNotFound => "etcdserver: user name not found",
            Self::RoleAlreadyExist => "etcdserver: role name already exists",
            Self::RoleNotFound => "etcdserver: role name not found",
            Self::RoleEmpty => "etcdserver: role name is empty",
            Self::AuthFailed => "etcdserver: authentication failed, invalid user ID or password",
            Self::NoPasswordUser => "auth: authentication failed, password was given for no password user",
            Self::PasswordTooLong => "bcrypt: password length exceeds 72 bytes",
            Self::PermissionNotGiven => "etcdserver: permission not given",
            Self::PermissionDenied => "etcdserver: permission denied",
            Self::RoleNotGranted => "etcdserver: role is not granted to the user",
            Self::PermissionNotGranted => "etcdserver: permission is not granted to the role",
            Self::NotEnabled => "etcdserver: authentication is not enabled",
            Self::OldRevision => "etcdserver: revision of auth store is old",
            Self::InvalidToken => "etcdserver: invalid auth token",
            Self::InvalidManagement => "etcdserver: invalid auth management",
            Self::VerifyOnly => "auth: token signing attempted with verify-only key",
        }
    }
}
