//! The simulated nodes of an instance: each with its own certificates, its own connection, its own server, its own life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use apiserver::{ApiServer, Body, Request};
use base::Clock;
use http::Method;
use manager::{Bootstrap, NodeIdentity, NodesConfig, SecretFn};
use pki::{Authority, ClientIdentity, Identity, Profile, Signer, Vault, request_identity};
use policy::UserInfo;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::fleet::SealedDirectory;
use crate::fleet::message::{InstanceStart, MachineSpec, NodeSpec};
use crate::instance::addons;
use crate::instance::machines::Machines;

/// The files with the bootstrap credentials; the user's name follows.
const BOOTSTRAP_FILE: &str = "bootstrap-";

struct Running {
    client: Arc<ClientIdentity>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What all nodes of an instance are started with.
struct Shared {
    server: ApiServer,
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
                end(node).await;
                shared.delete(&name).await;
            }
        }
        for spec in wanted {
            if self.running.contains_key(&spec.name) {
                continue;
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
        Ok(Running { client, stop, task })
    }

    /// The shared secret: a client certificate that the machines of this instance are made with, kept as long as it is good.
    fn secret(&self, shielded: bool) -> SecretFn {
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

    /// The cloud controller's part: a machine that is gone has no Node, and its disk is gone with it.
    async fn delete(&self, name: &str) {
        if let Err(error) = std::fs::remove_file(self.directory.path().join(format!("node-{name}")))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(node = name, %error, "a machine's certificates stay behind");
        }
        let user = UserInfo {
            name: "system:cloud-controller-manager".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..UserInfo::default()
        };
        let path = format!("/api/v1/nodes/{name}");
        let reply = self.server.handle(Request::verified(&user, Method::DELETE, &path, "", Body::Empty)).await;
        info!(node = name, code = reply.code, "the machine is gone; deleted its Node");
    }
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
