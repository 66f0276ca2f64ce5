//! ConfigMaps of 1 KiB: created, read, updated, listed and watched.

use std::path::Path;

use anyhow::{Result, ensure};
use machinery::Value;

use crate::client::{Connection, Target};
use crate::phase::{Server, Worker, micros, now};
use crate::watch;

const VALUE_BYTES: usize = 1024;
const LIST_OBJECTS: usize = 10_000;
const LISTS: usize = 10;
const PAGE: usize = 500;
const NAMESPACE: &str = "bench";

/// Method, path and body.
type Request = (&'static str, String, String);

struct ConfigMaps {
    connection: Connection,
    worker: usize,
    request: fn(usize, u64) -> Request,
}

impl Worker for ConfigMaps {
    async fn operate(&mut self, i: u64) -> Result<bool> {
        let (method, path, body) = (self.request)(self.worker, i);
        let (status, _) = self.connection.send(method, &path, body).await?;
        Ok((200..300).contains(&status))
    }
}

pub(crate) async fn run(server: &Server, kubeconfig: &Path) -> Result<()> {
    let target = Target::of(kubeconfig)?;
    namespace(&mut Connection::open(&target).await?, NAMESPACE).await?;
    for workers in [1, 16] {
        server.phase("create ConfigMap 1 KiB", config_maps(&target, workers, create).await?).await?;
        server.phase("get ConfigMap 1 KiB", config_maps(&target, workers, get).await?).await?;
        server.phase("update ConfigMap 1 KiB", config_maps(&target, workers, update).await?).await?;
    }
    fill(&target).await?;
    // A connection that waited through all that may have been closed for idling.
    lists(server, &mut Connection::open(&target).await?).await?;
    watch::run(server, &target).await
}

/// Makes a namespace, if it is not there yet.
pub(crate) async fn namespace(connection: &mut Connection, name: &str) -> Result<()> {
    let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
    let status = connection.send("POST", "/api/v1/namespaces", body).await?.0;
    ensure!(status == 201 || status == 409, "namespace: {status}");
    Ok(())
}

async fn config_maps(target: &Target, workers: usize, request: fn(usize, u64) -> Request) -> Result<Vec<ConfigMaps>> {
    let mut made = Vec::new();
    for worker in 0..workers {
        let connection = Connection::open(target).await?;
        // Names of phases with other numbers of workers must not meet.
        made.push(ConfigMaps { connection, worker: worker + workers * 1000, request });
    }
    Ok(made)
}

fn create(worker: usize, i: u64) -> Request {
    ("POST", collection(NAMESPACE), config_map(&format!("c-{worker}-{i}"), i))
}

fn get(worker: usize, _: u64) -> Request {
    ("GET", format!("{}/c-{worker}-0", collection(NAMESPACE)), String::new())
}

fn update(worker: usize, i: u64) -> Request {
    let name = format!("c-{worker}-0");
    ("PUT", format!("{}/{name}", collection(NAMESPACE)), config_map(&name, i))
}

pub(crate) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

pub(crate) fn config_map(name: &str, i: u64) -> String {
    let data = format!("{i:x>VALUE_BYTES$}");
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{data}"}}}}"#)
}

async fn fill(target: &Target) -> Result<()> {
    let mut tasks = Vec::new();
    for worker in 0..16 {
        let mut connection = Connection::open(target).await?;
        tasks.push(tokio::spawn(async move {
            for i in (worker..LIST_OBJECTS).step_by(16) {
                let labelled = "\"labels\":{\"bench\":\"list\"},\"name\"";
                let body = config_map(&format!("list-{i}"), 0).replace("\"name\"", labelled);
                connection.send("POST", &collection(NAMESPACE), body).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn lists(server: &Server, connection: &mut Connection) -> Result<()> {
    let whole = format!("{}?labelSelector=bench%3Dlist", collection(NAMESPACE));
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let sent = now();
        let (status, body) = connection.send("GET", &whole, String::new()).await?;
        ensure!(status == 200 && body.len() > LIST_OBJECTS * VALUE_BYTES, "list: {status}, {} bytes", body.len());
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    server.say("list of 10,000 x 1 KiB, whole: p50", micros(times[LISTS / 2]) / 1000.0, "ms");
    let sent = now();
    let mut token = String::new();
    loop {
        let page = format!("{whole}&limit={PAGE}&continue={token}");
        let (status, body) = connection.send("GET", &page, String::new()).await?;
        ensure!(status == 200, "page: {status}");
        token = Value::from_slice(&body)?.str_at(&["metadata", "continue"]).to_owned();
        if token.is_empty() {
            break;
        }
    }
    server.say("list of 10,000 x 1 KiB, pages of 500", micros(sent.elapsed()) / 1000.0, "ms");
    Ok(())
}
