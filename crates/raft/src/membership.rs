//! Who takes part: voters and learners, and the one-at-a-time change (Raft dissertation §4.1).

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Entry, EntryKind, MemberId};

/// The members of a cluster. Voters elect and commit; learners only receive the log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Membership {
    /// Members whose agreement counts.
    pub voters: BTreeSet<MemberId>,
    /// Members that receive entries without a vote.
    pub learners: BTreeSet<MemberId>,
}

/// One step from a membership to the next. At most one voter comes or goes, so that every majority of the old
/// membership shares a member with every majority of the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// Adds a member without a vote.
    AddLearner(MemberId),
    /// Adds a voter, or gives a learner its vote.
    AddVoter(MemberId),
    /// Removes a voter or a learner.
    Remove(MemberId),
    /// Changes nothing here; carries data about members, such as their addresses.
    Update(MemberId),
}

impl Membership {
    /// A membership of voters only.
    pub fn of_voters(voters: impl IntoIterator<Item = MemberId>) -> Self {
        Self { voters: voters.into_iter().collect(), learners: BTreeSet::new() }
    }

    /// Whether the id is a voter or a learner.
    pub fn contains(&self, id: MemberId) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Every member, voters first.
    pub fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// How many voters make a majority.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The membership after the change; a change that is already in force changes nothing.
    #[must_use]
    pub fn with(&self, change: MembershipChange) -> Self {
        let mut next = self.clone();
        match change {
            MembershipChange::AddLearner(id) => {
                if !next.voters.contains(&id) {
                    next.learners.insert(id);
                }
            }
            MembershipChange::AddVoter(id) => {
                next.learners.remove(&id);
                next.voters.insert(id);
            }
            MembershipChange::Remove(id) => {
                next.voters.remove(&id);
                next.learners.remove(&id);
            }
            MembershipChange::Update(_) => {}
        }
        next
    }

    /// The greatest value that a majority of voters has reached.
    pub(crate) fn reached_by_majority<T: Ord + Copy>(&self, value: impl Fn(MemberId) -> T) -> Option<T> {
        let mut values: Vec<T> = self.voters.iter().map(|id| value(*id)).collect();
        values.sort_unstable();
        values.len().checked_sub(self.majority()).map(|place| values[place])
    }
}

impl MembershipChange {
    /// The entry's content: the change, then the driver's own data about it.
    pub fn encode(self, data: &[u8]) -> Bytes {
        let (tag, id) = match self {
            Self::AddLearner(id) => (1, id),
            Self::AddVoter(id) => (2, id),
            Self::Remove(id) => (3, id),
            Self::Update(id) => (4, id),
        };
        let mut bytes = BytesMut::with_capacity(9 + data.len());
        bytes.put_u8(tag);
        bytes.put_u64_le(id);
        bytes.put_slice(data);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Option<(Self, Bytes)> {
        let id = u64::from_le_bytes(bytes.get(1..9)?.try_into().ok()?);
        let change = match bytes[0] {
            1 => Self::AddLearner(id),
            2 => Self::AddVoter(id),
            3 => Self::Remove(id),
            4 => Self::Update(id),
            _ => return None,
        };
        Some((change, bytes.slice(9..)))
    }
}

impl Entry {
    /// The change of membership this entry carries and the driver's data with it; `None` for any other entry.
    pub fn membership_change(&self) -> Option<(MembershipChange, Bytes)> {
        match self.kind {
            EntryKind::Membership => MembershipChange::decode(&self.data),
            EntryKind::Normal | EntryKind::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        for (voters, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            assert_eq!(Membership::of_voters(1..=voters).majority(), majority, "of {voters}");
        }
    }

    #[test]
    fn the_value_a_majority_reached_is_the_median_rounded_down() {
        let cases: &[(&[u64], Option<u64>)] =
            &[(&[], None), (&[5], Some(5)), (&[5, 7], Some(5)), (&[5, 7, 9], Some(7)), (&[1, 5, 7, 9], Some(5))];
        for (values, expect) in cases {
            let members = Membership::of_voters(0..values.len() as u64);
            assert_eq!(members.reached_by_majority(|id| values[id as usize]), *expect, "{values:?}");
        }
    }

    #[test]
    fn changes_may_be_repeated_without_harm() {
        let start = Membership::of_voters([1, 2]);
        for change in [MembershipChange::AddLearner(3), MembershipChange::AddVoter(3), MembershipChange::Remove(2)] {
            let once = start.with(change);
            assert_eq!(once.with(change), once);
        }
        assert_eq!(start.with(MembershipChange::AddLearner(1)), start);
    }
}
