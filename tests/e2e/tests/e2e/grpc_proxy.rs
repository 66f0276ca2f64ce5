//! `etcd grpc-proxy` in front of our etcd, with etcdctl before it. Where there is a real etcd, its proxy has to say the same.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{client, eventually, program, skipped};

use crate::core_dumps::signal;
use crate::external_etcd::{Etcd, LIMIT, Process, SIGTERM, every_etcd, free_port, ours};

/// Commands of etcdctl's, and what they print: an error by its last line.
const SAID: &[(&str, &str)] = &[
    ("put a 1", "OK"),
    ("get a", "a\n1"),
    ("get a --consistency=s", "a\n1"),
    ("put a 2 --prev-kv", "OK\na\n1"),
    ("get a --consistency=s --print-value-only", "2"),
    ("get a --rev=100", "Error: etcdserver: mvcc: required revision is a future revision"),
    ("put b 1 --lease=99", "Error: etcdserver: requested lease not found"),
    ("del a", "1"),
    ("get a --prefix", ""),
    ("lease timetolive 99", "lease 0000000000000099 already expired"),
    ("lease keep-alive --once 99", "Error: etcdserver: requested lease not found"),
    ("compact 2", "compacted revision 2"),
    ("compact 2", "Error: etcdserver: mvcc: required revision has been compacted"),
    ("member promote 99", "Error: rpc error: code = Unknown desc = not implemented"),
    ("move-leader 99", "Error: etcdserver: bad leader transferee"),
    ("user get nobody", "Error: etcdserver: user name not found"),
    ("role add r", "Role r created"),
    ("auth status", "Authentication Status: false\nAuthRevision: 2"),
    ("alarm list", ""),
];

struct Proxy<'e> {
    address: String,
    etcdctl: &'e Path,
    process: Process,
}

impl<'e> Proxy<'e> {
    fn start(mut etcd: Command, member: &str, etcdctl: &'e Path, flags: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let child = etcd
            .args(["grpc-proxy", "start", "--listen-addr", &address, "--advertise-client-url", &address])
            .args(["--endpoints", member])
            .args(flags)
            .stderr(Stdio::null())
            .spawn();
        let process = Process(child.with_context(|| format!("{etcd:?}"))?);
        let proxy = Self { address, etcdctl, process };
        eventually(LIMIT, || {
            let health = proxy.run("endpoint health")?;
            ensure!(!health.starts_with("Error"), "{health}");
            Ok(())
        })?;
        Ok(proxy)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.etcdctl);
        command.env("ETCDCTL_ENDPOINTS", &self.address).args(line.split(' '));
        command
    }

    fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Ok(text(&output.stderr).lines().next_back().unwrap_or_default().to_owned())
    }
}

#[test]
fn etcdctl_hears_the_same_from_our_proxy_as_from_etcds() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("etcd grpc-proxy", "etcdctl is neither built nor on PATH");
        return Ok(());
    };
    for (name, proxy) in every_etcd() {
        let dir = tempfile::tempdir()?;
        let member = Etcd::start(ours(), &dir.path().join("etcd"))?;
        member.ctl(&etcdctl, &["endpoint", "health"])?;
        let proxy = Proxy::start(proxy, &member.endpoint, &etcdctl, &[])?;
        for (line, expected) in SAID {
            let said = proxy.run(line)?;
            ensure!(said == *expected, "the proxy of {name}, {line}: {said}");
        }
        let members = proxy.run("member list")?;
        ensure!(members.contains(&format!(", {}, false", proxy.address)), "{name}: {members}");
        let saved = dir.path().join("snapshot.db");
        let saving = proxy.run(&format!("snapshot save {}", saved.display()))?;
        ensure!(saved.exists(), "{name}: {saving}");
    }
    Ok(())
}

#[test]
fn watches_of_a_namespace_go_through_either_proxy() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("watches through etcd grpc-proxy", "etcdctl is neither built nor on PATH");
        return Ok(());
    };
    for (name, proxy) in every_etcd() {
        let dir = tempfile::tempdir()?;
        let member = Etcd::start(ours(), &dir.path().join("etcd"))?;
        member.ctl(&etcdctl, &["put", "ns/k", "0"])?;
        let proxy = Proxy::start(proxy, &member.endpoint, &etcdctl, &["--namespace=ns/"])?;
        let watches = ["watch k --rev=2", "watch k --rev=2 --prev-kv", "watch --prefix k --rev=2"];
        let mut watches = watches
            .iter()
            .map(|line| Ok(Process(proxy.command(line).stdout(Stdio::piped()).spawn()?)))
            .collect::<Result<Vec<_>>>()?;
        member.ctl(&etcdctl, &["put", "nt", "outside"])?;
        proxy.run("put k 1")?;
        let expected = ["PUT k 0 PUT k 1", "PUT k 0 PUT k 0 k 1", "PUT k 0 PUT k 1"]
            .map(|text| text.split(' ').collect::<Vec<_>>());
        for (watch, expected) in watches.iter_mut().zip(&expected) {
            let lines = BufReader::new(watch.0.stdout.take().context("its output is ours")?).lines();
            let lines = lines.filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).take(expected.len());
            let seen = lines.collect::<Result<Vec<_>, _>>()?;
            ensure!(seen == *expected, "the proxy of {name}: {seen:?}");
        }
        ensure!(member.ctl(&etcdctl, &["get", "ns/k", "--print-value-only"])?.trim() == "1", "{name}");
    }
    Ok(())
}

#[test]
fn a_proxy_ends_at_sigterm_and_takes_its_name_off_the_list() -> Result<()> {
    let Some(etcdctl) = client("etcdctl") else {
        skipped("the end of etcd grpc-proxy", "etcdctl is neither built nor on PATH");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let member = Etcd::start(ours(), &dir.path().join("etcd"))?;
    member.ctl(&etcdctl, &["endpoint", "health"])?;
    let flags = ["--resolver-prefix=/proxies", "--resolver-ttl=60"];
    let mut proxy = Proxy::start(ours(), &member.endpoint, &etcdctl, &flags)?;
    let registered = || member.ctl(&etcdctl, &["get", "/proxies/", "--prefix", "--keys-only"]);
    let key = format!("/proxies/{}", proxy.address);
    eventually(LIMIT, || {
        let keys = registered()?;
        ensure!(keys.trim() == key, "{keys}");
        Ok(())
    })?;
    let child = &mut proxy.process.0;
    signal(child.id(), SIGTERM)?;
    ensure!(child.wait()?.signal() == Some(SIGTERM), "it ends as it was told to");
    ensure!(registered()?.is_empty(), "its key is gone at once");
    let refused = Command::new(program()).args(["etcd", "grpc-proxy", "start", "--nonsense"]).output()?;
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && text.starts_with("Error: unknown flag: --nonsense\nUsage:\n"),
        "{text}"
    );
    Ok(())
}
