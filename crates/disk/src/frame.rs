//! The sealed frames that logs and checkpoints are made of.
//!
//! ```text
//! file  = magic 8 | key id 16 | number u64 | salt 32 | sealed statement 16 + tag 16 | frame*
//! frame = length u32 | sequence u32 | CRC-32C u32 | sealed { durable u64 | (kind u8 | length u32 | bytes)* } + tag
//! ```
//! Integers are little-endian. The nonce is the sequence, 0 for the statement; the clear parts are associated data.
//! `durable` is how much of the file was known to be on disk when the frame was made: a bad frame before that point is
//! damage, a bad frame after it may be a write that a crash tore.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::error::DiskError;
use crate::key::{DataKey, SALT_LEN, Sealer, TAG_LEN};

const CLEAR_LEN: usize = 8 + 16 + 8 + SALT_LEN;
/// A file's head.
pub(crate) const HEAD_LEN: usize = CLEAR_LEN + 16 + TAG_LEN;
const FRAME_HEAD_LEN: usize = 12;
/// What a disk writes whole: a torn write is missing such pieces.
pub(crate) const SECTOR: usize = 512;
/// A frame is closed when its records exceed this.
const FRAME_TARGET: usize = 1 << 20;

/// A stored record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The number of the segment that holds it (0 in a checkpoint).
    pub segment: u64,
    /// The caller's own mark.
    pub kind: u8,
    /// The content.
    pub bytes: Bytes,
}

/// Where a file begins: who sealed it and what it states about its predecessor.
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) statement: [u64; 2],
    pub(crate) sealer: Sealer,
    salt: [u8; SALT_LEN],
}

/// Builds the bytes of one file, frame after frame.
pub(crate) struct Frames {
    sealer: Sealer,
    salt: [u8; SALT_LEN],
    sequence: u32,
}

impl Frames {
    /// A new file's frames, and its head.
    pub(crate) fn begin(
        magic: &[u8; 8],
        key: &DataKey,
        number: u64,
        statement: [u64; 2],
        salt: [u8; SALT_LEN],
    ) -> (Self, Vec<u8>) {
        let sealer = key.sealer(&salt, purpose(magic));
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(magic);
        head.extend_from_slice(&key.id());
        head.extend_from_slice(&number.to_le_bytes());
        head.extend_from_slice(&salt);
        let clear = head.clone();
        statement.iter().for_each(|number| head.extend_from_slice(&number.to_le_bytes()));
        sealer.seal(0, &clear, &mut head, CLEAR_LEN);
        (Self { sealer, salt, sequence: 0 }, head)
    }

    /// Appends one frame with the encoded records.
    pub(crate) fn frame(&mut self, durable: u64, records: &[u8], out: &mut Vec<u8>) {
        self.sequence += 1;
        let length = u32::try_from(8 + records.len() + TAG_LEN).expect("records are smaller than 4 GiB");
        let start = out.len();
        out.extend_from_slice(&frame_head(length, self.sequence, &self.salt));
        out.extend_from_slice(&durable.to_le_bytes());
        out.extend_from_slice(records);
        let head: [u8; FRAME_HEAD_LEN] = out[start..start + FRAME_HEAD_LEN].try_into().expect("a head was written");
        self.sealer.seal(u64::from(self.sequence), &head, out, start + FRAME_HEAD_LEN);
    }

    /// Appends frames with all the records, cut at the given ends.
    pub(crate) fn frames(&mut self, durable: u64, records: &Pending, out: &mut Vec<u8>) {
        let mut start = 0;
        for end in records.cuts.iter().copied().chain([records.bytes.len()]) {
            if end > start {
                self.frame(durable, &records.bytes[start..end], out);
            }
            start = end;
        }
    }
}

/// Records that wait to be sealed.
#[derive(Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
}

