//! A member: configuration, start, stop.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{Clock, Entropy};
use mvcc::Keyspace;
use raft::{Membership, Raft, Restored};

use crate::engine::Engine;
use crate::hub::lock;
use crate::journal::{Journal, Storage};
use crate::recovery::{self, Recovered};
use crate::shared::{Identity, Limits, Message, Published, Shared};
use crate::{EtcdError, LocalStore, Store, StoreStatus};

/// How a member is set up. Make one with [`MemberConfig::new`] and change what differs.
#[derive(Clone)]
pub struct MemberConfig {
    /// The member's name.
    pub name: String,
    /// The cluster's id; 0 derives one from the name and peer URLs.
    pub cluster_id: u64,
    /// The member's id; 0 derives one.
    pub member_id: u64,
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
    /// Time without a leader before an election; also gives the smallest lease TTL.
    pub election_timeout: Duration,
    /// About how often a watch that asked for it hears that nothing happened.
    pub watch_progress_interval: Duration,
}

impl MemberConfig {
    /// etcd's defaults; the state dies with the process unless storage is given.
    pub fn new(name: impl Into<String>, clock: Clock, entropy: Entropy) -> Self {
        Self {
            name: name.into(),
            cluster_id: 0,
            member_id: 0,
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
            election_timeout: Duration::from_millis(1000),
            watch_progress_interval: Duration::from_secs(600),
        }
    }
}

/// A running member.
pub struct Member {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Starts a member. When it returns, the member leads and answers.
    ///
    /// # Errors
    /// When stored state cannot be read or the thread cannot be started.
    pub fn start(config: MemberConfig) -> Result<Self, EtcdError> {
        let ids = ids(&config);
        let now = config.clock.now();
        let recovered = match config.storage.clone() {
            Some(storage) => recovery::recover(storage, &config.entropy, now, ids, config.snapshot_count)?,
            None => volatile(ids),
        };
        let seed = u64::from_le_bytes(config.entropy.bytes());
        let raft = Raft::new(raft::Config::new(recovered.member_id, seed), recovered.raft);
        let (inbox, receiver) = mpsc::channel();
        let ids = (recovered.cluster_id, recovered.member_id);
        let shared = Arc::new(shared(config, ids, &recovered.keyspace, inbox));
        let mut engine = Engine::new(shared.clone(), receiver, raft, recovered.keyspace, recovered.journal);
        engine.begin()?;
        let thread = std::thread::Builder::new().name("etcd-state".to_owned()).spawn(move || engine.run());
        let thread = thread.map_err(EtcdError::Thread)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// A handle for callers in this process.
    pub fn store(&self) -> Store {
        Store::Local(self.local())
    }

    pub(crate) fn local(&self) -> LocalStore {
        LocalStore { shared: self.shared.clone() }
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

fn volatile((cluster_id, member_id): (u64, u64)) -> Recovered {
    let members = Membership { voters: [member_id].into(), ..Membership::default() };
    let raft = Restored { members, ..Restored::default() };
    Recovered { cluster_id, member_id, keyspace: Keyspace::new(), raft, journal: Journal::Volatile }
}

/// The ids etcd gives a cluster that is started with these peer URLs (`server/etcdserver/api/membership`): the first
/// eight bytes of SHA-1 over URLs and token, and over the member ids.
fn ids(config: &MemberConfig) -> (u64, u64) {
    let digest = |bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    };
    let mut urls = config.peer_urls.clone();
    urls.sort_unstable();
    let named = format!("{}{}", urls.concat(), config.cluster_token);
    let member = if config.member_id == 0 { digest(named.as_bytes()) } else { config.member_id };
    let cluster = if config.cluster_id == 0 { digest(&member.to_be_bytes()) } else { config.cluster_id };
    (cluster, member)
}

fn shared(
    config: MemberConfig,
    (cluster_id, member_id): (u64, u64),
    keyspace: &Keyspace,
    inbox: mpsc::Sender<Message>,
) -> Shared {
    let election_seconds = config.election_timeout.as_secs_f64();
    let limits = Limits {
        quota_bytes: if config.quota_bytes == 0 { 2 << 30 } else { config.quota_bytes },
        request_bytes_max: config.request_bytes_max,
        txn_ops_max: config.txn_ops_max,
        lease_ttl_min: (election_seconds * 1.5).ceil() as i64,
    };
    let published = Published { snapshot: keyspace.snapshot(), term: 0, leader: 0, raft_index: 0, applied_index: 0 };
    let identity = Identity {
        cluster_id,
        member_id,
        name: config.name,
        client_urls: config.client_urls,
        peer_urls: config.peer_urls,
        clock: config.clock,
        entropy: config.entropy,
        watch_progress_interval: config.watch_progress_interval,
    };
    Shared::new(identity, limits, published, inbox)
}
