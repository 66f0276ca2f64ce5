//! The etcd cluster behind the proxy: its endpoints in turn, those that cannot be reached left out for a while.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Response, Status, Streaming};

use super::raw::Raw;
use crate::EtcdError;
use crate::connector::Connector;
use crate::hub::lock;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 4 << 20;
/// An endpoint that could not be reached is tried again after this time, or when no other can be reached either.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often etcd's client makes a call that may be repeated, and what it waits once a majority was asked.
const ATTEMPTS_MAX: usize = 100;
const BACKOFF: Duration = Duration::from_millis(25);

/// Who asks, and what goes to etcd with each of its calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    /// An authentication token.
    pub(super) token: Option<String>,
    /// Whether a call is to fail where there is no leader.
    pub(super) needs_leader: bool,
}

impl Caller {
    /// As a request's metadata say.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let token = text("token").filter(|token| !token.is_empty()).map(str::to_owned);
        Self { token, needs_leader: text("hasleader") == Some("true") }
    }

    /// A call in this caller's name.
    pub(super) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        // As etcd's client: the member counts clients by it.
        metadata.insert("client-api-version", MetadataValue::from_static(crate::VERSION));
        if let Some(token) = self.token.as_ref().and_then(|token| token.parse().ok()) {
            metadata.insert("token", token);
        }
        if self.needs_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }
}

/// When a call that failed is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// When it cannot have reached the endpoint, at another one.
    Elsewhere,
    /// As before, until an endpoint can be reached: the client says how long it waits.
    UntilSent,
    /// Whenever the endpoint is not available.
    Always,
}

/// How the cluster is reached.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// For endpoints with `https`, and for those without any scheme.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    /// Largest message to send.
    pub(super) send_bytes_max: usize,
    /// Largest message to take.
    pub(super) receive_bytes_max: usize,
    /// A connection is pinged this often; zero for never.
    pub(super) ping_interval: Duration,
    /// And the endpoint has this long to answer.
    pub(super) ping_timeout: Duration,
    /// Whether connections without a call are pinged too.
    pub(super) ping_while_idle: bool,
}

struct Target {
    endpoint: String,
    channel: Channel,
    failed: Mutex<Option<Instant>>,
}

/// Endpoints of an etcd cluster.
pub(super) struct Upstream {
    settings: Settings,
    targets: ArcSwap<Vec<Arc<Target>>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// Connections are made when they are first needed.
    ///
    /// # Errors
    /// When an endpoint is no address, or needs TLS that is not there.
    pub(super) fn new(endpoints: &[String], settings: Settings) -> Result<Self, EtcdError> {
        let targets = endpoints.iter().map(|endpoint| target(endpoint, &settings)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { settings, targets: ArcSwap::from_pointee(targets), turn: AtomicUsize::new(0) })
    }

    /// Other endpoints from now on; calls that run go on where they are.
    ///
    /// # Errors
    /// As [`Upstream::new`]; the endpoints stay as they are then.
    pub(super) fn replace(&self, endpoints: &[String]) -> Result<(), EtcdError> {
        let old = self.targets.load_full();
        let kept = |endpoint: &String| old.iter().find(|target| target.endpoint == *endpoint).cloned();
        let targets = endpoints
            .iter()
            .map(|endpoint| kept(endpoint).map_or_else(|| target(endpoint, &self.settings), Ok))
            .collect::<Result<Vec<_>, _>>()?;
        self.targets.store(Arc::new(targets));
        Ok(())
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.targets.load().iter().map(|target| target.endpoint.clone()).collect()
    }

