//! Whether the members hold the same: their checksums are compared at the start, at times, and after compactions, as etcd
//! does (`server/etcdserver/corrupt.go`). What differs raises the alarm CORRUPT, under which nothing is written any more.

use std::collections::BTreeMap;
use std::time::Duration;

use mvcc::{Alarm, AlarmKind, HashKv};
use raft::MemberId;

use crate::error::storage;
use crate::features::Features;
use crate::flags::Flags;
use crate::peers::PeerNetwork;
use crate::peers::hashkv::{self, Refused};
use crate::{EtcdError, LocalStore, StoreError};

/// When checksums are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Before clients are served, when the member has begun before.
    initial: bool,
    /// The whole of it this often, by the leader; zero for never.
    periodic: Duration,
    /// Those of compactions this often, by the leader.
    compactions: Option<Duration>,
}

impl Times {
    /// Reads the flags.
    ///
    /// # Errors
    /// In etcd's words.
    pub(crate) fn new(flags: &Flags, features: &Features) -> Result<Self, String> {
        let either = |name: &'static str| match format!("experimental-{name}") {
            old if flags.given(&old) => flags.duration(&old),
            _ => flags.duration(name),
        };
        for name in ["experimental-compact-hash-check-time", "compact-hash-check-time"] {
            if flags.duration(name).is_zero() {
                return Err(format!("--{name} must be >0 (set to 0s)"));
            }
        }
        Ok(Self {
            initial: features.is_open("InitialCorruptCheck"),
            periodic: either("corrupt-check-time"),
            compactions: features.is_open("CompactHashCheck").then(|| either("compact-hash-check-time")),
        })
    }
}

/// Compares the checksums of a member with the others'.
#[derive(Clone)]
pub(crate) struct Checker {
    store: LocalStore,
    network: PeerNetwork,
    times: Times,
}

/// What a member answered.
struct Told {
    member: MemberId,
    answer: Result<HashKv, Refused>,
}

impl Checker {
    pub(crate) fn new(store: LocalStore, network: PeerNetwork, times: Times) -> Self {
        Self { store, network, times }
    }

    /// The check of a member that has begun before, before it serves clients.
    ///
    /// # Errors
    /// When another member has another checksum of the same revision and compaction.
    pub(crate) async fn initial(&self, has_begun: bool) -> Result<(), EtcdError> {
        if !self.times.initial || !has_begun {
            return Ok(());
        }
        let id = format!("{:x}", self.store.shared.member_id);
        tracing::info!(target: "etcd", local_member_id = id, "starting initial corruption check");
        let own = self.own(0).await.map_err(|error| storage(&format!("{id} failed to fetch hash"), error))?;
        let mut mismatches = 0;
        for Told { member, answer } in self.ask(own.hash_revision).await {
            let remote_peer_id = format!("{member:x}");
            match answer {
                Ok(told) if told.hash == own.hash => {}
                Ok(told) => {
                    let same = told.compact_revision == own.compact_revision;
                    mismatches += usize::from(same);
                    let what = if same { "hash values" } else { "compact revision values" };
                    tracing::warn!(
                        target: "etcd",
                        local_member_revision = own.hash_revision,
                        local_member_compact_revision = own.compact_revision,
                        local_member_hash = own.hash,
                        remote_peer_id,
                        remote_peer_compact_revision = told.compact_revision,
                        remote_peer_hash = told.hash,
                        "found different {what} from remote peer"
                    );
                }
                Err(error) => {
                    tracing::warn!(target: "etcd", remote_peer_id, %error, "cannot fetch hash from remote peer")
                }
            }
        }
        if mismatches > 0 {
            return Err(EtcdError::Damaged(format!("{id} found data inconsistency with peers")));
        }
        tracing::info!(target: "etcd", local_member_id = id, "initial corruption checking passed; no corruption");
        Ok(())
    }

    /// Compares at times until it is dropped.
    pub(crate) async fn run(self) {
        let periodic = async {
            if self.times.periodic.is_zero() {
                return;
            }
            loop {
                tokio::time::sleep(self.times.periodic).await;
                if !self.leads() {
                    continue;
                }
                if let Err(error) = self.periodic().await {
                    tracing::warn!(target: "etcd", %error, "failed to check hash KV");
                }
            }
        };
        let compactions = async {
            let Some(time) = self.times.compactions else { return };
            let mut checked = 0;
            loop {
                tokio::time::sleep(time).await;
                if self.leads() {
                    self.compactions(&mut checked).await;
                }
            }
        };
        tokio::join!(periodic, compactions);
    }

    fn leads(&self) -> bool {
        self.store.shared.published().leader == self.store.shared.member_id
    }

    async fn own(&self, revision: i64) -> Result<HashKv, StoreError> {
        let snapshot = self.store.shared.published().snapshot.clone();
        let hash = tokio::task::spawn_blocking(move || snapshot.hash_kv(revision)).await;
        Ok(hash.map_err(|_| StoreError::Stopped)??)
    }

