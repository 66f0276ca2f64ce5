//! ResourceQuotas: what their namespaces use, counted anew. Admission charges writes as they come; this makes up for
//! what goes away.

use std::sync::Arc;

use machinery::quantity::Quantity;
use machinery::{GroupResource, Value, meta};
use registry::quota::{Amounts, amounts, in_scope, to_value, tracks, usage};

use crate::resource::RESOURCE_QUOTAS;
use crate::{Action, Change, Context, Controller, Key, Watch, World, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "resourcequota-controller",
    watches: &[Watch::own(&RESOURCE_QUOTAS), Watch { resource: None, keys: concerned }],
    reconcile,
    settle_ms: 100,
};

/// The quotas that count an object which came, went or uses another amount now.
fn concerned(world: &World, change: &Change) -> Vec<Key> {
    let Some(namespace) = change.objects().next().map(meta::namespace).filter(|n| !n.is_empty()) else {
        return Vec::new();
    };
    let resource = &change.resource;
    let amount = |object: &Option<Arc<Value>>| object.as_ref().map(|o| usage(resource, o));
    let counts = |quota: &&Arc<Value>| quota["spec"]["hard"].members().any(|(name, _)| tracks(resource, name));
    let mut quotas = world.in_namespace(&RESOURCE_QUOTAS, namespace).filter(counts).peekable();
    if quotas.peek().is_none() || amount(&change.old) == amount(&change.new) {
        return Vec::new();
    }
    quotas.map(|quota| Key::of(&RESOURCE_QUOTAS, quota)).collect()
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(quota) = cx.world.lookup(key).filter(|q| !meta::is_terminating(q)) else { return Vec::new() };
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::default())).collect();
    for resource in cx.world.types().filter(|t| t.namespaced).map(|t| t.resource.group_resource()) {
        if hard.keys().any(|name| tracks(&resource, name)) {
            count(cx.world, quota, &resource, &mut used);
        }
    }
    let mut status = Value::object();
    status.set("hard", to_value(&hard));
    status.set("used", to_value(&used));
    if template::equal(&status, &quota["status"]) {
        return Vec::new();
    }
    let mut object = Value::clone(quota);
    object.set("status", status);
    vec![Action::update_status(&RESOURCE_QUOTAS, object)]
}

fn count(world: &World, quota: &Value, resource: &GroupResource, used: &mut Amounts) {
    for object in world.objects_in(resource, meta::namespace(quota)).filter(|o| in_scope(quota, resource, o)) {
        for (name, amount) in usage(resource, object) {
            if let Some(sum) = used.get_mut(&name) {
                *sum = sum.plus(&amount);
            }
        }
    }
}
