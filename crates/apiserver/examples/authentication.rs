//! How long it takes to tell who calls: `cargo run --release -p apiserver --example authentication`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "an example that measures real time and prints it"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use apiserver::Peer;
use http::{HeaderMap, HeaderValue, Method, header};
use machinery::json;
use pki::Profile;

const ROUNDS: usize = 100;
const IN_A_ROUND: u32 = 1000;

#[tokio::main]
async fn main() {
    let cluster = support::cluster().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    cluster.object(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await.unwrap();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let made = cluster.object(Method::POST, path, request).await.unwrap();
    let token = made.str_at(&["status", "token"]);
    let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
    let profile = Profile::KubeClient { user: "jane".to_owned(), groups: vec!["devs".to_owned()] };
    let chain = cluster.identity(&profile).await.chain().to_vec();
    let mut bearer = HeaderMap::new();
    bearer.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    for (what, peer, headers) in [
        ("a service-account token that was seen before", Peer::new(remote, Vec::new()), bearer),
        ("a certificate that was judged before", Peer::new(remote, chain), HeaderMap::new()),
        ("nobody in particular", Peer::new(remote, Vec::new()), HeaderMap::new()),
    ] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..IN_A_ROUND {
                let who = cluster.server.identify(black_box(&peer), "/api/v1/pods", &headers).await;
                assert!(black_box(who).is_ok());
            }
            rounds.push(began.elapsed() / IN_A_ROUND);
        }
        rounds.sort_unstable();
        let median: Duration = rounds[ROUNDS / 2];
        println!("{what}: {:.2} µs", median.as_secs_f64() * 1e6);
    }
}
