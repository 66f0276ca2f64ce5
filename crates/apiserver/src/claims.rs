//! What a Service holds besides its own object: an IPAddress for each of its cluster IPs, and node ports.
//!
//! Both are written in the transaction that writes the Service, so that several API servers on one store never give an address
//! or a port to two Services: an IPAddress may not be there before, and the row of the node ports must still be the one that
//! was known when ports were chosen. Whoever is late finds the transaction refused, looks again and chooses anew, or says that
//! what was asked for is taken. Upstream has the same objects and the same row (`/registry/ranges/servicenodeports`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use etcd::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use machinery::{ObjectKey, Status, Value, json, meta};
use registry::allocation::ServiceNetwork;
use registry::{Context, Resource};
use tokio::sync::MutexGuard;

use crate::caches::ResourceCache;
use crate::server::{Call, Inner};
use crate::stored;
use crate::write::store_error;

/// Tries to write a Service while other API servers take addresses and ports too; each failure is another's success.
pub(crate) const TRIES_MAX: usize = 64;
const PORTS_KEY: &str = "/registry/ranges/servicenodeports";
const SERVICES: &str = "/registry/services/specs/";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How often addresses and Services are held against each other when nothing about addresses changes.
const REPAIR_INTERVAL: Duration = Duration::from_secs(60);

/// A write of a Service waits for its turn in this server, and keeps it until the write is in the caches.
pub(crate) struct Turn<'a> {
    _held: MutexGuard<'a, ()>,
    /// The revision of the node ports' row (0: none) that the caches have seen.
    ports_at: i64,
}

/// What a transaction takes and lets go of beside its object.
#[derive(Default)]
pub(crate) struct Claims {
    /// Keys that must be at a revision, and their new values.
    written: Vec<(String, i64, Bytes)>,
    removed: Vec<String>,
}

impl Claims {
    pub(crate) const fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    pub(crate) fn add_to(&self, txn: &mut TxnRequest) {
        for (key, at, value) in &self.written {
            txn.compare.push(Compare::mod_revision(key.clone(), *at));
            txn.success.push(put(key, value.clone()));
        }
        txn.success.extend(self.removed.iter().map(|key| remove(key)));
    }
}

fn put(key: &str, value: Bytes) -> RequestOp {
    RequestOp::Put(PutRequest { key: key.to_owned().into(), value, ..PutRequest::default() })
}

fn remove(key: &str) -> RequestOp {
    RequestOp::DeleteRange(DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() })
}

pub(crate) fn is_service(row: &Resource) -> bool {
    row.gvk.group.is_empty() && row.plural == "services"
}

/// Addresses and ports of one Service.
fn held(service: Option<&Value>) -> ServiceNetwork {
    ServiceNetwork::of(Vec::new(), service, 0)
}

impl Call<'_> {
    /// Waits for the turn to choose addresses and ports, until the caches show all that was chosen before.
    pub(crate) async fn service_turn(&self, cx: &mut Context, wants_ports: bool) -> Result<Turn<'_>, Status> {
        let server = self.server;
        let held = server.service_turn.lock().await;
        let mut ports_at = 0;
        if wants_ports {
            let answer = server.config.store.range(RangeRequest::key(PORTS_KEY)).await.map_err(|e| store_error(&e))?;
            ports_at = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
        }
        // What another server gave back a moment ago is free, what it gave away is not.
        server.caches.wait_for_now().await?;
        cx.network = Some(Arc::new(server.service_network()));
        Ok(Turn { _held: held, ports_at })
    }
}

/// Has a Service of this kind node ports?
pub(crate) fn wants_ports(service: &Value) -> bool {
    matches!(service.str_at(&["spec", "type"]), "NodePort" | "LoadBalancer")
}

