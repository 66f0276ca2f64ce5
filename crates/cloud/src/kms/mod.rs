//! Cloud KMS, the part without HTTP: keys by resource name, and who may use them.
//!
//! ```text
//! services::kms (REST) ─┐
//! GKE, CA Service      ─┴─► may the caller? (project, key ring, key) ─► which version, in which state? ─► crypto
//! ```
//!
//! Times that keys have (rotation, destruction) take effect at the next call that looks at any key.

mod crypto;
mod record;

use std::sync::Arc;

pub use crypto::PublicKey;
pub(crate) use crypto::sha256;
use gke::{ApiError, Code};
use policy::iam::role_allows;
pub use record::{Algorithm, KeyName, Purpose, VersionState};
pub(crate) use record::{CryptoKey, KeyRing, Rings, Version, not_enabled, parse_version, precondition};
use zeroize::Zeroizing;

use crate::Inner;
use crate::services::is_ours;
use crate::state::State;

const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What [`Kms::encrypt`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encrypted {
    /// The name of the version that was used.
    pub version: String,
    pub ciphertext: Vec<u8>,
}

/// What [`Kms::decrypt`] found.
pub struct Decrypted {
    pub plaintext: Zeroizing<Vec<u8>>,
    /// Is the version that encrypted it the key's primary one?
    pub used_primary: bool,
    /// That version's name.
    pub version: String,
}

/// What is to be signed.
#[derive(Clone, Copy, Debug)]
pub enum Signed<'a> {
    /// The SHA-256 of it.
    Digest(&'a [u8; 32]),
    /// All of it.
    Data(&'a [u8]),
}

/// What is known of a key or a version of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub key: KeyName,
    pub purpose: Purpose,
    /// The version that was asked for, or the key's primary one: number, state and algorithm.
    pub version: Option<(u32, VersionState, Algorithm)>,
}

/// The keys of a cloud, for other parts of its process. Calls block: they compute, and may wait for the disk.
#[derive(Clone)]
pub struct Kms(Arc<Inner>);

impl Kms {
    pub(crate) fn of(inner: &Arc<Inner>) -> Self {
        Self(Arc::clone(inner))
    }

    /// Encrypts with a key's primary version, or with the version that is named.
    ///
    /// # Errors
    /// As the method `cryptoKeys.encrypt` fails for this caller.
    pub fn encrypt(&self, email: &str, name: &str, plaintext: &[u8], aad: &[u8]) -> Result<Encrypted, ApiError> {
        encrypt(&self.0, User::caller(email), name, plaintext, aad)
    }

    /// Decrypts with the version of a key that made the ciphertext.
    ///
    /// # Errors
    /// As the method `cryptoKeys.decrypt` fails for this caller.
    pub fn decrypt(&self, email: &str, name: &str, ciphertext: &[u8], aad: &[u8]) -> Result<Decrypted, ApiError> {
        decrypt(&self.0, User::caller(email), name, ciphertext, aad)
    }

    /// A signature by a version: PKCS #1 v1.5 or DER of ECDSA, as its algorithm says.
    ///
    /// # Errors
    /// As the method `cryptoKeyVersions.asymmetricSign` fails for this caller.
    pub fn sign(&self, email: &str, version: &str, what: Signed<'_>) -> Result<Vec<u8>, ApiError> {
        sign(&self.0, email, version, what)
    }

    /// The public half of a version.
    ///
    /// # Errors
    /// As the method `cryptoKeyVersions.getPublicKey` fails for this caller.
    pub fn public_key(&self, email: &str, version: &str) -> Result<PublicKey, ApiError> {
        public_key(&self.0, email, version)
    }

    /// Where a key or version stands, whoever asks: for decisions of the emulator's own, not for callers to see.
    ///
    /// # Errors
    /// 404 when there is no such key or version, 400 when the name is none.
    pub fn facts(&self, name: &str) -> Result<Facts, ApiError> {
        facts(&self.0, name)
    }
}

/// Lets every key do what its times say. Cheap when there is nothing to do.
pub(crate) fn settle(inner: &Inner) -> Result<(), ApiError> {
    let now = inner.clock.now();
    let seconds = now.unix_seconds();
    let state = inner.store.read();
    let mut keys = state.kms.0.values().flat_map(|ring| ring.keys.values());
    if !keys.any(|key| key.is_due(seconds)) {
        return Ok(());
    }
    change(inner, |state| {
        let keys = state.kms.0.values_mut().flat_map(|ring| ring.keys.values_mut());
        keys.filter(|key| key.is_due(seconds)).try_for_each(|key| key.settle(now, &inner.entropy))
    })
}

/// Changes keys, or who may use them; whoever keeps what keys made is told. Blocks for a write.
pub(crate) fn change<T>(inner: &Inner, change: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
    inner.store.write(|state| {
        state.kms_revision += 1;
        change(state)
    })
}

/// A place in the tree of resources whose policies count: the project's, the ring's, the key's.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) project: &'a str,
    /// `LOCATION/RING`
    pub(crate) ring: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    /// As refusals name it.
    pub(crate) name: &'a str,
}

