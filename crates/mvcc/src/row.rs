//! One stored version of a key, and its form on disk.
//!
//! The form is etcd's own (bucket `key`): 17 bytes of revision, an 18th byte `t` for tombstones, and the protobuf
//! message `mvccpb.KeyValue`. Equal bytes are what makes `HashKV` comparable with etcd.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Event, EventKind, KeyValue};

/// Where a row stands: the transaction's revision and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRevision {
    /// The transaction's revision.
    pub main: i64,
    /// The place in the transaction, from 0.
    pub sub: i64,
}

/// One version of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key as of this version; for a tombstone only key and `mod_revision`.
    pub kv: KeyValue,
    /// Place in the transaction.
    pub sub: i64,
    /// Whether this version is the deletion.
    pub tombstone: bool,
}

/// The bytes on disk made no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow;

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a stored row cannot be read")
    }
}

impl std::error::Error for BadRow {}

impl Row {
    /// Where it stands.
    pub fn revision(&self) -> RowRevision {
        RowRevision { main: self.kv.mod_revision, sub: self.sub }
    }

    /// Its key on disk, see [`row_key`].
    pub fn disk_key(&self) -> Vec<u8> {
        row_key(self.revision(), self.tombstone)
    }

    /// Its value on disk: `mvccpb.KeyValue`, of which a tombstone fills only the key, and a version of no key nothing.
    pub fn disk_value(&self) -> Vec<u8> {
        if self.kv.key.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(self.kv.key.len() + self.kv.value.len() + 48);
        write_bytes(&mut out, 1, &self.kv.key);
        if !self.tombstone {
            write_int(&mut out, 2, self.kv.create_revision);
            write_int(&mut out, 3, self.kv.mod_revision);
            write_int(&mut out, 4, self.kv.version);
            write_bytes(&mut out, 5, &self.kv.value);
            write_int(&mut out, 6, self.kv.lease);
        }
        out
    }

    /// Reads both parts back. A version of no key is what `etcdutl snapshot restore --bump-revision` leaves: nobody can
    /// read it, but it counts in checksums.
    ///
    /// # Errors
    /// When they are not what [`Row::disk_key`] and [`Row::disk_value`] write.
    pub fn from_disk(key: &[u8], value: &[u8]) -> Result<Self, BadRow> {
        let (revision, tombstone) = read_row_key(key).ok_or(BadRow)?;
        let mut kv = read_key_value(value).ok_or(BadRow)?;
        let of_no_key = value.is_empty() && !tombstone;
        if (kv.key.is_empty() && !of_no_key) || (!of_no_key && !tombstone && kv.mod_revision != revision.main) {
            return Err(BadRow);
        }
        kv.mod_revision = revision.main;
        Ok(Self { kv, sub: revision.sub, tombstone })
    }

    /// Bytes it takes in a database like etcd's: entry and its head, on pages that etcd fills to nine tenths.
    pub(crate) fn size_bytes(&self) -> i64 {
        let length = self.kv.key.len() + self.kv.value.len() + 56;
        i64::try_from(length + length / 9).unwrap_or(i64::MAX)
    }
}

/// A change as watches see it: the version and the one it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The new version.
    pub row: Arc<Row>,
    /// What stood there before the transaction, if anything.
    pub prev: Option<Arc<Row>>,
}

impl Change {
    /// The event, with the value before it when asked for.
    pub fn event(&self, prev_kv: bool) -> Event {
        let kind = if self.row.tombstone { EventKind::Delete } else { EventKind::Put };
        let prev = if prev_kv { self.prev.as_ref().map(|row| row.kv.clone()) } else { None };
        let mut event = Event { kind, kv: self.row.kv.clone(), prev_kv: prev };
        if event.is_create() {
            event.prev_kv = None;
        }
        event
    }
}

/// All changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: i64,
    /// In the order they were made.
    pub changes: Vec<Change>,
}

/// The key of a row on disk: big-endian revision, `_`, big-endian place, and `t` for a tombstone.
pub fn row_key(revision: RowRevision, tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&revision.main.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&revision.sub.to_be_bytes());
    if tombstone {
        key.push(b't');
    }
    key
}

fn read_row_key(key: &[u8]) -> Option<(RowRevision, bool)> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let (separator, rest) = rest.split_first()?;
    let (sub, rest) = rest.split_first_chunk::<8>()?;
    let tombstone = match rest {
        [] => false,
        [b't'] => true,
        _ => return None,
    };
    let revision = RowRevision { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) };
    (*separator == b'_' && revision.main > 0 && revision.sub >= 0).then_some((revision, tombstone))
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_int(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(field << 3);
        write_varint(out, value.cast_unsigned());
    }
}

fn write_bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        write_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn read_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn read_key_value(mut input: &[u8]) -> Option<KeyValue> {
    let mut kv = KeyValue::default();
    while !input.is_empty() {
        let tag = read_varint(&mut input)?;
        if tag & 7 == 2 {
            let length = usize::try_from(read_varint(&mut input)?).ok()?;
            let (bytes, rest) = input.split_at_checked(length)?;
            input = rest;
            match tag >> 3 {
                1 => kv.key = Bytes::copy_from_slice(bytes),
                5 => kv.value = Bytes::copy_from_slice(bytes),
                _ => return None,
            }
        } else {
            let number = read_varint(&mut input)?.cast_signed();
            match tag {
                0x10 => kv.create_revision = number,
                0x18 => kv.mod_revision = number,
                0x20 => kv.version = number,
                0x30 => kv.lease = number,
                _ => return None,
            }
        }
    }
    Some(kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_no_key_is_kept_as_it_is() {
        let key = row_key(RowRevision { main: 7, sub: 0 }, false);
        let row = Row::from_disk(&key, &[]).expect("a row");
        assert_eq!((row.revision().main, row.disk_key(), row.disk_value()), (7, key, Vec::new()));
        assert_eq!(Row::from_disk(&row_key(RowRevision { main: 7, sub: 0 }, true), &[]), Err(BadRow));
    }

    fn row(key: &str, value: &str, tombstone: bool) -> Row {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let kv = KeyValue { key: text(key), value: text(value), mod_revision: 300, ..KeyValue::default() };
        if tombstone {
            return Row { kv, sub: 2, tombstone };
        }
        Row { kv: KeyValue { create_revision: 200, version: 3, lease: -1, ..kv }, sub: 0, tombstone }
    }

    #[test]
    fn rows_survive_the_way_to_disk_and_back() {
        for row in [row("a", "", false), row("key", "value", false), row("gone", "", true)] {
            assert_eq!(Row::from_disk(&row.disk_key(), &row.disk_value()), Ok(row));
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let good = row("a", "b", false);
        assert_eq!(Row::from_disk(&good.disk_key(), &good.disk_value()[1..]), Err(BadRow));
        assert_eq!(Row::from_disk(&good.disk_key()[1..], &good.disk_value()), Err(BadRow));
        assert_eq!(Row::from_disk(&good.disk_key(), &[0x0a, 0xff, 0xff]), Err(BadRow));
    }

    #[test]
    fn the_disk_form_is_etcds() {
        assert_eq!(row("a", "b", true).disk_key(), b"\0\0\0\0\0\0\x01\x2c_\0\0\0\0\0\0\0\x02t");
        let expect = b"\x0a\x01a\x10\xc8\x01\x18\xac\x02\x20\x03\x2a\x01b\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(row("a", "b", false).disk_value(), expect);
    }
}
