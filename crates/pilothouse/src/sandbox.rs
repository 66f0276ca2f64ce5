//! The cloud's process: cloud, fleet, edge and control API of one sandbox, from start to stop.

mod default_cluster;
mod fleet_port;
mod progress;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloud::{Auth, Cloud, CloudConfig};
use disk::{DiskError, Platform};
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::cli::{AuthMode, Profile, UpArgs};
use crate::commands::up::termination;
use crate::config::Config;
use crate::confine::{GaveUp, confine_cloud};
use crate::control;
use crate::failure::RESTORE;
use crate::fleet::boot::Verifier;
use crate::fleet::{Fleet, Wishes};
use crate::identity_server;
use crate::layout::{Layout, RunState, make_directory, refusal, write_private};
use crate::system;

use fleet_port::FleetPort;
use progress::Teller;

/// Where the cloud listens unless told otherwise or taken.
const CLOUD_PORT: u16 = 8642;

/// A sandbox whose directories are there, and whose process has given up what it does not need.
pub(crate) struct Prepared {
    config: Config,
    gave_up: Vec<GaveUp>,
}

/// Makes the directories that are missing, and confines this process to them. Must run before there is a second thread.
///
/// # Errors
/// When they cannot be had. Then nothing was given up, and nothing is started.
pub(crate) fn prepare(args: &UpArgs) -> Result<Prepared> {
    let config = Config::resolve(args)?;
    let layout = &config.layout;
    layout.prepare()?;
    // A platform that is missed is asked for where it should be; only a new sandbox' is made.
    if !layout.is_used() {
        make_directory(layout.platform())?;
    }
    let directories = [layout.root(), layout.platform()];
    let found: Vec<_> = directories.into_iter().filter(|directory| directory.exists()).collect();
    let gave_up = confine_cloud(&found);
    Ok(Prepared { config, gave_up })
}

/// Runs a sandbox until it is asked to end.
///
/// # Errors
/// When it cannot start; `up` hears the same text.
pub(crate) async fn run(prepared: Result<Prepared>) -> Result<()> {
    let mut teller = Teller::new(system::clock());
    let started = match prepared {
        Ok(prepared) => start(prepared, &mut teller).await,
        Err(cause) => Err(cause),
    };
    match started {
        Ok(sandbox) => {
            teller.ready(sandbox.summary(), sandbox.trouble()).await;
            termination().await;
            sandbox.stop().await;
            Ok(())
        }
        Err(cause) => {
            teller.failed(&cause).await;
            Err(cause)
        }
    }
}

struct Sandbox {
    layout: Layout,
    fleet: Arc<Fleet>,
    cloud: Cloud,
    run: RunState,
    /// Why the default cluster does not run.
    trouble: Option<anyhow::Error>,
    _lock: File,
}

async fn start(Prepared { config, gave_up }: Prepared, teller: &mut Teller) -> Result<Sandbox> {
    let layout = &config.layout;
    let lock = layout.take()?;
    let platform = open_platform(layout)?;
    // It is measured while the rest comes up.
    let tools = (system::clock(), system::entropy());
    let boot = Verifier::open(layout, &config.project, &platform, tools, config.accept_new_binary)?;
    teller.step("opened the data directory and the platform's keys").await;

    let listener = listen(config.cloud_port).await?;
    let project_number = project_number(layout, &config.project)?;
    let fleet = Fleet::new(
        layout.clone(),
        platform.clone(),
        boot,
        system::clock(),
        system::entropy(),
        (config.in_process, config.endpoint_deny),
        project_number.clone(),
    );
    fleet.says_of_itself(gave_up);
    match bring_up(&config, &fleet, platform, project_number, listener, teller).await {
        Ok((cloud, run, trouble)) => Ok(Sandbox { layout: config.layout, fleet, cloud, run, trouble, _lock: lock }),
        Err(cause) => {
            // The clusters that came up end in order, as they do when a sandbox is stopped.
            fleet.stop().await;
            Err(cause)
        }
    }
}

