//! Who the members are, by name and address: what consensus itself does not need to know.
//!
//! Every log begins with one entry for each of the first members, as etcd's does: whoever replays it from there, also a
//! member that joined much later, goes through the same memberships.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use raft::{Entry, EntryKind, LogIndex, MemberId, Membership, MembershipChange, Term};

use crate::proto as pb;

/// The members as of an entry, and the ids that may never come back.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Members {
    table: BTreeMap<MemberId, pb::Member>,
    removed: BTreeSet<MemberId>,
}

/// Why a change of membership is refused. The texts are etcd's (`api/v3rpc/rpctypes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No such member, or one that was removed.
    #[error("etcdserver: member not found")]
    NotFound,
    /// The id is taken.
    #[error("etcdserver: member ID already exist")]
    Exists,
    /// Another member has one of the URLs.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// A URL cannot be one.
    #[error("etcdserver: given member URLs are invalid")]
    BadUrls,
    /// Only learners can be promoted.
    #[error("etcdserver: can only promote a learner member")]
    NotLearner,
    /// The learner is too far behind.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// There is a learner already.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// The change would leave fewer started members than a quorum.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Members are not connected: the change could break the quorum.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// The member to hand over to does not exist or has no vote.
    #[error("etcdserver: bad leader transferee")]
    BadTransferee,
    /// Only the leader can do it.
    #[error("etcdserver: not leader")]
    NotLeader,
}

/// A change of membership as asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub(crate) kind: pb::member_change::Kind,
    pub(crate) member: pb::Member,
}

impl Change {
    pub(crate) fn new(kind: pb::member_change::Kind, member: pb::Member) -> Self {
        Self { kind, member }
    }

    /// Its form in consensus, and the data that goes with it.
    pub(crate) fn consensus(&self) -> (MembershipChange, Bytes) {
        use pb::member_change::Kind;
        let id = self.member.id;
        let change = match self.kind {
            Kind::Add if self.member.is_learner => MembershipChange::AddLearner(id),
            Kind::Add | Kind::Promote => MembershipChange::AddVoter(id),
            Kind::Remove => MembershipChange::Remove(id),
            Kind::Update => MembershipChange::Update(id),
        };
        (change, self.member.encode_to_vec().into())
    }
}

impl From<Change> for pb::MemberChange {
    fn from(change: Change) -> Self {
        Self { kind: change.kind.into(), member: Some(change.member) }
    }
}

impl TryFrom<pb::MemberChange> for Change {
    type Error = MemberError;

    fn try_from(wire: pb::MemberChange) -> Result<Self, MemberError> {
        let kind = pb::member_change::Kind::try_from(wire.kind).map_err(|_| MemberError::BadUrls)?;
        Ok(Self { kind, member: wire.member.ok_or(MemberError::NotFound)? })
    }
}

impl Members {
    /// The members a cluster begins with.
    pub(crate) fn of(members: impl IntoIterator<Item = pb::Member>) -> Self {
        Self { table: members.into_iter().map(|member| (member.id, member)).collect(), removed: BTreeSet::new() }
    }

    /// The first entries of every log: one for each member the cluster begins with (etcd's own log begins so).
    pub(crate) fn first_entries(&self) -> Vec<Entry> {
        let entry = |(at, member): (usize, &pb::Member)| {
            let (change, data) = Change::new(pb::member_change::Kind::Add, member.clone()).consensus();
            Entry {
                term: Term(1),
                index: LogIndex(at as u64 + 1),
                kind: EntryKind::Membership,
                context: 0,
                data: change.encode(&data),
            }
        };
        self.table.values().enumerate().map(entry).collect()
    }

    /// All members, by id.
    pub(crate) fn list(&self) -> Vec<pb::Member> {
        self.table.values().cloned().collect()
    }

    pub(crate) fn get(&self, id: MemberId) -> Option<&pb::Member> {
        self.table.get(&id)
    }

