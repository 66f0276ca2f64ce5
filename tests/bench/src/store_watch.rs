//! Many watchers of an etcd: how fast each of them gets each event, all at once and at a calm pace.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd::{RemoteStore, Store, Watch, WatchRequest, prefix_end};
use mvcc::PutRequest;

use crate::phase::{Server, micros, now};
use crate::process;

const WATCHERS: usize = 100;
const EVENTS: usize = 1000;
/// 50 events a second, for as long as it takes to have ten above the 99th percentile: slow syncs are rare and decide it.
const PACE: Duration = Duration::from_millis(20);
const PACED_EVENTS: usize = 1000;
const CONNECTIONS: usize = 8;
const WRITERS: usize = 16;
const PREFIX: &[u8] = b"bench-watch/";

pub(crate) async fn run(server: &Server, endpoint: &str) -> Result<()> {
    let connect = |_| RemoteStore::connect(&[endpoint.to_owned()], None).map(Store::Remote);
    let stores = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>()?;
    all_at_once(server, &stores).await?;
    paced(server, &stores).await
}

async fn watchers(stores: &[Store]) -> Result<Vec<Watch>> {
    let start_revision = stores[0].current_revision().await? + 1;
    let mut watches = Vec::new();
    for i in 0..WATCHERS {
        let request = WatchRequest {
            key: Bytes::from_static(PREFIX),
            range_end: prefix_end(PREFIX),
            start_revision,
            prev_kv: false,
            progress_notify: false,
        };
        watches.push(stores[i % stores.len()].watch(request).await?);
    }
    Ok(watches)
}

fn event(key: usize) -> PutRequest {
    let key = [PREFIX, key.to_string().as_bytes()].concat();
    PutRequest { key: key.into(), value: Bytes::from_static(&crate::store::VALUE), ..PutRequest::default() }
}

async fn all_at_once(server: &Server, stores: &[Store]) -> Result<()> {
    let readers: Vec<_> = watchers(stores)
        .await?
        .into_iter()
        .map(|mut watch| {
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < EVENTS {
                    seen += watch.next().await.context("a watch ended")??.events.len();
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let (cpu, began) = (process::cpu_seconds(&server.pids)?, now());
    let writers = (0..WRITERS).map(|writer| {
        let store = stores[writer % stores.len()].clone();
        tokio::spawn(async move {
            for i in (writer..EVENTS).step_by(WRITERS) {
                store.put(event(i)).await?;
            }
            anyhow::Ok(())
        })
    });
    for task in writers.collect::<Vec<_>>().into_iter().chain(readers) {
        task.await??;
    }
    let deliveries = (WATCHERS * EVENTS) as f64;
    let used = process::cpu_seconds(&server.pids)? - cpu;
    server.say(
        "etcd watch, 100 watchers x 1,000 events: deliveries",
        deliveries / began.elapsed().as_secs_f64(),
        "per s",
    );
    server.say("etcd watch, 100 watchers x 1,000 events: server CPU a delivery", used * 1e6 / deliveries, "µs");
    Ok(())
}

async fn paced(server: &Server, stores: &[Store]) -> Result<()> {
    let mut readers = Vec::new();
    for mut watch in watchers(stores).await? {
        readers.push(tokio::spawn(async move {
            let mut arrived = Vec::new();
            while arrived.len() < PACED_EVENTS {
                let events = watch.next().await.context("a watch ended")??.events.len();
                arrived.extend(std::iter::repeat_n(now(), events));
            }
            anyhow::Ok(arrived)
        }));
    }
    let mut sent = Vec::new();
    let mut turns = tokio::time::interval(PACE);
    for i in 0..PACED_EVENTS {
        turns.tick().await;
        sent.push(now());
        stores[0].put(event(i)).await?;
    }
    let mut times = Vec::new();
    for reader in readers {
        times.extend(reader.await??.iter().zip(&sent).map(|(arrived, sent)| *arrived - *sent));
    }
    times.sort_unstable();
    for percentile in [50, 99] {
        let label = format!("etcd watch, 100 watchers, 50 events/s: p{percentile} from put to watcher");
        server.say(&label, micros(times[times.len() * percentile / 100]), "µs");
    }
    Ok(())
}
