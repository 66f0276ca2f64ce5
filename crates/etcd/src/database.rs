//! etcd's own database: which keys and values stand in which bucket of its file (`server/storage/schema`). What goes out
//! as a snapshot is made here, what comes in from one is understood here.
//!
//! ```text
//! alarm   AlarmMember → nothing            key      revision → KeyValue       members          id → JSON
//! auth    authEnabled, authRevision        lease    id → Lease                members_removed  id → "removed"
//! authRoles, authUsers   name → message    meta     where the state stands    cluster          clusterVersion
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mvcc::{Alarm, AuthRecord, LeaseRecord, Marks, Role, Row, RowRevision, Snapshot, User, row_key};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{convert, proto as pb};

/// The minor version of 3 whose behaviour this is.
pub(crate) const MINOR: u8 = 6;
const STORAGE_VERSION: &str = "3.6.0";
const OLDER_VERSION: &str = "3.5.0";

/// The version of a cluster of members like this one, and of their storage, unless it is being taken down. etcd moves both
/// within five seconds; here they go at once.
pub(crate) fn cluster_version(snapshot: &Snapshot) -> &'static str {
    if snapshot.downgrade().is_some() { OLDER_VERSION } else { STORAGE_VERSION }
}

/// A member's whole state as etcd would store it.
pub(crate) struct Database {
    pub(crate) snapshot: Snapshot,
    /// The last log entry in it.
    pub(crate) applied_index: u64,
    pub(crate) term: u64,
    /// Every member of the cluster.
    pub(crate) members: Vec<pb::Member>,
    /// Ids that may never come back.
    pub(crate) removed: Vec<u64>,
}

/// What `leasepb.Lease` is.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredLease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    /// Seconds left at the last checkpoint of a long lease; 0 for all.
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// `membership.Member` in JSON, in Go's order of fields.
#[derive(Serialize)]
struct StoredMember<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[_]>::is_empty")]
    client_urls: &'a [String],
}

/// `raftpb.ConfState` in JSON.
#[derive(Serialize)]
struct StoredConfState {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    auto_leave: bool,
}

/// `version.DowngradeInfo` in JSON.
#[derive(Serialize, Deserialize)]
struct StoredDowngrade {
    #[serde(rename = "target-version", default)]
    target_version: String,
    #[serde(default)]
    enabled: bool,
}

type Pair = (Vec<u8>, Vec<u8>);

