//! The calling side: keeps a line to a member up, and asks a cluster who its members are.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft::MemberId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_rustls::TlsConnector;

use super::tls::in_words;
use super::wire::{PREFACE, read_greeting, write_greeting};
use super::{Inner, LineState, PeerNetwork, Peers, identity};
use crate::EtcdError;
use crate::connector::Wire;
use crate::hub::lock;
use crate::listen::{Place, Url};
use crate::members::Members;
use crate::proto as pb;
use crate::shared::Message;
use pb::peer_hello::Purpose;
use pb::peer_welcome::Verdict;

/// A connection must stand, greetings included, in this time; then another is tried. What came in between may be there
/// still and answer nobody, so this is how long a member can be kept from another after the way is clear again (etcd: a
/// second and an election time-out).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between attempts, shortest and longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Frames joined into one write.
const WRITE_BYTES: usize = 256 << 10;
/// A connected member is pinged this often, for the round-trip time (etcd: 10 s).
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Why a line does not stand.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{}", in_words(.0))]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Verdict(String),
    #[error("this member was removed from the cluster")]
    Removed,
}

/// Keeps a line up until its queue is dropped.
pub(super) async fn run(inner: Weak<Inner>, id: MemberId, state: Arc<LineState>, mut frames: UnboundedReceiver<Bytes>) {
    let mut retry = RETRY_MIN;
    let mut told = String::new();
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let urls = lock(&state.urls).clone();
        let hello = strong.hello(id, Purpose::Stream);
        let network = strong.network.clone();
        drop(strong);
        let connected = connect(&network, &urls, &hello).await;
        let Some(strong) = inner.upgrade() else { return };
        match connected {
            Ok((stream, _)) => {
                tracing::info!(target: "etcd", member = %format_args!("{id:x}"), "connected to a member");
                told.clear();
                retry = RETRY_MIN;
                *lock(&state.connected) = Some(strong.clock.monotonic());
                let ended = pump(&strong, id, &state, stream, &mut frames).await;
                *lock(&state.connected) = None;
                if ended {
                    return;
                }
                strong.counts.of(id).disconnections.add(1);
                tracing::warn!(target: "etcd", member = %format_args!("{id:x}"), "lost the connection to a member");
            }
            Err(Refused::Removed) => {
                let _ = strong.inbox.send(Message::Removed);
            }
            Err(error) => {
                let reason = error.to_string();
                if reason != told {
                    let member = format_args!("{id:x}");
                    tracing::warn!(target: "etcd", %member, ?urls, reason, "cannot reach a member");
                    told = reason;
                }
            }
        }
        // What was said meanwhile is stale; consensus says it again.
        let counts = strong.counts.of(id);
        while let Ok(frame) = frames.try_recv() {
            state.queued.fetch_sub(frame.len(), Ordering::Relaxed);
            counts.send_failures.add(1);
        }
        if frames.is_closed() {
            return;
        }
        let _ = strong.inbox.send(Message::Unreachable(id));
        drop(strong);
        let _ = tokio::time::timeout(retry, state.poke.notified()).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Writes what is queued. Returns true when the line is not needed any more, false when the connection broke.
async fn pump(
    inner: &Arc<Inner>,
    id: MemberId,
    state: &LineState,
    stream: Box<dyn Wire>,
    frames: &mut UnboundedReceiver<Bytes>,
) -> bool {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    let counts = inner.counts.of(id);
    let mut nothing = [0_u8; 1];
    let mut ping = tokio::time::interval(PING_INTERVAL);
    loop {
        tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else {
                    let _ = write.shutdown().await;
                    return true;
                };
                buffer.extend_from_slice(&frame);
                while buffer.len() < WRITE_BYTES && let Ok(frame) = frames.try_recv() {
                    buffer.extend_from_slice(&frame);
                }
                let written = write.write_all(&buffer).await;
                state.queued.fetch_sub(buffer.len(), Ordering::Relaxed);
                counts.sent_bytes.add(buffer.len() as u64);
                buffer.clear();
                if written.is_err() || write.flush().await.is_err() {
                    return false;
                }
            }
            // The other side says nothing on this connection: whatever comes is its end.
            _ = read.read(&mut nothing) => return false,
            _ = ping.tick() => ping_once(inner, id),
        }
    }
}

