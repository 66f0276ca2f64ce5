//! Jobs to their end: each pod is counted once, whatever the order.

use std::time::Duration;

use controllers::resource::{JOBS, PODS};
use controllers::{Action, conditions, pods};
use machinery::{Value, json, meta};

use super::{Cluster, SEEDS};

fn job(spec: Value, command: &[&str]) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "d"},
        "spec": {"backoffLimit": 6, "parallelism": 1}});
    let containers = json!([{"name": "c", "image": "i", "command": command}]);
    job["spec"].set(
        "template",
        json!({"metadata": {},
        "spec": {"restartPolicy": "Never", "containers": containers}}),
    );
    for (field, value) in spec.members() {
        job["spec"].set(field, value.clone());
    }
    job
}

impl Cluster {
    fn job(&self) -> &Value {
        self.store.get(&JOBS, "j").expect("it exists")
    }

    fn edit_job(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = self.job().clone();
        change(&mut object);
        self.store.perform(Action::update(&JOBS, object)).expect("nobody else edits");
    }

    /// Type and reason of the conditions that are true, and the counts.
    fn outcome(&self) -> String {
        let status = &self.job()["status"];
        let held = status["conditions"].items().iter().filter(|c| c.str_at(&["status"]) == "True");
        let held: Vec<String> = held.map(|c| format!("{}={}", c.str_at(&["type"]), c.str_at(&["reason"]))).collect();
        let count = |field: &str| conditions::int(status, &[field], 0);
        assert_eq!(status["uncountedTerminatedPods"], Value::object(), "{status}");
        format!(
            "{} active {} succeeded {} failed {}",
            held.join(" "),
            count("active"),
            count("succeeded"),
            count("failed")
        )
    }

    fn tracked(&self) -> usize {
        self.pods().iter().filter(|p| meta::finalizers(p).next().is_some()).count()
    }
}

#[track_caller]
fn check(spec: Value, command: &[&str], time: u64, expect: &str) {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        cluster.store.create(job(spec.clone(), command));
        cluster.run(Duration::from_secs(time));
        assert_eq!(cluster.outcome(), expect, "seed {seed}");
        assert_eq!(cluster.tracked(), 0, "seed {seed}");
    }
}

#[test]
fn jobs_end_when_enough_has_succeeded_or_too_much_failed() {
    let complete = "SuccessCriteriaMet=CompletionsReached Complete=CompletionsReached active 0";
    check(
        json!({"completions": 5, "parallelism": 2}),
        &["sleep", "1"],
        30,
        &format!("{complete} succeeded 5 failed 0"),
    );
    // Without a number of completions the first success is enough; what runs may end.
    check(json!({"parallelism": 3}), &["sleep", "1"], 30, &format!("{complete} succeeded 3 failed 0"));
    let failed = |reason: &str| format!("FailureTarget={reason} Failed={reason} active 0");
    let limit = failed("BackoffLimitExceeded");
    check(json!({"completions": 1, "backoffLimit": 2}), &["false"], 120, &format!("{limit} succeeded 0 failed 3"));
    let late = failed("DeadlineExceeded");
    let deadline = json!({"completions": 2, "parallelism": 2, "activeDeadlineSeconds": 5});
    check(deadline, &["sleep", "infinity"], 60, &format!("{late} succeeded 0 failed 2"));
}

#[test]
fn failed_pods_are_replaced_after_a_pause_that_doubles() {
    let mut cluster = Cluster::new(1, 2);
    cluster.keep_nodes();
    cluster.store.create(job(json!({"completions": 1}), &["false"]));
    let mut seen = Vec::new();
    for _ in 0..8 {
        cluster.run(Duration::from_secs(9));
        seen.push(cluster.pods().len());
    }
    // At 0, 10 and 30 s; the next comes at 70 s.
    assert_eq!(seen, [1, 2, 2, 3, 3, 3, 3, 4]);
}

#[test]
fn indexed_jobs_count_their_indexes() {
    let indexed = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"});
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        cluster.store.create(job(indexed.clone(), &["sleep", "1"]));
        cluster.run(Duration::from_secs(20));
        let complete = "SuccessCriteriaMet=CompletionsReached Complete=CompletionsReached";
        assert_eq!(cluster.outcome(), format!("{complete} active 0 succeeded 4 failed 0"), "seed {seed}");
        assert_eq!(cluster.job()["status"].str_at(&["completedIndexes"]), "0-3");
        let hosts: Vec<&str> = cluster.pods().iter().map(|p| p["spec"].str_at(&["hostname"])).collect();
        assert!(hosts.contains(&"j-0") && hosts.contains(&"j-3") && hosts.len() == 4, "{hosts:?}");
        let env = &cluster.pods()[0]["spec"]["containers"][0]["env"][0];
        assert_eq!(env.str_at(&["name"]), "JOB_COMPLETION_INDEX");
    }
}

