//! The Google side: GKE, IAM, Cloud KMS, Resource Manager, Service Usage, the Compute that clients read, OAuth and metadata, on one
//! port of loopback.
//!
//! ```text
//! connection ─server─► guards ─routes─► service ─► Store (sealed, synced)      operations ─► Fleet port
//! ```

mod encryption;
mod fleet;
mod http;
mod identity;
pub mod kms;
mod machines;
mod operations;
mod peer;
mod pods;
mod server;
mod services;
mod state;
mod tunnel;
mod user_managed;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, Entropy};
use disk::Platform;
pub use fleet::{ClientCertificate, ClusterAccess, ClusterSpec, EndpointSettings, Fleet, NodeSpec, UserManagedCa};
use gke::ApiError;
use machinery::json;
pub use machines::MachineClaims;
pub use peer::same_user;
use state::Store;
use tokio::sync::{Semaphore, watch};
pub use user_managed::{UserManagedKeys, UserManagedTokenKeys};

/// Which credentials count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Tokens and keys that were issued or uploaded here.
    Strict,
    /// Anything; everybody is the project's owner.
    Open,
}

/// What a cloud needs.
pub struct CloudConfig {
    /// Made when missing.
    pub data_dir: PathBuf,
    pub platform: Platform,
    pub clock: Clock,
    pub entropy: Entropy,
    /// The one project's id.
    pub project: String,
    pub project_number: String,
    /// The email of the user who owns the project.
    pub account: String,
    pub auth: Auth,
    /// Of clusters that are made from now on.
    pub profile: gke::cluster::Profile,
    pub fleet: Arc<dyn Fleet>,
    /// `http://127.0.0.1:8642`: where clients find this cloud. Its host is an allowed one.
    pub endpoint: String,
}

/// Why the cloud cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// Its data.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// Its directory.
    #[error("cannot make {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: std::io::Error,
    },
    /// Its listener.
    #[error("cannot accept connections: {0}")]
    Accept(#[source] std::io::Error),
    /// A request of our own was refused.
    #[error("{0}")]
    Refused(ApiError),
}

/// What a cluster's record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundCluster {
    /// 64 hex digits.
    pub id: String,
    /// GKE's word for where it stands.
    pub status: String,
    /// In each zone of its first pool.
    pub nodes: u32,
}

/// A running cloud. Clones share it.
#[derive(Clone)]
pub struct Cloud(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    entropy: Entropy,
    project: String,
    project_number: String,
    account: String,
    auth: Auth,
    profile: gke::cluster::Profile,
    fleet: Arc<dyn Fleet>,
    endpoint: String,
    operation_millis: AtomicU64,
    stopping: watch::Sender<bool>,
    tunnels: Arc<Semaphore>,
}

/// How long an operation runs at least: clients that poll see it RUNNING once.
pub const OPERATION_TIME: Duration = Duration::from_millis(OPERATION_MILLIS);
const OPERATION_MILLIS: u64 = 300;

impl Cloud {
    /// Reads or makes the state.
    ///
    /// # Errors
    /// When the data cannot be read or written; the text names the path.
    pub async fn start(config: CloudConfig) -> Result<Self, CloudError> {
        let path = config.data_dir.clone();
        tokio::fs::create_dir_all(&path).await.map_err(|source| CloudError::Directory { path, source })?;
        let fresh = || identity::fresh_state(&config);
        let store = Store::open(&config.data_dir, config.platform.clone(), fresh)?;
        let cloud = Self(Arc::new(Inner {
            store,
            clock: config.clock,
            entropy: config.entropy,
            project: config.project,
            project_number: config.project_number,
            account: config.account,
            auth: config.auth,
            profile: config.profile,
            fleet: config.fleet,
            endpoint: config.endpoint.trim_end_matches('/').to_owned(),
            operation_millis: AtomicU64::new(OPERATION_MILLIS),
            stopping: watch::Sender::new(false),
            tunnels: Arc::new(Semaphore::new(tunnel::TUNNELS_MAX)),
        }));
        if config.auth == Auth::Open {
            tracing::warn!("open authentication: every caller is the project's owner");
        }
        Ok(cloud)
    }

