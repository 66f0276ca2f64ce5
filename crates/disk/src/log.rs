//! The sealed log: append, sync, rotate, cut, and read back after a crash.
//!
//! Each opening starts a new segment with a fresh salt; nothing is ever appended to a segment that was found on disk.
//! A segment's head states, sealed, where its predecessor ends: a torn tail is read past once and stays known for ever,
//! and frames cannot be cut off in the middle of the log without being missed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Entropy;

use crate::error::DiskError;
use crate::frame::{self, End, Frames, HEAD_LEN, Head, Pending, Record};
use crate::key::DataKey;
use crate::last;
use crate::real::{Disk, DiskFile};

const MAGIC: &[u8; 8] = b"PHSEGM01";
/// A segment is closed when it has this size.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Space is reserved by this share of what a segment holds, so that most of a file is always content, within these bounds.
const RESERVE_SHARE: u64 = 4;
const RESERVE_BYTES_MIN: u64 = 16 << 10;
const RESERVE_BYTES_MAX: u64 = 1 << 20;

/// An append-only, sealed log in a directory of numbered segments.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    key: DataKey,
    entropy: Entropy,
    segment: Segment,
    pending: Pending,
    scratch: Vec<u8>,
    segment_bytes: u64,
    poisoned: bool,
}

/// The segment being written.
struct Segment {
    number: u64,
    file: Box<dyn DiskFile>,
    frames: Frames,
    /// Bytes that are on disk.
    durable: u64,
    /// The file has this length, or it was not to be had.
    reserved: u64,
    /// A write failed halfway: nothing more goes here.
    abandoned: bool,
}

impl Log {
    /// Opens the log in a directory, which is made if need be, and reads all its records.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] names file and offset when a record that was synced does not read back,
    /// [`DiskError::Missing`] a segment that is gone. Nothing is changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        key: DataKey,
        entropy: Entropy,
    ) -> Result<(Self, Vec<Record>), DiskError> {
        disk.create_dir(dir).map_err(DiskError::io("create", dir))?;
        let found = Found::read(&*disk, dir, &key)?;
        last::lower(&*disk, dir, found.next - 1)?;
        for number in &found.obsolete {
            let path = segment_path(dir, *number);
            disk.remove(&path).map_err(DiskError::io("remove", &path))?;
        }
        let segment = Segment::create(&*disk, dir, &key, &entropy, found.next, found.previous)?;
        let log = Self {
            disk,
            dir: dir.to_owned(),
            key,
            entropy,
            segment,
            pending: Pending::default(),
            scratch: Vec::new(),
            segment_bytes: SEGMENT_BYTES,
            poisoned: false,
        };
        Ok((log, found.records))
    }

    /// Closes segments at another size, for tests.
    pub fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// The number of the segment that the next sync writes to, at least.
    pub fn segment(&self) -> u64 {
        self.segment.number
    }

    /// Bytes that wait for a sync.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Adds a record; it is on disk after the next [`Log::sync`].
    pub fn append(&mut self, kind: u8, bytes: &[u8]) {
        self.pending.push(kind, bytes);
    }

    /// Writes and syncs everything appended. Returns the number of the segment that took it.
    ///
    /// # Errors
    /// When the disk is full ([`DiskError::is_full`]) the records stay pending and the call may be repeated. After a
    /// failed sync the log must be opened again.
    pub fn sync(&mut self) -> Result<u64, DiskError> {
        if self.poisoned {
            return Err(DiskError::Poisoned { path: self.dir.clone() });
        }
        if self.pending.len() == 0 {
            return Ok(self.segment.number);
        }
        if self.segment.abandoned || self.segment.durable >= self.segment_bytes {
            self.roll()?;
        }
        let segment = &mut self.segment;
        self.scratch.clear();
        segment.frames.frames(segment.durable, &self.pending, &mut self.scratch);
        segment.reserve(self.scratch.len() as u64);
        if let Err(error) = segment.file.append(&self.scratch) {
            segment.abandoned = true;
            return Err(DiskError::io("write", &segment_path(&self.dir, segment.number))(error));
        }
        if let Err(error) = segment.file.sync() {
            self.poisoned = true;
            return Err(DiskError::io("sync", &segment_path(&self.dir, segment.number))(error));
        }
        segment.durable += self.scratch.len() as u64;
        self.pending.clear();
        self.scratch.shrink_to(1 << 20);
        Ok(segment.number)
    }

    /// Seals segments from the next one on with another key, which has to open the earlier ones too.
    pub fn set_key(&mut self, key: DataKey) {
        self.key = key;
    }

    /// Begins a new segment, so that everything written so far lies in earlier ones.
    ///
    /// # Errors
    /// When it cannot be created; the log goes on in the old one.
    pub fn roll(&mut self) -> Result<u64, DiskError> {
        let previous = [self.segment.number, self.segment.durable];
        let next = self.segment.number + 1;
        let segment = Segment::create(&*self.disk, &self.dir, &self.key, &self.entropy, next, previous)?;
        self.trim();
        self.segment = segment;
        Ok(next)
    }

    /// Space that is kept back would only be missed: a failure to return it is not one of the log.
    fn trim(&mut self) {
        if !self.poisoned && !self.segment.abandoned {
            let _ = self.segment.file.trim();
        }
    }

    /// Removes the segments before a number: a checkpoint covers them.
    ///
    /// # Errors
    /// As the file system says; repeating it is harmless.
    pub fn cut(&mut self, before_segment: u64) -> Result<(), DiskError> {
        let limit = before_segment.min(self.segment.number);
        let mut removed = false;
        for number in segment_numbers(&*self.disk, &self.dir)?.into_iter().take_while(|number| *number < limit) {
            let path = segment_path(&self.dir, number);
            self.disk.remove(&path).map_err(DiskError::io("remove", &path))?;
            // One by one, oldest first: a crash must not leave a hole in the middle.
            self.disk.sync_dir(&self.dir).map_err(DiskError::io("sync", &self.dir))?;
            removed = true;
        }
        if removed {
            tracing::debug!(dir = %self.dir.display(), before_segment = limit, "log cut");
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.trim();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir).field("segment", &self.segment.number).finish_non_exhaustive()
    }
}

