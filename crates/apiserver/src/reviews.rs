//! Resources that are questions: access reviews, token reviews, who am I.

use machinery::{Status, Value, json};
use policy::UserInfo;
use registry::Resource;

use crate::access_review::{self, Kind};
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
        self.admit_metadata(row, &mut review)?;
        let status = match row.plural.as_str() {
            "selfsubjectreviews" => json!({"userInfo": {}}).with("userInfo", self.user.to_value()),
            "selfsubjectaccessreviews" => self.access(&review, Kind::Own)?,
            "subjectaccessreviews" => self.access(&review, Kind::Cluster)?,
            "localsubjectaccessreviews" => self.access(&review, Kind::Local(&self.info.namespace))?,
            "selfsubjectrulesreviews" => {
                let namespace = review.str_at(&["spec", "namespace"]);
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                let mut status = self.server.authorizers.load().rbac.rules_review(&self.user, namespace);
                // IAM is asked request by request, as GKE's webhook is: what it would allow cannot be listed.
                if !matches!(self.server.config.identity, crate::Identity::None) {
                    add_error(&mut status, "webhook authorizer does not support user rule resolution");
                }
                status
            }
            "tokenreviews" => self.token_review(&review).await?,
            _ => return Err(Status::method_not_supported(&row.group_resource(), "create")),
        };
        if row.plural == "selfsubjectreviews" {
            // Upstream makes a new one of its own.
            review.set("metadata", json!({"creationTimestamp": self.server.config.clock.now().rfc3339()}));
        }
        if row.plural == "selfsubjectrulesreviews" {
            review.set("spec", Value::object());
        }
        review.set("status", status);
        let mut reply = Reply::tree(201, review, row.type_name());
        reply.warnings = warnings;
        Ok(reply)
    }

    /// Others are judged by what is in the cluster; for the caller's own Google token IAM counts too.
    fn access(&self, review: &Value, kind: Kind<'_>) -> Result<Value, Status> {
        access_review::check(review, kind)?;
        let spec = &review["spec"];
        Ok(match kind {
            Kind::Own => self.server.access_status(spec, &self.user, self.google.as_ref()),
            Kind::Cluster | Kind::Local(_) => self.server.access_status(spec, &UserInfo::from_value(spec), None),
        })
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

/// Notes that a list of rules lacks something, and why.
fn add_error(status: &mut Value, why: &str) {
    let before = status.str_at(&["evaluationError"]);
    let errors = if before.is_empty() { why.to_owned() } else { format!("{before}, {why}") };
    status.set("incomplete", true);
    status.set("evaluationError", errors);
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