impl Pending {
    pub(crate) fn push(&mut self, kind: u8, bytes: &[u8]) {
        let open = self.bytes.len() - self.cuts.last().copied().unwrap_or(0);
        if open > 0 && open + bytes.len() > FRAME_TARGET {
            self.cuts.push(self.bytes.len());
        }
        self.bytes.push(kind);
        let length = u32::try_from(bytes.len()).expect("records are smaller than 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.cuts.clear();
        self.bytes.shrink_to(FRAME_TARGET);
    }
}

fn purpose(magic: &[u8; 8]) -> &str {
    std::str::from_utf8(magic).expect("magics are ASCII")
}

fn frame_head(length: u32, sequence: u32, salt: &[u8; SALT_LEN]) -> [u8; FRAME_HEAD_LEN] {
    let mut head = [0; FRAME_HEAD_LEN];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&sequence.to_le_bytes());
    let check = crc32c::crc32c_append(crc32c::crc32c(salt), &head[..8]);
    head[8..].copy_from_slice(&check.to_le_bytes());
    head
}

/// Whether a file that ends within its head, or is empty behind it, was never begun.
pub(crate) fn never_begun(bytes: &[u8]) -> bool {
    bytes.len() < HEAD_LEN || bytes.iter().all(|byte| *byte == 0)
}

/// Reads a file's head.
pub(crate) fn read_head(magic: &[u8; 8], key: &DataKey, path: &Path, bytes: &[u8]) -> Result<Head, DiskError> {
    if bytes.len() < HEAD_LEN || bytes[..8] != magic[..] {
        return Err(DiskError::damaged(path, 0, "the head is not one of ours"));
    }
    let salt: [u8; SALT_LEN] = bytes[32..CLEAR_LEN].try_into().expect("the range has the length");
    let Some(key) = key.of_id(&bytes[8..24]) else {
        return Err(DiskError::damaged(path, 8, "it was sealed with another key"));
    };
    let sealer = key.sealer(&salt, purpose(magic));
    let mut sealed: [u8; 16 + TAG_LEN] = bytes[CLEAR_LEN..HEAD_LEN].try_into().expect("the range has the length");
    let Some(statement) = sealer.open(0, &bytes[..CLEAR_LEN], &mut sealed) else {
        return Err(DiskError::damaged(path, 8, "the head does not open"));
    };
    let statement = [u64_at(statement, 0), u64_at(statement, 8)];
    Ok(Head { number: u64_at(bytes, 24), statement, sealer, salt })
}

/// How the frames of a file ended.
pub(crate) enum End {
    /// With the file, at the length that was asked for, or before space that nothing was written to.
    Clean,
    /// In a write that a crash tore; everything before is whole.
    Torn,
}

/// Reads frames up to `end` (of the file, if `None`), which must be whole up to a given end and may be torn at an open one.
pub(crate) fn read_frames(
    head: &Head,
    path: &Path,
    bytes: &mut [u8],
    end: Option<u64>,
    records: &mut Vec<Record>,
) -> Result<(u64, End), DiskError> {
    let limit = end.map_or(bytes.len(), |end| usize::try_from(end).unwrap_or(usize::MAX));
    let mut at = HEAD_LEN;
    let mut sequence = 1;
    while at < limit {
        if end.is_none() && bytes[at..].iter().all(|byte| *byte == 0) {
            break;
        }
        let Some(frame) = Frame::at(head, bytes, at, sequence).filter(|frame| frame.end <= limit) else {
            return stopped(head, path, bytes, at, sequence, end.is_some());
        };
        let aad: [u8; FRAME_HEAD_LEN] = bytes[at..at + FRAME_HEAD_LEN].try_into().expect("the frame has a head");
        // Opening destroys what does not open, and the bytes are needed to tell how it was lost.
        let mut sealed = bytes[at + FRAME_HEAD_LEN..frame.end].to_vec();
        let Some(length) = head.sealer.open(u64::from(sequence), &aad, &mut sealed).map(|plain| plain.len()) else {
            return stopped(head, path, bytes, at, sequence, end.is_some());
        };
        sealed.truncate(length);
        if split(Bytes::from(sealed), head.number, records).is_none() {
            return Err(DiskError::damaged(path, at as u64, "a frame's records do not fit it"));
        }
        at = frame.end;
        sequence += 1;
    }
    Ok((at as u64, End::Clean))
}

