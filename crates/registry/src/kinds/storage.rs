//! Volumes, claims and storage classes.

use std::collections::{BTreeMap, BTreeSet};

use machinery::quantity::Quantity;
use machinery::{FieldError, Value, names};

use crate::context::Context;
use crate::strategy::Strategy;
use crate::validation::container::quantity;
use crate::validation::{At, Errors, go, label_selector, same, scheduling};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

pub(crate) static CLAIM: Strategy = Strategy {
    prepare_create: |claim, cx| {
        claim.set("status", machinery::json!({"phase": "Pending"}));
        data_sources(claim, &Value::Null, cx);
    },
    prepare_update: data_sources,
    validate: |at, _, errors| claim(&at.field("spec"), errors),
    validate_update: Some(claim_update),
    ..Strategy::PLAIN
};

pub(crate) static VOLUME: Strategy = Strategy {
    prepare_create: |volume, cx| {
        volume.set("status", machinery::json!({"phase": "Pending", "lastPhaseTransitionTime": cx.now.rfc3339()}));
    },
    prepare_subresource: |new, old, cx| {
        if new.str_at(&["status", "phase"]) != old.str_at(&["status", "phase"])
            && new["status"]["lastPhaseTransitionTime"] == old["status"]["lastPhaseTransitionTime"]
        {
            *new.at_mut(&["status", "lastPhaseTransitionTime"]) = cx.now.rfc3339().into();
        }
    },
    validate: |at, _, errors| volume(&at.field("spec"), errors),
    validate_update: Some(|new, old, _, errors| {
        volume(&new.field("spec"), errors);
        let source = |at: &At<'_>| -> Value {
            SOURCES.iter().filter_map(|s| Some((*s, at.field("spec").value.get(s)?.clone()))).collect()
        };
        let (now, then) = (source(new), source(old));
        if !same(&now, &then) {
            let at = new.field("spec").field("persistentvolumesource");
            errors.forbidden(
                &at,
                format!("spec.persistentvolumesource is immutable after creation\n- {then}\n+ {now}\n"),
            );
        }
        let mode = new.at(&["spec", "volumeMode"]).renamed(machinery::FieldPath::new("volumeMode"));
        errors.immutable(&mode, &old.at(&["spec", "volumeMode"]));
    }),
    ..Strategy::PLAIN
};

