//! The cluster that `up` promises: made when it is missing, waited for, and made the one that `env` points at.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cloud::Cloud;

use crate::config::{ClusterName, Config, NODES, is_at};
use crate::failure::RESTORE;
use crate::fleet::{Cluster, Fleet, make_default, try_address};
use crate::layout::RunState;
use crate::sandbox::fleet_port::FleetPort;

const POLL: Duration = Duration::from_millis(1);

/// Looks whether the flags fit the cluster that is there, or can be had for a new one, before anything is begun.
///
/// # Errors
/// One line that names the flag and the way out.
pub(super) fn check(config: &Config, name: &ClusterName, cloud: &Cloud, fleet: &Fleet) -> Result<()> {
    let Some(found) = cloud.find_cluster(&name.location, &name.name) else {
        return config.api.map_or(Ok(()), |(ip, port)| try_address(ip, port));
    };
    if let Some(nodes) = config.nodes.filter(|nodes| *nodes != found.nodes) {
        bail!(
            "cluster {} has {} nodes in each zone, not --nodes {nodes}: start without --nodes, then \
             `gcloud container clusters resize {} --location {} --num-nodes {nodes}`",
            name.name,
            found.nodes,
            name.name,
            name.location
        );
    }
    if let (Some((ip, port)), Some(cluster)) = (config.api, fleet.find(&found.id)) {
        let wish = port.map_or_else(|| ip.to_string(), |port| format!("{ip}:{port}"));
        let address = cluster.addresses.api.to_string();
        if !is_at(&wish, &address) {
            bail!(
                "cluster {} keeps its address {address}, not --api-address {wish}: start without --api-address, or make \
                 another cluster with --cluster",
                name.name
            );
        }
    }
    Ok(())
}

/// Makes the cluster or finds it, waits until it answers, and notes in `run` how it is reached. Why it does not run, where
/// the sandbox has its use without it: it is tried again, as every cluster is.
///
/// # Errors
/// When it cannot run, and nothing else does; the text says why.
pub(super) async fn start(
    config: &Config,
    name: &ClusterName,
    cloud: &Cloud,
    fleet: &Fleet,
    port: &FleetPort,
    run: &mut RunState,
) -> Result<Option<anyhow::Error>> {
    // A deletion that was cut off goes on first.
    while cloud.find_cluster(&name.location, &name.name).is_some_and(|c| c.status == "STOPPING" && cloud.is_busy(&c.id))
    {
        tokio::time::sleep(POLL).await;
    }
    let nodes = config.nodes.unwrap_or(NODES);
    // Nobody polls for this one.
    cloud.set_operation_time(Duration::ZERO);
    let id = cloud.ensure_cluster(&name.location, &name.name, nodes).await.context("the default cluster")?;
    let reached = running(cloud, fleet, port, &id, name).await;
    cloud.set_operation_time(cloud::OPERATION_TIME);
    if let Some(cluster) = fleet.find(&id) {
        let made = make_default(&config.layout, cluster.spec());
        if reached.is_ok() {
            made?;
        }
        run.etcd_endpoints = cluster.etcd_endpoints();
        run.api_address = cluster.addresses.api.to_string();
    }
    run.cluster = Some(name.clone());
    run.nodes = cloud.find_cluster(&name.location, &name.name).map(|found| found.nodes);
    match reached {
        Ok(()) => Ok(None),
        // With its disk key disabled it waits for the cloud that holds the key.
        Err(cause) if fleet.clusters().iter().any(|cluster| cluster.spec().id != id || cluster.has_disk_key()) => {
            Ok(Some(cause))
        }
        Err(cause) => Err(cause),
    }
}

/// Waits until the cluster answers and is known to be there.
async fn running(cloud: &Cloud, fleet: &Fleet, port: &FleetPort, id: &str, name: &ClusterName) -> Result<()> {
    launched(cloud, fleet, port, id, name).await?.until_running().await?;
    // What is told to be ready is known to be there: an operation that was cut off would make it anew if its data were gone.
    while cloud.find_cluster(&name.location, &name.name).is_some_and(|c| c.status == "PROVISIONING") {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The cluster, once the fleet has it: the cloud's operation makes a new one in a task of its own.
async fn launched(
    cloud: &Cloud,
    fleet: &Fleet,
    port: &FleetPort,
    id: &str,
    name: &ClusterName,
) -> Result<Arc<Cluster>> {
    loop {
        let busy = cloud.is_busy(id);
        if let Some(cluster) = fleet.find(id) {
            return Ok(cluster);
        }
        if let Some(cause) = port.failure(id) {
            bail!("cluster {}: {cause}", name.name);
        }
        if !busy {
            bail!(
                "the data of cluster {} is missing in {}: {RESTORE}",
                name.name,
                fleet.layout().cluster(id).display()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}
