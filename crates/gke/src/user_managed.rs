//! `userManagedKeysConfig`: authorities of a cluster that the user runs, in Certificate Authority Service, and keys of it in Cloud
//! KMS (GKE control plane authority). Chosen when the cluster is made, and for its life; only profile 2026 has it.

use machinery::Value;

use crate::ApiError;
use crate::cluster::Profile;
use crate::encryption::check_key_path;
use crate::merge::is_empty;
use crate::places::Place;

/// The fields that name a CA pool.
pub const POOL_FIELDS: [&str; 4] = ["clusterCa", "etcdApiCa", "etcdPeerCa", "aggregationCa"];
const CONFIG: &str = "userManagedKeysConfig";
/// Nobody makes operational backups of a cluster's store here.
const BACKUP_KEY: &str = "gkeopsEtcdBackupEncryptionKey";
/// Those that sign service-account tokens, and those that verify them.
pub const SIGNING_KEYS: &str = "serviceAccountSigningKeys";
pub const VERIFICATION_KEYS: &str = "serviceAccountVerificationKeys";
const VERIFICATION_KEYS_MAX: usize = 2;
const DISK_KEY: &str = "controlPlaneDiskEncryptionKey";
/// Output only: the versions that the disks are encrypted under.
const DISK_KEY_VERSIONS: &str = "controlPlaneDiskEncryptionKeyVersions";
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
    let named = POOL_FIELDS.into_iter().map(|field| (field, body.str_at(&[CONFIG, field])));
    let named = named.filter(|(_, path)| !path.is_empty());
    named.map(|(field, path)| Ok((field, PoolPath::parse(field, path)?))).collect()
}

