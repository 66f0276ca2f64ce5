//! What every write shares: the context of the registry's verbs, admission, the transaction.

use std::sync::Arc;
use std::time::Duration;

use etcd::{Compare, DeleteRangeRequest, PutRequest, RequestOp, StoreError, TxnRequest};
use machinery::{GroupVersionKind, Status, Value, meta};
use policy::RbacKind;
use policy::admission::{self, AdmissionRequest, Operation};
use policy::rbac::{EscalationRequest, check_escalation};
use registry::allocation::ServiceNetwork;
use registry::cache::Cached;
use registry::{Context, Need, Resource, Subresource};

use crate::caches::revision;
use crate::claims::{Claims, Turn, wants_ports};
use crate::server::{Call, Inner};
use crate::stored;

/// Events live an hour (`--event-ttl`); one lease serves those of a minute.
const EVENT_TTL_SECONDS: i64 = 3600;
const EVENT_LEASE_SHARED: Duration = Duration::from_secs(60);

/// What the store says, as clients are told.
pub(crate) fn store_error(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::TooLarge => Status::too_large("etcdserver: request is too large"),
        StoreError::Stopped | StoreError::Unavailable(_) => Status::unavailable(error.to_string()),
        // etcd's own errors pass through as they are: 500 without a reason (`responsewriters.ErrorToAPIStatus`).
        StoreError::TooManyRequests
        | StoreError::Timeout
        | StoreError::Deadline
        | StoreError::TransferTimeout
        | StoreError::NoLeader
        | StoreError::LeaderChanged
        | StoreError::Learner
        | StoreError::Member(_)
        | StoreError::Refused(_)
        | StoreError::Remote { .. } => Status::new(machinery::Reason::Unknown, error.to_string()),
    }
}

/// What a transaction does with the object.
pub(crate) enum Change<'a> {
    Put(&'a Value),
    Remove,
}

/// The operation that admission is asked about.
pub(crate) struct Asked<'a> {
    pub(crate) operation: Operation,
    pub(crate) kind: &'a GroupVersionKind,
    pub(crate) subresource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
}

impl Call<'_> {
    pub(crate) fn context(&self, row: &Resource, subresource: Subresource, dry_run: bool) -> Context {
        let server = self.server;
        Context {
            user: self.user.name.clone(),
            user_uid: self.user.uid.clone(),
            groups: self.user.groups.clone(),
            extra: self.user.extra.clone(),
            now: server.config.clock.now(),
            uid: server.config.entropy.uuid().to_string(),
            name_suffix: server.with_rng(|rng| rng.suffix(5)),
            namespace: self.namespace(row).to_owned(),
            name: self.info.name.clone(),
            subresource,
            is_patch: false,
            dry_run,
            features: server.registry.load().features().clone(),
            network: None,
            allow_privileged: server.config.allow_privileged,
        }
    }

    /// Answers what the verb needs to know. The turn, if there is one, is kept until the write is in the caches.
    pub(crate) async fn answer_needs(
        &self,
        row: &Resource,
        (old, new): (Option<&Value>, &Value),
        cx: &mut Context,
    ) -> Result<Option<Turn<'_>>, Status> {
        let mut turn = None;
        for need in registry::needs(row, old, new) {
            match need {
                Need::ServiceNetwork => {
                    turn = Some(self.service_turn(cx, wants_ports(new)).await?);
                }
            }
        }
        Ok(turn)
    }

    /// Runs `run` with an admission request about this call.
    fn admit<T>(
        &self,
        row: &Resource,
        asked: &Asked<'_>,
        object: Option<&Value>,
        run: impl FnOnce(&AdmissionRequest<'_>) -> T,
    ) -> T {
        let may = |a: &policy::Attributes<'_>| self.server.authorize(a, self.google.as_ref()).allowed;
        let resource = row.gvr();
        run(&AdmissionRequest {
            operation: asked.operation,
            kind: asked.kind,
            resource: &resource,
            subresource: asked.subresource,
            namespace: if row.plural == "namespaces" { &self.info.name } else { self.namespace(row) },
            name: asked.name,
            object,
            old: asked.old,
            user: &self.user,
            dry_run: asked.dry_run,
            now: self.server.config.clock.now(),
            seed: self.server.with_rng(base::Rng::next_u64),
            may: &may,
        })
    }

    pub(crate) fn mutate(&self, row: &Resource, asked: &Asked<'_>, object: &mut Value) -> Result<(), Status> {
        let reader = self.server.reader();
        self.admit(row, asked, None, |request| admission::mutate(request, object, &reader))
    }

    /// Validating admission, RBAC escalation and quota; the quotas that are charged.
    pub(crate) fn validate(
        &self,
        row: &Resource,
        asked: &Asked<'_>,
        object: Option<&Value>,
    ) -> Result<Vec<Value>, Status> {
        let reader = self.server.reader();
        self.admit(row, asked, object, |request| {
            admission::validate(request, &reader)?;
            if let Some(object) = object {
                self.escalation(row, object, asked.old)?;
            }
            admission::quota::charges(request, &reader)
        })
    }

    fn escalation(&self, row: &Resource, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        if row.gvk.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        let Some(kind) = RbacKind::of_resource(&row.plural) else { return Ok(()) };
        self.server.access.load().check_binding(kind, object, old)?;
        let authorizers = self.server.authorizers.load_full();
        let request = EscalationRequest { kind, user: &self.user, namespace: self.namespace(row), object, old };
        check_escalation(&authorizers.rbac, &request, |a| self.server.authorize(a, self.google.as_ref()))
    }
}

