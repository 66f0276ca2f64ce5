//! The port through which the cloud gets control planes and machines.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
pub use gke::{ClientCertificate, EndpointSettings, NodeSpec};
use pki::Authority;
use policy::AccessSettings;
use serde::{Deserialize, Serialize};

use crate::UserManagedKeys;

/// A cluster that shall exist.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterSpec {
    /// 64 hex digits.
    pub id: String,
    pub name: String,
    pub project: String,
    /// Zone or region.
    pub location: String,
    pub zones: Vec<String>,
    pub nodes: Vec<NodeSpec>,
    /// `1.33.13-gke.1350000`.
    pub kubernetes_version: String,
    pub pod_cidr: String,
    pub service_cidr: String,
    pub access: AccessSettings,
    /// Which endpoints are on, and for whom.
    pub endpoints: EndpointSettings,
    /// Shall a client certificate be issued for the cluster's owner?
    pub client_certificate: bool,
    /// Authorities that the user runs; the cluster's own signer has the others.
    pub user_managed: BTreeMap<Authority, UserManagedCa>,
    /// Keys that the user has.
    pub user_managed_keys: UserManagedKeys,
}

/// An authority of a cluster in a CA pool of the user's, as it was when the cluster was made: what the pool gets later does not
/// change whom the cluster trusts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserManagedCa {
    /// `projects/P/locations/L/caPools/C`
    pub pool: String,
    /// The pool's authorities that may issue, by id.
    pub authorities: Vec<String>,
    /// Their certificates, PEM.
    pub certificates: String,
}

/// How a running cluster is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterAccess {
    /// `ip` or `ip:port`.
    pub endpoint: String,
    pub private_endpoint: String,
    /// The cluster CA's certificate.
    pub ca_pem: String,
    /// URLs.
    pub etcd_endpoints: Vec<String>,
    /// Where one was asked for, from [`Fleet::create`].
    pub client: Option<ClientCertificate>,
}

/// Makes and unmakes control planes. Every call may come again after a restart, with the same arguments.
pub trait Fleet: Send + Sync + 'static {
    /// Makes the cluster, or finds the one with this id; returns when its API server answers.
    fn create(&self, spec: ClusterSpec) -> BoxFuture<'_, Result<ClusterAccess, String>>;
    /// Removes the cluster with its data; no error when it is gone already.
    fn delete(&self, id: &str) -> BoxFuture<'_, Result<(), String>>;
    /// Gives the cluster's running API servers these rules of access, and those that start later; in force when it
    /// returns.
    fn configure(&self, id: &str, access: AccessSettings) -> BoxFuture<'_, Result<(), String>>;
    /// Lets these callers, and no others, reach the cluster's endpoints from now on; open connections stay.
    fn expose(&self, id: &str, endpoints: EndpointSettings) -> BoxFuture<'_, Result<(), String>>;
    /// The external and the internal address (`ip` or `ip:port`) of a cluster that exists, whether it runs or not.
    fn addresses(&self, id: &str) -> Option<(String, String)>;
    /// Where the front end of the cluster with this DNS name listens.
    fn resolve(&self, name: &str) -> Option<std::net::SocketAddr>;
    /// The keys that verify the cluster's service-account tokens, as a JWK set.
    fn jwks(&self, id: &str) -> BoxFuture<'_, Result<serde_json::Value, String>>;
    /// Brings the cluster's machines to these.
    fn resize(&self, id: &str, nodes: Vec<NodeSpec>) -> BoxFuture<'_, Result<(), String>>;
    /// Where the cluster is, as soon as it runs, however often it failed before. An error when there is no such cluster.
    fn access(&self, id: &str) -> BoxFuture<'_, Result<ClusterAccess, String>>;
    /// Why the cluster cannot run now, if it cannot.
    fn trouble(&self, id: &str) -> Option<String>;
}
