//! The harness of the end-to-end tests: a sandbox of its own for each test, and the real clients pointed at it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// Where a default cluster's store is when nobody else is there. It is taken here, so that a sandbox that stops and starts
/// again does not find the store of another test in its place.
static WELL_KNOWN_ETCD: LazyLock<Option<TcpListener>> = LazyLock::new(|| TcpListener::bind("127.0.0.1:2379").ok());

/// A running sandbox; stopped and deleted when dropped.
pub struct Sandbox {
    /// Unmounted before the directory under it goes.
    small_disk: Option<Mount>,
    /// Where everything runs, where that is not the machine's own network.
    network: Option<Network>,
    directory: TempDir,
    environment: BTreeMap<String, String>,
}

impl Sandbox {
    /// Starts one with three nodes on free ports.
    ///
    /// # Errors
    /// With everything the program printed.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more flags for `pilothouse up`.
    ///
    /// # Errors
    /// With everything the program printed.
    pub fn start_with(flags: &[&str]) -> Result<Self> {
        let mut sandbox = Self::nothing()?;
        sandbox.up(flags)?;
        Ok(sandbox)
    }

    /// As [`Self::start_with`], on a machine whose only loopback address is 127.0.0.1; `None` where this user may not make a
    /// network.
    ///
    /// # Errors
    /// With everything the program printed.
    pub fn start_without_aliases(flags: &[&str]) -> Result<Option<Self>> {
        let Some(network) = Network::with_one_address()? else { return Ok(None) };
        let mut sandbox = Self::nothing()?;
        sandbox.network = Some(network);
        sandbox.up(flags)?;
        Ok(Some(sandbox))
    }

    fn nothing() -> Result<Self> {
        let (directory, environment) = (tempfile::tempdir()?, BTreeMap::new());
        Ok(Self { small_disk: None, network: None, directory, environment })
    }

    /// As [`Self::start`], on a file system of its own that holds so much; `None` where this user may not mount one.
    ///
    /// # Errors
    /// With everything the program printed.
    pub fn start_on_small_disk(mib: u32) -> Result<Option<Self>> {
        let mut sandbox = Self::nothing()?;
        std::fs::create_dir(sandbox.data_dir())?;
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(sandbox.data_dir());
        if !mount.output().is_ok_and(|o| o.status.success()) {
            return Ok(None);
        }
        sandbox.small_disk = Some(Mount(sandbox.data_dir()));
        sandbox.up(&[])?;
        Ok(Some(sandbox))
    }

    /// Starts or resumes it.
    ///
    /// # Errors
    /// With everything the program printed.
    pub fn up(&mut self, flags: &[&str]) -> Result<()> {
        let mut arguments = vec!["up", "--detach", "--cloud-port", "0"];
        arguments.extend(flags);
        self.pilothouse(&arguments)?;
        self.environment = exports(&self.pilothouse(&["env", "--shell", "posix"])?);
        Ok(())
    }

    /// Starts or resumes it without waiting.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn up_in_background(&self) -> Result<Child> {
        let mut command = self.command(program());
        command.args(["up", "--detach", "--cloud-port", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// Every process that serves this sandbox: its number and its role (`cloud`, `instance`, `signer`).
    ///
    /// # Errors
    /// When the processes cannot be listed.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let data = self.data_dir();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let (Ok(pid), Ok(line)) = (name.parse(), std::fs::read(format!("/proc/{name}/cmdline"))) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut words = line.split('\0').skip(1);
            let role = words.next().unwrap_or_default();
            if matches!(role, "cloud" | "instance" | "signer") && words.any(|w| Path::new(w).starts_with(&data)) {
                found.push((pid, role.to_owned()));
            }
        }
        Ok(found)
    }

