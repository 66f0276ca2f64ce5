//! A process that crashes with secrets in its memory leaves none of them behind: no core dump, in whatever directory it runs
//! and whatever limits it was given, nothing in its logs and its data; and nobody of the same user reads its memory.

use std::fmt::Display;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use e2e::{Sandbox, client, eventually, on_path, program, skipped};

use crate::external_etcd::{LIMIT, free_port};

/// Nothing else looks like it.
const SECRET: &str = "correct-horse-battery-staple-7f3a91";
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Files below a directory that hold the secret, as it is or as it stands in a Secret's JSON.
fn files_with_it(directory: &Path) -> Result<Vec<String>> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_with_it(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            // A running store makes and removes files all the time.
            let Ok(bytes) = std::fs::read(entry.path()) else { continue };
            let holds = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            if holds(SECRET) || holds(&encoded) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    Ok(found)
}

/// Runs a program in a directory with no limit on core dumps, as far as this user may lift it.
fn without_limit(directory: &Path, arguments: &[String]) -> Result<Child> {
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -c unlimited 2>/dev/null; exec \"$@\"").arg("sh").args(arguments);
    let log = File::create(directory.join("log"))?;
    Ok(command.current_dir(directory).stdout(Stdio::null()).stderr(log).spawn()?)
}

pub(crate) fn signal(pid: u32, number: impl Display) -> Result<()> {
    ensure!(Command::new("kill").args([format!("-{number}"), pid.to_string()]).status()?.success(), "kill {pid}");
    Ok(())
}

/// Does a program that protects nothing leave a core dump here? Then one that leaves none has protected itself.
fn others_leave_one(directory: &Path) -> Result<bool> {
    let mut other = without_limit(directory, &["sleep".to_owned(), "1000".to_owned()])?;
    // Until it is `sleep`, it is the shell.
    let comm = format!("/proc/{}/comm", other.id());
    eventually(LIMIT, || {
        ensure!(std::fs::read_to_string(&comm)?.trim() == "sleep", "not yet");
        Ok(())
    })?;
    signal(other.id(), SIGABRT)?;
    Ok(other.wait()?.core_dumped())
}

/// A store in that directory, with the secret in it.
fn store(directory: &Path, etcdctl: &Path) -> Result<Child> {
    let (client, peer) = (free_port()?, free_port()?);
    let url = format!("http://127.0.0.1:{client}");
    let arguments = [
        program().display().to_string(),
        "etcd".to_owned(),
        format!("--data-dir={}", directory.join("store").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        "--log-level=debug".to_owned(),
    ];
    let store = without_limit(directory, &arguments)?;
    eventually(LIMIT, || {
        let put = Command::new(etcdctl).env("ETCDCTL_ENDPOINTS", &url).args(["put", SECRET, SECRET]).output()?;
        ensure!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
        Ok(())
    })?;
    Ok(store)
}

fn crash(mut store: Child, number: i32) -> Result<ExitStatus> {
    signal(store.id(), number)?;
    Ok(store.wait()?)
}

#[test]
fn a_store_that_crashes_leaves_nothing_it_knew() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("core dumps of a store", "no etcdctl");
        return Ok(());
    };
    let elsewhere = tempfile::tempdir()?;
    if !others_leave_one(elsewhere.path())? {
        skipped("core dumps of a store beside those of others", "no program leaves a core dump on this machine");
    }
    let directory = tempfile::tempdir()?;
    let ended = crash(store(directory.path(), &etcdctl)?, SIGABRT)?;
    ensure!(ended.signal() == Some(SIGABRT) && !ended.core_dumped(), "{ended}");
    let found = files_with_it(directory.path())?;
    ensure!(found.is_empty(), "the secret lies in {found:?}");
    Ok(())
}

#[test]
fn the_memory_of_a_store_is_not_read_by_others_of_its_user() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("memory of a store", "no etcdctl");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let store = store(directory.path(), &etcdctl)?;
    let pid = store.id();
    let own_user = std::fs::metadata(directory.path()).map(|m| std::os::unix::fs::MetadataExt::uid(&m))?;
    let checked = (|| -> Result<()> {
        // Root with all its rights reads every memory; without them it is a user as any other.
        let setpriv = on_path("setpriv").filter(|_| own_user == 0);
        let mut reader = match (&setpriv, own_user) {
            (Some(setpriv), _) => {
                let mut command = Command::new(setpriv);
                command.args(["--bounding-set=-all", "--inh-caps=-all", "cat"]);
                command
            }
            (None, 0) => {
                skipped("memory of a store, for a user", "the tests run as root and there is no setpriv");
                return Ok(());
            }
            (None, _) => Command::new("cat"),
        };
        let output = reader.args([format!("/proc/{pid}/environ"), format!("/proc/{pid}/maps")]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && output.stdout.is_empty(), "its environment and map were read");
        ensure!(text.matches("Permission denied").count() == 2, "{text}");
        Ok(())
    })();
    crash(store, SIGKILL)?;
    checked
}

#[test]
fn an_instance_that_crashes_leaves_nothing_it_knew_and_comes_back() -> Result<()> {
    if client("kubectl").is_none() {
        skipped("core dumps of an instance", "no kubectl");
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    sandbox.kubectl(&["create", "secret", "generic", "kept", &format!("--from-literal=key={SECRET}")])?;
    for role in ["instance", "signer"] {
        let processes = sandbox.processes()?;
        let (pid, _) = processes.iter().find(|(_, own)| own == role).context("it runs")?;
        // Nothing of it may be dumped, whatever handles dumps on this machine.
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("the limit")?;
        ensure!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{role}: {core}");
        signal(*pid, SIGABRT)?;
        let path = format!("/proc/{pid}");
        eventually(LIMIT, || {
            ensure!(!Path::new(&path).exists(), "{role} is there still");
            Ok(())
        })?;
    }
    let read = ["get", "secret", "kept", "-o", "jsonpath={.data.key}"];
    let kept = eventually(LIMIT, || sandbox.kubectl(&read))?;
    ensure!(kept == base64::engine::general_purpose::STANDARD.encode(SECRET), "{kept}");
    let found = files_with_it(&sandbox.data_dir())?;
    ensure!(found.is_empty(), "the secret lies in {found:?}");
    Ok(())
}
