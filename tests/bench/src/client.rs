//! A minimal HTTPS client: one connection, one request at a time, bodies read raw.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where requests go and as whom.
pub(crate) struct Target {
    host: String,
    port: u16,
    token: String,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// The current context of a kubeconfig with a token.
    pub(crate) fn of(kubeconfig: &Path) -> Result<Self> {
        let config = machinery::yaml::to_value(&fs::read(kubeconfig)?).map_err(anyhow::Error::msg)?;
        let cluster = &config["clusters"][0]["cluster"];
        let server = cluster.str_at(&["server"]).strip_prefix("https://").context("the server's URL")?.to_owned();
        let (host, port) =
            server.rsplit_once(':').map_or((server.as_str(), 443), |(h, p)| (h, p.parse().unwrap_or(443)));
        let pem = match cluster.str_at(&["certificate-authority-data"]) {
            "" => fs::read(cluster.str_at(&["certificate-authority"]))?,
            data => STANDARD.decode(data)?,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|_| anyhow::anyhow!("the authority is not PEM"))?)?;
        }
        let token = config["users"][0]["user"].str_at(&["token"]).to_owned();
        let tls = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        Ok(Self { host: host.to_owned(), port, token, tls })
    }
}

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let tcp = TcpStream::connect((target.host.as_str(), target.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(target.host.clone())?;
        let tls = TlsConnector::from(Arc::clone(&target.tls)).connect(name, tcp).await?;
        let (sender, connection) = handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: target.host.clone(), authorization: format!("Bearer {}", target.token) })
    }

    /// Sends a request and reads the answer whole.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: String) -> Result<(u16, Bytes)> {
        let response = self.request(method, path, body).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends a GET and hands out the answer as it comes; the connection must be kept meanwhile.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Stream> {
        let response = self.request("GET", path, String::new()).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(Stream(response.into_body()))
    }

    async fn request(&mut self, method: &str, path: &str, body: String) -> Result<hyper::Response<Incoming>> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}

/// A body that is still coming.
pub(crate) struct Stream(Incoming);

impl Stream {
    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.frame().await.transpose()?.and_then(|frame| frame.into_data().ok()))
    }
}
