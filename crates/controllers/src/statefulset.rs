//! StatefulSets: pods with names and claims of their own, made, replaced and given up in order of their ordinals.
//!
//! ```text
//!  template ──► ControllerRevision (one per template ever used) ──► label controller-revision-hash of each pod
//!  replicas ──► web-0, web-1, … : one at a time upwards, updates and surplus one at a time downwards
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::{Value, json, meta};

use crate::conditions::int;
use crate::history::{revision, template_of};
use crate::replicaset::{claim, owners};
use crate::resource::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use crate::{Action, Context, Controller, Key, Watch, pods, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "statefulset-controller",
    watches: &[
        Watch::own(&STATEFUL_SETS),
        Watch::map(&PODS, |w, c| owners(w, c, &STATEFUL_SETS, "StatefulSet")),
        Watch::map(&CONTROLLER_REVISIONS, |w, c| owners(w, c, &STATEFUL_SETS, "StatefulSet")),
    ],
    reconcile,
    settle_ms: 5,
};

const API: (&str, &str) = ("apps/v1", "StatefulSet");
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const REVISION_LABEL: &str = "controller-revision-hash";
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A set with what it is made of.
struct Set<'a> {
    object: &'a Value,
    first: i64,
    replicas: i64,
    ordered: bool,
    min_ready_seconds: i64,
    /// The revision of the template as it is now.
    update: &'a Value,
    /// The revision that all pods had when the last rollout ended.
    current: &'a Value,
    pods: BTreeMap<i64, &'a Arc<Value>>,
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(object) = cx.world.lookup(key) else { return Vec::new() };
    let adoptions = claim(cx, &PODS, object, API.0, API.1);
    if !adoptions.is_empty() {
        return adoptions;
    }
    let mut revisions: Vec<&Arc<Value>> = cx.world.controlled(&CONTROLLER_REVISIONS, meta::uid(object));
    revisions.sort_by_key(|r| (r["revision"].as_i64(), meta::name(r).to_owned()));
    let newest = revisions.last().and_then(|r| r["revision"].as_i64()).unwrap_or(0);
    let wanted = &object["spec"]["template"];
    let Some(update) = revisions.iter().rev().find(|r| template::equal(&template_of(r), wanted)) else {
        if meta::is_terminating(object) {
            return Vec::new();
        }
        return vec![Action::create(&CONTROLLER_REVISIONS, revision(object, API, HASH_LABEL, newest + 1))];
    };
    if update["revision"].as_i64() != Some(newest) && !meta::is_terminating(object) {
        let mut again = Value::clone(update);
        again.set("revision", newest + 1);
        return vec![Action::update(&CONTROLLER_REVISIONS, again)];
    }
    let current = revisions.iter().find(|r| meta::name(r) == object.str_at(&["status", "currentRevision"]));
    let set = Set {
        object,
        first: int(object, &["spec", "ordinals", "start"], 0),
        replicas: int(object, &["spec", "replicas"], 1).max(0),
        ordered: object.str_at(&["spec", "podManagementPolicy"]) != "Parallel",
        min_ready_seconds: int(object, &["spec", "minReadySeconds"], 0),
        update,
        current: current.unwrap_or(update),
        pods: cx
            .world
            .controlled(&PODS, meta::uid(object))
            .into_iter()
            .filter_map(|p| Some((ordinal(object, p)?, p)))
            .collect(),
    };
    let mut actions = set.status(cx);
    if !meta::is_terminating(object) {
        set.manage(cx, &mut actions);
        set.prune(&revisions, &mut actions);
    }
    let soon =
        set.pods.values().filter_map(|p| pods::available(p, set.min_ready_seconds, cx.now).err().flatten()).min();
    actions.extend(soon.map(|at| Action::Requeue { after: at.since(cx.now).max(Duration::from_millis(1)) }));
    actions
}

/// The number at the end of a pod's name, when it is a pod of this set.
fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    meta::name(pod).strip_prefix(meta::name(set))?.strip_prefix('-')?.parse().ok()
}

