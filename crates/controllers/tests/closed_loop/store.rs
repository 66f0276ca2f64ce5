//! An API server in a page: enough of its verbs for controllers to be run against, in memory and deterministic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base::{Rng, Timestamp};
use controllers::resource::{JOBS, NAMESPACES, NODES, PODS};
use controllers::world::is;
use controllers::{ALL, Action, Change, Context, Key, Settings, World};
use machinery::{GroupVersionResource, ObjectKey, Status, Value, meta};

pub(crate) struct Store {
    pub(crate) world: World,
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    revision: u64,
    uids: u64,
    /// Changes nobody has looked at yet.
    pub(crate) changes: Vec<Change>,
}

impl Store {
    pub(crate) fn new(seed: u64) -> Self {
        let settings = Settings {
            root_ca_pem: "PEM".into(),
            pod_cidr: Some("10.0.0.0/16".parse().unwrap()),
            node_prefix_length: 24,
        };
        let mut world = World::new(settings);
        controllers::resource::well_known().into_iter().for_each(|t| world.define(t));
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        Self { world, now, rng: Rng::new(seed), revision: 0, uids: 0, changes: Vec::new() }
    }

    pub(crate) fn resource_of(&self, object: &Value) -> GroupVersionResource {
        let group = object.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(g, _)| g);
        let kind = object.str_at(&["kind"]);
        self.world.type_of_kind(group, kind).unwrap_or_else(|| panic!("unknown kind {kind}")).resource.clone()
    }

    pub(crate) fn create(&mut self, mut object: Value) -> Arc<Value> {
        let resource = self.resource_of(&object);
        self.uids += 1;
        let metadata = object.at_mut(&["metadata"]);
        if metadata.str_at(&["name"]).is_empty() {
            let name = format!("{}{}", metadata.str_at(&["generateName"]), self.rng.suffix(5));
            metadata.set("name", name);
        }
        for (key, value) in [("uid", format!("uid-{}", self.uids)), ("creationTimestamp", self.now.rfc3339())] {
            if metadata.str_at(&[key]).is_empty() {
                metadata.set(key, value);
            }
        }
        if metadata["generation"].is_null() {
            metadata.set("generation", 1);
        }
        let uid = metadata.str_at(&["uid"]).to_owned();
        if is(&resource.group_resource(), &JOBS) && object["spec"]["selector"].is_null() {
            // As the strategy of Jobs does.
            let labels = "batch.kubernetes.io/controller-uid";
            *object.at_mut(&["spec", "selector", "matchLabels", labels]) = uid.as_str().into();
            *object.at_mut(&["spec", "template", "metadata", "labels", labels]) = uid.as_str().into();
        }
        self.put(&resource, object)
    }

    fn put(&mut self, resource: &GroupVersionResource, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"].set("resourceVersion", self.revision.to_string());
        let object = Arc::new(object);
        let change = self.world.apply(&resource.group_resource(), object.clone());
        self.changes.extend(change);
        object
    }

    fn drop_object(&mut self, resource: &GroupVersionResource, key: &ObjectKey) {
        let change = self.world.remove(&resource.group_resource(), key);
        self.changes.extend(change);
    }

    fn held(&self, resource: &GroupVersionResource, key: &ObjectKey) -> Result<Arc<Value>, Status> {
        let held = self.world.get(resource, &key.namespace, &key.name).cloned();
        held.ok_or_else(|| Status::not_found(&resource.group_resource(), &key.name))
    }

    /// Stores a changed object, or lets it go when nothing holds it any more.
    fn settle(&mut self, resource: &GroupVersionResource, old: &Value, mut new: Value) -> Arc<Value> {
        if controllers::template::equal(old, &new) {
            return Arc::new(new);
        }
        if old["spec"] != new["spec"] {
            new["metadata"].set("generation", meta::generation(old) + 1);
        }
        let waits = meta::finalizers(&new).next().is_some()
            || (is(&resource.group_resource(), &PODS)
                && new.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64) != Some(0));
        if meta::is_terminating(&new) && !waits {
            self.drop_object(resource, &meta::key(&new));
            return Arc::new(new);
        }
        self.put(resource, new)
    }

    /// Performs an action as the server would.
    pub(crate) fn perform(&mut self, action: Action) -> Result<Option<Arc<Value>>, Status> {
        match action {
            Action::Create { resource, object, .. } => {
                let key = meta::key(&object);
                if !key.name.is_empty() && self.held(&resource, &key).is_ok() {
                    return Err(Status::already_exists(&resource.group_resource(), &key.name));
                }
                let namespace = self.world.get(&NAMESPACES, "", meta::namespace(&object));
                if namespace.is_some_and(|n| meta::is_terminating(n)) {
                    return Ok(None);
                }
                Ok(Some(self.create(object)))
            }
            Action::Update { resource, subresource, object } => {
                let key = meta::key(&object);
                let held = self.held(&resource, &key)?;
                if meta::resource_version(&held) != meta::resource_version(&object) {
                    return Err(Status::modified(&resource.group_resource(), &key.name));
                }
                // A status brings its metadata along.
                let (base, part, from) = match subresource {
                    "" => (&object, "status", &*held),
                    "status" => (&object, "spec", &*held),
                    "approval" => (&*held, "status", &object),
                    "finalize" => (&*held, "spec", &object),
                    other => panic!("no subresource {other}"),
                };
                let mut new = base.clone();
                if from.get(part).is_some() {
                    new.set(part, from[part].clone());
                }
                if subresource == "finalize" && new["spec"]["finalizers"].items().is_empty() {
                    self.drop_object(&resource, &key);
                    return Ok(None);
                }
                Ok(Some(self.settle(&resource, &held, new)))
            }
            Action::Patch { resource, object, patch, .. } => self.patch(&resource, &object, &patch).map(Some),
            Action::RemoveFinalizer { resource, object, uid, finalizer } => {
                self.remove_finalizer(&resource, &object, &uid, finalizer)
            }
            Action::Delete { resource, object, options } => {
                let held = self.held(&resource, &object)?;
                if options.uid != meta::uid(&held) {
                    return Err(Status::modified(&resource.group_resource(), &object.name));
                }
                self.delete(&resource, &held, options.grace_seconds, options.propagation);
                Ok(None)
            }
            Action::DeleteCollection { resource, namespace } => {
                let all: Vec<Arc<Value>> = self.world.in_namespace(&resource, &namespace).cloned().collect();
                all.iter().for_each(|o| self.delete(&resource, o, None, None));
                Ok(None)
            }
            Action::Bind { pod, node, .. } => {
                let held = self.held(&PODS, &pod)?;
                let mut new = Value::clone(&held);
                new["spec"].set("nodeName", node.as_str());
                Ok(Some(self.settle(&PODS, &held, new)))
            }
            Action::EnsureAbsent { resource, object, uid } => match self.held(&resource, &object) {
                Ok(found) if meta::uid(&found) == uid => {
                    Err(Status::modified(&resource.group_resource(), &object.name))
                }
                _ => Ok(None),
            },
            Action::Event(_)
            | Action::Sign { .. }
            | Action::SignToken { .. }
            | Action::Approve { .. }
            | Action::Requeue { .. } => Ok(None),
        }
    }

    fn remove_finalizer(
        &mut self,
        resource: &GroupVersionResource,
        object: &ObjectKey,
        uid: &str,
        finalizer: &str,
    ) -> Result<Option<Arc<Value>>, Status> {
        let Ok(held) = self.held(resource, object) else { return Ok(None) };
        if uid != meta::uid(&held) {
            return Err(Status::modified(&resource.group_resource(), &object.name));
        }
        let mut new = Value::clone(&held);
        let kept: Vec<&str> = meta::finalizers(&held).filter(|f| *f != finalizer).collect();
        new["metadata"].set("finalizers", kept);
        Ok(Some(self.settle(resource, &held, new)))
    }

    fn patch(
        &mut self,
        resource: &GroupVersionResource,
        object: &ObjectKey,
        patch: &Value,
    ) -> Result<Arc<Value>, Status> {
        let held = self.held(resource, object)?;
        let wanted = patch.str_at(&["metadata", "resourceVersion"]);
        let version = wanted.is_empty() || wanted == meta::resource_version(&held);
        let uid = patch.str_at(&["metadata", "uid"]);
        if !version || !(uid.is_empty() || uid == meta::uid(&held)) {
            return Err(Status::modified(&resource.group_resource(), &object.name));
        }
        let mut new = Value::clone(&held);
        merge(&mut new, patch);
        Ok(self.settle(resource, &held, new))
    }

    pub(crate) fn delete(
        &mut self,
        resource: &GroupVersionResource,
        held: &Value,
        grace: Option<i64>,
        propagation: Option<controllers::Propagation>,
    ) {
        let mut new = Value::clone(held);
        let pod = is(&resource.group_resource(), &PODS);
        let bound = pod && !held.str_at(&["spec", "nodeName"]).is_empty() && !controllers::pods::is_finished(held);
        let grace = if bound { grace.unwrap_or(30) } else { 0 };
        if !meta::is_terminating(held) {
            new["metadata"].set("deletionTimestamp", self.now.rfc3339());
        }
        let finalizer = match propagation {
            Some(controllers::Propagation::Foreground) => Some("foregroundDeletion"),
            Some(controllers::Propagation::Orphan) => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer.filter(|_| !meta::is_terminating(held)) {
            let finalizers: Vec<&str> = meta::finalizers(held).chain([finalizer]).collect();
            new["metadata"].set("finalizers", finalizers);
        }
        new["metadata"].set("deletionGracePeriodSeconds", grace);
        let namespace = is(&resource.group_resource(), &NAMESPACES) && !new["spec"]["finalizers"].items().is_empty();
        if meta::finalizers(&new).next().is_none() && grace == 0 && !namespace {
            self.drop_object(resource, &meta::key(held));
        } else if !meta::is_terminating(held) || meta::finalizers(&new).next().is_none() {
            self.put(resource, new);
        }
    }

    pub(crate) fn get(&self, resource: &GroupVersionResource, name: &str) -> Option<&Arc<Value>> {
        let namespace = if *resource == NODES || *resource == NAMESPACES { "" } else { "d" };
        self.world.get(resource, namespace, name)
    }
}

