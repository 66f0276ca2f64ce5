//! `google.container.v1.ClusterManager` over REST: the table of `gke::METHODS`, with `gke`'s decisions.

use std::sync::Arc;

use gke::cluster::Creation;
use gke::record::{Cluster, Operation, OperationStatus, Work};
use gke::{
    ApiError, ApiVersion, Call, Code, View, access, methods, names, places, pool, render, schema, update, versions,
    workload,
};
use machinery::{Value, json};

use super::{Answer, is_ours, method_not_found};
use crate::http::Request;
use crate::identity::Caller;
use crate::operations::{begin, spawn};
use crate::state::State;
use crate::{Inner, encryption, user_managed};

/// One call: where it goes and through which version it looks.
struct Context<'a> {
    inner: &'a Arc<Inner>,
    view: View<'a>,
    location: &'a str,
    name: &'a str,
    pool: &'a str,
}

/// Answers a request below `/<version>/projects/<project>/`.
pub(crate) fn answer(
    inner: &Arc<Inner>,
    caller: &Caller,
    request: &Request,
    version: ApiVersion,
    project: &str,
    path: &str,
) -> Answer {
    let (method, parts) = methods::find(version, &request.verb, path).ok_or_else(method_not_found)?;
    let part = |i: usize| parts.get(i).copied().unwrap_or_default();
    let (location, name, pool) = (part(0), part(1), part(2));
    let resource = resource(project, location, if path.contains("/operations") { "" } else { name });
    let allowed = method.permission.is_empty() || (is_ours(inner, project) && caller.may(method.permission));
    if !allowed {
        tracing::info!(caller = caller.email, permission = method.permission, resource, "denied");
        return Err(ApiError::permission(method.permission, &resource));
    }
    let body = request.json()?;
    let body = if method.request.is_empty() { body } else { schema::decode(method.request, version, &body)? };
    let credentials = caller.may("container.clusters.getCredentials");
    let view = View { version, project: &inner.project, project_number: &inner.project_number, credentials };
    let context = Context { inner, view, location, name, pool };
    match method.call {
        Call::ListClusters => context.list_clusters(),
        Call::GetCluster => context.cluster().map(|cluster| context.shown(cluster)),
        Call::CreateCluster => {
            let operation = create_cluster(inner, location, &body)?;
            Ok(view.operation(&operation))
        }
        Call::DeleteCluster => context.delete_cluster(),
        Call::UpdateCluster => {
            access::check_workload_pool(&inner.project, &body["update"]["desiredWorkloadIdentityConfig"])?;
            encryption::check_asked(inner, &body["update"]["desiredDatabaseEncryption"], location)?;
            context.change(|cluster| update::update(cluster, &body["update"]))
        }
        Call::SetLabels => context.change(|cluster| update::set_labels(cluster, &body)),
        Call::SetMaintenancePolicy => context.change(|cluster| update::set_maintenance_policy(cluster, &body)),
        Call::SetLegacyAbac => context.change(|cluster| Ok(access::set_legacy_abac(cluster, &body))),
        Call::SetMasterAuth => context.change(|cluster| access::set_master_auth(cluster, &body)),
        Call::SetLoggingService => {
            let wanted = json!({"desiredLoggingService": body["loggingService"]});
            context.change(|cluster| update::update(cluster, &wanted))
        }
        Call::SetMonitoringService => {
            let wanted = json!({"desiredMonitoringService": body["monitoringService"]});
            context.change(|cluster| update::update(cluster, &wanted))
        }
        Call::ListNodePools => {
            let cluster = context.cluster()?;
            Ok(render::list("nodePools", cluster.pools.iter().map(|pool| view.pool(&cluster, pool)).collect()))
        }
        Call::GetNodePool => {
            let cluster = context.cluster()?;
            let pool = cluster.pool(pool).ok_or_else(|| names::pool_not_found(pool))?;
            Ok(view.pool(&cluster, pool))
        }
        Call::CreateNodePool => context.create_pool(&body["nodePool"]),
        Call::DeleteNodePool => context.delete_pool(),
        Call::UpdateNodePool => context.update_pool(&body),
        Call::SetNodePoolSize => context.resize(body["nodeCount"].as_i64().unwrap_or(0)),
        Call::ListOperations => Ok(context.list_operations()),
        Call::GetOperation => context.operation(name).map(|operation| view.operation(&operation)),
        Call::CancelOperation => context.cancel(name),
        Call::GetServerConfig => {
            places::Place::parse(location)?;
            Ok(schema::encode("ServerConfig", version, &versions::server_config()))
        }
        Call::ListLocations => Ok(locations()),
        Call::ListUsableSubnetworks => Ok(render::usable_subnetworks(&inner.project)),
        // Answered before anybody is asked who they are.
        Call::GetJsonWebKeys | Call::GetOpenIdConfig => Err(method_not_found()),
        Call::Unimplemented => Err(ApiError::unimplemented(method.rpc)),
    }
}

