//! How long a Job waits before it replaces failed pods: 10 s after the first failure, doubling up to 10 minutes.
//!
//! Upstream counts failures in memory; here they are counted from the pods that are still there, so a controller that
//! starts anew waits as the old one did, and a failed pod that somebody deletes is waited for no longer.

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use machinery::{Value, meta};

use crate::conditions::{self, int, time};

const FIRST: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(600);

/// When a pod ended: its last container, else when it was ready no more, else when it was told to go.
pub(super) fn finished_at(pod: &Value) -> Timestamp {
    let sidecar = |name: &str| {
        let inits = pod["spec"]["initContainers"].items();
        inits.iter().any(|c| c.str_at(&["name"]) == name && c.str_at(&["restartPolicy"]) == "Always")
    };
    let mains = pod["status"]["containerStatuses"].items().iter();
    let sidecars = pod["status"]["initContainerStatuses"].items().iter().filter(|s| sidecar(s.str_at(&["name"])));
    let ends: Option<Vec<Timestamp>> =
        mains.chain(sidecars).map(|s| time(s, &["state", "terminated", "finishedAt"])).collect();
    let last = ends.and_then(|ends| ends.into_iter().max());
    let unready = || {
        let ready = conditions::of(pod, "Ready").filter(|c| c.str_at(&["status"]) == "False")?;
        time(ready, &["lastTransitionTime"])
    };
    let told = || {
        let grace = int(pod, &["metadata", "deletionGracePeriodSeconds"], 0).max(0).unsigned_abs();
        Some(meta::deletion_timestamp(pod)? - Duration::from_secs(grace))
    };
    last.or_else(unready).or_else(told).or_else(|| meta::creation_timestamp(pod)).unwrap_or(Timestamp::EPOCH)
}

/// What is left of the pause after `failures` in a row, the last of them at that time.
pub(super) fn remaining(failures: i64, last: Timestamp, now: Timestamp) -> Duration {
    if failures <= 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(8);
    let until = last + (FIRST * 2_u32.pow(doublings)).min(MAX);
    if until > now { until.since(now) } else { Duration::ZERO }
}

/// What is left of the pause of the whole Job: failures since the last success count.
pub(super) fn of_job(pods: &[&Arc<Value>], is_failed: impl Fn(&Value) -> bool, now: Timestamp) -> Duration {
    let success = pods.iter().filter(|p| crate::pods::phase(p) == "Succeeded").map(|p| finished_at(p)).max();
    let failures = pods.iter().filter(|p| is_failed(p)).map(|p| finished_at(p));
    let since: Vec<Timestamp> = failures.filter(|at| success.is_none_or(|success| *at > success)).collect();
    since.iter().max().map_or(Duration::ZERO, |last| remaining(since.len() as i64, *last, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    fn pod(phase: &str, finished: &str) -> Arc<Value> {
        let terminated = json!({"terminated": {"exitCode": 1, "finishedAt": finished}});
        Arc::new(json!({"status": {"phase": phase, "containerStatuses": [{"name": "c", "state": terminated}]}}))
    }

    #[test]
    fn failures_since_the_last_success_lengthen_the_pause() {
        let now = Timestamp::parse("2026-01-01T00:01:00Z").unwrap();
        let left = |pods: &[Arc<Value>]| {
            let pods: Vec<&Arc<Value>> = pods.iter().collect();
            of_job(&pods, |p| crate::pods::phase(p) == "Failed", now).as_secs()
        };
        let (a, b) = (pod("Failed", "2026-01-01T00:00:55Z"), pod("Failed", "2026-01-01T00:00:50Z"));
        assert_eq!(left(&[]), 0);
        assert_eq!(left(std::slice::from_ref(&a)), 5);
        assert_eq!(left(&[a.clone(), b.clone()]), 15);
        assert_eq!(left(&[a.clone(), pod("Succeeded", "2026-01-01T00:00:52Z"), b.clone()]), 5);
        assert_eq!(left(&[a, pod("Succeeded", "2026-01-01T00:00:55Z"), b]), 0);
        assert_eq!(remaining(100, now, now), MAX);
    }
}
