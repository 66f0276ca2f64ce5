//! Cluster IPs and node ports of Services: a pure allocator over a snapshot of what is in use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use machinery::{FieldError, FieldErrors, FieldPath, Status, Value, meta};

use crate::context::Context;
use crate::row::Resource;

/// Where Services get their addresses and ports, and what is taken.
#[derive(Clone, Debug, Default)]
pub struct ServiceNetwork {
    /// The service CIDRs, the primary family first.
    pub cidrs: Vec<IpNet>,
    /// First and last node port.
    pub node_ports: Option<(u16, u16)>,
    pub used_addresses: BTreeSet<IpAddr>,
    pub used_ports: BTreeSet<u16>,
    /// Spreads the choice; any number.
    pub seed: u64,
}

impl ServiceNetwork {
    /// Counts the Services' addresses and ports as used. The node port range is upstream's default.
    pub fn of<'a>(cidrs: Vec<IpNet>, services: impl IntoIterator<Item = &'a Value>, seed: u64) -> Self {
        let mut network = Self { cidrs, node_ports: Some((30_000, 32_767)), seed, ..Self::default() };
        for service in services {
            let spec = &service["spec"];
            let addresses = spec["clusterIPs"].items().iter().chain([&spec["clusterIP"]]);
            network
                .used_addresses
                .extend(addresses.filter_map(Value::as_str).filter_map(|ip| ip.parse::<IpAddr>().ok()));
            network.used_ports.extend(ports_of(spec));
        }
        network
    }

    fn free_address(&self, cidr: &IpNet) -> Option<IpAddr> {
        // As upstream: the lower part of the range is left to addresses chosen by hand, as long as there are others.
        let size = size_of(cidr);
        let offset = static_part(size);
        let tries = (offset..size).chain(0..offset);
        let upper = size - offset;
        tries
            .map(|i| if i >= offset && upper > 0 { offset + (i - offset + self.seed % upper) % upper } else { i })
            .filter_map(|i| nth(cidr, i + 1))
            .find(|ip| !self.used_addresses.contains(ip))
    }

    fn free_port(&self, taken: &BTreeSet<u16>) -> Option<u16> {
        let (first, last) = self.node_ports?;
        let size = u64::from(last - first) + 1;
        let offset = static_ports(size);
        let upper = size - offset;
        let rotated = (0..upper).map(|i| offset + (i + self.seed % upper) % upper).chain(0..offset);
        rotated
            .filter_map(|i| u16::try_from(u64::from(first) + i).ok())
            .find(|port| !self.used_ports.contains(port) && !taken.contains(port))
    }
}

/// Usable addresses: without network address, and for IPv4 without broadcast.
fn size_of(cidr: &IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(16);
    let all = 1_u64 << bits;
    if cidr.addr().is_ipv4() { all.saturating_sub(2) } else { all.saturating_sub(1) }
}

/// KEP-3070: `min(max(16, size/16), 256)` addresses at the bottom are for static use.
fn static_part(size: u64) -> u64 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// KEP-3668: `min(max(16, size/32), 128)` ports at the bottom are for static use.
fn static_ports(size: u64) -> u64 {
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

fn nth(cidr: &IpNet, n: u64) -> Option<IpAddr> {
    match cidr.network() {
        IpAddr::V4(ip) => Some(IpAddr::V4(u32::from(ip).checked_add(u32::try_from(n).ok()?)?.into())),
        IpAddr::V6(ip) => Some(IpAddr::V6(u128::from(ip).checked_add(u128::from(n))?.into())),
    }
}

fn ports_of(spec: &Value) -> impl Iterator<Item = u16> + '_ {
    let ports = spec["ports"].items().iter().map(|p| &p["nodePort"]);
    ports
        .chain([&spec["healthCheckNodePort"]])
        .filter_map(Value::as_i64)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
}

