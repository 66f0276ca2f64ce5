//! What goes wrong when a sandbox is started: one line that names it and the way out, exit code 1, nothing harmed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, program, skipped};

const LIMIT: Duration = Duration::from_secs(5);

/// What `up` says when it must fail; it must leave no process behind.
fn refused(directory: &Path, flags: &[&str]) -> Result<String> {
    let mut command = Command::new(program());
    command.env_remove("PILOTHOUSE_PROJECT").args(["up", "--detach", "--data-dir"]).arg(directory).args(flags);
    if !flags.contains(&"--cloud-port") {
        command.args(["--cloud-port", "0"]);
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "up {flags:?}: {}\n{text}", output.status);
    let said: Vec<&str> = text.lines().filter(|line| !line.contains(" ms  ")).collect();
    ensure!(said.len() == 1 && said[0].starts_with("pilothouse: "), "up {flags:?}: {text}");
    // One that was being started may be dying still.
    eventually(LIMIT, || {
        let left = processes(directory);
        ensure!(left.is_empty(), "up {flags:?} left {left:?}");
        Ok(())
    })?;
    Ok(said[0].to_owned())
}

/// The command lines that name the directory.
fn processes(directory: &Path) -> Vec<String> {
    let name = directory.display().to_string();
    let lines = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&name) && line.contains("pilothouse")).collect()
}

#[test]
fn wrong_flags_are_named_before_anything_is_made() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    for (flags, named) in [
        (["--location", "nonsense"], "--location \"nonsense\""),
        (["--project", "Bad project!"], "--project \"Bad project!\""),
        (["--cluster", "Bad_Name"], "--cluster \"Bad_Name\""),
        (["--nodes", "100000"], "--nodes 100000"),
        (["--api-address", "nonsense"], "--api-address nonsense"),
        (["--api-address", "0.0.0.0"], "--api-address 0.0.0.0"),
    ] {
        let said = refused(&data, &flags)?;
        ensure!(said.contains(named), "{said}");
        ensure!(!data.exists(), "{flags:?} made {}", data.display());
    }
    Ok(())
}

#[test]
fn places_that_cannot_be_a_data_directory_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("file");
    fs::write(&file, "mine")?;
    for place in [file.clone(), file.join("below")] {
        let said = refused(&place, &[])?;
        ensure!(said.contains("file") && said.contains("choose another --data-dir"), "{said}");
    }
    ensure!(fs::read_to_string(&file)? == "mine");
    let theirs = directory.path().join("theirs");
    fs::create_dir(&theirs)?;
    if chown(&theirs, Some(65534), None).is_err() {
        skipped("a data directory of another user", "only root can make one");
        return Ok(());
    }
    let said = refused(&theirs, &[])?;
    ensure!(said.contains("belongs to user 65534") && said.contains("--data-dir"), "{said}");
    ensure!(fs::read_dir(&theirs)?.next().is_none());
    Ok(())
}

#[test]
fn busy_addresses_are_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let busy = TcpListener::bind("127.0.0.1:0")?;
    let (address, port) = (busy.local_addr()?.to_string(), busy.local_addr()?.port().to_string());
    let said = refused(&data, &["--cloud-port", &port])?;
    ensure!(said.contains(&format!("{address} is in use")) && said.contains("--cloud-port"), "{said}");
    let said = refused(&data, &["--api-address", &address])?;
    ensure!(said.contains(&format!("{address} is in use")) && said.contains("--api-address"), "{said}");
    let said = refused(&data, &["--api-address", "192.0.2.1:443"])?;
    ensure!(said.contains("192.0.2.1 is no address of this machine"), "{said}");
    // Nothing of these tries is in the way of the right one.
    drop(busy);
    let up = |flags: &[&str]| -> Result<()> {
        let mut command = Command::new(program());
        let output =
            command.args(["up", "--detach", "--cloud-port", "0", "--data-dir"]).arg(&data).args(flags).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(Command::new(program()).args(["down", "--data-dir"]).arg(&data).status()?.success());
        Ok(())
    };
    up(&["--api-address", &address, "--nodes", "0"])?;
    // What a cluster had before is its own; taken by another program, it is named with where it is remembered.
    let busy = TcpListener::bind(&address)?;
    let said = refused(&data, &[])?;
    ensure!(said.contains(&format!("{address} is in use")) && said.contains("addresses.json"), "{said}");
    drop(busy);
    up(&[])
}

/// The sandbox' one cluster.
fn cluster_directory(data: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(data.join("clusters"))?;
    Ok(entries.next().context("no cluster")??.path())
}

