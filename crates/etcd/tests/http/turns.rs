//! Who takes the state's turns must not be felt by anybody.

use std::sync::Arc;

use disk::{DataKey, RealDisk};
use etcd::{MemberConfig, RemoteStore, Storage, Store};
use mvcc::PutRequest;

use super::rig::{Rig, entropy};

const CONNECTIONS: usize = 8;
const WRITERS: usize = 64;
const LONE_WRITES: usize = 40;
const WRITES_EACH: usize = 20;

async fn write(store: Store, writer: usize, writes: usize) {
    for n in 0..writes {
        let key = format!("{writer}/{n}").into();
        store.put(PutRequest { key, value: "v".into(), ..PutRequest::default() }).await.expect("written");
    }
}

/// One writer alone for a while, then many at once.
async fn write_all(endpoint: String) {
    let connect = |_| RemoteStore::connect(std::slice::from_ref(&endpoint), None).map(Store::Remote);
    let stores = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>().expect("an endpoint");
    write(stores[0].clone(), WRITERS, LONE_WRITES).await;
    let writer = |n: usize| tokio::spawn(write(stores[n % CONNECTIONS].clone(), n, WRITES_EACH));
    for writer in (0..WRITERS).map(writer).collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
}

/// The member has one thread for all its clients here: while a turn is taken on it, it sees no other writer.
#[tokio::test]
async fn writers_that_come_after_a_lone_one_share_their_syncs() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = DataKey::generate("cluster/test/instance/test", &entropy());
    let storage = Storage { dir: dir.path().to_owned(), disk: Arc::new(RealDisk), key, view: true };
    let rig = Rig::with(|config| MemberConfig { storage: Some(storage), ..config }).await;
    let endpoint = rig.base.clone();
    let clients = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::spawn_blocking(move || clients().block_on(write_all(endpoint))).await.expect("no panic");
    let (_, page) = rig.get("/metrics").await;
    let syncs = page.lines().find_map(|line| line.strip_prefix("etcd_disk_wal_fsync_duration_seconds_count "));
    let syncs: usize = syncs.expect("counted").parse().expect("a number");
    assert!(syncs >= LONE_WRITES, "each write of the lone one was synced for itself: {syncs}");
    assert!(syncs < WRITERS * WRITES_EACH / 2, "{syncs} syncs");
}
