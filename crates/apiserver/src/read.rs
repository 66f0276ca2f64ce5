//! get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use etcd::{RangeRequest, StoreError, prefix_end};
use machinery::{ObjectKey, Status, Value, json};
use registry::Resource;
use registry::cache::Cached;

use crate::caches::{ResourceCache, revision};
use crate::filter::Filter;
use crate::info::ListOptions;
use crate::message::{Content, List, Reply};
use crate::server::{Call, Inner};
use crate::watch::{Begin, WatchStream};

/// A watch without `timeoutSeconds` lasts this long and up to twice that (`--min-request-timeout`).
const WATCH_SECONDS_MIN: u64 = 1800;
/// Keys read at once when a page must come from the store.
const STORE_PAGE: i64 = 1000;

/// Where a page begins: `{"v":"meta.k8s.io/v1","rv":…,"start":…}`; -1 as revision continues on the newest.
struct Continue {
    revision: i64,
    start: String,
}

impl Continue {
    fn encode(revision: i64, start: &str) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        URL_SAFE_NO_PAD.encode(token.to_vec())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let bad =
            |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| bad(e.to_string()))?;
        let value = Value::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if value.str_at(&["v"]) != "meta.k8s.io/v1" {
            let version = value.str_at(&["v"]);
            return Err(bad(format!("server does not recognize this encoded version {version:?}")));
        }
        let (revision, start) = (value["rv"].as_i64().unwrap_or(0), value.str_at(&["start"]).to_owned());
        if revision == 0 || start.is_empty() {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned()));
        }
        if start.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(bad(start));
        }
        Ok(Self { revision, start })
    }
}

impl Inner {
    /// The object as the store has it now, sharing the cache's copy when that is as new.
    pub(crate) async fn current(
        &self,
        row: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Cached>>, Status> {
        let key = row.etcd_key(namespace, name);
        let found =
            self.caches.store().range(RangeRequest::key(key)).await.map_err(|e| crate::write::store_error(&e))?;
        let Some(kv) = found.kvs.into_iter().next() else { return Ok(None) };
        if let Some(why) = self.encryption.failure(&kv.key) {
            return Err(crate::message::internal(why));
        }
        let at = revision(kv.mod_revision);
        if let Some(cache) = self.caches.started(&row.etcd_prefix)
            && let Some(cached) = cache.get(&ObjectKey::new(if row.namespaced { namespace } else { "" }, name))
            && cached.revision == at
        {
            return Ok(Some(cached));
        }
        let object = self.caches.reader().decode(&kv.value).map_err(|why| {
            crate::message::internal(format!(
                "unable to decode {} from the store: {why}",
                row.etcd_key(namespace, name)
            ))
        })?;
        Ok(Some(Arc::new(Cached::new(object, at, kv.value.len()))))
    }

    /// The watch cache of a resource is all of it, or is not to be had.
    fn check_readable(&self, row: &Resource) -> Result<(), Status> {
        match self.encryption.failure_below(&row.etcd_prefix) {
            Some((key, why)) => Err(unreadable(&key, &why)),
            None => Ok(()),
        }
    }

    pub(crate) async fn cache_of(&self, row: &Arc<Resource>) -> Result<Arc<ResourceCache>, Status> {
        if let Some(cache) = self.caches.started(&row.etcd_prefix) {
            return Ok(cache);
        }
        let registry = self.registry.load_full();
        let storage = registry.storage_row(row).unwrap_or(row);
        self.caches.of(row, storage).await
    }
}

impl Call<'_> {
    pub(crate) async fn get(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let name = &self.info.name;
        let version = self.query.get("resourceVersion");
        match crate::info::revision(version).map_err(unreasoned)? {
            Some(at) if at > 0 => self.server.caches.wait(at).await?,
            _ => {}
        }
        let found = if version == "0" {
            let cache = self.server.cache_of(row).await?;
            match cache.get(&ObjectKey::new(self.namespace(row), name)) {
                Some(cached) => Some(cached),
                None => self.server.current(row, self.namespace(row), name).await?,
            }
        } else {
            self.server.current(row, self.namespace(row), name).await?
        };
        match found {
            Some(object) => Ok(Reply::new(200, Content::Object { object, row: row.clone() })),
            None => Err(Status::not_found(&row.group_resource(), name)),
        }
    }

    /// The namespace in the URL, empty for cluster-scoped resources (a Namespace's own name stands there too).
    pub(crate) fn namespace(&self, row: &Resource) -> &str {
        if row.namespaced { &self.info.namespace } else { "" }
    }