pub(crate) static CLASS: Strategy = Strategy {
    validate: |at, _, errors| {
        provisioner(&at.field("provisioner"), errors);
        parameters(&at.field("parameters"), errors);
        let policy = at.field("reclaimPolicy");
        if !policy.is_empty() {
            errors.one_of(&policy, &["Delete", "Retain"]);
        }
        errors.one_of_required(&at.field("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
        topologies(&at.field("allowedTopologies"), errors);
    },
    validate_update: Some(|new, old, _, errors| {
        for member in ["parameters", "provisioner", "reclaimPolicy"] {
            let at = new.field(member);
            if !same(at.value, old.field(member).value) {
                errors.forbidden(&at, format!("updates to {member} are forbidden."));
            }
        }
        errors.immutable(&new.field("volumeBindingMode"), &old.field("volumeBindingMode"));
    }),
    ..Strategy::PLAIN
};

/// `VolumeAttributesClass`.
pub(crate) static ATTRIBUTES_CLASS: Strategy = Strategy {
    unconditional_update: false,
    validate: |at, _, errors| attributes_class(at, errors),
    validate_update: Some(|new, old, _, errors| {
        for member in ["driverName", "parameters"] {
            if !same(new.field(member).value, old.field(member).value) {
                errors.forbidden(&new.field(member), format!("updates to {member} are forbidden."));
            }
        }
        attributes_class(new, errors);
    }),
    ..Strategy::PLAIN
};

fn attributes_class(at: &At<'_>, errors: &mut Errors) {
    provisioner(&at.field("driverName"), errors);
    parameters(&at.field("parameters"), errors);
    if at.field("parameters").is_empty() {
        errors.required(&at.field("parameters"), "must contain at least one key/value pair");
    }
}

/// Most parameters of a class, and their bytes together.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;

fn provisioner(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
        return;
    }
    for complaint in names::is_qualified_name(&at.text().to_lowercase()) {
        errors.invalid_value(at, at.text().to_lowercase(), complaint);
    }
}

fn parameters(at: &At<'_>, errors: &mut Errors) {
    let entries = at.entries();
    if entries.len() > PARAMETERS_MAX {
        errors.push(FieldError::too_long(&at.path, PARAMETERS_MAX));
        return;
    }
    if entries.iter().any(|(key, _)| key.is_empty()) {
        errors.invalid_value(at, "", "field can not be empty.");
    }
    if entries.iter().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > PARAMETERS_BYTES_MAX {
        errors.push(FieldError::too_long(&at.path, PARAMETERS_BYTES_MAX));
    }
}

fn topologies(at: &At<'_>, errors: &mut Errors) {
    let mut terms: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for term in at.items() {
        let mut expressions = BTreeMap::new();
        let list = term.field("matchLabelExpressions");
        for expression in list.items() {
            let (key, values) = (expression.field("key"), expression.field("values"));
            if values.is_empty() {
                errors.required(&values, "");
            }
            let mut seen = BTreeSet::new();
            for value in values.items() {
                if !seen.insert(value.text()) {
                    errors.duplicate(&value);
                }
            }
            errors.all_invalid(&key, names::is_qualified_name(key.text()));
            if expressions.insert(key.text(), seen).is_some() {
                errors.push(FieldError::duplicate(&key.path, &key.text().into()));
            }
        }
        if terms.contains(&expressions) {
            errors.push(FieldError::duplicate(&list.path, &"".into()));
        }
        terms.push(expressions);
    }
}

/// Volume kinds of a persistent volume.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn access_modes(at: &At<'_>, detail: &str, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, detail);
    }
    let (mut single, mut other) = (false, false);
    for mode in at.items() {
        if !ACCESS_MODES.contains(&mode.text()) {
            errors.not_supported(&mode.renamed(at.path.clone()), &ACCESS_MODES);
        }
        single |= mode.text() == "ReadWriteOncePod";
        other |= mode.text() != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode.text());
    }
    if single && other {
        errors.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn claim(spec: &At<'_>, errors: &mut Errors) {
    access_modes(&spec.field("accessModes"), "at least 1 access mode is required", errors);
    if spec.field("selector").is_set() {
        label_selector(&spec.field("selector"), errors);
    }
    let size = spec.at(&["resources", "requests", "storage"]);
    let size = size.renamed(spec.path.child("resources").key("storage"));
    match quantity(&size) {
        None => errors.required(&size, ""),
        Some(amount) if amount <= Quantity::default() => errors.invalid(&size, "must be greater than zero"),
        Some(_) => {}
    }
    let class = spec.field("storageClassName");
    if !class.is_empty() {
        errors.dns_subdomain(&class);
    }
    if spec.field("volumeMode").is_set() {
        errors.one_of(&spec.field("volumeMode"), &VOLUME_MODES);
    }
    data_source(spec, errors);
}

/// Brings `dataSource` and its successor `dataSourceRef` into line; the gates' fields go unless they were in use.
fn data_sources(claim: &mut Value, old: &Value, cx: &Context) {
    const COMMON: [&str; 3] = ["apiGroup", "kind", "name"];
    let (spec, before) = (&mut claim["spec"], &old["spec"]);
    if spec.as_object().is_none() {
        return;
    }
    if !cx.features.enabled("VolumeAttributesClass") && before["volumeAttributesClassName"].is_null() {
        spec.remove("volumeAttributesClassName");
    }
    let foreign = !spec.str_at(&["dataSourceRef", "namespace"]).is_empty();
    if foreign && !cx.features.enabled("CrossNamespaceVolumeDataSource") && before["dataSourceRef"].is_null() {
        spec.remove("dataSourceRef");
    }
    // A client that knows only `dataSource` never minded that others than these two were passed over.
    let known = matches!(
        (spec.str_at(&["dataSource", "apiGroup"]), spec.str_at(&["dataSource", "kind"])),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known && spec["dataSourceRef"].is_null() && before["dataSource"].is_null() {
        spec.remove("dataSource");
    }
    let local = spec.str_at(&["dataSourceRef", "namespace"]).is_empty();
    let copy = |from: &Value| -> Value { COMMON.iter().filter_map(|m| Some((*m, from.get(m)?.clone()))).collect() };
    match (spec["dataSource"].is_null(), spec["dataSourceRef"].is_null()) {
        (false, true) => {
            let copy = copy(&spec["dataSource"]);
            spec.set("dataSourceRef", copy);
        }
        (true, false) if local => {
            let copy = copy(&spec["dataSourceRef"]);
            spec.set("dataSource", copy);
        }
        _ => {}
    }
}

/// What a claim is filled from: `dataSource`, and `dataSourceRef`, which says the same.
fn data_source(spec: &At<'_>, errors: &mut Errors) {
    let (source, reference) = (spec.field("dataSource"), spec.field("dataSourceRef"));
    for at in [&source, &reference] {
        if !at.is_set() {
            continue;
        }
        for member in ["name", "kind"].map(|m| at.field(m)).iter().filter(|m| m.is_empty()) {
            errors.required(member, "");
        }
        let (group, kind) = (at.field("apiGroup"), at.field("kind"));
        if group.is_empty() && kind.text() != "PersistentVolumeClaim" {
            errors.invalid_value(
                at,
                kind.text(),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        if !group.is_empty() {
            errors.dns_subdomain(&group);
        }
    }
    if source.is_set() && reference.is_set() {
        let local = |at: &At<'_>| ["apiGroup", "kind", "name"].map(|m| at.field(m).text().to_owned());
        if local(&source) != local(&reference) {
            errors.invalid(spec, "must match dataSourceRef");
        }
    }
}

fn claim_update(new: &At<'_>, old: &At<'_>, _: &Context, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    claim(&spec, errors);
    let bound = new.at(&["status", "phase"]).text() == "Bound";
    let fixed = |at: &At<'_>| {
        let mut value = at.value.clone();
        if bound {
            value.at_mut(&["resources", "requests"]).remove("storage");
            value.remove("volumeAttributesClassName");
        }
        if before.field("volumeName").is_empty() {
            value.remove("volumeName");
        }
        if !before.field("storageClassName").is_set() {
            value.remove("storageClassName");
        }
        value
    };
    let (now, then) = (fixed(&spec), fixed(&before));
    if !same(&now, &then) {
        errors.forbidden(
            &spec,
            format!("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n- {then}\n+ {now}\n"),
        );
    }
    let size = |at: &At<'_>| quantity(&at.at(&["resources", "requests", "storage"]));
    if let (Some(now), Some(then)) = (size(&spec), size(&before)) {
        let held = quantity(&old.at(&["status", "capacity", "storage"])).unwrap_or_default();
        if now < then && now <= held {
            errors.forbidden(
                &spec.at(&["resources", "requests", "storage"]),
                "field can not be less than status.capacity",
            );
        }
    }
}

fn volume(spec: &At<'_>, errors: &mut Errors) {
    access_modes(&spec.field("accessModes"), "", errors);
    let capacity = spec.field("capacity");
    if capacity.is_empty() {
        errors.required(&capacity, "");
    }
    let entries = capacity.entries();
    if entries.len() != 1 || entries[0].0 != "storage" {
        let mut error = FieldError::not_supported(&capacity.path, &Value::Null, &["storage"]);
        error.value = go::resource_list(capacity.value);
        errors.push(error);
    }
    for (_, amount) in &entries {
        if quantity(amount).is_some_and(|q| q <= Quantity::default()) {
            errors.invalid(amount, "must be greater than zero");
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        errors.one_of(&policy, &RECLAIM_POLICIES);
    }
    let affinity = spec.at(&["nodeAffinity", "required"]);
    if spec.field("nodeAffinity").is_set() {
        if affinity.is_set() {
            scheduling::node_selector(&affinity, errors);
        } else {
            errors.required(&affinity, "must specify required node constraints");
        }
    }
    sources(spec, errors);
    let class = spec.field("storageClassName");
    if !class.is_empty() {
        errors.dns_subdomain(&class);
    }
    if spec.field("volumeMode").is_set() {
        errors.one_of(&spec.field("volumeMode"), &VOLUME_MODES);
    }
}

fn sources(spec: &At<'_>, errors: &mut Errors) {
    let given: Vec<At<'_>> = SOURCES.iter().map(|s| spec.field(s)).filter(At::is_set).collect();
    for extra in given.iter().skip(1) {
        errors.forbidden(extra, "may not specify more than 1 volume type");
    }
    match given.first() {
        None => errors.required(spec, "must specify a volume type"),
        Some(source) => volume_source(spec, source, errors),
    }
    let path = spec.at(&["hostPath", "path"]);
    let reclaim = spec.field("persistentVolumeReclaimPolicy");
    let root = !path.is_empty() && path.text().split('/').all(|part| part.is_empty() || part == ".");
    if root && path.text().starts_with('/') && reclaim.text() == "Recycle" {
        errors.forbidden(&reclaim, "may not be 'recycle' for a hostPath mount of '/'");
    }
}

/// A volume that stands in a volume attachment instead of being named there.
pub(super) fn inline_volume(spec: &At<'_>, errors: &mut Errors) {
    const NOT_HERE: &str = "may not be specified in the context of inline volumes";
    for member in ["claimRef", "capacity"].map(|m| spec.field(m)).iter().filter(|m| !m.is_empty()) {
        errors.forbidden(member, NOT_HERE);
    }
    if !spec.field("csi").is_set() {
        errors.required(&spec.field("csi"), "has to be specified in the context of inline volumes");
    }
    access_modes(&spec.field("accessModes"), "", errors);
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if !matches!(policy.text(), "" | "Retain") {
        errors.forbidden(&policy, "may only be Retain in the context of inline volumes");
    }
    if spec.field("nodeAffinity").is_set() {
        errors.forbidden(&spec.field("nodeAffinity"), NOT_HERE);
    }
    sources(spec, errors);
    if !spec.field("storageClassName").is_empty() {
        errors.forbidden(&spec.field("storageClassName"), NOT_HERE);
    }
    let mode = spec.field("volumeMode");
    if mode.is_set() && mode.text() != "Filesystem" {
        let text = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(&mode, text);
    }
}

fn volume_source(spec: &At<'_>, source: &At<'_>, errors: &mut Errors) {
    let required = |members: &[&str], errors: &mut Errors| {
        for member in members.iter().map(|m| source.field(m)).filter(At::is_empty) {
            errors.required(&member, "");
        }
    };
    match source.path.to_string().rsplit('.').next().unwrap_or_default() {
        "hostPath" => required(&["path"], errors),
        "csi" => {
            super::csi::driver_name(&source.field("driver"), errors);
            required(&["volumeHandle"], errors);
        }
        "nfs" => {
            required(&["server", "path"], errors);
            if !source.field("path").text().starts_with('/') {
                errors.invalid(&source.field("path"), "must be an absolute path");
            }
        }
        "local" => {
            required(&["path"], errors);
            if !spec.at(&["nodeAffinity", "required"]).is_set() {
                errors.required(&spec.field("nodeAffinity"), "Local volume requires node affinity");
            }
        }
        _ => {}
    }
}
