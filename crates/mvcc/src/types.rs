//! The words of the etcd v3 key-value API, without its wire format.
//!
//! Enum numbers a client may send that etcd does not know are refused before these types are made, except in compares,
//! where etcd lets them pass (see [`CompareResult::Other`]).

use bytes::Bytes;

use crate::{AuthCommand, AuthError};

/// One version of one key. Revisions as etcd counts them: an empty store stands at 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key; never empty.
    pub key: Bytes,
    /// The value; empty for deletions.
    pub value: Bytes,
    /// Revision of the put that made the key; 0 for deletions.
    pub create_revision: i64,
    /// Revision of this change.
    pub mod_revision: i64,
    /// 1, 2, 3… since the key was made; 0 for deletions.
    pub version: i64,
    /// The attached lease, 0 for none.
    pub lease: i64,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Made or overwritten.
    Put,
    /// Deleted.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// After the change; for deletions only the key and the revision of the deletion.
    pub kv: KeyValue,
    /// Before the change, when asked for and still kept; absent when the key was made by this change.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Whether the put made the key.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// Order of a range's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// By key; ascending when the target is not the key.
    #[default]
    None,
    /// Lowest first.
    Ascend,
    /// Highest first.
    Descend,
}

/// What a range's answer is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key's bytes.
    #[default]
    Key,
    /// `version`.
    Version,
    /// `create_revision`.
    Create,
    /// `mod_revision`.
    Mod,
    /// The value's bytes.
    Value,
}

/// `Range`. `range_end` empty: one key; `"\0"`: every key from `key` on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeRequest {
    /// First key.
    pub key: Bytes,
    /// First key no longer in the range, see above.
    pub range_end: Bytes,
    /// At most so many keys; 0 for all.
    pub limit: i64,
    /// As of this revision; 0 or less for now.
    pub revision: i64,
    /// Order of the answer.
    pub sort_order: SortOrder,
    /// What to order by.
    pub sort_target: SortTarget,
    /// May be answered from local state without asking the quorum.
    pub serializable: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Leave out keys changed before this revision.
    pub min_mod_revision: i64,
    /// Leave out keys changed after this revision; 0 for no bound.
    pub max_mod_revision: i64,
    /// Leave out keys made before this revision.
    pub min_create_revision: i64,
    /// Leave out keys made after this revision; 0 for no bound.
    pub max_create_revision: i64,
}

impl RangeRequest {
    /// One key, now.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// Every key that starts with `prefix`, now.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let key: Bytes = prefix.into();
        let range_end = prefix_end(&key);
        Self { key, range_end, ..Self::default() }
    }
}

/// The `range_end` that covers every key with this prefix; `"\0"` (all that follow) when there is no such key.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    match kept {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
        None => Bytes::from_static(b"\0"),
    }
}

/// Answer to [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// The store's revision when it answered (not the one asked for).
    pub revision: i64,
    /// The keys found.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut something off.
    pub more: bool,
    /// Keys in the range before limit and filters.
    pub count: i64,
}

/// `Put`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutRequest {
    /// The key; must not be empty.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease to attach, 0 for none.
    pub lease: i64,
    /// Whether to return what stood there before.
    pub prev_kv: bool,
    /// Keep the value that stands there.
    pub ignore_value: bool,
    /// Keep the lease that stands there.
    pub ignore_lease: bool,
}

/// Answer to [`PutRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutResponse {
    /// The revision of the put.
    pub revision: i64,
    /// What stood there before, when asked for.
    pub prev_kv: Option<KeyValue>,
}

/// `DeleteRange`; ranges as in [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteRangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the range.
    pub range_end: Bytes,
    /// Whether to return what was deleted.
    pub prev_kv: bool,
}

/// Answer to [`DeleteRangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteRangeResponse {
    /// The store's revision after it.
    pub revision: i64,
    /// Keys deleted.
    pub deleted: i64,
    /// What was deleted, in key order, when asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// How a compare relates what is there to what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompareResult {
    /// `=`
    #[default]
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
    /// A number etcd does not know: it counts as true there.
    Other,
}

/// What a compare looks at, and the value given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    /// `version`.
    Version(i64),
    /// `create_revision`.
    Create(i64),
    /// `mod_revision`.
    Mod(i64),
    /// The value; false on a missing key whatever the relation.
    Value(Bytes),
    /// The lease.
    Lease(i64),
    /// A target that is not known: every key compares as equal.
    Unknown,
}

/// One condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The relation.
    pub result: CompareResult,
    /// What is compared with what.
    pub target: CompareTarget,
    /// First key.
    pub key: Bytes,
    /// End of the range, all keys of which must satisfy the condition; empty for one key.
    pub range_end: Bytes,
}

