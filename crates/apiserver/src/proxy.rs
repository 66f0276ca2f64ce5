//! `nodes/NAME/proxy/…`: the request goes on to the node's kubelet, under this server's own client certificate.
//!
//! Whom the kubelet lets in is this server's business, so the caller's credentials stay here (upstream drops the
//! `Authorization` header the same way). Answers are handed on whole; streams are not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use machinery::{Reason, Status};
use registry::Resource;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::message::{Body, Content, Reply};
use crate::server::Call;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer of a kubelet that is handed on.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A kubelet's port, as Nodes show it.
const KUBELET_PORT: &str = "10250";

/// Finds where a node's kubelet listens.
pub type FindKubelet = Arc<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>;

/// How kubelets are reached.
#[derive(Clone)]
pub struct Kubelets {
    /// Shows this server's client certificate, and trusts the cluster CA.
    pub tls: Arc<rustls::ClientConfig>,
    /// By the node's name, which the kubelet's certificate must have too.
    pub find: FindKubelet,
}

impl Call<'_> {
    /// Passes the request on to a kubelet.
    ///
    /// # Errors
    /// 404 without such a node, 503 when its kubelet does not answer.
    pub(crate) async fn node_proxy(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let name = node_name(&self.info.name)?;
        if self.server.current(row, "", name).await?.is_none() {
            return Err(Status::not_found(&row.group_resource(), name));
        }
        let unreachable =
            |why: String| Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {why}"));
        let kubelets = self.server.config.kubelets.as_ref();
        let (Some(kubelets), Some(address)) = (kubelets, kubelets.and_then(|k| (k.find)(name))) else {
            return Err(unreachable(format!("no address is known for node {name}")));
        };
        let connect = connect(kubelets, name, address);
        let mut sender = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| unreachable(format!("dial tcp {address}: i/o timeout")))?
            .map_err(|error| unreachable(format!("dial tcp {address}: {error}")))?;
        let request = self.request_to(name)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
            Ok::<_, String>((parts, body.to_bytes()))
        };
        let (parts, body) = tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .map_err(|_| unreachable("the kubelet did not answer in time".to_owned()))?
            .map_err(unreachable)?;
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(Reply::new(parts.status.as_u16(), Content::Bytes { content_type: content_type.to_owned(), body }))
    }

    fn request_to(&self, name: &str) -> Result<http::Request<Full<Bytes>>, Status> {
        let path = path_at_kubelet(&self.info.path);
        let query = self.query.encoded();
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let body = match &self.body {
            Body::Empty => Bytes::new(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Tree(tree) => tree.to_string().into(),
        };
        let method = match self.info.verb.as_str() {
            "create" => http::Method::POST,
            "update" => http::Method::PUT,
            "patch" => http::Method::PATCH,
            "delete" => http::Method::DELETE,
            _ => http::Method::GET,
        };
        let mut request = http::Request::builder().method(method).uri(target).header(header::HOST, name);
        for kept in [header::ACCEPT, header::CONTENT_TYPE] {
            if let Some(value) = self.headers.get(&kept) {
                request = request.header(kept, value);
            }
        }
        request.body(Full::new(body)).map_err(|e| Status::bad_request(e.to_string()))
    }
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`; only the kubelet's own port is there to be reached.
fn node_name(id: &str) -> Result<&str, Status> {
    let parts: Vec<&str> = id.split(':').collect();
    match parts[..] {
        [name] | [name, KUBELET_PORT | ""] | ["https", name, KUBELET_PORT | ""] => Ok(name),
        [_, port] | [_, _, port] => {
            let why = format!("error trying to reach service: nodes answer on port {KUBELET_PORT} only, not {port}");
            Err(Status::new(Reason::ServiceUnavailable, why))
        }
        _ => Err(Status::bad_request(format!("invalid node request {id:?}"))),
    }
}

/// What follows `…/nodes/NAME/proxy`.
fn path_at_kubelet(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/').splitn(6, '/').nth(5).unwrap_or_default())
}

async fn connect(
    kubelets: &Kubelets,
    name: &str,
    address: SocketAddr,
) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = tokio_rustls::TlsConnector::from(kubelets.tls.clone());
    let tls = connector.connect(ServerName::try_from(name.to_owned())?, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a kubelet ended");
        }
    });
    Ok(sender)
}

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubelets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kubelets_own_port_is_reached() {
        for id in ["n", "n:10250", "https:n:10250", "n:"] {
            assert_eq!(node_name(id).unwrap(), "n", "{id}");
        }
        for id in ["n:22", "http:n:80", "http:n:10250", "a:b:c:d"] {
            assert!(node_name(id).is_err(), "{id}");
        }
    }

    #[test]
    fn the_rest_of_the_path_is_the_kubelets() {
        assert_eq!(path_at_kubelet("/api/v1/nodes/n/proxy"), "/");
        assert_eq!(path_at_kubelet("/api/v1/nodes/n/proxy/pods"), "/pods");
        assert_eq!(path_at_kubelet("/api/v1/nodes/proxy/proxy/logs/proxy/x"), "/logs/proxy/x");
    }
}
