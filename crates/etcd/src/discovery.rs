//! `--discovery-endpoints`: members that do not know each other yet find out in an etcd that runs already
//! (`server/etcdserver/api/v3discovery`). Each writes where it is to be found below the token's prefix, and waits until as
//! many have done so as the key `_config/size` says; the first of them are the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mvcc::{PutRequest, RangeRequest, prefix_end};
use raft::MemberId;

use crate::flags::Flags;
use crate::members::member_id;
use crate::peers::tls::client_config;
use crate::store::WatchRequest;
use crate::{EtcdError, RemoteStore, StoreError};

/// After so many attempts the wait between them does not grow any more.
const DOUBLINGS_MAX: u32 = 8;

/// Where members meet.
struct Meeting {
    store: RemoteStore,
    token: String,
    patience: Duration,
    retries: u32,
}

/// What is known of the members: by the revision that made each one's key.
struct Found {
    size: usize,
    /// Key and `name=url` pairs.
    members: BTreeMap<(i64, String), String>,
    revision: i64,
}

/// Meets the other members; what comes back is the value of `--initial-cluster`.
///
/// # Errors
/// When the place of meeting says that the cluster is complete without this member, or makes no sense.
pub(crate) async fn meet(flags: &Flags) -> Result<String, EtcdError> {
    let token = flags.text("discovery-token").to_owned();
    let mut urls = flags.list("initial-advertise-peer-urls");
    urls.sort_unstable();
    let id = member_id(&urls, &token, None);
    let name = flags.text("name");
    let me = urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
    if !flags.text("discovery-user").is_empty() || !flags.text("discovery-password").is_empty() {
        return Err(EtcdError::Join("--discovery-user and --discovery-password are not supported here".to_owned()));
    }
    let endpoints = flags.list("discovery-endpoints");
    let tls = if endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        let [authority, cert, key] =
            ["discovery-cacert", "discovery-cert", "discovery-key"].map(|name| flags.text(name));
        let authority = (!flags.is_set("discovery-insecure-skip-tls-verify")).then_some(authority);
        Some(Arc::new(client_config(authority, cert, key)?))
    } else {
        None
    };
    let store = RemoteStore::connect(&endpoints, tls)?;
    let patience = flags.duration("discovery-request-timeout");
    let mut meeting = Meeting { store, token, patience, retries: 0 };
    meeting.look(id).await?;
    meeting.register(id, &me).await?;
    let mut found = meeting.look(id).await?;
    meeting.wait(&mut found).await;
    let cluster = found.cluster();
    tracing::info!(target: "etcd", cluster, "discovery joined cluster successfully");
    Ok(cluster)
}

impl Meeting {
    fn key(&self, rest: &str) -> bytes::Bytes {
        format!("/_etcd/registry/{}/{rest}", self.token).into()
    }

    /// What is there; tries for ever while nobody answers.
    async fn look(&mut self, me: MemberId) -> Result<Found, EtcdError> {
        loop {
            let looked = tokio::time::timeout(self.patience, self.look_once()).await;
            match looked.unwrap_or(Err(StoreError::Timeout)) {
                Ok(found) => {
                    self.retries = 0;
                    return found?.with(&self.key(&format!("members/{me:x}")));
                }
                Err(error) => self.pause("cluster status check", &error).await,
            }
        }
    }

    async fn look_once(&self) -> Result<Result<Found, EtcdError>, StoreError> {
        let size = self.store.range(RangeRequest::key(self.key("_config/size"))).await?;
        let Some(size) = size.kvs.first() else {
            return Ok(Err(EtcdError::Join("discovery: size key not found".to_owned())));
        };
        let size = std::str::from_utf8(&size.value).ok().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
        let Some(size) = size else {
            return Ok(Err(EtcdError::Join("discovery: size key is bad".to_owned())));
        };
        let prefix = self.key("members");
        let range = RangeRequest { range_end: prefix_end(&prefix), ..RangeRequest::key(prefix) };
        let answer = self.store.range(range).await?;
        let mut found = Found { size, members: BTreeMap::new(), revision: answer.revision };
        for kv in &answer.kvs {
            found.add(kv);
        }
        Ok(Ok(found))
    }

