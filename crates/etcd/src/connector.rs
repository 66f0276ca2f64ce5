//! Connections to a remote etcd: TCP, and TLS by our own rustls configuration.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Anything that carries bytes both ways.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects to the host and port of a URI.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Connector {
    /// gRPC is HTTP/2, so the configuration's protocols are set to that.
    pub(crate) fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self::speaking(b"h2", tls)
    }

    /// For plain HTTP.
    pub(crate) fn http1(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self::speaking(b"http/1.1", tls)
    }

    fn speaking(protocol: &[u8], tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let tls = tls.map(|tls| {
            let mut tls = (*tls).clone();
            tls.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(tls)
        });
        Self { tls }
    }

    /// Connects, and does TLS if it is to.
    ///
    /// # Errors
    /// When the address makes no sense or cannot be reached, or TLS fails.
    pub(crate) async fn connect(self, uri: Uri) -> io::Result<TokioIo<Box<dyn Wire>>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let host = uri.host().ok_or_else(|| invalid("the address has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(2379);
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = self.tls else { return Ok(TokioIo::new(Box::new(stream))) };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid("the host is no server name"))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Wire>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
