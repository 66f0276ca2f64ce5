//! The client port: gRPC and HTTP on one listener, with or without TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::EtcdError;
use crate::access::Access;
use crate::auth::CertificateName;
use crate::calls::Answer;
use crate::connector::Wire;
use crate::corked;
use crate::eager::Eager;
use crate::listen::Listener;
use crate::member::Member;
use crate::peers::tls::in_words;
use crate::pings::Policed;
use crate::router::{Connection, Router, Traffic};
use crate::tls::ServerTls;

/// Received at once on one stream and on one connection before the client must wait.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What the headers of one request may take, as in gRPC for Go.
const HEADERS_BYTES_MAX: u32 = 16 << 20;
/// A client must finish its TLS handshake in this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client that does TLS begins with.
const TLS_HANDSHAKE: [u8; 1] = [0x16];
/// And send the head of an HTTP/1 request in this one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How a listener serves clients. The default is etcd's.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// What it answers.
    pub traffic: Traffic,
    /// Origins that browsers may ask from; empty or `*` for any.
    pub origins: Vec<String>,
    /// Host names that may be asked for without TLS; empty or `*` for any.
    pub hosts: Vec<String>,
    /// Whether there is JSON under `/v3`.
    pub gateway: bool,
    /// Streams that may be open on one connection.
    pub streams_max: u32,
    /// A client without TLS that pings more often is sent away; zero for no limit.
    pub client_ping_interval_min: Duration,
    /// An idle client is pinged this often; zero for never.
    pub ping_interval: Duration,
    /// And has this long to answer.
    pub ping_timeout: Duration,
    pub(crate) tls: Option<ServerTls>,
    /// Whether clients may come without TLS where there is TLS.
    pub(crate) plain_too: bool,
    /// Whether clients with TLS may not ping as they like either.
    pub(crate) police_tls: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            traffic: Traffic::All,
            origins: Vec::new(),
            hosts: Vec::new(),
            gateway: true,
            streams_max: u32::MAX,
            client_ping_interval_min: Duration::from_secs(5),
            ping_interval: Duration::from_secs(2 * 3600),
            ping_timeout: Duration::from_secs(20),
            tls: None,
            plain_too: false,
            police_tls: false,
        }
    }
}

/// What answers the requests of connections.
pub(crate) trait Route: Send + Sync + 'static {
    /// Answers one.
    fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<Answer>> + Send;
}

/// Serves clients until `shutdown` is done; then closes the listener and every connection.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    router: Arc<impl Route>,
    listener: Listener,
    options: ServeOptions,
    clock: base::Clock,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), EtcdError> {
    let server = Arc::new(Server { router, options, clock });
    accept_all(listener, |(stream, remote)| server.clone().accept(stream, remote), shutdown).await
}

impl Member {
    /// Serves clients until `shutdown` is done; then closes the listener and every connection.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve_clients(
        &self,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), EtcdError> {
        let options = ServeOptions { tls: tls.map(ServerTls::from), ..ServeOptions::default() };
        self.serve(Listener::Tcp(listener), options, shutdown).await
    }

    /// As [`Member::serve_clients`], with every option.
    pub(crate) async fn serve(
        &self,
        listener: Listener,
        options: ServeOptions,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), EtcdError> {
        let access = Access { origins: options.origins.clone(), hosts: options.hosts.clone() };
        let router = Arc::new(Router::new(self.local(), options.traffic, access, options.gateway));
        let courier = self.shared.delivery.courier();
        let mut tasks = JoinSet::new();
        tasks.spawn(courier.run());
        serve(router, listener, options, self.shared.clock.clone(), shutdown).await
    }
}

/// Serves each accepted connection in a task of its own until `shutdown` is done; then ends them all.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn accept_all<A: Accept, S: Future<Output = ()> + Send + 'static>(
    listener: A,
    serve: impl Fn(A::Connection) -> S,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), EtcdError> {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.next() => match accepted {
                Ok(connection) => drop(connections.spawn(serve(connection))),
                Err(error) if is_passing(&error) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => return Err(EtcdError::Serve(error)),
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

/// Where connections come from.
pub(crate) trait Accept {
    /// What is known of one.
    type Connection;

    /// The next connection.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Connection>> + Send;
}

impl Accept for Listener {
    type Connection = (Box<dyn Wire>, String);

    fn next(&self) -> impl Future<Output = std::io::Result<Self::Connection>> + Send {
        self.accept()
    }
}

/// Whether accepting may work again: the client went away, or descriptors ran out.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24))
}

fn rejected(remote: &str, error: &str) {
    tracing::warn!(target: "etcd", remote_addr = remote, error, "rejected connection on client endpoint");
}

/// What the connections of a listener share.
struct Server<R> {
    router: Arc<R>,
    options: ServeOptions,
    clock: base::Clock,
}

impl<R: Route> Server<R> {
    async fn accept(self: Arc<Self>, mut stream: Box<dyn Wire>, remote: String) {
        let mut tls = self.options.tls.as_ref();
        if self.options.plain_too {
            let mut first = [0_u8; 1];
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut first)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
            tls = tls.filter(|_| first == TLS_HANDSHAKE);
            let (read, write) = tokio::io::split(stream);
            stream = Box::new(tokio::io::join(std::io::Cursor::new(first).chain(read), write));
        }
        let mut connection = Connection { tls: tls.is_some(), open: Arc::default(), name: None };
        let Some(tls) = tls else { return self.police(stream, connection).await };
        let handshake = TlsAcceptor::from(tls.config.clone()).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => match tls.check(stream.get_ref().1) {
                Ok(()) => {
                    // There is one only if clients must show it, and then it was verified.
                    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    connection.name = certificate.and_then(|certificate| CertificateName::of(certificate));
                    // A member of etcd's hands these to Go's own HTTP server, which lets clients ping as they like.
                    if self.options.police_tls {
                        self.police(Box::new(stream), connection).await;
                    } else {
                        self.serve(Box::new(stream), connection).await;
                    }
                }
                Err(error) => rejected(&remote, &error),
            },
            Ok(Err(error)) => rejected(&remote, &in_words(&error)),
            Err(_) => tracing::debug!(target: "etcd", "a client did not finish its TLS handshake"),
        }
    }

    /// Serves a connection whose client may not ping too often.
    async fn police(&self, stream: Box<dyn Wire>, connection: Connection) {
        let min = self.options.client_ping_interval_min;
        if min.is_zero() {
            return self.serve(stream, connection).await;
        }
        let policed = Policed::new(stream, self.clock.clone(), min, connection.open.clone());
        self.serve(Box::new(policed), connection).await;
    }

    async fn serve(&self, stream: Box<dyn Wire>, connection: Connection) {
        let options = &self.options;
        let mut builder = auto::Builder::new(Eager);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_concurrent_streams(options.streams_max);
        if !options.ping_interval.is_zero() && !options.ping_timeout.is_zero() {
            builder.http2().keep_alive_interval(options.ping_interval).keep_alive_timeout(options.ping_timeout);
        }
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request| {
            let (router, connection) = (router.clone(), connection.clone());
            async move { Ok::<_, Infallible>(router.route(request, &connection).await) }
        });
        let serve = |corked| builder.serve_connection(TokioIo::new(corked), service);
        if let Err(error) = corked::drive(stream, serve).await {
            tracing::debug!(target: "etcd", error, "a client connection ended");
        }
    }
}
