//! `etcd gateway start`: carries TCP connections to whichever endpoint of a cluster answers (`server/proxy/tcpproxy`). It
//! looks at no byte of them.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::EtcdError;
use crate::command::Refusal;
use crate::error::storage;
use crate::flags::{bool_of, duration_of};

/// Where to listen, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    listen: String,
    endpoints: Vec<String>,
    /// An endpoint that did not answer is tried again after this time.
    retry_delay: Duration,
}

impl Gateway {
    /// Reads what follows `etcd gateway`.
    ///
    /// # Errors
    /// In the words of etcd's parser (Go's `cobra`) for a flag that does not exist or has not its form.
    pub(crate) fn parse(args: Vec<OsString>) -> Result<Self, Refusal> {
        let (mut listen, mut endpoints) = ("127.0.0.1:23790".to_owned(), vec!["127.0.0.1:2379".to_owned()]);
        let (mut retry_delay, mut starts) = (Duration::from_secs(60), false);
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--") else {
                starts |= arg == "start";
                continue;
            };
            let (name, given) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            let mut value = || {
                let value = given.clone().or_else(|| args.next());
                value.ok_or_else(|| Refusal::invalid(format!("Error: flag needs an argument: --{name}")))
            };
            match name {
                "listen-addr" => listen = value()?,
                "endpoints" => endpoints = value()?.split(',').map(str::to_owned).collect(),
                "retry-delay" => {
                    let text = value()?;
                    retry_delay = duration_of(&text).ok_or_else(|| {
                        Refusal::invalid(format!("Error: invalid argument {text:?} for \"--retry-delay\" flag"))
                    })?;
                }
                // These say how to find endpoints by DNS, which only happens with --discovery-srv.
                "insecure-discovery" if given.as_deref().is_none_or(|text| bool_of(text).is_some()) => {}
                "discovery-srv-name" | "trusted-ca-file" => drop(value()?),
                "discovery-srv" => {
                    return Err(Refusal::invalid("Error: --discovery-srv is not supported by this gateway".to_owned()));
                }
                _ => return Err(Refusal::invalid(format!("Error: unknown flag: --{name}"))),
            }
        }
        if !starts {
            return Err(Refusal::invalid("Usage:\n  etcd gateway start [flags]".to_owned()));
        }
        let without_scheme = |endpoint: &String| {
            endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host).trim_end_matches('/').to_owned()
        };
        let endpoints: Vec<String> = endpoints.iter().map(without_scheme).collect();
        if let Some(bad) = endpoints.iter().find(|endpoint| !endpoint.contains(':')) {
            return Err(Refusal::invalid(format!("error parsing endpoint {bad:?}")));
        }
        Ok(Self { listen, endpoints, retry_delay })
    }

    /// Carries connections until `shutdown` is done.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), EtcdError> {
        let bound = TcpListener::bind(&self.listen).await;
        let listener = bound.map_err(|error| storage(&format!("listening on {}", self.listen), error))?;
        let endpoints = self.endpoints.join(",");
        tracing::info!(target: "etcd", endpoints, "ready to proxy client requests");
        let remotes = Arc::new(Remotes {
            next: AtomicUsize::new(0),
            all: self.endpoints.iter().map(|at| Remote { at: at.clone(), down: AtomicBool::new(false) }).collect(),
        });
        let mut tasks = JoinSet::new();
        let watched = remotes.clone();
        let delay = self.retry_delay.max(Duration::from_millis(1));
        tasks.spawn(async move { watched.try_again(delay).await });
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let remotes = remotes.clone();
                        tasks.spawn(async move { drop(remotes.carry(stream).await) });
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(_) = tasks.join_next() => {}
            }
        }
        tasks.shutdown().await;
        Ok(())
    }
}

struct Remote {
    at: String,
    down: AtomicBool,
}

struct Remotes {
    next: AtomicUsize,
    all: Vec<Remote>,
}

impl Remotes {
    /// Carries a connection to the next endpoint that answers, each in its turn.
    async fn carry(&self, mut stream: TcpStream) -> io::Result<()> {
        for _ in 0..self.all.len() {
            let remote = &self.all[self.next.fetch_add(1, Ordering::Relaxed) % self.all.len()];
            if remote.down.load(Ordering::Relaxed) {
                continue;
            }
            match TcpStream::connect(&remote.at).await {
                Ok(mut other) => {
                    let _ = (stream.set_nodelay(true), other.set_nodelay(true));
                    return tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(drop);
                }
                Err(error) => {
                    remote.down.store(true, Ordering::Relaxed);
                    let address = remote.at.as_str();
                    tracing::warn!(target: "etcd", address, %error, "deactivated endpoint");
                }
            }
        }
        Ok(())
    }

    async fn try_again(&self, delay: Duration) {
        loop {
            tokio::time::sleep(delay).await;
            for remote in self.all.iter().filter(|remote| remote.down.load(Ordering::Relaxed)) {
                let address = remote.at.as_str();
                if TcpStream::connect(address).await.is_ok() {
                    remote.down.store(false, Ordering::Relaxed);
                    tracing::info!(target: "etcd", address, "activated endpoint");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn parse(args: &[&str]) -> Result<Gateway, String> {
        Gateway::parse(args.iter().map(OsString::from).collect()).map_err(|refusal| refusal.text)
    }

    #[test]
    fn flags_are_read_wherever_they_stand() {
        let gateway = parse(&["--endpoints=http://a:1,b:2", "start", "--retry-delay", "3s"]).expect("good flags");
        let endpoints = vec!["a:1".to_owned(), "b:2".to_owned()];
        let expect = Gateway { listen: "127.0.0.1:23790".to_owned(), endpoints, retry_delay: Duration::from_secs(3) };
        assert_eq!(gateway, expect);
        assert_eq!(parse(&["start", "--x"]), Err("Error: unknown flag: --x".to_owned()));
        assert_eq!(parse(&["start", "--endpoints=a"]), Err("error parsing endpoint \"a\"".to_owned()));
        assert!(parse(&[]).is_err());
    }

    #[tokio::test]
    async fn a_connection_goes_to_an_endpoint_that_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let remote = |at: String| Remote { at, down: AtomicBool::new(false) };
        let all = vec![remote(at(&gone)), remote(at(&listener))];
        drop(gone);
        let remotes = Arc::new(Remotes { next: AtomicUsize::new(0), all });
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(at(&front)).await.expect("connected");
        let (stream, _) = front.accept().await.expect("accepted");
        let carrying = remotes.clone();
        tokio::spawn(async move { carrying.carry(stream).await });
        let (mut server, _) = listener.accept().await.expect("accepted");
        client.write_all(b"x").await.expect("written");
        assert_eq!(server.read_u8().await.expect("read"), b'x');
        assert!(remotes.all[0].down.load(Ordering::Relaxed));
    }
}
