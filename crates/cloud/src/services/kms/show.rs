//! What is shown of rings, keys and versions, one by one and as lists.

use base::Timestamp;
use machinery::{Value, json};

use super::{Answer, Context};
use crate::kms::{self, CryptoKey, KeyName, KeyRing, Purpose, Version, VersionState};

pub(super) fn location(project: &str, place: &str) -> Value {
    json!({"name": format!("projects/{project}/locations/{place}"), "locationId": place, "displayName": place,
        "labels": {"cloud.googleapis.com/region": place},
        "metadata": {"@type": "type.googleapis.com/google.cloud.kms.v1.LocationMetadata"}})
}

pub(super) fn ring(name: &str, ring: &KeyRing) -> Value {
    json!({"name": name, "createTime": ring.created})
}

fn time(seconds: i64) -> String {
    Timestamp::from_unix_seconds(seconds).rfc3339()
}

pub(super) fn key(name: &KeyName, key: &CryptoKey) -> Value {
    let purpose = key.algorithm.purpose();
    let mut out = json!({"name": name.to_string(), "purpose": purpose.name(), "createTime": key.created,
        "versionTemplate": {"protectionLevel": "SOFTWARE", "algorithm": key.algorithm.name()},
        "destroyScheduledDuration": format!("{}s", key.destroy_seconds)});
    let primary = key.primary.filter(|_| purpose == Purpose::Encrypt);
    if let Some((number, version)) = primary.and_then(|number| Some((number, key.versions.get(&number)?))) {
        out.set("primary", self::version(name, number, version));
    }
    if let Some(seconds) = key.rotation_seconds {
        out.set("rotationPeriod", format!("{seconds}s"));
    }
    if let Some(at) = key.next_rotation {
        out.set("nextRotationTime", time(at));
    }
    if !key.labels.is_empty() {
        let labels: Value = key.labels.iter().map(|(key, value)| (key.as_str(), Value::from(value))).collect();
        out.set("labels", labels);
    }
    out
}

pub(super) fn version(key: &KeyName, number: u32, version: &Version) -> Value {
    let mut out = json!({"name": key.version(number), "state": version.state.name(), "createTime": version.created,
        "generateTime": version.created, "protectionLevel": "SOFTWARE", "algorithm": version.algorithm.name()});
    let field = match version.state {
        VersionState::DestroyScheduled => "destroyTime",
        VersionState::Destroyed => "destroyEventTime",
        VersionState::Enabled | VersionState::Disabled => return out,
    };
    out.set(field, time(version.destroy_at.unwrap_or_default()));
    out
}

impl Context<'_> {
    pub(super) fn list_rings(&self) -> Answer {
        let state = self.inner.store.read();
        self.require_here(&state, "keyRings.list")?;
        let here =
            |id: &str| id.split_once('/').filter(|(place, _)| *place == self.location).map(|(_, name)| name.to_owned());
        let rings = state.kms.0.iter().filter_map(|(id, found)| Some((here(id)?, found)));
        self.page("keyRings", rings.map(|(id, found)| (id.clone(), ring(&self.ring_name(&id), found))).collect())
    }

    pub(super) fn get_ring(&self, name: &str) -> Answer {
        let state = self.inner.store.read();
        self.require_ring(&state, name, "keyRings.get")?;
        let found = state.kms.0.get(&self.ring_id(name)).ok_or_else(|| self.no_ring(name))?;
        Ok(ring(&self.ring_name(name), found))
    }

    pub(super) fn list_keys(&self, ring: &str) -> Answer {
        let state = self.inner.store.read();
        self.require_ring(&state, ring, "cryptoKeys.list")?;
        let found = state.kms.0.get(&self.ring_id(ring)).ok_or_else(|| self.no_ring(ring))?;
        let keys = found.keys.iter().map(|(id, found)| (id.clone(), key(&self.key_name(ring, id), found)));
        self.page("cryptoKeys", keys.collect())
    }

    pub(super) fn get_key(&self, name: &KeyName) -> Answer {
        let state = self.inner.store.read();
        self.require_key(&state, name, "cryptoKeys.get")?;
        Ok(key(name, kms::key_of(&state, name)?))
    }

    pub(super) fn list_versions(&self, name: &KeyName) -> Answer {
        let state = self.inner.store.read();
        self.require_key(&state, name, "cryptoKeyVersions.list")?;
        let found = kms::key_of(&state, name)?;
        let versions = found.versions.iter();
        let versions = versions.map(|(number, found)| (number.to_string(), version(name, *number, found)));
        self.page("cryptoKeyVersions", versions.collect())
    }

    pub(super) fn get_version(&self, name: &KeyName, number: u32) -> Answer {
        let state = self.inner.store.read();
        self.require_key(&state, name, "cryptoKeyVersions.get")?;
        Ok(version(name, number, kms::version_of(kms::key_of(&state, name)?, name, number)?))
    }
}