/// From an opened data directory to a sandbox that answers, and why its default cluster does not.
async fn bring_up(
    config: &Config,
    fleet: &Arc<Fleet>,
    platform: Platform,
    project_number: String,
    listener: TcpListener,
    teller: &mut Teller,
) -> Result<(Cloud, RunState, Option<anyhow::Error>)> {
    let layout = &config.layout;
    let cloud_endpoint = format!("http://{}", listener.local_addr()?);
    let wishes = Wishes { api: config.api, well_known_etcd: true, switches: config.switches.clone() };
    let port = Arc::new(FleetPort::new(Arc::clone(fleet), wishes));
    let account = format!("owner@{}.example", config.project);
    let cloud = Cloud::start(CloudConfig {
        data_dir: layout.cloud(),
        platform: platform.clone(),
        clock: system::clock(),
        entropy: system::entropy(),
        project: config.project.clone(),
        project_number,
        account: account.clone(),
        auth: if config.auth == AuthMode::Open { Auth::Open } else { Auth::Strict },
        profile: match config.profile {
            Profile::Classic => gke::cluster::Profile::Classic,
            Profile::Year2026 => gke::cluster::Profile::Year2026,
        },
        fleet: Arc::clone(&port) as Arc<dyn cloud::Fleet>,
        endpoint: cloud_endpoint.clone(),
    })
    .await
    .context("the cloud")?;
    config.settings().save(layout)?;
    fleet.resolve_tokens_with(identity_server::door_of(&cloud));
    fleet.issue_tokens_with(cloud.clone());
    let control_token =
        secret_file(&layout.control_token(), || URL_SAFE_NO_PAD.encode(system::entropy().bytes::<32>()))?;
    if !token_is_known(layout, &cloud) {
        write_private(&layout.access_token(), cloud.issue_token(&account)?.as_bytes())?;
    }
    teller.step(&format!("the cloud answers at {cloud_endpoint}")).await;

    let mut run = RunState {
        pid: std::process::id(),
        cloud_endpoint,
        project: config.project.clone(),
        account,
        auth: config.auth,
        in_process: config.in_process,
        endpoint_deny: config.endpoint_deny,
        profile: config.profile,
        ..RunState::nothing(layout)
    };
    fleet.resume()?;
    fleet.finish_rotation(&cloud)?;
    if let Some(name) = &config.cluster {
        default_cluster::check(config, name, &cloud, fleet)?;
    }
    cloud.resume().await;
    serve_cloud(&cloud, listener);
    let mut trouble = None;
    if let Some(name) = &config.cluster {
        trouble = default_cluster::start(config, name, &cloud, fleet, &port, &mut run).await?;
        let address = run.api_address.trim_end_matches(":443");
        let how = if trouble.is_none() { format!("answers at https://{address}") } else { "does not run".to_owned() };
        teller.step(&format!("cluster {} in {} {how}", name.name, name.location)).await;
    }
    run.control_endpoint = serve_control(fleet, &cloud, control_token, &run).await?;
    fleet.boot().settle(&platform).await?;
    write_private(&layout.run_file(), &serde_json::to_vec_pretty(&run)?)?;
    Ok((cloud, run, trouble))
}

/// A directory that was started before must find the key that sealed it; a new one gets one.
fn open_platform(layout: &Layout) -> Result<Platform> {
    let directory = layout.platform();
    if !layout.is_used() {
        return Ok(Platform::open(directory, system::entropy())?);
    }
    let state = layout.cloud().join("state.sealed");
    if !state.exists() {
        bail!("{} is missing: {}", state.display(), RESTORE);
    }
    Platform::load(directory, system::entropy()).map_err(|error| match error {
        DiskError::MissingKey { .. } => {
            anyhow!("{error}; put it back, or name the directory that holds it with --platform-dir")
        }
        other => other.into(),
    })
}

