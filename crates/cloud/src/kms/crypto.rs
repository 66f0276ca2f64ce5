//! The keys themselves: made, used, and kept as text in the sealed state.
//!
//! A ciphertext is a message of two fields, as Google's are: which version made it (36 bytes), and nonce, ciphertext and tag
//! of AES-256-GCM, which covers the first field and what the caller adds.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gke::{ApiError, Code};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::Algorithm;

/// Of the field that says which version: a zero byte and the version's id.
const ID_BYTES: usize = 35;
const ID_FIELD: u8 = 0x0a;
const BODY_FIELD: u8 = 0x12;
/// Tag and length of the first field, the field, tag of the second.
const HEADER_BYTES: usize = 2 + 1 + ID_BYTES;

/// A version's secret, and how ciphertexts name it. Its text never shows the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Material {
    /// 35 random bytes, base64.
    id: String,
    /// 32 bytes, or PKCS #8; base64. Empty once it is destroyed.
    secret: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Material {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

/// The public half of a key that signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    /// SubjectPublicKeyInfo.
    pub der: Vec<u8>,
    pub pem: String,
}

fn internal() -> ApiError {
    ApiError::new(Code::Internal, "Internal error encountered.")
}

impl Material {
    /// A fresh key.
    pub(crate) fn generate(algorithm: Algorithm, entropy: &Entropy) -> Result<Self, ApiError> {
        let size = match algorithm {
            Algorithm::Symmetric => {
                let secret = Zeroizing::new(entropy.bytes::<32>());
                return Ok(Self::new(entropy, secret.as_slice()));
            }
            Algorithm::P256 => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
                return Ok(Self::new(entropy, made.map_err(|_| internal())?.as_ref()));
            }
            Algorithm::Rsa2048 => KeySize::Rsa2048,
            Algorithm::Rsa3072 => KeySize::Rsa3072,
            Algorithm::Rsa4096 => KeySize::Rsa4096,
        };
        let pair = RsaKeyPair::generate(size).map_err(|_| internal())?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| internal())?;
        Ok(Self::new(entropy, der.as_ref()))
    }

    fn new(entropy: &Entropy, secret: &[u8]) -> Self {
        Self { id: STANDARD.encode(entropy.bytes::<ID_BYTES>()), secret: STANDARD.encode(secret) }
    }

    fn secret(&self) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        STANDARD.decode(&self.secret).map(Zeroizing::new).map_err(|_| internal())
    }

    /// Forgets the secret; ciphertexts are still known as its own.
    pub(crate) fn destroy(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }

    /// Did it make this ciphertext, by what the ciphertext says?
    pub(crate) fn made(&self, ciphertext: &[u8]) -> bool {
        let id = STANDARD.decode(&self.id).unwrap_or_default();
        split(ciphertext).is_some_and(|(header, _)| header[3..] == id)
    }

    /// Encrypts with AES-256-GCM under a fresh nonce.
    pub(crate) fn encrypt(&self, plaintext: &[u8], aad: &[u8], entropy: &Entropy) -> Result<Vec<u8>, ApiError> {
        let id = STANDARD.decode(&self.id).map_err(|_| internal())?;
        let mut out = vec![ID_FIELD, 1 + u8::try_from(ID_BYTES).expect("short"), 0];
        out.extend_from_slice(&id);
        let nonce = entropy.bytes::<NONCE_LEN>();
        let mut body = Zeroizing::new(Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len()));
        body.extend_from_slice(plaintext);
        let covered = Aad::from([out.as_slice(), aad].concat());
        let sealed = self.gcm()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), covered, &mut *body);
        sealed.map_err(|_| internal())?;
        out.push(BODY_FIELD);
        put_varint(&mut out, NONCE_LEN + body.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// The plaintext; `None` when ciphertext or `aad` are not those of [`Material::encrypt`].
    pub(crate) fn decrypt(&self, ciphertext: &[u8], aad: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        let Some((header, body)) = split(ciphertext) else { return Ok(None) };
        let Some((nonce, sealed)) = body.split_first_chunk::<NONCE_LEN>() else { return Ok(None) };
        let mut text = Zeroizing::new(sealed.to_vec());
        let covered = Aad::from([header, aad].concat());
        let opened = self.gcm()?.open_in_place(Nonce::assume_unique_for_key(*nonce), covered, &mut text);
        let Ok(length) = opened.map(|plain| plain.len()) else { return Ok(None) };
        text.truncate(length);
        Ok(Some(text))
    }

    fn gcm(&self) -> Result<LessSafeKey, ApiError> {
        UnboundKey::new(&AES_256_GCM, &self.secret()?).map(LessSafeKey::new).map_err(|_| internal())
    }

    /// Signs a SHA-256 digest.
    pub(crate) fn sign(&self, algorithm: Algorithm, sha256: &[u8; 32]) -> Result<Vec<u8>, ApiError> {
        let digest = Digest::import_less_safe(sha256, &SHA256).map_err(|_| internal())?;
        if algorithm == Algorithm::P256 {
            return Ok(self.ec()?.sign_digest(&digest).map_err(|_| internal())?.as_ref().to_vec());
        }
        let pair = self.rsa()?;
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut signature).map_err(|_| internal())?;
        Ok(signature)
    }

    /// The public half.
    pub(crate) fn public_key(&self, algorithm: Algorithm) -> Result<PublicKey, ApiError> {
        let der: PublicKeyX509Der<'_> = match algorithm {
            Algorithm::P256 => self.ec()?.public_key().as_der(),
            _ => self.rsa()?.public_key().as_der(),
        }
        .map_err(|_| internal())?;
        let text = STANDARD.encode(der.as_ref());
        let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned());
        let lines: Vec<String> = lines.collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        Ok(PublicKey { algorithm, der: der.as_ref().to_vec(), pem })
    }

    fn rsa(&self) -> Result<RsaKeyPair, ApiError> {
        RsaKeyPair::from_pkcs8(&self.secret()?).map_err(|_| internal())
    }

    fn ec(&self) -> Result<EcdsaKeyPair, ApiError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.secret()?).map_err(|_| internal())
    }
}

