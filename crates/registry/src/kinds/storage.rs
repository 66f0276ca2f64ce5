//! Volumes, claims and storage classes.

use machinery::quantity::Quantity;
use machinery::{FieldError, Value, names};

use crate::strategy::Strategy;
use crate::validation::container::quantity;
use crate::validation::{At, Errors, label_selector, same, scheduling};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

pub(crate) static CLAIM: Strategy = Strategy {
    prepare_create: |claim, _| claim.set("status", machinery::json!({"phase": "Pending"})),
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
        let provisioner = at.field("provisioner");
        if provisioner.is_empty() {
            errors.required(&provisioner, "");
        } else {
            for complaint in names::is_qualified_name(&provisioner.text().to_lowercase()) {
                errors.invalid_value(&provisioner, provisioner.text().to_lowercase(), complaint);
            }
        }
        let policy = at.field("reclaimPolicy");
        if !policy.is_empty() {
            errors.one_of(&policy, &["Delete", "Retain"]);
        }
        errors.one_of_required(&at.field("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
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

/// Kinds whose spec never changes: volume attachments.
pub(crate) static ATTACHMENT: Strategy = Strategy {
    unconditional_update: false,
    validate: |at, _, errors| {
        let spec = at.field("spec");
        for member in ["attacher", "nodeName"] {
            if spec.field(member).is_empty() {
                errors.required(&spec.field(member), "");
            }
        }
        let source = spec.field("source");
        if !source.field("persistentVolumeName").is_set() && !source.field("inlineVolumeSpec").is_set() {
            errors.required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
    },
    validate_update: Some(|new, old, _, errors| {
        if !same(new.field("spec").value, old.field("spec").value) {
            let at = new.field("spec");
            errors.push(FieldError::invalid(&at.path, at.value, "field is immutable"));
        }
    }),
    ..Strategy::PLAIN
};

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
}

fn claim_update(new: &At<'_>, old: &At<'_>, _: &crate::context::Context, errors: &mut Errors) {
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
        error.value = if capacity.is_set() { capacity.value.to_string() } else { "core.ResourceList(nil)".to_owned() };
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
    let given: Vec<At<'_>> = SOURCES.iter().map(|s| spec.field(s)).filter(At::is_set).collect();
    for extra in given.iter().skip(1) {
        errors.forbidden(extra, "may not specify more than 1 volume type");
    }
    match given.first() {
        None => errors.required(spec, "must specify a volume type"),
        Some(source) => volume_source(spec, source, errors),
    }
    let class = spec.field("storageClassName");
    if !class.is_empty() {
        errors.dns_subdomain(&class);
    }
    if spec.field("volumeMode").is_set() {
        errors.one_of(&spec.field("volumeMode"), &VOLUME_MODES);
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
        "csi" => required(&["driver", "volumeHandle"], errors),
        "nfs" => required(&["server", "path"], errors),
        "local" => {
            required(&["path"], errors);
            if !spec.at(&["nodeAffinity", "required"]).is_set() {
                errors.required(&spec.field("nodeAffinity"), "Local volume requires node affinity");
            }
        }
        _ => {}
    }
}
