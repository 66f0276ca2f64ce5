//! Secrets in the store: encrypted as kube-apiserver's KMS v2 provider does, where the cluster has a key for it.
//!
//! ```text
//! commit ──seal──► k8s:enc:kms:v2:cloudkms:<EncryptedObject> ──► store
//! get, list, watch cache, history ◄──open── PlainStore (range, watch) ◄── store
//!                      │ DEK not known yet
//!                      └──► KeyService: unwrap, by the version that the object names
//! ```
//! A DEK seed is made by each server for itself and wrapped by the cluster's key; plain it is in memory only. Whatever comes
//! out of the store comes through [`PlainStore`], in plain; what cannot be opened stays as it is, is remembered with its
//! reason, and is read again when the key is good again ([`keep`]).

mod door;
mod envelope;
mod keep;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Clock, Entropy, Timestamp};
use bytes::Bytes;
use door::KeyFailure;
pub use door::{KeyAnswer, KeyQuestion, KeyService};
use envelope::{Dek, EncryptedObject, key_id_hash};
pub(crate) use keep::keep;
pub(crate) use store::PlainStore;
use tokio::sync::Notify;

/// What is encrypted.
pub(crate) const SECRETS: &str = "/registry/secrets/";
/// Before every value that is not stored as it is.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Before what this provider encrypted.
const PREFIX: &[u8] = b"k8s:enc:kms:v2:cloudkms:";
/// How long a DEK encrypts after the KMS was last heard of (`kmsv2PluginWriteDEKSourceMaxTTL`).
const WRITE_TTL: Duration = Duration::from_secs(180);
/// Unwrapped DEKs that are kept; the store names few.
const DEKS_MAX: usize = 1000;
/// Upstream's words for a server whose KMS has not answered since it started.
const NO_DEK: &str = "got unexpected nil transformer";

/// The DEK that new values are encrypted with.
struct Current {
    dek: Arc<Dek>,
    /// The version that wrapped it, by name: the key id.
    version: String,
    source: Bytes,
    /// It encrypts nothing later than this.
    expires: Timestamp,
}

#[derive(Default)]
struct State {
    /// The cluster's key; empty: values are stored as they are.
    key: String,
    current: Option<Current>,
    /// Unwrapped DEKs, by key id and wrapped form.
    deks: BTreeMap<(String, Bytes), Arc<Dek>>,
    /// Keys of the store whose values could not be opened, and why.
    unreadable: BTreeMap<Bytes, String>,
    /// Were encrypted values seen, or written?
    has_encrypted: bool,
    /// Shall everything be stored anew, as the key has changed?
    rewrite: bool,
}

/// How Secrets are stored.
pub(crate) struct Encryption {
    keys: KeyService,
    clock: Clock,
    entropy: Entropy,
    state: Mutex<State>,
    /// The key is another one, or something could not be read.
    wake: Notify,
    /// What could not be read may be now.
    readable: Notify,
    /// One at a time makes DEKs.
    turn: tokio::sync::Mutex<()>,
}

