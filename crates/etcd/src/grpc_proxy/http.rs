//! What the proxy answers over plain HTTP: metrics and health, etcd's and its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use tonic::Code;
use tonic::body::Body;

use super::broadcast::Ranges;
use super::feed::{Feed, Watched};
use super::kv::Kv;
use super::upstream::Caller;
use crate::calls::Calls;
use crate::connector::Connector;
use crate::http_routes::{METRICS, TEXT, get_only, plain_error, redirect, typed};
use crate::metrics::Counter;
use crate::metrics_page::{Page, of_process};
use crate::proto as pb;
use crate::router::full;

/// How long etcd, and a watch of the proxy's own, may take before they count as ill.
const READ_PATIENCE: Duration = Duration::from_secs(1);
const WATCH_PATIENCE: Duration = Duration::from_secs(3);
/// A page of metrics is not handed on when it is larger.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// The key that is read and watched.
const KEY: &[u8] = b"a";

/// The pages and what they tell of.
pub(super) struct Pages {
    pub(super) kv: Arc<Kv>,
    pub(super) ranges: Arc<Ranges>,
    pub(super) calls: Arc<Calls>,
    /// The proxy as its clients see it; nothing without `--advertise-client-url`.
    pub(super) own: Option<Arc<Kv>>,
    /// For etcd's metrics, where they need TLS.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) healthy: Counter,
    pub(super) unhealthy: Counter,
}

impl Pages {
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if let Some(elsewhere) = redirect(request, false) {
            return elsewhere;
        }
        match request.uri().path() {
            "/metrics" => self.metrics_of_etcd().await,
            "/proxy/metrics" => typed(StatusCode::OK, METRICS, self.metrics()),
            "/health" | "/proxy/health" => match get_only(request) {
                Some(refused) => refused,
                None => {
                    let own = request.uri().path() == "/proxy/health";
                    let found = if own { self.check_own().await } else { check(&self.kv).await };
                    self.health(found)
                }
            },
            _ => plain_error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn health(&self, found: Result<(), String>) -> Response<Body> {
        let Err(reason) = found else {
            self.healthy.add(1);
            return typed(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#.to_owned());
        };
        self.unhealthy.add(1);
        let output = format!(r#"{{"health":"false","reason":{}}}"#, serde_json::Value::String(reason));
        tracing::warn!(target: "etcd", output, status_code = 503, "/health error");
        plain_error(StatusCode::SERVICE_UNAVAILABLE, &output)
    }

    async fn check_own(&self) -> Result<(), String> {
        let Some(own) = &self.own else { return Err("no connection to proxy".to_owned()) };
        check(own).await?;
        let watched = Watched { key: Bytes::from_static(KEY), ..Watched::default() };
        let mut feed = Feed::new(own.clone(), Caller::default(), watched);
        let created = tokio::time::timeout(WATCH_PATIENCE, feed.next()).await;
        created.map(drop).map_err(|_| "WATCH TIMEOUT".to_owned())
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        page.gauge("etcd_grpc_proxy_watchers_coalescing_total", self.ranges.sharing());
        page.counter("etcd_grpc_proxy_events_coalescing_total", self.ranges.coalesced.get());
        page.gauge("etcd_grpc_proxy_cache_keys_total", self.kv.cached());
        page.gauge("etcd_grpc_proxy_cache_hits_total", self.kv.hits.get());
        page.gauge("etcd_grpc_proxy_cache_misses_total", self.kv.misses.get());
        page.counter("etcd_server_health_success", self.healthy.get());
        page.counter("etcd_server_health_failures", self.unhealthy.get());
        self.calls.print(&mut page.0);
        if let Some(process) = crate::process::read() {
            of_process(&process, &mut page);
        }
        page.0
    }

    /// The page of the first endpoint that answers.
    async fn metrics_of_etcd(&self) -> Response<Body> {
        for endpoint in self.kv.upstream().endpoints() {
            let page = tokio::time::timeout(WATCH_PATIENCE, self.page_of(&endpoint)).await;
            match page.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok(page) => {
                    let mut response = Response::new(full(page));
                    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
                    response.headers_mut().insert(header::CONTENT_TYPE, kind);
                    return response;
                }
                Err(error) => tracing::warn!(target: "etcd", endpoint, error, "an endpoint did not tell its metrics"),
            }
        }
        plain_error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
    }

    async fn page_of(&self, endpoint: &str) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("", endpoint));
        let tls = self.tls.clone().filter(|_| scheme != "http");
        let uri: Uri = format!("http://{host}/metrics").parse()?;
        let stream = Connector::http1(tls).connect(uri.clone()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let request = Request::get("/metrics").header(header::HOST, host).body(Empty::<Bytes>::new())?;
        // The connection ends once nobody can send on it.
        let exchange = async move {
            let response = sender.send_request(request).await?;
            Ok(Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await?.to_bytes())
        };
        futures_util::join!(exchange, connection).0
    }
}

/// Whether a key can be read, or would be if the proxy were allowed to.
async fn check(kv: &Kv) -> Result<(), String> {
    let request = pb::RangeRequest { key: Bytes::from_static(KEY), ..Default::default() };
    let nobody = Caller::default();
    match tokio::time::timeout(READ_PATIENCE, kv.get(&nobody, request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => Ok(()),
        Ok(Err(status)) => Err(format!("GET ERROR:{}", status.message())),
        Err(_) => Err("GET ERROR:context deadline exceeded".to_owned()),
    }
}
