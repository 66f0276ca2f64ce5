//! One cluster as the fleet sees it: its record on disk, its state, the processes that serve it now.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow};
use base::Entropy;
use disk::{DataDir, Platform};
use etcd::{RemoteStore, Store};
use gke::EndpointSettings;
use pki::{Authority, MachineSecret, Signer};
use policy::AccessSettings;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::edge::{Delivery, Gate, Ground};
use crate::fleet::addresses::Addresses;
use crate::fleet::machines::Machines;
use crate::fleet::message::{ClusterSpec, MachineSpec, NodeSpec, Secret, UsedIdentity};
use crate::fleet::questions::NodeQuestion;
use crate::fleet::report::{Certificate, ClusterStatus, InstanceStatus, MemberStatus};
use crate::fleet::starting::SIGNER;
use crate::fleet::{Fleet, disk_key, key, user_files};
use crate::layout::{Layout, make_directory, write_private};
use crate::metadata::instance::InstanceMetadata;
use crate::metadata::nodes::NodeServers;

const RECORD_FILE: &str = "cluster.json";
/// A member of the store that does not say how it is in this time is not well.
const MEMBER_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);

/// Instances that are being started answer no questions.
const REPORT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// The name of an instance, which is that of its directory and of its member of the store.
pub(crate) fn instance_name(place: usize) -> String {
    format!("control-plane-{place}")
}

/// How many instances a location's control plane has: a region's zones have one each (GKE: three), a zone one.
pub(crate) fn instances_in(location: &str) -> usize {
    if gke::places::Place::parse(location).is_ok_and(|place| !place.zonal) { 3 } else { 1 }
}

/// What is remembered of a cluster. No secret is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: ClusterSpec,
    pub(crate) nodes: Vec<NodeSpec>,
    /// A record of before has none: as GKE's defaults.
    #[serde(default = "gke_access")]
    pub(crate) access: AccessSettings,
    /// A record of before has none: as GKE's defaults.
    #[serde(default)]
    pub(crate) endpoints: EndpointSettings,
}

fn gke_access() -> AccessSettings {
    gke::access::settings(&machinery::Value::object())
}

impl Record {
    /// Reads the record in a cluster's directory; `None` when it holds none (a deletion or creation that was cut off).
    /// The text that was read comes with it, to be measured.
    pub(crate) fn load(directory: &Path) -> Result<Option<(Self, Vec<u8>)>> {
        let file = Self::file(directory);
        match fs::read(&file) {
            Ok(text) => {
                let record = serde_json::from_slice(&text).with_context(|| {
                    format!("{} is damaged; restore it or delete the cluster's directory", file.display())
                })?;
                Ok(Some((record, text)))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Where it lies in a cluster's directory.
    pub(crate) fn file(directory: &Path) -> PathBuf {
        directory.join(RECORD_FILE)
    }

    /// As it is stored.
    pub(crate) fn text(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    pub(crate) fn write(&self, layout: &Layout, text: &[u8]) -> Result<()> {
        let directory = layout.cluster(&self.spec.id);
        make_directory(&directory)?;
        write_private(&Self::file(&directory), text)
    }

    pub(crate) fn forget(directory: &Path) -> Result<()> {
        let file = directory.join(RECORD_FILE);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot delete {}", file.display()))
            }
            _ => Ok(()),
        }
    }
}

/// How a running cluster is reached.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) endpoint: String,
    pub(crate) private_endpoint: String,
    pub(crate) ca_pem: String,
    pub(crate) etcd_endpoints: Vec<String>,
}

/// Where a cluster stands.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Starting,
    Running(Access),
    /// It cannot run until the cause is mended; it is tried again now and then.
    Failed(String),
    /// Its processes were ended for good.
    Stopped,
}

/// New data keys of a cluster's processes; none for one whose key stays.
pub(crate) struct NewKeys {
    pub(crate) signer: Option<Secret>,
    /// In the order of the instances.
    pub(crate) instances: Vec<Option<Secret>>,
}

