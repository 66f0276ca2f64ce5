//! A Deployment's numbers and its ReplicaSets, read once.

use std::sync::Arc;

use machinery::{Value, meta};

use crate::conditions::{int, scaled};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What upstream leaves behind when it copies a Deployment's annotations.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The Deployment's wishes.
pub(super) struct Wish {
    pub(super) replicas: i64,
    pub(super) surge: i64,
    pub(super) unavailable: i64,
    pub(super) rolling: bool,
    pub(super) paused: bool,
    /// Seconds; none when there is no deadline.
    pub(super) deadline: Option<i64>,
}

impl Wish {
    pub(super) fn of(deployment: &Value) -> Self {
        let spec = &deployment["spec"];
        let replicas = int(spec, &["replicas"], 1);
        let rolling = spec.str_at(&["strategy", "type"]) != "Recreate";
        let bounds = &spec["strategy"]["rollingUpdate"];
        let bound = |key: &str, up| match &bounds[key] {
            Value::Null => scaled(&"25%".into(), replicas, up),
            value => scaled(value, replicas, up),
        };
        let (mut surge, mut unavailable) = (0, 0);
        if rolling {
            surge = bound("maxSurge", true);
            unavailable = bound("maxUnavailable", false);
            if surge == 0 && unavailable == 0 {
                unavailable = 1;
            }
            unavailable = unavailable.min(replicas);
        }
        let deadline = spec["progressDeadlineSeconds"].as_i64().filter(|s| *s != i64::from(i32::MAX));
        Self { replicas, surge, unavailable, rolling, paused: spec["paused"].as_bool() == Some(true), deadline }
    }

    /// Replicas of all sets together may reach this.
    pub(super) fn total_max(&self) -> i64 {
        self.replicas + self.surge
    }
}

/// One ReplicaSet; `replicas` is what this pass wants of it.
#[derive(Clone)]
pub(super) struct Set {
    pub(super) object: Arc<Value>,
    pub(super) replicas: i64,
}

impl Set {
    pub(super) fn new(object: &Arc<Value>) -> Self {
        Self { object: object.clone(), replicas: int(object, &["spec", "replicas"], 1) }
    }

    pub(super) fn name(&self) -> &str {
        meta::name(&self.object)
    }

    /// A number of its status.
    pub(super) fn status(&self, field: &str) -> i64 {
        int(&self.object, &["status", field], 0)
    }

    pub(super) fn revision(&self) -> i64 {
        meta::annotation(&self.object, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }

    /// A count kept in an annotation.
    pub(super) fn noted(&self, annotation: &str) -> Option<i64> {
        meta::annotation(&self.object, annotation).and_then(|n| n.parse().ok()).filter(|n| *n >= 0)
    }

    pub(super) fn is_saturated(&self, wish: &Wish) -> bool {
        self.replicas == wish.replicas
            && self.noted(DESIRED) == Some(wish.replicas)
            && self.status("availableReplicas") == wish.replicas
    }
}

/// Writes the annotations that scaling needs; true when they were different.
pub(super) fn note_size(set: &mut Value, wish: &Wish) -> bool {
    let annotations = set.at_mut(&["metadata", "annotations"]);
    let mut changed = false;
    for (key, number) in [(DESIRED, wish.replicas), (MAX, wish.total_max())] {
        let text = Value::from(number.to_string());
        if annotations.get(key) != Some(&text) {
            annotations.set(key, text);
            changed = true;
        }
    }
    changed
}

/// Copies the Deployment's annotations and lifts the revision; true when something was different. The revision a set had
/// before it is rolled back to is kept in its history.
pub(super) fn annotate(deployment: &Value, set: &mut Value, revision: i64) -> bool {
    let mut changed = false;
    let annotations = set.at_mut(&["metadata", "annotations"]);
    for (key, value) in deployment["metadata"]["annotations"].members() {
        if !NOT_COPIED.contains(&key) && annotations.get(key) != Some(value) {
            annotations.set(key, value.clone());
            changed = true;
        }
    }
    let old = annotations.str_at(&[REVISION]).to_owned();
    let Ok(number) = (if old.is_empty() { Ok(0) } else { old.parse::<i64>() }) else { return changed };
    if number < revision {
        annotations.set(REVISION, revision.to_string());
        changed = true;
        if !old.is_empty() {
            let mut history: Vec<String> = annotations
                .str_at(&[REVISION_HISTORY])
                .split(',')
                .filter(|r| !r.is_empty())
                .map(str::to_owned)
                .collect();
            history.push(old);
            while history.join(",").len() > HISTORY_LENGTH_MAX {
                history.remove(0);
            }
            annotations.set(REVISION_HISTORY, history.join(","));
        }
    }
    changed
}

/// Bound of the annotation that lists former revisions, in bytes, as upstream's.
const HISTORY_LENGTH_MAX: usize = 2000;
