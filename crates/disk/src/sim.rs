//! The simulated disk: in memory, it keeps after a crash only what was synced, and breaks on request.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base::Rng;

use crate::frame::SECTOR;
use crate::real::{Disk, DiskFile};

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    files: Vec<Content>,
    /// Names as a running process sees them, and as a crash would leave them.
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Grows with each crash: files opened before are dead.
    boot: u64,
    capacity: Option<u64>,
    syncs_until_failure: Option<u64>,
    syncs: u64,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// How much of it was appended; behind are zeros that were reserved.
    appended: usize,
    /// How much of what was appended survives a crash.
    durable: usize,
    /// The length that survives a crash.
    durable_length: usize,
}

struct SimFile {
    disk: SimDisk,
    id: usize,
    boot: u64,
}

impl SimDisk {
    /// An empty disk; the seed decides what a crash tears.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::new(seed),
            files: Vec::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            boot: 0,
            capacity: None,
            syncs_until_failure: None,
            syncs: 0,
        })))
    }

    /// Power goes off and on: unsynced writes are lost whole or in sectors, unsynced names come and go, open files die.
    pub fn crash(&self) {
        let state = &mut *self.state();
        state.boot += 1;
        state.syncs_until_failure = None;
        let State { rng, files, live, durable, .. } = state;
        for (path, id) in std::mem::take(live) {
            if rng.one_in(2) {
                durable.insert(path, id);
            }
        }
        *live = durable.clone();
        for file in files {
            tear(file, rng);
        }
    }

    /// Flips one bit of a file.
    ///
    /// # Panics
    /// When the file is not that long.
    pub fn flip_bit(&self, path: &Path, offset: u64) {
        let mut state = self.state();
        let id = state.live[path];
        let bit = state.rng.below(8);
        state.files[id].bytes[offset as usize] ^= 1 << bit;
    }

    /// From now on the files may hold so many bytes together; `None` for any number.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The sync after `successes` further ones fails, once.
    pub fn fail_sync_after(&self, successes: u64) {
        self.state().syncs_until_failure = Some(successes);
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// Keeps the synced part; of the rest, a random length with random sectors missing.
fn tear(file: &mut Content, rng: &mut Rng) {
    let unsynced = file.bytes.len().saturating_sub(file.durable_length);
    if unsynced > 0 {
        file.bytes.truncate(file.durable_length + rng.below(unsynced as u64 + 1) as usize);
    }
    let kept = file.appended.min(file.bytes.len());
    let mut at = file.durable;
    while at < kept {
        let next = kept.min((at / SECTOR + 1) * SECTOR);
        if rng.one_in(3) {
            file.bytes[at..next].fill(0);
        }
        at = next;
    }
    file.appended = kept;
    file.durable = kept;
    file.durable_length = file.bytes.len();
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl Disk for SimDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.live.insert(path.to_owned(), id);
        Ok(Box::new(SimFile { disk: self.clone(), id, boot: state.boot }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        let id = state.live.get(path).ok_or_else(|| not_found(path))?;
        Ok(state.files[*id].bytes.clone())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.live.remove(from).ok_or_else(|| not_found(from))?;
        state.live.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.live.remove(path).map(drop).ok_or_else(|| not_found(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.durable.retain(|path, _| path.parent() != Some(dir));
        let inside = state.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        let inside: Vec<_> = inside.map(|(path, id)| (path.clone(), *id)).collect();
        state.durable.extend(inside);
        Ok(())
    }
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.boot != self.boot {
            return Err(io::Error::other("the machine crashed since this file was opened"));
        }
        work(&mut state, self.id)
    }
}

impl State {
    /// Bytes that still fit.
    fn free(&self) -> usize {
        let used = self.live.values().map(|id| self.files[*id].bytes.len() as u64).sum();
        let free = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        usize::try_from(free).unwrap_or(usize::MAX)
    }
}

impl DiskFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|state, id| {
            let free = state.free();
            let file = &mut state.files[id];
            let reserved = file.bytes.len() - file.appended;
            let fits = bytes.len().min(free.saturating_add(reserved));
            let end = file.appended + fits;
            file.bytes.resize(file.bytes.len().max(end), 0);
            file.bytes[file.appended..end].copy_from_slice(&bytes[..fits]);
            file.appended = end;
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|state, id| {
            if let Some(left) = &mut state.syncs_until_failure {
                if *left == 0 {
                    state.syncs_until_failure = None;
                    return Err(io::Error::other("the disk reported a write error"));
                }
                *left -= 1;
            }
            state.syncs += 1;
            let file = &mut state.files[id];
            (file.durable, file.durable_length) = (file.appended, file.bytes.len());
            Ok(())
        })
    }

    fn reserve(&mut self, length: u64) -> io::Result<()> {
        self.with(|state, id| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let more = length.saturating_sub(state.files[id].bytes.len());
            if more > state.free() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let file = &mut state.files[id];
            file.bytes.resize(file.bytes.len() + more, 0);
            Ok(())
        })
    }

    fn trim(&mut self) -> io::Result<()> {
        self.with(|state, id| {
            let file = &mut state.files[id];
            file.bytes.truncate(file.appended);
            file.durable_length = file.durable_length.min(file.appended);
            Ok(())
        })
    }
}
