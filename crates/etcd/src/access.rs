//! Who may ask over HTTP: host names (`--host-whitelist`, against DNS rebinding) and origins (`--cors`).

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tonic::body::Body;

use crate::http_routes::plain_error;

/// The two lists; an empty one and `*` allow everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    pub(crate) origins: Vec<String>,
    pub(crate) hosts: Vec<String>,
}

fn allows(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == "*" || item == name)
}

impl Access {
    /// Refuses a host name that is not listed. With TLS the certificate stands for the name.
    pub(crate) fn refuse<B>(&self, request: &Request<B>, tls: bool) -> Option<Response<Body>> {
        let from_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(http::uri::Authority::as_str).or_else(from_header);
        let host = host_of(authority.unwrap_or_default());
        if tls || allows(&self.hosts, host) {
            return None;
        }
        tracing::warn!(target: "etcd", host, "rejecting HTTP request to prevent DNS rebinding attacks");
        let text = format!(
            "\netcd received your request, but the Host header was unrecognized.\n\n\
             To fix this, choose one of the following options:\n\
             - Enable TLS, then any HTTPS request will be allowed.\n\
             - Add the hostname you want to use to the whitelist in settings.\n  \
             - e.g. etcd --host-whitelist {host:?}\n\n\
             This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
        );
        Some(plain_error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// The origin that an answer allows.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if allows(&self.origins, "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(header::ORIGIN)?;
        origin.to_str().is_ok_and(|origin| allows(&self.origins, origin)).then(|| origin.clone())
    }

    /// Tells a browser that pages of an origin may ask.
    pub(crate) fn allow(origin: &HeaderValue, headers: &mut HeaderMap) {
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let allowed = HeaderValue::from_static("accept, content-type, authorization");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
}

/// A host without its port; an IPv6 address without its brackets when it has a port.
fn host_of(authority: &str) -> &str {
    let Some((host, port)) = authority.rsplit_once(':') else { return authority };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address,
        // Several colons and no brackets: Go takes that for a host without a port.
        None if host.contains(':') || port.contains(']') => authority,
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_hosts_may_ask_without_tls() {
        let access = Access { hosts: vec!["good.example".to_owned()], ..Access::default() };
        let check = |host: &str, tls: bool, refused: bool| {
            let request = Request::builder().header("host", host).body(()).expect("a request");
            assert_eq!(access.refuse(&request, tls).is_some(), refused, "{host}");
        };
        check("good.example:2379", false, false);
        check("good.example", false, false);
        check("bad.example", false, true);
        check("bad.example", true, false);
        check("[::1]:2379", false, true);
        let open = Access::default();
        assert!(open.refuse(&Request::new(()), false).is_none());
    }

    #[test]
    fn hosts_lose_their_ports() {
        let check = |text: &str, expect: &str| assert_eq!(host_of(text), expect);
        check("a:1", "a");
        check("a", "a");
        check("[::1]:80", "::1");
        check("::1", "::1");
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        let access = Access { origins: vec!["http://good".to_owned()], ..Access::default() };
        let headers = |origin: &'static str| [(header::ORIGIN, HeaderValue::from_static(origin))].into_iter().collect();
        assert_eq!(access.origin(&headers("http://good")), Some(HeaderValue::from_static("http://good")));
        assert_eq!(access.origin(&headers("http://bad")), None);
        assert_eq!(Access::default().origin(&HeaderMap::new()), Some(HeaderValue::from_static("*")));
    }
}
