//! `cargo xtask cel`: runs the Go program in xtask/cel-go, which evaluates crates/cel/testdata/expressions.txt with the
//! published libraries, and writes what they say beside it.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Records anew.
pub(crate) fn record(root: &Path) -> Result<()> {
    let data = root.join("crates/cel/testdata");
    let expressions = File::open(data.join("expressions.txt")).context("the expressions")?;
    let recorded = File::create(data.join("recorded.jsonl")).context("the record")?;
    let status = Command::new("go")
        .current_dir(root.join("xtask/cel-go"))
        .env("CGO_ENABLED", "0")
        .args(["run", "-trimpath", "-mod=mod", "."])
        .stdin(expressions)
        .stdout(recorded)
        .status()
        .context("running go")?;
    if !status.success() {
        bail!("cel-go failed: {status}");
    }
    Ok(())
}
