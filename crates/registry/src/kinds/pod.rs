//! Pods: mostly immutable once made, deleted gracefully.

use machinery::{FieldError, Value, json};

use crate::context::{Context, DeleteOptions, Subresource};
use crate::strategy::{Generation, Selectable, Strategy, flag, text};
use crate::validation::container::quantity;
use crate::validation::pod_spec::pod_spec;
use crate::validation::{At, Errors, IMMUTABLE, same};

pub(crate) static STRATEGY: Strategy = Strategy {
    generation: Generation::Spec,
    selectable: &[
        text("spec.nodeName"),
        text("spec.restartPolicy"),
        text("spec.schedulerName"),
        text("spec.serviceAccountName"),
        flag("spec.hostNetwork"),
        text("status.phase"),
        text("status.podIP"),
        Selectable { label: "status.podIPs", path: "status.podIP", unset: "", instead: "" },
        text("status.nominatedNodeName"),
    ],
    prepare_create,
    prepare_subresource,
    validate: |at, cx, errors| {
        pod_spec(&at.field("spec"), true, cx, errors);
        let ephemeral = at.at(&["spec", "ephemeralContainers"]);
        if !ephemeral.is_empty() {
            errors.forbidden(&ephemeral, "cannot be set on create");
        }
        let node = at.at(&["spec", "nodeName"]);
        if !node.is_empty() && !at.at(&["spec", "schedulingGates"]).is_empty() {
            errors.forbidden(&node, "cannot be set until all schedulingGates have been cleared");
        }
    },
    validate_update: Some(validate_update),
    validate_subresource,
    graceful: Some(graceful),
    warnings: |pod| {
        let complaints = machinery::names::is_dns1123_label(machinery::meta::name(pod));
        if complaints.is_empty() {
            return Vec::new();
        }
        let text = "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        vec![format!("{text}: [{}]", complaints.join(" "))]
    },
    ..Strategy::PLAIN
};

fn prepare_create(pod: &mut Value, _: &Context) {
    let mut status = json!({"phase": "Pending"});
    status.set("qosClass", qos_class(&pod["spec"]));
    if !pod["spec"]["schedulingGates"].items().is_empty() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null, "lastTransitionTime": null});
        status.set("conditions", Value::Array(vec![condition]));
    }
    pod.set("status", status);
}

/// `Guaranteed` when every container limits what it requests, `BestEffort` when none says anything, else `Burstable`.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let root = At::root(spec);
    let containers: Vec<At<'_>> = ["containers", "initContainers"].iter().flat_map(|k| root.field(k).items()).collect();
    let amount = |c: &At<'_>, kind: &str, name: &str| {
        quantity(&c.at(&["resources", kind, name])).filter(|q| *q > machinery::quantity::Quantity::default())
    };
    let (mut any, mut guaranteed) = (false, !containers.is_empty());
    for container in &containers {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(container, "requests", name), amount(container, "limits", name));
            any |= request.is_some() || limit.is_some();
            // A request that is left out is the limit.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn prepare_subresource(new: &mut Value, old: &Value, cx: &Context) {
    match cx.subresource {
        Subresource::Status => {
            new["metadata"].remove("deletionTimestamp");
            match old["metadata"].get("ownerReferences") {
                Some(owners) => new["metadata"].set("ownerReferences", owners.clone()),
                None => drop(new["metadata"].remove("ownerReferences")),
            }
            if new.str_at(&["status", "qosClass"]).is_empty() && !old["status"]["qosClass"].is_null() {
                *new.at_mut(&["status", "qosClass"]) = old["status"]["qosClass"].clone();
            }
        }
        Subresource::EphemeralContainers => {
            let containers = new["spec"]["ephemeralContainers"].clone();
            let version = new["metadata"]["resourceVersion"].clone();
            *new = old.clone();
            new["metadata"].set("resourceVersion", version);
            if !same(&containers, &old["spec"]["ephemeralContainers"]) {
                let generation = machinery::meta::generation(old) + 1;
                new["metadata"].set("generation", generation);
            }
            new["spec"].set("ephemeralContainers", containers);
        }
        Subresource::Resize => resize(new, old),
        _ => {}
    }
}

