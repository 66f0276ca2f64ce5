//! A node that joins, from its first certificate signing request to Ready.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use machinery::Value;
use tokio::sync::mpsc;

use crate::client::{Connection, Target};
use crate::phase::{Server, micros, now};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const NODES: &str = "/api/v1/nodes";
const JOINS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a watch said, and when.
struct Seen {
    path: &'static str,
    object: Value,
    at: Instant,
}

/// Runs `command` with one node more in `NODES` each time; prints the median time of joining.
///
/// # Errors
/// When the command fails, or the node is not ready in time.
pub(crate) async fn run(server: &Server, kubeconfig: &Path, command: &str) -> Result<()> {
    let target = Target::of(kubeconfig)?;
    let (say, mut seen) = mpsc::unbounded_channel();
    let mut known = BTreeSet::new();
    for path in [REQUESTS, NODES] {
        let mut connection = Connection::open(&target).await?;
        let (_, body) = connection.send("GET", path, String::new()).await?;
        let listed = Value::from_slice(&body)?;
        known = listed["items"].as_array().map(|items| items.iter().map(name).collect()).unwrap_or_default();
        let from = listed.str_at(&["metadata", "resourceVersion"]).to_owned();
        tokio::spawn(watch(connection, path, from, say.clone()));
    }
    let mut times = Vec::new();
    for _ in 0..JOINS {
        let wanted = known.len() + 1;
        let child = Command::new("sh").args(["-c", command]).env("NODES", wanted.to_string()).spawn()?;
        let joined = tokio::time::timeout(PATIENCE, joined(&mut seen, &mut known)).await;
        let status = tokio::task::spawn_blocking(move || child.wait_with_output()).await??.status;
        ensure!(status.success(), "{command}: {status}");
        times.push(joined.context("no node became ready")??);
    }
    times.sort_unstable();
    server.say("a node joins: first request to Ready", micros(times[times.len() / 2]) / 1000.0, "ms");
    Ok(())
}

async fn watch(
    mut connection: Connection,
    path: &'static str,
    from: String,
    say: mpsc::UnboundedSender<Seen>,
) -> Result<()> {
    let mut stream = connection.stream(&format!("{path}?watch=true&resourceVersion={from}")).await?;
    let mut waiting = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        waiting.extend_from_slice(&chunk);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            say.send(Seen { path, object: Value::from_slice(&line)?["object"].clone(), at: now() })?;
        }
    }
    Ok(())
}

/// Waits for the request of a node that is not known, and for that node to be ready.
async fn joined(seen: &mut mpsc::UnboundedReceiver<Seen>, known: &mut BTreeSet<String>) -> Result<Duration> {
    let mut began = None;
    loop {
        let Seen { path, object, at } = seen.recv().await.context("a watch ended")?;
        let began = match path {
            // What the last node asked for after it was ready.
            REQUESTS if object.str_at(&["spec", "username"]).starts_with("system:node:") => continue,
            REQUESTS => *began.get_or_insert(at),
            _ => began.unwrap_or(at),
        };
        if path == NODES && is_ready(&object) && known.insert(name(&object)) {
            return Ok(at - began);
        }
    }
}

fn name(object: &Value) -> String {
    object.str_at(&["metadata", "name"]).to_owned()
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map(|conditions| conditions.iter());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True")
}
