//! What stands in the store for a Secret under KMS v2, byte for byte as kube-apiserver 1.33 has it: `EncryptedObject`, and
//! AES-256-GCM under a key that HKDF-SHA256 makes of a seed and 32 random bytes, which stand first (`aes_extended_nonce.go`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use base::Entropy;
use bytes::Bytes;
use prost::Message;
use zeroize::Zeroizing;

const INFO_BYTES: usize = 32;
const SEED_BYTES: usize = 32;
const DEK_BYTES_MAX: usize = 1024;
const KEY_ID_BYTES_MAX: usize = 1024;
/// `AES_GCM_KEY`: the plaintext of the DEK source is the key itself.
const PLAIN_KEY: i32 = 0;
/// `HKDF_SHA256_XNONCE_AES_GCM_SEED`
const HKDF_SEED: i32 = 1;

/// `k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2.EncryptedObject`
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) encrypted_data: Bytes,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) encrypted_dek_source: Bytes,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: std::collections::BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) encrypted_dek_source_type: i32,
}

impl EncryptedObject {
    /// Reads one as upstream does.
    ///
    /// # Errors
    /// In upstream's words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let object = Self::decode(bytes).map_err(|error| error.to_string())?;
        let dek = object.encrypted_dek_source.len();
        let id = object.key_id.len();
        match object.encrypted_dek_source_type {
            PLAIN_KEY | HKDF_SEED => {}
            other => return Err(format!("unknown encryptedDEKSourceType: {other}")),
        }
        if object.encrypted_data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        if dek == 0 {
            return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".to_owned());
        }
        if dek > DEK_BYTES_MAX {
            return Err(format!(
                "failed to validate encrypted DEK source: encrypted DEK source is {dek} bytes, which exceeds the max size of \
                 {DEK_BYTES_MAX}"
            ));
        }
        if id == 0 {
            return Err("failed to validate key id: keyID is empty".to_owned());
        }
        if id > KEY_ID_BYTES_MAX {
            return Err(format!(
                "failed to validate key id: keyID is {id} bytes, which exceeds the max size of {KEY_ID_BYTES_MAX}"
            ));
        }
        Ok(object)
    }
}

/// The plaintext of a DEK source.
pub(super) struct Dek {
    bytes: Zeroizing<Vec<u8>>,
    is_seed: bool,
}

/// The 32 bytes of a derived key.
struct Aes256;

impl KeyType for Aes256 {
    fn len(&self) -> usize {
        32
    }
}

impl Dek {
    /// A fresh seed.
    pub(super) fn generate(entropy: &Entropy) -> Self {
        Self { bytes: Zeroizing::new(entropy.bytes::<SEED_BYTES>().to_vec()), is_seed: true }
    }

    /// The DEK that belongs to an object.
    pub(super) fn of(object: &EncryptedObject, plaintext: Zeroizing<Vec<u8>>) -> Result<Self, String> {
        let is_seed = object.encrypted_dek_source_type == HKDF_SEED;
        if is_seed && plaintext.len() < SEED_BYTES {
            return Err(format!("invalid seed length {} used for key generation", plaintext.len()));
        }
        if !is_seed && !matches!(plaintext.len(), 16 | 24 | 32) {
            return Err(format!("crypto/aes: invalid key size {}", plaintext.len()));
        }
        Ok(Self { bytes: plaintext, is_seed })
    }

    /// The secret, for the KMS to wrap.
    pub(super) fn secret(&self) -> &[u8] {
        &self.bytes
    }

    fn derived(&self, info: &[u8]) -> Result<LessSafeKey, String> {
        let failed = |_| "failed to derive read key from KDF".to_owned();
        let mut derived = Zeroizing::new([0; 32]);
        let prk = Prk::new_less_safe(HKDF_SHA256, &self.bytes);
        prk.expand(&[info], Aes256).and_then(|okm| okm.fill(&mut derived[..])).map_err(failed)?;
        gcm(&derived[..])
    }

    /// Encrypts the value that stands under a key of the store. Only seeds encrypt.
    pub(super) fn seal(
        &self,
        (key_id, source): (&str, &Bytes),
        key: &[u8],
        value: &[u8],
        entropy: &Entropy,
    ) -> Result<Vec<u8>, String> {
        let (info, nonce) = (entropy.bytes::<INFO_BYTES>(), entropy.bytes::<NONCE_LEN>());
        let mut body = Vec::with_capacity(value.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(value);
        let aes = self.derived(&info)?;
        aes.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key), &mut body)
            .map_err(|_| "failed to encrypt".to_owned())?;
        let object = EncryptedObject {
            encrypted_data: [info.as_slice(), nonce.as_slice(), body.as_slice()].concat().into(),
            key_id: key_id.to_owned(),
            encrypted_dek_source: source.clone(),
            annotations: std::collections::BTreeMap::new(),
            encrypted_dek_source_type: HKDF_SEED,
        };
        Ok(object.encode_to_vec())
    }

    /// The value that stands under a key of the store.
    pub(super) fn open(&self, data: &[u8], key: &[u8]) -> Result<Vec<u8>, String> {
        let short = || "the stored data was shorter than the required size".to_owned();
        let (aes, data) = if self.is_seed {
            let (info, data) = data.split_at_checked(INFO_BYTES).ok_or_else(short)?;
            (self.derived(info)?, data)
        } else {
            (gcm(&self.bytes)?, data)
        };
        let (nonce, sealed) = data.split_first_chunk::<NONCE_LEN>().ok_or_else(short)?;
        let mut text = sealed.to_vec();
        let opened = aes.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(key), &mut text);
        let length = opened.map_err(|_| "cipher: message authentication failed".to_owned())?.len();
        text.truncate(length);
        Ok(text)
    }
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, String> {
    let algorithm = match key.len() {
        16 => &aws_lc_rs::aead::AES_128_GCM,
        24 => &aws_lc_rs::aead::AES_192_GCM,
        _ => &AES_256_GCM,
    };
    UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| "failed to build a cipher".to_owned())
}

