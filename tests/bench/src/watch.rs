//! Many watchers of one namespace: what it costs the server to bring each of them each event.

use anyhow::{Context, Result, ensure};
use machinery::Value;

use crate::client::{Connection, Target};
use crate::kubernetes::{collection, config_map, namespace};
use crate::phase::{Server, micros, now};
use crate::process;

const WATCHERS: usize = 100;
const EVENTS: usize = 1000;
const NAMESPACE: &str = "bench-watch";
/// Controllers put their own ConfigMap into each namespace; watchers look at ours.
const LABELLED: &str = "\"labels\":{\"bench\":\"watch\"},\"name\"";

pub(crate) async fn run(server: &Server, target: &Target) -> Result<()> {
    let mut writer = Connection::open(target).await?;
    namespace(&mut writer, NAMESPACE).await?;
    let selected = format!("{}?labelSelector=bench%3Dwatch", collection(NAMESPACE));
    let (_, body) = writer.send("GET", &selected, String::new()).await?;
    let listed = Value::from_slice(&body)?;
    let version = listed.str_at(&["metadata", "resourceVersion"]);
    let path = format!("{selected}&watch=true&resourceVersion={version}");
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut connection = Connection::open(target).await?;
        let mut stream = connection.stream(&path).await?;
        watchers.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let chunk = stream.chunk().await?.context("the watch ended")?;
                seen += chunk.iter().filter(|byte| **byte == b'\n').count();
            }
            anyhow::Ok(connection)
        }));
    }
    let (cpu, began) = (process::cpu_seconds(&server.pids)?, now());
    for i in 0..EVENTS {
        let body = config_map(&format!("w-{}-{i}", version), 0).replace("\"name\"", LABELLED);
        let (status, _) = writer.send("POST", &collection(NAMESPACE), body).await?;
        ensure!(status == 201, "create: {status}");
    }
    for watcher in watchers {
        watcher.await??;
    }
    let took = began.elapsed();
    let used = process::cpu_seconds(&server.pids)? - cpu;
    let deliveries = (WATCHERS * EVENTS) as f64;
    server.say("watch, 100 watchers x 1,000 events: whole", micros(took) / 1000.0, "ms");
    server.say("watch, 100 watchers x 1,000 events: server CPU a delivery", used * 1e6 / deliveries, "µs");
    Ok(())
}
