//! gRPC beside the core services: health, reflection, limits, counters.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::rig::{Rig, whole};

async fn channel(rig: &Rig) -> Channel {
    Endpoint::from_shared(rig.base.clone()).expect("an address").connect().await.expect("connects")
}

/// What is used of etcd's messages, whichever it is: bytes in field one, a number in field two.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

async fn unary(channel: Channel, path: &'static str, message: Message) -> Result<Message, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.expect("ready");
    let codec = ProstCodec::<Message, Message>::default();
    let request = tonic::Request::new(message);
    client.unary(request, PathAndQuery::from_static(path), codec).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn health_is_told_at_once_and_when_it_ends() {
    let rig = Rig::start().await;
    let mut health = HealthClient::new(channel(&rig).await);
    let whole = HealthCheckRequest::default();
    let named = HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(health.check(whole.clone()).await.expect("known").get_ref().status, ServingStatus::Serving as i32);
    let unknown = health.check(named.clone()).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "unknown service"));
    let mut watch = health.watch(whole).await.expect("a stream").into_inner();
    let mut next = async || watch.message().await.expect("no error").map(|answer| answer.status);
    assert_eq!(next().await, Some(ServingStatus::Serving as i32));
    let mut other = health.watch(named).await.expect("a stream").into_inner();
    let first = other.message().await.expect("no error").expect("an answer");
    assert_eq!(first.status, ServingStatus::ServiceUnknown as i32);
    rig.member.stop();
    assert_eq!(next().await, Some(ServingStatus::NotServing as i32));
}

#[tokio::test]
async fn reflection_names_and_describes_every_service() {
    let rig = Rig::start().await;
    let mut client = ServerReflectionClient::new(channel(&rig).await);
    let ask = |request: MessageRequest| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("v3lockpb.Lock".to_owned())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.expect("a stream");
    let mut answers = answers.into_inner();
    let mut next = async || answers.message().await.expect("no error").and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    for name in [
        "etcdserverpb.Cluster",
        "etcdserverpb.KV",
        "etcdserverpb.Lease",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Watch",
        "grpc.health.v1.Health",
        "v3electionpb.Election",
        "v3lockpb.Lock",
    ] {
        assert!(names.iter().any(|listed| listed == name), "{name} in {names:?}");
    }
    assert!(matches!(next().await, Some(MessageResponse::FileDescriptorResponse(_))));
}

#[tokio::test]
async fn what_is_not_there_or_too_large_is_refused_as_by_grpc_for_go() {
    let rig = Rig::start().await;
    let channel = channel(&rig).await;
    let check = async |path: &'static str, message: Message, code: Code, text: &str| {
        let refused = unary(channel.clone(), path, message).await.expect_err(path);
        assert_eq!((refused.code(), refused.message()), (code, text));
    };
    let none = Message::default();
    let text = "unknown method RangeStream for service etcdserverpb.KV";
    check("/etcdserverpb.KV/RangeStream", none.clone(), Code::Unimplemented, text).await;
    check("/no.Service/Method", none, Code::Unimplemented, "unknown service no.Service").await;
    let large = |bytes: usize| Message { key: "a".into(), value: Bytes::from(vec![0; bytes]) };
    let put = "/etcdserverpb.KV/Put";
    check(put, large(1_600_000), Code::InvalidArgument, "etcdserver: request is too large").await;
    let text = "grpc: received message larger than max (2200008 vs. 2097152)";
    check(put, large(2_200_000), Code::ResourceExhausted, text).await;
}

#[tokio::test]
async fn requests_may_be_compressed_and_have_large_headers() {
    let rig = Rig::start().await;
    let codec = ProstCodec::<Message, Message>::default;
    let value = Bytes::from(vec![7; 1_000_000]);
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"] {
        let mut client = Grpc::new(channel(&rig).await).send_compressed(CompressionEncoding::Gzip);
        client.ready().await.expect("ready");
        let value = if path.ends_with("Put") { value.clone() } else { Bytes::new() };
        let mut request = tonic::Request::new(Message { key: "a".into(), value });
        request.metadata_mut().insert("x-large", "x".repeat(100_000).parse().expect("letters"));
        client.unary(request, PathAndQuery::from_static(path), codec()).await.expect("understood");
    }
}

#[tokio::test]
async fn a_stream_ends_with_what_was_wrong_about_its_message() {
    let rig = Rig::start().await;
    let large = Message { key: Bytes::from(vec![0; 2_200_000]), value: Bytes::new() };
    for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        let mut client = Grpc::new(channel(&rig).await);
        client.ready().await.expect("ready");
        let requests = tonic::Request::new(tokio_stream::once(large.clone()));
        let codec = ProstCodec::<Message, Message>::default();
        let answers = client.streaming(requests, PathAndQuery::from_static(path), codec).await.expect("a stream");
        let ended = answers.into_inner().message().await.expect_err("too large");
        let text = "grpc: received message larger than max (2200005 vs. 2097152)";
        assert_eq!((ended.code(), ended.message()), (Code::ResourceExhausted, text), "{path}");
    }
}

