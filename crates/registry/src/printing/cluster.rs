//! Nodes, namespaces, storage, access, events and the rest.

use std::collections::BTreeSet;

use machinery::{Value, meta};

use super::{Printed, human_duration};

pub(super) fn cells(kind: &str, p: Printed<'_>) -> Option<Vec<Value>> {
    let text = |path: &[&str]| Value::from(p.text(path));
    Some(match kind {
        "Node" => node(p),
        "Namespace" => vec![p.name(), text(&["status", "phase"]), p.age()],
        "Secret" => vec![p.name(), text(&["type"]), members(p, "data").into(), p.age()],
        "ConfigMap" => vec![p.name(), (members(p, "data") + members(p, "binaryData")).into(), p.age()],
        "ServiceAccount" => vec![p.name(), p.items(&["secrets"]).len().into(), p.age()],
        "PersistentVolume" => volume(p),
        "PersistentVolumeClaim" => claim(p),
        "StorageClass" => storage_class(p),
        "VolumeAttributesClass" => {
            let annotation = "storageclass.kubernetes.io/is-default-class";
            vec![default_name(p, &[annotation]), text(&["driverName"]), p.age()]
        }
        "Event" => event(p),
        "RoleBinding" | "ClusterRoleBinding" => binding(p),
        "CertificateSigningRequest" => signing_request(p),
        "ClusterTrustBundle" => vec![p.name(), p.text_or(&["spec", "signerName"], "<none>")],
        "ComponentStatus" => component_status(p),
        "ResourceQuota" => quota(p),
        "Lease" => vec![p.name(), text(&["spec", "holderIdentity"]), p.age()],
        "LeaseCandidate" => {
            let spec = |key: &str| text(&["spec", key]);
            vec![p.name(), spec("leaseName"), spec("binaryVersion"), spec("emulationVersion"), p.age()]
        }
        "PriorityClass" => {
            let policy = text(&["preemptionPolicy"]);
            vec![p.name(), p.int(&["value"]).into(), p.flag(&["globalDefault"], false), p.age(), policy]
        }
        "RuntimeClass" => vec![p.name(), text(&["handler"]), p.age()],
        "CSINode" => vec![p.name(), p.items(&["spec", "drivers"]).len().into(), p.age()],
        "CSIDriver" => csi_driver(p),
        "VolumeAttachment" => {
            let volume = text(&["spec", "source", "persistentVolumeName"]);
            let attached = p.flag(&["status", "attached"], false);
            vec![p.name(), text(&["spec", "attacher"]), volume, text(&["spec", "nodeName"]), attached, p.age()]
        }
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            vec![p.name(), p.items(&["webhooks"]).len().into(), p.age()]
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            let list = if kind.starts_with('V') { "validations" } else { "mutations" };
            let param = &p.object["spec"]["paramKind"];
            let param = match param {
                Value::Null => "<unset>".to_owned(),
                _ => format!("{}/{}", param.str_at(&["apiVersion"]), param.str_at(&["kind"])),
            };
            vec![p.name(), p.items(&["spec", list]).len().into(), param.into(), p.age()]
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            vec![p.name(), text(&["spec", "policyName"]), param_ref(p).into(), p.age()]
        }
        "FlowSchema" => flow_schema(p),
        "PriorityLevelConfiguration" => priority_level(p),
        "APIService" => api_service(p),
        "CustomResourceDefinition" => vec![p.name(), text(&["metadata", "creationTimestamp"])],
        _ => return devices(kind, p),
    })
}

/// Dynamic resource allocation.
fn devices(kind: &str, p: Printed<'_>) -> Option<Vec<Value>> {
    let text = |path: &[&str]| Value::from(p.text(path));
    Some(match kind {
        "DeviceClass" | "ResourceClaimTemplate" => vec![p.name(), p.age()],
        "ResourceClaim" => vec![p.name(), claim_state(p).into(), p.age()],
        "ResourceSlice" => {
            let spec = |path: &[&str]| text(path);
            vec![
                p.name(),
                spec(&["spec", "nodeName"]),
                spec(&["spec", "driver"]),
                spec(&["spec", "pool", "name"]),
                p.age(),
            ]
        }
        _ => return None,
    })
}

fn members(p: Printed<'_>, key: &str) -> usize {
    p.object[key].as_object().map_or(0, machinery::Object::len)
}

