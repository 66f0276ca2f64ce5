//! What a member does with damaged, missing and torn files: it goes on with everything that was acknowledged, or it stops
//! and names the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::{Entropy, FakeClock, Rng, Timestamp};
use bytes::Bytes;
use disk::{DataKey, Disk, DiskFile, RealDisk, SimDisk, View};
use etcd::{DeleteRangeRequest, Member, MemberConfig, PutRequest, RangeRequest, Storage, Store};

struct Rig {
    clock: FakeClock,
    entropy: Entropy,
    storage: Storage,
    snapshot_count: u64,
}

impl Rig {
    fn new(disk: Arc<dyn Disk>, dir: &Path, seed: u64) -> Self {
        let rng = Mutex::new(Rng::new(seed));
        let entropy = Entropy::new(move |buffer| {
            let mut rng = rng.lock().expect("no panic while it is held");
            buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
        });
        let key = DataKey::generate("cluster/test/instance/test", &entropy);
        let (view, dir) = (!dir.starts_with("/sim"), dir.to_owned());
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1000));
        Self { clock, entropy, storage: Storage { dir, disk, key, view }, snapshot_count: 1_000_000 }
    }

    fn sim(seed: u64) -> (Self, SimDisk) {
        let disk = SimDisk::new(seed);
        (Self::new(Arc::new(disk.clone()), Path::new("/sim/member"), seed), disk)
    }

    fn real(dir: &Path) -> Self {
        Self::new(Arc::new(RealDisk), &dir.join("member"), 1)
    }

    fn start(&self) -> Result<Member, String> {
        let config = MemberConfig::new("test", self.clock.clock(), self.entropy.clone());
        let (storage, snapshot_count) = (Some(self.storage.clone()), self.snapshot_count);
        Member::start(MemberConfig { storage, snapshot_count, ..config }).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        })
    }

    fn refusal(&self) -> String {
        self.start().map(drop).expect_err("it must not start")
    }

    /// A member that wrote so many keys, made a checkpoint if it was told to, and stopped.
    async fn written(&self, keys: usize, checkpoint: bool) {
        let member = self.start().expect("starts");
        for n in 0..keys {
            put(&member.store(), &format!("key-{n}"), "value").await.expect("written");
        }
        if checkpoint {
            member.defragment().await.expect("done");
            put(&member.store(), "last", "value").await.expect("written");
        }
        member.stop();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.storage.dir.join(name)
    }
}

async fn put(store: &Store, key: &str, value: &str) -> Result<i64, etcd::StoreError> {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Ok(store.put(PutRequest { key: text(key), value: text(value), ..PutRequest::default() }).await?.revision)
}

async fn value(store: &Store, key: &str) -> Option<String> {
    let found = store.range(RangeRequest::key(key.to_owned())).await.expect("readable");
    found.kvs.into_iter().next().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

/// What clients were told: each key's value, or that it is gone.
#[derive(Default)]
struct Told {
    keys: BTreeMap<String, Option<String>>,
    revision: i64,
}

impl Told {
    async fn check(&self, store: &Store, when: &str) {
        for (key, expect) in &self.keys {
            assert_eq!(value(store, key).await, *expect, "{when}: {key}");
        }
        let revision = store.current_revision().await.expect("readable");
        assert!(revision >= self.revision, "{when}: revision {revision} after {}", self.revision);
    }

    /// One change that is acknowledged or not; what was not is left out of what must be.
    async fn change(&mut self, store: &Store, rng: &mut Rng, key: String) {
        let answer = if rng.one_in(5) {
            let gone = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
            store.delete_range(gone).await.map(|answer| (answer.revision, None))
        } else {
            let text = rng.next_u64().to_string();
            put(store, &key, &text).await.map(|revision| (revision, Some(text)))
        };
        match answer {
            Ok((revision, now)) => {
                self.revision = self.revision.max(revision);
                self.keys.insert(key, now);
            }
            Err(_) => drop(self.keys.remove(&key)),
        }
    }
}

/// Power goes off at any moment, the disk tears what was not synced, syncs fail: what was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_the_loss_of_power() {
    for seed in 0..300 {
        let (rig, disk) = Rig::sim(seed);
        let rig = Rig { snapshot_count: 20, ..rig };
        let mut rng = Rng::new(seed);
        let mut told = Told::default();
        for life in 0..4 {
            let member = rig.start().unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
            let store = member.store();
            told.check(&store, &format!("seed {seed} life {life}")).await;
            if rng.one_in(4) {
                disk.fail_sync_after(rng.below(30));
            }
            for _ in 0..rng.below(25) {
                let key = format!("key-{}", rng.below(30));
                told.change(&store, &mut rng, key).await;
            }
            if rng.one_in(3) {
                // A compaction is a write like any other.
                let _ = store.compact(told.revision, rng.one_in(2)).await;
            }
            // Others write while the power goes.
            let mut busy = Rng::new(rng.next_u64());
            let storm = tokio::spawn(async move {
                let mut told = Told::default();
                for n in 0..40 {
                    told.change(&store, &mut busy, format!("storm-{life}-{n}")).await;
                }
                told
            });
            for _ in 0..rng.below(6) {
                tokio::task::yield_now().await;
            }
            disk.crash();
            let storm = storm.await.expect("no panic");
            told.keys.extend(storm.keys);
            told.revision = told.revision.max(storm.revision);
        }
    }
}

