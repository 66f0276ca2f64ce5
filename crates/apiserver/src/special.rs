//! Subresources: status, scale, binding, eviction, token, finalize, approval.

use std::sync::Arc;

use machinery::{GroupVersionKind, Status, Value, json, meta};
use policy::admission::Operation;
use registry::special::{binding, eviction, scale, token};
use registry::{DeleteOptions, Registry, Resource, Subresource};

use crate::claims::Claims;
use crate::decode::Expected;
use crate::info::WriteOptions;
use crate::message::{Reply, success};
use crate::server::Call;
use crate::update::Build;
use crate::write::Asked;

const SCALE: &str = "autoscaling/v1.Scale";

impl Call<'_> {
    pub(crate) async fn subresource(&self, row: Arc<Resource>, registry: &Registry) -> Result<Reply, Status> {
        let name = self.info.subresource.as_str();
        let verb = self.info.verb.as_str();
        let Some(known) = row.subresource(name) else {
            return Ok(Reply::text(404, "404 page not found\n"));
        };
        if !known.verbs.iter().any(|v| v == verb) {
            return Err(Status::method_not_supported(&row.group_resource(), verb));
        }
        match (name, verb) {
            ("scale", _) => self.scale(&row).await,
            ("binding", "create") => self.bind(&row).await,
            ("eviction", "create") => self.evict(&row, registry).await,
            ("token", "create") => self.token(&row).await,
            ("proxy", _) if row.plural == "nodes" => self.node_proxy(&row).await,
            ("status" | "finalize" | "approval" | "ephemeralcontainers" | "resize", "get") => self.get(&row).await,
            (_, "update" | "patch") => {
                let part = Subresource::of(name).filter(|s| *s != Subresource::None);
                let part = part.ok_or_else(|| Status::method_not_supported(&row.group_resource(), verb))?;
                if verb == "update" { self.update(&row, part).await } else { self.patch(&row, part).await }
            }
            _ => Err(match self.server.current(&row, self.namespace(&row), &self.info.name).await? {
                Some(_) => Status::unavailable(format!("the subresource {name} is not served here yet")),
                None if row.plural == "services" => {
                    Status::unavailable(format!("no endpoints available for service {:?}", self.info.name))
                }
                None => Status::not_found(&row.group_resource(), &self.info.name),
            }),
        }
    }

    async fn scale(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let gvk = GroupVersionKind::new("autoscaling", "v1", "Scale");
        let expected = Expected { gvk: &gvk, type_name: SCALE };
        if self.info.verb == "get" {
            let found = self.server.current(row, self.namespace(row), &self.info.name).await?;
            let found = found.ok_or_else(|| Status::not_found(&row.group_resource(), &self.info.name))?;
            return Ok(Reply::tree(200, scale::get(row, &registry::convert(&found.object, row))?, SCALE));
        }
        let kind = if self.info.verb == "update" { "UpdateOptions" } else { "PatchOptions" };
        let options = WriteOptions::parse(&self.query, kind)?;
        let patch = if self.info.verb == "patch" { Some(self.read_patch(row)?) } else { None };
        let whole = match &patch {
            Some(_) => None,
            None => Some(self.object_as(&expected, options.validation)?.0),
        };
        let make = |old: &Value| -> Result<Value, Status> {
            let wanted = match (&patch, &whole) {
                (Some(patch), _) => patch.apply(self, &scale::get(row, old)?, SCALE)?,
                (None, Some(whole)) => whole.clone(),
                (None, None) => scale::get(row, old)?,
            };
            scale::set(row, old, &wanted)
        };
        let (code, object) = self.write(row, Build::With(&make), Subresource::Scale, &options).await?;
        Ok(Reply::tree(code, scale::get(row, &registry::convert(&object.object, row))?, SCALE))
    }

    /// `pods/NAME/binding`.
    async fn bind(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let gvk = GroupVersionKind::new("", "v1", "Binding");
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let (mut given, _) =
            self.object_as(&Expected { gvk: &gvk, type_name: "core/v1.Binding" }, options.validation)?;
        // Its uid and resourceVersion are preconditions on the pod, and stay
        // (`PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate`).
        registry::ensure_namespace(self.namespace(row), &mut given)?;
        if meta::name(&given).is_empty() {
            *given.at_mut(&["metadata", "name"]) = self.info.name.as_str().into();
        }
        let now = self.server.config.clock.now();
        let make = |old: &Value| binding::bind(old, &self.info.name, &given, now);
        self.write(row, Build::With(&make), Subresource::Binding, &options).await?;
        Ok(success(201, None, None))
    }

    /// The older `POST bindings`, which names the pod in the body.
    pub(crate) async fn bind_by_body(&self, registry: &Registry) -> Result<Reply, Status> {
        let gvk = GroupVersionKind::new("", "v1", "Binding");
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let (mut given, _) =
            self.object_as(&Expected { gvk: &gvk, type_name: "core/v1.Binding" }, options.validation)?;
        let row = registry.lookup("", "v1", "pods").cloned().ok_or_else(Status::path_not_found)?;
        self.admit_metadata(&row, &mut given)?;
        let mut info = self.info.clone();
        meta::name(&given).clone_into(&mut info.name);
        "pods".clone_into(&mut info.resource);
        "binding".clone_into(&mut info.subresource);
        let call = Call {
            server: self.server,
            info,
            query: self.query.clone(),
            user: self.user.clone(),
            impersonator: self.impersonator.clone(),
            google: self.google.clone(),
            headers: self.headers.clone(),
            body: crate::message::Body::Tree(given),
        };
        Box::pin(call.bind(&row)).await
    }

    async fn evict(&self, row: &Arc<Resource>, registry: &Registry) -> Result<Reply, Status> {
        let gvk = GroupVersionKind::new("policy", "v1", "Eviction");
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let (mut given, _) =
            self.object_as(&Expected { gvk: &gvk, type_name: "policy/v1.Eviction" }, options.validation)?;
        self.admit_new(row, &gvk, options.dry_run, &mut given)?;
        if !meta::name(&given).is_empty() && meta::name(&given) != self.info.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut delete = DeleteOptions::from_value(&given["deleteOptions"]);
        if options.dry_run {
            delete.dry_run = vec!["All".to_owned()];
        }
        let budgets_row = registry.lookup("policy", "v1", "poddisruptionbudgets").cloned();
        let budgets_row = budgets_row.ok_or_else(Status::path_not_found)?;
        for _ in 0..4 {
            let pod = self.server.current(row, self.namespace(row), &self.info.name).await?;
            let pod = pod.ok_or_else(|| Status::not_found(&row.group_resource(), &self.info.name))?;
            let budgets = self.server.cache_of(&budgets_row).await?.snapshot();
            let here = budgets.list(self.namespace(row), None).map(|(_, b)| &*b.object);
            match eviction::evict(&pod.object, here, self.server.config.clock.now())? {
                eviction::Eviction::Delete => {}
                eviction::Eviction::Charge(budget) => {
                    let had = meta::resource_version(&budget).parse().unwrap_or(0);
                    let key = budgets_row.etcd_key(meta::namespace(&budget), meta::name(&budget));
                    let change = crate::write::Change::Put(&budget);
                    if delete.dry_run.is_empty()
                        && self.server.commit(&budgets_row, &key, had, change, &[], &Claims::default()).await?.is_none()
                    {
                        self.server.caches.wait_for_now().await?;
                        continue;
                    }
                }
            }
            self.delete_object(row, self.namespace(row), &self.info.name, &delete).await?;
            return Ok(success(201, None, None));
        }
        Err(Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 10))
    }

    /// Admission of what is created under another object: the object as it was sent, before more than its namespace is
    /// filled in.
    fn admit_new(
        &self,
        row: &Resource,
        kind: &GroupVersionKind,
        dry_run: bool,
        given: &mut Value,
    ) -> Result<(), Status> {
        self.admit_metadata(row, given)?;
        let (operation, subresource, name) =
            (Operation::Create, self.info.subresource.as_str(), self.info.name.as_str());
        self.mutate(row, &Asked { operation, kind, subresource, name, old: None, dry_run }, given)
    }

    /// `serviceaccounts/NAME/token`.
    async fn token(&self, row: &Arc<Resource>) -> Result<Reply, Status> {
        let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let type_name = "authentication/v1.TokenRequest";
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let (mut given, _) = self.object_as(&Expected { gvk: &gvk, type_name }, options.validation)?;
        self.admit_new(row, &gvk, options.dry_run, &mut given)?;
        let account = self.server.current(row, self.namespace(row), &self.info.name).await?;
        let account = account.ok_or_else(|| Status::not_found(&row.group_resource(), &self.info.name))?;
        let (config, now) = (&self.server.config, self.server.config.clock.now());
        let mut request = token::prepare(given, &account.object, &config.audiences(), now)?;
        let bound = self.bound_object(&request).await?;
        let kind = request.str_at(&["spec", "boundObjectRef", "kind"]);
        let runs_as = bound.as_ref().map_or("", |pod| pod.str_at(&["spec", "serviceAccountName"]));
        if kind == "Pod" && runs_as != self.info.name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                self.info.name
            )));
        }
        let mut objects = policy::authn::Bound::default();
        match kind {
            "Pod" => objects.pod = bound.as_ref(),
            "Secret" => objects.secret = bound.as_ref(),
            "Node" => objects.node = bound.as_ref(),
            _ => {}
        }
        let node = bound.as_ref().filter(|_| kind == "Pod").map(|p| p.str_at(&["spec", "nodeName"]).to_owned());
        // Of a node that is not there the name alone is told, as upstream does.
        let node = node.filter(|n| !n.is_empty()).map(|n| {
            let nodes = machinery::GroupResource::new("", "nodes");
            let found = self.server.cached(&nodes, &machinery::ObjectKey::new("", &n));
            found.unwrap_or_else(|| Arc::new(json!({"metadata": {"name": n}})))
        });
        if objects.node.is_none() {
            objects.node = node.as_deref();
        }
        let spec = &request["spec"];
        let audiences: Vec<String> =
            spec["audiences"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        let mut shortened = None;
        if let Some(most) = config.token_seconds_max.filter(|most| seconds > *most) {
            shortened = Some(format!("requested expiration of {seconds} seconds shortened to {most} seconds"));
            seconds = most;
        }
        // What kubelets mount lives on after its time, so that programs which never read it again do not fail (upstream's
        // `WarnOnlyBoundTokenExpirationSeconds`).
        let own = config.audiences();
        let extended = config.extend_tokens
            && objects.pod.is_some()
            && seconds == policy::authn::WARN_ONLY_SECONDS
            && audiences.iter().all(|audience| own.contains(audience));
        let (lives, warn_after) =
            if extended { (policy::authn::EXTENDED_SECONDS, Some(seconds)) } else { (seconds, None) };
        let jti = config.entropy.uuid().to_string();
        let claims = policy::authn::token_claims(
            &account.object,
            objects,
            &config.issuer,
            &audiences,
            now,
            (lives, warn_after),
            &jti,
        );
        let claims = machinery::serde_json::to_value(&claims).map_err(crate::message::internal)?;
        let signed = config.signer.sign_jwt(claims).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let until = now + std::time::Duration::from_secs(seconds.max(0).unsigned_abs());
        request["spec"].set("expirationSeconds", seconds);
        request.set("status", json!({"token": signed, "expirationTimestamp": until.rfc3339()}));
        let mut reply = Reply::tree(201, request, type_name);
        reply.warnings.extend(shortened);
        Ok(reply)
    }

    async fn bound_object(&self, request: &Value) -> Result<Option<Value>, Status> {
        let reference = &request["spec"]["boundObjectRef"];
        if reference.is_null() {
            return Ok(None);
        }
        let (plural, namespace) = match reference.str_at(&["kind"]) {
            "Pod" => ("pods", self.info.namespace.as_str()),
            "Secret" => ("secrets", self.info.namespace.as_str()),
            "Node" => ("nodes", ""),
            other => {
                let version = reference.str_at(&["apiVersion"]);
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {version}, Kind={other}"
                )));
            }
        };
        let registry = self.server.registry.load_full();
        let row = registry.lookup("", "v1", plural).ok_or_else(Status::path_not_found)?;
        let name = reference.str_at(&["name"]);
        let found = self.server.current(row, namespace, name).await?;
        let found = found.ok_or_else(|| Status::not_found(&row.group_resource(), name))?;
        let wanted = reference.str_at(&["uid"]);
        if !wanted.is_empty() && wanted != meta::uid(&found.object) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(&row.group_resource(), name, &why));
        }
        Ok(Some(Value::clone(&found.object)))
    }
}
