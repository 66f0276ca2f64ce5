//! Addresses and networks (`k8s.io/apiserver/pkg/cel/library/{ip,cidr}.go` over Go's `net/netip`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use machinery::go::quote;

use super::convert::to_string;
use super::{NO_SUCH_OVERLOAD, Row, row, text};
use crate::opaque::Opaque;
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("ip(string) -> net.IP", "string_to_ip", |args| Ok(address(parse_ip(text(&args[0])?)?))),
    row("net.IP::family() -> int", "ip_family", |args| Ok(Val::Int(if ip(&args[0])?.is_ipv4() { 4 } else { 6 }))),
    row("ip.isCanonical(string) -> bool", "ip_is_canonical", |args| {
        let given = text(&args[0])?;
        Ok(Val::Bool(parse_ip(given)?.to_string() == given))
    }),
    row("net.IP::isUnspecified() -> bool", "ip_is_unspecified", |args| Ok(Val::Bool(ip(&args[0])?.is_unspecified()))),
    row("net.IP::isLoopback() -> bool", "ip_is_loopback", |args| Ok(Val::Bool(ip(&args[0])?.is_loopback()))),
    row("net.IP::isLinkLocalMulticast() -> bool", "ip_is_link_local_multicast", |args| {
        Ok(Val::Bool(match ip(&args[0])? {
            IpAddr::V4(v4) => v4.octets().starts_with(&[224, 0, 0]),
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    row("net.IP::isLinkLocalUnicast() -> bool", "ip_is_link_local_unicast", |args| {
        Ok(Val::Bool(is_link_local(&ip(&args[0])?)))
    }),
    row("net.IP::isGlobalUnicast() -> bool", "ip_is_global_unicast", |args| {
        let ip = ip(&args[0])?;
        let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(&ip);
        Ok(Val::Bool(!is_broadcast && !is_special))
    }),
    row("isIP(string) -> bool", "is_ip", |args| Ok(Val::Bool(parse_ip(text(&args[0])?).is_ok()))),
    row("string(net.IP) -> string", "ip_to_string", to_string),
    row("cidr(string) -> net.CIDR", "string_to_cidr", |args| Ok(network(string_to_cidr(text(&args[0])?)?))),
    row("net.CIDR::containsIP(string) -> bool", "cidr_contains_ip_string", |args| {
        // Upstream asks the network about the error, and so says only this.
        let inner = parse_ip(text(&args[1])?).map_err(|_| NO_SUCH_OVERLOAD)?;
        Ok(Val::Bool(contains(&cidr(&args[0])?, &inner)))
    }),
    row("net.CIDR::containsIP(net.IP) -> bool", "cidr_contains_ip_ip", |args| {
        Ok(Val::Bool(contains(&cidr(&args[0])?, &ip(&args[1])?)))
    }),
    row("net.CIDR::containsCIDR(string) -> bool", "cidr_contains_cidr_string", |args| {
        Ok(Val::Bool(covers(&cidr(&args[0])?, &string_to_cidr(text(&args[1])?)?)))
    }),
    row("net.CIDR::containsCIDR(net.CIDR) -> bool", "cidr_contains_cidr", |args| {
        Ok(Val::Bool(covers(&cidr(&args[0])?, &cidr(&args[1])?)))
    }),
    row("net.CIDR::ip() -> net.IP", "cidr_ip", |args| Ok(address(cidr(&args[0])?.0))),
    row("net.CIDR::prefixLength() -> int", "cidr_prefix_length", |args| Ok(Val::Int(i64::from(cidr(&args[0])?.1)))),
    row("net.CIDR::masked() -> net.CIDR", "cidr_masked", |args| {
        let (ip, bits) = cidr(&args[0])?;
        Ok(network((masked(&ip, bits), bits)))
    }),
    row("isCIDR(string) -> bool", "is_cidr", |args| Ok(Val::Bool(parse_cidr(text(&args[0])?).is_ok()))),
    row("string(net.CIDR) -> string", "cidr_to_string", to_string),
];

type Cidr = (IpAddr, u8);

fn address<'a>(ip: IpAddr) -> Val<'a> {
    Val::from_opaque(Opaque::Ip(ip))
}

fn network<'a>((ip, bits): Cidr) -> Val<'a> {
    Val::from_opaque(Opaque::Cidr(ip, bits))
}

fn ip(value: &Val<'_>) -> Result<IpAddr, String> {
    match value {
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => Ok(*ip),
            _ => Err(NO_SUCH_OVERLOAD.to_owned()),
        },
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn cidr(value: &Val<'_>) -> Result<Cidr, String> {
    match value {
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Cidr(ip, bits) => Ok((*ip, *bits)),
            _ => Err(NO_SUCH_OVERLOAD.to_owned()),
        },
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

const fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn masked(ip: &IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(*v4) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)))
        }
        IpAddr::V6(v6) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(*v6) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)))
        }
    }
}

fn contains((network, bits): &Cidr, ip: &IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && masked(ip, *bits) == masked(network, *bits)
}

fn covers(outer: &Cidr, inner: &Cidr) -> bool {
    outer.1 <= inner.1 && contains(outer, &inner.0)
}

fn parse_ip(raw: &str) -> Result<IpAddr, String> {
    let (ip, zone) = parse_addr(raw)
        .map_err(|why| format!("IP Address {} parse error during conversion from string: {why}", quote(raw)))?;
    if !zone.is_empty() {
        return Err(format!("IP address {} with zone value is not allowed", quote(raw)));
    }
    if is_mapped(&ip) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(raw)));
    }
    Ok(ip)
}

const fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

