//! What a pod asks for and what a node has, in whole units: milli-CPU, bytes, counts.

use std::collections::BTreeMap;

use machinery::quantity::Quantity;
use machinery::{CompactString, Value};

/// Amounts by resource name. CPU is in thousandths, all else in the resource's own unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<CompactString, i64>);

impl Amounts {
    /// Reads a map of quantities; what is no quantity counts as nothing.
    pub fn of(map: &Value) -> Self {
        let amount = |(name, value): (&str, &Value)| {
            let text = match value {
                Value::String(text) => Quantity::parse(text),
                other => Quantity::parse(&other.to_string()),
            };
            let quantity = text.ok()?;
            let units = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            Some((CompactString::from(name), units))
        };
        Self(map.members().filter_map(amount).collect())
    }

    /// One resource's amount.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Every resource.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, units)| (name.as_str(), *units))
    }

    /// Adds `sign` times the other amounts.
    pub fn add(&mut self, other: &Self, sign: i64) {
        for (name, units) in &other.0 {
            let held = self.0.entry(name.clone()).or_default();
            *held = held.saturating_add(units.saturating_mul(sign));
        }
    }

    fn raise(&mut self, other: &Self) {
        for (name, units) in &other.0 {
            let held = self.0.entry(name.clone()).or_default();
            *held = (*held).max(*units);
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"].as_str() == Some("Always")
}

fn asks(container: &Value) -> Amounts {
    let resources = &container["resources"];
    let mut amounts = Amounts::of(&resources["limits"]);
    let requests = Amounts::of(&resources["requests"]);
    // A limit without a request is the request; the API server fills this in for pods that came through it.
    for (name, units) in requests.0 {
        amounts.0.insert(name, units);
    }
    amounts
}

/// What a pod needs of a node: its containers and sidecars together, or its hungriest init container, and its overhead.
pub fn of_pod(pod: &Value) -> Amounts {
    let spec = &pod["spec"];
    let mut total = Amounts::default();
    for container in spec["containers"].items() {
        total.add(&asks(container), 1);
    }
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in spec["initContainers"].items() {
        if is_sidecar(container) {
            sidecars.add(&asks(container), 1);
            peak.raise(&sidecars);
        } else {
            let mut now = asks(container);
            now.add(&sidecars, 1);
            peak.raise(&now);
        }
    }
    total.add(&sidecars, 1);
    total.raise(&peak);
    total.add(&Amounts::of(&spec["overhead"]), 1);
    total
}

/// Host ports a pod wants: protocol, address and port.
pub fn host_ports(pod: &Value) -> Vec<(CompactString, CompactString, i64)> {
    let containers = pod["spec"]["containers"].items().iter().chain(pod["spec"]["initContainers"].items());
    let ports = containers.flat_map(|c| c["ports"].items());
    ports
        .filter_map(|p| {
            let number = p["hostPort"].as_i64().filter(|n| *n > 0)?;
            let address = p["hostIP"].as_str().filter(|a| !a.is_empty()).unwrap_or("0.0.0.0");
            Some((p["protocol"].as_str().unwrap_or("TCP").into(), address.into(), number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let ask = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = ask("100m");
        sidecar.set("restartPolicy", "Always");
        let pod = json!({"spec": {"containers": [ask("1"), ask("500m")], "initContainers": [sidecar, ask("2")]}});
        assert_eq!(of_pod(&pod).get("cpu"), 2100);
    }
}
