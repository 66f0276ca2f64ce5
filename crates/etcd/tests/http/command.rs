//! The command with its flags: what listens where, and what it answers there.

use std::path::Path;
use std::sync::Arc;

use base::{FakeClock, Timestamp};
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
        Self::start_by(command, clock())
    }

    fn start_by(command: Command, clock: base::Clock) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        Self { stop, done: tokio::spawn(etcd::run_command(command, clock, entropy(), shutdown)) }
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

/// The page of a member once every line is there; each is a name with labels, and whether its value is more than 0. Time
/// passes meanwhile.
async fn page_with(port: u16, lines: &[(String, bool)], time: &FakeClock) -> String {
    let found = |page: &str, (name, is_some): &(String, bool)| {
        let value = page.lines().find_map(|line| line.strip_prefix(name.as_str())?.strip_prefix(' '));
        value.is_some_and(|value| (value != "0") == *is_some)
    };
    let mut last = String::new();
    let ask = async {
        loop {
            time.advance(std::time::Duration::from_millis(100));
            let asked = tokio::time::timeout(std::time::Duration::from_millis(200), get(port, "/metrics", "x")).await;
            last = asked.map(|(_, _, page)| page).unwrap_or_default();
            if lines.iter().all(|line| found(&last, line)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, ask).await;
    assert!(in_time.is_ok(), "{lines:?}: {last}");
    last
}

/// What etcd's alerts and dashboards read of the ways between members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_between_members_is_counted_by_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let (clients, peers) = ([port().await, port().await], [port().await, port().await]);
    let cluster = format!("m0=http://127.0.0.1:{},m1=http://127.0.0.1:{}", peers[0], peers[1]);
    let time = FakeClock::new(Timestamp::from_unix_seconds(1_700_000_000));
    let start = |i: usize| {
        let (client, peer) = (clients[i], peers[i]);
        let args = [
            format!("--name=m{i}"),
            format!("--data-dir={}", dir.path().join(format!("m{i}")).display()),
            format!("--initial-cluster={cluster}"),
            format!("--listen-client-urls=http://127.0.0.1:{client}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        ];
        let command = etcd::command(args.map(std::ffi::OsString::from).to_vec(), |_| None).expect("good flags");
        Running::start_by(command, time.clock())
    };
    let (first, second) = (start(0), start(1));
    let mut ids = Vec::new();
    for client in clients {
        let page = page_with(client, &[("etcd_server_has_leader".to_owned(), true)], &time).await;
        let id = page.lines().find_map(|line| line.strip_prefix("etcd_server_id{server_id=\"")?.strip_suffix("\"} 1"));
        ids.push(id.expect("a member knows its id").to_owned());
    }
    let pair = format!("{{Local=\"{}\",Remote=\"{}\"}}", ids[0], ids[1]);
    let (to, from) = (format!("{{To=\"{}\"}}", ids[1]), format!("{{From=\"{}\"}}", ids[1]));
    let connected = [
        (format!("etcd_network_active_peers{pair}"), true),
        (format!("etcd_network_known_peers{pair}"), true),
        (format!("etcd_network_peer_sent_bytes_total{to}"), true),
        (format!("etcd_network_peer_received_bytes_total{from}"), true),
        (format!("etcd_network_peer_round_trip_time_seconds_count{to}"), true),
        ("etcd_disk_backend_commit_duration_seconds_count".to_owned(), true),
    ];
    page_with(clients[0], &connected, &time).await;
    let mut leader = clients[0];
    for client in clients {
        let page = get(client, "/metrics", "x").await.2;
        if page.contains("\netcd_server_is_leader 1\n") {
            leader = client;
        }
    }
    // More than twice a heartbeat's interval at once, less than an election takes.
    time.advance(std::time::Duration::from_millis(450));
    page_with(leader, &[("etcd_server_heartbeat_send_failures_total".to_owned(), true)], &time).await;
    second.stop().await;
    let lost = [
        (format!("etcd_network_active_peers{pair}"), false),
        (format!("etcd_network_disconnected_peers_total{pair}"), true),
        (format!("etcd_network_peer_sent_failures_total{to}"), true),
    ];
    page_with(clients[0], &lost, &time).await;
    first.stop().await;
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
