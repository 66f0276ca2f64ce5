//! The metadata servers of a cluster's nodes, as Compute Engine has one for each machine, and of the pods that somebody plays
//! ([`super::pods`]). All live in the fleet's process, each on a loopback address of its own.
//!
//! ```text
//! process on the node, pod of the host's network, any pod without Workload Identity ─► node's server: the machine
//! pod with Workload Identity ─► GKE's metadata server: the pod's account, little of the machine
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use anyhow::{Context, Result};
use base::{Clock, Entropy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud::{Cloud, MachineClaims};
use gke::metadata::{self, Machine, Outcome, Reply, Request};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::callers::{self, CONNECTIONS_MAX, is_unnamed};
use super::pods::PodServer;
use super::{http, kube_env, machine_id, wait};
use crate::fleet::listen_on_alias;
use crate::fleet::message::{ClusterSpec, MachineSpec, NodeSpec};
use crate::fleet::questions::{BootstrapCredential, NodeQuestion};
use crate::fleet::{Cluster, State};

pub(super) const HTTP: u16 = 80;
/// The attribute with the bootstrap data.
const KUBE_ENV: &str = "instance/attributes/kube-env";

/// What all machines of a cluster have in common, and who makes their tokens.
pub(crate) struct Facts {
    pub(crate) spec: ClusterSpec,
    pub(crate) project_number: String,
    /// Nobody in a fleet without a cloud.
    pub(crate) cloud: Arc<OnceLock<Cloud>>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
}

/// The servers of one cluster. Clones are the same.
#[derive(Clone)]
pub(crate) struct NodeServers(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) facts: Facts,
    cluster: OnceLock<Weak<Cluster>>,
    state: Mutex<Servers>,
    /// Of what the servers say.
    pub(super) changes: watch::Sender<()>,
    pub(super) room: Arc<Semaphore>,
}

#[derive(Default)]
pub(super) struct Servers {
    nodes: BTreeMap<String, NodeServer>,
    /// By uid.
    pub(super) pods: BTreeMap<String, PodServer>,
}

struct NodeServer {
    address: SocketAddr,
    /// Nothing until the node is one of the cluster's.
    known: Option<(NodeSpec, MachineSpec)>,
    /// Accepts until this is dropped.
    _accepting: Accepting,
}

/// A task that ends with its handle.
pub(super) struct Accepting(pub(super) AbortHandle);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NodeServers {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(Shared {
            facts,
            cluster: OnceLock::new(),
            state: Mutex::default(),
            changes: watch::Sender::new(()),
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }))
    }

    /// Listens for a node that has no server yet, where it did before if that can be had; where it listens now.
    pub(crate) fn listen(&self, node: &str, before: Option<SocketAddr>) -> Option<SocketAddr> {
        if let Some(server) = self.0.lock().nodes.get(node) {
            return Some(server.address);
        }
        let again = before.and_then(|address| std::net::TcpListener::bind(address).ok());
        let listener = match again {
            Some(listener) => Ok(listener),
            None => listen_on_alias(HTTP, &self.0.facts.entropy),
        };
        let server = listener.and_then(|listener| {
            let address = listener.local_addr()?;
            let admit = admit(&self.0, node, address);
            let (name, room) = (node.to_owned(), Arc::clone(&self.0.room));
            let serving = callers::serve(tokio_listener(listener)?, name, room, admit);
            let _accepting = Accepting(tokio::spawn(serving).abort_handle());
            Ok(NodeServer { address, known: None, _accepting })
        });
        match server {
            Ok(server) => {
                let address = server.address;
                self.0.lock().nodes.insert(node.to_owned(), server);
                Some(address)
            }
            Err(error) => {
                warn!(target: "metadata", node, "no metadata server: {error:#}");
                before
            }
        }
    }

    /// Serves the nodes of this cluster from now on.
    pub(crate) fn attach(&self, cluster: &Arc<Cluster>) {
        let _ = self.0.cluster.set(Arc::downgrade(cluster));
        let _ = cluster.node_metadata.set(self.clone());
        self.update(cluster);
    }

    /// Says what is known of the nodes now; servers of nodes that are gone are closed, and so are those of their pods.
    pub(crate) fn update(&self, cluster: &Cluster) {
        let machines: BTreeMap<String, MachineSpec> =
            cluster.machines().into_iter().map(|machine| (machine.name.clone(), machine)).collect();
        let mut known: BTreeMap<String, (NodeSpec, MachineSpec)> = cluster
            .all_nodes()
            .into_iter()
            .filter_map(|node| Some((node.name.clone(), (node.clone(), machines.get(&node.name)?.clone()))))
            .collect();
        let mut servers = self.0.lock();
        servers.pods.retain(|_, pod| known.get(&pod.facts.node).is_some_and(|(node, _)| node.settings.serves_pods));
        servers.nodes.retain(|name, server| {
            server.known = known.remove(name);
            server.known.is_some()
        });
        drop(servers);
        self.0.changes.send_replace(());
    }

    /// Closes all.
    pub(crate) fn close(&self) {
        *self.0.lock() = Servers::default();
    }

    /// Where a node's server is.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) fn node(&self, node: &str) -> Result<SocketAddr> {
        let servers = self.0.lock();
        let server = servers.nodes.get(node);
        server.map(|server| server.address).with_context(|| format!("node {node:?} has no metadata server"))
    }

    /// All nodes, with the addresses of their servers.
    pub(crate) fn shown(&self) -> BTreeMap<String, String> {
        self.0.lock().nodes.iter().map(|(name, server)| (name.clone(), server.address.to_string())).collect()
    }
}