impl Inner {
    /// The Services' addresses and ports, by the caches.
    pub(crate) fn service_network(&self) -> ServiceNetwork {
        let cache = self.caches.started("/registry/services/specs/").map(|c| c.snapshot());
        let services = cache.as_deref().map(|c| c.list("", None).map(|(_, s)| &*s.object).collect::<Vec<_>>());
        let seed = self.with_rng(base::Rng::next_u64);
        let mut network = ServiceNetwork::of(self.config.service_cidrs.clone(), services.unwrap_or_default(), seed);
        network.used_addresses.extend(self.held_addresses());
        network
    }

    /// Writes if the object is still at `expected` (0: absent) and nobody has what it claims. `None`: it was not so, nothing
    /// was written.
    pub(crate) async fn commit(
        &self,
        row: &Resource,
        key: &str,
        expected: u64,
        change: Change<'_>,
        quotas: &[Value],
        claims: &Claims,
    ) -> Result<Option<Committed>, Status> {
        let registry = self.registry.load_full();
        let storage = registry.storage_row(row).cloned();
        let storage = storage.as_deref().unwrap_or(row);
        let at = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
        let mut txn =
            TxnRequest { compare: vec![Compare::mod_revision(key.to_owned(), at(expected))], ..TxnRequest::default() };
        let mut size = 0;
        txn.success.push(match change {
            Change::Put(object) => {
                let value = stored::encode(row, storage, object);
                size = value.len();
                let value = self.encryption.seal(key.as_bytes(), value).map_err(crate::message::internal)?;
                let lease = self.lease_for(row).await?;
                RequestOp::Put(PutRequest { key: key.to_owned().into(), value, lease, ..PutRequest::default() })
            }
            Change::Remove => RequestOp::DeleteRange(DeleteRangeRequest {
                key: key.to_owned().into(),
                ..DeleteRangeRequest::default()
            }),
        });
        for quota in quotas {
            let quota_row = registry.lookup("", "v1", "resourcequotas").ok_or_else(Status::path_not_found)?;
            let key = quota_row.etcd_key(meta::namespace(quota), meta::name(quota));
            let had = meta::resource_version(quota).parse().unwrap_or(0);
            txn.compare.push(Compare::mod_revision(key.clone(), had));
            let value = stored::encode(quota_row, quota_row, quota);
            txn.success.push(RequestOp::Put(PutRequest { key: key.into(), value, ..PutRequest::default() }));
        }
        claims.add_to(&mut txn);
        let answer = self.config.store.txn(txn).await.map_err(|e| store_error(&e))?;
        if !answer.succeeded {
            return Ok(None);
        }
        let revision = revision(answer.revision);
        self.note_written(row, revision);
        if !quotas.is_empty() {
            self.written.fetch_max(revision, std::sync::atomic::Ordering::AcqRel);
        }
        Ok(Some(Committed { revision, size }))
    }

    async fn lease_for(&self, row: &Resource) -> Result<i64, Status> {
        if row.plural != "events" || !(row.gvk.group.is_empty() || row.gvk.group == "events.k8s.io") {
            return Ok(0);
        }
        let now = self.config.clock.monotonic();
        let mut lease = self.event_lease.lock().await;
        if let Some((id, granted)) = *lease
            && now.saturating_sub(granted) < EVENT_LEASE_SHARED
        {
            return Ok(id);
        }
        let ttl = EVENT_TTL_SECONDS + i64::try_from(EVENT_LEASE_SHARED.as_secs()).unwrap_or(0);
        let granted = self.config.store.lease_grant(ttl, 0).await.map_err(|e| store_error(&e))?;
        *lease = Some((granted.id, now));
        Ok(granted.id)
    }
}

/// A write that happened.
pub(crate) struct Committed {
    pub(crate) revision: u64,
    pub(crate) size: usize,
}

/// The object as written, in the storage version, for the answer.
pub(crate) fn written(server: &Inner, row: &Resource, object: &Value, committed: &Committed) -> Arc<Cached> {
    let registry = server.registry.load();
    let storage = registry.storage_row(row).map_or(row, |r| r);
    Arc::new(Cached::new(registry::to_storage(object, row, storage), committed.revision, committed.size))
}

/// The object as it would have been written (dry run); a created one has no resourceVersion.
pub(crate) fn unwritten(server: &Inner, row: &Resource, object: &Value, old: Option<&Cached>) -> Arc<Cached> {
    let registry = server.registry.load();
    let storage = registry.storage_row(row).map_or(row, |r| r);
    let mut cached = Cached::new(registry::to_storage(object, row, storage), old.map_or(0, |o| o.revision), 0);
    if old.is_none() {
        Arc::make_mut(&mut cached.object)["metadata"].remove("resourceVersion");
    }
    Arc::new(cached)
}