#[tokio::test]
async fn without_tls_http_2_is_grpcs_alone() {
    use hyper_util::rt::TokioExecutor;
    let rig = Rig::start().await;
    let client: hyper_util::client::legacy::Client<_, Full<Bytes>> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = Request::get(format!("{}/health", rig.base)).body(Full::default()).expect("a request");
    let (status, headers, _) = whole(client.request(request).await.expect("an answer")).await;
    assert_eq!((status, headers["grpc-status"].as_bytes()), (415, &b"3"[..]));
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let rig = Rig::start().await;
    let channel = channel(&rig).await;
    let put = Message { key: "a".into(), value: "b".into() };
    for _ in 0..3 {
        unary(channel.clone(), "/etcdserverpb.KV/Put", put.clone()).await.expect("written");
    }
    unary(channel.clone(), "/etcdserverpb.KV/Put", Message::default()).await.expect_err("no key");
    rig.post("/v3/kv/range", r#"{"key":"YQ=="}"#).await;
    rig.get("/readyz").await;
    let (_, headers, page) = rig.ask("GET", "/metrics", "").await;
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    let put = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    let range = r#"grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    for line in [
        format!("grpc_server_started_total{{{put} 4"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put} 3"),
        format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put} 1"),
        format!("grpc_server_msg_received_total{{{put} 4"),
        format!("grpc_server_msg_sent_total{{{put} 3"),
        format!("grpc_server_started_total{{{range} 1"),
        "etcd_mvcc_put_total 3".to_owned(),
        "etcd_server_has_leader 1".to_owned(),
        r#"etcd_server_healthcheck{name="linearizable_read",type="readyz"} 1"#.to_owned(),
        // Three puts of six bytes, an empty one, and a range of three.
        "etcd_network_client_grpc_received_bytes_total 21".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line}");
    }
    for name in [
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_pending",
        "etcd_server_slow_apply_total",
        "etcd_server_slow_read_indexes_total",
        "etcd_server_health_failures",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_server_read_indexes_failed_total",
        "etcd_server_heartbeat_send_failures_total",
    ] {
        assert!(page.lines().any(|line| line.split(' ').next() == Some(name)), "{name}");
    }
    assert!(!page.contains("grpc_server_handling_seconds"), "calls are timed only when asked to");
}

#[tokio::test]
async fn leases_are_counted() {
    let rig = Rig::start().await;
    for (path, body) in [
        ("/v3/lease/grant", r#"{"ID":7,"TTL":60}"#),
        ("/v3/lease/grant", r#"{"ID":8,"TTL":60}"#),
        ("/v3/lease/keepalive", r#"{"ID":7}"#),
        ("/v3/lease/revoke", r#"{"ID":7}"#),
    ] {
        rig.post(path, body).await;
    }
    let page = rig.get("/metrics").await.1;
    for line in [
        "etcd_debugging_lease_granted_total 2",
        "etcd_debugging_lease_renewed_total 1",
        "etcd_debugging_lease_revoked_total 1",
        "etcd_debugging_server_lease_expired_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}: {page}");
    }
}

#[tokio::test]
async fn health_over_http_says_what_is_wrong() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/health").await, (200, r#"{"health":"true","reason":""}"#.to_owned()));
    rig.post("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":2,"alarm":"CORRUPT"}"#).await;
    let ill = r#"{"health":"false","reason":"ALARM CORRUPT"}"#;
    assert_eq!(rig.get("/health").await, (503, format!("{ill}\n")));
    assert_eq!(rig.get("/health?exclude=CORRUPT").await.0, 200, "reads go on");
    let refused = rig.post("/v3/kv/put", r#"{"key":"YQ=="}"#).await;
    assert_eq!(refused, (500, r#"{"code":15,"message":"etcdserver: corrupt cluster"}"#.to_owned()));
    assert_eq!(rig.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(rig.get("/livez/serializable_read?verbose").await, (200, "[+]serializable_read ok\nok\n".to_owned()));
    let report = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n\n";
    assert_eq!(rig.get("/readyz").await, (503, report.to_owned()));
    assert_eq!(rig.get("/readyz?exclude=data_corruption").await, (200, "ok\n".to_owned()));
    assert_eq!(rig.get("/readyz/data_corruption").await.0, 503);
    assert_eq!(rig.get("/readyz/nope").await, (404, "404 page not found\n".to_owned()));
    let (status, headers, text) = rig.ask("POST", "/readyz", "").await;
    assert_eq!((status, text.as_str(), headers["allow"].as_bytes()), (405, "Method Not Allowed\n", &b"GET"[..]));
    let version = format!(r#"{{"etcdserver":"{}","etcdcluster":"3.6.0","storage":"3.6.0"}}"#, etcd::VERSION);
    assert_eq!(rig.get("/version").await, (200, version));
    let (status, headers, _) = rig.ask("GET", "//health?x=1", "").await;
    assert_eq!((status, headers["location"].as_bytes()), (307, &b"/health?x=1"[..]));
    let (status, headers, text) = rig.ask("OPTIONS", "/v3/kv/range", "").await;
    assert_eq!((status, text.as_str(), headers["access-control-allow-origin"].as_bytes()), (200, "", &b"*"[..]));
}
