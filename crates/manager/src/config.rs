//! What the manager and the nodes are started with.

use std::net::SocketAddr;
use std::sync::Arc;

use base::Clock;
use futures_util::future::BoxFuture;
use machinery::Value;

use crate::api::Api;
use crate::nodes::NodePods;

/// A CertificateSigningRequest that was approved and that the cluster CA shall sign.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// `kubernetes.io/kube-apiserver-client`, `…-kubelet` or `kubernetes.io/kubelet-serving`.
    pub signer_name: String,
    /// The request, PEM.
    pub csr_pem: Vec<u8>,
    /// Seconds asked for, if any.
    pub expiration_seconds: Option<i64>,
    /// Who asked.
    pub username: String,
    /// May the key encipher too (`spec.usages`)?
    pub key_encipherment: bool,
}

/// Answers a request with a certificate chain in PEM, or says why not.
pub type SignFn = Arc<dyn Fn(SignRequest) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// A question about the machine that a CertificateSigningRequest names.
#[derive(Clone, Debug)]
pub struct MachineQuestion {
    /// What must hold.
    pub check: controllers::action::MachineCheck,
    /// The request, PEM; an attested one has more blocks.
    pub csr_pem: Vec<u8>,
}

/// What the cloud knows of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineVerdict {
    /// It is the machine.
    Good,
    /// It is not.
    Bad,
    /// The request says nothing that could be checked.
    Silent,
}

/// Answers questions about the cluster's machines.
pub type MachineFn = Arc<dyn Fn(MachineQuestion) -> MachineVerdict + Send + Sync>;

/// Signs the claims of a service-account token, or says why not.
pub type SignTokenFn = Arc<dyn Fn(Value) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Makes a door to the API for a user: name and groups.
pub type ApiFn = Arc<dyn Fn(&str, &[&str]) -> Api + Send + Sync>;

/// How controllers and scheduler are run.
#[derive(Clone)]
pub struct ManagerConfig {
    /// Doors: for `system:serviceaccount:kube-system:<controller>` (groups `system:serviceaccounts…`),
    /// `system:kube-controller-manager` (lists and watches) and `system:kube-scheduler`.
    pub api: ApiFn,
    /// Run the controllers?
    pub controllers: bool,
    /// Run the scheduler?
    pub scheduler: bool,
    /// Dates what controllers write, and their delays.
    pub clock: Clock,
    /// For scheduling ties and lease jitter.
    pub seed: u64,
    /// This instance's name in Leases.
    pub identity: String,
    /// Wait for the Leases `kube-controller-manager` and `kube-scheduler`? A single instance need not.
    pub leader_election: bool,
    /// The cluster root CA certificate, published in every namespace.
    pub root_ca_pem: String,
    /// The pods' range, from which nodes get theirs; none: nobody assigns.
    pub pod_cidr: Option<String>,
    /// Signs approved CertificateSigningRequests; none: they stay approved.
    pub sign: Option<SignFn>,
    /// Knows the cluster's machines; none: requests that need it are left alone.
    pub machines: Option<MachineFn>,
    /// Signs the tokens of Secrets; none: they stay empty.
    pub sign_token: Option<SignTokenFn>,
}

/// One simulated machine.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name; the user is `system:node:NAME`.
    pub name: String,
    /// Its zone, as `us-central1-a`.
    pub zone: String,
    /// `cloud.google.com/gke-nodepool`.
    pub pool: String,
    /// Compute Engine machine type, as `e2-medium`.
    pub machine_type: String,
    /// Internal address.
    pub internal_ip: String,
    /// External address; empty: none.
    pub external_ip: String,
    /// Further labels.
    pub labels: Vec<(String, String)>,
    /// Further taints, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Local address to speak from; none: the system's choice.
    pub source: Option<std::net::IpAddr>,
    /// Where its kubelet's own server listens; none: it has none.
    pub kubelet: Option<SocketAddr>,
    /// Who it is to the API server.
    pub identity: NodeIdentity,
    /// For whoever serves its pods.
    pub pods: NodePods,
}

/// How a node proves who it is.
#[derive(Clone, Debug)]
pub enum NodeIdentity {
    /// With this node's own client certificate, made elsewhere.
    Given(Arc<rustls::ClientConfig>),
    /// With certificates that it asks the API for.
    Bootstrap(Bootstrap),
}

/// Hands out the bootstrap credential, a client certificate that all nodes share.
pub type SecretFn = Arc<dyn Fn() -> BoxFuture<'static, Result<pki::Identity, String>> + Send + Sync>;

/// Writes a machine's attestation behind a certificate request (DER); the whole as PEM.
pub type AttestFn = Arc<dyn Fn(&[u8]) -> Result<String, pki::SignerError> + Send + Sync>;

/// What a machine is given to become a node.
#[derive(Clone)]
pub struct Bootstrap {
    /// Asked for when the node has no certificate of its own.
    pub secret: SecretFn,
    /// With a TPM: what vouches for the node's key.
    pub attest: Option<AttestFn>,
    /// The authority of the API server and its clients, PEM.
    pub cluster_ca: String,
    /// Holds the node's own client certificate once it has one.
    pub client: Arc<pki::ClientIdentity>,
    /// Where the node keeps its certificates, under `node-NAME`.
    pub vault: Arc<dyn pki::Vault>,
}

impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap").field("attested", &self.attest.is_some()).finish_non_exhaustive()
    }
}

/// How simulated kubelets are run.
#[derive(Clone)]
pub struct NodesConfig {
    /// The machines.
    pub nodes: Vec<NodeSpec>,
    /// Where the API server listens.
    pub api_address: SocketAddr,
    /// The name its certificate is checked for.
    pub api_server_name: String,
    /// Dates statuses and leases.
    pub clock: Clock,
    /// For container ids and jitter.
    pub seed: u64,
    /// Google project, for `providerID`.
    pub project: String,
    /// As `v1.33.5-gke.1080000`.
    pub kubelet_version: String,
}
