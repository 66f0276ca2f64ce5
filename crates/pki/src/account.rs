//! Certificates around the keys of Google service accounts, as the metadata pages of those accounts publish them.

use base::{Clock, Entropy};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::authorities::{date, serial_number};
use crate::{SignerError, pem};

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Ten years: as keys of users, of which nobody says when they end.
const LIFETIME: std::time::Duration = std::time::Duration::from_secs(3650 * DAY_SECONDS);

/// A certificate (PEM) that an RSA key in PKCS #8 signs for itself.
///
/// # Errors
/// When it is no RSA key.
pub fn account_certificate(pkcs8: &[u8], name: &str, clock: &Clock, entropy: &Entropy) -> Result<String, SignerError> {
    let bad = |e: rcgen::Error| SignerError::BadKey(e.to_string());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_RSA_SHA256).map_err(bad)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date(clock.now())?;
    params.not_after = date(clock.now() + LIFETIME)?;
    params.serial_number = Some(serial_number(entropy));
    Ok(pem::certificate(params.self_signed(&key).map_err(bad)?.der()))
}
