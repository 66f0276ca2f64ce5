//! An etcd with a great many keys: what it holds in memory, and how long its readers wait while it compacts and
//! defragments.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use etcd::{RemoteStore, Store};
use mvcc::{PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::phase::{Server, micros, now};
use crate::process;

/// etcd takes 128 operations in a transaction.
const BATCH: usize = 100;
const WRITERS: usize = 32;
const READERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(server: &Server, endpoint: &str, keys: usize) -> Result<()> {
    let store = Store::Remote(RemoteStore::connect(&[endpoint.to_owned()], None)?);
    let label = format!("etcd, {keys} keys of 256 B");
    let began = now();
    fill(&store, keys).await?;
    server.say(&format!("{label}: filling"), began.elapsed().as_secs_f64() * 1000.0, "ms");
    server.say(&format!("{label}: memory (PSS)"), process::pss_bytes(&server.pids)? as f64 / 1_048_576.0, "MiB");
    // A tenth of the keys gets another value, so that there is something to compact.
    fill(&store, keys / 10).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> =
        (0..READERS).map(|i| tokio::spawn(read(store.clone(), i * keys / READERS, stop.clone()))).collect();
    let revision = store.current_revision().await?;
    wait_for(endpoint, "kv/compaction", &format!("{{\"revision\": {revision}, \"physical\": true}}")).await?;
    wait_for(endpoint, "maintenance/defragment", "{}").await?;
    stop.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for reader in readers {
        longest = longest.max(reader.await??);
    }
    server.say(&format!("{label}: longest read while compacting and defragmenting"), micros(longest) / 1000.0, "ms");
    Ok(())
}

fn key(number: usize) -> Bytes {
    format!("/registry/bench/{number:09}").into()
}

async fn fill(store: &Store, keys: usize) -> Result<()> {
    let writer = |writer: usize| {
        let store = store.clone();
        async move {
            for from in (writer * BATCH..keys).step_by(WRITERS * BATCH) {
                let put = |number| {
                    let value = Bytes::from_static(&crate::store::VALUE);
                    RequestOp::Put(PutRequest { key: key(number), value, ..PutRequest::default() })
                };
                let success = (from..keys.min(from + BATCH)).map(put).collect();
                store.txn(TxnRequest { compare: Vec::new(), success, failure: Vec::new() }).await?;
            }
            anyhow::Ok(())
        }
    };
    for task in (0..WRITERS).map(|w| tokio::spawn(writer(w))).collect::<Vec<_>>() {
        task.await??;
    }
    Ok(())
}

/// The longest time of one linearizable read until told to stop.
async fn read(store: Store, number: usize, stop: Arc<AtomicBool>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let sent = now();
        // A server that does nothing else meanwhile lets requests time out: whoever reads goes on trying.
        loop {
            match store.range(RangeRequest::key(key(number))).await {
                Ok(found) => break ensure!(found.kvs.len() == 1, "a key is missing"),
                Err(error) => ensure!(sent.elapsed() < PATIENCE, "{error}"),
            }
        }
        longest = longest.max(sent.elapsed());
    }
    Ok(longest)
}

/// Asks through the JSON gateway, which both have, as it may take longer than a client of gRPC waits.
async fn wait_for(endpoint: &str, call: &str, request: &str) -> Result<()> {
    let url = format!("{endpoint}/v3/{call}");
    let status = tokio::process::Command::new("curl")
        .args(["-sf", "-m", "120", "-d", request, &url])
        .stdout(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "{call}: {status}");
    Ok(())
}