#[test]
fn a_limit_for_each_index_gives_up_one_after_the_other() {
    let mut spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    spec.set("backoffLimit", i64::from(i32::MAX));
    let failed = "FailureTarget=FailedIndexes Failed=FailedIndexes active 0 succeeded 0 failed 4";
    check(spec.clone(), &["false"], 60, failed);
    spec.set("maxFailedIndexes", 0);
    spec.set("backoffLimitPerIndex", 0);
    let reason = "MaxFailedIndexesExceeded";
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        cluster.store.create(job(spec.clone(), &["false"]));
        cluster.run(Duration::from_secs(60));
        assert!(cluster.outcome().starts_with(&format!("FailureTarget={reason} Failed={reason} active 0")));
        assert!(!cluster.job()["status"].str_at(&["failedIndexes"]).is_empty());
    }
}

#[test]
fn rules_of_a_job_judge_its_pods() {
    let rules = |action: &str| {
        json!({"completions": 1, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [
            {"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]}})
    };
    let failed = "FailureTarget=PodFailurePolicy Failed=PodFailurePolicy active 0 succeeded 0 failed 1";
    check(rules("FailJob"), &["false"], 30, failed);
    let mut cluster = Cluster::new(1, 2);
    cluster.keep_nodes();
    let mut spec = rules("Ignore");
    spec.set("backoffLimit", 0);
    cluster.store.create(job(spec, &["false"]));
    cluster.run(Duration::from_secs(15));
    assert_eq!((cluster.outcome().as_str(), cluster.pods().len()), (" active 0 succeeded 0 failed 0", 2));
    let some = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        let mut wanted = job(some.clone(), &["sleep", "1000"]);
        // Only the pod with index 1 ends.
        wanted["spec"]["template"]["metadata"].set("annotations", json!({"pilothouse.dev/exit-after": "1000"}));
        cluster.store.create(wanted);
        cluster.run(Duration::from_secs(2));
        let second = cluster.pods().into_iter().find(|p| p["spec"].str_at(&["hostname"]) == "j-1").cloned().unwrap();
        let patch =
            json!({"metadata": {"annotations": {"pilothouse.dev/exit-after": "3"}}, "status": {"phase": "Succeeded"}});
        cluster.store.perform(Action::patch(&PODS, &second, "status", patch)).unwrap();
        cluster.run(Duration::from_secs(60));
        let met = "SuccessCriteriaMet=SuccessPolicy Complete=SuccessPolicy active 0 succeeded 1 failed 0";
        assert_eq!(cluster.outcome(), met, "seed {seed}");
    }
}

#[test]
fn a_suspended_job_has_no_pods_and_its_time_stands_still() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        let spec = json!({"completions": 2, "parallelism": 2, "suspend": true, "activeDeadlineSeconds": 20});
        cluster.store.create(job(spec, &["sleep", "15"]));
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.outcome(), "Suspended=JobSuspended active 0 succeeded 0 failed 0", "seed {seed}");
        assert!(cluster.pods().is_empty() && cluster.job()["status"].get("startTime").is_none());
        cluster.edit_job(|j| j["spec"].set("suspend", false));
        cluster.run(Duration::from_secs(5));
        assert_eq!(cluster.outcome(), " active 2 succeeded 0 failed 0", "seed {seed}");
        cluster.edit_job(|j| j["spec"].set("suspend", true));
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.outcome(), "Suspended=JobSuspended active 0 succeeded 0 failed 0", "seed {seed}");
        cluster.edit_job(|j| j["spec"].set("suspend", false));
        cluster.run(Duration::from_secs(30));
        assert!(cluster.outcome().ends_with("Complete=CompletionsReached active 0 succeeded 2 failed 0"));
    }
}

#[test]
fn pods_of_a_job_that_goes_are_set_free() {
    for seed in 0..SEEDS / 4 {
        for propagation in [controllers::Propagation::Background, controllers::Propagation::Foreground] {
            let mut cluster = Cluster::new(seed, 2);
            cluster.keep_nodes();
            cluster.store.create(job(json!({"completions": 3, "parallelism": 3}), &["sleep", "infinity"]));
            cluster.run(Duration::from_secs(5));
            assert_eq!(cluster.tracked(), 3);
            let gone = std::sync::Arc::clone(cluster.store.get(&JOBS, "j").unwrap());
            cluster.store.delete(&JOBS, &gone, None, Some(propagation));
            cluster.run(Duration::from_secs(60));
            assert!(
                cluster.store.get(&JOBS, "j").is_none() && cluster.pods().is_empty(),
                "seed {seed} {propagation:?}"
            );
        }
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        cluster.store.create(job(json!({"completions": 2, "parallelism": 2}), &["sleep", "infinity"]));
        cluster.run(Duration::from_secs(5));
        let gone = std::sync::Arc::clone(cluster.store.get(&JOBS, "j").unwrap());
        cluster.store.delete(&JOBS, &gone, None, Some(controllers::Propagation::Orphan));
        cluster.run(Duration::from_secs(60));
        assert_eq!((cluster.pods().len(), cluster.tracked()), (2, 0), "seed {seed}");
        assert!(cluster.pods().iter().all(|p| pods::is_active(p)));
    }
}
