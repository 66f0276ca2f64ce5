//! The keys of one cluster's authorities, and what is signed with them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use base::{Clock, Entropy, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use crate::profile::{Authority, Profile};
use crate::{SignerError, der, pem};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Thirty years of 365 days, as GKE's cluster CA.
const CA_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// One authority: its certificate and its private key, which is wiped when it is dropped.
pub(crate) struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Drop for CertificateAuthority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The four authorities of a cluster, with their private keys.
pub(crate) struct Authorities {
    by_purpose: BTreeMap<Authority, CertificateAuthority>,
}

/// How an authority is kept; the caller seals it.
#[derive(Serialize, Deserialize)]
struct Kept {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl Authorities {
    /// New keys: P-256, self-signed for thirty years from an hour ago, each named by a UUID of its own.
    pub(crate) fn create(wanted: &[Authority], clock: &Clock, entropy: &Entropy) -> Result<Self, SignerError> {
        let mut by_purpose = BTreeMap::new();
        for &authority in wanted {
            by_purpose.insert(authority, CertificateAuthority::create(clock.now(), entropy)?);
        }
        Ok(Self { by_purpose })
    }

    /// Reads what [`Self::to_bytes`] wrote: these authorities and no others.
    pub(crate) fn from_bytes(wanted: &[Authority], bytes: &[u8]) -> Result<Self, SignerError> {
        let kept: BTreeMap<Authority, Kept> = serde_json::from_slice(bytes).map_err(|_| SignerError::DamagedState)?;
        let mut by_purpose = BTreeMap::new();
        for (authority, kept) in kept {
            let ca = CertificateAuthority::from_pem(&kept.certificate_pem, &kept.key_pem)?;
            by_purpose.insert(authority, ca);
        }
        if !by_purpose.keys().eq(wanted) {
            return Err(SignerError::DamagedState);
        }
        Ok(Self { by_purpose })
    }

    /// Certificates and keys, to be sealed and written.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let kept: BTreeMap<Authority, Kept> = self
            .by_purpose
            .iter()
            .map(|(authority, ca)| {
                let key_pem = Zeroizing::new(ca.key.serialize_pem());
                (*authority, Kept { certificate_pem: pem::certificate(&ca.certificate), key_pem })
            })
            .collect();
        Zeroizing::new(serde_json::to_vec(&kept).expect("text always serializes"))
    }

    /// The authority's own certificate.
    pub(crate) fn certificate(&self, authority: Authority) -> &CertificateDer<'static> {
        &self.by_purpose[&authority].certificate
    }

    /// An authority's private key as PEM, for whom the signer's policy lets have it.
    pub(crate) fn key(&self, authority: Authority) -> Zeroizing<String> {
        Zeroizing::new(self.by_purpose[&authority].key.serialize_pem())
    }

    /// Signs a request for a purpose. Only the request's public key is used; its self-signature is checked.
    pub(crate) fn issue(
        &self,
        csr: &[u8],
        profile: &Profile,
        not_before: Timestamp,
        lifetime: Duration,
        entropy: &Entropy,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let public_key = requested_key(csr)?;
        self.by_purpose[&profile.authority()].certify(&public_key, profile, not_before, lifetime, entropy)
    }
}

/// The public key of a signing request whose sender has the private one.
pub(crate) fn requested_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, SignerError> {
    let bad = |why: String| SignerError::BadRequest(why);
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|e| bad(e.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes after the request".to_owned()));
    }
    base::request_signature::verify(&request).map_err(|_| bad("its signature is wrong".to_owned()))?;
    let key = request.certification_request_info.subject_pki.raw;
    SubjectPublicKeyInfo::from_der(key).map_err(|e| bad(format!("its public key: {e}")))
}

/// A signing key that keeps what it should sign: the subject is exchanged before anything is signed.
pub(crate) struct Unsigned<'a> {
    key: &'a KeyPair,
    written: &'a RefCell<Vec<u8>>,
}

impl<'a> Unsigned<'a> {
    pub(crate) const fn new(key: &'a KeyPair, written: &'a RefCell<Vec<u8>>) -> Self {
        Self { key, written }
    }
}

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(self.key)
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.written.replace(message.to_vec());
        Ok(Vec::new())
    }
}

impl CertificateAuthority {
    fn create(now: Timestamp, entropy: &Entropy) -> Result<Self, SignerError> {
        let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, entropy.uuid().to_string());
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date(now - HOUR)?;
        params.not_after = date(now - HOUR + CA_LIFETIME)?;
        params.serial_number = Some(serial_number(entropy));
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Self { certificate, key })
    }

    /// Reads an authority's certificate and key.
    ///
    /// # Errors
    /// When either is not what it should be, or they do not belong together.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Result<Self, SignerError> {
        let damaged = |_| SignerError::DamagedState;
        let certificate = pem::certificates(certificate).map_err(damaged)?.remove(0);
        let ca = Self { certificate, key: KeyPair::from_pem(key).map_err(|_| SignerError::DamagedState)? };
        let (_, parsed) = X509Certificate::from_der(&ca.certificate).map_err(|_| SignerError::DamagedState)?;
        let same = parsed.public_key().raw == ca.key.subject_public_key_info();
        if same { Ok(ca) } else { Err(SignerError::DamagedState) }
    }

    /// The authority's own certificate.
    pub(crate) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate of this key for a purpose.
    pub(crate) fn certify(
        &self,
        public_key: &SubjectPublicKeyInfo,
        profile: &Profile,
        not_before: Timestamp,
        lifetime: Duration,
        entropy: &Entropy,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let mut params = profile.params()?;
        params.not_before = date(not_before)?;
        params.not_after = date(not_before + lifetime)?;
        params.serial_number = Some(serial_number(entropy));
        self.sign(&params, &profile.distinguished_name(), public_key)
    }

    /// A certificate with this subject, a DER `Name`.
    fn sign(
        &self,
        params: &CertificateParams,
        subject: &[u8],
        public_key: &SubjectPublicKeyInfo,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let failed = |e: rcgen::Error| SignerError::BadRequest(e.to_string());
        let written = RefCell::default();
        let unsigned = Unsigned::new(&self.key, &written);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, unsigned).map_err(|_| SignerError::DamagedState)?;
        params.signed_by(public_key, &issuer).map_err(failed)?;
        let written = written.take();
        let (body, algorithm) = der::with_names(&written, None, subject)?;
        let signature = self.key.sign(&body).map_err(failed)?;
        Ok(der::certificate(&body, algorithm, &signature).into())
    }
}

/// 126 random bits: positive and never short, RFC 5280 §4.1.2.2.
pub(crate) fn serial_number(entropy: &Entropy) -> SerialNumber {
    let mut bytes = entropy.bytes::<16>();
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn date(at: Timestamp) -> Result<OffsetDateTime, SignerError> {
    OffsetDateTime::from_unix_timestamp(at.unix_seconds()).map_err(|_| SignerError::BadRequest("time".to_owned()))
}
