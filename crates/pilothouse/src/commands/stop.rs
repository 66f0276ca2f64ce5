//! `pilothouse down` and `pilothouse reset`.

use std::fs;
use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::cli::{DataDirArgs, ResetArgs};
use crate::layout::Layout;

/// Longer than an orderly stop takes, store checkpoint included.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Stops the sandbox and waits until it is gone.
///
/// # Errors
/// When it does not stop in time.
pub(crate) fn down(args: &DataDirArgs) -> Result<String> {
    let layout = Layout::resolve(args.data_dir.as_deref(), None)?;
    if stop(&layout)? {
        Ok("Stopped. The data stays; `pilothouse up` goes on with it.\n".to_owned())
    } else {
        Ok(format!("No sandbox runs on {}.\n", layout.root().display()))
    }
}

/// Stops the sandbox and deletes its data.
///
/// # Errors
/// When the directory is no sandbox, or something cannot be deleted.
pub(crate) fn reset(args: &ResetArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let root = layout.root();
    if !root.exists() {
        return Ok(format!("Nothing is at {}.\n", root.display()));
    }
    if !root.join("pilothouse").exists() {
        bail!("{} is not a Pilothouse sandbox; nothing was deleted", root.display());
    }
    if !args.yes && !confirmed(&format!("Delete everything under {}? [y/N] ", root.display()))? {
        bail!("nothing was deleted");
    }
    stop(&layout)?;
    fs::remove_dir_all(root).with_context(|| format!("cannot delete {}", root.display()))?;
    Ok(format!("Deleted {}.\n", root.display()))
}

/// Ends a running sandbox; false when none ran.
fn stop(layout: &Layout) -> Result<bool> {
    let Some(state) = layout.running()? else { return Ok(false) };
    let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw).context("run.json names no process")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {}", state.pid))?;
    let mut waited = Duration::ZERO;
    while test_kill_process(pid).is_ok() && layout.run_file().exists() {
        if waited > STOP_TIMEOUT {
            bail!("process {} did not stop within {} s", state.pid, STOP_TIMEOUT.as_secs());
        }
        std::thread::sleep(POLL);
        waited += POLL;
    }
    Ok(true)
}

fn confirmed(question: &str) -> Result<bool> {
    let mut terminal = std::io::stderr().lock();
    terminal.write_all(question.as_bytes())?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
