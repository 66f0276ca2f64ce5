//! A node pool's `workloadMetadataConfig`: what its pods see instead of their machine's metadata, and what a machine says of
//! itself.

use std::collections::BTreeMap;

use machinery::{Value, json};
use serde::{Deserialize, Serialize};

use crate::record::{Cluster, Pool, hex8};
use crate::{ApiError, access, pool};

/// Pods see GKE's own metadata server.
const GKE_METADATA: &str = "GKE_METADATA";
/// Pods see their machine's.
const GCE_METADATA: &str = "GCE_METADATA";
/// Fields of `UpdateNodePoolRequest` that say which pool is meant.
const NAMING_FIELDS: [&str; 5] = ["name", "projectId", "zone", "clusterId", "nodePoolId"];

/// What a machine's metadata says beside its name and place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineSettings {
    /// Its service account: `default`, or an email.
    pub account: String,
    /// What its tokens are good for.
    pub scopes: Vec<String>,
    /// Network tags.
    pub tags: Vec<String>,
    /// The pool's own attributes.
    pub attributes: BTreeMap<String, String>,
    /// Do its pods see GKE's metadata server, and no longer the machine's?
    pub serves_pods: bool,
}

impl Default for MachineSettings {
    /// Those of a pool for which nothing was asked.
    fn default() -> Self {
        let (account, scopes) = ("default".to_owned(), pool::default_scopes());
        Self { account, scopes, tags: Vec::new(), attributes: BTreeMap::new(), serves_pods: false }
    }
}

impl MachineSettings {
    /// Those of all machines of a pool.
    pub fn of(cluster: &Cluster, pool: &Pool) -> Self {
        let config = &pool.body["config"];
        let texts = |field: &str| {
            config[field].items().iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<String>>()
        };
        let own_tag = format!("gke-{}-{}-node", cluster.name, hex8(&[&cluster.id]));
        let attribute =
            |(name, value): (&str, &Value)| (name.to_owned(), value.as_str().unwrap_or_default().to_owned());
        Self {
            account: config.str_at(&["serviceAccount"]).to_owned(),
            scopes: texts("oauthScopes"),
            tags: std::iter::once(own_tag).chain(texts("tags")).collect(),
            attributes: config["metadata"].members().map(attribute).collect(),
            serves_pods: is_on(config),
        }
    }

    /// The email of its service account.
    pub fn email(&self, project_number: &str) -> String {
        match self.account.as_str() {
            "default" => format!("{project_number}-compute@developer.gserviceaccount.com"),
            email => email.to_owned(),
        }
    }
}

/// Does a pool with this configuration run GKE's metadata server?
pub(crate) fn is_on(config: &Value) -> bool {
    config.str_at(&["workloadMetadataConfig", "mode"]) == GKE_METADATA
}

/// What a pool has that says nothing, in a cluster that has a workload pool.
pub(crate) fn default_mode() -> Value {
    shown(GKE_METADATA)
}

/// In both its forms: v1beta1 has an older name for the same beside it.
fn shown(mode: &str) -> Value {
    let older = if mode == GKE_METADATA { "GKE_METADATA_SERVER" } else { "EXPOSE" };
    json!({"mode": mode, "nodeMetadata": older})
}

/// Reads a `WorkloadMetadataConfig` that was asked for; none when it says nothing.
///
/// # Errors
/// 400 when it wants GKE's metadata server in a cluster without a workload pool or two things at once, 501 for metadata
/// concealment, which Workload Identity took the place of.
pub(crate) fn checked(cluster: &Value, asked: &Value) -> Result<Option<Value>, ApiError> {
    let newer = match asked.str_at(&["mode"]) {
        mode @ (GKE_METADATA | GCE_METADATA) => Some(mode),
        _ => None,
    };
    let older = match asked.str_at(&["nodeMetadata"]) {
        "SECURE" => return Err(ApiError::unimplemented("workload_metadata_config.node_metadata SECURE")),
        "EXPOSE" => Some(GCE_METADATA),
        "GKE_METADATA_SERVER" => Some(GKE_METADATA),
        _ => None,
    };
    if let (Some(newer), Some(older)) = (newer, older)
        && newer != older
    {
        let text = "WorkloadMetadataConfig.mode and WorkloadMetadataConfig.node_metadata must not differ.";
        return Err(ApiError::invalid(text));
    }
    let Some(mode) = newer.or(older) else { return Ok(None) };
    if mode == GKE_METADATA && access::pool_of(cluster).is_empty() {
        let text =
            "Workload Identity must be enabled on the cluster to set the workload metadata mode to GKE_METADATA.";
        return Err(ApiError::invalid(text));
    }
    Ok(Some(shown(mode)))
}

/// A pool's configuration after a decoded `UpdateNodePoolRequest`.
///
/// # Errors
/// 400 when nothing is to be updated or the mode is not to be had, 501 for a field that is not emulated.
pub fn update_pool(cluster: &Cluster, pool: &Pool, request: &Value) -> Result<Value, ApiError> {
    let wanted = |field: &str| !NAMING_FIELDS.contains(&field);
    if let Some((other, _)) = request.members().find(|(field, _)| wanted(field) && *field != "workloadMetadataConfig") {
        return Err(ApiError::unimplemented(&format!("UpdateNodePool.{other}")));
    }
    let mode = checked(&cluster.body, &request["workloadMetadataConfig"])?;
    let mode = mode.ok_or_else(|| ApiError::invalid("Must specify a field to update."))?;
    let mut body = pool.body.clone();
    body["config"].set("workloadMetadataConfig", mode);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &Value, asked: Value) -> Result<Option<String>, u16> {
        let read = checked(cluster, &asked).map_err(|error| error.code.http())?;
        Ok(read.map(|mode| mode.str_at(&["mode"]).to_owned()))
    }

    #[test]
    fn gkes_metadata_server_needs_a_workload_pool() {
        let (plain, with) = (Value::object(), json!({"workloadIdentityConfig": {"workloadPool": "p.svc.id.goog"}}));
        let of = |mode: &str| Ok(Some(mode.to_owned()));
        let cases = [
            (&plain, json!({}), Ok(None)),
            (&plain, json!({"mode": "MODE_UNSPECIFIED"}), Ok(None)),
            (&plain, json!({"mode": "GCE_METADATA"}), of("GCE_METADATA")),
            (&plain, json!({"mode": "GKE_METADATA"}), Err(400)),
            (&plain, json!({"nodeMetadata": "GKE_METADATA_SERVER"}), Err(400)),
            (&with, json!({"mode": "GKE_METADATA"}), of("GKE_METADATA")),
            (&with, json!({"nodeMetadata": "GKE_METADATA_SERVER"}), of("GKE_METADATA")),
            (&with, json!({"nodeMetadata": "EXPOSE"}), of("GCE_METADATA")),
            (&with, json!({"nodeMetadata": "SECURE"}), Err(501)),
            (&with, json!({"mode": "GKE_METADATA", "nodeMetadata": "GKE_METADATA_SERVER"}), of("GKE_METADATA")),
            (&with, json!({"mode": "GKE_METADATA", "nodeMetadata": "EXPOSE"}), Err(400)),
        ];
        for (cluster, asked, expect) in cases {
            assert_eq!(check(cluster, asked.clone()), expect, "{asked}");
        }
    }

    #[test]
    fn the_default_account_is_the_projects() {
        let of = |account: &str| MachineSettings { account: account.to_owned(), ..MachineSettings::default() };
        assert_eq!(of("default").email("12"), "12-compute@developer.gserviceaccount.com");
        assert_eq!(of("a@b.c").email("12"), "a@b.c");
    }
}