impl Compare {
    /// `mod_revision(key) == revision`; 0 means "the key does not exist".
    pub fn mod_revision(key: impl Into<Bytes>, revision: i64) -> Self {
        Self {
            result: CompareResult::Equal,
            target: CompareTarget::Mod(revision),
            key: key.into(),
            range_end: Bytes::new(),
        }
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOp {
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    DeleteRange(DeleteRangeRequest),
    /// A transaction inside.
    Txn(TxnRequest),
    /// An operation with no request in it, which etcd refuses.
    Empty,
}

/// `Txn`: if all of `compare` hold then `success`, else `failure`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnRequest {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// What to do when all hold.
    pub success: Vec<RequestOp>,
    /// What to do else.
    pub failure: Vec<RequestOp>,
}

impl TxnRequest {
    /// Whether no operation could write (a nested transaction counts as a write, as in etcd).
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, RequestOp::Range(_)))
    }

    /// Whether every operation is a serializable range.
    pub fn is_serializable(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
    }
}

/// Answer to a [`RequestOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseOp {
    /// To a range.
    Range(RangeResponse),
    /// To a put.
    Put(PutResponse),
    /// To a deletion.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction inside.
    Txn(TxnResponse),
}

/// Answer to [`TxnRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnResponse {
    /// The store's revision after it.
    pub revision: i64,
    /// Which branch was taken.
    pub succeeded: bool,
    /// One answer for each operation of the branch.
    pub responses: Vec<ResponseOp>,
}

/// An alarm of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The quota is used up: puts and lease grants are refused.
    NoSpace,
    /// Members disagree: nothing is answered.
    Corrupt,
}

/// An alarm and the member it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member.
    pub member: u64,
    /// The kind.
    pub kind: AlarmKind,
}

/// What goes through the log and changes the keyspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `Put`.
    Put(PutRequest),
    /// `DeleteRange`.
    DeleteRange(DeleteRangeRequest),
    /// `Txn`.
    Txn(TxnRequest),
    /// `Compact` to this revision.
    Compact(i64),
    /// `LeaseGrant`; the id is already chosen, the TTL in seconds already raised to the minimum.
    LeaseGrant {
        /// Positive.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// `LeaseRevoke`, by a client or by expiry.
    LeaseRevoke {
        /// The lease.
        id: i64,
    },
    /// Notes what leases have left, by id, in seconds; 0 for all. The leader's own.
    LeaseCheckpoint(Vec<(i64, i64)>),
    /// Raises an alarm.
    AlarmRaise(Alarm),
    /// Disarms; member 0 means every member.
    AlarmClear(Alarm),
    /// Changes users and roles.
    Auth(AuthCommand),
    /// Takes the cluster down to this minor version of 3; nothing ends that.
    Downgrade(Option<u8>),
}

/// Answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `Put`.
    Put(PutResponse),
    /// To `DeleteRange`.
    DeleteRange(DeleteRangeResponse),
    /// To `Txn`.
    Txn(TxnResponse),
    /// To `Compact`, the lease commands and changes of users and roles: the store's revision.
    Done {
        /// The store's revision.
        revision: i64,
    },
    /// To `Authenticate`.
    Authenticated {
        /// The store's revision.
        revision: i64,
        /// The revision of users and roles.
        auth_revision: u64,
    },
    /// To the alarm commands: the alarms raised or cleared by it.
    Alarms(Vec<Alarm>),
}

/// Why the keyspace refused. The texts are etcd's: clients match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MvccError {
    /// A request without a key.
    EmptyKey,
    /// `ignore_*` on a missing key, or an empty operation.
    KeyNotFound,
    /// `ignore_value` with a value.
    ValueProvided,
    /// `ignore_lease` with a lease.
    LeaseProvided,
    /// More operations than allowed.
    TooManyOps,
    /// A key written twice in a transaction.
    DuplicateKey,
    /// The revision is compacted away.
    Compacted {
        /// The compaction's revision.
        revision: i64,
    },
    /// The revision is not there yet.
    FutureRevision,
    /// The quota is used up.
    NoSpace,
    /// The cluster is marked corrupt.
    Corrupt,
    /// No such lease.
    LeaseNotFound,
    /// The lease id is taken.
    LeaseExists,
    /// The TTL is beyond 9,000,000,000 s.
    LeaseTtlTooLarge,
    /// The caller may not do that, or users and roles cannot be changed so.
    Auth(AuthError),
}

impl From<AuthError> for MvccError {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl MvccError {
    /// etcd's text (`api/v3rpc/rpctypes`).
    pub const fn text(self) -> &'static str {
        match self {
            Self::EmptyKey => "etcdserver: key is not provided",
            Self::KeyNotFound => "etcdserver: key not found",
            Self::ValueProvided => "etcdserver: value is provided",
            Self::LeaseProvided => "etcdserver: lease is provided",
            Self::TooManyOps => "etcdserver: too many operations in txn request",
            Self::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Self::Compacted { .. } => "etcdserver: mvcc: required revision has been compacted",
            Self::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Self::NoSpace => "etcdserver: mvcc: database space exceeded",
            Self::Corrupt => "etcdserver: corrupt cluster",
            Self::LeaseNotFound => "etcdserver: requested lease not found",
            Self::LeaseExists => "etcdserver: lease already exists",
            Self::LeaseTtlTooLarge => "etcdserver: too large lease TTL",
            Self::Auth(error) => error.text(),
        }
    }
}

impl std::fmt::Display for MvccError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for MvccError {}
