//! Who calls a kubelet's server, and may they: client certificates of the cluster CA or tokens that the API server knows;
//! then the API server's authorizer is asked (`pkg/kubelet/server/auth.go`). Answers are remembered for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use http::{HeaderMap, Method, header};
use machinery::{GroupVersionResource, Status, Value, json};
use pki::ClientVerifier;
use policy::UserInfo;
use rustls::pki_types::CertificateDer;

use crate::api::{Api, Request, collection_path};

/// The kubelet's defaults: `authentication.webhook.cacheTTL`, `authorization.webhook.cacheAuthorizedTTL` and
/// `cacheUnauthorizedTTL`.
const TOKEN_TTL: Duration = Duration::from_secs(2 * 60);
const ALLOWED_TTL: Duration = Duration::from_secs(5 * 60);
const REFUSED_TTL: Duration = Duration::from_secs(30);
/// Answers that are remembered; all are forgotten when there are more.
const REMEMBERED_MAX: usize = 512;

/// The doorkeeper of one node.
pub(super) struct Access {
    node: String,
    api: Api,
    clients: ClientVerifier,
    clock: Clock,
    tokens: Memory<Option<UserInfo>>,
    decisions: Memory<bool>,
}

impl Access {
    pub(super) fn new(node: &str, api: Api, clients: ClientVerifier, clock: Clock) -> Self {
        let (tokens, decisions) = (Memory::default(), Memory::default());
        Self { node: node.to_owned(), api, clients, clock, tokens, decisions }
    }

    /// The user at the other end; none for credentials that are not good, or not there.
    pub(super) async fn identify(&self, chain: &[CertificateDer<'static>], headers: &HeaderMap) -> Option<UserInfo> {
        if let Some(leaf) = chain.first() {
            let subject = pki::subject(leaf).ok()?;
            self.clients.verify(chain).ok()?;
            return policy::authn::certificate_user(&subject.common_name, &subject.organizations, &pki::sha256(leaf));
        }
        let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let token = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))?.1.trim();
        let now = self.clock.monotonic();
        let key = pki::sha256(token.as_bytes());
        if let Some(known) = self.tokens.get(&key, now) {
            return known;
        }
        let user = self.review(token).await.ok()?;
        self.tokens.put(key, user.clone(), now + TOKEN_TTL);
        user
    }

    async fn review(&self, token: &str) -> Result<Option<UserInfo>, Status> {
        let reviews = GroupVersionResource::new("authentication.k8s.io", "v1", "tokenreviews");
        let mut review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}});
        review["spec"].set("token", token);
        let answer = self.api.call(Request::new("POST", collection_path(&reviews, ""), Some(review))).await?;
        let status = &answer["status"];
        if status["authenticated"].as_bool() != Some(true) {
            return Ok(None);
        }
        let texts = |list: &Value| list.items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let user = &status["user"];
        Ok(Some(UserInfo {
            name: user.str_at(&["username"]).to_owned(),
            uid: user.str_at(&["uid"]).to_owned(),
            groups: texts(&user["groups"]),
            extra: user["extra"].members().map(|(key, list)| (key.to_owned(), texts(list))).collect(),
        }))
    }

    /// May the user do this here?
    ///
    /// # Errors
    /// Code and text of the refusal.
    pub(super) async fn authorize(&self, user: &UserInfo, method: &Method, path: &str) -> Result<(), (u16, String)> {
        let verb = verb(method);
        let subresources = subresources(path);
        for subresource in &subresources {
            match self.may(user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => {
                    let text = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    );
                    return Err((500, text));
                }
            }
        }
        let list = subresources.join(" ");
        Err((403, format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{list}])\n", user.name)))
    }

    async fn may(&self, user: &UserInfo, verb: &str, subresource: &str) -> Result<bool, Status> {
        let now = self.clock.monotonic();
        // The credential's own id differs between certificates of one user; the rest decides.
        let key = format!("{}\n{}\n{}\n{verb}\n{subresource}", user.name, user.uid, user.groups.join("\n"));
        if let Some(known) = self.decisions.get(&key, now) {
            return Ok(known);
        }
        let reviews = GroupVersionResource::new("authorization.k8s.io", "v1", "subjectaccessreviews");
        let mut review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "resourceAttributes": {"version": "v1", "resource": "nodes"}}});
        let spec = &mut review["spec"];
        spec.set("user", user.name.as_str());
        spec.set("uid", user.uid.as_str());
        spec.set("groups", user.groups.clone());
        for (name, value) in [("verb", verb), ("subresource", subresource), ("name", self.node.as_str())] {
            spec["resourceAttributes"].set(name, value);
        }
        let extra = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone())));
        spec.set("extra", extra.collect::<Value>());
        let answer = self.api.call(Request::new("POST", collection_path(&reviews, ""), Some(review))).await?;
        let allowed = answer["status"]["allowed"].as_bool() == Some(true);
        self.decisions.put(key, allowed, now + if allowed { ALLOWED_TTL } else { REFUSED_TTL });
        Ok(allowed)
    }
}

/// Answers with the time until which they hold.
struct Memory<T>(Mutex<BTreeMap<String, (T, Duration)>>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Memory<T> {
    fn get(&self, key: &str, now: Duration) -> Option<T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    fn put(&self, key: String, value: T, until: Duration) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= REMEMBERED_MAX {
            held.clear();
        }
        held.insert(key, (value, until));
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// What must be allowed for a path, one of them: the finer name first (gate `KubeletFineGrainedAuthz`, on since 1.33).
fn subresources(path: &str) -> Vec<&'static str> {
    let within = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    let whole = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let fine = fine.iter().find(|(root, _)| within(root)).map(|(_, name)| *name);
    let rest = whole.iter().find(|(root, _)| within(root)).map_or("proxy", |(_, name)| *name);
    fine.into_iter().chain([rest]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_what_the_kubelet_asks_for() {
        for (path, expect) in [
            ("/pods", &["pods", "proxy"][..]),
            ("/pods/", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/logs/", &["log"]),
            ("/run/default/p/c", &["proxy"]),
            ("/", &["proxy"]),
        ] {
            assert_eq!(subresources(path), expect, "{path}");
        }
    }

    #[test]
    fn answers_are_forgotten_in_time_and_when_there_are_too_many() {
        let memory = Memory::default();
        memory.put("a".to_owned(), true, Duration::from_secs(2));
        assert_eq!(memory.get("a", Duration::from_secs(1)), Some(true));
        assert_eq!(memory.get("a", Duration::from_secs(2)), None);
        for i in 0..=REMEMBERED_MAX {
            memory.put(i.to_string(), true, Duration::from_secs(9));
        }
        assert_eq!(memory.get("0", Duration::ZERO), None);
    }
}