struct Frame {
    end: usize,
}

impl Frame {
    /// The frame at a place, judged by its clear head.
    fn at(head: &Head, bytes: &[u8], at: usize, sequence: u32) -> Option<Self> {
        let clear = bytes.get(at..at + FRAME_HEAD_LEN)?;
        let length = u32::from_le_bytes(clear[..4].try_into().ok()?);
        if clear != frame_head(length, sequence, &head.salt) || (length as usize) < 8 + TAG_LEN {
            return None;
        }
        Some(Self { end: at + FRAME_HEAD_LEN + length as usize })
    }
}

fn stopped(
    head: &Head,
    path: &Path,
    bytes: &[u8],
    at: usize,
    sequence: u32,
    must_be_whole: bool,
) -> Result<(u64, End), DiskError> {
    let frame_end = Frame::at(head, bytes, at, sequence).map_or(at + FRAME_HEAD_LEN, |frame| frame.end);
    let torn = frame_end > bytes.len() || has_empty_sector(bytes, at, frame_end);
    if must_be_whole || !torn || later_frame_covers(head, bytes, at, sequence) {
        return Err(DiskError::damaged(path, at as u64, "a frame that was written whole does not open"));
    }
    if let Some(stray) = stray_bytes(bytes, at) {
        return Err(DiskError::damaged(path, stray as u64, "space that nothing was written to is not empty"));
    }
    Ok((at as u64, End::Torn))
}

/// The first sector's share that a torn write cannot have left: what is sealed hardly has a zero in it, so a share is empty, or
/// full up to where the write ended.
fn stray_bytes(bytes: &[u8], from: usize) -> Option<usize> {
    let is_stray = |share: &Range<usize>| {
        let share = &bytes[share.clone()];
        let used = share.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        share.iter().filter(|byte| **byte != 0).count() * 2 < used
    };
    sectors(from, bytes.len()).find(is_stray).map(|share| share.start)
}

/// Whether a sector's share of the range is all zeros: the disk never wrote it.
fn has_empty_sector(bytes: &[u8], from: usize, to: usize) -> bool {
    sectors(from, to).any(|share| bytes[share].iter().all(|byte| *byte == 0))
}

/// The sectors' shares of a range.
fn sectors(from: usize, to: usize) -> impl Iterator<Item = Range<usize>> {
    let share = move |at: usize| at..to.min((at / SECTOR + 1) * SECTOR);
    std::iter::successors(Some(share(from)), move |last| Some(share(last.end))).take_while(|share| !share.is_empty())
}

/// Whether a whole frame further on says that the bad one had been durable.
fn later_frame_covers(head: &Head, bytes: &[u8], bad: usize, sequence: u32) -> bool {
    let last = bytes.len().saturating_sub(FRAME_HEAD_LEN + 8 + TAG_LEN);
    (bad + 1..=last).any(|at| {
        let sequence_there = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes"));
        if sequence_there <= sequence {
            return false;
        }
        let Some(frame) = Frame::at(head, bytes, at, sequence_there).filter(|frame| frame.end <= bytes.len()) else {
            return false;
        };
        let mut sealed = bytes[at + FRAME_HEAD_LEN..frame.end].to_vec();
        let opened = head.sealer.open(u64::from(sequence_there), &bytes[at..at + FRAME_HEAD_LEN], &mut sealed);
        opened.is_some_and(|plain| u64_at(plain, 0) > bad as u64)
    })
}

/// Cuts a frame's plaintext into records that share its buffer.
fn split(mut plain: Bytes, segment: u64, records: &mut Vec<Record>) -> Option<()> {
    if plain.len() < 8 {
        return None;
    }
    let _durable = plain.split_to(8);
    while !plain.is_empty() {
        if plain.len() < 5 {
            return None;
        }
        let head = plain.split_to(5);
        let length = u32::from_le_bytes(head[1..5].try_into().ok()?) as usize;
        if length > plain.len() {
            return None;
        }
        records.push(Record { segment, kind: head[0], bytes: plain.split_to(length) });
    }
    Some(())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