#[tokio::test]
async fn a_lost_log_is_no_empty_store() {
    // Nothing but the log, and then not even that: there is nothing to tell it by.
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::real(dir.path());
    rig.written(100, false).await;
    assert!(!rig.path("checkpoint").exists());
    let log = rig.path("log").join("0000000000000001.log");
    let good = std::fs::read(&log).expect("readable");
    // Cut to nothing; cut to less than a head; gone.
    for length in [0, 40] {
        std::fs::write(&log, &good[..length]).expect("written");
        let refusal = rig.refusal();
        assert!(refusal.contains(&format!("{} is damaged at offset 0: it is empty", log.display())), "{refusal}");
    }
    std::fs::remove_file(&log).expect("removed");
    let refusal = rig.refusal();
    assert!(refusal.contains(&format!("{} is missing", log.display())), "{refusal}");
    std::fs::remove_dir_all(rig.path("log")).expect("removed");
    let refusal = rig.refusal();
    assert!(refusal.contains(&format!("{} is empty or gone", rig.path("log").display())), "{refusal}");
    assert!(refusal.contains(&format!("{} is there", rig.path("view").display())), "{refusal}");
    for _ in 0..2 {
        assert!(rig.refusal().contains("is empty or gone"), "also the second time");
    }
    std::fs::remove_dir_all(rig.path("log")).expect("removed");
    std::fs::create_dir(rig.path("log")).expect("made");
    std::fs::write(&log, &good).expect("written");
    let member = rig.start().expect("with its log it starts");
    assert_eq!(value(&member.store(), "key-99").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn a_checkpoint_without_its_log_is_refused_on_any_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    for rig in [Rig::sim(3).0, Rig::real(dir.path())] {
        rig.written(500, true).await;
        let disk = rig.storage.disk.clone();
        assert!(disk.read(&rig.path("checkpoint")).is_ok(), "there is a checkpoint");
        for name in disk.list(&rig.path("log")).expect("a log") {
            disk.remove(&rig.path("log").join(name)).expect("removed");
        }
        let refusal = rig.refusal();
        assert!(refusal.contains(&format!("{} is there", rig.path("checkpoint").display())), "{refusal}");
    }
}

#[tokio::test]
async fn a_damaged_log_stops_the_member_and_is_named_with_the_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let (sim, disk) = Rig::sim(4);
    let real = Rig::real(dir.path());
    for rig in [&sim, &real] {
        rig.written(100, false).await;
    }
    let segment = "log/0000000000000001.log";
    disk.flip_bit(&sim.path(segment), 2000);
    let mut bytes = std::fs::read(real.path(segment)).expect("a segment");
    bytes[2000] ^= 4;
    std::fs::write(real.path(segment), &bytes).expect("written");
    for rig in [&sim, &real] {
        let refusal = rig.refusal();
        assert!(refusal.contains(&format!("{} is damaged at offset ", rig.path(segment).display())), "{refusal}");
        assert_eq!(rig.refusal(), refusal, "nothing was changed");
    }
}

