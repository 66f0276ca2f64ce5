//! The whole state in one file, and the same records in the view.

use base::{Entropy, Timestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use disk::{CheckpointWriter, DiskError, Record};
use mvcc::{Alarm, AlarmKind, Keyspace, LeaseRecord, Marks, Row, Snapshot};
use raft::{LogIndex, Membership, Term};

use crate::error::storage;
use crate::journal::Storage;
use crate::members::Members;
use crate::{EtcdError, convert};

const RECORD_POSITION: u8 = 1;
const RECORD_ROW: u8 = 2;
const RECORD_LEASE: u8 = 3;
const RECORD_ALARM: u8 = 4;
const RECORD_AUTH: u8 = 5;

/// Where in the log a state stands, and what its rows do not tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Position {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) members: Members,
    pub(crate) marks: Marks,
}

impl Position {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u64_le(self.index.0);
        out.put_u64_le(self.term.0);
        encode_marks(self.marks, &mut out);
        self.members.consensus().encode(&mut out);
        out.put_slice(&self.members.encode());
        out
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let (index, term) = (LogIndex(bytes.try_get_u64_le().ok()?), Term(bytes.try_get_u64_le().ok()?));
        let marks = decode_marks(&mut bytes)?;
        // What consensus needs of it comes first; the table says the same and more.
        Membership::decode(&mut bytes).ok()?;
        Some(Self { index, term, marks, members: Members::decode(&bytes)? })
    }
}

pub(crate) fn encode_marks(marks: Marks, out: &mut BytesMut) {
    out.put_i64_le(marks.revision);
    out.put_i64_le(marks.compacted);
    // One bit, and above it the version and one more.
    let downgrade = marks.downgrade.map_or(0, |minor| minor.saturating_add(1) << 1);
    out.put_u8(u8::from(marks.compaction_finished) | downgrade);
}

pub(crate) fn decode_marks(bytes: &mut Bytes) -> Option<Marks> {
    let (revision, compacted) = (bytes.try_get_i64_le().ok()?, bytes.try_get_i64_le().ok()?);
    let bits = bytes.try_get_u8().ok()?;
    Some(Marks { revision, compacted, compaction_finished: bits & 1 != 0, downgrade: (bits >> 1).checked_sub(1) })
}

pub(crate) fn encode_alarm(alarm: Alarm) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u64_le(alarm.member);
    out.put_u8(match alarm.kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    });
    out
}

pub(crate) fn decode_alarm(bytes: &mut Bytes) -> Option<Alarm> {
    let member = bytes.try_get_u64_le().ok()?;
    let kind = match bytes.try_get_u8().ok()? {
        1 => AlarmKind::NoSpace,
        2 => AlarmKind::Corrupt,
        _ => return None,
    };
    Some(Alarm { member, kind })
}

