//! What a server is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base::{Clock, Entropy};
use ipnet::IpNet;
use machinery::Value;
use policy::{AccessSettings, UserInfo};

use crate::issuers::TrustedIssuer;
use crate::token_webhook::TokenWebhook;
use crate::{Identity, KeyService};

/// Takes audit events, one `audit.k8s.io/v1` Event each; must not block.
pub type AuditSink = Arc<dyn Fn(&Value) + Send + Sync>;

/// The headers in which a front proxy says for whom it speaks (`--requestheader-*`).
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// Common names that a proxy's certificate may have; empty: any.
    pub allowed_names: Vec<String>,
    pub username: Vec<String>,
    pub uid: Vec<String>,
    pub groups: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for RequestHeader {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed_names: Vec::new(),
            username: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            groups: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

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
    /// Wraps the keys that Secrets are encrypted with, where [`AccessSettings::encryption_key`] says so.
    pub keys: KeyService,
    /// Static bearer tokens (`--token-auth-file`), by the SHA-256 of the token; see [`Config::set_tokens`].
    pub tokens: BTreeMap<[u8; 32], UserInfo>,
    /// What the cluster's owner says of access at the start; see [`crate::ApiServer::set_access`].
    pub access: AccessSettings,
    /// The range of the Services' addresses.
    pub service_cidrs: Vec<IpNet>,
    /// What the endpoints of the Service `kubernetes` show.
    pub advertise_address: IpAddr,
    pub advertise_port: u16,
    /// `iss` of service-account tokens, an https URL.
    pub issuer: String,
    /// Further issuers whose service-account tokens are accepted.
    pub further_issuers: Vec<String>,
    /// Where the keys of service-account tokens are published; empty: at the advertised address.
    pub jwks_uri: String,
    /// Longest lifetime of a requested token, in seconds (`--service-account-max-token-expiration`).
    pub token_seconds_max: Option<i64>,
    /// Do the tokens that kubelets mount live for a year (`--service-account-extend-token-expiration`)?
    pub extend_tokens: bool,
    /// Issuers of other people's tokens.
    pub jwt: Vec<TrustedIssuer>,
    /// Who is asked about tokens that nobody here knows.
    pub webhook: Option<TokenWebhook>,
    /// Are Secrets of type `bootstrap.kubernetes.io/token` credentials (`--enable-bootstrap-token-auth`)?
    pub bootstrap_tokens: bool,
    /// How a front proxy says for whom it speaks.
    pub request_header: RequestHeader,
    /// Audiences of this server; the issuers when empty.
    pub audiences: Vec<String>,
    /// May pods be privileged?
    pub allow_privileged: bool,
    /// How kubelets are reached; none: `nodes/proxy` reaches nothing.
    pub kubelets: Option<crate::Kubelets>,
    /// The machine's name, of which the server's id is made.
    pub host_name: String,
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
            keys: KeyService::None,
            tokens: BTreeMap::new(),
            access: AccessSettings::default(),
            service_cidrs: vec![IpNet::new_assert(IpAddr::from([34, 118, 224, 0]), 20)],
            advertise_address: IpAddr::from([172, 16, 0, 2]),
            advertise_port: 443,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            further_issuers: Vec::new(),
            jwks_uri: String::new(),
            token_seconds_max: None,
            extend_tokens: true,
            jwt: Vec::new(),
            webhook: None,
            bootstrap_tokens: true,
            request_header: RequestHeader::default(),
            audiences: Vec::new(),
            allow_privileged: true,
            kubelets: None,
            host_name: String::new(),
            audit: None,
        }
    }

    /// The audiences tokens must be for.
    pub fn audiences(&self) -> Vec<String> {
        if self.audiences.is_empty() { self.issuers().cloned().collect() } else { self.audiences.clone() }
    }

    /// The issuers whose service-account tokens are accepted; the first one signs.
    pub fn issuers(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.issuer).chain(&self.further_issuers)
    }

    /// Takes static bearer tokens; only their hashes are kept.
    pub fn set_tokens(&mut self, tokens: BTreeMap<String, UserInfo>) {
        self.tokens = tokens.into_iter().map(|(token, user)| (crate::identity::hash(&token), user)).collect();
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("minor", &self.minor).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
