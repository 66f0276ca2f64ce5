//! `pilothouse up`: starts the cloud's process, shows how it comes up, and either stays with it or leaves it behind.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use crate::channel::Channel;
use crate::cli::{AuthMode, UpArgs};
use crate::config::{Config, difference};
use crate::fleet::spawn_detached;
use crate::layout::Layout;

/// From the starting sandbox to the person in front of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Progress {
    /// Something is done; it took so long.
    Step { text: String, ms: u64 },
    /// Everything answers, but for what it says is in trouble.
    Ready { text: String, trouble: Option<String> },
    /// It cannot start: the cause and the way out.
    Failed { message: String },
}

/// Starts or resumes a sandbox.
///
/// # Errors
/// When it cannot start; the text says why and what to do.
pub(crate) fn run(args: &UpArgs) -> Result<String> {
    let config = Config::resolve(args)?;
    let layout = &config.layout;
    if let Some(state) = layout.running()? {
        let root = layout.root().display();
        return match difference(args, &state) {
            None => {
                Ok(format!("A sandbox runs already on {root} (process {}), at {}.\n", state.pid, state.cloud_endpoint))
            }
            Some(other) => bail!(
                "a sandbox runs already on {root}, and {other}; stop it first with `pilothouse down`, or choose another \
                 --data-dir"
            ),
        };
    }
    if let Some(holder) = layout.holder() {
        return Err(layout.in_use(Some(holder)));
    }
    layout.prepare()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(start(args, &config))
}

async fn start(args: &UpArgs, config: &Config) -> Result<String> {
    let layout = &config.layout;
    let mut process = spawn_detached(&arguments(args, config), &layout.log("cloud"))?;
    let (text, trouble) = watch(&process.channel, &mut process.child, layout).await?;
    say(&text);
    match trouble {
        Some(trouble) if args.detach => bail!(trouble),
        Some(trouble) => say(&format!("\n{trouble}\n")),
        None if args.detach => return Ok(String::new()),
        None => {}
    }
    say("\nCtrl-C stops it; the data stays.\n");
    stay(&mut process.child).await
}

/// Prints the steps until the sandbox is ready: what is said then, and what does not run.
async fn watch(channel: &Channel, child: &mut Child, layout: &Layout) -> Result<(String, Option<String>)> {
    loop {
        match channel.receive::<Progress>().await?.map(|(progress, _)| progress) {
            Some(Progress::Step { text, ms }) => say(&format!("{ms:>6} ms  {text}\n")),
            Some(Progress::Ready { text, trouble }) => return Ok((text, trouble)),
            Some(Progress::Failed { message }) => {
                let _ = child.wait().await;
                bail!(message);
            }
            None => {
                let status = child.wait().await?;
                let log = layout.log("cloud");
                return Err(anyhow!("the sandbox ended while starting ({}); see {}", ended(status), log.display()));
            }
        }
    }
}

/// In the foreground: passes Ctrl-C on, and ends when the sandbox does.
async fn stay(child: &mut Child) -> Result<String> {
    tokio::select! {
        status = child.wait() => {
            let status = status?;
            if status.success() { Ok(String::new()) } else { bail!("the sandbox ended: {}", ended(status)) }
        }
        _ = termination() => {
            say("Stopping…\n");
            let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            child.wait().await?;
            Ok("Stopped. The data stays; `pilothouse up` goes on with it.\n".to_owned())
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => format!("signal {number}"),
        (None, None) => "unknown cause".to_owned(),
    }
}

/// The child's command line: role and data directory first, for the reader of `ps`.
fn arguments(args: &UpArgs, config: &Config) -> Vec<OsString> {
    let layout = &config.layout;
    let mut line: Vec<OsString> = vec!["cloud".into(), "--data-dir".into(), layout.root().into()];
    line.extend(["--platform-dir".into(), layout.platform().into()]);
    let mut option = |name: &str, value: &str| line.extend([name.into(), value.into()]);
    option("--project", &config.project);
    option("--auth", if config.auth == AuthMode::Open { "open" } else { "strict" });
    option("--profile", config.profile.as_str());
    option("--endpoint-deny", config.endpoint_deny.as_str());
    if let Some(port) = config.cloud_port {
        option("--cloud-port", &port.to_string());
    }
    if let Some(cluster) = &config.cluster {
        option("--cluster", &cluster.name);
        option("--location", &cluster.location);
        if let Some(nodes) = config.nodes {
            option("--nodes", &nodes.to_string());
        }
        option("--feature-gates", &config.switches.feature_gates);
        option("--runtime-config", &config.switches.runtime_config);
        if let Some(address) = &args.api_address {
            option("--api-address", address);
        }
    } else {
        line.push("--no-cluster".into());
    }
    if config.in_process {
        line.push("--in-process".into());
    }
    if config.accept_new_binary {
        line.push("--accept-new-binary".into());
    }
    line
}

/// Resolves when the process is asked to end, to the number of the signal.
pub(crate) async fn termination() -> i32 {
    let listen = || -> Result<_> { Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)) };
    match listen().context("cannot listen for signals") {
        Ok((mut terminate, mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            }
        }
        Err(error) => {
            tracing::warn!(%error, "only a kill will end this process");
            std::future::pending().await
        }
    }
}

fn say(text: &str) {
    let mut terminal = std::io::stderr().lock();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}
