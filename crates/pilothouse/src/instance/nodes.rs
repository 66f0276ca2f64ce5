//! The simulated nodes of an instance: each with its own certificate, its own connection, its own life.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use apiserver::{ApiServer, Body, Request};
use base::Clock;
use http::Method;
use manager::NodesConfig;
use pki::{Authority, Profile, Signer, client_config, request_identity};
use policy::UserInfo;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::fleet::message::{InstanceStart, NodeSpec};

/// The default network's range in us-central1, where nodes get their addresses.
const NODE_NETWORK: [u8; 2] = [10, 128];

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    ordinal: u16,
}

/// The nodes that run now.
pub(crate) struct Nodes {
    server: ApiServer,
    signer: Signer,
    clock: Clock,
    seed: u64,
    api_address: SocketAddr,
    project: String,
    kubelet_version: String,
    /// Instances number their nodes apart: the number gives the address.
    first_ordinal: u16,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Nodes {
    pub(crate) fn new(start: &InstanceStart, server: ApiServer, signer: Signer, clock: Clock, seed: u64) -> Self {
        Self {
            server,
            signer,
            clock,
            seed,
            api_address: start.api_address,
            project: start.cluster.project.clone(),
            kubelet_version: format!("v{}", start.cluster.kubernetes_version),
            first_ordinal: u16::try_from(start.member).unwrap_or_default() << 14,
            running: Mutex::default(),
        }
    }

    /// Starts the nodes that are missing, ends those that are too many and deletes their Node objects.
    pub(crate) async fn set(&self, wanted: Vec<NodeSpec>) {
        let mut running = self.running.lock().await;
        let surplus: Vec<String> =
            running.keys().filter(|name| !wanted.iter().any(|n| n.name == **name)).cloned().collect();
        for name in surplus {
            if let Some(node) = running.remove(&name) {
                end(node).await;
                self.delete(&name).await;
            }
        }
        for spec in wanted {
            if running.contains_key(&spec.name) {
                continue;
            }
            let taken: Vec<u16> = running.values().map(|r| r.ordinal).collect();
            let ordinal = (self.first_ordinal..).find(|o| !taken.contains(o)).unwrap_or_default();
            let name = spec.name.clone();
            match self.start(spec, ordinal).await {
                Ok(node) => {
                    running.insert(name, node);
                }
                Err(error) => error!(node = name, %error, "a node cannot start"),
            }
        }
    }

    /// Ends all nodes; their Node objects stay.
    pub(crate) async fn stop(&self) {
        for (_, node) in std::mem::take(&mut *self.running.lock().await) {
            end(node).await;
        }
    }

    async fn start(&self, spec: NodeSpec, ordinal: u16) -> anyhow::Result<Running> {
        let profile =
            Profile::KubeClient { user: format!("system:node:{}", spec.name), groups: vec!["system:nodes".to_owned()] };
        let identity = request_identity(&self.signer, &profile, None).await?;
        let authority = self.signer.certificate(Authority::Cluster).await?;
        let tls = client_config(&authority, Some(&identity), &[b"h2"], &self.clock)?;
        let [high, low] = (ordinal + 2).to_be_bytes();
        let node = manager::NodeSpec {
            name: spec.name.clone(),
            zone: spec.zone,
            pool: spec.pool,
            machine_type: spec.machine_type,
            internal_ip: Ipv4Addr::new(NODE_NETWORK[0], NODE_NETWORK[1], high, low).to_string(),
            external_ip: String::new(),
            labels: spec.labels,
            taints: spec.taints,
            source: None,
            tls,
        };
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
        Ok(Running { stop, task, ordinal })
    }

    /// The cloud controller's part: a machine that is gone has no Node.
    async fn delete(&self, name: &str) {
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

async fn end(node: Running) {
    let _ = node.stop.send(());
    let _ = node.task.await;
}