const CIDR_ERROR: &str = "network address parse error during conversion from string";

fn string_to_cidr(raw: &str) -> Result<Cidr, String> {
    parse_cidr(raw).map_err(|why| format!("{CIDR_ERROR}: {why}"))
}

fn parse_cidr(raw: &str) -> Result<Cidr, String> {
    let cidr = parse_prefix(raw).map_err(|why| format!("{CIDR_ERROR}: netip.ParsePrefix({}): {why}", quote(raw)))?;
    if is_mapped(&cidr.0) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(raw)));
    }
    Ok(cidr)
}

fn parse_prefix(raw: &str) -> Result<Cidr, String> {
    let (address, bits) = raw.rsplit_once('/').ok_or("no '/'")?;
    let (ip, zone) = parse_addr(address)?;
    if !zone.is_empty() {
        return Err("IPv6 zones cannot be present in a prefix".to_owned());
    }
    let bad = || format!("bad bits after slash: {}", quote(bits));
    if bits.len() > 1 && !matches!(bits.as_bytes()[0], b'1'..=b'9') {
        return Err(bad());
    }
    let count: i64 = bits.parse().map_err(|_| bad())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match u8::try_from(count) {
        Ok(count) if count <= most => Ok((ip, count)),
        _ => Err("prefix length out of range".to_owned()),
    }
}

/// `netip.ParseAddr`: the address and its zone.
pub(super) fn parse_addr(raw: &str) -> Result<(IpAddr, &str), String> {
    let wrong = |(why, at): Wrong<'_>| {
        let at = if at.is_empty() { String::new() } else { format!(" (at {})", quote(at)) };
        format!("ParseAddr({}): {why}{at}", quote(raw))
    };
    match raw.bytes().find(|b| matches!(b, b'.' | b':' | b'%')) {
        Some(b'.') => parse_v4(raw).map(|v4| (IpAddr::V4(Ipv4Addr::from(v4)), "")).map_err(wrong),
        Some(b':') => parse_v6(raw).map(|(v6, zone)| (IpAddr::V6(v6), zone)).map_err(wrong),
        Some(_) => Err(wrong(("missing IPv6 address", ""))),
        None => Err(wrong(("unable to parse IP", ""))),
    }
}

/// What is wrong, and the text from where it is.
type Wrong<'t> = (&'static str, &'t str);

fn parse_v4(text: &str) -> Result<[u8; 4], Wrong<'_>> {
    let bytes = text.as_bytes();
    let (mut fields, mut at, mut value, mut digits) = ([0; 4], 0, 0_u32, 0);
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return Err(("IPv4 field has octet with leading zero", ""));
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return Err(("IPv4 field has value >255", ""));
                }
            }
            b'.' => {
                if i == 0 || i == bytes.len() - 1 || bytes[i - 1] == b'.' {
                    return Err(("IPv4 field must have at least one digit", &text[i..]));
                }
                if at == 3 {
                    return Err(("IPv4 address too long", ""));
                }
                fields[at] = value as u8;
                at += 1;
                (value, digits) = (0, 0);
            }
            _ => return Err(("unexpected character", text.get(i..).unwrap_or_default())),
        }
    }
    if at < 3 {
        return Err(("IPv4 address too short", ""));
    }
    fields[3] = value as u8;
    Ok(fields)
}

fn parse_v6(raw: &str) -> Result<(Ipv6Addr, &str), Wrong<'_>> {
    let (mut rest, zone) = raw.split_once('%').unwrap_or((raw, ""));
    if rest.len() < raw.len() && zone.is_empty() {
        return Err(("zone must be a non-empty string", ""));
    }
    let mut fields: Vec<u16> = Vec::with_capacity(8);
    let mut gap = None;
    if let Some(after) = rest.strip_prefix("::") {
        gap = Some(0);
        rest = after;
    }
    while !(rest.is_empty() && gap == Some(0) && fields.is_empty()) && fields.len() < 8 {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits > 4 {
            return Err(("each group must have 4 or less digits", rest));
        }
        if digits == 0 {
            return Err(("each colon-separated field must have at least one digit", rest));
        }
        if rest[digits..].starts_with('.') {
            if gap.is_none() && fields.len() != 6 {
                return Err(("embedded IPv4 address must replace the final 2 fields of the address", rest));
            }
            if fields.len() > 6 {
                return Err(("too many hex fields to fit an embedded IPv4 at the end of the address", rest));
            }
            let [a, b, c, d] = parse_v4(rest)?;
            fields.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
            rest = "";
            break;
        }
        fields.push(u16::from_str_radix(&rest[..digits], 16).unwrap_or_default());
        rest = &rest[digits..];
        if rest.is_empty() {
            break;
        }
        if !rest.starts_with(':') {
            return Err(("unexpected character, want colon", rest));
        }
        if rest.len() == 1 {
            return Err(("colon must be followed by more characters", rest));
        }
        rest = &rest[1..];
        if rest.starts_with(':') {
            if gap.is_some() {
                return Err(("multiple :: in address", rest));
            }
            gap = Some(fields.len());
            rest = &rest[1..];
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return Err(("trailing garbage after address", rest));
    }
    match gap {
        None if fields.len() < 8 => return Err(("address string too short", "")),
        Some(_) if fields.len() == 8 => return Err(("the :: must expand to at least one field of zeros", "")),
        Some(gap) => {
            let zeros = 8 - fields.len();
            fields.splice(gap..gap, std::iter::repeat_n(0, zeros));
        }
        None => {}
    }
    let fields: [u16; 8] = fields.try_into().unwrap_or_default();
    Ok((Ipv6Addr::from(fields), zone))
}
