//! Values of the Kubernetes libraries: addresses, URLs, quantities, versions, formats, authorizer's questions.

use std::fmt;
use std::net::IpAddr;

use machinery::quantity::Quantity;

use crate::functions::{Authorizer, Check, Decision, NamedFormat, Url, Version};

/// A value that only functions look into.
#[derive(Clone, Debug)]
pub enum Opaque {
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Url),
    Quantity(Quantity),
    Semver(Version),
    Format(&'static NamedFormat),
    Authorizer(Authorizer),
    Check(Check),
    Decision(Decision),
}

impl Opaque {
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Check(check) => check.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// Bytes of an address, or of the prefix of a network.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Ip(ip) => Some(if ip.is_ipv4() { 4 } else { 16 }),
            Self::Cidr(_, bits) => Some(u64::from(bits.div_ceil(8))),
            _ => None,
        }
    }

    /// `None` where cel-go says "no such overload": values of two kinds, and what the authorizer gives.
    pub(crate) fn equals(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Ip(a), Self::Ip(b)) => Some(a == b),
            (Self::Cidr(a, x), Self::Cidr(b, y)) => Some(a == b && x == y),
            (Self::Url(a), Self::Url(b)) => Some(a.to_string() == b.to_string()),
            (Self::Quantity(a), Self::Quantity(b)) => Some(a.cmp(b).is_eq()),
            (Self::Semver(a), Self::Semver(b)) => Some(a.cmp(b).is_eq()),
            (Self::Format(a), Self::Format(b)) => Some(a.name == b.name),
            _ => None,
        }
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Cidr(ip, bits) => write!(f, "{ip}/{bits}"),
            Self::Url(url) => write!(f, "{url}"),
            Self::Quantity(quantity) => write!(f, "{quantity}"),
            Self::Semver(version) => write!(f, "{version}"),
            Self::Format(format) => f.write_str(format.name),
            Self::Authorizer(_) | Self::Check(_) | Self::Decision(_) => f.write_str(self.type_name()),
        }
    }
}
