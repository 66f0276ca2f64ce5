//! A member: configuration, start, stop.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Clock, Entropy};
use mvcc::Keyspace;
use raft::Raft;

use crate::auth::{AuthConfig, Authenticator};
use crate::engine::{Engine, Timing};
use crate::hub::lock;
use crate::journal::{Journal, Storage};
use crate::members::{Members, cluster_id, member_id};
use crate::metrics::Histogram;
use crate::peers::{Joined, PeerNetwork, Peers};
use crate::proto as pb;
use crate::recovery::{self, Beginning, Recovered};
use crate::shared::{Identity, Limits, Message, Published, Shared};
use crate::{EtcdError, LocalStore, Store, StoreError, StoreStatus, local};

/// How a member is set up. Make one with [`MemberConfig::new`] and change what differs.
#[derive(Clone)]
pub struct MemberConfig {
    /// The member's name.
    pub name: String,
    /// The cluster's id; 0 derives one from the members' peer URLs.
    pub cluster_id: u64,
    /// Name and peer URLs of each member the cluster begins with, this one among them; empty for this one alone.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// What [`crate::inquire`] found out about the cluster that this member is to join. A member that has begun already
    /// goes on with what its disk says.
    pub joined: Option<Joined>,
    /// How the other members are reached; without it there can be none.
    pub peers: Option<PeerNetwork>,
    /// Tells clusters with equal URLs apart.
    pub cluster_token: String,
    /// URLs that clients should use.
    pub client_urls: Vec<String>,
    /// URLs that other members should use.
    pub peer_urls: Vec<String>,
    /// Where the state is kept; without it the state dies with the process.
    pub storage: Option<Storage>,
    /// Dates leases, measures time-outs.
    pub clock: Clock,
    /// Lease ids, salts.
    pub entropy: Entropy,
    /// The database may grow to this size, in bytes; 0 for etcd's default of 2 GiB.
    pub quota_bytes: i64,
    /// Largest request, in bytes.
    pub request_bytes_max: usize,
    /// Most operations in a transaction.
    pub txn_ops_max: usize,
    /// Entries after which a checkpoint is due.
    pub snapshot_count: u64,
    /// Time between a leader's heartbeats: a tick of consensus.
    pub heartbeat_interval: Duration,
    /// Time without a leader before an election; also gives the smallest lease TTL.
    pub election_timeout: Duration,
    /// Whether to ask before an election, so that a returning member does not depose a leader.
    pub pre_vote: bool,
    /// Whether changes of membership that could cost the quorum are refused.
    pub strict_reconfiguration: bool,
    /// Entries kept for members that are a little behind when a checkpoint lets the others go.
    pub catch_up_entries: u64,
    /// Learners that the cluster takes at once.
    pub learners_max: usize,
    /// Whether to go on alone with what is on the disk, as the only member: when most of the others are lost for good.
    pub force_new_cluster: bool,
    /// How often what leases have left is noted in the log, so that a new leader does not begin them anew; nothing for
    /// never, which is etcd's default.
    pub lease_checkpoint_interval: Option<Duration>,
    /// About how often a watch that asked for it hears that nothing happened.
    pub watch_progress_interval: Duration,
    /// Which tokens clients get for their password, as etcd's flag `--auth-token` says it.
    pub auth_token: String,
    /// How long a simple token lives after its last use.
    pub auth_token_ttl: Duration,
    /// Cost of the hashes of new passwords, 4 to 31.
    pub bcrypt_cost: u32,
}

