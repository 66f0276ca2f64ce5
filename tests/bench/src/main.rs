//! Load for a Kubernetes API server or an etcd, ours or the real one: the same requests, the same figures.
//!
//! Each measuring command prints one line a measure, tab separated: server, measure, value, unit. `bench table` makes a
//! Markdown table of such lines, the median where a measure was taken several times. `tests/bench/run.sh` drives it all.

mod access;
mod client;
mod connect;
mod disk;
mod failover;
mod join;
mod keys;
mod kubernetes;
mod loopback;
mod phase;
mod process;
mod ready;
mod rollout;
mod store;
mod store_watch;
mod table;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser};

use phase::Server;

#[derive(Parser)]
enum Cli {
    /// Create, get, update, list and watch ConfigMaps
    Load(Load),
    /// The time from a Deployment of 500 to all its pods running
    Rollout(Load),
    /// The time from a node's first certificate signing request to Ready
    Join(Join),
    /// Put and range 256-byte values in an etcd
    Store(Store),
    /// Fill an etcd with keys; its memory, and how long reads wait while it compacts and defragments
    Keys(Keys),
    /// Start three members and kill the leader ten times: the time without one
    Failover(Failover),
    /// Start an etcd: the time until it is healthy, and its memory then
    Ready(Ready),
    /// Open connections that are turned away once they were looked at
    Connect(Connect),
    /// Append to a file and sync it, as the least that a durable write takes
    Disk(Disk),
    /// Send packets to and fro on loopback, as the least that any call can take
    Loopback(Loopback),
    /// Decisions of RBAC, and the authentication of credentials that were seen before, in this process
    Access(Access),
    /// Memory and CPU of processes that have nothing to do
    Idle(Idle),
    /// Make a table of measured lines
    Table {
        /// Files of lines that the other commands printed
        files: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Measured {
    /// The name in the table
    #[arg(long)]
    server: String,
    /// The server's processes
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Of each measure
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    measured: Measured,
    #[arg(long)]
    kubeconfig: PathBuf,
}

#[derive(Args)]
struct Join {
    #[command(flatten)]
    load: Load,
    /// The shell command that makes the nodes `$NODES`
    #[arg(long)]
    command: String,
}

#[derive(Args)]
struct Store {
    #[command(flatten)]
    measured: Measured,
    /// `http://host:port` of each member
    #[arg(long = "endpoint", value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
}

#[derive(Args)]
struct Keys {
    #[command(flatten)]
    store: Store,
    #[arg(long, default_value_t = 1_000_000)]
    count: usize,
}

#[derive(Args)]
struct Failover {
    #[command(flatten)]
    store: Store,
    /// A line for each endpoint: the shell command that starts its member
    #[arg(long)]
    commands: PathBuf,
}

#[derive(Args)]
struct Ready {
    #[command(flatten)]
    store: Store,
    /// What is measured, in the table
    #[arg(long)]
    label: String,
    /// The shell command that starts it
    #[arg(long)]
    command: String,
}

#[derive(Args)]
struct Connect {
    #[command(flatten)]
    measured: Measured,
    /// `ip:port` of a server that speaks TLS
    #[arg(long)]
    address: std::net::SocketAddr,
    /// What is measured, in the table
    #[arg(long)]
    label: String,
}

#[derive(Args)]
struct Disk {
    #[command(flatten)]
    measured: Measured,
    /// On the disk that the servers use
    #[arg(long)]
    directory: PathBuf,
}

#[derive(Args)]
struct Loopback {
    #[command(flatten)]
    measured: Measured,
}

#[derive(Args)]
struct Access {
    #[command(flatten)]
    measured: Measured,
}

#[derive(Args)]
struct Idle {
    #[command(flatten)]
    measured: Measured,
}

impl Measured {
    fn server(self) -> Server {
        Server { name: self.server, pids: self.pids, duration: Duration::from_secs(self.seconds) }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Cli::parse() {
        Cli::Load(load) => runtime.block_on(kubernetes::run(&load.measured.server(), &load.kubeconfig)),
        Cli::Rollout(load) => runtime.block_on(rollout::run(&load.measured.server(), &load.kubeconfig)),
        Cli::Join(Join { load, command }) => {
            runtime.block_on(join::run(&load.measured.server(), &load.kubeconfig, &command))
        }
        Cli::Store(store) => {
            let server = store.measured.server();
            // One client alone would measure how its runtime's threads wake each other.
            let alone = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            alone.block_on(store::run(&server, &store.endpoints, 1))?;
            runtime.block_on(store::run(&server, &store.endpoints, 100))?;
            match &store.endpoints[..] {
                [endpoint] => runtime.block_on(store_watch::run(&server, endpoint)),
                _ => Ok(()),
            }
        }
        Cli::Keys(keys) => {
            let server = keys.store.measured.server();
            runtime.block_on(keys::run(&server, &keys.store.endpoints[0], keys.count))
        }
        Cli::Failover(failover) => {
            let Store { measured, endpoints } = failover.store;
            runtime.block_on(failover::run(&measured.server(), &endpoints, &failover.commands))
        }
        Cli::Ready(Ready { store, label, command }) => {
            ready::run(&store.measured.server(), &store.endpoints[0], &label, &command)
        }
        Cli::Connect(Connect { measured, address, label }) => {
            runtime.block_on(connect::run(&measured.server(), address, &label))
        }
        Cli::Disk(disk) => disk::run(&disk.measured.server(), &disk.directory),
        Cli::Loopback(loopback) => loopback::run(&loopback.measured.server()),
        Cli::Access(access) => runtime.block_on(access::run(&access.measured.server())),
        Cli::Idle(idle) => idle.measured.server().idle(),
        Cli::Table { files } => {
            println!("{}", table::of(&files)?);
            Ok(())
        }
    }
}
