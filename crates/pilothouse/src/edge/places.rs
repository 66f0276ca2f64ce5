//! Which place a loopback address stands for.
//!
//! ```text
//! 127.0.0.0/24     hosts on the internet; 127.0.0.1 is where clients come from that choose no address
//! 127.0.7.0/24     Google, who manages control planes
//! 127.0.8.0/24     addresses that belong to Google Cloud
//! 127.0.16.0/24    the VPC network, in the cluster's region
//! 127.0.17.0/24    the VPC network, in another region
//! a node's own     that node (machines.json); clusters and nodes take theirs from 127.1.0.0 up
//! anything else    a host on the internet
//! ```
//! Where addresses cannot be aliased everybody comes from 127.0.0.1; there the port tells: who is at the internal endpoint's
//! is in the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{PoisonError, RwLock};

use gke::exposure::{Endpoint, Place};

/// The first three bytes of each range.
const RANGES: [([u8; 3], Place); 4] = [
    ([127, 0, 7], Place::Management),
    ([127, 0, 8], Place::Google),
    ([127, 0, 16], Place::Network),
    ([127, 0, 17], Place::OtherRegion),
];

/// Where this program's own look at a control plane comes from.
pub(crate) const MANAGEMENT: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);

/// For the reader of `inspect`: what stands for what.
pub(crate) const LEGEND: [(&str, &str); 6] = [
    ("127.0.0.0/24", "hosts on the internet, 127.0.0.1 among them"),
    ("127.0.7.0/24", "Google, who manages the control planes"),
    ("127.0.8.0/24", "addresses that belong to Google Cloud"),
    ("127.0.16.0/24", "the VPC network, in a cluster's own region"),
    ("127.0.17.0/24", "the VPC network, in another region"),
    ("127.a.b.c of a node", "that node (`inspect trust` lists them)"),
];

/// The nodes of all clusters, by address.
#[derive(Default)]
pub(crate) struct Places {
    nodes: RwLock<BTreeMap<IpAddr, Home>>,
}

struct Home {
    cluster: String,
    network: String,
}

impl Places {
    /// These are a cluster's nodes now, in this network. What shares 127.0.0.1 has no address of its own.
    pub(crate) fn set_nodes(&self, cluster: &str, network: &str, addresses: impl Iterator<Item = IpAddr>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, home| home.cluster != cluster);
        let home = || Home { cluster: cluster.to_owned(), network: network.to_owned() };
        nodes.extend(addresses.filter(|ip| *ip != Ipv4Addr::LOCALHOST).map(|ip| (ip, home())));
    }

    /// Where a caller at an endpoint of a cluster in this network is.
    pub(crate) fn of(&self, source: IpAddr, endpoint: Endpoint, network: &str, by_port: bool) -> Place {
        let source = source.to_canonical();
        if by_port && endpoint == Endpoint::Internal {
            return Place::Node;
        }
        if let Some(home) = self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&source) {
            return if home.network == network { Place::Node } else { Place::Google };
        }
        let IpAddr::V4(source) = source else { return Place::Internet };
        let [a, b, c, _] = source.octets();
        RANGES.iter().find(|(range, _)| *range == [a, b, c]).map_or(Place::Internet, |(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_a_place() {
        let places = Places::default();
        let (node, shared) = ([127, 9, 9, 9].into(), [127, 0, 0, 1].into());
        places.set_nodes("a", "default", [node, shared].into_iter());
        let of = |source: [u8; 4], network: &str| places.of(source.into(), Endpoint::External, network, false);
        assert_eq!(of([127, 9, 9, 9], "default"), Place::Node);
        assert_eq!(of([127, 9, 9, 9], "other"), Place::Google, "a machine of Google Cloud all the same");
        assert_eq!(of([127, 0, 0, 1], "default"), Place::Internet);
        assert_eq!(of([127, 0, 0, 9], "default"), Place::Internet);
        assert_eq!(of([192, 168, 1, 1], "default"), Place::Internet);
        for (range, place) in RANGES {
            assert_eq!(of([range[0], range[1], range[2], 77], "default"), place);
        }
        assert_eq!(of(MANAGEMENT.octets(), "default"), Place::Management);
        let mapped = "::ffff:127.0.16.1".parse().unwrap();
        assert_eq!(places.of(mapped, Endpoint::Internal, "default", false), Place::Network);
        assert_eq!(places.of(shared, Endpoint::Internal, "default", true), Place::Node, "by port");
        assert_eq!(places.of(shared, Endpoint::External, "default", true), Place::Internet);
        places.set_nodes("a", "default", std::iter::empty());
        assert_eq!(of([127, 9, 9, 9], "default"), Place::Internet);
    }
}
