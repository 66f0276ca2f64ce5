//! Load for a Kubernetes API server, ours or the real one: the same requests, the same figures.
//!
//! `bench load` prints one line a measure, tab separated: server, measure, value, unit. `bench table` makes a Markdown
//! table of such lines, the median where a measure was taken several times. `tests/bench/run.sh` drives both.

mod client;
mod process;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;

use client::{Connection, Target};

/// ConfigMaps of this many bytes of data.
const VALUE_BYTES: usize = 1024;
const LIST_OBJECTS: usize = 10_000;
const PAGE: usize = 500;
const NAMESPACE: &str = "bench";

#[derive(Parser)]
enum Cli {
    /// Create, get and list ConfigMaps
    Load(Load),
    /// Memory and CPU of processes that have nothing to do
    Idle(Idle),
    /// Make a table of measured lines
    Table {
        /// Files of lines that `load` and `idle` printed
        files: Vec<PathBuf>,
    },
}

#[derive(Parser)]
struct Load {
    /// The name in the table
    #[arg(long)]
    server: String,
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The server's processes
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Of each measure
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[derive(Parser)]
struct Idle {
    #[arg(long)]
    server: String,
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Load(load) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(run(&load))
        }
        Cli::Idle(idle) => measure_idle(&idle),
        Cli::Table { files } => {
            println!("{}", table::of(&files)?);
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn say(server: &str, measure: &str, value: f64, unit: &str) {
    println!("{server}\t{measure}\t{value:.1}\t{unit}");
}

fn measure_idle(idle: &Idle) -> Result<()> {
    let before = process::cpu_seconds(&idle.pids)?;
    std::thread::sleep(Duration::from_secs(idle.seconds));
    let used = process::cpu_seconds(&idle.pids)? - before;
    say(&idle.server, "memory idle (PSS)", process::pss_bytes(&idle.pids)? as f64 / 1_048_576.0, "MiB");
    say(&idle.server, "CPU idle", used / idle.seconds as f64 * 100.0, "% of a core");
    Ok(())
}

async fn run(load: &Load) -> Result<()> {
    let target = Arc::new(Target::of(&load.kubeconfig)?);
    let mut first = Connection::open(&target).await?;
    let namespace = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{NAMESPACE}"}}}}"#);
    let status = first.send("POST", "/api/v1/namespaces", namespace).await?.0;
    ensure!(status == 201 || status == 409, "namespace: {status}");
    for workers in [1, 16] {
        phase(load, &target, workers, "create", create).await?;
        phase(load, &target, workers, "get", |worker, _| ("GET", path(&format!("c-create-{worker}-0")), String::new()))
            .await?;
    }
    fill(&target).await?;
    lists(load, &mut first).await
}

type Request = (&'static str, String, String);

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")
}

fn config_map(name: &str) -> String {
    let data = "x".repeat(VALUE_BYTES);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{data}"}}}}"#)
}

fn create(worker: usize, i: u64) -> Request {
    let name = format!("c-create-{worker}-{i}");
    ("POST", format!("/api/v1/namespaces/{NAMESPACE}/configmaps"), config_map(&name))
}

/// Workers send one request after another for some seconds.
async fn phase(
    load: &Load,
    target: &Arc<Target>,
    workers: usize,
    name: &str,
    request: fn(usize, u64) -> Request,
) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicU64::new(0));
    let cpu = process::cpu_seconds(&load.pids)?;
    let began = now();
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let (target, stop, refused) = (Arc::clone(target), Arc::clone(&stop), Arc::clone(&refused));
            // Names of different phases must not meet.
            let worker = worker + workers * 1000;
            tokio::spawn(async move {
                let mut connection = Connection::open(&target).await?;
                let mut times = Vec::new();
                for i in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (method, path, body) = request(worker, i);
                    let sent = now();
                    let (status, _) = connection.send(method, &path, body).await?;
                    if !(200..300).contains(&status) {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    times.push(sent.elapsed());
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let refused = refused.load(Ordering::Relaxed);
    ensure!(refused == 0, "{name}: {refused} of {} requests were refused", times.len());
    times.sort_unstable();
    let label = format!("{name} ConfigMap 1 KiB, {workers} client{}", if workers == 1 { "" } else { "s" });
    let used = process::cpu_seconds(&load.pids)? - cpu;
    say(&load.server, &format!("{label}: rate"), times.len() as f64 / began.elapsed().as_secs_f64(), "per s");
    say(&load.server, &format!("{label}: p50"), micros(times[times.len() / 2]), "µs");
    say(&load.server, &format!("{label}: server CPU"), used * 1e6 / times.len() as f64, "µs");
    Ok(())
}

async fn fill(target: &Arc<Target>) -> Result<()> {
    let tasks = (0..16).map(|worker| {
        let target = Arc::clone(target);
        tokio::spawn(async move {
            let mut connection = Connection::open(&target).await?;
            for i in (worker..LIST_OBJECTS).step_by(16) {
                let body =
                    config_map(&format!("list-{i}")).replace("\"name\"", "\"labels\":{\"bench\":\"list\"},\"name\"");
                connection.send("POST", &format!("/api/v1/namespaces/{NAMESPACE}/configmaps"), body).await?;
            }
            anyhow::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(())
}

async fn lists(load: &Load, connection: &mut Connection) -> Result<()> {
    let whole = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?labelSelector=bench%3Dlist");
    let mut times = Vec::new();
    for _ in 0..10 {
        let sent = now();
        let (status, body) = connection.send("GET", &whole, String::new()).await?;
        ensure!(status == 200 && body.len() > LIST_OBJECTS * VALUE_BYTES, "list: {status}, {} bytes", body.len());
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    say(&load.server, "list of 10,000 x 1 KiB, whole: p50", micros(times[5]) / 1000.0, "ms");
    let sent = now();
    let mut token = String::new();
    loop {
        let (status, body) =
            connection.send("GET", &format!("{whole}&limit={PAGE}&continue={token}"), String::new()).await?;
        ensure!(status == 200, "page: {status}");
        let page = machinery::Value::from_slice(&body)?;
        token = page.str_at(&["metadata", "continue"]).to_owned();
        if token.is_empty() {
            break;
        }
    }
    say(&load.server, "list of 10,000 x 1 KiB, pages of 500", micros(sent.elapsed()) / 1000.0, "ms");
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}
