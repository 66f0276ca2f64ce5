//! How many pods a Job runs now: the missing ones are made, the surplus is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::{Value, json, meta};

use super::indexes::{self, INDEX, Indexes};
use super::policy::Verdict;
use super::{Sync, TRACKING, backoff, is_failed, is_suspended, is_tracked, policy, replaces_only_failed};
use crate::conditions::int;
use crate::resource::PODS;
use crate::{Action, pods, template};

/// The most pods made or deleted in one pass, as upstream's.
const BURST: usize = 500;
/// What the API server's generated names leave of a prefix.
const PREFIX_MAX: usize = 58;
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often pods of its index had failed when this one was made, and how often that did not count.
pub(super) fn failures_of_index(pod: &Value) -> (i64, i64) {
    let count = |key| meta::annotation(pod, key).and_then(|n| n.parse().ok()).filter(|n| *n >= 0).unwrap_or(0);
    (count(FAILURES), count(IGNORED))
}

impl<'a> Sync<'a> {
    /// Makes or deletes pods, when the Job goes on.
    pub(super) fn manage(&mut self, actions: &mut Vec<Action>) {
        if is_suspended(self.job) {
            self.remove(self.active.clone(), actions);
            return;
        }
        let parallelism = int(self.job, &["spec", "parallelism"], 1);
        let active = self.active.len() as i64;
        let wanted = match self.job["spec"]["completions"].as_i64() {
            Some(completions) => (completions - self.succeeded()).min(parallelism).max(0),
            // The first success tells that the work is done: what runs may end.
            None if self.succeeded() > 0 => active,
            None => parallelism,
        };
        let mut surplus = self.surplus((active - wanted).max(0) as usize);
        surplus.truncate(BURST);
        if !surplus.is_empty() {
            self.remove(surplus, actions);
            return;
        }
        let leaving = if replaces_only_failed(self.job) { self.status.terminating } else { 0 };
        let missing = (wanted - leaving - active).min(BURST as i64);
        if missing > 0 {
            self.create(missing, actions);
        }
    }

    /// Deletes what still runs of a Job that is at its end. The pods stay tracked: they count.
    pub(super) fn delete_active(&mut self, actions: &mut Vec<Action>) {
        for pod in self.active.clone() {
            self.delete(pod, actions);
        }
    }

    /// Deletes pods that are not to count as failed.
    fn remove(&mut self, surplus: Vec<&'a Arc<Value>>, actions: &mut Vec<Action>) {
        for pod in surplus {
            if is_tracked(pod) {
                actions.push(Action::remove_finalizer(&PODS, pod, TRACKING));
            }
            self.delete(pod, actions);
        }
    }

