//! Watches over WebSockets, as programs in browsers open them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use machinery::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::forged::robot_token;
use crate::headers::{connect, serving};
use crate::support::{Cluster, MAPS, map};

const LIMIT: Duration = Duration::from_secs(20);

/// A robot that may do everything: its token, as a subprotocol.
async fn robot(c: &Cluster) -> String {
    let token = robot_token(c).await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "robot"}]});
    c.object(Method::POST, &format!("/apis/{group}/v1/clusterrolebindings"), binding).await.unwrap();
    format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token))
}

/// The head that answers, and the connection after it.
async fn ask(
    stream: TlsStream<TcpStream>,
    path: &str,
    protocols: &str,
    more: &str,
) -> (String, WebSocketStream<TlsStream<TcpStream>>) {
    let mut stream = stream;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {protocols}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    (answer, WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_a_websocket_is_a_message_an_event() {
    let (c, address) = serving().await;
    let protocols = format!("{}, v1", robot(&c).await);
    c.object(Method::POST, MAPS, map("first")).await.unwrap();
    let origin = "Origin: https://example.com\r\n";
    let path = format!("{MAPS}?watch=1&timeoutSeconds=30");
    let (answer, mut socket) = ask(connect(&c, address, b"http/1.1").await, &path, &protocols, origin).await;
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: v1\r\n") && !answer.contains("base64url"), "{answer}");
    let mut next = async || match tokio::time::timeout(LIMIT, socket.next()).await.unwrap() {
        Some(Ok(Message::Text(text))) => Value::from_slice(text.as_bytes()).unwrap(),
        other => panic!("{other:?}"),
    };
    let seen =
        |event: &Value| (event.str_at(&["type"]).to_owned(), event.str_at(&["object", "metadata", "name"]).to_owned());
    let first = next().await;
    assert_eq!(seen(&first), ("ADDED".to_owned(), "first".to_owned()));
    c.object(Method::POST, MAPS, map("second")).await.unwrap();
    assert_eq!(seen(&next().await), ("ADDED".to_owned(), "second".to_owned()));
    c.object(Method::DELETE, &format!("{MAPS}/first"), Value::Null).await.unwrap();
    assert_eq!(seen(&next().await), ("DELETED".to_owned(), "first".to_owned()));
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_with_its_watch() {
    let (c, address) = serving().await;
    let protocols = format!("{}, v1", robot(&c).await);
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let stream = connect(&c, address, b"http/1.1").await;
    let (_, mut socket) = ask(stream, &path, &protocols, "Origin: https://example.com\r\n").await;
    let last = tokio::time::timeout(LIMIT, socket.next()).await.unwrap();
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_watch_is_answered_as_without_a_websocket() {
    let (c, address) = serving().await;
    let token = robot(&c).await;
    let origin = "Origin: https://example.com\r\n";
    for (path, protocols, more, code) in [
        (MAPS.to_owned(), format!("{token}, v1"), origin, "200"),
        (format!("{MAPS}?watch=1"), "v1".to_owned(), origin, "403"),
        (format!("{MAPS}?watch=1"), format!("{token}, v1"), "", "403"),
        (format!("{MAPS}?watch=1"), format!("{token}, v1, v2"), origin, "400"),
    ] {
        let (answer, _) = ask(connect(&c, address, b"http/1.1").await, &path, &protocols, more).await;
        assert!(answer.starts_with(&format!("http/1.1 {code} ")), "{path} {more}: {answer}");
    }
}
