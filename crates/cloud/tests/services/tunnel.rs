//! CONNECT on the cloud's port: to the sandbox's own names, and to nothing else.

use cloud::Auth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::start;

/// The head of the answer to a CONNECT, and the connection.
async fn connect(address: &str, target: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_names_of_the_sandbox_are_tunnelled() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = listener.local_addr().unwrap();
    *run.fleet.front_end.lock().unwrap() = Some(far);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&[b"pong".as_slice(), &asked].concat()).await.unwrap();
    });
    let (head, mut tunnel) = connect(&run.address, "GKE-here.gke.goog:443").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    tunnel.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "pongping");
    for elsewhere in ["gke-other.gke.goog:443", "gke-here.gke.goog:80", "example.com:443", &far.to_string(), "x"] {
        let (head, _) = connect(&run.address, elsewhere).await;
        assert!(head.starts_with("HTTP/1.1 40"), "{elsewhere}: {head}");
    }
}
