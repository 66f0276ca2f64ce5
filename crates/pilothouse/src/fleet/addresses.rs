//! Which loopback addresses a cluster gets: chosen once, remembered in its directory, taken again at each start.
//!
//! The default cluster's store takes 127.0.0.1:2379, where etcd's users look for it. Everything else lies on an alias of
//! its own, 127.a.b.c, so that clusters never share an address and the well-known ports stay free for each. Where
//! aliases cannot be bound (macOS, some containers) the same services take free ports of 127.0.0.1.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use base::Entropy;
use serde::{Deserialize, Serialize};

use crate::fleet::message::Switches;
use crate::layout::write_private;

const HTTPS: u16 = 443;
const ETCD_CLIENT: u16 = 2379;
const ETCD_PEER: u16 = 2380;
const ALIAS_TRIES_MAX: u32 = 64;
const FILE_NAME: &str = "addresses.json";

/// Where a cluster's endpoints are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// The API server's external endpoint.
    pub(crate) api: SocketAddr,
    /// Its internal endpoint, in the cluster's network; a cluster of before gets one.
    #[serde(default = "not_chosen")]
    pub(crate) internal: SocketAddr,
    /// The front end of its DNS endpoint; a cluster of before gets one.
    #[serde(default = "not_chosen")]
    pub(crate) dns: SocketAddr,
    /// The store's members, one for each instance.
    pub(crate) members: Vec<MemberAddresses>,
    /// What the Service `kubernetes` leads to, as loopback is not valid there; nothing listens at it.
    pub(crate) private: Ipv4Addr,
}

/// Where a member of the store listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberAddresses {
    /// For its clients.
    pub(crate) client: SocketAddr,
    /// For the other members.
    pub(crate) peer: SocketAddr,
}

/// The bound sockets behind [`Addresses`]; held by the fleet for the cluster's life, so that no other program can slip
/// in while an instance restarts.
pub(crate) struct Listeners {
    pub(crate) api: TcpListener,
    pub(crate) internal: TcpListener,
    pub(crate) dns: TcpListener,
    pub(crate) members: Vec<MemberListeners>,
}

/// The sockets of one member of the store.
pub(crate) struct MemberListeners {
    pub(crate) client: TcpListener,
    pub(crate) peer: TcpListener,
}

impl MemberListeners {
    fn addresses(&self) -> io::Result<MemberAddresses> {
        Ok(MemberAddresses { client: self.client.local_addr()?, peer: self.peer.local_addr()? })
    }

    /// The same sockets once more, for another process.
    ///
    /// # Errors
    /// When descriptors run out.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { client: self.client.try_clone()?, peer: self.peer.try_clone()? })
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// `--api-address IP[:PORT]`
    pub(crate) api: Option<(IpAddr, Option<u16>)>,
    /// The default cluster's store prefers etcd's own address.
    pub(crate) well_known_etcd: bool,
    /// How the default cluster's API server is started.
    pub(crate) switches: Switches,
}

impl Addresses {
    /// The external endpoint, in the form in which GKE's `endpoint` field is read by its clients.
    pub(crate) fn endpoint(&self) -> String {
        as_endpoint(self.api)
    }

    /// The internal endpoint, in the same form.
    pub(crate) fn internal_endpoint(&self) -> String {
        as_endpoint(self.internal)
    }
}

/// `ip` for port 443, else `ip:port`.
fn as_endpoint(address: SocketAddr) -> String {
    if address.port() == HTTPS { address.ip().to_string() } else { address.to_string() }
}

const fn not_chosen() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

