//! What the processes of a cluster are started with, or its parts in this process: admission, keys, addresses, the first message.

use std::ffi::OsString;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use pki::{Authority, Signer};

use crate::fleet::addresses::MemberAddresses;
use crate::fleet::boot::Starting;
use crate::fleet::cluster::{Access, Cluster, instance_name};
use crate::fleet::message::{InstanceStart, Secret, StoreMember};
use crate::fleet::process::{self, Process};
use crate::fleet::{Fleet, disk_key, key};
use crate::layout::make_directory;

/// The signer's directory name.
pub(crate) const SIGNER: &str = "signer";

/// A process of the cluster: the instance at a place, or the signer.
///
/// # Errors
/// When its directory cannot be made, or the program not be started.
pub(crate) fn spawn(fleet: &Fleet, cluster: &Cluster, instance: Option<usize>) -> Result<Process> {
    let spec = cluster.spec();
    let (role, name) = match instance {
        Some(place) => ("instance", instance_name(place)),
        None => ("signer", SIGNER.to_owned()),
    };
    let directory = fleet.layout().cluster(&spec.id).join(&name);
    // It confines itself to this directory before it is told anything.
    make_directory(&directory)?;
    let mut arguments: Vec<OsString> = vec![
        role.into(),
        "--cluster".into(),
        spec.name.as_str().into(),
        "--data-dir".into(),
        directory.into_os_string(),
    ];
    for address in instance.map(|place| addresses(cluster, place)).into_iter().flatten() {
        arguments.extend(["--address".into(), address.to_string().into()]);
    }
    process::spawn(
        &fleet.boot().program(),
        &arguments,
        &fleet.layout().log(&format!("{}-{}-{name}", spec.name, spec.location)),
    )
}

/// Where an instance is heard: the cluster's external endpoint, its store's client and peer ports, the internal endpoint.
pub(crate) fn addresses(cluster: &Cluster, place: usize) -> [SocketAddr; 4] {
    let member = cluster.addresses.members[place];
    [cluster.addresses.api, member.client, member.peer, cluster.addresses.internal]
}

/// Lets a process of the cluster have its key, or says why not.
///
/// # Errors
/// When the program or the cluster's record is not the one that was accepted.
pub(crate) async fn admit(fleet: &Fleet, cluster: &Cluster, process: &str) -> Result<()> {
    let spec = cluster.spec();
    fleet.boot().admit(Starting { cluster_id: &spec.id, location: &spec.location, process }).await
}

/// What the instance at a place is told at its start.
///
/// # Errors
/// When its directory cannot be opened.
pub(crate) async fn start_message(fleet: &Fleet, cluster: &Cluster, place: usize) -> Result<InstanceStart> {
    let (spec, instance) = (cluster.spec(), instance_name(place));
    let platform = disk_key::platform(fleet, cluster).await?;
    let data_dir = fleet.layout().cluster(&spec.id).join(&instance);
    Ok(InstanceStart {
        cluster: spec.clone(),
        data_key: key::unwrap(&data_dir, &spec.id, &instance, &platform)?,
        instance,
        data_dir,
        api_address: cluster.addresses.api,
        internal_address: cluster.addresses.internal,
        private_address: cluster.addresses.private,
        members: members(cluster),
        member: place,
        project_number: fleet.project_number.clone(),
        nodes: cluster.nodes_of(place),
        machines: cluster.machines(),
        machine_secret: Secret(cluster.machine_secret.to_text().to_string()),
        access: cluster.access_settings(),
        metadata: cluster.metadata_of(place)?.address(),
    })
}

/// The members of a cluster's store.
pub(crate) fn members(cluster: &Cluster) -> Vec<StoreMember> {
    let member = |(place, member): (usize, &MemberAddresses)| StoreMember {
        instance: instance_name(place),
        client: member.client,
        peer: member.peer,
    };
    cluster.addresses.members.iter().enumerate().map(member).collect()
}

/// How the cluster is reached from now on.
///
/// # Errors
/// When the signer is gone.
pub(crate) async fn access(cluster: &Cluster, signer: &Signer) -> Result<Access> {
    Ok(Access {
        endpoint: cluster.addresses.endpoint(),
        private_endpoint: cluster.addresses.internal_endpoint(),
        ca_pem: signer.certificate(Authority::Cluster).await.context("the signer does not answer")?,
        etcd_endpoints: cluster.etcd_endpoints(),
    })
}
