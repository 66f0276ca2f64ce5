//! kube-rs: typed objects, a resource made by its derive, watches and reflectors.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::Sandbox;
use futures_util::{Stream, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, CustomResource, CustomResourceExt, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// For one event or one condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client as a program outside of the cluster makes one: from the file that KUBECONFIG names.
pub(crate) async fn client(sandbox: &Sandbox) -> Result<Client> {
    let file = Kubeconfig::read_from(sandbox.variable("KUBECONFIG"))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_objects_are_made_changed_listed_and_deleted() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let client = client(&sandbox).await?;
    ensure!(client.apiserver_version().await?.minor.starts_with("33"));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps.create(&PostParams::default(), &map("typed", "1")).await?;
    ensure!(made.uid().is_some() && maps.get("typed").await?.data == made.data, "{made:?}");
    let twice = maps.create(&PostParams::default(), &map("typed", "1")).await;
    ensure!(reason(twice)? == "AlreadyExists");

    let merge = Patch::Merge(json!({"data": {"more": "2"}}));
    let merged = maps.patch("typed", &PatchParams::default(), &merge).await?;
    ensure!(merged.data.as_ref().is_some_and(|d| d["n"] == "1" && d["more"] == "2"), "{merged:?}");
    let strategic = Patch::Strategic(json!({"metadata": {"labels": {"kind": "kept"}}}));
    maps.patch_metadata("typed", &PatchParams::default(), &strategic).await?;
    let stale = maps.replace("typed", &PostParams::default(), &made).await;
    ensure!(reason(stale)? == "Conflict");
    let mut latest = maps.get("typed").await?;
    latest.data = Some(BTreeMap::from([("n".to_owned(), "3".to_owned())]));
    ensure!(maps.replace("typed", &PostParams::default(), &latest).await?.data == latest.data);

    for n in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("page-{n}"), "0")).await?;
    }
    let page = maps.list(&ListParams::default().limit(2)).await?;
    let token = page.metadata.continue_.context("a long list has a next page")?;
    let rest = maps.list(&ListParams::default().continue_token(&token)).await?;
    ensure!(page.items.len() == 2 && rest.items.len() >= 4, "{} and {}", page.items.len(), rest.items.len());
    ensure!(maps.list(&ListParams::default().labels("kind=kept")).await?.items.len() == 1);
    ensure!(maps.list(&ListParams::default().fields("metadata.name=page-3")).await?.items.len() == 1);

    maps.delete("typed", &DeleteParams::default()).await?;
    ensure!(maps.get_opt("typed").await?.is_none());
    ensure!(reason(maps.get("typed").await)? == "NotFound");
    let nodes: Api<Node> = Api::all(client);
    ensure!(nodes.list_metadata(&ListParams::default()).await?.items.len() == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_scaled_and_a_namespace_goes_with_its_content() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let client = client(&sandbox).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "rs"}}))?).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "rs");
    let web: Deployment = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}))?;
    deployments.create(&PostParams::default(), &web).await?;
    let available = |wanted: i32| {
        move |d: Option<&Deployment>| {
            d.and_then(|d| d.status.as_ref()).is_some_and(|s| s.available_replicas.unwrap_or(0) == wanted)
        }
    };
    patiently("2 replicas", await_condition(deployments.clone(), "web", available(2))).await??;
    let scale = Patch::Merge(json!({"spec": {"replicas": 1}}));
    deployments.patch_scale("web", &PatchParams::default(), &scale).await?;
    patiently("1 replica", await_condition(deployments.clone(), "web", available(1))).await??;
    ensure!(deployments.get_scale("web").await?.spec.and_then(|s| s.replicas) == Some(1));
    let uid = namespaces.get("rs").await?.uid().context("uid")?;
    namespaces.delete("rs", &DeleteParams::foreground()).await?;
    patiently("deletion", await_condition(namespaces, "rs", conditions::is_deleted(&uid))).await??;
    ensure!(deployments.list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_reflectors_see_every_change_in_order() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&sandbox).await?);
    let selected = "watched=yes";
    let mut labelled = map("w", "0");
    labelled.metadata.labels = Some(BTreeMap::from([("watched".to_owned(), "yes".to_owned())]));

    let (reader, writer) = reflector::store();
    let settings = watcher::Config::default().labels(selected);
    let mut events = pin!(watcher(maps.clone(), settings).default_backoff().reflect(writer));
    ensure!(matches!(next(&mut events).await?, watcher::Event::Init));
    ensure!(matches!(next(&mut events).await?, watcher::Event::InitDone));
    let from = maps.list(&ListParams::default()).await?.metadata.resource_version.context("version")?;

    maps.create(&PostParams::default(), &labelled).await?;
    for n in 1..=20 {
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        maps.patch("w", &PatchParams::default(), &patch).await?;
    }
    for expected in 0..=20 {
        match next(&mut events).await? {
            watcher::Event::Apply(object) => ensure!(number(&object) == expected, "{object:?}, not {expected}"),
            other => bail!("{other:?}, not {expected}"),
        }
    }
    let kept = reader.get(&ObjectRef::new("w").within("default")).context("the store holds it")?;
    ensure!(number(&kept) == 20);
    maps.delete("w", &DeleteParams::default()).await?;
    ensure!(matches!(next(&mut events).await?, watcher::Event::Delete(_)));
    ensure!(reader.state().is_empty());

    // The same story again, told from the history by a plain watch.
    let mut watch = pin!(maps.watch(&WatchParams::default().labels(selected), &from).await?);
    let mut story = Vec::new();
    while story.len() < 22 {
        story.push(match next(&mut watch).await? {
            WatchEvent::Added(o) => ("added", number(&o)),
            WatchEvent::Modified(o) => ("modified", number(&o)),
            WatchEvent::Deleted(o) => ("deleted", number(&o)),
            other => bail!("{other:?}"),
        });
    }
    let expected: Vec<_> = [("added", 0)].into_iter().chain((1..=20).map(|n| ("modified", n))).collect();
    ensure!(story[..21] == expected && story[21] == ("deleted", 20), "{story:?}");
    Ok(())
}

