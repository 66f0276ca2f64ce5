//! The one owner of a cluster's endpoints: accepts, decides by source address before TLS, passes the socket on.
//!
//! ```text
//! external ─┬─ accept ─► Gate ─┬─ let in ──► a ready instance (the socket itself)
//! internal ─┘                  └─ denied ──► held in silence, or reset; a line in the log
//! DNS ──────── accept ─► front end: TLS, who, IAM ──► the internal endpoint
//! ```
//! The accepted socket itself travels to the instance, so TLS and the caller's address stay end to end, and an instance
//! that dies costs only its own connections: while none is ready, callers wait in the kernel's queue. Rules change under
//! open listeners; connections that were let in before stay.

mod denial;
pub(crate) mod front_end;
mod places;
mod public_root;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use arc_swap::ArcSwap;
use base::Clock;
use gke::EndpointSettings;
use gke::exposure::{Endpoint, Place, Reason, decide};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::channel::Channel;
use crate::fleet::message::ToInstance;

use denial::Lines;
pub(crate) use denial::{Denials, EndpointDeny};
use places::MANAGEMENT;
pub(crate) use places::{LEGEND, Places};
pub(crate) use public_root::PublicRoot;

/// Where accepted connections go.
#[derive(Clone)]
pub(crate) enum Delivery {
    /// To another process.
    Process(Arc<Channel>),
    /// To a task of this process.
    InProcess(mpsc::Sender<TcpStream>),
}

/// What all clusters' edges share.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) places: Arc<Places>,
    pub(crate) denials: Arc<Denials>,
    pub(crate) clock: Clock,
}

/// Decides for the endpoints of one cluster.
pub(crate) struct Gate {
    /// Id and name.
    cluster: (String, String),
    settings: ArcSwap<EndpointSettings>,
    /// Everybody shares one address: the port tells who is in the network.
    by_port: AtomicBool,
    ground: Ground,
    denied: AtomicU64,
    lines: Mutex<Lines>,
}

