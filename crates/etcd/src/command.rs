//! `pilothouse etcd`: a member alone, with etcd's own flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Entropy};
use disk::{DataDir, Platform, RealDisk};

use crate::adopt::Foreign;
use crate::corruption::{Checker, Times};
use crate::error::storage;
use crate::features::Features;
use crate::flags::{Flags, kind_of};
use crate::grpc_proxy::{Asked, GrpcProxy};
use crate::journal::Storage;
use crate::listen::Url;
use crate::listeners::{hosts, listen, listen_to_peers, local_address, peer_urls, serve_clients, serve_peers};
use crate::logging::Logging;
use crate::peers::tls::PeerTls;
use crate::peers::{Joined, PeerNetwork, inquire};
use crate::restore::{self, Restore};
use crate::settings::Settings;
use crate::{EtcdError, Gateway, Member, MemberConfig, announce, compactor, config_file, discovery, member};

/// How often etcd notes what leases have left.
const LEASE_CHECKPOINT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(300);
/// etcd's longest election time-out.
const ELECTION_MILLISECONDS_MAX: i64 = 50_000;

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a member.
    Run(Box<Flags>),
    /// Carry connections to a cluster.
    Gateway(Gateway),
    /// Carry calls to a cluster.
    GrpcProxy(Box<GrpcProxy>),
    /// Print this and leave.
    Print(String),
}

/// Why a command line is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the process exits with: 2 for flags that do not exist or have not their form, 1 for what contradicts.
    pub code: i32,
    /// The reason, in etcd's words.
    pub text: String,
}

impl Refusal {
    /// Flags that each have their form, and make no sense.
    pub(crate) fn invalid(text: String) -> Self {
        Self { code: 1, text }
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self { code: 2, text }
    }
}

/// Reads etcd's command line (without the program's name) and environment, or the file that they name.
///
/// # Errors
/// As [`Flags::parse`], plus addresses and combinations that cannot be served.
pub fn command(args: Vec<OsString>, env: impl Fn(&str) -> Option<String>) -> Result<Command, Refusal> {
    if args.first().is_some_and(|first| first == "gateway") {
        return Gateway::parse(args.into_iter().skip(1).collect()).map(Command::Gateway);
    }
    if args.first().is_some_and(|first| first == "grpc-proxy") {
        return Ok(match GrpcProxy::parse(args.into_iter().skip(1).collect())? {
            Asked::Start(proxy) => Command::GrpcProxy(proxy),
            Asked::Help(text) => Command::Print(text),
        });
    }
    let mut flags = Flags::parse(args, env)?;
    if flags.is_set("help") {
        return Ok(Command::Print(Flags::usage()));
    }
    if flags.is_set("version") {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let version = crate::VERSION;
        return Ok(Command::Print(format!("etcd Version: {version}\nPilothouse's own etcd, {os}/{arch}\n")));
    }
    if flags.given("config-file") {
        let path = flags.text("config-file").to_owned();
        flags = Flags::of_file(&path, read_config(&path).map_err(Refusal::invalid)?)?;
    }
    for name in ["listen-peer-urls", "initial-advertise-peer-urls"] {
        for url in flags.list(name) {
            Url::parse(&url).map_err(|why| format!("invalid value {:?} for flag -{name}: {why}", flags.text(name)))?;
        }
    }
    Settings::new(&flags).map_err(Refusal::invalid)?;
    let features = Features::new(&flags).map_err(Refusal::invalid)?;
    Times::new(&flags, &features).map_err(Refusal::invalid)?;
    check_cluster(&flags)?;
    let (bump, mark) = (flags.number("bump-revision"), flags.is_set("mark-compacted"));
    if bump < 0 || (bump > 0) != mark {
        return Err("--mark-compacted required if --revision-bump > 0".to_owned().into());
    }
    Ok(Command::Run(Box::new(flags)))
}

