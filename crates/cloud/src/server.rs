//! Connections, and the guards that every request passes before a service sees it.
//!
//! The first byte tells what a connection speaks: 0x16 would be TLS (not offered yet, closed), an HTTP/2 preface or
//! HTTP/1.1 otherwise. gRPC calls are answered with UNIMPLEMENTED.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gke::{ApiError, Code};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::http::{Reply, Request, pairs};
use crate::{Inner, peer, services, tunnel};

/// Of a request.
const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;
const CONNECTIONS_MAX: usize = 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Names and values of a request together, and their number over HTTP/1.1. More is a 431.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
const HEADERS_MAX: usize = 2048;
const TLS_HANDSHAKE: u8 = 0x16;
/// Names of our own host, beside loopback addresses and the configured endpoint's.
const HOSTS: [&str; 3] = ["localhost", "metadata.google.internal", "metadata"];

pub(crate) async fn serve(inner: &Arc<Inner>, listener: TcpListener) -> std::io::Result<()> {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let mut stopping = inner.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!("too many connections, one was closed");
            continue;
        };
        let inner = inner.clone();
        tokio::spawn(async move {
            connection(inner, stream, peer).await;
            drop(slot);
        });
    }
}

async fn connection(inner: Arc<Inner>, stream: TcpStream, peer: SocketAddr) {
    let mut first = [0];
    let Ok(local) = stream.local_addr() else { return };
    match stream.peek(&mut first).await {
        Ok(1) if first[0] != TLS_HANDSHAKE => {}
        _ => return,
    }
    let _ = stream.set_nodelay(true);
    let mut stopping = inner.stopping.subscribe();
    let service = service_fn(move |request| {
        let inner = inner.clone();
        async move { Ok::<_, Infallible>(answer(inner, request, peer, local).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize)
        .max_headers(HEADERS_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100).max_header_list_size(HEADER_BYTES_MAX);
    tokio::select! {
        result = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

async fn answer(
    inner: Arc<Inner>,
    request: http::Request<Incoming>,
    peer: SocketAddr,
    local: SocketAddr,
) -> http::Response<Full<Bytes>> {
    if request.method() == http::Method::CONNECT {
        return response(tunnel::open(&inner, request).await);
    }
    let (parts, body) = request.into_parts();
    let is = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if is("content-type").starts_with("application/grpc") {
        return grpc_unimplemented();
    }
    let host = if is("host").is_empty() { parts.uri.authority().map_or("", |a| a.as_str()) } else { is("host") };
    if let Err(reply) = guard(&inner, host, is("origin"), is("sec-fetch-site")) {
        return response(reply);
    }
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return response(Reply::text(413, "Your client issued a request that was too large.\n"));
        }
        Err(_) => return response(Reply::text(400, "The request's body did not arrive.\n")),
    };
    let path = parts.uri.path().to_owned();
    let private = services::same_user_only(&path);
    let query = pairs(parts.uri.query().unwrap_or_default());
    let mut request =
        Request { verb: parts.method.as_str().to_owned(), path, query, headers: parts.headers, body, same_user: false };
    // Off the runtime's threads: writes wait for the disk, and keys take computing.
    let work = tokio::task::spawn_blocking(move || {
        request.same_user = private && peer::same_user(peer, local);
        services::answer(&inner, &request)
    });
    let reply = work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request panicked");
        Reply::json(500, &ApiError::new(Code::Internal, "Internal error encountered.").to_value("0000000000000000"))
    });
    response(reply)
}

/// Browsers must not be led here: the host must be ours, and another site's page may not ask.
fn guard(inner: &Inner, host: &str, origin: &str, site: &str) -> Result<(), Reply> {
    if !allowed_host(inner, host) {
        return Err(Reply::text(403, format!("Host {host:?} is not one of this server's.\n")));
    }
    let foreign_origin =
        !origin.is_empty() && origin.split_once("://").is_none_or(|(_, authority)| !allowed_host(inner, authority));
    if foreign_origin || matches!(site, "cross-site" | "same-site") {
        return Err(Reply::text(403, "Requests from other sites are refused.\n"));
    }
    Ok(())
}

fn allowed_host(inner: &Inner, authority: &str) -> bool {
    let name = host_name(authority);
    let configured = inner.endpoint.split_once("://").map_or("", |(_, authority)| host_name(authority));
    HOSTS.contains(&name)
        || !configured.is_empty() && name == configured
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Without port and brackets.
fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(name, _)| name)
}

fn response(reply: Reply) -> http::Response<Full<Bytes>> {
    let mut builder = http::Response::builder().status(reply.code).header("content-type", reply.content_type);
    let fixed = [
        ("server", "ESF"),
        ("vary", "Origin"),
        ("vary", "X-Origin"),
        ("vary", "Referer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("x-xss-protection", "0"),
        ("cache-control", "private"),
    ];
    let own_server = reply.headers.iter().any(|(name, _)| *name == "server");
    for (name, value) in fixed.iter().filter(|(name, _)| !(own_server && *name == "server")) {
        builder = builder.header(*name, *value);
    }
    for (name, value) in &reply.headers {
        builder = builder.header(*name, value);
    }
    builder.body(Full::new(reply.body)).unwrap_or_else(|_| http::Response::new(Full::new(Bytes::new())))
}

fn grpc_unimplemented() -> http::Response<Full<Bytes>> {
    http::Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", Code::Unimplemented.rpc().to_string())
        .header("grpc-message", "gRPC is not served yet; use REST.")
        .body(Full::new(Bytes::new()))
        .expect("fixed headers")
}