/// Takes the remembered addresses of the cluster in `directory`, or chooses and remembers new ones for so many
/// instances.
///
/// # Errors
/// When a remembered or wished address cannot be bound; the text names it.
pub(crate) fn bind(
    directory: &Path,
    instances: usize,
    wishes: &Wishes,
    entropy: &Entropy,
) -> Result<(Addresses, Listeners)> {
    let file = directory.join(FILE_NAME);
    if file.exists() {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut addresses: Addresses = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; delete it to choose new addresses", file.display()))?;
        let again = |member: &MemberAddresses| {
            let (client, peer) = (listen_again(member.client, &file)?, listen_again(member.peer, &file)?);
            anyhow::Ok(MemberListeners { client, peer })
        };
        let members = addresses.members.iter().map(again).collect::<Result<_>>()?;
        let api = listen_again(addresses.api, &file)?;
        let incomplete = [addresses.internal, addresses.dns].contains(&not_chosen());
        let own = |address: &mut SocketAddr| -> Result<TcpListener> {
            if *address != not_chosen() {
                return listen_again(*address, &file);
            }
            let listener = listen_on_alias(HTTPS, entropy)?;
            *address = listener.local_addr()?;
            Ok(listener)
        };
        let (internal, dns) = (own(&mut addresses.internal)?, own(&mut addresses.dns)?);
        if incomplete {
            write_private(&file, &serde_json::to_vec_pretty(&addresses)?)?;
        }
        let listeners = Listeners { api, internal, dns, members };
        return Ok((addresses, listeners));
    }
    let listeners = choose(instances, wishes, entropy)?;
    let [.., low] = entropy.bytes::<4>();
    let addresses = Addresses {
        api: listeners.api.local_addr()?,
        internal: listeners.internal.local_addr()?,
        dns: listeners.dns.local_addr()?,
        members: listeners.members.iter().map(MemberListeners::addresses).collect::<io::Result<_>>()?,
        private: Ipv4Addr::new(172, 16, 0, 2 + low % 12),
    };
    write_private(&file, &serde_json::to_vec_pretty(&addresses)?)?;
    Ok((addresses, listeners))
}

fn choose(instances: usize, wishes: &Wishes, entropy: &Entropy) -> Result<Listeners> {
    let api = match wishes.api {
        None => listen_on_alias(HTTPS, entropy)?,
        Some((ip, port)) => listen_as_wished(ip, port)?,
    };
    let mut members: Vec<_> = wishes.well_known_etcd.then(well_known_member).flatten().into_iter().collect();
    while members.len() < instances {
        members.push(member_on_alias(entropy).map_or_else(member_at_any_port, Ok)?);
    }
    Ok(Listeners { api, internal: listen_on_alias(HTTPS, entropy)?, dns: listen_on_alias(HTTPS, entropy)?, members })
}

fn member_at_any_port() -> Result<MemberListeners> {
    Ok(MemberListeners { client: listen(loopback(0))?, peer: listen(loopback(0))? })
}

/// Where etcd's users look for it, if both ports are free.
fn well_known_member() -> Option<MemberListeners> {
    let client = TcpListener::bind(loopback(ETCD_CLIENT)).ok()?;
    let peer = TcpListener::bind(loopback(ETCD_PEER)).or_else(|_| TcpListener::bind(loopback(0))).ok()?;
    Some(MemberListeners { client, peer })
}

/// Without a port: 443, or a free one where that is taken or not permitted.
fn listen_as_wished(ip: IpAddr, port: Option<u16>) -> Result<TcpListener> {
    match port {
        Some(port) => listen(SocketAddr::new(ip, port)),
        None => listen(SocketAddr::new(ip, HTTPS)).or_else(|_| listen(SocketAddr::new(ip, 0))),
    }
}

/// Looks whether a wished address can be had now.
///
/// # Errors
/// When it cannot; the text names it and the way out.
pub(crate) fn try_address(ip: IpAddr, port: Option<u16>) -> Result<()> {
    listen_as_wished(ip, port).map(drop)
}

/// This port of an alias that nobody else has it on; a free port of it where the port needs a privilege we lack, of
/// 127.0.0.1 where aliases cannot be had.
///
/// # Errors
/// When there is no free port at all.
pub(crate) fn listen_on_alias(port: u16, entropy: &Entropy) -> Result<TcpListener> {
    for _ in 0..ALIAS_TRIES_MAX {
        match listen_or_free(alias(entropy), port) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => break,
            Err(_) => {}
        }
    }
    listen(loopback(0))
}

/// 127.0.x.y is where people put things by hand, and where places outside are.
pub(super) fn alias(entropy: &Entropy) -> IpAddr {
    let [a, b, c] = entropy.bytes::<3>();
    IpAddr::V4(Ipv4Addr::new(127, 1 + a % 254, b, 1 + c % 254))
}

