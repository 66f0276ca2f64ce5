//! What the user's clients read: a kubeconfig and etcdctl's certificates for each cluster, under DATA/user.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::json;
use pki::{Authority, Profile, Signer, request_identity};

use crate::fleet::cluster::Access;
use crate::fleet::message::ClusterSpec;
use crate::layout::{Layout, make_directory, write_private};

/// Where a cluster's files lie.
pub(crate) fn directory(layout: &Layout, spec: &ClusterSpec) -> PathBuf {
    layout.user().join("clusters").join(format!("{}_{}", spec.location, spec.name))
}

/// Writes them all anew: they hold credentials of this start.
///
/// # Errors
/// When the signer refuses or a file cannot be written.
pub(crate) async fn write(layout: &Layout, spec: &ClusterSpec, access: &Access, signer: &Signer) -> Result<()> {
    let directory = directory(layout, spec);
    make_directory(&directory)?;
    let token_file = layout.access_token();
    let token = fs::read_to_string(&token_file).with_context(|| format!("cannot read {}", token_file.display()))?;
    write_private(&directory.join("kubeconfig"), kubeconfig(spec, access, token.trim()).as_bytes())?;
    let identity = request_identity(signer, &Profile::EtcdClient { name: "etcdctl".to_owned() }, None).await?;
    let authority = signer.certificate(Authority::EtcdApi).await?;
    write_private(&directory.join("etcd-ca.crt"), authority.as_bytes())?;
    write_private(&directory.join("etcd-client.crt"), identity.certificate_pem().as_bytes())?;
    write_private(&directory.join("etcd-client.key"), identity.key_pem().as_bytes())
}

/// Makes a cluster's files those of the sandbox: `env` names these. A kubeconfig that is there already (gcloud may have
/// added clusters to it) is kept.
///
/// # Errors
/// When a file cannot be copied.
pub(crate) fn make_default(layout: &Layout, spec: &ClusterSpec) -> Result<()> {
    let directory = directory(layout, spec);
    let mut names = vec!["etcd-ca.crt", "etcd-client.crt", "etcd-client.key"];
    if !layout.kubeconfig().exists() {
        names.push("kubeconfig");
    }
    for name in names {
        let content = fs::read(directory.join(name)).with_context(|| format!("cannot read {name}"))?;
        write_private(&layout.user().join(name), &content)?;
    }
    Ok(())
}

/// Names are those that `gcloud container clusters get-credentials` uses, so that it replaces the entry.
fn kubeconfig(spec: &ClusterSpec, access: &Access, token: &str) -> String {
    let name = format!("gke_{}_{}_{}", spec.project, spec.location, spec.name);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
        "clusters": [{"name": name, "cluster": {
            "server": format!("https://{}", access.endpoint),
            "certificate-authority-data": STANDARD.encode(&access.ca_pem),
        }}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    });
    format!("{config}\n")
}
