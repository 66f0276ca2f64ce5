//! The metadata server of one control-plane instance. It has the key of the etcd API CA to give, so it hears its own
//! instance and nobody else: only a connection from a socket that the fleet made and handed to the instance over its
//! inherited channel is let in, and each such socket once. All others are closed at accept.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud::{Cloud, MachineClaims};
use gke::metadata::{self, Machine, Outcome, Reply, Request};
use pki::{Authority, Signer};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::{addresses, http, kube_env, machine_id};
use crate::fleet::message::{ClusterSpec, StoreMember};

/// The attribute with the bootstrap data and the key, named as on the machines of upstream's cluster/gce.
const KUBE_ENV: &str = "instance/attributes/kube-env";
/// A signer that is started again is there within this time.
const SIGNER_TIMEOUT: Duration = Duration::from_secs(5);
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What the servers of one cluster's instances share.
pub(crate) struct Shared {
    pub(crate) spec: ClusterSpec,
    pub(crate) project_number: String,
    pub(crate) members: Vec<StoreMember>,
    pub(crate) api_address: SocketAddr,
    pub(crate) private_address: String,
    /// The door to the signer that hands out the key.
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    /// Who makes tokens; nobody in a fleet without a cloud.
    pub(crate) cloud: Arc<OnceLock<Cloud>>,
}

/// One instance's server.
pub(crate) struct InstanceMetadata {
    address: SocketAddr,
    place: usize,
    shared: Arc<Shared>,
    /// Accepts until this is dropped.
    accepting: OnceLock<AbortHandle>,
    /// The socket that was handed out and has not connected yet.
    expected: Mutex<Option<SocketAddr>>,
}

impl Drop for InstanceMetadata {
    fn drop(&mut self) {
        if let Some(task) = self.accepting.get() {
            task.abort();
        }
    }
}

/// Binds a server for each instance and serves until the handles are dropped.
///
/// # Errors
/// When no address can be had.
pub(crate) fn start(directory: &Path, entropy: &Entropy, shared: Shared) -> Result<Vec<Arc<InstanceMetadata>>> {
    let shared = Arc::new(shared);
    let listeners = addresses::bind(directory, shared.members.len(), entropy)?;
    let mut all = Vec::new();
    for (place, listener) in listeners.into_iter().enumerate() {
        let address = listener.local_addr()?;
        let shared = Arc::clone(&shared);
        let (accepting, expected) = (OnceLock::new(), Mutex::default());
        let server = Arc::new(InstanceMetadata { address, place, shared, accepting, expected });
        let task = tokio::spawn(accept(tokio_listener(listener)?, Arc::downgrade(&server)));
        let _ = server.accepting.set(task.abort_handle());
        all.push(server);
    }
    Ok(all)
}

