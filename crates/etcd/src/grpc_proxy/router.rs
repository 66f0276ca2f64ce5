//! Sends each request of a client to its service: what the proxy has a say in is read, the rest goes to etcd as it is.

use std::sync::Arc;

use base::Clock;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::http::Pages;
use super::kv::Kv;
use super::leader::Leader;
use super::lease::Leases;
use super::members::Members;
use super::raw::Raw;
use super::upstream::{Caller, Repeat, told};
use super::watch::Watches;
use crate::calls::{Answer, Calls, Inbound, Leaderless, Open, Received};
use crate::methods::{self, Kind};
use crate::proto as pb;
use crate::router::{Connection, is_grpc, no_grpc};
use crate::serve::Route;

/// Messages of clients are not taken when they are larger (gRPC's own limit, which etcd's proxy leaves).
const RECEIVE_BYTES_MAX: usize = 4 << 20;

/// The services of the proxy.
pub(super) struct Router {
    pub(super) kv: Arc<Kv>,
    pub(super) watches: Watches,
    pub(super) leases: Arc<Leases>,
    pub(super) members: Arc<Members>,
    pub(super) leader: Leader,
    pub(super) calls: Arc<Calls>,
    pub(super) clock: Clock,
    pub(super) pages: Arc<Pages>,
}

impl Route for Router {
    async fn route(self: Arc<Self>, request: Request<Incoming>, connection: &Connection) -> Response<Answer> {
        // All of HTTP/2 is gRPC's, with TLS too.
        if request.version() != Version::HTTP_2 {
            return Answer::plain(self.pages.answer(&request).await);
        }
        let content = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !is_grpc(content) {
            return Answer::plain(no_grpc(content));
        }
        let path = request.uri().path().to_owned();
        let service = path.split('/').nth(1).unwrap_or_default();
        if service.starts_with("grpc.") {
            return Answer::plain(Status::unimplemented(format!("unknown service {service}")).into_http());
        }
        let Some(call) = self.calls.begin(&path, &self.clock) else {
            return Answer::plain(methods::unknown(&path).into_http());
        };
        let open = Some(Open::new(&connection.open));
        let needs_leader = request.headers().get("hasleader").is_some_and(|value| value == "true");
        let is_stream = call.kind() == Kind::BidiStream;
        if needs_leader && is_stream && self.leader.is_lost() {
            return Answer::to_call(no_leader().into_http::<Body>(), call, None, open);
        }
        let leaderless = (needs_leader && is_stream).then(|| -> Leaderless { Box::pin(self.leader.clone().lost()) });
        let kind = call.kind();
        let request = request.map(|body| Received::new(Inbound::Wire(body), &call, RECEIVE_BYTES_MAX));
        Answer::to_call(self.call(kind, request).await, call, leaderless, open)
    }
}

