//! The one owner of a cluster's endpoints: accepts, decides by source address before TLS, passes the socket on.
//!
//! The accepted socket itself travels to the instance, so TLS and the caller's address stay end to end, and an instance
//! that dies costs only its own connections: while none is ready, callers wait in the kernel's queue.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::channel::Channel;
use crate::fleet::message::ToInstance;

/// Where accepted connections go.
#[derive(Clone)]
pub(crate) enum Delivery {
    /// To another process.
    Process(Arc<Channel>),
    /// To a task of this process.
    InProcess(mpsc::Sender<TcpStream>),
}

/// Serves one endpoint until the sender of `instances` is gone: each connection goes to the next of those that are ready.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(listener: TcpListener, mut instances: watch::Receiver<Vec<Delivery>>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut turn = 0_usize;
    loop {
        let Ok(ready) = instances.wait_for(|ready| !ready.is_empty()).await.map(|ready| ready.clone()) else {
            return Ok(());
        };
        turn = turn.wrapping_add(1);
        let delivery = &ready[turn % ready.len()];
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = instances.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        match accepted {
            Ok((stream, remote)) => pass_on(delivery, stream, remote).await,
            // Out of descriptors, or the caller is gone already: neither ends the endpoint.
            Err(error) => warn!(%error, "cannot accept a connection"),
        }
    }
}

async fn pass_on(delivery: &Delivery, stream: tokio::net::TcpStream, remote: SocketAddr) {
    let Ok(stream) = stream.into_std() else { return };
    let sent = match delivery {
        Delivery::Process(channel) => {
            channel.send(&ToInstance::Connection, &[stream.into()]).await.map_err(|e| e.to_string())
        }
        Delivery::InProcess(sender) => sender.send(stream).await.map_err(|e| e.to_string()),
    };
    if let Err(error) = sent {
        info!(%remote, error, "the instance went away before it could take a connection");
    }
}