/// Answers the two methods that need no credential: what relying parties read to check a cluster's tokens.
pub(crate) fn public(inner: &Inner, verb: &str, version: &str, project: &str, path: &str) -> Option<Answer> {
    let (method, parts) = methods::find(ApiVersion::parse(version)?, verb, path)?;
    let ([location, name], true) = (parts.as_slice(), is_ours(inner, project)) else { return None };
    let missing = || names::cluster_not_found(&inner.project, location, name);
    let found = || inner.store.read().cluster(location, name).map(|c| c.id.clone()).ok_or_else(missing);
    match method.call {
        Call::GetOpenIdConfig => {
            let issuer = access::issuer(&inner.project, location, name);
            Some(found().map(|_| access::openid_config(&issuer)))
        }
        Call::GetJsonWebKeys => Some(found().and_then(|id| keys_of(inner, &id).map(Value::from))),
        _ => None,
    }
}

/// The keys that verify a cluster's tokens. Blocks.
pub(super) fn keys_of(inner: &Inner, id: &str) -> Result<serde_json::Value, ApiError> {
    // Requests are answered off the runtime's own threads, so this one may wait.
    tokio::runtime::Handle::current().block_on(inner.fleet.jwks(id)).map_err(|error| {
        tracing::warn!(error, "the keys of a cluster are not to be had");
        ApiError::new(Code::Unavailable, "The service is currently unavailable.")
    })
}

/// `projects/P/locations/L/clusters/C`, as far as it goes.
fn resource(project: &str, location: &str, cluster: &str) -> String {
    match (location, cluster) {
        ("" | "-", _) => format!("projects/{project}"),
        (location, "") => format!("projects/{project}/locations/{location}"),
        _ => format!("projects/{project}/locations/{location}/clusters/{cluster}"),
    }
}

fn locations() -> Value {
    let zones = places::regions().flat_map(|region| {
        places::zones(region).into_iter().map(|zone| json!({"type": "ZONE", "name": zone, "recommended": true}))
    });
    let regions = places::regions().map(|region| json!({"type": "REGION", "name": region, "recommended": true}));
    render::list("locations", regions.chain(zones).collect())
}

/// Notes the new cluster and starts its operation. `request` is a decoded `CreateClusterRequest`.
pub(crate) fn create_cluster(inner: &Arc<Inner>, location: &str, request: &Value) -> Result<Operation, ApiError> {
    encryption::check_asked(inner, &request["cluster"]["databaseEncryption"], location)?;
    let id: String = inner.entropy.bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
    let make = |state: &State| {
        let existing: Vec<&Cluster> = state.clusters.iter().collect();
        let creation = Creation {
            project: &inner.project,
            location,
            now: inner.clock.now(),
            id: &id,
            existing: &existing,
            profile: inner.profile,
        };
        gke::cluster::create(request, &creation)
    };
    // Keys cannot be used while the state is being written: they may have to be rotated first.
    let disk_key_version = user_managed::check_keys(inner, &make(&inner.store.read())?.body)?;
    let operation = inner.store.write(|state| {
        let mut cluster = make(state)?;
        if let Some(version) = &disk_key_version {
            gke::user_managed::note_disk_key_version(&mut cluster.body, version);
        }
        super::privateca::check_pools(inner, state, &cluster)?;
        state.clusters.push(cluster);
        begin(inner, state, &id, "CREATE_CLUSTER", (OperationStatus::Running, None), Work::CreateCluster)
    })?;
    spawn(inner, operation.name.clone());
    Ok(operation)
}

