//! Which loopback addresses a cluster gets: chosen once, remembered in its directory, taken again at each start.
//!
//! The default cluster's store takes 127.0.0.1:2379, where etcd's users look for it. Everything else lies on an alias of
//! its own, 127.a.b.c, so that clusters never share an address and the well-known ports stay free for each. Where
//! aliases cannot be bound (macOS, some containers) the same services take free ports of 127.0.0.1.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};
use base::Entropy;
use serde::{Deserialize, Serialize};

const HTTPS: u16 = 443;
const ETCD_CLIENT: u16 = 2379;
const ALIAS_TRIES_MAX: u32 = 64;
const FILE_NAME: &str = "addresses.json";

/// Where a cluster's endpoints are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// The API server's external endpoint.
    pub(crate) api: SocketAddr,
    /// The store's client port.
    pub(crate) etcd: SocketAddr,
    /// The modelled private endpoint in the cluster's network; nothing listens there.
    pub(crate) private: Ipv4Addr,
}

/// The bound sockets behind [`Addresses`]; held by the fleet for the cluster's life, so that no other program can slip
/// in while an instance restarts.
pub(crate) struct Listeners {
    pub(crate) api: TcpListener,
    pub(crate) etcd: TcpListener,
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// `--api-address IP[:PORT]`
    pub(crate) api: Option<(IpAddr, Option<u16>)>,
    /// The default cluster's store prefers etcd's own address.
    pub(crate) well_known_etcd: bool,
}

impl Addresses {
    /// `ip` for port 443, else `ip:port`: the form in which GKE's `endpoint` field is read by its clients.
    pub(crate) fn endpoint(&self) -> String {
        if self.api.port() == HTTPS { self.api.ip().to_string() } else { self.api.to_string() }
    }
}

/// Takes the remembered addresses of the cluster in `directory`, or chooses and remembers new ones.
///
/// # Errors
/// When a remembered or wished address cannot be bound; the text names it.
pub(crate) fn bind(directory: &Path, wishes: &Wishes, entropy: &Entropy) -> Result<(Addresses, Listeners)> {
    let file = directory.join(FILE_NAME);
    if file.exists() {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let addresses: Addresses = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; delete it to choose new addresses", file.display()))?;
        let listeners = Listeners { api: listen(addresses.api)?, etcd: listen(addresses.etcd)? };
        return Ok((addresses, listeners));
    }
    let (api, etcd) = choose(wishes, entropy)?;
    let [.., low] = entropy.bytes::<4>();
    let addresses = Addresses {
        api: api.local_addr()?,
        etcd: etcd.local_addr()?,
        private: Ipv4Addr::new(172, 16, 0, 2 + low % 12),
    };
    fs::write(&file, serde_json::to_vec_pretty(&addresses)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok((addresses, Listeners { api, etcd }))
}

fn choose(wishes: &Wishes, entropy: &Entropy) -> Result<(TcpListener, TcpListener)> {
    let alias = alias_with_both(entropy);
    let (free_api, free_etcd) = match alias {
        Some(pair) => pair,
        None => (listen(loopback(0))?, listen(loopback(0))?),
    };
    let api = match wishes.api {
        None => free_api,
        Some((ip, Some(port))) => listen(SocketAddr::new(ip, port))?,
        Some((ip, None)) => listen(SocketAddr::new(ip, HTTPS)).or_else(|_| listen(SocketAddr::new(ip, 0)))?,
    };
    let well_known = wishes.well_known_etcd.then(|| TcpListener::bind(loopback(ETCD_CLIENT)).ok()).flatten();
    Ok((api, well_known.unwrap_or(free_etcd)))
}

/// An alias where both ports are free; port 443 gives way to a free one where it needs a privilege we lack.
fn alias_with_both(entropy: &Entropy) -> Option<(TcpListener, TcpListener)> {
    for _ in 0..ALIAS_TRIES_MAX {
        let [a, b, c] = entropy.bytes::<3>();
        // 127.0.x.y is where people put things by hand.
        let ip = IpAddr::V4(Ipv4Addr::new(127, 1 + a % 254, b, 1 + c % 254));
        let api = match TcpListener::bind((ip, HTTPS)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => TcpListener::bind((ip, 0)),
            other => other,
        };
        match (api, TcpListener::bind((ip, ETCD_CLIENT))) {
            (Ok(api), Ok(etcd)) => return Some((api, etcd)),
            (Err(e), _) if e.kind() == io::ErrorKind::AddrNotAvailable => return None,
            _ => {}
        }
    }
    None
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program; stop it, or start with another --data-dir or address")
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bail!("no permission to listen on {address}; choose a port from 1024 up with --api-address IP:PORT")
        }
        Err(e) => Err(e).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Reads `IP[:PORT]`.
///
/// # Errors
/// When it is neither.
pub(crate) fn parse_wish(text: &str) -> Result<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip(), Some(address.port())));
    }
    text.parse().map(|ip| (ip, None)).with_context(|| format!("--api-address {text}: expected IP or IP:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_and_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = crate::system::entropy();
        let (first, listeners) = bind(directory.path(), &Wishes::default(), &entropy).unwrap();
        assert!(bind(directory.path(), &Wishes::default(), &entropy).err().unwrap().to_string().contains("in use"));
        drop(listeners);
        let (second, _listeners) = bind(directory.path(), &Wishes::default(), &entropy).unwrap();
        assert_eq!((first.api, first.etcd), (second.api, second.etcd));
    }

    #[test]
    fn a_wished_address_is_read_with_and_without_port() {
        assert_eq!(parse_wish("127.0.0.5").unwrap(), ("127.0.0.5".parse().unwrap(), None));
        assert_eq!(parse_wish("127.0.0.5:8443").unwrap(), ("127.0.0.5".parse().unwrap(), Some(8443)));
        assert!(parse_wish("here").is_err());
    }
}
