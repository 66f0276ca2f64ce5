//! Resources that are questions: access reviews, token reviews, who am I.

use machinery::fields::Operator;
use machinery::{Status, Value, json};
use policy::{Attributes, UserInfo};
use registry::Resource;

use crate::decode::Expected;
use crate::info::WriteOptions;
use crate::message::Reply;
use crate::server::Call;

impl Call<'_> {
    /// A resource that is not stored.
    pub(crate) async fn virtual_resource(&self, row: &Resource) -> Result<Reply, Status> {
        if row.plural == "componentstatuses" {
            return self.component_statuses(row);
        }
        if self.info.verb != "create" {
            return Err(Status::method_not_supported(&row.group_resource(), &self.info.verb));
        }
        if row.plural == "bindings" {
            let registry = self.server.registry.load_full();
            return self.bind_by_body(&registry).await;
        }
        let options = WriteOptions::parse(&self.query, "CreateOptions")?;
        let expected = Expected { gvk: &row.gvk, type_name: row.type_name() };
        let (mut review, warnings) = self.object_as(&expected, options.validation)?;
        let status = match row.plural.as_str() {
            "selfsubjectreviews" => json!({"userInfo": {}}).with("userInfo", self.user.to_value()),
            "selfsubjectaccessreviews" => self.access(&review, &self.user, self.google.as_ref())?,
            "subjectaccessreviews" => self.access(&review, &subject(&review)?, None)?,
            "localsubjectaccessreviews" => {
                if review.str_at(&["spec", "resourceAttributes", "namespace"]) != self.info.namespace {
                    return Err(Status::bad_request("spec.resourceAttributes.namespace must match namespace"));
                }
                self.access(&review, &subject(&review)?, None)?
            }
            "selfsubjectrulesreviews" => {
                let namespace = review.str_at(&["spec", "namespace"]);
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                self.server.authorizers.load().rbac.rules_review(&self.user, namespace)
            }
            "tokenreviews" => self.token_review(&review).await?,
            _ => return Err(Status::method_not_supported(&row.group_resource(), "create")),
        };
        if review["metadata"].as_object().is_none() {
            review.set("metadata", json!({"creationTimestamp": null}));
        }
        review.set("status", status);
        let mut reply = Reply::tree(201, review, row.type_name());
        reply.warnings = warnings;
        Ok(reply)
    }

    fn access(
        &self,
        review: &Value,
        user: &UserInfo,
        google: Option<&policy::GoogleIdentity>,
    ) -> Result<Value, Status> {
        let spec = &review["spec"];
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if resource.is_null() == path.is_null() {
            let why = if resource.is_null() {
                "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            } else {
                "cannot be specified in combination with resourceAttributes"
            };
            let at = machinery::FieldPath::new("spec").child(if resource.is_null() {
                "resourceAttributes"
            } else {
                "nonResourceAttributes"
            });
            let error = machinery::FieldError::invalid(&at, &path.clone(), why);
            let kind = review.str_at(&["kind"]);
            return Err(Status::invalid("authorization.k8s.io", kind, "", &vec![error]));
        }
        let decision = if resource.is_null() {
            let a = Attributes::path(user, path.str_at(&["verb"]), path.str_at(&["path"]));
            self.server.authorizers.load().authorize(&a, google)
        } else {
            let raw = resource.str_at(&["fieldSelector", "rawSelector"]);
            let selector = machinery::fields::Selector::parse(raw).unwrap_or_default();
            let equal: Vec<(&str, &str)> =
                selector.requirements().filter(|(_, op, _)| *op == Operator::Equals).map(|(f, _, v)| (f, v)).collect();
            let a = Attributes {
                namespace: resource.str_at(&["namespace"]),
                version: resource.str_at(&["version"]),
                subresource: resource.str_at(&["subresource"]),
                name: resource.str_at(&["name"]),
                field_selector: &equal,
                ..Attributes::resource(
                    user,
                    resource.str_at(&["verb"]),
                    resource.str_at(&["group"]),
                    resource.str_at(&["resource"]),
                )
            };
            self.server.authorizers.load().authorize(&a, google)
        };
        let mut status = json!({"allowed": decision.allowed});
        if !decision.reason.is_empty() {
            status.set("reason", decision.reason);
        }
        Ok(status)
    }

    async fn token_review(&self, review: &Value) -> Result<Value, Status> {
        let token = review.str_at(&["spec", "token"]);
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> =
            review["spec"]["audiences"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let audiences = if asked.is_empty() { self.server.config.audiences() } else { asked.clone() };
        Ok(match self.server.identify_token(token, &audiences).await {
            Ok((who, met)) => {
                let mut status = json!({"authenticated": true});
                status.set("user", who.user.to_value());
                let met = if met.is_empty() { audiences } else { met };
                status.set("audiences", met);
                status
            }
            Err(_) => json!({"user": {}, "error": "invalid bearer token"}),
        })
    }

    /// `componentstatuses`: everything that answers at all is healthy.
    fn component_statuses(&self, row: &Resource) -> Result<Reply, Status> {
        let one = |name: &str| {
            json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name, "creationTimestamp": null},
                "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
        };
        let names = ["scheduler", "controller-manager", "etcd-0"];
        match self.info.verb.as_str() {
            "get" => match names.iter().find(|n| **n == self.info.name) {
                Some(name) => Ok(Reply::tree(200, one(name), row.type_name())),
                None => Err(Status::not_found(&row.group_resource(), &self.info.name)),
            },
            "list" => {
                let mut list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}});
                list.set("items", names.iter().map(|n| one(n)).collect::<Value>());
                Ok(Reply::tree(200, list, "core/v1.ComponentStatusList"))
            }
            verb => Err(Status::method_not_supported(&row.group_resource(), verb)),
        }
    }
}

fn subject(review: &Value) -> Result<UserInfo, Status> {
    let user = UserInfo::from_value(&review["spec"]);
    if user.name.is_empty() && user.groups.is_empty() {
        let at = machinery::FieldPath::new("spec").child("user");
        let error = machinery::FieldError::invalid(&at, &"".into(), "at least one of user or group must be specified");
        return Err(Status::invalid("authorization.k8s.io", review.str_at(&["kind"]), "", &vec![error]));
    }
    Ok(user)
}

/// Sets a member and gives the value back.
trait With {
    fn with(self, key: &str, value: Value) -> Self;
}

impl With for Value {
    fn with(mut self, key: &str, value: Value) -> Self {
        self.set(key, value);
        self
    }
}
