//! What a server is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base::{Clock, Entropy};
use ipnet::IpNet;
use machinery::Value;
use policy::UserInfo;

use crate::Identity;

/// Takes audit events, one `audit.k8s.io/v1` Event each; must not block.
pub type AuditSink = Arc<dyn Fn(&Value) + Send + Sync>;

/// The settings of a server.
#[derive(Clone)]
pub struct Config {
    /// Where objects are kept.
    pub store: etcd::Store,
    /// The Kubernetes minor, `1.33`.
    pub minor: String,
    /// What `/version` shows, `v1.33.5-gke.1080000`.
    pub git_version: String,
    /// `--feature-gates`
    pub feature_gates: String,
    /// `--runtime-config`
    pub runtime_config: String,
    pub clock: Clock,
    pub entropy: Entropy,
    /// Signs service-account tokens.
    pub signer: pki::Signer,
    /// The certificate this server shows.
    pub serving: pki::Identity,
    /// PEM of the authority of client certificates.
    pub client_ca: String,
    /// PEM of the authority of front proxies; empty for none.
    pub front_proxy_ca: String,
    /// Resolves Google tokens.
    pub identity: Identity,
    /// Static bearer tokens (`--token-auth-file`).
    pub tokens: BTreeMap<String, UserInfo>,
    /// Are requests without credentials answered as `system:anonymous` (RBAC decides), or refused?
    pub anonymous: bool,
    /// The range of the Services' addresses.
    pub service_cidrs: Vec<IpNet>,
    /// What the endpoints of the Service `kubernetes` show.
    pub advertise_address: IpAddr,
    pub advertise_port: u16,
    /// `iss` of service-account tokens, an https URL.
    pub issuer: String,
    /// Audiences of this server; the issuer when empty.
    pub audiences: Vec<String>,
    /// May pods be privileged?
    pub allow_privileged: bool,
    /// How kubelets are reached; none: `nodes/proxy` reaches nothing.
    pub kubelets: Option<crate::Kubelets>,
    /// Where audit events go.
    pub audit: Option<AuditSink>,
}

impl Config {
    /// Settings with GKE's usual values where there are any.
    pub fn new(
        store: etcd::Store,
        clock: Clock,
        entropy: Entropy,
        signer: pki::Signer,
        serving: pki::Identity,
        client_ca: String,
    ) -> Self {
        Self {
            store,
            minor: "1.33".to_owned(),
            git_version: "v1.33.5-gke.1080000".to_owned(),
            feature_gates: String::new(),
            runtime_config: String::new(),
            clock,
            entropy,
            signer,
            serving,
            client_ca,
            front_proxy_ca: String::new(),
            identity: Identity::None,
            tokens: BTreeMap::new(),
            anonymous: true,
            service_cidrs: vec![IpNet::new_assert(IpAddr::from([34, 118, 224, 0]), 20)],
            advertise_address: IpAddr::from([172, 16, 0, 2]),
            advertise_port: 443,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: Vec::new(),
            allow_privileged: true,
            kubelets: None,
            audit: None,
        }
    }

    /// The audiences tokens must be for.
    pub fn audiences(&self) -> Vec<String> {
        if self.audiences.is_empty() { vec![self.issuer.clone()] } else { self.audiences.clone() }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("minor", &self.minor).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
