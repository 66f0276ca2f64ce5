//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use machinery::{Value, json, meta};

use super::rollout::Rollout;
use super::sets::{Set, Wish};
use crate::conditions::{find, int, remove, time};
use crate::resource::DEPLOYMENTS;
use crate::{Action, template};

/// Are all replicas of the newest template, and available?
pub(super) fn is_complete(deployment: &Value, wish: &Wish, status: &Value) -> bool {
    let count = |field| int(status, &[field], 0);
    ["updatedReplicas", "replicas", "availableReplicas"].iter().all(|f| count(f) == wish.replicas)
        && count("observedGeneration") >= meta::generation(deployment)
}

/// Did the numbers move towards the goal?
fn is_progressing(old: &Value, new: &Value) -> bool {
    let count = |status: &Value, field| int(status, &[field], 0);
    let outdated = |status: &Value| count(status, "replicas") - count(status, "updatedReplicas");
    count(new, "updatedReplicas") > count(old, "updatedReplicas")
        || outdated(new) < outdated(old)
        || count(new, "readyReplicas") > count(old, "readyReplicas")
        || count(new, "availableReplicas") > count(old, "availableReplicas")
}

impl Rollout<'_> {
    /// Puts a condition; one of the same status and reason stays as it is.
    pub(super) fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = self.cx.now.rfc3339();
        let mut since = Value::from(now.as_str());
        if let Some(old) = find(&self.conditions, kind) {
            if old.str_at(&["status"]) == status && old.str_at(&["reason"]) == reason {
                return;
            }
            if old.str_at(&["status"]) == status {
                since = old["lastTransitionTime"].clone();
            }
        }
        remove(&mut self.conditions, kind);
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": since});
        if !matches!(self.conditions, Value::Array(_)) {
            self.conditions = Value::Array(Vec::new());
        }
        self.conditions.as_array_mut().expect("just made one").push(condition);
    }

    pub(super) fn note_pause(&mut self) {
        if self.wish.deadline.is_none() {
            return;
        }
        let reason = find(&self.conditions, "Progressing").map_or("", |c| c.str_at(&["reason"])).to_owned();
        match (self.wish.paused, reason.as_str()) {
            (_, "ProgressDeadlineExceeded") | (true, "DeploymentPaused") => {}
            (true, _) => self.set_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"),
            (false, "DeploymentPaused") => {
                self.set_condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
            }
            (false, _) => {}
        }
    }

    /// Writes the status if it differs; `rolling` also judges progress.
    pub(super) fn sync_status(&mut self, rolling: bool) {
        let mut status = self.counts();
        let available = int(&status, &["availableReplicas"], 0);
        if available >= self.wish.replicas - self.wish.unavailable {
            let message = "Deployment has minimum availability.";
            self.set_condition("Available", "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set_condition("Available", "False", "MinimumReplicasUnavailable", message);
        }
        if rolling {
            self.judge_progress(&status);
            self.carry_failures();
        }
        if !self.conditions.items().is_empty() {
            status.set("conditions", self.conditions.clone());
        }
        if template::equal(&status, &self.deployment["status"]) {
            self.requeue_for_deadline(&status);
            return;
        }
        let mut object = Value::clone(self.deployment);
        object.set("status", status);
        self.actions.push(Action::update_status(&DEPLOYMENTS, object));
    }

    fn counts(&self) -> Value {
        let sum = |field: &str| self.all().map(|s| s.status(field)).sum::<i64>();
        let available = sum("availableReplicas");
        let mut status = json!({"observedGeneration": meta::generation(self.deployment)});
        let counts = [
            ("replicas", sum("replicas")),
            ("updatedReplicas", self.new.as_ref().map_or(0, |s: &Set| s.status("replicas"))),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", (self.total() - available).max(0)),
        ];
        for (field, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
            status.set(field, count);
        }
        if let Some(collisions) = self.collisions {
            status.set("collisionCount", collisions);
        }
        status
    }

    fn judge_progress(&mut self, status: &Value) {
        let Some(deadline) = self.wish.deadline else {
            remove(&mut self.conditions, "Progressing");
            return;
        };
        let old = &self.deployment["status"];
        let current = find(&old["conditions"], "Progressing").cloned();
        let done = current.as_ref().is_some_and(|c| c.str_at(&["reason"]) == "NewReplicaSetAvailable");
        if done && int(status, &["replicas"], 0) == int(status, &["updatedReplicas"], 0) {
            return;
        }
        let subject = match &self.new {
            Some(set) => format!("ReplicaSet {:?}", set.name()),
            None => format!("Deployment {:?}", meta::name(self.deployment)),
        };
        if is_complete(self.deployment, &self.wish, status) {
            let message = format!("{subject} has successfully progressed.");
            self.set_condition("Progressing", "True", "NewReplicaSetAvailable", &message);
        } else if is_progressing(old, status) {
            self.note_progress(current.as_ref(), &format!("{subject} is progressing."));
        } else if self.timed_out(deadline) {
            let message = format!("{subject} has timed out progressing.");
            self.set_condition("Progressing", "False", "ProgressDeadlineExceeded", &message);
        }
    }

    /// Even with an unchanged reason, progress moves `lastUpdateTime`.
    fn note_progress(&mut self, current: Option<&Value>, message: &str) {
        remove(&mut self.conditions, "Progressing");
        self.set_condition("Progressing", "True", "ReplicaSetUpdated", message);
        if let Some(old) = current.filter(|c| c.str_at(&["status"]) == "True") {
            let last = self.conditions.as_array_mut().and_then(|l| l.last_mut());
            last.expect("just put there").set("lastTransitionTime", old["lastTransitionTime"].clone());
        }
    }

    fn timed_out(&self, deadline: i64) -> bool {
        let Some(condition) = find(&self.conditions, "Progressing") else { return false };
        match condition.str_at(&["reason"]) {
            "NewReplicaSetAvailable" => false,
            "ProgressDeadlineExceeded" => true,
            _ => time(condition, &["lastUpdateTime"])
                .is_some_and(|t| t + Duration::from_secs(deadline.unsigned_abs()) < self.cx.now),
        }
    }

    fn carry_failures(&mut self) {
        let failure = |s: &Set| find(&s.object["status"]["conditions"], "ReplicaFailure").cloned();
        let found = self.new.as_ref().and_then(failure).or_else(|| self.old.iter().find_map(failure));
        match found {
            Some(c) => {
                let text = |key| c.str_at(&[key]).to_owned();
                self.set_condition("ReplicaFailure", &text("status"), &text("reason"), &text("message"));
            }
            None => remove(&mut self.conditions, "ReplicaFailure"),
        }
    }

    fn requeue_for_deadline(&mut self, status: &Value) {
        let Some(deadline) = self.wish.deadline else { return };
        let Some(condition) = find(&self.conditions, "Progressing") else { return };
        let settled = matches!(condition.str_at(&["reason"]), "ProgressDeadlineExceeded" | "NewReplicaSetAvailable");
        if settled || self.wish.paused || is_complete(self.deployment, &self.wish, status) {
            return;
        }
        if let Some(since) = time(condition, &["lastUpdateTime"]) {
            let at = since + Duration::from_secs(deadline.unsigned_abs() + 1);
            self.actions.push(Action::Requeue { after: at.since(self.cx.now).max(Duration::from_secs(1)) });
        }
    }
}
