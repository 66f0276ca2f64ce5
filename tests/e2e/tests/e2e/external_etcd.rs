//! The store and the API server apart: our API server on any etcd, and snapshots that go from our etcd to a real one and
//! back. The real one is built by `tests/clients.sh` in the full tier, or taken from `$PEERS_DIR/bin` or PATH.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{client, eventually, on_path, program, skipped};

use crate::core_dumps::signal;

const SIGINT: i32 = 2;
pub(crate) const SIGTERM: i32 = 15;
/// How long a process may take to answer on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of etcd's.
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    let in_peers = std::env::var_os("PEERS_DIR").map(|dir| Path::new(&dir).join("bin").join(name));
    in_peers.filter(|path| path.exists()).or_else(|| client(name)).or_else(|| on_path(name))
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {text}{error}");
    Ok(text.into_owned())
}

/// An etcd on a directory; both kinds take the same flags.
pub(crate) struct Etcd {
    pub(crate) endpoint: String,
    process: Process,
}

impl Etcd {
    pub(crate) fn start(mut command: Command, data_dir: &Path) -> Result<Self> {
        let (endpoint, peers) =
            (format!("http://127.0.0.1:{}", free_port()?), format!("http://127.0.0.1:{}", free_port()?));
        let child = command
            .arg(format!("--data-dir={}", data_dir.display()))
            .args([format!("--listen-client-urls={endpoint}"), format!("--advertise-client-urls={endpoint}")])
            .arg(format!("--listen-peer-urls={peers}"))
            .args([
                "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                "--initial-cluster=default=http://127.0.0.1:2380",
            ])
            .stderr(Stdio::null())
            .spawn();
        Ok(Self { endpoint, process: Process(child.with_context(|| format!("{command:?}"))?) })
    }

    /// Runs etcdctl until it succeeds once.
    pub(crate) fn ctl(&self, etcdctl: &Path, arguments: &[&str]) -> Result<String> {
        let run = || output(Command::new(etcdctl).env("ETCDCTL_ENDPOINTS", &self.endpoint).args(arguments));
        eventually(LIMIT, run)
    }
}

pub(crate) fn ours() -> Command {
    let mut command = Command::new(program());
    command.arg("etcd");
    command
}

/// Our own and, where there is one, a real one.
pub(crate) fn every_etcd() -> Vec<(&'static str, Command)> {
    let mut all = vec![("pilothouse etcd", ours())];
    match peer("etcd") {
        Some(path) => all.push(("etcd", Command::new(path))),
        None => skipped("a real etcd", "etcd is neither built (the full tier does) nor in PEERS_DIR nor on PATH"),
    }
    all
}

#[test]
fn our_api_server_runs_on_any_etcd() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("pilothouse apiserver", "openssl is not on PATH to make a key");
        return Ok(());
    };
    let kubectl_program = client("kubectl").context("no kubectl: tests/clients.sh builds it")?;
    for (name, etcd) in every_etcd() {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        output(Command::new(&openssl).args(["genrsa", "-out"]).arg(file("sa.key")).arg("2048"))?;
        std::fs::write(file("tokens.csv"), "t0ken,alice,1,\"system:masters\"\n")?;
        let etcd = Etcd::start(etcd, &file("etcd"))?;
        let port = free_port()?;
        let api = || -> Result<Process> {
            let child = Command::new(program())
                .args(["apiserver", "--etcd-servers", &etcd.endpoint, "--secure-port", &port.to_string()])
                .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC"])
                .arg(format!("--service-account-signing-key-file={}", file("sa.key").display()))
                .arg(format!("--token-auth-file={}", file("tokens.csv").display()))
                .arg(format!("--cert-dir={}", dir.path().display()))
                .stderr(Stdio::null())
                .spawn()?;
            Ok(Process(child))
        };
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new(&kubectl_program);
            command.env("HOME", dir.path()).env("KUBECONFIG", file("none"));
            command.arg(format!("--server=https://127.0.0.1:{port}")).arg("--token=t0ken");
            command.arg(format!("--certificate-authority={}", file("apiserver.crt").display()));
            output(command.args(arguments))
        };
        let ready = || eventually(LIMIT, || kubectl(&["get", "--raw", "/readyz"]));
        // etcd may not answer yet when the API server starts, which then ends.
        let mut running = api()?;
        eventually(LIMIT, || {
            if running.0.try_wait()?.is_some() {
                running = api()?;
            }
            kubectl(&["get", "--raw", "/readyz"])
        })?;
        kubectl(&["create", "configmap", "kept", "--from-literal=by=us"])?;
        ensure!(kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])? == "alice", "{name}");
        let token = kubectl(&["create", "token", "default"]);
        ensure!(
            token.as_ref().is_err_and(|error| error.to_string().contains("not found")),
            "no controller made it: {token:?}"
        );
        kubectl(&["create", "serviceaccount", "robot"])?;
        let token = kubectl(&["create", "token", "robot"])?;
        let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--token", token.trim()];
        ensure!(kubectl(&whoami)? == "system:serviceaccount:default:robot", "{name}");
        // Another API server on the same etcd sees what the first one wrote.
        drop(running);
        let _running = api()?;
        ready()?;
        ensure!(kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.by}"])? == "us", "{name}");
    }
    Ok(())
}