/// At a node's server: the node itself, or a pod of the node from the pod's address.
fn admit(shared: &Arc<Shared>, node: &str, address: SocketAddr) -> callers::Admit {
    let (weak, node) = (Arc::downgrade(shared), node.to_owned());
    Arc::new(move |ip| {
        let shared = weak.upgrade()?;
        let servers = shared.lock();
        let kubelet = servers.nodes.get(&node)?.known.as_ref().map(|(_, machine)| machine.kubelet.ip());
        let own = is_unnamed(ip) || ip == address.ip() || Some(ip) == kubelet;
        if own {
            drop(servers);
            return Some(handler(&shared, &node, address));
        }
        let pod = servers.pods.values().find(|pod| pod.address.ip() == ip && pod.facts.node == node)?;
        Some(super::pods::handler(&shared, pod, address))
    })
}

fn handler(shared: &Arc<Shared>, node: &str, address: SocketAddr) -> http::Handler {
    let (shared, node) = (Arc::clone(shared), node.to_owned());
    Arc::new(move |request| {
        let (shared, node) = (Arc::clone(&shared), node.clone());
        Box::pin(async move {
            if let Some(refusal) = metadata::guard(&request, &own_names(address)) {
                return refusal;
            }
            wait(&request, shared.changes.subscribe(), || Box::pin(shared.look(&node, &request))).await
        })
    })
}

/// As which a server may be asked, beside Google's names.
pub(super) fn own_names(address: SocketAddr) -> [String; 2] {
    [address.to_string(), address.ip().to_string()]
}