fn tokio_listener(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

async fn accept(listener: tokio::net::TcpListener, server: Weak<InstanceMetadata>) {
    loop {
        let accepted = listener.accept().await;
        let Some(server) = server.upgrade() else { return };
        match accepted {
            Ok((stream, peer)) if server.expects(peer) => {
                let handler: http::Handler = Arc::new(move |request| {
                    let server = Arc::clone(&server);
                    Box::pin(async move { server.answer(&request).await })
                });
                tokio::spawn(http::serve(stream, handler));
            }
            Ok((stream, peer)) => server.turn_away(&stream, peer),
            Err(error) => warn!(target: "metadata", %error, "cannot accept a connection"),
        }
    }
}

impl InstanceMetadata {
    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A socket for the instance to connect with, bound to the instance's own address; the one before is good no more.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn hand_out(&self) -> Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        // Not taken by another process: its address is no address that may be shared.
        socket.bind(&SocketAddr::new(self.address.ip(), 0).into())?;
        socket.set_nonblocking(true)?;
        let own = socket.local_addr()?.as_socket().context("a socket of the internet family")?;
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        Ok(socket.into())
    }

    /// Once only: the port is free for anybody when the instance closes its end.
    fn expects(&self, peer: SocketAddr) -> bool {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.take_if(|own| *own == peer).is_some()
    }

    /// As if nobody were there: reset, without a word.
    fn turn_away(&self, stream: &TcpStream, peer: SocketAddr) {
        let spec = &self.shared.spec;
        warn!(target: "metadata", cluster = spec.name, instance = self.name(), %peer,
            "refused a connection: it is not this instance's");
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }

    fn name(&self) -> &str {
        &self.shared.members[self.place].instance
    }

    async fn answer(&self, request: &Request) -> Reply {
        let own = [self.address.to_string(), self.address.ip().to_string()];
        if let Some(refusal) = metadata::guard(request, &own) {
            return refusal;
        }
        // What it says stays the same as long as its instance runs: a wait ends with its time, or with the connection.
        if let Some(wait) = metadata::waits(request)
            && self.is_known(request, wait.last_etag.as_deref()).await
        {
            match wait.timeout {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        }
        self.look(request).await
    }

    /// Has the caller what it asks for?
    async fn is_known(&self, request: &Request, etag: Option<&str>) -> bool {
        match etag {
            None => true,
            Some(etag) => self.look(request).await.etag.as_deref() == Some(etag),
        }
    }

    async fn look(&self, request: &Request) -> Reply {
        let key = if metadata::touches(request, KUBE_ENV) { Some(self.etcd_ca().await) } else { None };
        let machine = match key.transpose() {
            Ok(key) => self.machine(key.unwrap_or_default()),
            Err(error) => {
                warn!(target: "metadata", instance = self.name(), "no key to hand out: {error:#}");
                return Reply::refused(503, "Service Unavailable");
            }
        };
        match metadata::answer(&machine.tree(), request) {
            Outcome::Done(reply) => reply,
            Outcome::Token { scopes, .. } => self.token(machine.account, scopes).await,
            Outcome::Identity { audience, full, .. } => self.identity(&machine, audience, full).await,
        }
    }

    /// Certificate and key of the etcd API CA, as the bootstrap data carries them.
    async fn etcd_ca(&self) -> Result<BTreeMap<&'static str, String>> {
        let mut signer = self.shared.signer.clone();
        let there = tokio::time::timeout(SIGNER_TIMEOUT, signer.wait_for(Option::is_some)).await;
        let signer = there.context("the signer is not there")??.clone().context("the signer is not there")?;
        if self.shared.spec.user_managed.contains_key(&Authority::EtcdApi) {
            // Its key is in Certificate Authority Service, and stays there.
            let certificate = signer.certificate(Authority::EtcdApi).await?;
            return Ok(BTreeMap::from([("ETCD_APISERVER_CA_CERT", STANDARD.encode(certificate))]));
        }
        let (certificate, key) =
            tokio::try_join!(signer.certificate(Authority::EtcdApi), signer.authority_key(Authority::EtcdApi))?;
        info!(target: "metadata", cluster = self.shared.spec.name, instance = self.name(),
            "handed the key of the etcd API CA to the instance");
        Ok(BTreeMap::from([
            ("ETCD_APISERVER_CA_CERT", STANDARD.encode(certificate)),
            ("ETCD_APISERVER_CA_KEY", STANDARD.encode(key.as_bytes())),
        ]))
    }

    fn machine(&self, mut env: BTreeMap<&'static str, String>) -> Machine {
        let Shared { spec, project_number, members, api_address, private_address, .. } = &*self.shared;
        let member = |member: &StoreMember| format!("{}=https://{}", member.instance, member.peer);
        let cluster = members.iter().map(member).collect::<Vec<_>>().join(",");
        env.extend([
            ("CLUSTER_IP_RANGE", spec.pod_cidr.clone()),
            ("CLUSTER_NAME", spec.name.clone()),
            ("ETCD_NAME", self.name().to_owned()),
            ("INITIAL_ETCD_CLUSTER", cluster),
            ("KUBERNETES_MASTER", "true".to_owned()),
            ("KUBERNETES_MASTER_NAME", api_address.to_string()),
            ("PROJECT_ID", spec.project.clone()),
            ("SERVICE_CLUSTER_IP_RANGE", spec.service_cidr.clone()),
        ]);
        let attributes = [
            ("cluster-location", spec.location.clone()),
            ("cluster-name", spec.name.clone()),
            ("cluster-uid", spec.id.clone()),
            ("kube-env", kube_env(&env)),
        ];
        Machine {
            name: self.name().to_owned(),
            id: machine_id(&spec.id, self.name()),
            zone: zone(&spec.location, self.place),
            machine_type: "e2-standard-2".to_owned(),
            project: spec.project.clone(),
            project_number: project_number.clone(),
            address: private_address.clone(),
            tags: Vec::new(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value)).into(),
            account: format!("service-{project_number}@container-engine-robot.iam.gserviceaccount.com"),
            scopes: vec![SCOPE.to_owned()],
        }
    }

    async fn token(&self, account: String, scopes: Vec<String>) -> Reply {
        let Some(cloud) = self.shared.cloud.get().cloned() else { return Reply::refused(503, "Service Unavailable") };
        let scopes = if scopes.is_empty() { vec![SCOPE.to_owned()] } else { scopes };
        match tokio::task::spawn_blocking(move || cloud.machine_token(&account, scopes)).await {
            Ok(Ok((token, seconds))) => Reply::token(&token, seconds),
            other => unavailable(&other),
        }
    }

    async fn identity(&self, machine: &Machine, audience: String, full: bool) -> Reply {
        let Some(cloud) = self.shared.cloud.get().cloned() else { return Reply::refused(503, "Service Unavailable") };
        let (account, claims) = (machine.account.clone(), MachineClaims::of(machine));
        let claims = full.then_some(claims);
        match tokio::task::spawn_blocking(move || cloud.machine_identity(&account, &audience, claims)).await {
            Ok(Ok(token)) => Reply::identity(&token),
            other => unavailable(&other),
        }
    }
}