fn revision_of(pod: &Value) -> &str {
    meta::label(pod, REVISION_LABEL).unwrap_or_default()
}

impl Set<'_> {
    fn ordinals(&self) -> std::ops::Range<i64> {
        self.first..self.first + self.replicas
    }

    /// Pods below the partition stay at the current revision.
    fn partition(&self) -> i64 {
        self.first + int(self.object, &["spec", "updateStrategy", "rollingUpdate", "partition"], 0)
    }

    fn rolls(&self) -> bool {
        self.object.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete"
    }

    fn is_healthy(pod: &Value) -> bool {
        pods::is_active(pod) && pods::is_ready(pod)
    }

    fn event(&self, reason: &'static str, verb: &str, name: &str) -> Action {
        let text = format!("{verb} Pod {name} in StatefulSet {} successful", meta::name(self.object));
        Action::event(self.object, reason, text)
    }

    fn delete(&self, pod: &Value, actions: &mut Vec<Action>) {
        actions.push(Action::delete(&PODS, pod));
        actions.push(self.event("SuccessfulDelete", "delete", meta::name(pod)));
    }

    /// What there is to do about the pods now; an ordered set waits after each step.
    fn manage(&self, cx: &Context<'_>, actions: &mut Vec<Action>) {
        for at in self.ordinals() {
            match self.pods.get(&at) {
                None => self.create(cx, at, actions),
                Some(pod) if pods::is_finished(pod) && !meta::is_terminating(pod) => self.delete(pod, actions),
                Some(pod) if pods::available(pod, self.min_ready_seconds, cx.now).is_ok() && pods::is_active(pod) => {
                    continue;
                }
                Some(_) => {}
            }
            if self.ordered {
                return;
            }
        }
        let surplus = self.pods.iter().rev().filter(|(at, _)| !self.ordinals().contains(at));
        let mut scaling = false;
        for (_, pod) in surplus {
            scaling = true;
            if !meta::is_terminating(pod) {
                self.delete(pod, actions);
            }
            if self.ordered {
                return;
            }
        }
        if scaling || !self.rolls() {
            return;
        }
        for (at, pod) in self.pods.iter().rev().filter(|(at, _)| **at >= self.partition()) {
            if !self.ordinals().contains(at) {
                continue;
            }
            if revision_of(pod) != meta::name(self.update) && !meta::is_terminating(pod) {
                self.delete(pod, actions);
                return;
            }
            if !Self::is_healthy(pod) {
                return;
            }
        }
    }

    fn create(&self, cx: &Context<'_>, at: i64, actions: &mut Vec<Action>) {
        if let Some(failure) = cx.failure {
            let text =
                format!("create Pod {0}-{at} in StatefulSet {0} failed error: {failure}", meta::name(self.object));
            actions.push(Action::warning(self.object, "FailedCreate", text));
        }
        let from = if self.rolls() && at < self.partition() { self.current } else { self.update };
        let set = meta::name(self.object);
        let mut pod = template::pod(&template_of(from), self.object, API.0, API.1);
        let name = format!("{set}-{at}");
        pod["metadata"].remove("generateName");
        pod["metadata"].set("name", name.as_str());
        let labels =
            [(REVISION_LABEL, meta::name(from)), (POD_NAME_LABEL, name.as_str()), (INDEX_LABEL, &at.to_string())];
        for (key, value) in labels {
            template::add_label(&mut pod, &["metadata", "labels"], key, value);
        }
        pod["spec"].set("hostname", name.as_str());
        let service = self.object.str_at(&["spec", "serviceName"]);
        if !service.is_empty() {
            pod["spec"].set("subdomain", service);
        }
        self.claims(cx, &name, &mut pod, actions);
        actions.push(Action::create(&PODS, pod));
        actions.push(self.event("SuccessfulCreate", "create", &name));
    }

    /// The pod's claims: made when missing, and put in place of volumes of their names.
    fn claims(&self, cx: &Context<'_>, pod_name: &str, pod: &mut Value, actions: &mut Vec<Action>) {
        let namespace = meta::namespace(self.object);
        let templates = self.object["spec"]["volumeClaimTemplates"].items();
        let mut volumes = pod["spec"]["volumes"].items().to_vec();
        for wanted in templates {
            let name = format!("{}-{pod_name}", meta::name(wanted));
            volumes.retain(|v| v.str_at(&["name"]) != meta::name(wanted));
            volumes.push(json!({"name": meta::name(wanted), "persistentVolumeClaim": {"claimName": name.as_str()}}));
            if cx.world.get(&PERSISTENT_VOLUME_CLAIMS, namespace, &name).is_some() {
                continue;
            }
            let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name.as_str(), "namespace": namespace}});
            claim.set("spec", wanted["spec"].clone());
            for part in ["labels", "annotations"] {
                if let Some(given) = wanted.at(&["metadata", part]).filter(|v| !v.is_null()) {
                    claim["metadata"].set(part, given.clone());
                }
            }
            for (key, value) in self.object["spec"]["selector"]["matchLabels"].members() {
                template::add_label(&mut claim, &["metadata", "labels"], key, value.as_str().unwrap_or_default());
            }
            actions.push(Action::create(&PERSISTENT_VOLUME_CLAIMS, claim));
            let set = meta::name(self.object);
            let text = format!("create Claim {name} Pod {pod_name} in StatefulSet {set} success");
            actions.push(Action::event(self.object, "SuccessfulCreate", text));
        }
        if !templates.is_empty() {
            pod["spec"].set("volumes", volumes);
        }
    }

    fn status(&self, cx: &Context<'_>) -> Vec<Action> {
        let made: Vec<&Arc<Value>> = self.pods.values().copied().filter(|p| !pods::is_finished(p)).collect();
        let count = |keep: &dyn Fn(&Value) -> bool| made.iter().filter(|p| keep(p)).count() as i64;
        let alive = |p: &Value| !meta::is_terminating(p);
        let ready = count(&|p| pods::is_ready(p));
        let updated = count(&|p| alive(p) && revision_of(p) == meta::name(self.update));
        let mut current_revision = meta::name(self.current);
        let mut at_current = count(&|p| alive(p) && revision_of(p) == current_revision);
        let done = self.rolls() && made.len() as i64 == self.replicas && updated == self.replicas && ready == updated;
        if done {
            (current_revision, at_current) = (meta::name(self.update), updated);
        }
        let available = count(&|p| pods::available(p, self.min_ready_seconds, cx.now).is_ok());
        // These two are the counts that Go writes when they are zero.
        let mut status = json!({
            "observedGeneration": meta::generation(self.object), "replicas": made.len(),
            "availableReplicas": available, "currentRevision": current_revision,
            "updateRevision": meta::name(self.update), "collisionCount": 0,
        });
        for (field, count) in [("readyReplicas", ready), ("currentReplicas", at_current), ("updatedReplicas", updated)]
        {
            if count > 0 {
                status.set(field, count);
            }
        }
        if let Some(collisions) = self.object["status"]["collisionCount"].as_i64() {
            status.set("collisionCount", collisions);
        }
        if template::equal(&status, &self.object["status"]) {
            return Vec::new();
        }
        let mut object = self.object.clone();
        object.set("status", status);
        vec![Action::update_status(&STATEFUL_SETS, object)]
    }

    /// Lets revisions go that no pod has, beyond the history limit, oldest first.
    fn prune(&self, revisions: &[&Arc<Value>], actions: &mut Vec<Action>) {
        let keep = usize::try_from(int(self.object, &["spec", "revisionHistoryLimit"], 10)).unwrap_or(0);
        let live = |r: &Value| {
            let name = meta::name(r);
            name == meta::name(self.update)
                || name == meta::name(self.current)
                || self.pods.values().any(|p| revision_of(p) == name)
        };
        let old: Vec<&&Arc<Value>> = revisions.iter().filter(|r| !live(r)).collect();
        let surplus = old.len().saturating_sub(keep);
        actions.extend(old.iter().take(surplus).map(|r| Action::delete(&CONTROLLER_REVISIONS, r)));
    }
}
