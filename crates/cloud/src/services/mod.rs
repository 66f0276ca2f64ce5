//! Which service a path belongs to, and what they share.

mod compute;
pub(crate) mod container;
mod credentials;
mod groups;
mod iam;
mod kms;
mod metadata;
pub(crate) mod oauth;
pub(crate) mod privateca;
mod projects;
mod sts;

use std::sync::Arc;

use gke::{ApiError, ApiVersion, Code};
use machinery::Value;

use crate::Inner;
use crate::http::{Reply, Request};
use crate::identity::Caller;

pub(crate) use privateca::PrivateCa;
pub(crate) use projects::is_address;

/// A service's answer.
pub(crate) type Answer = Result<Value, ApiError>;

/// Is it an id that a caller may choose for a resource of Cloud KMS or Certificate Authority Service?
///
/// # Errors
/// 400 when it is not.
fn check_id(field: &str, id: &str) -> Result<(), ApiError> {
    let letters = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if (1..=63).contains(&id.len()) && letters {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Invalid {field} {id:?}: it must match the regular expression [a-zA-Z0-9_-]{{1,63}}."
    )))
}

/// 400 for a field that the message at `place` has not, as Google's JSON reader tells it.
fn unknown_field(place: &str, field: &str) -> ApiError {
    let text = format!("Invalid JSON payload received. Unknown name {field:?} at '{place}': Cannot find field.");
    ApiError::json(vec![(place.to_owned(), text)])
}

/// Metadata and token endpoints hand out credentials: they serve processes of the same user only.
pub(crate) fn same_user_only(path: &str) -> bool {
    path == "/" || path.starts_with("/computeMetadata") || oauth::is_token_path(path)
}

/// Answers any request.
pub(crate) fn answer(inner: &Arc<Inner>, request: &Request) -> Reply {
    if same_user_only(&request.path) && !request.same_user {
        return Reply::text(403, "Credentials are handed out to processes of the same user only.\n");
    }
    if request.path == "/" || request.path.starts_with("/computeMetadata") {
        return metadata::answer(inner, request);
    }
    if request.path == sts::PATH {
        return sts::answer(inner, request);
    }
    if let Some(reply) = oauth::answer(inner, request) {
        return reply;
    }
    if let Some(reply) = credentials::public_keys(inner, request) {
        return reply;
    }
    match api(inner, request) {
        Ok(value) => Reply::json(200, &value),
        Err(error) => refusal(inner, &error),
    }
}

/// An error with its body and, for 401, its challenge.
pub(crate) fn refusal(inner: &Inner, error: &ApiError) -> Reply {
    let id: String = inner.entropy.bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
    let reply = Reply::json(error.code.http(), &error.to_value(&id));
    match error.code {
        Code::Unauthenticated => reply.with("www-authenticate", "Bearer realm=\"https://accounts.google.com/\""),
        _ => reply,
    }
}

fn api(inner: &Arc<Inner>, request: &Request) -> Answer {
    let owned = request.segments();
    let segments: Vec<&str> = owned.iter().map(String::as_str).collect();
    let verb = request.verb.as_str();
    if let [version, "projects", project, rest @ ..] = segments.as_slice()
        && let Some(answer) = container::public(inner, verb, version, project, &rest.join("/"))
    {
        return answer;
    }
    let caller = inner.authenticate(request)?;
    match segments.as_slice() {
        ["compute", "v1" | "beta" | "alpha", rest @ ..] => compute::answer(inner, &caller, verb, rest),
        ["v1" | "v1beta1", first, rest @ ..] if first.split(':').next() == Some("groups") => {
            groups::answer(inner, &caller, request, first, rest)
        }
        ["privateca", "v1", "projects", project, "locations", rest @ ..] => {
            privateca::answer(inner, &caller, request, project, rest)
        }
        ["v1", "projects", project, "locations", rest @ ..] if rest.get(1) == Some(&"caPools") => {
            privateca::answer(inner, &caller, request, project, rest)
        }
        ["v1", "projects", project, "serviceAccounts", rest @ ..] => {
            iam::answer(inner, &caller, request, project, rest)
        }
        ["v1", "projects", project, services, rest @ ..] if services.starts_with("services") => {
            let rest: Vec<&str> = std::iter::once(*services).chain(rest.iter().copied()).collect();
            projects::services(inner, &caller, request, project, &rest)
        }
        ["v1", "projects", project, "locations", rest @ ..] if kms::is_ours(rest) => {
            kms::answer(inner, &caller, request, project, rest)
        }
        ["v1", "projects", rest @ ..] if rest.len() <= 1 => projects::resources(inner, &caller, request, rest),
        [version, "projects", project, rest @ ..] if ApiVersion::parse(version).is_some() => {
            let version = ApiVersion::parse(version).unwrap_or(ApiVersion::V1);
            container::answer(inner, &caller, request, version, project, &rest.join("/"))
        }
        _ => Err(method_not_found()),
    }
}

pub(crate) fn method_not_found() -> ApiError {
    ApiError::not_found("Method not found.")
}

/// 403 of the services other than container.
pub(crate) fn forbidden() -> ApiError {
    ApiError::new(Code::PermissionDenied, "The caller does not have permission")
}

/// Is it our project, by id or number?
pub(crate) fn is_ours(inner: &Inner, project: &str) -> bool {
    project == inner.project || project == inner.project_number
}

/// The project must be ours and the caller must hold the permission; else 403, which does not tell which.
pub(crate) fn require(inner: &Inner, caller: &Caller, project: &str, permission: &str) -> Result<(), ApiError> {
    if is_ours(inner, project) && caller.may(permission) { Ok(()) } else { Err(forbidden()) }
}
