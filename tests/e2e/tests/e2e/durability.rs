//! Nothing acknowledged is lost, whichever processes are killed at whichever moment, and the cluster is back at once.
//!
//! Several clients write all the time. At a random moment a random choice of processes gets SIGKILL, now and then also
//! those that are just starting again. Every write leaves in a ledger what may be found afterwards: its own outcome when
//! it was acknowledged, the outcome before or after it when the answer never came.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::Rng;
use e2e::{Sandbox, eventually, full_tier, say};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::kube_rs::{client, map};

const WRITERS: usize = 4;
/// The longest time between the first write of a round and the kill.
const LIFE_MAX_US: u64 = 400_000;
/// How long a restart may take here: the machine may be busy with other tests. The aim is [`AIM`].
const LIMIT: Duration = Duration::from_secs(30);
/// kubectl's answer after a restart, in the middle of all rounds.
const AIM: Duration = Duration::from_secs(1);
/// Where the machine is busy with other things: so many times what kubectl takes of a cluster that runs.
const AIM_CALLS: u32 = 10;

/// What may be found under each name: a value of `data.n`, or nothing.
type Ledger = BTreeMap<String, BTreeSet<Option<u64>>>;

/// More in the full tier.
fn rounds() -> usize {
    if full_tier() { 50 } else { 10 }
}

/// `PILOTHOUSE_SEED`, or one that was never seen before.
pub(crate) fn seed() -> Result<u64> {
    if let Ok(text) = std::env::var("PILOTHOUSE_SEED") {
        return text.parse().context("PILOTHOUSE_SEED");
    }
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[test]
fn acknowledged_writes_survive_kill_9_at_random_moments() -> Result<()> {
    let seed = seed()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let told = runtime.block_on(kill_rounds(seed)).with_context(|| format!("PILOTHOUSE_SEED={seed}"))?;
    say(&format!("kill -9: {told}, seed {seed}\n"));
    Ok(())
}

async fn kill_rounds(seed: u64) -> Result<String> {
    let mut rng = Rng::new(seed);
    let mut sandbox = Sandbox::start()?;
    let mut ledger = Ledger::new();
    let mut returns = Vec::new();
    let mut calls = Vec::new();
    let mut acknowledged = 0;
    for round in 0..rounds() {
        let writers = Writers::start(client(&sandbox).await?, round, &mut rng);
        tokio::time::sleep(Duration::from_micros(rng.below(LIFE_MAX_US))).await;
        let killed = now();
        kill(&sandbox, &mut rng)?;
        writers.stop.store(true, Ordering::Relaxed);
        returns.push(restart(&mut sandbox, killed, &mut rng).with_context(|| format!("round {round}"))?);
        acknowledged += writers.join(&mut ledger).await?;
        check(&sandbox, &mut ledger).await.with_context(|| format!("round {round}"))?;
        let called = now();
        sandbox.kubectl(&["get", "namespace", "default"])?;
        calls.push(called.elapsed());
    }
    returns.sort_unstable();
    calls.sort_unstable();
    let (median, worst) = (returns[returns.len() / 2], returns[returns.len() - 1]);
    let told = format!(
        "{} rounds, {acknowledged} acknowledged writes, kubectl back after {median:?} (median), {worst:?} (worst)",
        returns.len()
    );
    ensure!(acknowledged > returns.len(), "hardly anything was written: {told}");
    let aim = AIM.max(calls[calls.len() / 2] * AIM_CALLS);
    ensure!(median < aim, "not within {aim:?}: {told}");
    Ok(told)
}

/// Clients that write until they are stopped or an answer does not come.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(usize, Ledger)>>,
}

impl Writers {
    fn start(client: Client, round: usize, rng: &mut Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..WRITERS)
            .map(|id| {
                let prefix = format!("w{id}-{round}");
                tokio::spawn(write(client.clone(), prefix, Rng::new(rng.next_u64()), Arc::clone(&stop)))
            })
            .collect();
        Self { stop, tasks }
    }

    /// Adds what they know to the ledger; how many writes were acknowledged.
    async fn join(self, ledger: &mut Ledger) -> Result<usize> {
        let mut acknowledged = 0;
        for task in self.tasks {
            let (count, known) = task.await?;
            acknowledged += count;
            ledger.extend(known);
        }
        Ok(acknowledged)
    }
}