impl Inner {
    /// What a Service takes that it did not have, and what it lets go of; nothing for other kinds.
    pub(crate) fn claims(
        &self,
        row: &Resource,
        (old, new): (Option<&Value>, Option<&Value>),
        chosen: Option<(&Turn<'_>, &Context)>,
    ) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        if !is_service(row) {
            return Ok(claims);
        }
        let (had, has) = (held(old), held(new));
        let address_row = self.address_row()?;
        let key = |ip: &IpAddr| address_row.etcd_key("", &ip.to_string());
        for ip in has.used_addresses.difference(&had.used_addresses) {
            let address = self.address_of(*ip, new.unwrap_or(&Value::Null))?;
            claims.written.push((key(ip), 0, address));
        }
        claims.removed.extend(had.used_addresses.difference(&has.used_addresses).map(key));
        // A Service that goes leaves its ports in the row, until the next one that takes some writes the row anew.
        let taken = has.used_ports.difference(&had.used_ports).next().is_some();
        if let Some((turn, cx)) = chosen.filter(|_| taken) {
            let others = cx.network.as_deref().map(|network| network.used_ports.clone()).unwrap_or_default();
            let mut ports: BTreeSet<u16> = others.difference(&had.used_ports).copied().collect();
            ports.extend(&has.used_ports);
            let range = cx.network.as_deref().and_then(|network| network.node_ports).unwrap_or_default();
            claims.written.push((PORTS_KEY.to_owned(), turn.ports_at, range_allocation(range, &ports)));
        }
        Ok(claims)
    }

    fn address_row(&self) -> Result<Arc<Resource>, Status> {
        let registry = self.registry.load_full();
        registry.lookup("networking.k8s.io", "v1", "ipaddresses").cloned().ok_or_else(Status::path_not_found)
    }

    /// The IPAddress of a Service, as it is stored.
    fn address_of(&self, ip: IpAddr, service: &Value) -> Result<Bytes, Status> {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {
            "labels": {"ipaddress.kubernetes.io/ip-family": family}}});
        object["metadata"].set("name", ip.to_string());
        object["metadata"]["labels"].set(MANAGED_BY, ALLOCATOR);
        object.set(
            "spec",
            json!({"parentRef": {"resource": "services", "namespace": meta::namespace(service),
                "name": meta::name(service)}}),
        );
        let row = self.address_row()?;
        let object = self.prepare(&row, object)?;
        Ok(stored::encode(&row, &row, &object))
    }

    /// The addresses that somebody holds, whoever it is.
    pub(crate) fn held_addresses(&self) -> BTreeSet<IpAddr> {
        let Some(addresses) = self.addresses() else { return BTreeSet::new() };
        addresses.snapshot().list("", None).filter_map(|(key, _)| key.name.parse().ok()).collect()
    }

    fn addresses(&self) -> Option<Arc<ResourceCache>> {
        self.caches.started(&self.address_row().ok()?.etcd_prefix)
    }

    /// Holds addresses and Services against each other, as upstream's repair loop does: an address whose Service is gone or
    /// has another one is removed, one that is missing is made.
    async fn repair_addresses(&self) -> Result<(), Status> {
        let Some(addresses) = self.addresses().map(|cache| cache.snapshot()) else { return Ok(()) };
        // Later than the addresses: what an address belongs to is there when it is.
        self.caches.wait(addresses.revision()).await?;
        let Some(services) = self.caches.started(SERVICES).map(|cache| cache.snapshot()) else { return Ok(()) };
        let registry = self.registry.load_full();
        let service_row = registry.lookup("", "v1", "services").ok_or_else(Status::path_not_found)?;
        let row = self.address_row()?;
        let at = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
        for (key, address) in addresses.list("", None) {
            let object = &address.object;
            if object["metadata"]["labels"][MANAGED_BY].as_str() != Some(ALLOCATOR) {
                continue;
            }
            let parent = ObjectKey::new(
                object.str_at(&["spec", "parentRef", "namespace"]),
                object.str_at(&["spec", "parentRef", "name"]),
            );
            let service = services.get(&parent);
            let holds = held(service.map(|service| &*service.object)).used_addresses;
            if key.name.parse().is_ok_and(|ip: IpAddr| holds.contains(&ip)) {
                continue;
            }
            let etcd_key = row.etcd_key("", &key.name);
            let service_key = service_row.etcd_key(&parent.namespace, &parent.name);
            let compare = vec![
                Compare::mod_revision(etcd_key.clone(), at(address.revision)),
                Compare::mod_revision(service_key, service.map_or(0, |service| at(service.revision))),
            ];
            tracing::info!(address = %key.name, %parent, "an IPAddress whose Service does not have it is removed");
            self.repair_with(TxnRequest { compare, success: vec![remove(&etcd_key)], ..TxnRequest::default() }).await?;
        }
        for (key, service) in services.list("", None) {
            for ip in held(Some(&service.object)).used_addresses {
                let etcd_key = row.etcd_key("", &ip.to_string());
                if addresses.get(&ObjectKey::new("", &ip.to_string())).is_some() {
                    continue;
                }
                let value = self.address_of(ip, &service.object)?;
                let service_key = service_row.etcd_key(&key.namespace, &key.name);
                let compare = vec![
                    Compare::mod_revision(etcd_key.clone(), 0),
                    Compare::mod_revision(service_key, at(service.revision)),
                ];
                self.repair_with(TxnRequest { compare, success: vec![put(&etcd_key, value)], ..TxnRequest::default() })
                    .await?;
            }
        }
        Ok(())
    }

    /// Another server may have done it, or the Service changed meanwhile: then there is nothing to do.
    async fn repair_with(&self, txn: TxnRequest) -> Result<(), Status> {
        self.config.store.txn(txn).await.map(|_| ()).map_err(|e| store_error(&e))
    }
}

