//! Simulated kubelets' HTTP: each joins with a certificate that it asked for, registers its Node, renews its Lease, watches
//! its pods and writes their statuses, over TLS, all on one connection; and it has a server of its own.

mod access;
mod credentials;
mod pods;
mod request;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use controllers::Action;
use controllers::kubelet::{Kubelet, Machine};
use machinery::{GroupVersionResource, ObjectKey, Status, Value, json, meta};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::Error;
use crate::api::{Api, HttpsClient, Request, collection_path, object_path};
use crate::config::{NodeIdentity, NodeSpec, NodesConfig};
use crate::events::Recorder;
use crate::informer::{self, News};
use crate::perform::{Door, Written};
use credentials::Credentials;
pub use pods::{NodePods, PodWatch};

/// As the kubelet's: a quarter of the lease's 40 s.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How often the status is written though nothing changed.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two requests for a certificate that are refused.
const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);
/// Requests of one kubelet in flight.
const REQUESTS_MAX: usize = 32;
const INPUTS_MAX: usize = 1024;

enum Input {
    Pods(News),
    Node(News),
    Done(ObjectKey, Result<Option<Arc<Value>>, Status>),
}

/// Runs simulated kubelets until `shutdown` completes.
///
/// # Errors
/// When a node's server name cannot be used; a server that is not there yet is waited for.
pub async fn run_nodes(config: NodesConfig, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let mut tasks = JoinSet::new();
    for (index, spec) in config.nodes.iter().enumerate() {
        let failed = |source| Error::Node { node: spec.name.clone(), source };
        let seed = config.seed.wrapping_add(index as u64);
        match &spec.identity {
            NodeIdentity::Given(tls) => {
                let client = HttpsClient::new(config.api_address, &config.api_server_name, tls, None, spec.source);
                let client = client.map_err(failed)?;
                tasks.spawn(Node::new(&config, spec, Api::Https(client), seed).run());
            }
            NodeIdentity::Bootstrap(bootstrap) => {
                let credentials = Arc::new(Credentials::new(&config, spec, bootstrap.clone(), seed));
                let client = credentials.api().map_err(failed)?;
                let node = Node::new(&config, spec, Api::Https(client.clone()), seed);
                let machine = Joining { credentials, client, authority: bootstrap.cluster_ca.clone(), node };
                tasks.spawn(machine.run(spec.kubelet));
            }
        }
    }
    tokio::select! {
        () = shutdown => {}
        () = async { while tasks.join_next().await.is_some() {} } => {}
    }
    tasks.shutdown().await;
    Ok(())
}

/// A machine on its way to become a node.
struct Joining {
    credentials: Arc<Credentials>,
    client: HttpsClient,
    authority: String,
    node: Node,
}

impl Joining {
    async fn run(self, address: Option<SocketAddr>) {
        let Self { credentials, client, authority, node } = self;
        let (clock, name) = (node.clock.clone(), node.kubelet.machine().name.clone());
        let started = clock.monotonic();
        let stored = credentials.load().await;
        let mut retry = RETRY_FIRST;
        while credentials.validity().0.is_none() {
            let Err(error) = credentials.join().await else { break };
            tracing::info!(node = name, %error, "no certificate yet");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(REFUSED_RETRY_MAX);
        }
        let took_ms = u64::try_from(clock.monotonic().saturating_sub(started).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(node = name, stored, took_ms, "has a certificate");
        let (ready, mut serving) = tokio::sync::watch::channel(false);
        let mut tasks = JoinSet::new();
        if let (Some(address), Ok(clients)) = (address, pki::ClientVerifier::new(&authority, &clock)) {
            let server = Arc::new(server::Server {
                access: access::Access::new(&name, Api::Https(client.clone()), clients, clock.clone()),
                credentials: credentials.clone(),
                pods: node.pods.clone(),
                clock: clock.clone(),
                node: name,
            });
            tasks.spawn(async move {
                if serving.wait_for(|ready| *ready).await.is_err() {
                    return;
                }
                let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
                let Some(certificate) = server.credentials.serving() else { return };
                match pki::server_config(certificate, pki::ClientCertificates::Requested, &alpn, &server.clock) {
                    Ok(tls) => server::run(server, address, tls).await,
                    Err(error) => tracing::warn!(node = server.node, %error, "the kubelet's server"),
                }
            });
        }
        let registered = node.registered.clone();
        tasks.spawn(async move {
            // Being Ready comes first: the serving certificate is not needed for it.
            registered.notified().await;
            credentials
                .look_after(&client, || {
                    ready.send_if_modified(|ready| !std::mem::replace(ready, true));
                })
                .await;
        });
        node.run_from(started).await;
    }
}

struct Node {
    kubelet: Kubelet,
    /// What its own server shows, and those who serve its pods.
    pods: NodePods,
    registered: Arc<tokio::sync::Notify>,
    clock: Clock,
    door: Door,
    lease: Option<Arc<Value>>,
    uid: String,
    sender: mpsc::Sender<Input>,
    receiver: mpsc::Receiver<Input>,
}

fn nodes() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "nodes")
}

