//! Long-running operations: each runs in a task of its own, takes its time on the clock, and goes on after a restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Timestamp;
use gke::record::operation_name;
use gke::{Access, ApiError, Cluster, Code, EndpointSettings, Operation, OperationStatus, Work, pool};
use machinery::Value;

use crate::services::privateca;
use crate::state::State;
use crate::{ClusterSpec, Inner, UserManagedKeys, encryption, user_managed};

/// Finished operations are forgotten once there are more.
const OPERATIONS_MAX: usize = 500;

/// Notes an operation in the state that is being written; refuses while another one runs on the cluster.
pub(crate) fn begin(
    inner: &Inner,
    state: &mut State,
    cluster_id: &str,
    operation_type: &str,
    (status, pool): (OperationStatus, Option<&str>),
    work: Work,
) -> Result<Operation, ApiError> {
    let running = |o: &&Operation| o.cluster_id == cluster_id && o.status != OperationStatus::Done;
    if let Some(other) = state.operations.iter().find(running) {
        return Err(ApiError::busy(&other.name));
    }
    let now = inner.clock.now();
    let cluster = state.clusters.iter().find(|c| c.id == cluster_id);
    let cluster = cluster.ok_or_else(|| ApiError::new(Code::Internal, "the operation's cluster is not there"))?;
    let operation = Operation {
        name: operation_name(now, &inner.entropy.uuid().to_string()),
        operation_type: operation_type.to_owned(),
        location: cluster.location.clone(),
        cluster: cluster.name.clone(),
        cluster_id: cluster_id.to_owned(),
        pool: pool.map(str::to_owned),
        status,
        start: now.rfc3339_nanos(),
        end: None,
        error: None,
        work,
    };
    if state.operations.len() >= OPERATIONS_MAX
        && let Some(i) = state.operations.iter().position(|o| o.status == OperationStatus::Done)
    {
        state.operations.remove(i);
    }
    state.operations.push(operation.clone());
    Ok(operation)
}

/// Does an operation run on the cluster?
pub(crate) fn is_busy(state: &State, cluster_id: &str) -> bool {
    state.operations.iter().any(|o| o.cluster_id == cluster_id && o.status != OperationStatus::Done)
}

/// Goes on with everything that was under way when the process ended, and tries again what could not be made. Blocks.
pub(crate) fn resume(inner: &Arc<Inner>) {
    readdress(inner);
    let state = inner.store.read();
    for operation in state.operations.iter().filter(|o| o.status != OperationStatus::Done) {
        spawn(inner, operation.name.clone());
    }
    let failed = state.clusters.iter().filter(|c| c.status == "ERROR" && c.access.is_none() && !is_busy(&state, &c.id));
    for cluster in failed {
        repair(inner, &cluster.id);
    }
}

/// Notes where clusters are that were given other addresses since they were made.
fn readdress(inner: &Inner) {
    let state = inner.store.read();
    let moved = state.clusters.iter().filter_map(|cluster| {
        let (now, access) = (inner.fleet.addresses(&cluster.id)?, cluster.access.as_ref()?);
        let same = (&access.endpoint, &access.private_endpoint) == (&now.0, &now.1);
        (!same).then(|| (cluster.id.clone(), now))
    });
    let moved: Vec<_> = moved.collect();
    if moved.is_empty() {
        return;
    }
    let written = inner.store.write(|state| {
        for (id, (external, internal)) in moved {
            if let Some(access) = state.cluster_mut(&id).and_then(|cluster| cluster.access.as_mut()) {
                (access.endpoint, access.private_endpoint) = (external, internal);
            }
        }
        Ok(())
    });
    if let Err(error) = written {
        tracing::warn!(%error, "the new addresses of clusters are not noted");
    }
}

/// Makes a cluster whose creation failed, in an operation of its own. Blocks.
fn repair(inner: &Arc<Inner>, id: &str) {
    let begun = inner.store.write(|state| {
        let operation =
            begin(inner, state, id, "REPAIR_CLUSTER", (OperationStatus::Running, None), Work::CreateCluster)?;
        if let Some(cluster) = state.cluster_mut(id) {
            "PROVISIONING".clone_into(&mut cluster.status);
        }
        Ok(operation)
    });
    match begun {
        Ok(operation) => spawn(inner, operation.name),
        Err(error) => tracing::warn!(%error, "a cluster is not tried again"),
    }
}

