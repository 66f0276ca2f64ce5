//! A cloud over a fleet that makes nothing, for trying clients: `serve DIRECTORY PORT`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("a directory"));
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    std::fs::create_dir_all(&dir).expect("a directory");
    let running = support::start(&dir, cloud::Auth::Strict, port).await;
    std::fs::write(dir.join("token"), &running.token).expect("the token's file");
    std::fs::write(dir.join("address"), &running.address).expect("the address's file");
    tracing::info!(address = running.address, "serving");
    std::future::pending::<()>().await;
}
