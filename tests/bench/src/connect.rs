//! What a new connection takes until its server has looked at it: something that is no TLS is sent, and the answer awaited.
//! At an endpoint of a cluster the edge stands in between, at a kubelet nobody does; the same process serves both.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::phase::{Server, Worker};

/// Any server of TLS turns this away at once (RFC 8446 §5.1: an unknown type of record).
const NO_TLS: [u8; 5] = [0xff; 5];

struct Connect(SocketAddr);

impl Worker for Connect {
    async fn operate(&mut self, _: u64) -> Result<bool> {
        let mut stream = TcpStream::connect(self.0).await?;
        stream.write_all(&NO_TLS).await?;
        let mut alert = [0; 7];
        Ok(stream.read(&mut alert).await.is_ok())
    }
}

/// Opens one connection after another.
///
/// # Errors
/// When nobody listens there.
pub(crate) async fn run(server: &Server, address: SocketAddr, label: &str) -> Result<()> {
    server.phase(&format!("new connection, {label}"), vec![Connect(address)]).await
}
