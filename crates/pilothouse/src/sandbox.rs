//! The cloud's process: cloud, fleet, edge and control API of one sandbox, from start to stop.

mod fleet_port;
mod progress;

use std::fs::File;
use std::fs::TryLockError;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloud::{Auth, Cloud, CloudConfig};
use disk::Platform;
use tokio::net::TcpListener;
use tracing::{error, warn};

use crate::cli::{AuthMode, UpArgs};
use crate::commands::up::termination;
use crate::control;
use crate::fleet::{Cluster, Fleet, Wishes, parse_wish};
use crate::layout::{Layout, RunState, write_private};
use crate::system;

use fleet_port::FleetPort;
use progress::Teller;

/// Where the cloud listens unless told otherwise or taken.
const CLOUD_PORT: u16 = 8642;
const LAUNCH_POLL: Duration = Duration::from_millis(1);

/// Runs a sandbox until it is asked to end.
///
/// # Errors
/// When it cannot start; `up` hears the same text.
pub(crate) async fn run(args: &UpArgs) -> Result<()> {
    let mut teller = Teller::new(system::clock());
    match start(args, &mut teller).await {
        Ok(sandbox) => {
            teller.ready(&sandbox.summary()).await;
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
    default_cluster: Option<String>,
    auth: AuthMode,
    _lock: File,
}

async fn start(args: &UpArgs, teller: &mut Teller) -> Result<Sandbox> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), args.platform_dir.as_deref())?;
    layout.prepare()?;
    let lock = lock(&layout)?;
    let (clock, entropy) = (system::clock(), system::entropy());
    let platform = Platform::open(layout.platform(), entropy.clone())?;
    teller.step("opened the data directory and the platform's keys").await;

    let listener = listen(args.cloud_port).await?;
    let cloud_endpoint = format!("http://{}", listener.local_addr()?);
    let project_number = project_number(&layout, &args.project)?;
    let fleet = Fleet::new(
        layout.clone(),
        platform.clone(),
        clock.clone(),
        entropy.clone(),
        args.in_process,
        project_number.clone(),
    );
    let wishes = Wishes { api: args.api_address.as_deref().map(parse_wish).transpose()?, well_known_etcd: true };
    let port = Arc::new(FleetPort::new(Arc::clone(&fleet), wishes));
    let account = format!("owner@{}.example", args.project);
    let config = CloudConfig {
        data_dir: layout.cloud(),
        platform,
        clock,
        entropy: entropy.clone(),
        project: args.project.clone(),
        project_number,
        account: account.clone(),
        auth: if args.auth == AuthMode::Open { Auth::Open } else { Auth::Strict },
        fleet: Arc::clone(&port) as Arc<dyn cloud::Fleet>,
        endpoint: cloud_endpoint.clone(),
    };
    let cloud = Cloud::start(config).await.context("the cloud")?;
    let resolving = cloud.clone();
    fleet.resolve_tokens_with(Arc::new(move |token| resolving.resolve_token(token)));
    let control_token = secret_file(&layout.control_token(), || URL_SAFE_NO_PAD.encode(entropy.bytes::<32>()))?;
    if !token_is_known(&layout, &cloud) {
        write_private(&layout.access_token(), cloud.issue_token(&account)?.as_bytes())?;
    }
    teller.step(&format!("the cloud answers at {cloud_endpoint}")).await;

    let mut run = RunState {
        pid: std::process::id(),
        control_endpoint: String::new(),
        cloud_endpoint,
        project: args.project.clone(),
        account,
        platform_dir: layout.platform().to_owned(),
        etcd_endpoints: Vec::new(),
    };
    fleet.resume()?;
    serve_cloud(&cloud, listener);
    let default_cluster = if args.no_cluster {
        None
    } else {
        let id =
            cloud.ensure_cluster(&args.location, &args.cluster, args.nodes).await.context("the default cluster")?;
        let cluster = launched(&fleet, &port, &id).await?;
        let access = cluster.until_running().await?;
        let (name, location) = (&args.cluster, &args.location);
        teller.step(&format!("cluster {name} in {location} answers at https://{}", access.endpoint)).await;
        run.etcd_endpoints = access.etcd_endpoints;
        crate::fleet::make_default(&layout, cluster.spec())?;
        Some(name.clone())
    };
    run.control_endpoint = serve_control(&fleet, control_token, &run).await?;
    write_private(&layout.run_file(), &serde_json::to_vec_pretty(&run)?)?;
    Ok(Sandbox { layout, fleet, cloud, run, default_cluster, auth: args.auth, _lock: lock })
}

impl Sandbox {
    fn summary(&self) -> String {
        let mut text = String::new();
        if self.auth == AuthMode::Open {
            text.push_str("WARNING: --auth open takes any credential as project owner.\n");
        }
        match &self.default_cluster {
            Some(name) => text.push_str(&format!("Cluster {name} is ready.")),
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

    async fn stop(self) {
        self.cloud.stop().await;
        self.fleet.stop().await;
        if let Err(error) = std::fs::remove_file(self.layout.run_file()) {
            warn!(%error, "run.json stays behind");
        }
        tracing::info!(pid = self.run.pid, "stopped");
    }
}

/// The cluster that the cloud's operation is starting in a task of its own.
async fn launched(fleet: &Fleet, port: &FleetPort, id: &str) -> Result<Arc<Cluster>> {
    loop {
        if let Some(cluster) = fleet.find(id) {
            return Ok(cluster);
        }
        if let Some(cause) = port.failure(id) {
            bail!(cause);
        }
        tokio::time::sleep(LAUNCH_POLL).await;
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

async fn serve_control(fleet: &Arc<Fleet>, token: String, run: &RunState) -> Result<String> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let endpoint = format!("http://{}/pilothouse/v1", listener.local_addr()?);
    let router = control::router(Arc::clone(fleet), token, run.clone());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "the control API");
        }
    });
    Ok(endpoint)
}

fn lock(layout: &Layout) -> Result<File> {
    let path = layout.root().join("pilothouse");
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another sandbox runs on {}; `pilothouse down` stops it", layout.root().display())
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

async fn listen(wished: Option<u16>) -> Result<TcpListener> {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match wished {
        Some(port) => TcpListener::bind(at(port)).await.with_context(|| {
            format!("cannot listen on {}; choose another with --cloud-port (0 takes a free one)", at(port))
        }),
        None => match TcpListener::bind(at(CLOUD_PORT)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(at(0)).await.context("cannot listen on 127.0.0.1"),
        },
    }
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
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn token_is_known(layout: &Layout, cloud: &Cloud) -> bool {
    std::fs::read_to_string(layout.access_token()).is_ok_and(|t| cloud.resolve_token(t.trim()).is_some())
}

/// Twelve digits, as Google numbers projects; the same for the same project id.
fn project_number(layout: &Layout, project: &str) -> Result<String> {
    let text = secret_file(&layout.root().join("project-number"), || {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, project.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_ref()[..8]);
        (100_000_000_000 + u64::from_be_bytes(first) % 900_000_000_000).to_string()
    })?;
    Ok(text)
}
