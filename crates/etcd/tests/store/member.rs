//! A member as its users see it: durable answers, ordered watches, leases on the clock, the same over gRPC.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{Entropy, FakeClock, Rng, Timestamp};
use bytes::Bytes;
use disk::{DataKey, RealDisk, SimDisk};
use etcd::{Member, MemberConfig, RemoteStore, Storage, Store, StoreError, Watch, WatchRequest};
use mvcc::{DeleteRangeRequest, EventKind, PutRequest, RangeRequest};

struct Rig {
    clock: FakeClock,
    entropy: Entropy,
    storage: Storage,
}

impl Rig {
    fn new(disk: Arc<dyn disk::Disk>, dir: PathBuf, seed: u64) -> Self {
        let rng = std::sync::Mutex::new(Rng::new(seed));
        let entropy = Entropy::new(move |buffer| {
            let mut rng = rng.lock().expect("no panic while it is held");
            buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
        });
        let key = DataKey::generate("cluster/test/instance/test", &entropy);
        let view = !dir.starts_with("/sim");
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1000));
        Self { clock, entropy, storage: Storage { dir, disk, key, view } }
    }

    fn sim(seed: u64) -> (Self, SimDisk) {
        let disk = SimDisk::new(seed);
        (Self::new(Arc::new(disk.clone()), PathBuf::from("/sim/member"), seed), disk)
    }

    fn config(&self) -> MemberConfig {
        let config = MemberConfig::new("test", self.clock.clock(), self.entropy.clone());
        MemberConfig { storage: Some(self.storage.clone()), ..config }
    }

    fn start(&self) -> Member {
        Member::start(self.config()).expect("starts")
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    PutRequest { key: text(key), value: text(value), ..PutRequest::default() }
}

