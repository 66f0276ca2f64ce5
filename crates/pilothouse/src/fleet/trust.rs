//! `inspect trust`: who trusts whom in each cluster, by what is really shown: a handshake with every listener, and what the
//! instances say of the client certificates that they use. Files are not looked at.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::Authority;
use serde::{Deserialize, Serialize};

use crate::edge::connect_as_management;
use crate::fleet::Fleet;
use crate::fleet::cluster::{Cluster, instance_name};
use crate::fleet::message::IN_PROCESS;

/// A listener that does not shake hands in this time is not there.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// One cluster's certificates and connections.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterTrust {
    pub(crate) cluster: String,
    pub(crate) location: String,
    pub(crate) certificates: Vec<Shown>,
    pub(crate) connections: Vec<Connection>,
    /// Listeners that did not answer.
    pub(crate) silent: Vec<String>,
}

/// A certificate that is in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    pub(crate) sha256: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) is_ca: bool,
    pub(crate) not_after: String,
    pub(crate) used_for: String,
    /// The authority of this cluster that signed it; empty: none did.
    pub(crate) authority: String,
    /// Of an authority that the user runs: its CA pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ca_pool: String,
}

/// Two parties that talk, and by what they know each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Connection {
    pub(crate) from: String,
    pub(crate) to: String,
    /// SHA-256 of the client's certificate; empty: it shows none, or needs none.
    pub(crate) client: String,
    /// SHA-256 of the server's.
    pub(crate) server: String,
    /// How, in words.
    pub(crate) by: String,
}

/// Looks at all clusters.
pub(crate) async fn look(fleet: &Fleet) -> Vec<ClusterTrust> {
    let clusters = fleet.clusters();
    futures_util::future::join_all(clusters.iter().map(|cluster| look_at(cluster))).await
}

/// The authorities of a cluster with their PEM.
type Authorities = Vec<(Authority, String)>;

async fn look_at(cluster: &Cluster) -> ClusterTrust {
    let mut found = ClusterTrust {
        cluster: cluster.spec().name.clone(),
        location: cluster.spec().location.clone(),
        certificates: Vec::new(),
        connections: Vec::new(),
        silent: Vec::new(),
    };
    let authorities = authorities(cluster).await;
    for (authority, pem) in &authorities {
        for der in pki::pem::certificates(pem).unwrap_or_default() {
            let ca_pool = cluster.spec().user_managed.get(authority).map(|pool| pool.pool.clone()).unwrap_or_default();
            let certificate = shown(&der, format!("{} CA", authority.name()), &authorities);
            found.certificates.extend(certificate.map(|shown| Shown { ca_pool, ..shown }));
        }
    }
    let listeners = listeners(cluster);
    let handshakes = listeners.iter().map(|listener| handshake(listener.address, &listener.name));
    for (listener, leaf) in listeners.iter().zip(futures_util::future::join_all(handshakes).await) {
        let certificate = leaf.and_then(|leaf| shown(&leaf, listener.party.clone(), &authorities));
        match certificate {
            Some(certificate) => found.certificates.push(certificate),
            None => found.silent.push(format!("{} at {}", listener.party, listener.address)),
        }
    }
    for used in cluster.used_identities().await {
        let Ok(der) = STANDARD.decode(&used.certificate) else { continue };
        let to = used.to.replace(IN_PROCESS, "store ");
        let purpose = format!("{} as client of {to}", used.from);
        let Some(certificate) = shown(&der, purpose, &authorities) else { continue };
        match used.to.strip_prefix(IN_PROCESS) {
            Some(name) => check_in_process(&mut found, &used.from, name, &certificate),
            None => connect(&mut found, &used.from, &used.to, &certificate),
        }
        found.certificates.push(certificate);
    }
    let by_name = cluster.front_end_shown.get();
    let by_name = by_name.and_then(|der| shown(der, "front end as client of API server".to_owned(), &authorities));
    if let Some(certificate) = by_name {
        connect(&mut found, "front end", "API server", &certificate);
        found.certificates.push(certificate);
    }
    talk_in_process(&mut found, cluster);
    found
}

async fn authorities(cluster: &Cluster) -> Authorities {
    let Some(signer) = cluster.signer.borrow().clone() else { return Vec::new() };
    let mut all = Vec::new();
    for authority in Authority::ALL {
        all.extend(signer.certificate(authority).await.ok().map(|pem| (authority, pem)));
    }
    all
}

/// Something that a cluster listens with.
struct Listener {
    party: String,
    address: SocketAddr,
    /// What it is asked as.
    name: String,
}

fn listeners(cluster: &Cluster) -> Vec<Listener> {
    let listener = |party: String, address: SocketAddr, name: String| Listener { party, address, name };
    let api = cluster.addresses.internal;
    let mut all = vec![listener("API server".to_owned(), api, api.ip().to_string())];
    for (place, member) in cluster.addresses.members.iter().enumerate() {
        let name = instance_name(place);
        all.push(listener(format!("store {name}"), member.client, member.client.ip().to_string()));
        all.push(listener(format!("store peer {name}"), member.peer, member.peer.ip().to_string()));
    }
    let kubelets = cluster.machines().into_iter();
    all.extend(kubelets.map(|machine| listener(format!("kubelet {}", machine.name), machine.kubelet, machine.name)));
    all
}

