//! `etcd grpc-proxy start`: carries the calls of etcd's clients to a cluster (`server/proxy/grpcproxy`). Clients that watch the
//! same keys share one watch at etcd, those that take a stale answer get one that is kept here, and all of them may be
//! confined to a part of the keyspace.
//!
//! ```text
//! client ─► router ─┬─ KV ──────► kv (namespace, cache) ─────────────┐
//!                   ├─ Watch ───► watch ─► broadcast ─► feed ────────┤
//!                   ├─ Lease ───► lease (renewals on one stream) ────┼─► upstream: endpoints in turn ─► etcd
//!                   ├─ Cluster ─► members (proxies that registered) ─┤
//!                   └─ the rest, as it is ───────────────────────────┘
//! ```

mod broadcast;
mod cache;
mod feed;
mod flags;
mod http;
mod kv;
mod leader;
mod lease;
mod members;
mod namespace;
mod raw;
mod router;
mod tls;
mod upstream;
mod watch;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;

use self::flags::Flags;
use self::members::{Members, Resolver};
use self::router::{PagesOnly, Router};
use self::upstream::{Caller, Repeat, Upstream};
use crate::EtcdError;
use crate::command::Refusal;
use crate::error::storage;
use crate::listen::{Listener, Place, Url};
use crate::metrics::Counter;
use crate::proto as pb;
use crate::serve::{ServeOptions, serve};
use crate::settings::{check_tls_choice, check_tls_version};

/// How long a list of the cluster's members may take.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// The first read is repeated after this time (`--experimental-serializable-ordering`).
const ORDER_AGAIN: Duration = Duration::from_secs(1);
/// A key that need not be there.
const ORDER_KEY: &[u8] = b"_";

/// A proxy that was asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcProxy {
    flags: Flags,
}

/// What follows `etcd grpc-proxy`.
pub(crate) enum Asked {
    /// To run it.
    Start(Box<GrpcProxy>),
    /// To print this.
    Help(String),
}

impl GrpcProxy {
    /// Reads what follows `etcd grpc-proxy`.
    ///
    /// # Errors
    /// As etcd refuses it: flags that do not exist or have not their form, and those that make no sense together. And flags
    /// that cannot be honoured here.
    pub(crate) fn parse(args: Vec<OsString>) -> Result<Asked, Refusal> {
        let mut args = args.into_iter();
        match args.next() {
            Some(command) if command == "start" => {}
            Some(flag) if flag.to_string_lossy().starts_with('-') && flag != "-h" && flag != "--help" => {
                let flag = flag.to_string_lossy().into_owned();
                let name = flag.split('=').next().unwrap_or_default();
                return Err(Refusal::invalid(format!("Error: unknown flag: {name}\n{}", flags::COMMANDS)));
            }
            _ => return Ok(Asked::Help(flags::COMMANDS.to_owned())),
        }
        let Some(flags) = Flags::parse(args)? else {
            return Ok(Asked::Help(format!("start the proxy\n\n{}", Flags::usage())));
        };
        check(&flags).map_err(Refusal::invalid)?;
        Ok(Asked::Start(Box::new(Self { flags })))
    }

    /// Whether to log more.
    pub(crate) fn debug(&self) -> bool {
        self.flags.is_set("debug")
    }