fn unavailable(why: &impl std::fmt::Debug) -> Reply {
    warn!(target: "metadata", ?why, "no token");
    Reply::refused(503, "Service Unavailable")
}

/// The zone of an instance: in a region each has one of its own.
fn zone(location: &str, place: usize) -> String {
    let zones = gke::places::zones(location);
    zones.get(place).cloned().unwrap_or_else(|| location.to_owned())
}

#[cfg(test)]
mod tests {
    use pki::{Requester, SignerCore, Vault};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use zeroize::Zeroizing;

    use super::*;

    struct Nowhere;

    impl Vault for Nowhere {
        fn load(&self, _: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
            Ok(None)
        }

        fn save(&self, _: &str, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    fn servers(directory: &Path) -> Vec<Arc<InstanceMetadata>> {
        let entropy = crate::system::entropy();
        let core = SignerCore::open("c", Arc::new(Nowhere), crate::system::clock(), entropy.clone()).unwrap();
        let (_, signer) = watch::channel(Some(Signer::InProcess(Arc::new(core), Requester::Metadata)));
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let member = |place| StoreMember { instance: format!("control-plane-{place}"), client: address, peer: address };
        let spec = ClusterSpec {
            id: "c".to_owned(),
            name: "demo".to_owned(),
            project: "p".to_owned(),
            location: "us-east1".to_owned(),
            kubernetes_version: "1.33.4-gke.1".to_owned(),
            pod_cidr: "10.4.0.0/14".to_owned(),
            service_cidr: "10.8.0.0/20".to_owned(),
            switches: crate::fleet::message::Switches::default(),
            user_managed: std::collections::BTreeMap::new(),
            user_managed_keys: cloud::UserManagedKeys::default(),
        };
        let shared = Shared {
            spec,
            project_number: "123".to_owned(),
            members: (0..3).map(member).collect(),
            api_address: address,
            private_address: "172.16.0.2".to_owned(),
            signer,
            cloud: Arc::default(),
        };
        start(directory, &entropy, shared).unwrap()
    }

    /// The whole answer; empty when the server said nothing.
    async fn ask(socket: TcpSocket, server: &InstanceMetadata, path: &str, headers: &str) -> String {
        let Ok(mut stream) = socket.connect(server.address()).await else { return String::new() };
        let request = format!("GET /computeMetadata/v1/{path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn own(server: &InstanceMetadata) -> TcpSocket {
        TcpSocket::from_std_stream(std::net::TcpStream::from(server.hand_out().unwrap()))
    }

    const GOOD: &str = "Host: metadata.google.internal\r\nMetadata-Flavor: Google\r\n";

    #[tokio::test]
    async fn the_key_goes_to_whom_the_socket_was_given_and_to_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let servers = servers(directory.path());
        let [server, other, _] = &servers[..] else { panic!("three") };
        let socket = own(server);
        let used = socket.local_addr().unwrap();
        let answer = ask(socket, server, "instance/attributes/?recursive=true", GOOD).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("ETCD_APISERVER_CA_KEY: "), "{answer}");
        assert!(answer.contains("metadata-flavor: Google") && answer.contains("server: Metadata Server for VM"));
        // The same address once more, any other, and the socket of another instance.
        let again = TcpSocket::new_v4().unwrap();
        again.set_reuseaddr(true).unwrap();
        if again.bind(used).is_ok() {
            assert_eq!(ask(again, server, "", GOOD).await, "");
        }
        let neighbour = TcpSocket::new_v4().unwrap();
        neighbour.bind(SocketAddr::new(server.address().ip(), 0)).unwrap();
        assert_eq!(ask(neighbour, server, "", GOOD).await, "");
        assert_eq!(ask(TcpSocket::new_v4().unwrap(), server, "", GOOD).await, "");
        assert_eq!(ask(own(other), server, "", GOOD).await, "");
        // One that was given in place of another is the only good one.
        let (first, second) = (own(server), own(server));
        assert_eq!(ask(first, server, "", GOOD).await, "");
        assert!(ask(second, server, "", GOOD).await.contains("instance/\n"));
    }

