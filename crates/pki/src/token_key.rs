//! The key that signs service-account tokens: RSA-2048, RS256 (RFC 7515, RFC 7518), published as a JWK set (RFC 7517).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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

/// Checks an RS256 token against a JWK set; its claims when the signature holds. Times, issuer and audience are the
/// caller's to judge.
pub fn verify_jwt(token: &str, jwks: &Value) -> Option<Value> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let head: Value = serde_json::from_slice(&decode(header)?).ok()?;
    if head["alg"] != "RS256" {
        return None;
    }
    let signature = decode(signature)?;
    let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
    let matches =
        jwks["keys"].as_array()?.iter().filter(|key| head["kid"].is_null() || key["kid"] == head["kid"]).any(|key| {
            let number = |name: &str| decode(key[name].as_str().unwrap_or_default());
            let (Some(n), Some(e)) = (number("n"), number("e")) else { return false };
            let public = aws_lc_rs::signature::RsaPublicKeyComponents { n: &n, e: &e };
            public.verify(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, signed, &signature).is_ok()
        });
    if matches { serde_json::from_slice(&decode(claims)?).ok() } else { None }
}
