//! What is stored about clusters, node pools and operations.

use std::collections::BTreeMap;

use base::Timestamp;
use machinery::Value;
use serde::{Deserialize, Serialize};

use crate::workload::MachineSettings;

/// A cluster. `body` holds the configuration, defaults filled in; the rest of the answer is made by `render`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// 64 hex digits, for the cluster's life.
    pub id: String,
    pub name: String,
    pub location: String,
    /// RFC 3339.
    pub created: String,
    pub status: String,
    #[serde(default)]
    pub status_message: String,
    pub master_version: String,
    pub body: Value,
    pub pools: Vec<Pool>,
    /// Nothing before the control plane is up.
    pub access: Option<Access>,
}

/// How a running control plane is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Access {
    /// `ip` or `ip:port`.
    pub endpoint: String,
    pub private_endpoint: String,
    /// The cluster CA.
    pub ca_pem: String,
    /// Where one was asked for.
    #[serde(default)]
    pub client: Option<ClientCertificate>,
}

/// The client certificate of `--issue-client-certificate`, and its key, as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate(secret)")
    }
}

/// A node pool.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    pub status: String,
    pub version: String,
    /// Per zone.
    pub nodes: u32,
    pub groups: Vec<Group>,
    pub body: Value,
    /// RFC 3339.
    pub created: String,
}

/// The managed instance group of a pool in one zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub zone: String,
    /// `gke-<cluster>-<pool>-<8 hex>`: what its instances' names begin with; the group's own name adds `-grp`.
    pub base: String,
}

/// A machine that a pool wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    pub name: String,
    pub zone: String,
    pub region: String,
    pub pool: String,
    pub machine_type: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// The node's version, `1.33.13-gke.1350000`.
    pub version: String,
    /// Labels GKE gives, and the pool's own.
    pub labels: BTreeMap<String, String>,
    /// Key, value, effect (`NoSchedule`, `PreferNoSchedule`, `NoExecute`).
    pub taints: Vec<(String, String, String)>,
    /// Does it join by attestation of its machine (the cluster's `shieldedNodes.enabled`)?
    pub shielded: bool,
    /// What its metadata says.
    pub settings: MachineSettings,
}

/// What an operation does once its time has come.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Work {
    CreateCluster,
    DeleteCluster,
    /// The configuration that replaces the cluster's.
    UpdateCluster(Box<Value>),
    CreatePool(String),
    DeletePool(String),
    /// Pool and nodes per zone.
    Resize(String, u32),
    /// Pool and the configuration that replaces its own.
    UpdatePool(String, Box<Value>),
}

/// A long-running operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// `operation-<unix ms>-<uuid>`.
    pub name: String,
    pub operation_type: String,
    pub location: String,
    pub cluster: String,
    pub cluster_id: String,
    pub pool: Option<String>,
    pub status: OperationStatus,
    /// RFC 3339 with nanoseconds.
    pub start: String,
    pub end: Option<String>,
    /// `google.rpc.Code` and text of a failure.
    pub error: Option<(i32, String)>,
    pub work: Work,
}

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OperationStatus {
    Pending,
    Running,
    Aborting,
    Done,
}

impl OperationStatus {
    /// The word in the answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Aborting => "ABORTING",
            Self::Done => "DONE",
        }
    }
}

impl Cluster {
    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pool of that name, to change.
    pub fn pool_mut(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.name == name)
    }

    /// `10.4.0.0/14`: where pods get their addresses.
    pub fn pod_cidr(&self) -> &str {
        self.body.str_at(&["ipAllocationPolicy", "clusterIpv4CidrBlock"])
    }

    /// Where Services get their addresses.
    pub fn service_cidr(&self) -> &str {
        self.body.str_at(&["ipAllocationPolicy", "servicesIpv4CidrBlock"])
    }

    /// Zones of the cluster.
    pub fn zones(&self) -> Vec<String> {
        self.body["locations"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// Operation names carry the time they began.
pub fn operation_name(now: Timestamp, uuid: &str) -> String {
    format!("operation-{}-{uuid}", now.unix_millis())
}

/// A stable number for what Google derives in ways nobody knows: fingerprints, suffixes, etags (FNV-1a, 64 bit).
pub(crate) fn digest(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^ (hash >> 29)
}

/// The first eight hex digits of the digest.
pub(crate) fn hex8(parts: &[&str]) -> String {
    format!("{:08x}", digest(parts) as u32)
}