impl Gate {
    pub(crate) fn new(id: &str, name: &str, settings: EndpointSettings, ground: Ground) -> Self {
        Self {
            cluster: (id.to_owned(), name.to_owned()),
            settings: ArcSwap::from_pointee(settings),
            by_port: AtomicBool::new(false),
            ground,
            denied: AtomicU64::new(0),
            lines: Mutex::default(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<EndpointSettings> {
        self.settings.load_full()
    }

    /// Other rules from the next connection on.
    pub(crate) fn set(&self, settings: EndpointSettings) {
        info!(cluster = self.cluster.1, ?settings, "the endpoints' rules have changed");
        self.settings.store(Arc::new(settings));
    }

    /// These are the cluster's nodes now; `internal` is where they find the control plane.
    pub(crate) fn set_nodes(&self, internal: IpAddr, nodes: &[IpAddr]) {
        let shared = |ip: &IpAddr| *ip == IpAddr::from([127, 0, 0, 1]);
        self.by_port.store(shared(&internal) || nodes.iter().any(shared), Ordering::Relaxed);
        let network = &self.settings.load().network;
        self.ground.places.set_nodes(&self.cluster.0, network, nodes.iter().copied());
    }

    /// The cluster is gone, and its nodes with it.
    pub(crate) fn close(&self) {
        self.ground.places.set_nodes(&self.cluster.0, "", std::iter::empty());
    }

    pub(crate) fn is_by_port(&self) -> bool {
        self.by_port.load(Ordering::Relaxed)
    }

    /// Connections that were not let in since the start.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// Is a caller from there let in?
    pub(crate) fn decide(&self, endpoint: Endpoint, source: IpAddr) -> (Place, Reason) {
        let settings = self.settings.load();
        let place = self.ground.places.of(source, endpoint, &settings.network, self.is_by_port());
        (place, decide(&settings, endpoint, source, place))
    }

    /// Gives a connection back that is let in, and takes the others out of sight.
    pub(crate) fn admit(
        &self,
        endpoint: Endpoint,
        stream: tokio::net::TcpStream,
        remote: SocketAddr,
    ) -> Option<tokio::net::TcpStream> {
        let (place, reason) = self.decide(endpoint, remote.ip());
        if reason.allows() {
            return Some(stream);
        }
        if let Some(left_out) = self.count_refusal() {
            let endpoint = endpoint.name();
            info!(cluster = self.cluster.1, endpoint, %remote, ?place, left_out, "a connection is not let in: {reason}");
        }
        self.ground.denials.take(stream);
        None
    }

    /// Counts and logs a request that the front end refused.
    pub(crate) fn note_refusal(&self, endpoint: Endpoint, source: IpAddr, why: &str) {
        if let Some(left_out) = self.count_refusal() {
            let endpoint = endpoint.name();
            info!(cluster = self.cluster.1, endpoint, %source, left_out, "a request is not let in: {why}");
        }
    }

    /// How many lines were left out before this refusal's, if it is to have one.
    fn count_refusal(&self) -> Option<u64> {
        self.denied.fetch_add(1, Ordering::Relaxed);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(self.ground.clock.monotonic())
    }
}

/// Serves one endpoint until the sender of `instances` is gone: each connection that is let in goes to the next of those
/// that are ready.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(
    listener: TcpListener,
    endpoint: Endpoint,
    gate: Arc<Gate>,
    mut instances: watch::Receiver<Vec<Delivery>>,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut turn = 0_usize;
    loop {
        let Ok(ready) = instances.wait_for(|ready| !ready.is_empty()).await.map(|ready| ready.clone()) else {
            return Ok(());
        };
        turn = turn.wrapping_add(1);
        let delivery = &ready[turn % ready.len()];
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = instances.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        match accepted {
            Ok((stream, remote)) => {
                if let Some(stream) = gate.admit(endpoint, stream, remote) {
                    pass_on(delivery, stream, remote).await;
                }
            }
            // Out of descriptors, or the caller is gone already: neither ends the endpoint.
            Err(error) => warn!(%error, "cannot accept a connection"),
        }
    }
}

/// Connects as Google does who manages the control planes, where this machine has that address.
///
/// # Errors
/// When nobody listens there.
pub(crate) async fn connect_as_management(address: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let Some(source) = management_source(address) else { return tokio::net::TcpStream::connect(address).await };
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(address).await
}

/// Google's address towards a control plane that has an alias of its own; where it has none the port tells enough.
pub(crate) fn management_source(address: SocketAddr) -> Option<IpAddr> {
    let SocketAddr::V4(to) = address else { return None };
    (to.ip().is_loopback() && *to.ip() != Ipv4Addr::LOCALHOST).then_some(IpAddr::V4(MANAGEMENT))
}

async fn pass_on(delivery: &Delivery, stream: tokio::net::TcpStream, remote: SocketAddr) {
    let Ok(stream) = stream.into_std() else { return };
    let sent = match delivery {
        Delivery::Process(channel) => {
            channel.send(&ToInstance::Connection, &[stream.into()]).await.map_err(|e| e.to_string())
        }
        Delivery::InProcess(sender) => sender.send(stream).await.map_err(|e| e.to_string()),
    };
    if let Err(error) = sent {
        info!(%remote, error, "the instance went away before it could take a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Ground {
        Ground {
            places: Arc::default(),
            denials: Arc::new(Denials::new(EndpointDeny::Drop)),
            clock: crate::system::clock(),
        }
    }

    #[test]
    fn rules_and_nodes_count_from_the_next_connection_on() {
        let gate = Gate::new("id", "demo", EndpointSettings::default(), ground());
        let (internal, node) = (IpAddr::from([127, 5, 5, 5]), IpAddr::from([127, 6, 6, 6]));
        gate.set_nodes(internal, &[node]);
        let lets = |endpoint, ip: [u8; 4]| gate.decide(endpoint, ip.into()).1.allows();
        assert!(lets(Endpoint::External, [127, 0, 0, 1]) && !lets(Endpoint::Internal, [127, 0, 0, 1]));
        gate.set(EndpointSettings { public_endpoint: false, ..EndpointSettings::default() });
        assert!(!lets(Endpoint::External, [127, 0, 0, 1]) && !lets(Endpoint::External, [127, 6, 6, 6]));
        assert!(lets(Endpoint::Internal, [127, 6, 6, 6]));
        gate.set_nodes(internal, &[]);
        assert!(!lets(Endpoint::Internal, [127, 6, 6, 6]), "a node that is gone");
        gate.set_nodes([127, 0, 0, 1].into(), &[[127, 0, 0, 1].into()]);
        assert!(lets(Endpoint::Internal, [127, 0, 0, 1]) && gate.is_by_port());
    }
}
