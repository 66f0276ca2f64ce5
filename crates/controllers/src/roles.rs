//! ClusterRoles made of others: rules of all that the aggregation rule selects.

use machinery::{Value, meta};

use crate::resource::CLUSTER_ROLES;
use crate::{Action, Change, Context, Controller, Key, Watch, World, selector};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "clusterrole-aggregation-controller",
    watches: &[Watch::map(&CLUSTER_ROLES, aggregates)],
    reconcile,
    settle_ms: 50,
};

fn aggregates(world: &World, change: &Change) -> Vec<Key> {
    // A role that neither has nor gets labels concerns nobody but itself.
    let own = change.new.iter().filter(|r| !r["aggregationRule"].is_null()).map(|r| Key::of(&CLUSTER_ROLES, r));
    let labeled = change.objects().any(|r| selector::labels(r).members().next().is_some());
    let others = world.list(&CLUSTER_ROLES).filter(|r| labeled && !r["aggregationRule"].is_null());
    own.chain(others.map(|r| Key::of(&CLUSTER_ROLES, r))).collect()
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(role) = cx.world.lookup(key).filter(|r| !r["aggregationRule"].is_null()) else { return Vec::new() };
    let mut rules: Vec<Value> = Vec::new();
    for wanted in role["aggregationRule"]["clusterRoleSelectors"].items() {
        let others = cx.world.list(&CLUSTER_ROLES).filter(|r| meta::name(r) != meta::name(role));
        for other in others.filter(|r| selector::matches(wanted, selector::labels(r))) {
            for rule in other["rules"].items() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    if role["rules"].items() == rules.as_slice() {
        return Vec::new();
    }
    let mut role = Value::clone(role);
    role.set("rules", rules);
    vec![Action::update(&CLUSTER_ROLES, role)]
}
