//! Consensus by Raft (Ongaro's dissertation), with etcd's habits: pre-vote, check-quorum, learners, leader transfer,
//! read index, snapshots, one change of membership at a time.
//!
//! A pure state machine: no clock, disk, network or thread. The driver feeds inputs and does what comes out, in order:
//!
//! ```text
//!  Tick · Receive · Propose ─► Raft::step ─► Persist ─► disk ─► Synced ┐
//!            ▲                     ▲    └──► Send (some only after the sync) ─► other members
//!            └── other members     └───────────────────────────────────┘
//!                                       └──► Apply · ReadReady · Refused · Role ─► the driver's clients
//! ```
//!
//! A leader sends entries while it writes them itself; followers acknowledge and everybody votes only after a sync.
//! The only voter leads from its first tick (or [`Input::Campaign`]) and commits on its own sync.

mod codec;
mod election;
mod io;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod reads;
mod replication;
#[cfg(test)]
mod scenarios;
mod types;

pub use codec::DecodeError;
pub use io::{Config, Input, Output, Proposal, Refusal, Restored, Role};
pub use membership::{Membership, MembershipChange};
pub use message::{Body, Message, Snapshot};
pub use node::{Raft, Status};
pub use progress::{Pace, Progress};
pub use types::{Entry, EntryKind, HardState, LogIndex, MemberId, Term};