/// Gives a Service what it asks for: cluster IPs, node ports, the health check port. Other kinds pass untouched.
///
/// # Errors
/// 422 when what was asked for is taken or outside the range, or nothing is left; 500 when the network was not given.
pub(crate) fn allocate(
    resource: &Resource,
    object: &mut Value,
    old: Option<&Value>,
    cx: &Context,
) -> Result<(), Status> {
    if !resource.gvk.group.is_empty() || resource.plural != "services" {
        return Ok(());
    }
    let Some(network) = &cx.network else {
        return Err(Status::internal("the service network was not given"));
    };
    let mut network = (**network).clone();
    if let Some(old) = old {
        // What the Service holds already is its own.
        let spec = &old["spec"];
        for ip in spec["clusterIPs"].items().iter().filter_map(Value::as_str).filter_map(|ip| ip.parse().ok()) {
            network.used_addresses.remove(&ip);
        }
        for port in ports_of(spec) {
            network.used_ports.remove(&port);
        }
    }
    let mut errors = FieldErrors::new();
    if object["spec"].as_object().is_none() {
        object.set("spec", Value::object());
    }
    if let Some(old) = old {
        keep_what_was_given(&mut object["spec"], &old["spec"]);
    }
    let spec = &mut object["spec"];
    default_families(spec, &network);
    addresses(spec, &network, cx.dry_run, &mut errors);
    node_ports(spec, &network, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Service", meta::name(object), &errors)) }
}

fn family(cidr: &IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// A client that leaves out what the server gave keeps it; one that changes to `ExternalName` lets go of addresses.
fn keep_what_was_given(spec: &mut Value, old: &Value) {
    const GIVEN: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    let by_name = |spec: &Value| spec["type"].as_str() == Some("ExternalName");
    if by_name(old) {
        return;
    }
    if by_name(spec) {
        for member in GIVEN.iter().filter(|m| old.get(m).is_some()) {
            if spec[*member] == old[*member] {
                spec.remove(member);
            }
        }
        return;
    }
    let unset = |spec: &Value, member: &str| {
        spec[member].is_null()
            || spec[member].as_str() == Some("")
            || spec[member].as_array().is_some_and(Vec::is_empty)
    };
    // Clients that know only `clusterIP` change that one.
    if unset(spec, "clusterIP") && unset(spec, "clusterIPs") {
        for member in GIVEN.iter().take(2).filter(|m| old.get(m).is_some()) {
            spec.set(member, old[*member].clone());
        }
    }
    for member in GIVEN.iter().skip(2).filter(|m| old.get(m).is_some()) {
        if unset(spec, member) {
            spec.set(member, old[*member].clone());
        }
    }
    let with_ports = |spec: &Value| matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if !with_ports(old) || !with_ports(spec) {
        return;
    }
    let before = old["ports"].items();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |p: &&Value| p["port"] == port["port"] && p["protocol"] == port["protocol"];
        if port["nodePort"].as_i64().unwrap_or(0) == 0
            && let Some(node) = before.iter().find(same).map(|p| p["nodePort"].clone()).filter(|n| !n.is_null())
        {
            port.set("nodePort", node);
        }
    }
    if unset(spec, "healthCheckNodePort") && old.get("healthCheckNodePort").is_some() {
        spec.set("healthCheckNodePort", old["healthCheckNodePort"].clone());
    }
}

fn default_families(spec: &mut Value, network: &ServiceNetwork) {
    if spec["type"].as_str() == Some("ExternalName") {
        return;
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec.set("ipFamilyPolicy", "SingleStack");
    }
    let first =
        spec["clusterIPs"].items().first().or(spec.get("clusterIP")).and_then(Value::as_str).unwrap_or_default();
    if spec["ipFamilies"].items().is_empty() {
        let given: Option<IpAddr> = first.parse().ok();
        let primary = match given {
            Some(ip) if ip.is_ipv6() => "IPv6",
            Some(_) => "IPv4",
            None => network.cidrs.first().map_or("IPv4", family),
        };
        let mut families = vec![primary];
        if spec["ipFamilyPolicy"].as_str() != Some("SingleStack") {
            families.extend(network.cidrs.iter().map(family).filter(|f| *f != primary));
        }
        spec.set("ipFamilies", families);
    }
}

/// Upstream words an address out of range differently when it only tries (dry run).
fn addresses(spec: &mut Value, network: &ServiceNetwork, dry_run: bool, errors: &mut FieldErrors) {
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        return;
    }
    let path = FieldPath::new("spec").child("clusterIPs");
    let mut ips: Vec<String> = spec["clusterIPs"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if ips.is_empty() {
        ips.extend(spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned));
    }
    if ips.first().is_some_and(|ip| ip == "None") {
        spec.set("clusterIP", "None");
        spec.set("clusterIPs", vec!["None"]);
        return;
    }
    let families: Vec<String> =
        spec["ipFamilies"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for (i, wanted) in families.iter().enumerate() {
        let Some(cidr) = network.cidrs.iter().find(|c| family(c) == wanted) else {
            let families_path = FieldPath::new("spec").child("ipFamilies").index(i);
            errors.push(FieldError::invalid(&families_path, &wanted.into(), "not configured on this cluster"));
            continue;
        };
        match ips.get(i).map(|ip| (ip.clone(), ip.parse::<IpAddr>())) {
            Some((text, Ok(ip))) => {
                let shown =
                    crate::validation::go::strings("string", &Value::Array(ips.iter().map(Value::from).collect()));
                if !cidr.contains(&ip) {
                    let why = if dry_run {
                        format!("the provided IP ({text}) is not in the valid range. The range of valid IPs is {cidr}")
                    } else {
                        "the provided network does not match the current range".to_owned()
                    };
                    let detail = format!("failed to allocate IP {text}: {why}");
                    errors.push(printed(&path, shown, detail));
                } else if network.used_addresses.contains(&ip) {
                    errors.push(printed(
                        &path,
                        shown,
                        format!("failed to allocate IP {text}: provided IP is already allocated"),
                    ));
                }
            }
            Some((_, Err(_))) => {}
            None => match network.free_address(cidr) {
                Some(ip) => ips.push(ip.to_string()),
                None => errors.push(FieldError::invalid(
                    &path,
                    &Value::Array(Vec::new()),
                    "failed to allocate a serviceIP: range is full",
                )),
            },
        }
    }
    if let Some(first) = ips.first() {
        spec.set("clusterIP", first.as_str());
        spec.set("clusterIPs", ips);
    }
}

/// An error whose value is printed as the given Go text.
fn printed(path: &FieldPath, value: String, detail: String) -> FieldError {
    let mut error = FieldError::invalid(path, &Value::Null, detail);
    error.value = value;
    error
}

fn node_ports(spec: &mut Value, network: &ServiceNetwork, errors: &mut FieldErrors) {
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let wants = kind == "NodePort"
        || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].as_bool() != Some(false));
    if !(kind == "NodePort" || kind == "LoadBalancer") {
        return;
    }
    let mut taken: BTreeSet<u16> = BTreeSet::new();
    // TCP and UDP of the same port number may share one node port.
    let mut shared: Vec<(i64, i64, String)> = Vec::new();
    let path = FieldPath::new("spec").child("ports");
    for (i, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let (number, protocol) =
            (port["port"].as_i64().unwrap_or(0), port["protocol"].as_str().unwrap_or("TCP").to_owned());
        let asked = port["nodePort"].as_i64().unwrap_or(0);
        let at = path.index(i).child("nodePort");
        if asked != 0 {
            let same = shared.iter().any(|(_, node, other)| *node == asked && *other != protocol);
            let node = u16::try_from(asked).unwrap_or(0);
            let in_range = network.node_ports.is_some_and(|(a, b)| (a..=b).contains(&node));
            if !in_range {
                let (a, b) = network.node_ports.unwrap_or_default();
                errors.push(FieldError::invalid(
                    &at,
                    &asked.into(),
                    format!("provided port is not in the valid range. The range of valid ports is {a}-{b}"),
                ));
            } else if network.used_ports.contains(&node) || (taken.contains(&node) && !same) {
                errors.push(FieldError::invalid(&at, &asked.into(), "provided port is already allocated"));
            }
            taken.insert(node);
            shared.push((number, asked, protocol));
        } else if wants {
            let reuse = shared.iter().find(|(n, node, other)| {
                *n == number && *other != protocol && !shared.iter().any(|(_, x, p)| x == node && *p == protocol)
            });
            let node = reuse.map(|(_, node, _)| *node).or_else(|| network.free_port(&taken).map(i64::from));
            let Some(node) = node else {
                errors.push(FieldError::invalid(&at, &0.into(), "failed to allocate a nodePort: range is full"));
                continue;
            };
            port.set("nodePort", node);
            taken.insert(u16::try_from(node).unwrap_or(0));
            shared.push((number, node, protocol));
        }
    }
    let health = kind == "LoadBalancer" && spec["externalTrafficPolicy"].as_str() == Some("Local");
    if health && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        match network.free_port(&taken) {
            Some(port) => spec.set("healthCheckNodePort", port),
            None => errors.push(FieldError::invalid(
                &FieldPath::new("spec").child("healthCheckNodePort"),
                &0.into(),
                "failed to allocate a nodePort: range is full",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    fn network(services: &[Value]) -> ServiceNetwork {
        ServiceNetwork::of(vec!["10.96.0.0/24".parse().unwrap()], services, 0)
    }

    #[test]
    fn a_service_gets_a_free_address_and_node_ports() {
        let mut spec = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}, {"port": 81}]});
        let (net, mut errors) = (network(&[]), Vec::new());
        default_families(&mut spec, &net);
        addresses(&mut spec, &net, true, &mut errors);
        node_ports(&mut spec, &net, &mut errors);
        assert_eq!(errors, []);
        assert_eq!(spec["clusterIP"], "10.96.0.17".into());
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        let ports: Vec<i64> = spec["ports"].items().iter().filter_map(|p| p["nodePort"].as_i64()).collect();
        assert_eq!(ports, [30_086, 30_086, 30_087]);
    }

    #[test]
    fn what_is_taken_or_out_of_range_is_refused_in_kubernetes_words() {
        let net = network(&[json!({"spec": {"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"]}})]);
        for (ip, text) in [
            (
                "10.96.0.20",
                "spec.clusterIPs: Invalid value: []string{\"10.96.0.20\"}: failed to allocate IP 10.96.0.20: provided IP is already allocated",
            ),
            (
                "10.97.0.1",
                "spec.clusterIPs: Invalid value: []string{\"10.97.0.1\"}: failed to allocate IP 10.97.0.1: the provided IP (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
            ),
        ] {
            let mut spec = json!({"type": "ClusterIP", "clusterIP": ip});
            let mut errors = Vec::new();
            default_families(&mut spec, &net);
            addresses(&mut spec, &net, true, &mut errors);
            assert_eq!(errors[0].to_string(), text);
        }
    }
}
