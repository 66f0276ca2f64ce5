//! The cloud's port as a proxy for the names of the sandbox's DNS endpoints, which no resolver knows (RFC 9110 §9.3.6,
//! CONNECT). It leads to those and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::Inner;
use crate::http::Reply;

/// Open tunnels at once.
pub(crate) const TUNNELS_MAX: usize = 512;
const HTTPS: &str = "443";

/// Answers a CONNECT; the tunnel runs in a task of its own until one end closes.
pub(crate) async fn open(inner: &Arc<Inner>, request: http::Request<Incoming>) -> Reply {
    let target = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let Some(address) = address(inner, &target) else {
        tracing::info!(target, "not tunnelled");
        return Reply::text(
            403,
            format!("{target} is not a DNS endpoint of this sandbox; nothing else is tunnelled.\n"),
        );
    };
    let Ok(slot) = inner.tunnels.clone().try_acquire_owned() else {
        return Reply::text(503, "Too many tunnels are open.\n");
    };
    let mut far = match TcpStream::connect(address).await {
        Ok(far) => far,
        Err(error) => return Reply::text(502, format!("{target} does not answer: {error}\n")),
    };
    let _ = far.set_nodelay(true);
    let mut stopping = inner.stopping.subscribe();
    tokio::spawn(async move {
        let _slot = slot;
        let Ok(near) = hyper::upgrade::on(request).await else { return };
        let mut near = TokioIo::new(near);
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    Reply::text(200, "")
}

fn address(inner: &Inner, target: &str) -> Option<SocketAddr> {
    let (name, port) = target.rsplit_once(':')?;
    if port == HTTPS { inner.fleet.resolve(&name.to_ascii_lowercase()) } else { None }
}
