//! Sends each request on the client port to its service: gRPC by its method, HTTP by its path.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service as _;

use crate::access::Access;
use crate::auth::CertificateName;
use crate::calls::{Answer, Call, Inbound, Leaderless, Open, Received};
use crate::gateway::Gateway;
use crate::grpc::{self, Api};
use crate::leaderless::leaderless;
use crate::methods::{self, Kind};
use crate::proto as pb;
use crate::serve::Route;
use crate::unary::{self, Outcome};
use crate::{LocalStore, StoreError, http_routes};

/// A message may be larger than a request by this much before gRPC itself refuses it.
const MESSAGE_SLACK_BYTES: usize = 512 << 10;

/// What clients may compress their messages with, as gRPC for Go has it. Answers are never compressed.
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// A service whose type has no name.
type Served = Box<dyn Fn(Request<Received>) -> Serving + Send + Sync>;
type Serving = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Traffic {
    /// gRPC and HTTP (`--listen-client-urls`).
    #[default]
    All,
    /// gRPC alone (`--listen-client-urls` beside `--listen-client-http-urls`).
    Grpc,
    /// HTTP alone (`--listen-client-http-urls`).
    Http,
    /// Metrics and health alone (`--listen-metrics-urls`).
    Metrics,
}

/// A connection as its requests see it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) tls: bool,
    /// Calls that are open on it.
    pub(crate) open: Arc<AtomicUsize>,
    /// The name in its client's certificate.
    pub(crate) name: Option<CertificateName>,
}

/// The services of a member.
pub(crate) struct Router {
    store: LocalStore,
    traffic: Traffic,
    access: Access,
    /// Nothing without JSON.
    gateway: Option<Gateway>,
    bytes_max: usize,
    api: Arc<Api>,
    kv: pb::kv_server::KvServer<Api>,
    watch: pb::watch_server::WatchServer<Api>,
    lease: pb::lease_server::LeaseServer<Api>,
    cluster: pb::cluster_server::ClusterServer<Api>,
    maintenance: pb::maintenance_server::MaintenanceServer<Api>,
    auth: pb::auth_server::AuthServer<Api>,
    lock: pb::v3lockpb::lock_server::LockServer<Api>,
    election: pb::v3electionpb::election_server::ElectionServer<Api>,
    health: HealthServer<Api>,
    reflection: OnceLock<Option<[(&'static str, Served); 2]>>,
}

impl Route for Router {
    /// Without TLS, all of HTTP/2 is gRPC's (etcd tells them apart by the protocol); with TLS the content type decides.
    async fn route(self: Arc<Self>, mut request: Request<Incoming>, connection: &Connection) -> Response<Answer> {
        let content = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_grpc = is_grpc(content);
        let http2 = request.version() == Version::HTTP_2;
        let to_grpc = match self.traffic {
            Traffic::All if connection.tls => http2 && is_grpc,
            Traffic::All => http2,
            Traffic::Grpc => true,
            Traffic::Http | Traffic::Metrics => false,
        };
        if !to_grpc {
            return Answer::plain(self.http(request, connection).await);
        }
        if !is_grpc {
            return Answer::plain(no_grpc(content));
        }
        // The service that is asked most does not pay for a name that nobody will look at.
        if let Some(name) = &connection.name
            && (self.store.shared.auth.is_enabled() || !request.uri().path().starts_with("/etcdserverpb.KV/"))
        {
            request.extensions_mut().insert(name.clone());
        }
        self.call(request.map(Inbound::Wire), Some(Open::new(&connection.open))).await
    }
}

impl Router {
    pub(crate) fn new(store: LocalStore, traffic: Traffic, access: Access, gateway: bool) -> Self {
        let api = Arc::new(Api::new(&store));
        let bytes_max = store.shared.limits.request_bytes_max + MESSAGE_SLACK_BYTES;
        // `Received` refuses what is too large, with gRPC's usual code.
        let limit = usize::MAX;
        Self {
            store,
            traffic,
            access,
            gateway: gateway.then(Gateway::default),
            bytes_max,
            api: api.clone(),
            kv: pb::kv_server::KvServer::from_arc(api.clone()).max_decoding_message_size(limit).accept_compressed(GZIP),
            watch: pb::watch_server::WatchServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            lease: pb::lease_server::LeaseServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            cluster: pb::cluster_server::ClusterServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            maintenance: pb::maintenance_server::MaintenanceServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            auth: pb::auth_server::AuthServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            lock: pb::v3lockpb::lock_server::LockServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            election: pb::v3electionpb::election_server::ElectionServer::from_arc(api.clone())
                .max_decoding_message_size(limit)
                .accept_compressed(GZIP),
            health: HealthServer::from_arc(api).accept_compressed(GZIP),
            reflection: OnceLock::new(),
        }
    }

    /// The largest message that gRPC takes.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Answers a gRPC call.
    pub(crate) async fn call(&self, request: Request<Inbound>, open: Option<Open>) -> Response<Answer> {
        let shared = &self.store.shared;
        let Some(call) = shared.calls.begin(request.uri().path(), &shared.clock) else {
            return Answer::plain(methods::unknown(request.uri().path()).into_http());
        };
        let leaderless = self.leaderless(&call, &request);
        let request = request.map(|body| Received::new(body, &call, self.bytes_max));
        let request = match unary::Method::of(&request) {
            None => request,
            Some(method) => match method.answer(&self.api, request).await {
                Outcome::Answered(response) => return Answer::to_call(response, call, leaderless, open),
                Outcome::Failed(status) => return Answer::to_call(status.into_http::<Body>(), call, leaderless, open),
                Outcome::Declined(request) => {
                    let Ok(response) = self.kv.clone().call(request.map(full)).await;
                    return Answer::to_call(response, call, leaderless, open);
                }
            },
        };
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        // What a learner answers of `KV` depends on the request.
        if service != "etcdserverpb.KV" && shared.published().learner && !is_for_learners(request.uri().path()) {
            return Answer::to_call(grpc::status(StoreError::Learner).into_http::<Body>(), call, None, open);
        }
        let Ok(response) = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            _ => {
                let served =
                    self.reflection.get_or_init(reflection).iter().flatten().find(|(name, _)| *name == service);
                match served {
                    Some((_, serve)) => serve(request).await,
                    None => Ok(methods::unknown(request.uri().path()).into_http()),
                }
            }
        };
        Answer::to_call(response, call, leaderless, open)
    }

    /// For a stream that asked for a leader: done when there has been none for too long.
    fn leaderless<B>(&self, call: &Call, request: &Request<B>) -> Option<Leaderless> {
        let wanted = request.headers().get("hasleader").is_some_and(|value| value == "true");
        let shared = &self.store.shared;
        (wanted && call.kind() != Kind::Unary)
            .then(|| -> Leaderless { Box::pin(leaderless(shared.leader.subscribe(), shared.limits.election_timeout)) })
    }

    async fn http(self: &Arc<Self>, mut request: Request<Incoming>, connection: &Connection) -> Response<Body> {
        if self.traffic == Traffic::Metrics {
            return http_routes::answer_metrics(&self.store, &request).await;
        }
        rewrite_old_path(&mut request);
        if let Some(refused) = self.access.refuse(&request, connection.tls) {
            return refused;
        }
        let named = connection.name.as_ref().is_some_and(|name| !name.0.is_empty());
        if named && self.store.shared.auth.is_enabled() && request.uri().path().starts_with("/v3/") {
            let text =
                "CommonName of client sending a request against gateway will be ignored and not used as expected";
            return http_routes::plain_error(StatusCode::BAD_REQUEST, text);
        }
        let origin = self.access.origin(request.headers());
        let mut response = self.behind_access(request).await;
        if let Some(origin) = origin {
            Access::allow(&origin, response.headers_mut());
        }
        response
    }

    async fn behind_access(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return Response::new(Body::empty());
        }
        if let Some(elsewhere) = http_routes::redirect(&request, self.gateway.is_some()) {
            return elsewhere;
        }
        if let Some(gateway) = self.gateway.as_ref().filter(|_| request.uri().path().starts_with("/v3/")) {
            return gateway.answer(self, request).await;
        }
        http_routes::answer(&self.store, &request).await
    }
}

