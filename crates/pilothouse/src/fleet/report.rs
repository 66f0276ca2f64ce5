//! What `status` and `inspect` tell, as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::confine::GaveUp;
use crate::fleet::exposure::{self, ClusterEndpoints, PlaceRange};
use crate::fleet::{Fleet, hardening};
use crate::layout::RunState;

/// `pilothouse status -o json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) data_dir: PathBuf,
    pub(crate) cloud: CloudStatus,
    pub(crate) clusters: Vec<ClusterStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CloudStatus {
    pub(crate) endpoint: String,
    pub(crate) project: String,
    pub(crate) account: String,
    pub(crate) pid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterStatus {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) id: String,
    /// `RUNNING`, `STARTING` or `FAILED: cause`.
    pub(crate) state: String,
    pub(crate) kubernetes_version: String,
    /// `ip` or `ip:port`, as GKE's field.
    pub(crate) endpoint: String,
    /// In the cluster's network.
    pub(crate) internal_endpoint: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) etcd_endpoints: Vec<String>,
    /// The store's members as they answer now.
    #[serde(default)]
    pub(crate) members: Vec<MemberStatus>,
    pub(crate) nodes: usize,
    /// The metadata server of each node.
    #[serde(default)]
    pub(crate) node_metadata: BTreeMap<String, String>,
    pub(crate) instances: Vec<InstanceStatus>,
}

/// A member of a cluster's store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberStatus {
    /// Of its instance.
    pub(crate) name: String,
    /// For clients.
    pub(crate) endpoint: String,
    /// Whether it answers and knows a leader.
    pub(crate) healthy: bool,
    pub(crate) leader: bool,
    pub(crate) raft_term: u64,
    /// The last entry of its log, and the last one applied.
    pub(crate) raft_index: u64,
    pub(crate) raft_applied_index: u64,
}

impl MemberStatus {
    pub(crate) fn of(name: String, endpoint: String, status: Option<etcd::StoreStatus>) -> Self {
        let healthy = status.as_ref().is_some_and(|status| status.leader != 0);
        let status = status.unwrap_or_default();
        Self {
            name,
            endpoint,
            healthy,
            leader: healthy && status.leader == status.member,
            raft_term: status.raft_term,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
        }
    }
}

/// One process of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceStatus {
    pub(crate) name: String,
    /// Null while it does not run.
    pub(crate) pid: Option<u32>,
    /// `control-plane` or `signer`.
    pub(crate) role: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) addresses: Vec<String>,
    /// Its metadata server, which hears nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<String>,
    /// How often it was started again since `up`.
    pub(crate) restarts: u32,
    /// What it said of itself when it began; nothing of what runs in the fleet's own process.
    #[serde(skip)]
    pub(crate) gave_up: Vec<GaveUp>,
    /// Why it does not run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// What a rotation of the keys did.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rotation {
    /// How many data keys are new.
    pub(crate) data_keys: usize,
}

/// Whose metadata server is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Machine {
    Node(String),
    Pod { namespace: String, name: String },
}

/// The key that seals a directory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SealingKey {
    pub(crate) data_dir: PathBuf,
    pub(crate) data_key_id: String,
    /// Of the key that wraps it.
    pub(crate) platform_key_id: String,
    /// Whether a rotation is under way: a part may still be sealed with the key before.
    pub(crate) resealing: bool,
}

/// `pilothouse inspect -o json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inspection {
    pub(crate) status: Status,
    /// Are all parts in one process (`--in-process`)?
    pub(crate) in_process: bool,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) keys: Vec<SealingKey>,
    pub(crate) exposure: Exposure,
    pub(crate) boundaries: Vec<Boundary>,
}

/// `pilothouse inspect endpoints -o json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exposure {
    pub(crate) clusters: Vec<ClusterEndpoints>,
    pub(crate) places: Vec<PlaceRange>,
}

/// A certificate authority of a cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) cluster: String,
    pub(crate) used_for: String,
    pub(crate) subject: String,
    pub(crate) sha256: String,
    pub(crate) not_after: String,
}

/// Something that keeps parts from each other, and how far it really does here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Boundary {
    pub(crate) what: String,
    /// `full`, `partial` or `none`.
    pub(crate) enforced: String,
    pub(crate) why: String,
}

