//! Certificate Authority Service v1: pools of authorities, their root authorities, and the certificates that they issue.
//!
//! ```text
//! CaPool (tier, issuance policy, IAM policy) ─┬─ CertificateAuthority (key sealed with the cloud's state; STAGED, ENABLED, …)
//!                                             └─ Certificate (from a signing request, or from a description)
//! ```
//!
//! gcloud finds it under `/privateca/`; paths with `caPools` in them are known without that too. What is not emulated
//! (subordinate authorities, templates, revocation lists, published files) is refused with 501.

mod authorities;
mod certificates;
mod clusters;
mod contents;
mod describe;
mod pools;
mod records;

use base::Timestamp;
use gke::places::Place;
use gke::{ApiError, Code};
use machinery::{Value, json};

pub(crate) use clusters::{check_pools, issue_for_cluster, user_managed};
pub(crate) use records::PrivateCa;

use super::{Answer, check_id, is_ours, method_not_found, unknown_field};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use records::Operation;

/// Finished operations are forgotten once there are more.
const OPERATIONS_MAX: usize = 200;
const PAGE_MAX: usize = 1000;

/// A call on something below a location.
struct Call<'a> {
    inner: &'a Inner,
    caller: &'a Caller,
    request: &'a Request,
    location: &'a str,
}

/// Answers what lies below `projects/<project>/locations`.
pub(super) fn answer(inner: &Inner, caller: &Caller, request: &Request, project: &str, rest: &[&str]) -> Answer {
    let location = rest.first().copied().unwrap_or_default();
    let call = Call { inner, caller, request, location };
    if !is_ours(inner, project) {
        return Err(denied("privateca.locations.get", &format!("projects/{project}")));
    }
    if !matches!(location, "" | "-") && !Place::parse(location).is_ok_and(|place| !place.zonal) {
        return Err(ApiError::not_found(format!("Location {location} is not found or access is unauthorized.")));
    }
    match (request.verb.as_str(), rest) {
        ("GET", []) => call.locations(),
        ("GET", [_]) => {
            call.need("privateca.locations.get", None)?;
            Ok(call.show_location(location))
        }
        ("GET", [_, "operations"]) => call.operations(),
        ("GET", [_, "operations", name]) => call.operation(name),
        (_, [_, "caPools", ..]) => pools::answer(&call, &rest[2..]),
        (_, [_, "certificateTemplates", ..]) => Err(ApiError::unimplemented("certificateTemplates")),
        _ => Err(method_not_found()),
    }
}

/// 403 of what is not there for the caller, or not at all.
fn denied(permission: &str, resource: &str) -> ApiError {
    let text = format!(
        "Permission '{permission}' denied on resource '//privateca.googleapis.com/{resource}' (or it may not exist)."
    );
    ApiError::new(Code::PermissionDenied, text)
}

/// 404.
fn not_found(resource: &str) -> ApiError {
    ApiError::not_found(format!("Resource '{resource}' was not found"))
}

/// 409.
fn exists(resource: &str) -> ApiError {
    ApiError::new(Code::AlreadyExists, format!("Resource '{resource}' already exists"))
}

/// 400: the resource is in no state for it.
fn precondition(text: impl Into<String>) -> ApiError {
    ApiError::new(Code::FailedPrecondition, text)
}

/// Refuses names that the message has not, and the ones in `later`, which it has at Google.
///
/// # Errors
/// 400 as Google's JSON parser says it; 501.
fn only(body: &Value, message: &str, known: &[&str], later: &[&str]) -> Result<(), ApiError> {
    for (name, value) in body.members() {
        if later.contains(&name) {
            let list = value.as_array().is_some_and(|list| list.is_empty());
            if gke::is_empty(value) || list || value.as_str() == Some("") {
                continue;
            }
            return Err(ApiError::unimplemented(&format!("{message}.{name}")));
        }
        if !known.contains(&name) {
            return Err(unknown_field(message, name));
        }
    }
    Ok(())
}

/// Seconds of `"300s"`.
///
/// # Errors
/// 400 when it is no duration above zero.
fn seconds(field: &str, text: &str) -> Result<u64, ApiError> {
    let number = text.strip_suffix('s').map(|text| text.split_once('.').map_or(text, |(whole, _)| whole));
    let parsed = number.and_then(|text| text.parse::<u64>().ok()).filter(|seconds| *seconds > 0);
    parsed.ok_or_else(|| {
        ApiError::invalid(format!(
            "Invalid value at '{field}' (type.googleapis.com/google.protobuf.Duration), \"{text}\""
        ))
    })
}

