//! Checksums among members: `/members/hashkv` of the peer port, in etcd's form (`server/etcdserver/corrupt.go`).

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use mvcc::{HashKv, MvccError};
use serde::{Deserialize, Serialize};
use tonic::body::Body;

use super::{PeerNetwork, dial};
use crate::{LocalStore, http_routes};

/// Where it is asked.
pub(super) const PATH: &str = "/members/hashkv";
/// Tells clusters apart.
const CLUSTER: &str = "X-Etcd-Cluster-ID";
/// Longest question or answer.
const BYTES_MAX: usize = 64 << 10;
const COMPACTED: &str = "mvcc: required revision has been compacted";
const FUTURE: &str = "mvcc: required revision is a future revision";
const OTHER_CLUSTER: &str = "cluster ID mismatch";

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Question {
    revision: i64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Header {
    revision: i64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Answer {
    header: Header,
    hash: u32,
    compact_revision: i64,
    hash_revision: i64,
}

/// Why a member did not tell its checksum.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It has compacted the revision away: this member is behind.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// It does not have the revision yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// It belongs to another cluster.
    #[error("etcdserver: cluster ID mismatch")]
    OtherCluster,
    /// It could not be asked, or said something else.
    #[error("{0}")]
    Other(String),
}

/// Asks a member, at one of its URLs, for its checksum at a revision.
///
/// # Errors
/// When it cannot be reached or does not know.
pub(crate) async fn ask(network: &PeerNetwork, cluster_id: u64, url: &str, revision: i64) -> Result<HashKv, Refused> {
    let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
    let stream = dial::open(network, url).await.map_err(|error| other(&super::tls::in_words(&error)))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| other(&error))?;
    let question = serde_json::to_vec(&Question { revision }).map_err(|error| other(&error))?;
    let request = Request::get(PATH)
        .header(header::HOST, url.split_once("://").map_or(url, |(_, host)| host))
        .header(header::CONTENT_TYPE, "application/json")
        .header(CLUSTER, format!("{cluster_id:x}"))
        .body(Full::new(bytes::Bytes::from(question)))
        .map_err(|error| other(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| other(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| other(&error))?.to_bytes()))
    };
    tokio::pin!(exchange);
    let (status, body) = tokio::select! {
        answer = &mut exchange => answer?,
        // The connection ends after its answer, which may lie there unread.
        ended = connection => {
            ended.map_err(|error| other(&error))?;
            exchange.await?
        }
    };
    let text = String::from_utf8_lossy(&body);
    match status {
        StatusCode::OK => {
            let answer: Answer = serde_json::from_slice(&body).map_err(|error| other(&error))?;
            Ok(HashKv {
                hash: answer.hash,
                compact_revision: answer.compact_revision,
                hash_revision: answer.hash_revision,
                revision: answer.header.revision,
            })
        }
        StatusCode::BAD_REQUEST if text.contains(COMPACTED) => Err(Refused::Compacted),
        StatusCode::BAD_REQUEST if text.contains(FUTURE) => Err(Refused::Future),
        StatusCode::PRECONDITION_FAILED if text.contains(OTHER_CLUSTER) => Err(Refused::OtherCluster),
        _ => Err(Refused::Other(format!("unknown error: {text}"))),
    }
}

/// Answers such a question.
pub(super) async fn answer(store: &LocalStore, headers: &HeaderMap, body: hyper::body::Incoming) -> Response<Body> {
    let cluster = format!("{:x}", store.shared.cluster_id);
    let asked = headers.get(CLUSTER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !asked.is_empty() && asked != cluster {
        return http_routes::plain_error(StatusCode::PRECONDITION_FAILED, OTHER_CLUSTER);
    }
    let Ok(body) = Limited::new(body, BYTES_MAX).collect().await else {
        return http_routes::plain_error(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Ok(Question { revision }) = serde_json::from_slice(&body.to_bytes()) else {
        return http_routes::plain_error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let snapshot = store.shared.published().snapshot.clone();
    let hash = tokio::task::spawn_blocking(move || snapshot.hash_kv(revision)).await;
    let hash = match hash {
        Ok(Ok(hash)) => hash,
        Ok(Err(MvccError::Compacted { .. })) => return http_routes::plain_error(StatusCode::BAD_REQUEST, COMPACTED),
        Ok(Err(MvccError::FutureRevision)) => return http_routes::plain_error(StatusCode::BAD_REQUEST, FUTURE),
        Ok(Err(error)) => return http_routes::plain_error(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => return http_routes::plain_error(StatusCode::INTERNAL_SERVER_ERROR, "the checksum could not be made"),
    };
    let answer = Answer {
        header: Header { revision: hash.revision },
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let mut response = http_routes::typed(StatusCode::OK, "application/json", text);
    if let Ok(cluster) = http::HeaderValue::from_str(&cluster) {
        response.headers_mut().insert(CLUSTER, cluster);
    }
    response
}
