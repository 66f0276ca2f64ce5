//! The command with its flags: what listens where, and what it answers there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use etcd::Command;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::rig::{PATIENCE, clock, entropy, whole};

/// Flags as a command line, with a data directory.
pub(crate) fn read(dir: &Path, flags: &[String]) -> Command {
    let data = [
        format!("--data-dir={}", dir.join("data").display()),
        "--view=false".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
    ];
    let args = data.iter().chain(flags).map(std::ffi::OsString::from).collect();
    etcd::command(args, |_| None).expect("good flags")
}

/// A command that runs.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), etcd::EtcdError>>,
}

impl Running {
    pub(crate) fn start(command: Command) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        Self { stop, done: tokio::spawn(etcd::run_command(command, clock(), entropy(), shutdown)) }
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.done).await.expect("in time").expect("no panic").expect("served");
    }
}

/// A port that nobody uses at the moment.
pub(crate) async fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").port()
}

/// Asks until the server listens.
async fn get(port: u16, path: &str, host: &str) -> (u16, http::HeaderMap, String) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ask = async {
        loop {
            let request = Request::get(format!("http://127.0.0.1:{port}{path}"));
            let request = request.header("host", host).header("origin", "http://page.example:80");
            match client.request(request.body(Full::default()).expect("a request")).await {
                Ok(answer) => return whole(answer).await,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_answers_what_its_flag_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let (clients, metrics) = (port().await, port().await);
    let socket = dir.path().join("etcd.sock");
    let running = Running::start(read(
        dir.path(),
        &[
            format!("--listen-client-urls=http://127.0.0.1:{clients},unix://{}", socket.display()),
            format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
            format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
            "--host-whitelist=good.example".to_owned(),
            "--cors=http://page.example:80".to_owned(),
            "--metrics=extensive".to_owned(),
            "--enable-grpc-gateway=false".to_owned(),
        ],
    ));
    let (status, headers, _) = get(clients, "/health", "good.example").await;
    assert_eq!((status, headers["access-control-allow-origin"].as_bytes()), (200, &b"http://page.example:80"[..]));
    for path in ["/v3", "/v3/kv/range"] {
        let (status, _, text) = get(clients, path, "good.example").await;
        assert_eq!((status, text.as_str()), (404, "404 page not found\n"), "there is no gateway");
    }
    let (status, _, text) = get(clients, "/health", "bad.example").await;
    assert_eq!(status, 421);
    assert!(text.contains("etcd --host-whitelist \"bad.example\""), "{text}");
    let (status, _, page) = get(metrics, "/metrics", "bad.example").await;
    assert_eq!(status, 200);
    assert!(page.contains("grpc_server_handling_seconds_bucket"), "--metrics extensive");
    assert_eq!(get(metrics, "/readyz", "bad.example").await.0, 200);
    assert_eq!(get(metrics, "/version", "bad.example").await.0, 404);
    let stream = UnixStream::connect(&socket).await.expect("it listens");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = Request::get("/version").header("host", "good.example").body(Full::<Bytes>::default());
    assert_eq!(whole(sender.send_request(request.expect("a request")).await.expect("an answer")).await.0, 200);
    drop(sender);
    running.stop().await;
}

#[tokio::test]
async fn a_configuration_file_takes_the_place_of_flags() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = port().await;
    let data = dir.path().join("data");
    let file = dir.path().join("etcd.yaml");
    let text = format!(
        "data-dir: {}\nview: false\nlisten-peer-urls: http://127.0.0.1:0\nlisten-client-urls: http://127.0.0.1:{port}\nadvertise-client-urls: http://127.0.0.1:{port}\n",
        data.display()
    );
    std::fs::write(&file, text).expect("written");
    let args = vec![format!("--config-file={}", file.display()).into(), "--name=ignored".into()];
    let running = Running::start(etcd::command(args, |_| None).expect("good"));
    assert_eq!(get(port, "/health", "x").await.0, 200);
    running.stop().await;
    assert!(data.join("member").exists());
    let refused = etcd::command(vec!["--config-file=/no/such/file".into()], |_| None).expect_err("no file");
    assert_eq!((refused.code, refused.text.as_str()), (1, "open /no/such/file: no such file or directory"));
    std::fs::write(&file, "listen-client-urls: 127.0.0.1:1\n").expect("written");
    let refused = etcd::command(vec![format!("--config-file={}", file.display()).into()], |_| None);
    let text =
        "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: 127.0.0.1:1";
    assert_eq!(refused.expect_err("no URL").text, text);
}

#[tokio::test]
async fn a_client_that_pings_too_often_is_sent_away() {
    let rig = Arc::new(crate::rig::Rig::start().await);
    let address = rig.base.strip_prefix("http://").expect("a URL");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let mut seen = Vec::new();
    let talk = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        stream.write_all(&hello).await.expect("sent");
        for _ in 0..4 {
            stream.write_all(&ping).await.expect("sent");
        }
        let _ = stream.read_to_end(&mut seen).await;
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("in time");
    assert!(seen.ends_with(b"too_many_pings"), "{seen:?}");
}
