//! delete and deletecollection.

use std::sync::Arc;

use machinery::{Status, Value, meta};
use policy::admission::Operation;
use registry::cache::Cached;
use registry::{DeleteOptions, Deletion, Resource, Subresource};

use crate::claims::Claims;
use crate::message::{Content, Reply, success};
use crate::server::Call;
use crate::write::{Asked, Change, unwritten, written};

const ROUNDS_MAX: usize = 16;

/// What a delete has done.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Cached>),
    /// It is marked.
    Marked(Arc<Cached>),
}

/// Kinds whose delete answers with the object that is gone (`ReturnDeletedObject`).
fn returns_object(row: &Resource) -> bool {
    matches!(
        (row.gvk.group.as_str(), row.plural.as_str()),
        (
            "",
            "pods"
                | "services"
                | "serviceaccounts"
                | "podtemplates"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "resourcequotas"
        ) | ("storage.k8s.io", _)
            | ("policy", "podsecuritypolicies")
    )
}

impl Call<'_> {
    pub(crate) async fn delete(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let options = self.delete_options()?;
        let name = self.info.name.clone();
        match self.delete_object(row, self.namespace(row), &name, &options).await? {
            Deleted::Gone(object) if !returns_object(row) => Ok(success(200, Some(row), Some(&object.object))),
            Deleted::Gone(object) => Ok(Reply::new(200, Content::Object { object, row: row.clone() })),
            Deleted::Marked(object) => {
                let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
                Ok(Reply::new(code, Content::Object { object, row: row.clone() }))
            }
        }
    }

    pub(crate) async fn delete_object(
        &self,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let missing = || Status::not_found(&row.group_resource(), name);
        let dry_run = !options.dry_run.is_empty();
        for _ in 0..ROUNDS_MAX {
            let stored = self.server.current(row, namespace, name).await?.ok_or_else(missing)?;
            let old = registry::convert(&stored.object, row);
            let asked =
                Asked { operation: Operation::Delete, kind: &row.gvk, subresource: "", name, old: Some(&old), dry_run };
            self.mutate(row, &asked, &mut Value::Null)?;
            self.validate(row, &asked, None)?;
            let mut cx = self.context(row, Subresource::None, dry_run);
            cx.namespace = namespace.to_owned();
            cx.name = name.to_owned();
            let deletion = registry::delete(row, &old, options, &cx)?;
            let key = row.etcd_key(namespace, name);
            let done = match &deletion {
                Deletion::Unchanged => return Ok(Deleted::Marked(stored)),
                Deletion::Remove if dry_run => return Ok(Deleted::Gone(stored)),
                Deletion::Mark(marked) if dry_run => {
                    return Ok(Deleted::Marked(unwritten(self.server, row, marked, Some(&stored))));
                }
                Deletion::Remove => {
                    let claims = self.server.claims(row, (Some(&old), None), None)?;
                    self.server.commit(row, &key, stored.revision, Change::Remove, &[], &claims).await?
                }
                Deletion::Mark(marked) => {
                    self.server.commit(row, &key, stored.revision, Change::Put(marked), &[], &Claims::default()).await?
                }
            };
            match (done, &deletion) {
                (None, _) => {}
                (Some(_), Deletion::Remove | Deletion::Unchanged) => return Ok(Deleted::Gone(stored)),
                (Some(done), Deletion::Mark(marked)) => {
                    return Ok(Deleted::Marked(written(self.server, row, marked, &done)));
                }
            }
        }
        Err(Status::modified(&row.group_resource(), name))
    }

    /// Deletes what the selectors match and answers with the list of it.
    pub(crate) async fn delete_collection(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let options = self.delete_options()?;
        let selection = self.list_options(false)?;
        let mut list = self.select(row, &selection).await?;
        let mut left = Vec::with_capacity(list.items.len());
        for cached in std::mem::take(&mut list.items) {
            let object = &cached.object;
            match self.delete_object(row, meta::namespace(object), meta::name(object), &options).await {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => left.push(object),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        list.items = left;
        Ok(Reply::new(200, Content::List(list)))
    }
}
