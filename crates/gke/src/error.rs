//! A refusal as Google's JSON APIs send it.

use std::fmt;

use machinery::{Value, json};

const HELP: &str = "See https://developers.google.com/identity/sign-in/web/devconsole-project.";

/// The canonical codes that are used here, with HTTP code and the legacy `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    InvalidArgument,
    FailedPrecondition,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    AlreadyExists,
    Aborted,
    Unimplemented,
    Internal,
    Unavailable,
}

impl Code {
    /// HTTP status code.
    pub const fn http(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::Internal => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
        }
    }

    /// The number of `google.rpc.Code`, which operations' errors and gRPC carry.
    pub const fn rpc(self) -> i32 {
        match self {
            Self::InvalidArgument => 3,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::FailedPrecondition => 9,
            Self::Aborted => 10,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// `INVALID_ARGUMENT` and so on.
    pub const fn status(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Aborted => "ABORTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::InvalidArgument => "badRequest",
            Self::FailedPrecondition => "failedPrecondition",
            Self::Unauthenticated => "authError",
            Self::PermissionDenied => "forbidden",
            Self::NotFound => "notFound",
            Self::AlreadyExists => "alreadyExists",
            Self::Aborted => "aborted",
            Self::Unimplemented | Self::Internal | Self::Unavailable => "backendError",
        }
    }
}

/// A refusal.
#[derive(Clone, PartialEq, Debug)]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    /// The legacy reason where it is not the code's usual one.
    reason: Option<&'static str>,
    /// `ErrorInfo.reason`, with its domain.
    info: Option<(&'static str, &'static str)>,
    /// Field and description: the JSON itself was wrong.
    violations: Vec<(String, String)>,
    /// Type and subject: what stands in the way.
    precondition: Option<(&'static str, String)>,
}

impl ApiError {
    /// A refusal with the code's usual reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason: None, info: None, violations: Vec::new(), precondition: None }
    }

    /// 400: a value is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// 501: the method or field exists at Google, not here.
    pub fn unimplemented(what: &str) -> Self {
        let message = format!("{what} is not implemented by this emulator, or supported, or enabled.");
        Self { info: Some(("UNIMPLEMENTED", "container.googleapis.com")), ..Self::new(Code::Unimplemented, message) }
    }

    /// 403 of the container API: `resource` is `projects/P/locations/L/clusters/C` or shorter.
    pub fn permission(permission: &str, resource: &str) -> Self {
        let message = format!("Required {permission:?} permission(s) for {resource:?}.");
        let info = Some(("IAM_PERMISSION_DENIED", "container.googleapis.com"));
        Self { info, ..Self::new(Code::PermissionDenied, message) }
    }

    /// 400: something else is being done to the cluster.
    pub fn busy(operation: &str) -> Self {
        let info = Some(("CLUSTER_ALREADY_HAS_OPERATION", "container.googleapis.com"));
        let message = format!("Cluster is running incompatible operation {operation}.");
        Self { info, ..Self::new(Code::FailedPrecondition, message) }
    }

    /// 400: names or types in the JSON are wrong; one (field, description) each.
    pub fn json(violations: Vec<(String, String)>) -> Self {
        let texts: Vec<&str> = violations.iter().map(|(_, text)| text.as_str()).collect();
        let message = texts.join("\n");
        Self { reason: Some("invalid"), violations, ..Self::new(Code::InvalidArgument, message) }
    }

    /// 400: something is not as it must be; `kind` is the type of the violation (`KEY_DISABLED`), `subject` a resource.
    pub fn precondition(message: impl Into<String>, kind: &'static str, subject: &str) -> Self {
        let precondition = Some((kind, subject.to_owned()));
        Self { precondition, ..Self::new(Code::FailedPrecondition, message) }
    }

    /// 401 without any credential.
    pub fn login_required() -> Self {
        let message = format!(
            "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
             other valid authentication credential. {HELP}"
        );
        let info = Some(("CREDENTIALS_MISSING", "googleapis.com"));
        Self { reason: Some("required"), info, ..Self::new(Code::Unauthenticated, message) }
    }

    /// 401 with a credential that nobody here knows.
    pub fn invalid_credentials() -> Self {
        let message = format!(
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
             authentication credential. {HELP}"
        );
        Self::new(Code::Unauthenticated, message)
    }

    /// The body. `request_id` is 16 hex digits, another one for each request.
    pub fn to_value(&self, request_id: &str) -> Value {
        let mut entry = json!({"message": self.message, "domain": "global", "reason": self.code.reason()});
        if let Some(reason) = self.reason {
            entry.set("reason", reason);
        }
        if self.code == Code::Unauthenticated {
            let missing = self.reason == Some("required");
            entry.set("message", if missing { "Login Required." } else { "Invalid Credentials" });
            entry.set("location", "Authorization");
            entry.set("locationType", "header");
        }
        let mut details = Vec::new();
        if self.violations.is_empty() {
            details.push(json!({"@type": "type.googleapis.com/google.rpc.RequestInfo",
                "requestId": format!("0x{request_id}")}));
        } else {
            entry.remove("domain");
            let list: Vec<Value> = self
                .violations
                .iter()
                .map(|(field, text)| match field.as_str() {
                    "" => json!({"description": text}),
                    field => json!({"field": field, "description": text}),
                })
                .collect();
            let mut bad = json!({"@type": "type.googleapis.com/google.rpc.BadRequest"});
            bad.set("fieldViolations", list);
            details.push(bad);
        }
        if let Some((kind, subject)) = &self.precondition {
            let violation = json!({"type": kind, "subject": subject});
            let mut failure = json!({"@type": "type.googleapis.com/google.rpc.PreconditionFailure"});
            failure.set("violations", vec![violation]);
            details.push(failure);
        }
        if let Some((reason, domain)) = self.info {
            details
                .push(json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain}));
        }
        let mut error = json!({"code": self.code.http(), "message": self.message, "status": self.code.status()});
        error.set("errors", vec![entry]);
        error.set("details", details);
        [("error", error)].into_iter().collect()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
