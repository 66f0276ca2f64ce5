//! Pools behind the authorities of clusters (`userManagedKeysConfig`): what such a pool must be, and certificates that the
//! project's service agent has issued for a cluster.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gke::user_managed::{self, PoolPath};
use gke::{ApiError, Cluster};
use machinery::{Value, json};
use pki::{Authority, OutsideRequest};

use super::certificates::{NewCertificate, issue};
use super::records::{Authority as Root, Pool};
use super::{Call, may, not_found, precondition};
use crate::services::is_ours;
use crate::state::State;
use crate::{Inner, UserManagedCa};

/// What the agent needs on a pool: to know its authorities, and to have certificates issued
/// (`roles/privateca.certificateManager`).
const NEEDED: [&str; 2] = ["privateca.caPools.get", "privateca.certificates.create"];
/// The one kind of key that GKE takes for a cluster's authorities.
const ALGORITHM: &str = "EC_P256_SHA256";

const fn authority(field: &str) -> Authority {
    match field.as_bytes() {
        b"clusterCa" => Authority::Cluster,
        b"etcdApiCa" => Authority::EtcdApi,
        b"etcdPeerCa" => Authority::EtcdPeer,
        _ => Authority::Aggregation,
    }
}

/// The pool's authorities that may issue for a cluster.
fn issuers(pool: &Pool) -> impl Iterator<Item = (&String, &Root)> {
    pool.authorities.iter().filter(|(_, root)| root.state == "ENABLED" && root.algorithm == ALGORITHM)
}

/// Can a new cluster have the authorities that it names? `state` is the one that it will be part of.
///
/// # Errors
/// 400 and 404 when a pool is not what it must be, and when the service agent may not use it.
pub(crate) fn check_pools(inner: &Inner, state: &State, cluster: &Cluster) -> Result<(), ApiError> {
    let agent = inner.service_agent();
    for (field, path) in user_managed::pools(&cluster.body)? {
        let pool = pool(inner, state, field, &path)?;
        let name = pool.name(&inner.project);
        if issuers(pool).next().is_none() {
            return Err(precondition(format!(
                "The CA pool {name} of cluster.user_managed_keys_config.{field} has no enabled CA with an EC P-256 key."
            )));
        }
        if let Some(missing) =
            NEEDED.into_iter().find(|permission| !may(inner, &agent, &path.location, Some(&path.id), permission))
        {
            return Err(precondition(format!(
                "The service agent {} needs the permission {missing} on the CA pool {name} of \
                 cluster.user_managed_keys_config.{field}: grant it roles/privateca.certificateManager.",
                agent.email
            )));
        }
        let others = state.clusters.iter().find(|other| uses(inner, other, pool));
        if let Some(other) = others {
            return Err(precondition(format!(
                "The CA pool {name} of cluster.user_managed_keys_config.{field} is used by cluster {}: clusters that share an \
                 authority would believe each other's certificates.",
                other.name
            )));
        }
    }
    Ok(())
}

fn pool<'a>(inner: &Inner, state: &'a State, field: &str, path: &PoolPath) -> Result<&'a Pool, ApiError> {
    let full = format!("projects/{}/locations/{}/caPools/{}", path.project, path.location, path.id);
    if !is_ours(inner, &path.project) {
        let text =
            format!("The CA pool {full} of cluster.user_managed_keys_config.{field} is in a project that is not here.");
        return Err(ApiError::invalid(text));
    }
    state.privateca.pool(&path.location, &path.id).ok_or_else(|| not_found(&full))
}

/// Is the pool one of the cluster's?
fn uses(inner: &Inner, cluster: &Cluster, pool: &Pool) -> bool {
    let named = user_managed::pools(&cluster.body).unwrap_or_default();
    named
        .iter()
        .any(|(_, path)| is_ours(inner, &path.project) && (&path.location, &path.id) == (&pool.location, &pool.id))
}

