//! Ingresses, ingress classes and network policies.

use std::net::IpAddr;

use ipnet::IpNet;
use machinery::{FieldError, Value, names};

use crate::strategy::{Generation, Strategy};
use crate::validation::addresses::CIDR;
use crate::validation::{At, Errors, go, label_selector};

pub(crate) static INGRESS: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, _, errors| {
        ingress(&at.field("spec"), errors);
        let class = at.at(&["spec", "ingressClassName"]);
        let annotation = machinery::meta::annotation(at.value, "kubernetes.io/ingress.class");
        if let Some(old) = annotation.filter(|a| class.is_set() && *a != class.text()) {
            let path = machinery::FieldPath::new("annotations").child("kubernetes.io/ingress.class");
            errors.push(FieldError::invalid(
                &path,
                &old.into(),
                "must match `ingressClassName` when both are specified",
            ));
        }
    },
    validate_update: Some(|new, _, _, errors| ingress(&new.field("spec"), errors)),
    ..Strategy::PLAIN
};

pub(crate) static INGRESS_CLASS: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, _, errors| ingress_class(&at.field("spec"), errors),
    validate_update: Some(|new, old, _, errors| {
        errors.immutable(&new.at(&["spec", "controller"]), &old.at(&["spec", "controller"]));
        ingress_class(&new.field("spec"), errors);
    }),
    ..Strategy::PLAIN
};

/// Longest name of an ingress controller.
const CONTROLLER_BYTES_MAX: usize = 250;

pub(crate) static NETWORK_POLICY: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, _, errors| network_policy(&at.field("spec"), errors),
    ..Strategy::PLAIN
};

