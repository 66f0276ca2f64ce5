//! The garbage collector: objects whose owners are gone go too, in the background, before the owner, or not at all.

use std::sync::Arc;

use machinery::{GroupVersionResource, Value, json, meta};

use crate::{Action, Change, Context, Controller, DeleteOptions, Key, Propagation, Watch, World};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "generic-garbage-collector",
    watches: &[Watch { resource: None, keys: concerned }],
    reconcile,
    settle_ms: 0,
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    meta::finalizers(object).any(|f| f == finalizer)
}

fn concerned(world: &World, change: &Change) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Some(new) = &change.new {
        let waits = meta::is_terminating(new) && (has_finalizer(new, ORPHAN) || has_finalizer(new, FOREGROUND));
        if waits || !meta::owner_references(new).is_empty() {
            keys.push(Key { resource: change.resource.clone(), object: meta::key(new) });
        }
        if waits {
            keys.extend(world.dependents(meta::uid(new)).cloned());
        }
    }
    if let Some(old) = &change.old {
        let replaced = change.new.as_ref().is_none_or(|new| meta::uid(new) != meta::uid(old));
        if replaced {
            keys.extend(world.dependents(meta::uid(old)).cloned());
        }
        for owner in meta::owner_references(old) {
            let owner = world.find_uid(owner.str_at(&["uid"]));
            keys.extend(owner.filter(|k| world.lookup(k).is_some_and(|o| meta::is_terminating(o))).cloned());
        }
    }
    keys
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let (Some(object), Some(found)) = (cx.world.lookup(key), cx.world.resource_type(&key.resource)) else {
        return Vec::new();
    };
    if meta::is_terminating(object) {
        if has_finalizer(object, ORPHAN) {
            return orphan_dependents(cx.world, &found.resource, object);
        }
        if has_finalizer(object, FOREGROUND) {
            return wait_for_dependents(cx.world, &found.resource, object);
        }
        return Vec::new();
    }
    if meta::owner_references(object).is_empty() {
        return Vec::new();
    }
    judge(cx.world, &found.resource, object)
}

enum Owner {
    Solid,
    Gone,
    /// Being deleted in the foreground and waiting for this dependent.
    Waiting,
    /// Of a kind we do not know: nothing can be said.
    Unknown,
}

fn owner_state(world: &World, reference: &Value, dependent: &Value) -> Owner {
    let api_version = reference.str_at(&["apiVersion"]);
    let group = api_version.rsplit_once('/').map_or("", |(g, _)| g);
    let kind = reference.str_at(&["kind"]);
    let Some(owner_type) = world.type_of_kind(group, kind) else { return Owner::Unknown };
    let namespace = if owner_type.namespaced { meta::namespace(dependent) } else { "" };
    let owner = world.get(&owner_type.resource, namespace, reference.str_at(&["name"]));
    match owner.filter(|o| meta::uid(o) == reference.str_at(&["uid"])) {
        None => Owner::Gone,
        Some(o) if meta::is_terminating(o) && has_finalizer(o, FOREGROUND) => {
            if reference["blockOwnerDeletion"].as_bool() == Some(true) { Owner::Waiting } else { Owner::Solid }
        }
        Some(_) => Owner::Solid,
    }
}

