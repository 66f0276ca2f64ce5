//! An authority whose key was handed over: the etcd API CA in an instance, as GKE hands it to the machine of an API server
//! by metadata. Held in memory, wiped when dropped, good for its own kind of certificates only.

use std::time::Duration;

use base::{Clock, Entropy};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use tracing::info;

use crate::authorities::CertificateAuthority;
use crate::identity::Identity;
use crate::profile::{Authority, Profile};
use crate::subject::{sha256, subject};
use crate::{SignerError, pem};

/// A certificate authority in this process.
pub struct HeldAuthority {
    authority: Authority,
    ca: CertificateAuthority,
    clock: Clock,
    entropy: Entropy,
}

impl HeldAuthority {
    /// Takes certificate and key, PEM.
    ///
    /// # Errors
    /// When they are not readable, or not of each other.
    pub fn new(
        authority: Authority,
        certificate: &str,
        key: &str,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, SignerError> {
        Ok(Self { authority, ca: CertificateAuthority::from_pem(certificate, key)?, clock, entropy })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        pem::certificate(self.ca.certificate())
    }

    /// A new P-256 key with a certificate for a purpose, as the signer would date it; each issuance is a log entry.
    ///
    /// # Errors
    /// When the purpose is another authority's, or a name is not possible.
    pub fn issue(&self, profile: &Profile, lifetime: Option<Duration>) -> Result<Identity, SignerError> {
        if profile.authority() != self.authority {
            let (requester, what) =
                (format!("the holder of the {} CA", self.authority.name()), profile.name().to_owned());
            return Err(SignerError::Refused { requester, what });
        }
        let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let public_key = SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).map_err(failed)?;
        let (not_before, whole) = profile.validity(self.clock.now(), lifetime);
        let issued = self.ca.certify(&public_key, profile, not_before, whole, &self.entropy)?;
        let names = subject(&issued)?;
        info!(target: "authority", authority = self.authority.name(), profile = profile.name(), serial = names.serial,
            subject = names.common_name, sha256 = sha256(&issued), not_after = %names.not_after, "issued");
        Ok(Identity::of_key(issued, &key))
    }
}

impl std::fmt::Debug for HeldAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldAuthority").field("authority", &self.authority).finish_non_exhaustive()
    }
}