    pub(crate) fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    pub(crate) fn is_learner(&self, id: MemberId) -> bool {
        self.table.get(&id).is_some_and(|member| member.is_learner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Ids of the members with a vote.
    pub(crate) fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.table.values().filter(|member| !member.is_learner).map(|member| member.id)
    }

    /// The same, as consensus sees them.
    pub(crate) fn consensus(&self) -> Membership {
        let learners = self.table.values().filter(|member| member.is_learner).map(|member| member.id);
        Membership { voters: self.voters().collect(), learners: learners.collect() }
    }

    /// Takes what a membership entry says.
    pub(crate) fn apply(&mut self, change: MembershipChange, data: &[u8]) {
        let member = pb::Member::decode(data).unwrap_or_default();
        match change {
            MembershipChange::AddLearner(id) => {
                self.table.entry(id).or_insert(pb::Member { id, is_learner: true, ..member });
            }
            MembershipChange::AddVoter(id) => {
                let added = pb::Member { id, is_learner: false, ..member };
                self.table.entry(id).and_modify(|known| known.is_learner = false).or_insert(added);
            }
            MembershipChange::Remove(id) => {
                self.table.remove(&id);
                self.removed.insert(id);
            }
            MembershipChange::Update(id) => {
                let Some(known) = self.table.get_mut(&id) else { return };
                if !member.peer_ur_ls.is_empty() {
                    known.peer_ur_ls = member.peer_ur_ls;
                }
                if !member.name.is_empty() {
                    (known.name, known.client_ur_ls) = (member.name, member.client_ur_ls);
                }
            }
        }
    }

    /// Takes an entry if it is about members.
    pub(crate) fn apply_entry(&mut self, entry: &Entry) {
        if let Some((change, data)) = entry.membership_change() {
            self.apply(change, &data);
        }
    }

    /// Whether a change of membership has taken effect.
    pub(crate) fn show(&self, change: &Change) -> bool {
        use pb::member_change::Kind;
        let id = change.member.id;
        let known = self.table.get(&id);
        self.is_removed(id)
            || match change.kind {
                Kind::Add => known.is_some(),
                Kind::Remove => false,
                Kind::Promote => known.is_some_and(|member| !member.is_learner),
                Kind::Update => known.is_some_and(|member| member.peer_ur_ls == change.member.peer_ur_ls),
            }
    }

    /// What etcd's `ValidateConfigurationChange` refuses.
    pub(crate) fn validate(&self, change: &Change, learners_max: usize) -> Result<(), MemberError> {
        use pb::member_change::Kind;
        let id = change.member.id;
        let taken = |url: &String| self.table.values().any(|other| other.id != id && other.peer_ur_ls.contains(url));
        if self.is_removed(id) {
            return Err(MemberError::NotFound);
        }
        match (change.kind, self.table.get(&id)) {
            (Kind::Add, Some(_)) => Err(MemberError::Exists),
            (Kind::Add, None) if change.member.peer_ur_ls.iter().any(taken) => Err(MemberError::PeerUrlExists),
            (Kind::Add, None) if change.member.is_learner && self.learners() >= learners_max => {
                Err(MemberError::TooManyLearners)
            }
            (Kind::Remove | Kind::Update | Kind::Promote, None) => Err(MemberError::NotFound),
            (Kind::Promote, Some(member)) if !member.is_learner => Err(MemberError::NotLearner),
            (Kind::Update, Some(_)) if change.member.peer_ur_ls.iter().any(taken) => Err(MemberError::PeerUrlExists),
            _ => Ok(()),
        }
    }

    /// What etcd's strict check of reconfigurations refuses. `connected` tells since when, in seconds, this member has
    /// been connected to another.
    pub(crate) fn check_strictly(
        &self,
        change: &Change,
        me: MemberId,
        connected: impl Fn(MemberId) -> Option<u64>,
    ) -> Result<(), MemberError> {
        use pb::member_change::Kind;
        let id = change.member.id;
        let long = |other: MemberId| other == me || connected(other).is_some_and(|seconds| seconds >= HEALTHY_SECONDS);
        match change.kind {
            Kind::Add => {
                let (started, voters) = self.started(None);
                let of_one = started == 1 && voters == 1;
                if !change.member.is_learner && !of_one && started < voters.div_ceil(2) + 1 {
                    return Err(MemberError::NotEnoughStarted);
                }
                // The one to come counts as down; whoever is alone may always grow.
                let connected = self.voters().filter(|other| long(*other)).count();
                let safe = voters == 1 || connected > voters.div_ceil(2);
                if safe { Ok(()) } else { Err(MemberError::Unhealthy) }
            }
            Kind::Promote => {
                let (started, voters) = self.started(None);
                let enough = started + 1 > voters.div_ceil(2);
                if enough { Ok(()) } else { Err(MemberError::NotEnoughStarted) }
            }
            Kind::Remove => {
                if self.is_learner(id) {
                    return Ok(());
                }
                let (started, voters) = self.started(Some(id));
                if started < voters / 2 + 1 {
                    return Err(MemberError::NotEnoughStarted);
                }
                if id != me && connected(id).is_none() {
                    return Ok(());
                }
                let active = self.voters().filter(|other| long(*other)).count();
                let needed = 1 + (self.voters().count() - 1) / 2;
                if active.saturating_sub(1) < needed { Err(MemberError::Unhealthy) } else { Ok(()) }
            }
            Kind::Update => Ok(()),
        }
    }

    /// How many members with a vote have started, and how many there are, without one of them.
    fn started(&self, without: Option<MemberId>) -> (usize, usize) {
        let voters = || self.voters().filter(|id| Some(*id) != without);
        let started = voters().filter(|id| self.table.get(id).is_some_and(|member| !member.name.is_empty()));
        (started.count(), voters().count())
    }

    fn learners(&self) -> usize {
        self.table.values().filter(|member| member.is_learner).count()
    }

    pub(crate) fn to_wire(&self) -> pb::MemberTable {
        pb::MemberTable { members: self.list(), removed: self.removed.iter().copied().collect() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        pb::MemberTable::decode(bytes).ok().map(Self::from)
    }
}

/// Connected for this long counts as healthy (etcd's `HealthInterval`).
const HEALTHY_SECONDS: u64 = 5;

impl From<pb::MemberTable> for Members {
    fn from(wire: pb::MemberTable) -> Self {
        Self { removed: wire.removed.into_iter().collect(), ..Self::of(wire.members) }
    }
}

/// The ids etcd gives (`server/etcdserver/api/membership`): the first eight bytes of a SHA-1.
fn digest(bytes: &[u8]) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// A member's id, from its peer URLs, the cluster's token (empty for members that are added later) and, for those, the
/// time in seconds.
pub(crate) fn member_id(peer_urls: &[String], token: &str, added_at: Option<u64>) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort_unstable();
    let added_at = added_at.map(|seconds| seconds.to_string()).unwrap_or_default();
    digest(format!("{}{token}{added_at}", urls.concat()).as_bytes())
}

/// A cluster's id, from the ids of the members it begins with.
pub(crate) fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> u64 {
    let mut ids: Vec<MemberId> = members.into_iter().collect();
    ids.sort_unstable();
    digest(&ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::member_change::Kind;

    fn member(id: MemberId, name: &str) -> pb::Member {
        pb::Member {
            id,
            name: name.to_owned(),
            peer_ur_ls: vec![format!("http://m{id}:2380")],
            ..pb::Member::default()
        }
    }

    fn cluster(names: &[&str]) -> Members {
        Members::of(names.iter().zip(1..).map(|(name, id)| member(id, name)))
    }

    #[test]
    fn replaying_the_first_entries_gives_the_members_the_cluster_began_with() {
        let (members, mut replayed) = (cluster(&["a", "b", "c"]), Members::default());
        members.first_entries().iter().for_each(|entry| replayed.apply_entry(entry));
        assert_eq!(replayed, members);
        assert_eq!(Members::decode(&members.encode()), Some(members));
    }

    #[test]
    fn a_change_that_cannot_be_is_refused_in_etcds_words() {
        let mut members = cluster(&["a", "b"]);
        members.apply(MembershipChange::AddLearner(3), &member(3, "").encode_to_vec());
        members.apply(MembershipChange::Remove(2), &[]);
        let learner = |id| pb::Member { is_learner: true, ..member(id, "") };
        let cases = [
            (Kind::Add, member(4, ""), Ok(())),
            (Kind::Add, member(1, ""), Err(MemberError::Exists)),
            (Kind::Add, member(2, ""), Err(MemberError::NotFound)),
            (Kind::Add, pb::Member { id: 4, ..member(1, "") }, Err(MemberError::PeerUrlExists)),
            (Kind::Add, learner(4), Err(MemberError::TooManyLearners)),
            (Kind::Remove, member(4, ""), Err(MemberError::NotFound)),
            (Kind::Promote, member(1, ""), Err(MemberError::NotLearner)),
            (Kind::Promote, member(3, ""), Ok(())),
            (Kind::Update, pb::Member { id: 1, ..member(3, "") }, Err(MemberError::PeerUrlExists)),
            (Kind::Update, member(1, ""), Ok(())),
        ];
        for (kind, member, expect) in cases {
            let change = Change::new(kind, member);
            assert_eq!(members.validate(&change, 1), expect, "{change:?}");
        }
    }

    #[test]
    fn the_strict_check_keeps_a_quorum_of_started_and_connected_members() {
        use MemberError::{NotEnoughStarted, Unhealthy};
        let check = |names: &[&str], down: &[MemberId], kind, id, expect: Result<(), MemberError>| {
            let change = Change::new(kind, member(id, ""));
            let connected = |other: MemberId| (!down.contains(&other)).then_some(60);
            assert_eq!(cluster(names).check_strictly(&change, 1, connected), expect, "{names:?} {down:?} {change:?}");
        };
        check(&["a"], &[], Kind::Add, 9, Ok(()));
        check(&["a", ""], &[2], Kind::Add, 9, Err(NotEnoughStarted));
        check(&["a", "b", "c"], &[], Kind::Add, 9, Ok(()));
        check(&["a", "b", "c"], &[3], Kind::Add, 9, Err(Unhealthy));
        check(&["a", "b", "c", "d"], &[3], Kind::Add, 9, Ok(()));
        check(&["a", "b", "c", "d", "e"], &[3], Kind::Add, 9, Ok(()));
        check(&["a", "b", "c", "d", "e"], &[3, 4], Kind::Add, 9, Err(Unhealthy));
        check(&["a", "b", "c"], &[3], Kind::Remove, 3, Ok(()));
        check(&["a", "b", "c"], &[3], Kind::Remove, 2, Err(Unhealthy));
        check(&["a", "b", "c"], &[], Kind::Remove, 2, Ok(()));
        check(&["a", ""], &[2], Kind::Remove, 2, Ok(()));
        check(&["a", ""], &[2], Kind::Remove, 1, Err(NotEnoughStarted));
    }

    #[test]
    fn ids_are_those_etcd_gives() {
        // Seen from etcd 3.6 with its default flags.
        let urls = vec!["http://localhost:2380".to_owned()];
        let id = member_id(&urls, "etcd-cluster", None);
        assert_eq!(
            (format!("{id:x}"), format!("{:x}", cluster_id([id]))),
            ("8e9e05c52164694d".into(), "cdf818194e3a8c32".into())
        );
    }
}
