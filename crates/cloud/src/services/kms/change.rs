//! Rings, keys and versions are made and changed. Nothing but a version's secret is ever removed, as at Google.

use std::collections::BTreeMap;

use base::Timestamp;
use gke::{ApiError, Code};
use machinery::Value;

use super::{Answer, Context, show};
use crate::kms::{
    self, Algorithm, CryptoKey, KeyName, KeyRing, Purpose, Version, VersionState, not_enabled, precondition,
};
use crate::services::{check_id, unknown_field};
use crate::state::State;

/// Of a project, in all locations.
const RINGS_MAX: usize = 500;
/// Of a ring.
const KEYS_MAX: usize = 500;
/// Of a key, made by callers.
const VERSIONS_MAX: usize = 1000;
const LABELS_MAX: usize = 64;
const DAY_SECONDS: i64 = 24 * 3600;
const DESTROY_SECONDS_DEFAULT: i64 = 30 * DAY_SECONDS;
const DESTROY_SECONDS_MAX: i64 = 120 * DAY_SECONDS;
/// What Google sets, whatever is sent.
const OUTPUT_ONLY: &[&str] = &["name", "primary", "createTime"];
const KEY_FIELDS: &[&str] =
    &["purpose", "versionTemplate", "labels", "rotationPeriod", "nextRotationTime", "destroyScheduledDuration"];
/// Fields of keys that are not in software, or not made here.
const KEY_FIELDS_REFUSED: &[&str] = &["importOnly", "cryptoKeyBackend", "keyAccessJustificationsPolicy"];
const OTHER_PURPOSES: &[&str] = &["ASYMMETRIC_DECRYPT", "RAW_ENCRYPT_DECRYPT", "MAC", "KEY_ENCAPSULATION"];

/// The key, to be changed.
pub(super) fn key_mut<'a>(state: &'a mut State, name: &KeyName) -> Result<&'a mut CryptoKey, ApiError> {
    let ring = state.kms.0.get_mut(&name.ring_id());
    let found = ring.and_then(|ring| ring.keys.get_mut(&name.key));
    found.ok_or_else(|| ApiError::not_found(format!("CryptoKey {name} not found.")))
}

fn version_mut<'a>(state: &'a mut State, name: &KeyName, number: u32) -> Result<&'a mut Version, ApiError> {
    let missing = || ApiError::not_found(format!("CryptoKeyVersion {} not found.", name.version(number)));
    key_mut(state, name)?.versions.get_mut(&number).ok_or_else(missing)
}

fn full(what: &str) -> ApiError {
    precondition(format!("There are too many {what}."))
}

/// Names what is unknown or not implemented among the fields of a key.
fn check_fields(body: &Value) -> Result<(), ApiError> {
    for (field, value) in body.members() {
        if KEY_FIELDS_REFUSED.contains(&field) && !matches!(value, Value::Null | Value::Bool(false)) {
            return Err(ApiError::unimplemented(&format!("cryptoKey.{field}")));
        }
        if ![OUTPUT_ONLY, KEY_FIELDS, KEY_FIELDS_REFUSED].iter().any(|known| known.contains(&field)) {
            return Err(unknown_field("crypto_key", field));
        }
    }
    Ok(())
}

/// Seconds of `"86400s"`.
fn duration(body: &Value, field: &str) -> Result<Option<i64>, ApiError> {
    let value = &body[field];
    if value.is_null() {
        return Ok(None);
    }
    let seconds = value.as_str().and_then(|text| text.strip_suffix('s')).and_then(|text| text.parse::<i64>().ok());
    let wrong = || {
        let text =
            format!("Invalid value at 'crypto_key.{field}' (type.googleapis.com/google.protobuf.Duration), {value}");
        ApiError::json(vec![(format!("crypto_key.{field}"), text)])
    };
    seconds.map(Some).ok_or_else(wrong)
}

