//! Groups that a token only points to: asked for at the endpoint it names, over TLS, with the access token it holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use apiserver::TrustedIssuer;
use machinery::Value;
use pki::{Authority, ClientCertificates, Profile, ServingCertificate, Signer};
use policy::jwt::AuthenticationConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Cluster, cluster};

/// An identity provider: what it serves by path, and what it was asked with.
#[derive(Default)]
struct Provider {
    pages: Mutex<BTreeMap<String, (u16, String)>>,
    asked: Mutex<Vec<(String, String)>>,
}

impl Provider {
    fn serve(&self, path: &str, code: u16, body: impl Into<String>) {
        self.pages.lock().unwrap().insert(path.to_owned(), (code, body.into()));
    }

    fn answer(&self, head: &str) -> String {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let authorization = head.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        self.asked.lock().unwrap().push((path.clone(), authorization.to_owned()));
        let (code, body) = self.pages.lock().unwrap().get(&path).cloned().unwrap_or((404, String::new()));
        format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    fn times(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }
}

/// Starts one under the cluster's authority; its URL.
async fn provider(c: &Cluster) -> (Arc<Provider>, String) {
    let serving = Profile::ApiServerServing { dns: vec!["localhost".into()], ips: Vec::new() };
    let serving = ServingCertificate::new(&c.identity(&serving).await).unwrap();
    let tls = pki::server_config(serving, ClientCertificates::None, &[], &c.clock.clock()).unwrap();
    let (listener, provider) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(Provider::default()));
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let keys = c.signer.jwks().await.unwrap().to_string();
    for name in ["", "/other"] {
        let document = json!({"issuer": format!("{url}{name}"), "jwks_uri": format!("{url}/keys")}).to_string();
        provider.serve(&format!("{name}/.well-known/openid-configuration"), 200, document);
    }
    provider.serve("/keys", 200, keys);
    let (serving, acceptor) = (Arc::clone(&provider), TlsAcceptor::from(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (provider, acceptor) = (Arc::clone(&serving), acceptor.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let answer = provider.answer(&String::from_utf8_lossy(&head));
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (provider, url)
}

async fn trust(c: &Cluster, url: &str) {
    let config = format!(
        "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\njwt:\n\
         - issuer: {{url: '{url}', audiences: [here]}}\n  claimMappings:\n    username: {{claim: sub, prefix: ''}}\n    \
         groups: {{claim: groups, prefix: 'g:'}}\n"
    );
    let rules = AuthenticationConfig::parse(config.as_bytes(), &[], &["RS256"]).unwrap().jwt.remove(0);
    let roots = c.signer.certificate(Authority::Cluster).await.unwrap();
    let issuer = TrustedIssuer::new(rules, &roots, &c.clock.clock()).unwrap();
    c.server.set_issuers(&[issuer]).await.unwrap();
}

async fn signed(signer: &Signer, url: &str, more: serde_json::Value) -> String {
    let mut claims = json!({"iss": url, "aud": "here", "sub": "jane", "exp": 1_800_003_600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    signer.sign_jwt(claims).await.unwrap()
}

fn groups(user: &Value) -> Vec<&str> {
    user["groups"].items().iter().filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_asked_for_where_the_token_says() {
    let c = cluster().await;
    let (idp, url) = provider(&c).await;
    trust(&c, &url).await;
    let points_to = |path: &str, token: &str, id: u32| {
        let source = json!({"endpoint": format!("{url}{path}"), "access_token": token});
        json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": source}, "jti": id.to_string()})
    };
    let other = format!("{url}/other");
    idp.serve("/own", 200, signed(&c.signer, &url, json!({"groups": ["dev", "ops"]})).await + "\n");
    idp.serve("/other-issuer", 200, signed(&c.signer, &other, json!({"groups": "team"})).await);
    for (path, token, asked_with, expected) in [
        ("/own", "f005ba11", "Bearer f005ba11", vec!["g:dev", "g:ops", "system:authenticated"]),
        ("/other-issuer", "", "", vec!["g:team", "system:authenticated"]),
    ] {
        let jwt = signed(&c.signer, &url, points_to(path, token, 1)).await;
        for _ in 0..3 {
            assert_eq!(groups(&c.whois(Vec::new(), &jwt).await.unwrap()), expected, "{path}");
        }
        assert_eq!(idp.times(path), 1, "kept for a while");
        assert!(idp.asked.lock().unwrap().contains(&(path.to_owned(), asked_with.to_owned())), "{path}");
        c.clock.advance(std::time::Duration::from_secs(11));
        assert!(c.whois(Vec::new(), &jwt).await.is_ok());
        assert_eq!(idp.times(path), 2, "and asked for again");
    }
    // The token's own groups go before.
    let mut both = points_to("/never", "", 2);
    both["groups"] = json!(["own"]);
    let user = c.whois(Vec::new(), &signed(&c.signer, &url, both).await).await.unwrap();
    assert_eq!(groups(&user), ["g:own", "system:authenticated"]);
    assert_eq!(idp.times("/never"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_nobody_vouches_for_make_a_token_worthless() {
    let (c, strangers) = (cluster().await, cluster().await);
    let (idp, url) = provider(&c).await;
    trust(&c, &url).await;
    let good = json!({"groups": ["root"]});
    idp.serve("/forged", 200, signed(&strangers.signer, &url, good.clone()).await);
    idp.serve("/elsewhere", 200, signed(&c.signer, "https://localhost:1/nobody", good.clone()).await);
    idp.serve("/audience", 200, signed(&c.signer, &url, json!({"groups": ["root"], "aud": "there"})).await);
    idp.serve("/expired", 200, signed(&c.signer, &url, json!({"groups": ["root"], "exp": 1_700_000_000})).await);
    idp.serve("/without", 200, signed(&c.signer, &url, json!({})).await);
    idp.serve("/text", 200, "groups");
    idp.serve("/broken", 500, signed(&c.signer, &url, good).await);
    for path in ["/forged", "/elsewhere", "/audience", "/expired", "/without", "/text", "/broken", "/missing"] {
        let source = json!({"endpoint": format!("{url}{path}"), "access_token": "line\nbreak"});
        let plain = json!({"endpoint": format!("{url}{path}")});
        for source in [source, plain] {
            let claims = json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": source}});
            let jwt = signed(&c.signer, &url, claims).await;
            assert_eq!(c.whois(Vec::new(), &jwt).await.unwrap_err().code, 401, "{path}");
        }
        assert_eq!(idp.times(path), 1, "{path}: a credential that is no header is not sent");
    }
    // Nobody is asked on behalf of a token that is over.
    let claims = json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": {"endpoint": format!("{url}/late")}},
        "exp": 1_700_000_000});
    assert_eq!(c.whois(Vec::new(), &signed(&c.signer, &url, claims).await).await.unwrap_err().code, 401);
    assert_eq!(idp.times("/late"), 0);
}