/// What etcd refuses about the flags that name a cluster's members.
fn check_cluster(flags: &Flags) -> Result<(), Refusal> {
    if !matches!(flags.text("initial-cluster-state"), "new" | "existing") {
        let given = flags.text("initial-cluster-state");
        return Err(format!("invalid value {given:?} for flag -initial-cluster-state: invalid value").into());
    }
    let (heartbeat, election) = (flags.number("heartbeat-interval"), flags.number("election-timeout"));
    if heartbeat <= 0 {
        return Err(Refusal::invalid(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)")));
    }
    if election <= 0 {
        return Err(Refusal::invalid(format!("--election-timeout must be >0 (set to {election}ms)")));
    }
    if 5 * heartbeat > election {
        return Err(Refusal::invalid(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        )));
    }
    if election > ELECTION_MILLISECONDS_MAX {
        return Err(Refusal::invalid(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MILLISECONDS_MAX}ms"
        )));
    }
    let cluster = initial_cluster(flags).map_err(Refusal::invalid)?;
    let name = flags.text("name");
    let Some((_, urls)) = cluster.iter().find(|(member, _)| member == name) else {
        return Err(Refusal::invalid(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    };
    let mut advertised = flags.list("initial-advertise-peer-urls");
    advertised.sort_unstable();
    if *urls != advertised {
        return Err(Refusal::invalid(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
            urls.join(","),
            advertised.join(",")
        )));
    }
    Ok(())
}

/// Name and sorted peer URLs of each member in `--initial-cluster`; without that flag, this member alone.
fn initial_cluster(flags: &Flags) -> Result<Vec<(String, Vec<String>)>, String> {
    if !flags.given("initial-cluster") {
        let mut urls = flags.list("initial-advertise-peer-urls");
        urls.sort_unstable();
        return Ok(vec![(flags.text("name").to_owned(), urls)]);
    }
    let mut cluster: Vec<(String, Vec<String>)> = Vec::new();
    for pair in flags.list("initial-cluster") {
        let Some((name, url)) = pair.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty()) else {
            return Err(format!("error setting up initial cluster: empty URL given for {pair:?}"));
        };
        Url::parse(url).map_err(|why| format!("error setting up initial cluster: {why}"))?;
        match cluster.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url.to_owned()),
            None => cluster.push((name.to_owned(), vec![url.to_owned()])),
        }
    }
    cluster.iter_mut().for_each(|(_, urls)| urls.sort_unstable());
    Ok(cluster)
}

impl Command {
    /// How the log is to be written; the caller sets it up before it runs the command.
    pub fn logging(&self) -> Option<Logging> {
        match self {
            Self::Run(flags) => Some(Logging::new(flags)),
            Self::Gateway(_) => Some(Logging::standard()),
            Self::GrpcProxy(proxy) => Some(Logging::of_proxy(proxy.debug())),
            Self::Print(_) => None,
        }
    }
}

fn read_config(path: &str) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        _ => format!("open {path}: {error}"),
    })?;
    config_file::read(&text, kind_of)
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
    let mut flags = match command {
        Command::Run(flags) => flags,
        Command::Gateway(gateway) => return gateway.run(shutdown).await,
        Command::GrpcProxy(proxy) => return proxy.run(clock, shutdown).await,
        Command::Print(_) => return Ok(()),
    };
    for name in &flags.ignored {
        tracing::warn!(target: "etcd", flag = name, "this flag has no effect here");
    }
    announce::deprecated(&flags);
    let data_dir = data_dir(&flags);
    if flags.given("restore") {
        return restore(&flags, &data_dir, clock, entropy);
    }
    adopt(&flags, &data_dir, clock.clone(), &entropy)?;
    let peer_urls = peer_urls(&flags)?;
    let peer_tls = PeerTls::new(&flags, &data_dir, &hosts(&peer_urls), clock.now())?;
    let settings = Settings::new(&flags).map_err(EtcdError::Damaged)?;
    let listeners = listen(&settings, clock.now()).await?;
    let peer_listeners = listen_to_peers(peer_urls, peer_tls.as_ref()).await?;
    let tls = peer_tls.as_ref().map(|tls| tls.client.clone());
    let features = Features::new(&flags).map_err(EtcdError::Damaged)?;
    let source = if features.is_open("SetMemberLocalAddr") { local_address(&flags) } else { None };
    let network = PeerNetwork { runtime: tokio::runtime::Handle::current(), tls, source };
    let has_begun = data_dir.join("member").join("log").exists();
    announce::starting(&flags, &data_dir, has_begun);
    discover(&mut flags, has_begun).await?;
    let joined = join(&flags, &data_dir, &network).await?;
    let times = Times::new(&flags, &features).map_err(EtcdError::Damaged)?;
    let (member, _lock) = start(&flags, &data_dir, (clock, entropy), network.clone(), joined)?;
    let member = Arc::new(member);
    let status = member.status();
    announce::defragmentation(&flags, status.db_size, status.db_size_in_use);
    let checker = Checker::new(member.local(), network, times);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut serving = tokio::task::JoinSet::new();
    if settings.timed {
        member.shared.calls.time();
    }
    member.shared.calls.warn_after(settings.slow_call);
    serve_peers(&mut serving, &member, peer_listeners, peer_tls.as_ref(), &stopped);
    checker.initial(has_begun).await?;
    serve_clients(&mut serving, &member, listeners, &stopped);
    let mut beside = tokio::task::JoinSet::new();
    if let Some(keep) = settings.compaction {
        beside.spawn(compactor::run(member.local(), keep));
    }
    beside.spawn(checker.run());
    tokio::pin!(shutdown);
    let failed = tokio::select! {
        () = &mut shutdown => None,
        Some(Ok(Err(error))) = serving.join_next() => Some(error),
        () = member.ended() => (!member.is_removed()).then_some(EtcdError::Ended),
    };
    beside.shutdown().await;
    // Leadership is handed over while clients and members are still heard.
    let stopping = member.clone();
    let _ = tokio::task::spawn_blocking(move || stopping.stop()).await;
    let _ = stop.send(true);
    while serving.join_next().await.is_some() {}
    failed.map_or(Ok(()), Err)
}

