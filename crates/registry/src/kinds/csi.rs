//! CSI: drivers, the drivers of a node, storage capacities; volume attachments.

use std::collections::BTreeSet;

use machinery::{FieldError, Value, meta, names};

use super::storage;
use crate::context::Context;
use crate::strategy::Strategy;
use crate::validation::container::non_negative_quantity;
use crate::validation::{At, Errors, IMMUTABLE, go, label_selector, same};

/// Longest name of a driver.
const DRIVER_NAME_BYTES_MAX: usize = 63;
/// Longest id a driver gives a node.
const NODE_ID_BYTES_MAX: usize = 256;

pub(crate) static DRIVER: Strategy = Strategy {
    unconditional_update: false,
    prepare_create: |driver, cx| drop_gated(driver, &Value::Null, cx),
    // Unlike other kinds a new driver has no generation; the first change makes it 1.
    prepare_update: |new, old, cx| {
        drop_gated(new, old, cx);
        if !same(&new["spec"], &old["spec"]) {
            new["metadata"].set("generation", meta::generation(old) + 1);
        }
    },
    validate: |at, _, errors| driver(&at.field("spec"), errors),
    validate_update: Some(|new, old, _, errors| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        driver(&spec, errors);
        // Upstream's path says attachedRequired.
        let required = spec.field("attachRequired").renamed(spec.path.child("attachedRequired"));
        errors.immutable(&required, &before.field("attachRequired"));
        let modes = spec.field("volumeLifecycleModes");
        errors.immutable_strings(&modes, &before.field("volumeLifecycleModes"), "storage.VolumeLifecycleMode");
    }),
    ..Strategy::PLAIN
};

/// Fields of gates that are off are not kept, unless they were in use.
fn drop_gated(driver: &mut Value, old: &Value, cx: &Context) {
    for (gate, member) in [
        ("SELinuxMountReadWriteOncePod", "seLinuxMount"),
        ("MutableCSINodeAllocatableCount", "nodeAllocatableUpdatePeriodSeconds"),
    ] {
        if !cx.features.enabled(gate) && old["spec"][member].is_null() {
            driver["spec"].remove(member);
        }
    }
}

