//! Starting and stopping the parts of an instance in their order.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apiserver::{ApiServer, Caller};
use disk::RealDisk;
use etcd::{Member, MemberConfig, PeerNetwork, Storage};
use ipnet::IpNet;
use manager::api::InProcess;
use manager::{Api, ManagerConfig, SignFn, SignRequest};
use pki::{
    Authority, ClientCertificates, Profile, ServingCertificate, Signer, client_config, request_identity, server_config,
};
use policy::UserInfo;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::fleet::message::{InstanceStart, NodeSpec, Secret, StoreMember};
use crate::fleet::{MemberListeners, SealedDirectory};
use crate::instance::nodes::Nodes;
use crate::system;

/// An instance that does not end in this time is ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What an instance is given from outside.
pub(crate) struct Doors {
    pub(crate) signer: Signer,
    pub(crate) identity: apiserver::Identity,
    pub(crate) etcd: MemberListeners,
}

/// A running instance.
pub(crate) struct Instance {
    server: ApiServer,
    member: Arc<Member>,
    nodes: Nodes,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
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
        let peer_tls = PeerTls::of(&start, &doors.signer).await?;
        let config = member_config(&start, &directory, &peer_tls)?;
        let member = tokio::task::spawn_blocking(move || Member::start(config)).await?.context("the store")?;
        let member = Arc::new(member);
        let shutdown = watch::Sender::new(false);
        let MemberListeners { client, peer } = doors.etcd;
        let mut tasks = vec![
            serve_peers(&member, peer_tls, peer, &shutdown)?,
            serve_etcd(&member, &start, &doors.signer, client, &shutdown).await?,
        ];
        let server = api_server(&start, &member, &doors.signer, doors.identity).await?;
        tasks.push(run_manager(&start, &server, &doors.signer, &shutdown).await?);
        let seed = u64::from_be_bytes(entropy.bytes());
        let nodes = Nodes::new(&start, server.clone(), doors.signer, clock, seed);
        nodes.set(start.nodes).await;
        let instance = Self { server, member, nodes, shutdown, tasks, directory };
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

    /// Gives the cluster these nodes.
    pub(crate) async fn set_nodes(&self, nodes: Vec<NodeSpec>) {
        self.nodes.set(nodes).await;
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
        Ok(Self { server, client: client_config(&authority, Some(&identity), &[], &clock)? })
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

/// The store's client port: mutual TLS under the etcd API CA.
async fn serve_etcd(
    member: &Arc<Member>,
    start: &InstanceStart,
    signer: &Signer,
    listener: std::net::TcpListener,
    shutdown: &watch::Sender<bool>,
) -> Result<JoinHandle<()>> {
    let profile = Profile::EtcdServing { dns: vec!["localhost".to_owned()], ips: vec![own_member(start)?.client.ip()] };
    let identity = request_identity(signer, &profile, None).await?;
    let authority = signer.certificate(Authority::EtcdApi).await?;
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
    identity: apiserver::Identity,
) -> Result<ApiServer> {
    let service_cidr: IpNet = start.cluster.service_cidr.parse().context("the range of Service addresses")?;
    let first = service_cidr.hosts().next().context("the range of Service addresses is empty")?;
    let endpoints = [start.api_address.ip(), start.private_address.into(), IpAddr::from([127, 0, 0, 1])];
    let serving = request_identity(signer, &pki::api_server_names(first, &endpoints), None).await?;
    let client_ca = signer.certificate(Authority::Cluster).await?;
    let (clock, entropy) = (system::clock(), system::entropy());
    let mut config = apiserver::Config::new(member.store(), clock, entropy, signer.clone(), serving, client_ca);
    config.front_proxy_ca = signer.certificate(Authority::Aggregation).await?;
    config.identity = identity;
    config.git_version = format!("v{}", start.cluster.kubernetes_version);
    config.service_cidrs = vec![service_cidr];
    config.advertise_address = start.private_address.into();
    let spec = &start.cluster;
    config.feature_gates.clone_from(&spec.switches.feature_gates);
    config.runtime_config.clone_from(&spec.switches.runtime_config);
    config.issuer = format!(
        "https://container.googleapis.com/v1/projects/{}/locations/{}/clusters/{}",
        spec.project, spec.location, spec.name
    );
    ApiServer::start(config).await.context("the API server")
}

async fn run_manager(
    start: &InstanceStart,
    server: &ApiServer,
    signer: &Signer,
    shutdown: &watch::Sender<bool>,
) -> Result<JoinHandle<()>> {
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
    };
    let stop = stopped(shutdown);
    Ok(tokio::spawn(async move {
        if let Err(error) = manager::run(config, stop).await {
            error!(%error, "controllers and scheduler");
        }
    }))
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
    let pem = std::str::from_utf8(&request.csr_pem).context("the request is not PEM")?;
    let csr = pki::pem::signing_request(pem)?;
    let subject = pki::request_subject(&csr)?;
    let profile = if request.signer_name == "kubernetes.io/kubelet-serving" {
        let node = subject.common_name.strip_prefix("system:node:").context("not a node's name")?.to_owned();
        Profile::KubeletServing { node, dns: subject.dns, ips: subject.ips }
    } else {
        Profile::KubeClient { user: subject.common_name, groups: subject.organizations }
    };
    let lifetime = request.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let certificate = signer.issue(&csr, &profile, lifetime).await?;
    Ok(pki::pem::certificate(&certificate))
}

/// Completes when the instance stops.
fn stopped(shutdown: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = shutdown.subscribe();
    async move {
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
