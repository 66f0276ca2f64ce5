//! `--restore`, as a user runs it: a real etcd's snapshot becomes a directory that a member starts on.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base::{Clock, Entropy, FakeClock, Rng, Timestamp};
use bytes::Bytes;
use disk::{DataDir, Identity, Platform, RealDisk};
use etcd::{Member, MemberConfig, RangeRequest, Storage, Store, StoreError};

const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/etcd-3.6.16.snapshot");

fn entropy() -> Entropy {
    let rng = Mutex::new(Rng::new(1));
    Entropy::new(move |buffer| {
        let mut rng = rng.lock().expect("no panic while it is held");
        buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
    })
}

fn clock() -> Clock {
    FakeClock::new(Timestamp::from_unix_seconds(1000)).clock()
}

async fn restore(dir: &Path, more: &[&str]) -> Result<(), String> {
    let mut args = vec![format!("--data-dir={}", dir.display()), format!("--restore={REAL}")];
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let command =
        etcd::command(args.into_iter().map(Into::into).collect(), |_| None).map_err(|refusal| refusal.text)?;
    etcd::run_command(command, clock(), entropy(), std::future::pending()).await.map_err(|error| error.to_string())
}

/// Starts a member on a directory as the command makes it.
fn start(dir: &Path) -> (Member, DataDir) {
    let platform = Platform::open(&dir.join("platform"), entropy()).expect("a key");
    let identity = Identity { cluster_id: "etcd-cluster".to_owned(), instance_id: "default".to_owned() };
    let opened = DataDir::open(&dir.join("member"), &identity, &platform).expect("it was made");
    let (key, path) = (opened.data_key().clone(), opened.path().to_owned());
    let storage = Storage { dir: path, disk: Arc::new(RealDisk), key, view: true };
    let config = MemberConfig { storage: Some(storage), ..MemberConfig::new("default", clock(), entropy()) };
    (Member::start(config).expect("it starts"), opened)
}

async fn value(store: &Store, key: &'static str, revision: i64) -> Result<Option<Bytes>, StoreError> {
    let found = store.range(RangeRequest { revision, ..RangeRequest::key(key) }).await?;
    Ok(found.kvs.into_iter().next().map(|kv| kv.value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_history_and_leases_of_a_real_etcd_are_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    restore(&data, &[]).await.expect("restored");
    let refused = restore(&data, &[]).await.expect_err("there is something now");
    assert_eq!(refused, format!("data-dir {data:?} not empty or could not be read"));
    let id = 0x390d_a215_7319_0704;
    for life in 0..2 {
        let (member, _lock) = start(&data);
        let store = member.store();
        let text = |text: &'static str| Ok(Some(Bytes::from_static(text.as_bytes())));
        assert_eq!(value(&store, "key-100", 0).await, text("fourth"));
        assert_eq!(value(&store, "key-100", 4).await, text("second"));
        assert_eq!(value(&store, "key-150", 5).await, text("value-150"));
        assert_eq!(
            (value(&store, "key-101", 0).await, value(&store, "key-101", 5).await),
            (Ok(None), text("value-101"))
        );
        assert_eq!(value(&store, "key-100", 3).await, Err(StoreError::Compacted { revision: 4 }));
        let lease = store.lease_time_to_live(id, true).await.expect("readable");
        assert_eq!((lease.granted_ttl, lease.keys), (600, vec![Bytes::from_static(b"leased")]));
        let put = etcd::PutRequest { key: "new".into(), value: "x".into(), ..etcd::PutRequest::default() };
        assert_eq!(store.put(put).await.expect("written").revision, 10 + life);
        member.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bumped_revision_never_goes_back_and_has_no_past() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(
        restore(dir.path(), &["--bump-revision=1000"]).await,
        Err("--mark-compacted required if --revision-bump > 0".to_owned())
    );
    restore(dir.path(), &["--bump-revision=1000", "--mark-compacted"]).await.expect("restored");
    let (member, _lock) = start(dir.path());
    let store = member.store();
    assert_eq!(store.current_revision().await, Ok(1009));
    assert_eq!(value(&store, "key-100", 1008).await, Err(StoreError::Compacted { revision: 1009 }));
    let all = store.range(RangeRequest::prefix("key-")).await.expect("readable");
    assert_eq!(all.count, 118);
}
