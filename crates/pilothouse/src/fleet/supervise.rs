//! The task behind each cluster: starts its processes, publishes where connections go, starts what died again.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use pki::{Authority, Requester, Signer, SignerClient};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::channel;
use crate::edge::{self, Delivery};
use crate::fleet::addresses::Listeners;
use crate::fleet::cluster::{Access, Cluster, Command, State};
use crate::fleet::message::{FromInstance, FromSigner, InstanceStart, ToInstance, ToSigner};
use crate::fleet::process::{self, Process};
use crate::fleet::report::InstanceStatus;
use crate::fleet::{Fleet, in_process, key, user_files};
use crate::identity_server;

/// The instance's and the signer's directory names.
pub(crate) const INSTANCE: &str = "control-plane-0";
pub(crate) const SIGNER: &str = "signer";
/// Between two starts of processes that die at once.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// An instance syncs its store before it ends.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How one life of a cluster's processes ended.
enum End {
    Stopped(oneshot::Sender<()>),
    Died(&'static str),
}

/// Starts the edge and the supervising task.
pub(crate) fn start(fleet: Arc<Fleet>, cluster: Arc<Cluster>, listeners: Listeners) {
    let inbox = cluster.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(inbox) = inbox else { return };
    let endpoint = listeners.api;
    let delivery = cluster.delivery.subscribe();
    tokio::spawn(async move {
        if let Err(error) = edge::serve(endpoint, delivery).await {
            error!(%error, "the edge stopped");
        }
    });
    tokio::spawn(supervise(fleet, cluster, listeners.etcd, inbox));
}

async fn supervise(
    fleet: Arc<Fleet>,
    cluster: Arc<Cluster>,
    etcd: std::net::TcpListener,
    mut inbox: mpsc::Receiver<Command>,
) {
    if fleet.in_process() {
        return in_process::run(fleet, cluster, etcd, inbox).await;
    }
    let mut restarts = 0;
    let mut delay = Duration::ZERO;
    loop {
        let began = fleet.clock.monotonic();
        let end = live(&fleet, &cluster, &etcd, &mut inbox, restarts).await;
        cluster.delivery.send_replace(None);
        cluster.signer.send_replace(None);
        match end {
            Ok(End::Stopped(done)) => {
                let _ = done.send(());
                return;
            }
            Ok(End::Died(who)) => {
                warn!(cluster = cluster.spec().name, who, "a process died; starting the cluster's processes again");
                restarts += 1;
                cluster.state.send_replace(State::Starting);
            }
            Err(cause) => {
                error!(cluster = cluster.spec().name, "cannot run: {cause:#}");
                cluster.state.send_replace(State::Failed(format!("{cause:#}")));
                delay = RESTART_DELAY_MAX;
            }
        }
        let lived = fleet.clock.monotonic().saturating_sub(began);
        delay = if lived > RESTART_DELAY_MAX { Duration::ZERO } else { delay };
        if let Some(done) = wait_or_stop(delay, &mut inbox).await {
            let _ = done.send(());
            return;
        }
        delay = (delay * 2 + Duration::from_millis(50)).min(RESTART_DELAY_MAX);
    }
}

/// Sleeps, unless it is told to stop meanwhile.
async fn wait_or_stop(delay: Duration, inbox: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
    let sleep = tokio::time::sleep(delay);
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            () = &mut sleep => return None,
            command = inbox.recv() => if let Some(Command::Stop(done)) = command { return Some(done) },
        }
    }
}

/// From start to end of one pair of processes.
async fn live(
    fleet: &Arc<Fleet>,
    cluster: &Arc<Cluster>,
    etcd: &std::net::TcpListener,
    inbox: &mut mpsc::Receiver<Command>,
    restarts: u32,
) -> Result<End> {
    let mut signer = spawn(fleet, cluster, "signer", SIGNER)?;
    let mut instance = spawn(fleet, cluster, "instance", INSTANCE)?;
    let door = open_signer(fleet, cluster, &signer).await?;
    start_instance(fleet, cluster, &signer, &instance, etcd).await?;
    report_processes(fleet, cluster, &signer, &instance, restarts);
    let access = access(cluster, &door).await?;
    user_files::write(fleet.layout(), cluster.spec(), &access, &door).await?;
    let channel = Arc::new(instance.channel);
    cluster.signer.send_replace(Some(door));
    cluster.delivery.send_replace(Some(Delivery::Process(Arc::clone(&channel))));
    cluster.state.send_replace(State::Running(access));
    info!(cluster = cluster.spec().name, instance = instance.pid, signer = signer.pid, "running");
    loop {
        tokio::select! {
            _ = signer.child.wait() => return Ok(End::Died("signer")),
            _ = instance.child.wait() => return Ok(End::Died("instance")),
            command = inbox.recv() => match command {
                Some(Command::Nodes(nodes)) => channel.send(&ToInstance::Nodes { nodes }, &[]).await?,
                Some(Command::Stop(done)) => {
                    cluster.delivery.send_replace(None);
                    let _ = channel.send(&ToInstance::Stop, &[]).await;
                    if tokio::time::timeout(STOP_TIMEOUT, instance.child.wait()).await.is_err() {
                        warn!(cluster = cluster.spec().name, "the instance does not stop; ending it");
                        let _ = instance.child.kill().await;
                    }
                    let _ = signer.channel.send(&ToSigner::Stop, &[]).await;
                    let _ = tokio::time::timeout(STOP_TIMEOUT, signer.child.wait()).await;
                    return Ok(End::Stopped(done));
                }
                None => bail!("the fleet forgot this cluster"),
            },
        }
    }
}

