//! The state machine: commands in, answers, changes and batches out.

use std::sync::Arc;

use base::Timestamp;
use imbl::OrdSet;

use crate::auth::{Auth, AuthRecord, Caller, TokenChange};
use crate::compact::Compaction;
use crate::lease::{self, LEASE_TTL_MAX, Lease, LeaseRecord};
use crate::row::{BadRow, Change, Changes, Row, RowRevision};
use crate::snapshot::{Snapshot, Versions};
use crate::txn::Write;
use crate::{Alarm, AlarmKind, AuthCommand, Command, MvccError, RequestOp, Response, TxnRequest};

/// etcd's keyspace. One owner applies commands; readers take a [`Snapshot`]. Cloning is O(1) (a fork).
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) state: Snapshot,
    /// Leases by the time they run out.
    pub(crate) expiries: OrdSet<(Timestamp, i64)>,
    pub(crate) compaction: Option<Compaction>,
}

/// What [`Keyspace::apply`] gives back.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The answer for the client.
    pub answer: Result<Response, MvccError>,
    /// What watches see, if anything changed.
    pub changes: Option<Arc<Changes>>,
    /// What to persist; may be empty.
    pub batch: Batch,
    /// What it means for tokens, if anything.
    pub tokens: Option<TokenChange>,
}

/// What changed, in terms of stored rows.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// New rows.
    pub rows: Vec<Arc<Row>>,
    /// Disk keys of rows that are gone.
    pub gone: Vec<Vec<u8>>,
    /// Leases granted or changed, or ended (`None`).
    pub leases: Vec<(i64, Option<LeaseRecord>)>,
    /// Alarms raised (`true`) or cleared.
    pub alarms: Vec<(Alarm, bool)>,
    /// Users, roles and whether they matter.
    pub auth: Vec<AuthRecord>,
}

/// What must be stored beside the rows: the rows alone do not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The store's revision (its newest row may be compacted away).
    pub revision: i64,
    /// Revision of the last compaction, -1 for none.
    pub compacted: i64,
    /// Whether its deletions were all done.
    pub compaction_finished: bool,
    /// The minor version of 3 that the cluster is being taken down to.
    pub downgrade: Option<u8>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self { state: Snapshot::empty(), expiries: OrdSet::new(), compaction: None }
    }
}

impl Keyspace {
    /// An empty keyspace, at revision 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// The keyspace as it stands; O(1).
    pub fn snapshot(&self) -> Snapshot {
        self.state.clone()
    }

    /// Reads without taking a snapshot.
    pub fn state(&self) -> &Snapshot {
        &self.state
    }

    /// What to store beside the rows.
    pub fn marks(&self) -> Marks {
        self.state.marks()
    }

    /// Applies a command of the member's own. Deterministic but for lease times, which are local to the member.
    pub fn apply(&mut self, command: &Command, now: Timestamp) -> Applied {
        self.apply_for(&Caller::Member, command, now)
    }

    /// Applies a command, if its caller may: users and roles are as they are at this place of the log, not as they
    /// were when it was proposed.
    pub fn apply_for(&mut self, caller: &Caller, command: &Command, now: Timestamp) -> Applied {
        let mut write = Write::new(self);
        let mut tokens = None;
        let refusal = write.refusal(command);
        let refusal = refusal.or_else(|| write.keyspace.state.permit(caller, command).err().map(MvccError::Auth));
        let answer = match refusal {
            Some(error) => Err(error),
            None => match command {
                Command::Put(put) => write.checked_put(put).map(Response::Put),
                Command::DeleteRange(delete) => Ok(Response::DeleteRange(write.delete_range(delete))),
                Command::Txn(txn) => write.txn(txn).map(Response::Txn),
                Command::Compact(revision) => write.compact(*revision),
                Command::LeaseGrant { id, ttl } => write.lease_grant(*id, *ttl, now),
                Command::LeaseRevoke { id } => write.lease_revoke(*id),
                Command::LeaseCheckpoint(left) => Ok(write.lease_checkpoint(left)),
                Command::AlarmRaise(alarm) => Ok(write.alarm_raise(*alarm)),
                Command::AlarmClear(alarm) => Ok(write.alarm_clear(*alarm)),
                Command::Auth(command) => write.auth(command, &mut tokens),
                Command::Downgrade(target) => Ok(write.downgrade(*target)),
            },
        };
        let (changes, batch) = write.finish();
        Applied { answer, changes, batch, tokens }
    }

