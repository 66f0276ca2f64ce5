//! What the handles of a member share: the published state, the inbox of the state thread, limits and counters.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use arc_swap::ArcSwap;
use base::{Clock, Entropy};
use bytes::Bytes;
use mvcc::{Caller, Command, Response, Snapshot};
use tokio::sync::{oneshot, watch};

use raft::{LogIndex, MemberId};

use crate::StoreError;
use crate::answers::Delivery;
use crate::auth::Authenticator;
use crate::calls::Calls;
use crate::checkpoint::Restored;
use crate::engine::Turns;
use crate::hub::Hub;
use crate::members::{Change, Members};
use crate::metrics::{Histogram, Metrics};
use crate::peers::Peers;

/// Proposals that may wait at once (etcd: the gap between commit and apply).
pub(crate) const PENDING_MAX: usize = 5000;

/// Commands that take longer to apply are counted and told (etcd's `--warning-apply-duration`).
const APPLY_TIME_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// The state as readers see it, swapped by the state thread before it answers a write.
pub(crate) struct Published {
    pub(crate) snapshot: Snapshot,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) raft_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) members: Arc<Members>,
    /// The only voter: its state is as new as anybody's.
    pub(crate) alone: bool,
    /// This member has no vote.
    pub(crate) learner: bool,
}

/// Answer to a proposal, with the store as it was then.
pub(crate) type Answer = Result<Response, StoreError>;

/// What the state thread is asked.
pub(crate) enum Message {
    /// Replicate and apply a command.
    Propose {
        caller: Caller,
        command: Command,
        /// The form of both in the log.
        data: Bytes,
        /// For compactions: answer only when the rows are gone.
        physical: bool,
        reply: oneshot::Sender<Answer>,
    },
    /// Renew a lease; 0 when there is none. The leader's business.
    Renew { id: i64, reply: oneshot::Sender<Result<i64, StoreError>> },
    /// Answer when local state is as new as what anybody was told before.
    Read { reply: oneshot::Sender<Result<(), StoreError>> },
    /// Change who takes part. The leader's business.
    ChangeMembers { change: Change, reply: oneshot::Sender<Result<(), StoreError>> },
    /// Hand leadership over to this member, or refuse.
    MoveLeader { to: MemberId, reply: oneshot::Sender<Result<(), StoreError>> },
    /// Another member says something.
    Peer { from: MemberId, message: raft::Message },
    /// Another member sent its state; the answer is whether it was taken in.
    Snapshot { from: MemberId, message: raft::Message, restored: Box<Restored>, reply: oneshot::Sender<bool> },
    /// The state was sent as of an index, or was not.
    SnapshotSent(MemberId, Option<LogIndex>),
    /// A member cannot be reached.
    Unreachable(MemberId),
    /// The others say that this member was removed.
    Removed,
    /// Give back unused space.
    Defragment { reply: oneshot::Sender<()> },
    /// Seal everything on disk anew with this key; each is told when its part is done, false when it could not be.
    Reseal { key: disk::DataKey, journal: oneshot::Sender<bool>, view: oneshot::Sender<bool> },
    /// A checkpoint up to this index is durable, or failed.
    Checkpointed(Result<u64, crate::EtcdError>),
    /// Look at the clock again.
    Wake,
    /// Finish what is pending and end.
    Stop,
}

/// Limits of a member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) quota_bytes: i64,
    pub(crate) request_bytes_max: usize,
    pub(crate) txn_ops_max: usize,
    pub(crate) lease_ttl_min: i64,
    pub(crate) election_timeout: std::time::Duration,
}

impl Limits {
    /// What was not answered after this time is given up (etcd's `ReqTimeout`): 5 s for everything else and two election
    /// time-outs for a change of leader.
    pub(crate) fn request_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_secs(5) + 2 * self.election_timeout
    }
}

