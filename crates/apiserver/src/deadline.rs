//! `?timeout=`: how long a request may take, where it is no stream (`WithRequestDeadline`).

use machinery::{Status, duration};

use crate::info::{Query, RequestInfo};

/// Refuses a timeout that is no Go duration, before anybody is asked who they are.
///
/// # Errors
/// 400 in upstream's words.
pub(crate) fn check(info: &RequestInfo, query: &Query) -> Result<(), Status> {
    let text = query.get("timeout");
    if text.is_empty() || is_long_running(info) {
        return Ok(());
    }
    let refused = |why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}"));
    duration::parse(text).map(drop).map_err(refused)
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
            check(&RequestInfo::parse(&http::Method::GET, path, &query), &query).map_err(|s| (s.code, s.message))
        };
        let refused = |why: &str| Err((400, format!("invalid timeout specified in the request URL - time: {why}")));
        let maps = "/api/v1/namespaces/default/configmaps";
        for good in ["timeout=", "timeout=0", "timeout=-5s", "timeout=100h", "timeout=1.5s", "watch=1&timeout=x"] {
            assert_eq!(said(maps, good), Ok(()), "{good}");
        }
        assert_eq!(said(maps, "timeout=x"), refused("invalid duration \"x\""));
        assert_eq!(said(maps, "timeout=1"), refused("missing unit in duration \"1\""));
        assert_eq!(said(maps, "timeout=+1s"), refused("invalid duration \" 1s\""));
        assert_eq!(said("/version", "timeout=5x"), refused("unknown unit \"x\" in duration \"5x\""));
        assert_eq!(said("/api/v1/namespaces/default/pods/p/log", "timeout=x"), Ok(()));
        assert_eq!(said("/api/v1/namespaces/default/pods/p/status", "timeout=s"), refused("invalid duration \"s\""));
    }
}
