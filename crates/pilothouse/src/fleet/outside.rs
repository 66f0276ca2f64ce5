//! A cluster whose authorities are the user's: what its signer has signed, the fleet asks Certificate Authority Service for, as
//! the project's service agent.

use std::sync::Arc;

use anyhow::{Context, Result};
use pki::OutsideAuthorities;
use tokio::net::UnixStream;

use crate::channel;
use crate::fleet::Fleet;
use crate::fleet::cluster::Cluster;
use crate::fleet::supervise::stream;

/// Answers a signer at the other end of a stream.
pub(crate) fn serve(fleet: &Fleet, cluster: &Cluster, end: UnixStream) {
    let (cloud, pools) = (Arc::clone(&fleet.cloud), Arc::new(cluster.spec().user_managed.clone()));
    let id = cluster.spec().id.clone();
    tokio::spawn(pki::serve_outside(end, move |request| {
        let (cloud, pools, id) = (Arc::clone(&cloud), Arc::clone(&pools), id.clone());
        async move {
            let pool = pools.get(&request.authority).cloned().context("the authority is not the user's");
            let pool = pool.map_err(|error| error.to_string())?;
            let cloud = cloud.get().cloned().ok_or("the cloud is not there yet")?;
            let issued = tokio::task::spawn_blocking(move || cloud.issue_certificate(&id, &pool, &request));
            issued.await.map_err(|error| error.to_string())?
        }
    }));
}

/// The authorities for a signer in this process.
///
/// # Errors
/// When there is no stream to be had.
pub(crate) fn in_process(fleet: &Fleet, cluster: &Cluster) -> Result<Option<Arc<OutsideAuthorities>>> {
    let certificates = certificates(cluster);
    if certificates.is_empty() {
        return Ok(None);
    }
    let (near, far) = channel::stream_pair()?;
    serve(fleet, cluster, stream(far)?);
    Ok(Some(OutsideAuthorities::new(certificates, stream(near)?)))
}

/// What the certificates of each outside authority are trusted by.
pub(crate) fn certificates(cluster: &Cluster) -> std::collections::BTreeMap<pki::Authority, String> {
    let pools = cluster.spec().user_managed.iter();
    pools.map(|(authority, pool)| (*authority, pool.certificates.clone())).collect()
}
