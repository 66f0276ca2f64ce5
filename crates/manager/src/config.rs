//! What the manager and the nodes are started with.

use std::net::SocketAddr;
use std::sync::Arc;

use base::Clock;
use futures_util::future::BoxFuture;

use crate::api::Api;

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
}

/// Answers a request with a certificate chain in PEM, or says why not.
pub type SignFn = Arc<dyn Fn(SignRequest) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

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
    /// TLS with this node's own client certificate; trusts the cluster CA.
    pub tls: Arc<rustls::ClientConfig>,
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