    /// The options of a list or watch.
    pub(crate) fn list_options(&self, watch: bool) -> Result<ListOptions, Status> {
        let watch_list = self.server.registry.load().features().enabled("WatchList");
        ListOptions::parse(&self.query, watch, watch_list)
    }

    pub(crate) async fn list(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let options = self.list_options(false)?;
        match self.select(row, &options).await {
            Ok(list) => Ok(Reply::new(200, Content::List(list))),
            Err(status) if status.code == 410 && !options.continue_token.is_empty() => {
                // The client may go on from there, on the newest state.
                let start = Continue::decode(&options.continue_token)?.start;
                let mut value = status.to_value();
                value["metadata"].set("continue", Continue::encode(-1, &start));
                Ok(Reply::tree(410, value, "meta/v1.Status"))
            }
            Err(status) => Err(status),
        }
    }

    /// The objects a list is about, in key order.
    pub(crate) async fn select(&self, row: &Arc<Resource>, options: &ListOptions) -> Result<List, Status> {
        let filter = Filter::new(row, &self.info, options)?;
        if !options.continue_token.is_empty() {
            let token = Continue::decode(&options.continue_token)?;
            if !options.resource_version.is_empty() && options.resource_version != "0" {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            return self.page_from_store(row, &filter, options, token.revision, Some(token.start)).await;
        }
        let wanted = options.revision()?;
        if options.resource_version_match == "Exact"
            || (options.limit > 0 && options.resource_version_match.is_empty() && wanted.is_some_and(|r| r > 0))
        {
            let at = i64::try_from(wanted.unwrap_or(0)).unwrap_or(i64::MAX);
            return self.page_from_store(row, &filter, options, at, None).await;
        }
        let cache = self.server.cache_of(row).await?;
        match wanted {
            Some(0) => {}
            Some(at) => self.server.caches.wait(at).await?,
            None => self.server.caches.wait_for_now().await?,
        }
        self.server.check_readable(row)?;
        let reached = self.server.caches.revision();
        let snapshot = cache.snapshot();
        let at = snapshot.revision().max(reached);
        if let Some(key) = filter.single() {
            let items = snapshot.get(&key).filter(|cached| filter.matches(cached)).cloned().into_iter().collect();
            return Ok(page(row, items, at));
        }
        // Upstream ignores a limit where any version will do.
        let limit = if wanted == Some(0) { 0 } else { usize::try_from(options.limit).unwrap_or(0) };
        if limit == 0 {
            let items: Vec<Arc<Cached>> = filter.select(&snapshot, None).map(|(_, cached)| cached.clone()).collect();
            return Ok(page(row, items, at));
        }
        let mut found = filter.select(&snapshot, None);
        let first: Vec<(&ObjectKey, &Arc<Cached>)> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        let mut list = page(row, first.iter().map(|(_, cached)| (*cached).clone()).collect(), at);
        if more && let Some((last, _)) = first.last() {
            let start = continue_key(row, &filter, last);
            list.continue_token = Continue::encode(i64::try_from(at).unwrap_or(i64::MAX), &start);
            if filter.takes_all() {
                let all = snapshot.count(&filter.namespace);
                list.remaining = Some((all - first.len()) as u64);
            }
        }
        Ok(list)
    }

    /// A page as of an old revision. `start` is relative to the prefix.
    async fn page_from_store(
        &self,
        row: &Arc<Resource>,
        filter: &Filter,
        options: &ListOptions,
        at: i64,
        start: Option<String>,
    ) -> Result<List, Status> {
        let prefix = row.etcd_prefix_of(&filter.namespace);
        let range_end = prefix_end(prefix.as_bytes());
        let mut key = Bytes::from(format!("{prefix}{}", start.as_deref().unwrap_or_default()));
        let limit = usize::try_from(options.limit).unwrap_or(0);
        let mut shown_at = at.max(0);
        let mut list = page(row, Vec::new(), 0);
        'pages: loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: STORE_PAGE,
                revision: shown_at,
                ..RangeRequest::default()
            };
            let found = self.server.caches.store().range(request).await.map_err(|e| self.gone(&e, start.as_deref()))?;
            if shown_at == 0 {
                shown_at = found.revision;
            }
            for (i, kv) in found.kvs.iter().enumerate() {
                if let Some(why) = self.server.encryption.failure(&kv.key) {
                    return Err(unreadable(&String::from_utf8_lossy(&kv.key), &why));
                }
                let Ok(object) = self.server.caches.reader().decode(&kv.value) else { continue };
                let cached = Arc::new(Cached::new(object, revision(kv.mod_revision), kv.value.len()));
                if !filter.matches(&cached) {
                    continue;
                }
                if limit > 0 && list.items.len() == limit {
                    let last = list.items.last().map(|c| machinery::meta::key(&c.object)).unwrap_or_default();
                    list.continue_token = Continue::encode(shown_at, &continue_key(row, filter, &last));
                    if filter.takes_all() {
                        list.remaining = u64::try_from(found.count).ok().map(|n| n.saturating_sub(i as u64));
                    }
                    break 'pages;
                }
                list.items.push(cached);
            }
            match found.kvs.last() {
                Some(last) if found.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => break,
            }
        }
        list.resource_version = revision(shown_at);
        Ok(list)
    }

    /// 410, for a continuation with a token that goes on from there on the newest state.
    fn gone(&self, error: &StoreError, start: Option<&str>) -> Status {
        if matches!(error, StoreError::Refused(etcd::MvccError::FutureRevision)) {
            return unreasoned("etcdserver: mvcc: required revision is a future revision");
        }
        if !matches!(error, StoreError::Compacted { .. }) {
            return crate::write::store_error(error);
        }
        let Some(start) = start else {
            return Status::expired("The resourceVersion for the provided list is too old.");
        };
        let mut status = Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.continue_token = Continue::encode(-1, start);
        status
    }

    pub(crate) async fn watch(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let options = self.list_options(true)?;
        let filter = Filter::new(row, &self.info, &options)?;
        self.server.check_readable(row)?;
        let cache = self.server.cache_of(row).await?;
        let wanted = crate::info::revision(&options.resource_version).map_err(unreasoned)?;
        let begin = match (options.send_initial_events, wanted) {
            (Some(true), at) => {
                match at {
                    Some(at) if at > 0 => self.server.caches.wait(at).await?,
                    Some(_) => {}
                    None => self.server.caches.wait_for_now().await?,
                }
                Begin::Initial { mark: options.bookmarks }
            }
            (Some(false), None | Some(0)) => Begin::After(self.server.caches.revision()),
            (None, None) => {
                self.server.caches.wait_for_now().await?;
                Begin::Initial { mark: false }
            }
            (None, Some(0)) => Begin::Initial { mark: false },
            (_, Some(at)) => Begin::After(at),
        };
        let seconds = options
            .timeout_seconds
            .unwrap_or_else(|| WATCH_SECONDS_MIN + self.server.with_rng(|rng| rng.below(WATCH_SECONDS_MIN)));
        let stream = WatchStream::new(
            &self.server.caches,
            cache,
            filter,
            row.clone(),
            begin,
            (options.bookmarks, Some(Duration::from_secs(seconds))),
            self.server.stop.subscribe(),
        );
        Ok(Reply::new(200, Content::Watch(stream)))
    }
}

