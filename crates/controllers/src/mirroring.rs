//! Endpoints that somebody writes by hand, for a Service without a selector, mirrored as EndpointSlices: one for each
//! list of ports and family of addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use machinery::{Value, json, meta};

use crate::action::controller_reference;
use crate::resource::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use crate::{Action, Change, Context, Controller, Key, Watch, World, selector, template};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "endpointslicemirroring-controller",
    watches: &[
        Watch::map(&ENDPOINTS, |_, change| of_names(change)),
        Watch::map(&SERVICES, |_, change| of_names(change)),
        Watch::map(&ENDPOINT_SLICES, by_slice),
    ],
    reconcile,
    settle_ms: 25,
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that mean the Endpoints only.
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// The most addresses of one subset that are mirrored, as upstream's default.
const ADDRESSES_MAX: usize = 1000;

fn of_names(change: &Change) -> Vec<Key> {
    let first = change.objects().next();
    first.map(|o| Key::new(&ENDPOINTS, meta::namespace(o), meta::name(o))).into_iter().collect()
}

fn by_slice(_: &World, change: &Change) -> Vec<Key> {
    let ours = change.objects().filter(|s| meta::label(s, MANAGED_BY) == Some(MANAGER));
    ours.filter_map(|s| Some(Key::new(&ENDPOINTS, meta::namespace(s), meta::label(s, SERVICE_NAME)?))).collect()
}

/// Ports and the addresses behind all of them, as a slice has them; by family.
type Slices = BTreeMap<(&'static str, Vec<u8>), Vec<Value>>;

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let (namespace, name) = (&key.object.namespace, &key.object.name);
    let ours = |s: &&Arc<Value>| {
        meta::label(s, SERVICE_NAME) == Some(name.as_str()) && meta::label(s, MANAGED_BY) == Some(MANAGER)
    };
    let existing: Vec<&Arc<Value>> = cx.world.in_namespace(&ENDPOINT_SLICES, namespace).filter(ours).collect();
    let mirrored = |e: &&Arc<Value>| meta::label(e, SKIP) != Some("true") && meta::annotation(e, LEADER).is_none();
    let by_hand = |s: &&Arc<Value>| s["spec"]["selector"].members().next().is_none();
    let service = cx.world.get(&SERVICES, namespace, name).filter(by_hand);
    let Some(endpoints) = cx.world.lookup(key).filter(mirrored).filter(|_| service.is_some()) else {
        return existing.iter().map(|s| Action::delete(&ENDPOINT_SLICES, s)).collect();
    };
    let (wanted, skipped) = slices(&endpoints["subsets"]);
    let mut by_key: BTreeMap<(&str, Vec<u8>), Vec<&Arc<Value>>> = BTreeMap::new();
    for slice in existing {
        let mut ports = slice["ports"].items().to_vec();
        ports.sort_by_key(Value::to_vec);
        by_key.entry((slice.str_at(&["addressType"]), Value::from(ports).to_vec())).or_default().push(slice);
    }
    let (mut actions, mut missing, mut spare) = (Vec::new(), Vec::new(), Vec::new());
    for (at, addresses) in wanted {
        let mut held = by_key.remove(&at).unwrap_or_default().into_iter();
        match held.next() {
            Some(slice) => {
                let new = filled(endpoints, slice, slice["ports"].clone(), addresses);
                actions.extend((!template::equal(&new, slice)).then(|| Action::update(&ENDPOINT_SLICES, new)));
            }
            None => missing.push((at.0, at.1, addresses)),
        }
        spare.extend(held);
    }
    spare.extend(by_key.into_values().flatten());
    for (family, ports, addresses) in missing {
        let ports = Value::from_slice(&ports).unwrap_or_default();
        let like = |s: &&Arc<Value>| s.str_at(&["addressType"]) == family;
        let again = spare.iter().position(like).map(|at| spare.remove(at));
        if let Some(slice) = again {
            actions.push(Action::update(&ENDPOINT_SLICES, filled(endpoints, slice, ports, addresses)));
        } else if !meta::is_terminating(endpoints) {
            let empty = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"generateName": format!("{name}-"), "namespace": namespace.as_str()}});
            actions.push(Action::create(&ENDPOINT_SLICES, filled(endpoints, &empty, ports, addresses)));
        }
    }
    actions.extend(spare.into_iter().map(|s| Action::delete(&ENDPOINT_SLICES, s)));
    if skipped > 0 && !actions.is_empty() {
        let text = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        actions.push(Action::warning(endpoints, "TooManyAddressesToMirror", text));
    }
    actions
}

