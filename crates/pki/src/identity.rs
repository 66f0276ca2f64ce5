//! A certificate with its private key: made where it is used, signed by the signer.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::door::Signer;
use crate::profile::Profile;
use crate::{SignerError, pem};

/// Who a process is on one hop.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// An identity that was written to files: certificates, and a PKCS #8 key, both PEM.
    ///
    /// # Errors
    /// When either is not what it should be.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, SignerError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes());
        let key = key.map_err(|error| SignerError::BadRequest(error.to_string()))?;
        let chain = pem::certificates(certificates)?;
        Ok(Self { chain, key: Zeroizing::new(key.secret_pkcs8_der().to_vec()) })
    }

    /// The certificate, and what stands between it and the authority.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(pem::certificate).collect()
    }

    /// The private key as PKCS #8 PEM; for files of mode 0600 that other programs read.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::private_key(&self.key))
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Makes a P-256 key here and has it certified for a purpose; the key does not leave this process.
///
/// # Errors
/// When the signer refuses or is gone.
pub async fn request_identity(
    signer: &Signer,
    profile: &Profile,
    lifetime: Option<Duration>,
) -> Result<Identity, SignerError> {
    let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let csr = CertificateParams::default().serialize_request(&key).map_err(failed)?;
    let certificate = signer.issue(csr.der(), profile, lifetime).await?;
    Ok(Identity { chain: vec![certificate], key: Zeroizing::new(key.serialize_der()) })
}
