//! GKE's metadata server as the pods of a node see it, with Workload Identity: each pod gets tokens of its own service account.
//!
//! ```text
//! pod ─► who is it? the address it calls (or calls from) ─► the node asks for the pod's token (TokenRequest, bound to the pod)
//!         └─► Security Token Service ─► is the account annotated? no: this token · yes: generateAccessToken, generateIdToken
//! ```
//! A pod's server is there from the moment somebody wants to play the pod until the pod is gone.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base::Timestamp;
use gke::access;
use gke::metadata::{self, Machine, Outcome, POD_SCOPES, Reply, Request};
use machinery::{Value, json};
use tracing::{info, warn};

use super::callers::{self, is_unnamed};
use super::nodes::{Accepting, HTTP, NodeServers, Shared, own_names, tokio_listener};
use super::{http, wait};
use crate::fleet::listen_on_alias;
use crate::fleet::questions::{Answer, NodeQuestion, PodFacts, PodNews, TokenNews};

/// Pods of one cluster that are played at a time.
const PODS_MAX: usize = 1000;
/// Between two looks at an instance that does not answer; doubled each time, up to the second.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The server of one pod.
pub(super) struct PodServer {
    pub(super) address: SocketAddr,
    pub(super) facts: PodFacts,
    namespace: String,
    name: String,
    /// Accepts until this is dropped.
    _accepting: Accepting,
    /// Looks whether the pod is still there.
    _following: Accepting,
}

/// A pod that asks.
#[derive(Clone)]
struct Pod {
    namespace: String,
    name: String,
    facts: PodFacts,
}

impl NodeServers {
    /// Where a pod finds its metadata server: one of its own with Workload Identity, else its node's.
    ///
    /// # Errors
    /// When no node has the pod, or it has no network yet.
    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Result<SocketAddr> {
        let (facts, rest) = self.0.find(namespace, name).await?;
        ensure!(facts.started, "pod {namespace}/{name} has no network yet: it is still being started");
        let serves = self.0.known(&facts.node).is_some_and(|(node, _)| node.settings.serves_pods);
        if facts.host_network || !serves {
            return self.node(&facts.node);
        }
        if let Some(server) = self.0.lock().pods.get(&facts.uid) {
            return Ok(server.address);
        }
        let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned(), facts };
        self.0.serve(pod, rest)
    }
}

/// Answers a pod; `address` is where it called.
pub(super) fn handler(shared: &Arc<Shared>, pod: &PodServer, address: SocketAddr) -> http::Handler {
    let pod = Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), facts: pod.facts.clone() };
    handler_of(shared, pod, address)
}

fn handler_of(shared: &Arc<Shared>, pod: Pod, address: SocketAddr) -> http::Handler {
    let (shared, pod) = (Arc::clone(shared), Arc::new(pod));
    Arc::new(move |request| {
        let (shared, pod) = (Arc::clone(&shared), Arc::clone(&pod));
        Box::pin(async move {
            if let Some(refusal) = metadata::guard(&request, &own_names(address)) {
                return refusal;
            }
            wait(&request, shared.changes.subscribe(), || Box::pin(shared.look_as(&pod, &request))).await
        })
    })
}

impl Shared {
    /// The pod, and the stream on which is told what becomes of it.
    async fn find(&self, namespace: &str, name: &str) -> Result<(PodFacts, Answer)> {
        let cluster = self.cluster().context("the cluster is gone")?;
        let question = NodeQuestion::Pod { namespace: namespace.to_owned(), name: name.to_owned(), node: None };
        let asked = (0..cluster.instance_count()).map(async |place| {
            let mut answer = cluster.question(place, question.clone()).await.ok()?;
            match answer.next::<PodNews>().await {
                Some(PodNews::Here(facts)) => Some((facts, answer)),
                Some(PodNews::Gone) | None => None,
            }
        });
        let found = futures_util::future::join_all(asked).await.into_iter().flatten().next();
        found.with_context(|| format!("no node of cluster {} has a pod {namespace}/{name}", self.facts.spec.name))
    }

