//! Services.

use std::collections::BTreeSet;

use machinery::{Value, names};

use crate::strategy::{Selectable, Strategy};
use crate::validation::addresses;
use crate::validation::container::port_or_name;
use crate::validation::{At, Errors, go, labels};

pub(crate) static STRATEGY: Strategy = Strategy {
    name: crate::names::label_1035,
    create_on_update: true,
    selectable: &[
        Selectable { label: "spec.clusterIP", path: "spec.clusterIP", unset: "", instead: "" },
        Selectable { label: "spec.type", path: "spec.type", unset: "", instead: "" },
    ],
    prepare_create: |service, _| service.set("status", machinery::json!({"loadBalancer": {}})),
    prepare_update: |new, old, _| drop_what_the_type_had(new, old),
    validate: |at, _, errors| service(at, errors),
    validate_update: Some(|new, old, _, errors| {
        changed_addresses(new, old, errors);
        service(new, errors);
    }),
    ..Strategy::PLAIN
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A client that changes the type without touching what belonged to the old type means to let go of it.
fn drop_what_the_type_had(new: &mut Value, old: &Value) {
    let kind = |service: &Value| service.str_at(&["spec", "type"]).to_owned();
    let (now, then) = (kind(new), kind(old));
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let was: Vec<i64> = old["spec"]["ports"].items().iter().map(|p| p["nodePort"].as_i64().unwrap_or(0)).collect();
    let spec = new.at_mut(&["spec"]);
    if node_ports(&then) && !node_ports(&now) {
        let same = spec["ports"].items().iter().map(|p| p["nodePort"].as_i64().unwrap_or(0)).eq(was);
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter(|_| same) {
            port.remove("nodePort");
        }
        if spec["externalTrafficPolicy"] == old["spec"]["externalTrafficPolicy"] {
            spec.remove("externalTrafficPolicy");
        }
    }
    if then == "LoadBalancer" && now != "LoadBalancer" {
        for member in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec[member] == old["spec"][member] {
                spec.remove(member);
            }
        }
    }
    let local = |spec: &Value| {
        spec["type"].as_str() == Some("LoadBalancer") && spec["externalTrafficPolicy"].as_str() == Some("Local")
    };
    if local(&old["spec"]) && !local(spec) && spec["healthCheckNodePort"] == old["spec"]["healthCheckNodePort"] {
        spec.remove("healthCheckNodePort");
    }
}

fn headless(spec: &At<'_>) -> bool {
    spec.field("clusterIPs").value[0].as_str() == Some("None") || spec.field("clusterIP").text() == "None"
}

fn service(at: &At<'_>, errors: &mut Errors) {
    let spec = at.field("spec");
    let kind = spec.field("type");
    let (ports, headless) = (spec.field("ports"), headless(&spec));
    if ports.is_empty() && !headless && kind.text() != "ExternalName" {
        errors.required(&ports, "");
    }
    by_type(&spec, headless, errors);
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        service_port(&port, ports.items().len() > 1, &mut seen, errors);
    }
    labels(&spec.field("selector"), errors);
    affinity(&spec, errors);
    addresses(&spec, errors);
    for ip in spec.field("externalIPs").items() {
        valid_ip(&ip, errors);
    }
    errors.one_of_required(&kind, &TYPES);
    duplicate_ports(&spec, errors);
    let ranges = spec.field("loadBalancerSourceRanges");
    let shown = ranges.renamed(spec.path.child("LoadBalancerSourceRanges"));
    if !ranges.is_empty() {
        if kind.text() != "LoadBalancer" {
            errors.forbidden(&shown, "may only be used when `type` is 'LoadBalancer'");
        }
        for range in shown.items() {
            if range.text().trim().parse::<ipnet::IpNet>().is_err() {
                errors.invalid(&range, addresses::CIDR);
            }
        }
    }
    let allocate = spec.field("allocateLoadBalancerNodePorts");
    if allocate.is_set() && kind.text() != "LoadBalancer" {
        errors.forbidden(&allocate, "may only be used when `type` is 'LoadBalancer'");
    }
    if spec.field("loadBalancerClass").is_set() && kind.text() != "LoadBalancer" {
        errors.forbidden(&spec.field("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
    }
    traffic(&spec, errors);
}

fn by_type(spec: &At<'_>, headless: bool, errors: &mut Errors) {
    let kind = spec.field("type");
    match kind.text() {
        "LoadBalancer" | "NodePort" if headless => {
            let text = format!("may not be set to 'None' for {} services", kind.text());
            let first = spec.field("clusterIPs").path.index(0);
            errors.invalid_value(&spec.field("clusterIPs").renamed(first), "None", text);
        }
        "ExternalName" => {
            for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let member = spec.field(member);
                if !member.is_empty() {
                    errors.forbidden(&member, "may not be set for ExternalName services");
                }
            }
            let name = spec.field("externalName");
            let text = name.text().strip_suffix('.').unwrap_or(name.text());
            if text.is_empty() {
                errors.required(&name, "");
            } else {
                for complaint in names::is_dns1123_subdomain(text) {
                    errors.invalid_value(&name, text, complaint);
                }
            }
        }
        _ => {}
    }
}