pub(super) fn tokio_listener(listener: std::net::TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Servers> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.get()?.upgrade()
    }

    async fn look(&self, node: &str, request: &Request) -> Reply {
        let Some((node, machine)) = self.known(node) else { return unavailable(&"the node is not known yet") };
        let mut machine = self.machine(&node, &machine);
        if metadata::touches(request, KUBE_ENV) {
            match self.kube_env(&node).await {
                Ok(text) => drop(machine.attributes.insert("kube-env".to_owned(), text)),
                Err(error) => return unavailable(&error),
            }
        }
        match metadata::answer(&machine.tree(), request) {
            Outcome::Done(reply) => reply,
            Outcome::Token { scopes, .. } => self.token(&machine, &scopes).await,
            Outcome::Identity { audience, full, .. } => self.identity(&machine, audience, full).await,
        }
    }

    pub(super) fn known(&self, node: &str) -> Option<(NodeSpec, MachineSpec)> {
        self.lock().nodes.get(node)?.known.clone()
    }

    /// All but the content of `kube-env`, which is not made unless it is asked for.
    pub(super) fn machine(&self, node: &NodeSpec, machine: &MachineSpec) -> Machine {
        let Facts { spec, project_number, .. } = &self.facts;
        let group = node.name.rsplit_once('-').map_or("", |(base, _)| base);
        let manager = format!("projects/{project_number}/zones/{}/instanceGroupManagers/{group}-grp", node.zone);
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let given = [
            ("cluster-location", spec.location.clone()),
            ("cluster-name", spec.name.clone()),
            ("cluster-uid", spec.id.clone()),
            ("created-by", manager),
            ("gci-update-strategy", "update_disabled".to_owned()),
            ("google-compute-enable-pcid", "true".to_owned()),
            ("kube-env", String::new()),
            ("kube-labels", labels.join(",")),
        ];
        let mut attributes = node.settings.attributes.clone();
        attributes.extend(given.map(|(name, value)| (name.to_owned(), value)));
        Machine {
            name: node.name.clone(),
            id: machine_id(&spec.id, &node.name),
            zone: node.zone.clone(),
            machine_type: node.machine_type.clone(),
            project: spec.project.clone(),
            project_number: project_number.clone(),
            address: machine.internal_ip.to_string(),
            tags: node.settings.tags.clone(),
            attributes,
            account: node.settings.email(project_number),
            scopes: node.settings.scopes.clone(),
        }
    }

    /// The bootstrap data of the node's start-up scripts, with the credential that all machines of its kind share: that of a
    /// machine with a TPM makes nobody a node without the machine's attestation.
    async fn kube_env(&self, node: &NodeSpec) -> Result<String> {
        let cluster = self.cluster().context("the cluster is gone")?;
        let State::Running(access) = cluster.state.borrow().clone() else {
            anyhow::bail!("the control plane does not run");
        };
        let place = cluster.place_of(&node.name).context("the node is gone")?;
        let question = NodeQuestion::Bootstrap { shielded: node.shielded };
        let credential: BootstrapCredential = cluster.ask(place, &question).await?;
        info!(target: "metadata", cluster = self.facts.spec.name, node = node.name, "handed out the bootstrap credential");
        let (certificate, key) =
            if node.shielded { ("TPM_BOOTSTRAP_CERT", "TPM_BOOTSTRAP_KEY") } else { ("KUBELET_CERT", "KUBELET_KEY") };
        let spec = &self.facts.spec;
        Ok(kube_env(&BTreeMap::from([
            ("CA_CERT", STANDARD.encode(access.ca_pem)),
            ("CLUSTER_IP_RANGE", spec.pod_cidr.clone()),
            ("CLUSTER_NAME", spec.name.clone()),
            ("KUBERNETES_MASTER", "false".to_owned()),
            ("KUBERNETES_MASTER_NAME", access.private_endpoint),
            ("NODE_TAINTS", node.taints.join(",")),
            ("PROJECT_ID", spec.project.clone()),
            ("SERVICE_CLUSTER_IP_RANGE", spec.service_cidr.clone()),
            ("ZONE", node.zone.clone()),
            (certificate, STANDARD.encode(credential.certificate)),
            (key, STANDARD.encode(credential.key.0)),
        ])))
    }

    async fn token(&self, machine: &Machine, asked: &[String]) -> Reply {
        let Some(cloud) = self.facts.cloud.get().cloned() else { return unavailable(&"there is no cloud") };
        // A machine's token is good for no more than the machine's scopes.
        let some: Vec<String> = asked.iter().filter(|scope| machine.scopes.contains(scope)).cloned().collect();
        let scopes = if some.is_empty() { machine.scopes.clone() } else { some };
        let account = machine.account.clone();
        match tokio::task::spawn_blocking(move || cloud.machine_token(&account, scopes)).await {
            Ok(Ok((token, seconds))) => Reply::token(&token, seconds),
            other => unavailable(&other),
        }
    }

    async fn identity(&self, machine: &Machine, audience: String, full: bool) -> Reply {
        let Some(cloud) = self.facts.cloud.get().cloned() else { return unavailable(&"there is no cloud") };
        let (account, claims) = (machine.account.clone(), full.then(|| MachineClaims::of(machine)));
        match tokio::task::spawn_blocking(move || cloud.machine_identity(&account, &audience, claims)).await {
            Ok(Ok(token)) => Reply::identity(&token),
            other => unavailable(&other),
        }
    }
}