/// What the supervisor is told.
pub(crate) enum Command {
    /// There are other nodes now.
    Nodes,
    /// Data keys were rotated.
    Keys(NewKeys),
    /// Which client certificates do the instances use?
    Report(oneshot::Sender<Vec<UsedIdentity>>),
    /// A question for the instance at a place; the end of the stream on which it is answered.
    Ask {
        place: usize,
        question: NodeQuestion,
        end: OwnedFd,
    },
    /// There are other rules of access now; answered when the instances were told.
    Access(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// One cluster.
pub(crate) struct Cluster {
    spec: ClusterSpec,
    pub(crate) addresses: Addresses,
    pub(crate) nodes: Mutex<Vec<NodeSpec>>,
    machines: Mutex<Machines>,
    pub(crate) machine_secret: MachineSecret,
    pub(crate) access: Mutex<AccessSettings>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) instances: Mutex<Vec<InstanceStatus>>,
    pub(crate) delivery: watch::Sender<Vec<Delivery>>,
    /// Who reaches its endpoints.
    pub(crate) gate: Arc<Gate>,
    /// What the front end of its DNS endpoint shows to the API server, once somebody came that way.
    pub(crate) front_end_shown: Arc<OnceLock<CertificateDer<'static>>>,
    pub(crate) signer: watch::Sender<Option<Signer>>,
    /// The same signer as the metadata servers ask it.
    pub(crate) metadata_signer: watch::Sender<Option<Signer>>,
    /// The metadata server of each instance.
    pub(crate) metadata: OnceLock<Vec<Arc<InstanceMetadata>>>,
    /// Those of its nodes and their pods.
    pub(crate) node_metadata: OnceLock<NodeServers>,
    commands: mpsc::Sender<Command>,
    pub(crate) inbox: Mutex<Option<mpsc::Receiver<Command>>>,
}

impl Cluster {
    pub(crate) fn new(
        record: Record,
        addresses: Addresses,
        machines: Machines,
        machine_secret: MachineSecret,
        ground: Ground,
    ) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel(16);
        let gate = Arc::new(Gate::new(&record.spec.id, &record.spec.name, record.endpoints, ground));
        let cluster = Arc::new(Self {
            spec: record.spec,
            addresses,
            nodes: Mutex::new(record.nodes),
            machines: Mutex::new(machines),
            machine_secret,
            access: Mutex::new(record.access),
            state: watch::Sender::new(State::Starting),
            instances: Mutex::default(),
            delivery: watch::Sender::new(Vec::new()),
            gate,
            front_end_shown: Arc::default(),
            signer: watch::Sender::new(None),
            metadata_signer: watch::Sender::new(None),
            metadata: OnceLock::new(),
            node_metadata: OnceLock::new(),
            commands,
            inbox: Mutex::new(Some(inbox)),
        });
        cluster.tell_gate();
        cluster
    }

    /// The edge knows nodes by their machines' addresses.
    fn tell_gate(&self) {
        let nodes: Vec<IpAddr> = self.machines().iter().map(|machine| machine.kubelet.ip()).collect();
        self.gate.set_nodes(self.addresses.internal.ip(), &nodes);
    }

    pub(crate) const fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// Waits until the API server answers.
    ///
    /// # Errors
    /// When it cannot start.
    pub(crate) async fn until_running(&self) -> Result<Access> {
        let mut state = self.state.subscribe();
        let reached = state.wait_for(|s| !matches!(s, State::Starting)).await?.clone();
        match reached {
            State::Running(access) => Ok(access),
            State::Failed(cause) => Err(anyhow!("cluster {}: {cause}", self.spec.name)),
            State::Starting | State::Stopped => Err(anyhow!("cluster {} was stopped", self.spec.name)),
        }
    }

    /// Waits until the API server answers, however often its start fails before.
    ///
    /// # Errors
    /// When the cluster is deleted meanwhile.
    pub(crate) async fn until_recovered(&self) -> Result<Access> {
        let mut state = self.state.subscribe();
        match state.wait_for(|s| matches!(s, State::Running(_) | State::Stopped)).await?.clone() {
            State::Running(access) => Ok(access),
            _ => Err(anyhow!("cluster {} was stopped", self.spec.name)),
        }
    }

