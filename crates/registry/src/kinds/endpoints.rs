//! Endpoints and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use machinery::{FieldError, Value, names};

use super::service::valid_ip;
use crate::strategy::{Generation, Strategy};
use crate::validation::addresses::sloppy_ip;
use crate::validation::{At, Errors};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Bounds of an endpoint slice.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

pub(crate) static ENDPOINTS: Strategy = Strategy {
    create_on_update: true,
    validate: |at, _, errors| {
        for subset in at.field("subsets").items() {
            if subset.field("addresses").is_empty() && subset.field("notReadyAddresses").is_empty() {
                errors.required(&subset, "must specify `addresses` or `notReadyAddresses`");
            }
            for address in subset.field("addresses").items().iter().chain(&subset.field("notReadyAddresses").items()) {
                valid_ip(&address.field("ip"), errors);
                special_ip(&address.field("ip"), errors);
                if !address.field("hostname").is_empty() {
                    errors.dns_label(&address.field("hostname"));
                }
                if address.field("nodeName").is_set() {
                    errors.dns_subdomain(&address.field("nodeName"));
                }
            }
            let ports = subset.field("ports").items();
            for port in &ports {
                endpoint_port(port, ports.len() > 1, errors);
            }
        }
    },
    ..Strategy::PLAIN
};

fn endpoint_port(port: &At<'_>, require_name: bool, errors: &mut Errors) {
    let (name, number) = (port.field("name"), port.field("port"));
    if !name.is_empty() {
        errors.dns_label(&name);
    } else if require_name {
        errors.required(&name, "");
    }
    for complaint in names::is_valid_port_number(number.int().unwrap_or(0)) {
        errors.invalid_value(&number, number.int().unwrap_or(0), complaint);
    }
    errors.one_of_required(&port.field("protocol"), &PROTOCOLS);
    app_protocol(port, errors);
}

fn app_protocol(port: &At<'_>, errors: &mut Errors) {
    let protocol = port.field("appProtocol");
    if protocol.is_set() {
        errors.all_invalid(&protocol, names::is_qualified_name(protocol.text()));
    }
}

/// Addresses that no endpoint may have: loopback and link-local ones would reach the node itself.
pub(crate) fn special_ip(at: &At<'_>, errors: &mut Errors) {
    let Some(ip) = sloppy_ip(at.text()) else {
        errors.invalid(at, "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(at, format!("may not be unspecified ({})", at.text()));
    }
    let complaint = match ip {
        _ if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        IpAddr::V4(ip) if ip.is_link_local() => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80 => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V4(ip) if ip.octets()[..3] == [224, 0, 0] => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        IpAddr::V6(ip) if ip.segments()[0] == 0xff02 => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return,
    };
    errors.invalid(at, complaint);
}

pub(crate) static SLICE: Strategy = Strategy {
    generation: Generation::Content,
    validate: |at, _, errors| slice(at, errors),
    validate_update: Some(|new, old, _, errors| {
        slice(new, errors);
        errors.immutable(&new.field("addressType"), &old.field("addressType"));
    }),
    ..Strategy::PLAIN
};

fn slice(at: &At<'_>, errors: &mut Errors) {
    let kind = at.field("addressType");
    errors.one_of_required(&kind, &["FQDN", "IPv4", "IPv6"]);
    let ports = at.field("ports");
    if ports.items().len() > PORTS_MAX {
        errors.push(FieldError::too_many(&ports.path, ports.items().len(), PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let (name, protocol) = (port.field("name"), port.field("protocol"));
        if !name.is_empty() {
            errors.dns_label(&name);
        }
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(&name.path, &name.text().into()));
        }
        errors.one_of_required(&protocol, &PROTOCOLS);
        app_protocol(&port, errors);
    }
    let endpoints = at.field("endpoints");
    if endpoints.items().len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&endpoints.path, endpoints.items().len(), ENDPOINTS_MAX));
        return;
    }
    endpoints.items().iter().for_each(|endpoint| slice_endpoint(endpoint, kind.text(), errors));
}

fn slice_endpoint(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let addresses = at.field("addresses");
    if addresses.is_empty() {
        errors.required(&addresses, "must contain at least 1 address");
    } else if addresses.items().len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(&addresses.path, addresses.items().len(), ADDRESSES_MAX));
    }
    for address in addresses.items() {
        match (kind, sloppy_ip(address.text())) {
            ("IPv4" | "IPv6", None) => valid_ip(&address, errors),
            ("IPv4", Some(IpAddr::V6(_))) => {
                errors.invalid(&address.renamed(addresses.path.clone()), "must be an IPv4 address");
                special_ip(&address, errors);
            }
            ("IPv6", Some(IpAddr::V4(_))) => {
                errors.invalid(&address.renamed(addresses.path.clone()), "must be an IPv6 address");
                special_ip(&address, errors);
            }
            ("IPv4" | "IPv6", Some(_)) => special_ip(&address, errors),
            ("FQDN", _) => errors.dns_subdomain(&address),
            _ => {}
        }
    }
    for (member, value) in at.value.members().filter(|(m, v)| matches!(*m, "hostname" | "nodeName") && !v.is_null()) {
        let member = At { value, path: at.path.child(member) };
        match value {
            Value::String(_) if member.path.to_string().ends_with("hostname") => errors.dns_label(&member),
            _ => errors.dns_subdomain(&member),
        }
    }
    hints(&at.at(&["hints", "forZones"]), names::is_valid_label_value, errors);
    hints(&at.at(&["hints", "forNodes"]), names::is_dns1123_subdomain, errors);
}

fn hints(at: &At<'_>, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    if at.items().len() > HINTS_MAX {
        errors.push(FieldError::too_many(&at.path, at.items().len(), HINTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for name in at.items().iter().map(|hint| hint.field("name")) {
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(&name.path, &name.text().into()));
        }
        errors.all_invalid(&name, rule(name.text()));
    }
}