/// Measures the way to a member and back; the answer comes by the other direction's line.
fn ping_once(inner: &Arc<Inner>, id: MemberId) {
    let peers = Peers(inner.clone());
    inner.network.runtime.spawn(async move {
        let start = peers.0.clock.monotonic();
        let asked = tokio::time::timeout(PING_INTERVAL, peers.ask(id, pb::peer_request::Ask::Ping(true))).await;
        if matches!(asked, Ok(Ok(_))) {
            peers.0.counts.of(id).round_trips.observe(peers.0.clock.monotonic().saturating_sub(start));
        }
    });
}

/// Calls a member at the first of its URLs that answers, and greets it.
async fn connect(
    network: &PeerNetwork,
    urls: &[String],
    hello: &pb::PeerHello,
) -> Result<(Box<dyn Wire>, pb::PeerWelcome), Refused> {
    let mut last = Refused::Verdict("the member has no peer URL".to_owned());
    for url in urls {
        match tokio::time::timeout(CONNECT_TIMEOUT, greet(network, url, hello)).await {
            Ok(Ok(greeted)) => return Ok(greeted),
            Ok(Err(Refused::Removed)) => return Err(Refused::Removed),
            Ok(Err(error)) => last = error,
            Err(_) => last = Refused::Timeout,
        }
    }
    Err(last)
}

async fn greet(
    network: &PeerNetwork,
    url: &str,
    hello: &pb::PeerHello,
) -> Result<(Box<dyn Wire>, pb::PeerWelcome), Refused> {
    let mut stream = open(network, url).await?;
    stream.write_all(PREFACE).await?;
    write_greeting(&mut stream, hello).await?;
    let welcome: pb::PeerWelcome = read_greeting(&mut stream).await?;
    match Verdict::try_from(welcome.verdict) {
        Ok(Verdict::Welcome) => Ok((stream, welcome)),
        Ok(Verdict::Removed) => Err(Refused::Removed),
        _ => Err(Refused::Verdict(welcome.reason)),
    }
}

pub(super) async fn open(network: &PeerNetwork, url: &str) -> io::Result<Box<dyn Wire>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let Url { tls, place, .. } = Url::parse(url).map_err(invalid)?;
    let stream: Box<dyn Wire> = match place {
        Place::Tcp(host, port) => {
            let stream = dial(network, &host, port).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    if !tls {
        return Ok(stream);
    }
    let config = network.tls.clone().ok_or_else(|| invalid(format!("{url} wants TLS, which is not set up here")))?;
    let name = identity::server_name(url).ok_or_else(|| invalid(format!("{url} names no host")))?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

async fn dial(network: &PeerNetwork, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = network.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
            socket.bind((source, 0).into())?;
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection on which a snapshot can be sent.
pub(super) async fn snapshot_line(inner: &Inner, to: MemberId) -> io::Result<Box<dyn Wire>> {
    let urls = lock(&inner.lines).get(&to).map(|line| lock(&line.state.urls).clone()).unwrap_or_default();
    let hello = inner.hello(to, Purpose::Snapshot);
    connect(&inner.network, &urls, &hello).await.map(|(stream, _)| stream).map_err(io::Error::other)
}

/// What a running cluster says about itself to a member that is to join it.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: u64,
    /// The id it knows the asker by.
    pub member_id: u64,
    pub(crate) members: Members,
}

/// Asks the members of a running cluster who they are, and finds the one with these peer URLs: the asker, which must
/// have been added before (`--initial-cluster-state existing`).
///
/// # Errors
/// When no member answers, or none of the cluster has these URLs.
pub async fn inquire(
    network: &PeerNetwork,
    name: &str,
    own: &[String],
    others: &[Vec<String>],
) -> Result<Joined, EtcdError> {
    let hello = pb::PeerHello {
        purpose: Purpose::Inquire.into(),
        peer_urls: own.to_vec(),
        name: name.to_owned(),
        ..pb::PeerHello::default()
    };
    let mut last = "there is no other member in --initial-cluster".to_owned();
    for urls in others {
        let welcome = match connect(network, urls, &hello).await {
            Ok((_, welcome)) => welcome,
            Err(error) => {
                last = format!("{}: {error}", urls.join(","));
                continue;
            }
        };
        let members = Members::from(welcome.members.unwrap_or_default());
        let same = |member: &pb::Member| member.peer_ur_ls.iter().any(|url| own.contains(url));
        let Some(me) = members.list().into_iter().find(same) else {
            return Err(EtcdError::Join(format!("{} is not among its members; add it first", own.join(","))));
        };
        return Ok(Joined { cluster_id: welcome.cluster_id, member_id: me.id, members });
    }
    Err(EtcdError::Join(format!("cannot fetch cluster info from peer urls: {last}")))
}
