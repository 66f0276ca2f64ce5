//! Who reaches a control plane: (what the cluster says, which endpoint, from where) → let in or not, and why.
//!
//! Decided at accept, before TLS, from the source address alone (reference: GKE behaviour §5). The DNS endpoint asks who the
//! caller is instead of where; here it is only on or off.

use std::fmt;
use std::net::IpAddr;

use ipnet::Ipv4Net;
use machinery::Value;
use serde::{Deserialize, Serialize};

use crate::merge::short;

/// What a cluster's configuration says of its endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSettings {
    /// The VPC network of the cluster, by its short name.
    pub network: String,
    /// Do the endpoints with addresses serve anybody but nodes?
    pub ip_access: bool,
    /// Is the external endpoint on?
    pub public_endpoint: bool,
    /// Does the internal endpoint serve other regions of the network?
    pub global_access: bool,
    /// The authorized networks; none: the list is off.
    pub authorized: Option<Vec<Ipv4Net>>,
    /// Are addresses that belong to Google Cloud let in beside the list?
    pub google_cloud: bool,
    /// Does the list count at the internal endpoint too?
    pub private_enforced: bool,
    /// Does the DNS endpoint serve traffic from outside?
    pub dns: bool,
    /// Are Kubernetes' own tokens taken at the DNS endpoint?
    pub dns_tokens: bool,
    /// Are client certificates taken there?
    pub dns_certificates: bool,
}

impl Default for EndpointSettings {
    /// GKE's: the external endpoint for everybody, no DNS endpoint.
    fn default() -> Self {
        Self {
            network: "default".to_owned(),
            ip_access: true,
            public_endpoint: true,
            global_access: false,
            authorized: None,
            google_cloud: true,
            private_enforced: false,
            dns: false,
            dns_tokens: false,
            dns_certificates: false,
        }
    }
}

impl EndpointSettings {
    /// Reads a cluster's configuration, defaults filled in.
    pub fn of(body: &Value) -> Self {
        let (ip, dns) = (
            &body["controlPlaneEndpointsConfig"]["ipEndpointsConfig"],
            &body["controlPlaneEndpointsConfig"]["dnsEndpointConfig"],
        );
        let list = &ip["authorizedNetworksConfig"];
        let is = |at: &Value, field: &str| at[field].as_bool() == Some(true);
        let blocks = list["cidrBlocks"].items().iter().filter_map(|block| block.str_at(&["cidrBlock"]).parse().ok());
        Self {
            network: Some(short(body.str_at(&["network"]))).filter(|n| !n.is_empty()).unwrap_or("default").to_owned(),
            ip_access: ip["enabled"].as_bool().unwrap_or(true),
            public_endpoint: ip["enablePublicEndpoint"].as_bool().unwrap_or(true),
            global_access: is(ip, "globalAccess"),
            authorized: is(list, "enabled").then(|| blocks.collect()),
            google_cloud: is(list, "gcpPublicCidrsAccessEnabled"),
            private_enforced: is(list, "privateEndpointEnforcementEnabled"),
            dns: is(dns, "allowExternalTraffic"),
            dns_tokens: is(dns, "enableK8sTokensViaDns"),
            dns_certificates: is(dns, "enableK8sCertsViaDns"),
        }
    }
}

/// A way in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Endpoint {
    /// The address on the internet.
    External,
    /// The address in the cluster's network.
    Internal,
    /// The name; Google's front end answers it.
    Dns,
}

impl Endpoint {
    /// The word in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Internal => "internal",
            Self::Dns => "DNS",
        }
    }
}

/// Where a caller is, as seen from a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// Google, who manages the control plane.
    Management,
    /// A node of a cluster in the same network.
    Node,
    /// In the cluster's network and region.
    Network,
    /// In the cluster's network, in another region.
    OtherRegion,
    /// An address that belongs to Google Cloud, in nobody's network that matters here.
    Google,
    /// Anywhere else.
    Internet,
}

