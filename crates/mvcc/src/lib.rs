//! etcd's keyspace in memory: revisions, transactions, ranges, leases, compaction, history.
//!
//! Pure: [`Keyspace::apply`] takes a command and the time and returns the answer, the changes for watches and the
//! batch to persist. Everything in it is persistent (copy on write), so a [`Snapshot`] and a fork are O(1) clones.
//!
//! ```text
//! Command ──► Keyspace::apply ──► Applied { answer, changes (watches), batch (disk) }
//!                  │
//!                  └─ snapshot() ──► range, history, hash_kv, leases, auth    readers, any thread
//! ```

mod auth;
mod check;
mod compact;
mod hash;
mod keyspace;
mod lease;
mod range;
mod row;
mod snapshot;
mod txn;
mod types;

pub use auth::{Auth, AuthCommand, AuthError, AuthRecord, Caller, Permission, PermissionKind, Role, TokenChange, User};
pub use check::{check_delete_range, check_put, check_range, check_txn};
pub use hash::HashKv;
pub use keyspace::{Applied, Batch, Keyspace, Marks};
pub use lease::{LEASE_TTL_MAX, LeaseRecord, LeaseState};
pub use row::{BadRow, Change, Changes, Row, RowRevision, row_key};
pub use snapshot::{History, Snapshot, in_range};
pub use types::{
    Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Event,
    EventKind, KeyValue, MvccError, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, Response,
    ResponseOp, SortOrder, SortTarget, TxnRequest, TxnResponse, prefix_end,
};
