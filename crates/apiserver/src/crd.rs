//! Custom resource definitions: accepted names, conditions, and the removal of instances before a definition goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use machinery::{Value, json, meta};
use policy::UserInfo;
use registry::cache::Cache;

use crate::derived::CRD_PREFIX;
use crate::message::{Body, Request};
use crate::server::{ApiServer, Inner};

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Is it to be served?
pub(crate) fn is_established(definition: &Value) -> bool {
    condition(definition, "Established") == Some("True")
}

fn condition<'a>(definition: &'a Value, name: &str) -> Option<&'a str> {
    let conditions = definition["status"]["conditions"].items();
    conditions.iter().find(|c| c.str_at(&["type"]) == name).and_then(|c| c["status"].as_str())
}

/// Looks at every definition whenever one has changed.
pub(crate) async fn run(server: Arc<Inner>) {
    let Some(cache) = server.caches.started(CRD_PREFIX) else { return };
    let mut changed = cache.subscribe();
    let mut stop = server.stop.subscribe();
    changed.mark_changed();
    loop {
        tokio::select! {
            () = crate::watch::stopped(&mut stop) => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
        let snapshot = cache.snapshot();
        for (_, cached) in snapshot.list("", None) {
            if let Err(error) = settle(&server, &snapshot, &cached.object).await {
                tracing::debug!(name = meta::name(&cached.object), %error, "settling a custom resource definition");
            }
        }
    }
}

async fn settle(server: &Arc<Inner>, all: &Cache, definition: &Value) -> Result<(), machinery::Status> {
    if meta::is_terminating(definition) {
        return remove_instances(server, definition).await;
    }
    let wanted = judged(server, all, definition);
    if wanted["status"] != definition["status"] {
        put(server, &format!("{PATH}/{}/status", meta::name(definition)), &wanted).await?;
    }
    Ok(())
}

/// The definition with the status it should have.
fn judged(server: &Inner, all: &Cache, definition: &Value) -> Value {
    let mut wanted = definition.clone();
    let names = &definition["spec"]["names"];
    let conflict = conflict(all, definition);
    let now = server.config.clock.now().rfc3339();
    let set = |wanted: &mut Value, kind: &str, status: bool, reason: &str, message: &str| {
        let word = if status { "True" } else { "False" };
        if condition(wanted, kind) == Some(word) {
            return;
        }
        let new =
            json!({"type": kind, "status": word, "lastTransitionTime": now, "reason": reason, "message": message});
        let mut conditions: Vec<Value> = wanted["status"]["conditions"].items().to_vec();
        match conditions.iter_mut().find(|c| c.str_at(&["type"]) == kind) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
        wanted["status"].set("conditions", Value::Array(conditions));
    };
    if wanted["status"].as_object().is_none() {
        wanted.set("status", json!({"conditions": null}));
    }
    match conflict {
        None => {
            let mut accepted = names.clone();
            let kind = names.str_at(&["kind"]);
            if accepted.str_at(&["singular"]).is_empty() {
                accepted.set("singular", kind.to_lowercase());
            }
            if accepted.str_at(&["listKind"]).is_empty() {
                accepted.set("listKind", format!("{kind}List"));
            }
            wanted["status"].set("acceptedNames", accepted);
            set(&mut wanted, "NamesAccepted", true, "NoConflicts", "no conflicts found");
            set(&mut wanted, "Established", true, "InitialNamesAccepted", "the initial names have been accepted");
        }
        Some((reason, message)) => set(&mut wanted, "NamesAccepted", false, reason, &message),
    }
    let versions = wanted["status"]["storedVersions"].items().to_vec();
    let storage = definition["spec"]["versions"].items().iter().find(|v| v["storage"].as_bool() == Some(true));
    if let Some(name) = storage.map(|v| v["name"].clone())
        && !versions.contains(&name)
    {
        wanted["status"].set("storedVersions", Value::Array(versions.into_iter().chain([name]).collect()));
    }
    wanted
}

/// A name that another definition of the group holds already.
fn conflict(all: &Cache, definition: &Value) -> Option<(&'static str, String)> {
    let group = definition.str_at(&["spec", "group"]);
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut kinds: BTreeSet<String> = BTreeSet::new();
    for (_, other) in all.list("", None) {
        let other = &other.object;
        if meta::name(other) == meta::name(definition) || other.str_at(&["spec", "group"]) != group {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        taken.extend([names.str_at(&["plural"]), names.str_at(&["singular"])].map(str::to_owned));
        taken.extend(names["shortNames"].items().iter().filter_map(Value::as_str).map(str::to_owned));
        kinds.extend([names.str_at(&["kind"]), names.str_at(&["listKind"])].map(str::to_owned));
    }
    // Those whose names are not accepted hold none.
    taken.remove("");
    kinds.remove("");
    let names = &definition["spec"]["names"];
    let (plural, kind) = (names.str_at(&["plural"]), names.str_at(&["kind"]));
    if taken.contains(plural) {
        return Some(("PluralConflict", format!("{plural:?} is already in use")));
    }
    if kinds.contains(kind) {
        return Some(("KindConflict", format!("{kind:?} is already in use")));
    }
    None
}

async fn remove_instances(server: &Arc<Inner>, definition: &Value) -> Result<(), machinery::Status> {
    if !meta::finalizers(definition).any(|f| f == CLEANUP) {
        return Ok(());
    }
    let spec = &definition["spec"];
    let registry = server.registry.load_full();
    let (group, plural) = (spec.str_at(&["group"]), spec.str_at(&["names", "plural"]));
    let row = registry.rows().find(|r| r.gvk.group == group && r.plural == plural && r.custom.is_some()).cloned();
    if let Some(row) = row {
        let cache = server.cache_of(&row).await?;
        let mut left = cache.subscribe();
        let snapshot = cache.snapshot();
        for (key, _) in snapshot.list("", None) {
            let place = if row.namespaced { format!("namespaces/{}/", key.namespace) } else { String::new() };
            let path = format!("/apis/{group}/{}/{place}{plural}/{}", row.gvk.version, key.name);
            let reply = call(server, Method::DELETE, &path, Body::Empty).await;
            if let Err(status) = reply
                && status.code != 404
            {
                return Err(status);
            }
        }
        // Instances with finalizers of their own go later: then the definition is looked at again.
        left.mark_changed();
        server.caches.wait_for_now().await?;
        if !cache.snapshot().is_empty() {
            let (server, name) = (server.clone(), meta::name(definition).to_owned());
            tokio::spawn(async move {
                while !cache.snapshot().is_empty() && left.changed().await.is_ok() {}
                let current = call(&server, Method::GET, &format!("{PATH}/{name}"), Body::Empty).await;
                if let Ok(current) = current
                    && meta::is_terminating(&current)
                {
                    let _ = finish(&server, &current).await;
                }
            });
            return Ok(());
        }
    }
    finish(server, definition).await
}

async fn finish(server: &Arc<Inner>, definition: &Value) -> Result<(), machinery::Status> {
    let mut free = definition.clone();
    let left: Vec<Value> = meta::finalizers(definition).filter(|f| *f != CLEANUP).map(Value::from).collect();
    free["metadata"].set("finalizers", Value::Array(left));
    put(server, &format!("{PATH}/{}", meta::name(definition)), &free).await
}

async fn put(server: &Arc<Inner>, path: &str, object: &Value) -> Result<(), machinery::Status> {
    call(server, Method::PUT, path, Body::Tree(object.clone())).await.map(drop)
}

pub(crate) async fn call(
    server: &Arc<Inner>,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Value, machinery::Status> {
    let user = UserInfo::authenticated("system:apiserver", &[policy::user::MASTERS]);
    let server = ApiServer { inner: server.clone() };
    server.handle(Request::verified(&user, method, path, "", body)).await.into_object()
}
