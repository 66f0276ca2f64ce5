//! The key that signs service-account tokens: RSA-2048, RS256 (RFC 7515, RFC 7518), published as a JWK set (RFC 7517).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::SignerError;

/// A signing key with its id.
pub(crate) struct TokenKey {
    key: KeyPair,
    kid: String,
}

impl TokenKey {
    /// Takes some tenths of a second of computing: never on a start path.
    pub(crate) fn generate() -> Result<Self, SignerError> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|e| SignerError::KeyGeneration(e.to_string()))?;
        Self::new(key)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub(crate) fn from_bytes(pkcs8: &[u8]) -> Result<Self, SignerError> {
        Self::new(KeyPair::from_pkcs8(pkcs8).map_err(|_| SignerError::DamagedState)?)
    }

    /// Reads an RSA key that another program made (`--service-account-signing-key-file`).
    ///
    /// # Errors
    /// When the text holds no RSA key.
    pub(crate) fn from_pem(text: &str) -> Result<Self, SignerError> {
        let bad = || SignerError::BadKey("there is no RSA private key in PEM form".to_owned());
        let key = match PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| bad())? {
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(bad()),
        };
        Self::new(key.map_err(|_| bad())?)
    }

    /// Whether a PEM text is this key's public half, or this key itself.
    pub(crate) fn is_pair_of(&self, text: &str) -> bool {
        let own: Option<PublicKeyX509Der<'_>> = self.key.public_key().as_der().ok();
        match SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()) {
            Ok(public) => own.is_some_and(|own| own.as_ref() == &public[..]),
            Err(_) => Self::from_pem(text).is_ok_and(|key| key.kid == self.kid),
        }
    }

    fn new(key: KeyPair) -> Result<Self, SignerError> {
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| SignerError::DamagedState)?;
        // Kubernetes names a key by the hash of its public half (pkg/serviceaccount).
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der.as_ref());
        let kid = URL_SAFE_NO_PAD.encode(digest.as_ref());
        Ok(Self { key, kid })
    }

    /// PKCS #8, to be sealed and written.
    pub(crate) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, SignerError> {
        let der: Pkcs8V1Der<'_> = self.key.as_der().map_err(|e| SignerError::KeyGeneration(e.to_string()))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, SignerError> {
        let header = json!({"alg": "RS256", "kid": self.kid});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|e| SignerError::KeyGeneration(e.to_string()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The public half as a JWK set.
    pub(crate) fn jwks(&self) -> Value {
        let public = self.key.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{
            "use": "sig", "kty": "RSA", "kid": self.kid, "alg": "RS256",
            "n": number(public.modulus().big_endian_without_leading_zero()),
            "e": number(public.exponent().big_endian_without_leading_zero()),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pem::encode;
    use crate::verify_jwt;

    /// What stands before an RSA-2048 key in PKCS #8.
    const PKCS8_HEAD_BYTES: usize = 26;

    #[test]
    fn a_key_from_elsewhere_signs_and_knows_its_own_half() {
        let (made, other) = (TokenKey::generate().unwrap(), TokenKey::generate().unwrap());
        let der = made.to_bytes().unwrap();
        let (pkcs8, pkcs1) = (encode("PRIVATE KEY", &der), encode("RSA PRIVATE KEY", &der[PKCS8_HEAD_BYTES..]));
        let public: PublicKeyX509Der<'_> = made.key.public_key().as_der().unwrap();
        let public = encode("PUBLIC KEY", public.as_ref());
        for private in [&pkcs8, &pkcs1] {
            let key = TokenKey::from_pem(private).unwrap();
            let token = key.sign(&json!({"sub": "x"})).unwrap();
            assert_eq!(verify_jwt(&token, &made.jwks(), &["RS256"]), Some(json!({"sub": "x"})));
            assert_eq!(verify_jwt(&token, &other.jwks(), &["RS256"]), None);
            assert!([&pkcs8, &pkcs1, &public].iter().all(|half| key.is_pair_of(half)));
            assert!(!key.is_pair_of(&encode("PRIVATE KEY", &other.to_bytes().unwrap())) && !key.is_pair_of("x"));
        }
        for bad in [String::new(), public, encode("EC PRIVATE KEY", &der), encode("PRIVATE KEY", &der[1..])] {
            assert!(TokenKey::from_pem(&bad).is_err(), "{bad}");
        }
    }
}
