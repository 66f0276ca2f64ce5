//! One pass over a Deployment: which ReplicaSet is the new one, and how many replicas each shall have.

use std::sync::Arc;

use machinery::{Value, json, meta};

use super::sets::{DESIRED, MAX, REVISION, Set, Wish, annotate, note_size};
use super::{HASH_LABEL, status};
use crate::action::controller_reference;
use crate::resource::{DEPLOYMENTS, PODS, REPLICA_SETS};
use crate::{Action, Context, pods, template};

pub(super) struct Rollout<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) deployment: &'a Arc<Value>,
    pub(super) wish: Wish,
    /// Old sets, oldest first.
    pub(super) old: Vec<Set>,
    pub(super) new: Option<Set>,
    pub(super) conditions: Value,
    pub(super) collisions: Option<i64>,
    pub(super) actions: Vec<Action>,
}

impl<'a> Rollout<'a> {
    pub(super) fn new(cx: &'a Context<'a>, deployment: &'a Arc<Value>) -> Self {
        let mut old: Vec<Set> =
            cx.world.controlled(&REPLICA_SETS, meta::uid(deployment)).into_iter().map(Set::new).collect();
        old.sort_by_key(|s| (meta::creation_timestamp(&s.object), s.name().to_owned()));
        let wanted = &deployment["spec"]["template"];
        let is_new = |s: &Set| template::equal_without_label(&s.object["spec"]["template"], wanted, HASH_LABEL);
        let new = old.iter().position(is_new).map(|i| old.remove(i));
        Self {
            cx,
            deployment,
            wish: Wish::of(deployment),
            old,
            new,
            conditions: deployment["status"]["conditions"].clone(),
            collisions: deployment["status"]["collisionCount"].as_i64(),
            actions: Vec::new(),
        }
    }

    /// Decides, in upstream's order.
    pub(super) fn plan(mut self) -> Vec<Action> {
        if meta::is_terminating(self.deployment) {
            self.sync_status(false);
            return self.actions;
        }
        self.note_pause();
        if self.wish.paused || self.is_scaling() {
            if self.sync_new_set(false) {
                self.scale();
                if self.wish.paused {
                    self.clean_up();
                }
                self.sync_status(false);
            }
            return self.actions;
        }
        if self.wish.rolling {
            self.roll()
        } else {
            self.recreate()
        }
        self.actions
    }