    /// Sets users and roles as they were stored.
    pub fn restore_auth(&mut self, records: impl IntoIterator<Item = AuthRecord>) {
        self.state.auth = Arc::new(Auth::restore(records));
    }

    /// Gives back the space that compaction left unused: only the sizes reported change.
    pub fn defragment(&mut self) {
        self.state.shrink();
    }

    /// Rebuilds a keyspace from its stored rows (in revision order), leases, alarms and marks.
    ///
    /// # Errors
    /// When the rows are not in order or contradict the marks.
    pub fn restore(
        rows: impl IntoIterator<Item = Row>,
        leases: impl IntoIterator<Item = LeaseRecord>,
        alarms: impl IntoIterator<Item = Alarm>,
        marks: Marks,
        now: Timestamp,
    ) -> Result<Self, BadRow> {
        let mut keyspace = Self::new();
        for lease in leases {
            keyspace.insert_lease(lease, now);
        }
        keyspace.state.alarms = alarms.into_iter().collect();
        let mut last = RowRevision { main: 0, sub: 0 };
        for row in rows {
            let revision = row.revision();
            if revision <= last && last.main != 0 {
                return Err(BadRow);
            }
            last = revision;
            keyspace.insert_row(Arc::new(row));
        }
        if last.main > marks.revision || marks.compacted > marks.revision || marks.revision < 1 {
            return Err(BadRow);
        }
        keyspace.state.revision = marks.revision;
        keyspace.state.compacted = marks.compacted;
        keyspace.state.downgrade = marks.downgrade;
        keyspace.attach_all();
        keyspace.state.shrink();
        if !marks.compaction_finished {
            keyspace.state.compacting = true;
            keyspace.compaction = Some(Compaction::resumed(marks.compacted));
        }
        Ok(keyspace)
    }

    fn attach_all(&mut self) {
        let live = self.state.index.iter().filter_map(|(key, versions)| {
            versions.live(i64::MAX).filter(|row| row.kv.lease != 0).map(|row| (row.kv.lease, key.clone()))
        });
        for (lease, key) in live.collect::<Vec<_>>() {
            self.attach(lease, &key);
        }
    }

    /// Puts a row into index and history; returns the key as the index holds it.
    pub(crate) fn insert_row(&mut self, row: Arc<Row>) {
        self.state.account(row.size_bytes());
        self.state.rows.insert(row.revision(), row.clone());
        let exists = usize::from(!row.tombstone);
        match self.state.index.get_mut(&row.kv.key) {
            Some(versions) => {
                self.state.live = self.state.live + exists - usize::from(!versions.newest.tombstone);
                versions.push(row);
            }
            None => {
                self.state.live += exists;
                self.state.index.insert(row.kv.key.clone(), Versions { newest: row, older: None });
            }
        }
    }

    pub(crate) fn insert_lease(&mut self, record: LeaseRecord, now: Timestamp) {
        let LeaseRecord { id, ttl, remaining_ttl } = record;
        let expiry = lease::expiry(now, ttl);
        self.state.leases.insert(id, Lease { granted_ttl: ttl, remaining_ttl, expiry, keys: OrdSet::new() });
        self.expiries.insert((expiry, id));
    }
}

