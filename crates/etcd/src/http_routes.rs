//! The plain HTTP routes of the client port: health, version, metrics.

use std::fmt::Write as _;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use mvcc::AlarmKind;
use mvcc::RangeRequest;
use tonic::body::Body;

use crate::metrics::HEALTH_CHECKS;
use crate::router::full;
use crate::{LocalStore, metrics_page};

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Answers a request that is not gRPC.
pub(crate) async fn answer<B>(store: &LocalStore, request: &Request<B>) -> Response<Body> {
    match request.uri().path() {
        "/version" => get_only(request).unwrap_or_else(|| typed(StatusCode::OK, "application/json", version(store))),
        "/debug/vars" => typed(StatusCode::OK, "application/json; charset=utf-8", debug_vars(store)),
        _ => answer_metrics(store, request).await,
    }
}

/// What Go's `expvar` shows of an etcd, but for Go's own memory.
fn debug_vars(store: &LocalStore) -> String {
    let published = store.shared.published();
    let leads = published.leader == store.shared.member_id;
    let state = match (published.leader, published.learner) {
        (0, _) => "StateCandidate",
        _ if leads => "StateLeader",
        _ => "StateFollower",
    };
    let raft = serde_json::json!({
        "id": format!("{:x}", store.shared.member_id),
        "term": published.term,
        "lead": format!("{:x}", published.leader),
        "raftState": state,
        "commit": published.raft_index,
        "applied": published.applied_index,
    });
    let limit = crate::process::read().map_or(0, |process| process.max_fds);
    let arguments: Vec<String> = std::env::args().collect();
    let arguments = serde_json::Value::from(arguments);
    format!("{{\n\"cmdline\": {arguments},\n\"file_descriptor_limit\": {limit},\n\"raft.status\": {raft}\n}}\n")
}

/// Answers on a listener that has metrics and health alone.
pub(crate) async fn answer_metrics<B>(store: &LocalStore, request: &Request<B>) -> Response<Body> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let checks = HEALTH_CHECKS.iter().enumerate().filter(|(_, (kind, name))| {
        let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(kind));
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/') == Some(name))
    });
    let checks: Vec<usize> = checks.map(|(index, _)| index).collect();
    match path {
        "/metrics" => typed(StatusCode::OK, METRICS, metrics_page::page(store)),
        "/health" => match get_only(request) {
            Some(refused) => refused,
            None => health(store, query).await,
        },
        _ if checks.is_empty() => plain_error(StatusCode::NOT_FOUND, "404 page not found"),
        _ => match get_only(request) {
            Some(refused) => refused,
            // Only the root of a kind takes `exclude`.
            None => run_checks(store, &checks, query, path.matches('/').count() == 1).await,
        },
    }
}

/// Sends a client whose path is not in its plain form to the one that is, as Go's `ServeMux` does.
/// With the gateway, `/v3` is a folder.
pub(crate) fn redirect<B>(request: &Request<B>, gateway: bool) -> Option<Response<Body>> {
    let path = request.uri().path();
    let clean = if gateway && path == "/v3" { "/v3/".to_owned() } else { clean(path) };
    if clean == path {
        return None;
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{clean}{query}");
    let page = match *request.method() {
        Method::GET | Method::HEAD => {
            let escaped =
                location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
            format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n")
        }
        _ => String::new(),
    };
    let html = !page.is_empty();
    let mut response = Response::new(full(page));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
    if html {
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Some(response)
}

/// A path without `//`, `.` and `..`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

pub(crate) fn version(store: &LocalStore) -> String {
    let cluster = crate::database::cluster_version(&store.shared.published().snapshot);
    format!(r#"{{"etcdserver":"{}","etcdcluster":"{cluster}","storage":"{cluster}"}}"#, crate::VERSION)
}

/// Refuses whatever is not GET.
pub(crate) fn get_only<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.method() == Method::GET {
        return None;
    }
    let mut response = plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

pub(crate) fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A line of text that browsers must not take for anything else, as Go's `http.Error` writes it.
pub(crate) fn plain_error(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = typed(status, TEXT, format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
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
    let serializable = values(query, "serializable").next() == Some("true");
    let published = store.shared.published();
    let excluded = |kind: &str| values(query, "exclude").any(|name| name == kind);
    let mut reason = String::new();
    for alarm in published.snapshot.alarms() {
        let name = if alarm.kind == AlarmKind::NoSpace { "NOSPACE" } else { "CORRUPT" };
        if !excluded(name) {
            reason = format!("ALARM {name}");
            break;
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
    let counts = &store.shared.metrics.health;
    if reason.is_empty() {
        counts.healthy.add(1);
        return typed(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#.to_owned());
    }
    counts.unhealthy.add(1);
    tracing::warn!(target: "etcd", reason, "serving /health false");
    let reason = serde_json::Value::String(reason);
    plain_error(StatusCode::SERVICE_UNAVAILABLE, &format!(r#"{{"health":"false","reason":{reason}}}"#))
}

/// Runs checks of `/livez` or `/readyz`. Which failed is always told, which passed only to those who ask.
async fn run_checks(store: &LocalStore, checks: &[usize], query: &str, root: bool) -> Response<Body> {
    let mut report = String::new();
    let mut failed = false;
    for index in checks {
        let name = HEALTH_CHECKS[*index].1;
        if root && values(query, "exclude").any(|excluded| excluded == name) {
            continue;
        }
        let counts = &store.shared.metrics.health.checks[*index];
        match check(store, name).await {
            Ok(()) => {
                counts.passed.add(1);
                counts.last.set(1);
                let _ = writeln!(report, "[+]{name} ok");
            }
            Err(error) => {
                failed = true;
                counts.failed.add(1);
                counts.last.set(0);
                let _ = writeln!(report, "[-]{name} failed: {error}");
            }
        }
    }
    if failed {
        return plain_error(StatusCode::SERVICE_UNAVAILABLE, &report);
    }
    let verbose = values(query, "verbose").next().is_some();
    plain_error(StatusCode::OK, &if verbose { format!("{report}ok") } else { "ok".to_owned() })
}

async fn check(store: &LocalStore, name: &str) -> Result<(), String> {
    match name {
        "serializable_read" => readable(store, true).await,
        "linearizable_read" => readable(store, false).await,
        "non_learner" if store.shared.published().learner => Err("not supported for learner".to_owned()),
        "data_corruption" if store.shared.published().snapshot.has_alarm(AlarmKind::Corrupt) => {
            Err("alarm activated: CORRUPT".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        let expected =
            [("/", "/"), ("//v3//kv/", "/v3/kv/"), ("/v3/../health", "/health"), ("/a/./b", "/a/b"), ("/../..", "/")];
        for (path, expect) in expected {
            assert_eq!(clean(path), expect, "{path}");
        }
    }
}
