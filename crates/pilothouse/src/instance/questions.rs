//! Answers of an instance to the fleet's metadata servers: which pods its nodes have, and what these may be given.

use std::time::Duration;

use controllers::pods;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use machinery::{ObjectKey, Value, meta};
use manager::PodWatch;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tracing::{debug, info};

use crate::fleet::message::Secret;
use crate::fleet::questions::{BootstrapCredential, NodeQuestion, PodFacts, PodNews, TokenNews};
use crate::instance::addons;
use crate::instance::nodes::Shared;

/// A node that was just started knows its pods within this time.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// By which a Kubernetes service account names the Google account that it acts as.
const ANNOTATION: &str = "iam.gke.io/gcp-service-account";

/// Answers one question, and goes on doing so as long as it wants.
pub(super) async fn answer(shared: &Shared, question: NodeQuestion, mut end: UnixStream) {
    match question {
        NodeQuestion::Pod { namespace, name, node } => {
            let key = ObjectKey::new(&namespace, &name);
            match node {
                Some(node) => follow_on(shared, &node, &key, &mut end).await,
                None => find(shared, &key, &mut end).await,
            }
        }
        NodeQuestion::Token { node, namespace, name, uid, audience } => {
            let Some(pods) = shared.pods_of(&node) else { return };
            let key = ObjectKey::new(&namespace, &name);
            let mut answered = pods.token(&key, &uid, &audience).await;
            if matches!(&answered, Err(status) if status.code == 403) {
                // Unless the pod has a volume with such a token, the node must have been granted the audience.
                addons::let_nodes_ask_for(&shared.server, &audience).await;
                answered = pods.token(&key, &uid, &audience).await;
            }
            let answer = match answered {
                Ok(token) => TokenNews::Token(Secret(token)),
                Err(status) => TokenNews::Refused(status.message),
            };
            say(&mut end, &answer).await;
        }
        NodeQuestion::Account { namespace, account } => {
            match addons::read_as_metadata_server(&shared.server, &namespace, &account).await {
                Ok(account) => {
                    let named = account["metadata"]["annotations"].str_at(&[ANNOTATION]).to_owned();
                    say(&mut end, &Some(named).filter(|email| !email.is_empty())).await;
                }
                Err(status) => info!(namespace, account, %status, "a service account cannot be read"),
            }
        }
        NodeQuestion::Bootstrap { shielded } => match shared.secret(shielded)().await {
            Ok(identity) => {
                let key = Secret(String::clone(&identity.key_pem()));
                say(&mut end, &BootstrapCredential { certificate: identity.certificate_pem(), key }).await;
            }
            Err(error) => info!(error, "no bootstrap credential to tell"),
        },
    }
}

/// False when nobody listens any more.
async fn say(end: &mut UnixStream, answer: &impl Serialize) -> bool {
    let mut line = zeroize::Zeroizing::new(serde_json::to_vec(answer).unwrap_or_default());
    line.push(b'\n');
    end.write_all(&line).await.is_ok()
}

/// The node that has the pod, among all.
async fn find(shared: &Shared, key: &ObjectKey, end: &mut UnixStream) {
    let all = shared.all_pods();
    let mut looking: FuturesUnordered<_> = all
        .iter()
        .map(|(node, pods)| async {
            let mut watch = pods.watch(key.clone());
            let pod = watch.next().await.flatten()?;
            Some((node.clone(), pod, watch))
        })
        .collect();
    let found = async {
        while let Some(found) = looking.next().await {
            if found.is_some() {
                return found;
            }
        }
        None
    };
    let found = tokio::time::timeout(NODE_TIMEOUT, found).await.ok().flatten();
    drop(looking);
    drop(all);
    match found {
        Some((node, pod, watch)) => follow(&node, &pod, watch, end).await,
        None => {
            say(end, &PodNews::Gone).await;
        }
    }
}

/// On that node, once it runs; nothing is said of one that does not come.
async fn follow_on(shared: &Shared, node: &str, key: &ObjectKey, end: &mut UnixStream) {
    let mut watch = match tokio::time::timeout(NODE_TIMEOUT, shared.wait_for(node)).await {
        Ok(Some(pods)) => pods.watch(key.clone()),
        Ok(None) | Err(_) => return debug!(node, "asked about a node that is not here"),
    };
    match watch.next().await {
        Some(Some(pod)) => follow(node, &pod, watch, end).await,
        Some(None) => {
            say(end, &PodNews::Gone).await;
        }
        None => {}
    }
}

/// Tells what becomes of the pod until it is gone or nobody listens.
async fn follow(node: &str, pod: &Value, mut watch: PodWatch, end: &mut UnixStream) {
    let uid = meta::uid(pod).to_owned();
    let mut news = news(node, pod);
    loop {
        if !say(end, &news).await || news == PodNews::Gone {
            return;
        }
        news = loop {
            let next = tokio::select! {
                next = watch.next() => next,
                // The fleet says nothing more: what it does is close.
                _ = end.readable() => return,
            };
            let Some(next) = next else { return };
            let now = match next {
                Some(pod) if meta::uid(&pod) == uid => self::news(node, &pod),
                _ => PodNews::Gone,
            };
            if now != news {
                break now;
            }
        };
    }
}

fn news(node: &str, pod: &Value) -> PodNews {
    if pods::is_finished(pod) {
        return PodNews::Gone;
    }
    PodNews::Here(PodFacts {
        node: node.to_owned(),
        uid: meta::uid(pod).to_owned(),
        account: pod.str_at(&["spec", "serviceAccountName"]).to_owned(),
        host_network: pod["spec"]["hostNetwork"].as_bool() == Some(true),
        started: !pod.str_at(&["status", "podIP"]).is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn a_pod_has_metadata_as_long_as_its_containers_may_run() {
        let check = |status: Value| {
            let mut pod = json!({"metadata": {"uid": "u"}, "spec": {"serviceAccountName": "cart"}});
            pod.set("status", status);
            match news("n", &pod) {
                PodNews::Here(facts) => Some(facts.started),
                PodNews::Gone => None,
            }
        };
        assert_eq!(check(json!({"phase": "Pending"})), Some(false));
        assert_eq!(check(json!({"phase": "Pending", "podIP": "10.4.0.2"})), Some(true));
        assert_eq!(check(json!({"phase": "Running", "podIP": "10.4.0.2"})), Some(true));
        assert_eq!(check(json!({"phase": "Succeeded", "podIP": "10.4.0.2"})), None);
        assert_eq!(check(json!({"phase": "Failed"})), None);
    }
}
