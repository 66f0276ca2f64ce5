//! Deployments: one ReplicaSet per template, replicas moved from old to new within the bounds of the strategy.
//!
//! Follows upstream's order of decisions, so that `kubectl rollout status|history|undo|pause` read what they expect:
//! revisions are annotations of ReplicaSets, progress is a condition, proportions are kept in annotations.

mod rollout;
mod sets;
mod status;

use machinery::{Value, meta};

use crate::action::owner_key;
use crate::resource::{DEPLOYMENTS, REPLICA_SETS};
use crate::{Action, Change, Context, Controller, Key, Watch, World, selector};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "deployment-controller",
    watches: &[Watch::own(&DEPLOYMENTS), Watch::map(&REPLICA_SETS, deployments_of)],
    reconcile,
    settle_ms: 5,
};

const HASH_LABEL: &str = "pod-template-hash";

fn deployments_of(world: &World, change: &Change) -> Vec<Key> {
    let mut keys: Vec<Key> = change.objects().filter_map(|set| owner_key(&DEPLOYMENTS, "Deployment", set)).collect();
    for orphan in change.new.iter().filter(|set| meta::controller_of(set).is_none()) {
        let claims = |d: &&std::sync::Arc<Value>| selector::matches(&d["spec"]["selector"], selector::labels(orphan));
        let found = world.in_namespace(&DEPLOYMENTS, meta::namespace(orphan)).filter(claims);
        keys.extend(found.map(|d| Key::of(&DEPLOYMENTS, d)));
    }
    keys
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(deployment) = cx.world.lookup(key) else { return Vec::new() };
    if selector::is_empty(&deployment["spec"]["selector"]) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        return vec![Action::warning(deployment, "SelectingAll", message)];
    }
    let claims = crate::replicaset::claim(cx, &REPLICA_SETS, deployment, "apps/v1", "Deployment");
    if !claims.is_empty() {
        return claims;
    }
    rollout::Rollout::new(cx, deployment).plan()
}
