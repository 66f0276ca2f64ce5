//! The fleet: makes clusters, starts their processes, starts them again when they die, and knows where everything is.

mod addresses;
pub(crate) mod boot;
mod cluster;
mod disk_key;
mod exposure;
pub(crate) mod hardening;
mod hearing;
mod in_process;
pub(crate) mod key;
mod machines;
pub(crate) mod message;
mod outside;
mod process;
pub(crate) mod questions;
pub(crate) mod report;
mod slot;
mod starting;
mod supervise;
pub(crate) mod trust;
mod user_files;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};
use base::{Clock, Entropy};
use disk::Platform;
use gke::EndpointSettings;
use pki::MachineSecret;
use policy::AccessSettings;
use tracing::info;

pub(crate) use addresses::{MemberListeners, Wishes, listen_on_alias, parse_wish, try_address};
pub(crate) use cluster::{Access, Cluster, Record, State};
pub(crate) use key::SealedDirectory;
pub(crate) use process::spawn_detached;
pub(crate) use starting::SIGNER;
pub(crate) use user_files::make_default;

use boot::Verifier;

use crate::config::{is_meant, several};
use crate::confine::GaveUp;
use crate::edge::{Denials, EndpointDeny, Ground, PublicRoot};
use crate::identity_server::TokenDoor;
use crate::layout::{Layout, make_directory};
use crate::metadata;
use crate::metadata::nodes::NodeServers;
use message::{ClusterSpec, NodeSpec};
use report::{Certificate, ClusterStatus, Machine};

/// All clusters of the sandbox.
pub(crate) struct Fleet {
    layout: Layout,
    clock: Clock,
    entropy: Entropy,
    platform: Platform,
    boot: Verifier,
    in_process: bool,
    ground: Ground,
    /// Signs for the names of DNS endpoints.
    pub(crate) root: Arc<PublicRoot>,
    project_number: String,
    /// What the fleet's own process gave up.
    gave_up: OnceLock<Vec<GaveUp>>,
    tokens: Arc<OnceLock<TokenDoor>>,
    /// Who makes tokens for machines.
    cloud: Arc<OnceLock<cloud::Cloud>>,
    clusters: Mutex<BTreeMap<String, Arc<Cluster>>>,
}

impl Fleet {
    /// A fleet without running clusters.
    pub(crate) fn new(
        layout: Layout,
        platform: Platform,
        boot: Verifier,
        clock: Clock,
        entropy: Entropy,
        (in_process, deny): (bool, EndpointDeny),
        project_number: String,
    ) -> Arc<Self> {
        let ground = Ground { places: Arc::default(), denials: Arc::new(Denials::new(deny)), clock: clock.clone() };
        let root = PublicRoot::new(layout.clone(), platform.clone(), clock.clone(), entropy.clone());
        Arc::new(Self {
            layout,
            clock,
            entropy,
            platform,
            boot,
            in_process,
            ground,
            root: Arc::new(root),
            project_number,
            gave_up: OnceLock::new(),
            tokens: Arc::default(),
            cloud: Arc::default(),
            clusters: Mutex::default(),
        })
    }

    /// Tells the fleet who knows tokens. Until then every token is refused.
    pub(crate) fn resolve_tokens_with(&self, door: TokenDoor) {
        let _ = self.tokens.set(door);
    }

    /// Remembers what this very process said of its confinement.
    pub(crate) fn says_of_itself(&self, gave_up: Vec<GaveUp>) {
        process::log_confinement(std::process::id(), &gave_up);
        let _ = self.gave_up.set(gave_up);
    }

    /// Tells the fleet who makes tokens for machines.
    pub(crate) fn issue_tokens_with(&self, cloud: cloud::Cloud) {
        let _ = self.cloud.set(cloud);
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Who lets processes start.
    pub(crate) const fn boot(&self) -> &Verifier {
        &self.boot
    }

    pub(crate) const fn in_process(&self) -> bool {
        self.in_process
    }

    /// Starts the clusters that the data directory remembers.
    ///
    /// # Errors
    /// When one's record or addresses cannot be read or taken; the text names it.
    pub(crate) fn resume(self: &Arc<Self>) -> Result<()> {
        let directory = self.layout.clusters();
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if let Some((record, text)) = Record::load(&path)? {
                self.boot.measure_record(&record.spec.id, &Record::file(&path), &text)?;
                let own = self.layout.cluster(&record.spec.id);
                if own != path {
                    bail!(
                        "{} holds cluster {}, whose place is {}; put it back there",
                        path.display(),
                        record.spec.name,
                        own.display()
                    );
                }
                info!(cluster = record.spec.name, "resuming");
                self.launch(record, &Wishes::default())?;
            }
        }
        Ok(())
    }