    fn serve(self: &Arc<Self>, pod: Pod, rest: Answer) -> Result<SocketAddr> {
        let listener = listen_on_alias(HTTP, &self.facts.entropy)?;
        let address = listener.local_addr()?;
        let mut servers = self.lock();
        // Somebody else may have been faster.
        if let Some(server) = servers.pods.get(&pod.facts.uid) {
            return Ok(server.address);
        }
        if servers.pods.len() >= PODS_MAX {
            bail!("{PODS_MAX} pods of cluster {} are played already", self.facts.spec.name);
        }
        let (weak, own) = (Arc::downgrade(self), pod.clone());
        let admit: callers::Admit = Arc::new(move |ip| {
            let shared = weak.upgrade()?;
            (is_unnamed(ip) || ip == address.ip()).then(|| handler_of(&shared, own.clone(), address))
        });
        let name = format!("{}/{}", pod.namespace, pod.name);
        let serving = callers::serve(tokio_listener(listener)?, name.clone(), Arc::clone(&self.room), admit);
        let _accepting = Accepting(tokio::spawn(serving).abort_handle());
        let _following = Accepting(tokio::spawn(follow(Arc::downgrade(self), pod.clone(), rest)).abort_handle());
        info!(target: "metadata", pod = name, node = pod.facts.node, %address, "a pod's metadata server is there");
        let Pod { namespace, name, facts } = pod;
        let uid = facts.uid.clone();
        servers.pods.insert(uid, PodServer { address, facts, namespace, name, _accepting, _following });
        Ok(address)
    }

    async fn look_as(&self, pod: &Pod, request: &Request) -> Reply {
        let Some((node, machine)) = self.known(&pod.facts.node) else { return metadata::internal_error() };
        let named = match self.google_account(pod).await {
            Ok(named) => named,
            Err(error) => return failed(pod, &error),
        };
        let account = named.clone().unwrap_or_else(|| access::workload_pool(&self.facts.spec.project));
        let machine =
            Machine { account, scopes: POD_SCOPES.map(str::to_owned).into(), ..self.machine(&node, &machine) };
        match metadata::answer_for_pod(&machine, request) {
            Outcome::Done(reply) => reply,
            Outcome::Token { scopes, .. } => self.access_token(pod, named, scopes).await,
            Outcome::Identity { audience, full, .. } => match named {
                Some(account) => self.identity_token(pod, &account, &audience, full).await,
                None => {
                    let message = format!("Not found; Gaia id not found for email {}", machine.account);
                    metadata::no_token("identity token", 404, &message)
                }
            },
        }
    }

    /// As which Google account the pod's service account is to act.
    async fn google_account(&self, pod: &Pod) -> Result<Option<String>> {
        let (namespace, account) = (pod.namespace.clone(), pod.facts.account.clone());
        self.ask(pod, NodeQuestion::Account { namespace, account }).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, pod: &Pod, question: NodeQuestion) -> Result<T> {
        let cluster = self.cluster().context("the cluster is gone")?;
        let place = cluster.place_of(&pod.facts.node).context("the node is gone")?;
        cluster.ask(place, &question).await
    }

    /// The pod's own token at Google, and for how many seconds it is good.
    async fn federated(&self, pod: &Pod, scopes: &[String]) -> Result<(String, i64)> {
        let spec = &self.facts.spec;
        let pool = access::workload_pool(&spec.project);
        let Pod { namespace, name, facts } = pod.clone();
        let question =
            NodeQuestion::Token { node: facts.node, namespace, name, uid: facts.uid, audience: pool.clone() };
        let token = match self.ask(pod, question).await? {
            TokenNews::Token(token) => token,
            TokenNews::Refused(why) => bail!("the node may have no token of the pod: {why}"),
        };
        let issuer = access::issuer(&spec.project, &spec.location, &spec.name);
        let body = json!({"grantType": GRANT, "audience": format!("identitynamespace:{pool}:{issuer}"),
            "scope": scopes.join(" "), "requestedTokenType": ACCESS_TOKEN, "subjectToken": token.0,
            "subjectTokenType": JWT});
        let (code, answer) = self.post("/v1/token".to_owned(), String::new(), body).await?;
        ensure!(code == 200, "the Security Token Service says {code}: {}", answer.str_at(&["error_description"]));
        Ok((answer.str_at(&["access_token"]).to_owned(), answer["expires_in"].as_i64().unwrap_or_default()))
    }

