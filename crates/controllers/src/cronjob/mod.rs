//! CronJobs: a Job each time the schedule is due.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use machinery::{Value, json, meta};

use crate::action::{controller_reference, reference};
use crate::conditions::{int, time};
use crate::replicaset::owners;
use crate::resource::{CRON_JOBS, JOBS};
use crate::{Action, Context, Controller, DeleteOptions, Key, Propagation, Watch, conditions, template};
use schedule::Schedule;

pub(crate) static CONTROLLER: Controller = Controller {
    name: "cronjob-controller",
    watches: &[Watch::own(&CRON_JOBS), Watch::map(&JOBS, |w, c| owners(w, c, &CRON_JOBS, "CronJob"))],
    reconcile,
    settle_ms: 5,
};

/// More missed times than this are told, as upstream tells them.
const MISSED_TOLD: usize = 100;
/// Missed times that are gone through to find the newest; a minute's schedule of ten months.
const MISSED_MAX: usize = 500_000;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

fn outcome(job: &Value) -> Option<&'static str> {
    ["Complete", "Failed"].into_iter().find(|kind| conditions::is_true(job, kind))
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(cron) = cx.world.lookup(key) else { return Vec::new() };
    let jobs = cx.world.controlled(&JOBS, meta::uid(cron));
    let mut status = cron["status"].clone();
    if status.is_null() {
        status = Value::object();
    }
    let mut actions = Vec::new();
    let active: Vec<&Arc<Value>> = jobs.iter().filter(|j| outcome(j).is_none()).copied().collect();
    watch_outcomes(cron, &jobs, &mut status, &mut actions);
    set_active(&mut status, &active);
    prune(cron, &jobs, &mut actions);
    let mut wait = None;
    if !meta::is_terminating(cron) {
        wait = run(cx, cron, &jobs, &active, &mut status, &mut actions);
    }
    if !template::equal(&status, &cron["status"]) {
        let mut object = Value::clone(cron);
        object.set("status", status);
        actions.push(Action::update_status(&CRON_JOBS, object));
    }
    actions.extend(wait.map(|after| Action::Requeue { after }));
    actions
}

/// Jobs that were active and have ended: told, and the last success noted.
fn watch_outcomes(cron: &Value, jobs: &[&Arc<Value>], status: &mut Value, actions: &mut Vec<Action>) {
    for job in jobs {
        let Some(outcome) = outcome(job) else { continue };
        let was_active = status["active"].items().iter().any(|r| r.str_at(&["uid"]) == meta::uid(job));
        if was_active {
            let text = format!("Saw completed job: {}, condition: {outcome}", meta::name(job));
            actions.push(Action::event(cron, "SawCompletedJob", text));
        }
        let ended = job.str_at(&["status", "completionTime"]);
        if outcome == "Complete" && time(status, &["lastSuccessfulTime"]) < time(job, &["status", "completionTime"]) {
            status.set("lastSuccessfulTime", ended);
        }
    }
}

fn set_active(status: &mut Value, active: &[&Arc<Value>]) {
    let known = status["active"].items().to_vec();
    let refer = |job: &&Arc<Value>| {
        let held = known.iter().find(|r| r.str_at(&["uid"]) == meta::uid(job)).cloned();
        held.unwrap_or_else(|| {
            let mut made = reference(job);
            made.set("kind", "Job");
            made.set("apiVersion", "batch/v1");
            made
        })
    };
    let list: Vec<Value> = active.iter().map(refer).collect();
    if list.is_empty() {
        status.remove("active");
    } else {
        status.set("active", list);
    }
}

fn delete(job: &Value) -> Action {
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    Action::delete_with(&JOBS, job, options)
}

