//! Containers of a pod: names, ports, environment, mounts, probes, resources, security.

use std::collections::BTreeSet;

use machinery::{Value, names};

pub(crate) use super::resources::{is_standard_resource, non_negative_quantity, quantity, resources};
use super::volumes::local_path;
use super::{At, Errors};

/// What containers are checked against.
pub(crate) struct Pod<'a> {
    /// Names of the pod's good volumes.
    pub(crate) volumes: BTreeSet<&'a str>,
    pub(crate) allow_privileged: bool,
}

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(crate) const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `spec.containers`.
pub(crate) fn containers(at: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
        return;
    }
    let mut seen = BTreeSet::new();
    for container in at.items() {
        common(&container, pod, errors);
        let name = container.field("name");
        if !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
        lifecycle_and_probes(&container, errors);
        if container.field("restartPolicy").is_set() {
            errors.forbidden(&container.field("restartPolicy"), "may not be set for non-init containers");
        }
    }
    host_ports(&at.items(), errors);
}

/// `spec.initContainers`; names are shared with the regular ones.
pub(crate) fn init_containers(at: &At<'_>, regular: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let mut seen: BTreeSet<&str> = regular.items().iter().map(|c| c.field("name").text()).collect();
    for container in at.items() {
        common(&container, pod, errors);
        let policy = container.field("restartPolicy");
        let sidecar = policy.text() == "Always";
        if policy.is_set() && !sidecar {
            errors.not_supported(&policy, &["Always"]);
        }
        let name = container.field("name");
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
        host_ports(std::slice::from_ref(&container), errors);
        if sidecar {
            lifecycle_and_probes(&container, errors);
            continue;
        }
        for member in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            let member = container.field(member);
            if member.is_set() {
                errors.forbidden(&member, "may not be set for init containers without restartPolicy=Always");
            }
        }
    }
}

