//! A member behind a port, and clients of it that speak gRPC as any etcd client does.

pub(crate) mod client;
pub(crate) mod pki;

#[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic, dead_code, reason = "generated code")]
#[path = "../../src/proto/etcdserverpb.rs"]
pub(crate) mod pb;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base::{Entropy, FakeClock, Rng, Timestamp};
pub(crate) use client::Client;
use disk::{DataKey, Disk, RealDisk, SimDisk};
use etcd::{Member, MemberConfig, Storage};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What a member is made of.
pub(crate) struct Rig {
    pub(crate) clock: FakeClock,
    pub(crate) entropy: Entropy,
    storage: Option<Storage>,
}

impl Rig {
    fn new(storage: Option<(Arc<dyn Disk>, PathBuf)>, seed: u64) -> Self {
        let rng = std::sync::Mutex::new(Rng::new(seed));
        let entropy = Entropy::new(move |buffer| {
            let mut rng = rng.lock().expect("no panic while it is held");
            buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
        });
        let storage = storage.map(|(disk, dir)| {
            let key = DataKey::generate("cluster/test/instance/test", &entropy);
            let view = !dir.starts_with("/sim");
            Storage { dir, disk, key, view }
        });
        Self { clock: FakeClock::new(Timestamp::from_unix_seconds(1_000_000)), entropy, storage }
    }

    /// Its state dies with it.
    pub(crate) fn volatile(seed: u64) -> Self {
        Self::new(None, seed)
    }

    /// On a disk that can lose what was not synced.
    pub(crate) fn sim(seed: u64) -> (Self, SimDisk) {
        let disk = SimDisk::new(seed);
        (Self::new(Some((Arc::new(disk.clone()), PathBuf::from("/sim/member"))), seed), disk)
    }

    /// In a real directory.
    pub(crate) fn on_disk(dir: PathBuf, seed: u64) -> Self {
        Self::new(Some((Arc::new(RealDisk), dir)), seed)
    }

    /// Passwords are hashed at the least cost.
    pub(crate) fn config(&self) -> MemberConfig {
        let config = MemberConfig::new("test", self.clock.clock(), self.entropy.clone());
        MemberConfig { storage: self.storage.clone(), bcrypt_cost: 4, ..config }
    }
}

/// A member and its port.
pub(crate) struct Server {
    pub(crate) member: Arc<Member>,
    pub(crate) address: SocketAddr,
    client: Client,
    ports: Vec<Port>,
}

struct Port {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(config: MemberConfig) -> Self {
        let member = Arc::new(Member::start(config).expect("starts"));
        let (port, address) = serve(&member, None).await;
        let client = Client::connect(&format!("http://{address}"));
        Self { member, address, client, ports: vec![port] }
    }

    /// Serves on another port, with TLS; returns its address.
    pub(crate) async fn serve_tls(&mut self, tls: rustls::ServerConfig) -> String {
        let (port, address) = serve(&self.member, Some(Arc::new(tls))).await;
        self.ports.push(port);
        format!("https://{address}")
    }

    /// A client that says nothing about itself.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with the token of a user.
    pub(crate) async fn login(&self, name: &str, password: &str) -> Client {
        let token = self.client().authenticate(name, password).await;
        self.client().with_token(&token.unwrap_or_else(|status| panic!("{name}: {status:?}")))
    }

    pub(crate) async fn stop(self) {
        for port in self.ports {
            let _ = port.stop.send(());
            port.serving.await.expect("no panic");
        }
        self.member.stop();
    }
}

async fn serve(member: &Arc<Member>, tls: Option<Arc<rustls::ServerConfig>>) -> (Port, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let member = member.clone();
    let serving = tokio::spawn(async move {
        let shutdown = async move { drop(stopped.await) };
        member.serve_clients(listener, tls, shutdown).await.expect("served");
    });
    (Port { stop, serving }, address)
}

/// Serves the clients of a member for as long as the test lasts.
pub(crate) async fn listen_for_clients(member: &Arc<Member>) -> SocketAddr {
    let (port, address) = serve(member, None).await;
    std::mem::forget(port.stop);
    address
}