/// Creates, changes and deletes objects of its own; how many writes were acknowledged, and what may be found.
async fn write(client: Client, prefix: String, mut rng: Rng, stop: Arc<AtomicBool>) -> (usize, Ledger) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut ledger = Ledger::new();
    let mut count = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let old = if rng.one_in(3) { ledger.keys().nth(rng.below(n + 1) as usize).cloned() } else { None };
        let name = old.unwrap_or_else(|| format!("{prefix}-{n}"));
        let before = ledger.get(&name).cloned().unwrap_or_else(|| BTreeSet::from([None]));
        let (outcome, answer) = if before == BTreeSet::from([None]) {
            (Some(n), api.create(&PostParams::default(), &map(&name, &n.to_string())).await.map(drop))
        } else if rng.one_in(2) {
            (None, api.delete(&name, &DeleteParams::default()).await.map(drop))
        } else {
            let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
            (Some(n), api.patch(&name, &PatchParams::default(), &patch).await.map(drop))
        };
        let mut may_be = BTreeSet::from([outcome]);
        let lost = answer.is_err();
        if lost {
            may_be.extend(before);
        }
        count += usize::from(!lost);
        ledger.insert(name, may_be);
        if lost {
            break;
        }
    }
    (count, ledger)
}

/// SIGKILL for one or more of the sandbox's processes, all at once.
fn kill(sandbox: &Sandbox, rng: &mut Rng) -> Result<()> {
    let mut victims = sandbox.processes()?;
    let all = victims.clone();
    victims.retain(|_| rng.one_in(2));
    if victims.is_empty() {
        victims = all;
    }
    let pids: Vec<String> = victims.iter().map(|(pid, _)| pid.to_string()).collect();
    // One of them may have ended by itself meanwhile: its parent is among the victims.
    std::process::Command::new("kill").arg("-9").args(&pids).stderr(std::process::Stdio::null()).status()?;
    Ok(())
}

/// Starts what does not start by itself; how long kubectl then waited for its answer.
fn restart(sandbox: &mut Sandbox, killed: Instant, rng: &mut Rng) -> Result<Duration> {
    let mut since = killed;
    if rng.one_in(4) {
        // Once more, in the middle of coming back.
        let mut up = sandbox.up_in_background()?;
        std::thread::sleep(Duration::from_micros(rng.below(LIFE_MAX_US)));
        kill(sandbox, rng)?;
        up.wait()?;
        since = now();
    }
    eventually(LIMIT, || {
        // A killed process may still be there for a moment, and an `up` whose cluster was killed ends what it started.
        if sandbox.processes()?.iter().all(|(_, role)| role != "cloud") {
            // The processes that the dead one left behind end when they see it gone.
            eventually(LIMIT, || {
                let left = sandbox.processes()?;
                ensure!(left.is_empty(), "{left:?} go on without their parent");
                Ok(())
            })?;
            since = now();
            sandbox.up(&[])?;
        }
        sandbox.kubectl(&["get", "namespace", "default"])
    })?;
    Ok(since.elapsed())
}

/// Compares what is there with what may be there; from now on it must stay.
async fn check(sandbox: &Sandbox, ledger: &mut Ledger) -> Result<()> {
    let api: Api<ConfigMap> = Api::default_namespaced(client(sandbox).await?);
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for object in api.list(&ListParams::default()).await?.items {
        if let Some(n) = object.data.as_ref().and_then(|d| d.get("n")) {
            found.insert(object.name_any(), n.parse()?);
        }
    }
    for (name, may_be) in ledger.iter_mut() {
        let value = found.remove(name);
        ensure!(may_be.contains(&value), "{name} holds {value:?}, it may hold {may_be:?}");
        *may_be = BTreeSet::from([value]);
    }
    ensure!(found.is_empty(), "nobody wrote {found:?}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "how long a person waits is real time")]
fn now() -> Instant {
    Instant::now()
}
