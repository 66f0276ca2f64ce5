//! Starting and stopping the parts of an instance in their order.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use apiserver::{ApiServer, Caller};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use disk::RealDisk;
use etcd::{Member, MemberConfig, PeerNetwork, Storage};
use ipnet::IpNet;
use machinery::Value;
use manager::api::InProcess;
use manager::{Api, ManagerConfig, SignFn, SignRequest, SignTokenFn};
use pki::{
    ApiSigner, Approved, Authority, ClientCertificates, ClientIdentity, ClientVerifier, Profile, ServingCertificate,
    Signer, client_config, request_identity, server_config,
};
use policy::{AccessSettings, UserInfo};
use registry::certificate_request;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::fleet::message::{IN_PROCESS, InstanceStart, MachineSpec, NodeSpec, Secret, StoreMember, UsedIdentity};
use crate::fleet::questions::NodeQuestion;
use crate::fleet::{MemberListeners, SealedDirectory};
use crate::instance::machines::Machines;
use crate::instance::metadata::{self, StoreAuthority};
use crate::instance::nodes::Nodes;
use crate::system;

/// An instance that does not end in this time is ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What an instance is given from outside.
pub(crate) struct Doors {
    pub(crate) signer: Signer,
    pub(crate) identity: apiserver::Identity,
    /// Who keeps the key that Secrets are encrypted under.
    pub(crate) keys: apiserver::KeyService,
    pub(crate) etcd: MemberListeners,
    /// The socket that its metadata server lets in.
    pub(crate) metadata: OwnedFd,
}

/// A running instance.
pub(crate) struct Instance {
    server: ApiServer,
    member: Arc<Member>,
    nodes: Nodes,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    machines: Arc<Machines>,
    kubelet_client: Arc<ClientIdentity>,
    /// What its member shows to the others; alone it shows nothing.
    shown_to_peers: Option<CertificateDer<'static>>,
    /// What its API server is to its member.
    store_client: Arc<ClientIdentity>,
    name: String,
    first_nodes: Vec<NodeSpec>,
    /// Kept locked.
    directory: Arc<SealedDirectory>,
}

impl Instance {
    /// Starts the store, then the API server on it, then everything that lives from the API.
    ///
    /// # Errors
    /// When a part cannot start; the text names it.
    pub(crate) async fn start(start: InstanceStart, doors: Doors) -> Result<Self> {
        let (clock, entropy) = (system::clock(), system::entropy());
        let directory = SealedDirectory::open(
            &start.data_dir,
            &start.cluster.id,
            &start.instance,
            &start.data_key,
            entropy.clone(),
        )?;
        let directory = Arc::new(directory);
        let machines = Arc::new(Machines::new(&start)?);
        let kubelet_client = ClientIdentity::none();
        let (peer_tls, etcd_ca) = tokio::try_join!(
            PeerTls::of(&start, &doors.signer),
            metadata::etcd_ca(&start, doors.metadata, &doors.signer)
        )?;
        let store_client = store_client(&etcd_ca).await?;
        let shown_to_peers = Some(peer_tls.certificate.clone()).filter(|_| start.members.len() > 1);
        let name = start.instance.clone();
        let config = member_config(&start, &directory, &peer_tls)?;
        let member = tokio::task::spawn_blocking(move || Member::start(config)).await?.context("the store")?;
        let member = Arc::new(member);
        let shutdown = watch::Sender::new(false);
        let MemberListeners { client, peer } = doors.etcd;
        let mut tasks = vec![
            serve_peers(&member, peer_tls, peer, &shutdown)?,
            serve_etcd(&member, &start, &etcd_ca, client, &shutdown).await?,
        ];
        // Where there is a key, it is wiped here.
        drop(etcd_ca);
        let kubelets = (kubelet_client.clone(), machines.clone());
        let cloud = (doors.identity, doors.keys);
        let server = api_server(&start, &member, &doors.signer, cloud, kubelets).await?;
        tasks.push(run_manager(&start, &server, &doors.signer, &shutdown, &machines).await?);
        let seed = u64::from_be_bytes(entropy.bytes());
        let given = (machines.clone(), directory.clone(), kubelet_client.clone());
        let nodes = Nodes::new(&start, server.clone(), doors.signer, clock, seed, given);
        let instance = Self {
            server,
            member,
            nodes,
            shutdown,
            tasks,
            machines,
            kubelet_client,
            shown_to_peers,
            store_client,
            name,
            first_nodes: start.nodes,
            directory,
        };
        if instance.directory.has_earlier_keys() {
            instance.seal_anew();
        }
        Ok(instance)
    }