async fn value(store: &Store, key: &str) -> Option<Bytes> {
    let found = store.range(RangeRequest::key(key.to_owned())).await.expect("readable");
    found.kvs.into_iter().next().map(|kv| kv.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_any_crash() {
    for seed in 0..8 {
        let (rig, disk) = Rig::sim(seed);
        let mut acknowledged = 0;
        for life in 0..5 {
            let member = Member::start(MemberConfig { snapshot_count: 20, ..rig.config() }).expect("starts");
            let store = member.store();
            for n in 0..acknowledged {
                let expect = Some(Bytes::from(n.to_string()));
                assert_eq!(value(&store, &format!("key-{n}")).await, expect, "seed {seed} life {life} key {n}");
            }
            let revision = store.current_revision().await.expect("readable");
            assert!(revision > acknowledged, "revisions never go back");
            for _ in 0..30 {
                let answer = store.put(put(&format!("key-{acknowledged}"), &acknowledged.to_string())).await;
                assert!(answer.expect("written").revision > revision);
                acknowledged += 1;
            }
            // Writes are under way while the power goes.
            let torn = tokio::spawn({
                let store = store.clone();
                async move {
                    for n in 0..50 {
                        let _ = store.put(put(&format!("torn-{n}"), "x")).await;
                    }
                }
            });
            tokio::task::yield_now().await;
            disk.crash();
            let _ = torn.await;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let (rig, disk) = Rig::sim(1);
    let member = rig.start();
    let store = member.store();
    store.put(put("a", "1")).await.expect("written");
    disk.set_capacity(Some(0));
    // More than was reserved for the log.
    let large = "2".repeat(100_000);
    let refused = store.put(put("b", &large)).await.expect_err("no space");
    assert_eq!(refused, StoreError::Timeout, "whether it will be done is not known");
    assert_eq!(value(&store, "a").await, Some(Bytes::from_static(b"1")));
    disk.set_capacity(None);
    store.put(put("c", "3")).await.expect("there is space again");
    assert_eq!(value(&store, "c").await, Some(Bytes::from_static(b"3")));
}

#[tokio::test]
async fn leases_run_out_on_the_clock_and_restart_with_the_member() {
    let (rig, _) = Rig::sim(2);
    let member = rig.start();
    let store = member.store();
    let lease = store.lease_grant(1, 0).await.expect("granted");
    assert_eq!(lease.ttl, 2, "one and a half election time-outs, rounded up, is the least");
    store.put(PutRequest { lease: lease.id, ..put("gone", "1") }).await.expect("written");
    let mut watch = store.watch(WatchRequest { key: "gone".into(), ..WatchRequest::default() }).await.expect("watch");
    rig.clock.advance(Duration::from_millis(2500));
    member.wake();
    let batch = next(&mut watch).await;
    assert_eq!(batch.events[0].kind, EventKind::Delete);
    assert_eq!(store.lease_keep_alive(lease.id).await, Ok(0));
    let long = store.lease_grant(100, 5).await.expect("granted");
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(store.lease_time_to_live(long.id, false).await.expect("known").ttl, 40);
    drop(watch);
    member.stop();
    let member = rig.start();
    let left = member.store().lease_time_to_live(5, true).await.expect("known");
    assert_eq!((left.ttl, left.granted_ttl), (100, 100));
}

#[tokio::test]
async fn what_a_lease_has_left_is_noted_when_that_is_asked_for() {
    let (rig, _) = Rig::sim(3);
    let config = MemberConfig { lease_checkpoint_interval: Some(Duration::from_secs(60)), ..rig.config() };
    let left = async |member: &Member| member.store().lease_time_to_live(5, false).await.expect("known").ttl;
    let member = Member::start(config.clone()).expect("starts");
    member.store().lease_grant(600, 5).await.expect("granted");
    // Whoever is answered after the grant knows that the member has looked at the clock since.
    member.store().put(put("before", "it")).await.expect("written");
    rig.clock.advance(Duration::from_secs(61));
    member.wake();
    member.store().put(put("after", "it")).await.expect("written");
    member.stop();
    let member = Member::start(config.clone()).expect("starts again");
    assert_eq!(left(&member).await, 539, "it does not begin anew");
    // Renewed, it has all its time, and whoever starts next knows.
    assert_eq!(member.store().lease_keep_alive(5).await, Ok(600));
    assert_eq!(left(&member).await, 600);
    member.stop();
    let member = Member::start(config).expect("starts again");
    assert_eq!(left(&member).await, 600);
}

async fn next(watch: &mut Watch) -> etcd::WatchBatch {
    let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("in time");
    batch.expect("the watch goes on").expect("no error")
}

/// Follows a prefix from a revision until a key is deleted there.
async fn follow(mut watch: Watch) -> Vec<(i64, Bytes)> {
    let (mut seen, mut last) = (Vec::new(), 0);
    loop {
        let batch = next(&mut watch).await;
        for event in batch.events {
            assert!(event.kv.mod_revision >= last, "ordered");
            last = event.kv.mod_revision;
            if event.kind == EventKind::Delete {
                return seen;
            }
            seen.push((last, event.kv.value));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_sees_every_change_once_and_in_order() {
    let (rig, _) = Rig::sim(3);
    let member = rig.start();
    let store = member.store();
    let mut watchers = tokio::task::JoinSet::new();
    for n in 0..2000_i64 {
        if n % 200 == 0 {
            let request = WatchRequest { start_revision: 2, prev_kv: true, ..prefix("w/") };
            watchers.spawn(follow(store.watch(request).await.expect("watch")));
        }
        store.put(put("w/key", &n.to_string())).await.expect("written");
    }
    store
        .delete_range(DeleteRangeRequest { key: "w/key".into(), ..DeleteRangeRequest::default() })
        .await
        .expect("done");
    let expect: Vec<_> = (0..2000_i64).map(|n| (n + 2, Bytes::from(n.to_string()))).collect();
    while let Some(seen) = watchers.join_next().await {
        assert_eq!(seen.expect("no panic"), expect);
    }
}

fn prefix(prefix: &'static str) -> WatchRequest {
    let RangeRequest { key, range_end, .. } = RangeRequest::prefix(prefix);
    WatchRequest { key, range_end, ..WatchRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_answer_alike() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::new(Arc::new(RealDisk), dir.path().join("member"), 4);
    let member = Arc::new(rig.start());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn({
        let member = member.clone();
        async move { member.serve_clients(listener, None, async move { drop(stopped.await) }).await }
    });
    let remote = Store::Remote(RemoteStore::connect(&[endpoint], None).expect("an endpoint"));
    for (round, store) in [(0, member.store()), (1, remote)] {
        let key = format!("k{round}");
        let before = store.current_revision().await.expect("readable");
        let mut watch = store.watch(prefix("k")).await.expect("watch");
        assert_eq!(store.put(put(&key, "v")).await.expect("written").revision, before + 1);
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, batch.events.len()), (before + 1, 1));
        store.progress().await.expect("asked");
        let progress = next(&mut watch).await;
        assert_eq!((progress.revision, progress.events.len()), (before + 1, 0));
        let missing = store.put(PutRequest { lease: 99, ..put("x", "") }).await;
        assert_eq!(missing, Err(StoreError::Refused(mvcc::MvccError::LeaseNotFound)));
        store.compact(before + 1, true).await.expect("compacted");
        let old = RangeRequest { revision: before, ..RangeRequest::key("k") };
        assert!(matches!(store.range(old).await, Err(StoreError::Compacted { .. })));
        let late = WatchRequest { start_revision: before, ..prefix("k") };
        let mut late = store.watch(late).await.expect("watch");
        assert_eq!(late.next().await, Some(Err(StoreError::Compacted { revision: before + 1 })));
        let lease = store.lease_grant(60, 0).await.expect("granted");
        assert_eq!(store.lease_keep_alive(lease.id).await, Ok(60));
        assert_eq!(store.leases().await.expect("listed"), [lease.id]);
        store.lease_revoke(lease.id).await.expect("revoked");
        assert_eq!(store.status().await.expect("known").revision, before + 1);
    }
    let large = put("large", &"x".repeat(1_600_000));
    assert_eq!(member.store().put(large).await, Err(StoreError::TooLarge));
    let _ = stop.send(());
    serving.await.expect("no panic").expect("served");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_replaced_by_the_view_or_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::new(Arc::new(RealDisk), dir.path().join("member"), 5);
    let config = || MemberConfig { snapshot_count: 10, ..rig.config() };
    let member = Member::start(config()).expect("starts");
    for n in 0..1000 {
        member.store().put(put(&format!("key-{n}"), "value")).await.expect("written");
    }
    member.stop();
    let checkpoint = dir.path().join("member/checkpoint");
    let mut bytes = std::fs::read(&checkpoint).expect("a checkpoint was made");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, &bytes).expect("writable");
    let member = Member::start(config()).expect("the view takes its place");
    assert_eq!(member.store().current_revision().await, Ok(1001));
    assert_eq!(value(&member.store(), "key-500").await, Some(Bytes::from_static(b"value")));
    member.stop();
    drop(member);
    let without = MemberConfig { storage: Some(Storage { view: false, ..rig.storage.clone() }), ..rig.config() };
    let Err(error) = Member::start(without) else { panic!("a damaged checkpoint is no empty store") };
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("checkpoint is damaged at offset"), "{cause}");
}

#[tokio::test]
async fn whoever_runs_a_member_learns_that_it_ended() {
    let (rig, _disk) = Rig::sim(11);
    let member = rig.start();
    let mut ended = std::pin::pin!(member.ended());
    assert!(futures_util::poll!(&mut ended).is_pending());
    member.stop();
    ended.await;
}