/// What upstream did not make a status of: 500 and the error's text alone.
pub(crate) fn unreasoned(text: impl Into<String>) -> Status {
    Status::new(machinery::Reason::Unknown, text)
}

/// 500 for a list with a value that cannot be opened, as upstream says it.
fn unreadable(key: &str, why: &str) -> Status {
    crate::message::internal(format!("unable to transform key {key:?}: {why}"))
}

fn page(row: &Arc<Resource>, items: Vec<Arc<Cached>>, resource_version: u64) -> List {
    List { row: row.clone(), items, resource_version, continue_token: String::new(), remaining: None }
}

/// The key after an object, relative to the prefix that the list ranges over.
fn continue_key(row: &Resource, filter: &Filter, last: &ObjectKey) -> String {
    if row.namespaced && filter.namespace.is_empty() {
        format!("{}/{}\0", last.namespace, last.name)
    } else {
        format!("{}\0", last.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_reads_back_and_strange_ones_are_refused() {
        let token = Continue::encode(7, "default/x\0");
        let read = Continue::decode(&token).unwrap();
        assert_eq!((read.revision, read.start.as_str()), (7, "default/x\0"));
        for bad in ["x", "e30", &Continue::encode(0, "a"), &Continue::encode(1, "../a")] {
            assert_eq!(Continue::decode(bad).err().map(|s| s.code), Some(400), "{bad}");
        }
    }
}
