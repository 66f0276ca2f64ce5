//! Service `Cluster`: the proxies that registered below `--resolver-prefix` stand for the cluster's members
//! (`server/proxy/grpcproxy/cluster.go`, `register.go`).
//!
//! ```text
//! PREFIX/ADDRESS = {"Op":0,"Addr":"ADDRESS","Metadata":"{\"name\":\"HOST\"}"}      on a lease of --resolver-ttl seconds
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::feed::{Feed, Watched};
use super::kv::Kv;
use super::lease::Leases;
use super::upstream::{Caller, Repeat};
use crate::hub::lock;
use crate::proto as pb;

/// How soon something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a proxy that ends tries to take its name off the list.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where this proxy and others like it are to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolver {
    /// Shared by all of them; empty when they do not register.
    pub(super) prefix: String,
    /// How long the name of one that is gone stays, in seconds.
    pub(super) ttl_seconds: i64,
    /// This one's address; empty when clients are to hear of etcd's members.
    pub(super) address: String,
}

/// What a proxy writes about itself, in the form of etcd's `naming/endpoints`.
#[derive(Serialize, Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Registered {
    op: u8,
    addr: String,
    metadata: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    name: String,
}

/// The proxies that are known, by their keys.
pub(super) struct Members {
    kv: Arc<Kv>,
    leases: Arc<Leases>,
    resolver: Resolver,
    known: Mutex<BTreeMap<Bytes, Registered>>,
}