    /// Takes a new data key, and seals everything anew with it in the background.
    ///
    /// # Errors
    /// When it is no key.
    pub(crate) fn take_key(&self, key: &Secret) -> Result<()> {
        self.directory.take_key(key)?;
        self.seal_anew();
        Ok(())
    }

    fn seal_anew(&self) {
        let (directory, member) = (Arc::clone(&self.directory), Arc::clone(&self.member));
        tokio::spawn(async move {
            let whole = async {
                directory.reseal_files()?;
                ensure!(member.reseal(directory.key()).await?, "the store could not write everything");
                directory.forget_earlier_keys()
            };
            match whole.await {
                Ok(()) => info!("everything is sealed with the new data key"),
                Err(error) => warn!("the data key before is still needed: {error:#}"),
            }
        });
    }

    /// Serves one connection to the API server in a task of its own.
    pub(crate) fn serve(&self, stream: TcpStream) {
        let server = self.server.clone();
        let ready = || -> std::io::Result<(tokio::net::TcpStream, SocketAddr)> {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let remote = stream.peer_addr()?;
            Ok((stream, remote))
        };
        match ready() {
            Ok((stream, remote)) => {
                tokio::spawn(async move { server.serve_connection(stream, remote).await });
            }
            // The caller hung up between the edge and here.
            Err(error) => info!(%error, "a connection was gone before it was served"),
        }
    }

    /// Completes when the store cannot go on in this process.
    pub(crate) fn store_ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.member.ended()
    }

    /// Starts the nodes: once it is said that the API server serves, as nobody waits for them.
    pub(crate) async fn begin(&mut self) {
        self.nodes.set(std::mem::take(&mut self.first_nodes)).await;
    }

    /// Gives the cluster these nodes.
    pub(crate) async fn set_nodes(&self, nodes: Vec<NodeSpec>, machines: Vec<MachineSpec>) {
        self.machines.replace(machines);
        self.nodes.set(nodes).await;
    }

    /// The client certificates that are used here.
    pub(crate) async fn report(&self) -> Vec<UsedIdentity> {
        let used = |from: String, to: &str, certificate: CertificateDer<'_>| UsedIdentity {
            from,
            to: to.to_owned(),
            certificate: STANDARD.encode(&certificate),
        };
        let mut all = Vec::new();
        let store = self.store_client.certificate();
        all.extend(
            store.map(|shown| used(format!("API server {}", self.name), &format!("{IN_PROCESS}{}", self.name), shown)),
        );
        let kubelets = self.kubelet_client.certificate();
        all.extend(kubelets.map(|shown| used(format!("API server {}", self.name), "kubelets", shown)));
        all.extend(self.shown_to_peers.clone().map(|shown| used(format!("store {}", self.name), "store peers", shown)));
        for (name, shown) in self.nodes.certificates().await {
            let bootstrap = if name.starts_with("kubelet") { "machines before they join" } else { "" };
            let from = if bootstrap.is_empty() { format!("kubelet {name}") } else { bootstrap.to_owned() };
            all.push(used(from, "API server", shown));
        }
        all
    }

    /// Answers the fleet's metadata servers.
    pub(crate) fn answer(&self, question: NodeQuestion, end: tokio::net::UnixStream) {
        self.nodes.answer(question, end);
    }

    /// Other rules of access from the next request on.
    pub(crate) fn set_access(&self, settings: AccessSettings) {
        info!(?settings, "the rules of access have changed");
        self.server.set_access(settings);
    }

    /// Ends nodes and controllers, then the API server, then the store, which syncs.
    pub(crate) async fn stop(self) {
        self.nodes.stop().await;
        self.shutdown.send_replace(true);
        for task in self.tasks {
            if tokio::time::timeout(STOP_TIMEOUT, task).await.is_err() {
                warn!("a part of the instance did not end in time");
            }
        }
        let member = self.member;
        let _ = tokio::task::spawn_blocking(move || member.stop()).await;
    }
}

