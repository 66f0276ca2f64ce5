//! A cluster whose authorities and keys are the user's: what its signer has signed, the fleet asks Certificate Authority Service
//! and Cloud KMS for, as the project's service agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud::{Cloud, UserManagedCa, UserManagedKeys};
use pki::{Authority, OutsideAuthorities, OutsideCall, OutsideTokenKeys};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::channel::{self, stream};
use crate::fleet::Fleet;
use crate::fleet::cluster::Cluster;

/// What of a cluster's signing is done elsewhere.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outside {
    /// The certificates (PEM) of authorities whose keys are elsewhere.
    certificates: BTreeMap<Authority, String>,
    #[serde(default)]
    token_keys: Option<OutsideTokenKeys>,
}

impl Outside {
    /// `None` where the signer has everything itself.
    pub(crate) fn of(cluster: &Cluster) -> Option<Self> {
        let spec = cluster.spec();
        let pools = spec.user_managed.iter();
        let certificates: BTreeMap<_, _> =
            pools.map(|(authority, pool)| (*authority, pool.certificates.clone())).collect();
        let token_keys = spec.user_managed_keys.tokens.as_ref().map(|tokens| tokens.keys.clone());
        let own = certificates.is_empty() && token_keys.is_none();
        (!own).then_some(Self { certificates, token_keys })
    }

    /// The signer's end.
    ///
    /// # Errors
    /// When a token key is none.
    pub(crate) fn reached_by(self, stream: UnixStream) -> Result<Arc<OutsideAuthorities>> {
        Ok(OutsideAuthorities::new(self.certificates, self.token_keys.as_ref(), stream)?)
    }
}

/// Who answers for the user: the cloud, with what the cluster was made with.
struct Answering {
    cloud: Cloud,
    cluster: String,
    pools: Arc<BTreeMap<Authority, UserManagedCa>>,
    keys: Arc<UserManagedKeys>,
}

impl Answering {
    fn answer(&self, call: &OutsideCall) -> Result<String> {
        match call {
            OutsideCall::Certificate(request) => {
                let pool = self.pools.get(&request.authority).context("the authority is not the user's")?;
                self.cloud.issue_certificate(&self.cluster, pool, request).map_err(|text| anyhow!(text))
            }
            OutsideCall::TokenSignature(digest) => {
                let tokens = self.keys.tokens.as_ref().context("the token keys are not the user's")?;
                let digest = STANDARD.decode(digest).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let digest = digest.context("that is no SHA-256 digest")?;
                let signature = self.cloud.sign_token(&tokens.version, &digest).map_err(|text| anyhow!(text))?;
                Ok(STANDARD.encode(signature))
            }
        }
    }
}

/// Answers a signer at the other end of a stream.
pub(crate) fn serve(fleet: &Fleet, cluster: &Cluster, end: UnixStream) {
    let (cloud, spec) = (Arc::clone(&fleet.cloud), cluster.spec());
    let (pools, keys) = (Arc::new(spec.user_managed.clone()), Arc::new(spec.user_managed_keys.clone()));
    let id = spec.id.clone();
    tokio::spawn(pki::serve_outside(end, move |call| {
        let (cloud, pools, keys) = (Arc::clone(&cloud), Arc::clone(&pools), Arc::clone(&keys));
        let id = id.clone();
        async move {
            let cloud = cloud.get().cloned().ok_or("the cloud is not there yet")?;
            let answering = Answering { cloud, cluster: id, pools, keys };
            let answered = tokio::task::spawn_blocking(move || answering.answer(&call));
            answered.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
    }));
}

/// What is elsewhere, for a signer in this process.
///
/// # Errors
/// When there is no stream to be had.
pub(crate) fn in_process(fleet: &Fleet, cluster: &Cluster) -> Result<Option<Arc<OutsideAuthorities>>> {
    let Some(outside) = Outside::of(cluster) else { return Ok(None) };
    let (near, far) = channel::stream_pair()?;
    serve(fleet, cluster, stream(far)?);
    outside.reached_by(stream(near)?).map(Some)
}
