//! `Maintenance.Snapshot`: the whole state as a file of etcd's, made while it is sent. Nothing of it touches the disk.

use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Api;
use crate::bolt::{self, Buckets};
use crate::database::{Database, cluster_version};
use crate::proto as pb;

/// etcd's `snapshotSendBufferSize`.
const BLOB_BYTES: usize = 32 << 10;
/// Blobs that may wait for a slow client.
const BLOBS_WAITING_MAX: usize = 4;

type Sent = Result<pb::SnapshotResponse, Status>;

impl Api {
    /// The whole state, as of now.
    pub(super) fn database(&self) -> Database {
        let published = self.store.shared.published();
        Database {
            snapshot: published.snapshot.clone(),
            applied_index: published.applied_index,
            term: published.term,
            members: self.store.members(),
            removed: published.members.to_wire().removed,
        }
    }
}

/// Streams the file, then its checksum. Making it takes a thread of its own, at the pace of the client.
pub(super) fn send(database: Database) -> ReceiverStream<Sent> {
    let (sender, receiver) = mpsc::channel(BLOBS_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = make(&database, &sender) {
            // The client went away, or it is told.
            tracing::info!(target: "etcd", %error, "a snapshot was not sent to its end");
            let _ = sender.blocking_send(Err(Status::internal(error.to_string())));
        }
    });
    ReceiverStream::new(receiver)
}

fn make(database: &Database, sender: &mpsc::Sender<Sent>) -> io::Result<()> {
    let fill = |buckets: &mut Buckets<'_>| database.each(|name, entries| buckets.add(name, entries));
    let plan = bolt::plan(fill)?;
    let remaining = plan.size_bytes();
    tracing::info!(target: "etcd", total_bytes = remaining, "sending a snapshot to a client");
    // An older version's storage does not state its version.
    let version = if database.snapshot.downgrade().is_none() { cluster_version(&database.snapshot) } else { "" };
    let mut blobs = Blobs { sender, version, blob: Vec::new(), remaining, digest: Context::new(&SHA256) };
    bolt::write(plan, &mut blobs, fill)?;
    blobs.flush()?;
    let Blobs { remaining, digest, .. } = blobs;
    assert!(remaining == 0, "the file has the size it was planned with");
    post(sender, version, 0, digest.finish().as_ref().to_vec())
}

/// Cuts what is written into blobs and sends them.
struct Blobs<'a> {
    sender: &'a mpsc::Sender<Sent>,
    version: &'static str,
    blob: Vec<u8>,
    /// Bytes of the file that are not sent.
    remaining: u64,
    digest: Context,
}

impl Write for Blobs<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOB_BYTES - self.blob.len());
        self.blob.extend_from_slice(&bytes[..taken]);
        if self.blob.len() == BLOB_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.blob.is_empty() {
            return Ok(());
        }
        let blob = std::mem::replace(&mut self.blob, Vec::with_capacity(BLOB_BYTES));
        self.digest.update(&blob);
        self.remaining -= blob.len() as u64;
        post(self.sender, self.version, self.remaining, blob)
    }
}

fn post(sender: &mpsc::Sender<Sent>, version: &str, remaining_bytes: u64, blob: Vec<u8>) -> io::Result<()> {
    let (blob, version) = (blob.into(), version.to_owned());
    let response = pb::SnapshotResponse { header: None, remaining_bytes, blob, version };
    sender.blocking_send(Ok(response)).map_err(|_| io::Error::other("the client went away"))
}

#[cfg(test)]
mod tests {
    use base::{Clock, Entropy, FakeClock, Rng, Timestamp};
    use mvcc::{AlarmKind, PutRequest};
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::restore::Restore;
    use crate::{Member, MemberConfig};

    fn member() -> Member {
        let rng = std::sync::Mutex::new(Rng::new(1));
        let entropy = Entropy::new(move |buffer| {
            let mut rng = rng.lock().expect("no panic while it is held");
            buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
        });
        let clock: Clock = FakeClock::new(Timestamp::from_unix_seconds(1000)).clock();
        Member::start(MemberConfig::new("test", clock, entropy)).expect("starts")
    }

    #[tokio::test]
    async fn a_snapshot_arrives_in_blobs_and_can_be_restored() {
        let member = member();
        let api = Api { store: member.local() };
        for n in 0..2000 {
            let (key, value) = (format!("key-{}", n % 1500).into(), vec![b'v'; 100].into());
            member.store().put(PutRequest { key, value, ..PutRequest::default() }).await.expect("written");
        }
        let lease = member.store().lease_grant(60, 7).await.expect("granted");
        member.store().compact(1000, true).await.expect("compacted");
        let alarm = mvcc::Alarm { member: 1, kind: AlarmKind::NoSpace };
        member.local().alarm(alarm, true).await.expect("raised");
        let mut stream = send(api.database());
        let (mut file, mut last) = (Vec::new(), u64::MAX);
        while let Some(part) = stream.next().await {
            let part = part.expect("no error");
            assert!(part.blob.len() == BLOB_BYTES || part.remaining_bytes == 0, "only the last may be short");
            assert!(part.remaining_bytes < last || part.blob.len() == 32);
            assert_eq!(part.version, "3.6.0");
            last = part.remaining_bytes;
            file.extend_from_slice(&part.blob);
        }
        assert_eq!(file.len() % 512, 32, "how etcdctl knows a snapshot");
        let to = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(to.path(), &file).expect("written");
        let restore = Restore { file: to.path().to_owned(), skip_hash_check: false, bump_revision: 0 };
        let restored = restore.read(Timestamp::from_unix_seconds(1)).expect("our own");
        let snapshot = api.database().snapshot;
        assert_eq!(restored.state().hash_kv(0), snapshot.hash_kv(0));
        assert_eq!(restored.marks(), snapshot.marks());
        let expect = mvcc::LeaseRecord { id: lease.id, ttl: 60, remaining_ttl: 0 };
        assert_eq!(restored.state().lease_records().collect::<Vec<_>>(), [expect]);
        assert_eq!(restored.state().alarms(), [alarm]);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_the_work() {
        let member = member();
        let database = Api { store: member.local() }.database();
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let made = tokio::task::spawn_blocking(move || make(&database, &sender)).await.expect("no panic");
        assert_eq!(made.expect_err("nobody listens").to_string(), "the client went away");
    }
}
