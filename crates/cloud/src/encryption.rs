//! Keys of clusters: what GKE does with Cloud KMS as its service agent, for the encryption of Secrets.

use gke::record::Work;
use gke::{ApiError, Cluster, Code, OperationStatus, encryption};
use machinery::Value;
use zeroize::Zeroizing;

use crate::identity::agent_email;
use crate::kms::{self, User};
use crate::state::State;
use crate::{Cloud, Inner, user_managed};

impl Cloud {
    /// Encrypts with a key of a cluster, as the service agent: the version that did, and the ciphertext. Blocks.
    ///
    /// # Errors
    /// 403 for a key that is not the cluster's, and as Cloud KMS answers the agent.
    pub fn encrypt_for(&self, cluster: &str, key: &str, plaintext: &[u8]) -> Result<kms::Encrypted, ApiError> {
        check_is_of(&self.0, cluster, key)?;
        kms::encrypt(&self.0, User::caller(&agent_email(&self.0.project_number)), key, plaintext, &[])
    }

    /// Decrypts with a key of a cluster, as the service agent: the version that encrypted, and the plaintext. Blocks.
    ///
    /// # Errors
    /// As [`Cloud::encrypt_for`].
    pub fn decrypt_for(
        &self,
        cluster: &str,
        key: &str,
        ciphertext: &[u8],
    ) -> Result<(String, Zeroizing<Vec<u8>>), ApiError> {
        check_is_of(&self.0, cluster, key)?;
        let found = kms::decrypt(&self.0, User::caller(&agent_email(&self.0.project_number)), key, ciphertext, &[])?;
        Ok((found.version, found.plaintext))
    }
}

/// API servers use the keys of their own cluster, those of a change under way included, and no others, though one agent may
/// use them all.
fn check_is_of(inner: &Inner, cluster: &str, key: &str) -> Result<(), ApiError> {
    let state = inner.store.read();
    let own = state.clusters.iter().filter(|found| found.id == cluster).map(|found| &found.body);
    let coming = changes_of(&state, cluster);
    if own.chain(coming).any(|body| encryption::keys_of(body).any(|known| known == key)) {
        return Ok(());
    }
    tracing::warn!(cluster, key, "an API server asked for a key that is not its cluster's");
    Err(ApiError::new(Code::PermissionDenied, format!("{key} is not a key of this cluster.")))
}

/// The configurations that a cluster is being changed to.
fn changes_of<'a>(state: &'a State, cluster: &'a str) -> impl Iterator<Item = &'a Value> {
    let running = state.operations.iter().filter(move |o| o.cluster_id == cluster && o.status != OperationStatus::Done);
    running.filter_map(|operation| match &operation.work {
        Work::UpdateCluster(body) => Some(&**body),
        _ => None,
    })
}

/// Can GKE encrypt and decrypt with this key? Blocks.
///
/// # Errors
/// In Cloud KMS's words.
pub(crate) fn check_key(inner: &Inner, key: &str) -> Result<(), ApiError> {
    if key.is_empty() {
        return Ok(());
    }
    let agent = agent_email(&inner.project_number);
    check_use(inner, User::caller(&agent), key).map(drop)
}

/// Can this user encrypt and decrypt with this key? With which version it encrypted. Blocks.
///
/// # Errors
/// In Cloud KMS's words.
pub(crate) fn check_use(inner: &Inner, user: User<'_>, key: &str) -> Result<String, ApiError> {
    let made = kms::encrypt(inner, user, key, b"ping", &[])?;
    kms::decrypt(inner, user, key, &made.ciphertext, &[])?;
    Ok(made.version)
}

/// Checks the key that a `DatabaseEncryption` asks for, before anything is begun. Blocks.
///
/// # Errors
/// 400 for a key that cannot be the cluster's, and as [`check_key`].
pub(crate) fn check_asked(inner: &Inner, config: &Value, location: &str) -> Result<(), ApiError> {
    check_key(inner, encryption::asked_key(config, location)?)
}

/// What the state of its key adds to a cluster that is shown. Blocks.
pub(crate) fn show(inner: &Inner, cluster: &mut Cluster) {
    if let Some(coming) = changes_of(&inner.store.read(), &cluster.id).next() {
        encryption::show_pending(&mut cluster.body, coming);
    }
    if cluster.status == "RUNNING"
        && let Err(error) = check_key(inner, encryption::key_of(&cluster.body))
            .and_then(|()| user_managed::check_disk_key(inner, &cluster.body).map(drop))
    {
        encryption::show_trouble(cluster, &error);
    }
}
