//! What members say to one another.

use bytes::Bytes;

use crate::membership::Membership;
use crate::types::{Entry, EntryKind, LogIndex, Term};

/// A message between two members. The sender is known to the transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's term (for a pre-vote: the term it would campaign in).
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me? (dissertation §9.6)
    PreVote {
        /// The last entry of the sender's log.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
    },
    /// The answer to a pre-vote.
    PreVoteReply {
        /// Whether the vote would be given.
        granted: bool,
    },
    /// A candidate asks for a vote.
    Vote {
        /// The last entry of the sender's log.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// The leader itself asked for this election: do not wait for its lease to run out.
        transfer: bool,
    },
    /// The answer to a vote request.
    VoteReply {
        /// Whether the vote is given.
        granted: bool,
    },
    /// Entries from the leader, or none, to move the commit index.
    Append {
        /// The entry before the first one here.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// In order, without gaps.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The follower's log matches the leader's up to `index`, durably.
    Appended {
        /// The last matching entry.
        index: LogIndex,
    },
    /// The follower has no entry like the one before those that came.
    Rejected {
        /// `prev_index` of the refused message.
        index: LogIndex,
        /// The greatest index at which the logs may agree.
        hint_index: LogIndex,
        /// The follower's term at that index.
        hint_term: Term,
    },
    /// The leader is alive.
    Heartbeat {
        /// What the follower may regard as committed.
        commit: LogIndex,
        /// The latest round of linearizable reads.
        read: u64,
    },
    /// The follower still follows.
    HeartbeatReply {
        /// The round of the heartbeat.
        read: u64,
    },
    /// The log the follower needs is gone: the state as of an index takes its place. The driver carries the state.
    Snapshot(Snapshot),
    /// The leader hands over: campaign now.
    TimeoutNow,
    /// A follower passes a client's proposal to the leader.
    Propose {
        /// Normal or membership.
        kind: EntryKind,
        /// The proposer's mark.
        context: u64,
        /// The content.
        data: Bytes,
    },
    /// A follower asks for an index at which a read is linearizable.
    ReadIndex {
        /// The asker's mark.
        context: u64,
    },
    /// The leader's answer to [`Body::ReadIndex`].
    ReadIndexReply {
        /// The asker's mark.
        context: u64,
        /// Read once this is applied.
        index: LogIndex,
    },
}

/// The point a snapshot stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The last entry whose effect is in the snapshot.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The members as of that entry.
    pub members: Membership,
}