/// Has the caller this permission there, by any of the policies?
pub(crate) fn may(inner: &Inner, state: &State, email: &str, place: Place<'_>, permission: &str) -> bool {
    let ring = place.ring.and_then(|id| state.kms.0.get(id));
    let key = ring.and_then(|ring| ring.keys.get(place.key?));
    let above = ring.map(|ring| state.roles_in(&ring.policy, email)).unwrap_or_default();
    let own = key.map(|key| state.roles_in(&key.policy, email)).unwrap_or_default();
    let roles = [inner.roles(state, email), above, own];
    is_ours(inner, place.project) && roles.iter().flatten().any(|role| role_allows(role, permission))
}

/// 403 unless the caller has the permission; it does not tell whether the resource is there.
pub(crate) fn require(
    inner: &Inner,
    state: &State,
    email: &str,
    place: Place<'_>,
    permission: &str,
) -> Result<(), ApiError> {
    if may(inner, state, email, place, permission) {
        return Ok(());
    }
    tracing::info!(caller = email, permission, resource = place.name, "denied");
    let text = format!("Permission '{permission}' denied on resource '{}' (or it may not exist).", place.name);
    Err(ApiError::new(Code::PermissionDenied, text))
}

/// Who uses a key: a caller, or another service for one.
#[derive(Clone, Copy)]
pub(crate) struct User<'a> {
    pub(crate) email: &'a str,
    /// Is it enough that the caller may have other services use the key?
    pub(crate) delegating: bool,
}

impl<'a> User<'a> {
    pub(crate) const fn caller(email: &'a str) -> Self {
        Self { email, delegating: false }
    }
}

/// The key, for somebody who may do this with it.
fn find<'a>(
    inner: &Inner,
    state: &'a State,
    user: User<'_>,
    name: &KeyName,
    permission: &str,
) -> Result<&'a CryptoKey, ApiError> {
    let (ring, shown) = (name.ring_id(), name.to_string());
    let place = Place { project: &name.project, ring: Some(&ring), key: Some(&name.key), name: &shown };
    let delegated = user.delegating && may(inner, state, user.email, place, &format!("{permission}ViaDelegation"));
    if !delegated {
        require(inner, state, user.email, place, permission)?;
    }
    key_of(state, name)
}

/// A key that is there.
pub(crate) fn key_of<'a>(state: &'a State, name: &KeyName) -> Result<&'a CryptoKey, ApiError> {
    let found = state.kms.0.get(&name.ring_id()).and_then(|ring| ring.keys.get(&name.key));
    found.ok_or_else(|| ApiError::not_found(format!("CryptoKey {name} not found.")))
}

/// A version that is there.
pub(crate) fn version_of<'a>(key: &'a CryptoKey, name: &KeyName, number: u32) -> Result<&'a Version, ApiError> {
    let missing = || ApiError::not_found(format!("CryptoKeyVersion {} not found.", name.version(number)));
    key.versions.get(&number).ok_or_else(missing)
}

/// 400 for a key that is for something else.
pub(crate) fn check_purpose(key: &CryptoKey, name: &KeyName, wanted: Purpose) -> Result<(), ApiError> {
    let purpose = key.algorithm.purpose();
    if purpose == wanted {
        return Ok(());
    }
    Err(wrong_purpose(name, purpose, wanted.name()))
}

/// 400 for a key of one purpose that is to serve another.
pub(crate) fn wrong_purpose(name: &KeyName, purpose: Purpose, wanted: &str) -> ApiError {
    precondition(format!("The purpose of CryptoKey {name} is {}; this needs {wanted}.", purpose.name()))
}

fn enabled<'a>(key: &'a CryptoKey, name: &KeyName, number: u32) -> Result<&'a Version, ApiError> {
    let version = version_of(key, name, number)?;
    match version.state {
        VersionState::Enabled => Ok(version),
        state => Err(not_enabled(&name.version(number), state)),
    }
}