/// What the handles of a member share.
pub(crate) struct Shared {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) name: String,
    pub(crate) client_urls: Mutex<Vec<String>>,
    /// The way to the other members, if there can be others.
    pub(crate) peers: Option<Peers>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) hub: Mutex<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) auth: Authenticator,
    pub(crate) calls: Arc<Calls>,
    /// The leader as published, for those who wait for it to be lost or found.
    pub(crate) leader: watch::Sender<u64>,
    /// Counts publications with another table of members.
    members_changed: watch::Sender<u64>,
    pub(crate) pending: AtomicUsize,
    pub(crate) delivery: Delivery,
    pub(crate) turns: Turns,
    pub(crate) stopped: AtomicBool,
    /// Turns true when the state thread is gone.
    pub(crate) ended: watch::Sender<bool>,
    /// The member was removed from its cluster.
    pub(crate) removed: AtomicBool,
    pub(crate) watch_progress_interval: std::time::Duration,
    /// Counts requests for progress on local watches.
    pub(crate) progress_asked: AtomicU64,
    state: ArcSwap<Published>,
    inbox: mpsc::Sender<Message>,
}

impl Shared {
    pub(crate) fn new(identity: Identity, limits: Limits, published: Published, inbox: mpsc::Sender<Message>) -> Self {
        Self {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            name: identity.name,
            client_urls: Mutex::new(identity.client_urls),
            peers: identity.peers,
            limits,
            clock: identity.clock,
            entropy: identity.entropy,
            hub: Mutex::new(Hub::new(published.snapshot.revision())),
            metrics: Metrics { commits: identity.commits, ..Metrics::default() },
            auth: identity.auth,
            calls: Arc::default(),
            leader: watch::Sender::new(published.leader),
            members_changed: watch::Sender::new(0),
            pending: AtomicUsize::new(0),
            delivery: Delivery::default(),
            turns: Turns::default(),
            stopped: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            removed: AtomicBool::new(false),
            watch_progress_interval: identity.watch_progress_interval,
            progress_asked: AtomicU64::new(0),
            state: ArcSwap::from_pointee(published),
            inbox,
        }
    }

    pub(crate) fn published(&self) -> Arc<Published> {
        self.state.load_full()
    }

    pub(crate) fn publish(&self, published: Published) {
        let (leader, members) = (published.leader, published.members.clone());
        let before = self.state.swap(Arc::new(published));
        self.leader.send_if_modified(|told| std::mem::replace(told, leader) != leader);
        if !Arc::ptr_eq(&before.members, &members) {
            self.members_changed.send_modify(|count| *count += 1);
        }
    }

    /// Completes when the cluster has a leader and knows this member's name and URLs: before, etcd serves no client. Never
    /// completes in a member that ends before.
    pub(crate) async fn joined(&self) {
        let mut leader = self.leader.subscribe();
        let mut members = self.members_changed.subscribe();
        loop {
            let published = self.published();
            let known = published.members.get(self.member_id).is_some_and(|me| me.name == self.name);
            if known && published.leader != 0 {
                return;
            }
            let changed = tokio::select! {
                changed = leader.changed() => changed,
                changed = members.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Completes when this member's table of members shows a change.
    pub(crate) async fn shown(&self, change: &Change) {
        let mut changed = self.members_changed.subscribe();
        while !self.published().members.show(change) {
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// A command took so long to apply.
    pub(crate) fn applied_in(&self, took: std::time::Duration) {
        if took > APPLY_TIME_MAX {
            self.metrics.slow_applies.add(1);
            tracing::warn!(target: "etcd", ?took, "apply request took too long");
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn send(&self, message: Message) -> Result<(), StoreError> {
        self.inbox.send(message).map_err(|_| StoreError::Stopped)
    }
}

/// Who a member is, and how it tells who others are.
pub(crate) struct Identity {
    pub(crate) auth: Authenticator,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) name: String,
    pub(crate) client_urls: Vec<String>,
    pub(crate) peers: Option<Peers>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) watch_progress_interval: std::time::Duration,
    /// How long the view takes for its batches.
    pub(crate) commits: Arc<Histogram>,
}