pub(super) fn unavailable(why: &impl std::fmt::Debug) -> Reply {
    warn!(target: "metadata", ?why, "a metadata server cannot answer");
    Reply::refused(503, "Service Unavailable")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    fn servers() -> NodeServers {
        let spec = ClusterSpec {
            id: "c".to_owned(),
            name: "demo".to_owned(),
            project: "p".to_owned(),
            location: "us-east1-b".to_owned(),
            kubernetes_version: "1.33.4-gke.1".to_owned(),
            pod_cidr: "10.4.0.0/14".to_owned(),
            service_cidr: "10.8.0.0/20".to_owned(),
            switches: crate::fleet::message::Switches::default(),
            user_managed: std::collections::BTreeMap::new(),
            user_managed_keys: cloud::UserManagedKeys::default(),
        };
        let (clock, entropy) = (crate::system::clock(), crate::system::entropy());
        let (project_number, cloud) = ("123".to_owned(), Arc::default());
        NodeServers::new(Facts { spec, project_number, cloud, clock, entropy })
    }

    fn known(name: &str) -> (NodeSpec, MachineSpec) {
        let node = NodeSpec {
            name: name.to_owned(),
            pool: "pool".to_owned(),
            zone: "us-east1-b".to_owned(),
            machine_type: "e2-medium".to_owned(),
            labels: vec![("a".to_owned(), "b".to_owned())],
            taints: Vec::new(),
            shielded: true,
            settings: gke::MachineSettings::default(),
        };
        let kubelet = SocketAddr::from(([127, 201, 7, 1], 10250));
        let machine = MachineSpec {
            name: name.to_owned(),
            zone: node.zone.clone(),
            internal_ip: [10, 128, 0, 2].into(),
            kubelet,
        };
        (node, machine)
    }

    /// The whole answer; empty when nobody said anything.
    async fn ask(server: SocketAddr, from: [u8; 4], path: &str) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let Ok(mut stream) = socket.connect(server).await else { return String::new() };
        let request = format!(
            "GET /computeMetadata/v1/instance/{path} HTTP/1.1\r\nHost: metadata\r\nMetadata-Flavor: Google\r\n\
             Connection: close\r\n\r\n"
        );
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_nodes_server_hears_the_node_and_nobody_else_until_it_is_closed() {
        let servers = servers();
        let server = servers.listen("n-1", None).unwrap();
        assert_eq!(servers.listen("n-1", None), Some(server), "it listens once");
        let (here, kubelet) = ([127, 0, 0, 1], [127, 201, 7, 1]);
        assert!(ask(server, here, "name").await.starts_with("HTTP/1.1 503 "), "nothing is known of it yet");
        servers.0.lock().nodes.get_mut("n-1").unwrap().known = Some(known("n-1"));
        for from in [here, kubelet] {
            assert!(ask(server, from, "name").await.ends_with("\r\n\r\nn-1"), "{from:?}");
        }
        assert_eq!(ask(server, [127, 0, 16, 1], "name").await, "", "another place");
        for (path, says) in [
            ("zone", "projects/123/zones/us-east1-b"),
            ("attributes/cluster-uid", "c"),
            ("attributes/kube-labels", "a=b"),
            ("attributes/created-by", "projects/123/zones/us-east1-b/instanceGroupManagers/n-grp"),
            ("service-accounts/default/email", "123-compute@developer.gserviceaccount.com"),
            ("service-accounts/default/token", "Service Unavailable\n"),
        ] {
            let answer = ask(server, here, path).await;
            assert!(answer.ends_with(&format!("\r\n\r\n{says}")), "{path}: {answer}");
        }
        servers.close();
        // The task that held the listener ends at the runtime's next turn.
        while tokio::net::TcpStream::connect(server).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(servers.listen("n-1", Some(server)), Some(server), "the same again");
    }
}
