//! IP addresses and CIDRs, as strictly and in the words of `k8s.io/apimachinery/pkg/util/validation`.

use std::net::IpAddr;

use ipnet::IpNet;

/// What an address must look like.
pub(crate) const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// What a CIDR must look like.
pub(crate) const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address as Go did before 1.17: leading zeros of IPv4 octets are passed over.
pub(crate) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| {
        let octets: Vec<&str> = text.split('.').map(|octet| octet.trim_start_matches('0')).collect();
        let octets: Vec<&str> = octets.iter().map(|o| if o.is_empty() { "0" } else { o }).collect();
        let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.split('.').any(str::is_empty);
        octets.join(".").parse().ok().filter(|_| digits)
    })
}

fn sloppy_cidr(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    IpNet::new(sloppy_ip(address)?, prefix.parse().ok()?).ok()
}

fn maps_ipv4(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// What is wrong with an address in a field that is strict (`IsValidIP`).
pub(crate) fn ip_complaint(text: &str) -> Option<String> {
    let Some(ip) = sloppy_ip(text) else { return Some(IP.to_owned()) };
    if text.parse::<IpAddr>().is_err() {
        return Some("must not have leading 0s".to_owned());
    }
    if maps_ipv4(ip) {
        return Some("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    let canonical = ip.to_string();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}

/// What is wrong with a CIDR in a field that is strict (`IsValidCIDR`).
pub(crate) fn cidr_complaint(text: &str) -> Option<String> {
    let Some(net) = sloppy_cidr(text) else { return Some(CIDR.to_owned()) };
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<IpAddr>().is_err() || prefix != net.prefix_len().to_string() {
        return Some("must not have leading 0s in IP or prefix length".to_owned());
    }
    if maps_ipv4(net.addr()) {
        return Some("must not have an IPv4-mapped IPv6 address".to_owned());
    }
    if net.addr() != net.network() {
        return Some("must not have bits set beyond the prefix length".to_owned());
    }
    let canonical = net.to_string();
    (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
}

/// Do all CIDRs that can be read belong to one family?
pub(crate) fn one_family(a: &str, b: &str) -> bool {
    match (sloppy_cidr(a), sloppy_cidr(b)) {
        (Some(a), Some(b)) => a.addr().to_canonical().is_ipv4() == b.addr().to_canonical().is_ipv4(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_as_go_does() {
        for (text, complaint) in [
            ("10.0.0.1", ""),
            ("2001:db8::1", ""),
            ("10.0.0.01", "must not have leading 0s"),
            ("10.0.0", IP),
            ("10.0..1", IP),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
        ] {
            assert_eq!(ip_complaint(text).unwrap_or_default(), complaint, "{text}");
        }
        for (text, complaint) in [
            ("10.0.0.0/8", ""),
            ("10.0.0.0", CIDR),
            ("10.0.0.0/33", CIDR),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("2001:DB8::/32", "must be in canonical form (\"2001:db8::/32\")"),
        ] {
            assert_eq!(cidr_complaint(text).unwrap_or_default(), complaint, "{text}");
        }
    }
}