impl Router {
    async fn call(self: &Arc<Self>, kind: Kind, request: Request<Received>) -> Response<Body> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // `Received` refuses what is too large.
        let limit = usize::MAX;
        match (kind, path.path()) {
            (Kind::BidiStream, "/etcdserverpb.Watch/Watch") => {
                let codec = ProstCodec::<pb::WatchResponse, pb::WatchRequest>::new();
                let serve = |request: tonic::Request<_>| {
                    let caller = Caller::of(&request);
                    let stream = self.watches.open(caller, request.into_inner());
                    std::future::ready(Ok(tonic::Response::new(stream)))
                };
                Grpc::new(codec).max_decoding_message_size(limit).streaming(Handler(serve), request).await
            }
            (Kind::BidiStream, _) => {
                let codec = ProstCodec::<pb::LeaseKeepAliveResponse, pb::LeaseKeepAliveRequest>::new();
                let serve = |request: tonic::Request<_>| {
                    let caller = Caller::of(&request);
                    let stream = self.leases.keep_alive(caller, request.into_inner());
                    std::future::ready(Ok(tonic::Response::new(stream)))
                };
                Grpc::new(codec).max_decoding_message_size(limit).streaming(Handler(serve), request).await
            }
            (Kind::ServerStream, _) => {
                let serve = |request| self.server_stream(path.clone(), request);
                Grpc::new(Raw).max_decoding_message_size(limit).server_streaming(Handler(serve), request).await
            }
            (Kind::Unary, _) => {
                let serve = |request| self.unary(path.clone(), request);
                Grpc::new(Raw).max_decoding_message_size(limit).unary(Handler(serve), request).await
            }
        }
    }

    async fn unary(
        &self,
        path: PathAndQuery,
        request: tonic::Request<Bytes>,
    ) -> Result<tonic::Response<Bytes>, Status> {
        let caller = &Caller::of(&request);
        let message = request.into_inner();
        let Some((service, method)) = path.path().trim_start_matches('/').split_once('/') else {
            return Err(methods::unknown(path.path()));
        };
        let repeat = match (service, method) {
            ("etcdserverpb.KV", "Range") => return write(self.kv.range(caller, read(message)?).await),
            ("etcdserverpb.KV", "Put") => return write(self.kv.put(caller, read(message)?).await),
            ("etcdserverpb.KV", "DeleteRange") => return write(self.kv.delete_range(caller, read(message)?).await),
            ("etcdserverpb.KV", "Txn") => return write(self.kv.txn(caller, read(message)?).await),
            ("etcdserverpb.KV", "Compact") => return write(self.kv.compact(caller, read(message)?).await),
            ("etcdserverpb.Cluster", "MemberList") => return write(self.members.list(caller, read(message)?).await),
            // etcd's proxy does not have it either.
            ("etcdserverpb.Cluster", "MemberPromote") => return Err(Status::unknown("not implemented")),
            ("etcdserverpb.Lease", "LeaseTimeToLive") => {
                return write(self.leases.time_to_live(caller, read(message)?).await);
            }
            ("etcdserverpb.Lease", "LeaseGrant") => Repeat::UntilSent,
            ("etcdserverpb.Lease", _) => Repeat::Always,
            _ => Repeat::Elsewhere,
        };
        let answer = self.kv.upstream().unary(path, caller, message, repeat).await?;
        Ok(tonic::Response::new(answer.into_inner()))
    }

    async fn server_stream(
        &self,
        path: PathAndQuery,
        request: tonic::Request<Bytes>,
    ) -> Result<tonic::Response<impl futures_util::Stream<Item = Result<Bytes, Status>> + Send + use<>>, Status> {
        use futures_util::StreamExt as _;
        let caller = Caller::of(&request);
        let stream = self.kv.upstream().server_stream(path, &caller, request.into_inner()).await?;
        Ok(tonic::Response::new(stream.map(|message| message.map_err(told))))
    }
}

/// The pages alone (`--metrics-addr`).
pub(super) struct PagesOnly(pub(super) Arc<Pages>);

impl Route for PagesOnly {
    async fn route(self: Arc<Self>, request: Request<Incoming>, _: &Connection) -> Response<Answer> {
        Answer::plain(self.0.answer(&request).await)
    }
}

fn no_leader() -> Status {
    crate::grpc::status(crate::StoreError::NoLeader)
}

fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::internal(format!("grpc: error unmarshalling request: {error}")))
}

fn write(answer: Result<impl Message, Status>) -> Result<tonic::Response<Bytes>, Status> {
    Ok(tonic::Response::new(answer?.encode_to_vec().into()))
}

/// A function as gRPC's machinery wants it.
struct Handler<F>(F);

impl<F, M, R, A> tower_service::Service<tonic::Request<M>> for Handler<F>
where
    F: FnMut(tonic::Request<M>) -> A,
    A: Future<Output = Result<tonic::Response<R>, Status>>,
{
    type Response = tonic::Response<R>;
    type Error = Status;
    type Future = A;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<M>) -> A {
        (self.0)(request)
    }
}
