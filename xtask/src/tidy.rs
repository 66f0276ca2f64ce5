//! The rules of the house, as a test: which crate may depend on which, what core crates must not know, how long a file
//! may be. `docs/architecture.md` shows the same table as a picture.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Each crate with those of ours it may use. A new arrow needs a decision record.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("machinery", &["base"]),
    ("raft", &["base"]),
    ("mvcc", &["base"]),
    ("disk", &["base"]),
    ("facts", &[]),
    ("pki", &["disk", "base"]),
    ("cel", &["machinery", "base"]),
    ("registry", &["machinery", "cel", "facts", "base"]),
    ("policy", &["registry", "cel", "machinery", "base"]),
    ("controllers", &["registry", "machinery", "base"]),
    ("gke", &["policy", "machinery", "base"]),
    ("etcd", &["raft", "mvcc", "disk", "pki", "base"]),
    ("apiserver", &["registry", "policy", "etcd", "disk", "pki", "facts", "machinery", "base"]),
    ("manager", &["controllers", "apiserver", "pki", "registry", "policy", "machinery", "base"]),
    ("cloud", &["gke", "policy", "pki", "disk", "machinery", "base"]),
];

/// Crates that know no runtime, file, socket or clock.
const CORE: &[&str] =
    &["base", "machinery", "cel", "facts", "registry", "policy", "controllers", "gke", "raft", "mvcc"];

/// What a core crate must not name.
const FORBIDDEN_IN_CORE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "SystemTime",
    "std::time::Instant",
    "getrandom",
    "thread_rng",
];

/// Longer files want a seam; tables and generated code are exempt.
const FILE_LINES_MAX: usize = 900;

/// Where tests stand beside what they try: `[file](path): `name`, `name``.
const PAGE_OF_TESTS: &str = "docs/security.md";

/// Everything that breaks a rule, one line each; empty when tidy.
///
/// # Errors
/// When the tree cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    for directory in sorted(&root.join("crates"))? {
        let name = directory.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        check_arrows(&directory, &name, &allowed, &mut faults)?;
        for file in rust_files(&directory)? {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            check_file(&name, &shown, &text, &mut faults);
        }
    }
    let page = fs::read_to_string(root.join(PAGE_OF_TESTS)).context(PAGE_OF_TESTS)?;
    check_named_tests(&page, |path| fs::read_to_string(root.join("docs").join(path)).ok(), &mut faults);
    Ok(faults)
}

/// Tests that a page names are where it says.
fn check_named_tests(page: &str, read: impl Fn(&str) -> Option<String>, faults: &mut Vec<String>) {
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        for link in line.split("](").skip(1) {
            let Some((path, names)) = link.split_once("): ").filter(|(path, _)| path.ends_with(".rs")) else {
                continue;
            };
            let Some(text) = read(path) else {
                faults.push(format!("{PAGE_OF_TESTS}: there is no {path}"));
                continue;
            };
            for name in names.split('`').skip(1).step_by(2).take_while(|name| !name.ends_with(".rs")) {
                if !text.contains(&format!("fn {name}(")) {
                    faults.push(format!("{PAGE_OF_TESTS}: {path} has no test {name}"));
                }
            }
        }
    }
}

fn check_arrows(
    directory: &Path,
    name: &str,
    allowed: &BTreeMap<&str, &[&str]>,
    faults: &mut Vec<String>,
) -> Result<()> {
    if name == "pilothouse" {
        return Ok(());
    }
    let Some(below) = allowed.get(name) else {
        faults.push(format!("crates/{name}: not in the layer table of xtask/src/tidy.rs"));
        return Ok(());
    };
    let manifest = fs::read_to_string(directory.join("Cargo.toml"))?;
    for dependency in dependencies(&manifest) {
        if allowed.contains_key(dependency) && !below.contains(&dependency) {
            faults.push(format!("crates/{name}: must not depend on {dependency}"));
        }
        if CORE.contains(&name) && ["tokio", "axum", "hyper", "rustix"].contains(&dependency) {
            faults.push(format!("crates/{name}: a core crate must not depend on {dependency}"));
        }
    }
    Ok(())
}

/// The names under `[dependencies]` and `[build-dependencies]`; tests may use what they like.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if line.starts_with('[') {
            inside = matches!(line.trim(), "[dependencies]" | "[build-dependencies]");
            return None;
        }
        let end = line.find(['.', ' ', '='])?;
        (inside && !line.starts_with('#')).then(|| &line[..end])
    })
}

fn check_file(crate_name: &str, path: &str, text: &str, faults: &mut Vec<String>) {
    let generated = text.lines().take(3).any(|line| line.contains("@generated"));
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !generated {
        faults.push(format!("{path}: {lines} lines, {FILE_LINES_MAX} at most"));
    }
    let in_source = path.contains("/src/") && !["tests.rs", "scenarios.rs"].iter().any(|name| path.ends_with(name));
    if in_source && !generated && !text.starts_with("//!") {
        faults.push(format!("{path}: says nothing of what it is (start with //!)"));
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    if CORE.contains(&crate_name) && in_source {
        for word in FORBIDDEN_IN_CORE {
            if code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word)) {
                faults.push(format!("{path}: a core crate must not know {word}"));
            }
        }
    }
    if in_source && crate_name != "pilothouse" && crate_name != "base" && code.contains("Entropy::new(") {
        faults.push(format!("{path}: entropy is made by the binary alone"));
    }
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in sorted(directory)? {
        if entry.is_dir() {
            files.extend(rust_files(&entry)?);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            files.push(entry);
        }
    }
    Ok(files)
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_the_rules_of_the_house() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
        let faults = check(root).expect("the tree can be read");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
        let manifest = "[dependencies]\nbase.workspace = true\napiserver = { path = \"x\" }\n[dev-dependencies]\netcd.workspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["base", "apiserver"]);
        assert!(!allowed["machinery"].contains(&"apiserver"));
    }

    #[test]
    fn a_named_test_that_is_gone_is_found() {
        let page = "| S1 | [`a.rs`](../a.rs): `there`, `gone`; [`b.rs`](../b.rs): `there` |\n| S2 | [`c.rs`](../c.rs): `x` |\n";
        let read = |path: &str| (path != "../c.rs").then(|| "fn there() {}".to_owned());
        let mut faults = Vec::new();
        check_named_tests(page, read, &mut faults);
        let said = ["docs/security.md: ../a.rs has no test gone", "docs/security.md: there is no ../c.rs"];
        assert_eq!(faults, said);
    }

    #[test]
    fn a_core_crate_that_reads_files_is_found() {
        let mut faults = Vec::new();
        check_file("mvcc", "crates/mvcc/src/x.rs", "//! x\nuse std::fs::File;\n", &mut faults);
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}
