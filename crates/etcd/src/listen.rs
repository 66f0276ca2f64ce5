//! Where a member listens: URLs in etcd's forms, on TCP or a Unix socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::connector::Wire;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A URL to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// As given.
    pub(crate) text: String,
    pub(crate) tls: bool,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `host:port`.
    Tcp(String, u16),
    /// A path, which in etcd is whatever follows `unix://`.
    Unix(PathBuf),
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// In etcd's words (`client/pkg/types`).
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        let Some((scheme, rest)) = text.split_once("://") else { return wrong() };
        let (tls, unix) = match scheme {
            "http" => (false, false),
            "https" => (true, false),
            "unix" => (false, true),
            "unixs" => (true, true),
            _ => return wrong(),
        };
        if unix {
            return Ok(Self { text: text.to_owned(), tls, place: Place::Unix(PathBuf::from(rest)) });
        }
        let (address, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let form = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(form());
        }
        let port =
            port.parse().map_err(|_| format!("parse {text:?}: invalid port {:?} after host", format!(":{port}")))?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self { text: text.to_owned(), tls, place: Place::Tcp(bare.unwrap_or(host).to_owned(), port) })
    }

    /// Whether the system chooses the port: two such URLs are two listeners.
    pub(crate) fn is_of_any_port(&self) -> bool {
        matches!(self.place, Place::Tcp(_, 0))
    }

    /// Host and port, or the path of the socket, as given.
    pub(crate) fn address(&self) -> &str {
        self.text.split_once("://").map_or(self.text.as_str(), |(_, address)| address)
    }

    /// Refuses a name: what is listened on is an address.
    ///
    /// # Errors
    /// In etcd's words.
    pub(crate) fn check_bind(&self) -> Result<(), String> {
        match &self.place {
            Place::Tcp(host, _) if host != "localhost" && host.parse::<IpAddr>().is_err() => {
                Err(format!("expected IP in URL for binding ({})", self.text))
            }
            Place::Tcp(..) | Place::Unix(_) => Ok(()),
        }
    }

    /// Whether it names a host that others can be told.
    ///
    /// # Errors
    /// In etcd's words.
    pub(crate) fn check_host(&self) -> Result<(), String> {
        match &self.place {
            Place::Tcp(host, _) if host.is_empty() => Err(format!("unexpected empty host ({})", self.text)),
            Place::Tcp(..) | Place::Unix(_) => Ok(()),
        }
    }
}

/// Something that accepts connections.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Begins to listen; `reuse_port` lets others listen there too (`--socket-reuse-port`).
    pub(crate) async fn bind(url: &Url, reuse_port: bool) -> io::Result<Self> {
        match &url.place {
            Place::Unix(path) => {
                // A socket that an earlier run left behind would be in the way; etcd removes it too.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                UnixListener::bind(path).map(Self::Unix)
            }
            Place::Tcp(host, port) => {
                let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                    match bind_tcp(address, reuse_port) {
                        Ok(listener) => return Ok(Self::Tcp(listener)),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    }

    /// The next connection, and where it comes from.
    pub(crate) async fn accept(&self) -> io::Result<(Box<dyn Wire>, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), remote.to_string()))
            }
            Self::Unix(listener) => Ok((Box::new(listener.accept().await?.0), "@".to_owned())),
        }
    }
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Go's listeners always have the first one, whether --socket-reuse-address is given or not.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused_in_etcds_words() {
        let fault = |text: &str| Url::parse(text).expect_err(text);
        assert_eq!(fault("localhost:2379"), "URL scheme must be http, https, unix, or unixs: localhost:2379");
        assert_eq!(fault("http://localhost"), "URL address does not have the form \"host:port\": http://localhost");
        assert_eq!(fault("http://1.2.3.4:1/x"), "URL must not contain a path: http://1.2.3.4:1/x");
        let place = |text: &str| Url::parse(text).expect(text).place;
        assert_eq!(place("https://[::1]:2379"), Place::Tcp("::1".to_owned(), 2379));
        assert_eq!(place("unixs://etcd.sock:1"), Place::Unix("etcd.sock:1".into()));
        let bind = |text: &str| Url::parse(text).expect(text).check_bind();
        assert_eq!(
            bind("http://example.com:80"),
            Err("expected IP in URL for binding (http://example.com:80)".to_owned())
        );
        assert_eq!(bind("http://localhost:80"), Ok(()));
        let host = Url::parse("http://:80").expect("a URL").check_host();
        assert_eq!(host, Err("unexpected empty host (http://:80)".to_owned()));
    }
}
