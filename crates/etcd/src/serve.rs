//! The client port: gRPC and HTTP on one listener, with or without TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tower_service::Service as _;

use crate::auth::CertificateName;
use crate::grpc::Api;
use crate::member::Member;
use crate::proto as pb;
use crate::{EtcdError, LocalStore, http_routes};

/// Received at once on one stream and on one connection before the client must wait.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A message may be larger than a request by this much before gRPC itself refuses it.
const MESSAGE_SLACK_BYTES: usize = 512 << 10;
/// A client must finish its TLS handshake in this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// etcd pings an idle client after two hours and gives it 20 s to answer.
const PING_INTERVAL: Duration = Duration::from_secs(7200);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

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
        let router = Router::new(self.local());
        let acceptor = tls.map(TlsAcceptor::from);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        connections.spawn(connection(stream, acceptor.clone(), router.clone()));
                    }
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
}

/// Whether accepting may work again: the client went away, or descriptors ran out.
pub(crate) fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24))
}

async fn connection(stream: tokio::net::TcpStream, acceptor: Option<TlsAcceptor>, router: Router) {
    match acceptor {
        None => serve(stream, router, None).await,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                // There is one only if clients must show it, and then it was verified.
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let name = certificate.and_then(|certificate| CertificateName::of(certificate));
                serve(stream, router, name).await;
            }
            Ok(Err(error)) => tracing::warn!(target: "etcd", %error, "a client's TLS handshake failed"),
            Err(_) => tracing::debug!(target: "etcd", "a client did not finish its TLS handshake"),
        },
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    name: Option<CertificateName>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(u32::MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder.http1().timer(TokioTimer::new());
    let service = hyper::service::service_fn(move |request| {
        let (router, name) = (router.clone(), name.clone());
        async move { Ok::<_, Infallible>(router.route(request, name).await) }
    });
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(target: "etcd", error, "a client connection ended");
    }
}

/// Sends each request to its service.
#[derive(Clone)]
struct Router {
    store: LocalStore,
    kv: pb::kv_server::KvServer<Api>,
    watch: pb::watch_server::WatchServer<Api>,
    lease: pb::lease_server::LeaseServer<Api>,
    cluster: pb::cluster_server::ClusterServer<Api>,
    maintenance: pb::maintenance_server::MaintenanceServer<Api>,
    auth: pb::auth_server::AuthServer<Api>,
}

impl Router {
    fn new(store: LocalStore) -> Self {
        let api = Arc::new(Api::new(&store));
        let limit = store.shared.limits.request_bytes_max + MESSAGE_SLACK_BYTES;
        Self {
            store,
            kv: pb::kv_server::KvServer::from_arc(api.clone()).max_decoding_message_size(limit),
            watch: pb::watch_server::WatchServer::from_arc(api.clone()).max_decoding_message_size(limit),
            lease: pb::lease_server::LeaseServer::from_arc(api.clone()).max_decoding_message_size(limit),
            cluster: pb::cluster_server::ClusterServer::from_arc(api.clone()).max_decoding_message_size(limit),
            auth: pb::auth_server::AuthServer::from_arc(api.clone()).max_decoding_message_size(limit),
            maintenance: pb::maintenance_server::MaintenanceServer::from_arc(api).max_decoding_message_size(limit),
        }
    }

    async fn route(mut self, mut request: Request<Incoming>, name: Option<CertificateName>) -> Response<Body> {
        let content = request.headers().get(http::header::CONTENT_TYPE);
        let is_grpc = content.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            return http_routes::answer(&self.store, &request).await;
        }
        // The service that is asked most does not pay for a name that nobody will look at.
        if let Some(name) = name
            && (self.store.shared.auth.is_enabled() || !request.uri().path().starts_with("/etcdserverpb.KV/"))
        {
            request.extensions_mut().insert(name);
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let Ok(answer) = match service {
            "etcdserverpb.KV" => self.kv.call(request).await,
            "etcdserverpb.Watch" => self.watch.call(request).await,
            "etcdserverpb.Lease" => self.lease.call(request).await,
            "etcdserverpb.Cluster" => self.cluster.call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.call(request).await,
            "etcdserverpb.Auth" => self.auth.call(request).await,
            "grpc.health.v1.Health" if request.uri().path().ends_with("/Check") => Ok(healthy()),
            _ => Ok(unknown(service)),
        };
        answer
    }
}

/// What gRPC says about a service it does not have.
fn unknown(service: &str) -> Response<Body> {
    let status = tonic::Status::unimplemented(format!("unknown service {service}"));
    status.into_http()
}

/// `grpc.health.v1.Health/Check`: SERVING (field 1, value 1) for every name.
fn healthy() -> Response<Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frame = bytes::Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
    let body = http_body_util::BodyExt::with_trailers(
        http_body_util::Full::new(frame),
        std::future::ready(Some(Ok::<_, Infallible>(trailers))),
    );
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::OK;
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}