fn leases() -> GroupVersionResource {
    GroupVersionResource::new("coordination.k8s.io", "v1", "leases")
}

impl Node {
    fn new(config: &NodesConfig, spec: &NodeSpec, api: Api, seed: u64) -> Self {
        let machine = Machine {
            name: spec.name.clone(),
            project: config.project.clone(),
            zone: spec.zone.clone(),
            pool: spec.pool.clone(),
            machine_type: spec.machine_type.clone(),
            internal_ip: spec.internal_ip.clone(),
            external_ip: spec.external_ip.clone(),
            kubelet_version: config.kubelet_version.clone(),
            labels: spec.labels.clone(),
            taints: spec.taints.clone(),
            seed: config.seed,
        };
        let (sender, receiver) = mpsc::channel(INPUTS_MAX);
        spec.pods.open(&api);
        let events = Recorder::start(api.clone(), "kubelet", &spec.name, config.clock.clone());
        Self {
            kubelet: Kubelet::new(machine, seed),
            pods: spec.pods.clone(),
            registered: Arc::default(),
            clock: config.clock.clone(),
            door: Door {
                api,
                events,
                limit: Arc::new(Semaphore::new(REQUESTS_MAX)),
                sign: None,
                machines: None,
                sign_token: None,
            },
            lease: None,
            uid: String::new(),
            sender,
            receiver,
        }
    }

    async fn run(self) {
        let now = self.clock.monotonic();
        self.run_from(now).await;
    }

