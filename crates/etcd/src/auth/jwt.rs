//! Signed tokens (RFC 7519): each member takes them without having heard of them, and they outlive restarts.
//!
//! The methods are those of etcd's library (golang-jwt): keyed hashes, RSA, ECDSA and Ed25519.

use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use base::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mvcc::AuthError;
use serde_json::Value;

use super::options::JwtOptions;

/// A way to sign.
pub(super) struct Method {
    /// Its name in a token's header.
    pub(super) name: &'static str,
    kind: Kind,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn signature::RsaEncoding, &'static signature::RsaParameters),
    Ecdsa(&'static signature::EcdsaSigningAlgorithm, &'static signature::EcdsaVerificationAlgorithm),
    Ed25519,
}

impl Method {
    /// A method by its name; there is none that does not sign.
    pub(super) fn named(name: &str) -> Option<Self> {
        use signature as s;
        let (name, kind) = match name {
            "HS256" => ("HS256", Kind::Hmac(hmac::HMAC_SHA256)),
            "HS384" => ("HS384", Kind::Hmac(hmac::HMAC_SHA384)),
            "HS512" => ("HS512", Kind::Hmac(hmac::HMAC_SHA512)),
            "RS256" => ("RS256", Kind::Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256)),
            "RS384" => ("RS384", Kind::Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384)),
            "RS512" => ("RS512", Kind::Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512)),
            "PS256" => ("PS256", Kind::Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256)),
            "PS384" => ("PS384", Kind::Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384)),
            "PS512" => ("PS512", Kind::Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512)),
            "ES256" => ("ES256", Kind::Ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED)),
            "ES384" => ("ES384", Kind::Ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED)),
            "ES512" => ("ES512", Kind::Ecdsa(&s::ECDSA_P521_SHA512_FIXED_SIGNING, &s::ECDSA_P521_SHA512_FIXED)),
            "EdDSA" => ("EdDSA", Kind::Ed25519),
            _ => return None,
        };
        Some(Self { name, kind })
    }
}

/// What signs.
enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Makes and checks signed tokens.
pub(super) struct Jwt {
    method: Method,
    ttl: Duration,
    /// Absent when only the public key is given: tokens are made elsewhere then.
    signer: Option<Signer>,
    /// Empty for keyed hashes.
    public: Vec<u8>,
}

impl Jwt {
    /// # Errors
    /// When no key is given, one cannot be read, or the two are not a pair.
    pub(super) fn new(options: &JwtOptions) -> Result<Self, String> {
        let method = Method { name: options.method.name, kind: options.method.kind };
        let private = options.private.as_deref().filter(|bytes| !bytes.is_empty());
        let public = options.public.as_deref().filter(|bytes| !bytes.is_empty());
        let signer = private.map(|bytes| Signer::new(method.kind, bytes)).transpose()?;
        let public = match method.kind {
            Kind::Hmac(_) => None,
            _ => public.map(public_key).transpose()?,
        };
        let own = signer.as_ref().map(Signer::public);
        let public = match (own, public) {
            (None, None) => return Err("auth: missing key data".to_owned()),
            (Some(own), Some(given)) if own != given => {
                return Err("auth: public and private keys don't match".to_owned());
            }
            (Some(key), _) | (None, Some(key)) => key,
        };
        Ok(Self { method, ttl: options.ttl, signer, public })
    }

    /// A token for a user who authenticated at this revision of users and roles.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub(super) fn sign(&self, name: &str, revision: u64, now: Timestamp) -> Result<String, AuthError> {
        let signer = self.signer.as_ref().ok_or(AuthError::VerifyOnly)?;
        let header = serde_json::json!({ "alg": self.method.name, "typ": "JWT" });
        let exp = (now + self.ttl).unix_seconds();
        let claims = serde_json::json!({ "exp": exp, "revision": revision, "username": name });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", part(&header), part(&claims));
        let signed = signer.sign(token.as_bytes()).map_err(|_| AuthError::VerifyOnly)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signed));
        Ok(token)
    }

    /// The user and revision of a token; nothing when it is not signed by us, has ended or says neither.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Option<(String, u64)> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        if json(header)?.get("alg")?.as_str()? != self.method.name {
            return None;
        }
        self.check(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?)?;
        let claims = json(claims)?;
        // Both dates may be missing, but if they are there they count, to the second.
        let seconds = |name: &str| claims.get(name).map(|date| date.as_f64().map(f64::floor));
        let now = now.unix_seconds() as f64;
        let lives = match seconds("exp") {
            Some(exp) => now < exp?,
            None => true,
        };
        let began = match seconds("nbf") {
            Some(nbf) => nbf? <= now,
            None => true,
        };
        let name = claims.get("username")?.as_str()?.to_owned();
        let revision = claims.get("revision")?.as_f64()? as u64;
        (lives && began).then_some((name, revision))
    }

    fn check(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let verify = |algorithm: &'static dyn signature::VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.public).verify(message, signature).ok()
        };
        match (self.method.kind, &self.signer) {
            (Kind::Hmac(_), Some(Signer::Hmac(key))) => hmac::verify(key, message, signature).ok(),
            (Kind::Hmac(_), _) => None,
            (Kind::Rsa(_, algorithm), _) => verify(algorithm),
            (Kind::Ecdsa(_, algorithm), _) => verify(algorithm),
            (Kind::Ed25519, _) => verify(&signature::ED25519),
        }
    }
}

impl Signer {
    /// Reads a private key: the bytes themselves for keyed hashes, else PEM of PKCS#8 or of the key's own older form.
    fn new(kind: Kind, bytes: &[u8]) -> Result<Self, String> {
        let rejected = |error: aws_lc_rs::error::KeyRejected| format!("auth: the private key cannot be used: {error}");
        let der = || pem(bytes).ok_or_else(|| "auth: the private key is not PEM".to_owned());
        match kind {
            Kind::Hmac(algorithm) => Ok(Self::Hmac(Box::new(hmac::Key::new(algorithm, bytes)))),
            Kind::Rsa(encoding, _) => {
                let der = der()?;
                let key = RsaKeyPair::from_der(&der).or_else(|_| RsaKeyPair::from_pkcs8(&der));
                key.map(|key| Self::Rsa(key, encoding)).map_err(rejected)
            }
            Kind::Ecdsa(algorithm, _) => {
                EcdsaKeyPair::from_private_key_der(algorithm, &der()?).map(Self::Ecdsa).map_err(rejected)
            }
            Kind::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der()?).map(Self::Ed25519).map_err(rejected),
        }
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Hmac(_) => Vec::new(),
            Self::Rsa(key, _) => key.public_key().as_ref().to_vec(),
            Self::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        // The library takes its own randomness, whatever it is given.
        let random = SystemRandom::new();
        Ok(match self {
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature)?;
                signature
            }
            Self::Ecdsa(key) => key.sign(&random, message)?.as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

/// The first block of a PEM file, whatever it says it is: so Go's library reads them.
fn pem(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (_, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok()
}

/// The key itself out of a public key or certificate in PEM.
fn public_key(bytes: &[u8]) -> Result<Vec<u8>, String> {
    use x509_parser::prelude::FromDer as _;
    let der = pem(bytes).ok_or("auth: the public key is not PEM")?;
    if let Ok((_, key)) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der) {
        return Ok(key.subject_public_key.data.into_owned());
    }
    if let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) {
        return Ok(certificate.public_key().subject_public_key.data.to_vec());
    }
    // RSA keys also come in a form of their own, which is what is inside the others.
    Ok(der)
}

#[cfg(test)]
mod tests;
