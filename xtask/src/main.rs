//! The workspace's own chores: `cargo xtask facts | record | cel | tidy | protos`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

mod cel;
mod facts;
mod protos;
mod tidy;

const USAGE: &str =
    "cargo xtask facts    remake crates/facts/data and the protobuf samples from the published Go modules
cargo xtask record   record what a running kube-apiserver answers, under crates/registry/testdata/recorded
cargo xtask cel      record what the published CEL libraries make of crates/cel/testdata/expressions.txt
cargo xtask tidy     check the rules of the house
cargo xtask protos   remake generated code of .proto files";

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    match run(&task, &root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, root: &Path) -> Result<()> {
    match task {
        "facts" => facts::make(root),
        "record" => facts::record(root),
        "cel" => cel::record(root),
        "protos" => protos::etcd(root),
        "tidy" => {
            let faults = tidy::check(root)?;
            if !faults.is_empty() {
                bail!("{}", faults.join("\n"));
            }
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Tells the person at the terminal.
#[expect(clippy::print_stderr, reason = "a command line tool speaks to its terminal")]
fn say(text: &str) {
    eprintln!("{text}");
}