/// SHA-256.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    digest(&SHA256, data).as_ref().try_into().expect("32 bytes")
}

/// The first field with its tag and length, and the second without.
fn split(ciphertext: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = ciphertext.split_at_checked(HEADER_BYTES)?;
    let known = header[0] == ID_FIELD && usize::from(header[1]) == 1 + ID_BYTES && header[2] == 0;
    let (tag, rest) = rest.split_first()?;
    let (length, body) = take_varint(rest)?;
    (known && *tag == BODY_FIELD && length == body.len()).then_some((header, body))
}

fn put_varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy() -> Entropy {
        Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).expect("random bytes"))
    }

    #[test]
    fn what_was_encrypted_is_opened_by_its_own_version_unchanged_and_with_the_same_addition_only() {
        let entropy = entropy();
        let one = Material::generate(Algorithm::Symmetric, &entropy).unwrap();
        let other = Material::generate(Algorithm::Symmetric, &entropy).unwrap();
        for plain in [Vec::new(), b"a secret".to_vec(), vec![7; 70_000]] {
            let sealed = one.encrypt(&plain, b"more", &entropy).unwrap();
            assert!(one.made(&sealed) && !other.made(&sealed));
            assert_ne!(sealed, one.encrypt(&plain, b"more", &entropy).unwrap());
            assert_eq!(one.decrypt(&sealed, b"more").unwrap().map(|p| p.to_vec()), Some(plain));
            assert!(
                one.decrypt(&sealed, b"less").unwrap().is_none() && other.decrypt(&sealed, b"more").unwrap().is_none()
            );
            for at in (0..sealed.len().min(80)).chain([sealed.len() - 1]) {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(one.decrypt(&changed, b"more").unwrap().is_none(), "byte {at}");
            }
            for length in 0..sealed.len().min(90) {
                assert!(one.decrypt(&sealed[..length], b"more").unwrap().is_none(), "first {length}");
            }
        }
        let text = serde_json::to_string(&one).unwrap();
        assert!(text.contains(&one.secret) && !format!("{one:?}").contains(&one.secret));
    }

    #[test]
    fn signatures_verify_with_the_public_half() {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
        let entropy = entropy();
        for algorithm in [Algorithm::Rsa2048, Algorithm::P256] {
            let material = Material::generate(algorithm, &entropy).unwrap();
            let signature = material.sign(algorithm, &sha256(b"text")).unwrap();
            let public = material.public_key(algorithm).unwrap();
            let verify = |text: &[u8]| match algorithm {
                Algorithm::P256 => {
                    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public.der).unwrap();
                    key.verify_sig(text, &signature).is_ok()
                }
                _ => {
                    let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public.der).unwrap();
                    key.verify_sig(text, &signature).is_ok()
                }
            };
            assert!(verify(b"text") && !verify(b"test"), "{algorithm:?}");
            assert!(public.pem.starts_with("-----BEGIN PUBLIC KEY-----\nM"));
        }
    }
}