    async fn register(&mut self, me: MemberId, contents: &str) -> Result<(), EtcdError> {
        loop {
            let key = self.key(&format!("members/{me:x}"));
            let put = PutRequest { key, value: contents.to_owned().into(), ..PutRequest::default() };
            let put = tokio::time::timeout(self.patience, self.store.put(put)).await;
            match put.unwrap_or(Err(StoreError::Timeout)) {
                Ok(_) => {
                    self.retries = 0;
                    tracing::info!(target: "etcd", member_info = contents, "register member itself successfully");
                    return Ok(());
                }
                Err(error) => self.pause("register member itself", &error).await,
            }
        }
    }

    /// Waits until there are enough.
    async fn wait(&mut self, found: &mut Found) {
        while found.members.len() < found.size {
            let (cluster_size, found_peers) = (found.size, found.members.len());
            tracing::info!(target: "etcd", cluster_size, found_peers, "waiting for peers from discovery service");
            let prefix = self.key("members");
            let request = WatchRequest {
                range_end: prefix_end(&prefix),
                key: prefix,
                start_revision: found.revision + 1,
                ..WatchRequest::default()
            };
            let mut watch = match self.store.watch(request).await {
                Ok(watch) => watch,
                Err(error) => {
                    self.pause("waiting for other nodes", &error).await;
                    continue;
                }
            };
            while found.members.len() < found.size {
                match watch.next().await {
                    Some(Ok(batch)) => {
                        batch.events.iter().for_each(|event| found.add(&event.kv));
                        found.revision = found.revision.max(batch.revision);
                    }
                    Some(Err(error)) => {
                        self.pause("waiting for other nodes", &error).await;
                        break;
                    }
                    None => break,
                }
            }
        }
    }

    async fn pause(&mut self, step: &str, error: &StoreError) {
        self.retries += 1;
        let backoff = Duration::from_secs(1 << self.retries.min(DOUBLINGS_MAX));
        tracing::warn!(target: "etcd", reason = step, %error, ?backoff, "retry connecting to discovery service");
        tokio::time::sleep(backoff).await;
    }
}

impl Found {
    /// Takes up a member's key.
    fn add(&mut self, kv: &mvcc::KeyValue) {
        let (Ok(key), Ok(value)) = (std::str::from_utf8(&kv.key), std::str::from_utf8(&kv.value)) else { return };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        let known = self.members.keys().any(|(_, known)| *known == key);
        if !value.contains('=') || known {
            tracing::warn!(target: "etcd", member_key = key, member_info = value, "invalid or duplicate peer");
            return;
        }
        tracing::info!(target: "etcd", member_key = key, member_info = value, "found peer from discovery service");
        self.members.insert((kv.create_revision, key), value);
    }

    /// Refuses when there are enough members without this one.
    fn with(self, me: &[u8]) -> Result<Self, EtcdError> {
        let mine = self.members.keys().take(self.size).any(|(_, key)| key.as_bytes() == me);
        if mine || self.members.len() < self.size {
            return Ok(self);
        }
        Err(EtcdError::Join("discovery: cluster is full".to_owned()))
    }

    /// The first of them, as many as the cluster has.
    fn cluster(&self) -> String {
        let members: Vec<&str> = self.members.values().take(self.size).map(String::as_str).collect();
        members.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_are_the_cluster() {
        let mut found = Found { size: 2, members: BTreeMap::new(), revision: 1 };
        let kv = |key: &str, value: &str, create_revision| mvcc::KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            create_revision,
            ..mvcc::KeyValue::default()
        };
        for kv in [kv("c", "c=3", 9), kv("b", "b=2", 5), kv("x", "bad", 6), kv("a", "a=1", 7), kv("b", "b=4", 8)] {
            found.add(&kv);
        }
        assert_eq!(found.cluster(), "b=2,a=1");
        let found = found.with(b"a").expect("it is among the first");
        let error = found.with(b"c").err().expect("it came too late");
        assert_eq!(error.to_string(), "discovery: cluster is full");
    }
}
