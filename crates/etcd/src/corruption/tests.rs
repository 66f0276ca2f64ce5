use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base::{Clock, ClockSource, Entropy, FakeClock, Timestamp};
use disk::{DataKey, RealDisk, read_checkpoint, write_checkpoint};
use mvcc::{MvccError, PutRequest, RangeRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::{Member, MemberConfig, Storage};

/// Members tell their proposals apart by random numbers: the same seed for all would mix them up.
fn entropy() -> Entropy {
    let source = std::fs::File::open("/dev/urandom").expect("the system has randomness");
    Entropy::new(move |buffer| (&source).read_exact(buffer).expect("the system has randomness"))
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

/// A member that tells the same wrong checksum whatever it is asked; returns its URL.
async fn liar() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; 4096];
            let _ = stream.read(&mut asked).await;
            let body = r#"{"header":{"revision":2},"hash":1,"compact_revision":-1,"hash_revision":2}"#;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_checksum_keeps_a_member_from_starting_and_raises_the_alarm() {
    let clock: Clock = FakeClock::new(Timestamp::from_unix_seconds(1000)).clock();
    let network = PeerNetwork { runtime: tokio::runtime::Handle::current(), tls: None, source: None };
    let config = MemberConfig::new("m", clock, entropy());
    let member = Member::start(MemberConfig { peers: Some(network.clone()), ..config }).expect("starts");
    let store = member.local();
    store.put(put("k", "v")).await.expect("written");
    let times = Times { initial: true, periodic: Duration::ZERO, compactions: None };
    let checker = Checker::new(store.clone(), network, times);
    checker.initial(true).await.expect("nobody else is there");
    let other = store.member_add(vec![liar().await], true).await.expect("added").id;
    let error = checker.initial(true).await.expect_err("the other has another checksum");
    assert!(error.to_string().ends_with("found data inconsistency with peers"), "{error}");
    checker.initial(false).await.expect("a member that has not begun has nothing to compare");
    checker.periodic().await.expect("compared");
    let alarms = store.shared.published().snapshot.alarms();
    assert_eq!(alarms, [Alarm { member: other, kind: AlarmKind::Corrupt }]);
    assert_eq!(store.put(put("k", "v")).await, Err(StoreError::Refused(MvccError::Corrupt)));
}

#[test]
fn those_that_differ_from_the_majority_are_named() {
    let check = |told: &[(MemberId, u32)], others, expect| {
        assert_eq!(compare(1, 7, told, others), expect, "{told:?}");
    };
    check(&[(2, 7), (3, 7)], 2, Compared::Equal);
    check(&[(2, 7)], 2, Compared::Unknown);
    check(&[(2, 7), (3, 8)], 2, Compared::Differ(vec![3]));
    check(&[(2, 8), (3, 8)], 2, Compared::Differ(vec![1]));
    check(&[(2, 8), (3, 9)], 2, Compared::Differ(vec![0]));
    check(&[(2, 8)], 1, Compared::Differ(vec![0]));
}

#[test]
fn a_follower_may_be_behind_but_not_ahead_and_not_other() {
    let hash = |hash, compact_revision, revision| HashKv { hash, compact_revision, hash_revision: 9, revision };
    let (before, after) = (hash(7, 4, 9), HashKv { hash_revision: 10, ..hash(8, 4, 10) });
    let check = |told: HashKv, expect| {
        assert_eq!(differing(1, &before, &after, &[(2, told)]), expect, "{told:?}");
    };
    check(hash(7, 4, 9), None);
    check(hash(7, 4, 10), None);
    check(hash(3, 2, 9), None);
    check(hash(7, 4, 11), Some(2));
    check(hash(7, 5, 9), Some(2));
    check(hash(6, 4, 9), Some(2));
    let changed = HashKv { hash: 6, ..before };
    assert_eq!(differing(1, &before, &changed, &[]), Some(1));
}

/// Three members on real disks, of which any may be stopped and started again.
struct Three {
    dir: tempfile::TempDir,
    key: DataKey,
    ports: Vec<String>,
}

struct OneOfThree {
    member: Arc<Member>,
    port: tokio::task::JoinHandle<()>,
}

struct SystemClock(Instant);

impl ClockSource for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "real members keep real time, and a test has no binary above it")]
    fn now(&self) -> Timestamp {
        Timestamp::EPOCH + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970")
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "as above")]
fn clock() -> Clock {
    Clock::new(SystemClock(Instant::now()))
}