    /// Makes a cluster, or finds the one that has this id already. Returns when its API server answers.
    ///
    /// # Errors
    /// When its addresses cannot be had or its processes do not start.
    pub(crate) async fn create(
        self: &Arc<Self>,
        spec: ClusterSpec,
        nodes: Vec<NodeSpec>,
        (access, endpoints): (AccessSettings, EndpointSettings),
        wishes: &Wishes,
    ) -> Result<Access> {
        let cluster = match self.find(&spec.id) {
            Some(cluster) => cluster,
            None => {
                let directory = self.layout.cluster(&spec.id);
                make_directory(&directory)?;
                let record = Record { spec, nodes, access, endpoints };
                self.save(&record)?;
                self.launch(record, wishes).inspect_err(|_| {
                    // Nothing is in it yet; whoever tries again begins anew.
                    let _ = fs::remove_dir_all(&directory);
                })?
            }
        };
        cluster.until_running().await
    }

    /// Stops a cluster and deletes its data.
    ///
    /// # Errors
    /// When the data cannot be deleted.
    pub(crate) async fn delete(&self, id: &str) -> Result<()> {
        let cluster = self.lock().remove(id);
        let directory = self.layout.cluster(id);
        // Without its record a cluster is not resumed, whatever happens from here on.
        Record::forget(&directory)?;
        self.boot.forget(id);
        if let Some(cluster) = cluster {
            cluster.stop().await;
            cluster.remove_user_files(&self.layout);
        }
        match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot delete {}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    /// Gives a cluster these nodes instead of those it has.
    ///
    /// # Errors
    /// When there is no such cluster or the change cannot be remembered.
    pub(crate) async fn resize(&self, id: &str, nodes: Vec<NodeSpec>) -> Result<()> {
        let cluster = self.find(id).with_context(|| format!("no cluster {id}"))?;
        self.save(&Record { nodes: nodes.clone(), ..cluster.record() })?;
        cluster.set_nodes(nodes, &self.layout, &self.entropy).await
    }

    /// Gives a cluster these rules of access instead of those it has.
    ///
    /// # Errors
    /// When there is no such cluster or the change cannot be remembered.
    pub(crate) async fn set_access(&self, id: &str, access: AccessSettings) -> Result<()> {
        let cluster = self.find(id).with_context(|| format!("no cluster {id}"))?;
        self.save(&Record { access: access.clone(), ..cluster.record() })?;
        cluster.set_access(access).await;
        Ok(())
    }

    /// Lets these callers, and no others, reach a cluster's endpoints from now on.
    ///
    /// # Errors
    /// When there is no such cluster or the change cannot be remembered.
    pub(crate) fn set_endpoints(&self, id: &str, endpoints: EndpointSettings) -> Result<()> {
        let cluster = self.find(id).with_context(|| format!("no cluster {id}"))?;
        self.save(&Record { endpoints: endpoints.clone(), ..cluster.record() })?;
        cluster.gate.set(endpoints);
        Ok(())
    }

    /// The public keys of a cluster's service-account tokens.
    ///
    /// # Errors
    /// When there is no such cluster, or its signer does not answer.
    pub(crate) async fn jwks(&self, id: &str) -> Result<serde_json::Value> {
        let cluster = self.find(id).with_context(|| format!("no cluster {id}"))?;
        let signer = cluster.signer.borrow().clone().context("the signer is not there")?;
        Ok(signer.jwks().await?)
    }

    /// A client certificate for the cluster's owner, as GKE issues one: user `client`, in no group.
    ///
    /// # Errors
    /// When there is no such cluster, or its signer refuses.
    pub(crate) async fn client_certificate(&self, id: &str) -> Result<pki::Identity> {
        let cluster = self.find(id).with_context(|| format!("no cluster {id}"))?;
        let signer = cluster.signer.borrow().clone().context("the signer is not there")?;
        let profile = pki::Profile::KubeClient { user: "client".to_owned(), groups: Vec::new() };
        Ok(pki::request_identity(&signer, &profile, None).await?)
    }

    /// Where a node, or a pod, of a cluster finds its metadata server; `cluster` is a name, with its
    /// location before it where others have the same name, or empty where there is but one.
    ///
    /// # Errors
    /// When there is no such cluster, node or pod; the text says which.
    pub(crate) async fn metadata_server(&self, cluster: &str, whose: &Machine) -> Result<SocketAddr> {
        let mut named = self.clusters();
        named.retain(|found| cluster.is_empty() || is_meant(cluster, &found.spec().location, &found.spec().name));
        let found = match &named[..] {
            [found] => found,
            [] => bail!("no cluster {cluster} runs here"),
            all => bail!(several(all.iter().map(|found| (&*found.spec().location, &*found.spec().name)))),
        };
        let servers = found.node_metadata.get().context("the cluster is still being made")?;
        match whose {
            Machine::Node(name) => servers.node(name),
            Machine::Pod { namespace, name } => servers.pod(namespace, name).await,
        }
    }

    /// A cluster by id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Cluster>> {
        self.lock().get(id).cloned()
    }

