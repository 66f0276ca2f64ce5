//! Load for a Kubernetes API server or an etcd, ours or the real one: the same requests, the same figures.
//!
//! Each measuring command prints one line a measure, tab separated: server, measure, value, unit. `bench table` makes a
//! Markdown table of such lines, the median where a measure was taken several times. `tests/bench/run.sh` drives it all.

mod client;
mod kubernetes;
mod phase;
mod process;
mod rollout;
mod store;
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
    /// Put and range 256-byte values in an etcd
    Store(Store),
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
struct Store {
    #[command(flatten)]
    measured: Measured,
    /// `http://host:port` of each member
    #[arg(long = "endpoint", value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
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
        Cli::Store(store) => runtime.block_on(store::run(&store.measured.server(), &store.endpoints)),
        Cli::Idle(idle) => idle.measured.server().idle(),
        Cli::Table { files } => {
            println!("{}", table::of(&files)?);
            Ok(())
        }
    }
}
