//! Several members as their users see them: one store, whoever is asked, whoever is gone.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::{Clock, ClockSource, Entropy, Timestamp};
use bytes::Bytes;
use disk::{DataKey, RealDisk};
use etcd::{
    Compare, Member, MemberConfig, MemberError, PeerNetwork, PutRequest, RangeRequest, RequestOp, Storage, Store,
    StoreError, TxnRequest, WatchRequest, inquire,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::support::{Client, listen_for_clients};

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

fn entropy() -> Entropy {
    let source = std::fs::File::open("/dev/urandom").expect("the system has randomness");
    Entropy::new(move |buffer| (&source).read_exact(buffer).expect("the system has randomness"))
}

/// A member, its peer port, and how to stop both.
struct Running {
    member: Arc<Member>,
    port: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// Members that know of one another.
struct Cluster {
    dir: tempfile::TempDir,
    key: DataKey,
    urls: Vec<(String, Vec<String>)>,
    /// Of the members the cluster began with.
    first: usize,
    snapshot_count: u64,
}

impl Cluster {
    async fn new(members: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = DataKey::generate("cluster/test/instance/test", &entropy());
        let mut cluster = Self { dir, key, urls: Vec::new(), first: members, snapshot_count: 10_000 };
        for _ in 0..members {
            cluster.name_another().await;
        }
        cluster
    }

    /// Finds a port for one more member; returns its place.
    async fn name_another(&mut self) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        self.urls.push((format!("m{}", self.urls.len()), vec![url]));
        self.urls.len() - 1
    }

    fn network() -> PeerNetwork {
        PeerNetwork { runtime: tokio::runtime::Handle::current(), tls: None, source: None }
    }

    fn config(&self, place: usize) -> MemberConfig {
        let (name, peer_urls) = self.urls[place].clone();
        let dir = self.dir.path().join(&name);
        let storage = Storage { dir, disk: Arc::new(RealDisk), key: self.key.clone(), view: true };
        MemberConfig {
            storage: Some(storage),
            initial_cluster: self.urls[..self.first].to_vec(),
            client_urls: vec![format!("http://{name}:2379")],
            peer_urls,
            peers: Some(Self::network()),
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(50),
            snapshot_count: self.snapshot_count,
            strict_reconfiguration: false,
            ..MemberConfig::new(name, clock(), entropy())
        }
    }

    async fn start(&self, place: usize) -> Running {
        self.run(place, self.config(place)).await
    }

    async fn run(&self, place: usize, config: MemberConfig) -> Running {
        let address = self.urls[place].1[0].trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(&address).await.expect("the port is free");
        let member = Arc::new(Member::start(config).expect("starts"));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = member.clone();
        let port = tokio::spawn(async move {
            serving.serve_peers(listener, None, async { drop(stopped.await) }).await.expect("serves");
        });
        Running { member, port, stop }
    }

    async fn start_all(&self) -> Vec<Running> {
        let mut all = Vec::new();
        for place in 0..self.urls.len() {
            all.push(self.start(place).await);
        }
        all
    }
}

impl Running {
    fn store(&self) -> Store {
        self.member.store()
    }

    fn leader(&self) -> u64 {
        self.member.status().leader
    }

    /// Ends at once, without handing anything over.
    async fn kill(self) {
        self.port.abort();
        let _ = self.port.await;
        let member = self.member;
        tokio::task::spawn_blocking(move || member.stop()).await.expect("stops");
    }

    async fn stop(self) {
        let member = self.member.clone();
        tokio::task::spawn_blocking(move || member.stop()).await.expect("stops");
        let _ = self.stop.send(());
        let _ = self.port.await;
    }
}

fn text(text: impl std::fmt::Display) -> Bytes {
    Bytes::from(text.to_string())
}

async fn put(store: &Store, key: &str, value: impl std::fmt::Display) -> Result<i64, StoreError> {
    let request = PutRequest { key: text(key), value: text(value), ..PutRequest::default() };
    store.put(request).await.map(|answer| answer.revision)
}

async fn get(store: &Store, key: &str) -> Option<Bytes> {
    let found = store.range(RangeRequest::key(key.to_owned())).await.expect("readable");
    found.kvs.into_iter().next().map(|kv| kv.value)
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn leader_of(members: &[Running]) -> usize {
    let mut found = None;
    eventually("a leader all agree on", async || {
        let leader = members[0].leader();
        let agreed = leader != 0 && members.iter().all(|member| member.leader() == leader);
        found = members.iter().position(|member| agreed && member.member.id() == leader);
        found.is_some()
    })
    .await;
    found.expect("just found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_member_answered_every_member_reads() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    for (n, writer) in members.iter().enumerate().cycle().take(30) {
        let revision = put(&writer.store(), "k", n).await.expect("written");
        for reader in &members {
            assert_eq!(get(&reader.store(), "k").await, Some(text(n)));
            assert!(reader.store().current_revision().await.expect("readable") >= revision);
        }
    }
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_under_way_when_the_leader_dies_are_done_once_and_answered() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    for round in 0..3 {
        let leader = leader_of(&members).await;
        let follower = members[(leader + 1) % 3].store();
        // Each adds one if nobody did in between: done twice, the counter would pass the answers.
        let writers: Vec<_> = (0..20)
            .map(|n| {
                let store = follower.clone();
                tokio::spawn(async move { put(&store, &format!("round-{round}-{n}"), n).await })
            })
            .collect();
        members.remove(leader).kill().await;
        for writer in writers {
            writer.await.expect("no panic").expect("answered by the next leader");
        }
        for n in 0..20 {
            let request = RangeRequest::key(format!("round-{round}-{n}"));
            let kv = follower.range(request).await.expect("readable").kvs.remove(0);
            assert_eq!(kv.version, 1, "round {round}: write {n} was done once");
        }
        let place = (0..3).find(|place| members.iter().all(|m| m.member.name() != format!("m{place}")));
        members.insert(leader, cluster.start(place.expect("one is missing")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_missed_more_than_the_log_holds_gets_the_state_and_its_watches_miss_nothing() {
    let mut cluster = Cluster::new(3).await;
    cluster.snapshot_count = 50;
    let mut members = cluster.start_all().await;
    let leader = leader_of(&members).await;
    let missing = (leader + 1) % 3;
    let store = members[leader].store();
    put(&store, "k", "before").await.expect("written");
    let lease = store.lease_grant(600, 0).await.expect("granted").id;
    members.remove(missing).stop().await;
    let value = "x".repeat(20_000);
    for n in 0..3000 {
        put(&store, &format!("k{}", n % 50), format!("{n}{value}")).await.expect("written");
    }
    let returned = cluster.start(missing).await;
    let request = WatchRequest { key: text("k"), range_end: text("l"), start_revision: 2, ..WatchRequest::default() };
    let mut watch = returned.store().watch(request).await.expect("watched");
    assert_eq!(get(&returned.store(), "k").await, Some(text("before")));
    let left = returned.store().lease_time_to_live(lease, false).await.expect("asked");
    assert!(left.ttl > 500, "{left:?}");
    let mut next = 2;
    while next < 3002 {
        let batch = watch.next().await.expect("goes on").expect("nothing was compacted");
        for event in batch.events {
            assert_eq!(event.kv.mod_revision, next, "every revision once, in order");
            next += 1;
        }
    }
    // What it was sent is its own: it goes on from there when all start again.
    members.push(returned);
    for member in members {
        member.stop().await;
    }
    let members = cluster.start_all().await;
    assert_eq!(get(&members[missing].store(), "k49").await, Some(text(format!("2999{value}"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_as_learners_are_promoted_and_leave_by_themselves_when_removed() {
    let mut cluster = Cluster::new(1).await;
    let mut members = cluster.start_all().await;
    let store = members[0].store();
    put(&store, "k", 1).await.expect("written");
    let place = cluster.name_another().await;
    let (name, urls) = cluster.urls[place].clone();
    let Store::Local(local) = members[0].store() else { unreachable!("a member in this process") };
    let id = local.member_add(urls.clone(), true).await.expect("added").id;
    let taken = vec![urls[0].clone(), "http://127.0.0.1:1".to_owned()];
    assert_eq!(local.member_add(taken, false).await, Err(MemberError::PeerUrlExists.into()));

    let others = [cluster.urls[0].1.clone()];
    let stranger = inquire(&Cluster::network(), "m9", &["http://127.0.0.1:1".to_owned()], &others).await;
    assert!(stranger.expect_err("not a member").to_string().contains("is not among its members"));
    let joined = inquire(&Cluster::network(), &name, &urls, &others).await.expect("a member");
    let config = MemberConfig { joined: Some(joined), ..cluster.config(place) };
    members.push(cluster.run(place, config).await);
    let learner = members[1].store();
    let serializable = RangeRequest { serializable: true, ..RangeRequest::key("k") };
    eventually("the learner has the state", async || {
        learner.range(serializable.clone()).await.is_ok_and(|answer| answer.count == 1)
    })
    .await;
    assert_eq!(put(&learner, "k", 2).await, Err(StoreError::Learner));
    clients_of_a_learner(&members[1].member).await;

    local.member_promote(id).await.expect("in sync");
    assert_eq!(local.member_promote(id).await, Err(MemberError::NotLearner.into()));
    eventually("it has a vote", async || put(&learner, "k", 3).await.is_ok()).await;
    assert_eq!(get(&store, "k").await, Some(text(3)));
    eventually("both names are told", async || {
        let named = |name: &str| local.members().iter().any(|member| member.name == name);
        named("m0") && named("m1")
    })
    .await;

    local.member_remove(id).await.expect("removed");
    tokio::time::timeout(Duration::from_secs(20), members[1].member.ended()).await.expect("it stops by itself");
    assert!(members[1].member.is_removed());
    put(&store, "k", 4).await.expect("the other goes on alone");
    assert_eq!(local.member_remove(id).await, Err(MemberError::NotFound.into()));
}

/// They may read what is there, no more; that the member is well is asked past that rule.
async fn clients_of_a_learner(learner: &Arc<Member>) {
    let address = listen_for_clients(learner).await;
    let client = Client::connect(&format!("http://{address}"));
    for call in ["range k", "put k", "delete k", "txn read k", "compact", "lease grant", "user list"] {
        let refused = client.call(call).await.expect_err(call);
        let expect = (Code::FailedPrecondition, "etcdserver: rpc not supported for learner");
        assert_eq!((refused.code(), refused.message()), expect, "{call}");
    }
    for path in ["/health", "/readyz/linearizable_read"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_what_nobody_takes_ends_as_a_context_does_in_go() {
    let cluster = Cluster::new(2).await;
    let mut members = cluster.start_all().await;
    put(&members[0].store(), "k", 1).await.expect("written");
    members.remove(1).kill().await;
    eventually("nobody leads", async || members[0].member.status().leader == 0).await;
    assert_eq!(put(&members[0].store(), "k", 2).await, Err(StoreError::Deadline));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_left_goes_on_alone_when_it_is_forced_to() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    put(&members[0].store(), "k", 1).await.expect("written");
    assert_eq!(get(&members[2].store(), "k").await, Some(text(1)));
    let ids: Vec<u64> = members.iter().map(|member| member.member.id()).collect();
    while let Some(member) = members.pop() {
        member.kill().await;
    }
    let forced = MemberConfig { force_new_cluster: true, ..cluster.config(2) };
    let alone = cluster.run(2, forced.clone()).await;
    assert_eq!(get(&alone.store(), "k").await, Some(text(1)));
    put(&alone.store(), "k", 2).await.expect("nobody else is needed");
    let Store::Local(local) = alone.store() else { unreachable!("a member in this process") };
    let known: Vec<u64> = local.members().iter().map(|member| member.id).collect();
    assert_eq!(known, [ids[2]]);
    assert_eq!(local.member_remove(ids[0]).await, Err(MemberError::NotFound.into()), "the others never come back");
    alone.stop().await;
    // It stays so, forced again or not.
    for config in [forced, cluster.config(2)] {
        let again = cluster.run(2, config).await;
        assert_eq!(get(&again.store(), "k").await, Some(text(2)));
        again.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_by_another_member_is_gone_for_whoever_asked() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    let leader = leader_of(&members).await;
    let Store::Local(local) = members[(leader + 1) % 3].store() else { unreachable!("a member in this process") };
    let id = members[leader].member.id();
    local.member_remove(id).await.expect("removed");
    assert!(local.members().iter().all(|member| member.id != id), "whoever asks next sees it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_left_leads_when_the_leader_of_two_is_removed() {
    let cluster = Cluster::new(2).await;
    let members = cluster.start_all().await;
    let leader = leader_of(&members).await;
    let left = &members[1 - leader];
    let Store::Local(local) = left.store() else { unreachable!("a member in this process") };
    local.member_remove(members[leader].member.id()).await.expect("removed");
    eventually("it leads", async || put(&left.store(), "k", 1).await.is_ok()).await;
    assert_eq!(left.leader(), left.member.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_voter_is_added_before_it_runs() {
    let mut cluster = Cluster::new(1).await;
    let mut members = cluster.start_all().await;
    put(&members[0].store(), "k", 1).await.expect("written");
    let place = cluster.name_another().await;
    let (name, urls) = cluster.urls[place].clone();
    let Store::Local(local) = members[0].store() else { unreachable!("a member in this process") };
    local.member_add(urls.clone(), false).await.expect("the only voter decides by itself");
    let waiting = tokio::spawn({
        let store = members[0].store();
        async move { put(&store, "k", 2).await }
    });
    let joined = inquire(&Cluster::network(), &name, &urls, &[cluster.urls[0].1.clone()]).await.expect("a member");
    let config = MemberConfig { joined: Some(joined), ..cluster.config(place) };
    members.push(cluster.run(place, config).await);
    waiting.await.expect("no panic").expect("written when both are there");
    assert_eq!(get(&members[1].store(), "k").await, Some(text(2)));
    // Both start again on their own disks.
    for member in members {
        member.stop().await;
    }
    let members = [cluster.start(0).await, cluster.start(1).await];
    assert_eq!(get(&members[1].store(), "k").await, Some(text(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_through_a_change_of_leader_and_ends_on_every_member() {
    let cluster = Cluster::new(3).await;
    let members = cluster.start_all().await;
    let leader = leader_of(&members).await;
    let (first, follower) = (members[leader].store(), members[(leader + 1) % 3].store());
    let lease = first.lease_grant(2, 0).await.expect("granted").id;
    let attached = PutRequest { key: text("k"), value: text("v"), lease, ..PutRequest::default() };
    first.put(attached).await.expect("written");
    let Store::Local(local) = &first else { unreachable!("a member in this process") };
    local.move_leader(members[(leader + 1) % 3].member.id()).await.expect("moved");
    assert_eq!(local.move_leader(members[leader].member.id()).await, Err(MemberError::NotLeader.into()));
    for _ in 0..6 {
        assert_eq!(first.lease_keep_alive(lease).await, Ok(2), "the old leader passes it on");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(get(&follower, "k").await, Some(text("v")));
    }
    for member in &members {
        eventually("the key is gone", async || get(&member.store(), "k").await.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_promised_and_nothing_is_lost() {
    let cluster = Cluster::new(3).await;
    let mut members = cluster.start_all().await;
    let leader = leader_of(&members).await;
    put(&members[leader].store(), "k", 1).await.expect("written");
    let survivor = members.remove(leader);
    for member in members {
        member.kill().await;
    }
    let compare = vec![Compare::mod_revision("k", 0)];
    let success = vec![RequestOp::Put(PutRequest { key: text("k"), value: text(2), ..PutRequest::default() })];
    let txn = TxnRequest { compare, success, failure: Vec::new() };
    let store = survivor.store();
    let (read, written) = tokio::join!(store.range(RangeRequest::key("k")), store.txn(txn));
    assert!(matches!(read, Err(StoreError::Timeout | StoreError::LeaderChanged)), "{read:?}");
    assert!(written.is_err(), "{written:?}");
    let serializable = RangeRequest { serializable: true, ..RangeRequest::key("k") };
    assert_eq!(store.range(serializable).await.expect("local").count, 1);
    survivor.kill().await;
    let members = cluster.start_all().await;
    assert_eq!(get(&members[leader].store(), "k").await, Some(text(1)));
}

#[test]
fn a_member_that_its_initial_cluster_does_not_name_is_refused() {
    let config = MemberConfig {
        initial_cluster: vec![("other".to_owned(), vec!["http://127.0.0.1:1".to_owned()])],
        ..MemberConfig::new("me", clock(), entropy())
    };
    let error = Member::start(config).err().expect("refused");
    assert_eq!(error.to_string(), "couldn't find local name \"me\" in the initial cluster configuration");
    assert!(!Path::new("me").exists());
}
