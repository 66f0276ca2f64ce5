//! Jobs: pods until enough have succeeded; and their end of life.
//!
//! ```text
//!  pod, with the finalizer batch.kubernetes.io/job-tracking ──ends──► its uid in status.uncountedTerminatedPods
//!      ──► the finalizer goes ──► the uid goes, status.succeeded or status.failed grows
//! ```
//!
//! So each pod is counted exactly once, whoever deletes it and whenever the controller starts anew. A Job that has what it
//! needs (`SuccessCriteriaMet`) or cannot get it (`FailureTarget`) is over (`Complete`, `Failed`) when its pods are counted
//! and gone or finished.

mod backoff;
mod indexes;
mod manage;
mod policy;
mod track;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use machinery::{CompactString, Value, meta};

use crate::action::owner_key;
use crate::conditions::{int, time};
use crate::replicaset::{claim, owners};
use crate::resource::{JOBS, PODS};
use crate::world::is;
use crate::{Action, Change, Context, Controller, DeleteOptions, Key, Propagation, Watch, World, conditions, pods};
use indexes::Indexes;
use policy::Verdict;

pub(crate) static JOB: Controller = Controller {
    name: "job-controller",
    watches: &[Watch::map(&JOBS, by_job), Watch::map(&PODS, by_pod)],
    reconcile,
    settle_ms: 5,
};

pub(crate) static TTL_AFTER_FINISHED: Controller = Controller {
    name: "ttl-after-finished-controller",
    watches: &[Watch::own(&JOBS)],
    reconcile: expire,
    settle_ms: 0,
};

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

fn is_over(job: &Value) -> bool {
    conditions::is_true(job, "Complete") || conditions::is_true(job, "Failed")
}

fn is_suspended(job: &Value) -> bool {
    job["spec"]["suspend"].as_bool() == Some(true)
}

/// Does another controller look after it?
fn is_foreign(job: &Value) -> bool {
    job["spec"]["managedBy"].as_str().is_some_and(|name| name != "kubernetes.io/job-controller")
}

fn is_tracked(pod: &Value) -> bool {
    meta::finalizers(pod).any(|f| f == TRACKING)
}

/// Are pods replaced only once they have ended, rather than when they are told to?
fn replaces_only_failed(job: &Value) -> bool {
    job["spec"]["podReplacementPolicy"].as_str() == Some("Failed") || !job["spec"]["podFailurePolicy"].is_null()
}

fn is_failed(job: &Value, pod: &Value) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_only_failed(job) && meta::is_terminating(pod) && phase != "Succeeded")
}

/// A Job itself; of one that is gone or over, the pods that still wait to be counted.
fn by_job(world: &World, change: &Change) -> Vec<Key> {
    let Some(job) = change.objects().last() else { return Vec::new() };
    if change.new.is_some() && !is_over(job) {
        return vec![Key::of(&JOBS, job)];
    }
    world.owned(&PODS, meta::uid(job)).filter(|p| is_tracked(p)).map(|p| Key::of(&PODS, p)).collect()
}

/// The Jobs a pod concerns, and the pod itself when it is tracked and may have nobody who counts it.
fn by_pod(world: &World, change: &Change) -> Vec<Key> {
    let mut keys = owners(world, change, &JOBS, "Job");
    if let Some(pod) = change.new.as_ref().filter(|p| is_tracked(p) && is_orphan(world, p)) {
        keys.push(Key::of(&PODS, pod));
    }
    keys
}

fn is_orphan(world: &World, pod: &Value) -> bool {
    let job = owner_key(&JOBS, "Job", pod).and_then(|key| world.lookup(&key));
    let uid = meta::controller_of(pod).map_or("", |o| o.str_at(&["uid"]));
    job.is_none_or(|job| meta::uid(job) != uid || is_over(job))
}

/// What one look at a Job found.
struct Sync<'a> {
    cx: &'a Context<'a>,
    job: &'a Value,
    /// Its pods, those without an index last, else by index and name.
    pods: Vec<&'a Arc<Value>>,
    active: Vec<&'a Arc<Value>>,
    /// Pods whose uid waits in the status to be counted.
    uncounted: [BTreeSet<CompactString>; 2],
    /// `status.succeeded` and `status.failed`: counted for good.
    counted: [i64; 2],
    indexed: Option<Indexed>,
    /// How the Job ends, once that is decided.
    ending: Option<End>,
    status: Status,
}

/// What is different for Jobs whose pods have indexes.
struct Indexed {
    completions: i64,
    succeeded: Indexes,
    /// With a limit for each index only.
    failed: Option<Indexes>,
}

/// The numbers that pods made and deleted in this pass change.
#[derive(Default)]
struct Status {
    active: i64,
    ready: i64,
    terminating: i64,
}