impl Members {
    pub(super) fn new(kv: Arc<Kv>, leases: Arc<Leases>, resolver: Resolver) -> Self {
        Self { kv, leases, resolver, known: Mutex::default() }
    }

    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: pb::MemberListRequest,
    ) -> Result<pb::MemberListResponse, Status> {
        if self.resolver.address.is_empty() {
            let path = "/etcdserverpb.Cluster/MemberList";
            return self.kv.upstream().ask(path, caller, &request, Repeat::Elsewhere).await;
        }
        let mut members = lock(&self.known).values().map(member).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            let client_ur_ls = vec![self.resolver.address.clone()];
            members.push(pb::Member { name: hostname(), client_ur_ls, ..Default::default() });
        }
        Ok(pb::MemberListResponse { header: None, members })
    }

    /// Keeps this proxy on the list, if there is one, for as long as it runs.
    pub(super) async fn register(self: Arc<Self>) {
        while self.is_listed() {
            match self.enter().await {
                Ok((lease, ttl)) => {
                    self.stay(lease, ttl).await;
                    tracing::warn!(target: "etcd", "session expired; possible network partition or server restart");
                    tracing::warn!(target: "etcd", "creating a new session to rejoin");
                }
                Err(status) => {
                    tracing::warn!(target: "etcd", error = %status.message(), "failed to create a session");
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn is_listed(&self) -> bool {
        !self.resolver.prefix.is_empty() && !self.resolver.address.is_empty()
    }

    fn key(&self) -> Bytes {
        format!("{}/{}", self.resolver.prefix, self.resolver.address).into()
    }

    /// Puts this proxy on the list; the lease that keeps it there, and its time in seconds.
    async fn enter(&self) -> Result<(i64, i64), Status> {
        let nobody = Caller::default();
        let grant = pb::LeaseGrantRequest { ttl: self.resolver.ttl_seconds, id: 0 };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let lease: pb::LeaseGrantResponse = self.kv.upstream().ask(path, &nobody, &grant, Repeat::Always).await?;
        let metadata = serde_json::to_string(&Metadata { name: hostname() });
        let metadata = Some(metadata.map_err(|error| Status::internal(error.to_string()))?);
        let registered = Registered { op: 0, addr: self.resolver.address.clone(), metadata };
        let value = serde_json::to_vec(&registered).map_err(|error| Status::internal(error.to_string()))?;
        let put = pb::PutRequest { key: self.key(), value: value.into(), lease: lease.id, ..Default::default() };
        self.kv.put(&nobody, put).await?;
        let (addr, lease_ttl) = (self.resolver.address.as_str(), self.resolver.ttl_seconds);
        tracing::info!(target: "etcd", addr, lease_ttl, "registered session with lease");
        Ok((lease.id, lease.ttl))
    }

    /// Renews the lease until it is gone.
    async fn stay(&self, lease: i64, ttl_seconds: i64) {
        let period = Duration::from_secs(ttl_seconds.max(1).unsigned_abs()) / 3;
        loop {
            tokio::time::sleep(period).await;
            match self.leases.renew(&Caller::default(), lease).await {
                Ok(answer) if answer.ttl > 0 => {}
                Ok(_) => return,
                // The lease may still be there when etcd can be reached again, so it is asked once more.
                Err(status) if status.code() == Code::Unavailable => {}
                Err(_) => return,
            }
        }
    }

    /// Takes this proxy off the list.
    pub(super) async fn leave(&self) {
        if self.is_listed() {
            let delete = pb::DeleteRangeRequest { key: self.key(), ..Default::default() };
            let _ = tokio::time::timeout(GOODBYE, self.kv.delete_range(&Caller::default(), delete)).await;
        }
    }

    /// Follows the list.
    pub(super) async fn follow(self: Arc<Self>) {
        while self.is_listed() {
            if let Err(status) = self.follow_once().await {
                let (prefix, error) = (self.resolver.prefix.as_str(), status.message());
                tracing::warn!(target: "etcd", prefix, error, "failed to establish endpoint watch");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow_once(&self) -> Result<(), Status> {
        let key: Bytes = format!("{}/", self.resolver.prefix).into();
        let range_end = mvcc::prefix_end(&key);
        let request = pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            serializable: true,
            ..Default::default()
        };
        let found = self.kv.get(&Caller::default(), request).await?;
        let known = found.kvs.into_iter().filter_map(|kv| Some((kv.key.clone(), read(&kv)?))).collect();
        *lock(&self.known) = known;
        let start = found.header.map_or(0, |header| header.revision) + 1;
        let watched = Watched { key, range_end, start, ..Watched::default() };
        let mut feed = Feed::new(self.kv.clone(), Caller::default(), watched);
        loop {
            let answer = feed.next().await?;
            let mut known = lock(&self.known);
            for event in answer.events {
                let Some(kv) = event.kv else { continue };
                if event.r#type == i32::from(pb::event::EventType::Delete) {
                    known.remove(&kv.key);
                } else if let Some(registered) = read(&kv) {
                    known.insert(kv.key, registered);
                }
            }
            if answer.canceled {
                return Err(Status::cancelled(answer.cancel_reason));
            }
        }
    }
}

fn read(kv: &pb::KeyValue) -> Option<Registered> {
    let read = serde_json::from_slice(&kv.value);
    if let Err(error) = &read {
        tracing::warn!(target: "etcd", key = ?kv.key, %error, "unmarshal endpoint update failed");
    }
    read.ok()
}

fn member(registered: &Registered) -> Result<pb::Member, Status> {
    let metadata = registered.metadata.as_deref().unwrap_or_default();
    let Metadata { name } = serde_json::from_str(metadata).map_err(|error| Status::unknown(error.to_string()))?;
    Ok(pb::Member { name, client_ur_ls: vec![registered.addr.clone()], ..Default::default() })
}

/// This machine's name.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_has_the_form_of_etcds_own_proxies() {
        let metadata = serde_json::to_string(&Metadata { name: "h".to_owned() }).expect("plain text");
        let registered = Registered { op: 0, addr: "a:1".to_owned(), metadata: Some(metadata) };
        let text = serde_json::to_string(&registered).expect("plain text");
        assert_eq!(text, r#"{"Op":0,"Addr":"a:1","Metadata":"{\"name\":\"h\"}"}"#);
        let read: Registered = serde_json::from_str(&text).expect("readable");
        let member = member(&read).expect("it has a name");
        assert_eq!((member.name.as_str(), member.client_ur_ls), ("h", vec!["a:1".to_owned()]));
    }
}