    /// Asks every other member for its checksum, in turn.
    async fn ask(&self, revision: i64) -> Vec<Told> {
        let (members, shared) = (self.store.members(), &self.store.shared);
        let others =
            members.into_iter().filter(|member| member.id != shared.member_id && !member.peer_ur_ls.is_empty());
        let mut told = Vec::new();
        for member in others {
            let mut answer = Err(Refused::Other("the member has no peer URL".to_owned()));
            for url in &member.peer_ur_ls {
                let ask = hashkv::ask(&self.network, shared.cluster_id, url, revision);
                let patience = shared.limits.request_timeout();
                answer = match tokio::time::timeout(patience, ask).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Refused::Other("no answer in time".to_owned())),
                };
                match &answer {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(
                        target: "etcd",
                        requested_revision = revision,
                        remote_peer_endpoint = url,
                        %error,
                        "failed hash kv request"
                    ),
                }
            }
            told.push(Told { member: member.id, answer });
        }
        told
    }

    /// The leader's check of everything up to now.
    async fn periodic(&self) -> Result<(), StoreError> {
        let before = self.own(0).await?;
        let told = self.ask(before.hash_revision).await;
        self.store.linearize(false).await?;
        let after = self.own(0).await?;
        let told: Vec<(MemberId, HashKv)> =
            told.into_iter().filter_map(|told| Some((told.member, told.answer.ok()?))).collect();
        if let Some(member) = differing(self.store.shared.member_id, &before, &after, &told) {
            self.alarm(member).await;
        }
        let number_of_peers_checked = told.len();
        tracing::info!(target: "etcd", number_of_peers_checked, "finished peer corruption check");
        Ok(())
    }

    /// The leader's check of what compactions left: their checksums stay the same whatever is written meanwhile. Looks at
    /// the latest first and ends with one that every member has; `checked` is the last that all had.
    async fn compactions(&self, checked: &mut i64) {
        tracing::info!(target: "etcd", "starting compact hash check");
        let mut hashes = self.store.shared.published().snapshot.compaction_hashes();
        hashes.retain(|hash| hash.hash_revision > *checked);
        hashes.sort_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
        let mut number_of_hashes_checked = 0;
        for hash in hashes {
            number_of_hashes_checked += 1;
            let told = self.ask(hash.hash_revision).await;
            let others = told.len();
            if others == 0 {
                continue;
            }
            let comparable: Vec<(MemberId, u32)> =
                told.into_iter().filter_map(|told| comparable(told, &hash)).collect();
            match compare(self.store.shared.member_id, hash.hash, &comparable, others) {
                Compared::Equal => {
                    *checked = hash.hash_revision;
                    tracing::info!(target: "etcd", revision = hash.hash_revision, "successfully checked hash on whole cluster");
                    break;
                }
                Compared::Unknown => tracing::warn!(
                    target: "etcd",
                    revision = hash.hash_revision,
                    "skipped revision in compaction hash check; was not able to check all peers"
                ),
                Compared::Differ(members) => {
                    let leader_hash = hash.hash;
                    let (revision, ids) = (hash.hash_revision, format!("{members:x?}"));
                    tracing::error!(
                        target: "etcd",
                        leader_revision = revision,
                        leader_hash,
                        peer_ids = ids,
                        "Detected compaction hash mismatch"
                    );
                    for member in members {
                        self.alarm(member).await;
                    }
                    break;
                }
            }
        }
        tracing::info!(target: "etcd", number_of_hashes_checked, "finished compaction hash check");
    }

    async fn alarm(&self, member: MemberId) {
        let alarm = Alarm { member, kind: AlarmKind::Corrupt };
        if let Err(error) = self.store.alarm(alarm, true).await {
            tracing::warn!(target: "etcd", %error, "the alarm CORRUPT could not be raised");
        }
    }
}

fn comparable(told: Told, own: &HashKv) -> Option<(MemberId, u32)> {
    match told.answer {
        Ok(answer) if answer.compact_revision == own.compact_revision => Some((told.member, answer.hash)),
        Ok(_) => None,
        Err(error) => {
            let peer_id = format!("{:x}", told.member);
            tracing::warn!(target: "etcd", peer_id, %error, "Skipped peer's hash");
            None
        }
    }
}

/// The first member whose checksum cannot be right: the leader itself, if its own changed without a write, or another
/// that is ahead of the leader or has another checksum of the same.
fn differing(me: MemberId, before: &HashKv, after: &HashKv, told: &[(MemberId, HashKv)]) -> Option<MemberId> {
    let same = before.hash_revision == after.hash_revision && before.compact_revision == after.compact_revision;
    if same && before.hash != after.hash {
        tracing::warn!(target: "etcd", hash_1 = before.hash, hash_2 = after.hash, "found hash mismatch");
        return Some(me);
    }
    for (member, told) in told {
        let follower_peer_id = format!("{member:x}");
        let what = if told.revision > after.revision {
            "revision from follower must be less than or equal to leader's"
        } else if told.compact_revision > after.compact_revision {
            "compact revision from follower must be less than or equal to leader's"
        } else if told.compact_revision == before.compact_revision && told.hash != before.hash {
            "same compact revision then hashes must match"
        } else {
            continue;
        };
        tracing::warn!(target: "etcd", follower_peer_id, leader = ?before, follower = ?told, "{what}");
        return Some(*member);
    }
    None
}

/// What a comparison came to.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    /// Every member has the same.
    Equal,
    /// Those that could be asked have the same.
    Unknown,
    /// These members differ from the majority; without one nobody knows who is right, which is member 0.
    Differ(Vec<MemberId>),
}

fn compare(me: MemberId, own: u32, told: &[(MemberId, u32)], others: usize) -> Compared {
    let mut groups: BTreeMap<u32, Vec<MemberId>> = BTreeMap::from([(own, vec![me])]);
    for (member, hash) in told {
        groups.entry(*hash).or_default().push(*member);
    }
    if groups.len() == 1 {
        return if told.len() == others { Compared::Equal } else { Compared::Unknown };
    }
    let quorum = others.div_ceil(2) + 1;
    let Some(right) = groups.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash) else {
        return Compared::Differ(vec![0]);
    };
    groups.remove(&right);
    Compared::Differ(groups.into_values().flatten().collect())
}

#[cfg(test)]
mod tests;