fn merge(target: &mut Value, patch: &Value) {
    if patch.as_object().is_none() {
        *target = patch.clone();
        return;
    }
    if target.as_object().is_none() {
        *target = Value::object();
    }
    for (key, value) in patch.members() {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.at_mut(&[key]), value);
        }
    }
}

/// All controllers over a store; keys are taken in a random order.
#[derive(Default)]
pub(crate) struct Loop {
    pub(crate) pending: BTreeSet<(usize, Key)>,
    /// (when, controller, key)
    pub(crate) later: BTreeSet<(Timestamp, usize, Key)>,
    pub(crate) steps: usize,
}

impl Loop {
    /// Who is concerned by what happened since the last call.
    pub(crate) fn take_changes(&mut self, store: &mut Store) -> Vec<Change> {
        let changes = std::mem::take(&mut store.changes);
        for change in &changes {
            for (index, controller) in ALL.iter().enumerate() {
                for watch in controller.watches {
                    if watch.resource.is_none_or(|r| is(&change.resource, r)) {
                        self.pending.extend((watch.keys)(&store.world, change).into_iter().map(|k| (index, k)));
                    }
                }
            }
        }
        changes
    }

    /// One reconcile of a random pending key; false when there is none.
    pub(crate) fn step(&mut self, store: &mut Store) -> bool {
        while let Some((_, index, key)) = self.later.first().filter(|(at, ..)| *at <= store.now).cloned() {
            self.later.pop_first();
            self.pending.insert((index, key));
        }
        if self.pending.is_empty() {
            return false;
        }
        let pick = store.rng.below(self.pending.len() as u64) as usize;
        let job = self.pending.iter().nth(pick).cloned().expect("it is below the length");
        self.pending.remove(&job);
        self.steps += 1;
        let world = store.world.clone();
        let context = Context { world: &world, now: store.now, failure: None };
        for action in (ALL[job.0].reconcile)(&context, &job.1) {
            if let Action::Requeue { after } = action {
                self.later.insert((store.now + after, job.0, job.1.clone()));
                continue;
            }
            if store.perform(action).is_err() {
                self.later.insert((store.now + Duration::from_millis(10), job.0, job.1.clone()));
                break;
            }
        }
        true
    }
}