/// `spec.ephemeralContainers`.
pub(crate) fn ephemeral_containers(at: &At<'_>, taken: BTreeSet<&str>, pod: &Pod<'_>, errors: &mut Errors) {
    const FORBIDDEN: [&str; 6] = ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"];
    let mut seen = taken;
    for container in at.items() {
        common(&container, pod, errors);
        let name = container.field("name");
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
        for member in FORBIDDEN {
            let member = container.field(member);
            if !member.is_empty() {
                errors.forbidden(&member, "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn common(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let name = container.field("name");
    if name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.dns_label(&name);
    }
    if container.field("image").is_empty() {
        errors.required(&container.field("image"), "");
    }
    errors.one_of_required(&container.field("terminationMessagePolicy"), &MESSAGE_POLICIES);
    ports(&container.field("ports"), errors);
    env(&container.field("env"), errors);
    env_from(&container.field("envFrom"), errors);
    volume_mounts(&container.field("volumeMounts"), &container.field("volumeDevices"), pod, errors);
    errors.one_of_required(&container.field("imagePullPolicy"), &PULL_POLICIES);
    resources(&container.field("resources"), errors);
    security_context(&container.field("securityContext"), pod, errors);
}

fn ports(at: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in at.items() {
        let name = port.field("name");
        if !name.is_empty() {
            let complaints = names::is_valid_port_name(name.text());
            if !complaints.is_empty() {
                errors.all_invalid(&name, complaints);
            } else if !seen.insert(name.text()) {
                errors.duplicate(&name);
            }
        }
        let number = port.field("containerPort");
        match number.int().unwrap_or(0) {
            0 => errors.required(&number, ""),
            n => errors.all_invalid(&number, names::is_valid_port_number(n)),
        }
        let host = port.field("hostPort");
        if let Some(n) = host.int().filter(|n| *n != 0) {
            errors.all_invalid(&host, names::is_valid_port_number(n));
        }
        errors.one_of_required(&port.field("protocol"), &PROTOCOLS);
    }
}

fn host_ports(containers: &[At<'_>], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in containers.iter().flat_map(|c| c.field("ports").items()) {
        let Some(number) = port.field("hostPort").int().filter(|n| *n != 0) else { continue };
        let (ip, protocol) = (port.field("hostIP").text().to_owned(), port.field("protocol").text().to_owned());
        let text = format!("{protocol}/{ip}/{number}");
        if !seen.insert(text.clone()) {
            let text: Value = text.into();
            errors.duplicate(&At { value: &text, path: port.field("hostPort").path });
        }
    }
}

fn env(at: &At<'_>, errors: &mut Errors) {
    for variable in at.items() {
        let name = variable.field("name");
        if name.is_empty() {
            errors.required(&name, "");
        } else {
            errors.all_invalid(&name, names::is_relaxed_env_var_name(name.text()));
        }
        value_from(&variable, errors);
    }
}

fn value_from(variable: &At<'_>, errors: &mut Errors) {
    let from = variable.field("valueFrom");
    if !from.is_set() {
        return;
    }
    let mut sources = 0;
    for source in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"] {
        let reference = from.field(source);
        if !reference.is_set() {
            continue;
        }
        sources += 1;
        match source {
            "fieldRef" => field_ref(&reference, &ENV_FIELDS, errors),
            "resourceFieldRef" => resource_field_ref(&reference, false, errors),
            _ => key_ref(&reference, errors),
        }
    }
    let empty = At { value: &Value::Null, path: from.path.clone() };
    if sources == 0 {
        errors.invalid(
            &empty,
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        );
    } else if !variable.field("value").is_empty() {
        errors.invalid(&empty, "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(&empty, "may not have more than one field specified at a time");
    }
}

/// A downward API field; `metadata.labels['x']` and `metadata.annotations['x']` are always fine.
pub(crate) fn field_ref(at: &At<'_>, fields: &[&str], errors: &mut Errors) {
    for member in ["apiVersion", "fieldPath"] {
        if at.field(member).is_empty() {
            errors.required(&at.field(member), "");
            return;
        }
    }
    let path = at.field("fieldPath");
    if let Some((base, key)) = path.text().strip_suffix("']").and_then(|t| t.split_once("['")) {
        match base {
            "metadata.annotations" => {
                for complaint in names::is_qualified_name(&key.to_lowercase()) {
                    errors.invalid_value(at, key.to_lowercase(), complaint);
                }
            }
            "metadata.labels" => {
                for complaint in names::is_qualified_name(key) {
                    errors.invalid_value(at, key, complaint);
                }
            }
            _ => errors.invalid_value(at, base, "does not support subscript"),
        }
        return;
    }
    let known = ["metadata.annotations", "metadata.labels"].into_iter().chain(ENV_FIELDS).any(|f| f == path.text());
    if !known {
        let text = path.text();
        errors.invalid(&path, format!("error converting fieldPath: field label not supported: {text}"));
    } else if !fields.contains(&path.text()) {
        errors.not_supported(&path, fields);
    }
}

/// A container's own limits and requests.
pub(crate) fn resource_field_ref(at: &At<'_>, in_volume: bool, errors: &mut Errors) {
    let resource = at.field("resource");
    if in_volume && at.field("containerName").is_empty() {
        errors.required(&at.field("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&resource, "");
    } else if !RESOURCE_FIELDS.contains(&resource.text())
        && !["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.text().starts_with(p))
    {
        errors.not_supported(&resource, &RESOURCE_FIELDS);
    }
}

fn key_ref(at: &At<'_>, errors: &mut Errors) {
    let (name, key) = (at.field("name"), at.field("key"));
    errors.dns_subdomain(&name);
    if key.is_empty() {
        errors.required(&key, "");
    } else {
        errors.all_invalid(&key, names::is_config_map_key(key.text()));
    }
}

fn env_from(at: &At<'_>, errors: &mut Errors) {
    for source in at.items() {
        let prefix = source.field("prefix");
        if !prefix.is_empty() {
            errors.all_invalid(&prefix, names::is_relaxed_env_var_name(prefix.text()));
        }
        let references: Vec<At<'_>> =
            ["configMapRef", "secretRef"].iter().map(|k| source.field(k)).filter(At::is_set).collect();
        for reference in &references {
            let name = reference.field("name");
            if name.is_empty() {
                errors.required(&name, "");
            } else {
                errors.dns_subdomain(&name);
            }
        }
        let empty = At { value: &Value::Null, path: at.path.clone() };
        match references.len() {
            0 => errors.invalid(&empty, "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&empty, "may not have more than one field specified at a time"),
        }
    }
}

fn volume_mounts(at: &At<'_>, devices: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for mount in at.items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.is_empty() {
            errors.required(&name, "");
        }
        if !pod.volumes.contains(name.text()) {
            errors.push(machinery::FieldError::not_found(&name.path, &name.text().into()));
        }
        if path.is_empty() {
            errors.required(&path, "");
        }
        if !seen.insert(path.text()) {
            errors.invalid(&path, "must be unique");
        }
        if devices.items().iter().any(|d| d.field("name").text() == name.text()) {
            errors.invalid(&name, "must not already exist in volumeDevices");
        }
        let (sub, expression) = (mount.field("subPath"), mount.field("subPathExpr"));
        // Upstream names the list, not the mount, in the paths of these.
        if !sub.is_empty() {
            local_path(&At { value: sub.value, path: at.path.child("subPath") }, errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
            }
            local_path(&At { value: expression.value, path: at.path.child("subPathExpr") }, errors);
        }
        let propagation = At { value: mount.field("mountPropagation").value, path: at.path.child("mountPropagation") };
        if propagation.is_set() {
            errors.one_of(&propagation, &["Bidirectional", "HostToContainer", "None"]);
        }
    }
}

fn lifecycle_and_probes(container: &At<'_>, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let hook = container.at(&["lifecycle", hook]);
        if hook.is_set() {
            handler(&hook, errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(name);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, errors);
        for member in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.not_negative(&probe.field(member));
        }
        let grace = probe.field("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|s| s <= 0) {
            errors.invalid(&grace, "must be greater than 0");
        }
        let threshold = probe.field("successThreshold");
        if name == "readinessProbe" {
            if grace.is_set() {
                errors.invalid(&grace, "must not be set for readinessProbes");
            }
        } else if threshold.int().unwrap_or(0) != 1 {
            errors.invalid_value(&threshold, threshold.int().unwrap_or(0), "must be 1");
        }
    }
}

fn handler(at: &At<'_>, errors: &mut Errors) {
    let mut handlers = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = at.field(kind);
        if !action.is_set() {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            errors.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" if action.field("command").is_empty() => errors.required(&action.field("command"), ""),
            "httpGet" => http_get(&action, errors),
            "tcpSocket" | "grpc" => port_or_name(&action.field("port"), errors),
            _ => {}
        }
    }
    if handlers == 0 {
        errors.required(at, "must specify a handler type");
    }
}

fn http_get(at: &At<'_>, errors: &mut Errors) {
    if at.field("path").is_empty() {
        errors.required(&at.field("path"), "");
    }
    port_or_name(&at.field("port"), errors);
    errors.one_of(&at.field("scheme"), &["HTTP", "HTTPS"]);
    for header in at.field("httpHeaders").items() {
        let name = header.field("name").text();
        for complaint in names::is_http_header_name(name) {
            errors.invalid_value(&at.field("httpHeaders"), name, complaint);
        }
    }
}

/// A port by number or by the name it has in the container.
pub(crate) fn port_or_name(at: &At<'_>, errors: &mut Errors) {
    match at.value {
        Value::String(name) => errors.all_invalid(at, names::is_valid_port_name(name)),
        _ => {
            let number = at.int().unwrap_or(0);
            for complaint in names::is_valid_port_number(number) {
                errors.invalid_value(at, number, complaint);
            }
        }
    }
}

fn security_context(at: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    if at.field("privileged").truth() && !pod.allow_privileged {
        errors.forbidden(&at.field("privileged"), "disallowed by cluster policy");
    }
    for id in ["runAsUser", "runAsGroup"] {
        user_id(&at.field(id), errors);
    }
    seccomp_profile(&at.field("seccompProfile"), errors);
    if at.field("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if at.field("privileged").truth() {
            errors.invalid(at, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let added = at.at(&["capabilities", "add"]);
        if added.items().iter().any(|c| c.text() == "CAP_SYS_ADMIN") {
            errors.invalid(at, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

/// User and group numbers.
pub(crate) fn user_id(at: &At<'_>, errors: &mut Errors) {
    let max = i64::from(i32::MAX);
    if at.int().is_some_and(|n| !(0..=max).contains(&n)) {
        errors.invalid(at, names::range_error(0, max));
    }
}

/// `seccompProfile` of pods and containers.
pub(crate) fn seccomp_profile(at: &At<'_>, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    let (kind, local) = (at.field("type"), at.field("localhostProfile"));
    match kind.text() {
        "" => errors.required(&kind, "type is required when seccompProfile is set"),
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        _ => errors.not_supported(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    if kind.text() == "Localhost" {
        if local.is_set() {
            local_path(&local, errors);
        } else {
            errors.required(&local, "must be set when seccomp type is Localhost");
        }
    } else if local.is_set() {
        errors.invalid(&At { value: at.value, path: local.path }, "can only be set when seccomp type is Localhost");
    }
}
