//! `Range`: counting, limits, filters and sorting as etcd does them.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::snapshot::Snapshot;
use crate::{KeyValue, MvccError, RangeRequest, RangeResponse, SortOrder, SortTarget};

impl Snapshot {
    /// Answers a range.
    ///
    /// # Errors
    /// Future or compacted revision. Reads go on in a cluster that is marked as corrupt, as they do in etcd.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        self.range_at(request, self.revision)
    }

    /// `current` is the revision that counts as "now": inside a transaction that already wrote, its own.
    pub(crate) fn range_at(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, MvccError> {
        if request.revision > current {
            return Err(MvccError::FutureRevision);
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.compacted {
            return Err(MvccError::Compacted { revision: self.compacted });
        }
        let mut walk = self.walk(&request.key, &request.range_end, revision);
        let mut response = RangeResponse { revision: current, ..RangeResponse::default() };
        if request.count_only {
            response.count = count(walk);
            return Ok(response);
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        // etcd reads everything when a sort order or filter is given, but not for a bare sort target
        // (`etcdserver/txn/range`): the target then orders what the limit left.
        let fetch = if limit == 0 || sorts_or_filters(request) { usize::MAX } else { limit.saturating_add(1) };
        let mut kvs: Vec<KeyValue> = Vec::new();
        for row in walk.by_ref().take(fetch) {
            kvs.push(row.kv.clone());
        }
        response.count = i64::try_from(kvs.len()).unwrap_or(i64::MAX).saturating_add(count(walk));
        filter(&mut kvs, request);
        sort(&mut kvs, request);
        if limit > 0 && kvs.len() > limit {
            kvs.truncate(limit);
            response.more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        response.kvs = kvs;
        Ok(response)
    }
}

fn count<T>(walk: impl Iterator<Item = T>) -> i64 {
    i64::try_from(walk.count()).unwrap_or(i64::MAX)
}

fn sorts_or_filters(request: &RangeRequest) -> bool {
    request.sort_order != SortOrder::None
        || request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn filter(kvs: &mut Vec<KeyValue>, request: &RangeRequest) {
    if request.max_mod_revision != 0 {
        kvs.retain(|kv| kv.mod_revision <= request.max_mod_revision);
    }
    if request.min_mod_revision != 0 {
        kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
    }
    if request.max_create_revision != 0 {
        kvs.retain(|kv| kv.create_revision <= request.max_create_revision);
    }
    if request.min_create_revision != 0 {
        kvs.retain(|kv| kv.create_revision >= request.min_create_revision);
    }
}

fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let order: fn(&KeyValue, &KeyValue) -> Ordering = match request.sort_target {
        SortTarget::Key => |a, b| a.key.cmp(&b.key),
        SortTarget::Version => |a, b| a.version.cmp(&b.version),
        SortTarget::Create => |a, b| a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => |a, b| a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => |a, b| a.value.cmp(&b.value),
    };
    match (request.sort_target, request.sort_order) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => {}
        (_, SortOrder::None | SortOrder::Ascend) => kvs.sort_by(order),
        (_, SortOrder::Descend) => kvs.sort_by(|a, b| order(b, a)),
    }
}
