//! `metav1.Status`: the only error a Kubernetes client sees.
//!
//! Texts follow `k8s.io/apimachinery/pkg/api/errors`; clients match on them.

use std::fmt;

use crate::{FieldErrors, GroupResource, Value, json};

/// `Status.reason` with its usual HTTP code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    ServiceUnavailable,
}

impl Reason {
    const ALL: [Self; 19] = [
        Self::Unknown,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Gone,
        Self::Expired,
        Self::Invalid,
        Self::ServerTimeout,
        Self::Timeout,
        Self::TooManyRequests,
        Self::BadRequest,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestEntityTooLarge,
        Self::UnsupportedMediaType,
        Self::InternalError,
        Self::ServiceUnavailable,
    ];

    /// The word on the wire; empty for `Unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    const fn code(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::BadRequest => 400,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::Unknown | Self::ServerTimeout | Self::InternalError => 500,
        }
    }
}

/// One of `details.causes`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusCause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A failure, as `metav1.Status` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    /// `details.name`, `.group`, `.kind`, `.uid`; left out when empty.
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<StatusCause>,
    /// `details.retryAfterSeconds`, also sent as `Retry-After`; zero for none.
    pub retry_after_seconds: u32,
    /// `details` is written even when empty.
    pub generic: bool,
    /// `metadata.continue`: a list that expired can go on from here, on what there is now; empty for none.
    pub continue_token: String,
}

impl Status {
    /// A failure with the reason's usual code and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            generic: false,
            continue_token: String::new(),
        }
    }

    /// One of the answers Kubernetes makes of an HTTP code alone (`NewGenericServerResponse`): `details` stands there
    /// even when it is empty.
    #[must_use]
    pub fn generic(reason: Reason, message: impl Into<String>) -> Self {
        Self { generic: true, ..Self::new(reason, message) }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.group = resource.group.to_string();
        self.kind = resource.resource.to_string();
        self.name = name.to_owned();
        self
    }

    /// 404: no such object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{resource} {name:?} not found")).about(resource, name)
    }

    /// 404: no such path or resource.
    pub fn path_not_found() -> Self {
        Self::generic(Reason::NotFound, "the server could not find the requested resource")
    }

    /// 405: the path exists, but not for this method.
    pub fn method_not_allowed() -> Self {
        Self::generic(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{resource} {name:?} already exists")).about(resource, name)
    }

    /// 409: somebody else changed the object, or a precondition failed.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::new(Reason::Conflict, format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"))
            .about(resource, name)
    }

    /// 409 with the text of a failed optimistic lock.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 422: fields are wrong. `kind` and `group` name the object's kind.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let mut status = Self::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {joined}"));
        status.group = group.to_owned();
        status.kind = kind.to_owned();
        status.name = name.to_owned();
        status.causes = errors
            .iter()
            .map(|e| StatusCause { reason: e.kind.reason().to_owned(), message: e.body(), field: e.field.clone() })
            .collect();
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 403 for an object or resource; `why` completes the sentence.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::new(Reason::Forbidden, message).about(resource, name)
    }

    /// 405.
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        Self::new(Reason::MethodNotAllowed, format!("{verb} is not supported on resources of kind \"{resource}\""))
            .about(resource, "")
    }

    /// 410: the requested revision or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(Reason::RequestEntityTooLarge, message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(Reason::UnsupportedMediaType, message)
    }

    /// 429, with a time to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self { retry_after_seconds, ..Self::new(Reason::TooManyRequests, message) }
    }

    /// 500 with the prefix clients know.
    pub fn internal(message: impl fmt::Display) -> Self {
        let mut status = Self::new(Reason::InternalError, format!("Internal error occurred: {message}"));
        status.causes.push(StatusCause { reason: String::new(), message: message.to_string(), field: String::new() });
        status
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Reason::Timeout, message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.continue_token.is_empty() {
            status["metadata"].set("continue", &self.continue_token);
        }
        if self.reason != Reason::Unknown {
            status.set("reason", self.reason.as_str());
        }
        let mut details = Value::object();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.set(key, text);
            }
        }
        if !self.causes.is_empty() {
            details.set("causes", self.causes.iter().map(cause_value).collect::<Value>());
        }
        if self.retry_after_seconds > 0 {
            details.set("retryAfterSeconds", self.retry_after_seconds);
        }
        if self.generic || details.members().next().is_some() {
            status.set("details", details);
        }
        status
    }

    /// Reads a `Status` that a server sent.
    pub fn from_value(value: &Value) -> Self {
        let word = value.str_at(&["reason"]);
        let reason = Reason::ALL.into_iter().find(|r| r.as_str() == word).unwrap_or(Reason::Unknown);
        let mut status = Self::new(reason, value.str_at(&["message"]));
        if let Some(code) = value["code"].as_i64().and_then(|c| u16::try_from(c).ok()) {
            status.code = code;
        }
        status.continue_token = value.str_at(&["metadata", "continue"]).to_owned();
        let details = &value["details"];
        status.name = details.str_at(&["name"]).to_owned();
        status.group = details.str_at(&["group"]).to_owned();
        status.kind = details.str_at(&["kind"]).to_owned();
        status.uid = details.str_at(&["uid"]).to_owned();
        status.causes = details["causes"].items().iter().map(cause_of).collect();
        status.generic = details.as_object().is_some_and(|d| d.is_empty());
        status.retry_after_seconds =
            details["retryAfterSeconds"].as_i64().and_then(|s| u32::try_from(s).ok()).unwrap_or(0);
        status
    }
}

fn cause_value(cause: &StatusCause) -> Value {
    [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .collect()
}

fn cause_of(value: &Value) -> StatusCause {
    let text = |key| value.str_at(&[key]).to_owned();
    StatusCause { reason: text("reason"), message: text("message"), field: text("field") }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldError, FieldPath};

    #[test]
    fn an_invalid_object_lists_every_cause() {
        let errors = vec![
            FieldError::required(&FieldPath::new("spec").child("selector"), ""),
            FieldError::invalid(&FieldPath::new("metadata").child("name"), &"A".into(), "bad"),
        ];
        let status = Status::invalid("apps", "Deployment", "A", &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"A\" is invalid: [spec.selector: Required value, metadata.name: Invalid value: \"A\": bad]"
        );
        assert_eq!(status.code, 422);
        assert_eq!(Status::from_value(&status.to_value()), status);
    }

    #[test]
    fn not_found_names_resource_and_object() {
        let status = Status::not_found(&GroupResource::new("", "pods"), "x");
        assert_eq!(
            status.to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound",
                "message": "pods \"x\" not found", "code": 404, "details": {"name": "x", "kind": "pods"}})
        );
    }
}
