//! Why a certificate or token was not issued.

use thiserror::Error;

/// A signer's refusal or failure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignerError {
    /// The request cannot be read or its self-signature is wrong.
    #[error("the certificate request is not valid: {0}")]
    BadRequest(String),
    /// A key that was made elsewhere.
    #[error("the key is not usable: {0}")]
    BadKey(String),
    /// A name that no certificate may carry.
    #[error("{0:?} is not a DNS name")]
    BadName(String),
    /// The requester may not have this.
    #[error("{requester} may not ask for {what}")]
    Refused {
        /// Who asked.
        requester: String,
        /// What for.
        what: String,
    },
    /// The key could not be made.
    #[error("cannot generate a key: {0}")]
    KeyGeneration(String),
    /// The sealed state could be opened, but not read.
    #[error("the signer's state is damaged; restore its directory from a backup, the cluster's identity is in it")]
    DamagedState,
    /// Reading or writing the sealed state failed.
    #[error("the signer's state: {0}")]
    Storage(String),
    /// Who has a key of the cluster's elsewhere did not sign what it should.
    #[error("the user's key: {0}")]
    Outside(String),
    /// The signer's process says why it does not.
    #[error("the signer refuses: {0}")]
    Answered(String),
    /// The signer's process does not answer.
    #[error("the signer does not answer: {0}")]
    Unavailable(String),
}