/// Overwrites every file of the view.
fn break_view(rig: &Rig) {
    for entry in std::fs::read_dir(rig.path("view")).expect("a view") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            let length = std::fs::metadata(&path).expect("readable").len();
            std::fs::write(&path, vec![0x5a; usize::try_from(length).expect("small")]).expect("written");
        }
    }
}

#[tokio::test]
async fn a_damaged_view_is_built_again_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::real(dir.path());
    rig.written(300, false).await;
    break_view(&rig);
    let lines = Lines::default();
    let lines_seen = lines.0.clone();
    tracing::subscriber::set_global_default(lines).expect("the only one of this process");
    rig.written(301, false).await;
    let seen = lines_seen.lock().expect("no panic").join("\n");
    assert!(seen.contains("the view is damaged and is built again"), "{seen}");
    let view = View::open(&rig.path("view"), rig.storage.key.clone(), &rig.entropy).expect("whole again");
    assert!(view.iterate().filter(|row| row.is_ok()).count() >= 601, "every version is in it");
    assert!(view.iterate().all(|row| row.is_ok()));
}

/// Keeps what is logged.
#[derive(Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no panic").push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_damaged_checkpoint_and_a_damaged_view_together_stop_the_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::real(dir.path());
    rig.written(500, true).await;
    let checkpoint = rig.path("checkpoint");
    let mut bytes = std::fs::read(&checkpoint).expect("a checkpoint");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, &bytes).expect("written");
    break_view(&rig);
    let refusal = rig.refusal();
    assert!(refusal.contains(&format!("{} is damaged at offset ", checkpoint.display())), "{refusal}");
}

#[tokio::test]
async fn a_lost_checkpoint_is_replaced_by_the_view() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::real(dir.path());
    rig.written(500, true).await;
    std::fs::remove_file(rig.path("checkpoint")).expect("there is one");
    let member = rig.start().expect("the view has everything");
    assert_eq!(value(&member.store(), "key-0").await.as_deref(), Some("value"));
    assert_eq!(value(&member.store(), "last").await.as_deref(), Some("value"));
    assert_eq!(put(&member.store(), "more", "value").await, Ok(503));
    member.stop();
}

#[tokio::test]
async fn a_lost_checkpoint_without_a_view_is_no_empty_store() {
    let (rig, disk) = Rig::sim(11);
    rig.written(50, true).await;
    let member = rig.start().expect("starts");
    member.defragment().await.expect("nothing follows the checkpoint");
    member.stop();
    disk.remove(&rig.path("checkpoint")).expect("there is one");
    let refusal = rig.refusal();
    assert!(refusal.contains(&format!("{} is gone", rig.path("checkpoint").display())), "{refusal}");
}

/// Remembers every byte that is written, whatever becomes of the file.
struct Recorder(Arc<Mutex<Vec<u8>>>);

struct RecordedFile(Box<dyn DiskFile>, Arc<Mutex<Vec<u8>>>);