fn check_length(what: &str, bytes: &[u8]) -> Result<(), ApiError> {
    if bytes.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::invalid(format!("The {what} is longer than {TEXT_BYTES_MAX} bytes.")))
}

/// See [`Kms::encrypt`].
pub(crate) fn encrypt(
    inner: &Inner,
    user: User<'_>,
    name: &str,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Encrypted, ApiError> {
    settle(inner)?;
    let (name, number) = match parse_version(name) {
        Ok((key, number)) => (key, Some(number)),
        Err(_) => (KeyName::parse(name)?, None),
    };
    let state = inner.store.read();
    let key = find(inner, &state, user, &name, "cloudkms.cryptoKeyVersions.useToEncrypt")?;
    check_purpose(key, &name, Purpose::Encrypt)?;
    check_length("plaintext", plaintext)?;
    check_length("additional authenticated data", aad)?;
    let missing = || precondition(format!("CryptoKey {name} has no primary CryptoKeyVersion."));
    let number = number.or(key.primary).ok_or_else(missing)?;
    let version = enabled(key, &name, number)?;
    let ciphertext = version.material.encrypt(plaintext, aad, &inner.entropy)?;
    Ok(Encrypted { version: name.version(number), ciphertext })
}

/// See [`Kms::decrypt`].
pub(crate) fn decrypt(
    inner: &Inner,
    user: User<'_>,
    name: &str,
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Decrypted, ApiError> {
    settle(inner)?;
    let name = KeyName::parse(name)?;
    let state = inner.store.read();
    let key = find(inner, &state, user, &name, "cloudkms.cryptoKeyVersions.useToDecrypt")?;
    check_purpose(key, &name, Purpose::Encrypt)?;
    check_length("additional authenticated data", aad)?;
    let made = key.versions.iter().find(|(_, version)| version.material.made(ciphertext));
    let foreign = || ApiError::invalid("Decryption failed: verify that 'name' refers to the correct CryptoKey.");
    let number = *made.ok_or_else(foreign)?.0;
    let opened = enabled(key, &name, number)?.material.decrypt(ciphertext, aad)?;
    let plaintext = opened.ok_or_else(|| ApiError::invalid("Decryption failed: the ciphertext is invalid."))?;
    Ok(Decrypted { plaintext, used_primary: key.primary == Some(number), version: name.version(number) })
}

/// See [`Kms::sign`].
pub(crate) fn sign(inner: &Inner, email: &str, version: &str, what: Signed<'_>) -> Result<Vec<u8>, ApiError> {
    settle(inner)?;
    let (name, number) = parse_version(version)?;
    let state = inner.store.read();
    let key = find(inner, &state, User::caller(email), &name, "cloudkms.cryptoKeyVersions.useToSign")?;
    check_purpose(key, &name, Purpose::Sign)?;
    let version = enabled(key, &name, number)?;
    let digest = match what {
        Signed::Digest(digest) => *digest,
        Signed::Data(data) => {
            check_length("data", data)?;
            sha256(data)
        }
    };
    version.material.sign(version.algorithm, &digest)
}

/// See [`Kms::public_key`].
pub(crate) fn public_key(inner: &Inner, email: &str, version: &str) -> Result<PublicKey, ApiError> {
    settle(inner)?;
    let (name, number) = parse_version(version)?;
    let state = inner.store.read();
    let key = find(inner, &state, User::caller(email), &name, "cloudkms.cryptoKeyVersions.viewPublicKey")?;
    check_purpose(key, &name, Purpose::Sign)?;
    let version = enabled(key, &name, number)?;
    version.material.public_key(version.algorithm)
}

/// See [`Kms::facts`].
pub(crate) fn facts(inner: &Inner, name: &str) -> Result<Facts, ApiError> {
    settle(inner)?;
    let (name, number) = match parse_version(name) {
        Ok((key, number)) => (key, Some(number)),
        Err(_) => (KeyName::parse(name)?, None),
    };
    let state = inner.store.read();
    let key = key_of(&state, &name)?;
    let version = match number.or(key.primary) {
        Some(number) => {
            let version = version_of(key, &name, number)?;
            Some((number, version.state, version.algorithm))
        }
        None => None,
    };
    if !is_ours(inner, &name.project) {
        return Err(ApiError::not_found(format!("CryptoKey {name} not found.")));
    }
    Ok(Facts { purpose: key.algorithm.purpose(), key: name, version })
}
