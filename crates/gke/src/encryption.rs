//! Application-layer encryption of Secrets: a cluster's `databaseEncryption`.

use machinery::{Value, json};

use crate::places::Place;
use crate::record::Cluster;
use crate::{ApiError, Code};

/// The Cloud KMS key that the Secrets of a cluster with this configuration are encrypted under; empty for none.
pub fn key_of(body: &Value) -> &str {
    let config = &body["databaseEncryption"];
    if config.str_at(&["state"]) == "ENCRYPTED" { config.str_at(&["keyName"]) } else { "" }
}

/// All keys that the API servers of such a cluster may use: the one for new values, and those of old ones.
pub fn keys_of(body: &Value) -> impl Iterator<Item = &str> {
    let older = body["databaseEncryption"]["decryptionKeys"].items().iter().filter_map(Value::as_str);
    std::iter::once(key_of(body)).filter(|key| !key.is_empty()).chain(older)
}

/// The key that a `DatabaseEncryption` asks for, for a cluster in `location`; empty for none. Whether it exists and may be
/// used, the KMS knows.
///
/// # Errors
/// 400 when state and key do not go together, or the key is not in the cluster's region; 501 for encryption of all objects.
pub fn asked_key<'a>(config: &'a Value, location: &str) -> Result<&'a str, ApiError> {
    let (state, key) = (config.str_at(&["state"]), config.str_at(&["keyName"]));
    match (state, key) {
        ("" | "UNKNOWN" | "DECRYPTED", "") => return Ok(""),
        ("ENCRYPTED", key) if !key.is_empty() => {}
        ("ENCRYPTED", _) => {
            return Err(ApiError::invalid("Database_encryption.key_name must be set when the state is ENCRYPTED."));
        }
        ("ALL_OBJECTS_ENCRYPTION_ENABLED", _) => {
            return Err(ApiError::unimplemented("databaseEncryption.state ALL_OBJECTS_ENCRYPTION_ENABLED"));
        }
        _ => {
            return Err(ApiError::invalid("Database_encryption.key_name must be empty unless the state is ENCRYPTED."));
        }
    }
    check_key_path("database_encryption.key_name", key, location, &Place::parse(location)?.region)?;
    Ok(key)
}

/// Is it the path of a key that a cluster at `location` can use? Those in its region are.
///
/// # Errors
/// 400 when it is not.
pub(crate) fn check_key_path(field: &str, key: &str, location: &str, region: &str) -> Result<(), ApiError> {
    let parts: Vec<&str> = key.split('/').collect();
    let ["projects", _, "locations", place, "keyRings", _, "cryptoKeys", _] = parts.as_slice() else {
        return Err(ApiError::invalid(format!(
            "Invalid value for field \"{field}\": {key:?} is not of the form \
             projects/*/locations/*/keyRings/*/cryptoKeys/*."
        )));
    };
    if *place != region {
        return Err(ApiError::invalid(format!(
            "Invalid value for field \"{field}\": {key:?} is in location {place:?}; a cluster in {location:?} needs a key \
             in {region:?}."
        )));
    }
    Ok(())
}

/// What is kept for a new cluster.
pub(crate) fn created(key: &str) -> Value {
    if key.is_empty() {
        return json!({"state": "DECRYPTED", "currentState": "CURRENT_STATE_DECRYPTED"});
    }
    json!({"state": "ENCRYPTED", "currentState": "CURRENT_STATE_ENCRYPTED", "keyName": key})
}

/// What is kept after a decoded `DatabaseEncryption` was asked for: the key before is one of those that decrypt.
///
/// # Errors
/// As [`asked_key`].
pub(crate) fn updated(cluster: &Cluster, asked: &Value) -> Result<Value, ApiError> {
    let key = asked_key(asked, &cluster.location)?;
    let mut older: Vec<&str> = Vec::new();
    for known in keys_of(&cluster.body).filter(|known| *known != key) {
        if !older.contains(&known) {
            older.push(known);
        }
    }
    let mut config = created(key);
    if !older.is_empty() {
        config.set("decryptionKeys", older.into_iter().map(Value::from).collect::<Vec<_>>());
    }
    Ok(config)
}

/// Notes why a change of the key to that of `wanted` failed.
pub fn note_failure(body: &mut Value, wanted: &Value, why: &str, now: &str) {
    let key = key_of(wanted);
    if key == key_of(body) {
        return;
    }
    let doing = if key.is_empty() { "CURRENT_STATE_DECRYPTION_ERROR" } else { "CURRENT_STATE_ENCRYPTION_ERROR" };
    let mut error = json!({"errorMessage": why, "timestamp": now});
    if !key.is_empty() {
        error.set("keyName", key);
    }
    body["databaseEncryption"].set("lastOperationErrors", vec![error]);
    body["databaseEncryption"].set("currentState", doing);
}

/// While a change to the key of `wanted` is under way.
pub fn show_pending(body: &mut Value, wanted: &Value) {
    let key = key_of(wanted);
    if key != key_of(body) {
        let doing =
            if key.is_empty() { "CURRENT_STATE_DECRYPTION_PENDING" } else { "CURRENT_STATE_ENCRYPTION_PENDING" };
        body["databaseEncryption"].set("currentState", doing);
    }
}

/// A cluster whose key cannot be used says so, as GKE does.
pub fn show_trouble(cluster: &mut Cluster, error: &ApiError) {
    let why = error.message.trim_end_matches('.');
    "DEGRADED".clone_into(&mut cluster.status);
    why.clone_into(&mut cluster.status_message);
    let code = if error.code == Code::Internal { Code::FailedPrecondition } else { error.code };
    let condition = json!({"code": "CLOUD_KMS_KEY_ERROR", "canonicalCode": code.status(), "message": why});
    cluster.body.set("conditions", vec![condition]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k";

    #[test]
    fn a_key_goes_with_its_state_and_is_in_the_clusters_region() {
        let check = |state: &str, key: &str| {
            let config = json!({"state": state, "keyName": key});
            asked_key(&config, "us-central1-a").map(str::to_owned).map_err(|error| error.code.http())
        };
        assert_eq!(check("ENCRYPTED", KEY), Ok(KEY.to_owned()));
        assert_eq!(check("DECRYPTED", ""), Ok(String::new()));
        assert_eq!(check("", ""), Ok(String::new()));
        for (state, key, code) in [
            ("ENCRYPTED", "", 400),
            ("DECRYPTED", KEY, 400),
            ("ENCRYPTED", "k", 400),
            ("ENCRYPTED", &format!("{KEY}/cryptoKeyVersions/1"), 400),
            ("ENCRYPTED", "projects/p/locations/global/keyRings/r/cryptoKeys/k", 400),
            ("ENCRYPTED", "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k", 400),
            ("ALL_OBJECTS_ENCRYPTION_ENABLED", KEY, 501),
        ] {
            assert_eq!(check(state, key), Err(code), "{state} {key}");
        }
        assert!(asked_key(&json!({"state": "ENCRYPTED", "keyName": KEY}), "us-central1").is_ok());
    }
}
