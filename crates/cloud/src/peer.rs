//! Is the other end of a loopback connection a process of our own user? Linux tells in /proc/net; elsewhere: no.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

/// Looks the connection up by the peer's address; any doubt is a no. Blocks for a read of /proc.
pub fn same_user(peer: SocketAddr, local: SocketAddr) -> bool {
    let Ok(own) = std::fs::metadata("/proc/self").map(|meta| meta.uid()) else { return false };
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().any(|table| std::fs::read_to_string(table).is_ok_and(|text| owner(&text, peer, local) == Some(own)))
}

/// The uid in the row whose local end is `peer` and whose remote end is `local`.
fn owner(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (from, to) = (words.nth(1)?, words.next()?);
        let uid = words.nth(4)?;
        (matches(from, peer) && matches(to, local)).then(|| uid.parse().ok()).flatten()
    })
}

/// `0100007F:1F90`: the address as native words in hex, the port in hex.
fn matches(cell: &str, address: SocketAddr) -> bool {
    let words = |octets: &[u8]| -> String {
        octets.chunks(4).map(|c| format!("{:08X}", u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))).collect()
    };
    let port = format!("{:04X}", address.port());
    let plain = match address.ip() {
        IpAddr::V4(ip) => format!("{}:{port}", words(&ip.octets())),
        IpAddr::V6(ip) => format!("{}:{port}", words(&ip.octets())),
    };
    let mapped = match address.ip() {
        IpAddr::V4(ip) => format!("{}:{port}", words(&ip.to_ipv6_mapped().octets())),
        IpAddr::V6(_) => String::new(),
    };
    cell == plain || cell == mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_the_other_end_names_the_user() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     7        0 1\n   \
             1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2\n";
        let (peer, local) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(owner(table, peer, local), Some(1000));
        assert_eq!(owner(table, "127.0.0.1:50001".parse().unwrap(), local), None);
    }
}
