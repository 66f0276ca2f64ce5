//! `serviceaccounts/token`: the shape and limits of a TokenRequest; the signature is the shell's.

use base::Timestamp;
use machinery::{FieldError, FieldPath, Status, Value, meta};

/// Shortest lifetime one may ask for, in seconds.
const EXPIRATION_SECONDS_MIN: i64 = 600;
/// Longest lifetime one may ask for, in seconds.
const EXPIRATION_SECONDS_MAX: i64 = 1 << 32;
/// Lifetime when none is asked for, in seconds.
const EXPIRATION_SECONDS_DEFAULT: i64 = 3600;

/// Checks a TokenRequest for a service account and fills in what it leaves open (names, audiences, lifetime).
///
/// # Errors
/// 422 with the fields at fault.
pub fn prepare(
    mut request: Value,
    account: &Value,
    default_audiences: &[String],
    now: Timestamp,
) -> Result<Value, Status> {
    let name = meta::name(account).to_owned();
    let metadata = FieldPath::new("metadata");
    for (member, of_account) in [("name", meta::name(account)), ("namespace", meta::namespace(account))] {
        let given = request.str_at(&["metadata", member]);
        if !given.is_empty() && given != of_account {
            let text = format!("must match the service account {member} if specified");
            let error = FieldError::invalid(&metadata.child(member), &given.into(), text);
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", &name, &vec![error]));
        }
        *request.at_mut(&["metadata", member]) = of_account.into();
    }
    if request["spec"]["audiences"].items().is_empty() {
        *request.at_mut(&["spec", "audiences"]) = default_audiences.iter().map(String::as_str).collect();
    }
    if request["spec"]["expirationSeconds"].is_null() {
        *request.at_mut(&["spec", "expirationSeconds"]) = EXPIRATION_SECONDS_DEFAULT.into();
    }
    request["metadata"].set("creationTimestamp", now.rfc3339());
    request.remove("status");
    let path = FieldPath::new("spec").child("expirationSeconds");
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(0);
    let complaint = match seconds {
        s if s < EXPIRATION_SECONDS_MIN => "may not specify a duration less than 10 minutes",
        s if s > EXPIRATION_SECONDS_MAX => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(request),
    };
    let error = FieldError::invalid(&path, &seconds.into(), complaint);
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &vec![error]))
}