    /// Serves clients until `shutdown` is done.
    ///
    /// # Errors
    /// When a certificate, an address or an endpoint cannot be used.
    pub(crate) async fn run(self, clock: Clock, shutdown: impl Future<Output = ()> + Send) -> Result<(), EtcdError> {
        let flags = &self.flags;
        if flags.is_set("enable-pprof") {
            tracing::warn!(target: "etcd", flag = "enable-pprof", "this flag has no effect here");
        }
        let tls = tls::server(flags, clock.now())?;
        let address = flags.text("listen-addr");
        let listener = listen(address).await?;
        tracing::info!(target: "etcd", address, "listening for gRPC proxy client requests");
        let metrics = match flags.text("metrics-addr") {
            "" => None,
            url => Some(listen_for_metrics(url, tls.is_some()).await?),
        };
        let (stop, stopped) = signal::channel(false);
        let mut beside = JoinSet::new();
        let (router, pages) = self.services(&clock, &mut beside)?;
        if flags.is_set("experimental-serializable-ordering") {
            wait_for_order(&router).await;
        }
        let options = ServeOptions {
            streams_max: u32::try_from(flags.number("max-concurrent-streams")).unwrap_or(u32::MAX),
            client_ping_interval_min: flags.duration("grpc-keepalive-min-time"),
            ping_interval: flags.duration("grpc-keepalive-interval"),
            ping_timeout: flags.duration("grpc-keepalive-timeout"),
            tls,
            police_tls: true,
            ..ServeOptions::default()
        };
        let mut serving = JoinSet::new();
        let until = || {
            let mut stopped = stopped.clone();
            async move { drop(stopped.wait_for(|stop| *stop).await) }
        };
        if let Some((listener, with_tls)) = metrics {
            let options = ServeOptions { tls: options.tls.clone().filter(|_| with_tls), ..options.clone() };
            serving.spawn(serve(Arc::new(PagesOnly(pages)), listener, options, clock.clone(), until()));
            tracing::info!(target: "etcd", "gRPC proxy server metrics URL serving");
        }
        let members = router.members.clone();
        serving.spawn(serve(router, listener, options, clock, until()));
        tracing::info!(target: "etcd", address, "started gRPC proxy");
        tokio::pin!(shutdown);
        let failed = tokio::select! {
            () = &mut shutdown => None,
            Some(Ok(Err(error))) = serving.join_next() => Some(error),
        };
        beside.shutdown().await;
        members.leave().await;
        let _ = stop.send(true);
        while serving.join_next().await.is_some() {}
        tracing::info!(target: "etcd", address, "stop listening gRPC proxy client requests");
        failed.map_or(Ok(()), Err)
    }

    /// Puts the services together; what runs by itself goes into `beside`.
    fn services(&self, clock: &Clock, beside: &mut JoinSet<()>) -> Result<(Arc<Router>, Arc<http::Pages>), EtcdError> {
        let flags = &self.flags;
        let client_tls = tls::client(flags)?.map(Arc::new);
        let settings = upstream::Settings {
            tls: client_tls.clone(),
            send_bytes_max: bytes_max(flags, "max-send-bytes"),
            receive_bytes_max: bytes_max(flags, "max-recv-bytes"),
            ping_interval: flags.duration("dial-keepalive-time"),
            ping_timeout: flags.duration("dial-keepalive-timeout"),
            ping_while_idle: flags.is_set("permit-without-stream"),
        };
        let upstream = Arc::new(Upstream::new(&flags.list("endpoints"), settings.clone())?);
        let ordered = flags.is_set("experimental-serializable-ordering");
        let namespace = namespace::Namespace::new(flags.text("namespace"));
        let kv = Arc::new(kv::Kv::new(upstream.clone(), namespace, ordered));
        let ranges = Arc::new(broadcast::Ranges::new(kv.clone()));
        let leases = Arc::new(lease::Leases::new(kv.clone()));
        let resolver = Resolver {
            prefix: flags.text("resolver-prefix").to_owned(),
            ttl_seconds: flags.number("resolver-ttl"),
            address: flags.text("advertise-client-url").to_owned(),
        };
        let own = match resolver.address.as_str() {
            "" => None,
            address => {
                let settings = upstream::Settings { tls: tls::own(flags)?.map(Arc::new), ..settings };
                match Upstream::new(&[address.to_owned()], settings) {
                    Ok(own) => Some(Arc::new(kv::Kv::new(Arc::new(own), namespace::Namespace::default(), false))),
                    // Clients may find it where it does not find itself.
                    Err(error) => {
                        tracing::warn!(target: "etcd", %error, "the health of this proxy itself will not be known");
                        None
                    }
                }
            }
        };
        let members = Arc::new(Members::new(kv.clone(), leases.clone(), resolver));
        let (leader, watching) = leader::Leader::new(kv.clone());
        let calls = Arc::default();
        let pages = Arc::new(http::Pages {
            kv: kv.clone(),
            ranges: ranges.clone(),
            calls: Arc::clone(&calls),
            own,
            tls: client_tls,
            healthy: Counter::default(),
            unhealthy: Counter::default(),
        });
        beside.spawn(watching);
        beside.spawn(members.clone().register());
        beside.spawn(members.clone().follow());
        beside.spawn(sync(upstream, flags.duration("endpoints-auto-sync-interval")));
        let watches = watch::Watches::new(kv.clone(), ranges);
        let clock = clock.clone();
        let router = Router { kv, watches, leases, members, leader, calls, clock, pages: pages.clone() };
        Ok((Arc::new(router), pages))
    }
}

