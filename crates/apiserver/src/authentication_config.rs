//! kube-system's ConfigMap `extension-apiserver-authentication`: how aggregated API servers tell who calls them. Kept as
//! upstream's `clusterauthenticationtrust` controller keeps it: what is missing is added, what others added stays.

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use http::Method;
use machinery::{ObjectKey, Status, Value, json, meta};

use crate::crd::call;
use crate::message::Body;
use crate::server::Inner;

const NAME: &str = "extension-apiserver-authentication";
const PATH: &str = "/api/v1/namespaces/kube-system/configmaps";
/// Where authorities are; the other members are lists.
const AUTHORITIES: [&str; 2] = ["client-ca-file", "requestheader-client-ca-file"];
/// How long an authority stays after its end.
const SLACK: Duration = Duration::from_secs(300);

impl Inner {
    /// The ConfigMap as this server alone would have it.
    pub(crate) fn authentication_config(&self) -> Value {
        let config = &self.config;
        let mut data = json!({"client-ca-file": config.client_ca});
        if !config.front_proxy_ca.is_empty() {
            data.set("requestheader-client-ca-file", config.front_proxy_ca.as_str());
            let headers = &config.request_header;
            let mut lists = vec![
                ("requestheader-allowed-names", &headers.allowed_names),
                ("requestheader-extra-headers-prefix", &headers.extra_prefixes),
                ("requestheader-group-headers", &headers.groups),
                ("requestheader-username-headers", &headers.username),
            ];
            if !headers.uid.is_empty() && self.registry.load().features().enabled("RemoteRequestHeaderUID") {
                lists.push(("requestheader-uid-headers", &headers.uid));
            }
            for (member, words) in lists {
                data.set(member, Value::from(words.clone()).to_string());
            }
        }
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": "kube-system"}});
        object.set("data", data);
        object
    }
}

/// Puts it back whenever it has gone or lacks something.
pub(crate) async fn keep(server: Arc<Inner>) {
    let Some(cache) = server.caches.started("/registry/configmaps/") else { return };
    let mut changed = cache.subscribe();
    let mut stop = server.stop.subscribe();
    let key = ObjectKey { namespace: "kube-system".into(), name: NAME.into() };
    let mut seen = None;
    changed.mark_changed();
    loop {
        tokio::select! {
            () = crate::watch::stopped(&mut stop) => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
        let found = cache.get(&key);
        let revision = found.as_ref().map(|found| found.revision);
        if revision.is_some() && revision == seen {
            continue;
        }
        match settle(&server, found.as_ref().map(|found| &*found.object)).await {
            Ok(()) => seen = revision,
            Err(status) => tracing::debug!(%status, "keeping {NAME}"),
        }
    }
}

async fn settle(server: &Arc<Inner>, found: Option<&Value>) -> Result<(), Status> {
    let wanted = server.authentication_config();
    let Some(found) = found else {
        return call(server, Method::POST, PATH, Body::Tree(wanted)).await.map(drop);
    };
    let data = combined(&found["data"], &wanted["data"], server.config.clock.now());
    if data == found["data"] {
        return Ok(());
    }
    let mut new = found.clone();
    new.set("data", data);
    call(server, Method::PUT, &format!("{PATH}/{}", meta::name(found)), Body::Tree(new)).await.map(drop)
}

/// What both say. Members that are no part of it go, and so do authorities that have ended.
fn combined(have: &Value, wanted: &Value, now: Timestamp) -> Value {
    let mut data = Value::object();
    for (member, own) in wanted.members() {
        let (have, own) = (have.str_at(&[member]), own.as_str().unwrap_or_default());
        let both = if AUTHORITIES.contains(&member) { authorities(have, own, now) } else { words(have, own) };
        data.set(member, both);
    }
    data
}

/// The words of both JSON lists; of one that cannot be read none.
fn words(have: &str, own: &str) -> String {
    let mut all: Vec<Value> = Vec::new();
    for text in [have, own] {
        let list = Value::from_slice(text.as_bytes()).unwrap_or_default();
        for word in list.items() {
            if !all.contains(word) {
                all.push(word.clone());
            }
        }
    }
    Value::Array(all).to_string()
}

/// The certificates of both bundles that are not over.
fn authorities(have: &str, own: &str, now: Timestamp) -> String {
    let mut all = Vec::new();
    for text in [have, own] {
        for certificate in pki::pem::certificates(text).unwrap_or_default() {
            let counts = pki::subject(&certificate).is_ok_and(|subject| subject.not_after + SLACK > now);
            if counts && !all.contains(&certificate) {
                all.push(certificate);
            }
        }
    }
    all.iter().map(pki::pem::certificate).collect()
}