/// A port, or a free one where that needs a privilege we lack.
fn listen_or_free(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((ip, port)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => TcpListener::bind((ip, 0)),
        other => other,
    }
}

/// An alias for a member's two ports. It is an instance's own: a cluster's endpoints, which others may reach, are elsewhere.
fn member_on_alias(entropy: &Entropy) -> Option<MemberListeners> {
    for _ in 0..ALIAS_TRIES_MAX {
        let ip = alias(entropy);
        match (TcpListener::bind((ip, ETCD_CLIENT)), TcpListener::bind((ip, ETCD_PEER))) {
            (Ok(client), Ok(peer)) => return Some(MemberListeners { client, peer }),
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
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("{address} is in use by another program; stop that, or choose another with --api-address IP[:PORT]")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow!("no permission to listen on {address}; choose a port from 1024 up with --api-address IP:PORT")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("{} is no address of this machine; choose another with --api-address IP[:PORT]", address.ip())
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

/// Takes an address that a cluster had before.
fn listen_again(address: SocketAddr, file: &Path) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "its address {address} is in use by another program; stop that, or delete {} to let it choose new addresses",
            file.display()
        ),
        _ => anyhow::Error::new(error).context(format!(
            "cannot listen on its address {address}; delete {} to let it choose new addresses",
            file.display()
        )),
    })
}

/// Reads `IP[:PORT]`.
///
/// # Errors
/// When it is neither.
pub(crate) fn parse_wish(text: &str) -> Result<(IpAddr, Option<u16>)> {
    let (ip, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip(), Some(address.port())),
        Err(_) => match text.parse() {
            Ok(ip) => (ip, None),
            Err(_) => bail!("--api-address {text}: expected an IP address or IP:PORT"),
        },
    };
    if ip.is_unspecified() || ip.is_multicast() {
        bail!("--api-address {text}: clients need one address that they can reach, such as 127.0.0.2");
    }
    Ok((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_and_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = crate::system::entropy();
        let (first, listeners) = bind(directory.path(), 3, &Wishes::default(), &entropy).unwrap();
        assert!(bind(directory.path(), 3, &Wishes::default(), &entropy).err().unwrap().to_string().contains("in use"));
        drop(listeners);
        let (second, _listeners) = bind(directory.path(), 3, &Wishes::default(), &entropy).unwrap();
        assert_eq!((first.api, &first.members, first.internal), (second.api, &second.members, second.internal));
        assert_eq!(first.members.len(), 3);
        // What is reached at an endpoint is decided there; the store is not.
        for member in &first.members {
            for endpoint in [first.api, first.internal, first.dns] {
                assert!(![member.client.ip(), member.peer.ip()].contains(&endpoint.ip()), "{first:?}");
            }
        }
    }

    #[test]
    fn a_cluster_of_before_gets_an_internal_endpoint_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = crate::system::entropy();
        let (before, listeners) = bind(directory.path(), 1, &Wishes::default(), &entropy).unwrap();
        drop(listeners);
        let file = directory.path().join(FILE_NAME);
        let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        old.as_object_mut().unwrap().retain(|field, _| field != "internal" && field != "dns");
        fs::write(&file, old.to_string()).unwrap();
        let (given, listeners) = bind(directory.path(), 1, &Wishes::default(), &entropy).unwrap();
        drop(listeners);
        assert_eq!(given.api, before.api);
        assert!(![given.internal, given.dns].contains(&not_chosen()) && given.internal != given.dns);
        let (again, _listeners) = bind(directory.path(), 1, &Wishes::default(), &entropy).unwrap();
        assert_eq!((again.internal, again.dns), (given.internal, given.dns));
    }

    #[test]
    fn a_wished_address_is_read_with_and_without_port() {
        assert_eq!(parse_wish("127.0.0.5").unwrap(), ("127.0.0.5".parse().unwrap(), None));
        assert_eq!(parse_wish("127.0.0.5:8443").unwrap(), ("127.0.0.5".parse().unwrap(), Some(8443)));
        for wrong in ["here", "0.0.0.0", "0.0.0.0:443", "127.0.0.1:", "127.0.0.1:70000", ""] {
            assert!(parse_wish(wrong).is_err(), "{wrong}");
        }
    }
}
