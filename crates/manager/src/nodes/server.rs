//! A simulated kubelet's own server: HTTPS on the node's address, with the serving certificate that the cluster CA signed.
//!
//! It answers what a kubelet without containers can: health, its pods, its metrics. Whoever calls must be known to the API
//! server and allowed there; see [`super::access`].

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use controllers::pods;
use http::{Method, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use machinery::{Value, json};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::credentials::Credentials;
use super::pods::NodePods;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one kubelet.
const CONNECTIONS_MAX: usize = 64;
const STREAMS_MAX: u32 = 100;
/// Between two tries to take the node's address.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

type Reply = Response<Full<Bytes>>;

/// What a kubelet's server shows.
pub(super) struct Server {
    pub(super) node: String,
    pub(super) access: Access,
    pub(super) credentials: Arc<Credentials>,
    pub(super) pods: NodePods,
    pub(super) clock: base::Clock,
}

/// Serves until the task is ended.
pub(super) async fn run(server: Arc<Server>, address: SocketAddr, tls: Arc<rustls::ServerConfig>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(node = server.node, %address, %error, "the kubelet cannot listen");
                tokio::time::sleep(LISTEN_RETRY).await;
            }
        }
    };
    let (acceptor, room) = (TlsAcceptor::from(tls), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                tokio::spawn(async move {
                    serve(server, acceptor, stream, remote).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(node = server.node, %error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, remote: SocketAddr) {
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%remote, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%remote, "TLS handshake took too long"),
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Arc<[CertificateDer<'static>]> = chain.iter().map(|c| c.clone().into_owned()).collect();
    let service = service_fn(move |request| {
        let (server, chain) = (server.clone(), chain.clone());
        async move { Ok::<_, Infallible>(server.answer(&chain, &request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    if let Err(error) = builder.serve_connection(TokioIo::new(tls), service).await {
        tracing::debug!(%remote, %error, "connection ended");
    }
}

fn text(code: u16, body: impl Into<Bytes>) -> Reply {
    typed(code, "text/plain; charset=utf-8", body)
}

fn typed(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let built = Response::builder().status(code).header(header::CONTENT_TYPE, content_type);
    built.body(Full::new(body.into())).unwrap_or_default()
}

impl Server {
    async fn answer(&self, chain: &[CertificateDer<'static>], request: &http::Request<Incoming>) -> Reply {
        let (method, path) = (request.method(), request.uri().path());
        let Some(user) = self.access.identify(chain, request.headers()).await else {
            return text(401, "Unauthorized");
        };
        if let Err((code, why)) = self.access.authorize(&user, method, path).await {
            tracing::info!(node = self.node, user = user.name, %method, path, code, "refused");
            return text(code, why);
        }
        if method != Method::GET && method != Method::HEAD {
            return text(404, "404 page not found\n");
        }
        match path {
            "/healthz" | "/healthz/" | "/healthz/ping" | "/healthz/log" | "/healthz/syncloop" => text(200, "ok"),
            "/pods" | "/pods/" => typed(200, "application/json", self.list(|_| true).to_string()),
            "/runningpods" | "/runningpods/" => {
                typed(200, "application/json", self.list(|pod| pods::phase(pod) == "Running").to_string())
            }
            "/metrics" => typed(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            "/configz" => typed(200, "application/json", self.configuration().to_string()),
            _ => text(404, "404 page not found\n"),
        }
    }

    fn list(&self, shown: impl Fn(&Value) -> bool) -> Value {
        let held = self.pods.held();
        let items: Vec<Value> = held.values().filter(|pod| shown(pod)).map(|pod| Value::clone(pod)).collect();
        let mut list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}});
        list.set("items", items);
        list
    }

    fn metrics(&self) -> String {
        let held = self.pods.held();
        let running = held.values().filter(|pod| pods::phase(pod) == "Running").count();
        let now = self.clock.now();
        let (client, serving) = self.credentials.validity();
        let left = |held: Option<super::credentials::Validity>| match held {
            Some(held) => {
                let seconds = held.not_after.unix_seconds() - now.unix_seconds();
                seconds.to_string()
            }
            None => "+Inf".to_owned(),
        };
        let mut page = String::new();
        let mut gauge = |name: &str, help: &str, labels: &str, value: &str| {
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}");
        };
        gauge(
            "kubelet_certificate_manager_client_ttl_seconds",
            "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
            "",
            &left(client),
        );
        gauge(
            "kubelet_certificate_manager_server_ttl_seconds",
            "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
            "",
            &left(serving),
        );
        let node = format!("{{node={:?}}}", self.node);
        gauge("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", &node, "1");
        let help = "[ALPHA] Number of pods that have a running pod sandbox";
        gauge("kubelet_running_pods", help, "", &running.to_string());
        page
    }

    fn configuration(&self) -> Value {
        json!({"kubeletconfig": {"enableServer": true, "port": 10250, "serverTLSBootstrap": true,
            "rotateCertificates": true, "authentication": {"anonymous": {"enabled": false},
                "webhook": {"enabled": true, "cacheTTL": "2m0s"}, "x509": {}},
            "authorization": {"mode": "Webhook", "webhook":
                {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}},
            "tlsMinVersion": "VersionTLS12"}})
    }
}