    async fn post(&self, path: String, token: String, body: Value) -> Result<(u16, Value)> {
        let cloud = self.facts.cloud.get().cloned().context("there is no cloud")?;
        Ok(tokio::task::spawn_blocking(move || cloud.post(&path, &token, &body)).await?)
    }

    async fn access_token(&self, pod: &Pod, named: Option<String>, asked: Vec<String>) -> Reply {
        let scopes = if asked.is_empty() { POD_SCOPES.map(str::to_owned).into() } else { asked };
        let Some(account) = named else {
            return match self.federated(pod, &scopes).await {
                Ok((token, seconds)) => Reply::token(&token, seconds),
                Err(error) => failed(pod, &error),
            };
        };
        let mut body = Value::object();
        body.set("scope", scopes);
        match self.act_as(pod, &account, "generateAccessToken", body).await {
            Ok((200, answer)) => {
                let end = Timestamp::parse(answer.str_at(&["expireTime"])).unwrap_or_default();
                let left = end.unix_seconds() - self.facts.clock.now().unix_seconds();
                Reply::token(answer.str_at(&["accessToken"]), left)
            }
            Ok((code, answer)) => metadata::no_token("access token", code, answer.str_at(&["error", "message"])),
            Err(error) => failed(pod, &error),
        }
    }

    async fn identity_token(&self, pod: &Pod, account: &str, audience: &str, full: bool) -> Reply {
        let mut body = json!({"includeEmail": full});
        body.set("audience", audience);
        match self.act_as(pod, account, "generateIdToken", body).await {
            Ok((200, answer)) => Reply::identity(answer.str_at(&["token"])),
            Ok((code, answer)) => metadata::no_token("identity token", code, answer.str_at(&["error", "message"])),
            Err(error) => failed(pod, &error),
        }
    }

    /// What IAM answers when the pod acts as a Google account.
    async fn act_as(&self, pod: &Pod, account: &str, action: &str, body: Value) -> Result<(u16, Value)> {
        let (federated, _) = self.federated(pod, &[POD_SCOPES[0].to_owned()]).await?;
        self.post(format!("/v1/projects/-/serviceAccounts/{account}:{action}"), federated, body).await
    }
}

fn failed(pod: &Pod, error: &anyhow::Error) -> Reply {
    warn!(target: "metadata", namespace = pod.namespace, pod = pod.name, "no answer to a pod: {error:#}");
    metadata::internal_error()
}

/// Closes the pod's server when the pod is gone; an instance that is started again is asked anew.
async fn follow(shared: Weak<Shared>, pod: Pod, mut news: Answer) {
    let Pod { namespace, name, facts } = pod;
    let mut retry = RETRY;
    loop {
        match news.next::<PodNews>().await {
            Some(PodNews::Here(now)) if now.uid == facts.uid => {
                retry = RETRY;
                continue;
            }
            Some(PodNews::Here(_) | PodNews::Gone) => break,
            None => {}
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
        let Some(cluster) = shared.upgrade().and_then(|shared| shared.cluster()) else { return };
        let Some(place) = cluster.place_of(&facts.node) else { break };
        let node = Some(facts.node.clone());
        let question = NodeQuestion::Pod { namespace: namespace.clone(), name: name.clone(), node };
        match cluster.question(place, question).await {
            Ok(answer) => news = answer,
            Err(_) => break,
        }
    }
    if let Some(shared) = shared.upgrade() {
        info!(target: "metadata", namespace, pod = name, "the pod is gone, and so is its metadata server");
        // Ends this task too.
        shared.lock().pods.remove(&facts.uid);
    }
}