/// What etcd refuses of the flags, and what cannot be done here.
fn check(flags: &Flags) -> Result<(), String> {
    let (prefix, ttl) = (flags.text("resolver-prefix"), flags.number("resolver-ttl"));
    if !prefix.is_empty() && ttl < 1 {
        return Err(format!("invalid resolver-ttl {ttl}"));
    }
    if prefix.is_empty() && ttl > 0 {
        return Err(format!("invalid resolver-prefix {prefix:?}"));
    }
    if !prefix.is_empty() && flags.text("advertise-client-url").is_empty() {
        return Err("invalid advertise-client-url \"\"".to_owned());
    }
    if flags.is_set("auto-tls") && flags.text("self-signed-cert-validity") == "0" {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    let (min, max) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
    for (name, version) in [("tls-min-version", min), ("tls-max-version", max)] {
        check_tls_version(version).map_err(|why| format!("{name} is invalid: {why}"))?;
    }
    check_tls_choice(min, max, &flags.list("listen-cipher-suites"))?;
    for name in ["discovery-srv", "experimental-leasing-prefix"] {
        if !flags.text(name).is_empty() {
            return Err(format!("--{name} is not supported by this proxy"));
        }
    }
    if flags.is_set("experimental-enable-grpc-logging") {
        return Err("--experimental-enable-grpc-logging is not supported by this proxy".to_owned());
    }
    if flags.list("endpoints").is_empty() {
        return Err("etcdclient: no available endpoints".to_owned());
    }
    let (send, receive) = (flags.number("max-send-bytes"), flags.number("max-recv-bytes"));
    if receive > 0 && send > receive {
        return Err(format!(
            "gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)"
        ));
    }
    Ok(())
}

/// A limit in bytes; what is not above zero stands for the default, as in etcd.
fn bytes_max(flags: &Flags, name: &str) -> usize {
    let default = if name == "max-send-bytes" { 2 << 20 } else { i32::MAX.unsigned_abs() as usize };
    usize::try_from(flags.number(name)).ok().filter(|max| *max > 0).unwrap_or(default)
}

/// Listens on `host:port`; without a host on every address.
async fn listen(address: &str) -> Result<Listener, EtcdError> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(EtcdError::Damaged(format!("listen tcp: address {address}: missing port in address")));
    };
    let port = port.parse().map_err(|error| storage(&format!("listening on {address}"), error))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if bare.is_empty() { "::" } else { bare };
    let url = Url { text: address.to_owned(), tls: false, place: Place::Tcp(host.to_owned(), port) };
    Listener::bind(&url, false).await.map_err(|error| storage(&format!("listening on {address}"), error))
}

/// Listens for those who want metrics alone; with it whether they speak TLS.
async fn listen_for_metrics(text: &str, has_tls: bool) -> Result<(Listener, bool), EtcdError> {
    let url = Url::parse(text).map_err(EtcdError::Damaged)?;
    if url.tls && !has_tls {
        let what = "KeyFile and CertFile are not presented";
        return Err(EtcdError::Damaged(format!("cannot listen on TLS for {}: {what}", url.address())));
    }
    let bound = Listener::bind(&url, false).await;
    let bound = bound.map_err(|error| storage(&format!("listening on {text}"), error))?;
    tracing::info!(target: "etcd", address = text, "gRPC proxy listening for metrics");
    Ok((bound, url.tls))
}

