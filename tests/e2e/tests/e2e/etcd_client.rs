//! The `etcd-client` crate: everything it can do, done to our store, and to a real etcd where there is one. What it is told
//! stands in `clients/etcd-client/recorded`, as a real etcd 3.6 said it; both must say the same, over plain connections and
//! over mutual TLS. `UPDATE_EXPECT=1` records anew, from the real one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{client, eventually, program, skipped};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::external_etcd::{LIMIT, Process, free_port, peer};

/// A store of so many members, of either kind.
struct Members {
    dir: tempfile::TempDir,
    endpoints: Vec<String>,
    is_tls: bool,
    _running: Vec<Process>,
}

impl Members {
    /// # Errors
    /// When it does not start.
    fn start(command: impl Fn() -> Command, count: usize, is_tls: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if is_tls {
            write_certificates(dir.path())?;
        }
        let scheme = if is_tls { "https" } else { "http" };
        let mut urls = Vec::new();
        for _ in 0..count {
            let peer = format!("http://127.0.0.1:{}", free_port()?);
            urls.push((format!("{scheme}://127.0.0.1:{}", free_port()?), peer));
        }
        let cluster: Vec<String> =
            urls.iter().enumerate().map(|(place, (_, peer))| format!("m{place}={peer}")).collect();
        let mut running = Vec::new();
        for (place, (url, peer)) in urls.iter().enumerate() {
            let mut command = command();
            command.arg(format!("--name=m{place}")).arg("--watch-progress-notify-interval=100ms");
            command.arg(format!("--data-dir={}", dir.path().join(place.to_string()).display()));
            command.args(["--listen-client-urls", url, "--advertise-client-urls", url]);
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.arg(format!("--initial-cluster={}", cluster.join(",")));
            if is_tls {
                let path = |name: &str| dir.path().join(name).display().to_string();
                command.args(["--client-cert-auth", "--trusted-ca-file", &path("ca.crt")]);
                command.args(["--cert-file", &path("server.crt"), "--key-file", &path("server.key")]);
            }
            command.stderr(std::fs::File::create(dir.path().join(format!("{place}.log")))?).stdout(Stdio::null());
            running.push(Process(command.spawn().with_context(|| format!("{command:?}"))?));
        }
        let members =
            Self { endpoints: urls.into_iter().map(|(url, _)| url).collect(), dir, is_tls, _running: running };
        for place in 0..count {
            let path = members.dir.path().join(format!("{place}.log"));
            eventually(LIMIT, || {
                let log = std::fs::read_to_string(&path)?;
                ensure!(log.contains("ready to serve client requests"), "member {place} is not ready: {log}");
                Ok(())
            })?;
        }
        Ok(members)
    }

    fn command(&self, etcdclient: &Path, what: &str, has_certificate: bool) -> Command {
        let mut command = Command::new(etcdclient);
        command.env_clear().arg(what).args(&self.endpoints);
        if self.is_tls {
            command.env("CA", self.dir.path().join("ca.crt"));
            if has_certificate {
                command.env("CERT", self.dir.path().join("client.crt")).env("KEY", self.dir.path().join("client.key"));
            }
        }
        command
    }

    /// What the program prints.
    fn says(&self, etcdclient: &Path, what: &str) -> Result<String> {
        let output = self.command(etcdclient, what, true).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }
}

/// An authority, and what it signed for the server and for a client that is nobody by name.
fn write_certificates(dir: &Path) -> Result<()> {
    let write = |name: &str, pem: String| std::fs::write(dir.join(name), pem);
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority");
    write("ca.crt", authority.self_signed(&authority_key)?.pem())?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    for (name, hosts) in [("server", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]), ("client", Vec::new())] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write(&format!("{name}.crt"), params.signed_by(&key, &issuer)?.pem())?;
        write(&format!("{name}.key"), key.serialize_pem())?;
    }
    Ok(())
}

fn ours() -> Command {
    let mut command = Command::new(program());
    command.arg("etcd");
    command
}

/// The program, and a real etcd if there is one.
fn programs() -> Option<(PathBuf, Option<PathBuf>)> {
    let Some(etcdclient) = client("etcdclient") else {
        skipped("the etcd-client crate", "tests/clients.sh has not built the program on it");
        return None;
    };
    let etcd = peer("etcd");
    if etcd.is_none() {
        skipped("the etcd-client crate on a real etcd", "etcd is not built (the full tier does) nor in PEERS_DIR");
    }
    Some((etcdclient, etcd))
}

/// Both kinds of store say what is recorded.
fn both_say(what: &str, count: usize, is_tls: bool) -> Result<()> {
    let Some((etcdclient, etcd)) = programs() else { return Ok(()) };
    let path = format!("{}/clients/etcd-client/recorded/{what}.txt", env!("CARGO_MANIFEST_DIR"));
    if let Some(etcd) = etcd {
        let said = Members::start(|| Command::new(&etcd), count, is_tls)?.says(&etcdclient, what)?;
        if std::env::var_os("UPDATE_EXPECT").is_some() && is_tls == (count > 1) {
            std::fs::write(&path, &said)?;
        }
        same("etcd", &said, &recorded(&path, is_tls)?)?;
    }
    let store = Members::start(ours, count, is_tls)?;
    same("pilothouse etcd", &store.says(&etcdclient, what)?, &recorded(&path, is_tls)?)?;
    if is_tls {
        let output = store.command(&etcdclient, what, false).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!output.status.success() && !text.contains("revision"), "served without a certificate: {text}");
    }
    Ok(())
}

/// What a client must be told: one that shows a certificate is a user, whatever is its name.
fn recorded(path: &str, is_tls: bool) -> Result<String> {
    let text = std::fs::read_to_string(path)?;
    let (plain, certified) =
        ("InvalidArgument: etcdserver: user name is empty", "PermissionDenied: etcdserver: permission denied");
    Ok(if is_tls { text.replace(&format!("nobody: {plain}"), &format!("nobody: {certified}")) } else { text })
}

/// The first line that differs is told.
fn same(who: &str, said: &str, recorded: &str) -> Result<()> {
    for (place, (said, recorded)) in said.lines().zip(recorded.lines()).enumerate() {
        ensure!(said == recorded, "{who}, line {}:\n  says     {said}\n  recorded {recorded}", place + 1);
    }
    ensure!(said == recorded, "{who} says more or less than is recorded:\n{said}");
    Ok(())
}

#[test]
fn the_etcd_client_crate_is_told_what_etcd_tells_it() -> Result<()> {
    both_say("one", 1, false)
}

#[test]
fn the_etcd_client_crate_is_told_the_same_over_mutual_tls() -> Result<()> {
    both_say("one", 1, true)
}

#[test]
fn the_etcd_client_crate_finds_its_way_among_three_members() -> Result<()> {
    both_say("three", 3, true)
}