#[test]
fn a_store_that_is_told_to_stop_ends_by_the_signal() -> Result<()> {
    for number in [SIGTERM, SIGINT] {
        let dir = tempfile::tempdir()?;
        let mut etcd = Etcd::start(ours(), dir.path())?;
        let address = etcd.endpoint.trim_start_matches("http://").to_owned();
        eventually(LIMIT, || Ok(TcpStream::connect(&address)?))?;
        signal(etcd.process.0.id(), number)?;
        let ended = etcd.process.0.wait()?;
        ensure!(ended.signal() == Some(number), "by {number}: {ended}");
    }
    Ok(())
}

#[test]
fn snapshots_go_to_a_real_etcd_and_come_from_one() -> Result<()> {
    let (Some(etcd), Some(etcdctl), Some(etcdutl)) = (peer("etcd"), peer("etcdctl"), peer("etcdutl")) else {
        skipped(
            "snapshots with a real etcd",
            "etcd, etcdctl and etcdutl are neither built (the full tier does) nor in PEERS_DIR nor on PATH",
        );
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let real = || Command::new(&etcd);
    let restore_real = |file: &Path, to: &Path| {
        let identity =
            "--initial-cluster=default=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380";
        let mut command = Command::new(&etcdutl);
        command.args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(to).args(identity.split(' '));
        output(&mut command)
    };
    let restore_ours = |file: &Path, to: &Path| {
        output(
            ours()
                .arg("--restore")
                .arg(file)
                .arg("--data-dir")
                .arg(to)
                .arg("--initial-advertise-peer-urls=http://127.0.0.1:2380"),
        )
    };
    // Ours, then a real one restored from it, then ours again: each has what the one before had, and adds to it.
    let mut told = Vec::new();
    let mut data = path("0");
    for round in 0..3 {
        let store = Etcd::start(if round % 2 == 0 { ours() } else { real() }, &data)?;
        let hash = || store.ctl(&etcdctl, &["endpoint", "hashkv", "--write-out=fields"]);
        let sums = |text: String| -> Vec<String> {
            text.lines().filter(|line| line.contains("Hash") || line.contains("Compact")).map(str::to_owned).collect()
        };
        if round > 0 {
            ensure!(sums(hash()?) == told, "round {round}: {:?} after {told:?}", hash()?);
            let lease = store.ctl(&etcdctl, &["lease", "list"])?;
            ensure!(lease.contains("found 1 leases"), "round {round}: {lease}");
            ensure!(
                store.ctl(&etcdctl, &["get", "a", "--rev=3", "--print-value-only"])?.trim() == "2",
                "round {round}"
            );
        } else {
            let granted = store.ctl(&etcdctl, &["lease", "grant", "6000"])?;
            let lease = granted.split(' ').nth(1).context("a lease")?;
            for (key, value) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3")] {
                store.ctl(&etcdctl, &["put", key, value])?;
            }
            store.ctl(&etcdctl, &["put", &format!("--lease={lease}"), "leased", "x"])?;
            store.ctl(&etcdctl, &["del", "b"])?;
            store.ctl(&etcdctl, &["compact", "--physical", "3"])?;
        }
        store.ctl(&etcdctl, &["put", &format!("round-{round}"), "x"])?;
        told = sums(hash()?);
        let file = path(&format!("{round}.snapshot"));
        let name = file.display().to_string();
        store.ctl(&etcdctl, &["snapshot", "save", &name])?;
        let status = output(Command::new(&etcdutl).args(["snapshot", "status", &name]))?;
        ensure!(status.contains("3.6.0"), "{status}");
        drop(store);
        data = path(&format!("{}", round + 1));
        if round % 2 == 0 {
            restore_real(&file, &data)?
        } else {
            restore_ours(&file, &data)?
        };
    }
    Ok(())
}