fn labels(asked: &Value) -> Result<BTreeMap<String, String>, ApiError> {
    let fits = |text: &str| {
        let letter = |c: char| c == '_' || c == '-' || c.is_alphanumeric() && !c.is_uppercase();
        text.chars().count() <= 63 && text.chars().all(letter)
    };
    let mut labels = BTreeMap::new();
    for (key, value) in asked.members() {
        let value = value.as_str().unwrap_or_default();
        if !fits(key) || !fits(value) || !key.starts_with(char::is_alphabetic) {
            return Err(ApiError::invalid(format!("Invalid label {key:?}: {value:?}.")));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    if labels.len() > LABELS_MAX { Err(full("labels")) } else { Ok(labels) }
}

/// The algorithm of a template, which must be in software; `default` where it says none.
fn algorithm(template: &Value, purpose: Purpose, default: Option<Algorithm>) -> Result<Algorithm, ApiError> {
    match template.str_at(&["protectionLevel"]) {
        "" | "PROTECTION_LEVEL_UNSPECIFIED" | "SOFTWARE" => {}
        other => return Err(ApiError::unimplemented(&format!("protection level {other}"))),
    }
    let algorithm = match template.str_at(&["algorithm"]) {
        "" | "CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED" => default
            .ok_or_else(|| ApiError::invalid("The field version_template.algorithm is required for this purpose."))?,
        name => Algorithm::parse(name).ok_or_else(|| ApiError::unimplemented(&format!("algorithm {name}")))?,
    };
    if algorithm.purpose() == purpose {
        return Ok(algorithm);
    }
    let text = format!("The algorithm {} is not for the purpose {}.", algorithm.name(), purpose.name());
    Err(ApiError::invalid(text))
}

fn purpose(body: &Value) -> Result<Purpose, ApiError> {
    match body.str_at(&["purpose"]) {
        "ENCRYPT_DECRYPT" => Ok(Purpose::Encrypt),
        "ASYMMETRIC_SIGN" => Ok(Purpose::Sign),
        other if OTHER_PURPOSES.contains(&other) => Err(ApiError::unimplemented(&format!("purpose {other}"))),
        _ => Err(ApiError::invalid("The field crypto_key.purpose is required.")),
    }
}

fn next_rotation(body: &Value) -> Result<Option<i64>, ApiError> {
    let value = &body["nextRotationTime"];
    if value.is_null() {
        return Ok(None);
    }
    let wrong = || {
        let text = format!(
            "Invalid value at 'crypto_key.next_rotation_time' (type.googleapis.com/google.protobuf.Timestamp), {value}"
        );
        ApiError::json(vec![("crypto_key.next_rotation_time".to_owned(), text)])
    };
    let at = value.as_str().and_then(|text| Timestamp::parse(text).ok()).ok_or_else(wrong)?;
    Ok(Some(at.unix_seconds()))
}

/// Do the times of a key go together?
fn check_rotation(key: &CryptoKey, now: i64) -> Result<(), ApiError> {
    if key.rotation_seconds.is_none() && key.next_rotation.is_none() {
        return Ok(());
    }
    if key.algorithm.purpose() != Purpose::Encrypt {
        return Err(ApiError::invalid("Automatic rotation is for keys of purpose ENCRYPT_DECRYPT only."));
    }
    match (key.rotation_seconds, key.next_rotation) {
        (Some(seconds), _) if seconds < DAY_SECONDS => {
            Err(ApiError::invalid(format!("The rotation period must be at least {DAY_SECONDS}s.")))
        }
        (Some(_), None) => Err(ApiError::invalid("The next rotation time must be set if the rotation period is.")),
        (_, Some(next)) if next <= now => Err(ApiError::invalid("The next rotation time must be in the future.")),
        _ => Ok(()),
    }
}

impl Context<'_> {
    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(super) fn create_ring(&self) -> Answer {
        self.require_here(&self.inner.store.read(), "keyRings.create")?;
        let body = self.request.json()?;
        if let Some((field, _)) = body.members().find(|(field, _)| !OUTPUT_ONLY.contains(field)) {
            return Err(unknown_field("key_ring", field));
        }
        let id = self.request.query("keyRingId");
        check_id("keyRingId", id)?;
        let ring =
            KeyRing { created: self.now().rfc3339(), policy: Vec::new(), policy_revision: 0, keys: BTreeMap::new() };
        let (key, name) = (self.ring_id(id), self.ring_name(id));
        kms::change(self.inner, |state| {
            if state.kms.0.contains_key(&key) {
                return Err(ApiError::new(Code::AlreadyExists, format!("KeyRing {name} already exists.")));
            }
            if state.kms.0.len() >= RINGS_MAX {
                return Err(full("key rings"));
            }
            let shown = show::ring(&name, &ring);
            state.kms.0.insert(key, ring);
            Ok(shown)
        })
    }

    pub(super) fn create_key(&self, ring: &str) -> Answer {
        self.require_ring(&self.inner.store.read(), ring, "cryptoKeys.create")?;
        let body = self.request.json()?;
        check_fields(&body)?;
        let id = self.request.query("cryptoKeyId");
        check_id("cryptoKeyId", id)?;
        let purpose = purpose(&body)?;
        let default = (purpose == Purpose::Encrypt).then_some(Algorithm::Symmetric);
        let now = self.now();
        let mut key = CryptoKey {
            created: now.rfc3339(),
            algorithm: algorithm(&body["versionTemplate"], purpose, default)?,
            labels: labels(&body["labels"])?,
            rotation_seconds: duration(&body, "rotationPeriod")?,
            next_rotation: next_rotation(&body)?,
            primary: None,
            destroy_seconds: duration(&body, "destroyScheduledDuration")?.unwrap_or(DESTROY_SECONDS_DEFAULT),
            policy: Vec::new(),
            policy_revision: 0,
            versions: BTreeMap::new(),
        };
        check_rotation(&key, now.unix_seconds())?;
        if !(DAY_SECONDS..=DESTROY_SECONDS_MAX).contains(&key.destroy_seconds) {
            let text =
                format!("The destroy scheduled duration must be between {DAY_SECONDS}s and {DESTROY_SECONDS_MAX}s.");
            return Err(ApiError::invalid(text));
        }
        if self.request.query("skipInitialVersionCreation") != "true" {
            key.versions.insert(1, Version::generate(key.algorithm, now, &self.inner.entropy)?);
            key.primary = (purpose == Purpose::Encrypt).then_some(1);
        }
        let name = self.key_name(ring, id);
        kms::change(self.inner, |state| {
            let held = state.kms.0.get_mut(&name.ring_id()).ok_or_else(|| self.no_ring(ring))?;
            if held.keys.contains_key(id) {
                return Err(ApiError::new(Code::AlreadyExists, format!("CryptoKey {name} already exists.")));
            }
            if held.keys.len() >= KEYS_MAX {
                return Err(full("keys in the ring"));
            }
            let shown = show::key(&name, &key);
            held.keys.insert(id.to_owned(), key);
            Ok(shown)
        })
    }

    pub(super) fn patch_key(&self, name: &KeyName) -> Answer {
        self.require_key(&self.inner.store.read(), name, "cryptoKeys.update")?;
        let body = self.request.json()?;
        check_fields(&body)?;
        let mask = self.request.query("updateMask");
        if mask.is_empty() {
            return Err(ApiError::invalid("The field update_mask is required."));
        }
        let now = self.now().unix_seconds();
        kms::change(self.inner, |state| {
            let key = key_mut(state, name)?;
            for field in mask.split(',').map(str::trim) {
                match field {
                    "labels" => key.labels = labels(&body["labels"])?,
                    "rotationPeriod" | "rotation_period" => key.rotation_seconds = duration(&body, "rotationPeriod")?,
                    "nextRotationTime" | "next_rotation_time" => key.next_rotation = next_rotation(&body)?,
                    "versionTemplate"
                    | "version_template"
                    | "versionTemplate.algorithm"
                    | "version_template.algorithm" => {
                        key.algorithm = algorithm(&body["versionTemplate"], key.algorithm.purpose(), None)?;
                    }
                    other => {
                        return Err(ApiError::invalid(format!("The field {other:?} of a key cannot be changed.")));
                    }
                }
            }
            check_rotation(key, now)?;
            Ok(show::key(name, key))
        })
    }

    pub(super) fn update_primary(&self, name: &KeyName) -> Answer {
        self.require_key(&self.inner.store.read(), name, "cryptoKeys.update")?;
        let body = self.request.json()?;
        let id = body.str_at(&["cryptoKeyVersionId"]);
        let number = id.parse().map_err(|_| ApiError::invalid(format!("Invalid crypto_key_version_id {id:?}.")))?;
        kms::change(self.inner, |state| {
            let key = key_mut(state, name)?;
            kms::check_purpose(key, name, Purpose::Encrypt)?;
            let version = kms::version_of(key, name, number)?;
            if version.state != VersionState::Enabled {
                return Err(not_enabled(&name.version(number), version.state));
            }
            key.primary = Some(number);
            Ok(show::key(name, key))
        })
    }

    pub(super) fn create_version(&self, name: &KeyName) -> Answer {
        let state = self.inner.store.read();
        self.require_key(&state, name, "cryptoKeyVersions.create")?;
        let body = self.request.json()?;
        if let Some((field, _)) = body.members().find(|(field, _)| *field != "name" && *field != "state") {
            return Err(ApiError::unimplemented(&format!("cryptoKeyVersion.{field}")));
        }
        let algorithm = kms::key_of(&state, name)?.algorithm;
        let mut version = Version::generate(algorithm, self.now(), &self.inner.entropy)?;
        if !body["state"].is_null() {
            version.state = wanted_state(&body)?;
        }
        kms::change(self.inner, |state| {
            let key = key_mut(state, name)?;
            if key.versions.len() >= VERSIONS_MAX {
                return Err(full("versions of the key"));
            }
            let number = key.next_version();
            let shown = show::version(name, number, &version);
            key.versions.insert(number, version);
            Ok(shown)
        })
    }

    pub(super) fn patch_version(&self, name: &KeyName, number: u32) -> Answer {
        self.require_key(&self.inner.store.read(), name, "cryptoKeyVersions.update")?;
        let body = self.request.json()?;
        match self.request.query("updateMask") {
            "state" => {}
            "" => return Err(ApiError::invalid("The field update_mask is required.")),
            other => return Err(ApiError::unimplemented(&format!("cryptoKeyVersion.{other}"))),
        }
        let wanted = wanted_state(&body)?;
        self.change_version(name, number, |version, full| match version.state {
            VersionState::Enabled | VersionState::Disabled => {
                version.state = wanted;
                Ok(())
            }
            state @ (VersionState::DestroyScheduled | VersionState::Destroyed) => {
                Err(precondition(format!("{full} cannot be enabled or disabled, current state is: {}.", state.name())))
            }
        })
    }

    pub(super) fn destroy(&self, name: &KeyName, number: u32) -> Answer {
        self.require_key(&self.inner.store.read(), name, "cryptoKeyVersions.destroy")?;
        let now = self.now().unix_seconds();
        let seconds = kms::key_of(&self.inner.store.read(), name)?.destroy_seconds;
        self.change_version(name, number, |version, full| match version.state {
            VersionState::Enabled | VersionState::Disabled => {
                version.state = VersionState::DestroyScheduled;
                version.destroy_at = Some(now + seconds);
                Ok(())
            }
            state @ (VersionState::DestroyScheduled | VersionState::Destroyed) => {
                Err(precondition(format!("{full} cannot be destroyed, current state is: {}.", state.name())))
            }
        })
    }

    pub(super) fn restore(&self, name: &KeyName, number: u32) -> Answer {
        self.require_key(&self.inner.store.read(), name, "cryptoKeyVersions.restore")?;
        self.change_version(name, number, |version, full| match version.state {
            VersionState::DestroyScheduled => {
                version.state = VersionState::Disabled;
                version.destroy_at = None;
                Ok(())
            }
            state => Err(precondition(format!("{full} cannot be restored, current state is: {}.", state.name()))),
        })
    }

    fn change_version(
        &self,
        name: &KeyName,
        number: u32,
        change: impl FnOnce(&mut Version, &str) -> Result<(), ApiError>,
    ) -> Answer {
        kms::change(self.inner, |state| {
            let version = version_mut(state, name, number)?;
            change(version, &name.version(number))?;
            Ok(show::version(name, number, version))
        })
    }
}

/// The states that callers may set.
fn wanted_state(body: &Value) -> Result<VersionState, ApiError> {
    match body.str_at(&["state"]) {
        "ENABLED" => Ok(VersionState::Enabled),
        "DISABLED" => Ok(VersionState::Disabled),
        other => {
            Err(ApiError::invalid(format!("The state of a version can be set to ENABLED or DISABLED, not {other:?}.")))
        }
    }
}