    /// The name of a cluster's DNS endpoint, for its life.
    pub(crate) fn dns_name(&self, cluster: &Cluster) -> String {
        gke::endpoints::dns_name(&cluster.spec().id, &self.project_number, &cluster.spec().location)
    }

    /// Where the front end of this name listens.
    pub(crate) fn resolve(&self, name: &str) -> Option<SocketAddr> {
        self.clusters().iter().find(|cluster| self.dns_name(cluster) == name).map(|cluster| cluster.addresses.dns)
    }

    /// All clusters, by id.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.lock().values().cloned().collect()
    }

    /// Rotates the platform key and every data key: all are wrapped anew when this returns, and the earlier platform key is
    /// gone; what they seal is sealed anew in the background. Returns how many data keys there are now.
    ///
    /// # Errors
    /// When a key cannot be read or written. Both platform keys are kept then, and the next start finishes the rotation.
    pub(crate) async fn rotate_keys(&self, cloud: &cloud::Cloud) -> Result<usize> {
        self.platform.rotate()?;
        let mut rotated = self.root.rotate()?;
        for cluster in self.clusters() {
            rotated += cluster.rotate_keys(self).await?;
        }
        cloud.reseal()?;
        self.boot.reseal(&self.platform)?;
        self.platform.forget_earlier()?;
        info!(data_keys = rotated, "rotated the platform key and the data keys");
        Ok(rotated)
    }

    /// Ends a rotation of the platform key that was cut off.
    ///
    /// # Errors
    /// As [`Fleet::rotate_keys`].
    pub(crate) fn finish_rotation(&self, cloud: &cloud::Cloud) -> Result<()> {
        if self.platform.has_earlier() {
            self.root.rewrap()?;
            self.clusters().iter().try_for_each(|cluster| cluster.rewrap_keys(&self.layout, &self.platform))?;
            cloud.reseal()?;
            self.boot.reseal(&self.platform)?;
            self.platform.forget_earlier()?;
        }
        Ok(())
    }

    /// Stops all clusters, side by side.
    pub(crate) async fn stop(&self) {
        let clusters = self.clusters();
        futures_util::future::join_all(clusters.iter().map(|c| c.stop())).await;
    }

    /// For `status`.
    pub(crate) async fn report(&self) -> Vec<ClusterStatus> {
        let clusters = self.clusters();
        futures_util::future::join_all(clusters.iter().map(|c| c.report(&self.layout))).await
    }

    /// For `inspect`: the authorities of each cluster.
    pub(crate) async fn certificates(&self) -> Vec<Certificate> {
        let mut all = Vec::new();
        for cluster in self.clusters() {
            all.extend(cluster.certificates().await);
        }
        all
    }

    /// Remembers a cluster's record, and that it is the fleet who changed it.
    fn save(&self, record: &Record) -> Result<()> {
        let text = record.text()?;
        self.boot.record_changes(&record.spec.id, &text, || record.write(&self.layout, &text))
    }

    fn launch(self: &Arc<Self>, record: Record, wishes: &Wishes) -> Result<Arc<Cluster>> {
        if let Some(running) = self.find(&record.spec.id) {
            return Ok(running);
        }
        let directory = self.layout.cluster(&record.spec.id);
        let (addresses, listeners) =
            addresses::bind(&directory, cluster::instances_in(&record.spec.location), wishes, &self.entropy)
                .with_context(|| format!("cluster {} in {}", record.spec.name, record.spec.location))?;
        let mut machines = machines::Machines::load(&directory)?;
        let node_servers = NodeServers::new(self.machine_facts(&record.spec));
        machines.assign(&directory, &record.nodes, &self.entropy, |node, before| node_servers.listen(node, before))?;
        let secret = MachineSecret::generate(&self.entropy);
        let cluster = Cluster::new(record, addresses, machines, secret, self.ground.clone());
        let instances = metadata::instance::start(&directory, &self.entropy, self.metadata_of(&cluster))?;
        let _ = cluster.metadata.set(instances);
        node_servers.attach(&cluster);
        self.lock().insert(cluster.spec().id.clone(), Arc::clone(&cluster));
        supervise::start(self, &cluster, listeners);
        Ok(cluster)
    }

    fn machine_facts(&self, spec: &ClusterSpec) -> metadata::nodes::Facts {
        metadata::nodes::Facts {
            spec: spec.clone(),
            project_number: self.project_number.clone(),
            cloud: Arc::clone(&self.cloud),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        }
    }

    fn metadata_of(&self, cluster: &Cluster) -> metadata::instance::Shared {
        metadata::instance::Shared {
            spec: cluster.spec().clone(),
            project_number: self.project_number.clone(),
            members: starting::members(cluster),
            api_address: cluster.addresses.api,
            private_address: cluster.addresses.private.to_string(),
            signer: cluster.metadata_signer.subscribe(),
            cloud: Arc::clone(&self.cloud),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Cluster>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
