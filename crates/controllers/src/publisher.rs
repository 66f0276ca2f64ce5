//! What every namespace has: the service account `default` and the ConfigMap `kube-root-ca.crt`.

use machinery::{Value, json, meta};

use crate::resource::{CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS};
use crate::{Action, Change, Context, Controller, Key, Watch, World};

pub(crate) static SERVICE_ACCOUNT: Controller = Controller {
    name: "service-account-controller",
    watches: &[Watch::own(&NAMESPACES), Watch::map(&SERVICE_ACCOUNTS, |w, c| namespace_of(w, c, "default"))],
    reconcile: service_account,
    settle_ms: 0,
};

pub(crate) static ROOT_CA: Controller = Controller {
    name: "root-ca-cert-publisher",
    watches: &[Watch::own(&NAMESPACES), Watch::map(&CONFIG_MAPS, |w, c| namespace_of(w, c, ROOT_CA_NAME))],
    reconcile: root_ca,
    settle_ms: 0,
};

const ROOT_CA_NAME: &str = "kube-root-ca.crt";
const ABOUT: &str = "The CA that in-cluster clients check the API server's certificate against; kept up to date.";

fn namespace_of(_: &World, change: &Change, name: &str) -> Vec<Key> {
    let ours = change.objects().filter(|o| meta::name(o) == name);
    ours.map(|o| Key::new(&NAMESPACES, "", meta::namespace(o))).take(1).collect()
}

fn active<'a>(cx: &'a Context<'_>, key: &Key) -> Option<&'a Value> {
    cx.world.lookup(key).map(|n| &**n).filter(|n| !meta::is_terminating(n))
}

fn service_account(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(namespace) = active(cx, key).map(meta::name) else { return Vec::new() };
    if cx.world.get(&SERVICE_ACCOUNTS, namespace, "default").is_some() {
        return Vec::new();
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace}});
    vec![Action::create(&SERVICE_ACCOUNTS, account)]
}

fn root_ca(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let Some(namespace) = active(cx, key).map(meta::name) else { return Vec::new() };
    let data = json!({"ca.crt": &*cx.world.settings().root_ca_pem});
    match cx.world.get(&CONFIG_MAPS, namespace, ROOT_CA_NAME) {
        None => {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {"name": ROOT_CA_NAME, "namespace": namespace,
                    "annotations": {"kubernetes.io/description": ABOUT}}});
            vec![Action::create(&CONFIG_MAPS, map)]
        }
        Some(map) if map["data"] == data => Vec::new(),
        Some(map) => {
            let mut map = Value::clone(map);
            map.set("data", data);
            map.at_mut(&["metadata", "annotations"]).set("kubernetes.io/description", ABOUT);
            vec![Action::update(&CONFIG_MAPS, map)]
        }
    }
}
