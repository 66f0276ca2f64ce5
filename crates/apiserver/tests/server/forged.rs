//! Bad guests with forged papers: refused with 401, soon, and what they showed is in no log.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use apiserver::{Body, Peer, Request};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use machinery::{Value, json};
use pki::Profile;

use crate::support::{Cluster, cluster};

/// Longer than any refusal takes, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Everything that was logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_env_filter("trace").with_writer(move || writer.clone()).finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    log
});

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub(crate) async fn robot_token(c: &Cluster) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    c.object(Method::POST, accounts, account).await.unwrap();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = c.object(Method::POST, &format!("{accounts}/robot/token"), request).await.unwrap();
    made.str_at(&["status", "token"]).to_owned()
}

/// HS256 over the text with this key.
fn hmac(key: &[u8], text: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    format!("{text}.{}", part(aws_lc_rs::hmac::sign(&key, text.as_bytes())))
}

async fn forgeries(c: &Cluster, good: &str) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = good.split('.').collect();
    let head: Value = Value::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let keys = c.signer.jwks().await.unwrap();
    let number = |name: &str| keys["keys"][0][name].as_str().unwrap().to_owned();
    let with = |alg: &str| {
        let mut head = head.clone();
        head.set("alg", alg);
        format!("{}.{}", part(head.to_string()), parts[1])
    };
    let mut claims: Value = Value::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims.set("sub", "system:serviceaccount:kube-system:admin");
    let other_claims = format!("{}.{}.{}", parts[0], part(claims.to_string()), parts[2]);
    let set = keys.to_string();
    let embedded = json!({"alg": "RS256", "jwk": {"kty": "RSA", "n": number("n"), "e": "Aw"}}).to_string();
    vec![
        ("alg none", format!("{}.", with("none"))),
        ("alg None with the signature", format!("{}.{}", with("None"), parts[2])),
        ("HS256 with the modulus", hmac(number("n").as_bytes(), &with("HS256"))),
        ("HS256 with the modulus' bytes", hmac(&URL_SAFE_NO_PAD.decode(number("n")).unwrap(), &with("HS256"))),
        ("HS256 with the published keys", hmac(set.as_bytes(), &with("HS256"))),
        ("HS256 with nothing", hmac(b"", &with("HS256"))),
        ("RS512 with an RS256 signature", format!("{}.{}", with("RS512"), parts[2])),
        ("a key of its own", format!("{}.{}.{}", part(embedded), parts[1], parts[2])),
        ("other claims", other_claims),
        ("a fourth part", format!("{good}.x")),
        ("padding", format!("{good}=")),
        ("a line's end", format!("{good} ")),
        ("another alphabet", good.replace('-', "+").replace('_', "/") + "+"),
        ("deep claims", format!("{}.{}.x", parts[0], part("[".repeat(300_000)))),
        ("a giant", "a.".repeat(400_000)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused_soon_and_never_logged() {
    LazyLock::force(&LOG);
    let (c, other) = (cluster().await, cluster().await);
    let good = robot_token(&c).await;
    assert_eq!(c.whoami(Vec::new(), &good).await.unwrap(), "system:serviceaccount:default:robot");
    let mut all = forgeries(&c, &good).await;
    all.push(("another cluster's", robot_token(&other).await));
    for (what, bad) in &all {
        // A token with a space at its end is the token: HTTP cuts it off.
        if *what == "a line's end" {
            assert!(c.whoami(Vec::new(), bad).await.is_ok(), "{what}");
            continue;
        }
        let answer = tokio::time::timeout(SOON, c.whoami(Vec::new(), bad)).await;
        let status = answer.unwrap_or_else(|_| panic!("{what} takes too long")).expect_err(what);
        assert_eq!((status.code, status.message.as_str()), (401, "Unauthorized"), "{what}");
    }
    let log = String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned();
    assert!(log.contains("service account"), "something was logged");
    for (what, token) in all.iter().chain([&("the good one", good.clone())]) {
        for piece in token.split('.').filter(|piece| piece.len() > 30) {
            assert!(!log.contains(&piece[..30]), "{what} is in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_front_proxy_count_with_its_certificate_only() {
    let c = cluster().await;
    let headers = |pairs: &[(&'static str, &str)]| {
        let all = pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap()));
        all.collect::<HeaderMap>()
    };
    let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
    let smuggled = [("x-remote-user", "admin"), ("x-remote-group", "system:masters"), ("x-remote-extra-a", "b")];
    let nobody = c.server.identify(&Peer::new(remote, Vec::new()), "/x", &headers(&smuggled)).await.unwrap();
    assert_eq!((nobody.name.as_str(), nobody.groups.len()), ("system:anonymous", 1));
    let jane = Profile::KubeClient { user: "jane".to_owned(), groups: Vec::new() };
    let chain = c.identity(&jane).await.chain().to_vec();
    let user = c.server.identify(&Peer::new(remote, chain), "/x", &headers(&smuggled)).await.unwrap();
    assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jane", ["system:authenticated".to_owned()].as_slice()));
    let cases = [
        ("Bearer", Ok("system:anonymous")),
        ("Bearer ", Ok("system:anonymous")),
        ("bearer\tx", Ok("system:anonymous")),
        ("Digest x", Ok("system:anonymous")),
        ("Bearer x", Err(401)),
        ("Basic YWRtaW46eA==", Err(401)),
    ];
    for (shown, expect) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(shown).unwrap());
        let answer = c.server.identify(&Peer::new(remote, Vec::new()), "/livez", &headers).await;
        assert_eq!(answer.as_ref().map(|who| who.name.as_str()).map_err(|status| status.code), expect, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_may_hide_its_token_among_the_subprotocols() {
    let c = cluster().await;
    let good = URL_SAFE_NO_PAD.encode(robot_token(&c).await);
    let bad = URL_SAFE_NO_PAD.encode("nobody's");
    let peer = Peer::new(SocketAddr::from(([127, 0, 0, 1], 4000)), Vec::new());
    let ask = async |protocols: &str| {
        let headers = HeaderMap::from_iter([
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::CONNECTION, HeaderValue::from_static("Upgrade")),
            (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).unwrap()),
        ]);
        c.server.identify(&peer, "/livez", &headers).await.map(|user| user.name).map_err(|status| status.code)
    };
    let prefix = "base64url.bearer.authorization.k8s.io.";
    let robot = Ok("system:serviceaccount:default:robot".to_owned());
    assert_eq!(ask(&format!("{prefix}{good}, v4.channel.k8s.io")).await, robot);
    assert_eq!(ask(&format!("{prefix}{good}")).await, Err(401), "no second protocol");
    assert_eq!(ask(&format!("{prefix}{bad}, v4.channel.k8s.io")).await, Err(401));
    assert_eq!(ask("v4.channel.k8s.io").await, Ok("system:anonymous".to_owned()));
}

/// Names are compared byte by byte: what looks like another name is not it.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_alike_are_not_alike() {
    let c = cluster().await;
    let odd = ["system:masters\u{200b}", "ѕystem:masters", "System:Masters", "system:masters ", " system:masters"];
    let groups = odd.iter().map(|g| (*g).to_owned()).collect();
    let profile = Profile::KubeClient { user: "jane\u{202e}nimda".to_owned(), groups };
    let chain = c.identity(&profile).await.chain().to_vec();
    let peer = Arc::new(Peer::new(SocketAddr::from(([127, 0, 0, 1], 4000)), chain));
    let user = c.server.identify(&peer, "/x", &HeaderMap::new()).await.unwrap();
    assert_eq!(user.name, "jane\u{202e}nimda");
    assert!(!user.in_group("system:masters"), "{:?}", user.groups);
    let request = Request {
        caller: apiserver::Caller::Connection(peer),
        method: Method::GET,
        path: "/api/v1/secrets".to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        body: Body::Empty,
    };
    assert_eq!(c.server.handle(request).await.code, 403);
}
