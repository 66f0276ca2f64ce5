//! Audit events, one per recorded request, when its answer is complete.

use http::Method;
use machinery::{Value, json};
use policy::Attributes;
use policy::audit::Level;

use crate::message::{Body, Content, Reply};
use crate::server::{Call, Inner};

/// An event being recorded.
pub(crate) struct Audit {
    event: Value,
    level: Level,
}

impl Audit {
    /// `None` when the request is not recorded.
    pub(crate) fn open(call: &Call<'_>, path: &str, query: &str, method: &Method) -> Option<Self> {
        call.server.config.audit.as_ref()?;
        let info = &call.info;
        let attributes = Attributes {
            user: &call.user,
            verb: &info.verb,
            namespace: &info.namespace,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            is_resource: info.is_resource,
            path: &info.path,
            field_selector: &[],
        };
        let level = policy::audit::level(&attributes);
        if level == Level::None {
            return None;
        }
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.as_str(), "stage": "ResponseComplete",
            "auditID": call.server.config.entropy.uuid().to_string(), "requestURI": uri, "verb": info.verb,
            "requestReceivedTimestamp": call.server.config.clock.now().rfc3339_micros(), "method": method.as_str(),
        });
        event.remove("method");
        match &call.impersonator {
            Some(own) => {
                event.set("user", own.to_value());
                event.set("impersonatedUser", call.user.to_value());
            }
            None => event.set("user", call.user.to_value()),
        }
        if let Some(agent) = call.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()) {
            event.set("userAgent", agent);
        }
        if info.is_resource {
            let mut object = Value::object();
            let parts = [
                ("resource", &info.resource),
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ];
            for (key, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
                object.set(key, text);
            }
            event.set("objectRef", object);
        }
        if level >= Level::Request
            && let Body::Bytes(bytes) = &call.body
            && let Ok(body) = Value::from_slice(bytes)
        {
            event.set("requestObject", body);
        }
        if level >= Level::Request
            && let Body::Tree(tree) = &call.body
        {
            event.set("requestObject", tree.clone());
        }
        Some(Self { event, level })
    }

    /// Notes who decided, and how.
    pub(crate) fn decided(&mut self, decision: &policy::Decision) {
        let verdict = if decision.allowed { "allow" } else { "forbid" };
        self.event["annotations"] = json!({"authorization.k8s.io/decision": verdict,
            "authorization.k8s.io/reason": decision.reason});
    }

    pub(crate) fn close(mut self, server: &Inner, reply: &Reply) {
        let Some(sink) = &server.config.audit else { return };
        let mut status = json!({"metadata": {}, "code": reply.code});
        if let Content::Status(failure) = &reply.content {
            status = failure.to_value();
            status.remove("kind");
            status.remove("apiVersion");
        }
        self.event.set("responseStatus", status);
        if self.level >= Level::RequestResponse
            && let Content::Object { object, row } = &reply.content
        {
            self.event.set("responseObject", registry::convert(&object.object, row));
        }
        self.event.set("stageTimestamp", server.config.clock.now().rfc3339_micros());
        sink(&self.event);
    }
}
