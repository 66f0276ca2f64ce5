//! Jobs: pods until enough have succeeded; and their end of life.

use std::sync::Arc;
use std::time::Duration;

use machinery::{Value, json, meta};

use crate::conditions::{int, time};
use crate::replicaset::owners;
use crate::resource::{JOBS, PODS};
use crate::{Action, Context, Controller, DeleteOptions, Key, Propagation, Watch, conditions, pods, template};

pub(crate) static JOB: Controller = Controller {
    name: "job-controller",
    watches: &[Watch::own(&JOBS), Watch::map(&PODS, |w, c| owners(w, c, &JOBS, "Job"))],
    reconcile,
    settle_ms: 5,
};

pub(crate) static TTL_AFTER_FINISHED: Controller = Controller {
    name: "ttl-after-finished-controller",
    watches: &[Watch::own(&JOBS)],
    reconcile: expire,
    settle_ms: 0,
};

/// The most pods made in one pass.
const BURST: i64 = 500;

fn is_over(job: &Value) -> bool {
    conditions::is_true(job, "Complete") || conditions::is_true(job, "Failed")
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(job) = cx.world.lookup(key).filter(|j| !meta::is_terminating(j) && !is_over(j)) else { return Vec::new() };
    let spec = &job["spec"];
    let owned = cx.world.controlled(&PODS, meta::uid(job));
    let count = |phase: &str| owned.iter().filter(|p| pods::phase(p) == phase).count() as i64;
    let (succeeded, failed) = (count("Succeeded"), count("Failed"));
    let active: Vec<&Arc<Value>> = owned.iter().filter(|p| pods::is_active(p)).copied().collect();
    let parallelism = int(spec, &["parallelism"], 1);
    let completions = spec["completions"].as_i64();
    let suspended = spec["suspend"].as_bool() == Some(true);
    let start = time(job, &["status", "startTime"]).unwrap_or(cx.now);
    let deadline = spec["activeDeadlineSeconds"].as_i64().map(|s| start + Duration::from_secs(s.max(0).unsigned_abs()));
    let verdict = if failed > int(spec, &["backoffLimit"], 6) {
        Some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    } else if deadline.is_some_and(|at| at <= cx.now) {
        Some(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"))
    } else if completions.map_or(succeeded > 0 && active.is_empty(), |c| succeeded >= c) {
        Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
    } else {
        None
    };
    let mut actions = Vec::new();
    let status = status(cx, job, (&active, succeeded, failed), suspended, verdict);
    if !template::equal(&status, &job["status"]) {
        let mut object = Value::clone(job);
        object.set("status", status);
        actions.push(Action::update_status(&JOBS, object));
        actions.extend(told(job, suspended, verdict));
    }
    let left = completions.map_or(if succeeded > 0 { active.len() as i64 } else { parallelism }, |c| c - succeeded);
    let wanted = if verdict.is_some() || suspended { 0 } else { parallelism.min(left).max(0) };
    let surplus = active.len() as i64 - wanted;
    for pod in active.iter().take(surplus.max(0) as usize) {
        actions.push(Action::delete(&PODS, pod));
        actions.push(Action::event(job, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))));
    }
    if let Some(failure) = cx.failure.filter(|_| surplus < 0) {
        actions.push(Action::warning(job, "FailedCreate", format!("Error creating: {failure}")));
    }
    let indexed = spec.str_at(&["completionMode"]) == "Indexed";
    for n in 0..(-surplus).clamp(0, BURST) {
        let mut pod = template::pod(&spec["template"], job, "batch/v1", "Job");
        if indexed {
            let Some(index) = free_index(&owned, completions.unwrap_or(parallelism), n) else { break };
            let name = format!("{}-{index}-", meta::name(job));
            pod["metadata"].set("generateName", name);
            for part in ["labels", "annotations"] {
                template::add_label(&mut pod, &["metadata", part], INDEX, &index.to_string());
            }
        }
        actions.push(Action::create_with_event(&PODS, pod, job, "SuccessfulCreate", "Created pod: "));
    }
    if let Some(at) = deadline.filter(|at| *at > cx.now && verdict.is_none()) {
        actions.push(Action::Requeue { after: at.since(cx.now) });
    }
    actions
}

/// The event of a status that is new.
fn told(job: &Value, suspended: bool, verdict: Option<(&str, &'static str, &str)>) -> Option<Action> {
    match verdict {
        Some(("Complete", ..)) => Some(Action::event(job, "Completed", "Job completed")),
        Some((_, reason, message)) => Some(Action::warning(job, reason, message)),
        None => match (suspended, conditions::is_true(job, "Suspended")) {
            (true, false) => Some(Action::event(job, "Suspended", "Job suspended")),
            (false, true) => Some(Action::event(job, "Resumed", "Job resumed")),
            _ => None,
        },
    }
}

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The n-th index that no running or succeeded pod has.
fn free_index(owned: &[&Arc<Value>], completions: i64, n: i64) -> Option<i64> {
    let taken: Vec<i64> = owned
        .iter()
        .filter(|p| pods::is_active(p) || pods::phase(p) == "Succeeded")
        .filter_map(|p| meta::annotation(p, INDEX)?.parse().ok())
        .collect();
    (0..completions).filter(|i| !taken.contains(i)).nth(usize::try_from(n).ok()?)
}

fn status(
    cx: &Context<'_>,
    job: &Value,
    (active, succeeded, failed): (&[&Arc<Value>], i64, i64),
    suspended: bool,
    verdict: Option<(&str, &str, &str)>,
) -> Value {
    let old = &job["status"];
    let ready = active.iter().filter(|p| pods::is_ready(p)).count() as i64;
    let running = if verdict.is_some() { 0 } else { active.len() as i64 };
    let mut status = json!({"ready": if verdict.is_some() { 0 } else { ready }});
    status.set("uncountedTerminatedPods", Value::object());
    for (field, count) in [("active", running), ("succeeded", succeeded), ("failed", failed)] {
        if count > 0 {
            status.set(field, count);
        }
    }
    if !suspended {
        let start = old["startTime"].as_str().map_or_else(|| cx.now.rfc3339(), str::to_owned);
        status.set("startTime", start);
    }
    let mut list = old["conditions"].clone();
    let mut put = |kind: &str, state: &str, reason: &str, message: &str| {
        let mut condition = conditions::new(kind, state, reason, message, cx.now);
        condition.set("lastProbeTime", cx.now.rfc3339());
        conditions::set(&mut list, condition);
    };
    if suspended {
        put("Suspended", "True", "JobSuspended", "Job suspended");
    } else if conditions::is_true(job, "Suspended") {
        put("Suspended", "False", "JobResumed", "Job resumed");
    }
    if let Some((kind, reason, message)) = verdict {
        let before = if kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
        put(before, "True", reason, message);
        put(kind, "True", reason, message);
        if kind == "Complete" {
            status.set("completionTime", cx.now.rfc3339());
        }
    }
    if !list.items().is_empty() {
        status.set("conditions", list);
    }
    status
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
