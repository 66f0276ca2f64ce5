//! Doing what a controller planned: neighbouring creations and deletions at the same time, updates in order.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controllers::action::Approval;
use controllers::{Action, Event};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use machinery::{CompactString, GroupResource, GroupVersionResource, ObjectKey, Status, Value, json, meta};
use tokio::sync::{Semaphore, mpsc};

use crate::api::{Api, Request, collection_path, object_path};
use crate::config::{MachineFn, MachineQuestion, MachineVerdict, SignFn, SignRequest, SignTokenFn};
use crate::engine::Input;
use crate::events::Recorder;

/// Actions of one plan in flight at once.
const PARALLEL: usize = 48;

/// A controller's hands.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) api: Api,
    pub(crate) events: Recorder,
    /// Requests of all controllers in flight.
    pub(crate) limit: Arc<Semaphore>,
    pub(crate) sign: Option<SignFn>,
    pub(crate) machines: Option<MachineFn>,
    pub(crate) sign_token: Option<SignTokenFn>,
}

/// What the API answered to a write.
#[derive(Debug, Clone)]
pub(crate) enum Written {
    /// The object as it is now.
    Object(GroupResource, Arc<Value>),
    /// The object is gone.
    Gone(GroupResource, ObjectKey, CompactString),
    /// Nothing of interest.
    Nothing,
}

async fn tell(engine: &mpsc::Sender<Input>, written: Written) {
    if !matches!(written, Written::Nothing) {
        // The engine is gone only when everything ends.
        let _ = engine.send(Input::Written(written)).await;
    }
}

fn waits(action: &Action) -> bool {
    matches!(
        action,
        Action::Update { .. }
            | Action::EnsureAbsent { .. }
            | Action::Sign { .. }
            | Action::SignToken { .. }
            | Action::Approve { .. }
    )
}

impl Door {
    /// Performs a plan; the engine hears of every write at once.
    ///
    /// # Errors
    /// The first failure; what came after its group was not attempted.
    pub(crate) async fn perform(self, plan: Vec<Action>, engine: mpsc::Sender<Input>) -> Result<(), Status> {
        let mut plan = plan.into_iter().peekable();
        while let Some(first) = plan.next() {
            // A creation goes ahead of its like: when it is refused the others would be too.
            let mut group = Vec::new();
            if waits(&first) || matches!(first, Action::Create { .. }) {
                tell(&engine, self.act(first.clone()).await?).await;
                if waits(&first) {
                    continue;
                }
            } else {
                group.push(first);
            }
            while let Some(action) = plan.next_if(|a| !waits(a)) {
                group.push(action);
            }
            self.perform_together(group, &engine).await?;
        }
        Ok(())
    }

    async fn perform_together(&self, group: Vec<Action>, engine: &mpsc::Sender<Input>) -> Result<(), Status> {
        let mut failure = None;
        let mut running = FuturesUnordered::new();
        let mut group = group.into_iter();
        loop {
            while running.len() < PARALLEL
                && let Some(action) = group.next()
            {
                running.push(self.act(action));
            }
            match running.next().await {
                Some(Ok(written)) => tell(engine, written).await,
                Some(Err(status)) => failure = failure.or(Some(status)),
                None => return failure.map_or(Ok(()), Err),
            }
        }
    }

    async fn call(&self, request: Request) -> Result<Arc<Value>, Status> {
        let _permit = self.limit.acquire().await;
        self.api.call(request).await
    }

