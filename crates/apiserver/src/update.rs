//! update and patch: one loop of read → build → mutate → prepare, validate → validating admission → txn (if unchanged).
//! A version or uid that the client named and that is not there any more is a 409; otherwise the loop begins again.

use std::sync::Arc;

use machinery::{FieldError, FieldPath, GroupVersionKind, Reason, Status, Value, meta, patch};
use policy::admission::Operation;
use registry::cache::Cached;
use registry::{Resource, Subresource};

use crate::decode::{Expected, Parsed, json_error, media_type};
use crate::info::{FieldValidation, WriteOptions};
use crate::message::{Body, Content, Reply};
use crate::server::Call;
use crate::write::{Asked, Change, unwritten, written};

/// Rounds before a busy object is given up.
const ROUNDS_MAX: usize = 16;

/// How the new object comes from the old one.
pub(crate) enum Build<'a> {
    /// It was sent whole.
    Replace(Value),
    /// A patch was sent.
    Patch(&'a Patch),
    /// A function of the stored object in the row's version (scale, binding, controllers of our own).
    With(&'a (dyn Fn(&Value) -> Result<Value, Status> + Send + Sync)),
}

/// A patch as sent.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// The patched object; `row` for the strategies of built-ins.
    pub(crate) fn apply(&self, call: &Call<'_>, object: &Value, type_name: &str) -> Result<Value, Status> {
        match self {
            Self::Json(operations) => patch::json_patch(object, operations),
            Self::Merge(changes) => {
                let mut merged = object.clone();
                patch::merge_patch(&mut merged, changes);
                Ok(merged)
            }
            Self::Strategic(changes) => patch::strategic_merge(object, changes, &call.server.types, type_name),
        }
    }
}