impl Three {
    async fn new() -> Self {
        let mut ports = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            ports.push(listener.local_addr().expect("bound").to_string());
        }
        let key = DataKey::generate("cluster/test/instance/test", &entropy());
        Self { dir: tempfile::tempdir().expect("a directory"), key, ports }
    }

    fn path(&self, place: usize) -> PathBuf {
        self.dir.path().join(place.to_string())
    }

    fn network() -> PeerNetwork {
        PeerNetwork { runtime: tokio::runtime::Handle::current(), tls: None, source: None }
    }

    async fn start(&self, place: usize) -> OneOfThree {
        let urls = |place: usize| vec![format!("http://{}", self.ports[place])];
        let storage = Storage { dir: self.path(place), disk: Arc::new(RealDisk), key: self.key.clone(), view: false };
        let config = MemberConfig {
            storage: Some(storage),
            initial_cluster: (0..3).map(|place| (format!("m{place}"), urls(place))).collect(),
            peer_urls: urls(place),
            peers: Some(Self::network()),
            ..MemberConfig::new(format!("m{place}"), clock(), entropy())
        };
        let listener = TcpListener::bind(&self.ports[place]).await.expect("the port is free");
        let member = Arc::new(Member::start(config).expect("starts"));
        let serving = member.clone();
        let port = tokio::spawn(async move {
            serving.serve_peers(listener, None, std::future::pending::<()>()).await.expect("serves");
        });
        OneOfThree { member, port }
    }

    /// Changes a value in the state that a stopped member has on its disk, so that every seal fits.
    fn damage(&self, place: usize, from: &[u8], to: &[u8]) {
        let path = self.path(place).join("checkpoint");
        let records = read_checkpoint(&RealDisk, &path, &self.key).expect("a sound checkpoint");
        let mut changed = 0;
        let records: Vec<(u8, Vec<u8>)> = records
            .into_iter()
            .map(|record| {
                let mut bytes = record.bytes.to_vec();
                if let Some(at) = bytes.windows(from.len()).position(|part| part == from) {
                    bytes[at..at + to.len()].copy_from_slice(to);
                    changed += 1;
                }
                (record.kind, bytes)
            })
            .collect();
        assert_eq!(changed, 1, "the value is there once");
        let records = records.iter().map(|(kind, bytes)| (*kind, bytes.as_slice()));
        write_checkpoint(&RealDisk, &path, &self.key, &entropy(), records).expect("written");
    }
}

impl OneOfThree {
    fn checker(&self) -> Checker {
        let times = Times { initial: true, periodic: Duration::from_secs(1), compactions: None };
        Checker::new(self.member.local(), Three::network(), times)
    }

    async fn read(&self, key: &str) -> Vec<u8> {
        let request = RangeRequest { serializable: true, ..RangeRequest::key(key.to_owned()) };
        let found = self.member.store().range(request).await.expect("readable");
        found.kvs.first().map(|kv| kv.value.to_vec()).unwrap_or_default()
    }

    async fn stop(self) {
        self.port.abort();
        let _ = self.port.await;
        let member = self.member;
        tokio::task::spawn_blocking(move || member.stop()).await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_state_was_changed_on_its_disk_is_named_and_nothing_is_written_any_more() {
    let three = Three::new().await;
    let mut members = Vec::new();
    for place in 0..3 {
        members.push(three.start(place).await);
    }
    for n in 0..5 {
        members[0].member.store().put(put(&format!("key-{n}"), &format!("value-{n}"))).await.expect("written");
    }
    let bad = members.pop().expect("three");
    bad.member.store().range(RangeRequest::key("key-4".to_owned())).await.expect("it has everything");
    bad.member.defragment().await.expect("its state is in a checkpoint");
    bad.stop().await;
    three.damage(2, b"value-3", b"other-3");
    members.push(three.start(2).await);
    let id = members[2].member.id();
    members[2].member.store().range(RangeRequest::key("key-0".to_owned())).await.expect("it is back");
    assert_eq!(members[2].read("key-3").await, b"other-3", "the damage is one that no seal shows");

    let refused = members[2].checker().initial(true).await.expect_err("it differs from the others");
    assert!(refused.to_string().ends_with("found data inconsistency with peers"), "{refused}");
    if members[2].member.status().leader == id {
        // The leader takes what it has itself for right.
        members[2].member.local().move_leader(members[0].member.id()).await.expect("handed over");
    }
    let alarms = || members[0].member.local().shared.published().snapshot.alarms();
    let found = async {
        while alarms().is_empty() {
            let leader = members.iter().find(|member| member.member.id() == member.member.status().leader);
            leader.expect("one leads").checker().periodic().await.expect("compared");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("the leader finds it");
    assert_eq!(alarms(), [Alarm { member: id, kind: AlarmKind::Corrupt }]);
    for member in &members {
        let answer = member.member.store().put(put("key", "value")).await;
        assert_eq!(answer, Err(StoreError::Refused(MvccError::Corrupt)));
    }
    for member in members {
        member.stop().await;
    }
}