/// Finds the other members where `--discovery-endpoints` says, if it does. A member that has begun knows them.
async fn discover(flags: &mut Flags, has_begun: bool) -> Result<(), EtcdError> {
    if flags.text("discovery-endpoints").is_empty() {
        return Ok(());
    }
    // As in etcd the token of the meeting is the cluster's.
    let token = flags.text("discovery-token").to_owned();
    if has_begun {
        tracing::warn!(target: "etcd", "discovery token ignored since cluster already initialized");
    } else {
        let cluster = discovery::meet(flags).await?;
        flags.replace("initial-cluster", cluster);
    }
    flags.replace("initial-cluster-token", token);
    Ok(())
}

/// Asks the running cluster who this member is, when it is to join one and has not begun yet.
async fn join(flags: &Flags, data_dir: &Path, network: &PeerNetwork) -> Result<Option<Joined>, EtcdError> {
    if flags.text("initial-cluster-state") != "existing" || data_dir.join("member").join("log").exists() {
        return Ok(None);
    }
    let cluster = initial_cluster(flags).map_err(EtcdError::Join)?;
    let own = flags.list("initial-advertise-peer-urls");
    let others: Vec<Vec<String>> =
        cluster.into_iter().filter(|(name, _)| name != flags.text("name")).map(|(_, urls)| urls).collect();
    inquire(network, flags.text("name"), &own, &others).await.map(Some)
}

fn data_dir(flags: &Flags) -> PathBuf {
    match flags.text("data-dir") {
        "" => PathBuf::from(format!("{}.etcd", flags.text("name"))),
        dir => PathBuf::from(dir),
    }
}

/// Makes a data directory from a snapshot; a member can then be started on it with the same flags, but for this one.
fn restore(flags: &Flags, data_dir: &Path, clock: Clock, entropy: Entropy) -> Result<(), EtcdError> {
    let restore = Restore {
        file: PathBuf::from(flags.text("restore")),
        skip_hash_check: flags.is_set("skip-hash-check"),
        bump_revision: flags.number("bump-revision"),
    };
    restore::check_empty(data_dir)?;
    let keyspace = restore.read(clock.now())?;
    let (store, _lock) = open_storage(flags, data_dir, &entropy)?;
    let beginning = member::beginning(&config(flags, None, clock, entropy.clone())?)?;
    restore::install(&store, &entropy, &beginning, &keyspace)?;
    let (revision, keys) = (keyspace.state().revision(), keyspace.state().keys_total());
    tracing::info!(target: "etcd", data_dir = %data_dir.display(), revision, keys, "restored a snapshot");
    Ok(())
}

