//! `pilothouse etcd`: a member alone, with etcd's own flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Entropy};
use disk::{DataDir, Platform, RealDisk};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;

use crate::error::storage;
use crate::flags::Flags;
use crate::journal::Storage;
use crate::{EtcdError, Member, MemberConfig};

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a member.
    Run(Box<Flags>),
    /// Print this and leave.
    Print(String),
}

/// Reads etcd's command line (without the program's name) and environment.
///
/// # Errors
/// As [`Flags::parse`], plus addresses and combinations that cannot be served. etcd exits with code 2 on the former.
pub fn command(args: Vec<OsString>, env: impl Fn(&str) -> Option<String>) -> Result<Command, String> {
    let flags = Flags::parse(args, env)?;
    if flags.is_set("help") {
        return Ok(Command::Print(Flags::usage()));
    }
    if flags.is_set("version") {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let version = crate::VERSION;
        return Ok(Command::Print(format!("etcd Version: {version}\nPilothouse's own etcd, {os}/{arch}\n")));
    }
    for url in flags.list("listen-client-urls") {
        address(&url)?;
    }
    if flags.given("listen-client-urls") && !flags.given("advertise-client-urls") {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
    }
    Ok(Command::Run(Box::new(flags)))
}

/// Host and port of a URL, and whether it wants TLS.
fn address(url: &str) -> Result<(String, bool), String> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("URL must start with a scheme: {url}"))?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {url}")),
    };
    let host = rest.trim_end_matches('/');
    if host.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    Ok((host.to_owned(), tls))
}

/// Runs what [`command`] read until `shutdown` is done. `Print` is the caller's business.
///
/// # Errors
/// When the data directory, a certificate or a listener cannot be used.
pub async fn run_command(
    command: Command,
    clock: Clock,
    entropy: Entropy,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), EtcdError> {
    let Command::Run(flags) = command else { return Ok(()) };
    for name in &flags.ignored {
        tracing::warn!(target: "etcd", flag = name, "this flag has no effect here");
    }
    let tls = tls(&flags)?;
    let mut listeners = Vec::new();
    for url in flags.list("listen-client-urls") {
        let (host, wants_tls) = address(&url).map_err(EtcdError::Damaged)?;
        let bound = TcpListener::bind(&host).await.map_err(|error| storage(&format!("listening on {url}"), error))?;
        listeners.push((bound, wants_tls));
    }
    let data_dir = match flags.text("data-dir") {
        "" => PathBuf::from(format!("{}.etcd", flags.text("name"))),
        dir => PathBuf::from(dir),
    };
    let (member, _lock) = start(&flags, &data_dir, clock, entropy)?;
    let member = Arc::new(member);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut serving = tokio::task::JoinSet::new();
    for (listener, wants_tls) in listeners {
        let (member, mut stopped) = (member.clone(), stopped.clone());
        let tls = if wants_tls { tls.clone() } else { None };
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        serving.spawn(async move { member.serve_clients(listener, tls, shutdown).await });
    }
    tracing::info!(target: "etcd", data_dir = %data_dir.display(), "ready to serve client requests");
    tokio::pin!(shutdown);
    let failed = tokio::select! {
        () = &mut shutdown => None,
        Some(Ok(Err(error))) = serving.join_next() => Some(error),
        () = member.ended() => Some(EtcdError::Ended),
    };
    let _ = stop.send(true);
    while serving.join_next().await.is_some() {}
    let stopping = member.clone();
    let _ = tokio::task::spawn_blocking(move || stopping.stop()).await;
    failed.map_or(Ok(()), Err)
}

fn start(flags: &Flags, data_dir: &Path, clock: Clock, entropy: Entropy) -> Result<(Member, DataDir), EtcdError> {
    let platform_dir = match flags.text("platform-dir") {
        "" => data_dir.join("platform"),
        dir => PathBuf::from(dir),
    };
    let platform = Platform::open(&platform_dir, entropy.clone());
    let platform = platform.map_err(|error| storage("opening the platform key", error))?;
    let identity = disk::Identity {
        cluster_id: flags.text("initial-cluster-token").to_owned(),
        instance_id: flags.text("name").to_owned(),
    };
    let dir = DataDir::open_or_create(&data_dir.join("member"), &identity, &platform);
    let dir = dir.map_err(|error| storage("opening the data directory", error))?;
    let store = Storage {
        dir: dir.path().to_owned(),
        disk: Arc::new(RealDisk),
        key: dir.data_key().clone(),
        view: flags.is_set("view"),
    };
    let progress = if flags.given("experimental-watch-progress-notify-interval") {
        "experimental-watch-progress-notify-interval"
    } else {
        "watch-progress-notify-interval"
    };
    let config = MemberConfig {
        storage: Some(store),
        cluster_token: flags.text("initial-cluster-token").to_owned(),
        client_urls: flags.list("advertise-client-urls"),
        peer_urls: flags.list("initial-advertise-peer-urls"),
        quota_bytes: flags.number("quota-backend-bytes"),
        request_bytes_max: usize::try_from(flags.number("max-request-bytes")).unwrap_or(0),
        txn_ops_max: usize::try_from(flags.number("max-txn-ops")).unwrap_or(0),
        snapshot_count: u64::try_from(flags.number("snapshot-count")).unwrap_or(0).max(1),
        election_timeout: std::time::Duration::from_millis(flags.number("election-timeout").max(1).unsigned_abs()),
        watch_progress_interval: flags.duration(progress).max(std::time::Duration::from_millis(100)),
        ..MemberConfig::new(flags.text("name"), clock, entropy)
    };
    Ok((Member::start(config)?, dir))
}

/// The TLS of the client port, when a certificate is given.
fn tls(flags: &Flags) -> Result<Option<Arc<rustls::ServerConfig>>, EtcdError> {
    let (cert, key) = (flags.text("cert-file"), flags.text("key-file"));
    if cert.is_empty() && key.is_empty() {
        return Ok(None);
    }
    let certificates = |path: &str| -> Result<Vec<CertificateDer<'static>>, EtcdError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        read.map_err(|error| storage(&format!("reading certificates from {path}"), error))
    };
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| storage(&format!("reading the key {key}"), error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| storage("setting up TLS", error))?;
    let builder = if flags.is_set("client-cert-auth") {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(flags.text("trusted-ca-file"))? {
            roots.add(certificate).map_err(|error| storage("reading --trusted-ca-file", error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| storage("setting up client certificates", error))?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| storage("using --cert-file", error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