/// Whether a member without a vote answers this (`etcdserver/api/v3rpc/interceptor`).
fn is_for_learners(path: &str) -> bool {
    let (_, method) = path.split_at_checked("/etcdserverpb.".len()).unwrap_or_default();
    matches!(method, "Maintenance/Status" | "Maintenance/Snapshot") || path.starts_with("/grpc.reflection.")
}

/// Whether this is a content type of gRPC.
pub(crate) fn is_grpc(content: &[u8]) -> bool {
    let rest = content.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// What gRPC for Go says of a request with another content type.
pub(crate) fn no_grpc(content: &[u8]) -> Response<Body> {
    let content = String::from_utf8_lossy(content);
    let status = Status::invalid_argument(format!("invalid gRPC request content-type {content:?}"));
    let mut response = status.into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Paths below `/v3beta/` go on to work.
fn rewrite_old_path(request: &mut Request<Incoming>) {
    let Some(rest) = request.uri().path_and_query().and_then(|path| path.as_str().strip_prefix("/v3beta/")) else {
        return;
    };
    let path = format!("/v3/{rest}");
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = path.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// The services that describe the others, in both versions that clients speak.
fn reflection() -> Option<[(&'static str, Served); 2]> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Some([
        ("grpc.reflection.v1.ServerReflection", served(builder().build_v1().ok()?)),
        ("grpc.reflection.v1alpha.ServerReflection", served(builder().build_v1alpha().ok()?)),
    ])
}

fn served<S>(service: S) -> Served
where
    S: tower_service::Service<Request<Received>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| Box::pin(service.clone().call(request)))
}

/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Body::new(http_body_util::Full::new(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_told_from_others() {
        for content in ["application/grpc", "application/grpc+proto", "application/grpc;x"] {
            assert!(is_grpc(content.as_bytes()), "{content}");
        }
        for content in ["", "application/json", "application/grpc-web"] {
            assert!(!is_grpc(content.as_bytes()), "{content}");
        }
    }

    #[test]
    fn reflection_can_describe_everything() {
        assert!(reflection().is_some());
    }
}
