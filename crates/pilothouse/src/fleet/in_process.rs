//! `--in-process`: a cluster's signer and instance as tasks of the cloud's process. The same parts meet at the same
//! doors; only the walls between them are missing, and `inspect` says so.

use std::sync::{Arc, PoisonError};

use anyhow::Result;
use pki::{Requester, Signer, SignerCore};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::channel::stream;
use crate::edge::Delivery;
use crate::fleet::cluster::{Cluster, Command, NewKeys, State, instance_name};
use crate::fleet::report::InstanceStatus;
use crate::fleet::starting::{SIGNER, access, addresses, admit, start_message};
use crate::fleet::{Fleet, MemberListeners, SealedDirectory, key, outside, user_files};
use crate::instance::{Doors, Instance};

/// Connections that wait for a task to serve them.
const CONNECTIONS_WAITING_MAX: usize = 1024;

/// Runs the cluster until it is stopped.
pub(crate) async fn run(
    fleet: Arc<Fleet>,
    cluster: Arc<Cluster>,
    members: Vec<MemberListeners>,
    mut inbox: mpsc::Receiver<Command>,
) {
    let (sender, mut connections) = mpsc::channel(CONNECTIONS_WAITING_MAX);
    let (mut instances, vault) = match start(&fleet, &cluster, members).await {
        Ok(started) => started,
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
    cluster.delivery.send_replace(vec![Delivery::InProcess(sender)]);
    info!(cluster = cluster.spec().name, "running in this process");
    for instance in &mut instances {
        instance.begin().await;
    }
    let ends = instances.iter().map(|instance| Box::pin(instance.store_ended()));
    let mut store_ended = futures_util::future::select_all(ends);
    let (mut has_store, mut turn) = (true, 0_usize);
    loop {
        tokio::select! {
            _ = &mut store_ended, if has_store => {
                has_store = false;
                let why = "the store's state thread is gone; `pilothouse down` and `up` start it again from the log";
                cluster.state.send_replace(State::Failed(why.to_owned()));
            }
            Some(stream) = connections.recv() => {
                turn = turn.wrapping_add(1);
                instances[turn % instances.len()].serve(stream);
            }
            command = inbox.recv() => match command {
                Some(Command::Nodes) => {
                    for (place, instance) in instances.iter().enumerate() {
                        instance.set_nodes(cluster.nodes_of(place), cluster.machines()).await;
                    }
                }
                Some(Command::Keys(keys)) => {
                    if let Err(error) = take_keys(keys, &vault, &instances) {
                        warn!("new data keys: {error:#}");
                    }
                }
                Some(Command::Report(answer)) => {
                    let reports = futures_util::future::join_all(instances.iter().map(Instance::report)).await;
                    let _ = answer.send(reports.concat());
                }
                Some(Command::Ask { place, question, end }) => {
                    if let (Some(instance), Ok(end)) = (instances.get(place), stream(end)) {
                        instance.answer(question, end);
                    }
                }
                Some(Command::Access(done)) => {
                    instances.iter().for_each(|instance| instance.set_access(cluster.access_settings()));
                    let _ = done.send(());
                }
                Some(Command::Stop(done)) => {
                    cluster.delivery.send_replace(Vec::new());
                    futures_util::future::join_all(instances.into_iter().map(Instance::stop)).await;
                    let _ = done.send(());
                    return;
                }
                None => return,
            },
        }
    }
}

fn take_keys(keys: NewKeys, vault: &SealedDirectory, instances: &[Instance]) -> Result<()> {
    if let Some(key) = keys.signer {
        vault.take_key(&key)?;
        vault.reseal_files()?;
        vault.forget_earlier_keys()?;
    }
    for (key, instance) in keys.instances.iter().zip(instances) {
        if let Some(key) = key {
            instance.take_key(key)?;
        }
    }
    Ok(())
}

async fn start(
    fleet: &Arc<Fleet>,
    cluster: &Arc<Cluster>,
    members: Vec<MemberListeners>,
) -> Result<(Vec<Instance>, Arc<SealedDirectory>)> {
    let id = &cluster.spec().id;
    let directory = fleet.layout().cluster(id).join(SIGNER);
    admit(fleet, cluster, SIGNER).await?;
    let data_key = key::unwrap(&directory, id, SIGNER, &fleet.platform)?;
    let vault = Arc::new(SealedDirectory::open(&directory, id, SIGNER, &data_key, fleet.entropy.clone())?);
    if vault.has_earlier_keys() {
        vault.reseal_files()?;
        vault.forget_earlier_keys()?;
    }
    let outside = outside::in_process(fleet, cluster)?;
    let (clock, entropy) = (fleet.clock.clone(), fleet.entropy.clone());
    let core = SignerCore::open_with(id, Arc::clone(&vault) as _, outside, clock, entropy)?;
    let core = Arc::new(core);
    cluster.metadata_signer.send_replace(Some(Signer::InProcess(Arc::clone(&core), Requester::Metadata)));
    let mut statuses = Vec::new();
    let mut starting = Vec::new();
    for (place, etcd) in members.into_iter().enumerate() {
        let (identity, keys) = doors_to_cloud(fleet, id);
        let signer = Signer::InProcess(Arc::clone(&core), Requester::Instance);
        admit(fleet, cluster, &instance_name(place)).await?;
        let start = start_message(fleet, cluster, place).await?;
        statuses.push(InstanceStatus {
            name: instance_name(place),
            pid: Some(std::process::id()),
            role: "control-plane".to_owned(),
            data_dir: start.data_dir.clone(),
            addresses: addresses(cluster, place).iter().map(ToString::to_string).collect(),
            metadata: Some(start.metadata.to_string()),
            restarts: 0,
            gave_up: Vec::new(),
            trouble: None,
        });
        let metadata = cluster.metadata_of(place)?.hand_out()?;
        starting.push(Instance::start(start, Doors { signer, identity, keys, etcd, metadata }));
    }
    *cluster.instances.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
    // Side by side: the first instances of a regional cluster need each other to begin.
    let instances = futures_util::future::try_join_all(starting).await?;
    let door = Signer::InProcess(core, Requester::Fleet);
    let access = access(cluster, &door).await?;
    user_files::write(fleet.layout(), cluster.spec(), &access, &door).await?;
    cluster.signer.send_replace(Some(door));
    cluster.state.send_replace(State::Running(access));
    Ok((instances, vault))
}

/// Who knows tokens, and who keeps the cluster's keys.
fn doors_to_cloud(fleet: &Fleet, cluster: &str) -> (apiserver::Identity, apiserver::KeyService) {
    let Some(door) = fleet.tokens.get().cloned() else {
        return (apiserver::Identity::None, apiserver::KeyService::None);
    };
    let (keys, cluster) = (door.keys.clone(), cluster.to_owned());
    let ask = move |question| {
        let (keys, cluster) = (keys.clone(), cluster.clone());
        async move {
            let asked = tokio::task::spawn_blocking(move || keys(&cluster, question)).await;
            asked.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    let keys = apiserver::KeyService::in_process(ask, door.changes.clone());
    let resolve = move |token: String| std::future::ready((door.resolve)(&token));
    (apiserver::Identity::in_process(resolve, door.changes), keys)
}
