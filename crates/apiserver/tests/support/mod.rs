//! A server in this process on a store in memory or on any disk, with a clock that the test moves.
#![allow(dead_code, reason = "each user takes what it needs")]

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::{ApiServer, Body, Caller, Config, Peer, Reply, Request};
use base::{Entropy, FakeClock, Timestamp};
use http::{HeaderMap, HeaderValue, Method, header};
use machinery::{Status, Value, json};
use pki::{Authority, Identity, MemoryVault, Profile, Requester, Signer, SignerCore, request_identity};
use policy::UserInfo;

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) member: etcd::Member,
    pub(crate) clock: FakeClock,
    pub(crate) signer: Signer,
    /// The same as the fleet asks it.
    pub(crate) fleet: Signer,
}

pub(crate) fn entropy() -> Entropy {
    Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap())
}

pub(crate) fn admin() -> UserInfo {
    UserInfo::authenticated("admin", &["system:masters"])
}

pub(crate) fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

pub(crate) async fn cluster() -> Cluster {
    cluster_on(None).await
}

/// Its state is kept there; nowhere: in memory.
pub(crate) async fn cluster_on(storage: Option<etcd::Storage>) -> Cluster {
    let fake = FakeClock::new(Timestamp::from_unix_seconds(1_800_000_000));
    let (clock, entropy) = (fake.clock(), entropy());
    let member = etcd::MemberConfig { storage, ..etcd::MemberConfig::new("m", clock.clone(), entropy.clone()) };
    let member = etcd::Member::start(member).unwrap();
    let core = SignerCore::open("c", Arc::new(MemoryVault::default()), clock.clone(), entropy.clone()).unwrap();
    let core = Arc::new(core);
    let fleet = Signer::InProcess(Arc::clone(&core), Requester::Fleet);
    let signer = Signer::InProcess(core, Requester::Instance);
    let ca = signer.certificate(Authority::Cluster).await.unwrap();
    let serving = Profile::ApiServerServing { dns: vec!["localhost".into()], ips: Vec::new() };
    let serving = request_identity(&signer, &serving, None).await.unwrap();
    let config = Config::new(member.store(), clock, entropy, signer.clone(), serving, ca);
    let server = ApiServer::start(config).await.unwrap();
    Cluster { server, member, clock: fake, signer, fleet }
}

impl Cluster {
    pub(crate) async fn send(&self, user: &UserInfo, method: Method, path: &str, body: Body) -> Reply {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        self.server.handle(Request::verified(user, method, path, query, body)).await
    }

    pub(crate) async fn object(&self, method: Method, path: &str, body: Value) -> Result<Value, Status> {
        let body = if body.is_null() { Body::Empty } else { Body::Tree(body) };
        self.send(&admin(), method, path, body).await.into_object()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Status> {
        self.object(Method::GET, path, Value::Null).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &'static str, patch: Value) -> Result<Value, Status> {
        let request = Request::verified(&admin(), Method::PATCH, path, "", Body::Tree(patch)).content_type(kind);
        self.server.handle(request).await.into_object()
    }

    /// Sends bytes as they would come in from the network.
    pub(crate) async fn bytes(
        &self,
        content_type: &'static str,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Value, Status> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let body = Body::Bytes(body.into().into());
        let request = Request::verified(&admin(), Method::POST, path, query, body).content_type(content_type);
        self.server.handle(request).await.into_object()
    }

    /// A certificate and its key, from this cluster's authorities.
    pub(crate) async fn identity(&self, profile: &Profile) -> Identity {
        let store = matches!(profile, Profile::EtcdClient { .. });
        request_identity(if store { &self.fleet } else { &self.signer }, profile, None).await.unwrap()
    }

    /// Who the server takes the holder of a certificate chain and a token for (`kubectl auth whoami`).
    pub(crate) async fn whoami(&self, chain: Vec<Vec<u8>>, token: &str) -> Result<String, Status> {
        self.whois(chain, token).await.map(|user| user.str_at(&["username"]).to_owned())
    }

    /// The same with groups and all.
    pub(crate) async fn whois(&self, chain: Vec<Vec<u8>>, token: &str) -> Result<Value, Status> {
        let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = Request {
            caller: Caller::Connection(Arc::new(Peer::new(remote, chain.into_iter().map(Into::into).collect()))),
            method: Method::POST,
            path: "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned(),
            query: String::new(),
            headers,
            body: Body::Tree(review),
        };
        let review = self.server.handle(request).await.into_object()?;
        Ok(review["status"]["userInfo"].clone())
    }
}
