//! create: decode → default → mutate → prepare, validate → validating admission → txn (if absent, put).

use std::sync::Arc;

use machinery::{Status, Value, meta};
use policy::admission::Operation;
use registry::cache::Cached;
use registry::{Resource, Subresource};

use crate::claims;
use crate::info::WriteOptions;
use crate::message::{Content, Reply};
use crate::server::Call;
use crate::write::{Asked, Change, unwritten, written};

/// Fresh suffixes tried for a generated name, and tries to charge a quota that others charge too.
const TRIES_MAX: usize = 8;

impl Call<'_> {
    pub(crate) async fn create(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        if row.namespaced && self.info.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
        let (mut object, mut warnings) = self.object_of(row, options.validation)?;
        self.admit_metadata(row, &mut object)?;
        let object = self.create_object(row, object, &options).await?;
        warnings.extend(row.strategy.warnings_on_create(&object.object));
        let mut reply = Reply::new(201, Content::Object { object, row: row.clone() });
        reply.warnings = warnings;
        Ok(reply)
    }

    /// What every object that is sent to be created goes through, stored or not, before admission sees it (upstream's
    /// `createHandler`): the system's own fields are emptied, and its namespace is that of the request.
    ///
    /// # Errors
    /// 400 when it names another namespace.
    pub(crate) fn admit_metadata(&self, row: &Resource, object: &mut Value) -> Result<(), Status> {
        registry::wipe_system_fields(object);
        registry::ensure_namespace(self.namespace(row), object)
    }

    /// Creates a decoded object whose namespace is that of the request.
    pub(crate) async fn create_object(
        &self,
        row: &Arc<Resource>,
        mut given: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Cached>, Status> {
        self.server.defaults.apply(row.type_name(), &mut given);
        let generated = meta::name(&given).is_empty() && !given.str_at(&["metadata", "generateName"]).is_empty();
        let tries = if claims::is_service(row) { claims::TRIES_MAX } else { TRIES_MAX };
        for last in (0..tries).rev() {
            let mut cx = self.context(row, Subresource::None, options.dry_run);
            let mut object = given.clone();
            registry::fill_name(&mut object, &cx);
            let name = meta::name(&object).to_owned();
            let asked = Asked {
                operation: Operation::Create,
                kind: &row.gvk,
                subresource: "",
                name: &name,
                old: None,
                dry_run: options.dry_run,
            };
            self.mutate(row, &asked, &mut object)?;
            let turn = self.answer_needs(row, (None, &object), &mut cx).await?;
            let object = registry::create(row, object, &cx)?;
            let quotas = self.validate(row, &asked, Some(&object))?;
            let key = row.etcd_key(&cx.namespace, meta::name(&object));
            if options.dry_run {
                if self.server.current(row, &cx.namespace, meta::name(&object)).await?.is_some() {
                    return Err(Status::already_exists(&row.group_resource(), meta::name(&object)));
                }
                return Ok(unwritten(self.server, row, &object, None));
            }
            let chosen = turn.as_ref().map(|turn| (turn, &cx));
            let claims = self.server.claims(row, (None, Some(&object)), chosen)?;
            if let Some(done) = self.server.commit(row, &key, 0, Change::Put(&object), &quotas, &claims).await? {
                drop(turn);
                return Ok(written(self.server, row, &object, &done));
            }
            let taken = self.server.current(row, &cx.namespace, meta::name(&object)).await?.is_some();
            if taken && (!generated || last == 0) {
                return Err(Status::already_exists(&row.group_resource(), meta::name(&object)));
            }
            if !taken {
                // A quota changed meanwhile, or another server was faster with an address or a port; look again when the
                // caches show it.
                self.server.caches.wait_for_now().await?;
            }
        }
        Err(crate::message::internal("the object or its quota kept changing"))
    }
}
