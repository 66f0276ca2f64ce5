//! `cargo xtask facts` and `cargo xtask record`: run the Go program in xtask/facts-go, which reads the published
//! Kubernetes modules, and write down the file list of the set.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The one set there is so far.
const MINOR: &str = "1.33";

/// Remakes the data set, its file list and the protobuf samples.
pub(crate) fn make(root: &Path) -> Result<()> {
    let facts = root.join("crates/facts");
    let data = facts.join("data").join(MINOR);
    let testdata = facts.join("testdata/protobuf");
    let defaults = root.join("crates/registry/testdata/defaults");
    let [data_arg, testdata_arg, defaults_arg] = [&data, &testdata, &defaults].map(|path| path.display().to_string());
    go(root, &["-out", &data_arg, "-samples", &testdata_arg, "-defaults", &defaults_arg])?;
    let list = file_list(&data)?;
    fs::write(facts.join("src/set_1_33.rs"), list).context("writing the file list")
}

/// Records answers of the API server that `KUBECONFIG` names.
pub(crate) fn record(root: &Path) -> Result<()> {
    let recorded = root.join("crates/registry/testdata/recorded").display().to_string();
    go(root, &["-record", &recorded])
}

fn go(root: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new("go")
        .current_dir(root.join("xtask/facts-go"))
        .env("CGO_ENABLED", "0")
        .args(["run", "-trimpath", "-mod=mod", "."])
        .args(arguments)
        .status()
        .context("running go")?;
    if !status.success() {
        bail!("facts-go failed: {status}");
    }
    Ok(())
}

/// The Rust file that embeds every type file of a set.
fn file_list(data: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data.join("types")).context("reading the type files")? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().and_then(|n| n.strip_suffix(".txt")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    let mut text = format!(
        "//! The file list of the {MINOR} set, written by `cargo xtask facts`.\n\nuse crate::Set;\n\n/// Kubernetes {MINOR}.\n\
         pub(crate) static SET: Set = Set {{\n    minor: \"{MINOR}\",\n    types: &[\n"
    );
    for name in names {
        let short = name.replacen('-', "/", 1);
        writeln!(text, "        (\"{short}\", include_str!(\"../data/{MINOR}/types/{name}.txt\")),")?;
    }
    text.push_str("    ],\n");
    for field in ["resources", "groups", "features", "columns", "defaults", "bootstrap_rbac", "bootstrap_objects"] {
        let file = field.replace('_', "-");
        writeln!(text, "    {field}: include_str!(\"../data/{MINOR}/{file}.txt\"),")?;
    }
    text.push_str("};\n");
    Ok(text)
}
