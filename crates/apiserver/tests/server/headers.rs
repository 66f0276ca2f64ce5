//! Headers over real connections: how much of them is read, and what of them an answer has.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::Authority;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Cluster, cluster};

/// Go's `http.DefaultMaxHeaderBytes`, and what it reads beyond.
const BYTES_MAX: usize = 1024 * 1024 + 4096;

pub(crate) async fn serving() -> (Cluster, SocketAddr) {
    let c = cluster().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = c.server.clone();
    tokio::spawn(async move { server.serve(listener).await });
    (c, address)
}

pub(crate) async fn connect(c: &Cluster, address: SocketAddr, alpn: &[u8]) -> TlsStream<TcpStream> {
    let authority = c.signer.certificate(Authority::Cluster).await.unwrap();
    let tls = pki::client_config(&authority, None, &[alpn], &c.clock.clock()).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(tls).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

/// The status line that answers this head over HTTP/1.1.
async fn answer(c: &Cluster, address: SocketAddr, head: String) -> String {
    let (mut read, mut write) = tokio::io::split(connect(c, address, b"http/1.1").await);
    let writing = tokio::spawn(async move {
        let _ = write.write_all(head.as_bytes()).await;
        let _ = write.flush().await;
        write
    });
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(read.read_u8().await.unwrap());
    }
    drop(writing.await.unwrap());
    String::from_utf8(line).unwrap()
}

async fn ask(c: &Cluster, address: SocketAddr, name: &str, value: &str) -> Response<Incoming> {
    let stream = connect(c, address, b"h2").await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/version").header(name, value).body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_read_up_to_a_mebibyte() {
    let (c, address) = serving().await;
    let head = |headers: &str| format!("GET /version HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let big = |bytes: usize| format!("X-Big: {}\r\n", "a".repeat(bytes));
    for bytes in [150_000, 500_000, 1_000_000] {
        let line = answer(&c, address, head(&big(bytes))).await;
        assert!(line.starts_with("HTTP/1.1 200"), "{bytes}: {line}");
        let response = ask(&c, address, "x-big", &"a".repeat(bytes)).await;
        assert_eq!(response.status(), StatusCode::OK, "{bytes}");
    }
    let many: String = (0..1000).map(|i| format!("X-{i}: a\r\n")).collect();
    assert!(answer(&c, address, head(&many)).await.starts_with("HTTP/1.1 200"));
    // Without an end, so that nothing is left unread that would reset the connection before its answer is heard.
    let endless = format!("GET /version HTTP/1.1\r\nX-Big: {}", "a".repeat(BYTES_MAX));
    assert!(answer(&c, address, endless).await.starts_with("HTTP/1.1 431"));
    let response = ask(&c, address, "x-big", &"a".repeat(1_060_000)).await;
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_no_scheme_and_an_ignored_token_is_told_of() {
    let (c, address) = serving().await;
    let refused = ask(&c, address, "authorization", "Bearer nobody").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(!refused.headers().contains_key(header::WWW_AUTHENTICATE), "upstream sends none");
    let ignored = ask(&c, address, "authorization", "Bearer  nobody").await;
    assert_eq!(ignored.status(), StatusCode::OK);
    let warning =
        "299 - \"the provided Authorization header contains extra space before the bearer token, and is ignored\"";
    assert_eq!(ignored.headers()[header::WARNING], warning);
}
