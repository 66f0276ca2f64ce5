//! The leader of three members is killed again and again: how long nobody can write.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd::{RemoteStore, Store};
use mvcc::PutRequest;
use tokio::process::{Child, Command};

use crate::phase::{Server, micros, now};

const ROUNDS: usize = 10;
const RETRY: Duration = Duration::from_millis(5);
/// One attempt; a member without a leader lets requests wait.
const ATTEMPT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// `commands` has a line for each endpoint: the shell command that starts its member.
pub(crate) async fn run(server: &Server, endpoints: &[String], commands: &Path) -> Result<()> {
    let lines: Vec<String> = std::fs::read_to_string(commands)?.lines().map(str::to_owned).collect();
    ensure!(lines.len() == endpoints.len(), "one command for each endpoint");
    let mut members = lines.iter().map(|line| start(line)).collect::<Result<Vec<_>>>()?;
    let connect = |endpoint: &String| RemoteStore::connect(std::slice::from_ref(endpoint), None).map(Store::Remote);
    let stores = endpoints.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let leader = settled_leader(&stores).await?;
        members[leader].kill().await?;
        let killed = now();
        write_somewhere(&stores, leader).await?;
        times.push(killed.elapsed());
        members[leader] = start(&lines[leader])?;
    }
    times.sort_unstable();
    server.say(
        "etcd, 3 members: median of 10 kills of the leader until a write",
        micros(times[ROUNDS / 2]) / 1000.0,
        "ms",
    );
    server.say(
        "etcd, 3 members: longest of 10 kills of the leader until a write",
        micros(times[ROUNDS - 1]) / 1000.0,
        "ms",
    );
    Ok(())
}

fn start(line: &str) -> Result<Child> {
    Command::new("sh").args(["-c", &format!("exec {line}")]).kill_on_drop(true).spawn().context("starting a member")
}

/// Waits until all members are there and of one mind.
async fn settled_leader(stores: &[Store]) -> Result<usize> {
    let settled = async {
        loop {
            let mut seen = Vec::new();
            for store in stores {
                match tokio::time::timeout(Duration::from_secs(1), store.status()).await {
                    Ok(Ok(status)) => seen.push(status),
                    _ => break,
                }
            }
            let leader = seen.iter().position(|status| status.member == status.leader);
            let agreed = seen.len() == stores.len() && seen.iter().all(|status| status.leader == seen[0].leader);
            if let (Some(leader), true) = (leader, agreed) {
                // The one that was away has to be up to date, or it could not be elected next.
                let behind = seen.iter().any(|status| status.raft_applied_index + 10 < seen[leader].raft_applied_index);
                if !behind && put(&stores[leader]).await {
                    return leader;
                }
            }
            tokio::time::sleep(ATTEMPT).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.context("the members do not agree on a leader")
}

async fn write_somewhere(stores: &[Store], dead: usize) -> Result<()> {
    let written = async {
        loop {
            for (_, store) in stores.iter().enumerate().filter(|(i, _)| *i != dead) {
                if put(store).await {
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.context("nobody can write")
}

async fn put(store: &Store) -> bool {
    let (key, value) = (Bytes::from_static(b"bench-failover"), Bytes::from_static(&crate::store::VALUE));
    let request = PutRequest { key, value, ..PutRequest::default() };
    matches!(tokio::time::timeout(ATTEMPT, store.put(request)).await, Ok(Ok(_)))
}
