//! `etcd grpc-proxy` in front of a member, as clients of both see it.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use etcd::{EtcdError, MemberConfig, PeerNetwork};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::support::{Client, Rig, Server, pb};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command that runs.
struct Running {
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), EtcdError>>,
}

impl Running {
    fn start(rig: &Rig, args: &[String]) -> Self {
        let command = etcd::command(args.iter().map(OsString::from).collect(), |_| None).expect("good flags");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let (clock, entropy) = (rig.clock.clock(), rig.entropy.clone());
        Self { stop, done: tokio::spawn(etcd::run_command(command, clock, entropy, shutdown)) }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.done).await.expect("in time").expect("no panic").expect("it ran");
    }
}

/// A proxy and its port.
struct Proxy {
    running: Running,
    port: u16,
}

async fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

async fn listens(port: u16) {
    let connect = async { while TcpStream::connect(("127.0.0.1", port)).await.is_err() {} };
    tokio::time::timeout(PATIENCE, connect).await.expect("it listens");
}

/// Tries until it is so.
async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let tries = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, tries).await.expect("in time");
}

impl Proxy {
    async fn start(rig: &Rig, endpoints: &str, flags: &[&str]) -> Self {
        let port = port().await;
        let own = [
            "grpc-proxy".to_owned(),
            "start".to_owned(),
            format!("--listen-addr=127.0.0.1:{port}"),
            format!("--endpoints={endpoints}"),
            format!("--advertise-client-url=127.0.0.1:{port}"),
        ];
        let args: Vec<String> = own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        let running = Running::start(rig, &args);
        listens(port).await;
        Self { running, port }
    }

    fn channel(&self) -> Channel {
        channel(&format!("127.0.0.1:{}", self.port))
    }

    fn client(&self) -> Client {
        Client::connect(&format!("http://127.0.0.1:{}", self.port))
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let client: HttpClient<_, Empty<Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://127.0.0.1:{}{path}", self.port).parse().expect("a URI");
        let answer = tokio::time::timeout(PATIENCE, client.get(uri)).await.expect("in time").expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// The line of the proxy's metrics with this name.
    async fn metric(&self, name: &str) -> String {
        let (_, page) = self.page("/proxy/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("{name}: {page}"))
    }
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
}

async fn put(channel: &Channel, key: &str, value: &str) -> pb::PutResponse {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let request = pb::PutRequest { key, value, prev_kv: true, ..Default::default() };
    KvClient::new(channel.clone()).put(request).await.expect("written").into_inner()
}

async fn read(channel: &Channel, key: &str, end: &str, serializable: bool) -> Vec<(String, String)> {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    let request = pb::RangeRequest { key, range_end, serializable, ..Default::default() };
    let answer = KvClient::new(channel.clone()).range(request).await.expect("read").into_inner();
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

async fn value(channel: &Channel, key: &str, serializable: bool) -> String {
    read(channel, key, "", serializable).await.pop().map(|(_, value)| value).unwrap_or_default()
}

/// One stream of watches.
struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(channel: &Channel) -> Self {
        Self::try_open(channel, None).await.expect("a stream")
    }

    async fn try_open(channel: &Channel, token: Option<&str>) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("visible letters"));
        }
        let answers = WatchClient::new(channel.clone()).watch(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn ask(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        let answer = self.next().await;
        assert!(answer.created, "{answer:?}");
        answer
    }

    async fn key(&mut self, key: &str, start: i64) -> pb::WatchResponse {
        self.create(pb::WatchCreateRequest { key: key.to_owned().into(), start_revision: start, ..Default::default() })
            .await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time");
        answer.expect("no error").expect("the stream is open")
    }

    /// Keys and values of the next events.
    async fn events(&mut self) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let kv = |event: pb::Event| event.kv.map(|kv| (text(&kv.key), text(&kv.value))).expect("a key");
        self.next().await.events.into_iter().map(kv).collect()
    }
}

