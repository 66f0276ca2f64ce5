//! The network between the members of a store, which fails as networks do: what one sends to another is held back, comes
//! late, or the connection breaks; in both directions or in one.
//!
//! Each member is reached through a relay, which knows who calls by the name that a member says first.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a slow way adds to each piece of a message.
const SLOW: Duration = Duration::from_millis(30);
const CHUNK_BYTES: usize = 16 << 10;

/// How the way from one member to another is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    Slow,
    /// Nothing arrives, and nobody is told.
    Silent,
    /// Connections that use it break.
    Broken,
}

/// The ways between all members.
pub(super) struct Network {
    /// From a member, to a member.
    ways: Vec<Vec<watch::Sender<Way>>>,
    /// Where each member is reached.
    relays: Vec<SocketAddr>,
}

impl Network {
    /// Relays to members that listen at these ports.
    pub(super) async fn start(ports: &[u16]) -> Result<Self> {
        let way = || (0..ports.len()).map(|_| watch::Sender::new(Way::Open)).collect();
        let mut network = Self { ways: (0..ports.len()).map(|_| way()).collect(), relays: Vec::new() };
        for (to, port) in ports.iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            network.relays.push(listener.local_addr()?);
            let ways = (0..ports.len()).map(|from| network.both(from, to)).collect();
            tokio::spawn(relay(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, *port)), ways));
        }
        Ok(network)
    }

    /// Where the others find a member.
    pub(super) fn url(&self, member: usize) -> String {
        format!("http://{}", self.relays[member])
    }

    fn both(&self, from: usize, to: usize) -> (watch::Receiver<Way>, watch::Receiver<Way>) {
        (self.ways[from][to].subscribe(), self.ways[to][from].subscribe())
    }

    pub(super) fn set(&self, from: usize, to: usize, way: Way) {
        self.ways[from][to].send_replace(way);
    }

    /// All ways of a member: those from it, those to it.
    pub(super) fn set_of(&self, member: usize, from_it: Way, to_it: Way) {
        for other in (0..self.ways.len()).filter(|other| *other != member) {
            self.set(member, other, from_it);
            self.set(other, member, to_it);
        }
    }

    pub(super) fn heal(&self) {
        for way in self.ways.iter().flatten() {
            way.send_replace(Way::Open);
        }
    }
}

/// What a member is called: nothing else that members say looks like it.
pub(super) fn name(member: usize) -> String {
    format!("history-member-{member}")
}

async fn relay(listener: TcpListener, to: SocketAddr, ways: Vec<(watch::Receiver<Way>, watch::Receiver<Way>)>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let ways = ways.clone();
        tokio::spawn(async move {
            let Some((greeting, caller)) = greeting(&mut stream, ways.len()).await else { return };
            let Ok(mut onward) = TcpStream::connect(to).await else { return };
            let (mut there, back) = ways[caller].clone();
            if there.wait_for(|way| *way != Way::Silent).await.is_err() || onward.write_all(&greeting).await.is_err() {
                return;
            }
            let ((near_read, near_write), (far_read, far_write)) = (stream.into_split(), onward.into_split());
            // When one direction is over, both are.
            tokio::select! {
                () = carry(near_read, far_write, there) => {}
                () = carry(far_read, near_write, back) => {}
            }
        });
    }
}

/// The first bytes of a connection, up to where they say who calls.
async fn greeting(stream: &mut TcpStream, members: usize) -> Option<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    loop {
        let says = |member: &usize| bytes.windows(name(0).len()).any(|part| part == name(*member).as_bytes());
        if let Some(member) = (0..members).find(says) {
            return Some((bytes, member));
        }
        if bytes.len() > CHUNK_BYTES || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut broken = way.clone();
    let bytes = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(size @ 1..) = from.read(&mut buffer).await {
            if *way.borrow() == Way::Slow {
                tokio::time::sleep(SLOW).await;
            }
            if way.wait_for(|way| *way != Way::Silent).await.is_err() || to.write_all(&buffer[..size]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = bytes => {}
        _ = broken.wait_for(|way| *way == Way::Broken) => {}
    }
}