/// A condition that ends the Job: type, reason and message.
type End = (&'static str, String, String);

const SUCCEEDED: usize = 0;
const FAILED: usize = 1;
const LISTS: [&str; 2] = ["succeeded", "failed"];

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    if is(&key.resource, &PODS) {
        let pod = cx.world.lookup(key).filter(|p| is_tracked(p) && is_orphan(cx.world, p));
        return pod.map(|p| Action::remove_finalizer(&PODS, p, TRACKING)).into_iter().collect();
    }
    let Some(job) = cx.world.lookup(key).filter(|j| !is_over(j) && !is_foreign(j)) else { return Vec::new() };
    let claims = claim_tracked(cx, job);
    if !claims.is_empty() {
        return claims;
    }
    let mut sync = Sync::new(cx, job);
    let mut actions = Vec::new();
    let mut end = sync.end();
    if end.is_some() {
        sync.delete_active(&mut actions);
    } else {
        if !meta::is_terminating(job) {
            sync.manage(&mut actions);
        }
        end = sync.completion();
    }
    sync.track(end, &mut actions);
    if let Some(at) = sync.deadline().filter(|at| *at > cx.now) {
        actions.push(Action::Requeue { after: at.since(cx.now) });
    }
    actions
}

/// As other controllers claim; the Job's pods carry the finalizer as long as they are its own.
fn claim_tracked(cx: &Context<'_>, job: &Value) -> Vec<Action> {
    let mut actions = claim(cx, &PODS, job, "batch/v1", "Job");
    for action in &mut actions {
        let Action::Patch { object, patch, .. } = action else { continue };
        let Some(pod) = cx.world.get(&PODS, &object.namespace, &object.name) else { continue };
        let ours = patch["metadata"]["ownerReferences"].items().iter().any(|r| r.str_at(&["uid"]) == meta::uid(job));
        let kept = meta::finalizers(pod).filter(|f| *f != TRACKING);
        let finalizers: Vec<&str> = kept.chain(ours.then_some(TRACKING)).collect();
        patch["metadata"].set("finalizers", finalizers);
    }
    actions
}

impl<'a> Sync<'a> {
    fn new(cx: &'a Context<'a>, job: &'a Value) -> Self {
        let mut pods = cx.world.controlled(&PODS, meta::uid(job));
        pods.sort_by_key(|p| indexes::of_pod(p).unwrap_or(i64::MAX));
        let active: Vec<&Arc<Value>> = pods.iter().filter(|p| pods::is_active(p)).copied().collect();
        let status = Status {
            active: active.len() as i64,
            ready: active.iter().filter(|p| pods::is_ready(p)).count() as i64,
            terminating: pods.iter().filter(|p| meta::is_terminating(p) && !pods::is_finished(p)).count() as i64,
        };
        let mut sync = Self {
            cx,
            job,
            pods,
            active,
            uncounted: Default::default(),
            counted: [0, 0],
            indexed: None,
            ending: None,
            status,
        };
        sync.read_counts();
        if job.at(&["spec", "completionMode"]).and_then(Value::as_str) == Some("Indexed") {
            sync.indexed = Some(sync.read_indexes());
        }
        sync
    }

    /// What the status has; a pod that has lost its finalizer since is counted.
    fn read_counts(&mut self) {
        for (list, name) in LISTS.iter().enumerate() {
            let noted = self.job["status"]["uncountedTerminatedPods"][*name].items();
            let noted: BTreeSet<CompactString> = noted.iter().filter_map(|u| u.as_str().map(Into::into)).collect();
            let before = noted.len() as i64;
            let tracked = |uid: &CompactString| self.pods.iter().any(|p| meta::uid(p) == uid && is_tracked(p));
            self.uncounted[list] = noted.into_iter().filter(tracked).collect();
            let settled = before - self.uncounted[list].len() as i64;
            self.counted[list] = int(self.job, &["status", name], 0) + settled;
        }
    }

    fn read_indexes(&self) -> Indexed {
        let completions = int(self.job, &["spec", "completions"], 0);
        let known = |field: &str| Indexes::parse(self.job["status"].str_at(&[field]), completions);
        let new = |wanted: &dyn Fn(&Value) -> bool| -> Indexes {
            let fits = |p: &&&Arc<Value>| is_tracked(p) && wanted(p);
            let found = self.pods.iter().filter(fits).filter_map(|p| indexes::of_pod(p));
            found.filter(|i| *i < completions).collect()
        };
        let succeeded = known("completedIndexes").union(&new(&|p| pods::phase(p) == "Succeeded"));
        let limit = self.limit_per_index();
        let failed = limit.map(|limit| known("failedIndexes").union(&new(&|p| self.gives_up_index(p, limit))));
        Indexed { completions, succeeded, failed }
    }

    fn limit_per_index(&self) -> Option<i64> {
        self.job["spec"]["backoffLimitPerIndex"].as_i64()
    }

    fn gives_up_index(&self, pod: &Value, limit: i64) -> bool {
        is_failed(self.job, pod)
            && match policy::judge(self.job, pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => manage::failures_of_index(pod).0 >= limit,
            }
    }

