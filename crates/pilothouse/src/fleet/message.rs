//! What the fleet and its children say to each other over their channels.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use cloud::{UserManagedCa, UserManagedKeys};
use gke::MachineSettings;
use pki::Authority;
use policy::AccessSettings;
use serde::{Deserialize, Serialize};

use crate::confine::GaveUp;
use crate::fleet::outside::Outside;
use crate::fleet::questions::NodeQuestion;

/// From the fleet to an instance.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum ToInstance {
    /// The first message. Files: the signer's stream, the identity stream, the store's client and peer listeners, the
    /// socket to connect to its metadata server with.
    Start(Box<InstanceStart>),
    /// File: an accepted connection to the API server.
    Connection,
    /// The signer was started again. File: the stream to the new one.
    Signer,
    /// The data key was rotated: everything is to be sealed anew with this one.
    Key { data_key: Secret },
    /// The nodes there should be now.
    Nodes { nodes: Vec<NodeSpec>, machines: Vec<MachineSpec> },
    /// Which client certificates does it use now? File: a stream for the answer, a list of [`UsedIdentity`] as JSON.
    Report,
    /// A metadata server asks. File: a stream for the answer.
    Ask { question: NodeQuestion },
    /// Does it hear? File: a stream to close.
    Hear,
    /// The rules of access from now on.
    Access { settings: AccessSettings },
    /// Stop in order: finish requests, sync, end.
    Stop,
}

/// From an instance to the fleet.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum FromInstance {
    /// It serves; and what it has given up.
    Ready { gave_up: Vec<GaveUp> },
    /// It cannot start; the text names the cause and the way out.
    Failed { message: String },
}

/// Everything an instance needs to run one cluster's control plane.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct InstanceStart {
    pub(crate) cluster: ClusterSpec,
    pub(crate) instance: String,
    pub(crate) data_dir: PathBuf,
    /// The key its directory is sealed with, base64; the platform key that wraps it stays with the fleet.
    pub(crate) data_key: Secret,
    pub(crate) api_address: SocketAddr,
    /// Where nodes find the control plane.
    pub(crate) internal_address: SocketAddr,
    pub(crate) private_address: Ipv4Addr,
    /// The store's members, one for each instance of the cluster.
    pub(crate) members: Vec<StoreMember>,
    /// Which of them this instance runs.
    pub(crate) member: usize,
    /// The project's number and service agent as the cloud knows them.
    pub(crate) project_number: String,
    /// The nodes that this instance carries.
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) access: AccessSettings,
    /// The machines of all the cluster's nodes.
    pub(crate) machines: Vec<MachineSpec>,
    /// What the machines' attestation keys are made of; new at each start of the fleet, as a TPM's state at power-on.
    pub(crate) machine_secret: Secret,
    /// Its metadata server.
    pub(crate) metadata: SocketAddr,
}

/// What the cloud knows of a node's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineSpec {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) internal_ip: Ipv4Addr,
    /// Where its kubelet listens: the loopback address that stands for the machine.
    pub(crate) kubelet: SocketAddr,
}

/// Where a member of a cluster's store is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoreMember {
    /// The instance it belongs to, which gives it its name.
    pub(crate) instance: String,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// From the fleet to a signer.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum ToSigner {
    /// The first message. File, where something is signed elsewhere: the stream to who has it signed.
    Start {
        cluster: String,
        data_dir: PathBuf,
        data_key: Secret,
        outside: Option<Outside>,
    },
    /// File: a stream whose other end belongs to `requester`.
    Connect {
        requester: pki::Requester,
    },
    /// The data key was rotated: everything is to be sealed anew with this one.
    Key {
        data_key: Secret,
    },
    Stop,
}

/// From a signer to the fleet.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum FromSigner {
    /// It signs; and what it has given up.
    Ready {
        gave_up: Vec<GaveUp>,
    },
    Failed {
        message: String,
    },
}

/// Before the name of the store whose process the user of a certificate shares.
pub(crate) const IN_PROCESS: &str = "own store ";

/// A client certificate that a process shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsedIdentity {
    /// Who shows it, and to whom.
    pub(crate) from: String,
    pub(crate) to: String,
    /// DER, base64.
    pub(crate) certificate: String,
}

/// What a cluster is, for the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterSpec {
    /// 64 hexadecimal digits, as GKE's `cluster.id`.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) project: String,
    pub(crate) location: String,
    pub(crate) kubernetes_version: String,
    pub(crate) pod_cidr: String,
    pub(crate) service_cidr: String,
    /// What its API server is started with; a record of before has neither.
    #[serde(default)]
    pub(crate) switches: Switches,
    /// Authorities that the user runs; a record of before has none.
    #[serde(default)]
    pub(crate) user_managed: BTreeMap<Authority, UserManagedCa>,
    /// Keys that the user has; a record of before has none.
    #[serde(default)]
    pub(crate) user_managed_keys: UserManagedKeys,
}

/// `--feature-gates` and `--runtime-config` of a cluster's API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Switches {
    pub(crate) feature_gates: String,
    pub(crate) runtime_config: String,
}

/// One simulated node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeSpec {
    pub(crate) name: String,
    pub(crate) pool: String,
    pub(crate) zone: String,
    pub(crate) machine_type: String,
    pub(crate) labels: Vec<(String, String)>,
    /// As `key=value:Effect`.
    pub(crate) taints: Vec<String>,
    /// Does it join by attestation (cluster field `shieldedNodes`)? In a record of before: yes.
    #[serde(default = "yes")]
    pub(crate) shielded: bool,
    /// What its metadata says. A record of before has none: as GKE's defaults.
    #[serde(default)]
    pub(crate) settings: MachineSettings,
}

const fn yes() -> bool {
    true
}

/// Text that no log and no debug output shows.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}
