//! The store keeps its promises while its members are killed and frozen: clients write and read all the time through
//! every member, and afterwards everything they were told must be what one etcd can have said.

mod check;
mod network;
mod porcupine;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::Rng;
use bytes::Bytes;
use e2e::{eventually, full_tier, program, say};
use etcd::{PutRequest, RangeRequest, RemoteStore, Store, WatchRequest};
use tokio::sync::watch;

use check::{Answer, Change, Kind, Operation, check};
use network::{Network, Way};

const CLIENTS: usize = 6;
const KEYS: u64 = 5;
/// A client gives up waiting after this time and goes on with something else.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a client lets others go first when it was refused.
const BACK_OFF: Duration = Duration::from_millis(20);
/// A fault lasts for fewer operations than this, and the store is well for at least as many before the next.
const FAULT_OPERATIONS: u64 = 500;
/// How long all of it may take to be well again on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn fault_count() -> u64 {
    if full_tier() { 60 } else { 8 }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// Members are killed and frozen.
    Members,
    /// What they send to each other is held back, late or lost.
    Network,
}

/// What the clients want of a read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Linearizable,
    /// A member answers from what it has, which may be old. Some clients do nothing but read then.
    Serializable,
}

/// A store of so many members, each a process.
struct Members {
    dir: tempfile::TempDir,
    network: Option<Network>,
    /// Client and peer ports.
    ports: Vec<(u16, u16)>,
    running: Vec<Option<Child>>,
    /// All went well: nobody wants to read the log.
    is_sound: bool,
}

impl Members {
    async fn start(count: usize, faults: Faults) -> Result<Self> {
        let mut sockets = Vec::new();
        for _ in 0..2 * count {
            sockets.push(TcpListener::bind("127.0.0.1:0")?);
        }
        let ports: Vec<u16> = sockets.iter().map(|s| Ok(s.local_addr()?.port())).collect::<Result<_>>()?;
        drop(sockets);
        let ports: Vec<(u16, u16)> = ports.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let running = (0..count).map(|_| None).collect();
        let peers: Vec<u16> = ports.iter().map(|(_, peer)| *peer).collect();
        let network = match faults {
            Faults::Members => None,
            Faults::Network => Some(Network::start(&peers).await?),
        };
        let mut members = Self { dir: tempfile::tempdir()?, network, ports, running, is_sound: false };
        (0..count).try_for_each(|place| members.run(place))?;
        Ok(members)
    }

    fn run(&mut self, place: usize) -> Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peer) = self.ports[place];
        let reached = |place: usize| match &self.network {
            Some(network) => network.url(place),
            None => url(self.ports[place].1),
        };
        let cluster: Vec<String> =
            (0..self.ports.len()).map(|place| format!("{}={}", network::name(place), reached(place))).collect();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"))?;
        let child = Command::new(program())
            .args(["etcd", "--name", &network::name(place), "--initial-cluster", &cluster.join(",")])
            .arg(format!("--data-dir={}", self.dir.path().join(place.to_string()).display()))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &reached(place)])
            // Often, so that checkpoints and snapshots are part of it.
            .args(["--snapshot-count=500", "--heartbeat-interval=50", "--election-timeout=500"])
            .stderr(Stdio::from(log))
            .stdout(Stdio::null())
            .spawn()?;
        self.running[place] = Some(child);
        Ok(())
    }

    fn store(&self, place: usize) -> Result<Store> {
        let endpoint = format!("http://127.0.0.1:{}", self.ports[place % self.ports.len()].0);
        Ok(Store::Remote(RemoteStore::connect(&[endpoint], None)?))
    }

    fn kill(&mut self, place: usize) -> Result<()> {
        if let Some(mut child) = self.running[place].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn signal(&self, place: usize, signal: &str) -> Result<()> {
        let pid = self.running[place].as_ref().context("it runs")?.id().to_string();
        ensure!(Command::new("kill").args([signal, &pid]).status()?.success(), "kill {signal} {pid}");
        Ok(())
    }

    /// One fault, and its end: it lasts for as long as the clients take for some operations.
    async fn fault(&mut self, shared: &Shared, rng: &mut Rng) -> Result<()> {
        let place = usize::try_from(rng.below(self.ports.len() as u64))?;
        let pause = rng.below(FAULT_OPERATIONS);
        match &self.network {
            Some(network) => {
                disturb(network, place, self.ports.len(), rng);
                shared.more_ended(pause).await;
                network.heal();
            }
            None => self.disturb_members(place, pause, shared, rng).await?,
        }
        shared.more_answered(FAULT_OPERATIONS + rng.below(FAULT_OPERATIONS)).await
    }

    async fn disturb_members(&mut self, place: usize, pause: u64, shared: &Shared, rng: &mut Rng) -> Result<()> {
        match rng.below(4) {
            0 => {
                self.signal(place, "-STOP")?;
                shared.more_ended(pause).await;
                self.signal(place, "-CONT")?;
            }
            1 => {
                (0..self.ports.len()).try_for_each(|place| self.kill(place))?;
                (0..self.ports.len()).try_for_each(|place| self.run(place))?;
            }
            _ => {
                self.kill(place)?;
                shared.more_ended(pause).await;
                self.run(place)?;
            }
        }
        Ok(())
    }
}

