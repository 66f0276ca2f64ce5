//! What each request pays for being let in: who asks, and whether it may. In this process, as neither has a wire of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use apiserver::{ApiServer, Body, Config, Peer, Request};
use base::{Entropy, FakeClock, Timestamp};
use http::{HeaderMap, HeaderValue, Method, header};
use machinery::{ObjectKey, Value, json};
use pki::{Authority, MemoryVault, Profile, Requester, Signer, SignerCore, request_identity};
use policy::rbac::{Rbac, RbacKind};
use policy::{Attributes, UserInfo};

use crate::phase::{Server, micros, now};

const BINDINGS: usize = 1000;
/// Roles that a group has, where all bindings name it.
const ROLES: usize = 20;
/// The clock is asked once for so many.
const ROUND: u32 = 100;

/// Times decisions among a thousand bindings, and the authentication of a certificate and of a token that were seen before.
///
/// # Errors
/// When the server in this process does not start, or does not know whom it should.
pub(crate) async fn run(server: &Server) -> Result<()> {
    decisions(server).await?;
    authentication(server).await
}

async fn decisions(server: &Server) -> Result<()> {
    let own = bindings(|i| (format!("user-{i}"), format!("role-{i}")), BINDINGS);
    let user = UserInfo::authenticated(&format!("user-{}", BINDINGS / 2), &["team"]);
    measure(server, "each with a user and a role of its own", &own, &user, BINDINGS / 2).await?;
    let shared = bindings(|i| ("team".to_owned(), format!("role-{}", i % ROLES)), ROLES);
    measure(server, &format!("all of one group, {ROLES} roles"), &shared, &user, ROLES - 1).await?;
    let many = bindings(|i| ("team".to_owned(), format!("role-{i}")), BINDINGS);
    measure(server, "all of one group, each with a role of its own", &many, &user, BINDINGS - 1).await
}

/// Every role lets its holders get a resource that is named like it.
fn bindings(subject_and_role: impl Fn(usize) -> (String, String), roles: usize) -> Rbac {
    let mut rbac = Rbac::new();
    for i in 0..roles {
        let mut rule = json!({"apiGroups": ["g"], "verbs": ["get"]});
        rule.set("resources", vec![Value::from(format!("things-{i}"))]);
        let mut role = Value::object();
        role.set("rules", vec![rule]);
        rbac.apply(RbacKind::ClusterRole, &ObjectKey::new("", &format!("role-{i}")), Some(&role));
    }
    for i in 0..BINDINGS {
        let (subject, role) = subject_and_role(i);
        let mut named = json!({"kind": "User"});
        if subject == "team" {
            named.set("kind", "Group");
        }
        named.set("name", subject);
        let mut binding = json!({"roleRef": {"kind": "ClusterRole"}});
        binding["roleRef"].set("name", role);
        binding.set("subjects", vec![named]);
        rbac.apply(RbacKind::ClusterRoleBinding, &ObjectKey::new("", &format!("binding-{i}")), Some(&binding));
    }
    rbac
}

async fn measure(server: &Server, label: &str, rbac: &Rbac, user: &UserInfo, last: usize) -> Result<()> {
    let allowed = format!("things-{last}");
    for (what, resource, expected) in [("allowed", allowed.as_str(), true), ("refused", "others", false)] {
        let asked = Attributes { namespace: "default", ..Attributes::resource(user, "get", "g", resource) };
        ensure!(rbac.authorize(&asked).allowed == expected, "{label}: {what}");
        let once = async || drop(std::hint::black_box(rbac.authorize(std::hint::black_box(&asked))));
        time(server, &format!("RBAC, {BINDINGS} bindings, {label}: {what}"), once).await;
    }
    Ok(())
}

async fn time(server: &Server, measure: &str, mut once: impl AsyncFnMut()) {
    let (began, mut times) = (now(), Vec::new());
    while began.elapsed() < server.duration {
        let started = now();
        for _ in 0..ROUND {
            once().await;
        }
        times.push(started.elapsed());
    }
    times.sort_unstable();
    server.say(measure, micros(times[times.len() / 2]) / f64::from(ROUND), "µs");
}

async fn authentication(server: &Server) -> Result<()> {
    let fake = FakeClock::new(Timestamp::from_unix_seconds(1_800_000_000));
    let (clock, entropy) = (fake.clock(), Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).unwrap_or_default()));
    let member = etcd::Member::start(etcd::MemberConfig::new("bench", clock.clone(), entropy.clone()))?;
    let core = Arc::new(SignerCore::open("bench", Arc::new(MemoryVault::default()), clock.clone(), entropy.clone())?);
    let signer = Signer::InProcess(core, Requester::Instance);
    let ca = signer.certificate(Authority::Cluster).await?;
    let serving = Profile::ApiServerServing { dns: vec!["localhost".to_owned()], ips: Vec::new() };
    let serving = request_identity(&signer, &serving, None).await?;
    let api = ApiServer::start(Config::new(member.store(), clock, entropy, signer.clone(), serving, ca)).await?;

    let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
    let jane = Profile::KubeClient { user: "jane".to_owned(), groups: vec!["devs".to_owned()] };
    let jane = request_identity(&signer, &jane, None).await?;
    let shown = Peer::new(remote, jane.chain().to_vec());
    identify(server, "a certificate of an open connection", &api, &shown, &HeaderMap::new(), "jane").await?;
    let token = token(&api).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    let nobody = Peer::new(remote, Vec::new());
    let account = "system:serviceaccount:default:robot";
    identify(server, "a service-account token seen before", &api, &nobody, &headers, account).await
}

/// Of a service account that is made for it.
async fn token(api: &ApiServer) -> Result<String> {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let make = async |path: &str, body: Value| {
        let administrator = UserInfo::authenticated("bench", &["system:masters"]);
        let request = Request::verified(&administrator, Method::POST, path, "", Body::Tree(body));
        api.handle(request).await.into_object().map_err(|status| anyhow!(status.message))
    };
    make(accounts, json!({"metadata": {"name": "robot"}})).await?;
    Ok(make(&format!("{accounts}/robot/token"), json!({"spec": {}})).await?.str_at(&["status", "token"]).to_owned())
}

async fn identify(
    server: &Server,
    label: &str,
    api: &ApiServer,
    peer: &Peer,
    headers: &HeaderMap,
    expected: &str,
) -> Result<()> {
    let user = api.identify(peer, "/api", headers).await.map_err(|status| anyhow!(status.message))?;
    ensure!(user.name == expected, "{label}: taken for {}", user.name);
    let once = async || drop(std::hint::black_box(api.identify(peer, "/api", headers).await));
    time(server, &format!("authentication, {label}"), once).await;
    Ok(())
}