async fn handshake(address: SocketAddr, name: &str) -> Option<Vec<u8>> {
    let shown = async {
        let stream = connect_as_management(address).await.ok()?;
        pki::shown_by(stream, name).await.ok()?.first().map(|leaf| leaf.to_vec())
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, shown).await.ok().flatten()
}

fn shown(der: &[u8], used_for: String, authorities: &Authorities) -> Option<Shown> {
    let subject = pki::subject(der).ok()?;
    let issued_by = authorities.iter().find(|(_, pem)| pki::is_issued_by(der, pem));
    let groups = subject.organizations.iter().map(|group| format!("O={group},"));
    Some(Shown {
        sha256: pki::sha256(der),
        subject: groups.chain([format!("CN={}", subject.common_name)]).collect(),
        issuer: format!("CN={}", subject.issuer),
        is_ca: subject.is_ca,
        not_after: subject.not_after.rfc3339(),
        used_for,
        authority: issued_by.map(|(authority, _)| authority.name().to_owned()).unwrap_or_default(),
        ca_pool: String::new(),
    })
}

/// A connection from the owner of a client certificate to each party of that kind.
fn connect(found: &mut ClusterTrust, from: &str, to: &str, client: &Shown) {
    let kind = match to {
        "kubelets" => "kubelet ",
        "store peers" => "store peer ",
        other => other,
    };
    let own = from.replace("store ", "store peer ");
    let servers = found.certificates.iter().filter(|c| !c.is_ca && c.used_for.starts_with(kind) && c.used_for != own);
    let servers: Vec<(String, String)> = servers.map(|c| (c.used_for.clone(), c.sha256.clone())).collect();
    for (party, server) in servers.into_iter().filter(|(party, _)| !party.contains(" as client of ")) {
        found.connections.push(Connection {
            from: from.to_owned(),
            to: party,
            client: client.sha256.clone(),
            server,
            by: "mutual TLS".to_owned(),
        });
    }
}

/// One process: there is no handshake, the certificate was looked at as in one.
fn check_in_process(found: &mut ClusterTrust, from: &str, name: &str, client: &Shown) {
    let to = format!("store {name}");
    let server = found.certificates.iter().find(|c| c.used_for == to).map(|c| c.sha256.clone()).unwrap_or_default();
    let by = "one process, by a certificate that was checked as TLS would".to_owned();
    found.connections.push(Connection { from: from.to_owned(), to, client: client.sha256.clone(), server, by });
}

/// What is known by possession of a socket, or by being in one process; no certificate is shown there.
fn talk_in_process(found: &mut ClusterTrust, cluster: &Cluster) {
    let mut add = |from: String, to: String, by: &str| {
        found.connections.push(Connection {
            from,
            to,
            client: String::new(),
            server: String::new(),
            by: by.to_owned(),
        });
    };
    for place in 0..cluster.instance_count() {
        let name = instance_name(place);
        add(format!("controllers and scheduler {name}"), format!("API server {name}"), "one process");
        add(format!("API server {name}"), "signer".to_owned(), "inherited socket");
        add(format!("API server {name}"), format!("metadata server {name}"), "inherited socket");
        add(format!("metadata server {name}"), "signer".to_owned(), "inherited socket");
    }
    add("fleet".to_owned(), "signer".to_owned(), "inherited socket");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(used_for: &str, is_ca: bool) -> Shown {
        Shown {
            sha256: used_for.to_owned(),
            subject: String::new(),
            issuer: String::new(),
            is_ca,
            not_after: String::new(),
            used_for: used_for.to_owned(),
            authority: String::new(),
            ca_pool: String::new(),
        }
    }

    #[test]
    fn a_client_is_tied_to_the_servers_of_its_kind_and_not_to_itself() {
        let mut found = ClusterTrust {
            cluster: "c".to_owned(),
            location: "l".to_owned(),
            certificates: vec![
                certificate("cluster CA", true),
                certificate("API server", false),
                certificate("store peer control-plane-0", false),
                certificate("store peer control-plane-1", false),
                certificate("kubelet a", false),
                certificate("kubelet a as client of API server", false),
            ],
            connections: Vec::new(),
            silent: Vec::new(),
        };
        let mut tied = |from: &str, to: &str| {
            found.connections.clear();
            connect(&mut found, from, to, &certificate("x", false));
            found.connections.iter().map(|c| c.to.clone()).collect::<Vec<_>>()
        };
        assert_eq!(tied("kubelet a", "API server"), ["API server"]);
        assert_eq!(tied("API server control-plane-0", "kubelets"), ["kubelet a"]);
        assert_eq!(tied("store control-plane-0", "store peers"), ["store peer control-plane-1"]);
    }
}