    /// Goes on with the operations that were under way, and tries again the clusters that could not be made.
    pub async fn resume(&self) {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || operations::resume(&inner)).await.expect("does not panic");
    }

    /// Sets how long an operation takes at least.
    pub fn set_operation_time(&self, time: Duration) {
        self.0.operation_millis.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Accepts connections until [`Cloud::stop`]: HTTP/1.1, and HTTP/2 with prior knowledge.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(&self, listener: tokio::net::TcpListener) -> Result<(), CloudError> {
        server::serve(&self.0, listener).await.map_err(CloudError::Accept)
    }

    /// Whom a token stands for; `None` for one that nobody here issued or that has expired.
    pub fn resolve_token(&self, token: &str) -> Option<policy::GoogleIdentity> {
        self.0.resolve(token)
    }

    /// Writes the state anew, sealed with the platform's current key. Blocks for a write.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reseal(&self) -> Result<(), CloudError> {
        self.0.store.write(|_| Ok(())).map_err(CloudError::Refused)
    }

    /// The roles an account has by the project's policy; none for what is no mail address.
    pub fn roles_of(&self, email: &str) -> Vec<String> {
        if services::is_address(email) { self.0.roles(&self.0.store.read(), email) } else { Vec::new() }
    }

    /// The keys of Cloud KMS.
    pub fn kms(&self) -> kms::Kms {
        kms::Kms::of(&self.0)
    }

    /// Changes whenever answers of [`Cloud::resolve_token`] or [`Cloud::encrypt_for`] may: a policy, a revoked token, a
    /// deleted account, a key's state.
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.0.store.access_changes()
    }

    /// A token of an account that lives as long as the sandbox. Blocks for a write.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn issue_token(&self, email: &str) -> Result<String, CloudError> {
        let scopes = identity::all_scopes();
        self.0.new_token(email, scopes, None).map_err(CloudError::Refused)
    }

    /// An access token of an account as Google hands them out: for an hour, with these scopes (none: all of Google Cloud
    /// and the email). A user who was not heard of before gets an account, as anybody may have one. Blocks for a write.
    ///
    /// # Errors
    /// When the address is none, or that of a service account of this project that does not exist.
    pub fn access_token(&self, email: &str, scopes: Vec<String>) -> Result<String, CloudError> {
        let scopes = if scopes.is_empty() { identity::all_scopes() } else { scopes };
        identity::ensure_account(&self.0, email)
            .and_then(|email| self.0.new_token(&email, scopes, Some(identity::TOKEN_SECONDS)))
            .map_err(CloudError::Refused)
    }

    /// A refresh token of an account, for clients that keep `authorized_user` credentials. Blocks for a write.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn issue_refresh_token(&self, email: &str) -> Result<String, CloudError> {
        self.0.new_refresh_token(email, identity::all_scopes()).map_err(CloudError::Refused)
    }

    /// Has a certificate of a cluster issued by one of the authorities that its user runs, as the project's service agent; PEM.
    /// Blocks for a write.
    ///
    /// # Errors
    /// In the service's words: the agent may not, no authority is enabled, the pool's policy does not allow it.
    pub fn issue_certificate(
        &self,
        cluster_id: &str,
        authority: &UserManagedCa,
        request: &pki::OutsideRequest,
    ) -> Result<String, String> {
        services::privateca::issue_for_cluster(&self.0, cluster_id, authority, request).map_err(|error| error.message)
    }

    /// Makes a cluster with one pool of `nodes` per zone, as a request of the owner would, unless it is there; its id.
    /// Does not wait for it.
    ///
    /// # Errors
    /// As the request would fail.
    pub async fn ensure_cluster(&self, location: &str, name: &str, nodes: u32) -> Result<String, CloudError> {
        let (inner, location, name) = (self.0.clone(), location.to_owned(), name.to_owned());
        let work = move || {
            if let Some(cluster) = inner.store.read().cluster(&location, &name) {
                return Ok(cluster.id.clone());
            }
            let pool = json!({"name": "default-pool", "initialNodeCount": nodes});
            let mut cluster = json!({"name": name});
            cluster.set("nodePools", vec![pool]);
            let request = [("cluster", cluster)].into_iter().collect();
            services::container::create_cluster(&inner, &location, &request)?;
            let state = inner.store.read();
            Ok(state.cluster(&location, &name).map(|c| c.id.clone()).unwrap_or_default())
        };
        tokio::task::spawn_blocking(work).await.expect("does not panic").map_err(CloudError::Refused)
    }

    /// A cluster by place and name.
    pub fn find_cluster(&self, location: &str, name: &str) -> Option<FoundCluster> {
        let state = self.0.store.read();
        let cluster = state.cluster(location, name)?;
        let nodes = cluster.pools.first().map_or(0, |pool| pool.nodes);
        Some(FoundCluster { id: cluster.id.clone(), status: cluster.status.clone(), nodes })
    }

    /// Does an operation run on the cluster with this id?
    pub fn is_busy(&self, id: &str) -> bool {
        operations::is_busy(&self.0.store.read(), id)
    }

    /// Stops accepting and ends the running operations' tasks; they go on at the next start.
    pub async fn stop(&self) {
        self.0.stopping.send_replace(true);
        tokio::task::yield_now().await;
    }
}