    /// Runs the built program on this sandbox's data directory; its standard output.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn pilothouse(&self, arguments: &[&str]) -> Result<String> {
        stdout(self.command(program()).args(arguments).output()?, &arguments.join(" "))
    }

    /// `pilothouse status -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.pilothouse(&["status", "-o", "json"])?)?)
    }

    /// Where the sandbox keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A file with this content, for a client to read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// A value that `pilothouse env` exports.
    pub fn variable(&self, name: &str) -> &str {
        self.environment.get(name).map_or("", String::as_str)
    }

    /// A command with the sandbox's environment and nothing of the user's own configuration.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        LazyLock::force(&WELL_KNOWN_ETCD);
        let mut command = match &self.network {
            Some(network) => network.command(program),
            None => Command::new(program),
        };
        command.env_clear().stdin(Stdio::null());
        for name in ["PATH", "LANG", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.directory.path()).env("PILOTHOUSE_DATA_DIR", self.data_dir());
        command.envs(&self.environment);
        command
    }

    /// kubectl's standard output.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = client("kubectl").context("no kubectl: tests/clients.sh builds it")?;
        stdout(self.command(kubectl).args(arguments).output()?, &format!("kubectl {}", arguments.join(" ")))
    }

    /// What kubectl says when it must fail.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = client("kubectl").context("no kubectl: tests/clients.sh builds it")?;
        let output = self.command(kubectl).args(arguments).output()?;
        ensure!(!output.status.success(), "kubectl {} succeeded", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// kubectl reading a manifest from standard input.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let kubectl = client("kubectl").context("no kubectl: tests/clients.sh builds it")?;
        let mut command = self.command(kubectl);
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("stdin is piped")?.write_all(input.as_bytes())?;
        stdout(child.wait_with_output()?, &format!("kubectl {}", arguments.join(" ")))
    }
}

/// A network of its own, as long as the process that was started in it lives.
struct Network(Child);

impl Network {
    fn with_one_address() -> Result<Option<Self>> {
        const MAKE: &str = "ip link set lo up && ip address add 127.0.0.1/32 dev lo && ip address del 127.0.0.1/8 dev lo && \
                            echo made && exec sleep infinity";
        let mut child = Command::new("unshare");
        child.args(["--net", "sh", "-c", MAKE]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = child.spawn() else { return Ok(None) };
        let mut said = [0; 4];
        let made = child.stdout.take().context("stdout is piped")?.read_exact(&mut said).is_ok();
        let network = Self(child);
        Ok(made.then_some(network))
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mounted file system.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.command(program()).args(["logs", "-n", "40"]).output();
            say(&logs.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default());
        }
        let _ = self.command(program()).arg("down").output();
    }
}

/// Looks until the check succeeds.
///
/// # Errors
/// The last failure, when the time is over.
pub fn eventually<T>(limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let mut waited = Duration::ZERO;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if waited >= limit => return Err(error.context(format!("not within {limit:?}"))),
            Err(_) => {
                std::thread::sleep(POLL);
                waited += POLL;
            }
        }
    }
}

/// The built `pilothouse`: beside this test's own directory, or `$PILOTHOUSE_BIN`.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::var_os("PILOTHOUSE_BIN").map_or_else(|| target_directory().join("pilothouse"), PathBuf::from)
    });
    &PROGRAM
}

/// A real client: built by `tests/clients.sh`, or found on PATH.
pub fn client(name: &str) -> Option<PathBuf> {
    let built = target_directory().parent()?.join("clients/bin").join(name);
    if built.is_file() {
        return Some(built);
    }
    on_path(name)
}

/// The Python with the `kubernetes` client, where it could be installed.
pub fn python() -> Option<PathBuf> {
    let built = target_directory().parent()?.join("clients/python/bin/python3");
    built.is_file().then_some(built)
}

/// A program on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(name)).find(|f| f.is_file())
}

/// Says on standard error that something was not tested; `tests/run.sh` counts these lines.
pub fn skipped(what: &str, why: &str) {
    say(&format!("SKIPPED {what}: {why}\n"));
}

/// Are the long tests wanted (`make full`)?
pub fn full_tier() -> bool {
    std::env::var("PILOTHOUSE_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// Prints past the test runner's capture.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn target_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

fn stdout(output: Output, what: &str) -> Result<String> {
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{what}: {}\n{out}{err}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `export NAME='VALUE'` lines.
fn exports(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .filter(|(name, _)| *name != "PATH")
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').replace(r"'\''", "'")))
        .collect()
}
