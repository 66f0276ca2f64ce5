//! The other members: lines that carry consensus to them, questions to the leader, snapshots.
//!
//! ```text
//! state thread ── send ──► line (bounded queue) ── dialer task ──► member 2      one line for each other member,
//!              ◄─ inbox ── listener task ◄──────────────────────── member 2      kept up by its dialer
//! ```
//! A line never blocks the state thread: what does not fit its queue is dropped, as on a network, and consensus is told.

mod accept;
mod counts;
mod dial;
pub(crate) mod hashkv;
pub(crate) mod identity;
mod snapshot;
pub(crate) mod tls;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use base::Clock;
use bytes::Bytes;
use raft::MemberId;
use tokio::sync::{Notify, mpsc as queue, oneshot, watch};

use crate::StoreError;
use crate::hub::lock;
use crate::members::Members;
use crate::proto as pb;
use crate::shared::Message;
use counts::CountsByMember;
use wire::Frame;

pub use dial::{Joined, inquire};

/// Bytes that may wait for one member.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// How a member reaches the others.
#[derive(Clone)]
pub struct PeerNetwork {
    /// Runs the connections.
    pub runtime: tokio::runtime::Handle,
    /// Shows this member's certificate and judges the others', for `https://` URLs.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The address connections come from; the system chooses without one.
    pub source: Option<IpAddr>,
}

/// A handle on the connections to the other members.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Inner>);

struct Inner {
    cluster_id: u64,
    member_id: MemberId,
    name: String,
    network: PeerNetwork,
    clock: Clock,
    inbox: mpsc::Sender<Message>,
    members: watch::Sender<Arc<Members>>,
    lines: Mutex<BTreeMap<MemberId, Line>>,
    pending: Mutex<BTreeMap<u64, oneshot::Sender<pb::PeerReply>>>,
    next_request: AtomicU64,
    counts: CountsByMember,
}

/// The way to one member.
struct Line {
    queue: queue::UnboundedSender<Bytes>,
    state: Arc<LineState>,
}

/// What the line's dialer and its users share.
#[derive(Default)]
struct LineState {
    urls: Mutex<Vec<String>>,
    queued: AtomicUsize,
    /// Since when it has been connected, on the monotonic clock.
    connected: Mutex<Option<Duration>>,
    /// The member was heard of: try again now.
    poke: Notify,
}

impl Peers {
    pub(crate) fn new(
        (cluster_id, member_id, name): (u64, MemberId, String),
        network: PeerNetwork,
        clock: Clock,
        inbox: mpsc::Sender<Message>,
    ) -> Self {
        Self(Arc::new(Inner {
            cluster_id,
            member_id,
            name,
            network,
            clock,
            inbox,
            members: watch::Sender::new(Arc::new(Members::default())),
            lines: Mutex::default(),
            pending: Mutex::default(),
            next_request: AtomicU64::new(1),
            counts: CountsByMember::default(),
        }))
    }

    /// Lines go to the members of the table; those of removed members end.
    pub(crate) fn set_members(&self, members: &Arc<Members>) {
        for member in members.list() {
            self.learn(member.id, member.peer_ur_ls);
        }
        lock(&self.0.lines).retain(|id, _| !members.is_removed(*id));
        self.0.members.send_replace(members.clone());
    }

    /// Keeps a line to a member at these URLs.
    pub(crate) fn learn(&self, id: MemberId, urls: Vec<String>) {
        if id == self.0.member_id || urls.is_empty() || self.0.members.borrow().is_removed(id) {
            return;
        }
        let mut lines = lock(&self.0.lines);
        if let Some(line) = lines.get(&id) {
            *lock(&line.state.urls) = urls;
            return;
        }
        let state = Arc::new(LineState { urls: Mutex::new(urls), ..LineState::default() });
        let (queue, frames) = queue::unbounded_channel();
        self.0.network.runtime.spawn(dial::run(Arc::downgrade(&self.0), id, state.clone(), frames));
        lines.insert(id, Line { queue, state });
    }

    /// Sends a message of consensus, or drops it.
    pub(crate) fn send(&self, to: MemberId, message: raft::Message) {
        if !self.push(to, &Frame::Raft(message)) {
            self.0.counts.of(to).send_failures.add(1);
            let _ = self.0.inbox.send(Message::Unreachable(to));
        }
    }

    fn push(&self, to: MemberId, frame: &Frame) -> bool {
        let lines = lock(&self.0.lines);
        let Some(line) = lines.get(&to) else { return false };
        let bytes = frame.encode();
        if line.state.queued.load(Ordering::Relaxed) + bytes.len() > QUEUE_BYTES_MAX {
            return false;
        }
        line.state.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        line.queue.send(bytes).is_ok()
    }

    /// Asks a member something; the caller bounds the time.
    ///
    /// # Errors
    /// What the member refuses with, or that it cannot be reached.
    pub(crate) async fn ask(
        &self,
        to: MemberId,
        ask: pb::peer_request::Ask,
    ) -> Result<pb::peer_reply::Answer, StoreError> {
        let id = self.0.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        lock(&self.0.pending).insert(id, sender);
        let _forget = Forget(&self.0, id);
        if self.connected_for(to).is_none() || !self.push(to, &Frame::Request(pb::PeerRequest { id, ask: Some(ask) })) {
            return Err(StoreError::NoLeader);
        }
        match reply.await {
            Ok(pb::PeerReply { answer: Some(pb::peer_reply::Answer::Refusal(refusal)), .. }) => {
                let no_leader = StoreError::NoLeader;
                // Who was asked may have lost the lead meanwhile.
                Err(match refusal.message == no_leader.to_string() {
                    true => no_leader,
                    false => StoreError::Remote { code: refusal.code, message: refusal.message },
                })
            }
            Ok(pb::PeerReply { answer: Some(answer), .. }) => Ok(answer),
            _ => Err(StoreError::Timeout),
        }
    }

    /// How long a member has been connected without a break; nothing when it is not.
    pub(crate) fn connected_for(&self, id: MemberId) -> Option<Duration> {
        let since = lock(&self.0.lines).get(&id).and_then(|line| *lock(&line.state.connected))?;
        Some(self.0.clock.monotonic().saturating_sub(since))
    }

    /// Ends all lines after what waits in them was sent.
    pub(crate) fn close(&self) {
        lock(&self.0.lines).clear();
    }
}

impl Inner {
    fn answered(&self, reply: pb::PeerReply) {
        if let Some(waiting) = lock(&self.pending).remove(&reply.id) {
            let _ = waiting.send(reply);
        }
    }

    fn hello(&self, to: MemberId, purpose: pb::peer_hello::Purpose) -> pb::PeerHello {
        let urls = self.members.borrow().get(self.member_id).map(|me| me.peer_ur_ls.clone());
        pb::PeerHello {
            purpose: purpose.into(),
            cluster_id: self.cluster_id,
            from: self.member_id,
            to,
            peer_urls: urls.unwrap_or_default(),
            name: self.name.clone(),
        }
    }
}

/// Forgets a question when its asker is gone.
struct Forget<'a>(&'a Inner, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.pending).remove(&self.1);
    }
}