/// The store's certificate towards the other members, both ways, under the etcd peer CA.
struct PeerTls {
    certificate: CertificateDer<'static>,
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl PeerTls {
    async fn of(start: &InstanceStart, signer: &Signer) -> Result<Self> {
        let member = own_member(start)?;
        let profile = Profile::EtcdPeer { name: start.instance.clone(), ips: vec![member.peer.ip()] };
        let identity = request_identity(signer, &profile, None).await?;
        let authority = signer.certificate(Authority::EtcdPeer).await?;
        let (serving, clock) = (ServingCertificate::new(&identity)?, system::clock());
        let server = server_config(serving, ClientCertificates::Required(&authority), &[], &clock)?;
        let client = client_config(&authority, Some(&identity), &[], &clock)?;
        Ok(Self { certificate: identity.chain()[0].clone(), server, client })
    }
}

fn own_member(start: &InstanceStart) -> Result<&StoreMember> {
    start.members.get(start.member).context("the fleet did not say where the store is")
}

fn member_config(start: &InstanceStart, directory: &SealedDirectory, tls: &PeerTls) -> Result<MemberConfig> {
    let own = own_member(start)?;
    let url = |member: &StoreMember| vec![format!("https://{}", member.peer)];
    let mut config = MemberConfig::new(&start.instance, system::clock(), system::entropy());
    config.cluster_token.clone_from(&start.cluster.id);
    config.client_urls = vec![format!("https://{}", own.client)];
    config.peer_urls = url(own);
    config.initial_cluster = start.members.iter().map(|member| (member.instance.clone(), url(member))).collect();
    config.peers = Some(PeerNetwork {
        runtime: tokio::runtime::Handle::current(),
        tls: Some(Arc::clone(&tls.client)),
        source: Some(own.peer.ip()),
    });
    config.storage = Some(Storage {
        dir: directory.path().join("etcd"),
        disk: Arc::new(RealDisk),
        key: directory.key(),
        view: true,
    });
    Ok(config)
}

/// The store's peer port: mutual TLS under the etcd peer CA.
fn serve_peers(
    member: &Arc<Member>,
    tls: PeerTls,
    listener: std::net::TcpListener,
    shutdown: &watch::Sender<bool>,
) -> Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (member, stop) = (Arc::clone(member), stopped(shutdown));
    Ok(tokio::spawn(async move {
        if let Err(error) = member.serve_peers(listener, Some(tls.server), stop).await {
            error!(%error, "the store's peer port");
        }
    }))
}

/// The API server's certificate towards its member. Both are one process and no handshake tells who it is: certificate and
/// key are looked at as a handshake would, and nothing is served with one that would not do.
async fn store_client(etcd_ca: &StoreAuthority) -> Result<Arc<ClientIdentity>> {
    let identity = etcd_ca.issue(&Profile::EtcdClient { name: "kube-apiserver".to_owned() }).await?;
    ClientVerifier::new(&etcd_ca.certificate_pem(), &system::clock())?.verify(identity.chain())?;
    let client = ClientIdentity::none();
    client.replace(&identity)?;
    Ok(client)
}

/// The store's client port: mutual TLS under the etcd API CA.
async fn serve_etcd(
    member: &Arc<Member>,
    start: &InstanceStart,
    etcd_ca: &StoreAuthority,
    listener: std::net::TcpListener,
    shutdown: &watch::Sender<bool>,
) -> Result<JoinHandle<()>> {
    let profile = Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: vec![own_member(start)?.client.ip()] };
    let identity = etcd_ca.issue(&profile).await?;
    let authority = etcd_ca.certificate_pem();
    let serving = ServingCertificate::new(&identity)?;
    let clients = ClientCertificates::Required(&authority);
    let tls = server_config(serving, clients, &[b"h2", b"http/1.1"], &system::clock())?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (member, stop) = (Arc::clone(member), stopped(shutdown));
    Ok(tokio::spawn(async move {
        if let Err(error) = member.serve_clients(listener, Some(tls), stop).await {
            error!(%error, "the store's client port");
        }
    }))
}

