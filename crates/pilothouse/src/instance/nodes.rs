//! The simulated nodes of an instance: each with its own certificates, its own connection, its own server, its own life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apiserver::{ApiServer, Body, Request};
use base::Clock;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use machinery::{Value, json};
use manager::{Bootstrap, NodeIdentity, NodePods, NodesConfig, SecretFn};
use pki::{Authority, ClientIdentity, Identity, Profile, Signer, Vault, request_identity};
use policy::UserInfo;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::fleet::SealedDirectory;
use crate::fleet::message::{InstanceStart, MachineSpec, NodeSpec};
use crate::fleet::questions::NodeQuestion;
use crate::instance::machines::Machines;
use crate::instance::{addons, questions};

/// The files with the bootstrap credentials; the user's name follows.
const BOOTSTRAP_FILE: &str = "bootstrap-";

struct Running {
    client: Arc<ClientIdentity>,
    /// With which it registered.
    labels: Vec<(String, String)>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What all nodes of an instance are started with.
pub(super) struct Shared {
    pub(super) server: ApiServer,
    signer: Signer,
    clock: Clock,
    seed: u64,
    api_address: SocketAddr,
    project: String,
    kubelet_version: String,
    machines: Arc<Machines>,
    directory: Arc<SealedDirectory>,
    kubelet_client: Arc<ClientIdentity>,
    /// One bootstrap credential for all machines that are made with the same user.
    secrets: [(&'static str, SharedSecret); 2],
    /// The pods of the nodes that run.
    pods: watch::Sender<BTreeMap<String, NodePods>>,
}

/// A bootstrap credential, once somebody needed it.
type SharedSecret = Arc<Mutex<Option<Identity>>>;

/// The nodes that run now.
pub(crate) struct Nodes {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    prepared: bool,
    /// Bootstrap users that may ask for certificates.
    bootstrapping: BTreeSet<&'static str>,
    running: BTreeMap<String, Running>,
}

impl Nodes {
    pub(crate) fn new(
        start: &InstanceStart,
        server: ApiServer,
        signer: Signer,
        clock: Clock,
        seed: u64,
        (machines, directory, kubelet_client): (Arc<Machines>, Arc<SealedDirectory>, Arc<ClientIdentity>),
    ) -> Self {
        let shared = Shared {
            server,
            signer,
            clock,
            seed,
            api_address: start.internal_address,
            project: start.cluster.project.clone(),
            kubelet_version: format!("v{}", start.cluster.kubernetes_version),
            machines,
            directory,
            kubelet_client,
            secrets: [true, false].map(|shielded| (addons::bootstrap_user(shielded), SharedSecret::default())),
            pods: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared), state: Arc::default() }
    }

    /// Starts the nodes that are missing, ends those that are too many and deletes their Node objects; in a task of its
    /// own, as nobody waits for nodes.
    pub(crate) async fn set(&self, wanted: Vec<NodeSpec>) {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { state.set(&shared, wanted).await });
    }

    /// Answers the fleet's metadata servers, in a task of its own.
    pub(crate) fn answer(&self, question: NodeQuestion, end: UnixStream) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { questions::answer(&shared, question, end).await });
    }

    /// The client certificate of each node that has one, and the credential of those that have none yet.
    pub(crate) async fn certificates(&self) -> Vec<(String, CertificateDer<'static>)> {
        let state = self.state.lock().await;
        let held = state.running.iter().filter_map(|(name, node)| Some((name.clone(), node.client.certificate()?)));
        let mut all: Vec<_> = held.collect();
        for (user, shared) in &self.shared.secrets {
            let shared = shared.lock().await;
            all.extend(shared.iter().map(|identity| ((*user).to_owned(), identity.chain()[0].clone())));
        }
        all
    }

    /// Ends all nodes; their Node objects stay.
    pub(crate) async fn stop(&self) {
        self.shared.pods.send_replace(BTreeMap::new());
        for (_, node) in std::mem::take(&mut self.state.lock().await.running) {
            end(node).await;
        }
    }
}