fn node(p: Printed<'_>) -> Vec<Value> {
    let mut status = match p.condition("Ready").map(|c| c.str_at(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if p.object["spec"]["unschedulable"].as_bool() == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (key, value) in p.object["metadata"]["labels"].members() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.insert(role);
        } else if let Some(role) = value.as_str().filter(|r| key == "kubernetes.io/role" && !r.is_empty()) {
            roles.insert(role);
        }
    }
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") };
    let address = |kind: &str| {
        let found = p.items(&["status", "addresses"]).iter().find(|a| a.str_at(&["type"]) == kind);
        Value::from(found.map_or("<none>", |a| a.str_at(&["address"])))
    };
    let info = |key: &'static str| p.text_or(&["status", "nodeInfo", key], "<unknown>");
    vec![
        p.name(),
        status.into(),
        roles.into(),
        p.age(),
        p.text(&["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn access_modes(list: &Value) -> Value {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| list.items().iter().any(|m| m.as_str() == Some(mode));
    known.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",").into()
}

fn phase(p: Printed<'_>) -> Value {
    if meta::is_terminating(p.object) { "Terminating".into() } else { p.text(&["status", "phase"]).into() }
}

/// The class a deprecated annotation names, else the field's.
fn class(p: Printed<'_>) -> Value {
    let old = meta::annotation(p.object, "volume.beta.kubernetes.io/storage-class");
    old.map_or_else(|| p.text(&["spec", "storageClassName"]).into(), Value::from)
}

fn volume(p: Printed<'_>) -> Vec<Value> {
    let claim = &p.object["spec"]["claimRef"];
    let claim = match claim {
        Value::Null => String::new(),
        _ => format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])),
    };
    vec![
        p.name(),
        p.text_or(&["spec", "capacity", "storage"], "0"),
        access_modes(&p.object["spec"]["accessModes"]),
        p.text(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(p),
        claim.into(),
        class(p),
        p.text_or(&["spec", "volumeAttributesClassName"], "<unset>"),
        p.text(&["status", "reason"]).into(),
        p.age(),
        p.text_or(&["spec", "volumeMode"], "<unset>"),
    ]
}

fn claim(p: Printed<'_>) -> Vec<Value> {
    let bound = !p.text(&["spec", "volumeName"]).is_empty();
    let capacity = if bound { p.text_or(&["status", "capacity", "storage"], "0") } else { "".into() };
    let modes = if bound { access_modes(&p.object["status"]["accessModes"]) } else { "".into() };
    vec![
        p.name(),
        phase(p),
        p.text(&["spec", "volumeName"]).into(),
        capacity,
        modes,
        class(p),
        p.text_or(&["spec", "volumeAttributesClassName"], "<unset>"),
        p.age(),
        p.text_or(&["spec", "volumeMode"], "<unset>"),
    ]
}

fn default_name(p: Printed<'_>, annotations: &[&str]) -> Value {
    let is_default = annotations.iter().any(|a| meta::annotation(p.object, a) == Some("true"));
    let name = meta::name(p.object);
    if is_default { format!("{name} (default)").into() } else { name.into() }
}

fn storage_class(p: Printed<'_>) -> Vec<Value> {
    let annotations =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    vec![
        default_name(p, &annotations),
        p.text(&["provisioner"]).into(),
        p.text_or(&["reclaimPolicy"], "Delete"),
        p.text_or(&["volumeBindingMode"], "Immediate"),
        p.flag(&["allowVolumeExpansion"], false),
        p.age(),
    ]
}

fn event(p: Printed<'_>) -> Vec<Value> {
    let since = |path: &[&str]| (!p.text(path).is_empty()).then(|| p.since(path));
    let first = since(&["firstTimestamp"]).unwrap_or_else(|| p.since(&["eventTime"]));
    let mut last = since(&["lastTimestamp"]).unwrap_or_else(|| first.clone());
    let mut count = p.int(&["count"]).max(1);
    if !p.object["series"].is_null() {
        last = p.since(&["series", "lastObservedTime"]);
        count = p.int(&["series", "count"]);
    }
    let kind = p.text(&["involvedObject", "kind"]).to_lowercase();
    let target = match p.text(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let first_of =
        |a: &[&str], b: &[&str]| if p.text(a).is_empty() { p.text(b).to_owned() } else { p.text(a).to_owned() };
    let mut source = first_of(&["source", "component"], &["reportingComponent"]);
    let instance = first_of(&["source", "host"], &["reportingInstance"]);
    if !instance.is_empty() {
        source = format!("{source}, {instance}");
    }
    vec![
        last.into(),
        p.text(&["type"]).into(),
        p.text(&["reason"]).into(),
        target.into(),
        p.text(&["involvedObject", "fieldPath"]).into(),
        source.into(),
        p.text(&["message"]).trim().into(),
        first.into(),
        count.into(),
        p.name(),
    ]
}

fn binding(p: Printed<'_>) -> Vec<Value> {
    let role = format!("{}/{}", p.text(&["roleRef", "kind"]), p.text(&["roleRef", "name"]));
    let of = |kind: &str| -> Value {
        let subjects = p.items(&["subjects"]).iter().filter(|s| s.str_at(&["kind"]) == kind);
        let name = |s: &Value| match s.str_at(&["namespace"]) {
            namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                format!("{namespace}/{}", s.str_at(&["name"]))
            }
            _ => s.str_at(&["name"]).to_owned(),
        };
        subjects.map(name).collect::<Vec<_>>().join(", ").into()
    };
    vec![p.name(), role.into(), p.age(), of("User"), of("Group"), of("ServiceAccount")]
}

