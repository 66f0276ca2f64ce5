//! A certificate with its private key: made where it is used, signed by the signer.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

use crate::door::Signer;
use crate::profile::Profile;
use crate::{SignerError, pem};

/// Who a process is on one hop.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    form: Form,
}

/// How a private key is encoded.
#[derive(Clone, Copy)]
enum Form {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl Identity {
    /// A certificate chain (leaf first) and its key, as PEM, made elsewhere.
    ///
    /// # Errors
    /// When either is not PEM. Whether they belong together shows when they are used.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, SignerError> {
        let chain = pem::certificates(chain)?;
        let bad = |_| SignerError::BadKey("there is no private key in PEM form".to_owned());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad)?;
        let form = match &key {
            PrivateKeyDer::Pkcs1(_) => Form::Pkcs1,
            PrivateKeyDer::Sec1(_) => Form::Sec1,
            _ => Form::Pkcs8,
        };
        Ok(Self { chain, key: Zeroizing::new(key.secret_der().to_vec()), form })
    }

    /// A key that was made here, with its certificate.
    pub(crate) fn of_key(certificate: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self { chain: vec![certificate], key: Zeroizing::new(key.serialize_der()), form: Form::Pkcs8 }
    }

    /// The certificate, and what stands between it and the authority.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(pem::certificate).collect()
    }

    /// The private key as PEM, in PKCS #8 if it was made here; for files of mode 0600 that other programs read.
    pub fn key_pem(&self) -> Zeroizing<String> {
        let label = match self.form {
            Form::Pkcs8 => "PRIVATE KEY",
            Form::Pkcs1 => "RSA PRIVATE KEY",
            Form::Sec1 => "EC PRIVATE KEY",
        };
        Zeroizing::new(pem::encode(label, &self.key))
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        let key = self.key.to_vec();
        match self.form {
            Form::Pkcs8 => PrivatePkcs8KeyDer::from(key).into(),
            Form::Pkcs1 => PrivatePkcs1KeyDer::from(key).into(),
            Form::Sec1 => PrivateSec1KeyDer::from(key).into(),
        }
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
    Ok(Identity::of_key(certificate, &key))
}