impl Sandbox {
    fn summary(&self) -> String {
        let mut text = String::new();
        if self.run.auth == AuthMode::Open {
            text.push_str("WARNING: --auth open takes any credential as project owner.\n");
        }
        if self.run.api_address.parse::<SocketAddr>().is_ok_and(|a| !a.ip().is_loopback()) {
            text.push_str(&format!("WARNING: {} can be reached from other machines.\n", self.run.api_address));
        }
        match &self.run.cluster {
            Some(_) if self.trouble.is_some() => text.push_str("The cloud is ready."),
            Some(cluster) => text.push_str(&format!("Cluster {} is ready.", cluster.name)),
            None => text.push_str("The cloud is ready; no cluster runs yet."),
        }
        let program = std::env::current_exe().unwrap_or_else(|_| "pilothouse".into());
        let program = std::env::current_dir()
            .ok()
            .and_then(|here| program.strip_prefix(here).map(std::path::Path::to_owned).ok())
            .unwrap_or(program);
        text.push_str(&format!(
            " Next:\n\n  eval \"$({} env --data-dir {})\"\n  kubectl get nodes\n  gcloud container clusters list\n",
            program.display(),
            self.layout.root().display(),
        ));
        text
    }

    fn trouble(&self) -> Option<String> {
        let cause = crate::failure::line(self.trouble.as_ref()?);
        Some(format!("{cause}; what else is there runs (`pilothouse status`), and `pilothouse down` stops it"))
    }

    async fn stop(self) {
        self.cloud.stop().await;
        self.fleet.stop().await;
        if let Err(error) = std::fs::remove_file(self.layout.run_file()) {
            warn!(%error, "run.json stays behind");
        }
        tracing::info!(pid = self.run.pid, "stopped");
    }
}

fn serve_cloud(cloud: &Cloud, listener: TcpListener) {
    let cloud = cloud.clone();
    tokio::spawn(async move {
        if let Err(error) = cloud.serve(listener).await {
            error!(%error, "the cloud's endpoint");
        }
    });
}

async fn serve_control(fleet: &Arc<Fleet>, cloud: &Cloud, token: String, run: &RunState) -> Result<String> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let endpoint = format!("http://{}/pilothouse/v1", listener.local_addr()?);
    let router = control::router(Arc::clone(fleet), cloud.clone(), token, run.clone());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "the control API");
        }
    });
    Ok(endpoint)
}

async fn listen(wished: Option<u16>) -> Result<TcpListener> {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Some(port) = wished else {
        return match TcpListener::bind(at(CLOUD_PORT)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(at(0)).await.context("cannot listen on 127.0.0.1"),
        };
    };
    TcpListener::bind(at(port)).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "{} is in use by another program; choose another port with --cloud-port (0 takes a free one)",
            at(port)
        ),
        ErrorKind::PermissionDenied => {
            anyhow!("no permission to listen on {}; choose a port from 1024 up with --cloud-port", at(port))
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {}", at(port))),
    })
}

/// Reads a secret of ours, or makes it.
fn secret_file(path: &std::path::Path, make: impl FnOnce() -> String) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let secret = make();
            write_private(path, secret.as_bytes())?;
            Ok(secret)
        }
        Err(e) => Err(refusal("read", path, e)),
    }
}

fn token_is_known(layout: &Layout, cloud: &Cloud) -> bool {
    std::fs::read_to_string(layout.access_token()).is_ok_and(|t| cloud.resolve_token(t.trim()).is_some())
}

/// Twelve digits, as Google numbers projects; the same for the same project id.
fn project_number(layout: &Layout, project: &str) -> Result<String> {
    let file = layout.root().join("project-number");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, project.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    let number = (100_000_000_000 + u64::from_be_bytes(first) % 900_000_000_000).to_string();
    let found = secret_file(&file, || number.clone())?;
    if found != number {
        bail!("{} is damaged: project {project} has number {number}; delete the file", file.display());
    }
    Ok(number)
}