impl Disk for Recorder {
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RecordedFile(RealDisk.create(path)?, self.0.clone())))
    }
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for RecordedFile {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.1.lock().expect("no panic").extend_from_slice(bytes);
        self.0.append(bytes)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        self.0.sync()
    }
    fn reserve(&mut self, length: u64) -> std::io::Result<()> {
        self.0.reserve(length)
    }
    fn trim(&mut self) -> std::io::Result<()> {
        self.0.trim()
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[tokio::test]
async fn nothing_in_the_directory_can_be_read() {
    const MARK: &str = "PLAINTEXT-MARKER";
    let dir = tempfile::tempdir().expect("a directory");
    let written = Arc::new(Mutex::new(Vec::new()));
    let rig = Rig::new(Arc::new(Recorder(written.clone())), &dir.path().join("member"), 1);
    let rig = Rig { snapshot_count: 100, ..rig };
    for life in 0..3 {
        let member = rig.start().expect("starts");
        let store = member.store();
        for n in 0..300 {
            put(&store, &format!("{MARK}-key-{n}"), &format!("{life}-{MARK}-{}", MARK.repeat(n)))
                .await
                .expect("written");
        }
        let revision = store.current_revision().await.expect("readable");
        store.compact(revision - 10, true).await.expect("compacted");
        member.defragment().await.expect("checkpointed");
        member.stop();
    }
    let holds = |bytes: &[u8]| bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
    let recorded = written.lock().expect("no panic");
    assert!(recorded.len() > 900 * MARK.len() && !holds(&recorded), "log, checkpoints and temporary files");
    let mut found = Vec::new();
    files(dir.path(), &mut found);
    for part in ["log", "checkpoint", "view"] {
        assert!(found.iter().any(|file| file.starts_with(rig.path(part))), "{part} was looked at");
    }
    for file in found {
        assert!(!holds(file.as_os_str().as_encoded_bytes()), "{}", file.display());
        assert!(!holds(&std::fs::read(&file).expect("readable")), "{}", file.display());
    }
    // The marker is in there all the same.
    let view = View::open(&rig.path("view"), rig.storage.key.clone(), &rig.entropy).expect("opens");
    assert!(view.iterate().any(|row| holds(&row.expect("readable").1)));
}

/// Bytes of a file that tell which key sealed it.
const KEY_ID: std::ops::Range<usize> = 8..24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_sealed_anew_while_it_is_read_and_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rig = Rig::real(dir.path());
    rig.written(50, true).await;
    let old = rig.storage.key.clone();
    let new = DataKey::generate(old.context(), &rig.entropy);
    let old_id = std::fs::read(rig.path("checkpoint")).expect("there is one")[KEY_ID].to_vec();
    let member = rig.start().expect("starts");
    let (store, busy) = (member.store(), member.store());
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            put(&busy, &format!("meanwhile-{n}"), "value").await.expect("written");
        }
    });
    let resealed = member.reseal(new.with_earlier(vec![old.clone()])).await;
    assert_eq!(resealed, Ok(true));
    writer.await.expect("no panic");
    assert_eq!(value(&store, "key-49").await.as_deref(), Some("value"));
    member.stop();
    let logs = std::fs::read_dir(rig.path("log")).expect("readable").map(|entry| entry.expect("readable").path());
    let files = logs.filter(|path| path.extension().is_some_and(|end| end == "log")).chain([rig.path("checkpoint")]);
    for file in files {
        assert_ne!(std::fs::read(&file).expect("readable")[KEY_ID], old_id, "{}", file.display());
    }
    let refusal = rig.refusal();
    assert!(refusal.contains("sealed with another key"), "{refusal}");
    rig.storage.key = new;
    let member = rig.start().expect("starts with the new key alone");
    for key in ["key-0", "last", "meanwhile-199"] {
        assert_eq!(value(&member.store(), key).await.as_deref(), Some("value"), "{key}");
    }
    member.stop();
    let mut damaged = std::fs::read(rig.path("checkpoint")).expect("readable");
    *damaged.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(rig.path("checkpoint"), damaged).expect("written");
    let member = rig.start().expect("starts from the view, which has the new key too");
    assert_eq!(value(&member.store(), "key-0").await.as_deref(), Some("value"));
}

/// Keys change and power goes off: old and new key together always open everything, the new one alone once it was said so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_key_survives_the_loss_of_power_at_any_moment() {
    for seed in 0..100 {
        let (mut rig, disk) = Rig::sim(seed);
        rig.snapshot_count = 20;
        let mut rng = Rng::new(seed);
        let mut told = Told::default();
        for life in 0..5 {
            let member = rig.start().unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
            let store = member.store();
            told.check(&store, &format!("seed {seed} life {life}")).await;
            if rng.one_in(3) {
                disk.fail_sync_after(rng.below(12));
            }
            for _ in 0..rng.below(15) {
                let key = format!("key-{}", rng.below(20));
                told.change(&store, &mut rng, key).await;
            }
            let key = rig.storage.key.clone();
            let key = match key.earlier() {
                [] => DataKey::generate(key.context(), &rig.entropy).with_earlier(vec![key]),
                _ => key,
            };
            rig.storage.key = key.clone();
            if rng.one_in(4) {
                // Cut off in the middle of it.
                drop(tokio::time::timeout(std::time::Duration::ZERO, member.reseal(key)).await);
            } else if member.reseal(key.clone()).await == Ok(true) {
                rig.storage.key = key.with_earlier(Vec::new());
            }
            disk.crash();
            drop(member);
        }
    }
}