/// Waits until a cluster that could not be made runs after all: the fleet goes on trying.
async fn watch_recovery(inner: &Arc<Inner>, id: String) {
    if inner.fleet.access(&id).await.is_ok() {
        let inner = inner.clone();
        let _ = tokio::task::spawn_blocking(move || repair(&inner, &id)).await;
    }
}

/// Runs an operation that was noted.
pub(crate) fn spawn(inner: &Arc<Inner>, name: String) {
    let inner = inner.clone();
    let mut stopping = inner.stopping.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = run(&inner, &name) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
}

async fn run(inner: &Arc<Inner>, name: &str) {
    let snapshot = inner.store.read();
    let Some(operation) = snapshot.operations.iter().find(|o| o.name == name).cloned() else { return };
    let Some(cluster) = snapshot.clusters.iter().find(|c| c.id == operation.cluster_id).cloned() else { return };
    if operation.status == OperationStatus::Pending {
        write(inner, name, |state, name| {
            if let Some(operation) = state.operation_mut(name) {
                operation.status = OperationStatus::Running;
            }
        })
        .await;
    }
    let result = perform(inner, &operation.work, &cluster).await;
    until_due(inner, &operation.start).await;
    if let Err(error) = &result {
        tracing::error!(operation = name, error, "failed");
    }
    let end = inner.clock.now().rfc3339_nanos();
    let unmade = operation.work == Work::CreateCluster && result.is_err();
    write(inner, name, move |state, name| finish(state, name, result, end)).await;
    if unmade {
        watch_recovery(inner, operation.cluster_id).await;
    }
}

/// What the fleet must do; how to reach a new cluster.
async fn perform(inner: &Arc<Inner>, work: &Work, cluster: &Cluster) -> Result<Option<Access>, String> {
    let fleet = &inner.fleet;
    match work {
        Work::CreateCluster => {
            let authorities = privateca::user_managed(inner, cluster).map_err(|error| error.message)?;
            let user_managed_keys = keys_of(inner, cluster).await?;
            let spec = ClusterSpec {
                id: cluster.id.clone(),
                name: cluster.name.clone(),
                project: inner.project.clone(),
                location: cluster.location.clone(),
                zones: cluster.zones(),
                nodes: pool::nodes(cluster),
                kubernetes_version: cluster.master_version.clone(),
                pod_cidr: cluster.pod_cidr().to_owned(),
                service_cidr: cluster.service_cidr().to_owned(),
                access: gke::access::settings(&cluster.body),
                endpoints: EndpointSettings::of(&cluster.body),
                client_certificate: gke::access::wants_client_certificate(&cluster.body),
                user_managed: authorities,
                user_managed_keys,
            };
            let access = fleet.create(spec).await?;
            Ok(Some(Access {
                endpoint: access.endpoint,
                private_endpoint: access.private_endpoint,
                ca_pem: access.ca_pem,
                client: access.client,
            }))
        }
        Work::DeleteCluster => fleet.delete(&cluster.id).await.map(|()| None),
        Work::UpdateCluster(body) => {
            let wanted = gke::access::settings(body);
            if wanted.encryption_key != gke::encryption::key_of(&cluster.body) {
                check_key(inner, wanted.encryption_key.clone()).await?;
            }
            if wanted != gke::access::settings(&cluster.body) {
                fleet.configure(&cluster.id, wanted).await?;
            }
            let wanted = EndpointSettings::of(body);
            if wanted != EndpointSettings::of(&cluster.body) {
                fleet.expose(&cluster.id, wanted).await?;
            }
            Ok(None)
        }
        Work::CreatePool(_) | Work::DeletePool(_) => {
            fleet.resize(&cluster.id, pool::nodes(cluster)).await.map(|()| None)
        }
        Work::Resize(name, nodes) => {
            let mut wanted = cluster.clone();
            if let Some(pool) = wanted.pool_mut(name) {
                pool.nodes = *nodes;
            }
            fleet.resize(&cluster.id, pool::nodes(&wanted)).await.map(|()| None)
        }
        Work::UpdatePool(name, body) => {
            let mut wanted = cluster.clone();
            if let Some(pool) = wanted.pool_mut(name) {
                pool.body = Value::clone(body);
            }
            fleet.resize(&cluster.id, pool::nodes(&wanted)).await.map(|()| None)
        }
    }
}

