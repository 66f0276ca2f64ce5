//! For `inspect`: each cluster's endpoints, and who gets in where.

use gke::EndpointSettings;
use gke::exposure::Endpoint;
use serde::{Deserialize, Serialize};

use crate::edge::{EndpointDeny, LEGEND};
use crate::fleet::Fleet;
use crate::fleet::cluster::Cluster;

/// One cluster's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterEndpoints {
    pub(crate) cluster: String,
    pub(crate) location: String,
    pub(crate) endpoints: Vec<EndpointStatus>,
    pub(crate) settings: EndpointSettings,
    /// Addresses cannot be aliased here: the port tells who is in the network.
    pub(crate) by_port: bool,
    /// Connections that were not let in since the start.
    pub(crate) denied: u64,
    /// What happens to them.
    pub(crate) deny: EndpointDeny,
    /// How many are held now, of all clusters.
    pub(crate) held: usize,
}

/// A way in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointStatus {
    pub(crate) endpoint: Endpoint,
    /// `ip:port`; for the DNS endpoint its name, and where the front end is.
    pub(crate) address: String,
    /// In words.
    pub(crate) lets_in: String,
}

/// What an address stands for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaceRange {
    pub(crate) addresses: String,
    pub(crate) stands_for: String,
}

/// Looks at all clusters.
pub(crate) fn look(fleet: &Fleet) -> Vec<ClusterEndpoints> {
    fleet.clusters().iter().map(|cluster| look_at(fleet, cluster)).collect()
}

/// What stands for what.
pub(crate) fn legend() -> Vec<PlaceRange> {
    let range = |(addresses, stands_for): &(&str, &str)| PlaceRange {
        addresses: (*addresses).to_owned(),
        stands_for: (*stands_for).to_owned(),
    };
    LEGEND.iter().map(range).collect()
}

fn look_at(fleet: &Fleet, cluster: &Cluster) -> ClusterEndpoints {
    let (settings, spec) = (cluster.gate.settings(), cluster.spec());
    let status = |endpoint: Endpoint, address: String| EndpointStatus {
        endpoint,
        address,
        lets_in: lets_in(&settings, endpoint),
    };
    ClusterEndpoints {
        cluster: spec.name.clone(),
        location: spec.location.clone(),
        endpoints: vec![
            status(Endpoint::External, cluster.addresses.api.to_string()),
            status(Endpoint::Internal, cluster.addresses.internal.to_string()),
            status(Endpoint::Dns, format!("{} at {}", fleet.dns_name(cluster), cluster.addresses.dns)),
        ],
        settings: EndpointSettings::clone(&settings),
        by_port: cluster.gate.is_by_port(),
        denied: cluster.gate.denied(),
        deny: fleet.ground.denials.deny,
        held: fleet.ground.denials.held(),
    }
}

fn lets_in(settings: &EndpointSettings, endpoint: Endpoint) -> String {
    let blocks = || {
        let list = settings.authorized.iter().flatten().map(ToString::to_string);
        list.collect::<Vec<_>>()
    };
    match endpoint {
        Endpoint::External if !settings.ip_access => "nobody (access by IP address is off)".to_owned(),
        Endpoint::External if !settings.public_endpoint => "nobody (the external endpoint is off)".to_owned(),
        Endpoint::External if settings.authorized.is_none() => "everybody".to_owned(),
        Endpoint::External => {
            let mut all = blocks();
            all.extend(settings.google_cloud.then(|| "addresses of Google Cloud".to_owned()));
            all.push("nodes and Google's management".to_owned());
            all.join(", ")
        }
        Endpoint::Internal => {
            let mut all = vec!["nodes and Google's management".to_owned()];
            let enforced = settings.private_enforced && settings.authorized.is_some();
            let whom = if settings.global_access { "the network, all regions" } else { "the network in the region" };
            if settings.ip_access && enforced {
                all.push(format!("of {whom}: {}", blocks().join(", ")));
            } else if settings.ip_access {
                all.push(whom.to_owned());
            }
            all.join(", ")
        }
        Endpoint::Dns if settings.dns => {
            let mut all = vec!["accounts with container.clusters.connect"];
            all.extend(settings.dns_tokens.then_some("Kubernetes' tokens"));
            all.extend(settings.dns_certificates.then_some("client certificates"));
            all.join(", ")
        }
        Endpoint::Dns => "nobody (outside traffic is off)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_follow_the_rules() {
        let open = EndpointSettings::default();
        assert_eq!(lets_in(&open, Endpoint::External), "everybody");
        let list = EndpointSettings {
            authorized: Some(vec!["127.0.0.10/32".parse().unwrap()]),
            private_enforced: true,
            ..open.clone()
        };
        assert_eq!(
            lets_in(&list, Endpoint::External),
            "127.0.0.10/32, addresses of Google Cloud, nodes and Google's management"
        );
        assert!(lets_in(&list, Endpoint::Internal).ends_with("of the network in the region: 127.0.0.10/32"));
        let off = EndpointSettings { ip_access: false, ..open };
        assert!(lets_in(&off, Endpoint::External).starts_with("nobody"));
        assert_eq!(lets_in(&off, Endpoint::Internal), "nodes and Google's management");
    }
}
