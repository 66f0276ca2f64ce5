//! The door to the KMS: who wraps and unwraps the keys that Secrets are encrypted with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::identity::Channel;

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the KMS is asked. Bytes are base64.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyQuestion {
    /// Encrypt this with a key.
    Encrypt { key: String, plaintext: String },
    /// Decrypt this, which a version of the key encrypted.
    Decrypt { key: String, ciphertext: String },
}

/// What the KMS did.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyAnswer {
    /// The name of the version that was used.
    pub version: String,
    /// The ciphertext or the plaintext, base64.
    pub data: String,
}

impl std::fmt::Debug for KeyQuestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Encrypt { key, .. } => f.debug_struct("Encrypt").field("key", key).finish_non_exhaustive(),
            Self::Decrypt { key, .. } => f.debug_struct("Decrypt").field("key", key).finish_non_exhaustive(),
        }
    }
}

impl std::fmt::Debug for KeyAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAnswer").field("version", &self.version).finish_non_exhaustive()
    }
}

type Ask = dyn Fn(KeyQuestion) -> Pin<Box<dyn Future<Output = Result<KeyAnswer, String>> + Send>> + Send + Sync;

/// Where the KMS is.
#[derive(Clone, Default)]
pub enum KeyService {
    /// Nowhere: Secrets are stored as they are, and encrypted ones cannot be read.
    #[default]
    None,
    /// A function of this process; the number changes when a key may have.
    InProcess(Arc<Ask>, watch::Receiver<u64>),
    /// At the other end of the socket that tokens are asked about too ([`crate::Identity::keys`]).
    Channel(Arc<Channel>),
}

/// Why the KMS did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum KeyFailure {
    /// It said no.
    Refused(String),
    /// It said nothing.
    Silent,
}

impl std::fmt::Display for KeyFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Silent => f.write_str("the key service does not answer"),
        }
    }
}

impl KeyService {
    /// Takes a function, and a number that changes when its answers may have.
    pub fn in_process<F, A>(ask: F, changes: watch::Receiver<u64>) -> Self
    where
        F: Fn(KeyQuestion) -> A + Send + Sync + 'static,
        A: Future<Output = Result<KeyAnswer, String>> + Send + 'static,
    {
        Self::InProcess(Arc::new(move |question| Box::pin(ask(question))), changes)
    }

    /// Changes when keys, or who may use them, may have changed.
    pub(super) fn changes(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::None => None,
            Self::InProcess(_, changes) => Some(changes.clone()),
            Self::Channel(channel) => Some(channel.changes()),
        }
    }

    async fn ask(&self, question: KeyQuestion) -> Result<KeyAnswer, KeyFailure> {
        let asking = async {
            match self {
                Self::None => Err(KeyFailure::Silent),
                Self::InProcess(ask, _) => ask(question).await.map_err(KeyFailure::Refused),
                Self::Channel(channel) => match channel.ask_key(&question).await {
                    Some(answer) => answer.map_err(KeyFailure::Refused),
                    None => Err(KeyFailure::Silent),
                },
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asking).await.unwrap_or(Err(KeyFailure::Silent))
    }

    /// The version that encrypted, and the ciphertext.
    pub(super) async fn encrypt(&self, key: &str, plaintext: &[u8]) -> Result<(String, Vec<u8>), KeyFailure> {
        let plaintext = STANDARD.encode(plaintext);
        let answer = self.ask(KeyQuestion::Encrypt { key: key.to_owned(), plaintext }).await?;
        let data = STANDARD.decode(&answer.data).map_err(|_| KeyFailure::Silent)?;
        Ok((answer.version, data))
    }

    pub(super) async fn decrypt(&self, key: &str, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFailure> {
        let ciphertext = STANDARD.encode(ciphertext);
        let answer = self.ask(KeyQuestion::Decrypt { key: key.to_owned(), ciphertext }).await?;
        let data = Zeroizing::new(answer.data);
        STANDARD.decode(data.as_bytes()).map(Zeroizing::new).map_err(|_| KeyFailure::Silent)
    }
}

impl std::fmt::Debug for KeyService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "KeyService::None",
            Self::InProcess(..) => "KeyService::InProcess",
            Self::Channel(_) => "KeyService::Channel",
        })
    }
}
