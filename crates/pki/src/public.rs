//! An authority for names that the public resolves: what a system's trust store would hold for Google. A sandbox has one of
//! its own, good for one domain and nothing else, so that trusting it puts nothing else at risk.

use std::time::Duration;

use base::{Clock, Entropy, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authorities::{date, serial_number};
use crate::identity::Identity;
use crate::{SignerError, pem};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROOT_LIFETIME_DAYS: u32 = 3650;
/// Browsers and operating systems take no longer-lived ones.
const LEAF_LIFETIME_DAYS: u32 = 365;

/// The authority with its key.
pub struct PublicAuthority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl PublicAuthority {
    /// A new one, P-256, self-signed for ten years, for names under `domain` alone (RFC 5280 §4.2.1.10).
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(domain: &str, clock: &Clock, entropy: &Entropy) -> Result<Self, SignerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Pilothouse sandbox root for {domain} {}", entropy.uuid()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let now = clock.now();
        dated(&mut params, now, ROOT_LIFETIME_DAYS, entropy)?;
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Self { certificate, key })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignerError> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(|_| SignerError::DamagedState)?;
        let certificate = pem::certificates(&kept.certificate_pem)?.remove(0);
        let key = KeyPair::from_pem(&kept.key_pem).map_err(|_| SignerError::DamagedState)?;
        Ok(Self { certificate, key })
    }

    /// Certificate and key, to be sealed and written.
    ///
    /// # Panics
    /// Never: text always serializes.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key_pem = Zeroizing::new(self.key.serialize_pem());
        let kept = Kept { certificate_pem: self.certificate_pem(), key_pem };
        Zeroizing::new(serde_json::to_vec(&kept).expect("text always serializes"))
    }

    /// What users trust.
    pub fn certificate_pem(&self) -> String {
        pem::certificate(&self.certificate)
    }

    /// A serving certificate for a name, with a key of its own.
    ///
    /// # Errors
    /// When the name is none.
    pub fn issue(&self, name: &str, clock: &Clock, entropy: &Entropy) -> Result<Identity, SignerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params =
            CertificateParams::new(vec![name.to_owned()]).map_err(|_| SignerError::BadName(name.to_owned()))?;
        // A common name has 64 characters at most; the name stands in full beside it.
        params.distinguished_name = named(&name.chars().take(64).collect::<String>());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        dated(&mut params, clock.now(), LEAF_LIFETIME_DAYS, entropy)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(|_| SignerError::DamagedState)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Identity::from_pem(&pem::certificate(certificate.der()), &Zeroizing::new(key.serialize_pem()))
    }
}

fn failed(error: rcgen::Error) -> SignerError {
    SignerError::KeyGeneration(error.to_string())
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn dated(params: &mut CertificateParams, now: Timestamp, days: u32, entropy: &Entropy) -> Result<(), SignerError> {
    params.not_before = date(now - HOUR)?;
    params.not_after = date(now - HOUR + DAY * days)?;
    params.serial_number = Some(serial_number(entropy));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{clock, entropy};

    #[test]
    fn it_is_kept_and_signs_for_its_domain() {
        let clock = clock().clock();
        let authority = PublicAuthority::create("gke.goog", &clock, &entropy()).unwrap();
        let again = PublicAuthority::from_bytes(&authority.to_bytes()).unwrap();
        assert_eq!(again.certificate_pem(), authority.certificate_pem());
        let name = format!("gke-{}-123456789012.northamerica-northeast1-a.gke.goog", "a".repeat(36));
        let identity = again.issue(&name, &clock, &entropy()).unwrap();
        assert!(crate::is_issued_by(&identity.chain()[0], &authority.certificate_pem()));
        assert!(PublicAuthority::from_bytes(b"{}").is_err());
        assert!(again.issue("näme", &clock, &entropy()).is_err());
    }
}
