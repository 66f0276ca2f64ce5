//! Services, endpoints, ingresses, policies.

use std::collections::BTreeSet;

use machinery::Value;

use super::Printed;

/// Addresses, ports and hosts beyond this many are counted only.
const SHOWN_MAX: usize = 3;

pub(super) fn cells(kind: &str, p: Printed<'_>) -> Option<Vec<Value>> {
    Some(match kind {
        "Service" => service(p),
        "Endpoints" => vec![p.name(), endpoints(p).into(), p.age()],
        "EndpointSlice" => {
            let ports = p.items(&["ports"]).iter().map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            });
            let addresses = p.items(&["endpoints"]).iter().flat_map(|e| e["addresses"].items());
            let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
            let kind = p.text(&["addressType"]).into();
            vec![p.name(), kind, listed(ports.collect(), "<unset>"), listed(addresses.collect(), "<unset>"), p.age()]
        }
        "Ingress" => ingress(p),
        "IngressClass" => {
            let parameters = &p.object["spec"]["parameters"];
            let text = if parameters.is_null() {
                "<none>".to_owned()
            } else {
                let group = parameters["apiGroup"].as_str().map(|g| format!(".{g}")).unwrap_or_default();
                format!("{}{group}/{}", parameters.str_at(&["kind"]), parameters.str_at(&["name"]))
            };
            vec![p.name(), p.text(&["spec", "controller"]).into(), text.into(), p.age()]
        }
        "NetworkPolicy" => vec![p.name(), p.selector(&["spec", "podSelector"]), p.age()],
        "ServiceCIDR" => {
            let cidrs: Vec<&str> = p.items(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
            vec![p.name(), cidrs.join(",").into(), p.age()]
        }
        "IPAddress" => {
            let parent = &p.object["spec"]["parentRef"];
            let (group, namespace) = (parent.str_at(&["group"]), parent.str_at(&["namespace"]));
            let mut text = parent.str_at(&["resource"]).to_owned();
            if !group.is_empty() {
                text = format!("{text}.{group}");
            }
            text = text.to_lowercase();
            if !namespace.is_empty() {
                text = format!("{text}/{namespace}");
            }
            let text = if parent.is_null() { "<none>".into() } else { format!("{text}/{}", parent.str_at(&["name"])) };
            vec![p.name(), text.into(), p.age()]
        }
        _ => return None,
    })
}

fn listed(all: Vec<String>, unset: &str) -> Value {
    if all.is_empty() {
        return unset.into();
    }
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN_MAX { format!("{shown} + {} more...", all.len() - SHOWN_MAX).into() } else { shown.into() }
}

fn load_balancer(p: Printed<'_>) -> String {
    let points = p.items(&["status", "loadBalancer", "ingress"]).iter();
    let name = |point: &Value| match point.str_at(&["ip"]) {
        "" => point.str_at(&["hostname"]).to_owned(),
        ip => ip.to_owned(),
    };
    let names: BTreeSet<String> = points.map(name).filter(|n| !n.is_empty()).collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

fn service(p: Printed<'_>) -> Vec<Value> {
    let kind = p.text(&["spec", "type"]);
    let external: Vec<&str> = p.items(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let shown = match kind {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let own = load_balancer(p);
            let all: Vec<&str> = [own.as_str()].into_iter().filter(|t| !t.is_empty()).chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => p.text(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    };
    let port = |port: &Value| {
        let (number, node) = (port["port"].as_i64().unwrap_or(0), port["nodePort"].as_i64().unwrap_or(0));
        let protocol = port.str_at(&["protocol"]);
        if node > 0 { format!("{number}:{node}/{protocol}") } else { format!("{number}/{protocol}") }
    };
    let ports: Vec<String> = p.items(&["spec", "ports"]).iter().map(port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    let address = p.items(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("<none>");
    vec![p.name(), kind.into(), address.into(), shown.into(), ports.into(), p.age(), p.label_map(&["spec", "selector"])]
}

fn endpoints(p: Printed<'_>) -> String {
    let subsets = p.items(&["subsets"]);
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all: Vec<String> = Vec::new();
    for subset in subsets {
        let addresses: Vec<&str> = subset["addresses"].items().iter().map(|a| a.str_at(&["ip"])).collect();
        if subset["ports"].items().is_empty() {
            all.extend(addresses.iter().map(|&ip| ip.to_owned()));
        }
        for port in subset["ports"].items() {
            let number = port["port"].as_i64().unwrap_or(0);
            let join = |ip: &&str| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") };
            all.extend(addresses.iter().map(join));
        }
    }
    listed(all, "").as_str().unwrap_or_default().to_owned()
}

fn ingress(p: Printed<'_>) -> Vec<Value> {
    let rules = p.items(&["spec", "rules"]);
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == SHOWN_MAX;
        if !more && !rule.str_at(&["host"]).is_empty() {
            hosts.push(rule.str_at(&["host"]));
        }
    }
    let mut text = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
    if more {
        text = format!("{text} + {} more...", rules.len() - SHOWN_MAX);
    }
    let ports = if p.items(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    let class = p.text_or(&["spec", "ingressClassName"], "<none>");
    vec![p.name(), class, text.into(), load_balancer(p).into(), ports.into(), p.age()]
}