/// Why somebody is let in or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Yes: the provider manages the control plane.
    Management,
    /// Yes: nodes of the network always get through.
    Node,
    /// Yes: no list is set.
    Everybody,
    /// Yes: this block of the list names the address.
    Authorized(Ipv4Net),
    /// Yes: addresses of Google Cloud are let in.
    GoogleCloud,
    /// Yes: the address is in the cluster's network.
    InNetwork,
    /// Yes: another region, and access is global.
    GlobalAccess,
    /// Yes: this endpoint asks who, not where.
    Identity,
    /// No: endpoints with addresses are off.
    NoIpAccess,
    /// No: the external endpoint is off.
    NoPublicEndpoint,
    /// No: the list does not name the address.
    NotAuthorized,
    /// No: the internal address cannot be reached from outside the network.
    OutsideNetwork,
    /// No: another region, and access is not global.
    OtherRegion,
    /// No: the DNS endpoint takes no traffic from outside.
    NoDnsAccess,
}

impl Reason {
    /// Is it a yes?
    pub const fn allows(self) -> bool {
        match self {
            Self::Management
            | Self::Node
            | Self::Everybody
            | Self::Authorized(_)
            | Self::GoogleCloud
            | Self::InNetwork
            | Self::GlobalAccess
            | Self::Identity => true,
            Self::NoIpAccess
            | Self::NoPublicEndpoint
            | Self::NotAuthorized
            | Self::OutsideNetwork
            | Self::OtherRegion
            | Self::NoDnsAccess => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Management => "the provider manages the control plane",
            Self::Node => "nodes of the cluster's network always get through",
            Self::Everybody => "authorized networks are off",
            Self::Authorized(block) => return write!(f, "authorized network {block}"),
            Self::GoogleCloud => "addresses of Google Cloud are let in (gcpPublicCidrsAccessEnabled)",
            Self::InNetwork => "an address of the cluster's network",
            Self::GlobalAccess => "another region of the network (globalAccess)",
            Self::Identity => "the DNS endpoint asks who, not where",
            Self::NoIpAccess => "access by IP address is off (ipEndpointsConfig.enabled)",
            Self::NoPublicEndpoint => "the external endpoint is off (enablePublicEndpoint)",
            Self::NotAuthorized => "no authorized network has the address",
            Self::OutsideNetwork => "the internal endpoint is reached from the cluster's network only",
            Self::OtherRegion => "another region of the network, and globalAccess is off",
            Self::NoDnsAccess => "the DNS endpoint takes no outside traffic (allowExternalTraffic)",
        })
    }
}

/// Is a caller at this place, with this address, let in through this endpoint?
pub fn decide(settings: &EndpointSettings, endpoint: Endpoint, source: IpAddr, place: Place) -> Reason {
    match endpoint {
        Endpoint::External => external(settings, source, place),
        Endpoint::Internal => internal(settings, source, place),
        Endpoint::Dns if place == Place::Management => Reason::Management,
        Endpoint::Dns if settings.dns => Reason::Identity,
        Endpoint::Dns => Reason::NoDnsAccess,
    }
}

/// An endpoint that is off refuses the provider and nodes too: both use the internal one.
fn external(settings: &EndpointSettings, source: IpAddr, place: Place) -> Reason {
    if !settings.ip_access {
        return Reason::NoIpAccess;
    }
    if !settings.public_endpoint {
        return Reason::NoPublicEndpoint;
    }
    let Some(list) = &settings.authorized else { return Reason::Everybody };
    match place {
        Place::Management => return Reason::Management,
        Place::Node => return Reason::Node,
        Place::Network | Place::OtherRegion | Place::Google | Place::Internet => {}
    }
    if let Some(block) = naming(list, source) {
        return Reason::Authorized(block);
    }
    // A machine of a network comes to the external address from an external address, and that is Google's.
    let of_google = matches!(place, Place::Google | Place::Network | Place::OtherRegion);
    if settings.google_cloud && of_google { Reason::GoogleCloud } else { Reason::NotAuthorized }
}

/// Nodes and the provider get through whatever is off: a cluster that lost its nodes would be no cluster.
fn internal(settings: &EndpointSettings, source: IpAddr, place: Place) -> Reason {
    let in_region = match place {
        Place::Management => return Reason::Management,
        Place::Node => return Reason::Node,
        Place::Google | Place::Internet => return Reason::OutsideNetwork,
        Place::Network => true,
        Place::OtherRegion => false,
    };
    if !settings.ip_access {
        return Reason::NoIpAccess;
    }
    if !in_region && !settings.global_access {
        return Reason::OtherRegion;
    }
    match &settings.authorized {
        Some(list) if settings.private_enforced => {
            naming(list, source).map_or(Reason::NotAuthorized, Reason::Authorized)
        }
        _ if in_region => Reason::InNetwork,
        _ => Reason::GlobalAccess,
    }
}

