//! `userManagedKeysConfig`: authorities of a cluster that the user runs, in Certificate Authority Service (GKE control plane
//! authority). Chosen when the cluster is made, and for its life; only profile 2026 has it.

use machinery::Value;

use crate::ApiError;
use crate::cluster::Profile;
use crate::merge::is_empty;
use crate::places::Place;

/// The fields that name a CA pool.
pub const POOL_FIELDS: [&str; 4] = ["clusterCa", "etcdApiCa", "etcdPeerCa", "aggregationCa"];
/// The fields that name keys.
const KEY_FIELDS: [&str; 4] = [
    "serviceAccountSigningKeys",
    "serviceAccountVerificationKeys",
    "controlPlaneDiskEncryptionKey",
    "gkeopsEtcdBackupEncryptionKey",
];
/// The first version that has it: 1.31.1-gke.1846000.
const FIRST_VERSION: [u64; 4] = [1, 31, 1, 1_846_000];

/// `projects/PROJECT/locations/LOCATION/caPools/ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolPath {
    pub project: String,
    pub location: String,
    pub id: String,
}

impl PoolPath {
    /// Reads a path.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn parse(field: &str, path: &str) -> Result<Self, ApiError> {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["projects", project, "locations", location, "caPools", id] if ![project, location, id].contains(&"") => {
                let owned = str::to_owned;
                Ok(Self { project: owned(project), location: owned(location), id: owned(id) })
            }
            _ => Err(ApiError::invalid(format!(
                "Invalid value for field \"cluster.user_managed_keys_config.{field}\": {path:?} must be of the form \
                 projects/PROJECT/locations/LOCATION/caPools/CA_POOL."
            ))),
        }
    }
}

/// The pools that a cluster's configuration names, by field.
///
/// # Errors
/// 400 when one is no path of a pool.
pub fn pools(body: &Value) -> Result<Vec<(&'static str, PoolPath)>, ApiError> {
    let named = POOL_FIELDS.into_iter().map(|field| (field, body.str_at(&["userManagedKeysConfig", field])));
    let named = named.filter(|(_, path)| !path.is_empty());
    named.map(|(field, path)| Ok((field, PoolPath::parse(field, path)?))).collect()
}

/// Checks what a new cluster asks for, as far as that is known without looking at the pools.
///
/// # Errors
/// 400 for what cannot be, 501 for what is not emulated, as everything of it in the classic profile.
pub(crate) fn check(asked: &Value, profile: Profile, place: &Place, version: &str) -> Result<(), ApiError> {
    let config = &asked["userManagedKeysConfig"];
    if is_empty(config) {
        return Ok(());
    }
    if profile == Profile::Classic {
        return Err(ApiError::unimplemented("cluster.userManagedKeysConfig"));
    }
    for field in KEY_FIELDS {
        let value = &config[field];
        if !value.is_null() && value.as_str() != Some("") && value.as_array().is_none_or(|list| !list.is_empty()) {
            return Err(ApiError::unimplemented(&format!("cluster.userManagedKeysConfig.{field}")));
        }
    }
    if !has(version) {
        return Err(ApiError::invalid(format!(
            "Cluster.user_managed_keys_config requires version 1.31.1-gke.1846000 or later; the cluster's is {version}."
        )));
    }
    for (field, pool) in pools(asked)? {
        if pool.location != place.region {
            return Err(ApiError::invalid(format!(
                "The CA pool of cluster.user_managed_keys_config.{field} must be in the cluster's region {:?}, not in {:?}.",
                place.region, pool.location
            )));
        }
    }
    Ok(())
}

/// `1.33.4-gke.1350000` and later than the first.
fn has(version: &str) -> bool {
    let parts = version.split(['.', '-']).filter(|part| *part != "gke").map(|part| part.parse().unwrap_or(0));
    parts.collect::<Vec<u64>>().as_slice() >= FIRST_VERSION.as_slice()
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn versions_and_paths_are_told_apart() {
        for (version, expected) in [
            ("1.31.1-gke.1846000", true),
            ("1.31.1-gke.1845999", false),
            ("1.33.4-gke.1", true),
            ("1.30.9-gke.9999999", false),
        ] {
            assert_eq!(has(version), expected, "{version}");
        }
        let place = Place::parse("us-central1-a").unwrap();
        let asked = |field: &str, value: Value| {
            let mut config = Value::object();
            config.set(field, value);
            let mut cluster = Value::object();
            cluster.set("userManagedKeysConfig", config);
            cluster
        };
        let path = "projects/p/locations/us-central1/caPools/c";
        let check = |asked: &Value, profile| check(asked, profile, &place, "1.33.4-gke.1").map_err(|e| e.message);
        assert_eq!(check(&json!({}), Profile::Classic), Ok(()));
        assert_eq!(check(&asked("clusterCa", path.into()), Profile::Year2026), Ok(()));
        assert!(check(&asked("clusterCa", path.into()), Profile::Classic).unwrap_err().contains("not implemented"));
        for (field, value, text) in [
            ("clusterCa", "c".into(), "must be of the form"),
            ("etcdApiCa", "projects/p/locations/us-east1/caPools/c".into(), "must be in the cluster's region"),
            ("aggregationCa", "projects//locations/us-central1/caPools/c".into(), "must be of the form"),
            ("controlPlaneDiskEncryptionKey", "k".into(), "not implemented"),
            ("serviceAccountSigningKeys", json!(["k"]), "not implemented"),
        ] {
            let refused = check(&asked(field, value), Profile::Year2026).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }
}
