//! A machine becomes a node of an API server over TLS, renews its certificate before it ends, and goes on under the new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, Caller, Config};
use base::{Entropy, FakeClock, Timestamp};
use machinery::{Value, json, meta};
use manager::api::{Request, WatchEvent};
use manager::{
    Api, Bootstrap, InProcess, MachineQuestion, MachineVerdict, ManagerConfig, NodeIdentity, NodeSpec, NodesConfig,
    SignRequest,
};
use pki::{
    ApiSigner, Approved, Authority, ClientIdentity, MemoryVault, Profile, Requester, Signer, SignerCore, Vault,
    request_identity,
};
use policy::UserInfo;
use registry::certificate_request;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);
const NODE: &str = "system:node:n1";

/// An API server with controllers; the first client certificate of a node is as good as over.
struct Cluster {
    server: ApiServer,
    _member: etcd::Member,
    address: SocketAddr,
    signer: Signer,
    clock: FakeClock,
    vault: Arc<MemoryVault>,
}

fn door(server: &ApiServer, user: UserInfo) -> Api {
    Api::InProcess(InProcess::new(server.clone(), Caller::Verified(user)))
}

impl Cluster {
    async fn start() -> Self {
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1_800_000_000));
        let entropy = Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap());
        let member = etcd::Member::start(etcd::MemberConfig::new("m", clock.clock(), entropy.clone())).unwrap();
        let core = SignerCore::open("c", Arc::new(MemoryVault::default()), clock.clock(), entropy.clone()).unwrap();
        let signer = Signer::InProcess(Arc::new(core), Requester::Instance);
        let serving = Profile::ApiServerServing { dns: Vec::new(), ips: vec!["127.0.0.1".parse().unwrap()] };
        let serving = request_identity(&signer, &serving, None).await.unwrap();
        let ca = signer.certificate(Authority::Cluster).await.unwrap();
        let config = Config::new(member.store(), clock.clock(), entropy, signer.clone(), serving, ca);
        let server = ApiServer::start(config).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = server.clone();
        tokio::spawn(async move { serve.serve(listener).await });
        let vault = Arc::default();
        let this = Self { server, _member: member, address, signer, clock, vault };
        for (name, role, kind, subject) in [
            ("a", "system:node-bootstrapper", "User", "kubelet"),
            ("b", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", "User", "kubelet"),
            ("c", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "Group", "system:nodes"),
            ("d", "cluster-admin", "User", "system:gcp-controller-manager"),
        ] {
            let group = "rbac.authorization.k8s.io";
            let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": name}, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": group, "kind": kind, "name": subject}]});
            let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
            this.admin().call(Request::new("POST", path, Some(binding))).await.unwrap();
        }
        this.manage().await;
        this
    }

    fn admin(&self) -> Api {
        door(&self.server, UserInfo::authenticated("admin", &["system:masters"]))
    }

    async fn manage(&self) {
        let (server, signer) = (self.server.clone(), self.signer.clone());
        let issued = Arc::new(AtomicUsize::new(0));
        let config = ManagerConfig {
            api: Arc::new(move |user, groups| door(&server, UserInfo::new(user, groups))),
            controllers: true,
            scheduler: false,
            clock: self.clock.clock(),
            seed: 1,
            identity: "m".to_owned(),
            leader_election: false,
            root_ca_pem: self.signer.certificate(Authority::Cluster).await.unwrap(),
            pod_cidr: None,
            sign: Some(Arc::new(move |request| {
                let (signer, issued) = (signer.clone(), issued.clone());
                Box::pin(async move { sign(&signer, &issued, &request).await })
            })),
            machines: Some(Arc::new(|question: MachineQuestion| {
                let asked = certificate_request::parse(&question.csr_pem).unwrap();
                if asked.dns == ["n1"] { MachineVerdict::Good } else { MachineVerdict::Bad }
            })),
            sign_token: None,
        };
        tokio::spawn(async move { manager::run(config, std::future::pending()).await.unwrap() });
    }

    async fn node(&self, kubelet: Option<SocketAddr>) -> (Arc<ClientIdentity>, tokio::task::JoinHandle<()>) {
        let client = ClientIdentity::none();
        let signer = self.signer.clone();
        let bootstrap = Bootstrap {
            secret: Arc::new(move || {
                let signer = signer.clone();
                Box::pin(async move {
                    let profile = Profile::KubeClient { user: "kubelet".to_owned(), groups: Vec::new() };
                    request_identity(&signer, &profile, None).await.map_err(|e| e.to_string())
                })
            }),
            attest: None,
            cluster_ca: self.signer.certificate(Authority::Cluster).await.unwrap(),
            client: client.clone(),
            vault: self.vault.clone(),
        };
        let spec = NodeSpec {
            name: "n1".to_owned(),
            zone: "us-central1-a".to_owned(),
            pool: "p".to_owned(),
            machine_type: "e2-medium".to_owned(),
            internal_ip: "10.128.0.2".to_owned(),
            external_ip: String::new(),
            labels: Vec::new(),
            taints: Vec::new(),
            source: None,
            kubelet,
            identity: NodeIdentity::Bootstrap(bootstrap),
            pods: manager::NodePods::default(),
        };
        let config = NodesConfig {
            nodes: vec![spec],
            api_address: self.address,
            api_server_name: "127.0.0.1".to_owned(),
            clock: self.clock.clock(),
            seed: 1,
            project: "p".to_owned(),
            kubelet_version: "v1.33.5".to_owned(),
        };
        let task = tokio::spawn(async move { manager::run_nodes(config, std::future::pending()).await.unwrap() });
        (client, task)
    }

    /// Waits until the requests are as wanted; all of them.
    async fn requests(&self, wanted: impl Fn(&[Arc<Value>]) -> bool) -> Vec<Arc<Value>> {
        let looking = async {
            loop {
                let (list, revision) = self.admin().list(REQUESTS, "").await.unwrap();
                if wanted(&list) {
                    return list;
                }
                let mut watch = self.admin().watch(REQUESTS, &format!("resourceVersion={revision}")).await.unwrap();
                // Whatever happens next is worth another look.
                while let Some(Ok(WatchEvent::Bookmark(_))) = watch.next().await {}
            }
        };
        tokio::time::timeout(LIMIT, looking).await.expect("in time")
    }
}

