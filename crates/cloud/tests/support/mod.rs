//! A cloud over a fleet that makes nothing, and a client of a few lines.
#![allow(dead_code, reason = "each user takes what it needs")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Clock, ClockSource, Entropy, Timestamp};
use cloud::{Auth, Cloud, CloudConfig, ClusterAccess, ClusterSpec, EndpointSettings, Fleet, NodeSpec};
use disk::Platform;
use futures_util::future::BoxFuture;
use policy::AccessSettings;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Moves with real time from a day in 2026: the real date is of no interest here.
pub(crate) struct Wall;

impl ClockSource for Wall {
    fn now(&self) -> Timestamp {
        let text = std::fs::read_to_string("/proc/uptime").expect("Linux");
        let seconds: f64 = text.split(' ').next().and_then(|s| s.parse().ok()).expect("a number");
        Timestamp::from_unix_seconds(1_795_000_000) + Duration::from_secs_f64(seconds)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Numbers that are good enough where nothing is secret.
pub(crate) fn entropy() -> Entropy {
    Entropy::new(|buffer| {
        use std::io::Read;
        std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(buffer)).expect("urandom");
    })
}

/// Answers at once; refuses clusters named `broken`, the first time also one named `slow`.
#[derive(Default)]
pub(crate) struct FakeFleet {
    pub(crate) creations: AtomicU32,
    /// What running clusters were told of access.
    pub(crate) configured: Mutex<Vec<AccessSettings>>,
    /// And of their endpoints.
    pub(crate) exposed: Mutex<Vec<EndpointSettings>>,
    /// What the name `gke-here.gke.goog` leads to.
    pub(crate) front_end: Mutex<Option<std::net::SocketAddr>>,
    refused_slow: AtomicBool,
    /// What verifies its clusters' tokens.
    pub(crate) keys: Mutex<Option<Value>>,
}

impl Fleet for FakeFleet {
    fn create(&self, spec: ClusterSpec) -> BoxFuture<'_, Result<ClusterAccess, String>> {
        self.creations.fetch_add(1, Ordering::SeqCst);
        let refused = spec.name == "broken" || spec.name == "slow" && !self.refused_slow.swap(true, Ordering::SeqCst);
        let mut access = access();
        access.client = spec
            .client_certificate
            .then(|| gke::ClientCertificate { certificate: "the certificate".to_owned(), key: "the key".to_owned() });
        let result = if refused { Err("no machines are left".to_owned()) } else { Ok(access) };
        Box::pin(async move { result })
    }

    fn delete(&self, _: &str) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn configure(&self, _: &str, access: AccessSettings) -> BoxFuture<'_, Result<(), String>> {
        self.configured.lock().unwrap().push(access);
        Box::pin(async { Ok(()) })
    }

    fn expose(&self, _: &str, endpoints: EndpointSettings) -> BoxFuture<'_, Result<(), String>> {
        self.exposed.lock().unwrap().push(endpoints);
        Box::pin(async { Ok(()) })
    }

    fn addresses(&self, _: &str) -> Option<(String, String)> {
        Some((access().endpoint, access().private_endpoint))
    }

    fn resolve(&self, name: &str) -> Option<std::net::SocketAddr> {
        (name == "gke-here.gke.goog").then(|| *self.front_end.lock().unwrap()).flatten()
    }

    fn jwks(&self, _: &str) -> BoxFuture<'_, Result<Value, String>> {
        let keys = self.keys.lock().unwrap().clone();
        Box::pin(async move { Ok(keys.unwrap_or_else(|| serde_json::json!({"keys": [{"kid": "k"}]}))) })
    }

    fn resize(&self, _: &str, _: Vec<NodeSpec>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn access(&self, _: &str) -> BoxFuture<'_, Result<ClusterAccess, String>> {
        let slow = self.refused_slow.load(Ordering::SeqCst);
        Box::pin(async move { if slow { Ok(access()) } else { Err("unknown".to_owned()) } })
    }

    fn trouble(&self, _: &str) -> Option<String> {
        None
    }
}

fn access() -> ClusterAccess {
    ClusterAccess {
        endpoint: "127.0.0.1:18443".to_owned(),
        private_endpoint: "172.16.0.2".to_owned(),
        ca_pem: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned(),
        etcd_endpoints: Vec::new(),
        client: None,
    }
}

pub(crate) struct Running {
    pub(crate) cloud: Cloud,
    pub(crate) fleet: Arc<FakeFleet>,
    pub(crate) address: String,
    pub(crate) token: String,
}

pub(crate) async fn start(dir: &Path, auth: Auth, port: u16) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let platform = Platform::open(&dir.join("platform"), entropy()).expect("a platform");
    let fleet = Arc::new(FakeFleet::default());
    let cloud = Cloud::start(CloudConfig {
        data_dir: dir.join("cloud"),
        platform,
        clock: Clock::new(Wall),
        entropy: entropy(),
        project: "demo-project".to_owned(),
        project_number: "123456789012".to_owned(),
        account: "dev@example.com".to_owned(),
        auth,
        profile: gke::cluster::Profile::Classic,
        fleet: Arc::<FakeFleet>::clone(&fleet),
        endpoint: format!("http://{address}"),
    })
    .await
    .expect("a cloud");
    cloud.resume().await;
    let serving = cloud.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let token = cloud.issue_token("dev@example.com").expect("a token");
    Running { cloud, fleet, address, token }
}

impl Running {
    /// Status code and body of one request with the owner's token.
    pub(crate) async fn call(&self, verb: &str, path: &str, body: &str) -> (u16, Value) {
        let (code, text) = self.raw(verb, path, &format!("Authorization: Bearer {}\r\n", self.token), body).await;
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn raw(&self, verb: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let request = format!(
            "{verb} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        let text = String::from_utf8(answer).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"), body.to_owned())
    }

    /// The operation of this type, once there is one; for what the cloud begins by itself.
    pub(crate) async fn begun(&self, kind: &str) -> Value {
        for _ in 0..500 {
            let (_, list) = self.call("GET", "/v1/projects/demo-project/locations/-/operations", "").await;
            let all = list["operations"].as_array().cloned().unwrap_or_default();
            if let Some(found) = all.into_iter().find(|o| o["operationType"] == kind) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {kind}");
    }

    /// Polls an operation as gcloud does until it is done.
    pub(crate) async fn done(&self, operation: &Value) -> Value {
        let name = operation["name"].as_str().expect("an operation");
        let zone = operation["zone"].as_str().expect("a place");
        for _ in 0..500 {
            let path = format!("/v1/projects/demo-project/locations/{zone}/operations/{name}?alt=json");
            let (code, found) = self.call("GET", &path, "").await;
            assert_eq!(code, 200, "{found}");
            if found["status"] == "DONE" {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} does not end");
    }
}
