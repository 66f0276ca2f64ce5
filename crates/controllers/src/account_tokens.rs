//! Secrets of type `kubernetes.io/service-account-token`: filled with a token, the CA and the namespace, and deleted with
//! their account (`pkg/controller/serviceaccount/tokens_controller.go`). The token is signed elsewhere: a port is asked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::{Value, json, meta};

use crate::resource::{SECRETS, SERVICE_ACCOUNTS};
use crate::{Action, Change, Context, Controller, Key, Watch, World};

pub(crate) static CONTROLLER: Controller = Controller {
    name: "serviceaccount-token-controller",
    watches: &[Watch::map(&SECRETS, own_secret), Watch::map(&SERVICE_ACCOUNTS, secrets_of)],
    reconcile,
    settle_ms: 0,
};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

fn is_token(secret: &Value) -> bool {
    secret.str_at(&["type"]) == TYPE
}

/// The Secret itself, also when it is gone: its account may name it.
fn own_secret(_: &World, change: &Change) -> Vec<Key> {
    let token = change.objects().filter(|secret| is_token(secret));
    token.map(|secret| Key::of(&SECRETS, secret)).take(1).collect()
}

fn secrets_of(world: &World, change: &Change) -> Vec<Key> {
    let Some(account) = change.objects().next() else { return Vec::new() };
    let (namespace, name) = (meta::namespace(account), meta::name(account));
    let named = |secret: &&std::sync::Arc<Value>| is_token(secret) && meta::annotation(secret, NAME) == Some(name);
    world.in_namespace(&SECRETS, namespace).filter(named).map(|secret| Key::of(&SECRETS, secret)).collect()
}

fn reconcile(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(secret) = cx.world.lookup(key) else { return Vec::new() };
    if !is_token(secret) || meta::is_terminating(secret) {
        return Vec::new();
    }
    let name = meta::annotation(secret, NAME).unwrap_or_default();
    let uid = meta::annotation(secret, UID).unwrap_or_default();
    if name.is_empty() {
        return Vec::new();
    }
    let account = cx.world.get(&SERVICE_ACCOUNTS, meta::namespace(secret), name);
    match account.filter(|account| uid.is_empty() || uid == meta::uid(account)) {
        // The account may be newer than what the world shows: the API is asked before anything is deleted.
        None => {
            let account = machinery::ObjectKey::new(meta::namespace(secret), name);
            let ask = Action::EnsureAbsent { resource: SERVICE_ACCOUNTS.clone(), object: account, uid: uid.into() };
            vec![ask, Action::delete(&SECRETS, secret)]
        }
        Some(account) => fill(cx.world, account, secret),
    }
}

/// What the Secret lacks. A changed CA is put in, a token that is there stays.
fn fill(world: &World, account: &Value, secret: &Value) -> Vec<Action> {
    let root = STANDARD.encode(&*world.settings().root_ca_pem);
    let has = |key: &str| !secret.str_at(&["data", key]).is_empty();
    let has_root = root.is_empty() || secret.str_at(&["data", "ca.crt"]) == root;
    if has_root && has("namespace") && has("token") {
        return Vec::new();
    }
    let mut filled = secret.clone();
    if !root.is_empty() {
        filled.at_mut(&["data"]).set("ca.crt", root);
    }
    if !has("namespace") {
        filled.at_mut(&["data"]).set("namespace", STANDARD.encode(meta::namespace(secret)));
    }
    let annotations = filled.at_mut(&["metadata", "annotations"]);
    annotations.set(NAME, meta::name(account));
    annotations.set(UID, meta::uid(account));
    if has("token") {
        return vec![Action::update(&SECRETS, filled)];
    }
    vec![Action::SignToken { claims: claims(account, secret), secret: filled }]
}

/// The claims of such a token, which has no end (`pkg/serviceaccount/legacy.go`).
fn claims(account: &Value, secret: &Value) -> Value {
    let (namespace, name) = (meta::namespace(account), meta::name(account));
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": meta::name(secret),
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": meta::uid(account),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::Timestamp;

    use super::*;
    use crate::Settings;

    fn world(objects: Vec<Value>) -> World {
        let mut world = World::new(Settings { root_ca_pem: "CA".into(), ..Settings::default() });
        for object in objects {
            let resource = if object.str_at(&["kind"]) == "Secret" { &SECRETS } else { &SERVICE_ACCOUNTS };
            world.apply(&resource.group_resource(), Arc::new(object));
        }
        world
    }

    fn account(uid: &str) -> Value {
        json!({"kind": "ServiceAccount", "metadata": {"namespace": "d", "name": "sa", "uid": uid, "resourceVersion": "1"}})
    }

    fn secret(data: Value, uid: &str) -> Value {
        let mut secret = json!({"kind": "Secret", "type": TYPE, "metadata": {"namespace": "d", "name": "s", "uid": "x",
            "resourceVersion": "2", "annotations": {}}});
        secret["metadata"]["annotations"].set(NAME, "sa");
        if !uid.is_empty() {
            secret["metadata"]["annotations"].set(UID, uid);
        }
        secret.set("data", data);
        secret
    }

    fn plan(objects: Vec<Value>) -> Vec<String> {
        let world = world(objects);
        let cx = Context { world: &world, now: Timestamp::EPOCH, failure: None };
        reconcile(&cx, &Key::new(&SECRETS, "d", "s")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn secrets_are_filled_kept_and_deleted_with_their_account() {
        let full = json!({"ca.crt": "Q0E=", "namespace": "ZA==", "token": "dA=="});
        assert_eq!(plan(vec![account("u"), secret(json!({}), "")]), ["sign-token d/s for system:serviceaccount:d:sa"]);
        assert_eq!(plan(vec![account("u"), secret(full.clone(), "u")]), Vec::<String>::new());
        let mut old = full.clone();
        old.set("ca.crt", "b2xk");
        let changed = plan(vec![account("u"), secret(old, "u")]);
        assert!(
            changed.len() == 1 && changed[0].starts_with("update secrets") && changed[0].contains("Q0E="),
            "{changed:?}"
        );
        for objects in [vec![secret(full.clone(), "u")], vec![account("another"), secret(full, "u")]] {
            let gone = plan(objects);
            assert!(
                gone[0].starts_with("ensure-absent serviceaccounts") && gone[1].starts_with("delete secrets"),
                "{gone:?}"
            );
        }
    }
}