    /// Tracked pods that are in no list yet, of an index that is wanted.
    fn fresh(&self, list: usize) -> impl Iterator<Item = &&'a Arc<Value>> {
        let in_range = |p: &Value| match &self.indexed {
            Some(indexed) => indexes::of_pod(p).is_some_and(|i| i < indexed.completions),
            None => true,
        };
        let ended = move |p: &Value| match list {
            SUCCEEDED => pods::phase(p) == "Succeeded",
            _ => is_failed(self.job, p),
        };
        let known = move |p: &Value| self.uncounted[list].contains(meta::uid(p));
        self.pods.iter().filter(move |p| is_tracked(p) && !known(p) && in_range(p) && ended(p))
    }

    fn succeeded(&self) -> i64 {
        match &self.indexed {
            Some(indexed) => indexed.succeeded.len(),
            None => {
                self.counted[SUCCEEDED] + self.uncounted[SUCCEEDED].len() as i64 + self.fresh(SUCCEEDED).count() as i64
            }
        }
    }

    fn failed(&self) -> i64 {
        let counts = |p: &&&Arc<Value>| policy::judge(self.job, p) != Verdict::Ignore;
        let fresh = self.fresh(FAILED).filter(counts).count() as i64;
        self.counted[FAILED] + self.uncounted[FAILED].len() as i64 + fresh
    }

    fn start(&self) -> base::Timestamp {
        let resumed = !is_suspended(self.job) && conditions::is_true(self.job, "Suspended");
        time(self.job, &["status", "startTime"]).filter(|_| !resumed).unwrap_or(self.cx.now)
    }

    /// When `activeDeadlineSeconds` are over. The time of a suspended Job does not run.
    fn deadline(&self) -> Option<base::Timestamp> {
        let seconds = self.job["spec"]["activeDeadlineSeconds"].as_i64()?.max(0).unsigned_abs();
        (!is_suspended(self.job)).then(|| self.start() + Duration::from_secs(seconds))
    }

    /// Has the Job's end been decided, or is there reason to decide it now? In upstream's order.
    fn end(&self) -> Option<End> {
        let decided = |kind: &'static str| {
            let condition = conditions::of(self.job, kind).filter(|c| c.str_at(&["status"]) == "True")?;
            Some((kind, condition.str_at(&["reason"]).to_owned(), condition.str_at(&["message"]).to_owned()))
        };
        let fail = |reason: &str, message: &str| Some(("FailureTarget", reason.to_owned(), message.to_owned()));
        if let Some(end) = decided("SuccessCriteriaMet").or_else(|| decided("FailureTarget")) {
            return Some(end);
        }
        for pod in self.pods.iter().filter(|p| is_failed(self.job, p)) {
            if let Verdict::FailJob(message) = policy::judge(self.job, pod) {
                return fail("PodFailurePolicy", &message);
            }
        }
        let limit = int(self.job, &["spec", "backoffLimit"], 6);
        if self.failed() > limit || self.restarts_exceed(limit) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.deadline().is_some_and(|at| at <= self.cx.now) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        let indexed = self.indexed.as_ref()?;
        if let Some(failed) = &indexed.failed {
            let most = self.job["spec"]["maxFailedIndexes"].as_i64();
            if most.is_some_and(|most| failed.len() > most) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return fail("MaxFailedIndexesExceeded", message);
            }
            if !failed.is_empty() && failed.len() + indexed.succeeded.len() >= indexed.completions {
                return fail("FailedIndexes", "Job has failed indexes");
            }
        }
        let message = policy::success(self.job, indexed.completions, &indexed.succeeded)?;
        Some(("SuccessCriteriaMet", "SuccessPolicy".to_owned(), message))
    }

    /// Containers that restart in place count against the limit by their restarts.
    fn restarts_exceed(&self, limit: i64) -> bool {
        if self.job.at(&["spec", "template", "spec", "restartPolicy"]).and_then(Value::as_str) != Some("OnFailure") {
            return false;
        }
        let lists = ["initContainerStatuses", "containerStatuses"];
        let running = self.pods.iter().filter(|p| !pods::is_finished(p));
        let statuses = running.flat_map(|p| lists.iter().flat_map(move |l| p["status"][*l].items()));
        let restarts: i64 = statuses.map(|s| int(s, &["restartCount"], 0)).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Have all completions been reached? Only once nothing runs any more.
    fn completion(&self) -> Option<End> {
        let done = match self.job["spec"]["completions"].as_i64() {
            Some(completions) => self.succeeded() >= completions,
            None => self.succeeded() > 0,
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        (done && self.status.active == 0).then(|| ("SuccessCriteriaMet", "CompletionsReached".to_owned(), message))
    }
}

fn expire(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(job) = cx.world.lookup(key).filter(|j| is_over(j) && !meta::is_terminating(j)) else { return Vec::new() };
    let Some(seconds) = job["spec"]["ttlSecondsAfterFinished"].as_i64() else { return Vec::new() };
    let over = ["Complete", "Failed"].iter().find_map(|c| conditions::of(job, c));
    let since = over.and_then(|c| time(c, &["lastTransitionTime"])).unwrap_or(cx.now);
    let at = since + Duration::from_secs(seconds.max(0).unsigned_abs());
    if at > cx.now {
        return vec![Action::Requeue { after: at.since(cx.now) }];
    }
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    vec![Action::delete_with(&JOBS, job, options)]
}