async fn api_server(
    start: &InstanceStart,
    member: &Member,
    signer: &Signer,
    (identity, keys): (apiserver::Identity, apiserver::KeyService),
    (kubelet_client, machines): (Arc<ClientIdentity>, Arc<Machines>),
) -> Result<ApiServer> {
    let service_cidr: IpNet = start.cluster.service_cidr.parse().context("the range of Service addresses")?;
    let first = service_cidr.hosts().next().context("the range of Service addresses is empty")?;
    let (external, internal) = (start.api_address.ip(), start.internal_address.ip());
    let endpoints = [external, internal, start.private_address.into(), IpAddr::from([127, 0, 0, 1])];
    let serving = request_identity(signer, &pki::api_server_names(first, &endpoints), None).await?;
    let client_ca = signer.certificate(Authority::Cluster).await?;
    let (clock, entropy) = (system::clock(), system::entropy());
    let mut config = apiserver::Config::new(member.store(), clock, entropy, signer.clone(), serving, client_ca);
    config.front_proxy_ca = signer.certificate(Authority::Aggregation).await?;
    config.identity = identity;
    config.keys = keys;
    let tls = pki::client_config_with(&config.client_ca, kubelet_client, &[b"http/1.1"], &config.clock)?;
    config.kubelets = Some(apiserver::Kubelets { tls, find: Arc::new(move |name| machines.kubelet(name)) });
    config.access.clone_from(&start.access);
    config.git_version = format!("v{}", start.cluster.kubernetes_version);
    config.service_cidrs = vec![service_cidr];
    config.advertise_address = start.private_address.into();
    let spec = &start.cluster;
    config.feature_gates.clone_from(&spec.switches.feature_gates);
    config.runtime_config.clone_from(&spec.switches.runtime_config);
    config.issuer = gke::access::issuer(&spec.project, &spec.location, &spec.name);
    ApiServer::start(config).await.context("the API server")
}

async fn run_manager(
    start: &InstanceStart,
    server: &ApiServer,
    signer: &Signer,
    shutdown: &watch::Sender<bool>,
    machines: &Arc<Machines>,
) -> Result<JoinHandle<()>> {
    let machines = Arc::clone(machines);
    let api_server = server.clone();
    let config = ManagerConfig {
        api: Arc::new(move |user, groups| {
            let user = UserInfo {
                name: user.to_owned(),
                groups: groups.iter().map(|g| (*g).to_owned()).collect(),
                ..UserInfo::default()
            };
            Api::InProcess(InProcess::new(api_server.clone(), Caller::Verified(user)))
        }),
        controllers: true,
        scheduler: true,
        clock: system::clock(),
        seed: u64::from_be_bytes(system::entropy().bytes()),
        identity: start.instance.clone(),
        leader_election: start.members.len() > 1,
        root_ca_pem: signer.certificate(Authority::Cluster).await?,
        pod_cidr: Some(start.cluster.pod_cidr.clone()),
        sign: Some(sign(signer.clone())),
        machines: Some(Arc::new(move |question| machines.answer(&question))),
        sign_token: Some(sign_token(signer.clone())),
    };
    let stop = stopped(shutdown);
    Ok(tokio::spawn(async move {
        if let Err(error) = manager::run(config, stop).await {
            error!(%error, "controllers and scheduler");
        }
    }))
}

/// The tokens of Secrets are signed like all others.
fn sign_token(signer: Signer) -> SignTokenFn {
    Arc::new(move |claims: Value| {
        let signer = signer.clone();
        Box::pin(async move {
            let claims = serde_json::to_value(&claims).map_err(|e| e.to_string())?;
            signer.sign_jwt(claims).await.map_err(|e| e.to_string())
        })
    })
}

/// Approved requests of the CertificateSigningRequest API go to the signer: who is named is what the request says, what
/// it is good for is what the signer name says.
fn sign(signer: Signer) -> SignFn {
    Arc::new(move |request: SignRequest| {
        let signer = signer.clone();
        Box::pin(async move { sign_one(&signer, &request).await.map_err(|e| e.to_string()) })
    })
}

async fn sign_one(signer: &Signer, request: &SignRequest) -> Result<String> {
    let csr = certificate_request::der(&request.csr_pem).map_err(anyhow::Error::msg)?;
    let asked = certificate_request::parse(&request.csr_pem).map_err(anyhow::Error::msg)?;
    let approved = Approved {
        signer: match request.signer_name.as_str() {
            certificate_request::CLIENT_SIGNER => ApiSigner::Client,
            certificate_request::KUBELET_CLIENT_SIGNER => ApiSigner::KubeletClient,
            certificate_request::KUBELET_SERVING_SIGNER => ApiSigner::KubeletServing,
            other => bail!("{other} is not a signer of this cluster"),
        },
        common_name: asked.common_name,
        organizations: asked.organizations,
        dns: asked.dns,
        ips: asked.ips,
        emails: asked.emails,
        uris: asked.uris,
        key_encipherment: request.key_encipherment,
        requested_by: request.username.clone(),
    };
    let lifetime = request.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let certificate = signer.issue(&csr, &Profile::Approved(Box::new(approved)), lifetime).await?;
    Ok(pki::pem::certificate(&certificate))
}

/// Completes when the instance stops.
fn stopped(shutdown: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = shutdown.subscribe();
    async move {
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