fn ingress_class(spec: &At<'_>, errors: &mut Errors) {
    let (controller, parameters) = (spec.field("controller"), spec.field("parameters"));
    if controller.text().len() > CONTROLLER_BYTES_MAX {
        errors.push(FieldError::too_long(&controller.path, CONTROLLER_BYTES_MAX));
    }
    domain_prefixed_path(&controller, errors);
    if !parameters.is_set() {
        return;
    }
    typed_reference(&parameters, errors);
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    match scope.text() {
        "" => errors.required(&scope, ""),
        "Namespace" if namespace.is_empty() => {
            errors.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => errors.dns_label(&namespace),
        "Cluster" if namespace.is_set() => errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"),
        "Cluster" => {}
        _ => errors.not_supported(&scope, &["Cluster", "Namespace"]),
    }
}

/// Group, kind and name of an object of any kind.
fn typed_reference(at: &At<'_>, errors: &mut Errors) {
    let group = at.field("apiGroup");
    if group.is_set() {
        errors.dns_subdomain(&group);
    }
    for (member, text) in [("kind", "kind is required"), ("name", "name is required")] {
        let member = at.field(member);
        if member.is_empty() {
            errors.required(&member, text);
        } else {
            errors.all_invalid(&member, names::is_valid_path_segment_name(member.text()));
        }
    }
}

/// A path that begins with a domain, like `example.com/name`.
pub(super) fn domain_prefixed_path(at: &At<'_>, errors: &mut Errors) {
    let path_byte = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    match at.text().split_once('/') {
        _ if at.is_empty() => errors.required(at, ""),
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            for complaint in names::is_dns1123_subdomain(domain) {
                errors.invalid_value(at, domain, complaint);
            }
            if !path.bytes().all(path_byte) {
                let text = names::regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
                errors.invalid_value(at, path, text);
            }
        }
        _ => errors.invalid(at, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

fn ingress(spec: &At<'_>, errors: &mut Errors) {
    let (rules, default) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.is_empty() && !default.is_set() {
        let text = if rules.is_set() { "[]networking.IngressRule{}" } else { "[]networking.IngressRule(nil)" };
        errors.invalid_as(spec, text.to_owned(), "either `defaultBackend` or `rules` must be specified");
    }
    if default.is_set() {
        backend(&default, errors);
    }
    for rule in rules.items() {
        host(&rule.field("host"), errors);
        let http = rule.field("http");
        if !http.is_set() {
            continue;
        }
        if http.field("paths").is_empty() {
            errors.required(&http.field("paths"), "");
        }
        http.field("paths").items().iter().for_each(|path| http_path(path, errors));
    }
    for tls in spec.field("tls").items() {
        tls.field("hosts").items().iter().for_each(|name| host_name(name, errors));
        let secret = tls.field("secretName");
        if !secret.is_empty() {
            errors.dns_subdomain(&secret);
        }
    }
    let class = spec.field("ingressClassName");
    if class.is_set() {
        errors.dns_subdomain(&class);
    }
}

fn host(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        return;
    }
    if at.text().parse::<IpAddr>().is_ok() {
        errors.invalid(at, "must be a DNS name, not an IP address");
    }
    host_name(at, errors);
}

fn host_name(at: &At<'_>, errors: &mut Errors) {
    if at.text().contains('*') {
        errors.all_invalid(at, names::is_wildcard_dns1123_subdomain(at.text()));
    } else {
        errors.dns_subdomain(at);
    }
}

fn http_path(at: &At<'_>, errors: &mut Errors) {
    const INVALID: [&str; 7] = ["//", "/./", "/../", "%2f", "%2F", "/..", "/."];
    let (kind, path) = (at.field("pathType"), at.field("path"));
    if !kind.is_set() {
        errors.required(&kind, "pathType must be specified");
        return;
    }
    match kind.text() {
        "Exact" | "Prefix" => {
            if !path.text().starts_with('/') {
                errors.invalid(&path, "must be an absolute path");
            }
            for sequence in INVALID.iter().take(5).filter(|s| path.text().contains(**s)) {
                errors.invalid(&path, format!("must not contain '{sequence}'"));
            }
            for suffix in INVALID.iter().skip(5).filter(|s| path.text().ends_with(**s)) {
                errors.invalid(&path, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.text().starts_with('/') {
                errors.invalid(&path, "must be an absolute path");
            }
        }
        _ => errors.not_supported(&kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&at.field("backend"), errors);
}

fn backend(at: &At<'_>, errors: &mut Errors) {
    let (resource, service) = (at.field("resource"), at.field("service"));
    let empty = At { value: &Value::Null, path: at.path.clone() };
    match (resource.is_set(), service.is_set()) {
        (true, true) => errors.invalid(&empty, "cannot set both resource and service backends"),
        (false, false) => errors.invalid(&empty, "resource or service backend is required"),
        (true, false) => typed_reference(&resource, errors),
        (false, true) => {
            let name = service.field("name");
            if name.is_empty() {
                errors.required(&name, "");
            } else {
                errors.all_invalid(&name, names::is_dns1035_label(name.text()));
            }
            let (named, number) = (service.at(&["port", "name"]), service.at(&["port", "number"]));
            match (!named.is_empty(), number.int().filter(|n| *n != 0)) {
                (true, Some(_)) => errors.invalid(&empty, "cannot set both port name & port number"),
                (true, None) => errors.all_invalid(&named, names::is_valid_port_name(named.text())),
                (false, Some(n)) => errors.all_invalid(&number, names::is_valid_port_number(n)),
                (false, None) => errors.required(at, "port name or number is required"),
            }
        }
    }
}

fn network_policy(spec: &At<'_>, errors: &mut Errors) {
    label_selector(&spec.field("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            rule.field("ports").items().iter().for_each(|port| policy_port(port, errors));
            rule.field(peers).items().iter().for_each(|peer| policy_peer(peer, errors));
        }
    }
    let types = spec.field("policyTypes");
    if types.items().len() > 2 {
        let shown = go::strings("networking.PolicyType", types.value);
        errors.invalid_as(&types, shown, "may not specify more than two policyTypes");
        return;
    }
    types.items().iter().for_each(|kind| errors.one_of(kind, &["Ingress", "Egress"]));
}

fn policy_port(at: &At<'_>, errors: &mut Errors) {
    let (protocol, port, end) = (at.field("protocol"), at.field("port"), at.field("endPort"));
    if protocol.is_set() {
        errors.one_of(&protocol, &["TCP", "UDP", "SCTP"]);
    }
    match port.value {
        Value::Null if end.is_set() => errors.invalid(&end, "may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(name) => {
            if end.is_set() {
                errors.invalid(&end, "may not be specified when `port` is non-numeric");
            }
            errors.all_invalid(&port, names::is_valid_port_name(name));
        }
        _ => {
            let number = port.int().unwrap_or(0);
            errors.all_invalid(&port, names::is_valid_port_number(number));
            if let Some(last) = end.int() {
                if last < number {
                    errors.invalid_value(&end, number, "must be greater than or equal to `port`");
                }
                errors.all_invalid(&end, names::is_valid_port_number(last));
            }
        }
    }
}

fn policy_peer(at: &At<'_>, errors: &mut Errors) {
    let mut peers = 0;
    for member in ["podSelector", "namespaceSelector"] {
        let selector = at.field(member);
        if selector.is_set() {
            peers += 1;
            label_selector(&selector, errors);
        }
    }
    let block = at.field("ipBlock");
    if block.is_set() {
        peers += 1;
        ip_block(&block, errors);
    }
    if peers == 0 {
        errors.required(at, "must specify a peer");
    } else if peers > 1 && block.is_set() {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(at: &At<'_>, errors: &mut Errors) {
    let cidr = at.field("cidr");
    if cidr.is_empty() {
        errors.required(&cidr, "");
        return;
    }
    let Ok(net) = cidr.text().parse::<IpNet>() else {
        errors.invalid(&cidr, CIDR);
        return;
    };
    for except in at.field("except").items() {
        match except.text().parse::<IpNet>() {
            Err(_) => errors.invalid(&except, CIDR),
            Ok(inner) if !net.contains(&inner.addr()) || net.prefix_len() >= inner.prefix_len() => {
                errors.invalid(&except, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}