impl Write<'_> {
    /// What an active alarm forbids (etcd's capped and corrupt appliers).
    fn refusal(&self, command: &Command) -> Option<MvccError> {
        if self.keyspace.state.alarms.is_empty() {
            return None;
        }
        let passes = matches!(
            command,
            Command::AlarmRaise(_) | Command::AlarmClear(_) | Command::Auth(_) | Command::Downgrade(_)
        );
        if !passes && self.keyspace.state.has_alarm(AlarmKind::Corrupt) {
            return Some(MvccError::Corrupt);
        }
        let grows = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => puts(txn),
            _ => false,
        };
        (grows && self.keyspace.state.has_alarm(AlarmKind::NoSpace)).then_some(MvccError::NoSpace)
    }

    fn lease_grant(&mut self, id: i64, ttl: i64, now: Timestamp) -> Result<Response, MvccError> {
        if ttl > LEASE_TTL_MAX {
            return Err(MvccError::LeaseTtlTooLarge);
        }
        if self.keyspace.state.leases.contains_key(&id) {
            return Err(MvccError::LeaseExists);
        }
        let record = LeaseRecord { id, ttl, remaining_ttl: 0 };
        self.keyspace.insert_lease(record, now);
        self.batch.leases.push((id, Some(record)));
        Ok(Response::Done { revision: self.keyspace.state.revision })
    }

    fn lease_revoke(&mut self, id: i64) -> Result<Response, MvccError> {
        let lease = self.keyspace.state.leases.remove(&id).ok_or(MvccError::LeaseNotFound)?;
        self.keyspace.expiries.remove(&(lease.expiry, id));
        for key in &lease.keys {
            self.delete(key);
        }
        self.batch.leases.push((id, None));
        Ok(Response::Done { revision: self.revision() })
    }

    /// Notes what leases have left; those that are gone are passed over.
    fn lease_checkpoint(&mut self, left: &[(i64, i64)]) -> Response {
        for (id, seconds) in left {
            let Some(lease) = self.keyspace.state.leases.get_mut(id) else { continue };
            lease.remaining_ttl = *seconds;
            let record = LeaseRecord { id: *id, ttl: lease.granted_ttl, remaining_ttl: *seconds };
            self.batch.leases.push((*id, Some(record)));
        }
        Response::Done { revision: self.keyspace.state.revision }
    }

    fn alarm_raise(&mut self, alarm: Alarm) -> Response {
        if self.keyspace.state.alarms.insert(alarm).is_none() {
            self.batch.alarms.push((alarm, true));
        }
        Response::Alarms(vec![alarm])
    }

    fn alarm_clear(&mut self, alarm: Alarm) -> Response {
        let cleared = self.keyspace.state.alarms.remove(&alarm);
        self.batch.alarms.extend(cleared.map(|alarm| (alarm, false)));
        Response::Alarms(cleared.into_iter().collect())
    }

    fn auth(&mut self, command: &AuthCommand, tokens: &mut Option<TokenChange>) -> Result<Response, MvccError> {
        let outcome = Arc::make_mut(&mut self.keyspace.state.auth).apply(command)?;
        self.batch.auth = outcome.records;
        *tokens = outcome.tokens;
        let (revision, auth_revision) = (self.keyspace.state.revision, self.keyspace.state.auth.revision());
        Ok(match command {
            AuthCommand::Authenticate { .. } => Response::Authenticated { revision, auth_revision },
            _ => Response::Done { revision },
        })
    }

    fn downgrade(&mut self, target: Option<u8>) -> Response {
        self.keyspace.state.downgrade = target;
        Response::Done { revision: self.keyspace.state.revision }
    }

    fn compact(&mut self, revision: i64) -> Result<Response, MvccError> {
        let state = &mut self.keyspace.state;
        if revision <= state.compacted {
            return Err(MvccError::Compacted { revision: state.compacted });
        }
        if revision > state.revision {
            return Err(MvccError::FutureRevision);
        }
        self.keyspace.begin_compaction(revision);
        Ok(Response::Done { revision: self.keyspace.state.revision })
    }

    fn finish(self) -> (Option<Arc<Changes>>, Batch) {
        let Write { keyspace, begin, changes, batch } = self;
        if changes.is_empty() {
            return (None, batch);
        }
        keyspace.state.revision = begin + 1;
        (Some(Arc::new(Changes { revision: begin + 1, changes })), batch)
    }

    /// Stores a version and remembers the change.
    pub(crate) fn record(&mut self, row: Row, prev: Option<Arc<Row>>) {
        let row = Arc::new(row);
        self.keyspace.insert_row(row.clone());
        self.batch.rows.push(row.clone());
        self.changes.push(Change { row, prev });
    }
}

/// Whether any branch of a transaction puts something.
fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(inner) => puts(inner),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) | RequestOp::Empty => false,
    })
}