/// The row of the node ports, as upstream stores it: a bit for each port, the first one last.
fn range_allocation((first, last): (u16, u16), ports: &BTreeSet<u16>) -> Bytes {
    let mut bits = vec![0_u8; (usize::from(last) - usize::from(first)) / 8 + 1];
    for port in ports.iter().filter(|port| (first..=last).contains(port)) {
        let offset = usize::from(port - first);
        let place = bits.len() - 1 - offset / 8;
        bits[place] |= 1 << (offset % 8);
    }
    let significant = bits.iter().position(|byte| *byte != 0).unwrap_or(bits.len());
    let data = base64::engine::general_purpose::STANDARD.encode(&bits[significant..]);
    let row = json!({"kind": "RangeAllocation", "apiVersion": "v1", "metadata": {"creationTimestamp": null},
        "range": (format!("{first}-{last}")), "data": data});
    Bytes::from(row.to_vec())
}

/// Repairs at the start, at each change of an address, and from time to time.
pub(crate) async fn repair(server: Arc<Inner>) {
    let mut stop = server.stop.subscribe();
    loop {
        // The cache is another one after each time the store was read anew.
        let changed = server.addresses().map(|cache| cache.subscribe());
        if let Err(status) = server.repair_addresses().await {
            tracing::debug!(%status, "repairing the addresses of Services");
        }
        let change = async {
            match changed {
                Some(mut changed) => drop(changed.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = crate::watch::stopped(&mut stop) => return,
            () = tokio::time::sleep(REPAIR_INTERVAL) => {}
            () = change => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_node_ports_is_upstreams() {
        let row = |ports: &[u16]| {
            let bytes = range_allocation((30_000, 32_767), &ports.iter().copied().collect());
            Value::from_slice(&bytes).unwrap()["data"].as_str().unwrap().to_owned()
        };
        // As Go's big.Int prints its bytes: the largest first, without zeros before.
        assert_eq!(row(&[]), "");
        assert_eq!(row(&[30_000]), "AQ==");
        assert_eq!(row(&[30_000, 30_009]), "AgE=");
    }
}
