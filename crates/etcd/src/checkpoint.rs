//! The whole state in one file, and the same records in the view.

use base::{Entropy, Timestamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use disk::{CheckpointWriter, DiskError, Record};
use mvcc::{Alarm, AlarmKind, Keyspace, Marks, Row, Snapshot};
use raft::{LogIndex, Membership, Term};

use crate::EtcdError;
use crate::error::storage;
use crate::journal::Storage;

const RECORD_POSITION: u8 = 1;
const RECORD_ROW: u8 = 2;
const RECORD_LEASE: u8 = 3;
const RECORD_ALARM: u8 = 4;

/// Where in the log a state stands, and what its rows do not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) members: Membership,
    pub(crate) marks: Marks,
}

impl Position {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u64_le(self.index.0);
        out.put_u64_le(self.term.0);
        encode_marks(self.marks, &mut out);
        self.members.encode(&mut out);
        out
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        let (index, term) = (LogIndex(bytes.try_get_u64_le().ok()?), Term(bytes.try_get_u64_le().ok()?));
        let marks = decode_marks(&mut bytes)?;
        Some(Self { index, term, marks, members: Membership::decode(&mut bytes).ok()? })
    }
}

pub(crate) fn encode_marks(marks: Marks, out: &mut BytesMut) {
    out.put_i64_le(marks.revision);
    out.put_i64_le(marks.compacted);
    out.put_u8(u8::from(marks.compaction_finished));
}

pub(crate) fn decode_marks(bytes: &mut Bytes) -> Option<Marks> {
    let (revision, compacted) = (bytes.try_get_i64_le().ok()?, bytes.try_get_i64_le().ok()?);
    Some(Marks { revision, compacted, compaction_finished: bytes.try_get_u8().ok()? != 0 })
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
        writer.record(RECORD_POSITION, &position.encode())?;
        let mut record = BytesMut::new();
        for row in snapshot.rows() {
            record.clear();
            let key = row.disk_key();
            record.put_u8(key.len() as u8);
            record.put_slice(&key);
            record.put_slice(&row.disk_value());
            writer.record(RECORD_ROW, &record)?;
        }
        for (id, ttl) in snapshot.lease_records() {
            record.clear();
            record.put_i64_le(id);
            record.put_i64_le(ttl);
            writer.record(RECORD_LEASE, &record)?;
        }
        for alarm in snapshot.alarms() {
            writer.record(RECORD_ALARM, &encode_alarm(alarm))?;
        }
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
    let (mut position, mut rows, mut leases, mut alarms) = (None, Vec::new(), Vec::new(), Vec::new());
    for Record { kind, mut bytes, .. } in records {
        match kind {
            RECORD_POSITION => position = Some(Position::decode(bytes)?),
            RECORD_ROW => {
                let length = usize::from(bytes.try_get_u8().ok()?);
                let (key, value) = bytes.split_at_checked(length)?;
                rows.push(Row::from_disk(key, value).ok()?);
            }
            RECORD_LEASE => leases.push((bytes.try_get_i64_le().ok()?, bytes.try_get_i64_le().ok()?)),
            RECORD_ALARM => alarms.push(decode_alarm(&mut bytes)?),
            _ => return None,
        }
    }
    let position = position?;
    let keyspace = Keyspace::restore(rows, leases, alarms, position.marks, now).ok()?;
    Some(Restored { position, keyspace })
}
