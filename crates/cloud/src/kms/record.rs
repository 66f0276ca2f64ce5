//! What is kept of key rings, keys and versions, and how they are named.

use std::collections::BTreeMap;
use std::fmt;

use base::{Entropy, Timestamp};
use gke::{ApiError, Code};
use serde::{Deserialize, Serialize};

use super::crypto::Material;
use crate::state::Binding;

/// All key rings, by `LOCATION/RING`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rings(pub(crate) BTreeMap<String, KeyRing>);

/// A key ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRing {
    /// RFC 3339.
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) policy: Vec<Binding>,
    #[serde(default)]
    pub(crate) policy_revision: u64,
    #[serde(default)]
    pub(crate) keys: BTreeMap<String, CryptoKey>,
}

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// `ENCRYPT_DECRYPT`
    Encrypt,
    /// `ASYMMETRIC_SIGN`
    Sign,
}

impl Purpose {
    /// Google's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "ENCRYPT_DECRYPT",
            Self::Sign => "ASYMMETRIC_SIGN",
        }
    }
}

/// What a version does with its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Algorithm {
    /// AES-256-GCM.
    Symmetric,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits.
    Rsa2048,
    /// The same with 3072 bits.
    Rsa3072,
    /// The same with 4096 bits.
    Rsa4096,
    /// ECDSA on P-256 with SHA-256.
    P256,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Symmetric, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::P256];

    /// Google's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "GOOGLE_SYMMETRIC_ENCRYPTION",
            Self::Rsa2048 => "RSA_SIGN_PKCS1_2048_SHA256",
            Self::Rsa3072 => "RSA_SIGN_PKCS1_3072_SHA256",
            Self::Rsa4096 => "RSA_SIGN_PKCS1_4096_SHA256",
            Self::P256 => "EC_SIGN_P256_SHA256",
        }
    }

    /// By Google's word.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// What keys with it are for.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Symmetric => Purpose::Encrypt,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 | Self::P256 => Purpose::Sign,
        }
    }
}

/// Where a version stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VersionState {
    Enabled,
    Disabled,
    /// Its material is destroyed at a time that is set, unless it is restored before.
    DestroyScheduled,
    Destroyed,
}

impl VersionState {
    /// Google's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }

    /// The type of violation that goes with an attempt to use such a version.
    const fn violation(self) -> &'static str {
        match self {
            Self::Enabled => "KEY_ENABLED",
            Self::Disabled => "KEY_DISABLED",
            Self::DestroyScheduled => "KEY_DESTROY_SCHEDULED",
            Self::Destroyed => "KEY_DESTROYED",
        }
    }
}

/// A key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CryptoKey {
    /// RFC 3339.
    pub(crate) created: String,
    /// Of versions that are made from now on.
    pub(crate) algorithm: Algorithm,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) rotation_seconds: Option<i64>,
    /// Unix seconds.
    pub(crate) next_rotation: Option<i64>,
    pub(crate) primary: Option<u32>,
    /// From the order to destroy a version to its end.
    pub(crate) destroy_seconds: i64,
    #[serde(default)]
    pub(crate) policy: Vec<Binding>,
    #[serde(default)]
    pub(crate) policy_revision: u64,
    pub(crate) versions: BTreeMap<u32, Version>,
}

impl CryptoKey {
    /// Is there anything to do that its times say?
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.next_rotation.is_some_and(|at| at <= now) || self.versions.values().any(|version| version.is_over(now))
    }

    /// Does what its times say: versions are destroyed, and a new primary one is made. Rotations that were missed, as the
    /// emulator did not run or its clock was moved, are made up for by one.
    pub(crate) fn settle(&mut self, now: Timestamp, entropy: &Entropy) -> Result<(), ApiError> {
        let seconds = now.unix_seconds();
        for version in self.versions.values_mut().filter(|version| version.is_over(seconds)) {
            version.state = VersionState::Destroyed;
            version.material.destroy();
        }
        if self.next_rotation.is_some_and(|at| at <= seconds) {
            let number = self.next_version();
            self.versions.insert(number, Version::generate(self.algorithm, now, entropy)?);
            self.primary = Some(number);
            let step = |period: i64| {
                let next = self.next_rotation.unwrap_or(seconds);
                next + ((seconds - next) / period + 1) * period
            };
            self.next_rotation = self.rotation_seconds.map(step);
        }
        Ok(())
    }

    /// The number of the next version.
    pub(crate) fn next_version(&self) -> u32 {
        self.versions.keys().next_back().map_or(1, |last| last + 1)
    }
}

/// A version of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) state: VersionState,
    pub(crate) algorithm: Algorithm,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) material: Material,
    /// Unix seconds: when it will be destroyed, or was.
    pub(crate) destroy_at: Option<i64>,
}

impl Version {
    pub(crate) fn generate(algorithm: Algorithm, now: Timestamp, entropy: &Entropy) -> Result<Self, ApiError> {
        let material = Material::generate(algorithm, entropy)?;
        Ok(Self { state: VersionState::Enabled, algorithm, created: now.rfc3339(), material, destroy_at: None })
    }

