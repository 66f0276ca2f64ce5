//! A watch over a WebSocket, a message an event (upstream: `handlers.watchServer.HandleWS`). The handshake has the rules of
//! `golang.org/x/net/websocket`, which answers there: an origin must be named, and one subprotocol at most.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Utf8Bytes, error};

use crate::decode::Media;
use crate::encode::{Encoder, Wanted};
use crate::server::ApiServer;
use crate::watch::{WatchEvent, WatchStream};

/// Clients have nothing to say on such a connection.
const RECEIVED_BYTES_MAX: usize = 64 * 1024;
/// What a server adds to the client's key to show that it knows the protocol (RFC 6455 §1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What stands before a protobuf event where events follow each other in one stream: its length.
const FRAME_HEAD_BYTES: usize = 4;

/// A request for a WebSocket that is not answered yet.
pub(crate) struct Handshake {
    upgrade: OnUpgrade,
    answer: Response<&'static str>,
}

impl Handshake {
    /// Of a request that asks for a WebSocket.
    pub(crate) fn begin<B>(request: &mut http::Request<B>) -> Option<Self> {
        if !crate::websocket_token::is_websocket(request.headers()) {
            return None;
        }
        let mut headers = request.headers().clone();
        crate::websocket_token::remove(&mut headers);
        Some(Self { answer: answer(request.method(), &headers), upgrade: hyper::upgrade::on(request) })
    }

    /// Answers; where that is 101, the watch goes on over what the connection becomes.
    pub(crate) fn accept(self, server: ApiServer, watch: WatchStream, wanted: Wanted) -> Response<&'static str> {
        if self.answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = self.upgrade;
            tokio::spawn(async move {
                if let Err(error) = serve(upgrade, &server, watch, wanted).await {
                    tracing::debug!(%error, "a watch over a WebSocket ended");
                }
            });
        }
        self.answer
    }
}

fn answer(method: &Method, headers: &HeaderMap) -> Response<&'static str> {
    let refuse = |code: StatusCode, why: &'static str| {
        let mut response = Response::new(why);
        *response.status_mut() = code;
        response
    };
    if method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "bad method");
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty()) else {
        return refuse(StatusCode::BAD_REQUEST, "mismatch challenge/response");
    };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response = refuse(StatusCode::BAD_REQUEST, "missing or bad WebSocket Version");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    }
    if headers.get(ORIGIN).is_none_or(HeaderValue::is_empty) {
        return refuse(StatusCode::FORBIDDEN, "");
    }
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL).filter(|protocol| !protocol.is_empty());
    if protocol.is_some_and(|protocol| protocol.as_bytes().contains(&b',')) {
        return refuse(StatusCode::BAD_REQUEST, "");
    }
    let Ok(accept) = HeaderValue::from_str(&accept_key(key.as_bytes())) else {
        return refuse(StatusCode::BAD_REQUEST, "");
    };
    let mut response = refuse(StatusCode::SWITCHING_PROTOCOLS, "");
    let answered = response.headers_mut();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answered.extend(protocol.map(|protocol| (SEC_WEBSOCKET_PROTOCOL, protocol.clone())));
    response
}

fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX].concat()))
}

async fn serve(
    upgrade: OnUpgrade,
    server: &ApiServer,
    mut watch: WatchStream,
    wanted: Wanted,
) -> Result<(), error::Error> {
    let Ok(connection) = upgrade.await else { return Ok(()) };
    let config =
        WebSocketConfig::default().max_message_size(Some(RECEIVED_BYTES_MAX)).max_frame_size(Some(RECEIVED_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, Some(config)).await;
    let (mut out, mut incoming) = socket.split();
    let mut first = true;
    loop {
        tokio::select! {
            event = watch.next() => {
                let Some(event) = event else { return out.close().await };
                out.send(message(server, &event, &watch, wanted, first)).await?;
                first = false;
            }
            // Nothing that a client says counts, but reading answers its pings, and hears it leave.
            said = incoming.next() => match said {
                Some(said) => drop(said?),
                None => return Ok(()),
            },
        }
    }
}

fn message(server: &ApiServer, event: &WatchEvent, watch: &WatchStream, wanted: Wanted, first: bool) -> Message {
    let encoder = Encoder { server: &server.inner, wanted, now: server.inner.config.clock.now() };
    let mut encoded = BytesMut::new();
    encoder.event(event, &watch.row, first, &mut encoded);
    let mut encoded: Bytes = encoded.freeze();
    if wanted.media == Media::Protobuf {
        encoded.advance(FRAME_HEAD_BYTES);
        return Message::Binary(encoded);
    }
    Utf8Bytes::try_from(encoded.clone()).map_or(Message::Binary(encoded), Message::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    fn headers(change: impl FnOnce(&mut HeaderMap)) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://example.com"));
        change(&mut headers);
        headers
    }

    #[test]
    fn a_handshake_is_answered_as_the_rules_say() {
        let said = |headers: &HeaderMap| {
            let answer = answer(&Method::GET, headers);
            (answer.status().as_u16(), *answer.body())
        };
        let good = answer(&Method::GET, &headers(|_| ()));
        assert_eq!(good.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(good.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!good.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
        let set = |name, value| headers(|headers| drop(headers.insert(name, HeaderValue::from_static(value))));
        let with_protocol = answer(&Method::GET, &set(SEC_WEBSOCKET_PROTOCOL, "v1"));
        assert_eq!(with_protocol.headers()[SEC_WEBSOCKET_PROTOCOL], "v1");
        assert_eq!(said(&set(SEC_WEBSOCKET_PROTOCOL, "v1,v2")), (400, ""));
        assert_eq!(said(&headers(|headers| drop(headers.remove(ORIGIN)))), (403, ""));
        assert_eq!(
            said(&headers(|headers| drop(headers.remove(SEC_WEBSOCKET_KEY)))),
            (400, "mismatch challenge/response")
        );
        let old = answer(&Method::GET, &set(SEC_WEBSOCKET_VERSION, "8"));
        assert_eq!((old.status().as_u16(), &old.headers()[SEC_WEBSOCKET_VERSION]), (400, &"13".parse().unwrap()));
        assert_eq!(answer(&Method::POST, &headers(|_| ())).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
