//! What a node tells whoever serves its pods: which pods it has, and tokens of their accounts, which it asks for as the node
//! that it is (TokenRequest, bound to the pod, as a kubelet does for projected volumes).

use std::sync::{Arc, OnceLock};

use imbl::OrdMap;
use machinery::{GroupVersionResource, ObjectKey, Status, Value, json, meta};
use tokio::sync::watch;

use crate::api::{Api, Request, object_path};

type Held = OrdMap<ObjectKey, Arc<Value>>;

/// The pods of a node as its kubelet last saw them. Clones are the same.
#[derive(Clone)]
pub struct NodePods(Arc<Shared>);

struct Shared {
    /// None before the first list.
    held: watch::Sender<Option<Held>>,
    /// The node's own door.
    api: OnceLock<Api>,
}

impl Default for NodePods {
    fn default() -> Self {
        Self(Arc::new(Shared { held: watch::Sender::new(None), api: OnceLock::new() }))
    }
}

impl std::fmt::Debug for NodePods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodePods").finish_non_exhaustive()
    }
}

impl NodePods {
    /// Follows one pod. What is returned does not keep the node's end from being seen.
    pub fn watch(&self, key: ObjectKey) -> PodWatch {
        PodWatch { key, held: self.0.held.subscribe(), last: None }
    }

    /// A token of the account that a pod runs as, bound to the pod, for this audience.
    ///
    /// # Errors
    /// 404 when the pod is not (or no longer) here, what the API server says to the node, 503 when there is no connection.
    pub async fn token(&self, key: &ObjectKey, uid: &str, audience: &str) -> Result<String, Status> {
        let found = self.held().get(key).filter(|pod| meta::uid(pod) == uid).cloned();
        let missing = || Status::not_found(&machinery::GroupResource::new("", "pods"), &key.name);
        let (pod, api) = found.zip(self.0.api.get()).ok_or_else(missing)?;
        let accounts = GroupVersionResource::new("", "v1", "serviceaccounts");
        let account = pod.str_at(&["spec", "serviceAccountName"]);
        let mut body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod"}}});
        body["spec"].set("audiences", vec![Value::from(audience)]);
        body["spec"]["boundObjectRef"].set("name", key.name.as_str());
        body["spec"]["boundObjectRef"].set("uid", uid);
        let path = object_path(&accounts, &key.namespace, account, "token");
        let answer = api.call(Request::new("POST", path, Some(body))).await?;
        Ok(answer.str_at(&["status", "token"]).to_owned())
    }

    /// The node's own door is this one.
    pub(super) fn open(&self, api: &Api) {
        let _ = self.0.api.set(api.clone());
    }

    /// All of them now.
    pub(super) fn held(&self) -> Held {
        self.0.held.borrow().clone().unwrap_or_default()
    }

    /// Puts a pod among them, or takes it away.
    pub(super) fn show(&self, pod: &Arc<Value>, gone: bool) {
        self.0.held.send_modify(|held| {
            let held = held.get_or_insert_default();
            if gone {
                held.remove(&meta::key(pod));
            } else {
                held.insert(meta::key(pod), pod.clone());
            }
        });
    }

    /// Puts these in place of all others.
    pub(super) fn show_only(&self, pods: &[Arc<Value>]) {
        let all = pods.iter().map(|pod| (meta::key(pod), pod.clone())).collect();
        self.0.held.send_replace(Some(all));
    }
}

/// One pod of a node, now and later.
pub struct PodWatch {
    key: ObjectKey,
    held: watch::Receiver<Option<Held>>,
    /// What was told last; none: nothing yet.
    last: Option<Option<Arc<Value>>>,
}

impl PodWatch {
    /// The pod as it is once the node knows its pods, then whenever it has changed; inside, none while it is not there.
    /// None when the node is gone.
    pub async fn next(&mut self) -> Option<Option<Arc<Value>>> {
        loop {
            let now = self.held.borrow_and_update().as_ref().map(|held| held.get(&self.key).cloned());
            if let Some(now) = now
                && self.last.as_ref().is_none_or(|last| !same(last.as_ref(), now.as_ref()))
            {
                self.last = Some(now.clone());
                return Some(now);
            }
            self.held.changed().await.ok()?;
        }
    }
}

fn same(one: Option<&Arc<Value>>, other: Option<&Arc<Value>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Value> {
        let mut pod = json!({"metadata": {"namespace": "default"}});
        pod["metadata"].set("name", name);
        pod["metadata"].set("uid", uid);
        Arc::new(pod)
    }

    #[tokio::test]
    async fn a_pod_is_followed_from_the_first_list_to_the_nodes_end() {
        let pods = NodePods::default();
        let mut watch = pods.watch(ObjectKey::new("default", "a"));
        let uid = |seen: Option<Option<Arc<Value>>>| seen.map(|pod| pod.map(|pod| meta::uid(&pod).to_owned()));
        let early = tokio::time::timeout(std::time::Duration::ZERO, watch.next()).await;
        assert!(early.is_err(), "nothing is known before the first list");
        pods.show_only(&[pod("b", "1")]);
        assert_eq!(uid(watch.next().await), Some(None));
        pods.show(&pod("a", "2"), false);
        assert_eq!(uid(watch.next().await), Some(Some("2".to_owned())));
        // Another one's changes are not told.
        pods.show(&pod("b", "3"), false);
        pods.show(&pod("a", "2"), true);
        assert_eq!(uid(watch.next().await), Some(None));
        drop(pods);
        assert_eq!(uid(watch.next().await), None);
    }

    #[tokio::test]
    async fn there_is_no_token_for_a_pod_that_is_another_one_now() {
        let pods = NodePods::default();
        pods.show_only(&[pod("a", "2")]);
        let refused = pods.token(&ObjectKey::new("default", "a"), "1", "x").await.unwrap_err();
        assert_eq!(refused.code, 404);
    }
}