impl MemberConfig {
    /// etcd's defaults; the state dies with the process unless storage is given.
    pub fn new(name: impl Into<String>, clock: Clock, entropy: Entropy) -> Self {
        Self {
            name: name.into(),
            cluster_id: 0,
            initial_cluster: Vec::new(),
            joined: None,
            peers: None,
            cluster_token: "etcd-cluster".to_owned(),
            client_urls: Vec::new(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
            storage: None,
            clock,
            entropy,
            quota_bytes: 0,
            request_bytes_max: 1_572_864,
            txn_ops_max: 128,
            snapshot_count: 10_000,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            strict_reconfiguration: true,
            catch_up_entries: 5000,
            learners_max: 1,
            force_new_cluster: false,
            lease_checkpoint_interval: None,
            watch_progress_interval: Duration::from_secs(600),
            auth_token: "simple".to_owned(),
            auth_token_ttl: Duration::from_secs(300),
            bcrypt_cost: 10,
        }
    }
}

/// A running member.
pub struct Member {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Starts a member. When it returns, the member answers; the only voter leads already, others elect a leader as
    /// soon as a majority can hear one another ([`Member::serve_peers`]).
    ///
    /// # Errors
    /// When stored state or token keys cannot be read, the thread cannot be started, or this member begins and is not in its
    /// initial cluster.
    pub fn start(config: MemberConfig) -> Result<Self, EtcdError> {
        let beginning = beginning(&config);
        let recovered = match config.storage.clone() {
            Some(storage) => {
                let options = (config.snapshot_count, config.force_new_cluster);
                recovery::recover(storage, &config.entropy, &config.clock, beginning, options)?
            }
            None => volatile(&beginning?),
        };
        let consensus = consensus(&config, recovered.member_id);
        let timing = Timing {
            tick: config.heartbeat_interval,
            election_ticks: consensus.election_ticks,
            strict_reconfiguration: config.strict_reconfiguration,
            lease_checkpoints: config.lease_checkpoint_interval,
            catch_up_entries: config.catch_up_entries,
            learners_max: config.learners_max,
        };
        let raft = Raft::new(consensus, recovered.raft);
        let (inbox, receiver) = mpsc::channel();
        let ids = (recovered.cluster_id, recovered.member_id);
        let auth = AuthConfig {
            token: config.auth_token.clone(),
            token_ttl: config.auth_token_ttl,
            bcrypt_cost: config.bcrypt_cost,
        };
        let auth = Authenticator::new(&auth)?;
        let shared = Arc::new(shared(config, auth, ids, (&recovered.keyspace, recovered.journal.commits()), inbox));
        if let Some(peers) = &shared.peers {
            peers.set_members(&Arc::new(recovered.known));
        }
        let state = (recovered.members, timing);
        let mut engine = Engine::new(shared.clone(), raft, recovered.keyspace, recovered.journal, state);
        engine.begin()?;
        let thread = std::thread::Builder::new().name("etcd-state".to_owned()).spawn(move || engine.run(&receiver));
        let thread = thread.map_err(EtcdError::Thread)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// A handle for callers in this process.
    pub fn store(&self) -> Store {
        Store::Local(self.local())
    }

    pub(crate) fn local(&self) -> LocalStore {
        LocalStore { shared: self.shared.clone(), who: local::Who::Member }
    }

    /// Sizes and consensus state.
    pub fn status(&self) -> StoreStatus {
        self.local().status()
    }

    /// Completes when the state thread is gone: after [`Member::stop`], or because it panicked. Whoever runs a member
    /// ends with it, so that it is started again from the log.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.shared.ended.subscribe();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// The member's id.
    pub fn id(&self) -> u64 {
        self.shared.member_id
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether the member stopped because it was removed from its cluster.
    pub fn is_removed(&self) -> bool {
        self.shared.removed.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Gives unused space back to the disk, as `Defragment` of Maintenance. When it returns, a checkpoint covers everything
    /// that was applied before.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn defragment(&self) -> Result<(), StoreError> {
        self.local().defragment().await
    }

    /// Seals everything on disk anew with `key`, which has to open what the keys before it sealed. When it returns true, those
    /// are not needed any more; false: a part could not be written, and they are.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn reseal(&self, key: disk::DataKey) -> Result<bool, StoreError> {
        let ((journal, log_done), (view, view_done)) =
            (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
        self.shared.send(Message::Reseal { key, journal, view })?;
        let log_done = log_done.await.map_err(|_| StoreError::Stopped)?;
        // A view that was given up answers nothing.
        Ok(log_done && view_done.await.unwrap_or(false))
    }

    /// Looks at the clock again: call it after the clock was moved.
    pub fn wake(&self) {
        let _ = self.shared.send(Message::Wake);
    }

    /// Answers what is pending, closes the log, ends the state thread. Blocks until that is done.
    pub fn stop(&self) {
        let _ = self.shared.send(Message::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

fn volatile(beginning: &Beginning) -> Recovered {
    Recovered {
        cluster_id: beginning.cluster_id,
        member_id: beginning.member_id,
        keyspace: Keyspace::new(),
        members: Members::default(),
        known: beginning.known.clone(),
        raft: beginning.raft(),
        journal: Journal::Volatile,
    }
}

/// What a member with an empty disk begins with.
pub(crate) fn beginning(config: &MemberConfig) -> Result<Beginning, EtcdError> {
    if let Some(Joined { cluster_id, member_id, members }) = config.joined.clone() {
        return Ok(Beginning { cluster_id, member_id, first: Members::default(), known: members });
    }
    let alone = vec![(config.name.clone(), config.peer_urls.clone())];
    let named = if config.initial_cluster.is_empty() { &alone } else { &config.initial_cluster };
    let member = |(name, peer_urls): &(String, Vec<String>)| {
        let mut peer_ur_ls = peer_urls.clone();
        peer_ur_ls.sort_unstable();
        let client_ur_ls = if *name == config.name { config.client_urls.clone() } else { Vec::new() };
        let id = member_id(peer_urls, &config.cluster_token, None);
        pb::Member { id, name: name.clone(), peer_ur_ls, client_ur_ls, is_learner: false }
    };
    let mut first: Vec<pb::Member> = named.iter().map(member).collect();
    let me = first.iter().find(|member| member.name == config.name).map(|me| me.id);
    let me = me.ok_or_else(|| {
        let name = &config.name;
        EtcdError::Join(format!("couldn't find local name {name:?} in the initial cluster configuration"))
    })?;
    let cluster_id =
        if config.cluster_id == 0 { cluster_id(first.iter().map(|member| member.id)) } else { config.cluster_id };
    if first.len() > 1 {
        // Every member must begin with the same entries; each tells its client URLs once it runs.
        first.iter_mut().for_each(|member| member.client_ur_ls.clear());
    }
    let first = Members::of(first);
    Ok(Beginning { cluster_id, member_id: me, known: first.clone(), first })
}

fn consensus(config: &MemberConfig, id: u64) -> raft::Config {
    let ticks = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis().max(1);
    raft::Config {
        election_ticks: u32::try_from(ticks).unwrap_or(u32::MAX).max(2),
        pre_vote: config.pre_vote,
        ..raft::Config::new(id, u64::from_le_bytes(config.entropy.bytes()))
    }
}

fn shared(
    config: MemberConfig,
    auth: Authenticator,
    (cluster_id, member_id): (u64, u64),
    (keyspace, commits): (&Keyspace, Arc<Histogram>),
    inbox: mpsc::Sender<Message>,
) -> Shared {
    let election_seconds = config.election_timeout.as_secs_f64();
    let limits = Limits {
        quota_bytes: if config.quota_bytes == 0 { 2 << 30 } else { config.quota_bytes },
        request_bytes_max: config.request_bytes_max,
        txn_ops_max: config.txn_ops_max,
        lease_ttl_min: (election_seconds * 1.5).ceil() as i64,
        election_timeout: config.election_timeout,
    };
    let published = Published {
        snapshot: keyspace.snapshot(),
        term: 0,
        leader: 0,
        raft_index: 0,
        applied_index: 0,
        members: Arc::default(),
        alone: false,
        learner: false,
    };
    let name = (cluster_id, member_id, config.name.clone());
    let peers = config.peers.map(|network| Peers::new(name, network, config.clock.clone(), inbox.clone()));
    let identity = Identity {
        auth,
        cluster_id,
        member_id,
        name: config.name,
        client_urls: config.client_urls,
        peers,
        clock: config.clock,
        entropy: config.entropy,
        watch_progress_interval: config.watch_progress_interval,
        commits,
    };
    Shared::new(identity, limits, published, inbox)
}
