//! A member with known ids on a port of its own, and an HTTP client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Entropy, FakeClock, Rng, Timestamp};
use bytes::Bytes;
use etcd::{Member, MemberConfig};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn entropy() -> Entropy {
    let rng = Mutex::new(Rng::new(7));
    Entropy::new(move |buffer| {
        let mut rng = rng.lock().expect("no panic while it is held");
        buffer.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
    })
}

pub(crate) fn clock() -> base::Clock {
    FakeClock::new(Timestamp::from_unix_seconds(1_700_000_000)).clock()
}

pub(crate) struct Rig {
    pub(crate) member: Arc<Member>,
    pub(crate) base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    _stop: oneshot::Sender<()>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// A member whose configuration differs from the default.
    pub(crate) async fn with(change: impl FnOnce(MemberConfig) -> MemberConfig) -> Self {
        let config = MemberConfig { cluster_id: 1, ..MemberConfig::new("test", clock(), entropy()) };
        let member = Arc::new(Member::start(change(config)).expect("starts"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = member.clone();
        tokio::spawn(async move { serving.serve_clients(listener, None, async move { drop(stopped.await) }).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { member, base, client, _stop: stop }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        answer.expect("in time").expect("an answer")
    }

    /// Status, headers and body of a request.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let answer = self.send(request.body(Full::from(body.to_owned())).expect("a request")).await;
        let (status, headers, text) = whole(answer).await;
        (status, headers, self.told(&text))
    }

    /// A request with a token.
    pub(crate) async fn ask_as(&self, token: &str, path: &str, body: &str) -> (u16, HeaderMap, String) {
        let request = Request::post(format!("{}{path}", self.base)).header("authorization", token);
        whole(self.send(request.body(Full::from(body.to_owned())).expect("a request")).await).await
    }

    /// A text in which the member's id is 2.
    fn told(&self, text: &str) -> String {
        text.replace(&self.member.id().to_string(), "2")
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let (status, _, text) = self.ask("POST", path, body).await;
        (status, text)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, text) = self.ask("GET", path, "").await;
        (status, text)
    }

    /// A stream of lines.
    pub(crate) async fn lines(&self, path: &str, body: &str) -> Lines {
        let request = Request::post(format!("{}{path}", self.base)).body(Full::from(body.to_owned()));
        let response = self.send(request.expect("a request")).await;
        assert_eq!(response.status(), 200);
        Lines { body: response.into_body(), waiting: Vec::new(), member: self.member.id() }
    }
}

pub(crate) async fn whole(response: Response<Incoming>) -> (u16, HeaderMap, String) {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("in time").expect("a body").to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).expect("text"))
}

pub(crate) struct Lines {
    body: Incoming,
    waiting: Vec<u8>,
    member: u64,
}

impl Lines {
    /// The next line, without its end; nothing when the stream is over.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                let line = String::from_utf8(line).expect("text");
                return Some(line.trim_end().replace(&self.member.to_string(), "2"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            self.waiting.extend(frame.expect("no error").into_data().expect("data"));
        }
    }
}
