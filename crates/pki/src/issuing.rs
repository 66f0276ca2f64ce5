//! Authorities that people make for themselves (Certificate Authority Service): keys of several algorithms, and certificates
//! whose contents are the caller's choice, as opposed to the fixed profiles of a cluster's own authorities.

use std::cell::RefCell;
use std::net::IpAddr;

use base::{Entropy, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, PublicKeyData,
    SanType, SigningKey, SubjectPublicKeyInfo,
};
pub use rcgen::{CidrSubnet, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::authorities::{Unsigned, date, requested_key, serial_number};
use crate::{SignerError, der};

/// The algorithm of an authority's key, with SHA-256 (of P-384: SHA-384).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    RsaPkcs1(RsaBits),
    EcP256,
    EcP384,
}

/// The length of an RSA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaBits {
    B2048,
    B3072,
    B4096,
}

impl KeyAlgorithm {
    const fn signature(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::RsaPkcs1(_) => &rcgen::PKCS_RSA_SHA256,
            Self::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

/// An authority's private key, wiped when it is dropped.
pub struct AuthorityKey(KeyPair);

impl Drop for AuthorityKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl AuthorityKey {
    /// A new key.
    ///
    /// # Errors
    /// When none can be made.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, SignerError> {
        use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
        use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
        let failed = |e: rcgen::Error| SignerError::KeyGeneration(e.to_string());
        let KeyAlgorithm::RsaPkcs1(bits) = algorithm else {
            return Ok(Self(KeyPair::generate_for(algorithm.signature()).map_err(failed)?));
        };
        let size = match bits {
            RsaBits::B2048 => KeySize::Rsa2048,
            RsaBits::B3072 => KeySize::Rsa3072,
            RsaBits::B4096 => KeySize::Rsa4096,
        };
        let unspecified = |_| SignerError::KeyGeneration("no RSA key".to_owned());
        let pair = RsaKeyPair::generate(size).map_err(unspecified)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(unspecified)?;
        Self::from_pkcs8(algorithm, der.as_ref())
    }

    /// Reads what [`Self::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// When it is no key of the algorithm.
    pub fn from_pkcs8(algorithm: KeyAlgorithm, der: &[u8]) -> Result<Self, SignerError> {
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), algorithm.signature());
        Ok(Self(pair.map_err(|e| SignerError::BadKey(e.to_string()))?))
    }

    /// The key, to be sealed.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// The authority's own certificate for this key.
    ///
    /// # Errors
    /// When a name is not possible.
    pub fn certify_itself(
        &self,
        contents: &Contents,
        entropy: &Entropy,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let key = SubjectPublicKeyInfo::from_der(&self.0.subject_public_key_info()).map_err(bad)?;
        self.sign(None, contents, &key, entropy)
    }

    /// A certificate for a public key (a DER `SubjectPublicKeyInfo`), issued under the authority's own certificate.
    ///
    /// # Errors
    /// When the public key is of no known kind, or a name is not possible.
    pub fn certify(
        &self,
        authority: &CertificateDer<'_>,
        contents: &Contents,
        public_key: &[u8],
        entropy: &Entropy,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(bad)?;
        self.sign(Some(authority), contents, &key, entropy)
    }

    fn sign(
        &self,
        authority: Option<&CertificateDer<'_>>,
        contents: &Contents,
        public_key: &SubjectPublicKeyInfo,
        entropy: &Entropy,
    ) -> Result<CertificateDer<'static>, SignerError> {
        let mut params = contents.params()?;
        params.serial_number = Some(serial_number(entropy));
        let subject = contents.name()?;
        let written = RefCell::default();
        let unsigned = Unsigned::new(&self.0, &written);
        let (issuer, issuer_name) = match authority {
            None => (Issuer::new(params.clone(), unsigned), subject.clone()),
            Some(certificate) => {
                let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| SignerError::DamagedState)?;
                let name = parsed.subject().as_raw().to_vec();
                (Issuer::from_ca_cert_der(certificate, unsigned).map_err(|_| SignerError::DamagedState)?, name)
            }
        };
        params.signed_by(public_key, &issuer).map_err(bad)?;
        let written = written.take();
        let (body, algorithm) = der::with_names(&written, Some(&issuer_name), &subject)?;
        let signature = self.0.sign(&body).map_err(bad)?;
        Ok(der::certificate(&body, algorithm, &signature).into())
    }
}

impl std::fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityKey").finish_non_exhaustive()
    }
}

fn bad(error: rcgen::Error) -> SignerError {
    SignerError::BadRequest(error.to_string())
}

/// Everything in a certificate but its key, issuer and serial number.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Type (object identifier) and value of each attribute, in order; each a relative name of its own.
    pub subject: Vec<(Vec<u64>, String)>,
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub key_usages: Vec<KeyUsagePurpose>,
    pub extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
    pub ca: CaContents,
    pub name_constraints: Option<NameConstraints>,
    /// Instead of a digest of the public key.
    pub subject_key_id: Option<Vec<u8>>,
    /// Others: type, critical, content.
    pub extensions: Vec<(Vec<u64>, bool, Vec<u8>)>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// May it sign certificates?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaContents {
    #[default]
    No,
    /// Over chains of any length.
    Unconstrained,
    /// Over at most so many authorities below it.
    Constrained(u8),
}

