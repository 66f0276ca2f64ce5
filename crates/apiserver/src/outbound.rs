//! Requests of the server's own, to issuers and webhooks: one connection each, bounded in time and size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From the look-up of the name to the last byte (upstream's client for issuers: 30 s).
const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What is asked.
pub(crate) struct Outbound<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) authorization: Option<&'a str>,
    /// JSON; empty for none.
    pub(crate) body: Bytes,
}

impl<'a> Outbound<'a> {
    pub(crate) fn get(url: &'a str) -> Self {
        Self { method: Method::GET, url, authorization: None, body: Bytes::new() }
    }

    /// Asks; code and body of the answer. Redirections are not followed.
    ///
    /// # Errors
    /// With what went wrong; never with the body or the authorization that was sent.
    pub(crate) async fn send(self, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<(u16, Bytes), String> {
        let url = self.url.to_owned();
        match tokio::time::timeout(TIMEOUT, self.exchange(tls)).await {
            Ok(answer) => answer.map_err(|why| format!("{url}: {why}")),
            Err(_) => Err(format!("{url}: no answer within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn exchange(self, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<(u16, Bytes), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let uri: Uri = self.url.parse().map_err(|e: http::uri::InvalidUri| text(&e))?;
        let host = uri.host().ok_or("the URL names no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let request = self.request(&uri)?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| text(&e))?;
        if !secure {
            return speak(stream, request).await;
        }
        let name = ServerName::try_from(host).map_err(|e| text(&e))?;
        let stream = TlsConnector::from(tls.ok_or("no authority is trusted")?.clone())
            .connect(name, stream)
            .await
            .map_err(|e| text(&e))?;
        speak(stream, request).await
    }

    fn request(self, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let authority = uri.authority().map_or("", |a| a.as_str()).to_owned();
        let mut request = Request::builder()
            .method(self.method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver/pilothouse");
        if let Some(authorization) = self.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| "the credential is no header")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(self.body)).map_err(|e| e.to_string())
    }
}

async fn speak<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        Ok((code, body.to_bytes()))
    }
    .await;
    driver.abort();
    answer
}
