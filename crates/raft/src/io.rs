//! What goes into the state machine and what comes out.

use bytes::Bytes;

use crate::membership::{Membership, MembershipChange};
use crate::message::{Message, Snapshot};
use crate::types::{Entry, HardState, LogIndex, MemberId, Term};

/// How a member behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's id.
    pub id: MemberId,
    /// Ticks without a leader before an election; the real time-out is drawn from `election_ticks..2*election_ticks`.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// Ask before campaigning, so that a returning member does not depose a leader (dissertation §9.6).
    pub pre_vote: bool,
    /// A leader that a majority does not answer steps down; followers of a live leader do not vote (§6.2).
    pub check_quorum: bool,
    /// Seeds the election time-outs.
    pub seed: u64,
    /// Messages with entries under way to one member at most.
    pub max_inflight_messages: usize,
    /// Bytes of entries in one message, except that one entry always goes.
    pub max_message_bytes: usize,
}

impl Config {
    /// The usual values for a member: 10 ticks to an election, a heartbeat each tick.
    pub fn new(id: MemberId, seed: u64) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            seed,
            max_inflight_messages: 256,
            max_message_bytes: 1 << 20,
        }
    }
}

/// What a member finds on its disk.
#[derive(Clone, Default, Debug)]
pub struct Restored {
    /// The last hard state written.
    pub hard_state: HardState,
    /// The members as of the snapshot (or as of `applied`: changes in `entries` may be replayed on top).
    pub members: Membership,
    /// Entries after the snapshot, without gaps.
    pub entries: Vec<Entry>,
    /// The last entry the checkpoint covers; zero without one.
    pub snapshot_index: LogIndex,
    /// Its term.
    pub snapshot_term: Term,
    /// Entries up to here are applied already and are not given out again.
    pub applied: LogIndex,
}

/// A client's proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The proposer's mark, unique while the proposal may be pending.
    pub context: u64,
    /// The content.
    pub data: Bytes,
}

/// What happens to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A unit of time has passed.
    Tick,
    /// A message arrived.
    Receive(MemberId, Message),
    /// A client proposes one entry.
    Propose {
        /// The proposer's mark.
        context: u64,
        /// The content.
        data: Bytes,
    },
    /// Clients propose several entries: one write, one message.
    ProposeBatch(Vec<Proposal>),
    /// An administrator changes the membership.
    ProposeMembership {
        /// The proposer's mark.
        context: u64,
        /// The change.
        change: MembershipChange,
        /// The driver's data about the member.
        data: Bytes,
    },
    /// A client wants to read linearizably: answered by [`Output::ReadReady`].
    ReadIndex {
        /// The asker's mark.
        context: u64,
    },
    /// The [`Output::Persist`] with this term and index, and all before it, are on disk.
    Synced {
        /// `Persist::term`.
        term: Term,
        /// `Persist::index`.
        index: LogIndex,
    },
    /// The driver has applied entries up to here. Gives nothing out.
    Applied(LogIndex),
    /// The leader should hand over to a voter.
    TransferLeader(MemberId),
    /// Campaign now, without waiting for a time-out.
    Campaign,
    /// A durable checkpoint covers entries up to here: forget them. Gives nothing out.
    Truncated(LogIndex),
    /// The snapshot asked for by [`Output::SendSnapshot`] was delivered as of an index, or was not (`None`).
    SnapshotSent(MemberId, Option<LogIndex>),
    /// The transport could not deliver to the member.
    Unreachable(MemberId),
}

/// What the driver has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Append to the log and sync; then answer with [`Input::Synced`] of the same term and index. Answering only the
    /// last of several is enough. An entry replaces the entry of the same index and all after it.
    Persist {
        /// The term at this moment (not that of the entries).
        term: Term,
        /// The last index of the log at this moment.
        index: LogIndex,
        /// To write if present.
        hard_state: Option<HardState>,
        /// To append.
        entries: Vec<Entry>,
    },
    /// Send a message.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
        /// Not before every `Persist` and `Restore` given out earlier is on disk.
        after_sync: bool,
    },
    /// Committed entries, in order, each exactly once.
    Apply(Vec<Entry>),
    /// Replace the state by the snapshot that came with [`crate::Body::Snapshot`], durably; the log starts after it.
    Restore(Snapshot),
    /// The read may be served once `index` is applied.
    ReadReady {
        /// The asker's mark.
        context: u64,
        /// The index to wait for.
        index: LogIndex,
    },
    /// A proposal or read of this member was not accepted.
    Refused {
        /// The proposer's mark.
        context: u64,
        /// Why.
        reason: Refusal,
    },
    /// The role, leader or term changed.
    Role {
        /// What this member is now.
        role: Role,
        /// Whom it follows (itself when leading).
        leader: Option<MemberId>,
        /// The term.
        term: Term,
    },
    /// Send the state as of the applied index with a [`crate::Body::Snapshot`], then report [`Input::SnapshotSent`].
    SendSnapshot {
        /// To whom.
        to: MemberId,
    },
}

/// What a member is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// Why a proposal or read was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no leader to take it.
    NoLeader,
    /// The leader is handing over.
    Transferring,
    /// Another change of membership is not committed yet, or the leader has not committed in its term yet.
    ChangePending,
    /// The change would leave no voter, or would add a second member at a time.
    InvalidChange,
    /// This member lost leadership before it could answer.
    LeadershipLost,
}
