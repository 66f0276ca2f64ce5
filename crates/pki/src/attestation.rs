//! A machine's proof that a key was made on it, as GKE's shielded nodes send it with their first certificate request.
//!
//! The request's PEM text goes on with three more blocks: who the machine says it is, what its TPM certified (the hash of
//! the key) and the TPM's signature over that. The cloud knows the machine's attestation key, so another machine that
//! stole the bootstrap credential cannot speak for this one. The TPM is modelled: its key is an Ed25519 key that is
//! derived from a secret of the platform and the machine's name, and of a certification's fields only those stand in the
//! data that are checked.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base::Entropy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::{SignerError, pem};

const IDENTITY: &str = "VM IDENTITY";
const DATA: &str = "ATTESTATION DATA";
const SIGNATURE: &str = "ATTESTATION SIGNATURE";
/// `TPM_GENERATED_VALUE`, `TPM_ST_ATTEST_CERTIFY`, and a name of 34 bytes made with SHA-256 (TPM 2.0, part 2).
const CERTIFIED: [u8; 10] = [0xff, b'T', b'C', b'G', 0x80, 0x17, 0x00, 0x22, 0x00, 0x0b];

/// Who a machine says it is (`nodeidentity.Identity`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineIdentity {
    /// As `us-central1-a`.
    pub zone: String,
    /// The instance's name, which is its node's.
    pub name: String,
    /// Google project.
    pub project_name: String,
}

/// What an attested request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attested {
    /// Nothing: it is a plain request.
    Absent,
    /// The machine that it names made the key.
    Good,
    /// It is not the machine, or not this key.
    Bad,
}

/// The platform's secret behind the machines' attestation keys.
#[derive(Clone)]
pub struct MachineSecret(Zeroizing<[u8; 32]>);

impl MachineSecret {
    /// A new one.
    pub fn generate(entropy: &Entropy) -> Self {
        Self(Zeroizing::new(entropy.bytes()))
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn from_text(text: &str) -> Result<Self, SignerError> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| Self(Zeroizing::new(bytes))).ok_or(SignerError::DamagedState)
    }

    /// To be handed to the process that runs the machines.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    fn key(&self, machine: &str) -> Ed25519KeyPair {
        let seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()), machine.as_bytes());
        Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("a seed is 32 bytes")
    }

    /// A certificate request in PEM, followed by the machine's attestation of the request's key.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub fn attest(&self, machine: &MachineIdentity, csr_der: &[u8]) -> Result<String, SignerError> {
        let data = [&CERTIFIED[..], &key_digest(csr_der).ok_or(SignerError::DamagedState)?].concat();
        let signature = self.key(&machine.name).sign(&data);
        let identity = serde_json::to_vec(machine).expect("text always serializes");
        let blocks = [(IDENTITY, identity.as_slice()), (DATA, &data), (SIGNATURE, signature.as_ref())];
        let attestation: String = blocks.iter().map(|(label, content)| pem::encode(label, content)).collect();
        Ok(pem::request(csr_der) + &attestation)
    }

    /// Does the TPM of this machine vouch, in the blocks of the text, for the key of the request `csr_der`? That is the one
    /// that will be signed, and not whatever else the text holds.
    pub fn check(&self, text: &str, csr_der: &[u8], machine: &MachineIdentity) -> Attested {
        let blocks = pem::sections(text);
        let block = |wanted: &str| blocks.iter().rev().find(|(label, _)| label == wanted).map(|(_, content)| content);
        let (Some(identity), Some(data), Some(signature)) = (block(IDENTITY), block(DATA), block(SIGNATURE)) else {
            return Attested::Absent;
        };
        let same_machine = serde_json::from_slice::<MachineIdentity>(identity).is_ok_and(|said| said == *machine);
        let same_key = key_digest(csr_der).is_some_and(|digest| *data == [&CERTIFIED[..], &digest].concat());
        let public = self.key(&machine.name);
        let public = UnparsedPublicKey::new(&ED25519, public.public_key().as_ref().to_vec());
        if same_machine && same_key && public.verify(data, signature).is_ok() { Attested::Good } else { Attested::Bad }
    }
}

impl std::fmt::Debug for MachineSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MachineSecret(…)")
    }
}

fn key_digest(csr_der: &[u8]) -> Option<Vec<u8>> {
    let (_, request) = X509CertificationRequest::from_der(csr_der).ok()?;
    let key = request.certification_request_info.subject_pki.raw;
    Some(digest(&SHA256, key).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyRequest;

    #[test]
    fn a_machine_vouches_for_its_own_keys_only() {
        let entropy = Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap());
        let (secret, other) = (MachineSecret::generate(&entropy), MachineSecret::generate(&entropy));
        let machine =
            |name: &str| MachineIdentity { zone: "z".to_owned(), name: name.to_owned(), project_name: "p".to_owned() };
        let (a, b) = (machine("a"), machine("b"));
        let (mine, stolen) =
            (KeyRequest::new("system:node:a", &[], &[], &[]), KeyRequest::new("system:node:a", &[], &[], &[]));
        let (mine, stolen) = (mine.unwrap(), stolen.unwrap());
        let text = secret.attest(&a, mine.der()).unwrap();
        let (own, others) = (mine.der(), stolen.der());
        assert_eq!(MachineSecret::from_text(&secret.to_text()).unwrap().check(&text, own, &a), Attested::Good);
        assert_eq!(secret.check(&text, own, &b), Attested::Bad, "another machine");
        assert_eq!(other.check(&text, own, &a), Attested::Bad, "another platform");
        assert_eq!(secret.check(&mine.pem(), own, &a), Attested::Absent);
        // The blocks of a real attestation around another key, also with the request that they are about.
        let (_, blocks) = text.split_once("-----END CERTIFICATE REQUEST-----\n").unwrap();
        for borrowed in [blocks, &text] {
            assert_eq!(secret.check(&(stolen.pem() + borrowed), others, &a), Attested::Bad);
        }
        // What machine b may say is that it is b.
        let lie = secret.attest(&b, others).unwrap();
        assert_eq!(secret.check(&lie, others, &a), Attested::Bad);
        let relabelled = secret.attest(&a, others).unwrap();
        let (head, _) = relabelled.split_once("-----BEGIN ATTESTATION SIGNATURE").unwrap();
        let (_, signature) = lie.split_once("-----BEGIN ATTESTATION SIGNATURE").unwrap();
        let mixed = format!("{head}-----BEGIN ATTESTATION SIGNATURE{signature}");
        assert_eq!(secret.check(&mixed, others, &a), Attested::Bad);
        assert!(MachineSecret::from_text("short").is_err());
    }
}