    fn delete(&mut self, pod: &Value, actions: &mut Vec<Action>) {
        actions.push(Action::delete(&PODS, pod));
        actions.push(Action::event(self.job, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))));
        if self.cx.failure.is_none() {
            self.status.active -= 1;
            self.status.terminating += 1;
            self.status.ready -= i64::from(pods::is_ready(pod));
        }
    }

    /// The active pods to give up: of an index all but the best, those whose index is not wanted, and at least so many.
    fn surplus(&self, at_least: usize) -> Vec<&'a Arc<Value>> {
        let order = |a: &&'a Arc<Value>, b: &&'a Arc<Value>| pods::deletion_order(a, b, |_| 0);
        let (mut gone, mut left) = (Vec::new(), self.active.clone());
        if let Some(indexed) = &self.indexed {
            left.clear();
            let mut by_index: BTreeMap<i64, Vec<&'a Arc<Value>>> = BTreeMap::new();
            for pod in &self.active {
                match indexes::of_pod(pod).filter(|i| *i < indexed.completions) {
                    Some(index) => by_index.entry(index).or_default().push(pod),
                    None => gone.push(*pod),
                }
            }
            for mut same in by_index.into_values() {
                same.sort_by(order);
                left.extend(same.pop());
                gone.append(&mut same);
            }
        }
        left.sort_by(order);
        let more = at_least.saturating_sub(gone.len());
        gone.extend(left.into_iter().take(more));
        gone
    }

    fn create(&mut self, count: i64, actions: &mut Vec<Action>) {
        let mut pause = Duration::ZERO;
        let replaced = self.awaiting_replacement();
        let mut wanted: Vec<Option<i64>> = (0..count).map(|_| None).collect();
        if self.limit_per_index().is_none() {
            pause = backoff::of_job(&self.pods, |p| is_failed(self.job, p), self.cx.now);
        }
        if let Some(indexed) = &self.indexed {
            let mut indexes = self.taken().missing(count, indexed.completions);
            if self.limit_per_index().is_some() {
                let left = |index: &i64| replaced.get(index).map_or(Duration::ZERO, |pod| self.pause_of(pod));
                let soonest = indexes.iter().map(left).min().unwrap_or_default();
                indexes.retain(|index| left(index).is_zero());
                pause = if indexes.is_empty() { soonest } else { Duration::ZERO };
            }
            wanted = indexes.into_iter().map(Some).collect();
        }
        if !pause.is_zero() {
            actions.push(Action::Requeue { after: pause });
            return;
        }
        // A write that came too late is no failed creation.
        if let Some(failure) = self.cx.failure.filter(|f| f.code != 409) {
            actions.push(Action::warning(self.job, "FailedCreate", format!("Error creating: {failure}")));
        } else {
            self.status.active += wanted.len() as i64;
        }
        for index in wanted {
            let pod = self.new_pod(index, index.and_then(|i| replaced.get(&i)).map(|p| &***p));
            actions.push(Action::create_with_event(&PODS, pod, self.job, "SuccessfulCreate", "Created pod: "));
        }
    }

    fn pause_of(&self, failed: &Value) -> Duration {
        let (counted, ignored) = failures_of_index(failed);
        backoff::remaining(counted + ignored + 1, backoff::finished_at(failed), self.cx.now)
    }

    /// Indexes that need no pod now.
    fn taken(&self) -> Indexes {
        let Some(indexed) = &self.indexed else { return Indexes::default() };
        let of = |pods: &mut dyn Iterator<Item = &&'a Arc<Value>>| -> Indexes {
            pods.filter_map(|p| indexes::of_pod(p)).collect()
        };
        let mut taken = indexed.succeeded.union(&of(&mut self.active.iter()));
        if replaces_only_failed(self.job) {
            let leaving = |p: &&&Arc<Value>| meta::is_terminating(p) && !pods::is_finished(p);
            taken = taken.union(&of(&mut self.pods.iter().filter(leaving)));
        }
        indexed.failed.iter().fold(taken, |taken, failed| taken.union(failed))
    }

    /// With a limit for each index: the failed pod of an index that is to get another one. It stays until then, as it
    /// knows how often its index has failed.
    pub(super) fn awaiting_replacement(&self) -> BTreeMap<i64, &'a Arc<Value>> {
        let mut found: BTreeMap<i64, &Arc<Value>> = BTreeMap::new();
        let (Some(indexed), Some(_)) = (&self.indexed, self.limit_per_index()) else { return found };
        let active: Indexes = self.active.iter().filter_map(|p| indexes::of_pod(p)).collect();
        let over = |i: i64| {
            active.contains(i)
                || indexed.succeeded.contains(i)
                || indexed.failed.as_ref().is_some_and(|failed| failed.contains(i))
        };
        let age = |p: &Value| {
            let (counted, ignored) = failures_of_index(p);
            (counted + ignored, backoff::finished_at(p))
        };
        for pod in self.pods.iter().filter(|p| is_tracked(p) && is_failed(self.job, p)) {
            let Some(index) = indexes::of_pod(pod).filter(|i| *i < indexed.completions && !over(*i)) else { continue };
            let held = found.entry(index).or_insert(pod);
            if age(held) <= age(pod) {
                *held = pod;
            }
        }
        found
    }

    fn new_pod(&self, index: Option<i64>, replaced: Option<&Value>) -> Value {
        let job = self.job;
        let mut pod = template::pod(&job["spec"]["template"], job, "batch/v1", "Job");
        let mut finalizers: Vec<&str> = meta::finalizers(&job["spec"]["template"]).collect();
        if !finalizers.contains(&TRACKING) {
            finalizers.push(TRACKING);
        }
        pod["metadata"].set("finalizers", finalizers);
        let Some(index) = index else { return pod };
        let suffix = format!("-{index}-");
        let mut prefix = meta::name(job).to_owned();
        prefix.truncate(PREFIX_MAX - suffix.len());
        pod["metadata"].set("generateName", prefix + &suffix);
        for part in ["labels", "annotations"] {
            template::add_label(&mut pod, &["metadata", part], INDEX, &index.to_string());
        }
        pod["spec"].set("hostname", format!("{}-{index}", meta::name(job)));
        for list in ["initContainers", "containers"] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            containers.into_iter().flatten().for_each(tell_index);
        }
        if self.limit_per_index().is_some() {
            let (mut counted, mut ignored) = replaced.map_or((0, 0), failures_of_index);
            match replaced.map(|p| policy::judge(job, p)) {
                None => {}
                Some(Verdict::Ignore) => ignored += 1,
                Some(_) => counted += 1,
            }
            let annotations = &mut pod["metadata"]["annotations"];
            annotations.set(FAILURES, counted.to_string());
            if ignored > 0 {
                annotations.set(IGNORED, ignored.to_string());
            }
        }
        pod
    }
}

/// Gives a container the variable `JOB_COMPLETION_INDEX`, unless it has one.
fn tell_index(container: &mut Value) {
    let mut env = container["env"].items().to_vec();
    if env.iter().any(|v| v.str_at(&["name"]) == "JOB_COMPLETION_INDEX") {
        return;
    }
    let path = format!("metadata.labels['{INDEX}']");
    env.push(json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    container.set("env", env);
}