/// The authorities of a cluster that its user runs, as they are now.
///
/// # Errors
/// When a pool is gone, or none of its authorities is enabled.
pub(crate) fn user_managed(inner: &Inner, cluster: &Cluster) -> Result<BTreeMap<Authority, UserManagedCa>, ApiError> {
    let state = inner.store.read();
    let mut all = BTreeMap::new();
    for (field, path) in user_managed::pools(&cluster.body)? {
        let pool = pool(inner, &state, field, &path)?;
        let name = pool.name(&inner.project);
        let issuers: Vec<_> = issuers(pool).collect();
        if issuers.is_empty() {
            return Err(precondition(format!("There are no enabled CAs in CaPool {name}.")));
        }
        let held = UserManagedCa {
            pool: name,
            authorities: issuers.iter().map(|(id, _)| (*id).clone()).collect(),
            certificates: issuers.iter().map(|(_, root)| root.certificate.as_str()).collect(),
        };
        all.insert(authority(field), held);
    }
    Ok(all)
}

/// See [`crate::Cloud::issue_certificate`].
pub(crate) fn issue_for_cluster(
    inner: &Inner,
    cluster_id: &str,
    authority: &UserManagedCa,
    request: &OutsideRequest,
) -> Result<String, ApiError> {
    let path = PoolPath::parse(request.authority.name(), &authority.pool)?;
    // Short enough for an id, and told apart from those of people.
    let id = format!("gke-{}-{}", &cluster_id[..cluster_id.len().min(8)], inner.entropy.uuid().simple());
    let new = NewCertificate {
        location: &path.location,
        pool: &path.id,
        authorities: &authority.authorities,
        id: &id,
        body: body(request),
    };
    let issued = issue(inner, &inner.service_agent(), &new)?;
    Ok(issued.str_at(&["pemCertificate"]).to_owned())
}

/// A `Certificate` as the control plane asks for it.
fn body(request: &OutsideRequest) -> Value {
    let attribute = |kind: &str, value: &String| json!({"attributes": [{"type": kind, "value": value}]});
    let groups = request.organizations.iter().map(|group| attribute("ORGANIZATION", group));
    let names: Vec<Value> = groups.chain([attribute("COMMON_NAME", &request.common_name)]).collect();
    let addresses: Vec<String> = request.ips.iter().map(ToString::to_string).collect();
    let mut config = json!({
        "publicKey": {"format": "PEM", "key": STANDARD.encode(&request.public_key)},
        "x509Config": {"caOptions": {"isCa": false}, "keyUsage": {
            "baseKeyUsage": {"digitalSignature": true, "keyEncipherment": request.key_encipherment},
            "extendedKeyUsage": {"serverAuth": request.server, "clientAuth": request.client},
        }},
        "subjectConfig": {"subject": {}, "subjectAltName": {"dnsNames": request.dns, "ipAddresses": addresses,
            "emailAddresses": request.emails, "uris": request.uris}},
    });
    config["subjectConfig"]["subject"].set("rdnSequence", names);
    let mut out = json!({"lifetime": format!("{}s", request.lifetime_seconds), "subjectMode": "RDN_SEQUENCE"});
    out.set("config", config);
    out
}

/// Clusters that a pool is behind, by name.
fn dependents(call: &Call<'_>, pool: &Pool) -> Vec<String> {
    let state = call.inner.store.read();
    let using = state.clusters.iter().filter(|cluster| uses(call.inner, cluster, pool));
    using.map(|cluster| cluster.name.clone()).collect()
}

/// May the authority be disabled? The last enabled one of a pool that a cluster depends on may not.
///
/// # Errors
/// 400 when it may not.
pub(super) fn check_not_last(call: &Call<'_>, pool: &Pool, id: &str) -> Result<(), ApiError> {
    let others = pool.authorities.iter().any(|(other, root)| other != id && root.state == "ENABLED");
    if others { Ok(()) } else { check_unused(call, pool) }
}

/// Is no cluster behind the pool?
///
/// # Errors
/// 400 when one is.
pub(super) fn check_unused(call: &Call<'_>, pool: &Pool) -> Result<(), ApiError> {
    let using = dependents(call, pool);
    if using.is_empty() {
        return Ok(());
    }
    let text = format!(
        "CaPool {} is used by clusters ({}). To go on anyway, set the `ignore_dependent_resources` parameter.",
        pool.name(&call.inner.project),
        using.join(", ")
    );
    Err(precondition(text))
}
