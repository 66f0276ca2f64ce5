//! The HTTP shell: connections, TLS, bodies in, encoded replies out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{self, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use machinery::Status;
use registry::IncludeObject;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::encode::{Encoder, Wanted, check_view, has_table, negotiate};
use crate::message::{Body, Caller, Content, Peer, Reply, Request};
use crate::server::ApiServer;
use crate::watch::WatchStream;
use crate::websocket_watch::Handshake;

/// Larger bodies are refused.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// A client that does not finish its handshake or its headers in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Names and values of a request together (Go's `http.DefaultMaxHeaderBytes`). More is a 431.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
/// What Go reads of HTTP/1.1 beyond that, for the request line.
const HEADER_BYTES_EXTRA: usize = 4096;
/// Of HTTP/1.1; Go counts bytes alone, but hyper needs a number.
const HEADERS_MAX: usize = 2048;
const STREAMS_MAX: u32 = 250;
/// Watch events are gathered up to this size for one frame.
const WATCH_CHUNK_BYTES: usize = 64 * 1024;
/// After a stop, connections have this long to finish.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections with the limits that the API server has on headers and streams, for whoever stands in front of it, too:
/// 30 s until headers are there, 1 MiB of them (`http.DefaultMaxHeaderBytes`), 250 streams.
pub fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize + HEADER_BYTES_EXTRA)
        .max_headers(HEADERS_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEADER_BYTES_MAX);
    builder
}

type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

impl ApiServer {
    /// Accepts connections until the server stops.
    pub async fn serve(&self, listener: TcpListener) {
        let mut stop = self.inner.stop.subscribe();
        loop {
            tokio::select! {
                () = crate::watch::stopped(&mut stop) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => {
                        let server = self.clone();
                        tokio::spawn(async move { server.serve_connection(stream, remote).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    /// Serves one connection, TLS included, until it ends.
    pub async fn serve_connection(&self, stream: TcpStream, remote: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.inner.tls.clone());
        let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return tracing::debug!(%remote, %error, "TLS handshake"),
            Err(_) => return tracing::debug!(%remote, "TLS handshake took too long"),
        };
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
        let peer = Arc::new(Peer::new(remote, certificates));
        let server = self.clone();
        let service = service_fn(move |request| {
            let (server, peer) = (server.clone(), peer.clone());
            async move { Ok::<_, Infallible>(server.respond(peer, request).await) }
        });
        let mut builder = connection_builder();
        builder
            .http2()
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Duration::from_secs(60));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
        tokio::pin!(connection);
        let mut stop = self.inner.stop.subscribe();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = crate::watch::stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%remote, %error, "connection ended");
        }
    }

    async fn respond(&self, peer: Arc<Peer>, mut request: http::Request<Incoming>) -> http::Response<ReplyBody> {
        let socket = Handshake::begin(&mut request);
        let (parts, incoming) = request.into_parts();
        let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let audit_id = parts.headers.get("audit-id").cloned().unwrap_or_else(|| self.audit_id());
        let body = match read(incoming).await {
            Ok(body) => body,
            Err(status) => return self.encode(status.into(), &accept, &query, audit_id, None),
        };
        let request = Request {
            caller: Caller::Connection(peer),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: query.clone(),
            headers: parts.headers,
            body: Body::Bytes(body),
        };
        let reply = self.handle(request).await;
        let mut response = self.encode(reply, &accept, &query, audit_id, socket);
        if parts.method == http::Method::HEAD {
            *response.body_mut() = full(Bytes::new());
        }
        response
    }

    fn audit_id(&self) -> HeaderValue {
        HeaderValue::from_str(&self.inner.config.entropy.uuid().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    fn encode(
        &self,
        reply: Reply,
        accept: &str,
        query: &str,
        audit_id: HeaderValue,
        socket: Option<Handshake>,
    ) -> http::Response<ReplyBody> {
        let has_protobuf = match &reply.content {
            Content::Status(_) => true,
            Content::Tree { type_name, .. } => !type_name.is_empty(),
            Content::Object { row, .. } => !row.type_name().is_empty(),
            Content::List(list) => !list.row.type_name().is_empty(),
            Content::Watch(watch) => !watch.row.type_name().is_empty(),
            Content::Bytes { .. } => false,
        };
        let document = matches!(reply.content, Content::Bytes { .. } | Content::Status(_));
        let negotiated = negotiate(accept, has_protobuf, has_table(&reply.content));
        let (reply, mut wanted) = match negotiated {
            Ok(wanted) => match check_view(wanted.view, &reply.content) {
                Ok(()) => (reply, wanted),
                Err(status) => (status.into(), negotiate("", false, true).unwrap_or_else(unreachable_wanted)),
            },
            Err(_) if document || matches!(&reply.content, Content::Tree { type_name, .. } if type_name.is_empty()) => {
                (reply, negotiate("", false, true).unwrap_or_else(unreachable_wanted))
            }
            Err(why) => {
                (why.status(&reply.content).into(), negotiate("", false, true).unwrap_or_else(unreachable_wanted))
            }
        };
        let query = crate::info::Query::parse(query);
        wanted.pretty = query.flag("pretty");
        wanted.include = IncludeObject::parse(query.get("includeObject")).unwrap_or_default();
        let content = match (reply.content, socket) {
            (Content::Watch(watch), Some(socket)) => {
                return socket
                    .accept(self.clone(), watch, wanted)
                    .map(|text| full(Bytes::from_static(text.as_bytes())));
            }
            (content, _) => content,
        };
        let mut response = http::Response::new(full(Bytes::new()));
        *response.status_mut() = http::StatusCode::from_u16(reply.code).unwrap_or(http::StatusCode::OK);
        let headers = response.headers_mut();
        headers.extend(reply.headers);
        headers.insert("audit-id", audit_id);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        for warning in reply.warnings.iter().take(100) {
            if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
                headers.append(header::WARNING, value);
            }
        }
        if let Content::Status(status) = &content
            && status.retry_after_seconds > 0
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(status.retry_after_seconds));
        }
        let content_type = match &content {
            Content::Bytes { content_type, .. } => content_type.clone(),
            content => wanted.content_type(matches!(content, Content::Watch(_))),
        };
        if !content_type.is_empty()
            && let Ok(value) = HeaderValue::from_str(&content_type)
        {
            headers.insert(header::CONTENT_TYPE, value);
        }
        *response.body_mut() = match content {
            Content::Watch(watch) => self.stream(watch, wanted),
            content => {
                let now = self.inner.config.clock.now();
                full(Encoder { server: &self.inner, wanted, now }.content(&content))
            }
        };
        response
    }

