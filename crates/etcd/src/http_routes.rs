//! The plain HTTP routes of the client port: health, version, metrics.

use std::fmt::Write as _;

use http::{Method, Request, Response, StatusCode};
use mvcc::{AlarmKind, RangeRequest};
use tonic::body::Body;

use crate::LocalStore;
use crate::hub::lock;

/// Answers a request that is not gRPC.
pub(crate) async fn answer<B>(store: &LocalStore, request: &Request<B>) -> Response<Body> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    if request.method() != Method::GET && matches!(path, "/health" | "/version" | "/metrics") {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "Method Not Allowed\n");
    }
    match path {
        "/health" => health(store, query).await,
        "/version" => json(StatusCode::OK, &version()),
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", &metrics(store)),
        _ => match path.trim_end_matches('/').split_once("/livez").or_else(|| path.split_once("/readyz")) {
            Some(("", rest)) => checks(store, path.starts_with("/readyz"), rest, query).await,
            _ if path.starts_with("/v3/") => json(StatusCode::NOT_FOUND, r#"{"code":5,"message":"Not Found"}"#),
            _ => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n"),
        },
    }
}

pub(crate) fn version() -> String {
    format!(r#"{{"etcdserver":"{}","etcdcluster":"3.6.0","storage":"3.6.0"}}"#, crate::VERSION)
}

pub(crate) fn text(status: StatusCode, kind: &'static str, body: &str) -> Response<Body> {
    let body = http_body_util::Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    if kind.starts_with("text/plain; charset") {
        let nosniff = http::HeaderValue::from_static("nosniff");
        response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    }
    response
}

pub(crate) fn json(status: StatusCode, body: &str) -> Response<Body> {
    text(status, "application/json", body)
}

/// The values of a query parameter.
fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = &'q str> {
    query.split('&').filter_map(move |pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

async fn readable(store: &LocalStore, serializable: bool) -> Result<(), String> {
    let request = RangeRequest { serializable, limit: 1, ..RangeRequest::key(&b"a"[..]) };
    store.range(request).await.map(drop).map_err(|error| error.to_string())
}

async fn health(store: &LocalStore, query: &str) -> Response<Body> {
    let serializable = values(query, "serializable").any(|value| value == "true");
    let published = store.shared.published();
    let excluded = |kind: &str| values(query, "exclude").any(|name| name == kind);
    let mut reason = String::new();
    for alarm in published.snapshot.alarms() {
        let name = if alarm.kind == AlarmKind::NoSpace { "NOSPACE" } else { "CORRUPT" };
        if !excluded(name) {
            reason = format!("ALARM {name}");
        }
    }
    if reason.is_empty() && !serializable && published.leader == 0 {
        "RAFT NO LEADER".clone_into(&mut reason);
    }
    if reason.is_empty()
        && let Err(error) = readable(store, serializable).await
    {
        reason = format!("RANGE ERROR:{error}");
    }
    let healthy = reason.is_empty();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reason = serde_json::Value::String(reason);
    text(status, "text/plain; charset=utf-8", &format!(r#"{{"health":"{healthy}","reason":{reason}}}"#))
}

/// `/livez` and `/readyz`: each check alone under its own path, all of them under the root.
async fn checks(store: &LocalStore, ready: bool, rest: &str, query: &str) -> Response<Body> {
    const LIVE: [&str; 1] = ["serializable_read"];
    const READY: [&str; 4] = ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];
    let names: &[&str] = if ready { &READY } else { &LIVE };
    let plain = "text/plain; charset=utf-8";
    let single = rest.trim_start_matches('/');
    if !single.is_empty() && !names.contains(&single) {
        return text(StatusCode::NOT_FOUND, plain, "404 page not found\n");
    }
    let mut report = String::new();
    let mut failed = false;
    for name in names.iter().filter(|name| single.is_empty() || **name == single) {
        if single.is_empty() && values(query, "exclude").any(|excluded| excluded == *name) {
            continue;
        }
        let result = match *name {
            "serializable_read" => readable(store, true).await,
            "linearizable_read" => readable(store, false).await,
            "data_corruption" if store.shared.published().snapshot.has_alarm(AlarmKind::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            _ => Ok(()),
        };
        match result {
            Ok(()) => drop(writeln!(report, "[+]{name} ok")),
            Err(error) => {
                failed = true;
                let _ = writeln!(report, "[-]{name} failed: {error}");
            }
        }
    }
    if failed {
        return text(StatusCode::SERVICE_UNAVAILABLE, plain, &report);
    }
    let verbose = values(query, "verbose").next().is_some();
    let body = if verbose { format!("{report}ok\n") } else { "ok\n".to_owned() };
    text(StatusCode::OK, plain, &body)
}

fn metrics(store: &LocalStore) -> String {
    let shared = &store.shared;
    let published = shared.published();
    let (snapshot, metrics) = (&published.snapshot, &shared.metrics);
    let mut out = String::new();
    let mut line = |kind: &str, name: &str, value: &dyn std::fmt::Display| {
        let bare = name.split('{').next().unwrap_or(name);
        let _ = writeln!(out, "# TYPE {bare} {kind}\n{name} {value}");
    };
    let leads = published.leader == shared.member_id;
    line("gauge", "etcd_server_has_leader", &u8::from(published.leader != 0));
    line("gauge", "etcd_server_is_leader", &u8::from(leads));
    line("gauge", "etcd_server_is_learner", &u8::from(published.learner));
    line("counter", "etcd_server_leader_changes_seen_total", &metrics.leader_changes.get());
    line("gauge", "etcd_server_proposals_committed_total", &published.raft_index);
    line("gauge", "etcd_server_proposals_applied_total", &published.applied_index);
    line("gauge", "etcd_server_proposals_pending", &shared.pending.load(std::sync::atomic::Ordering::Relaxed));
    line("counter", "etcd_server_proposals_failed_total", &metrics.proposals_failed.get());
    line("gauge", "etcd_server_quota_backend_bytes", &shared.limits.quota_bytes);
    line("gauge", &format!("etcd_server_version{{server_version=\"{}\"}}", crate::VERSION), &1);
    line("gauge", &format!("etcd_server_id{{server_id=\"{:x}\"}}", shared.member_id), &1);
    line("gauge", "etcd_cluster_version{cluster_version=\"3.6\"}", &1);
    line("gauge", "etcd_mvcc_db_total_size_in_bytes", &snapshot.size_bytes());
    line("gauge", "etcd_mvcc_db_total_size_in_use_in_bytes", &snapshot.size_in_use_bytes());
    line("gauge", "etcd_debugging_mvcc_keys_total", &snapshot.keys_total());
    line("gauge", "etcd_debugging_mvcc_current_revision", &snapshot.revision());
    line("gauge", "etcd_debugging_mvcc_compact_revision", &snapshot.compacted());
    line("gauge", "etcd_debugging_mvcc_watcher_total", &lock(&shared.hub).watchers());
    let streams = metrics.watch_streams.get() - metrics.watch_streams_ended.get();
    line("gauge", "etcd_debugging_mvcc_watch_stream_total", &streams);
    line("counter", "etcd_mvcc_put_total", &metrics.puts.get());
    line("counter", "etcd_mvcc_delete_total", &metrics.deletes.get());
    line("counter", "etcd_mvcc_range_total", &metrics.ranges.get());
    line("counter", "etcd_mvcc_txn_total", &metrics.txns.get());
    line("counter", "grpc_server_started_total", &metrics.grpc_started.get());
    if let Some(peers) = &shared.peers {
        line("counter", "etcd_network_peer_sent_bytes_total", &peers.traffic().sent.get());
        line("counter", "etcd_network_peer_received_bytes_total", &peers.traffic().received.get());
        for (id, us) in peers.round_trips() {
            let name = format!("etcd_network_peer_round_trip_time_seconds{{To=\"{id:x}\"}}");
            line("gauge", &name, &(us as f64 / 1e6));
        }
    }
    metrics.sync.print("etcd_disk_wal_fsync_duration_seconds", &mut out);
    out
}