fn service_port<'a>(port: &At<'a>, require_name: bool, seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    let name = port.field("name");
    if name.is_empty() {
        if require_name {
            errors.required(&name, "");
        }
    } else {
        errors.dns_label(&name);
        if !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
    }
    let number = port.field("port");
    for complaint in names::is_valid_port_number(number.int().unwrap_or(0)) {
        errors.invalid_value(&number, number.int().unwrap_or(0), complaint);
    }
    errors.one_of_required(&port.field("protocol"), &PROTOCOLS);
    port_or_name(&port.field("targetPort"), errors);
    let protocol = port.field("appProtocol");
    if protocol.is_set() {
        errors.all_invalid(&protocol, names::is_qualified_name(protocol.text()));
    }
}

fn affinity(spec: &At<'_>, errors: &mut Errors) {
    let kind = spec.field("sessionAffinity");
    errors.one_of_required(&kind, &["ClientIP", "None"]);
    let config = spec.field("sessionAffinityConfig");
    match kind.text() {
        "ClientIP" => {
            let seconds = config.at(&["clientIP", "timeoutSeconds"]);
            if !config.is_set() {
                errors.required(&config, "when session affinity type is ClientIP");
            } else if seconds.int().is_some_and(|s| !(1..=86_400).contains(&s)) {
                errors.invalid(&seconds, "must be greater than 0 and less than 86400");
            }
        }
        "None" if config.is_set() => errors.forbidden(&config, "must not be set when session affinity is None"),
        _ => {}
    }
}

fn addresses(spec: &At<'_>, errors: &mut Errors) {
    if spec.field("type").text() == "ExternalName" {
        return;
    }
    let (first, all) = (spec.field("clusterIP"), spec.field("clusterIPs"));
    let listed = all.value[0].as_str().unwrap_or_default();
    if !first.is_empty() && !listed.is_empty() && first.text() != listed {
        errors.invalid(&all, "first value must match `clusterIP`");
    }
    for ip in all.items().iter().filter(|ip| ip.text() != "None") {
        valid_ip(ip, errors);
    }
    for family in spec.field("ipFamilies").items() {
        errors.one_of(&family, &["IPv4", "IPv6"]);
    }
    let policy = spec.field("ipFamilyPolicy");
    if policy.is_set() {
        errors.one_of(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
}

/// Any IP address.
pub(crate) fn valid_ip(at: &At<'_>, errors: &mut Errors) {
    if addresses::sloppy_ip(at.text()).is_none() {
        errors.invalid(at, addresses::IP);
    }
}

fn duplicate_ports(spec: &At<'_>, errors: &mut Errors) {
    let ports = spec.field("ports").items();
    if spec.field("type").text() == "ClusterIP" {
        for port in &ports {
            if port.field("nodePort").int().unwrap_or(0) != 0 {
                errors.forbidden(&port.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    let mut seen = BTreeSet::new();
    for port in ports.iter().filter(|p| p.field("nodePort").int().unwrap_or(0) != 0) {
        if !seen.insert((port.field("protocol").text(), port.field("nodePort").int())) {
            errors.duplicate(&port.field("nodePort"));
        }
    }
    let mut seen = BTreeSet::new();
    for port in &ports {
        let (protocol, number) = (port.field("protocol").text(), port.field("port").int().unwrap_or(0));
        if !seen.insert((protocol, number)) {
            let mut error = machinery::FieldError::duplicate(&port.path, &Value::Null);
            error.value = format!(
                "core.ServicePort{{Name:\"\", Protocol:{protocol:?}, AppProtocol:(*string)(nil), Port:{number}, TargetPort:intstr.IntOrString{{Type:0, IntVal:0, StrVal:\"\"}}, NodePort:0}}"
            );
            errors.push(error);
        }
    }
}

fn traffic(spec: &At<'_>, errors: &mut Errors) {
    let (kind, policy, check) =
        (spec.field("type"), spec.field("externalTrafficPolicy"), spec.field("healthCheckNodePort"));
    let external = matches!(kind.text(), "LoadBalancer" | "NodePort")
        || (kind.text() == "ClusterIP" && !spec.field("externalIPs").is_empty());
    if external {
        errors.one_of_required(&policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.invalid(&policy, "may only be set for externally-accessible services");
    }
    let needs_check = kind.text() == "LoadBalancer" && policy.text() == "Local";
    match (needs_check, check.int().unwrap_or(0)) {
        (false, 0) => {}
        (false, _) => errors
            .invalid(&check, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
        (true, 0) => errors.required(&check, ""),
        (true, port) => errors.all_invalid(&check, names::is_valid_port_number(port)),
    }
    let internal = spec.field("internalTrafficPolicy");
    if kind.text() != "ExternalName" && internal.is_set() {
        errors.one_of(&internal, &["Cluster", "Local"]);
    }
    let distribution = spec.field("trafficDistribution");
    if distribution.is_set() {
        errors.one_of(&distribution, &["PreferClose"]);
    }
}

fn changed_addresses(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    let by_address = |spec: &At<'_>| spec.field("type").text() != "ExternalName";
    if !by_address(&spec) || !by_address(&before) {
        return;
    }
    let (now, then) = (spec.field("clusterIPs"), before.field("clusterIPs"));
    let (first, was) = (now.value[0].as_str().unwrap_or_default(), then.value[0].as_str().unwrap_or_default());
    if !was.is_empty() && first != was {
        let first = now.renamed(now.path.index(0));
        errors.invalid_as(&first, go::strings("string", now.value), "may not change once set");
    }
}