    /// Lives as a node; the machine was started at that moment.
    async fn run_from(mut self, started: Duration) {
        let mut retry = RETRY_FIRST;
        while let Err(error) = self.register().await {
            tracing::debug!(node = self.kubelet.machine().name, %error, "registering");
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
        let took_ms = u64::try_from(self.clock.monotonic().saturating_sub(started).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(node = self.kubelet.machine().name, took_ms, "node registered");
        self.registered.notify_one();
        let mut informers = JoinSet::new();
        let name = self.kubelet.machine().name.clone();
        let pods = GroupVersionResource::new("", "v1", "pods");
        let (api, sender) = (self.door.api.clone(), self.sender.clone());
        let mine = format!("fieldSelector=spec.nodeName%3D{name}");
        informers.spawn(informer::run(api.clone(), collection_path(&pods, ""), mine, sender.clone(), Input::Pods));
        let me = format!("fieldSelector=metadata.name%3D{name}");
        informers.spawn(informer::run(api, collection_path(&nodes(), ""), me, sender, Input::Node));
        self.live().await;
    }

    async fn live(&mut self) {
        let start = self.clock.monotonic();
        let (mut lease_at, mut status_at) = (start, start + STATUS_PERIOD);
        loop {
            self.step();
            let now = self.clock.monotonic();
            if now >= lease_at {
                lease_at = now + if self.renew().await.is_ok() { LEASE_PERIOD } else { RETRY_FIRST * 20 };
            }
            if now >= status_at {
                status_at = now + STATUS_PERIOD;
                let _ = self.write_status(&Value::Null).await;
            }
            let now = self.clock.monotonic();
            let mut wait = lease_at.min(status_at).saturating_sub(now);
            if let Some(wake) = self.kubelet.next_wake() {
                wait = wait.min(wake.since(self.clock.now()));
            }
            tokio::select! {
                Some(input) = self.receiver.recv() => {
                    self.take(input).await;
                    for _ in 0..INPUTS_MAX {
                        let Ok(input) = self.receiver.try_recv() else { break };
                        self.take(input).await;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Pods(News::Applied(pod)) => {
                self.pods.show(&pod, false);
                self.kubelet.observe_pod(&pod);
            }
            Input::Pods(News::Deleted(pod)) => {
                self.pods.show(&pod, true);
                self.kubelet.remove_pod(&meta::key(&pod));
            }
            Input::Pods(News::Listed(pods, _)) => {
                let listed: Vec<ObjectKey> = pods.iter().map(|p| meta::key(p)).collect();
                for key in self.kubelet.keys().into_iter().filter(|k| !listed.contains(k)) {
                    self.kubelet.remove_pod(&key);
                }
                self.pods.show_only(&pods);
                pods.iter().for_each(|p| self.kubelet.observe_pod(p));
            }
            Input::Node(News::Applied(node)) => self.take_node(&node).await,
            Input::Node(News::Listed(listed, _)) => {
                for node in listed {
                    self.take_node(&node).await;
                }
            }
            Input::Node(News::Deleted(_)) => {}
            Input::Done(key, outcome) => {
                let answer = outcome.map_err(|error| {
                    tracing::debug!(pod = %key, %error, "a pod's state was not written");
                });
                self.kubelet.done(&key, answer, self.clock.now());
            }
        }
    }

    async fn take_node(&mut self, node: &Arc<Value>) {
        self.kubelet.observe_node(node);
        // Somebody took us for dead: say that we are not.
        if !controllers::conditions::is_true(node, "Ready") {
            let _ = self.write_status(&node["status"]).await;
        }
    }

    /// Sends what the kubelet wants done, one task a pod.
    fn step(&mut self) {
        for (key, actions) in self.kubelet.step(self.clock.now()) {
            let (door, sender) = (self.door.clone(), self.sender.clone());
            tokio::spawn(async move {
                let outcome = perform(&door, actions).await;
                let _ = sender.send(Input::Done(key, outcome)).await;
            });
        }
    }

    async fn register(&mut self) -> Result<(), Status> {
        let api = self.door.api.clone();
        let machine = self.kubelet.machine().clone();
        let node = match api.call(Request::get(object_path(&nodes(), "", &machine.name, ""))).await {
            Ok(node) => {
                let labels = machine.node(self.clock.now())["metadata"]["labels"].clone();
                let mut patch = json!({"metadata": {}});
                patch["metadata"].set("labels", labels);
                let path = object_path(&nodes(), "", &machine.name, "");
                api.call(Request::new("PATCH", path, Some(patch))).await?;
                node
            }
            Err(status) if status.code == 404 => {
                let body = machine.node(self.clock.now());
                api.call(Request::new("POST", collection_path(&nodes(), ""), Some(body))).await?
            }
            Err(status) => return Err(status),
        };
        self.uid = meta::uid(&node).to_owned();
        let node = self.write_status(&node["status"]).await?;
        self.kubelet.observe_node(&node);
        self.renew().await
    }

    async fn write_status(&self, old: &Value) -> Result<Arc<Value>, Status> {
        let machine = self.kubelet.machine();
        let path = object_path(&nodes(), "", &machine.name, "");
        let fetched;
        let old = if old.is_null() {
            fetched = self.door.api.call(Request::get(&path)).await?;
            &fetched["status"]
        } else {
            old
        };
        let mut patch = Value::object();
        patch.set("status", machine.status(self.clock.now(), old));
        let path = object_path(&nodes(), "", &machine.name, "status");
        self.door.api.call(Request::new("PATCH", path, Some(patch))).await
    }

    async fn renew(&mut self) -> Result<(), Status> {
        let machine = self.kubelet.machine();
        let lease = machine.lease(self.clock.now(), &self.uid);
        let path = object_path(&leases(), "kube-node-lease", &machine.name, "");
        let held = match self.lease.take() {
            Some(held) => held,
            None => match self.door.api.call(Request::get(&path)).await {
                Ok(held) => held,
                Err(status) if status.code == 404 => {
                    let collection = collection_path(&leases(), "kube-node-lease");
                    self.lease = Some(self.door.api.call(Request::new("POST", collection, Some(lease))).await?);
                    return Ok(());
                }
                Err(status) => return Err(status),
            },
        };
        let mut renewed = Value::clone(&held);
        renewed.set("spec", lease["spec"].clone());
        self.lease = Some(self.door.api.call(Request::new("PUT", path, Some(renewed))).await?);
        Ok(())
    }
}

/// Performs a pod's actions; the pod as it is afterwards, none when it is gone.
async fn perform(door: &Door, actions: Vec<Action>) -> Result<Option<Arc<Value>>, Status> {
    let mut last = None;
    for action in actions {
        match door.act(action).await? {
            Written::Object(_, object) => last = Some(object),
            Written::Gone(..) | Written::Nothing => {}
        }
    }
    Ok(last)
}