impl State {
    async fn set(&mut self, shared: &Shared, wanted: Vec<NodeSpec>) {
        if !self.prepared {
            shared.prepare().await;
            self.prepared = true;
        }
        let surplus: Vec<String> =
            self.running.keys().filter(|name| !wanted.iter().any(|n| n.name == **name)).cloned().collect();
        for name in surplus {
            if let Some(node) = self.running.remove(&name) {
                shared.pods.send_modify(|pods| drop(pods.remove(&name)));
                end(node).await;
                shared.delete(&name).await;
            }
        }
        for spec in wanted {
            match self.running.get(&spec.name) {
                Some(node) if node.labels == spec.labels => continue,
                // It registers anew, with the labels it has now.
                Some(_) => {
                    if let Some(node) = self.running.remove(&spec.name) {
                        let stale = node.labels.iter().filter(|(key, _)| !spec.labels.iter().any(|(k, _)| k == key));
                        shared
                            .remove_labels(&spec.name, stale.map(|(key, _)| (key.as_str(), Value::Null)).collect())
                            .await;
                        end(node).await;
                    }
                }
                None => {}
            }
            let Some(machine) = shared.machines.find(&spec.name) else {
                error!(node = spec.name, "a node without a machine");
                continue;
            };
            let user = addons::bootstrap_user(spec.shielded);
            if self.bootstrapping.insert(user) {
                addons::let_bootstrap(&shared.server, user).await;
            }
            let name = spec.name.clone();
            match shared.start(spec, machine).await {
                Ok(node) => {
                    self.running.insert(name, node);
                }
                Err(error) => error!(node = name, %error, "a node cannot start"),
            }
        }
    }
}

impl Shared {
    /// What must be there before the first node asks: rights, and the API server's own certificate towards kubelets.
    async fn prepare(&self) {
        let user = Profile::KubeClient { user: addons::KUBELET_CLIENT.to_owned(), groups: Vec::new() };
        match request_identity(&self.signer, &user, None).await {
            Ok(identity) => {
                if let Err(error) = self.kubelet_client.replace(&identity) {
                    error!(%error, "the certificate towards kubelets");
                }
            }
            Err(error) => error!(%error, "no certificate towards kubelets"),
        }
        addons::install(&self.server).await;
    }