impl Context<'_> {
    fn cluster(&self) -> Result<Cluster, ApiError> {
        self.inner.store.read().cluster(self.location, self.name).cloned().ok_or_else(|| self.not_found())
    }

    fn not_found(&self) -> ApiError {
        names::cluster_not_found(&self.inner.project, self.location, self.name)
    }

    fn list_clusters(&self) -> Answer {
        if self.location != "-" {
            places::Place::parse(self.location)?;
        }
        let state = self.inner.store.read();
        let here = state.clusters.iter().filter(|c| self.location == "-" || c.location == self.location);
        Ok(render::list("clusters", here.map(|cluster| self.shown(cluster.clone())).collect()))
    }

    /// A cluster as clients see it: one that should run and cannot says so.
    fn shown(&self, mut cluster: Cluster) -> Value {
        if cluster.status == "RUNNING"
            && let Some(cause) = self.inner.fleet.trouble(&cluster.id)
        {
            "ERROR".clone_into(&mut cluster.status);
            cluster.status_message = cause;
        }
        encryption::show(self.inner, &mut cluster);
        self.view.cluster(&cluster)
    }

    fn list_operations(&self) -> Value {
        let state = self.inner.store.read();
        let here = state.operations.iter().filter(|o| self.location == "-" || o.location == self.location);
        render::list("operations", here.map(|operation| self.view.operation(operation)).collect())
    }

    fn operation(&self, name: &str) -> Result<Operation, ApiError> {
        let state = self.inner.store.read();
        let here = |o: &&Operation| o.name == name && (self.location == "-" || o.location == self.location);
        let path = format!("projects/{}/{}/operations/{name}", self.inner.project, places::segment(self.location));
        state.operations.iter().find(here).cloned().ok_or_else(|| ApiError::not_found(format!("Not found: {path}.")))
    }

    /// What runs here cannot be stopped half-way; node upgrades, which can at Google, do not exist yet.
    fn cancel(&self, name: &str) -> Answer {
        let operation = self.operation(name)?;
        let why = if operation.status == OperationStatus::Done { "is already done" } else { "cannot be cancelled" };
        Err(ApiError::new(Code::FailedPrecondition, format!("Operation {name} {why}.")))
    }

    /// Notes an operation on the cluster and starts it. `prepare` changes the record first, and says what follows.
    fn begin(
        &self,
        operation_type: &str,
        status: OperationStatus,
        prepare: impl FnOnce(&mut Cluster) -> Result<(Work, &'static str), ApiError>,
    ) -> Answer {
        let pool = (!self.pool.is_empty()).then_some(self.pool);
        self.begin_on(operation_type, (status, pool), prepare)
    }

    fn begin_on(
        &self,
        operation_type: &str,
        (status, pool): (OperationStatus, Option<&str>),
        prepare: impl FnOnce(&mut Cluster) -> Result<(Work, &'static str), ApiError>,
    ) -> Answer {
        let operation = self.inner.store.write(|state: &mut State| {
            let id = state.cluster(self.location, self.name).map(|c| c.id.clone()).ok_or_else(|| self.not_found())?;
            let cluster = state.cluster_mut(&id).ok_or_else(|| self.not_found())?;
            let (work, cluster_status) = prepare(cluster)?;
            cluster_status.clone_into(&mut cluster.status);
            begin(self.inner, state, &id, operation_type, (status, pool), work)
        })?;
        spawn(self.inner, operation.name.clone());
        Ok(self.view.operation(&operation))
    }

    fn delete_cluster(&self) -> Answer {
        self.begin("DELETE_CLUSTER", OperationStatus::Running, |_| Ok((Work::DeleteCluster, "STOPPING")))
    }

    fn change(&self, new_body: impl FnOnce(&Cluster) -> Result<Value, ApiError>) -> Answer {
        self.begin("UPDATE_CLUSTER", OperationStatus::Running, |cluster| {
            let body = new_body(cluster)?;
            Ok((Work::UpdateCluster(Box::new(body)), "RECONCILING"))
        })
    }

    fn create_pool(&self, asked: &Value) -> Answer {
        let name = asked.str_at(&["name"]).to_owned();
        let seed = self.inner.entropy.uuid().to_string();
        let created = self.inner.clock.now().rfc3339();
        self.begin_on("CREATE_NODE_POOL", (OperationStatus::Pending, Some(&name)), |cluster| {
            let made = pool::create(cluster, &self.inner.project, asked, &created, &seed)?;
            cluster.pools.push(made);
            Ok((Work::CreatePool(name.clone()), "RECONCILING"))
        })
    }

    fn delete_pool(&self) -> Answer {
        self.begin("DELETE_NODE_POOL", OperationStatus::Pending, |cluster| {
            let pool = cluster.pool_mut(self.pool).ok_or_else(|| names::pool_not_found(self.pool))?;
            "STOPPING".clone_into(&mut pool.status);
            Ok((Work::DeletePool(self.pool.to_owned()), "RECONCILING"))
        })
    }

    /// GKE makes a pool's nodes anew for this, and so it calls the operation.
    fn update_pool(&self, request: &Value) -> Answer {
        self.begin("UPGRADE_NODES", OperationStatus::Pending, |cluster| {
            let missing = || names::pool_not_found(self.pool);
            let body = workload::update_pool(cluster, cluster.pool(self.pool).ok_or_else(missing)?, request)?;
            let pool = cluster.pool_mut(self.pool).ok_or_else(missing)?;
            "RECONCILING".clone_into(&mut pool.status);
            Ok((Work::UpdatePool(self.pool.to_owned(), Box::new(body)), "RECONCILING"))
        })
    }

    fn resize(&self, count: i64) -> Answer {
        let wrong = || ApiError::invalid(format!("Invalid node count {count}: must be between 0 and 1000."));
        let nodes = u32::try_from(count).ok().filter(|n| *n <= 1000).ok_or_else(wrong)?;
        self.begin("SET_NODE_POOL_SIZE", OperationStatus::Pending, |cluster| {
            let pool = cluster.pool_mut(self.pool).ok_or_else(|| names::pool_not_found(self.pool))?;
            "RECONCILING".clone_into(&mut pool.status);
            Ok((Work::Resize(self.pool.to_owned(), nodes), "RECONCILING"))
        })
    }
}