/// A member is alone, hears nobody, is not heard, has lost one other, everything is slow, or all connections break.
fn disturb(network: &Network, member: usize, count: usize, rng: &mut Rng) {
    match rng.below(6) {
        0 => network.set_of(member, Way::Silent, Way::Silent),
        1 => network.set_of(member, Way::Open, Way::Silent),
        2 => network.set_of(member, Way::Silent, Way::Open),
        3 => {
            let other = (member + 1) % count;
            network.set(member, other, Way::Silent);
            network.set(other, member, Way::Silent);
        }
        4 => (0..count).for_each(|member| network.set_of(member, Way::Slow, Way::Slow)),
        _ => (0..count).for_each(|member| network.set_of(member, Way::Broken, Way::Broken)),
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.running.len()).for_each(|place| drop(self.kill(place)));
        if !self.is_sound {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            say(&log.lines().rev().take(60).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// What all clients share.
struct Shared {
    began: Instant,
    stop: AtomicBool,
    next_value: AtomicU64,
    history: Mutex<Vec<Operation>>,
    /// Operations that ended, and those of them that were answered.
    progress: watch::Sender<(u64, u64)>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: now(),
            stop: AtomicBool::new(false),
            next_value: AtomicU64::new(1),
            history: Mutex::default(),
            progress: watch::Sender::new((0, 0)),
        })
    }

    fn ended(&self, operation: Operation) {
        let answered = u64::from(operation.answer.is_some());
        self.history.lock().expect("nobody panicked").push(operation);
        self.progress.send_modify(|(ended, all)| (*ended, *all) = (*ended + 1, *all + answered));
    }

    /// Waits until the clients have done so many more operations, well or not; where all of them hang, until the first
    /// gives up.
    async fn more_ended(&self, operations: u64) {
        let target = self.progress.borrow().0 + operations;
        let mut progress = self.progress.subscribe();
        let _ = tokio::time::timeout(PATIENCE / 2, progress.wait_for(|(ended, _)| *ended >= target)).await;
    }

    /// Waits until so many more operations were answered: the store is well again.
    async fn more_answered(&self, operations: u64) -> Result<()> {
        let target = self.progress.borrow().1 + operations;
        let mut progress = self.progress.subscribe();
        let well = tokio::time::timeout(LIMIT, progress.wait_for(|(_, answered)| *answered >= target));
        well.await.context("the store is not well again")??;
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "operations are ordered by when they really were")]
fn now() -> Instant {
    Instant::now()
}

/// What one client does: it goes on until all are told to stop.
async fn client(shared: Arc<Shared>, store: Store, mut rng: Rng, reads: Reads, only_reads: bool) {
    let mut progress = shared.progress.subscribe();
    while !shared.stop.load(Ordering::Relaxed) {
        let key = format!("k{}", rng.below(KEYS));
        let kind = match !only_reads && rng.one_in(2) {
            true => Kind::Put(shared.next_value.fetch_add(1, Ordering::Relaxed)),
            false => Kind::Get,
        };
        let began = shared.began.elapsed();
        let answer = tokio::time::timeout(PATIENCE, operate(&store, &key, &kind, reads)).await;
        let ended = shared.began.elapsed();
        let answer = match answer {
            Ok(Ok((revision, found))) => Some(Answer { ended, revision, found }),
            Ok(Err(_)) => {
                // What is gone for a moment need not be asked as fast as it refuses: others go first.
                progress.mark_unchanged();
                let _ = tokio::time::timeout(BACK_OFF, progress.changed()).await;
                None
            }
            Err(_) => None,
        };
        shared.ended(Operation { began, key, kind, answer });
    }
}