impl Segment {
    fn create(
        disk: &dyn Disk,
        dir: &Path,
        key: &DataKey,
        entropy: &Entropy,
        number: u64,
        previous: [u64; 2],
    ) -> Result<Self, DiskError> {
        let path = segment_path(dir, number);
        let (frames, head) = Frames::begin(MAGIC, key, number, previous, entropy.bytes());
        let mut file = match disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by an attempt that failed before its head was synced.
                disk.remove(&path).map_err(DiskError::io("remove", &path))?;
                disk.create(&path)
            }
            other => other,
        }
        .map_err(DiskError::io("create", &path))?;
        let begun = file.append(&head).and_then(|()| file.sync()).and_then(|()| disk.sync_dir(dir));
        if let Err(error) = begun {
            let _ = disk.remove(&path);
            return Err(DiskError::io("write", &path)(error));
        }
        last::raise(disk, dir, number);
        Ok(Self { number, file, frames, durable: HEAD_LEN as u64, reserved: 0, abandoned: false })
    }

    /// Makes room for the next `more` bytes and some that follow. Without it, on a full disk or where there is no such thing,
    /// appending makes the file longer.
    fn reserve(&mut self, more: u64) {
        let needed = self.durable + more;
        if needed > self.reserved {
            self.reserved = needed + (needed / RESERVE_SHARE).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
            let _ = self.file.reserve(self.reserved);
        }
    }
}

/// What an opening finds.
struct Found {
    records: Vec<Record>,
    /// Segments without content, which the next one replaces.
    obsolete: Vec<u64>,
    /// The number of the next segment.
    next: u64,
    /// What it states of its predecessor: number and length.
    previous: [u64; 2],
}

impl Found {
    fn read(disk: &dyn Disk, dir: &Path, key: &DataKey) -> Result<Self, DiskError> {
        let mut numbers = segment_numbers(disk, dir)?;
        if let Some(hole) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            return Err(DiskError::Missing { path: segment_path(dir, hole[0] + 1) });
        }
        let marked = last::read(disk, dir)?;
        if numbers.last().copied().unwrap_or(0) < marked {
            return Err(DiskError::Missing { path: segment_path(dir, marked) });
        }
        let mut found = Self { records: Vec::new(), obsolete: Vec::new(), next: 1, previous: [0, 0] };
        let mut current = None;
        if let Some(last) = numbers.last().copied() {
            let (path, bytes) = load(disk, dir, last)?;
            if frame::never_begun(&bytes) {
                if last <= marked {
                    return Err(DiskError::damaged(&path, 0, "it is empty, or shorter than it was"));
                }
                found.obsolete.push(last);
                found.next = last;
                numbers.pop();
            } else {
                current = Some((path, bytes));
            }
        }
        let mut statement = None;
        let mut heads = Vec::new();
        // Heads first, from the end: each says where the one before it ends.
        for number in numbers.iter().rev().copied() {
            let (path, bytes) = match current.take() {
                Some(last) => last,
                None => load(disk, dir, number)?,
            };
            let head = read_head(key, &path, &bytes, number)?;
            let next = statement.replace(head.statement);
            heads.push((head, path, bytes, next));
        }
        for (head, path, mut bytes, next) in heads.into_iter().rev() {
            found.take(&head, &path, &mut bytes, next)?;
        }
        Ok(found)
    }

    /// Takes the records of one segment; `next` is what its successor states.
    fn take(&mut self, head: &Head, path: &Path, bytes: &mut [u8], next: Option<[u64; 2]>) -> Result<(), DiskError> {
        let end = match next {
            Some([number, end]) if number == head.number && end <= bytes.len() as u64 => Some(end),
            Some(_) => return Err(DiskError::damaged(path, bytes.len() as u64, "it is shorter than it was")),
            None => None,
        };
        let (end, how) = frame::read_frames(head, path, bytes, end, &mut self.records)?;
        if let End::Torn = how {
            tracing::warn!(path = %path.display(), offset = end, "a write that a crash tore was dropped");
        }
        if next.is_none() && end == HEAD_LEN as u64 {
            // Nothing was ever synced here: the next segment takes its place.
            self.obsolete.push(head.number);
            (self.next, self.previous) = (head.number, head.statement);
        } else {
            (self.next, self.previous) = (head.number + 1, [head.number, end]);
        }
        Ok(())
    }
}

fn read_head(key: &DataKey, path: &Path, bytes: &[u8], number: u64) -> Result<Head, DiskError> {
    let head = frame::read_head(MAGIC, key, path, bytes)?;
    if head.number == number { Ok(head) } else { Err(DiskError::damaged(path, 24, "its number is another")) }
}

fn load(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(PathBuf, Vec<u8>), DiskError> {
    let path = segment_path(dir, number);
    let bytes = disk.read(&path).map_err(DiskError::io("read", &path))?;
    Ok((path, bytes))
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

fn segment_numbers(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    let names = disk.list(dir).map_err(DiskError::io("list", dir))?;
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok();
    Ok(names.iter().filter(|name| name.len() == 20).filter_map(number).collect())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
