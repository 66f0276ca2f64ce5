//! Our controllers, scheduler and two nodes on any kube-apiserver: set `PEER_ADDRESS` (ip:port) and `PEER_CERTS`, a directory
//! with `ca.crt` and `<user>.crt`, `<user>.key` (colons as dashes) for every identity, and `PEER_SECONDS`; then drive it with
//! kubectl. `cargo run -p manager --example manager`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ClockSource, Timestamp};
use manager::{Api, HttpsClient, ManagerConfig, NodeIdentity, NodeSpec, NodesConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

struct Real(std::time::Instant);

impl ClockSource for Real {
    fn now(&self) -> Timestamp {
        let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        Timestamp::from_unix_nanos(i64::try_from(since.as_nanos()).expect("before 2262"))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn tls(certs: &str, user: &str) -> rustls::ClientConfig {
    let path = |name: &str, end: &str| Path::new(certs).join(format!("{}.{end}", name.replace(':', "-")));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path("ca", "crt")).expect("a CA")).expect("a CA");
    let chain = vec![CertificateDer::from_pem_file(path(user, "crt")).unwrap_or_else(|_| panic!("no {user}"))];
    let key = PrivateKeyDer::from_pem_file(path(user, "key")).expect("a key");
    rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).expect("they fit")
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "an example has no binary above it that owns the clock")]
async fn main() {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (address, certs) = (var("PEER_ADDRESS").parse().expect("an address"), var("PEER_CERTS"));
    let seconds: u64 = var("PEER_SECONDS").parse().expect("a number");
    let clock = Clock::new(Real(std::time::Instant::now()));
    let folder = certs.clone();
    let api = Arc::new(move |user: &str, _: &[&str]| {
        let client = HttpsClient::new(address, "127.0.0.1", &tls(&folder, user), None, None).expect("a name");
        Api::Https(client)
    });
    let config = ManagerConfig {
        api,
        controllers: true,
        scheduler: true,
        clock: clock.clone(),
        seed: 1,
        identity: "test".into(),
        leader_election: std::env::var("PEER_ELECT").is_ok(),
        root_ca_pem: "the CA".into(),
        pod_cidr: Some("10.0.0.0/14".into()),
        sign: None,
        machines: None,
        sign_token: None,
    };
    let nodes = (1..=3).map(|n| NodeSpec {
        name: format!("n{n}"),
        zone: "us-central1-a".into(),
        pool: "default-pool".into(),
        machine_type: "e2-standard-32".into(),
        internal_ip: format!("10.128.0.{n}"),
        external_ip: String::new(),
        labels: Vec::new(),
        taints: Vec::new(),
        source: None,
        kubelet: None,
        identity: NodeIdentity::Given(Arc::new(tls(&certs, &format!("system:node:n{n}")))),
        pods: manager::NodePods::default(),
    });
    let nodes = NodesConfig {
        nodes: nodes.collect(),
        api_address: address,
        api_server_name: "127.0.0.1".into(),
        clock,
        seed: 1,
        project: "p".into(),
        kubelet_version: "v1.33.5-gke.1".into(),
    };
    let end = || tokio::time::sleep(Duration::from_secs(seconds));
    let (managed, simulated) = tokio::join!(manager::run(config, end()), manager::run_nodes(nodes, end()));
    managed.expect("it ran");
    simulated.expect("they ran");
}