    #[tokio::test]
    async fn also_the_instance_itself_must_ask_rightly() {
        let directory = tempfile::tempdir().unwrap();
        let servers = servers(directory.path());
        let server = &servers[2];
        let cases = [
            ("instance/id", "Host: metadata\r\n", "403", "Missing Metadata-Flavor:Google header."),
            (
                "instance/id",
                "Host: metadata\r\nMetadata-Flavor: Google\r\nX-Forwarded-For: 1.2.3.4\r\n",
                "403",
                "X-Forwarded-For",
            ),
            ("instance/id", "Host: rebound.example\r\nMetadata-Flavor: Google\r\n", "403", "not one of this server"),
            ("instance/nothing", GOOD, "404", "was not found on this server."),
            ("instance/zone", GOOD, "200", "projects/123/zones/us-east1-d"),
            ("instance/name?wait_for_change=true&last_etag=0", GOOD, "200", "control-plane-2"),
            ("instance/name?wait_for_change=true&timeout_sec=0", GOOD, "200", "control-plane-2"),
            ("instance/attributes/?recursive=true&alt=text", GOOD, "200", "cluster-uid c\n"),
            ("instance/service-accounts/default/identity", GOOD, "400", "non-empty audience parameter required"),
            ("instance/service-accounts/default/token", GOOD, "503", "Service Unavailable"),
        ];
        for (path, headers, code, text) in cases {
            let answer = ask(own(server), server, path, headers).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(text), "{path}: {answer}");
        }
    }
}
