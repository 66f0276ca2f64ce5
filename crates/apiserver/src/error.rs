//! What stops the server, for the operator.

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is not usable.
    #[error("{0}")]
    Config(String),
    /// The store did not answer.
    #[error("reading the store")]
    Store(#[from] etcd::StoreError),
    /// A certificate or authority is not usable.
    #[error("setting up certificates")]
    Certificates(#[source] pki::SignerError),
}