    async fn start(&self, spec: NodeSpec, machine: MachineSpec) -> anyhow::Result<Running> {
        let cluster_ca = self.signer.certificate(Authority::Cluster).await?;
        let client = ClientIdentity::none();
        let vault: Arc<dyn Vault> = self.directory.clone();
        let secret = self.secret(spec.shielded);
        let attest = spec.shielded.then(|| -> manager::AttestFn {
            let (machines, machine) = (self.machines.clone(), machine.clone());
            Arc::new(move |csr| machines.attest(&machine, csr))
        });
        // Connections come from the machine's own address, where it has one.
        let source = Some(machine.kubelet.ip()).filter(|ip| *ip != IpAddr::from([127, 0, 0, 1]));
        let pods = NodePods::default();
        self.pods.send_modify(|all| drop(all.insert(spec.name.clone(), pods.clone())));
        let labels = spec.labels.clone();
        let node = manager::NodeSpec {
            name: spec.name.clone(),
            zone: spec.zone,
            pool: spec.pool,
            machine_type: spec.machine_type,
            internal_ip: machine.internal_ip.to_string(),
            external_ip: String::new(),
            labels: spec.labels,
            taints: spec.taints,
            source: source.filter(|_| self.api_address.ip().is_loopback()),
            kubelet: Some(machine.kubelet),
            identity: NodeIdentity::Bootstrap(Bootstrap { secret, attest, cluster_ca, vault, client: client.clone() }),
            pods,
        };
        let ordinal = u32::from(machine.internal_ip);
        let config = NodesConfig {
            nodes: vec![node],
            api_address: self.api_address,
            api_server_name: self.api_address.ip().to_string(),
            clock: self.clock.clone(),
            seed: self.seed.wrapping_add(u64::from(ordinal)),
            project: self.project.clone(),
            kubelet_version: self.kubelet_version.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let name = spec.name;
        let task = tokio::spawn(async move {
            let shutdown = async move {
                let _ = stopped.await;
            };
            if let Err(error) = manager::run_nodes(config, shutdown).await {
                error!(node = name, %error, "a node ended");
            }
        });
        Ok(Running { client, labels, stop, task })
    }

    /// The shared secret: a client certificate that the machines of this instance are made with, kept as long as it is good.
    pub(super) fn secret(&self, shielded: bool) -> SecretFn {
        let (user, shared) = self.secrets[usize::from(!shielded)].clone();
        let (signer, directory, clock) = (self.signer.clone(), self.directory.clone(), self.clock.clone());
        Arc::new(move || {
            let (signer, directory, clock) = (signer.clone(), directory.clone(), clock.clone());
            let shared = shared.clone();
            Box::pin(async move {
                let mut shared = shared.lock().await;
                let good = shared.as_ref().filter(|identity| is_good(identity, &clock)).cloned();
                match good {
                    Some(identity) => Ok(identity),
                    None => Ok(shared.insert(bootstrap_identity(&signer, &directory, &clock, user).await?).clone()),
                }
            })
        })
    }

    /// The pods of a node that runs here.
    pub(super) fn pods_of(&self, node: &str) -> Option<NodePods> {
        self.pods.borrow().get(node).cloned()
    }

    /// Those of all nodes that run here.
    pub(super) fn all_pods(&self) -> BTreeMap<String, NodePods> {
        self.pods.borrow().clone()
    }

    /// As [`Shared::pods_of`], once the node runs.
    pub(super) async fn wait_for(&self, node: &str) -> Option<NodePods> {
        let mut pods = self.pods.subscribe();
        pods.wait_for(|all| all.contains_key(node)).await.ok()?.get(node).cloned()
    }

    /// A node adds labels only.
    async fn remove_labels(&self, name: &str, labels: Value) {
        let mut patch = json!({"metadata": {}});
        patch["metadata"].set("labels", labels);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/merge-patch+json"))]);
        let path = format!("/api/v1/nodes/{name}");
        let request = Request::verified(&cloud_controller(), Method::PATCH, &path, "", Body::Tree(patch));
        let reply = self.server.handle(Request { headers, ..request }).await;
        info!(node = name, code = reply.code, "labels that are no longer its pool's are removed");
    }

    /// The cloud controller's part: a machine that is gone has no Node, and its disk is gone with it.
    async fn delete(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.directory.path().join(format!("node-{name}")))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(node = name, %error, "a machine's certificates stay behind");
        }
        let path = format!("/api/v1/nodes/{name}");
        let reply =
            self.server.handle(Request::verified(&cloud_controller(), Method::DELETE, &path, "", Body::Empty)).await;
        info!(node = name, code = reply.code, "the machine is gone; deleted its Node");
    }
}

fn cloud_controller() -> UserInfo {
    UserInfo::authenticated("system:cloud-controller-manager", &[policy::user::MASTERS])
}

async fn bootstrap_identity(
    signer: &Signer,
    directory: &Arc<SealedDirectory>,
    clock: &Clock,
    user: &str,
) -> Result<Identity, String> {
    let file = format!("{BOOTSTRAP_FILE}{user}");
    if let Some(kept) = directory.load(&file)? {
        let text = String::from_utf8_lossy(&kept);
        if let Ok(identity) = Identity::from_pem(&text, &text)
            && is_good(&identity, clock)
        {
            return Ok(identity);
        }
    }
    let profile = Profile::KubeClient { user: user.to_owned(), groups: Vec::new() };
    let identity = request_identity(signer, &profile, None).await.map_err(|e| e.to_string())?;
    let text = zeroize::Zeroizing::new(format!("{}{}", identity.certificate_pem(), *identity.key_pem()));
    directory.save(&file, text.as_bytes())?;
    Ok(identity)
}

fn is_good(identity: &Identity, clock: &Clock) -> bool {
    pki::subject(&identity.chain()[0]).is_ok_and(|subject| subject.not_after > clock.now())
}

async fn end(node: Running) {
    let _ = node.stop.send(());
    let _ = node.task.await;
}
