//! From the front end to the API server: one HTTP/2 connection for each caller's, and one of its own for each request that
//! wants to switch protocols.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use base::Clock;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Authority, ClientVerifier, Profile, Signer, client_config, request_identity};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::{Passage, ReplyBody};
use crate::edge::connect_as_management;

/// What the API server believes of whoever shows the front proxy's certificate, so nobody may send it along.
const REMOTE_PREFIX: &str = "x-remote-";
/// Of one hop only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::PROXY_AUTHORIZATION];

/// How a cluster's API server is talked to, and how certificates of its callers are judged.
pub(super) struct ApiServer {
    multiplexed: Arc<ClientConfig>,
    switching: Arc<ClientConfig>,
    name: ServerName<'static>,
    callers: ClientVerifier,
}

impl ApiServer {
    /// The API server at an address, and the certificate that it is shown.
    ///
    /// # Errors
    /// When the signer refuses or is gone.
    pub(super) async fn new(
        signer: &Signer,
        address: IpAddr,
        clock: &Clock,
    ) -> Result<(Self, CertificateDer<'static>)> {
        let authority = signer.certificate(Authority::Cluster).await?;
        let profile = Profile::FrontProxyClient { name: "front-proxy-client".to_owned() };
        let identity = request_identity(signer, &profile, None).await?;
        let api_server = Self {
            multiplexed: client_config(&authority, Some(&identity), &[b"h2"], clock)?,
            switching: client_config(&authority, Some(&identity), &[b"http/1.1"], clock)?,
            name: ServerName::IpAddress(address.into()),
            callers: ClientVerifier::new(&authority, clock)?,
        };
        Ok((api_server, identity.chain()[0].clone()))
    }

    /// User and groups of a caller's certificate, if it counts in this cluster.
    pub(super) fn identify(&self, shown: &[CertificateDer<'_>]) -> Option<(String, Vec<String>)> {
        self.callers.verify(shown).ok()?;
        let subject = pki::subject(shown.first()?).ok()?;
        (!subject.common_name.is_empty()).then_some((subject.common_name, subject.organizations))
    }

    async fn connect(&self, address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
        let stream = connect_as_management(address).await?;
        let _ = stream.set_nodelay(true);
        Ok(TlsConnector::from(Arc::clone(tls)).connect(self.name.clone(), stream).await?)
    }
}

/// One caller's connection, on its far side.
pub(super) struct Upstream {
    address: SocketAddr,
    sender: Mutex<Option<http2::SendRequest<Incoming>>>,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, sender: Mutex::new(None) }
    }

    /// Sends a request on and gives the answer back, streams as they come.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(super) async fn forward(
        &self,
        mut request: http::Request<Incoming>,
        source: IpAddr,
        passage: &Passage,
        api_server: &ApiServer,
    ) -> Result<http::Response<ReplyBody>> {
        let switches = request.headers().contains_key(header::UPGRADE);
        sign(request.headers_mut(), source, passage)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if switches {
            *request.uri_mut() = path.parse()?;
            return self.switch(request, api_server).await;
        }
        *request.uri_mut() = format!("https://{}{path}", self.address).parse()?;
        *request.version_mut() = http::Version::HTTP_2;
        for name in HOP_BY_HOP {
            request.headers_mut().remove(name);
        }
        request.headers_mut().remove(header::HOST);
        let mut sender = self.sender(api_server).await?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| body.boxed_unsync()))
    }

    async fn sender(&self, api_server: &ApiServer) -> Result<http2::SendRequest<Incoming>> {
        let mut held = self.sender.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = api_server.connect(self.address, &api_server.multiplexed).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection of the front end ended");
            }
        });
        Ok(held.insert(sender).clone())
    }

    /// Over a connection of its own; what both sides say after the switch passes unseen.
    async fn switch(
        &self,
        mut request: http::Request<Incoming>,
        api_server: &ApiServer,
    ) -> Result<http::Response<ReplyBody>> {
        let near = hyper::upgrade::on(&mut request);
        let stream = api_server.connect(self.address, &api_server.switching).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut response = sender.send_request(request).await?;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            let far = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                if let (Ok(near), Ok(far)) = tokio::join!(near, far) {
                    let _ = copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
                }
            });
        }
        Ok(response.map(|body| body.boxed_unsync()))
    }
}

/// Takes out what only we may say, and says it.
fn sign(headers: &mut HeaderMap, source: IpAddr, passage: &Passage) -> Result<()> {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(REMOTE_PREFIX)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    headers.remove("x-real-ip");
    headers.insert("x-forwarded-for", HeaderValue::from_str(&source.to_string())?);
    if let Passage::Certificate(user, groups) = passage {
        let value = |text: &str| HeaderValue::from_str(text).context("a name that no header can carry");
        headers.insert("x-remote-user", value(user)?);
        for group in groups {
            headers.append("x-remote-group", value(group)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_send_along_what_only_the_front_end_may_say() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("impersonate-user", "bob"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let source = IpAddr::from([127, 0, 0, 9]);
        sign(&mut headers, source, &Passage::Token).unwrap();
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["impersonate-user", "x-forwarded-for"], "impersonation is the API server's to judge");
        assert_eq!(headers["x-forwarded-for"], "127.0.0.9");
        let jane = Passage::Certificate("jane".to_owned(), vec!["dev".to_owned(), "ops".to_owned()]);
        sign(&mut headers, source, &jane).unwrap();
        assert_eq!(headers["x-remote-user"], "jane");
        assert_eq!(headers.get_all("x-remote-group").iter().collect::<Vec<_>>(), ["dev", "ops"]);
        let clever = Passage::Certificate("jane\nX-Remote-Group: system:masters".to_owned(), Vec::new());
        assert!(sign(&mut headers, source, &clever).is_err());
    }
}