fn signing_request(p: Printed<'_>) -> Vec<Value> {
    let has = |kind: &str| p.condition(kind).is_some();
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !p.text(&["status", "certificate"]).is_empty() {
        status.push_str(",Issued");
    }
    let duration = p.object["spec"]["expirationSeconds"].as_i64().map_or_else(|| "<none>".to_owned(), human_duration);
    let signer = p.text_or(&["spec", "signerName"], "<none>");
    vec![p.name(), p.age(), signer, p.text(&["spec", "username"]).into(), duration.into(), status.into()]
}

fn component_status(p: Printed<'_>) -> Vec<Value> {
    let condition = p.items(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Healthy");
    let status = match condition.map(|c| c.str_at(&["status"])) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let text = |key: &str| Value::from(condition.map_or("", |c| c.str_at(&[key])));
    vec![p.name(), status.into(), text("message"), text("error")]
}

fn quota(p: Printed<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in p.object["status"]["hard"].members() {
        let used = p.object["status"]["used"][resource].as_str().unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or("0"));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![p.name(), requests.join(", ").into(), limits.join(", ").into(), p.age()]
}

fn csi_driver(p: Printed<'_>) -> Vec<Value> {
    let modes: Vec<&str> = p.items(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    let modes = if modes.is_empty() { "<none>".to_owned() } else { modes.join(",") };
    let tokens = match &p.object["spec"]["tokenRequests"] {
        Value::Null => "<unset>".to_owned(),
        list => list.items().iter().map(|t| t.str_at(&["audience"])).collect::<Vec<_>>().join(","),
    };
    vec![
        p.name(),
        p.flag(&["spec", "attachRequired"], true),
        p.flag(&["spec", "podInfoOnMount"], false),
        p.flag(&["spec", "storageCapacity"], false),
        tokens.into(),
        p.flag(&["spec", "requiresRepublish"], false),
        modes.into(),
        p.age(),
    ]
}

fn param_ref(p: Printed<'_>) -> String {
    let reference = &p.object["spec"]["paramRef"];
    match (reference.str_at(&["namespace"]), reference.str_at(&["name"])) {
        _ if reference.is_null() => "<unset>".to_owned(),
        (_, "") => "<unset>".to_owned(),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn flow_schema(p: Printed<'_>) -> Vec<Value> {
    let dangling = p.condition("Dangling").map_or("?", |c| c.str_at(&["status"]));
    vec![
        p.name(),
        p.text(&["spec", "priorityLevelConfiguration", "name"]).into(),
        p.int(&["spec", "matchingPrecedence"]).into(),
        p.text_or(&["spec", "distinguisherMethod", "type"], "<none>"),
        p.age(),
        dangling.into(),
    ]
}

fn priority_level(p: Printed<'_>) -> Vec<Value> {
    let limited = &p.object["spec"]["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let or_none = |value: &Value| if value.is_null() { "<none>".into() } else { value.clone() };
    vec![
        p.name(),
        p.text(&["spec", "type"]).into(),
        or_none(&limited["nominalConcurrencyShares"]),
        or_none(&queuing["queues"]),
        or_none(&queuing["handSize"]),
        or_none(&queuing["queueLengthLimit"]),
        p.age(),
    ]
}

/// Printed by the aggregator itself: service and availability.
fn api_service(p: Printed<'_>) -> Vec<Value> {
    let service = &p.object["spec"]["service"];
    let service = match service {
        Value::Null => "Local".to_owned(),
        _ => format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])),
    };
    let available = match p.condition("Available") {
        Some(c) if c.str_at(&["status"]) == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", c.str_at(&["status"]), c.str_at(&["reason"])),
        None => "Unknown".to_owned(),
    };
    vec![p.name(), service.into(), available.into(), p.age()]
}

fn claim_state(p: Printed<'_>) -> String {
    let deleted = meta::is_terminating(p.object);
    let allocated = !p.object["status"]["allocation"].is_null();
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if allocated {
        states.push("allocated");
        if !p.items(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}
