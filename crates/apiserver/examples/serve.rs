//! A server alone on a store in memory, for trying things by hand: `serve DIRECTORY [PORT]` writes a kubeconfig there.
#![expect(clippy::disallowed_methods, reason = "an example is its own binary: it makes the clock and the entropy")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use apiserver::{ApiServer, Config};
use base::{Clock, ClockSource, Entropy, Timestamp};
use pki::{Authority, MemoryVault, Profile, Requester, Signer, SignerCore, request_identity};
use policy::UserInfo;
use tokio::net::TcpListener;

struct Real(Instant);

impl ClockSource for Real {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info").init();
    let mut arguments = std::env::args().skip(1);
    let directory = std::path::PathBuf::from(arguments.next().ok_or("serve DIRECTORY [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(26443), |p| p.parse())?;
    let clock = Clock::new(Real(Instant::now()));
    let entropy = Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).expect("the system has randomness"));
    let core = SignerCore::open("example", Arc::new(MemoryVault::default()), clock.clone(), entropy.clone())?;
    let signer = Signer::InProcess(Arc::new(core), Requester::Instance);
    let member = etcd::Member::start(etcd::MemberConfig::new("example", clock.clone(), entropy.clone()))?;
    let ca = signer.certificate(Authority::Cluster).await?;
    let serving =
        Profile::ApiServerServing { dns: vec!["localhost".into()], ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] };
    let serving = request_identity(&signer, &serving, None).await?;
    // The signer gives nobody an administrator's certificate for an instance; a token does.
    let token = hex(&entropy.bytes::<16>());
    let user = Profile::KubeClient { user: "jane".into(), groups: vec!["dev".into()] };
    let user = request_identity(&signer, &user, None).await?;
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("jane.crt"), user.certificate_pem())?;
    std::fs::write(directory.join("jane.key"), user.key_pem().as_bytes())?;
    let shown = directory.display();
    let certificate = format!("client-certificate: {shown}/jane.crt, client-key: {shown}/jane.key");
    for (name, credentials) in [("admin", format!("token: {token}")), ("jane", certificate)] {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {shown}/ca.crt}}}}]\nusers: [{{name: u, user: {{{credentials}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(directory.join(format!("{name}.kubeconfig")), config)?;
    }
    std::fs::write(directory.join("ca.crt"), &ca)?;
    let begun = Instant::now();
    let mut config = Config::new(member.store(), clock, entropy, signer, serving, ca);
    config.set_tokens([(token, UserInfo::authenticated("admin", &["system:masters"]))].into());
    let server = ApiServer::start(config).await?;
    tracing::info!(took = ?begun.elapsed(), port, "ready");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let stopper = server.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stopper.stop();
    });
    server.serve(listener).await;
    member.stop();
    Ok(())
}
