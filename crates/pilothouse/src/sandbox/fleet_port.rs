//! What the cloud may ask of the fleet, in the fleet's own terms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cloud::{ClientCertificate, ClusterAccess, ClusterSpec, EndpointSettings};
use futures_util::future::BoxFuture;
use policy::AccessSettings;

use crate::fleet::message::{self, NodeSpec};
use crate::fleet::{Access, Fleet, Wishes};

/// The real fleet behind the cloud's port.
pub(super) struct FleetPort {
    fleet: Arc<Fleet>,
    /// The addresses asked for on the command line are the first cluster's.
    first: Mutex<Option<Wishes>>,
    /// Why a cluster could not be made, by its id.
    failures: Mutex<BTreeMap<String, String>>,
}

impl FleetPort {
    pub(super) fn new(fleet: Arc<Fleet>, first: Wishes) -> Self {
        Self { fleet, first: Mutex::new(Some(first)), failures: Mutex::default() }
    }

    async fn with_certificate(&self, id: &str, access: Access) -> anyhow::Result<ClusterAccess> {
        let identity = self.fleet.client_certificate(id).await?;
        let client =
            ClientCertificate { certificate: identity.certificate_pem(), key: String::clone(&identity.key_pem()) };
        Ok(ClusterAccess { client: Some(client), ..shown(access) })
    }

    /// Why the cluster could not be made, if it could not.
    pub(super) fn failure(&self, id: &str) -> Option<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl cloud::Fleet for FleetPort {
    fn create(&self, spec: ClusterSpec) -> BoxFuture<'_, Result<ClusterAccess, String>> {
        Box::pin(async move {
            let wishes = self.first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            let nodes = spec.nodes.iter().map(node).collect();
            let cluster = message::ClusterSpec {
                id: spec.id,
                name: spec.name,
                project: spec.project,
                location: spec.location,
                kubernetes_version: spec.kubernetes_version,
                pod_cidr: spec.pod_cidr,
                service_cidr: spec.service_cidr,
                switches: wishes.switches.clone(),
                user_managed: spec.user_managed,
                user_managed_keys: spec.user_managed_keys,
            };
            let id = cluster.id.clone();
            let created = self.fleet.create(cluster, nodes, (spec.access, spec.endpoints), &wishes).await;
            if created.is_err() && self.fleet.find(&id).is_none() {
                *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(wishes);
            }
            let created = match created {
                Ok(access) if spec.client_certificate => self.with_certificate(&id, access).await,
                other => other.map(shown),
            };
            created.map_err(|e| {
                let text = crate::failure::line(&e);
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(id, text.clone());
                text
            })
        })
    }

    fn configure(&self, id: &str, access: AccessSettings) -> BoxFuture<'_, Result<(), String>> {
        let id = id.to_owned();
        Box::pin(async move { self.fleet.set_access(&id, access).await.map_err(|e| format!("{e:#}")) })
    }

    fn expose(&self, id: &str, endpoints: EndpointSettings) -> BoxFuture<'_, Result<(), String>> {
        let exposed = self.fleet.set_endpoints(id, endpoints).map_err(|e| format!("{e:#}"));
        Box::pin(async move { exposed })
    }

    fn addresses(&self, id: &str) -> Option<(String, String)> {
        let cluster = self.fleet.find(id)?;
        Some((cluster.addresses.endpoint(), cluster.addresses.internal_endpoint()))
    }

    fn resolve(&self, name: &str) -> Option<SocketAddr> {
        self.fleet.resolve(name)
    }

    fn jwks(&self, id: &str) -> BoxFuture<'_, Result<serde_json::Value, String>> {
        let id = id.to_owned();
        Box::pin(async move { self.fleet.jwks(&id).await.map_err(|e| format!("{e:#}")) })
    }

    fn delete(&self, id: &str) -> BoxFuture<'_, Result<(), String>> {
        let id = id.to_owned();
        Box::pin(async move { self.fleet.delete(&id).await.map_err(|e| format!("{e:#}")) })
    }

    fn access(&self, id: &str) -> BoxFuture<'_, Result<ClusterAccess, String>> {
        let cluster = self.fleet.find(id);
        let missing = format!("no cluster {id}");
        Box::pin(async move {
            let access = cluster.ok_or(missing)?.until_recovered().await;
            access.map(shown).map_err(|e| format!("{e:#}"))
        })
    }

    fn trouble(&self, id: &str) -> Option<String> {
        match self.fleet.find(id) {
            Some(cluster) => cluster.trouble(),
            None => Some(format!("its data is missing in {}", self.fleet.layout().cluster(id).display())),
        }
    }

    fn resize(&self, id: &str, nodes: Vec<gke::NodeSpec>) -> BoxFuture<'_, Result<(), String>> {
        let id = id.to_owned();
        Box::pin(async move {
            let nodes = nodes.iter().map(node).collect();
            self.fleet.resize(&id, nodes).await.map_err(|e| format!("{e:#}"))
        })
    }
}

fn shown(access: Access) -> ClusterAccess {
    ClusterAccess {
        endpoint: access.endpoint,
        private_endpoint: access.private_endpoint,
        ca_pem: access.ca_pem,
        etcd_endpoints: access.etcd_endpoints,
        client: None,
    }
}

fn node(spec: &gke::NodeSpec) -> NodeSpec {
    NodeSpec {
        name: spec.name.clone(),
        pool: spec.pool.clone(),
        zone: spec.zone.clone(),
        machine_type: spec.machine_type.clone(),
        labels: spec.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        taints: spec.taints.iter().map(|(key, value, effect)| format!("{key}={value}:{effect}")).collect(),
        shielded: spec.shielded,
        settings: spec.settings.clone(),
    }
}
