//! `?timeout=`: how long a request may take, where it is no stream (`WithRequestDeadline`).

use std::time::Duration;

use machinery::{Status, duration};

use crate::info::{Query, RequestInfo};
use crate::message::Reply;

/// The longest that a request may take, and what it may take when nothing is said (`--request-timeout`). The store gives up
/// long before it, so nobody counts it here.
const LONGEST: Duration = Duration::from_secs(60);

/// How long the request may take when it says so: no time at all means that it does not.
///
/// # Errors
/// 400 in upstream's words for what is no Go duration, before anybody is asked who they are.
pub(crate) fn limit(info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Status> {
    let text = query.get("timeout");
    if text.is_empty() || is_long_running(info) {
        return Ok(None);
    }
    let refused = |why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}"));
    let nanoseconds = duration::parse(text).map_err(refused)?;
    let given = u64::try_from(nanoseconds).map_or(Duration::ZERO, Duration::from_nanos);
    Ok((!given.is_zero() && given < LONGEST).then_some(given))
}

/// What the work says, or that its time was over: upstream's filter writes the `Status` as plain text, without its kind.
/// What the store was asked to write by then is written.
pub(crate) async fn within(limit: Option<Duration>, work: impl Future<Output = Reply>) -> Reply {
    const OVER: &str = "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"Timeout: request did not complete within the \
        allotted timeout\",\"reason\":\"Timeout\",\"details\":{},\"code\":504}\n";
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, Box::pin(work)).await.unwrap_or_else(|_| Reply::text(504, OVER)),
    }
}

/// Streams and what is handed on have no deadline.
fn is_long_running(info: &RequestInfo) -> bool {
    let streams = ["attach", "exec", "log", "portforward", "proxy"];
    matches!(info.verb.as_str(), "watch" | "proxy")
        || info.is_resource && streams.contains(&info.subresource.as_str())
        || !info.is_resource && info.path.starts_with("/debug/pprof/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kube-apiserver 1.33 said.
    #[test]
    fn what_is_no_duration_is_refused_where_there_is_a_deadline() {
        let said = |path: &str, query: &str| {
            let query = Query::parse(query);
            let limit = limit(&RequestInfo::parse(&http::Method::GET, path, &query), &query);
            limit.map(|limit| limit.map_or(0, |limit| limit.as_millis())).map_err(|s| (s.code, s.message))
        };
        let refused = |why: &str| Err((400, format!("invalid timeout specified in the request URL - time: {why}")));
        let maps = "/api/v1/namespaces/default/configmaps";
        for without in ["timeout=", "timeout=0", "timeout=-5s", "timeout=100h", "timeout=60s", "watch=1&timeout=x"] {
            assert_eq!(said(maps, without), Ok(0), "{without}");
        }
        assert_eq!(said(maps, "timeout=1.5s"), Ok(1500));
        assert_eq!(said(maps, "timeout=59s"), Ok(59_000));
        assert_eq!(said(maps, "timeout=x"), refused("invalid duration \"x\""));
        assert_eq!(said(maps, "timeout=1"), refused("missing unit in duration \"1\""));
        assert_eq!(said(maps, "timeout=+1s"), refused("invalid duration \" 1s\""));
        assert_eq!(said("/version", "timeout=5x"), refused("unknown unit \"x\" in duration \"5x\""));
        assert_eq!(said("/api/v1/namespaces/default/pods/p/log", "timeout=x"), Ok(0));
        assert_eq!(said("/api/v1/namespaces/default/pods/p/status", "timeout=s"), refused("invalid duration \"s\""));
    }

    #[tokio::test]
    async fn a_request_whose_time_is_over_is_told_so() {
        let limit = Some(Duration::from_millis(1));
        assert_eq!(within(None, async { Reply::text(200, "done") }).await.code, 200);
        assert_eq!(within(limit, async { Reply::text(200, "done") }).await.code, 200);
        let over = within(limit, std::future::pending()).await;
        assert_eq!(over.code, 504);
        let crate::message::Content::Bytes { body, .. } = over.content else { panic!("a text") };
        let status: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
    }
}