impl Call<'_> {
    fn parent(&self) -> String {
        format!("projects/{}/locations/{}", self.inner.project, self.location)
    }

    /// The permission by the project's policy, or by the pool's.
    fn need(&self, permission: &str, pool: Option<&str>) -> Result<(), ApiError> {
        let parent = self.parent();
        let resource = pool.map_or(parent.clone(), |pool| format!("{parent}/caPools/{pool}"));
        let held = may(self.inner, self.caller, self.location, pool, permission);
        if held { Ok(()) } else { Err(denied(permission, &resource)) }
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn show_location(&self, location: &str) -> Value {
        let project = &self.inner.project;
        json!({"name": format!("projects/{project}/locations/{location}"), "locationId": location})
    }

    fn locations(&self) -> Answer {
        self.need("privateca.locations.list", None)?;
        Ok(gke::render::list("locations", gke::places::regions().map(|region| self.show_location(region)).collect()))
    }

    fn operations(&self) -> Answer {
        self.need("privateca.operations.list", None)?;
        let state = self.inner.store.read();
        let here = state.privateca.operations.iter().filter(|operation| operation.name.starts_with(&self.parent()));
        Ok(gke::render::list("operations", here.map(|operation| operation.show(self.inner)).collect()))
    }

    fn operation(&self, name: &str) -> Answer {
        self.need("privateca.operations.get", None)?;
        let name = format!("{}/operations/{name}", self.parent());
        let state = self.inner.store.read();
        let found = state.privateca.operations.iter().find(|operation| operation.name == name);
        found.map(|operation| operation.show(self.inner)).ok_or_else(|| not_found(&name))
    }

    /// Changes a pool's record in an operation, which ends when it has taken its time.
    fn change(
        &self,
        verb: &str,
        (target, kind): (&str, &str),
        change: impl FnOnce(&mut PrivateCa) -> Result<Value, ApiError>,
    ) -> Answer {
        let id: String = self.inner.entropy.bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let now = self.now();
        let name = format!("{}/operations/operation-{}-{id}", self.parent(), now.unix_millis());
        let operation = self.inner.store.write(|state| {
            let mut response = change(&mut state.privateca)?;
            response.set("@type", format!("type.googleapis.com/{kind}"));
            let (target, verb) = (target.to_owned(), verb.to_owned());
            let operation = Operation { name, target, verb, created: now.rfc3339_nanos(), response };
            let all = &mut state.privateca.operations;
            if all.len() >= OPERATIONS_MAX {
                all.remove(0);
            }
            all.push(operation.clone());
            Ok(operation)
        })?;
        Ok(operation.show(self.inner))
    }

    /// One page of a list.
    fn page(&self, name: &str, items: Vec<Value>) -> Answer {
        let number = |field: &str| -> Result<usize, ApiError> {
            let text = self.request.query(field);
            let wrong = |_| ApiError::invalid(format!("Invalid value for {field}: {text:?}."));
            if text.is_empty() { Ok(0) } else { text.parse().map_err(wrong) }
        };
        let (size, from) = (number("pageSize")?, number("pageToken")?);
        let size = if size == 0 { PAGE_MAX } else { size.min(PAGE_MAX) };
        let (total, items) = (items.len(), items.into_iter().skip(from).take(size).collect::<Vec<_>>());
        let next = from.saturating_add(items.len());
        let mut out = gke::render::list(name, items);
        if next < total {
            out.set("nextPageToken", next.to_string());
        }
        Ok(out)
    }

    /// Do the terms of the list's filter (`type:SELF_SIGNED AND state=ENABLED`) hold?
    ///
    /// # Errors
    /// 501 for other forms of filters.
    fn filter(&self, value: &Value) -> Result<bool, ApiError> {
        if !self.request.query("orderBy").is_empty() {
            return Err(ApiError::unimplemented("orderBy"));
        }
        let filter = self.request.query("filter");
        for term in filter.split(" AND ").map(str::trim).filter(|term| !term.is_empty()) {
            let unknown = || ApiError::unimplemented(&format!("filter {term:?}"));
            let (field, wanted) = term.split_once([':', '=']).ok_or_else(unknown)?;
            if !matches!(field.trim(), "type" | "state" | "tier" | "name") {
                return Err(unknown());
            }
            if value.str_at(&[field.trim()]) != wanted.trim().trim_matches('"') {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Does somebody hold a permission by the project's policy, or by the pool's?
pub(crate) fn may(inner: &Inner, caller: &Caller, location: &str, pool: Option<&str>, permission: &str) -> bool {
    if caller.may(permission) {
        return true;
    }
    let state = inner.store.read();
    let Some(pool) = pool.and_then(|pool| state.privateca.pool(location, pool)) else { return false };
    let roles = state.roles_in(&pool.policy, &caller.email);
    roles.iter().any(|role| policy::iam::role_allows(role, permission))
}