/// A slice with everything that it takes from the Endpoints.
fn filled(endpoints: &Value, slice: &Value, ports: Value, addresses: Vec<Value>) -> Value {
    let mut new = slice.clone();
    let mut labels: Value = selector::labels(endpoints).members().map(|(k, v)| (k, v.clone())).collect();
    labels.set(SERVICE_NAME, meta::name(endpoints));
    labels.set(MANAGED_BY, MANAGER);
    new["metadata"].set("labels", labels);
    let annotations = endpoints["metadata"]["annotations"].members().filter(|(k, _)| !NOT_COPIED.contains(k));
    let annotations: Value = annotations.map(|(k, v)| (k, v.clone())).collect();
    new["metadata"].set("annotations", annotations);
    new["metadata"].set("ownerReferences", vec![controller_reference(endpoints, "v1", "Endpoints")]);
    new.set("ports", ports);
    new.set("endpoints", addresses);
    new
}

/// The slices that say what the subsets say, and how many addresses were left out. Subsets may overlap: addresses with
/// the same ports stand together, and one that is ready in one place and not in another is not ready.
fn slices(subsets: &Value) -> (Slices, usize) {
    type Behind = BTreeMap<(String, String), (Value, bool)>;
    let mut by_port: BTreeMap<Option<Vec<u8>>, Behind> = BTreeMap::new();
    for subset in subsets.items() {
        let ports: Vec<Option<Vec<u8>>> = match subset["ports"].items() {
            [] => vec![None],
            ports => ports.iter().map(|p| Some(port(p).to_vec())).collect(),
        };
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in subset[list].items() {
                let id = (address.str_at(&["ip"]).to_owned(), address.str_at(&["targetRef", "uid"]).to_owned());
                for port in &ports {
                    let behind = by_port.entry(port.clone()).or_default();
                    behind.entry(id.clone()).or_insert_with(|| (address.clone(), ready)).1 &= ready;
                }
            }
        }
    }
    let mut groups: Vec<(Behind, Vec<Value>)> = Vec::new();
    for (port, behind) in by_port {
        let port = port.and_then(|p| Value::from_slice(&p).ok());
        match groups.iter_mut().find(|(other, _)| *other == behind) {
            Some((_, ports)) => ports.extend(port),
            None => groups.push((behind, port.into_iter().collect())),
        }
    }
    let (mut found, mut skipped) = (Slices::new(), 0);
    for (behind, ports) in groups {
        let ports = Value::from(ports).to_vec();
        skipped += behind.len().saturating_sub(ADDRESSES_MAX);
        let (ready, unready): (Vec<_>, Vec<_>) = behind.into_values().partition(|(_, ready)| *ready);
        for (address, ready) in ready.into_iter().chain(unready).take(ADDRESSES_MAX) {
            let Ok(ip) = address.str_at(&["ip"]).parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let slice = found.entry((family, ports.clone())).or_default();
            slice.push(endpoint(&address, ip, ready));
        }
    }
    (found, skipped)
}

fn endpoint(address: &Value, ip: IpAddr, ready: bool) -> Value {
    let mut entry = json!({"addresses": [ip.to_string()], "conditions": {"ready": ready}});
    for field in ["targetRef", "nodeName", "hostname"] {
        if let Some(value) = address.get(field).filter(|v| !v.is_null()) {
            entry.set(field, value.clone());
        }
    }
    entry
}

/// A port as slices write it: name and protocol always.
fn port(port: &Value) -> Value {
    let mut entry = json!({"name": port.str_at(&["name"]), "port": port["port"].as_i64(),
        "protocol": port["protocol"].as_str().unwrap_or("TCP")});
    if let Some(protocol) = port.get("appProtocol").filter(|v| !v.is_null()) {
        entry.set("appProtocol", protocol.clone());
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(subsets: Value) -> Vec<String> {
        let line = |((family, ports), endpoints): ((&str, Vec<u8>), Vec<Value>)| {
            let ports = Value::from_slice(&ports).unwrap();
            let ports: Vec<String> = ports.items().iter().map(|p| p["port"].to_string()).collect();
            let ready = |e: &Value| if e["conditions"]["ready"].as_bool() == Some(true) { "" } else { "!" };
            let ips: Vec<String> =
                endpoints.iter().map(|e| format!("{}{}", ready(e), e["addresses"][0].as_str().unwrap())).collect();
            format!("{family} {} {}", ports.join(","), ips.join(","))
        };
        slices(&subsets).0.into_iter().map(line).collect()
    }

    #[test]
    fn subsets_become_one_slice_for_each_family_and_list_of_ports() {
        let check = |subsets: Value, expect: &[&str]| assert_eq!(shown(subsets), expect);
        check(
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"port": 80}, {"port": 443}]}]),
            &["IPv4 443,80 10.0.0.1,!10.0.0.2", "IPv6 443,80 fd00::1"],
        );
        check(
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]},
                {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]},
                {"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 82}]}]),
            &["IPv4 80,81 10.0.0.1", "IPv4 82 !10.0.0.1"],
        );
        check(json!([{"addresses": [{"ip": "10.0.0.1"}]}]), &["IPv4  10.0.0.1"]);
        check(Value::Null, &[]);
    }
}
