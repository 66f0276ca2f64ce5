//! Data keys and what they do: AES-256-GCM under keys derived per file, so that no nonce is ever used twice.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base::Entropy;
use zeroize::Zeroizing;

/// Bytes the seal adds to what it seals.
pub(crate) const TAG_LEN: usize = 16;
/// A salt's length: 256 bits, so that two files never share a derived key.
pub(crate) const SALT_LEN: usize = 32;

/// The key of one cluster's (or instance's) data. Clones share it; it is wiped from memory with the last one.
#[derive(Clone)]
pub struct DataKey(Arc<Secret>);

struct Secret {
    id: [u8; 16],
    bytes: Zeroizing<[u8; 32]>,
    context: String,
    /// They open what has not been sealed anew yet; nothing is sealed with them.
    earlier: Vec<DataKey>,
}

impl DataKey {
    /// A fresh key, bound to a context such as `cluster/<id>/instance/<id>`.
    pub fn generate(context: &str, entropy: &Entropy) -> Self {
        Self::from_parts(entropy.bytes(), Zeroizing::new(entropy.bytes()), context)
    }

    pub(crate) fn from_parts(id: [u8; 16], bytes: Zeroizing<[u8; 32]>, context: &str) -> Self {
        Self(Arc::new(Secret { id, bytes, context: context.to_owned(), earlier: Vec::new() }))
    }

    /// This key with others before it, which open what they sealed. What is sealed from now on is sealed with this one.
    #[must_use]
    pub fn with_earlier(&self, earlier: Vec<Self>) -> Self {
        let Secret { id, bytes, context, .. } = &*self.0;
        Self(Arc::new(Secret { id: *id, bytes: bytes.clone(), context: context.clone(), earlier }))
    }

    /// The keys before it that are still needed.
    pub fn earlier(&self) -> &[Self] {
        &self.0.earlier
    }

    /// Of this key and the earlier ones, the one with the id.
    pub(crate) fn of_id(&self, id: &[u8]) -> Option<&Self> {
        self.all().find(|key| key.0.id == *id)
    }

    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.0.earlier)
    }

    /// What the key is bound to.
    pub fn context(&self) -> &str {
        &self.0.context
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.0.id
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    /// The sealer of one file: its own key, by HKDF-SHA256 over the file's salt, the purpose and the context.
    pub(crate) fn sealer(&self, salt: &[u8; SALT_LEN], purpose: &str) -> Sealer {
        let info = [purpose.as_bytes(), b"\0", self.0.context.as_bytes()];
        let prk = Salt::new(HKDF_SHA256, salt).extract(&self.0.bytes[..]);
        let mut derived = Zeroizing::new([0; 32]);
        prk.expand(&info, Aes256)
            .and_then(|okm| okm.fill(&mut derived[..]))
            .expect("HKDF-SHA256 gives 32 bytes for any input");
        let key = UnboundKey::new(&AES_256_GCM, &derived[..]).expect("32 bytes make an AES-256 key");
        Sealer(LessSafeKey::new(key))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.0.context)
    }
}

struct Aes256;

impl KeyType for Aes256 {
    fn len(&self) -> usize {
        32
    }
}

/// Seals and opens under one derived key; the caller counts, and never uses a count twice.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// Encrypts `buffer[from..]` in place and appends the tag.
    pub(crate) fn seal(&self, count: u64, aad: &[u8], buffer: &mut Vec<u8>, from: usize) {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(count), Aad::from(aad), &mut buffer[from..])
            .expect("a frame is far below AES-GCM's limit");
        buffer.extend_from_slice(tag.as_ref());
    }

    /// Decrypts in place; the plaintext, or nothing when a bit of it or of the associated data is not as sealed.
    pub(crate) fn open<'a>(&self, count: u64, aad: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(nonce(count), Aad::from(aad), sealed).ok()
    }
}

fn nonce(count: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&count.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals a small secret into one self-contained piece: salt, ciphertext, tag.
pub(crate) fn seal_piece(key: &DataKey, purpose: &str, aad: &[u8], plain: &[u8], entropy: &Entropy) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = entropy.bytes();
    let mut piece = Vec::with_capacity(SALT_LEN + plain.len() + TAG_LEN);
    piece.extend_from_slice(&salt);
    piece.extend_from_slice(plain);
    key.sealer(&salt, purpose).seal(0, aad, &mut piece, SALT_LEN);
    piece
}

/// The secret in a piece made by [`seal_piece`] with the same key, purpose and associated data.
pub(crate) fn open_piece(key: &DataKey, purpose: &str, aad: &[u8], piece: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, sealed) = piece.split_first_chunk::<SALT_LEN>()?;
    key.all().find_map(|key| {
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let length = key.sealer(salt, purpose).open(0, aad, &mut sealed)?.len();
        sealed.truncate(length);
        Some(sealed)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Predictable bytes for tests.
    pub(crate) fn fake_entropy() -> Entropy {
        let next = AtomicU64::new(1);
        Entropy::new(move |buffer| {
            let mut rng = base::Rng::new(next.fetch_add(1, Ordering::Relaxed));
            buffer.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next_u64().to_le_bytes()[..chunk.len()]));
        })
    }

    #[test]
    fn a_piece_opens_only_with_its_key_purpose_and_data() {
        let entropy = fake_entropy();
        let (key, other) = (DataKey::generate("a", &entropy), DataKey::generate("a", &entropy));
        let piece = seal_piece(&key, "test", b"name", b"secret", &entropy);
        assert_eq!(open_piece(&key, "test", b"name", &piece).unwrap().as_slice(), b"secret");
        assert!(!piece.windows(6).any(|window| window == b"secret"));
        assert!(open_piece(&other, "test", b"name", &piece).is_none());
        assert!(open_piece(&key, "prod", b"name", &piece).is_none());
        assert!(open_piece(&key, "test", b"nome", &piece).is_none());
        for place in 0..piece.len() {
            let mut flipped = piece.clone();
            flipped[place] ^= 1;
            assert!(open_piece(&key, "test", b"name", &flipped).is_none(), "bit flip at {place}");
        }
    }

    #[test]
    fn a_new_key_opens_what_earlier_ones_sealed_and_seals_with_itself() {
        let entropy = fake_entropy();
        let (old, new) = (DataKey::generate("a", &entropy), DataKey::generate("a", &entropy));
        let both = new.with_earlier(vec![old.clone()]);
        let (before, after) =
            (seal_piece(&old, "test", b"", b"1", &entropy), seal_piece(&both, "test", b"", b"2", &entropy));
        assert_eq!(open_piece(&both, "test", b"", &before).unwrap().as_slice(), b"1");
        assert_eq!(open_piece(&new, "test", b"", &after).unwrap().as_slice(), b"2");
        assert!(open_piece(&new, "test", b"", &before).is_none());
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = DataKey::generate("cluster/x", &fake_entropy());
        assert_eq!(format!("{key:?}"), "DataKey(cluster/x)");
    }
}
