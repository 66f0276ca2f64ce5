//! The calls that clients make most, answered without the machinery of streams: one message in, one message out.
//!
//! ```text
//! body ─► one whole message, not compressed? ─► decode ─► the service's method ─► encode ─► one piece and its trailers
//!                         └─ anything else: the generated service, which knows what to say of it
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::Status;

use crate::calls::{PREFIX, Received, Reply};
use crate::grpc::Api;
use crate::proto as pb;
use pb::kv_server::Kv as _;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// What became of a request.
pub(crate) enum Outcome {
    /// It is answered.
    Answered(Response<Reply>),
    /// It is not one of these; its body is as it was.
    Declined(Request<Bytes>),
    /// Its body could not be read.
    Failed(Status),
}

/// The methods that are served here.
#[derive(Clone, Copy)]
pub(crate) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
}

impl Method {
    /// By the path of a request whose messages are sent as they are.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.headers().contains_key(GRPC_ENCODING) {
            return None;
        }
        match request.uri().path().strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Some(Self::Range),
            "Put" => Some(Self::Put),
            "DeleteRange" => Some(Self::DeleteRange),
            "Txn" => Some(Self::Txn),
            _ => None,
        }
    }

    /// Answers a request.
    pub(crate) async fn answer(self, api: &Api, request: Request<Received>) -> Outcome {
        let (head, body) = request.into_parts();
        let request = match body.collect().await {
            Ok(body) => Request::from_parts(head, body.to_bytes()),
            Err(status) => return Outcome::Failed(status),
        };
        match self {
            Self::Range => call(request, |request| api.range(request)).await,
            Self::Put => call(request, |request| api.put(request)).await,
            Self::DeleteRange => call(request, |request| api.delete_range(request)).await,
            Self::Txn => call(request, |request| api.txn(request)).await,
        }
    }
}

async fn call<Q, A, F>(request: Request<Bytes>, method: impl FnOnce(tonic::Request<Q>) -> F) -> Outcome
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<tonic::Response<A>, Status>>,
{
    let Some(message) = message(request.body()).and_then(|message| Q::decode(message).ok()) else {
        return Outcome::Declined(request);
    };
    let called = method(tonic::Request::from_http(request.map(|_| message))).await;
    Outcome::Answered(match called.and_then(|answer| encode(&answer.into_inner())) {
        Ok(message) => {
            let mut response = Response::new(Reply::Message { message: Some(message), ended: false });
            response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        }
        Err(status) => status.into_http(),
    })
}

/// The one message of a body that has nothing else in it.
fn message(body: &Bytes) -> Option<Bytes> {
    let (flag, length) = (*body.first()?, body.get(1..PREFIX)?);
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (flag == 0 && body.len() - PREFIX == length as usize).then(|| body.slice(PREFIX..))
}

fn encode(answer: &impl Message) -> Result<Bytes, Status> {
    let length = answer.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted(format!("grpc: trying to send message larger than max ({length})")))?;
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(prefix);
    answer.encode(&mut out).map_err(|error| Status::internal(error.to_string()))?;
    Ok(out.freeze())
}

/// What ends an answer that went well.
pub(crate) fn ended_well() -> HeaderMap {
    HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_of_one_plain_message_is_taken() {
        let body = |bytes: &[u8]| message(&Bytes::copy_from_slice(bytes));
        assert_eq!(body(&[0, 0, 0, 0, 2, 7, 8]), Some(Bytes::from_static(&[7, 8])));
        assert_eq!(body(&[0, 0, 0, 0, 0]), Some(Bytes::new()));
        let declined: [&[u8]; 6] =
            [&[], &[0, 0, 0, 0], &[1, 0, 0, 0, 1, 7], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 1, 7, 0], &[9, 0, 0, 0, 0]];
        for bytes in declined {
            assert_eq!(body(bytes), None, "{bytes:?}");
        }
    }
}
