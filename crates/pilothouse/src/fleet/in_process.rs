//! `--in-process`: a cluster's signer and instance as tasks of the cloud's process. The same parts meet at the same
//! doors; only the walls between them are missing, and `inspect` says so.

use std::sync::{Arc, PoisonError};

use anyhow::Result;
use pki::{Requester, Signer, SignerCore};
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::edge::Delivery;
use crate::fleet::cluster::{Cluster, Command, State};
use crate::fleet::report::InstanceStatus;
use crate::fleet::supervise::{INSTANCE, SIGNER, access, start_message};
use crate::fleet::{Fleet, SealedDirectory, key, user_files};
use crate::instance::{Doors, Instance};

/// Connections that wait for a task to serve them.
const CONNECTIONS_WAITING_MAX: usize = 1024;

/// Runs the cluster until it is stopped.
pub(crate) async fn run(
    fleet: Arc<Fleet>,
    cluster: Arc<Cluster>,
    etcd: std::net::TcpListener,
    mut inbox: mpsc::Receiver<Command>,
) {
    let (sender, mut connections) = mpsc::channel(CONNECTIONS_WAITING_MAX);
    let instance = match start(&fleet, &cluster, etcd).await {
        Ok(instance) => instance,
        Err(cause) => {
            error!(cluster = cluster.spec().name, "cannot run: {cause:#}");
            cluster.state.send_replace(State::Failed(crate::failure::line(&cause)));
            while let Some(command) = inbox.recv().await {
                if let Command::Stop(done) = command {
                    let _ = done.send(());
                    return;
                }
            }
            return;
        }
    };
    cluster.delivery.send_replace(Some(Delivery::InProcess(sender)));
    info!(cluster = cluster.spec().name, "running in this process");
    let mut store_ended = std::pin::pin!(instance.store_ended());
    let mut has_store = true;
    loop {
        tokio::select! {
            () = &mut store_ended, if has_store => {
                has_store = false;
                let why = "the store's state thread is gone; `pilothouse down` and `up` start it again from the log";
                cluster.state.send_replace(State::Failed(why.to_owned()));
            }
            Some(stream) = connections.recv() => instance.serve(stream),
            command = inbox.recv() => match command {
                Some(Command::Nodes(nodes)) => instance.set_nodes(nodes).await,
                Some(Command::Stop(done)) => {
                    cluster.delivery.send_replace(None);
                    instance.stop().await;
                    let _ = done.send(());
                    return;
                }
                None => return,
            },
        }
    }
}

async fn start(fleet: &Arc<Fleet>, cluster: &Arc<Cluster>, etcd: std::net::TcpListener) -> Result<Instance> {
    let id = &cluster.spec().id;
    let directory = fleet.layout().cluster(id).join(SIGNER);
    let data_key = key::unwrap(&directory, id, SIGNER, &fleet.platform)?;
    let vault = SealedDirectory::open(&directory, id, SIGNER, &data_key, fleet.entropy.clone())?;
    let core = Arc::new(SignerCore::open(id, Arc::new(vault), fleet.clock.clone(), fleet.entropy.clone())?);
    let resolver = Arc::clone(&fleet.resolver);
    let identity = apiserver::Identity::in_process(move |token| {
        let answer = resolver.get().and_then(|resolve| resolve(&token));
        std::future::ready(answer)
    });
    let doors = Doors { signer: Signer::InProcess(Arc::clone(&core), Requester::Instance), identity, etcd };
    let start = start_message(fleet, cluster)?;
    let pid = Some(std::process::id());
    *cluster.instances.lock().unwrap_or_else(PoisonError::into_inner) = vec![InstanceStatus {
        name: INSTANCE.to_owned(),
        pid,
        role: "control-plane".to_owned(),
        data_dir: start.data_dir.clone(),
        addresses: vec![cluster.addresses.api.to_string(), cluster.addresses.etcd.to_string()],
        restarts: 0,
        trouble: None,
    }];
    let instance = Instance::start(start, doors).await?;
    let door = Signer::InProcess(core, Requester::Fleet);
    let access = access(cluster, &door).await?;
    user_files::write(fleet.layout(), cluster.spec(), &access, &door).await?;
    cluster.signer.send_replace(Some(door));
    cluster.state.send_replace(State::Running(access));
    Ok(instance)
}