    fn is_scaling(&self) -> bool {
        self.all().any(|s| s.replicas > 0 && s.noted(DESIRED).is_some_and(|d| d != self.wish.replicas))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    pub(super) fn total(&self) -> i64 {
        self.all().map(|s| s.replicas).sum()
    }

    fn roll(&mut self) {
        if !self.sync_new_set(true) {
            return;
        }
        if self.grow_new() || self.shrink_old() {
            self.sync_status(true);
            return;
        }
        if status::is_complete(self.deployment, &self.wish, &self.deployment["status"]) {
            self.clean_up();
        }
        self.sync_status(true);
    }

    fn recreate(&mut self) {
        if !self.sync_new_set(false) {
            return;
        }
        let active: Vec<usize> = (0..self.old.len()).filter(|i| self.old[*i].replicas > 0).collect();
        for i in &active {
            self.resize_old(*i, 0);
        }
        let old_pods = || {
            let of =
                |s: &Set| self.cx.world.controlled(&PODS, meta::uid(&s.object)).iter().any(|p| !pods::is_finished(p));
            self.old.iter().any(of)
        };
        if !active.is_empty() || old_pods() {
            self.sync_status(true);
            return;
        }
        if self.new.is_none() && !self.sync_new_set(true) {
            return;
        }
        if !self.grow_new() && status::is_complete(self.deployment, &self.wish, &self.deployment["status"]) {
            self.clean_up();
        }
        self.sync_status(true);
    }

    /// Brings the new set's annotations and the Deployment's revision in line, or makes the set. False when the rest of
    /// the pass has to wait for what was just written.
    fn sync_new_set(&mut self, create: bool) -> bool {
        let revision = self.old.iter().map(Set::revision).max().unwrap_or(0) + 1;
        let Some(new) = &self.new else {
            if create {
                self.create_set(revision);
                return false;
            }
            return true;
        };
        let mut object = Value::clone(&new.object);
        let mut changed = annotate(self.deployment, &mut object, revision);
        let min_ready = &self.deployment["spec"]["minReadySeconds"];
        if object["spec"]["minReadySeconds"].as_i64().unwrap_or(0) != min_ready.as_i64().unwrap_or(0) {
            object["spec"].set("minReadySeconds", min_ready.clone());
            changed = true;
        }
        if changed {
            self.actions.push(Action::update(&REPLICA_SETS, object));
            return false;
        }
        let noted = meta::annotation(&new.object, REVISION).unwrap_or_default();
        if meta::annotation(self.deployment, REVISION) != Some(noted) {
            let mut object = Value::clone(self.deployment);
            object.at_mut(&["metadata", "annotations"]).set(REVISION, noted);
            // As upstream: by the status, which takes annotations along, as the object itself would get a new generation.
            self.actions.push(Action::update_status(&DEPLOYMENTS, object));
            return false;
        }
        if self.wish.deadline.is_some() && crate::conditions::find(&self.conditions, "Progressing").is_none() {
            let message = format!("Found new replica set {:?}", new.name());
            self.set_condition("Progressing", "True", "FoundNewReplicaSet", &message);
        }
        true
    }

    fn create_set(&mut self, revision: i64) {
        let (deployment, spec) = (self.deployment, &self.deployment["spec"]);
        let hash = template::hash(&spec["template"], self.collisions);
        let name = format!("{}-{hash}", meta::name(deployment));
        if self.cx.world.get(&REPLICA_SETS, meta::namespace(deployment), &name).is_some() {
            self.collisions = Some(self.collisions.unwrap_or(0) + 1);
            self.sync_status(false);
            return;
        }
        let mut pod_template = spec["template"].clone();
        template::add_label(&mut pod_template, &["metadata", "labels"], HASH_LABEL, &hash);
        let mut selector = spec["selector"].clone();
        template::add_label(&mut selector, &["matchLabels"], HASH_LABEL, &hash);
        let replicas = (self.wish.total_max() - self.total()).clamp(0, self.wish.replicas);
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": meta::namespace(deployment)},
            "spec": {"replicas": replicas},
        });
        set["metadata"].set("labels", pod_template["metadata"]["labels"].clone());
        set["metadata"].set("ownerReferences", vec![controller_reference(deployment, "apps/v1", "Deployment")]);
        if !spec["minReadySeconds"].is_null() {
            set["spec"].set("minReadySeconds", spec["minReadySeconds"].clone());
        }
        set["spec"].set("selector", selector);
        set["spec"].set("template", pod_template);
        annotate(deployment, &mut set, revision);
        note_size(&mut set, &self.wish);
        self.actions.push(Action::create(&REPLICA_SETS, set));
        if let Some(failure) = self.cx.failure {
            let message = format!("Failed to create new replica set {name:?}: {failure}");
            self.actions.push(Action::warning(deployment, "ReplicaSetCreateError", message.clone()));
            self.set_progress("False", "ReplicaSetCreateError", &message);
            // Written before the attempt: an update behind a failed creation would be skipped.
            let attempt = std::mem::take(&mut self.actions);
            self.sync_status(false);
            self.actions.extend(attempt);
            return;
        }
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.actions.push(Action::event(deployment, "ScalingReplicaSet", message));
        }
        self.set_progress("True", "NewReplicaSetCreated", &format!("Created new replica set {name:?}"));
        self.sync_status(false);
    }

    fn set_progress(&mut self, status: &str, reason: &str, message: &str) {
        if self.wish.deadline.is_some() {
            self.set_condition("Progressing", status, reason, message);
        }
    }

    fn resize_old(&mut self, index: usize, replicas: i64) {
        let mut set = self.old[index].clone();
        self.resize(&mut set, replicas);
        self.old[index] = set;
    }

    fn resize_new(&mut self, replicas: i64) {
        if let Some(mut set) = self.new.take() {
            self.resize(&mut set, replicas);
            self.new = Some(set);
        }
    }

    fn resize(&mut self, set: &mut Set, replicas: i64) {
        let mut object = Value::clone(&set.object);
        let before = set.replicas;
        if !note_size(&mut object, &self.wish) && before == replicas {
            return;
        }
        object["spec"].set("replicas", replicas);
        if before != replicas {
            let direction = if before < replicas { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {before} to {replicas}", set.name());
            self.actions.push(Action::event(self.deployment, "ScalingReplicaSet", message));
        }
        // Scaled twice in one pass: the last word counts.
        let same = |a: &Action| matches!(a, Action::Update { object: o, .. } if meta::uid(o) == meta::uid(&object));
        self.actions.retain(|a| !same(a));
        self.actions.push(Action::update(&REPLICA_SETS, object));
        set.replicas = replicas;
    }

    fn grow_new(&mut self) -> bool {
        let Some(current) = self.new.as_ref().map(|n| n.replicas) else { return false };
        let wanted = if current >= self.wish.replicas {
            self.wish.replicas
        } else if self.wish.rolling {
            let room = (self.wish.total_max() - self.total()).max(0);
            current + room.min(self.wish.replicas - current)
        } else {
            self.wish.replicas
        };
        if wanted == current {
            return false;
        }
        self.resize_new(wanted);
        true
    }

    fn shrink_old(&mut self) -> bool {
        let old_total: i64 = self.old.iter().map(|s| s.replicas).sum();
        let Some(new) = self.new.as_ref().filter(|_| old_total > 0) else { return false };
        let min_available = self.wish.replicas - self.wish.unavailable;
        let new_unavailable = new.replicas - new.status("availableReplicas");
        let mut budget = self.total() - min_available - new_unavailable;
        if budget <= 0 {
            return false;
        }
        let mut shrunk = 0;
        for i in 0..self.old.len() {
            let sick = self.old[i].replicas - self.old[i].status("availableReplicas");
            let count = sick.clamp(0, budget);
            if count > 0 {
                self.resize_old(i, self.old[i].replicas - count);
                budget -= count;
                shrunk += count;
            }
        }
        let available: i64 = self.all().map(|s| s.status("availableReplicas")).sum();
        // The sets' statuses may be behind what was asked of them: never more than the budget.
        let mut spare = (available - min_available).min(budget);
        for i in 0..self.old.len() {
            let count = self.old[i].replicas.min(spare);
            if count > 0 {
                self.resize_old(i, self.old[i].replicas - count);
                spare -= count;
                shrunk += count;
            }
        }
        shrunk > 0
    }

    /// A change of `spec.replicas`: to the only active set, or in proportion to all of them.
    fn scale(&mut self) {
        let active: Vec<usize> = (0..self.old.len()).filter(|i| self.old[*i].replicas > 0).collect();
        let new_active = self.new.as_ref().is_some_and(|n| n.replicas > 0);
        match (active.len() + usize::from(new_active), new_active) {
            (0, _) if self.new.is_some() => self.resize_if(None),
            (0, _) if !self.old.is_empty() => self.resize_if(Some(self.old.len() - 1)),
            (0, _) => {}
            (1, true) => self.resize_if(None),
            (1, false) => self.resize_if(Some(active[0])),
            _ if self.new.as_ref().is_some_and(|n| n.is_saturated(&self.wish)) => {
                active.into_iter().for_each(|i| self.resize_old(i, 0));
            }
            _ if self.wish.rolling => self.scale_in_proportion(),
            _ => {}
        }
    }

    fn resize_if(&mut self, old: Option<usize>) {
        let wanted = self.wish.replicas;
        match old {
            Some(i) if self.old[i].replicas != wanted => self.resize_old(i, wanted),
            None if self.new.as_ref().is_some_and(|n| n.replicas != wanted) => self.resize_new(wanted),
            _ => {}
        }
    }

    fn scale_in_proportion(&mut self) {
        let allowed = if self.wish.replicas > 0 { self.wish.total_max() } else { 0 };
        let mut sets: Vec<(Option<usize>, Set)> =
            self.old.iter().cloned().enumerate().map(|(i, s)| (Some(i), s)).collect();
        sets.extend(self.new.clone().map(|s| (None, s)));
        sets.retain(|(_, s)| s.replicas > 0);
        let to_add = allowed - sets.iter().map(|(_, s)| s.replicas).sum::<i64>();
        // Larger first; of equals the newer when growing, the older when shrinking. They stand oldest first.
        if to_add > 0 {
            sets.reverse();
        }
        sets.sort_by_key(|(_, s)| std::cmp::Reverse(s.replicas));
        let mut sizes: Vec<i64> = sets.iter().map(|(_, s)| s.replicas).collect();
        let mut added = 0;
        for (size, (_, set)) in sizes.iter_mut().zip(&sets) {
            let left = to_add - added;
            let share = self.share(set);
            let share = if to_add > 0 { share.min(left) } else { share.max(left) };
            if left != 0 {
                *size += share;
                added += share;
            }
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for ((index, _), size) in sets.into_iter().zip(sizes) {
            match index {
                Some(i) => self.resize_old(i, size),
                None => self.resize_new(size),
            }
        }
    }

    fn share(&self, set: &Set) -> i64 {
        if self.wish.replicas == 0 {
            return -set.replicas;
        }
        let before = set.noted(MAX).filter(|m| *m > 0);
        let before = before.unwrap_or_else(|| crate::conditions::int(self.deployment, &["status", "replicas"], 0));
        if before == 0 {
            return 0;
        }
        let size = (set.replicas * self.wish.total_max()) as f64 / before as f64;
        size.round() as i64 - set.replicas
    }

    /// Deletes empty old sets beyond `revisionHistoryLimit`, lowest revision first.
    fn clean_up(&mut self) {
        let limit = crate::conditions::int(self.deployment, &["spec", "revisionHistoryLimit"], i64::from(i32::MAX));
        let mut old: Vec<&Set> = self.old.iter().filter(|s| !meta::is_terminating(&s.object)).collect();
        let surplus = (old.len() as i64 - limit).max(0) as usize;
        old.sort_by_key(|s| s.revision());
        let idle = |s: &&&Set| {
            s.replicas == 0
                && s.status("replicas") == 0
                && meta::generation(&s.object) <= s.status("observedGeneration")
        };
        let gone: Vec<Action> =
            old.iter().take(surplus).filter(idle).map(|s| Action::delete(&REPLICA_SETS, &s.object)).collect();
        self.actions.extend(gone);
    }
}