/// Only the containers' resources and resize policies come from the request.
fn resize(new: &mut Value, old: &Value) {
    let asked = new["spec"].clone();
    let version = new["metadata"]["resourceVersion"].clone();
    *new = old.clone();
    new["metadata"].set("resourceVersion", version);
    for list in ["containers", "initContainers"] {
        let Some(containers) = new.at_mut(&["spec"]).get_mut(list).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let name = container.str_at(&["name"]).to_owned();
            let Some(wanted) = asked[list].items().iter().find(|c| c.str_at(&["name"]) == name) else { continue };
            for member in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.get(member) {
                    container.set(member, value.clone());
                }
            }
        }
    }
    if !same(&new["spec"], &old["spec"]) {
        let generation = machinery::meta::generation(old) + 1;
        new["metadata"].set("generation", generation);
    }
}

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(new: &At<'_>, old: &At<'_>, cx: &Context, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    pod_spec(&spec, true, cx, errors);
    for list in ["containers", "initContainers"] {
        let (now, then) = (spec.field(list), before.field(list));
        if now.items().len() != then.items().len() {
            errors.forbidden(&now, "pod updates may not add or remove containers");
            return;
        }
        for image in now.items().iter().map(|c| c.field("image")) {
            if image.text().trim().len() != image.text().len() {
                errors.invalid(&image, "must not have leading or trailing whitespace");
            }
        }
    }
    if deadline(&spec.field("activeDeadlineSeconds"), &before.field("activeDeadlineSeconds"), errors).is_none() {
        return;
    }
    added_tolerations(&spec.field("tolerations"), &before.field("tolerations"), errors);
    let gates = spec.field("schedulingGates");
    for gate in gates.items() {
        if !before["schedulingGates"].items().iter().any(|g| g.str_at(&["name"]) == gate.field("name").text()) {
            let name = gate.field("name").text();
            errors.forbidden(&gates, format!("only deletion is allowed, but found new scheduling gate '{name}'"));
        }
    }
    if !same(&frozen(spec.value, before.value), &frozen(before.value, before.value)) {
        errors.forbidden(&spec, format!("{UPDATABLE}\n{}", difference(before.value, spec.value)));
    }
}

impl std::ops::Index<&str> for At<'_> {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        &self.value[key]
    }
}

fn deadline(new: &At<'_>, old: &At<'_>, errors: &mut Errors) -> Option<()> {
    match (new.int(), old.int()) {
        (Some(now), _) if now < 0 || now > i64::from(i32::MAX) => {
            errors.invalid(new, machinery::names::range_error(0, i64::from(i32::MAX)));
            None
        }
        (Some(now), Some(then)) if then < now => {
            errors.invalid(new, "must be less than or equal to previous value");
            None
        }
        (None, Some(_)) => {
            errors.push(FieldError::invalid(
                &new.path,
                &Value::Null,
                "must not update from a positive integer to nil value",
            ));
            Some(())
        }
        _ => Some(()),
    }
}

fn added_tolerations(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let kept = |toleration: &Value| {
        new.value
            .items()
            .iter()
            .any(|t| ["key", "operator", "value", "effect"].iter().all(|k| t.str_at(&[k]) == toleration.str_at(&[k])))
    };
    if !old.value.items().iter().all(kept) {
        errors.forbidden(new, "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// The spec without what may change.
fn frozen(spec: &Value, old: &Value) -> Value {
    let mut spec = spec.clone();
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        spec.remove(member);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container.remove("image");
        }
    }
    let grace = |value: &Value| value["terminationGracePeriodSeconds"].as_i64();
    if grace(old).is_some_and(|s| s < 0) && grace(&spec) == Some(1) {
        spec.set("terminationGracePeriodSeconds", old["terminationGracePeriodSeconds"].clone());
    }
    if !old["schedulingGates"].items().is_empty() {
        // A gated pod may still be told where not to run.
        spec.remove("nodeSelector");
        if let Some(affinity) = spec.get_mut("affinity") {
            affinity.remove("nodeAffinity");
        }
    }
    spec
}

/// The members that differ, one a line. (Upstream prints a diff whose form it calls unstable.)
fn difference(old: &Value, new: &Value) -> String {
    let mut keys: Vec<&str> = old.members().chain(new.members()).map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| !same(&old[*key], &new[*key]));
    changed.map(|key| format!("- {key}: {}\n+ {key}: {}\n", old[key], new[key])).collect()
}

fn validate_subresource(new: &At<'_>, old: &At<'_>, cx: &Context, errors: &mut Errors) {
    if cx.subresource == Subresource::EphemeralContainers {
        pod_spec(&new.field("spec"), true, cx, errors);
        let (now, then) = (new.at(&["spec", "ephemeralContainers"]), old.at(&["spec", "ephemeralContainers"]));
        for container in then.items() {
            let name = container.field("name").text();
            match now.items().iter().find(|c| c.field("name").text() == name) {
                None => errors.forbidden(&now, format!("existing ephemeral containers {name:?} may not be removed\n")),
                Some(kept) if !same(kept.value, container.value) => {
                    errors.forbidden(&now, format!("existing ephemeral containers {name:?} may not be changed\n"));
                }
                Some(_) => {}
            }
        }
        return;
    }
    if cx.subresource != Subresource::Status {
        return;
    }
    let (now, then) = (new.at(&["status", "qosClass"]), old.at(&["status", "qosClass"]));
    if !same(now.value, then.value) {
        errors.push(FieldError::invalid(&now.path, now.value, IMMUTABLE));
    }
    let ips = new.at(&["status", "podIPs"]);
    for ip in ips.items() {
        let ip = ip.field("ip");
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            errors.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}

fn graceful(pod: &Value, options: &mut DeleteOptions) -> bool {
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    let mut seconds = options.grace_period_seconds.unwrap_or(own);
    let over = matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded");
    if pod.str_at(&["spec", "nodeName"]).is_empty() || over {
        seconds = 0;
    }
    options.grace_period_seconds = Some(if seconds < 0 { 1 } else { seconds });
    true
}
