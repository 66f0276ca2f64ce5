//! The listeners of the command's ports: which there are, and what they say of themselves.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::storage;
use crate::flags::Flags;
use crate::listen::{Listener, Place, Url};
use crate::peers::identity::Binding;
use crate::peers::tls::PeerTls;
use crate::router::Traffic;
use crate::serve::ServeOptions;
use crate::settings::Settings;
use crate::tls::ServerTls;
use crate::{EtcdError, Member};

/// Opens every listener of the client port, each with how it serves.
pub(crate) async fn listen(settings: &Settings, now: base::Timestamp) -> Result<Vec<Listening>, EtcdError> {
    let tls = settings.tls.as_ref().map(|tls| ServerTls::new(tls, now)).transpose()?;
    let mut listeners: Vec<Listening> = Vec::new();
    for (url, traffic) in &settings.listeners {
        // One port may be named for TLS and for none: the first byte tells which a client speaks.
        let same = |(urls, _, options): &&mut Listening| urls[0].place == url.place && options.traffic == *traffic;
        if let Some((urls, _, options)) = listeners.iter_mut().find(same).filter(|_| !url.is_of_any_port()) {
            urls.push(url.clone());
            options.plain_too = urls.iter().any(|url| !url.tls);
            options.tls = tls.clone().filter(|_| urls.iter().any(|url| url.tls));
            continue;
        }
        let bound = Listener::bind(url, settings.reuse_port).await;
        let bound = bound.map_err(|error| storage(&format!("listening on {}", url.text), error))?;
        let tls = tls.clone().filter(|_| url.tls);
        listeners.push((vec![url.clone()], bound, ServeOptions { traffic: *traffic, tls, ..settings.options.clone() }));
    }
    Ok(listeners)
}

/// A listener of the client port: its URLs, and how it serves.
pub(crate) type Listening = (Vec<Url>, Listener, ServeOptions);

/// Tells that a listener serves from now on, in the lines that harnesses wait for.
fn ready(member: &Member, urls: &[Url], options: &ServeOptions) {
    let (local_member_id, local_member_name) = (format!("{:x}", member.id()), member.name());
    tracing::info!(
        target: "etcd",
        local_member_id,
        local_member_name,
        "published local member to cluster through raft"
    );
    tracing::info!(target: "etcd", "ready to serve client requests");
    let traffic = match options.traffic {
        Traffic::All => "grpc+http",
        Traffic::Grpc => "grpc",
        Traffic::Http => "http",
        Traffic::Metrics => "metrics",
    };
    for url in urls {
        let address = url.address();
        if url.tls {
            tracing::info!(target: "etcd", traffic, address, "serving client traffic securely");
        } else {
            let what = "serving client traffic insecurely; this is strongly discouraged!";
            tracing::warn!(target: "etcd", traffic, address, "{what}");
        }
    }
}

/// The first of this member's peer addresses that is one of this machine in the network: where calls to other members
/// come from, if that is wanted (the gate `SetMemberLocalAddr`).
pub(crate) fn local_address(flags: &Flags) -> Option<IpAddr> {
    let urls = flags.list("initial-advertise-peer-urls");
    let address = |url: &String| match Url::parse(url).ok()?.place {
        Place::Tcp(host, _) => host.parse::<IpAddr>().ok(),
        Place::Unix(_) => None,
    };
    urls.iter().filter_map(address).find(|address| !address.is_loopback() && !address.is_unspecified())
}

pub(crate) fn peer_urls(flags: &Flags) -> Result<Vec<Url>, EtcdError> {
    let mut urls = flags.list("listen-peer-urls");
    // One that is named twice is opened once, as etcd does.
    urls.sort_unstable();
    urls.dedup();
    urls.iter().map(|url| Url::parse(url).map_err(EtcdError::Damaged)).collect()
}

pub(crate) fn hosts(urls: &[Url]) -> Vec<String> {
    let host = |url: &Url| match &url.place {
        Place::Tcp(host, _) => Some(host.clone()),
        Place::Unix(_) => None,
    };
    urls.iter().filter_map(host).collect()
}

/// Opens every listener of the peer port, each with whether it does TLS.
pub(crate) async fn listen_to_peers(urls: Vec<Url>, tls: Option<&PeerTls>) -> Result<Vec<(Listener, bool)>, EtcdError> {
    let mut listeners = Vec::new();
    for url in urls {
        match (url.tls, tls) {
            (true, None) => {
                let what = "KeyFile and CertFile are not presented";
                return Err(EtcdError::Damaged(format!("cannot listen on TLS for {}: {what}", url.address())));
            }
            (false, Some(_)) => tracing::warn!(
                target: "etcd",
                peer_url = url.text,
                "scheme is HTTP while key and cert files are present; ignoring key and cert files"
            ),
            _ => {}
        }
        let bound = Listener::bind(&url, false).await;
        let bound = bound.map_err(|error| storage(&format!("listening on {}", url.text), error))?;
        listeners.push((bound, url.tls));
    }
    Ok(listeners)
}

/// What serves a port until it is told to stop.
pub(crate) type Serving = JoinSet<Result<(), EtcdError>>;

/// Serves other members on every listener until `stopped` turns true.
pub(crate) fn serve_peers(
    serving: &mut Serving,
    member: &Arc<Member>,
    listeners: Vec<(Listener, bool)>,
    tls: Option<&PeerTls>,
    stopped: &watch::Receiver<bool>,
) {
    let binding = tls.map_or(Binding::Unasked, |tls| tls.binding);
    for (listener, wants_tls) in listeners {
        let (member, mut stopped) = (member.clone(), stopped.clone());
        let tls = tls.filter(|_| wants_tls).map(|tls| tls.server.clone());
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        serving.spawn(async move { member.serve_peers_on(listener, tls, binding, shutdown).await });
    }
}

/// Serves clients on every listener until `stopped` turns true; but for metrics not before the member has joined its
/// cluster.
pub(crate) fn serve_clients(
    serving: &mut Serving,
    member: &Arc<Member>,
    listeners: Vec<Listening>,
    stopped: &watch::Receiver<bool>,
) {
    for (urls, listener, options) in listeners {
        let (member, mut stopped) = (member.clone(), stopped.clone());
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        serving.spawn(async move {
            tokio::pin!(shutdown);
            if options.traffic != Traffic::Metrics {
                tokio::select! {
                    () = member.shared.joined() => ready(&member, &urls, &options),
                    () = &mut shutdown => return Ok(()),
                }
            }
            member.serve(listener, options, shutdown).await
        });
    }
}