/// Ended jobs beyond the history limits go, oldest first.
fn prune(cron: &Value, jobs: &[&Arc<Value>], actions: &mut Vec<Action>) {
    for (kind, field, default) in
        [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
    {
        let keep = usize::try_from(int(cron, &["spec", field], default)).unwrap_or(0);
        let mut ended: Vec<&&Arc<Value>> =
            jobs.iter().filter(|j| outcome(j) == Some(kind) && !meta::is_terminating(j)).collect();
        ended.sort_by_key(|j| (time(j, &["status", "startTime"]), meta::name(j).to_owned()));
        for job in ended.iter().take(ended.len().saturating_sub(keep)) {
            actions.push(delete(job));
            actions.push(Action::event(cron, "SuccessfulDelete", format!("Deleted job {}", meta::name(job))));
        }
    }
}

/// Starts what is due; how long until something is due again.
fn run(
    cx: &Context<'_>,
    cron: &Value,
    jobs: &[&Arc<Value>],
    active: &[&Arc<Value>],
    status: &mut Value,
    actions: &mut Vec<Action>,
) -> Option<Duration> {
    let spec = &cron["spec"];
    if spec["suspend"].as_bool() == Some(true) {
        return None;
    }
    let Some(schedule) = Schedule::parse(spec.str_at(&["schedule"])) else {
        let text = format!("unparseable schedule: {:?}", spec.str_at(&["schedule"]));
        actions.push(Action::warning(cron, "UnparseableSchedule", text));
        return None;
    };
    let wait = schedule.next(cx.now).map(|at| at.since(cx.now));
    let Some(due) = due(cx, cron, &schedule, actions) else { return wait };
    let deadline = spec["startingDeadlineSeconds"].as_i64().map(|s| due + Duration::from_secs(s.max(0).unsigned_abs()));
    if deadline.is_some_and(|until| until < cx.now) {
        let text = format!("Missed scheduled time to start a job: {}", due.rfc3339());
        actions.push(Action::warning(cron, "MissSchedule", text));
        return wait;
    }
    match spec.str_at(&["concurrencyPolicy"]) {
        "Forbid" if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            actions.push(Action::event(cron, "JobAlreadyActive", text));
            return wait;
        }
        "Replace" => {
            for job in active {
                actions.push(delete(job));
                actions.push(Action::event(cron, "SuccessfulDelete", format!("Deleted job {}", meta::name(job))));
            }
        }
        _ => {}
    }
    let name = format!("{}-{}", meta::name(cron), due.unix_seconds() / 60);
    if !jobs.iter().any(|j| meta::name(j) == name) {
        let job = job(cron, &name, due);
        actions.push(Action::create_with_event(&JOBS, job, cron, "SuccessfulCreate", "Created job "));
    }
    status.set("lastScheduleTime", due.rfc3339());
    wait
}

/// The newest time that was due and for which nothing was started.
fn due(cx: &Context<'_>, cron: &Value, schedule: &Schedule, actions: &mut Vec<Action>) -> Option<Timestamp> {
    let created = time(cron, &["metadata", "creationTimestamp"])?;
    let mut from = time(cron, &["status", "lastScheduleTime"]).unwrap_or(created);
    if let Some(seconds) = cron["spec"]["startingDeadlineSeconds"].as_i64() {
        from = from.max(Timestamp::from_unix_seconds(cx.now.unix_seconds().saturating_sub(seconds.max(0))));
    }
    let missed = std::iter::successors(schedule.next(from), |at| schedule.next(*at));
    let (count, newest) =
        missed.take_while(|at| *at <= cx.now).take(MISSED_MAX).fold((0, None), |(n, _), at| (n + 1, Some(at)));
    if count > MISSED_TOLD {
        let text = format!(
            "too many missed start times: {count}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        );
        actions.push(Action::warning(cron, "TooManyMissedTimes", text));
    }
    newest
}

fn job(cron: &Value, name: &str, due: Timestamp) -> Value {
    let wanted = &cron["spec"]["jobTemplate"];
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": meta::namespace(cron)}});
    for part in ["labels", "annotations"] {
        if let Some(given) = wanted.at(&["metadata", part]).filter(|v| !v.is_null()) {
            job["metadata"].set(part, given.clone());
        }
    }
    template::add_label(&mut job, &["metadata", "annotations"], SCHEDULED_AT, &due.rfc3339());
    job["metadata"].set("ownerReferences", vec![controller_reference(cron, "batch/v1", "CronJob")]);
    job.set("spec", wanted["spec"].clone());
    job
}
