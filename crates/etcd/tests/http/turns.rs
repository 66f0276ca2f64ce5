//! Who takes the turns of the state: nobody must feel it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::{DataKey, Disk, DiskFile, RealDisk, SimDisk};
use etcd::{Member, MemberConfig, RemoteStore, Storage, Store, StoreError};
use futures_util::FutureExt as _;
use mvcc::PutRequest;

use super::rig::{PATIENCE, Rig, clock, entropy};

const CONNECTIONS: usize = 8;
const WRITERS: usize = 64;
const LONE_WRITES: usize = 40;
const WRITES_EACH: usize = 20;
const WRITES_MAX: usize = 10_000;

async fn put(store: &Store, key: String) -> Result<(), StoreError> {
    store.put(PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() }).await.map(drop)
}

async fn write(store: Store, writer: usize, writes: usize) {
    for n in 0..writes {
        put(&store, format!("{writer}/{n}")).await.expect("written");
    }
}

/// One writer alone for a while, then many at once.
async fn write_all(endpoint: String) {
    let connect = |_| RemoteStore::connect(std::slice::from_ref(&endpoint), None).map(Store::Remote);
    let stores = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>().expect("an endpoint");
    write(stores[0].clone(), WRITERS, LONE_WRITES).await;
    let writer = |n: usize| tokio::spawn(write(stores[n % CONNECTIONS].clone(), n, WRITES_EACH));
    for writer in (0..WRITERS).map(writer).collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
}

fn storage(dir: &Path, disk: Arc<dyn Disk>) -> Storage {
    let key = DataKey::generate("cluster/test/instance/test", &entropy());
    Storage { dir: dir.to_owned(), disk, key, view: !dir.starts_with("/sim") }
}

async fn metric(rig: &Rig, name: &str) -> usize {
    let (_, page) = rig.get("/metrics").await;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect("there is one").parse().expect("a number")
}

/// The member has one thread for all its clients here: while a turn is taken on it, it sees no other writer.
#[tokio::test]
async fn writers_that_come_after_a_lone_one_share_their_syncs() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = storage(dir.path(), Arc::new(RealDisk));
    let rig = Rig::with(|config| MemberConfig { storage: Some(storage), ..config }).await;
    let endpoint = rig.base.clone();
    let clients = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::spawn_blocking(move || clients().block_on(write_all(endpoint))).await.expect("no panic");
    let syncs = metric(&rig, "etcd_disk_wal_fsync_duration_seconds_count").await;
    assert!(syncs >= LONE_WRITES, "each write of the lone one was synced for itself: {syncs}");
    assert!(syncs < WRITERS * WRITES_EACH / 2, "{syncs} syncs");
}

#[tokio::test]
async fn a_lone_writer_that_gives_up_leaves_nothing_pending() {
    let rig = Rig::start().await;
    let store = rig.member.store();
    write(store.clone(), 0, LONE_WRITES).await;
    for n in 0..LONE_WRITES {
        // Polled once: it hears the others first, and nobody is there to go on. Where the disk is slow it goes to the state thread.
        let _ = put(&store, n.to_string()).now_or_never();
    }
    let none_left = async { while metric(&rig, "etcd_server_proposals_pending").await != 0 {} };
    tokio::time::timeout(PATIENCE, none_left).await.expect("nothing stays pending");
    write(store, 1, 1).await;
}

/// A disk whose driver has a fault, once it is told to; the state thread does not meet it.
#[derive(Clone)]
struct Faulty(SimDisk, Arc<AtomicBool>);

struct FaultyFile(Box<dyn DiskFile>, Arc<AtomicBool>);

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(self.0.create(path)?, self.1.clone())))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        let of_state = std::thread::current().name() == Some("etcd-state");
        assert!(of_state || !self.1.load(Ordering::Relaxed), "a fault");
        self.0.sync()
    }
    fn reserve(&mut self, length: u64) -> io::Result<()> {
        self.0.reserve(length)
    }
    fn trim(&mut self) -> io::Result<()> {
        self.0.trim()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_panics_in_its_clients_task_ends_the_member() {
    let disk = Faulty(SimDisk::new(7), Arc::default());
    let storage = storage(Path::new("/sim/member"), Arc::new(disk.clone()));
    let config = MemberConfig { storage: Some(storage), ..MemberConfig::new("test", clock(), entropy()) };
    let member = Member::start(config).expect("starts");
    write(member.store(), 0, LONE_WRITES).await;
    disk.1.store(true, Ordering::Relaxed);
    // The state thread may be at its table for a moment, and take a write itself.
    let writer = tokio::spawn(write(member.store(), 1, WRITES_MAX));
    let panic = writer.await.expect_err("one of them is taken by its client").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a fault"));
    tokio::time::timeout(PATIENCE, member.ended()).await.expect("whoever runs it is told");
    assert!(matches!(put(&member.store(), "another".to_owned()).await, Err(StoreError::Stopped)));
}
