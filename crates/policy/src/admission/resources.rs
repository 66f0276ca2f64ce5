//! Amounts of resources: lists of quantities, and what a pod asks for as a whole.

use std::collections::BTreeMap;

use machinery::Value;
use machinery::quantity::Quantity;

/// Resource name to amount.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Reads a `ResourceList`; amounts that cannot be read count as absent (validation refuses them elsewhere).
pub(super) fn amounts(list: &Value) -> Amounts {
    list.members()
        .filter_map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.to_owned(), Quantity::parse(&text).ok()?))
        })
        .collect()
}

/// A `ResourceList` again.
pub(super) fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, quantity)| (name.as_str(), quantity.to_string())).collect()
}

fn add(into: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let sum = into.get(name).map_or_else(|| *quantity, |have| have.plus(quantity));
        into.insert(name.clone(), sum);
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        if into.get(name).is_none_or(|have| have < quantity) {
            into.insert(name.clone(), *quantity);
        }
    }
}

/// What the pod takes as a whole of `field` (`requests` or `limits`): containers and sidecars together, or an init
/// container with the sidecars before it, whichever is more; plus the overhead.
pub(super) fn pod_total(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let mut total = Amounts::new();
    for container in pod["spec"]["containers"].items() {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod["spec"]["initContainers"].items() {
        let own = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut with_sidecars = sidecars.clone();
            add(&mut with_sidecars, &own);
            raise(&mut peak, &with_sidecars);
        }
    }
    raise(&mut total, &peak);
    let overhead = amounts(&pod["spec"]["overhead"]);
    for (name, quantity) in overhead {
        if field == "requests" || total.contains_key(&name) {
            add(&mut total, &Amounts::from([(name, quantity)]));
        }
    }
    total
}