/// How messages name a key id.
pub(super) fn key_id_hash(key_id: &str) -> String {
    let hash = digest(&SHA256, key_id.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy() -> Entropy {
        Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).expect("random bytes"))
    }

    #[test]
    fn a_value_opens_under_its_own_key_of_the_store_only_and_not_when_it_was_changed() {
        let (entropy, source) = (entropy(), Bytes::from_static(b"wrapped"));
        let dek = Dek::generate(&entropy);
        let sealed = dek.seal(("id", &source), b"/registry/secrets/a/b", b"value", &entropy).unwrap();
        let object = EncryptedObject::parse(&sealed).unwrap();
        assert_eq!((object.key_id.as_str(), &object.encrypted_dek_source), ("id", &source));
        let again = Dek::of(&object, Zeroizing::new(dek.secret().to_vec())).unwrap();
        assert_eq!(again.open(&object.encrypted_data, b"/registry/secrets/a/b").unwrap(), b"value");
        let failed = Err("cipher: message authentication failed".to_owned());
        assert_eq!(again.open(&object.encrypted_data, b"/registry/secrets/a/c"), failed);
        assert_eq!(Dek::generate(&entropy).open(&object.encrypted_data, b"/registry/secrets/a/b"), failed);
        for at in 0..object.encrypted_data.len() {
            let mut changed = object.encrypted_data.to_vec();
            changed[at] ^= 1;
            assert_eq!(again.open(&changed, b"/registry/secrets/a/b"), failed, "byte {at}");
        }
        assert!(again.open(&object.encrypted_data[..40], b"/registry/secrets/a/b").unwrap_err().contains("shorter"));
    }

    /// Made with k8s.io/apiserver 0.33 (`NewHKDFExtendedNonceGCMTransformer`, `EncryptedObject`) and the seed 0, 1, … 31.
    const UPSTREAM: &str = "0a41aedb2be3018444480e5a463b25c705b9419ec77a6645518212f374fb224b32023786872cf46498ff6dee9dced2f63c\
                            faf521f6807af12615f6301a1637a04a425c120269641a07777261707065642801";

    #[test]
    fn what_upstream_wrote_is_read_and_written_alike() {
        let digit = |at: usize| u8::from_str_radix(&UPSTREAM[at..at + 2], 16).expect("hex");
        let bytes: Vec<u8> = (0..UPSTREAM.len()).step_by(2).map(digit).collect();
        let object = EncryptedObject::parse(&bytes).unwrap();
        assert_eq!((object.key_id.as_str(), &object.encrypted_dek_source[..]), ("id", &b"wrapped"[..]));
        let dek = Dek::of(&object, Zeroizing::new((0..32).collect())).unwrap();
        assert_eq!(dek.open(&object.encrypted_data, b"/registry/secrets/default/s").unwrap(), b"value");
        assert_eq!(object.encode_to_vec(), bytes);
    }

    #[test]
    fn what_upstream_would_not_read_is_refused_in_its_words() {
        let good = EncryptedObject {
            encrypted_data: Bytes::from_static(b"data"),
            key_id: "id".to_owned(),
            encrypted_dek_source: Bytes::from_static(b"dek"),
            ..EncryptedObject::default()
        };
        let check = |change: fn(&mut EncryptedObject)| {
            let mut object = good.clone();
            change(&mut object);
            EncryptedObject::parse(&object.encode_to_vec()).unwrap_err()
        };
        assert!(EncryptedObject::parse(&good.encode_to_vec()).is_ok());
        assert_eq!(check(|o| o.encrypted_data.clear()), "encrypted data is empty");
        assert!(check(|o| o.key_id.clear()).ends_with("keyID is empty"));
        assert!(check(|o| o.key_id = "k".repeat(1025)).ends_with("exceeds the max size of 1024"));
        assert!(check(|o| o.encrypted_dek_source.clear()).ends_with("encrypted DEK source is empty"));
        assert_eq!(check(|o| o.encrypted_dek_source_type = 7), "unknown encryptedDEKSourceType: 7");
        assert!(EncryptedObject::parse(b"\xff\xff").is_err());
    }

    #[test]
    fn a_key_that_is_no_seed_opens_what_older_servers_wrote() {
        let key = [7_u8; 32];
        let (nonce, mut body) = ([1_u8; NONCE_LEN], b"value".to_vec());
        let aes = gcm(&key).unwrap();
        aes.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(b"key"), &mut body).unwrap();
        let object = EncryptedObject { encrypted_dek_source_type: PLAIN_KEY, ..EncryptedObject::default() };
        let dek = Dek::of(&object, Zeroizing::new(key.to_vec())).unwrap();
        assert_eq!(dek.open(&[nonce.as_slice(), &body].concat(), b"key").unwrap(), b"value");
        assert!(Dek::of(&object, Zeroizing::new(vec![1; 5])).is_err());
    }
}