impl Database {
    /// Gives each bucket, in the order of names, to `put`.
    ///
    /// # Errors
    /// Only those of `put`.
    pub(crate) fn each(
        &self,
        mut put: impl FnMut(&'static str, &mut dyn Iterator<Item = Pair>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut alarms: Vec<Pair> = self.snapshot.alarms().into_iter().map(stored_alarm).collect();
        alarms.sort_unstable();
        put("alarm", &mut alarms.into_iter())?;
        put("auth", &mut self.auth_marks().into_iter())?;
        let auth = self.snapshot.auth();
        let role = |role: &Arc<Role>| (role.name.clone().into_bytes(), pb::Role::from(&**role).encode_to_vec());
        put("authRoles", &mut auth.roles().map(role))?;
        let user = |user: &Arc<User>| (user.name.clone().into_bytes(), pb::User::from(&**user).encode_to_vec());
        put("authUsers", &mut auth.users().map(user))?;
        put("cluster", &mut self.cluster().into_iter())?;
        put("key", &mut self.snapshot.rows().map(|row| (row.disk_key(), row.disk_value())))?;
        put("lease", &mut self.leases().into_iter())?;
        put("members", &mut self.stored_members().into_iter())?;
        let removed: BTreeMap<_, _> = self.removed.iter().map(|id| (member_key(*id), b"removed".to_vec())).collect();
        put("members_removed", &mut removed.into_iter())?;
        put("meta", &mut self.meta().into_iter())
    }

    /// What `Maintenance.Hash` tells: a checksum of everything but what says where in the log the state stands
    /// (etcd: `schema.DefaultIgnores`).
    pub(crate) fn hash(&self) -> u32 {
        let mut hash = crc32c::crc32c(b"");
        let hashed = self.each(|name, entries| {
            hash = crc32c::crc32c_append(hash, name.as_bytes());
            for (key, value) in entries {
                if name == "meta" && matches!(&key[..], b"term" | b"consistent_index" | b"storageVersion") {
                    continue;
                }
                hash = crc32c::crc32c_append(hash, &key);
                hash = crc32c::crc32c_append(hash, &value);
            }
            Ok(())
        });
        assert!(hashed.is_ok(), "hashing cannot fail");
        hash
    }

    fn cluster(&self) -> Vec<Pair> {
        let version = cluster_version(&self.snapshot);
        let downgrade = self.snapshot.downgrade().map(|_| {
            let stored = StoredDowngrade { target_version: version.to_owned(), enabled: true };
            (b"downgrade".to_vec(), serde_json::to_vec(&stored).expect("a version is plain data"))
        });
        [(b"clusterVersion".to_vec(), version.into())].into_iter().chain(downgrade).collect()
    }

    /// etcd writes the switch when it is first used, and then also that it is off.
    fn auth_marks(&self) -> Vec<Pair> {
        let auth = self.snapshot.auth();
        let enabled = auth.is_enabled().then(|| (b"authEnabled".to_vec(), vec![1]));
        let revision = (b"authRevision".to_vec(), auth.revision().to_be_bytes().to_vec());
        enabled.into_iter().chain([revision]).collect()
    }

    fn leases(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let stored = |LeaseRecord { id, ttl, remaining_ttl }| {
            (id.to_be_bytes().to_vec(), StoredLease { id, ttl, remaining_ttl }.encode_to_vec())
        };
        self.snapshot.lease_records().map(stored).collect()
    }

    fn stored_members(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let stored = |member: &pb::Member| {
            let json = StoredMember {
                id: member.id,
                peer_urls: &member.peer_ur_ls,
                is_learner: member.is_learner,
                name: &member.name,
                client_urls: &member.client_ur_ls,
            };
            (member_key(member.id), serde_json::to_vec(&json).expect("a member is plain data"))
        };
        self.members.iter().map(stored).collect()
    }

    fn meta(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let ids = |learners: bool| {
            let mut ids: Vec<u64> = self.members.iter().filter(|m| m.is_learner == learners).map(|m| m.id).collect();
            ids.sort_unstable();
            ids
        };
        let members = StoredConfState { voters: ids(false), learners: ids(true), auto_leave: false };
        let members = serde_json::to_vec(&members).expect("a list of members is plain data");
        let mut meta = BTreeMap::from([
            (b"confState".to_vec(), members),
            (b"consistent_index".to_vec(), self.applied_index.to_be_bytes().to_vec()),
            (b"term".to_vec(), self.term.to_be_bytes().to_vec()),
        ]);
        let Marks { compacted, compaction_finished, downgrade, .. } = self.snapshot.marks();
        if downgrade.is_none() {
            // Older versions do not write it.
            meta.insert(b"storageVersion".to_vec(), STORAGE_VERSION.into());
        }
        if compacted > 0 {
            let revision = row_key(RowRevision { main: compacted, sub: 0 }, false);
            if compaction_finished {
                meta.insert(b"finishedCompactRev".to_vec(), revision.clone());
            }
            meta.insert(b"scheduledCompactRev".to_vec(), revision);
        }
        meta
    }
}

/// Members are stored under their id as etcd prints it.
fn member_key(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

fn stored_alarm(alarm: Alarm) -> Pair {
    (pb::AlarmMember::from(alarm).encode_to_vec(), Vec::new())
}

/// What was found in a database of etcd's, bucket by bucket.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
    pub(crate) leases: Vec<LeaseRecord>,
    pub(crate) alarms: Vec<Alarm>,
    auth: Vec<AuthRecord>,
    auth_enabled: bool,
    auth_revision: u64,
    scheduled_compaction: i64,
    finished_compaction: i64,
    downgrade: Option<u8>,
    /// The last entry of the log whose effect is in it.
    pub(crate) consistent_index: u64,
}

impl Found {
    /// Takes one entry. Who the members were, and where in their log the state stood, is of no use to another cluster.
    /// Buckets of later versions are passed over, as etcd does.
    ///
    /// # Errors
    /// When the entry is not what etcd writes there.
    pub(crate) fn take(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match bucket {
            b"key" => self.rows.push(Row::from_disk(key, value).map_err(|_| "a key's version cannot be read")?),
            b"lease" => {
                let lease = StoredLease::decode(value).map_err(|_| "a lease cannot be read")?;
                let StoredLease { id, ttl, remaining_ttl } = lease;
                self.leases.push(LeaseRecord { id, ttl, remaining_ttl });
            }
            b"alarm" => {
                let alarm = pb::AlarmMember::decode(key).ok().and_then(convert::alarm);
                self.alarms.push(alarm.ok_or("an alarm cannot be read")?);
            }
            b"meta" => match key {
                b"scheduledCompactRev" => self.scheduled_compaction = revision(value)?,
                b"finishedCompactRev" => self.finished_compaction = revision(value)?,
                b"consistent_index" => {
                    let index = value.try_into().map_err(|_| "the place in the log cannot be read")?;
                    self.consistent_index = u64::from_be_bytes(index);
                }
                _ => {}
            },
            b"cluster" if key == b"downgrade" => {
                let bad = "the state of a downgrade cannot be read";
                let stored: StoredDowngrade = serde_json::from_slice(value).map_err(|_| bad)?;
                let older = stored.target_version.starts_with("3.5").then_some(MINOR - 1);
                self.downgrade = if stored.enabled { Some(older.ok_or(bad)?) } else { None };
            }
            b"auth" => match key {
                b"authEnabled" => self.auth_enabled = value == [1],
                b"authRevision" => {
                    let revision = value.try_into().map_err(|_| "the revision of users and roles cannot be read")?;
                    self.auth_revision = u64::from_be_bytes(revision);
                }
                _ => {}
            },
            b"authRoles" => {
                let role = pb::Role::decode(value).ok().and_then(|role| Role::try_from(role).ok());
                self.auth.push(AuthRecord::Role(Arc::new(role.ok_or("a role cannot be read")?)));
            }
            b"authUsers" => {
                let user = pb::User::decode(value).ok().and_then(|user| User::try_from(user).ok());
                self.auth.push(AuthRecord::User(Arc::new(user.ok_or("a user cannot be read")?)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Users, roles and whether they matter.
    pub(crate) fn take_auth(&mut self) -> Vec<AuthRecord> {
        let mut records = std::mem::take(&mut self.auth);
        // Before 3.4 the revision was not written until something changed.
        records.push(AuthRecord::Marks { enabled: self.auth_enabled, revision: self.auth_revision.max(1) });
        records
    }

    /// The store's revision and compactions. The newest version of a key may be compacted away, so the revision is the
    /// largest number that is mentioned (etcd: `mvcc.store.restore`).
    pub(crate) fn marks(&self) -> Marks {
        let newest = self.rows.last().map_or(1, |row| row.revision().main);
        let compacted = self.finished_compaction.max(self.scheduled_compaction);
        Marks {
            revision: newest.max(compacted).max(1),
            compacted: if compacted == 0 { -1 } else { compacted },
            compaction_finished: self.scheduled_compaction <= self.finished_compaction,
            downgrade: self.downgrade,
        }
    }

    /// What `etcdutl snapshot restore --bump-revision --mark-compacted` does: lets the revision jump, by a version of no
    /// key, so that no client ever sees it go back, and forgets all history.
    ///
    /// # Errors
    /// When the revision would be too large.
    pub(crate) fn bump(&mut self, amount: i64) -> Result<(), &'static str> {
        let newest = self.rows.last().map_or(0, |row| row.revision().main);
        let main = newest.checked_add(amount).ok_or("the revision would be too large")?;
        let key = row_key(RowRevision { main, sub: 0 }, false);
        self.rows.push(Row::from_disk(&key, &[]).map_err(|_| "the revision would be too large")?);
        self.scheduled_compaction = main;
        Ok(())
    }
}

/// A compaction's revision is stored like a key's.
fn revision(value: &[u8]) -> Result<i64, &'static str> {
    let main = value.first_chunk().map(|main| i64::from_be_bytes(*main));
    main.filter(|main| *main >= 0).ok_or("the revision of a compaction cannot be read")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mvcc::{AlarmKind, Command, Keyspace, PutRequest};

    use super::*;

    #[test]
    fn what_is_given_out_is_understood_again() {
        let now = base::Timestamp::from_unix_seconds(7);
        let mut keyspace = Keyspace::new();
        let put = |key: &'static str| {
            Command::Put(PutRequest { key: key.into(), value: Bytes::from_static(b"v"), ..PutRequest::default() })
        };
        let alarm = Alarm { member: 5, kind: AlarmKind::Corrupt };
        let grant = Command::LeaseGrant { id: -3, ttl: 60 };
        for command in [put("a"), put("b"), put("a"), grant, Command::Compact(3)] {
            keyspace.apply(&command, now).answer.expect("applied");
        }
        keyspace.apply(&Command::LeaseCheckpoint(vec![(-3, 40)]), now).answer.expect("applied");
        keyspace.apply(&Command::AlarmRaise(alarm), now).answer.expect("applied");
        keyspace.apply(&Command::Downgrade(Some(5)), now).answer.expect("applied");
        let lease = LeaseRecord { id: -3, ttl: 60, remaining_ttl: 40 };
        let member = pb::Member { id: 0xa1, name: "n".to_owned(), is_learner: true, ..pb::Member::default() };
        let (name, password) = ("root".to_owned(), Bytes::from_static(b"hash"));
        let user = User { name: name.clone(), password, no_password: false, roles: vec![name.clone()] };
        let permissions = vec![mvcc::Permission {
            kind: mvcc::PermissionKind::Write,
            key: "k".into(),
            range_end: Bytes::from_static(b"\0"),
        }];
        let role = Role { name: "role".to_owned(), permissions };
        let auth = [
            AuthRecord::Role(Arc::new(role)),
            AuthRecord::User(Arc::new(user)),
            AuthRecord::Marks { enabled: true, revision: 9 },
        ];
        keyspace.restore_auth(auth.clone());
        let snapshot = keyspace.snapshot();
        let database = Database {
            snapshot: snapshot.clone(),
            applied_index: 9,
            term: 2,
            members: vec![member],
            removed: vec![0xb2],
        };
        let mut found = Found::default();
        let mut seen = Vec::new();
        let each = |name: &'static str, entries: &mut dyn Iterator<Item = Pair>| {
            for (key, value) in entries {
                found.take(name.as_bytes(), &key, &value).expect("our own");
                seen.push((name, String::from_utf8_lossy(&key).into_owned(), value));
            }
            Ok(())
        };
        database.each(each).expect("nothing fails");
        assert_eq!(found.marks(), Marks { revision: 4, compacted: 3, compaction_finished: false, downgrade: Some(5) });
        assert_eq!((&found.leases[..], &found.alarms[..]), (&[lease][..], &[alarm][..]));
        assert_eq!(found.take_auth(), auth);
        assert_eq!(found.rows.len(), snapshot.rows().count());
        let json = |key: &str| {
            let found = seen.iter().find(|(_, name, _)| name.as_str() == key).expect(key);
            String::from_utf8_lossy(&found.2).into_owned()
        };
        assert_eq!(json("a1"), r#"{"id":161,"peerURLs":[],"isLearner":true,"name":"n"}"#);
        assert_eq!(json("confState"), r#"{"learners":[161],"auto_leave":false}"#);
        assert_eq!((json("b2"), json("clusterVersion")), ("removed".to_owned(), "3.5.0".to_owned()));
        found.bump(1000).expect("small enough");
        assert_eq!(
            found.marks(),
            Marks { revision: 1004, compacted: 1004, compaction_finished: false, downgrade: Some(5) }
        );
    }

    #[test]
    fn what_etcd_would_not_write_is_refused() {
        let check = |bucket: &str, key: &[u8], value: &[u8]| {
            assert!(Found::default().take(bucket.as_bytes(), key, value).is_err(), "{bucket}");
        };
        check("key", b"short", b"");
        check("lease", b"", &[0xff]);
        check("alarm", &[0xff], b"");
        check("meta", b"finishedCompactRev", b"7");
        check("auth", b"authRevision", b"7");
        check("authUsers", b"root", &[0xff]);
        check("authRoles", b"role", &[0xff]);
        check("cluster", b"downgrade", br#"{"target-version":"3.9.0","enabled":true}"#);
    }
}
