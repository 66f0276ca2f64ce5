//! A `core/v1 PodSpec`, in a pod or in a template.

use std::collections::BTreeSet;
use std::net::IpAddr;

use machinery::names;

use super::container::{self, Pod};
use super::{At, Errors, labels, metadata, scheduling, volumes};
use crate::context::Context;

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// A pod spec. `is_pod` is false for templates.
pub(crate) fn pod_spec(at: &At<'_>, is_pod: bool, cx: &Context, errors: &mut Errors) {
    if !at.field("terminationGracePeriodSeconds").is_set() {
        errors.required(&at.field("terminationGracePeriodSeconds"), "");
    }
    let good = volumes::volumes(&at.field("volumes"), errors);
    let pod = Pod { volumes: good, allow_privileged: cx.allow_privileged };
    let (regular, init) = (at.field("containers"), at.field("initContainers"));
    container::containers(&regular, &pod, errors);
    container::init_containers(&init, &regular, &pod, errors);
    let names_taken =
        |list: &At<'_>| -> Vec<String> { list.items().iter().map(|c| c.field("name").text().to_owned()).collect() };
    let taken: Vec<String> = names_taken(&regular).into_iter().chain(names_taken(&init)).collect();
    let taken: BTreeSet<&str> = taken.iter().map(String::as_str).collect();
    container::ephemeral_containers(&at.field("ephemeralContainers"), taken, &pod, errors);
    if at.field("hostNetwork").truth() {
        host_network_ports(&regular, is_pod, errors);
    }
    errors.one_of_required(&at.field("restartPolicy"), &RESTART_POLICIES);
    errors.one_of_required(&at.field("dnsPolicy"), &DNS_POLICIES);
    labels(&at.field("nodeSelector"), errors);
    security_context(&at.field("securityContext"), errors);
    scheduling::affinity(&at.field("affinity"), errors);
    dns_config(at, errors);
    gates(at, errors);
    scheduling::topology_spread(&at.field("topologySpreadConstraints"), errors);
    names_and_limits(at, errors);
    scheduling::tolerations(&at.field("tolerations"), errors);
    for alias in at.field("hostAliases").items() {
        let ip = alias.field("ip");
        if ip.text().parse::<IpAddr>().is_err() {
            errors.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        alias.field("hostnames").items().iter().for_each(|host| errors.dns_subdomain(host));
    }
    for member in ["priorityClassName", "runtimeClassName"] {
        let name = at.field(member);
        if !name.is_empty() {
            errors.dns_subdomain(&name);
        }
    }
    let preemption = at.field("preemptionPolicy");
    if preemption.is_set() {
        errors.one_of_required(&preemption, &["PreemptLowerPriority", "Never"]);
    }
    let overhead = at.field("overhead");
    for (name, _) in overhead.entries() {
        // Upstream checks it as if it were a container's limits.
        let amount = overhead.field(name);
        container::non_negative_quantity(&amount.renamed(overhead.path.child("limits").key(name)), errors);
    }
}

fn host_network_ports(containers: &At<'_>, is_pod: bool, errors: &mut Errors) {
    for port in containers.items().iter().flat_map(|c| c.field("ports").items()) {
        let (host, own) = (port.field("hostPort"), port.field("containerPort"));
        let number = host.int().unwrap_or(0);
        if (is_pod || number != 0) && number != own.int().unwrap_or(0) {
            errors.invalid_value(&host, number, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn security_context(at: &At<'_>, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        container::user_id(&at.field(id), errors);
    }
    for group in at.field("supplementalGroups").items() {
        container::user_id(&group, errors);
    }
    container::seccomp_profile(&at.field("seccompProfile"), errors);
    let policy = at.field("fsGroupChangePolicy");
    if policy.is_set() {
        errors.one_of(&policy, &["Always", "OnRootMismatch"]);
    }
    for sysctl in at.field("sysctls").items() {
        if sysctl.field("name").is_empty() {
            errors.required(&sysctl.field("name"), "");
        }
    }
}

/// More name servers than this are refused.
const NAME_SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

fn dns_config(at: &At<'_>, errors: &mut Errors) {
    let config = at.field("dnsConfig");
    let servers = config.field("nameservers");
    if at.field("dnsPolicy").text() == "None" {
        if !config.is_set() {
            errors.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errors.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if servers.items().len() > NAME_SERVERS_MAX {
        errors.invalid(&servers, format!("must not have more than {NAME_SERVERS_MAX} nameservers"));
    }
    for server in servers.items() {
        if server.text().parse::<IpAddr>().is_err() {
            errors.invalid(&server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    let searches = config.field("searches");
    if searches.items().len() > SEARCHES_MAX {
        errors.invalid(&searches, format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    for (i, option) in config.field("options").items().iter().enumerate() {
        if option.field("name").is_empty() {
            let path = config.path.child("options").index(i);
            errors.push(machinery::FieldError::required(&path, "must not be empty"));
        }
    }
}

fn gates(at: &At<'_>, errors: &mut Errors) {
    for gate in at.field("readinessGates").items() {
        let kind = gate.field("conditionType");
        errors.all_invalid(&kind, names::is_qualified_name(kind.text()));
    }
    let mut seen = BTreeSet::new();
    for gate in at.field("schedulingGates").items() {
        let name = gate.field("name");
        for complaint in names::is_qualified_name(name.text()) {
            errors.invalid_value(&gate, name.text(), complaint);
        }
        if !seen.insert(name.text()) {
            let value = machinery::Value::from(name.text());
            errors.duplicate(&At { value: &value, path: gate.path.clone() });
        }
    }
}

fn names_and_limits(at: &At<'_>, errors: &mut Errors) {
    for member in ["serviceAccountName", "nodeName"] {
        let name = at.field(member);
        if !name.is_empty() {
            errors.dns_subdomain(&name);
        }
    }
    let deadline = at.field("activeDeadlineSeconds");
    let max = i64::from(i32::MAX);
    if deadline.int().is_some_and(|s| !(1..=max).contains(&s)) {
        errors.invalid(&deadline, names::range_error(1, max));
    }
    for member in ["hostname", "subdomain"] {
        let name = at.field(member);
        if !name.is_empty() {
            errors.dns_label(&name);
        }
    }
}

/// A `core/v1 PodTemplateSpec`.
pub(crate) fn template(at: &At<'_>, cx: &Context, errors: &mut Errors) {
    labels(&at.at(&["metadata", "labels"]).renamed(at.path.child("labels")), errors);
    metadata::annotations(&at.at(&["metadata", "annotations"]).renamed(at.path.child("annotations")), errors);
    pod_spec(&at.field("spec"), false, cx, errors);
    let ephemeral = at.at(&["spec", "ephemeralContainers"]);
    if !ephemeral.is_empty() {
        errors.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}