impl Call<'_> {
    pub(crate) async fn update(&self, row: &Arc<Resource>, subresource: Subresource) -> Result<Reply, Status> {
        let options = WriteOptions::parse(&self.query, "UpdateOptions")?;
        let (mut object, warnings) = self.object_of(row, options.validation)?;
        registry::ensure_namespace(self.namespace(row), &mut object)?;
        let name = meta::name(&object);
        if name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.info.name
            )));
        }
        if name != self.info.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.info.name
            )));
        }
        self.server.defaults.apply(row.type_name(), &mut object);
        let (code, object) = self.write(row, Build::Replace(object), subresource, &options).await?;
        let mut reply = Reply::new(code, Content::Object { object, row: row.clone() });
        reply.warnings = warnings;
        Ok(reply)
    }

    /// The patch in the body, by its media type.
    pub(crate) fn read_patch(&self, row: &Resource) -> Result<Patch, Status> {
        let tree = || match &self.body {
            Body::Tree(tree) => Ok(tree.clone()),
            Body::Bytes(bytes) => {
                let refused = |e| Status::bad_request(format!("error decoding patch: {}", json_error(bytes, &e)));
                Value::from_slice(bytes).map_err(refused)
            }
            Body::Empty => Err(Status::bad_request("error decoding patch: unexpected end of JSON input")),
        };
        let unsupported = |accepted: &str| {
            Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ))
        };
        // Routing takes these for built-ins only where they can be a patch.
        let unrouted = || Status::generic(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
        match media_type(self.content_type()).as_str() {
            "application/json-patch+json" => Ok(Patch::Json(tree()?)),
            "application/merge-patch+json" => {
                let changes = tree()?;
                patch::check_merge_patch(&changes)?;
                Ok(Patch::Merge(changes))
            }
            "application/strategic-merge-patch+json" if row.custom.is_none() => Ok(Patch::Strategic(tree()?)),
            _ if row.custom.is_some() => Err(unsupported(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            "application/apply-patch+yaml" => Err(unsupported(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
            )),
            _ => Err(unrouted()),
        }
    }

    pub(crate) async fn patch(&self, row: &Arc<Resource>, subresource: Subresource) -> Result<Reply, Status> {
        let options = WriteOptions::parse(&self.query, "PatchOptions")?;
        let patch = self.read_patch(row)?;
        let (code, object) = self.write(row, Build::Patch(&patch), subresource, &options).await?;
        let mut reply = Reply::new(code, Content::Object { object, row: row.clone() });
        reply.warnings = self.patch_warnings(row, &patch, options.validation);
        Ok(reply)
    }

    /// Under Warn, what of a merge or strategic patch no field takes.
    fn patch_warnings(&self, row: &Resource, patch: &Patch, v: FieldValidation) -> Vec<String> {
        match (patch, v, row.type_name()) {
            (_, _, "") | (Patch::Json(_), _, _) => Vec::new(),
            (Patch::Merge(tree) | Patch::Strategic(tree), FieldValidation::Warn, name) => {
                let directive = |w: &String| w.contains("$");
                let mut unknown = machinery::schema::prune(&self.server.types, name, &mut tree.clone());
                unknown.retain(|w| !directive(w));
                unknown
            }
            _ => Vec::new(),
        }
    }

    /// The object to be written, before admission.
    fn build(&self, row: &Resource, old: &Value, build: &Build<'_>, v: FieldValidation) -> Result<Value, Status> {
        match build {
            Build::Replace(object) => Ok(object.clone()),
            Build::With(make) => make(old),
            Build::Patch(patch) => self.patched(row, old, patch, v),
        }
    }

    /// The patched object, read as one that was sent. What cannot be read is a 422 about the patch, with no object named
    /// (`applyJSPatch`, `strategicPatchObject`).
    fn patched(&self, row: &Resource, old: &Value, patch: &Patch, v: FieldValidation) -> Result<Value, Status> {
        let mut object = patch.apply(self, old, row.type_name())?;
        if object.as_object().is_none() {
            return Err(Status::bad_request("the patched object is not an object"));
        }
        let refused = |object: &Value, why: String| {
            let shown = match patch {
                Patch::Strategic(changes) => machinery::go::print(changes),
                Patch::Json(_) | Patch::Merge(_) => object.to_string(),
            };
            let error = FieldError::invalid(&FieldPath::new("patch"), &shown.into(), why);
            Status::invalid("", "", "", &vec![error])
        };
        for (member, want) in [("apiVersion", row.api_version()), ("kind", row.gvk.kind.to_string())] {
            let got = object.str_at(&[member]);
            if got == want {
                continue;
            }
            if row.custom.is_some() {
                let error = FieldError::invalid(&FieldPath::new(member), &got.into(), format!("must be {want}"));
                let kind = if member == "kind" { got } else { row.gvk.kind.as_str() };
                return Err(Status::invalid(&row.gvk.group, kind, meta::name(old), &vec![error]));
            }
            if got.is_empty() || matches!(patch, Patch::Strategic(_)) {
                object.set(member, want);
                continue;
            }
            let got = GroupVersionKind::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
            return Err(refused(&object, self.server.why_not(&got, &row.gvk)));
        }
        let expected = Expected { gvk: &row.gvk, type_name: row.type_name() };
        let v = if v == FieldValidation::Strict { v } else { FieldValidation::Ignore };
        let sent = object.clone();
        self.server
            .shape(row, &expected, Parsed { value: &mut object, found: Vec::new(), json: None }, v)
            .map_err(|why| refused(&sent, why))?;
        self.server.defaults.apply(row.type_name(), &mut object);
        Ok(object)
    }

    /// The loop. Answers with 200, or 201 when it created the object.
    pub(crate) async fn write(
        &self,
        row: &Arc<Resource>,
        build: Build<'_>,
        subresource: Subresource,
        options: &WriteOptions,
    ) -> Result<(u16, Arc<Cached>), Status> {
        let (namespace, name) = (self.namespace(row), self.info.name.as_str());
        for _ in 0..ROUNDS_MAX {
            let Some(stored) = self.server.current(row, namespace, name).await? else {
                return self.create_instead(row, build, subresource, options).await;
            };
            let old = registry::convert(&stored.object, row);
            if let Some(done) = self.round(row, (&stored, &old), &build, subresource, options).await? {
                return Ok((200, done));
            }
        }
        Err(Status::modified(&row.group_resource(), name))
    }

    async fn create_instead(
        &self,
        row: &Arc<Resource>,
        build: Build<'_>,
        subresource: Subresource,
        options: &WriteOptions,
    ) -> Result<(u16, Arc<Cached>), Status> {
        let missing = Status::not_found(&row.group_resource(), &self.info.name);
        match build {
            Build::Replace(object) if subresource == Subresource::None && row.strategy.creates_on_update() => {
                if !meta::uid(&object).is_empty() || !matches!(meta::resource_version(&object), "" | "0") {
                    return Err(missing);
                }
                Ok((201, self.create_object(row, object, options).await?))
            }
            _ => Err(missing),
        }
    }

    /// One round; `None` when somebody else was faster.
    async fn round(
        &self,
        row: &Arc<Resource>,
        (stored, old): (&Arc<Cached>, &Value),
        build: &Build<'_>,
        subresource: Subresource,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Cached>>, Status> {
        let mut new = self.build(row, old, build, options.validation)?;
        registry::ensure_namespace(self.namespace(row), &mut new)?;
        let mut cx = self.context(row, subresource, options.dry_run);
        cx.is_patch = matches!(build, Build::Patch(_));
        let asked = Asked {
            operation: Operation::Update,
            kind: &row.gvk,
            subresource: &self.info.subresource,
            name: &self.info.name,
            old: Some(old),
            dry_run: options.dry_run,
        };
        self.mutate(row, &asked, &mut new)?;
        let turn = self.answer_needs(row, (Some(old), &new), &mut cx).await?;
        let new = registry::update(row, old, new, &cx)?;
        let quotas = self.validate(row, &asked, Some(&new))?;
        if options.dry_run {
            return Ok(Some(unwritten(self.server, row, &new, Some(stored))));
        }
        let key = row.etcd_key(meta::namespace(old), meta::name(old));
        if registry::remove_on_update(row, &new) {
            let claims = self.server.claims(row, (Some(old), None), None)?;
            let done = self.server.commit(row, &key, stored.revision, Change::Remove, &[], &claims).await?;
            return Ok(done.map(|done| written(self.server, row, &new, &done)));
        }
        if quotas.is_empty() && same(old, &new) {
            return Ok(Some(stored.clone()));
        }
        let chosen = turn.as_ref().map(|turn| (turn, &cx));
        let claims = self.server.claims(row, (Some(old), Some(&new)), chosen)?;
        let done = self.server.commit(row, &key, stored.revision, Change::Put(&new), &quotas, &claims).await?;
        if done.is_none() && !(quotas.is_empty() && claims.is_empty()) {
            self.server.caches.wait_for_now().await?;
        }
        drop(turn);
        Ok(done.map(|done| written(self.server, row, &new, &done)))
    }
}

/// Is nothing changed? Compares without resourceVersion.
fn same(old: &Value, new: &Value) -> bool {
    let mut old = old.clone();
    old["metadata"].remove("resourceVersion");
    old == *new
}
