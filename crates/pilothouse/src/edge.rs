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

/// Serves one endpoint until the sender of `instance` is gone.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(listener: TcpListener, mut instance: watch::Receiver<Option<Delivery>>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok(delivery) = instance.wait_for(Option::is_some).await.map(|d| d.clone()) else { return Ok(()) };
        let Some(delivery) = delivery else { continue };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = instance.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        match accepted {
            Ok((stream, remote)) => pass_on(&delivery, stream, remote).await,
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