/// The state of all clusters now.
pub(crate) async fn status(fleet: &Fleet, run: &RunState) -> Status {
    Status {
        data_dir: fleet.layout().root().to_owned(),
        cloud: CloudStatus {
            endpoint: run.cloud_endpoint.clone(),
            project: run.project.clone(),
            account: run.account.clone(),
            pid: run.pid,
        },
        clusters: fleet.report().await,
    }
}

/// How the sandbox is put together.
pub(crate) async fn inspect(fleet: &Fleet, run: &RunState) -> Inspection {
    Inspection {
        status: status(fleet, run).await,
        in_process: fleet.in_process(),
        certificates: fleet.certificates().await,
        keys: keys(fleet),
        exposure: exposure(fleet),
        boundaries: boundaries(fleet.in_process(), confined(fleet)),
    }
}

/// Who reaches which endpoint.
pub(crate) fn exposure(fleet: &Fleet) -> Exposure {
    Exposure { clusters: exposure::look(fleet), places: exposure::legend() }
}

fn keys(fleet: &Fleet) -> Vec<SealingKey> {
    let clusters = fleet.clusters();
    let directories = clusters.iter().flat_map(|cluster| cluster.sealed_directories(fleet.layout()));
    let front_end = Some(fleet.layout().front_end()).filter(|path| disk::DataDir::is_made(path));
    let directories = directories.map(|(_, path)| path).chain(front_end);
    let key = |data_dir: PathBuf| {
        let (key, resealing) = disk::DataDir::keys_of(&data_dir).ok()?;
        let (data_key_id, platform_key_id) = (key.key_id.to_string(), key.platform_key_id.to_string());
        Some(SealingKey { data_dir, data_key_id, platform_key_id, resealing })
    };
    directories.filter_map(key).collect()
}

/// The least that holds of any process of a cluster.
fn confined(fleet: &Fleet) -> (&'static str, &'static str) {
    let all = hardening::look_at_clusters(fleet);
    let of = |name: &'static str| all.iter().filter(move |one| one.attribute == name).map(|one| one.enforced.clone());
    let found: Vec<String> = of("system calls").chain(of("files")).collect();
    let holds = |one: &String| one == "full";
    if found.is_empty() || !found.iter().any(|one| one != "none") {
        ("none", "`inspect hardening` says why")
    } else if found.iter().all(holds) {
        ("full", "seccomp and Landlock, which each applies to itself before it gets its key; see `inspect hardening`")
    } else {
        ("partial", "`inspect hardening` says for which process, and why")
    }
}

fn boundaries(in_process: bool, confined: (&str, &str)) -> Vec<Boundary> {
    let boundary = |what: &str, enforced: &str, why: &str| Boundary {
        what: what.to_owned(),
        enforced: enforced.to_owned(),
        why: why.to_owned(),
    };
    let separate = if in_process { "none" } else { "partial" };
    let processes = if in_process {
        "--in-process puts signer, store and API server into one process"
    } else {
        "own processes joined by inherited sockets, kept from the user's other processes; root can still read them"
    };
    vec![
        boundary("the signer alone holds the CA keys", separate, processes),
        boundary("a cluster's processes reach no other cluster's keys", separate, processes),
        boundary(
            "a stolen instance directory is useless",
            "full",
            "sealed with AES-256-GCM; the wrapping key lies in the platform directory",
        ),
        boundary(
            "an instance's metadata, with the key of the etcd API CA, reaches that instance alone",
            separate,
            "only a socket that the instance was born with is let in; whoever reads the fleet's or the instance's memory has the key",
        ),
        boundary(
            "a pod has the tokens of its own service account alone",
            "partial",
            "told by the address, for processes of the same user; any of these may call any pod's metadata server",
        ),
        boundary(
            "the store's client port answers only certificates of the etcd API CA",
            "full",
            "mutual TLS on a loopback address",
        ),
        boundary(
            "the store's members hear only certificates of the etcd peer CA, each for its own address",
            "full",
            "mutual TLS; where addresses cannot be aliases, members share one and their certificates are alike",
        ),
        boundary("system calls and files of signer and instances are confined", confined.0, confined.1),
        boundary(
            "who connects to an endpoint is decided by source address",
            "partial",
            "loopback addresses stand for places, and any process here may take any of them",
        ),
        boundary("nodes and control plane are separate machines", "none", "simulated nodes live in the instance"),
    ]
}
