//! `spec.volumes` of a pod.

use std::collections::BTreeSet;

use super::container::{field_ref, resource_field_ref};
use super::{At, Errors};

/// Every kind of volume, in upstream's order of checking.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MODE_MAX: i64 = 0o777;
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks the volumes and gives back the names of the good ones.
pub(crate) fn volumes<'a>(at: &At<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut good = BTreeSet::new();
    for volume in at.items() {
        let mut own = Errors::default();
        source(&volume, &mut own);
        let name = volume.field("name");
        if name.is_empty() {
            own.required(&name, "");
        } else {
            own.dns_label(&name);
        }
        if good.contains(name.text()) {
            own.duplicate(&name);
        }
        if own.is_empty() {
            good.insert(name.text());
        }
        errors.0.append(&mut own.0);
    }
    good
}

fn source(volume: &At<'_>, errors: &mut Errors) {
    let mut count = 0;
    for kind in SOURCES {
        let source = volume.field(kind);
        if !source.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            errors.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        match kind {
            "hostPath" => host_path(&source, errors),
            "secret" => items_of(&source, "secretName", errors),
            "configMap" => items_of(&source, "name", errors),
            "persistentVolumeClaim" => required(&source, &["claimName"], errors),
            "nfs" => nfs(&source, errors),
            "downwardAPI" => {
                mode(&source.field("defaultMode"), errors);
                source.field("items").items().iter().for_each(|file| downward_file(file, &source, errors));
            }
            "projected" => projected(&source, errors),
            "csi" => required(&source, &["driver"], errors),
            "gcePersistentDisk" => {
                // Upstream's path for this one is `persistentDisk`.
                let path = volume.path.child("persistentDisk");
                required(&At { value: source.value, path }, &["pdName"], errors);
            }
            "awsElasticBlockStore" => required(&source, &["volumeID"], errors),
            "gitRepo" => required(&source, &["repository"], errors),
            "iscsi" => required(&source, &["targetPortal", "iqn"], errors),
            "glusterfs" => required(&source, &["endpoints", "path"], errors),
            "rbd" => required(&source, &["monitors", "image"], errors),
            "cinder" | "portworxVolume" => required(&source, &["volumeID"], errors),
            "cephfs" => required(&source, &["monitors"], errors),
            "azureFile" => required(&source, &["secretName", "shareName"], errors),
            "vsphereVolume" => required(&source, &["volumePath"], errors),
            "photonPersistentDisk" => required(&source, &["pdID"], errors),
            "flexVolume" => required(&source, &["driver"], errors),
            "ephemeral" => required(&source, &["volumeClaimTemplate"], errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(volume, "must specify a volume type");
    }
}

fn required(at: &At<'_>, members: &[&str], errors: &mut Errors) {
    for member in members.iter().map(|m| at.field(m)).filter(At::is_empty) {
        errors.required(&member, "");
    }
}

fn host_path(at: &At<'_>, errors: &mut Errors) {
    let path = at.field("path");
    if path.is_empty() {
        errors.required(&path, "");
        return;
    }
    no_backsteps(&path, errors);
    let kind = at.field("type");
    if kind.is_set() {
        errors.one_of(&kind, &HOST_PATH_TYPES);
    }
}

fn nfs(at: &At<'_>, errors: &mut Errors) {
    required(at, &["server", "path"], errors);
    let path = at.field("path");
    if !path.is_empty() && !path.text().starts_with('/') {
        errors.invalid(&path, "must be an absolute path");
    }
}

fn items_of(at: &At<'_>, name: &str, errors: &mut Errors) {
    required(at, &[name], errors);
    mode(&at.field("defaultMode"), errors);
    at.field("items").items().iter().for_each(|item| key_to_path(item, errors));
}

fn mode(at: &At<'_>, errors: &mut Errors) {
    if at.int().is_some_and(|m| !(0..=MODE_MAX).contains(&m)) {
        errors.invalid(at, MODE);
    }
}

fn key_to_path(at: &At<'_>, errors: &mut Errors) {
    required(at, &["key", "path"], errors);
    local_unreserved_path(&at.field("path"), errors);
    mode(&at.field("mode"), errors);
}

/// `at` is where complaints point, which for projected volumes is the source, not the file.
fn downward_file(file: &At<'_>, at: &At<'_>, errors: &mut Errors) {
    let member = |name: &str| At { value: file.field(name).value, path: at.path.child(name) };
    let path = member("path");
    if path.is_empty() {
        errors.required(&path, "");
    }
    local_unreserved_path(&path, errors);
    let (field, resource) = (member("fieldRef"), member("resourceFieldRef"));
    if field.is_set() {
        field_ref(&field, &VOLUME_FIELDS, errors);
        if resource.is_set() {
            errors.invalid_value(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.is_set() {
        resource_field_ref(&resource, true, errors);
    } else {
        errors.required(at, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&member("mode"), errors);
}

fn projected(at: &At<'_>, errors: &mut Errors) {
    mode(&at.field("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    for source in at.field("sources").items() {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let reference = source.field(kind);
            if !reference.is_set() {
                continue;
            }
            count += 1;
            required(&reference, &["name"], errors);
            for item in reference.field("items").items() {
                key_to_path(&item, errors);
                if !item.field("path").is_empty() && !paths.insert(item.field("path").text()) {
                    errors.invalid_value(at, reference.field("name").text(), "conflicting duplicate paths");
                }
            }
        }
        let downward = source.field("downwardAPI");
        if downward.is_set() {
            count += 1;
            for file in downward.field("items").items() {
                downward_file(&file, &downward, errors);
                let path = file.field("path").text();
                if !path.is_empty() && !paths.insert(path) {
                    errors.invalid_value(at, path, "conflicting duplicate paths");
                }
            }
        }
        let token = source.field("serviceAccountToken");
        if token.is_set() {
            count += 1;
            service_account_token(&token, at, errors);
        }
        count += usize::from(source.field("clusterTrustBundle").is_set());
        if count > 1 {
            errors.forbidden(&source, "may not specify more than 1 volume type per source");
        }
    }
}

fn service_account_token(token: &At<'_>, volume: &At<'_>, errors: &mut Errors) {
    let seconds = token.field("expirationSeconds");
    match seconds.int().unwrap_or(0) {
        s if s < 600 => errors.invalid(&seconds, "may not specify a duration less than 10 minutes"),
        s if s > 1 << 32 => errors.invalid(&seconds, "may not specify a duration larger than 2^32 seconds"),
        _ => {}
    }
    let path = At { value: token.field("path").value, path: volume.path.child("path") };
    if path.is_empty() {
        errors.required(&path, "");
    } else {
        local_unreserved_path(&path, errors);
    }
}

fn local_unreserved_path(at: &At<'_>, errors: &mut Errors) {
    local_path(at, errors);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        errors.invalid(at, "must not start with '..'");
    }
}

/// Relative, and without `..`.
pub(crate) fn local_path(at: &At<'_>, errors: &mut Errors) {
    if at.text().starts_with('/') {
        errors.invalid(at, "must be a relative path");
    }
    no_backsteps(at, errors);
}

fn no_backsteps(at: &At<'_>, errors: &mut Errors) {
    if at.text().split('/').any(|part| part == "..") {
        errors.invalid(at, "must not contain '..'");
    }
}
