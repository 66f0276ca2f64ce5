//! The JSON gateway: gRPC's methods as `POST /v3/…`, as etcd's grpc-gateway has them.
//!
//! ```text
//! JSON ─ scan ─ decode ─► protobuf ─► the same service as for gRPC ─► protobuf ─► JSON, a line each for streams
//! ```
//! Everything goes by descriptors and the table in `methods`: a method has no code of its own here.

mod decode;
mod scan;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::calls::{Answer, Inbound, PREFIX, too_large_message};
use crate::methods::{Kind, METHODS};
use crate::proto::DESCRIPTORS;
use crate::router::Router;
use scan::Scan;

/// Messages inside of answers may be as large as protobuf allows.
const OPTIONS: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);
/// Base64 makes four bytes of three, and there are names around them.
const JSON_FACTOR: usize = 2;

/// The methods by path, made at the first request: most members are never asked.
#[derive(Default)]
pub(crate) struct Gateway(OnceLock<BTreeMap<String, Route>>);

#[derive(Clone)]
struct Route {
    kind: Kind,
    /// gRPC's path.
    method: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

fn routes() -> BTreeMap<String, Route> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
    let mut routes = BTreeMap::new();
    for row in METHODS {
        let service = pool.get_service_by_name(row.service);
        let described = service.and_then(|service| service.methods().find(|method| method.name() == row.name));
        let Some(described) = described else { continue };
        let route = Route {
            kind: row.kind,
            method: format!("/{}/{}", row.service, row.name),
            input: described.input(),
            output: described.output(),
        };
        routes.extend(row.paths.iter().map(|path| (format!("/v3/{path}"), route.clone())));
    }
    routes
}

impl Gateway {
    /// Answers a request below `/v3/`.
    pub(crate) async fn answer(&self, router: &Arc<Router>, request: Request<Incoming>) -> Response<Body> {
        let Some(route) = self.0.get_or_init(routes).get(request.uri().path()) else {
            return error(&Status::not_found("Not Found"));
        };
        if method_of(&request) != Method::POST {
            return error(&Status::unimplemented("Method Not Allowed"));
        }
        let answered = match timeout(request.headers()) {
            Err(status) => Err(status),
            Ok(None) => route.serve(router, request).await,
            Ok(Some(limit)) => match tokio::time::timeout(limit, route.serve(router, request)).await {
                Ok(answered) => answered,
                Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
            },
        };
        answered.unwrap_or_else(|status| error(&status))
    }
}

/// The method asked for: a form may name another than it uses.
fn method_of<B>(request: &Request<B>) -> Method {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let form = text("content-type") == Some("application/x-www-form-urlencoded");
    match text("x-http-method-override") {
        Some(method) if form && request.method() == Method::POST && !method.is_empty() => {
            Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default()
        }
        _ => request.method().clone(),
    }
}

/// The header `Grpc-Timeout`: digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout").filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let invalid = || Status::invalid_argument(format!("invalid grpc-timeout: {text}"));
    let unit = text.chars().next_back().ok_or_else(invalid)?;
    let digits = &text[..text.len() - unit.len_utf8()];
    let number: u64 = digits.parse().map_err(|_| invalid())?;
    let limit = match unit {
        'H' => Duration::from_secs(number.saturating_mul(3600)),
        'M' => Duration::from_secs(number.saturating_mul(60)),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return Err(invalid()),
    };
    Ok((!limit.is_zero()).then_some(limit))
}

/// The credentials and metadata that a request's headers carry on.
fn metadata(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::new();
    if let Some(token) = from.get(header::AUTHORIZATION) {
        to.insert(header::AUTHORIZATION, token.clone());
    }
    for (name, value) in from {
        let name = name.as_str().strip_prefix("grpc-metadata-").map(|name| HeaderName::from_bytes(name.as_bytes()));
        if let Some(Ok(name)) = name {
            to.append(name, value.clone());
        }
    }
    to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    to
}

impl Route {
    async fn serve(&self, router: &Arc<Router>, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let body = if self.kind == Kind::BidiStream {
            Body::new(stream::Messages::new(body, self.input.clone(), router.bytes_max() * JSON_FACTOR))
        } else {
            let frame = self.read(body, router.bytes_max()).await?;
            Body::new(Full::new(frame))
        };
        let mut call = Request::new(Inbound::Local(body));
        *call.method_mut() = Method::POST;
        *call.uri_mut() = self.method.parse().map_err(|_| Status::internal("a method without a path"))?;
        *call.headers_mut() = metadata(&parts.headers);
        *call.extensions_mut() = parts.extensions;
        let response = router.call(call, None).await;
        if self.kind == Kind::Unary { self.unary(response).await } else { Ok(self.stream(response).await) }
    }

