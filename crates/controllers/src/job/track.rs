//! Counting: what ended is noted in the status, then set free, then counted.

use std::sync::Arc;

use machinery::{Value, json, meta};

use super::policy::Verdict;
use super::{End, FAILED, LISTS, SUCCEEDED, Sync, TRACKING, indexes, is_failed, is_suspended, is_tracked, policy};
use crate::resource::{JOBS, PODS};
use crate::{Action, conditions, pods, template};

/// The most pods noted at once, so that a status stays small.
const UNCOUNTED_MAX: usize = 500;

impl<'a> Sync<'a> {
    /// Writes the status, when it differs, and sets free the pods that it notes. A write that failed is told before other
    /// things are tried again.
    pub(super) fn track(&mut self, end: Option<End>, actions: &mut Vec<Action>) {
        let freed = self.note(end.as_ref());
        let uncounted = self.uncounted.iter().any(|list| !list.is_empty());
        let finished = end.filter(|_| freed.is_empty() && !uncounted && self.status.terminating <= 0);
        let (status, told) = self.new_status(finished.as_ref());
        if !template::equal(&status, &self.job["status"]) {
            let mut object = self.job.clone();
            object.set("status", status);
            let at = if self.cx.failure.is_some() { 0 } else { actions.len() };
            actions.insert(at, Action::update_status(&JOBS, object));
            actions.extend(told);
        }
        actions.extend(freed.into_iter().map(|pod| Action::remove_finalizer(&PODS, pod, TRACKING)));
    }

    /// Notes what has ended, and the Job's end itself; gives the pods that may lose their finalizer once that is written.
    fn note(&mut self, end: Option<&End>) -> Vec<&'a Arc<Value>> {
        let (job, mut freed, mut noted) = (self.job, Vec::new(), 0);
        self.ending = end.cloned();
        let awaiting = self.awaiting_replacement();
        for pod in self.pods.clone().into_iter().filter(|p| is_tracked(p)) {
            let (succeeded, failed) = (pods::phase(pod) == "Succeeded", is_failed(job, pod));
            let index = indexes::of_pod(pod);
            let waits = || index.and_then(|i| awaiting.get(&i)).is_some_and(|held| meta::uid(held) == meta::uid(pod));
            if !(meta::is_terminating(job) || end.is_some() || succeeded || (failed && !waits())) {
                continue;
            }
            freed.push(pod);
            let wanted = self.indexed.as_ref().is_none_or(|all| index.is_some_and(|i| i < all.completions));
            let known = self.uncounted[FAILED].contains(meta::uid(pod));
            // Of a Job that fails, everything that has not succeeded has failed.
            let fails = failed || end.is_some_and(|(kind, ..)| *kind != "SuccessCriteriaMet");
            if succeeded && !known {
                // An index in the status is enough to count an indexed pod once.
                if self.indexed.is_none() {
                    self.uncounted[SUCCEEDED].insert(meta::uid(pod).into());
                }
                noted += 1;
            } else if fails && wanted && !known && policy::judge(job, pod) != Verdict::Ignore {
                self.uncounted[FAILED].insert(meta::uid(pod).into());
                noted += 1;
            }
            if noted >= UNCOUNTED_MAX {
                break;
            }
        }
        freed
    }

    fn new_status(&self, finished: Option<&End>) -> (Value, Vec<Action>) {
        let (job, now) = (self.job, self.cx.now);
        let old = &job["status"];
        let mut status = json!({"ready": self.status.ready, "terminating": self.status.terminating.max(0)});
        let counted = [("active", self.status.active), ("succeeded", self.total()), ("failed", self.counted[FAILED])];
        for (field, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            status.set(field, count);
        }
        let mut uncounted = Value::object();
        for (list, name) in LISTS.iter().enumerate().filter(|(list, _)| !self.uncounted[*list].is_empty()) {
            let uids: Vec<&str> = self.uncounted[list].iter().map(|uid| uid.as_str()).collect();
            uncounted.set(name, uids);
        }
        status.set("uncountedTerminatedPods", uncounted);
        if let Some(indexed) = &self.indexed {
            if !indexed.succeeded.is_empty() {
                status.set("completedIndexes", indexed.succeeded.to_string());
            }
            if let Some(failed) = &indexed.failed {
                status.set("failedIndexes", failed.to_string());
            }
        }
        if !old["startTime"].is_null() || !is_suspended(job) {
            let start = if is_suspended(job) { old["startTime"].clone() } else { self.start().rfc3339().into() };
            status.set("startTime", start);
        }
        let mut list = old["conditions"].clone();
        let mut put = |kind: &str, state: &str, reason: &str, message: &str| {
            let mut condition = conditions::new(kind, state, reason, message, now);
            condition.set("lastProbeTime", now.rfc3339());
            conditions::set(&mut list, condition)
        };
        let mut told = Vec::new();
        match &self.ending {
            Some((kind, reason, message)) => drop(put(kind, "True", reason, message)),
            None if is_suspended(job) && put("Suspended", "True", "JobSuspended", "Job suspended") => {
                told.push(Action::event(job, "Suspended", "Job suspended"));
            }
            None if !is_suspended(job) && conditions::is_true(job, "Suspended") => {
                put("Suspended", "False", "JobResumed", "Job resumed");
                told.push(Action::event(job, "Resumed", "Job resumed"));
            }
            None => {}
        }
        if let Some((kind, reason, message)) = finished {
            let complete = *kind == "SuccessCriteriaMet";
            put(if complete { "Complete" } else { "Failed" }, "True", reason, message);
            if complete {
                status.set("completionTime", now.rfc3339());
            }
            told.extend(self.told(complete, reason, message));
        }
        if !list.items().is_empty() {
            status.set("conditions", list);
        }
        (status, told)
    }

    fn total(&self) -> i64 {
        self.indexed.as_ref().map_or(self.counted[SUCCEEDED], |indexed| indexed.succeeded.len())
    }

    fn told(&self, complete: bool, reason: &str, message: &str) -> Vec<Action> {
        if !complete {
            return vec![Action::warning(self.job, known_reason(reason), message)];
        }
        let most = self.job["spec"]["completions"].as_i64();
        let text = "Too many succeeded pods running after completion count reached";
        let many = most
            .is_some_and(|most| self.total() > most)
            .then(|| Action::warning(self.job, "TooManySucceededPods", text));
        many.into_iter().chain([Action::event(self.job, "Completed", "Job completed")]).collect()
    }
}

/// Events' reasons are fixed words; a condition that somebody else wrote may have another one.
fn known_reason(reason: &str) -> &'static str {
    const ALL: [&str; 5] =
        ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    ALL.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}