    fn is_over(&self, now: i64) -> bool {
        self.state == VersionState::DestroyScheduled && self.destroy_at.is_some_and(|at| at <= now)
    }
}

/// Where a key is: `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyName {
    /// The project as it was written: id or number.
    pub project: String,
    pub location: String,
    pub ring: String,
    pub key: String,
}

impl KeyName {
    /// Reads a key's name.
    ///
    /// # Errors
    /// 400 for what is no name of a key.
    pub fn parse(name: &str) -> Result<Self, ApiError> {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key]
                if [project, location, ring, key].iter().all(|part| !part.is_empty()) =>
            {
                let [project, location, ring, key] = [project, location, ring, key].map(|part| (*part).to_owned());
                Ok(Self { project, location, ring, key })
            }
            _ => Err(ApiError::invalid(format!("Resource name [{name}] is malformed."))),
        }
    }

    /// `LOCATION/RING`, by which rings are kept.
    pub(crate) fn ring_id(&self) -> String {
        format!("{}/{}", self.location, self.ring)
    }

    /// A version's name.
    pub fn version(&self, number: u32) -> String {
        format!("{self}/cryptoKeyVersions/{number}")
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { project, location, ring, key } = self;
        write!(f, "projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}")
    }
}

/// A version's name in its parts.
///
/// # Errors
/// 400 for what is no name of a version.
pub(crate) fn parse_version(name: &str) -> Result<(KeyName, u32), ApiError> {
    let malformed = || ApiError::invalid(format!("Resource name [{name}] is malformed."));
    let (key, number) = name.split_once("/cryptoKeyVersions/").ok_or_else(malformed)?;
    Ok((KeyName::parse(key)?, number.parse().map_err(|_| malformed())?))
}

/// 400 of a version that cannot be used as it stands, in the words that clients look for.
pub(crate) fn not_enabled(name: &str, state: VersionState) -> ApiError {
    let text = format!("{name} is not enabled, current state is: {}.", state.name());
    ApiError::precondition(text, state.violation(), name)
}

/// 400 of what cannot be done in this state.
pub(crate) fn precondition(text: String) -> ApiError {
    ApiError::new(Code::FailedPrecondition, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn entropy() -> Entropy {
        Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).expect("random bytes"))
    }

    fn at(day: i64) -> Timestamp {
        Timestamp::from_unix_seconds(day * DAY)
    }

    fn key() -> CryptoKey {
        let version = Version::generate(Algorithm::Symmetric, at(0), &entropy()).unwrap();
        CryptoKey {
            created: at(0).rfc3339(),
            algorithm: Algorithm::Symmetric,
            labels: BTreeMap::new(),
            rotation_seconds: Some(10 * DAY),
            next_rotation: Some(7 * DAY),
            primary: Some(1),
            destroy_seconds: DAY,
            policy: Vec::new(),
            policy_revision: 0,
            versions: [(1, version)].into(),
        }
    }

    #[test]
    fn a_key_is_rotated_when_it_is_time_and_once_for_all_times_that_were_missed() {
        let mut key = key();
        assert!(!key.is_due(7 * DAY - 1));
        let mut step = |day: i64| {
            assert!(key.is_due(day * DAY));
            key.settle(at(day), &entropy()).unwrap();
            assert!(!key.is_due(day * DAY));
            (key.primary, key.versions.len(), key.next_rotation.map(|next| next / DAY))
        };
        assert_eq!(step(7), (Some(2), 2, Some(17)));
        assert_eq!(step(18), (Some(3), 3, Some(27)));
        assert_eq!(step(57), (Some(4), 4, Some(67)));
        key.rotation_seconds = None;
        key.settle(at(67), &entropy()).unwrap();
        assert_eq!((key.primary, key.next_rotation), (Some(5), None));
    }

    #[test]
    fn a_version_is_destroyed_when_its_time_has_come_and_its_ciphertexts_are_still_known() {
        let (mut key, entropy) = (key(), entropy());
        key.next_rotation = None;
        let version = key.versions.get_mut(&1).unwrap();
        let sealed = version.material.encrypt(b"text", b"", &entropy).unwrap();
        version.state = VersionState::DestroyScheduled;
        version.destroy_at = Some(3 * DAY);
        assert!(!key.is_due(3 * DAY - 1) && key.is_due(3 * DAY));
        key.settle(at(3), &entropy).unwrap();
        let version = &key.versions[&1];
        assert_eq!(version.state, VersionState::Destroyed);
        assert!(version.material.made(&sealed) && version.material.decrypt(&sealed, b"").is_err());
    }

    #[test]
    fn names_are_read_and_written_alike_and_others_are_refused() {
        let name = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k";
        let key = KeyName::parse(name).unwrap();
        assert_eq!((key.to_string().as_str(), key.ring_id().as_str()), (name, "us-central1/r"));
        assert_eq!(parse_version(&key.version(12)).unwrap(), (key, 12));
        for wrong in [
            "",
            "k",
            "projects/p/locations/l/keyRings//cryptoKeys/k",
            &format!("{name}/x"),
            &format!("{name}/cryptoKeyVersions/x"),
        ] {
            assert!(KeyName::parse(wrong).is_err() && parse_version(wrong).is_err(), "{wrong}");
        }
    }
}