    /// Why it cannot run, if it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Failed(cause) => Some(cause.clone()),
            State::Starting | State::Running(_) | State::Stopped => None,
        }
    }

    /// Gives the cluster these nodes.
    ///
    /// # Errors
    /// When the addresses of their machines cannot be remembered.
    pub(crate) async fn set_nodes(&self, nodes: Vec<NodeSpec>, layout: &Layout, entropy: &Entropy) -> Result<()> {
        let directory = layout.cluster(&self.spec.id);
        let servers = self.node_metadata.get();
        let serve = |node: &str, before| servers.and_then(|servers| servers.listen(node, before));
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).assign(&directory, &nodes, entropy, serve)?;
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        self.tell_gate();
        if let Some(servers) = servers {
            servers.update(self);
        }
        let _ = self.commands.send(Command::Nodes).await;
        Ok(())
    }

    /// The client certificates that the instances show.
    pub(crate) async fn used_identities(&self) -> Vec<UsedIdentity> {
        let (sender, answer) = oneshot::channel();
        if self.commands.send(Command::Report(sender)).await.is_err() {
            return Vec::new();
        }
        tokio::time::timeout(REPORT_TIMEOUT, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// The machines of all nodes.
    pub(crate) fn machines(&self) -> Vec<MachineSpec> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).specs(&nodes)
    }

    /// The directories that are sealed with a data key, and their names: the signer's, then the instances'.
    pub(crate) fn sealed_directories(&self, layout: &Layout) -> Vec<(String, PathBuf)> {
        let directory = layout.cluster(&self.spec.id);
        let names = std::iter::once(SIGNER.to_owned()).chain((0..self.instance_count()).map(instance_name));
        names.map(|name| (name.clone(), directory.join(name))).filter(|(_, path)| DataDir::is_made(path)).collect()
    }

    /// Gives each process a new data key, wrapped with the platform's current key; returns how many there are. Sealing
    /// everything anew goes on in the background.
    ///
    /// # Errors
    /// When a directory's keys cannot be read or written.
    pub(crate) async fn rotate_keys(&self, fleet: &Fleet) -> Result<usize> {
        let of_instances = disk_key::platform(fleet, self).await?;
        let mut keys = NewKeys { signer: None, instances: (0..self.instance_count()).map(|_| None).collect() };
        let mut rotated = 0;
        for (name, path) in self.sealed_directories(fleet.layout()) {
            let place = (0..self.instance_count()).find(|place| instance_name(*place) == name);
            let platform = if place.is_some() { &of_instances } else { &fleet.platform };
            let Some(new) = key::rotate(&path, &self.spec.id, &name, platform)? else { continue };
            rotated += 1;
            match place {
                Some(place) => keys.instances[place] = Some(new),
                None => keys.signer = Some(new),
            }
        }
        let _ = self.commands.send(Command::Keys(keys)).await;
        Ok(rotated)
    }

    /// Wraps the data keys with the platform's current key.
    ///
    /// # Errors
    /// As [`Cluster::rotate_keys`].
    pub(crate) fn rewrap_keys(&self, layout: &Layout, platform: &Platform) -> Result<()> {
        let mut all = self.sealed_directories(layout).into_iter();
        all.try_for_each(|(name, path)| key::rewrap(&path, &self.spec.id, &name, platform))
    }

    /// What is to be remembered of the cluster as it is now.
    pub(crate) fn record(&self) -> Record {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let endpoints = EndpointSettings::clone(&self.gate.settings());
        Record { spec: self.spec.clone(), nodes, access: self.access_settings(), endpoints }
    }

    pub(crate) fn access_settings(&self) -> AccessSettings {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when every instance that runs was told: what comes to it later is judged by these rules.
    pub(crate) async fn set_access(&self, settings: AccessSettings) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        let (done, told) = oneshot::channel();
        if self.commands.send(Command::Access(done)).await.is_ok() {
            let _ = told.await;
        }
    }

    /// Ends the cluster's processes in order.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
        self.gate.close();
        if let Some(servers) = self.node_metadata.get() {
            servers.close();
        }
        self.state.send_replace(State::Stopped);
    }

    pub(crate) fn remove_user_files(&self, layout: &Layout) {
        let _ = fs::remove_dir_all(user_files::directory(layout, &self.spec));
    }

    pub(crate) async fn report(&self, layout: &Layout) -> ClusterStatus {
        let state = match &*self.state.borrow() {
            State::Starting => "STARTING".to_owned(),
            State::Running(_) => "RUNNING".to_owned(),
            State::Failed(cause) => format!("FAILED: {cause}"),
            State::Stopped => "STOPPED".to_owned(),
        };
        ClusterStatus {
            name: self.spec.name.clone(),
            location: self.spec.location.clone(),
            id: self.spec.id.clone(),
            state,
            kubernetes_version: self.spec.kubernetes_version.clone(),
            endpoint: self.addresses.endpoint(),
            internal_endpoint: self.addresses.internal_endpoint(),
            kubeconfig: user_files::directory(layout, &self.spec).join("kubeconfig"),
            etcd_endpoints: self.etcd_endpoints(),
            members: self.members(layout).await,
            nodes: self.nodes.lock().unwrap_or_else(PoisonError::into_inner).len(),
            node_metadata: self.node_metadata.get().map(NodeServers::shown).unwrap_or_default(),
            instances: self.instances.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Is its data encrypted under a key of the user's?
    pub(crate) fn has_disk_key(&self) -> bool {
        !self.spec.user_managed_keys.disk.is_empty()
    }

    /// The client URLs of the store's members.
    pub(crate) fn etcd_endpoints(&self) -> Vec<String> {
        self.addresses.members.iter().map(|member| format!("https://{}", member.client)).collect()
    }

    /// What the store's members say of themselves; one that does not answer soon is not healthy.
    async fn members(&self, layout: &Layout) -> Vec<MemberStatus> {
        let directory = user_files::directory(layout, &self.spec);
        let tls = user_files::etcd_client(&directory, &crate::system::clock()).ok();
        let ask = |(place, endpoint): (usize, String)| {
            let tls = tls.clone();
            async move {
                let store = RemoteStore::connect(std::slice::from_ref(&endpoint), tls).ok().map(Store::Remote);
                let status = match &store {
                    Some(store) => tokio::time::timeout(MEMBER_TIMEOUT, store.status()).await.ok().and_then(Result::ok),
                    None => None,
                };
                MemberStatus::of(instance_name(place), endpoint, status)
            }
        };
        futures_util::future::join_all(self.etcd_endpoints().into_iter().enumerate().map(ask)).await
    }

    /// The metadata server of an instance.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn metadata_of(&self, place: usize) -> Result<&Arc<InstanceMetadata>> {
        self.metadata.get().and_then(|servers| servers.get(place)).context("the instance has no metadata server")
    }

    /// How many instances run the control plane.
    pub(crate) fn instance_count(&self) -> usize {
        self.addresses.members.len()
    }

    /// Tells the supervisor; none when it is gone.
    pub(crate) async fn tell(&self, command: Command) -> Option<()> {
        self.commands.send(command).await.ok()
    }

    /// The nodes there should be.
    pub(crate) fn all_nodes(&self) -> Vec<NodeSpec> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which instance carries a node.
    pub(crate) fn place_of(&self, node: &str) -> Option<usize> {
        (0..self.instance_count()).find(|place| self.nodes_of(*place).iter().any(|spec| spec.name == node))
    }

    /// The nodes that an instance carries: in a regional cluster each instance those of its zone.
    pub(crate) fn nodes_of(&self, instance: usize) -> Vec<NodeSpec> {
        let all = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let zones: BTreeSet<&str> = all.iter().map(|node| node.zone.as_str()).collect();
        let place = |node: &NodeSpec| zones.iter().position(|zone| *zone == node.zone).unwrap_or(0);
        all.iter().filter(|node| place(node) % self.instance_count() == instance).cloned().collect()
    }

    /// What an authority is, and the pool of the user's that it is in, if it is.
    pub(crate) fn purpose(&self, authority: Authority) -> String {
        match self.spec.user_managed.get(&authority) {
            Some(pool) => format!("{} CA, {}", authority.name(), pool.pool),
            None => format!("{} CA", authority.name()),
        }
    }

    pub(crate) async fn certificates(&self) -> Vec<Certificate> {
        let Some(signer) = self.signer.borrow().clone() else { return Vec::new() };
        let mut all = Vec::new();
        for authority in Authority::ALL {
            let Ok(pem) = signer.certificate(authority).await else { continue };
            for der in pki::pem::certificates(&pem).unwrap_or_default() {
                let Ok(subject) = pki::subject(&der) else { continue };
                all.push(Certificate {
                    cluster: self.spec.name.clone(),
                    used_for: self.purpose(authority),
                    subject: format!("CN={}", subject.common_name),
                    sha256: pki::sha256(&der),
                    not_after: subject.not_after.rfc3339(),
                });
            }
        }
        all
    }
}
