//! What every cluster starts with: written in a few transactions when it is not there, completed when it is.

use std::sync::Arc;

use etcd::{Compare, PutRequest, RequestOp, TxnRequest};
use machinery::{GroupVersionKind, Status, Value, json, meta};
use policy::rbac::{Rule, missing_rules};
use registry::{Context, Resource, Subresource};

use crate::caches::revision;
use crate::server::Inner;
use crate::{Error, stored};

/// Objects in one transaction; etcd takes 128 operations.
const BATCH: usize = 100;
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

impl Inner {
    /// Makes what is missing.
    pub(crate) async fn bootstrap(&self) -> Result<(), Error> {
        let facts = self.registry.load().facts();
        let mut wanted: Vec<Value> = NAMESPACES
            .iter()
            .map(|name| {
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
                "labels": {"kubernetes.io/metadata.name": name}}, "spec": {"finalizers": ["kubernetes"]}})
            })
            .collect();
        for text in [facts.bootstrap_rbac, facts.bootstrap_objects] {
            for line in text.lines().filter(|l| l.starts_with('{')) {
                wanted.push(Value::from_slice(line.as_bytes()).map_err(|e| Error::Config(e.to_string()))?);
            }
        }
        wanted.push(self.service_cidr());
        wanted.push(self.kubernetes_service());
        wanted.extend(self.kubernetes_endpoints());
        wanted.push(self.authentication_config());
        let mut batch = TxnRequest::default();
        let mut newest = 0;
        for object in wanted {
            let Some((key, expected, value)) = self.missing(object) else { continue };
            batch.compare.push(Compare::mod_revision(key.clone(), expected));
            batch.success.push(RequestOp::Put(PutRequest { key: key.into(), value, ..PutRequest::default() }));
            if batch.success.len() == BATCH {
                newest = self.write_batch(std::mem::take(&mut batch)).await?.max(newest);
            }
        }
        newest = self.write_batch(batch).await?.max(newest);
        self.caches.wait(newest).await.map_err(|status| Error::Config(status.message))
    }

    /// A batch loses as a whole when another server was faster with part of it; then each object is tried alone.
    async fn write_batch(&self, batch: TxnRequest) -> Result<u64, Error> {
        if batch.success.is_empty() {
            return Ok(0);
        }
        let answer = self.config.store.txn(batch.clone()).await?;
        if answer.succeeded {
            return Ok(revision(answer.revision));
        }
        let mut newest = 0;
        for (compare, put) in batch.compare.into_iter().zip(batch.success) {
            let one = TxnRequest { compare: vec![compare], success: vec![put], failure: Vec::new() };
            newest = revision(self.config.store.txn(one).await?.revision).max(newest);
        }
        Ok(newest)
    }

    /// Key, version it must still have, and new value of an object that has to be written.
    fn missing(&self, object: Value) -> Option<(String, i64, bytes::Bytes)> {
        let registry = self.registry.load_full();
        let gvk = GroupVersionKind::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        let row = registry.kind(&gvk)?;
        let storage = registry.storage_row(row).unwrap_or(row);
        let key = meta::key(&object);
        let found = self.caches.started(&row.etcd_prefix)?.get(&key);
        let etcd_key = row.etcd_key(&key.namespace, &key.name);
        match found {
            Some(found) => {
                let completed = complete(&found.object, &object)?;
                let at = i64::try_from(found.revision).unwrap_or(i64::MAX);
                Some((etcd_key, at, stored::encode(row, storage, &completed)))
            }
            None => match self.prepare(row, object) {
                Ok(mut object) => {
                    if row.plural == "servicecidrs" {
                        // Upstream's server says so itself, no controller (`defaultservicecidr`).
                        object.set("status", ready(&self.config.clock.now().to_string()));
                    }
                    Some((etcd_key, 0, stored::encode(row, storage, &object)))
                }
                Err(status) => {
                    tracing::warn!(key = etcd_key, %status, "an object of a new cluster is refused");
                    None
                }
            },
        }
    }

    pub(crate) fn prepare(&self, row: &Arc<Resource>, mut object: Value) -> Result<Value, Status> {
        // An aggregated role is filled in by its controller; until then it says that it has no rules.
        if matches!(row.plural.as_str(), "roles" | "clusterroles") && object.get("rules").is_none() {
            object.set("rules", Value::Null);
        }
        self.defaults.apply(row.type_name(), &mut object);
        let cx = Context {
            user: "system:apiserver".to_owned(),
            now: self.config.clock.now(),
            uid: self.config.entropy.uuid().to_string(),
            namespace: meta::namespace(&object).to_owned(),
            subresource: Subresource::None,
            features: self.registry.load().features().clone(),
            network: Some(Arc::new(self.service_network())),
            allow_privileged: true,
            ..Context::default()
        };
        registry::create(row, object, &cx)
    }

    fn service_cidr(&self) -> Value {
        let cidrs: Vec<String> = self.config.service_cidrs.iter().map(ToString::to_string).collect();
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs}})
    }

    fn kubernetes_service(&self) -> Value {
        let first = self.config.service_cidrs.first().and_then(|cidr| cidr.hosts().next());
        let first = first.map(|ip| ip.to_string()).unwrap_or_default();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": first, "clusterIPs": [first], "ports": [{"name": "https", "protocol": "TCP",
                "port": 443, "targetPort": self.config.advertise_port}], "sessionAffinity": "None",
                "type": "ClusterIP"}})
    }

    fn kubernetes_endpoints(&self) -> [Value; 2] {
        let (address, port) = (self.config.advertise_address.to_string(), self.config.advertise_port);
        let family = if self.config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
        [
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "kubernetes",
                "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": family,
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}),
        ]
    }
}

fn ready(now: &str) -> Value {
    json!({"conditions": [{"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes default Service CIDR is ready"}]})
}

/// The stored object with what it lacks of the wanted one; `None` when it lacks nothing. Roles are completed as
/// upstream reconciles them: rules and subjects are added, never removed; ours alone keep their content in step.
fn complete(found: &Value, wanted: &Value) -> Option<Value> {
    let kind = wanted.str_at(&["kind"]);
    let mut new = found.clone();
    match kind {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => {
            if meta::annotation(found, AUTOUPDATE) == Some("false") || !wanted["aggregationRule"].is_null() {
                return None;
            }
            let member = if kind.ends_with("Role") { "rules" } else { "subjects" };
            let have = found[member].items();
            let lacking: Vec<Value> = if member == "rules" {
                let (have, wanted) = (Rule::list(&found["rules"]), Rule::list(&wanted["rules"]));
                missing_rules(&have, &wanted).iter().map(Rule::to_value).collect()
            } else {
                wanted[member].items().iter().filter(|subject| !have.contains(subject)).cloned().collect()
            };
            if lacking.is_empty() {
                return None;
            }
            new.set(member, Value::Array(have.iter().cloned().chain(lacking).collect()));
        }
        "Endpoints" if found["subsets"] != wanted["subsets"] => new.set("subsets", wanted["subsets"].clone()),
        "EndpointSlice"
            if found["endpoints"][0]["addresses"] != wanted["endpoints"][0]["addresses"]
                || found["ports"][0]["port"] != wanted["ports"][0]["port"] =>
        {
            new.set("endpoints", wanted["endpoints"].clone());
            new.set("ports", wanted["ports"].clone());
        }
        _ => return None,
    }
    Some(new)
}
