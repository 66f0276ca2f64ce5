//! Whether a caller may do what it asks for (etcd: `etcdserver/apply`, `auth/store`).

use bytes::Bytes;

use super::granted::Access;
use super::{Auth, AuthCommand, AuthError, Caller, ROOT};
use crate::snapshot::Snapshot;
use crate::{Command, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

impl Auth {
    /// Whether nothing is asked of this caller.
    fn waves_through(&self, caller: &Caller) -> bool {
        !self.enabled || *caller == Caller::Member
    }

    /// Whether a caller may read every key of a range.
    ///
    /// # Errors
    /// No name, an old revision, or no permission.
    pub fn permit_read(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.permit_range(caller, key, range_end, Access::Read)
    }

    fn permit_write(&self, caller: &Caller, key: &[u8], range_end: &[u8]) -> Result<(), AuthError> {
        self.permit_range(caller, key, range_end, Access::Write)
    }

    fn permit_range(&self, caller: &Caller, key: &[u8], range_end: &[u8], access: Access) -> Result<(), AuthError> {
        if self.waves_through(caller) {
            return Ok(());
        }
        let Caller::User { name, revision: 1.. } = caller else { return Err(AuthError::UserEmpty) };
        self.permit_revision(caller)?;
        let user = self.users.get(&**name).ok_or(AuthError::PermissionDenied)?;
        let granted = || self.granted.get(&**name).is_some_and(|granted| granted.covers(key, range_end, access));
        if user.has_role(ROOT) || granted() { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether a caller's revision is the present one: what was read for it may have been read by other rules else. A
    /// signed token may even come from later, when this store was restored from an earlier copy.
    ///
    /// # Errors
    /// When it is another.
    pub fn permit_current(&self, caller: &Caller) -> Result<(), AuthError> {
        match caller {
            Caller::User { revision, .. } if self.enabled && *revision != self.revision => Err(AuthError::OldRevision),
            _ => Ok(()),
        }
    }

    /// Whether users and roles are still as they were when the caller showed who it is.
    fn permit_revision(&self, caller: &Caller) -> Result<(), AuthError> {
        match caller {
            Caller::User { revision, .. } if *revision < self.revision => Err(AuthError::OldRevision),
            _ => Ok(()),
        }
    }

    /// Whether a caller may manage the cluster: only those with the role `root` may.
    ///
    /// # Errors
    /// No name, an unknown one, or another role.
    pub fn permit_admin(&self, caller: &Caller) -> Result<(), AuthError> {
        if self.waves_through(caller) {
            return Ok(());
        }
        let name = self.permit_known(caller)?;
        let user = self.users.get(name).ok_or(AuthError::UserNotFound)?;
        if user.has_role(ROOT) { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether a caller may see a user: itself it may.
    ///
    /// # Errors
    /// As [`Auth::permit_admin`].
    pub fn permit_user_get(&self, caller: &Caller, user: &str) -> Result<(), AuthError> {
        let own = match caller {
            Caller::User { name, .. } => **name == *user,
            // etcd compares the names alone: to whoever has none, the user without a name is itself (and does not exist).
            Caller::Member | Caller::Anonymous => user.is_empty(),
        };
        self.permit_admin(caller).or_else(|error| if own { Ok(()) } else { Err(error) })
    }

    /// Whether a caller may see a role: its own it may.
    ///
    /// # Errors
    /// As [`Auth::permit_admin`].
    pub fn permit_role_get(&self, caller: &Caller, role: &str) -> Result<(), AuthError> {
        let own = match caller {
            Caller::User { name, .. } => self.users.get(&**name).is_some_and(|user| user.has_role(role)),
            Caller::Member | Caller::Anonymous => false,
        };
        self.permit_admin(caller).or_else(|error| if own { Ok(()) } else { Err(error) })
    }

    /// Whether a caller said who it is, which is all that some requests ask for.
    ///
    /// # Errors
    /// When it did not.
    pub fn permit_named(&self, caller: &Caller) -> Result<(), AuthError> {
        if self.enabled && *caller == Caller::Anonymous { Err(AuthError::UserEmpty) } else { Ok(()) }
    }

    fn permit_known<'c>(&self, caller: &'c Caller) -> Result<&'c str, AuthError> {
        match caller {
            Caller::User { name, .. } if !name.is_empty() => Ok(name),
            _ => Err(AuthError::UserEmpty),
        }
    }
}

impl Snapshot {
    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Whether a caller may have a command applied.
    pub(crate) fn permit(&self, caller: &Caller, command: &Command) -> Result<(), AuthError> {
        if self.auth.waves_through(caller) {
            return Ok(());
        }
        match command {
            Command::Put(put) => self.permit_put(caller, put),
            Command::DeleteRange(delete) => self.permit_delete_range(caller, delete),
            Command::Txn(txn) => self.permit_txn(caller, txn),
            Command::LeaseRevoke { id } => self.permit_lease_write(caller, *id),
            Command::Auth(AuthCommand::Authenticate { .. }) => Ok(()),
            Command::Auth(_) => self.auth.permit_admin(caller),
            // Decided before they are proposed, once for all.
            Command::Compact(_)
            | Command::LeaseGrant { .. }
            | Command::LeaseCheckpoint(_)
            | Command::AlarmRaise(_)
            | Command::AlarmClear(_)
            | Command::Downgrade(_) => Ok(()),
        }
    }

    fn permit_put(&self, caller: &Caller, put: &PutRequest) -> Result<(), AuthError> {
        self.auth.permit_write(caller, &put.key, &[])?;
        // Whoever may not revoke a lease may not put keys on it either.
        self.permit_lease_write(caller, put.lease)?;
        if put.prev_kv { self.auth.permit_read(caller, &put.key, &[]) } else { Ok(()) }
    }

    fn permit_delete_range(&self, caller: &Caller, delete: &DeleteRangeRequest) -> Result<(), AuthError> {
        self.auth.permit_write(caller, &delete.key, &delete.range_end)?;
        if delete.prev_kv { self.auth.permit_read(caller, &delete.key, &delete.range_end) } else { Ok(()) }
    }

    /// Whether a caller may run a transaction: all its conditions and both its branches.
    ///
    /// # Errors
    /// As [`Auth::permit_read`].
    pub fn permit_txn(&self, caller: &Caller, txn: &TxnRequest) -> Result<(), AuthError> {
        for compare in &txn.compare {
            self.auth.permit_read(caller, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                RequestOp::Range(range) => self.auth.permit_read(caller, &range.key, &range.range_end)?,
                RequestOp::Put(put) => self.permit_put(caller, put)?,
                RequestOp::DeleteRange(delete) => self.permit_delete_range(caller, delete)?,
                RequestOp::Txn(txn) => self.permit_txn(caller, txn)?,
                RequestOp::Empty => {}
            }
        }
        Ok(())
    }

    /// Whether a caller may write every key of a lease (which may not exist): what revoking and renewing needs.
    ///
    /// # Errors
    /// As [`Auth::permit_read`].
    pub fn permit_lease_write(&self, caller: &Caller, id: i64) -> Result<(), AuthError> {
        self.permit_lease(caller, id, Access::Write)
    }

    /// Whether a caller may read every key of a lease (which may not exist).
    ///
    /// # Errors
    /// As [`Auth::permit_read`].
    pub fn permit_lease_read(&self, caller: &Caller, id: i64) -> Result<(), AuthError> {
        self.permit_lease(caller, id, Access::Read)
    }

    fn permit_lease(&self, caller: &Caller, id: i64, access: Access) -> Result<(), AuthError> {
        let Some(lease) = self.leases.get(&id) else { return Ok(()) };
        // Those who manage the cluster are not asked about their revision here.
        if self.auth.permit_admin(caller).is_ok() {
            return Ok(());
        }
        let permit = |key: &Bytes| self.auth.permit_range(caller, key, &[], access);
        lease.keys.iter().try_for_each(permit)
    }
}
