//! Certificates and tokens: the authorities of a cluster, the signer that holds their keys, and the TLS configurations
//! made from what it issues.
//!
//! ```text
//! key pair ─► signing request ─► Signer (in process, or a socket to the signer's process) ─► certificate ─► rustls
//! ```

mod account;
mod attestation;
mod authorities;
mod der;
mod door;
mod error;
mod held;
mod identity;
mod issuing;
mod jwt;
mod memory_vault;
mod outside;
pub mod pem;
mod profile;
mod public;
mod request;
mod server_verifier;
mod signer;
mod subject;
mod tls;
mod token_key;

pub use account::account_certificate;
pub use attestation::{Attested, MachineIdentity, MachineSecret};
pub use door::{Signer, SignerClient, serve_signer};
pub use error::SignerError;
pub use held::HeldAuthority;
pub use identity::{Identity, request_identity};
pub use issuing::{
    AuthorityKey, CaContents, CidrSubnet, Contents, ExtendedKeyUsagePurpose, GeneralSubtree, KeyAlgorithm,
    KeyUsagePurpose, NameConstraints, RsaBits, request_key,
};
pub use jwt::{SIGNING_ALGORITHMS, verify_jwt};
pub use memory_vault::MemoryVault;
pub use outside::{OutsideAuthorities, OutsideCall, OutsideRequest, OutsideTokenKeys, serve_outside};
pub use profile::{ApiSigner, Approved, Authority, Profile, api_server_names};
pub use public::PublicAuthority;
pub use request::KeyRequest;
pub use signer::{Requester, SignerCore, Vault};
pub use subject::{RequestSubject, Subject, is_issued_by, request_subject, sha256, sha512_256, subject};
pub use tls::{
    ClientCertificates, ClientIdentity, ClientVerifier, ServingCertificate, client_config, client_config_with,
    server_config, shown_by,
};
pub use token_key::TOKEN_ALGORITHMS;

#[cfg(test)]
mod tests;