fn naming(list: &[Ipv4Net], source: IpAddr) -> Option<Ipv4Net> {
    let IpAddr::V4(source) = source.to_canonical() else { return None };
    list.iter().copied().find(|block| block.contains(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &str) -> EndpointSettings {
        let mut settings = EndpointSettings::default();
        for word in words.split_whitespace() {
            match word {
                "open" => {}
                "no-ip" => settings.ip_access = false,
                "private" => settings.public_endpoint = false,
                "global" => settings.global_access = true,
                "no-google" => settings.google_cloud = false,
                "enforced" => settings.private_enforced = true,
                "dns" => settings.dns = true,
                "list" => settings.authorized = Some(vec!["127.0.0.10/32".parse().unwrap()]),
                "all" => settings.authorized = Some(vec!["0.0.0.0/0".parse().unwrap()]),
                "none" => settings.authorized = Some(Vec::new()),
                other => panic!("{other}"),
            }
        }
        settings
    }

    /// For each place, in the order of the table's head: `+` let in, `-` not.
    #[test]
    fn who_gets_in_where() {
        const SOURCES: [(Place, &str); 7] = [
            (Place::Management, "127.0.7.1"),
            (Place::Node, "127.9.9.9"),
            (Place::Network, "127.0.16.1"),
            (Place::OtherRegion, "127.0.17.1"),
            (Place::Google, "127.0.8.1"),
            (Place::Internet, "127.0.0.10"),
            (Place::Internet, "127.0.0.9"),
        ];
        //                                        M N V R G .10 .9
        let table = [
            ("open", Endpoint::External, "+++++++"),
            ("open", Endpoint::Internal, "+++----"),
            ("open", Endpoint::Dns, "+------"),
            ("list", Endpoint::External, "++++++-"),
            ("list no-google", Endpoint::External, "++---+-"),
            ("list no-google", Endpoint::Internal, "+++----"),
            ("list enforced", Endpoint::Internal, "++-----"),
            ("all enforced", Endpoint::Internal, "+++----"),
            ("all enforced global", Endpoint::Internal, "++++---"),
            ("enforced", Endpoint::Internal, "+++----"),
            ("none no-google", Endpoint::External, "++-----"),
            ("all no-google", Endpoint::External, "+++++++"),
            ("private", Endpoint::External, "-------"),
            ("private", Endpoint::Internal, "+++----"),
            ("private list global", Endpoint::External, "-------"),
            ("private list global", Endpoint::Internal, "++++---"),
            ("no-ip", Endpoint::External, "-------"),
            ("no-ip global", Endpoint::Internal, "++-----"),
            ("no-ip list dns", Endpoint::Dns, "+++++++"),
            ("private list dns", Endpoint::Dns, "+++++++"),
        ];
        for (words, endpoint, expected) in table {
            let rules = settings(words);
            let cell = |(place, source): (Place, &str)| {
                if decide(&rules, endpoint, source.parse().unwrap(), place).allows() { '+' } else { '-' }
            };
            let got: String = SOURCES.into_iter().map(cell).collect();
            assert_eq!(got, expected, "{words} {endpoint:?}");
        }
    }

    #[test]
    fn the_reason_names_the_block_or_the_switch() {
        let say = |words: &str, endpoint, source: &str, place| {
            decide(&settings(words), endpoint, source.parse().unwrap(), place).to_string()
        };
        assert_eq!(say("list", Endpoint::External, "127.0.0.10", Place::Internet), "authorized network 127.0.0.10/32");
        assert_eq!(
            say("list", Endpoint::External, "::ffff:127.0.0.10", Place::Internet),
            "authorized network 127.0.0.10/32"
        );
        assert_eq!(say("list", Endpoint::External, "::1", Place::Internet), "no authorized network has the address");
        assert!(say("private", Endpoint::External, "127.0.0.1", Place::Internet).contains("enablePublicEndpoint"));
    }
}
