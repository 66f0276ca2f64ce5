//! What the user's clients read: a kubeconfig and etcdctl's certificates for each cluster, under DATA/user.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base::Clock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::{Value, json};
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

/// What a client of a cluster's store shows and trusts, as etcdctl does.
///
/// # Errors
/// When the files are not there.
pub(crate) fn etcd_client(directory: &Path, clock: &Clock) -> Result<Arc<rustls::ClientConfig>> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).with_context(|| format!("cannot read {name}"));
    let identity = pki::Identity::from_pem(&read("etcd-client.crt")?, &read("etcd-client.key")?)?;
    Ok(pki::client_config(&read("etcd-ca.crt")?, Some(&identity), &[b"h2"], clock)?)
}

/// Makes a cluster's files those of the sandbox: `env` names these. What else the kubeconfig holds (gcloud may have added
/// clusters to it) stays; its current context becomes this cluster.
///
/// # Errors
/// When a file cannot be copied, or the kubeconfig is none.
pub(crate) fn make_default(layout: &Layout, spec: &ClusterSpec) -> Result<()> {
    let directory = directory(layout, spec);
    for name in ["etcd-ca.crt", "etcd-client.crt", "etcd-client.key"] {
        let content = fs::read(directory.join(name)).with_context(|| format!("cannot read {name}"))?;
        write_private(&layout.user().join(name), &content)?;
    }
    let file = layout.kubeconfig();
    let own = directory.join("kubeconfig");
    let content = fs::read(&own).with_context(|| format!("cannot read {}", own.display()))?;
    let merged = match fs::read(&file) {
        Ok(before) => merge(&before, &content)
            .with_context(|| format!("{} is not a kubeconfig; move it away and start again", file.display()))?,
        Err(_) => content,
    };
    write_private(&file, &merged)
}

/// A kubeconfig with the entries of another one in it.
fn merge(before: &[u8], own: &[u8]) -> Result<Vec<u8>> {
    let read = |text: &[u8]| machinery::yaml::to_value(text).map_err(anyhow::Error::msg);
    let (mut merged, own) = (read(before)?, read(own)?);
    ensure!(merged.as_object().is_some() && merged.str_at(&["kind"]) == "Config", "it has no kind Config");
    for list in ["clusters", "users", "contexts"] {
        let ours = own[list].items();
        let others = merged[list].items().iter().filter(|entry| !ours.iter().any(|o| o["name"] == entry["name"]));
        let all: Vec<Value> = ours.iter().chain(others).cloned().collect();
        merged.set(list, all);
    }
    merged.set("current-context", own["current-context"].clone());
    Ok(format!("{merged}\n").into_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cluster_comes_into_a_kubeconfig_and_the_others_stay() {
        let before = b"apiVersion: v1\nkind: Config\ncurrent-context: other\nusers: []\n\
            clusters:\n- name: a\n  cluster: {server: old}\n- name: other\n  cluster: {server: theirs}\n";
        let own = br#"{"kind": "Config", "current-context": "a", "users": [{"name": "a", "user": {"token": "t"}}],
            "clusters": [{"name": "a", "cluster": {"server": "new"}}], "contexts": [{"name": "a", "context": {}}]}"#;
        let merged = machinery::yaml::to_value(&merge(before, own).unwrap()).unwrap();
        assert_eq!(merged.str_at(&["current-context"]), "a");
        let servers: Vec<_> = merged["clusters"].items().iter().map(|c| c["cluster"].str_at(&["server"])).collect();
        assert_eq!(servers, ["new", "theirs"]);
        assert_eq!((merged["users"].items().len(), merged["contexts"].items().len()), (1, 1));
        assert!(merge(b"{}", own).is_err() && merge(b"- x", own).is_err() && merge(b"\t:", own).is_err());
    }
}