/// Takes over a data directory of etcd's own, if this is one.
fn adopt(flags: &Flags, data_dir: &Path, clock: Clock, entropy: &Entropy) -> Result<(), EtcdError> {
    let Some(foreign) = Foreign::find(data_dir)? else { return Ok(()) };
    let shown = data_dir.display();
    let refuse = |why: &str| {
        Err(EtcdError::Snapshot(format!("{shown} is a data directory of etcd's that cannot be taken over: {why}")))
    };
    let now = clock.now();
    let beginning = member::beginning(&config(flags, None, clock, entropy.clone())?)?;
    if (foreign.member_id, foreign.cluster_id) != (beginning.member_id, beginning.cluster_id) {
        return refuse("the flags do not name its member and cluster");
    }
    let restore = Restore { file: foreign.database(), skip_hash_check: true, bump_revision: 0 };
    let (keyspace, index) = restore.read_with_index(now)?;
    if index < foreign.last_index {
        return refuse("its log is ahead of its state; start etcd on it once more and stop it");
    }
    let members = beginning.first.list().len() as u64;
    if members > 1 && foreign.last_index > members {
        return refuse("its cluster has run since it was restored; restore every member from one snapshot");
    }
    let aside = foreign.set_aside()?;
    let (store, _lock) = open_storage(flags, data_dir, entropy)?;
    restore::install(&store, entropy, &beginning, &keyspace)?;
    let revision = keyspace.state().revision();
    tracing::info!(target: "etcd", revision, kept = %aside.display(), "took over a data directory of etcd's");
    Ok(())
}

fn open_storage(flags: &Flags, data_dir: &Path, entropy: &Entropy) -> Result<(Storage, DataDir), EtcdError> {
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
    Ok((store, dir))
}

fn start(
    flags: &Flags,
    data_dir: &Path,
    (clock, entropy): (Clock, Entropy),
    network: PeerNetwork,
    joined: Option<Joined>,
) -> Result<(Member, DataDir), EtcdError> {
    let (store, dir) = open_storage(flags, data_dir, &entropy)?;
    let config = config(flags, Some(store), clock, entropy)?;
    Ok((Member::start(MemberConfig { joined, peers: Some(network), ..config })?, dir))
}

fn config(flags: &Flags, storage: Option<Storage>, clock: Clock, entropy: Entropy) -> Result<MemberConfig, EtcdError> {
    let progress = if flags.given("experimental-watch-progress-notify-interval") {
        "experimental-watch-progress-notify-interval"
    } else {
        "watch-progress-notify-interval"
    };
    let features = Features::new(flags).map_err(EtcdError::Damaged)?;
    Ok(MemberConfig {
        storage,
        cluster_token: flags.text("initial-cluster-token").to_owned(),
        client_urls: flags.list("advertise-client-urls"),
        peer_urls: flags.list("initial-advertise-peer-urls"),
        initial_cluster: initial_cluster(flags).map_err(EtcdError::Join)?,
        heartbeat_interval: milliseconds(flags, "heartbeat-interval"),
        pre_vote: flags.is_set("pre-vote"),
        strict_reconfiguration: flags.is_set("strict-reconfig-check"),
        catch_up_entries: number(flags, flags.either("snapshot-catchup-entries")),
        learners_max: usize::try_from(flags.number("max-learners")).unwrap_or(0),
        force_new_cluster: flags.is_set("force-new-cluster"),
        lease_checkpoint_interval: features.is_open("LeaseCheckpoint").then_some(LEASE_CHECKPOINT_INTERVAL),
        quota_bytes: flags.number("quota-backend-bytes"),
        request_bytes_max: usize::try_from(flags.number("max-request-bytes")).unwrap_or(0),
        txn_ops_max: usize::try_from(flags.number("max-txn-ops")).unwrap_or(0),
        snapshot_count: u64::try_from(flags.number("snapshot-count")).unwrap_or(0).max(1),
        election_timeout: milliseconds(flags, "election-timeout"),
        watch_progress_interval: flags.duration(progress).max(std::time::Duration::from_millis(100)),
        auth_token: flags.text("auth-token").to_owned(),
        auth_token_ttl: std::time::Duration::from_secs(u64::try_from(flags.number("auth-token-ttl")).unwrap_or(0)),
        bcrypt_cost: u32::try_from(flags.number("bcrypt-cost")).unwrap_or(0),
        ..MemberConfig::new(flags.text("name"), clock, entropy)
    })
}

fn number(flags: &Flags, name: &str) -> u64 {
    u64::try_from(flags.number(name)).unwrap_or(0)
}

fn milliseconds(flags: &Flags, name: &str) -> std::time::Duration {
    std::time::Duration::from_millis(flags.number(name).max(1).unsigned_abs())
}