    /// The one message of a request, with gRPC's prefix. An empty body is an empty message.
    async fn read(&self, body: Incoming, bytes_max: usize) -> Result<Bytes, Status> {
        let json_max = bytes_max * JSON_FACTOR;
        let body = Limited::new(body, json_max).collect().await;
        let body = body.map_err(|_| too_large_message(json_max + 1, json_max))?.to_bytes();
        let value = match scan::scan(&body, true) {
            Scan::Value(range) => &body[range],
            Scan::Nothing => return Ok(frame(&DynamicMessage::new(self.input.clone()))),
            Scan::More => return Err(Status::invalid_argument("unexpected EOF")),
            Scan::Bad(what) => return Err(Status::invalid_argument(what)),
        };
        decode::decode(value, &self.input).map(|message| frame(&message)).map_err(Status::invalid_argument)
    }

    async fn unary(&self, response: Response<Answer>) -> Result<Response<Body>, Status> {
        let (parts, body) = response.into_parts();
        if let Some(status) = failure(&parts.headers) {
            return Err(status);
        }
        let collected = body.collect().await?;
        if let Some(status) = collected.trailers().and_then(failure) {
            return Err(status);
        }
        let mut out = BytesMut::new();
        self.write(&collected.to_bytes(), &mut out)?;
        let mut response = Response::new(Body::new(Full::new(out.freeze())));
        success_headers(response.headers_mut());
        Ok(response)
    }

    /// Answers when the first message or the end is there: until then it may still become an error.
    async fn stream(&self, response: Response<Answer>) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let begun = match failure(&parts.headers) {
            Some(status) => Err(status),
            None => stream::Lines::begin(body, self.clone()).await,
        };
        let (status, body) = match begun {
            Ok(lines) => (StatusCode::OK, Body::new(lines)),
            Err(status) => (http_status(status.code()), Body::new(Full::new(stream::error_line(&status)))),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        success_headers(response.headers_mut());
        response
    }

    /// Writes the message behind gRPC's prefix as JSON.
    fn write(&self, framed: &[u8], out: &mut BytesMut) -> Result<(), Status> {
        let broken = |what: String| Status::internal(what);
        let message = framed.get(PREFIX..).ok_or_else(|| broken("unexpected EOF".to_owned()))?;
        let message =
            DynamicMessage::decode(self.output.clone(), message).map_err(|error| broken(error.to_string()))?;
        let mut serializer = serde_json::Serializer::new(out.writer());
        message.serialize_with_options(&mut serializer, &OPTIONS).map_err(|error| broken(error.to_string()))
    }
}

fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}

/// The error in headers or trailers.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

fn success_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
}

/// `google.rpc.Status` as JSON.
fn status_json(status: &Status) -> String {
    let message = serde_json::Value::from(status.message());
    match (i32::from(status.code()), status.message()) {
        (0, _) => "{}".to_owned(),
        (code, "") => format!(r#"{{"code":{code}}}"#),
        (code, _) => format!(r#"{{"code":{code},"message":{message}}}"#),
    }
}

fn error(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(status_json(status)))));
    *response.status_mut() = http_status(status.code());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
    }
    response
}

/// The HTTP status that grpc-gateway gives a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // Client closed request: a number that only nginx knows a name for.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_becomes_a_route() {
        let routes = routes();
        let paths: usize = METHODS.iter().map(|row| row.paths.len()).sum();
        assert_eq!(routes.len(), paths);
        assert_eq!(routes["/v3/kv/lease/revoke"].method, "/etcdserverpb.Lease/LeaseRevoke");
    }

    #[test]
    fn time_outs_have_the_units_of_grpc() {
        let check = |text: &str, expect: Option<Duration>| {
            let value = HeaderValue::from_bytes(text.as_bytes()).expect("a value");
            let headers = [(HeaderName::from_static("grpc-timeout"), value)].into_iter().collect();
            assert_eq!(timeout(&headers).ok().flatten(), expect, "{text}");
        };
        check("5S", Some(Duration::from_secs(5)));
        check("20m", Some(Duration::from_millis(20)));
        check("1n", Some(Duration::from_nanos(1)));
        check("5", None);
        check("zz", None);
        check("1ü", None);
    }
}