    /// The next endpoint in turn: of those that can be reached, or else of those that were not tried.
    fn pick(&self, tried: &BTreeSet<String>) -> Arc<Target> {
        let targets = self.targets.load_full();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..targets.len()).map(|offset| &targets[(turn + offset) % targets.len()]);
        let usable = |target: &&Arc<Target>| lock(&target.failed).is_none_or(|at| at.elapsed() >= RETRY_AFTER);
        let untried = |target: &&Arc<Target>| !tried.contains(&target.endpoint);
        let picked = in_turn().filter(untried).find(usable).or_else(|| in_turn().find(untried));
        picked.unwrap_or(&targets[turn % targets.len()]).clone()
    }

    /// Makes a call at one endpoint after the other, as `repeat` allows.
    pub(super) async fn call<T, F>(&self, repeat: Repeat, make: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut unreachable = BTreeSet::new();
        let mut attempt = 0;
        loop {
            let target = self.pick(&unreachable);
            let status = match make(target.channel.clone()).await {
                Ok(answer) => {
                    *lock(&target.failed) = None;
                    return Ok(answer);
                }
                Err(status) => status,
            };
            let unsent = is_unsent(&status);
            let status = told(status);
            let total = self.targets.load().len();
            if unsent {
                *lock(&target.failed) = Some(Instant::now());
                unreachable.insert(target.endpoint.clone());
                if unreachable.len() < total {
                    continue;
                }
                unreachable.clear();
            }
            attempt += 1;
            // etcd's client hopes for a voter then.
            let learner = total > 1 && status.message() == "etcdserver: rpc not supported for learner";
            let again = match repeat {
                Repeat::UntilSent if unsent => true,
                Repeat::Always if status.code() == Code::Unavailable => attempt < ATTEMPTS_MAX,
                Repeat::Elsewhere | Repeat::UntilSent | Repeat::Always => learner && attempt < ATTEMPTS_MAX,
            };
            if !again {
                return Err(status);
            }
            tracing::debug!(target: "etcd", endpoint = target.endpoint, attempt, error = %status.message(), "retrying a call");
            if unsent || attempt % (total / 2 + 1) == 0 {
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// A call with one message each way, both as they are.
    pub(super) async fn unary(
        &self,
        path: PathAndQuery,
        caller: &Caller,
        message: Bytes,
        repeat: Repeat,
    ) -> Result<Response<Bytes>, Status> {
        self.check(&message)?;
        let (path, message) = (&path, &message);
        self.call(repeat, async move |channel| {
            let mut client = self.client(channel);
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            client.unary(caller.ask(message.clone()), path.clone(), Raw).await
        })
        .await
    }

    /// A call that answers with many messages.
    pub(super) async fn server_stream(
        &self,
        path: PathAndQuery,
        caller: &Caller,
        message: Bytes,
    ) -> Result<Streaming<Bytes>, Status> {
        self.check(&message)?;
        let (path, message) = (&path, &message);
        self.call(Repeat::Elsewhere, async move |channel| {
            let mut client = self.client(channel);
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let request = caller.ask(message.clone());
            client.server_streaming(request, path.clone(), Raw).await.map(Response::into_inner)
        })
        .await
    }

    /// A call with one message each way.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        path: &'static str,
        caller: &Caller,
        message: &impl Message,
        repeat: Repeat,
    ) -> Result<A, Status> {
        let path = PathAndQuery::from_static(path);
        let answer = self.unary(path, caller, message.encode_to_vec().into(), repeat).await?;
        A::decode(answer.into_inner()).map_err(|error| Status::internal(error.to_string()))
    }

    fn client(&self, channel: Channel) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::new(channel).max_decoding_message_size(self.settings.receive_bytes_max)
    }

    pub(super) fn receive_bytes_max(&self) -> usize {
        self.settings.receive_bytes_max
    }

    fn check(&self, message: &Bytes) -> Result<(), Status> {
        let (length, max) = (message.len(), self.settings.send_bytes_max);
        if length <= max {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!("trying to send message larger than max ({length} vs. {max})")))
    }
}