/// Asks etcd where its members are, again and again (`--endpoints-auto-sync-interval`).
async fn sync(upstream: Arc<Upstream>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let request = pb::MemberListRequest { linearizable: true };
        let nobody = Caller::default();
        let path = "/etcdserverpb.Cluster/MemberList";
        let listed = upstream.ask::<pb::MemberListResponse>(path, &nobody, &request, Repeat::Elsewhere);
        let endpoints: Vec<String> = match tokio::time::timeout(SYNC_PATIENCE, listed).await {
            Ok(Ok(listed)) => {
                let usable = listed.members.into_iter().filter(|member| !member.name.is_empty() && !member.is_learner);
                usable.flat_map(|member| member.client_ur_ls).collect()
            }
            Ok(Err(status)) => {
                tracing::info!(target: "etcd", error = %status.message(), "Auto sync endpoints failed.");
                continue;
            }
            Err(_) => {
                tracing::info!(target: "etcd", error = "context deadline exceeded", "Auto sync endpoints failed.");
                continue;
            }
        };
        if endpoints.is_empty() || endpoints == upstream.endpoints() {
            continue;
        }
        match upstream.replace(&endpoints) {
            Ok(()) => tracing::info!(target: "etcd", endpoints = endpoints.join(","), "set etcd endpoints by autoSync"),
            Err(error) => tracing::info!(target: "etcd", %error, "Auto sync endpoints failed."),
        }
    }
}

/// Waits until etcd has answered a read that it cannot answer from an old state.
async fn wait_for_order(router: &Router) {
    tracing::info!(target: "etcd", "waiting for linearized read from cluster to recover ordering");
    let request = pb::RangeRequest { key: Bytes::from_static(ORDER_KEY), keys_only: true, ..Default::default() };
    while let Err(status) = router.kv.get(&Caller::default(), request.clone()).await {
        tracing::warn!(target: "etcd", error = %status.message(), "ordering recovery failed, retrying in 1s");
        tokio::time::sleep(ORDER_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Asked, String> {
        GrpcProxy::parse(args.iter().map(OsString::from).collect()).map_err(|refusal| {
            assert_eq!(refusal.code, 1);
            refusal.text.lines().next().unwrap_or_default().to_owned()
        })
    }

    #[test]
    fn contradictions_are_refused_in_etcds_words_and_what_cannot_be_done_in_ours() {
        let check = |args: &[&str], expect: &str| {
            let args: Vec<&str> = std::iter::once("start").chain(args.iter().copied()).collect();
            assert_eq!(parse(&args).err().as_deref(), Some(expect));
        };
        check(&["--resolver-prefix=a"], "invalid resolver-ttl 0");
        check(&["--resolver-ttl=1"], "invalid resolver-prefix \"\"");
        check(
            &["--resolver-prefix=a", "--resolver-ttl=1", "--advertise-client-url="],
            "invalid advertise-client-url \"\"",
        );
        check(
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        );
        check(
            &["--tls-min-version=x"],
            "tls-min-version is invalid: unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
        );
        check(&["--endpoints="], "etcdclient: no available endpoints");
        check(
            &["--max-send-bytes=10", "--max-recv-bytes=5"],
            "gRPC message recv limit (5 bytes) must be greater than send limit (10 bytes)",
        );
        check(&["--discovery-srv=x"], "--discovery-srv is not supported by this proxy");
        check(&["--experimental-leasing-prefix=x"], "--experimental-leasing-prefix is not supported by this proxy");
    }

    #[test]
    fn without_a_command_there_is_help() {
        assert!(matches!(parse(&[]), Ok(Asked::Help(text)) if text == flags::COMMANDS));
        assert!(matches!(parse(&["bogus"]), Ok(Asked::Help(text)) if text == flags::COMMANDS));
        assert!(matches!(parse(&["start", "--help"]), Ok(Asked::Help(text)) if text.contains("--resolver-ttl int")));
        assert_eq!(parse(&["--debug", "start"]).err().as_deref(), Some("Error: unknown flag: --debug"));
        assert!(matches!(parse(&["start", "--debug"]), Ok(Asked::Start(proxy)) if proxy.debug()));
    }
}
