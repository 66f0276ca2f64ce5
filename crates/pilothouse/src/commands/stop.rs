//! `pilothouse down` and `pilothouse reset`.

use std::fs;
use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::{DataDirArgs, ResetArgs};
use crate::config::Settings;
use crate::layout::{Layout, refusal};

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
    layout.check().context("nothing was deleted")?;
    if !layout.is_sandbox() {
        bail!("{} is not a Pilothouse sandbox; nothing was deleted", root.display());
    }
    let settings = Settings::load(&layout).unwrap_or_default();
    if !args.yes && !confirmed(&format!("Delete everything under {}? [y/N] ", root.display()))? {
        bail!("nothing was deleted");
    }
    stop(&layout)?;
    fs::remove_dir_all(root).map_err(|e| refusal("delete", root, e))?;
    let mut text = format!("Deleted {}.\n", root.display());
    // The keys of a platform directory elsewhere may serve other sandboxes.
    if let Some(settings) = settings.filter(|s| !s.platform_dir.starts_with(root) && s.platform_dir.exists()) {
        text.push_str(&format!("The platform's keys stay in {}.\n", settings.platform_dir.display()));
    }
    Ok(text)
}

/// Ends a running or starting sandbox and waits until its process is gone; false when none ran.
fn stop(layout: &Layout) -> Result<bool> {
    let Some(holder) = layout.holder() else { return Ok(false) };
    let pid = i32::try_from(holder).ok().and_then(Pid::from_raw).context("the directory's mark names no process")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {holder}"))?;
    let mut waited = Duration::ZERO;
    while layout.holder() == Some(holder) {
        if waited > STOP_TIMEOUT {
            bail!("process {holder} did not stop within {} s; `kill -9 {holder}` ends it", STOP_TIMEOUT.as_secs());
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
