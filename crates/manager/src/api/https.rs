//! One HTTP/2 connection over TLS, shared by all requests of an identity, opened when needed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use machinery::{Status, Value};
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::Mutex;

use super::Request;

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer other than a watch may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest watch event taken.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A client of one API server with one identity (its TLS client certificate, or a bearer token).
#[derive(Clone)]
pub struct HttpsClient(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    server_name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
    bearer: Option<String>,
    source: Option<IpAddr>,
    connection: Mutex<Option<Connection>>,
}

/// An open connection and the task that drives it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: tokio::task::AbortHandle,
}

fn broken(what: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("connection to the API server: {what}"))
}

impl HttpsClient {
    /// Connects on first use. `server_name` is what the certificate must be for, a name or an address; `source` the local
    /// address to speak from.
    ///
    /// # Errors
    /// When the server's name is neither a DNS name nor an address.
    pub fn new(
        address: SocketAddr,
        server_name: &str,
        tls: &rustls::ClientConfig,
        bearer: Option<String>,
        source: Option<IpAddr>,
    ) -> Result<Self, Status> {
        let server_name = ServerName::try_from(server_name.to_owned()).map_err(broken)?;
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connection = Mutex::new(None);
        Ok(Self(Arc::new(Inner { address, server_name, tls: Arc::new(tls), bearer, source, connection })))
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Status> {
        let mut connection = self.0.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let open = opened.map_err(|_| broken("timed out"))??;
        Ok(connection.insert(open).sender.clone())
    }

    /// Ends the open connection and all that goes over it; the next request opens another.
    pub async fn disconnect(&self) {
        if let Some(open) = self.0.connection.lock().await.take() {
            open.driver.abort();
        }
    }

    async fn connect(&self) -> Result<Connection, Status> {
        let inner = &self.0;
        let socket = if inner.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(broken)?;
        if let Some(source) = inner.source {
            socket.bind(SocketAddr::new(source, 0)).map_err(broken)?;
        }
        let stream = socket.connect(inner.address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let connector = tokio_rustls::TlsConnector::from(inner.tls.clone());
        let stream = connector.connect(inner.server_name.clone(), stream).await.map_err(broken)?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(broken)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        Ok(Connection { sender, driver: driver.abort_handle() })
    }

    async fn send(&self, request: &Request) -> Result<http::Response<Incoming>, Status> {
        let target = if request.query.is_empty() {
            format!("https://{}{}", self.0.address, request.path)
        } else {
            format!("https://{}{}?{}", self.0.address, request.path, request.query)
        };
        let accept = if request.accept.is_empty() { "application/json" } else { request.accept };
        let mut builder = http::Request::builder().method(request.method).uri(target);
        builder = builder.header("accept", accept).header("user-agent", "pilothouse");
        if let Some(token) = &self.0.bearer {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let body = match &request.body {
            Some(body) => {
                builder = builder.header("content-type", request.content_type);
                Bytes::from(body.to_vec())
            }
            None => Bytes::new(),
        };
        let built = builder.body(Full::new(body)).map_err(broken)?;
        let mut sender = self.sender().await?;
        sender.ready().await.map_err(broken)?;
        sender.send_request(built).await.map_err(broken)
    }

    /// Performs a request.
    ///
    /// # Errors
    /// The server's `Status`, or 503 when the connection fails.
    pub async fn call(&self, request: Request) -> Result<Value, Status> {
        let answered = async {
            let response = self.send(&request).await?;
            let code = response.status();
            let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
            read(code, &body)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answered).await.map_err(|_| Status::timeout("no answer in time"))?
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// As [`HttpsClient::call`].
    pub async fn watch(&self, path: &str, query: &str) -> Result<Lines, Status> {
        let request = Request::get(path).query(format!("watch=true&allowWatchBookmarks=true&{query}"));
        let response = tokio::time::timeout(ANSWER_TIMEOUT, self.send(&request)).await;
        let response = response.map_err(|_| Status::timeout("no answer in time"))??;
        let (code, body) = (response.status(), response.into_body());
        if code.is_success() {
            return Ok(Lines { body, buffer: BytesMut::new(), scanned: 0 });
        }
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Err(read(code, &body).err().unwrap_or_else(|| broken(code)))
    }
}

fn read(code: http::StatusCode, body: &[u8]) -> Result<Value, Status> {
    let value = if body.is_empty() { Ok(Value::Null) } else { Value::from_slice(body) };
    match (code.is_success(), value) {
        (true, Ok(value)) => Ok(value),
        (true, Err(error)) => Err(broken(error)),
        (false, Ok(value)) if value.str_at(&["kind"]) == "Status" => {
            let mut status = Status::from_value(&value);
            status.code = code.as_u16();
            Err(status)
        }
        (false, _) => {
            let mut status = Status::unavailable(format!("the server answered {code}"));
            status.code = code.as_u16();
            Err(status)
        }
    }
}

/// A body of JSON values, one a line.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
    scanned: usize,
}

impl Lines {
    /// The next value; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Value, Status>> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.scanned + end + 1);
                self.scanned = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(Value::from_slice(&line).map_err(broken));
            }
            self.scanned = self.buffer.len();
            if self.scanned > LINE_BYTES_MAX {
                return Some(Err(broken("a watch event is too long")));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some(Err(broken(error))),
            }
        }
    }
}
