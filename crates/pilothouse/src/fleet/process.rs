//! Starting and watching one child process.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

use crate::channel::{self, Channel};
use crate::confine::{Enforced, GaveUp};
use crate::fleet::hearing::Hearing;

/// A running child and the fleet's end of its channel. Dropping it closes the channel, which ends the child.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) channel: Arc<Channel>,
    pub(crate) pid: u32,
    pub(crate) hearing: Hearing,
    gave_up: OnceLock<Vec<GaveUp>>,
}

impl Process {
    /// Remembers what the process said of its confinement.
    pub(crate) fn says(&self, gave_up: Vec<GaveUp>) {
        log_confinement(self.pid, &gave_up);
        let _ = self.gave_up.set(gave_up);
    }

    /// What it said; nothing before it is ready.
    pub(crate) fn gave_up(&self) -> Vec<GaveUp> {
        self.gave_up.get().cloned().unwrap_or_default()
    }
}

/// A line in the log of what a process could not give up.
pub(super) fn log_confinement(pid: u32, gave_up: &[GaveUp]) {
    let less = gave_up.iter().filter(|one| one.enforced != Enforced::Full);
    let less: Vec<&str> = less.map(|one| one.attribute.as_str()).collect();
    tracing::info!(pid, not_full = less.join(", "), "confined");
}

/// Starts the program at `path` in another role; its standard error goes to `log`. It ends with its parent.
///
/// # Errors
/// When the log cannot be opened or the process not started.
pub(crate) fn spawn(path: &Path, arguments: &[OsString], log: &Path) -> Result<Process> {
    start(path, arguments, log, true)
}

/// As [`spawn`] of this program again, but the process stays when its parent is gone.
///
/// # Errors
/// When the log cannot be opened or the process not started.
pub(crate) fn spawn_detached(arguments: &[OsString], log: &Path) -> Result<Process> {
    start(&own_path()?, arguments, log, false)
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell where this program lies")
}

fn start(path: &Path, arguments: &[OsString], log: &Path, ends_with_parent: bool) -> Result<Process> {
    let (ours, theirs) = channel::pair().context("cannot make a socket pair")?;
    let log_file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let child = Command::new(path)
        // For the reader of `ps`, also where the path is that of an open file.
        .arg0(own_path()?)
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| passes_on(name)))
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(log_file)
        // A terminal's Ctrl-C is for the parent, which stops its children in order.
        .process_group(0)
        .kill_on_drop(ends_with_parent)
        .spawn()
        .context("cannot start a process")?;
    let pid = child.id().context("the process ended at once")?;
    Ok(Process {
        child,
        channel: Arc::new(Channel::new(ours)?),
        pid,
        hearing: Hearing::default(),
        gave_up: OnceLock::new(),
    })
}

/// Children get no part of the user's environment (it may hold credentials) but what steers logging.
fn passes_on(name: &std::ffi::OsStr) -> bool {
    name == "RUST_LOG" || name == "RUST_BACKTRACE" || name == "PATH" || name == "TZ"
}
