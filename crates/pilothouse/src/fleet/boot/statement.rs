//! A signed statement of what was accepted: an in-toto Statement with SLSA's verification summary as its predicate, in a
//! DSSE envelope (in-toto attestation v1, slsa.dev/verification_summary/v1, DSSE v1 with its pre-authentication encoding).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Digest;
use crate::failure::RESTORE;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const SUMMARY: &str = "https://slsa.dev/verification_summary/v1";

/// The key that signs statements, and checks them.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// # Errors
    /// When the seed has not 32 bytes.
    pub(super) fn new(seed: &[u8]) -> Result<Self> {
        Ok(Self(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| anyhow!("the signing key has the wrong form"))?))
    }

    /// The digest of its public half.
    fn id(&self) -> String {
        pki::sha256(self.0.public_key().as_ref())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

/// What was accepted, when and why.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: Sha256,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sha256 {
    sha256: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    verifier: Verifier,
    time_verified: String,
    resource_uri: String,
    policy: Policy,
    verification_result: String,
    /// None: nobody can say here who built it, and how.
    verified_levels: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Verifier {
    id: String,
    version: Versions,
}

#[derive(Debug, Serialize, Deserialize)]
struct Versions {
    pilothouse: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Policy {
    uri: String,
}

impl Statement {
    /// That one of these digests of `subject` is accepted.
    pub(super) fn of(subject: &str, accepted: &[Digest], policy: &str, now: Timestamp) -> Self {
        let one = |sha256: &Digest| Subject { name: subject.to_owned(), digest: Sha256 { sha256: sha256.clone() } };
        Self {
            kind: STATEMENT.to_owned(),
            subject: accepted.iter().map(one).collect(),
            predicate_type: SUMMARY.to_owned(),
            predicate: Summary {
                verifier: Verifier {
                    id: "pilothouse:fleet".to_owned(),
                    version: Versions { pilothouse: env!("CARGO_PKG_VERSION").to_owned() },
                },
                time_verified: now.rfc3339(),
                resource_uri: format!("pilothouse:{}", subject.replace(' ', "/")),
                policy: Policy { uri: format!("pilothouse:{}", policy.replace(' ', "-")) },
                verification_result: "PASSED".to_owned(),
                verified_levels: Vec::new(),
            },
        }
    }

    /// The digests.
    pub(super) fn accepted(&self) -> Vec<Digest> {
        self.subject.iter().map(|subject| subject.digest.sha256.clone()).collect()
    }

    /// In its envelope.
    ///
    /// # Errors
    /// Never, as it is plain data.
    pub(super) fn signed(&self, signer: &Signer) -> Result<Vec<u8>> {
        let payload = serde_json::to_vec(self)?;
        let sig = STANDARD.encode(signer.0.sign(&encoded_for_signing(&payload)));
        let signatures = vec![Signature { keyid: signer.id(), sig }];
        let payload = STANDARD.encode(payload);
        Ok(serde_json::to_vec_pretty(&Envelope { payload_type: PAYLOAD_TYPE.to_owned(), payload, signatures })?)
    }

    /// Reads an envelope that this key must have signed.
    ///
    /// # Errors
    /// When it is missing, damaged or signed by somebody else.
    pub(super) fn load(path: &Path, signer: &Signer) -> Result<Self> {
        let at = path.display();
        let text = match fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!("{at} is missing: {RESTORE}"),
            other => other.map_err(|e| crate::layout::refusal("read", path, e))?,
        };
        Self::open(&text, signer).with_context(|| format!("{at} (SHA-256 {}) is not believed", pki::sha256(&text)))
    }

    fn open(text: &[u8], signer: &Signer) -> Result<Self> {
        let envelope: Envelope = serde_json::from_slice(text).context("it is not readable")?;
        let payload = STANDARD.decode(&envelope.payload).context("it is not readable")?;
        let key = UnparsedPublicKey::new(&ED25519, signer.0.public_key().as_ref());
        let signed = encoded_for_signing(&payload);
        let good = |one: &Signature| STANDARD.decode(&one.sig).is_ok_and(|sig| key.verify(&signed, &sig).is_ok());
        if envelope.payload_type != PAYLOAD_TYPE || !envelope.signatures.iter().any(good) {
            bail!("this sandbox' platform did not sign it; {RESTORE}");
        }
        Ok(serde_json::from_slice(&payload)?)
    }
}

/// DSSE's pre-authentication encoding: the signature covers the type too, and lengths leave no room for doubt.
fn encoded_for_signing(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_dsse_s_encoding() {
        // The example of the specification, with its own type.
        let ours = String::from_utf8(encoded_for_signing(b"hello world")).unwrap();
        assert_eq!(ours, "DSSEv1 28 application/vnd.in-toto+json 11 hello world");
    }

    #[test]
    fn a_statement_is_believed_only_whole_and_from_its_own_signer() {
        let (own, other) = (Signer::new(&[1; 32]).unwrap(), Signer::new(&[2; 32]).unwrap());
        let now = Timestamp::parse("2026-01-02T03:04:05Z").unwrap();
        let text = Statement::of("pilothouse", &["aa".to_owned()], "found", now).signed(&own).unwrap();
        assert_eq!(Statement::open(&text, &own).unwrap().accepted(), ["aa"]);
        assert!(Statement::open(&text, &other).is_err());
        let mut envelope: Envelope = serde_json::from_slice(&text).unwrap();
        let payload = String::from_utf8(STANDARD.decode(&envelope.payload).unwrap()).unwrap();
        envelope.payload = STANDARD.encode(payload.replace("\"aa\"", "\"bb\""));
        assert!(Statement::open(&serde_json::to_vec(&envelope).unwrap(), &own).is_err());
        let mut envelope: Envelope = serde_json::from_slice(&text).unwrap();
        envelope.signatures.clear();
        assert!(Statement::open(&serde_json::to_vec(&envelope).unwrap(), &own).is_err());
        assert!(Statement::open(b"{", &own).is_err());
    }
}