/// Revision of the answer, and what a get found.
async fn operate(store: &Store, key: &str, kind: &Kind, reads: Reads) -> Result<(i64, Option<(u64, i64)>)> {
    match kind {
        Kind::Put(value) => {
            let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_string()));
            Ok((store.put(PutRequest { key, value, ..PutRequest::default() }).await?.revision, None))
        }
        Kind::Get => {
            let serializable = reads == Reads::Serializable;
            let answer = store.range(RangeRequest { serializable, ..RangeRequest::key(key.to_owned()) }).await?;
            let found = answer.kvs.first().map(|kv| anyhow::Ok((number(&kv.value)?, kv.mod_revision))).transpose()?;
            Ok((answer.revision, found))
        }
    }
}

fn number(value: &[u8]) -> Result<u64> {
    Ok(std::str::from_utf8(value)?.parse()?)
}

/// Everything that ever happened, as a member tells it.
async fn changes(store: &Store) -> Result<Vec<Change>> {
    let last = store.current_revision().await?;
    let request = WatchRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        start_revision: 1,
        ..WatchRequest::default()
    };
    let mut watch = store.watch(request).await?;
    let mut all = Vec::new();
    while all.last().is_none_or(|change: &Change| change.revision < last) && last > 1 {
        for event in watch.next().await.context("the watch ended")??.events {
            all.push(Change {
                revision: event.kv.mod_revision,
                key: String::from_utf8(event.kv.key.to_vec())?,
                value: number(&event.kv.value)?,
                version: event.kv.version,
            });
        }
    }
    Ok(all)
}

/// Lets clients and faults loose on a store; what it is then, and what the clients were told.
async fn run(count: usize, seed: u64, faults: Faults, reads: Reads) -> Result<(Members, Vec<Operation>)> {
    let mut rng = Rng::new(seed);
    let mut members = Members::start(count, faults).await?;
    let shared = Shared::new();
    let mut clients = Vec::new();
    for place in 0..CLIENTS {
        let only_reads = reads == Reads::Serializable && place >= CLIENTS / 2;
        let (store, rng) = (members.store(place)?, Rng::new(rng.next_u64()));
        clients.push(tokio::spawn(client(shared.clone(), store, rng, reads, only_reads)));
    }
    shared.more_answered(FAULT_OPERATIONS).await?;
    for _ in 0..fault_count() {
        members.fault(&shared, &mut rng).await?;
    }
    shared.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await?;
    }
    let history = std::mem::take(&mut *shared.history.lock().expect("nobody panicked"));
    Ok((members, history))
}

fn history_of(count: usize, faults: Faults, reads: Reads) -> Result<()> {
    let seed = crate::durability::seed()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let replay = || format!("PILOTHOUSE_SEED={seed}");
    let (mut members, history) = runtime.block_on(run(count, seed, faults, reads)).with_context(replay)?;
    members.is_sound = true;
    let answered = history.iter().filter(|operation| operation.answer.is_some()).count();
    // Connections are made when they are first used, by the runtime that is entered then.
    let _entered = runtime.enter();
    for place in 0..count {
        let store = members.store(place)?;
        let told = eventually(LIMIT, || runtime.block_on(changes(&store))).with_context(replay)?;
        let found = check(&history, &told);
        // One member tells what was done; the operations are judged once.
        if let Some(verdict) = if place == 0 { porcupine::judge(&history, &told)? } else { None } {
            ensure!(verdict == found.is_ok(), "porcupine says {verdict}, our checker {found:?}, {}", replay());
        }
        found.map_err(anyhow::Error::msg).with_context(|| format!("as member {place} tells it, {}", replay()))?;
    }
    say(&format!("history of {count} member(s): {} operations, {answered} answered, seed {seed}\n", history.len()));
    Ok(())
}

#[test]
fn a_single_member_is_strictly_serializable_through_kills_and_pauses() -> Result<()> {
    history_of(1, Faults::Members, Reads::Linearizable)
}

#[test]
fn three_members_are_strictly_serializable_through_kills_and_pauses() -> Result<()> {
    history_of(3, Faults::Members, Reads::Linearizable)
}

#[test]
fn three_members_are_strictly_serializable_through_a_network_that_fails() -> Result<()> {
    history_of(3, Faults::Network, Reads::Linearizable)
}

/// The check of the check: reads that ask no quorum are answered from what a cut off member had.
#[test]
fn a_store_that_answers_reads_on_its_own_is_found_out() -> Result<()> {
    let found = history_of(3, Faults::Network, Reads::Serializable).err().context("nothing was found")?;
    ensure!(format!("{found:#}").contains("time went back"), "{found:#}");
    Ok(())
}