    fn stream(&self, watch: WatchStream, wanted: Wanted) -> ReplyBody {
        let start = (self.clone(), watch, true);
        let chunks = stream::unfold(start, move |(server, mut watch, mut first)| async move {
            let mut event = watch.next().await?;
            let mut chunk = BytesMut::new();
            loop {
                let encoder = Encoder { server: &server.inner, wanted, now: server.inner.config.clock.now() };
                encoder.event(&event, &watch.row, first, &mut chunk);
                first = false;
                if chunk.len() >= WATCH_CHUNK_BYTES {
                    break;
                }
                match watch.try_next() {
                    Some(next) => event = next,
                    None => break,
                }
            }
            Some((Ok::<_, Infallible>(Frame::data(chunk.freeze())), (server, watch, first)))
        });
        StreamBody::new(chunks).boxed_unsync()
    }
}

fn unreachable_wanted(_: crate::encode::Unacceptable) -> Wanted {
    Wanted {
        media: crate::decode::Media::Json,
        view: crate::encode::View::Whole,
        include: IncludeObject::default(),
        pretty: false,
    }
}

fn full(bytes: Bytes) -> ReplyBody {
    Full::new(bytes).boxed_unsync()
}

/// The whole body, or why not.
async fn read(body: Incoming) -> Result<Bytes, Status> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Status::too_large(format!("Request entity too large: limit is {BODY_BYTES_MAX}")))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("error reading the body: {error}"))),
        Err(_) => Err(Status::timeout("the request body took too long")),
    }
}