/// The first certificate ends right away, for whoever looks at 70 % of its life; the others live a year.
async fn sign(signer: &Signer, issued: &AtomicUsize, request: &SignRequest) -> Result<String, String> {
    let asked = certificate_request::parse(&request.csr_pem)?;
    let serving = request.signer_name == certificate_request::KUBELET_SERVING_SIGNER;
    let profile = Profile::Approved(Box::new(Approved {
        signer: if serving { ApiSigner::KubeletServing } else { ApiSigner::KubeletClient },
        common_name: asked.common_name,
        organizations: asked.organizations,
        dns: asked.dns,
        ips: asked.ips,
        emails: Vec::new(),
        uris: Vec::new(),
        key_encipherment: request.key_encipherment,
        requested_by: request.username.clone(),
    }));
    let pem = std::str::from_utf8(&request.csr_pem).map_err(|e| e.to_string())?;
    let csr = pki::pem::signing_request(pem).map_err(|e| e.to_string())?;
    let first = !serving && issued.fetch_add(1, Ordering::SeqCst) == 0;
    let issued = signer.issue(&csr, &profile, first.then_some(Duration::from_secs(30))).await;
    issued.map(|certificate| pki::pem::certificate(&certificate)).map_err(|e| e.to_string())
}

fn by(requests: &[Arc<Value>], user: &str, signer: &str) -> usize {
    let of = |request: &&Arc<Value>| {
        request.str_at(&["spec", "username"]) == user
            && request.str_at(&["spec", "signerName"]) == signer
            && !request.str_at(&["status", "certificate"]).is_empty()
    };
    requests.iter().filter(of).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_renews_in_time_and_starts_again_with_what_it_has() {
    use certificate_request::{KUBELET_CLIENT_SIGNER as CLIENT, KUBELET_SERVING_SIGNER as SERVING};
    let cluster = Cluster::start().await;
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let (client, task) = cluster.node(Some(address)).await;
    let all = cluster.requests(|all| by(all, NODE, CLIENT) == 1 && by(all, NODE, SERVING) == 1).await;
    assert_eq!(by(&all, "kubelet", CLIENT), 1, "joined with the shared credential");
    let renewal = all.iter().find(|request| {
        request.str_at(&["spec", "username"]) == NODE && request.str_at(&["spec", "signerName"]) == CLIENT
    });
    let renewal = renewal.expect("a renewal");
    assert!(meta::name(renewal).starts_with("csr-"));
    let message = renewal["status"]["conditions"][0].str_at(&["message"]);
    assert_eq!(message, "Auto approving self kubelet client certificate after SubjectAccessReview.");

    // What it shows now lives for a year, and the node is there under it.
    let year = cluster.clock.clock().now() + Duration::from_secs(300 * 24 * 60 * 60);
    let held = async {
        while client.certificate().is_none_or(|shown| pki::subject(&shown).unwrap().not_after < year) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, held).await.expect("the new certificate is shown");
    let node = cluster.admin().call(Request::get("/api/v1/nodes/n1")).await.unwrap();
    assert!(controllers::conditions::is_true(&node, "Ready"));
    let credential = pki::sha256(&client.certificate().unwrap());

    let kept = async {
        let line = pki::pem::certificate(&client.certificate().unwrap()).lines().nth(1).unwrap().to_owned();
        let stored =
            || cluster.vault.load("node-n1").unwrap().map(|file| String::from_utf8_lossy(&file).contains(&line));
        while stored() != Some(true) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, kept).await.expect("the new certificate is stored");

    // Its server shows the certificate for its own name.
    let stream = async {
        loop {
            if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                return stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let stream = tokio::time::timeout(LIMIT, stream).await.expect("the kubelet listens");
    let shown = pki::shown_by(stream, "n1").await.unwrap();
    assert_eq!(pki::subject(&shown[0]).unwrap().dns, ["n1"]);

    // Another start: the same certificate, no further request.
    task.abort();
    let before = all.len();
    let (again, _task) = cluster.node(None).await;
    let held = async {
        while again.certificate().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, held).await.expect("the stored certificate is taken");
    assert_eq!(pki::sha256(&again.certificate().unwrap()), credential);
    assert_eq!(cluster.requests(|_| true).await.len(), before);
}