fn driver(spec: &At<'_>, errors: &mut Errors) {
    for (member, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !spec.field(member).is_set() {
            errors.required(&spec.field(member).renamed(spec.path.child(shown)), "");
        }
    }
    let policy = spec.field("fsGroupPolicy");
    if policy.is_set() {
        errors.one_of(&policy, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let mut audiences = BTreeSet::new();
    for request in spec.field("tokenRequests").items() {
        let (audience, seconds) = (request.field("audience"), request.field("expirationSeconds"));
        if !audiences.insert(audience.text()) {
            errors.push(FieldError::duplicate(&audience.path, &audience.text().into()));
            continue;
        }
        match seconds.int() {
            Some(s) if s < 600 => errors.invalid(&seconds, "may not specify a duration less than 10 minutes"),
            Some(s) if s > 1 << 32 => {
                errors.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
    let modes = spec.field("volumeLifecycleModes");
    for mode in modes.items() {
        errors.one_of(&mode.renamed(modes.path.clone()), &["Persistent", "Ephemeral"]);
    }
    let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|s| s < 10) {
        errors.invalid(&period, "must be greater than or equal to 10 seconds");
    }
}

/// The name of a driver where another object refers to it.
pub(super) fn driver_name(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
    }
    if at.text().len() > DRIVER_NAME_BYTES_MAX {
        errors.push(FieldError::too_long(&at.path, DRIVER_NAME_BYTES_MAX));
    }
    errors.all_invalid(at, names::is_dns1123_subdomain(&at.text().to_lowercase()));
}

pub(crate) static NODE: Strategy = Strategy {
    unconditional_update: false,
    validate: |at, _, errors| node_drivers(&at.at(&["spec", "drivers"]), errors),
    validate_update: Some(|new, old, _, errors| {
        let drivers = new.at(&["spec", "drivers"]);
        node_drivers(&drivers, errors);
        for then in old.at(&["spec", "drivers"]).items() {
            let same_name = |d: &&At<'_>| d.field("name").text() == then.field("name").text();
            for now in drivers.items().iter().filter(same_name).filter(|d| !same(d.value, then.value)) {
                let allocatable = if now.field("allocatable").is_set() { "0x0" } else { "nil" };
                let shown = format!(
                    "storage.CSINodeDriver{{Name:{:?}, NodeID:{:?}, TopologyKeys:{}, Allocatable:(*storage.VolumeNodeResources)({allocatable})}}",
                    now.field("name").text(),
                    now.field("nodeID").text(),
                    go::strings("string", now.field("topologyKeys").value),
                );
                errors.invalid_as(&now.renamed(drivers.path.clone()), shown, IMMUTABLE);
            }
        }
    }),
    ..Strategy::PLAIN
};

fn node_drivers(at: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for driver in at.items() {
        let (name, id) = (driver.field("name"), driver.field("nodeID"));
        driver_name(&name, errors);
        if id.is_empty() {
            errors.required(&id, "");
        }
        if id.text().len() > NODE_ID_BYTES_MAX {
            errors.invalid(&id, format!("must be {NODE_ID_BYTES_MAX} characters or less"));
        }
        errors.not_negative(&driver.at(&["allocatable", "count"]));
        if !seen.insert(name.text()) {
            errors.duplicate(&name);
        }
        let mut keys = BTreeSet::new();
        for key in driver.field("topologyKeys").items() {
            // All of them are complained about at the driver.
            let key = key.renamed(driver.path.clone());
            if key.is_empty() {
                errors.required(&key, "");
            }
            if !keys.insert(key.text()) {
                errors.duplicate(&key);
            }
            errors.all_invalid(&key, names::is_qualified_name(key.text()));
        }
    }
}

pub(crate) static CAPACITY: Strategy = Strategy {
    unconditional_update: false,
    validate: |at, _, errors| capacity(at, errors),
    validate_update: Some(|new, old, _, errors| {
        capacity(new, errors);
        errors.immutable_selector(&new.field("nodeTopology"), &old.field("nodeTopology"));
        errors.immutable(&new.field("storageClassName"), &old.field("storageClassName"));
    }),
    ..Strategy::PLAIN
};

fn capacity(at: &At<'_>, errors: &mut Errors) {
    if at.field("nodeTopology").is_set() {
        label_selector(&at.field("nodeTopology"), errors);
    }
    errors.dns_subdomain(&at.field("storageClassName"));
    non_negative_quantity(&at.field("capacity"), errors);
}

/// Kinds whose spec never changes: volume attachments.
pub(crate) static ATTACHMENT: Strategy = Strategy {
    unconditional_update: false,
    validate: |at, _, errors| {
        attachment(&at.field("spec"), errors);
        // Rules that came with v1 and that older objects need not follow.
        let spec = at.field("spec");
        driver_name(&spec.field("attacher"), errors);
        let volume = spec.at(&["source", "persistentVolumeName"]);
        if volume.is_set() {
            errors.dns_subdomain(&volume);
        }
    },
    validate_update: Some(|new, old, _, errors| {
        attachment(&new.field("spec"), errors);
        errors.immutable(&new.field("spec"), &old.field("spec"));
    }),
    ..Strategy::PLAIN
};

fn attachment(spec: &At<'_>, errors: &mut Errors) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    if spec.field("attacher").is_empty() {
        errors.required(&spec.field("attacher"), "");
    }
    let source = spec.field("source");
    let (name, inline) = (source.field("persistentVolumeName"), source.field("inlineVolumeSpec"));
    match (name.is_set(), inline.is_set()) {
        (false, false) => errors.required(&source, ONE),
        (true, true) => errors.forbidden(&source, ONE),
        (true, false) if name.is_empty() => errors.required(&name, "must specify non empty persistentVolumeName"),
        (true, false) => {}
        (false, true) => storage::inline_volume(&inline, errors),
    }
    errors.dns_subdomain(&spec.field("nodeName"));
}
