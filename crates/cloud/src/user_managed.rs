//! Keys of clusters that their users have in Cloud KMS (`userManagedKeysConfig`): what such a key must be, and its use as the
//! project's service agent.

use gke::{ApiError, Cluster, user_managed};
use machinery::Value;
use pki::OutsideTokenKeys;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::identity::agent_email;
use crate::kms::{self, Algorithm, Signed, User};
use crate::{Cloud, Inner, encryption};

/// What GKE takes for tokens.
const TOKEN_ALGORITHMS: [Algorithm; 2] = [Algorithm::Rsa3072, Algorithm::Rsa4096];

/// The keys of a cluster that its user has.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserManagedKeys {
    /// Those of its service-account tokens; without them the cluster's signer has one.
    #[serde(default)]
    pub tokens: Option<UserManagedTokenKeys>,
    /// The name of the key that the directories of its control plane are encrypted under, beside the platform's; empty for none.
    #[serde(default)]
    pub disk: String,
}

/// Token keys, as they were when the cluster was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserManagedTokenKeys {
    /// The version that signs.
    pub version: String,
    pub keys: OutsideTokenKeys,
}

impl Cloud {
    /// A signature over a SHA-256 digest by a token key, as the project's service agent. Blocks.
    ///
    /// # Errors
    /// In Cloud KMS's words: the agent may not, the version is not enabled.
    pub fn sign_token(&self, version: &str, sha256: &[u8; 32]) -> Result<Vec<u8>, String> {
        let agent = agent_email(&self.0.project_number);
        kms::sign(&self.0, &agent, version, Signed::Digest(sha256)).map_err(|error| error.message)
    }

    /// Encrypts under the key of a cluster's disks, which the agent may have done for it. Blocks.
    ///
    /// # Errors
    /// In Cloud KMS's words.
    pub fn encrypt_for_disk(&self, key: &str, plaintext: &[u8], cluster: &str) -> Result<Vec<u8>, String> {
        let agent = agent_email(&self.0.project_number);
        let made = kms::encrypt(&self.0, on_behalf_of(&agent), key, plaintext, cluster.as_bytes());
        made.map(|made| made.ciphertext).map_err(|error| error.message)
    }

    /// Decrypts what [`Cloud::encrypt_for_disk`] made for the same cluster. Blocks.
    ///
    /// # Errors
    /// In Cloud KMS's words.
    pub fn decrypt_for_disk(&self, key: &str, ciphertext: &[u8], cluster: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let agent = agent_email(&self.0.project_number);
        let found = kms::decrypt(&self.0, on_behalf_of(&agent), key, ciphertext, cluster.as_bytes());
        found.map(|found| found.plaintext).map_err(|error| error.message)
    }
}

/// Disks are Compute Engine's: it is enough that the agent may delegate.
const fn on_behalf_of(agent: &str) -> User<'_> {
    User { email: agent, delegating: true }
}

/// Can a new cluster have the keys that it names? The version of the disks' key that would be used, if there is one. Blocks.
///
/// # Errors
/// In Cloud KMS's words, and 400 for a key that is for something else.
pub(crate) fn check_keys(inner: &Inner, body: &Value) -> Result<Option<String>, ApiError> {
    token_keys(inner, body)?;
    check_disk_key(inner, body)
}

/// Can the key of a cluster's disks be used now? The version that is used, if there is such a key. Blocks.
///
/// # Errors
/// In Cloud KMS's words.
pub(crate) fn check_disk_key(inner: &Inner, body: &Value) -> Result<Option<String>, ApiError> {
    match user_managed::disk_key(body) {
        "" => Ok(None),
        key => encryption::check_use(inner, on_behalf_of(&agent_email(&inner.project_number)), key).map(Some),
    }
}

/// The keys of a cluster that its user has, as they are now. Blocks.
///
/// # Errors
/// As [`check_keys`].
pub(crate) fn keys(inner: &Inner, cluster: &Cluster) -> Result<UserManagedKeys, ApiError> {
    let disk = user_managed::disk_key(&cluster.body).to_owned();
    Ok(UserManagedKeys { tokens: token_keys(inner, &cluster.body)?, disk })
}

fn token_keys(inner: &Inner, body: &Value) -> Result<Option<UserManagedTokenKeys>, ApiError> {
    let Some(named) = user_managed::token_keys(body) else { return Ok(None) };
    let agent = agent_email(&inner.project_number);
    let public = |version: &String| {
        let key = kms::public_key(inner, &agent, version)?;
        if TOKEN_ALGORITHMS.contains(&key.algorithm) {
            return Ok(key.pem);
        }
        Err(kms::precondition(format!(
            "{version} has the algorithm {}; service account tokens need RSA_SIGN_PKCS1_3072_SHA256 or \
             RSA_SIGN_PKCS1_4096_SHA256.",
            key.algorithm.name()
        )))
    };
    let verification = named.verification.iter().map(public).collect::<Result<_, _>>()?;
    let signing = public(&named.signing)?;
    // Seeing a key is less than signing with it.
    kms::sign(inner, &agent, &named.signing, Signed::Data(b"ping"))?;
    Ok(Some(UserManagedTokenKeys { version: named.signing, keys: OutsideTokenKeys { signing, verification } }))
}
