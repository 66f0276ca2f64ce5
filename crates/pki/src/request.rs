//! A key that waits for its certificate: made where it will be used, named in a request that somebody else gets signed.

use std::net::IpAddr;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};

use crate::identity::Identity;
use crate::tls::check_pair;
use crate::{SignerError, der, pem};

/// A new P-256 key and the request for its certificate.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl KeyRequest {
    /// A request for these names.
    ///
    /// # Errors
    /// When no key can be made, or a name is not ASCII.
    pub fn new(
        common_name: &str,
        organizations: &[String],
        dns: &[String],
        ips: &[IpAddr],
    ) -> Result<Self, SignerError> {
        let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        for name in dns {
            let name = name.as_str().try_into().map_err(|_| SignerError::BadName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
        let csr = der::request(&params, &der::name(common_name, organizations), &key)?;
        Ok(Self { key, csr })
    }

    /// The request, DER.
    pub fn der(&self) -> &[u8] {
        &self.csr
    }

    /// The request, PEM.
    pub fn pem(&self) -> String {
        pem::request(&self.csr)
    }

    /// The public key, a SubjectPublicKeyInfo in DER form.
    pub fn public_key(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// The key with the certificate that was issued for it, PEM.
    ///
    /// # Errors
    /// When the text holds no certificate, or one of another key.
    pub fn complete(&self, chain_pem: &str) -> Result<Identity, SignerError> {
        let identity = Identity::from_pem(chain_pem, &self.key.serialize_pem())?;
        check_pair(&identity)?;
        Ok(identity)
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}