/// Is the key still good, now that it is about to be used?
async fn check_key(inner: &Arc<Inner>, key: String) -> Result<(), String> {
    let inner = inner.clone();
    blocking(move || encryption::check_key(&inner, &key)).await
}

/// The keys of a new cluster that its user has.
async fn keys_of(inner: &Arc<Inner>, cluster: &Cluster) -> Result<UserManagedKeys, String> {
    let (inner, cluster) = (inner.clone(), cluster.clone());
    blocking(move || user_managed::keys(&inner, &cluster)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.expect("does not panic").map_err(|error| error.message)
}

/// Waits until the operation has taken its time, by the clock that may be advanced.
async fn until_due(inner: &Inner, start: &str) {
    let length = Duration::from_millis(inner.operation_millis.load(Ordering::Relaxed));
    let due = Timestamp::parse(start).unwrap_or_default() + length;
    loop {
        let left = due.since(inner.clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_millis(50))).await;
    }
}

async fn write(inner: &Arc<Inner>, name: &str, change: impl FnOnce(&mut State, &str) + Send + 'static) {
    let (inner, name) = (inner.clone(), name.to_owned());
    let work = move || {
        inner.store.write(|state| {
            change(state, &name);
            Ok(())
        })
    };
    // A full disk leaves the operation as it was: it is taken up again at the next start.
    if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "an operation's progress is not written");
    }
}

fn finish(state: &mut State, name: &str, result: Result<Option<Access>, String>, end: String) {
    let Some(operation) = state.operation_mut(name) else { return };
    operation.status = OperationStatus::Done;
    operation.end = Some(end.clone());
    if let Err(text) = &result {
        operation.error = Some((Code::Internal.rpc(), text.clone()));
    }
    let (work, id) = (operation.work.clone(), operation.cluster_id.clone());
    if work == Work::DeleteCluster && result.is_ok() {
        state.clusters.retain(|cluster| cluster.id != id);
        return;
    }
    let Some(cluster) = state.cluster_mut(&id) else { return };
    "RUNNING".clone_into(&mut cluster.status);
    match (work, result) {
        (Work::CreateCluster, Ok(access)) => {
            cluster.access = access;
            cluster.status_message.clear();
            cluster.pools.iter_mut().for_each(|pool| "RUNNING".clone_into(&mut pool.status));
        }
        (Work::CreateCluster | Work::DeleteCluster, Err(text)) => {
            "ERROR".clone_into(&mut cluster.status);
            cluster.status_message = text;
        }
        (Work::UpdateCluster(body), Ok(_)) => cluster.body = *body,
        (Work::CreatePool(pool), outcome) => {
            if let Some(pool) = cluster.pool_mut(&pool) {
                let status = if outcome.is_ok() { "RUNNING" } else { "ERROR" };
                status.clone_into(&mut pool.status);
            }
        }
        (Work::DeletePool(pool), Ok(_)) => cluster.pools.retain(|p| p.name != pool),
        (Work::Resize(pool, nodes), outcome) => {
            if let Some(pool) = cluster.pool_mut(&pool) {
                "RUNNING".clone_into(&mut pool.status);
                pool.nodes = if outcome.is_ok() { nodes } else { pool.nodes };
            }
        }
        (Work::UpdatePool(pool, body), outcome) => {
            if let Some(pool) = cluster.pool_mut(&pool) {
                "RUNNING".clone_into(&mut pool.status);
                if outcome.is_ok() {
                    pool.body = *body;
                }
            }
        }
        (Work::DeletePool(pool), Err(_)) => {
            if let Some(pool) = cluster.pool_mut(&pool) {
                "ERROR".clone_into(&mut pool.status);
            }
        }
        (Work::UpdateCluster(body), Err(why)) => gke::encryption::note_failure(&mut cluster.body, &body, &why, &end),
        (Work::DeleteCluster, Ok(_)) => {}
    }
}
