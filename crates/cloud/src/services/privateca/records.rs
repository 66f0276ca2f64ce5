//! What is remembered of pools, authorities, certificates and operations.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gke::{ApiError, Code};
use machinery::{Value, json};
use pki::{AuthorityKey, KeyAlgorithm, RsaBits};
use serde::{Deserialize, Serialize};

use crate::Inner;
use crate::state::Binding;

/// Of one project.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PrivateCa {
    /// By `LOCATION/ID`.
    pub(crate) pools: BTreeMap<String, Pool>,
    #[serde(default)]
    pub(super) operations: Vec<Operation>,
}

impl PrivateCa {
    pub(crate) fn pool(&self, location: &str, id: &str) -> Option<&Pool> {
        self.pools.get(&format!("{location}/{id}"))
    }

    pub(super) fn pool_mut(&mut self, location: &str, id: &str) -> Option<&mut Pool> {
        self.pools.get_mut(&format!("{location}/{id}"))
    }
}

/// A pool of authorities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub(crate) location: String,
    pub(crate) id: String,
    /// `ENTERPRISE` or `DEVOPS`.
    pub(super) tier: String,
    pub(super) issuance_policy: Value,
    pub(super) publishing: Value,
    pub(super) labels: Value,
    pub(super) policy: Vec<Binding>,
    pub(super) policy_revision: u64,
    pub(crate) authorities: BTreeMap<String, Authority>,
    pub(super) certificates: BTreeMap<String, Certificate>,
}

impl Pool {
    pub(super) fn name(&self, project: &str) -> String {
        format!("projects/{project}/locations/{}/caPools/{}", self.location, self.id)
    }
}

/// A root authority.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Authority {
    /// `STAGED`, `ENABLED`, `DISABLED` or `DELETED`.
    pub(crate) state: String,
    pub(super) config: Value,
    pub(super) lifetime: String,
    /// `EC_P256_SHA256` and so on.
    pub(crate) algorithm: String,
    /// PKCS #8, base64.
    key: String,
    /// PEM.
    pub(crate) certificate: String,
    pub(super) labels: Value,
    pub(super) created: String,
    pub(super) updated: String,
    /// When it was deleted, and when it is gone for good.
    #[serde(default)]
    pub(super) deleted: Option<(String, String)>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A name of the API for a key's algorithm.
///
/// # Errors
/// 501 for one that Google has and this emulator has not, 400 for others.
pub(super) fn algorithm(name: &str) -> Result<KeyAlgorithm, ApiError> {
    Ok(match name {
        "RSA_PKCS1_2048_SHA256" => KeyAlgorithm::RsaPkcs1(RsaBits::B2048),
        "RSA_PKCS1_3072_SHA256" => KeyAlgorithm::RsaPkcs1(RsaBits::B3072),
        "RSA_PKCS1_4096_SHA256" => KeyAlgorithm::RsaPkcs1(RsaBits::B4096),
        "EC_P256_SHA256" => KeyAlgorithm::EcP256,
        "EC_P384_SHA384" => KeyAlgorithm::EcP384,
        "RSA_PSS_2048_SHA256" | "RSA_PSS_3072_SHA256" | "RSA_PSS_4096_SHA256" => {
            return Err(ApiError::unimplemented(&format!("certificateAuthority.keySpec.algorithm {name}")));
        }
        _ => {
            return Err(ApiError::invalid(format!(
                "Invalid value at 'certificate_authority.key_spec.algorithm' \
                 (type.googleapis.com/google.cloud.security.privateca.v1.CertificateAuthority.SignHashAlgorithm), \"{name}\""
            )));
        }
    })
}

impl Authority {
    /// A new one, whose certificate comes later.
    pub(super) fn staged(algorithm: &str, key: &AuthorityKey, config: Value, lifetime: &str, now: Timestamp) -> Self {
        let created = now.rfc3339_nanos();
        Self {
            state: "STAGED".to_owned(),
            config,
            lifetime: lifetime.to_owned(),
            algorithm: algorithm.to_owned(),
            key: STANDARD.encode(key.to_pkcs8()),
            certificate: String::new(),
            labels: Value::object(),
            updated: created.clone(),
            created,
            deleted: None,
        }
    }

    pub(super) fn key(&self) -> Result<AuthorityKey, ApiError> {
        let damaged = || ApiError::new(Code::Internal, "Internal error encountered.");
        let der = zeroize::Zeroizing::new(STANDARD.decode(&self.key).map_err(|_| damaged())?);
        AuthorityKey::from_pkcs8(algorithm(&self.algorithm)?, &der).map_err(|_| damaged())
    }

    /// Is it there no more: deleted, with its time of grace over?
    pub(super) fn is_gone(&self, now: Timestamp) -> bool {
        let expires = self.deleted.as_ref().and_then(|(_, expires)| Timestamp::parse(expires).ok());
        expires.is_some_and(|expires| expires <= now)
    }
}

/// A certificate that was issued and is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Certificate {
    /// PEM.
    pub(super) pem: String,
    /// The authority's id.
    pub(super) authority: String,
    /// What it was made from: `pemCsr` or `config`, and how the subject was read.
    pub(super) source: Value,
    pub(super) lifetime: String,
    pub(super) labels: Value,
    pub(super) created: String,
    pub(super) updated: String,
    /// Reason and time.
    #[serde(default)]
    pub(super) revoked: Option<(String, String)>,
}

/// A change, for clients that wait for it. It is made when it is asked for; the operation says so once its time is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Operation {
    /// With the path.
    pub(super) name: String,
    pub(super) target: String,
    pub(super) verb: String,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) response: Value,
}

impl Operation {
    pub(super) fn show(&self, inner: &Inner) -> Value {
        let length = Duration::from_millis(inner.operation_millis.load(Ordering::Relaxed));
        let end = Timestamp::parse(&self.created).unwrap_or_default() + length;
        let done = end <= inner.clock.now();
        let mut metadata = json!({
            "@type": "type.googleapis.com/google.cloud.security.privateca.v1.OperationMetadata",
            "createTime": self.created, "target": self.target, "verb": self.verb, "requestedCancellation": false,
            "apiVersion": "v1",
        });
        if done {
            metadata.set("endTime", end.rfc3339_nanos());
        }
        let mut out = json!({"name": self.name, "done": done});
        out.set("metadata", metadata);
        if done {
            out.set("response", self.response.clone());
        }
        out
    }
}