#[test]
fn damaged_data_is_named_and_kept_and_works_again_once_mended() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"])?;
    sandbox.pilothouse(&["down"])?;
    let data = sandbox.data_dir();
    let cluster = cluster_directory(&data)?;
    let aside = data.join("aside");
    type Damage = fn(&Path) -> std::io::Result<()>;
    let gone: Damage = |_| Ok(());
    let cut: Damage = |path| fs::write(path, &fs::read(path.with_file_name("aside-copy"))?[..20]);
    let junk: Damage = |path| fs::write(path, "{");
    for (path, damage, named) in [
        (data.join("platform/platform.key"), gone, "platform/platform.key is missing"),
        (data.join("platform/platform.key"), junk, "platform.key is damaged"),
        (data.join("cloud/state.sealed"), gone, "state.sealed is missing"),
        (data.join("cloud/state.sealed"), cut, "state.sealed was sealed with another key"),
        (data.join("cloud/state.sealed"), junk, "state.sealed is damaged"),
        (data.join("sandbox.json"), junk, "sandbox.json is damaged"),
        (data.join("project-number"), junk, "project-number is damaged"),
        (cluster.clone(), gone, "the data of cluster demo is missing"),
        (cluster.join("cluster.json"), junk, "cluster.json is damaged"),
        (cluster.join("addresses.json"), junk, "addresses.json is damaged"),
        (cluster.join("control-plane-0/identity.json"), junk, "identity.json is damaged"),
        (cluster.join("control-plane-0/identity.json"), gone, "is not empty and not a data directory"),
        (cluster.join("signer/authorities"), cut, "signer/authorities is damaged"),
        (cluster.join("signer/authorities"), junk, "signer/authorities is damaged"),
    ] {
        let copy = path.with_file_name("aside-copy");
        if path.is_file() {
            fs::copy(&path, &copy)?;
        }
        fs::rename(&path, &aside)?;
        damage(&path)?;
        let _ = fs::remove_file(&copy);
        let found = fs::read(&path).ok();
        let said = refused(&data, &[]).context(named)?;
        ensure!(said.contains(named), "{}: {said}", path.display());
        ensure!(fs::read(&path).ok() == found, "{} was changed", path.display());
        if path.is_file() {
            fs::remove_file(&path)?;
        }
        fs::rename(&aside, &path)?;
    }
    sandbox.up(&[])?;
    ensure!(sandbox.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.k}"])? == "v");
    Ok(())
}

#[test]
fn directories_of_other_clusters_and_instances_are_not_taken_for_ones_own() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    sandbox.pilothouse(&["down"])?;
    let other = Sandbox::start_with(&["--nodes", "0"])?;
    other.pilothouse(&["down"])?;
    let (ours, theirs) = (cluster_directory(&sandbox.data_dir())?, cluster_directory(&other.data_dir())?);
    let aside = sandbox.data_dir().join("aside");
    fs::rename(ours.join("control-plane-0"), &aside)?;
    fs::rename(theirs.join("control-plane-0"), ours.join("control-plane-0"))?;
    let said = refused(&sandbox.data_dir(), &[])?;
    ensure!(said.contains("instance identity mismatch"), "{said}");
    fs::rename(ours.join("control-plane-0"), theirs.join("control-plane-0"))?;
    fs::rename(&aside, ours.join("control-plane-0"))?;
    fs::rename(&ours, &aside)?;
    fs::rename(&theirs, &ours)?;
    let said = refused(&sandbox.data_dir(), &[])?;
    ensure!(said.contains("whose place is") && said.contains("put it back there"), "{said}");
    Ok(())
}

#[test]
fn a_second_up_with_other_flags_is_refused_and_says_what_runs() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--nodes", "1", "--cluster", "one"])?;
    let again = sandbox.pilothouse(&["up", "--detach", "--cluster", "one", "--nodes", "1", "--cloud-port", "0"])?;
    ensure!(again.contains("runs already"), "{again}");
    let pids = || -> Result<String> { Ok(sandbox.status()?["clusters"][0]["instances"].to_string()) };
    let before = pids()?;
    for (flags, named) in [
        (["--project", "other-project"], "holds project pilothouse-local"),
        (["--cluster", "two"], "it runs with --cluster one, not with --cluster two"),
        (["--zone", "us-east1-b"], "--location us-central1-a"),
        (["--nodes", "2"], "--nodes 1"),
        (["--auth", "open"], "--auth strict"),
        (["--cloud-port", "1"], "--cloud-port"),
    ] {
        let output = sandbox
            .command(program())
            .env_remove("PILOTHOUSE_PROJECT")
            .args(["up", "--detach"])
            .args(flags)
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1) && text.lines().count() == 1 && text.contains(named),
            "{flags:?}: {text}"
        );
    }
    ensure!(pids()? == before, "something was restarted");
    sandbox.pilothouse(&["down"])?;
    let said = refused(&sandbox.data_dir(), &["--nodes", "2"])?;
    ensure!(said.contains("gcloud container clusters resize one"), "{said}");
    let said = refused(&sandbox.data_dir(), &["--api-address", "127.9.8.7"])?;
    ensure!(said.contains("keeps its address"), "{said}");
    sandbox.up(&[])?;
    ensure!(sandbox.status()?["clusters"][0]["name"] == "one", "the default cluster is remembered");
    Ok(())
}