fn one(key: &str, value: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), value.to_owned())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_kept_until_a_write_through_the_proxy_touches_it() {
    let rig = Rig::volatile(1);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let (through, direct) = (proxy.channel(), channel(&server.address.to_string()));
    put(&through, "a", "1").await;
    assert_eq!(value(&through, "a", true).await, "1");
    put(&direct, "a", "2").await;
    assert_eq!(value(&through, "a", true).await, "1", "the proxy has not heard of it");
    assert_eq!(read(&through, "a", "b", true).await, one("a", "2"), "another question");
    assert_eq!(value(&through, "a", false).await, "2");
    assert_eq!(value(&through, "a", true).await, "2", "what was up to date is kept too");
    assert_eq!(proxy.metric("etcd_grpc_proxy_cache_hits_total").await, "2");
    assert_eq!(proxy.metric("etcd_grpc_proxy_cache_keys_total").await, "2");
    put(&through, "a", "3").await;
    assert_eq!(value(&through, "a", true).await, "3");
    assert_eq!(read(&through, "a", "b", true).await, one("a", "3"));
    put(&direct, "a", "4").await;
    let op = pb::request_op::Request::RequestPut(pb::PutRequest {
        key: "a".into(),
        value: "5".into(),
        ..Default::default()
    });
    let inner = pb::TxnRequest { success: vec![pb::RequestOp { request: Some(op) }], ..Default::default() };
    let nested = pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(inner)) };
    let txn = pb::TxnRequest { success: vec![nested], ..Default::default() };
    let done = KvClient::new(through.clone()).txn(txn).await.expect("written").into_inner();
    assert_eq!(value(&through, "a", true).await, "5", "transactions within transactions write too");
    let revision = done.header.expect("a header").revision;
    let at = |revision| pb::RangeRequest { key: "a".into(), revision, serializable: true, ..Default::default() };
    let mut kv = KvClient::new(through.clone());
    assert_eq!(kv.range(at(2)).await.expect("it is still there").into_inner().kvs[0].value, "1");
    kv.compact(pb::CompactionRequest { revision, physical: false }).await.expect("compacted");
    let gone = kv.range(at(2)).await.expect_err("compacted");
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!((gone.code(), gone.message()), (Code::OutOfRange, text));
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_all_that_its_clients_see() {
    let rig = Rig::volatile(2);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &["--namespace=ns/"]).await;
    let (through, direct) = (proxy.channel(), channel(&server.address.to_string()));
    put(&direct, "nt", "behind").await;
    put(&direct, "a", "before").await;
    let mut watching = Watching::open(&through).await;
    let all = pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true, ..Default::default() };
    watching.create(all).await;
    put(&through, "a", "1").await;
    assert_eq!(put(&through, "a", "2").await.prev_kv.expect("it was there").key, "a");
    assert_eq!(value(&direct, "ns/a", false).await, "2");
    assert_eq!(value(&direct, "a", false).await, "before");
    assert_eq!(read(&through, "\0", "\0", false).await, one("a", "2"));
    assert_eq!(watching.events().await, one("a", "1"));
    let second = watching.next().await.events.pop().expect("an event");
    assert_eq!(second.prev_kv.expect("it was there").key, "a");
    let mut leases = LeaseClient::new(through.clone());
    let lease = leases.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 7 });
    assert_eq!(lease.await.expect("granted").into_inner().id, 7);
    for (channel, key) in [(&through, "b"), (&direct, "c"), (&direct, "ns/d")] {
        let on = pb::PutRequest { key: key.to_owned().into(), lease: 7, ..Default::default() };
        KvClient::new(channel.clone()).put(on).await.expect("written");
    }
    let request = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let left = LeaseClient::new(through.clone()).lease_time_to_live(request).await.expect("known").into_inner();
    assert_eq!(left.keys, ["b", "d"]);
    let nothing = KvClient::new(through.clone()).range(pb::RangeRequest::default()).await.expect_err("no key");
    assert_eq!(nothing.message(), "etcdserver: key is not provided");
    let delete = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let deleted = KvClient::new(through.clone()).delete_range(delete).await.expect("deleted").into_inner().deleted;
    assert_eq!(deleted, 3, "a, b and d");
    assert_eq!(read(&direct, "\0", "\0", false).await.len(), 3, "what is outside stays");
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_key_share_a_watch_and_each_is_told_what_it_asked_for() {
    let rig = Rig::volatile(3);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let (through, direct) = (proxy.channel(), channel(&server.address.to_string()));
    put(&direct, "k", "0").await;
    let mut first = Watching::open(&through).await;
    let created = first.key("k", 0).await;
    assert_eq!(created.header.expect("a header").revision, 2);
    let mut second = Watching::open(&through).await;
    assert_eq!(second.key("k", 3).await.watch_id, 0);
    let no_put = pb::WatchCreateRequest { key: "k".into(), start_revision: 3, filters: vec![0], ..Default::default() };
    assert_eq!(second.create(no_put).await.watch_id, 1);
    assert_eq!(proxy.metric("etcd_grpc_proxy_watchers_coalescing_total").await, "2");
    put(&direct, "k", "1").await;
    assert_eq!(first.events().await, one("k", "1"));
    assert_eq!(second.events().await, one("k", "1"));
    let mut late = Watching::open(&through).await;
    late.key("k", 2).await;
    assert_eq!(late.events().await, [one("k", "0"), one("k", "1")].concat(), "the past comes first");
    until(async || proxy.metric("etcd_grpc_proxy_watchers_coalescing_total").await == "3").await;
    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    KvClient::new(direct.clone()).delete_range(delete).await.expect("deleted");
    for watching in [&mut first, &mut late] {
        assert_eq!(watching.events().await, one("k", ""));
    }
    let mut ids = [second.next().await, second.next().await].map(|answer| (answer.watch_id, answer.events.len()));
    ids.sort_unstable();
    assert_eq!(ids, [(0, 1), (1, 1)]);
    second.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let cancelled = second.next().await;
    assert!(cancelled.canceled && cancelled.watch_id == 0);
    put(&direct, "k", "2").await;
    put(&direct, "k", "3").await;
    assert_eq!(first.events().await, one("k", "2"));
    drop((second, late));
    until(async || proxy.metric("etcd_grpc_proxy_watchers_coalescing_total").await == "0").await;
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_does_not_keep_others_from_their_events() {
    let rig = Rig::volatile(10);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let direct = channel(&server.address.to_string());
    let (mut stuck, mut other) = (Watching::open(&proxy.channel()).await, Watching::open(&proxy.channel()).await);
    stuck.key("k", 0).await;
    other.key("k", 2).await;
    assert_eq!(proxy.metric("etcd_grpc_proxy_watchers_coalescing_total").await, "1");
    // More than a connection, its stream and the queue before it hold.
    let value = "v".repeat(8000);
    let mut seen = 0;
    for written in 1..=1500 {
        put(&direct, "k", &value).await;
        while seen < written {
            seen += other.next().await.events.len();
        }
    }
    until(async || proxy.metric("etcd_grpc_proxy_watchers_coalescing_total").await == "0").await;
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_ask_for_a_leader_end_without_one() {
    let rig = Rig::volatile(11);
    // The other member is never there, so there is nobody to lead.
    let url = |port: u16| vec![format!("http://127.0.0.1:{port}")];
    let peer_urls = url(port().await);
    let other = url(port().await);
    let config = MemberConfig {
        initial_cluster: vec![("test".to_owned(), peer_urls.clone()), ("other".to_owned(), other)],
        peer_urls,
        peers: Some(PeerNetwork { runtime: tokio::runtime::Handle::current(), tls: None, source: None }),
        ..rig.config()
    };
    let server = Server::start(config).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let mut patient = Watching::open(&proxy.channel()).await;
    let created = patient.key("k", 0).await;
    assert!(!created.canceled, "it did not ask for a leader");
    let ask = |watches: mpsc::Receiver<pb::WatchRequest>| {
        let mut request = Request::new(ReceiverStream::new(watches));
        request.metadata_mut().insert("hasleader", "true".parse().expect("visible letters"));
        request
    };
    let (_open, watches) = mpsc::channel(1);
    let status = async {
        let mut answers = WatchClient::new(proxy.channel()).watch(ask(watches)).await?.into_inner();
        answers.message().await
    };
    let status = tokio::time::timeout(PATIENCE, status).await.expect("in time").expect_err("there is no leader");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: no leader"));
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_cannot_be_are_refused_in_etcds_words() {
    let rig = Rig::volatile(4);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let (through, direct) = (proxy.channel(), channel(&server.address.to_string()));
    for value in ["1", "2", "3"] {
        put(&direct, "k", value).await;
    }
    let compaction = pb::CompactionRequest { revision: 3, physical: false };
    KvClient::new(direct.clone()).compact(compaction).await.expect("compacted");
    let mut watching = Watching::open(&through).await;
    let refused = watching.key("k", -1).await;
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    assert!(refused.canceled && refused.watch_id == -1);
    let empty = pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() };
    assert!(watching.create(empty).await.canceled);
    assert!(!watching.key("k", 2).await.canceled);
    let gone = watching.next().await;
    assert_eq!((gone.canceled, gone.compact_revision, gone.watch_id), (true, 3, 0));
    assert_eq!(watching.key("k", 3).await.watch_id, 1);
    assert_eq!(watching.events().await, [one("k", "2"), one("k", "3")].concat());
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_made_with_its_clients_token() {
    let rig = Rig::volatile(5);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let anybody = proxy.client();
    anybody.make_root_and_eve().await;
    anybody.enable().await.expect("root has its role");
    let login = async |name, password| {
        let token = anybody.authenticate(name, password).await.expect("a token");
        (proxy.client().with_token(&token), token)
    };
    let ((root, _), (eve, eves)) = (login("root", "rp").await, login("eve", "ep").await);
    root.put_value("x", "secret").await.expect("root may");
    assert_eq!(root.count("x").await, 1);
    let ask = |key: &str| {
        let request = pb::RangeRequest { key: key.to_owned().into(), serializable: true, ..Default::default() };
        let mut request = Request::new(request);
        request.metadata_mut().insert("token", eves.parse().expect("visible letters"));
        request
    };
    let mut kv = KvClient::new(proxy.channel());
    let denied = kv.range(ask("x")).await.expect_err("what root read is kept, but not for eve");
    assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "etcdserver: permission denied"));
    let unnamed = anybody.call("range x").await.expect_err("nobody");
    assert_eq!(unnamed.message(), "etcdserver: user name is empty");
    eve.put_value("e1", "1").await.expect("eve may");
    let mut watching = Watching::try_open(&proxy.channel(), Some(&eves)).await.expect("a stream");
    assert_eq!(watching.key("x", 0).await.cancel_reason, "etcdserver: permission denied");
    assert!(!watching.key("e1", 0).await.canceled);
    root.put_value("e1", "2").await.expect("root may");
    assert_eq!(watching.events().await, one("e1", "2"));
    let mut nobody = Watching::open(&proxy.channel()).await;
    assert_eq!(nobody.key("e1", 0).await.cancel_reason, "etcdserver: user name is empty", "also where others watch");
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_renewed_and_revoked() {
    let rig = Rig::volatile(6);
    let server = Server::start(rig.config()).await;
    let proxy = Proxy::start(&rig, &server.address.to_string(), &[]).await;
    let mut leases = LeaseClient::new(proxy.channel());
    for id in 1..=3 {
        leases.lease_grant(pb::LeaseGrantRequest { ttl: 100 * id, id }).await.expect("granted");
    }
    let asks = [1, 2, 1, 3, 99, 1].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut answers = leases.lease_keep_alive(tokio_stream::iter(asks)).await.expect("a stream").into_inner();
    let mut renewed = Vec::new();
    while let Some(answer) = answers.message().await.expect("no error") {
        renewed.push((answer.id, answer.ttl));
    }
    renewed.sort_unstable();
    assert_eq!(renewed, [(1, 100), (1, 100), (1, 100), (2, 200), (3, 300), (99, 0)]);
    leases.lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await.expect("revoked");
    let left = leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("listed").into_inner().leases;
    assert_eq!(left.iter().map(|lease| lease.id).collect::<Vec<_>>(), [1, 3]);
    let again = leases.lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await.expect_err("gone");
    assert_eq!((again.code(), again.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    proxy.running.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_registered_stand_for_the_members() {
    let rig = Rig::volatile(7);
    let server = Server::start(rig.config()).await;
    let etcd = server.address.to_string();
    let resolver = ["--resolver-prefix=/proxies", "--resolver-ttl=60"];
    let first = Proxy::start(&rig, &etcd, &resolver).await;
    let second = Proxy::start(&rig, &etcd, &resolver).await;
    let members = async |proxy: &Proxy| {
        let mut cluster = pb::cluster_client::ClusterClient::new(proxy.channel());
        let listed = cluster.member_list(pb::MemberListRequest::default()).await.expect("listed").into_inner().members;
        let mut urls: Vec<String> = listed.into_iter().flat_map(|member| member.client_ur_ls).collect();
        urls.sort_unstable();
        urls
    };
    let address = |proxy: &Proxy| format!("127.0.0.1:{}", proxy.port);
    let mut both = vec![address(&first), address(&second)];
    both.sort_unstable();
    until(async || members(&first).await == both && members(&second).await == both).await;
    let alone = Proxy::start(&rig, &etcd, &[]).await;
    assert_eq!(members(&alone).await, [address(&alone)], "it knows of no other");
    let own = address(&first);
    second.running.stop().await;
    until(async || members(&first).await == [own.clone()]).await;
    let open = Proxy::start(&rig, &etcd, &["--advertise-client-url="]).await;
    let mut cluster = pb::cluster_client::ClusterClient::new(open.channel());
    let listed = cluster.member_list(pb::MemberListRequest::default()).await.expect("listed").into_inner().members;
    assert_eq!(listed.first().map(|member| member.id), Some(server.member.id()), "etcd's own answer");
    let (status, text) = open.page("/proxy/health").await;
    assert_eq!((status, text.trim_end()), (503, r#"{"health":"false","reason":"no connection to proxy"}"#));
    for proxy in [first, alone, open] {
        proxy.running.stop().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_when_its_connection_breaks() {
    let rig = Rig::volatile(8);
    let server = Server::start(rig.config()).await;
    let between = port().await;
    let gateway: Vec<String> = [
        "gateway".to_owned(),
        "start".to_owned(),
        format!("--listen-addr=127.0.0.1:{between}"),
        format!("--endpoints={}", server.address),
    ]
    .into();
    let first = Running::start(&rig, &gateway);
    listens(between).await;
    // The other endpoint is never there.
    let endpoints = format!("127.0.0.1:{},127.0.0.1:{between}", port().await);
    let proxy = Proxy::start(&rig, &endpoints, &[]).await;
    let (through, direct) = (proxy.channel(), channel(&server.address.to_string()));
    put(&through, "k", "1").await;
    let mut watching = Watching::open(&through).await;
    watching.key("k", 0).await;
    put(&through, "k", "2").await;
    assert_eq!(watching.events().await, one("k", "2"));
    first.stop().await;
    let lost = pb::PutRequest { key: "k".into(), ..Default::default() };
    let lost = KvClient::new(through.clone()).put(lost).await.expect_err("nobody is there");
    assert_eq!(lost.code(), Code::Unavailable);
    put(&direct, "k", "3").await;
    let second = Running::start(&rig, &gateway);
    listens(between).await;
    assert_eq!(watching.events().await, one("k", "3"), "what happened meanwhile");
    assert_eq!(value(&through, "k", false).await, "3");
    put(&through, "k", "4").await;
    assert_eq!(watching.events().await, one("k", "4"));
    proxy.running.stop().await;
    second.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_of_both_are_told() {
    let rig = Rig::volatile(9);
    let server = Server::start(rig.config()).await;
    let metrics = port().await;
    let flag = format!("--metrics-addr=http://127.0.0.1:{metrics}");
    let proxy = Proxy::start(&rig, &format!("http://{}", server.address), &[&flag]).await;
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    for path in ["/health", "/proxy/health"] {
        assert_eq!(proxy.page(path).await, healthy);
    }
    assert!(proxy.page("/metrics").await.1.contains("\netcd_server_has_leader 1\n"), "the member's");
    assert_eq!(proxy.metric("etcd_server_health_success").await, "2");
    assert_eq!(proxy.page("/version").await, (404, "404 page not found\n".to_owned()));
    let only = Proxy { running: proxy.running, port: metrics };
    assert_eq!(only.page("/health").await, healthy);
    assert_eq!(only.metric("etcd_server_health_success").await, "3");
    let mut health = pb::maintenance_client::MaintenanceClient::new(channel(&format!("127.0.0.1:{}", proxy.port)));
    let status = health.status(pb::StatusRequest {}).await.expect("told").into_inner();
    assert_eq!(status.leader, server.member.id());
    let mut blobs = health.snapshot(pb::SnapshotRequest {}).await.expect("a stream").into_inner();
    let mut total = 0;
    while let Some(part) = blobs.message().await.expect("no error") {
        total += part.blob.len();
    }
    assert_eq!(total % 512, 32, "a whole snapshot with its checksum");
    let mut cluster = pb::cluster_client::ClusterClient::new(channel(&format!("127.0.0.1:{}", proxy.port)));
    let refused = cluster.member_promote(pb::MemberPromoteRequest { id: 1 }).await.expect_err("as in etcd");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "not implemented"));
    only.running.stop().await;
    server.stop().await;
}