fn spawn(fleet: &Fleet, cluster: &Cluster, role: &str, name: &str) -> Result<Process> {
    let spec = cluster.spec();
    let directory = fleet.layout().cluster(&spec.id).join(name);
    let mut arguments: Vec<OsString> = vec![
        role.into(),
        "--cluster".into(),
        spec.name.as_str().into(),
        "--data-dir".into(),
        directory.into_os_string(),
    ];
    if name == INSTANCE {
        for address in addresses(cluster) {
            arguments.extend(["--address".into(), address.to_string().into()]);
        }
    }
    process::spawn(&arguments, &fleet.layout().log(&format!("{}-{}-{name}", spec.name, spec.location)))
}

fn addresses(cluster: &Cluster) -> [SocketAddr; 2] {
    [cluster.addresses.api, cluster.addresses.etcd]
}

/// Starts the signer's work and opens the fleet's own door to it.
async fn open_signer(fleet: &Fleet, cluster: &Cluster, signer: &Process) -> Result<Signer> {
    let id = &cluster.spec().id;
    let data_dir = fleet.layout().cluster(id).join(SIGNER);
    let data_key = key::unwrap(&data_dir, id, SIGNER, &fleet.platform)?;
    signer.channel.send(&ToSigner::Start { cluster: id.clone(), data_dir, data_key }, &[]).await?;
    match signer.channel.receive().await?.map(|(message, _)| message) {
        Some(FromSigner::Ready) => {}
        Some(FromSigner::Failed { message }) => bail!("signer: {message}"),
        None => bail!("the signer ended at once; see its log in {}", fleet.layout().logs().display()),
    }
    let (ours, theirs) = channel::stream_pair()?;
    signer.channel.send(&ToSigner::Connect { requester: Requester::Fleet }, &[theirs]).await?;
    Ok(Signer::Socket(SignerClient::new(stream(ours)?)))
}

async fn start_instance(
    fleet: &Arc<Fleet>,
    cluster: &Cluster,
    signer: &Process,
    instance: &Process,
    etcd: &std::net::TcpListener,
) -> Result<()> {
    let (to_signer, signer_end) = channel::stream_pair()?;
    signer.channel.send(&ToSigner::Connect { requester: Requester::Instance }, &[signer_end]).await?;
    let (to_identity, identity_end) = channel::stream_pair()?;
    tokio::spawn(identity_server::serve(stream(identity_end)?, Arc::clone(&fleet.resolver)));
    let start = start_message(fleet, cluster)?;
    let files = [to_signer, to_identity, etcd.try_clone()?.into()];
    instance.channel.send(&ToInstance::Start(Box::new(start)), &files).await?;
    match instance.channel.receive().await?.map(|(message, _)| message) {
        Some(FromInstance::Ready) => Ok(()),
        Some(FromInstance::Failed { message }) => Err(anyhow!(message)),
        None => bail!("the instance ended at once; see its log in {}", fleet.layout().logs().display()),
    }
}

/// What an instance is told at its start.
///
/// # Errors
/// When its directory cannot be opened.
pub(crate) fn start_message(fleet: &Fleet, cluster: &Cluster) -> Result<InstanceStart> {
    let spec = cluster.spec();
    let data_dir = fleet.layout().cluster(&spec.id).join(INSTANCE);
    Ok(InstanceStart {
        cluster: spec.clone(),
        instance: INSTANCE.to_owned(),
        data_key: key::unwrap(&data_dir, &spec.id, INSTANCE, &fleet.platform)?,
        data_dir,
        api_address: cluster.addresses.api,
        private_address: cluster.addresses.private,
        etcd_address: cluster.addresses.etcd,
        project_number: fleet.project_number.clone(),
        nodes: cluster.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    })
}

/// How the cluster is reached from now on.
///
/// # Errors
/// When the signer is gone.
pub(crate) async fn access(cluster: &Cluster, signer: &Signer) -> Result<Access> {
    Ok(Access {
        endpoint: cluster.addresses.endpoint(),
        private_endpoint: cluster.addresses.private.to_string(),
        ca_pem: signer.certificate(Authority::Cluster).await.context("the signer does not answer")?,
        etcd_endpoints: vec![format!("https://{}", cluster.addresses.etcd)],
    })
}

fn report_processes(fleet: &Fleet, cluster: &Cluster, signer: &Process, instance: &Process, restarts: u32) {
    let directory = fleet.layout().cluster(&cluster.spec().id);
    let status = |name: &str, role: &str, pid: u32, addresses: Vec<String>| InstanceStatus {
        name: name.to_owned(),
        pid,
        role: role.to_owned(),
        data_dir: directory.join(name),
        addresses,
        restarts,
    };
    let listening = addresses(cluster).iter().map(SocketAddr::to_string).collect();
    *cluster.instances.lock().unwrap_or_else(PoisonError::into_inner) = vec![
        status(INSTANCE, "control-plane", instance.pid, listening),
        status(SIGNER, "signer", signer.pid, Vec::new()),
    ];
}

fn stream(end: std::os::fd::OwnedFd) -> Result<UnixStream> {
    let stream = StdUnixStream::from(end);
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}