impl Encryption {
    /// Values are stored under this key, empty for none. The KMS is asked for a DEK at once; it may fail to answer.
    pub(crate) async fn start(keys: KeyService, key: &str, clock: Clock, entropy: Entropy) -> Arc<Self> {
        let state = State { key: key.to_owned(), rewrite: !key.is_empty(), ..State::default() };
        let encryption = Arc::new(Self {
            keys,
            clock,
            entropy,
            state: Mutex::new(state),
            wake: Notify::new(),
            readable: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        });
        encryption.probe().await;
        encryption
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores values under another key from now on, and those that are there anew.
    pub(crate) fn set_key(&self, key: &str) {
        let mut state = self.lock();
        if state.key != key {
            key.clone_into(&mut state.key);
            state.rewrite = true;
            self.wake.notify_one();
        }
    }

    /// The form in which a value is stored under this key of the store.
    ///
    /// # Errors
    /// In upstream's words, when there is no DEK that may encrypt.
    pub(crate) fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, String> {
        let mut state = self.lock();
        if state.key.is_empty() || !key.starts_with(SECRETS.as_bytes()) {
            return Ok(value);
        }
        let current = state.current.as_ref().ok_or_else(|| NO_DEK.to_owned())?;
        let now = self.clock.now();
        if now >= current.expires {
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {} (current time is {})",
                key_id_hash(&current.version),
                current.expires.rfc3339(),
                now.rfc3339()
            ));
        }
        let (dek, version, source) = (Arc::clone(&current.dek), current.version.clone(), current.source.clone());
        state.has_encrypted = true;
        drop(state);
        let sealed = dek.seal((&version, &source), key, &value, &self.entropy)?;
        Ok([PREFIX, &sealed].concat().into())
    }

    /// Why the value under a key could not be opened, if it could not.
    pub(crate) fn failure(&self, key: &[u8]) -> Option<String> {
        self.lock().unreadable.get(key).cloned()
    }

    /// The first value of a resource that cannot be opened, and why.
    pub(crate) fn failure_below(&self, prefix: &str) -> Option<(String, String)> {
        let state = self.lock();
        let (key, why) = state.unreadable.iter().find(|(key, _)| key.starts_with(prefix.as_bytes()))?;
        Some((String::from_utf8_lossy(key).into_owned(), why.clone()))
    }

    /// Opens a value in place. What fails in a batch fails once: `failed` keeps what the KMS said.
    async fn open(&self, key: &Bytes, value: &mut Bytes, failed: &mut BTreeMap<(String, Bytes), String>) {
        if !value.starts_with(ENCRYPTED) {
            let mut state = self.lock();
            if !state.unreadable.is_empty() {
                state.unreadable.remove(key);
            }
            return;
        }
        let opened = self.opened(key, value, failed).await;
        let mut state = self.lock();
        state.has_encrypted = true;
        match opened {
            Ok(plain) => {
                state.unreadable.remove(key);
                *value = plain.into();
            }
            Err(why) => {
                state.unreadable.insert(key.clone(), why);
                self.wake.notify_one();
            }
        }
    }

    async fn opened(
        &self,
        key: &[u8],
        value: &[u8],
        failed: &mut BTreeMap<(String, Bytes), String>,
    ) -> Result<Vec<u8>, String> {
        let body = value.strip_prefix(PREFIX).ok_or_else(|| "no matching prefix found".to_owned())?;
        let object = EncryptedObject::parse(body)?;
        {
            let state = self.lock();
            // As upstream: a server that never heard of its KMS reads nothing.
            if !state.key.is_empty() && state.current.is_none() {
                return Err(NO_DEK.to_owned());
            }
        }
        let name = (object.key_id.clone(), object.encrypted_dek_source.clone());
        let known = self.lock().deks.get(&name).cloned();
        let dek = match known {
            Some(dek) => dek,
            None => {
                if let Some(why) = failed.get(&name) {
                    return Err(why.clone());
                }
                self.unwrap(&object).await.inspect_err(|why| drop(failed.insert(name, why.clone())))?
            }
        };
        dek.open(&object.encrypted_data, key)
    }

    async fn unwrap(&self, object: &EncryptedObject) -> Result<Arc<Dek>, String> {
        let key = key_of(&object.key_id);
        let plain = self.keys.decrypt(key, &object.encrypted_dek_source).await;
        let plain = plain.map_err(|why| format!("failed to decrypt DEK, error: {why}"))?;
        let dek = Arc::new(Dek::of(object, plain)?);
        self.remember(&object.key_id, &object.encrypted_dek_source, &dek);
        Ok(dek)
    }

    fn remember(&self, version: &str, source: &Bytes, dek: &Arc<Dek>) {
        let mut state = self.lock();
        if state.deks.len() >= DEKS_MAX {
            state.deks.pop_first();
        }
        state.deks.insert((version.to_owned(), source.clone()), Arc::clone(dek));
    }

    /// Asks the KMS whether the cluster's key still encrypts: makes a DEK when there is none under its present version, and
    /// lets the one there is encrypt for a while longer. False when the KMS says no; then it encrypts nothing any more.
    async fn probe(&self) -> bool {
        let _turn = self.turn.lock().await;
        let key = self.lock().key.clone();
        if key.is_empty() {
            return true;
        }
        let known = self.lock().current.as_ref().map(|current| current.version.clone());
        let asked = match known {
            Some(known) => match self.keys.encrypt(&key, b"ping").await {
                Ok((version, _)) if version == known => Ok(None),
                Ok(_) => self.new_dek(&key).await.map(Some),
                Err(why) => Err(why),
            },
            None => self.new_dek(&key).await.map(Some),
        };
        let now = self.clock.now();
        let mut state = self.lock();
        match asked {
            Ok(made) => {
                if made.is_some() {
                    state.current = made;
                }
                if let Some(current) = &mut state.current {
                    current.expires = now + WRITE_TTL;
                }
                true
            }
            Err(why) => {
                tracing::warn!(key, %why, "the key of Secrets cannot be used");
                // Upstream would go on for up to three minutes, as it does not hear of it.
                if let (KeyFailure::Refused(_), Some(current)) = (&why, &mut state.current) {
                    current.expires = current.expires.min(now);
                }
                false
            }
        }
    }

    async fn new_dek(&self, key: &str) -> Result<Current, KeyFailure> {
        let dek = Arc::new(Dek::generate(&self.entropy));
        let (version, source) = self.keys.encrypt(key, dek.secret()).await?;
        let source = Bytes::from(source);
        self.remember(&version, &source, &dek);
        tracing::info!(version, "a new key for Secrets");
        Ok(Current { dek, version, source, expires: self.clock.now() + WRITE_TTL })
    }

    /// Is this stored form one of the key there is now? A new version of the key makes no difference, as at Google.
    fn is_fresh(&self, value: &[u8]) -> bool {
        let key = self.lock().key.clone();
        if key.is_empty() {
            return !value.starts_with(ENCRYPTED);
        }
        let object = value.strip_prefix(PREFIX).and_then(|body| EncryptedObject::parse(body).ok());
        object.is_some_and(|object| key_of(&object.key_id) == key)
    }
}

/// The key that a version is of.
fn key_of(version: &str) -> &str {
    version.split_once("/cryptoKeyVersions/").map_or(version, |(key, _)| key)
}

#[cfg(test)]
mod tests;