impl Contents {
    /// The subject, a DER `Name`.
    fn name(&self) -> Result<Vec<u8>, SignerError> {
        der::name_of(self.subject.iter().map(|(kind, value)| (kind.as_slice(), value.as_str())))
            .ok_or_else(|| SignerError::BadRequest("an attribute of the subject has no type".to_owned()))
    }

    fn params(&self) -> Result<CertificateParams, SignerError> {
        let mut params = CertificateParams::default();
        if self.subject.is_empty() {
            // rcgen marks alternative names critical where there is no subject, as RFC 5280 §4.2.1.6 wants it.
            params.distinguished_name = rcgen::DistinguishedName::new();
        } else {
            // Any: the real one takes its place.
            params.distinguished_name.push(DnType::CommonName, "-");
        }
        let ascii = |name: &String| name.as_str().try_into().map_err(|_| SignerError::BadName(name.clone()));
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(ascii(name)?));
        }
        for name in &self.emails {
            params.subject_alt_names.push(SanType::Rfc822Name(ascii(name)?));
        }
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        for name in &self.uris {
            params.subject_alt_names.push(SanType::URI(ascii(name)?));
        }
        params.is_ca = match self.ca {
            CaContents::No => IsCa::ExplicitNoCa,
            CaContents::Unconstrained => IsCa::Ca(BasicConstraints::Unconstrained),
            CaContents::Constrained(length) => IsCa::Ca(BasicConstraints::Constrained(length)),
        };
        params.key_usages.clone_from(&self.key_usages);
        params.extended_key_usages.clone_from(&self.extended_key_usages);
        params.name_constraints.clone_from(&self.name_constraints);
        params.use_authority_key_identifier_extension = true;
        if let Some(id) = &self.subject_key_id {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id.clone());
        }
        for (kind, critical, content) in &self.extensions {
            let mut extension = CustomExtension::from_oid_content(kind, content.clone());
            extension.set_criticality(*critical);
            params.custom_extensions.push(extension);
        }
        params.not_before = date(self.not_before)?;
        params.not_after = date(self.not_after)?;
        Ok(params)
    }
}

/// The public key (a DER `SubjectPublicKeyInfo`) of a signing request (DER) whose sender has the private one.
///
/// # Errors
/// When it is no request, or not signed by its own key.
pub fn request_key(csr: &[u8]) -> Result<Vec<u8>, SignerError> {
    Ok(requested_key(csr)?.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{clock, entropy};
    use crate::{is_issued_by, pem, subject};

    fn contents(common_name: &str, ca: CaContents) -> Contents {
        let now = clock().clock().now();
        Contents {
            subject: vec![(vec![2, 5, 4, 6], "DE".to_owned()), (vec![2, 5, 4, 3], common_name.to_owned())],
            dns: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            ips: Vec::new(),
            key_usages: vec![KeyUsagePurpose::KeyCertSign],
            extended_key_usages: Vec::new(),
            ca,
            name_constraints: None,
            subject_key_id: None,
            extensions: Vec::new(),
            not_before: now,
            not_after: now + std::time::Duration::from_secs(3600),
        }
    }

    #[test]
    fn roots_of_each_algorithm_sign_for_themselves_and_for_others() {
        let algorithms = [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::RsaPkcs1(RsaBits::B2048)];
        for algorithm in algorithms {
            let made = AuthorityKey::generate(algorithm).unwrap();
            let key = AuthorityKey::from_pkcs8(algorithm, &made.to_pkcs8()).unwrap();
            let root = key.certify_itself(&contents("root", CaContents::Unconstrained), &entropy()).unwrap();
            let root_pem = pem::certificate(&root);
            assert!(is_issued_by(&root, &root_pem) && subject(&root).unwrap().is_ca, "{algorithm:?}");
            let leaf_key = AuthorityKey::generate(KeyAlgorithm::EcP256).unwrap();
            let mut asked = contents("leaf", CaContents::No);
            asked.subject.extend(["a", "b"].map(|group| (vec![2, 5, 4, 10], group.to_owned())));
            asked.dns = vec!["leaf.example".to_owned()];
            let leaf = key.certify(&root, &asked, &leaf_key.0.subject_public_key_info(), &entropy()).unwrap();
            let found = subject(&leaf).unwrap();
            assert!(is_issued_by(&leaf, &root_pem) && !found.is_ca, "{algorithm:?}");
            assert_eq!((found.common_name.as_str(), found.issuer.as_str()), ("leaf", "root"));
            assert_eq!((found.organizations, found.dns), (vec!["a".to_owned(), "b".to_owned()], asked.dns));
            let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
            let (_, parsed_root) = X509Certificate::from_der(&root).unwrap();
            assert_eq!(parsed.issuer().as_raw(), parsed_root.subject().as_raw());
        }
        assert!(AuthorityKey::from_pkcs8(KeyAlgorithm::EcP256, b"no key").is_err());
        let mut wrong = contents("root", CaContents::No);
        wrong.uris = vec!["näme".to_owned()];
        assert!(AuthorityKey::generate(KeyAlgorithm::EcP256).unwrap().certify_itself(&wrong, &entropy()).is_err());
    }
}
