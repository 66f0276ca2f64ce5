//! Collects the descriptions `kubectl explain` shows from the source of the k8s-openapi crate, where cargo has it.
//!
//! The crate is a dependency of no target (`cfg(any())`): `cargo fetch` brings its source, pinned by Cargo.lock, and
//! it is never compiled. Without the source the descriptions are empty and everything else works.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// As in Cargo.toml.
const SOURCE: &str = "k8s-openapi-0.29.0";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_HOME");
    let mut prose = BTreeMap::new();
    if let Some(source) = source() {
        collect(&source.join("src/v1_33"), &mut prose);
    }
    let text: String = prose.iter().map(|(key, text)| format!("{key}\t{text}\n")).collect();
    let out = env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets OUT_DIR");
    fs::write(out.join("prose.txt"), text).expect("OUT_DIR can be written");
}

/// Where cargo unpacked the crate.
fn source() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    let found = registries.flatten().map(|entry| entry.path().join(SOURCE)).find(|path| path.is_dir());
    if let Some(source) = &found {
        println!("cargo::rerun-if-changed={}", source.join("Cargo.toml").display());
    } else {
        // A file that is never there: look again at the next build.
        println!("cargo::rerun-if-changed={}", home.join(SOURCE).display());
    }
    found
}

fn collect(folder: &Path, prose: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, prose);
        } else if let Ok(text) = fs::read_to_string(&path) {
            read(&text, prose);
        }
    }
}

/// Reads one file: `// Generated from definition …`, the documented struct, and the member names its decoder knows.
fn read(text: &str, prose: &mut BTreeMap<String, String>) {
    let mut names = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some((json, rust)) = line.strip_suffix(',').and_then(|line| line.split_once(" => Field::Key_")) {
            names.insert(rust, json.trim_matches('"'));
        }
    }
    let (mut type_name, mut doc, mut inside) = (None, String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(definition) = line.strip_prefix("// Generated from definition ") {
            type_name = short_name(definition);
        } else if let Some(part) = line.strip_prefix("///") {
            let part = part.strip_prefix(' ').unwrap_or(part).replace('\\', "\\\\").replace('\t', "\\t");
            doc = if doc.is_empty() { part } else { format!("{doc}\\n{part}") };
        } else if let Some(name) = &type_name {
            if line.starts_with("pub struct ") {
                prose.entry(name.clone()).or_insert_with(|| std::mem::take(&mut doc));
                inside = line.ends_with('{');
            } else if line == "}" && inside {
                return;
            } else if let (true, Some((field, _))) =
                (inside, line.strip_prefix("pub ").and_then(|line| line.split_once(':')))
            {
                let field = field.trim_start_matches("r#");
                if let Some(json) = names.get(field).filter(|_| !doc.is_empty()) {
                    prose.entry(format!("{name} {json}")).or_insert_with(|| doc.clone());
                }
                doc.clear();
            }
        }
    }
}

/// `io.k8s.api.core.v1.Pod` is `core/v1.Pod` in the facts.
fn short_name(definition: &str) -> Option<String> {
    let mut parts = definition.rsplitn(4, '.');
    let (kind, version, group) = (parts.next()?, parts.next()?, parts.next()?);
    let group = if group == "apiserverinternal" { "internal" } else { group };
    Some(format!("{group}/{version}.{kind}"))
}