/// The versions of Cloud KMS keys that sign and verify the service-account tokens of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenKeys {
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N`
    pub signing: String,
    /// The one that signs is one of them.
    pub verification: Vec<String>,
}

fn listed(body: &Value, field: &str) -> Vec<String> {
    body[CONFIG][field].items().iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The token keys that a cluster's configuration names; `None` where the cluster has its own.
pub fn token_keys(body: &Value) -> Option<TokenKeys> {
    let signing = listed(body, SIGNING_KEYS).into_iter().next()?;
    Some(TokenKeys { signing, verification: listed(body, VERIFICATION_KEYS) })
}

/// The key that the disks of a cluster's control plane are encrypted under; empty for the provider's.
pub fn disk_key(body: &Value) -> &str {
    body.str_at(&[CONFIG, DISK_KEY])
}

/// Notes under which version of its key a new cluster's disks are encrypted.
pub fn note_disk_key_version(body: &mut Value, version: &str) {
    body[CONFIG].set(DISK_KEY_VERSIONS, vec![Value::from(version)]);
}

/// Leaves out what only answers have.
pub(crate) fn drop_output(body: &mut Value) {
    if body[CONFIG].as_object().is_some() {
        body[CONFIG].remove(DISK_KEY_VERSIONS);
    }
}

/// Checks what a new cluster asks for, as far as that is known without looking at pools and keys.
///
/// # Errors
/// 400 for what cannot be, 501 for what is not emulated, as everything of it in the classic profile.
pub(crate) fn check(asked: &Value, profile: Profile, place: &Place, version: &str) -> Result<(), ApiError> {
    let config = &asked[CONFIG];
    if is_empty(config) {
        return Ok(());
    }
    if profile == Profile::Classic {
        return Err(ApiError::unimplemented("cluster.userManagedKeysConfig"));
    }
    if !asked.str_at(&[CONFIG, BACKUP_KEY]).is_empty() {
        return Err(ApiError::unimplemented(&format!("cluster.userManagedKeysConfig.{BACKUP_KEY}")));
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
    check_token_keys(asked, place)?;
    match disk_key(asked) {
        "" => Ok(()),
        key => check_key_path(
            "user_managed_keys_config.control_plane_disk_encryption_key",
            key,
            &place.name,
            &place.region,
        ),
    }
}

/// One key signs, at most two verify, and the one that signs is among them: whoever could not verify the tokens of today would
/// refuse every pod.
fn check_token_keys(asked: &Value, place: &Place) -> Result<(), ApiError> {
    const SIGNING: &str = "user_managed_keys_config.service_account_signing_keys";
    const VERIFICATION: &str = "user_managed_keys_config.service_account_verification_keys";
    let (signing, verification) = (listed(asked, SIGNING_KEYS), listed(asked, VERIFICATION_KEYS));
    if signing.is_empty() && verification.is_empty() {
        return Ok(());
    }
    let [signs] = signing.as_slice() else {
        return Err(ApiError::invalid(format!("Cluster.{SIGNING} must have exactly one key version.")));
    };
    if verification.len() > VERIFICATION_KEYS_MAX {
        let text = format!("Cluster.{VERIFICATION} can have at most {VERIFICATION_KEYS_MAX} key versions.");
        return Err(ApiError::invalid(text));
    }
    for (field, version) in [(SIGNING, signs)].into_iter().chain(verification.iter().map(|key| (VERIFICATION, key))) {
        let (key, number) = version.split_once("/cryptoKeyVersions/").unwrap_or((version, ""));
        if number.parse::<u32>().is_err() {
            return Err(ApiError::invalid(format!(
                "Invalid value for field \"{field}\": {version:?} is not of the form \
                 projects/*/locations/*/keyRings/*/cryptoKeys/*/cryptoKeyVersions/*."
            )));
        }
        check_key_path(field, key, &place.name, &place.region)?;
    }
    if !verification.contains(signs) {
        return Err(ApiError::invalid(format!(
            "Cluster.{VERIFICATION} must have the key version that signs, {signs}: the cluster could not verify its own tokens."
        )));
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
            ("gkeopsEtcdBackupEncryptionKey", "k".into(), "not implemented"),
            ("controlPlaneDiskEncryptionKey", "k".into(), "is not of the form"),
            (
                "controlPlaneDiskEncryptionKey",
                "projects/p/locations/global/keyRings/r/cryptoKeys/k".into(),
                "needs a key in \"us-central1\"",
            ),
        ] {
            let refused = check(&asked(field, value), Profile::Year2026).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }

    #[test]
    fn the_key_that_signs_tokens_is_one_of_those_that_verify_them() {
        let place = Place::parse("us-central1-a").unwrap();
        let version =
            |n: &str| format!("projects/p/locations/us-central1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/{n}");
        let (one, two, three) = (&version("1"), &version("2"), &version("3"));
        let check = |signing: &[&String], verification: &[&String]| {
            let list = |keys: &[&String]| keys.iter().map(|key| Value::from(key.as_str())).collect::<Vec<_>>();
            let mut config = Value::object();
            config.set("serviceAccountSigningKeys", list(signing));
            config.set("serviceAccountVerificationKeys", list(verification));
            let mut cluster = Value::object();
            cluster.set("userManagedKeysConfig", config);
            check(&cluster, Profile::Year2026, &place, "1.33.4-gke.1")
                .map(|()| token_keys(&cluster))
                .map_err(|e| e.message)
        };
        assert_eq!(check(&[], &[]), Ok(None));
        let both = TokenKeys { signing: two.clone(), verification: vec![one.clone(), two.clone()] };
        assert_eq!(check(&[two], &[one, two]), Ok(Some(both)));
        let key = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k".to_owned();
        let far = one.replace("us-central1", "us-east1");
        for (signing, verification, text) in [
            (&[one][..], &[][..], "must have the key version that signs"),
            (&[one], &[two], "must have the key version that signs"),
            (&[], &[one], "exactly one key version"),
            (&[one, two], &[one, two], "exactly one key version"),
            (&[one], &[one, two, three], "at most 2"),
            (&[&key], &[&key], "cryptoKeyVersions/*"),
            (&[&version("x")], &[&version("x")], "cryptoKeyVersions/*"),
            (&[&far], &[&far], "needs a key in"),
        ] {
            let refused = check(signing, verification).unwrap_err();
            assert!(refused.contains(text), "{refused}");
        }
    }
}