    /// Performs one action.
    pub(crate) async fn act(&self, action: Action) -> Result<Written, Status> {
        match action {
            Action::Create { resource, object, event } => self.create(&resource, object, event).await,
            Action::Update { resource, subresource, object } => {
                let path = object_path(&resource, meta::namespace(&object), meta::name(&object), subresource);
                let answer = self.call(Request::new("PUT", path, Some(object))).await?;
                Ok(Written::Object(resource.group_resource(), answer))
            }
            Action::Patch { resource, object, subresource, patch } => {
                let path = object_path(&resource, &object.namespace, &object.name, subresource);
                self.patch(&resource, Request::new("PATCH", path, Some(patch))).await
            }
            Action::RemoveFinalizer { resource, object, uid, finalizer } => {
                let path = object_path(&resource, &object.namespace, &object.name, "");
                let patch = json!({"metadata": {"uid": uid.as_str(),
                    "$deleteFromPrimitiveList/finalizers": [finalizer]}});
                let mut request = Request::new("PATCH", path, Some(patch));
                request.content_type = "application/strategic-merge-patch+json";
                self.patch(&resource, request).await
            }
            Action::Delete { resource, object, options } => {
                let path = object_path(&resource, &object.namespace, &object.name, "");
                let request = Request::new("DELETE", path, Some(options.to_value()));
                match self.call(request).await {
                    Ok(answer) => Ok(deleted(&resource, object, options.uid, answer)),
                    Err(status) if status.code == 404 => {
                        Ok(Written::Gone(resource.group_resource(), object, options.uid))
                    }
                    Err(status) => Err(status),
                }
            }
            Action::DeleteCollection { resource, namespace } => {
                let path = collection_path(&resource, &namespace);
                match self.call(Request::new("DELETE", path, None)).await {
                    Ok(_) => Ok(Written::Nothing),
                    Err(status) if matches!(status.code, 404 | 405) => Ok(Written::Nothing),
                    Err(status) => Err(status),
                }
            }
            Action::Bind { pod, uid, node } => {
                let binding = json!({"apiVersion": "v1", "kind": "Binding",
                    "metadata": {"name": pod.name.as_str(), "namespace": pod.namespace.as_str(), "uid": uid.as_str()},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node.as_str()}});
                let pods = GroupVersionResource::new("", "v1", "pods");
                let path = object_path(&pods, &pod.namespace, &pod.name, "binding");
                self.call(Request::new("POST", path, Some(binding))).await.map(|_| Written::Nothing)
            }
            Action::EnsureAbsent { resource, object, uid } => {
                let path = object_path(&resource, &object.namespace, &object.name, "");
                match self.call(Request::get(path)).await {
                    Ok(found) if uid.is_empty() || meta::uid(&found) == uid => {
                        Err(Status::conflict(&resource.group_resource(), &object.name, "the owner exists after all"))
                    }
                    Ok(_) => Ok(Written::Nothing),
                    Err(status) if status.code == 404 => Ok(Written::Nothing),
                    Err(status) => Err(status),
                }
            }
            Action::Event(event) => {
                self.events.record(event);
                Ok(Written::Nothing)
            }
            Action::Sign { request } => self.sign(request).await,
            Action::Approve { request, rules } => self.approve(request, &rules).await,
            Action::SignToken { secret, claims } => self.sign_token(secret, claims).await,
            Action::Requeue { .. } => Ok(Written::Nothing),
        }
    }

    /// What is gone needs no patch.
    async fn patch(&self, resource: &GroupVersionResource, request: Request) -> Result<Written, Status> {
        match self.call(request).await {
            Ok(answer) => Ok(Written::Object(resource.group_resource(), answer)),
            Err(status) if status.code == 404 => Ok(Written::Nothing),
            Err(status) => Err(status),
        }
    }

    async fn create(
        &self,
        resource: &GroupVersionResource,
        object: Value,
        event: Option<Event>,
    ) -> Result<Written, Status> {
        let path = collection_path(resource, meta::namespace(&object));
        match self.call(Request::new("POST", path, Some(object))).await {
            Ok(answer) => {
                if let Some(mut event) = event {
                    event.message.push_str(meta::name(&answer));
                    self.events.record(event);
                }
                Ok(Written::Object(resource.group_resource(), answer))
            }
            // Nothing can be made in a namespace that goes away; its own controller cleans up.
            Err(status) if status.causes.iter().any(|c| c.reason == "NamespaceTerminating") => Ok(Written::Nothing),
            Err(status) => Err(status),
        }
    }

    async fn approve(&self, request: Value, rules: &[Approval]) -> Result<Written, Status> {
        for rule in rules {
            let verdict = match (rule.check, &self.machines) {
                (None, _) => MachineVerdict::Good,
                (Some(_), None) => MachineVerdict::Silent,
                (Some(check), Some(machines)) => {
                    let csr_pem = STANDARD.decode(request.str_at(&["spec", "request"])).map_err(Status::internal)?;
                    machines(MachineQuestion { check, csr_pem })
                }
            };
            match verdict {
                MachineVerdict::Silent => {}
                MachineVerdict::Bad => return self.decide(request, "Denied", "AutoDenied", "").await,
                MachineVerdict::Good if self.may_create(&request, rule.subresource).await? => {
                    return self.decide(request, "Approved", "AutoApproved", rule.message).await;
                }
                MachineVerdict::Good => {}
            }
        }
        tracing::info!(
            request = meta::name(&request),
            user = request.str_at(&["spec", "username"]),
            "a certificate request was recognized but subject access review was not approved"
        );
        Ok(Written::Nothing)
    }

    /// May the requester create that subresource of certificate requests?
    async fn may_create(&self, request: &Value, subresource: &str) -> Result<bool, Status> {
        let spec = &request["spec"];
        let mut review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                "verb": "create", "subresource": subresource, "version": "*"}}});
        for (theirs, ours) in [("username", "user"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
            if !spec[theirs].is_null() {
                review["spec"].set(ours, spec[theirs].clone());
            }
        }
        let reviews = GroupVersionResource::new("authorization.k8s.io", "v1", "subjectaccessreviews");
        let answer = self.call(Request::new("POST", collection_path(&reviews, ""), Some(review))).await?;
        Ok(answer["status"]["allowed"].as_bool() == Some(true))
    }

    async fn decide(&self, mut request: Value, kind: &str, reason: &str, message: &str) -> Result<Written, Status> {
        let mut condition = json!({"type": kind, "status": "True", "reason": reason});
        if !message.is_empty() {
            condition.set("message", message);
        }
        controllers::conditions::set(request.at_mut(&["status", "conditions"]), condition);
        let requests = controllers::resource::CERTIFICATE_SIGNING_REQUESTS.clone();
        let path = object_path(&requests, "", meta::name(&request), "approval");
        let answer = self.call(Request::new("PUT", path, Some(request))).await?;
        Ok(Written::Object(requests.group_resource(), answer))
    }

    async fn sign_token(&self, mut secret: Value, claims: Value) -> Result<Written, Status> {
        let Some(sign) = &self.sign_token else { return Ok(Written::Nothing) };
        let token = sign(claims).await.map_err(Status::internal)?;
        secret.at_mut(&["data"]).set("token", STANDARD.encode(token));
        let secrets = controllers::resource::SECRETS.clone();
        let path = object_path(&secrets, meta::namespace(&secret), meta::name(&secret), "");
        let answer = self.call(Request::new("PUT", path, Some(secret))).await?;
        Ok(Written::Object(secrets.group_resource(), answer))
    }

    async fn sign(&self, mut request: Value) -> Result<Written, Status> {
        let Some(sign) = &self.sign else { return Ok(Written::Nothing) };
        let spec = &request["spec"];
        let csr_pem = STANDARD.decode(spec.str_at(&["request"])).map_err(Status::internal)?;
        let asked = SignRequest {
            signer_name: spec.str_at(&["signerName"]).to_owned(),
            csr_pem,
            expiration_seconds: spec["expirationSeconds"].as_i64(),
            username: spec.str_at(&["username"]).to_owned(),
            key_encipherment: spec["usages"].items().iter().any(|usage| usage.as_str() == Some("key encipherment")),
        };
        let chain = sign(asked).await.map_err(Status::internal)?;
        *request.at_mut(&["status", "certificate"]) = STANDARD.encode(chain).into();
        let requests = controllers::resource::CERTIFICATE_SIGNING_REQUESTS.clone();
        let path = object_path(&requests, "", meta::name(&request), "status");
        let answer = self.call(Request::new("PUT", path, Some(request))).await?;
        Ok(Written::Object(requests.group_resource(), answer))
    }
}

/// A deletion answers with the object when it has to wait for somebody, with its last state or a Status when it is gone.
fn deleted(resource: &GroupVersionResource, key: ObjectKey, uid: CompactString, answer: Arc<Value>) -> Written {
    let waits = meta::is_terminating(&answer)
        && (answer.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64) != Some(0)
            || meta::finalizers(&answer).next().is_some());
    if !waits {
        return Written::Gone(resource.group_resource(), key, uid);
    }
    Written::Object(resource.group_resource(), answer)
}