/// Gives out the records that hold a whole state, in the order in which [`Restorer`] takes them.
pub(crate) fn records<E>(
    position: &Position,
    snapshot: &Snapshot,
    mut put: impl FnMut(u8, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    put(RECORD_POSITION, &position.encode())?;
    let mut record = BytesMut::new();
    for row in snapshot.rows() {
        record.clear();
        let key = row.disk_key();
        record.put_u8(key.len() as u8);
        record.put_slice(&key);
        record.put_slice(&row.disk_value());
        put(RECORD_ROW, &record)?;
    }
    for lease in snapshot.lease_records() {
        record.clear();
        record.put_i64_le(lease.id);
        record.put_slice(&encode_lease(lease));
        put(RECORD_LEASE, &record)?;
    }
    for alarm in snapshot.alarms() {
        put(RECORD_ALARM, &encode_alarm(alarm))?;
    }
    for stored in snapshot.auth().records() {
        let (key, value) = convert::store_record(&stored);
        record.clear();
        record.put_u32_le(u32::try_from(key.len()).unwrap_or(u32::MAX));
        record.put_slice(&key);
        record.put_slice(&value.unwrap_or_default());
        put(RECORD_AUTH, &record)?;
    }
    Ok(())
}

/// Writes a checkpoint; the one before it stays until this one is whole.
pub(crate) fn write(
    storage: &Storage,
    entropy: &Entropy,
    position: &Position,
    snapshot: &Snapshot,
) -> Result<(), EtcdError> {
    let path = storage.dir.join("checkpoint");
    let written = || -> Result<(), DiskError> {
        let mut writer = CheckpointWriter::create(&*storage.disk, &path, &storage.key, entropy)?;
        records(position, snapshot, |kind, bytes| writer.record(kind, bytes))?;
        writer.finish()
    };
    written().map_err(|error| crate::error::storage("writing a checkpoint", error))
}

/// A state as read back.
pub(crate) struct Restored {
    pub(crate) position: Position,
    pub(crate) keyspace: Keyspace,
}

/// Reads the checkpoint, if there is one.
pub(crate) fn read(store: &Storage, now: Timestamp) -> Result<Option<Restored>, EtcdError> {
    let path = store.dir.join("checkpoint");
    match disk::read_checkpoint(&*store.disk, &path, &store.key) {
        Ok(records) => match restore(records, now) {
            Some(restored) => Ok(Some(restored)),
            None => Err(EtcdError::Damaged(format!("{} contradicts itself", path.display()))),
        },
        Err(DiskError::Missing { .. }) => Ok(None),
        Err(error) => Err(storage("reading the checkpoint", error)),
    }
}

fn restore(records: Vec<Record>, now: Timestamp) -> Option<Restored> {
    let mut restorer = Restorer::default();
    for Record { kind, bytes, .. } in records {
        restorer.push(kind, bytes)?;
    }
    restorer.finish(now)
}

/// A lease without its id: its TTL and, once that was noted, what was left of it.
pub(crate) fn encode_lease(lease: LeaseRecord) -> Vec<u8> {
    let mut bytes = lease.ttl.to_le_bytes().to_vec();
    if lease.remaining_ttl > 0 {
        bytes.extend_from_slice(&lease.remaining_ttl.to_le_bytes());
    }
    bytes
}

/// Reads back what [`encode_lease`] wrote.
pub(crate) fn decode_lease(id: i64, bytes: &mut impl Buf) -> Option<LeaseRecord> {
    let ttl = bytes.try_get_i64_le().ok()?;
    let remaining_ttl = if bytes.has_remaining() { bytes.try_get_i64_le().ok()? } else { 0 };
    Some(LeaseRecord { id, ttl, remaining_ttl })
}

/// Puts a state together from its records.
#[derive(Default)]
pub(crate) struct Restorer {
    position: Option<Position>,
    rows: Vec<Row>,
    leases: Vec<LeaseRecord>,
    alarms: Vec<Alarm>,
    auth: Vec<mvcc::AuthRecord>,
}

impl Restorer {
    /// Takes a record; nothing when it cannot be one.
    pub(crate) fn push(&mut self, kind: u8, mut bytes: Bytes) -> Option<()> {
        match kind {
            RECORD_POSITION => self.position = Some(Position::decode(bytes)?),
            RECORD_ROW => {
                let length = usize::from(bytes.try_get_u8().ok()?);
                let (key, value) = bytes.split_at_checked(length)?;
                self.rows.push(Row::from_disk(key, value).ok()?);
            }
            RECORD_LEASE => {
                let id = bytes.try_get_i64_le().ok()?;
                self.leases.push(decode_lease(id, &mut bytes)?);
            }
            RECORD_ALARM => self.alarms.push(decode_alarm(&mut bytes)?),
            RECORD_AUTH => {
                let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
                let (key, value) = bytes.split_at_checked(length)?;
                self.auth.push(convert::load_record(key, value)?);
            }
            _ => return None,
        }
        Some(())
    }

    /// The state; nothing when the records contradict one another.
    pub(crate) fn finish(self, now: Timestamp) -> Option<Restored> {
        let position = self.position?;
        let mut keyspace = Keyspace::restore(self.rows, self.leases, self.alarms, position.marks, now).ok()?;
        keyspace.restore_auth(self.auth);
        Some(Restored { position, keyspace })
    }
}
