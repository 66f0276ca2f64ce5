//! Namespaces on their way out: all contents of every namespaced resource are deleted, then the namespace is let go.

use machinery::{Value, json, meta};

use crate::resource::NAMESPACES;
use crate::world::is;
use crate::{Action, Change, Context, Controller, Key, Watch, World, conditions, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "namespace-controller",
    watches: &[Watch { resource: None, keys: concerned }],
    reconcile,
    settle_ms: 0,
};

/// The conditions of a terminating namespace: type, reason and message when all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (CONTENT_FAILURE, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];
const CONTENT_FAILURE: &str = "NamespaceDeletionContentFailure";

fn concerned(world: &World, change: &Change) -> Vec<Key> {
    let terminating = |o: &Value| meta::is_terminating(o);
    if is(&change.resource, &NAMESPACES) {
        let found = change.new.iter().filter(|n| terminating(n));
        return found.map(|n| Key::of(&NAMESPACES, n)).collect();
    }
    let gone = change.old.iter().filter(|_| change.new.is_none());
    let namespaces = gone.filter_map(|o| world.get(&NAMESPACES, "", meta::namespace(o)));
    namespaces.filter(|n| terminating(n)).map(|n| Key::of(&NAMESPACES, n)).collect()
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(namespace) = cx.world.lookup(key).filter(|n| meta::is_terminating(n)) else { return Vec::new() };
    let finalizers = namespace["spec"]["finalizers"].items();
    if !finalizers.iter().any(|f| f.as_str() == Some("kubernetes")) {
        return Vec::new();
    }
    let swept = conditions::of(namespace, CONTENT_FAILURE).is_some_and(|c| c.str_at(&["status"]) == "False");
    let mut actions = Vec::new();
    let (mut counts, mut holders) = (Vec::new(), std::collections::BTreeMap::<String, usize>::new());
    for found in cx.world.types().filter(|t| t.namespaced && t.collectable) {
        let (mut remaining, mut untouched) = (0_usize, false);
        for object in cx.world.objects_in(&found.resource.group_resource(), meta::name(namespace)) {
            remaining += 1;
            untouched |= !meta::is_terminating(object);
            meta::finalizers(object).for_each(|f| *holders.entry(f.to_owned()).or_default() += 1);
        }
        if untouched || !swept {
            let namespace = meta::name(namespace).into();
            actions.push(Action::DeleteCollection { resource: found.resource.clone(), namespace });
        }
        if remaining > 0 {
            let resource = &found.resource;
            counts.push(format!("{}.{} has {remaining} resource instances", resource.resource, resource.group));
        }
    }
    let status = status(cx, namespace, &counts, &holders);
    let settled = template::equal(&status, &namespace["status"]);
    let mut object = Value::clone(namespace);
    object.set("status", status);
    if !settled {
        actions.push(Action::update_status(&NAMESPACES, object));
    } else if swept && counts.is_empty() {
        let left: Value = finalizers.iter().filter(|f| f.as_str() != Some("kubernetes")).cloned().collect();
        object["spec"].set("finalizers", left);
        actions.push(Action::Update { resource: NAMESPACES.clone(), subresource: "finalize", object });
    }
    actions
}

fn status(
    cx: &Context<'_>,
    namespace: &Value,
    counts: &[String],
    holders: &std::collections::BTreeMap<String, usize>,
) -> Value {
    let mut list = namespace["status"]["conditions"].clone();
    for (kind, reason, message) in CONDITIONS {
        let condition = match kind {
            "NamespaceContentRemaining" if !counts.is_empty() => {
                let message = format!("Some resources are remaining: {}", counts.join(", "));
                conditions::new(kind, "True", "SomeResourcesRemain", &message, cx.now)
            }
            "NamespaceFinalizersRemaining" if !holders.is_empty() => {
                let each: Vec<String> = holders.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
                let message = format!("Some content in the namespace has finalizers remaining: {}", each.join(", "));
                conditions::new(kind, "True", "SomeFinalizersRemain", &message, cx.now)
            }
            CONTENT_FAILURE if cx.failure.is_some() => {
                let message =
                    format!("Failed to delete all resource types, 1 remaining: {}", cx.failure.expect("just seen"));
                conditions::new(kind, "True", "ContentDeletionFailed", &message, cx.now)
            }
            _ => conditions::new(kind, "False", reason, message, cx.now),
        };
        conditions::set(&mut list, condition);
    }
    json!({"phase": "Terminating", "conditions": list})
}
