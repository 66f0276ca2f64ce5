//! One connection to a metadata server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gke::metadata::{Reply, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tracing::debug;

/// A caller that does not say what it wants in this time is gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Larger than any request of a client.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Who answers.
pub(super) type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync>;

/// Serves one connection until the caller closes it.
pub(super) async fn serve(stream: TcpStream, handler: Handler) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(response(handler(read(&request)).await)) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a connection to a metadata server ended");
    }
}

fn read(request: &hyper::Request<Incoming>) -> Request {
    let uri = request.uri();
    // Of an absolute form, as proxies send it, the host counts too.
    let host = uri.authority().map(|authority| authority.as_str().to_owned());
    Request {
        method: request.method().as_str().to_owned(),
        path: uri.path().to_owned(),
        query: gke::query::pairs(uri.query().unwrap_or_default()),
        host: host.unwrap_or_else(|| text(request.headers(), "host")),
        flavor: text(request.headers(), "metadata-flavor"),
        forwarded: request.headers().contains_key(HeaderName::from_static("x-forwarded-for")),
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn response(reply: Reply) -> hyper::Response<Full<Bytes>> {
    let mut builder = hyper::Response::builder()
        .status(reply.code)
        .header("metadata-flavor", "Google")
        .header("content-type", reply.content_type)
        .header("server", "Metadata Server for VM")
        .header("x-xss-protection", "0")
        .header("x-frame-options", "SAMEORIGIN");
    if let Some(etag) = reply.etag {
        builder = builder.header("etag", etag);
    }
    if let Some(location) = reply.location {
        builder = builder.header("location", location);
    }
    builder.body(Full::new(reply.body.into())).unwrap_or_else(|_| hyper::Response::new(Full::default()))
}
