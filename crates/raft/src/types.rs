//! The nouns of consensus: terms, indexes, entries, and what has to survive a crash.

use std::fmt;

use bytes::Bytes;

/// The id of a member; never zero.
pub type MemberId = u64;

/// A leader's term of office; grows, never repeats a leader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Term(pub u64);

/// A position in the log; the first entry has index 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogIndex(pub u64);

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// The driver's own data.
    Normal,
    /// A change of membership: see [`Entry::membership_change`].
    Membership,
    /// The first entry of a leader's term; carries nothing.
    Empty,
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// The proposer's mark, replicated with the entry: lets the proposer find its waiting client.
    pub context: u64,
    /// The content, meaningless to this crate (except for membership changes).
    pub data: Bytes,
}

impl Entry {
    /// Bytes this entry takes in a message, roughly.
    pub(crate) fn size(&self) -> usize {
        self.data.len() + 32
    }
}

/// What a member must remember across a crash, besides its log.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// The commit index when this was written; a lower bound, never needed for safety.
    pub commit: LogIndex,
}