fn target(endpoint: &str, settings: &Settings) -> Result<Arc<Target>, EtcdError> {
    let bad =
        |source: Box<dyn std::error::Error + Send + Sync>| EtcdError::Connect { endpoint: endpoint.to_owned(), source };
    let (scheme, host) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let tls = match scheme {
        "http" => None,
        "" => settings.tls.clone(),
        "https" => match &settings.tls {
            Some(tls) => Some(tls.clone()),
            None => return Err(bad("https needs --cacert or --insecure-skip-tls-verify".into())),
        },
        _ => return Err(bad("only http and https are supported here".into())),
    };
    // The connector does TLS itself.
    let built = Endpoint::from_shared(format!("http://{host}")).map_err(|error| bad(error.into()))?;
    let mut built = built
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .tcp_nodelay(true);
    if !settings.ping_interval.is_zero() {
        built = built
            .http2_keep_alive_interval(settings.ping_interval)
            .keep_alive_timeout(settings.ping_timeout)
            .keep_alive_while_idle(settings.ping_while_idle);
    }
    let channel = built.connect_with_connector_lazy(Connector::new(tls));
    Ok(Arc::new(Target { endpoint: endpoint.to_owned(), channel, failed: Mutex::default() }))
}

/// Whether a call failed before anything of it was sent.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A status as gRPC for Go has it: whatever befalls a connection makes a call unavailable.
pub(super) fn told(status: Status) -> Status {
    let Some(mut source) = status.source() else { return status };
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    Status::unavailable(format!("connection error: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            tls: None,
            send_bytes_max: 10,
            receive_bytes_max: 10,
            ping_interval: Duration::ZERO,
            ping_timeout: Duration::ZERO,
            ping_while_idle: false,
        }
    }

    #[tokio::test]
    async fn endpoints_take_turns_and_those_that_fail_are_passed_over() {
        let endpoints = ["a:1", "http://b:2", "c:3"].map(str::to_owned);
        let upstream = Upstream::new(&endpoints, settings()).expect("addresses");
        let picked = || (0..3).map(|_| upstream.pick(&BTreeSet::new()).endpoint.clone()).collect::<Vec<_>>();
        assert_eq!(picked(), endpoints);
        *lock(&upstream.targets.load()[1].failed) = Some(Instant::now());
        assert_eq!(picked(), ["a:1", "c:3", "c:3"]);
        upstream.replace(&["d:4".to_owned(), "a:1".to_owned()]).expect("addresses");
        assert_eq!(upstream.endpoints(), ["d:4", "a:1"]);
        for bad in ["https://a:1", "unix://a", "a b"] {
            assert!(Upstream::new(&[bad.to_owned()], settings()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_call_that_cannot_have_been_sent_is_made_elsewhere_at_once_and_others_are_not() {
        let upstream = Upstream::new(&["a:1".to_owned(), "b:2".to_owned()], settings()).expect("addresses");
        let tries = &AtomicUsize::new(0);
        let made = |failures: usize, fail: fn() -> Status| {
            tries.store(0, Ordering::Relaxed);
            move |_| async move { if tries.fetch_add(1, Ordering::Relaxed) < failures { Err(fail()) } else { Ok(()) } }
        };
        let refused = || Status::from_error(Box::new(ConnectError("refused".into())));
        let lost = || Status::unavailable("etcdserver: server stopped");
        let answer = upstream.call(Repeat::Elsewhere, made(1, refused)).await;
        assert!(answer.is_ok() && tries.load(Ordering::Relaxed) == 2);
        let answer = upstream.call(Repeat::Elsewhere, made(9, refused)).await;
        let status = answer.expect_err("neither can be reached");
        assert_eq!((status.code(), tries.load(Ordering::Relaxed)), (Code::Unavailable, 2));
        let answer = upstream.call(Repeat::UntilSent, made(9, refused)).await;
        assert!(answer.is_ok() && tries.load(Ordering::Relaxed) == 10);
        let answer = upstream.call(Repeat::Elsewhere, made(1, lost)).await;
        assert!(answer.is_err() && tries.load(Ordering::Relaxed) == 1, "it may have been carried out");
        let answer = upstream.call(Repeat::Always, made(1, lost)).await;
        assert!(answer.is_ok() && tries.load(Ordering::Relaxed) == 2);
    }

    #[test]
    fn a_message_that_is_too_large_is_not_sent() {
        let upstream = Upstream { settings: settings(), targets: ArcSwap::default(), turn: AtomicUsize::new(0) };
        let status = upstream.check(&Bytes::from_static(&[0; 11])).expect_err("too large");
        assert_eq!(status.message(), "trying to send message larger than max (11 vs. 10)");
    }
}
