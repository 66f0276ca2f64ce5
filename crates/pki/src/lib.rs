//! Certificates and tokens: the authorities of a cluster, the signer that holds their keys, and the TLS configurations
//! made from what it issues.
//!
//! ```text
//! key pair ─► signing request ─► Signer (in process, or a socket to the signer's process) ─► certificate ─► rustls
//! ```

mod authorities;
mod der;
mod door;
mod error;
mod identity;
pub mod pem;
mod profile;
mod signer;
mod subject;
mod tls;
mod token_key;

pub use door::{Signer, SignerClient, serve_signer};
pub use error::SignerError;
pub use identity::{Identity, request_identity};
pub use profile::{Authority, Profile, api_server_names};
pub use signer::{Requester, SignerCore, Vault};
pub use subject::{RequestSubject, Subject, request_subject, sha256, subject};
pub use tls::{ClientCertificates, ClientVerifier, ServingCertificate, client_config, server_config};
pub use token_key::verify_jwt;

#[cfg(test)]
mod tests;