/// The fate of an object that has owners.
fn judge(world: &World, resource: &GroupVersionResource, object: &Arc<Value>) -> Vec<Action> {
    let references = meta::owner_references(object);
    let states: Vec<Owner> = references.iter().map(|r| owner_state(world, r, object)).collect();
    if states.iter().any(|s| matches!(s, Owner::Unknown)) {
        return Vec::new();
    }
    let any = |wanted: fn(&Owner) -> bool| states.iter().any(wanted);
    let (gone, waiting) = (any(|s| matches!(s, Owner::Gone)), any(|s| matches!(s, Owner::Waiting)));
    if !gone && !waiting {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for (reference, _) in references.iter().zip(&states).filter(|(_, s)| matches!(s, Owner::Gone)) {
        actions.extend(verify_absence(world, reference, object));
    }
    if any(|s| matches!(s, Owner::Solid)) {
        let kept = references.iter().zip(&states).filter(|(_, s)| matches!(s, Owner::Solid));
        let kept: Value = kept.map(|(r, _)| r.clone()).collect();
        let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": kept}});
        actions.push(Action::patch(resource, object, "", patch));
        return actions;
    }
    let has_dependents = world.dependents(meta::uid(object)).next().is_some();
    let propagation = if waiting && has_dependents {
        actions.extend(unblock(world, resource, object));
        Propagation::Foreground
    } else if has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let options = DeleteOptions {
        resource_version: meta::resource_version(object).into(),
        propagation: Some(propagation),
        ..DeleteOptions::default()
    };
    actions.push(Action::delete_with(resource, object, options));
    actions
}

/// A dependent that itself waits in the foreground closes a circle: so that not everybody in it waits for ever, this one
/// no longer blocks its owners.
fn unblock(world: &World, resource: &GroupVersionResource, object: &Value) -> Option<Action> {
    let waits = |o: &Value| meta::is_terminating(o) && has_finalizer(o, FOREGROUND);
    if !world.dependents(meta::uid(object)).filter_map(|k| world.lookup(k)).any(|o| waits(o)) {
        return None;
    }
    let mut references = meta::owner_references(object).to_vec();
    references
        .iter_mut()
        .filter(|r| !r["blockOwnerDeletion"].is_null())
        .for_each(|r| r.set("blockOwnerDeletion", false));
    let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": references}});
    Some(Action::patch(resource, object, "", patch))
}

/// Our view may be behind: before anything is deleted for want of an owner, the API is asked.
fn verify_absence(world: &World, reference: &Value, dependent: &Value) -> Option<Action> {
    let group = reference.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(g, _)| g);
    let owner_type = world.type_of_kind(group, reference.str_at(&["kind"]))?;
    let namespace = if owner_type.namespaced { meta::namespace(dependent) } else { "" };
    Some(Action::EnsureAbsent {
        resource: owner_type.resource.clone(),
        object: machinery::ObjectKey::new(namespace, reference.str_at(&["name"])),
        uid: reference.str_at(&["uid"]).into(),
    })
}

fn without_finalizer(resource: &GroupVersionResource, object: &Value, finalizer: &str) -> Action {
    let left: Value = meta::finalizers(object).filter(|f| *f != finalizer).collect();
    let metadata =
        json!({"uid": meta::uid(object), "resourceVersion": meta::resource_version(object), "finalizers": left});
    Action::patch(resource, object, "", json!({"metadata": metadata}))
}

fn orphan_dependents(world: &World, resource: &GroupVersionResource, owner: &Value) -> Vec<Action> {
    let mut actions = Vec::new();
    for key in world.dependents(meta::uid(owner)) {
        let (Some(object), Some(found)) = (world.lookup(key), world.resource_type(&key.resource)) else { continue };
        let left = meta::owner_references(object).iter().filter(|r| r.str_at(&["uid"]) != meta::uid(owner));
        let left: Value = left.cloned().collect();
        let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": left}});
        actions.push(Action::patch(&found.resource, object, "", patch));
    }
    if actions.is_empty() {
        actions.push(without_finalizer(resource, owner, ORPHAN));
    }
    actions
}

fn wait_for_dependents(world: &World, resource: &GroupVersionResource, owner: &Value) -> Vec<Action> {
    let blocks = |key: &&Key| {
        let references = world.lookup(key).map(|o| meta::owner_references(o)).unwrap_or_default();
        let ours =
            |r: &Value| r.str_at(&["uid"]) == meta::uid(owner) && r["blockOwnerDeletion"].as_bool() == Some(true);
        references.iter().any(ours)
    };
    if world.dependents(meta::uid(owner)).any(|k| blocks(&k)) {
        return Vec::new();
    }
    vec![without_finalizer(resource, owner, FOREGROUND)]
}