/// What a person in front of an operator asks for.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "example.com", version = "v1", kind = "Ship", namespaced, status = "ShipStatus", shortname = "sh")]
#[kube(printcolumn = r#"{"name": "Masts", "type": "integer", "jsonPath": ".spec.masts"}"#)]
struct ShipSpec {
    #[schemars(range(min = 1, max = 7))]
    masts: u32,
    #[serde(default = "ShipSpec::rig")]
    rig: String,
    captain: Option<String>,
}

impl ShipSpec {
    fn rig() -> String {
        "barque".to_owned()
    }
}

/// What the operator found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct ShipStatus {
    afloat: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_custom_resource_is_served_checked_and_has_a_status() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let client = client(&sandbox).await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &Ship::crd()).await?;
    let established = await_condition(definitions.clone(), Ship::crd_name(), conditions::is_crd_established());
    patiently("Established", established).await??;
    let ships: Api<Ship> = Api::default_namespaced(client);
    let ship = |masts| Ship::new("pamir", ShipSpec { masts, rig: ShipSpec::rig(), captain: None });
    ensure!(reason(ships.create(&PostParams::default(), &ship(8)).await)? == "Invalid");
    let made = ships.create(&PostParams::default(), &ship(4)).await?;
    ensure!(made.spec == ship(4).spec && made.status.is_none(), "{made:?}");
    let status = Patch::Merge(json!({"spec": {"masts": 1}, "status": {"afloat": true}}));
    let afloat = ships.patch_status("pamir", &PatchParams::default(), &status).await?;
    ensure!(afloat.status == Some(ShipStatus { afloat: true }) && afloat.spec.masts == 4, "{afloat:?}");
    let bare =
        json!({"apiVersion": "example.com/v1", "kind": "Ship", "metadata": {"name": "bare"}, "spec": {"masts": 2}});
    let bare = serde_json::to_string(&bare)?;
    sandbox.kubectl_with_input(&["create", "-f", "-"], &bare)?;
    ensure!(ships.get("bare").await?.spec.rig == "barque", "the schema's default is filled in");
    ensure!(sandbox.kubectl(&["get", "sh", "pamir"])?.contains("MASTS"));
    ensure!(ships.list(&ListParams::default()).await?.items.len() == 2);
    definitions.delete(Ship::crd_name(), &DeleteParams::default()).await?;
    Ok(())
}

/// A config map that holds a number.
pub(crate) fn map(name: &str, n: &str) -> ConfigMap {
    let mut object = ConfigMap { data: Some(BTreeMap::from([("n".to_owned(), n.to_owned())])), ..Default::default() };
    object.metadata.name = Some(name.to_owned());
    object
}

fn number(map: &ConfigMap) -> i32 {
    map.data.as_ref().and_then(|d| d.get("n")?.parse().ok()).unwrap_or(-1)
}

/// Why the server refused.
fn reason<T>(answer: kube::Result<T>) -> Result<String> {
    match answer {
        Err(kube::Error::Api(status)) => Ok(status.reason),
        Err(other) => Err(other.into()),
        Ok(_) => bail!("it was taken"),
    }
}

async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.with_context(|| format!("no {what} within {PATIENCE:?}"))
}

async fn next<T, E>(events: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    patiently("event", events.try_next()).await??.context("the stream ended")
}
