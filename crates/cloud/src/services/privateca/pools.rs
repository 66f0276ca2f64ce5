//! Pools of authorities: what they may issue, and who may have it issued.

use std::collections::BTreeMap;

use gke::ApiError;
use machinery::{Value, json};

use super::records::{Pool, PrivateCa};
use super::{
    Call, authorities, certificates, check_id, clusters, exists, method_not_found, not_found, only, precondition,
    seconds,
};
use crate::services::{Answer, projects};

const POOLS_MAX: usize = 200;
const KIND: &str = "google.cloud.security.privateca.v1.CaPool";
/// Of `backdateDuration`.
const BACKDATE_SECONDS_MAX: u64 = 48 * 60 * 60;

/// Answers what lies below `caPools`.
pub(super) fn answer(call: &Call<'_>, rest: &[&str]) -> Answer {
    match (call.request.verb.as_str(), rest) {
        ("GET", []) => list(call),
        ("POST", []) => create(call),
        (verb, [target]) => match target.split_once(':') {
            None => one(call, verb, target),
            Some((id, action)) => act(call, verb, id, action),
        },
        (_, [pool, "certificateAuthorities", rest @ ..]) => authorities::answer(call, pool, rest),
        (_, [pool, "certificates", rest @ ..]) => certificates::answer(call, pool, rest),
        _ => Err(method_not_found()),
    }
}

fn one(call: &Call<'_>, verb: &str, id: &str) -> Answer {
    let permission = match verb {
        "GET" => "privateca.caPools.get",
        "PATCH" => "privateca.caPools.update",
        "DELETE" => "privateca.caPools.delete",
        _ => return Err(method_not_found()),
    };
    call.need(permission, Some(id))?;
    let found = found(call, id)?;
    match verb {
        "GET" => Ok(show(call, &found)),
        "PATCH" => update(call, &found),
        _ => delete(call, &found),
    }
}

fn act(call: &Call<'_>, verb: &str, id: &str, action: &str) -> Answer {
    let may = |permission: &str| call.need(permission, Some(id));
    match (verb, action) {
        ("GET" | "POST", "getIamPolicy") => {
            may("privateca.caPools.getIamPolicy")?;
            let pool = found(call, id)?;
            Ok(projects::show_policy(&pool.policy, pool.policy_revision))
        }
        ("POST", "setIamPolicy") => {
            may("privateca.caPools.setIamPolicy")?;
            found(call, id)?;
            set_policy(call, id)
        }
        ("POST", "testIamPermissions") => {
            let asked = call.request.json()?;
            found(call, id)?;
            let list = asked["permissions"].items().iter().filter(|p| p.as_str().is_some_and(|p| may(p).is_ok()));
            Ok(gke::render::list("permissions", list.cloned().collect()))
        }
        ("POST", "fetchCaCerts") => {
            may("privateca.caPools.get")?;
            let pool = found(call, id)?;
            let all = pool.authorities.values().filter(|authority| authority.deleted.is_none());
            let chains = all.map(|authority| json!({"certificates": [authority.certificate]}));
            Ok(gke::render::list("caCerts", chains.collect()))
        }
        _ => Err(method_not_found()),
    }
}

/// A pool, without the authorities whose time of grace is over.
pub(super) fn found(call: &Call<'_>, id: &str) -> Result<Pool, ApiError> {
    let missing = || not_found(&format!("{}/caPools/{id}", call.parent()));
    let mut pool = call.inner.store.read().privateca.pool(call.location, id).cloned().ok_or_else(missing)?;
    let now = call.now();
    pool.authorities.retain(|_, authority| !authority.is_gone(now));
    Ok(pool)
}

pub(super) fn show(call: &Call<'_>, pool: &Pool) -> Value {
    let mut out = json!({"name": pool.name(&call.inner.project), "tier": pool.tier});
    for (field, value) in
        [("issuancePolicy", &pool.issuance_policy), ("publishingOptions", &pool.publishing), ("labels", &pool.labels)]
    {
        if !gke::is_empty(value) {
            out.set(field, value.clone());
        }
    }
    out
}

fn list(call: &Call<'_>) -> Answer {
    call.need("privateca.caPools.list", None)?;
    let state = call.inner.store.read();
    let here = state.privateca.pools.values().filter(|pool| call.location == "-" || pool.location == call.location);
    let mut shown = Vec::new();
    for value in here.map(|pool| show(call, pool)) {
        if call.filter(&value)? {
            shown.push(value);
        }
    }
    call.page("caPools", shown)
}

fn create(call: &Call<'_>) -> Answer {
    call.need("privateca.caPools.create", None)?;
    let (id, body) = (call.request.query("caPoolId"), call.request.json()?);
    check_id("ca_pool_id", id)?;
    only(&body, "ca_pool", &["name", "tier", "issuancePolicy", "publishingOptions", "labels"], &[])?;
    let tier = body.str_at(&["tier"]);
    if !matches!(tier, "ENTERPRISE" | "DEVOPS") {
        return Err(ApiError::invalid("The tier of a CaPool must be ENTERPRISE or DEVOPS."));
    }
    let pool = Pool {
        location: call.location.to_owned(),
        id: id.to_owned(),
        tier: tier.to_owned(),
        issuance_policy: checked_policy(&body["issuancePolicy"])?,
        publishing: checked_publishing(&body["publishingOptions"], tier)?,
        labels: super::authorities::checked_labels(&body["labels"])?,
        policy: Vec::new(),
        policy_revision: 0,
        authorities: BTreeMap::new(),
        certificates: BTreeMap::new(),
    };
    let (name, shown) = (pool.name(&call.inner.project), show(call, &pool));
    let key = format!("{}/{id}", call.location);
    call.change("create", (&name, KIND), |all| {
        if all.pools.contains_key(&key) {
            return Err(exists(&name));
        }
        if all.pools.len() >= POOLS_MAX {
            return Err(precondition(format!("There are {POOLS_MAX} CaPools already.")));
        }
        all.pools.insert(key, pool);
        Ok(shown)
    })
}

/// What may be issued. Fields that would be promises and are not kept here are refused.
fn checked_policy(policy: &Value) -> Result<Value, ApiError> {
    let known = ["allowedKeyTypes", "maximumLifetime", "allowedIssuanceModes", "backdateDuration"];
    let later = ["baselineValues", "identityConstraints", "passthroughExtensions"];
    only(policy, "ca_pool.issuance_policy", &known, &later)?;
    if let Some(text) = policy["maximumLifetime"].as_str() {
        seconds("ca_pool.issuance_policy.maximum_lifetime", text)?;
    }
    if let Some(text) = policy["backdateDuration"].as_str() {
        let field = "ca_pool.issuance_policy.backdate_duration";
        if seconds(field, text)? > BACKDATE_SECONDS_MAX {
            return Err(ApiError::invalid("The backdate_duration must be at most 48 hours."));
        }
    }
    only(
        &policy["allowedIssuanceModes"],
        "ca_pool.issuance_policy.allowed_issuance_modes",
        &["allowCsrBasedIssuance", "allowConfigBasedIssuance"],
        &[],
    )?;
    for kind in policy["allowedKeyTypes"].items() {
        only(kind, "ca_pool.issuance_policy.allowed_key_types", &["rsa", "ellipticCurve"], &[])?;
    }
    let mut policy = policy.clone();
    for field in later {
        policy.remove(field);
    }
    Ok(if policy.is_null() { Value::object() } else { policy })
}

/// Kept as they were asked for; nothing is published here.
fn checked_publishing(options: &Value, tier: &str) -> Result<Value, ApiError> {
    only(options, "ca_pool.publishing_options", &["publishCaCert", "publishCrl", "encodingFormat"], &[])?;
    if tier == "DEVOPS" && options["publishCrl"].as_bool() == Some(true) {
        return Err(ApiError::invalid("Publishing CRLs is not supported in the DEVOPS tier."));
    }
    Ok(if options.is_null() { Value::object() } else { options.clone() })
}

fn update(call: &Call<'_>, pool: &Pool) -> Answer {
    let body = call.request.json()?;
    let mut wanted = pool.clone();
    for field in call.request.query("updateMask").split(',').map(str::trim) {
        match field {
            "issuance_policy" | "issuancePolicy" => wanted.issuance_policy = checked_policy(&body["issuancePolicy"])?,
            "labels" => wanted.labels = super::authorities::checked_labels(&body["labels"])?,
            "publishing_options" | "publishingOptions" => {
                wanted.publishing = checked_publishing(&body["publishingOptions"], &pool.tier)?;
            }
            "publishing_options.publish_ca_cert" | "publishing_options.publish_crl" => {
                let name = if field.ends_with("crl") { "publishCrl" } else { "publishCaCert" };
                let value = body["publishingOptions"][name].as_bool().unwrap_or(false);
                wanted.publishing.set(name, value);
                wanted.publishing = checked_publishing(&wanted.publishing, &pool.tier)?;
            }
            "tier" => return Err(ApiError::invalid("Field 'tier' is immutable.")),
            "" => return Err(ApiError::invalid("The update_mask must be set.")),
            other => return Err(ApiError::unimplemented(&format!("updateMask {other}"))),
        }
    }
    let (name, shown) = (pool.name(&call.inner.project), show(call, &wanted));
    call.change("update", (&name, KIND), |all| {
        let pool = at(all, call, &pool.id)?;
        (pool.issuance_policy, pool.publishing, pool.labels) =
            (wanted.issuance_policy, wanted.publishing, wanted.labels);
        Ok(shown)
    })
}

/// The pool in the state that is being written.
pub(super) fn at<'a>(all: &'a mut PrivateCa, call: &Call<'_>, id: &str) -> Result<&'a mut Pool, ApiError> {
    all.pool_mut(call.location, id).ok_or_else(|| not_found(&format!("{}/caPools/{id}", call.parent())))
}

fn delete(call: &Call<'_>, pool: &Pool) -> Answer {
    let name = pool.name(&call.inner.project);
    if !call.request.query("ignoreDependentResources").eq_ignore_ascii_case("true") {
        clusters::check_unused(call, pool)?;
    }
    let now = call.now();
    let key = format!("{}/{}", pool.location, pool.id);
    call.change("delete", (&name, "google.protobuf.Empty"), |all| {
        if at(all, call, &pool.id)?.authorities.values().any(|authority| !authority.is_gone(now)) {
            let text = format!("CaPool {name} cannot be deleted: it still has CertificateAuthorities.");
            return Err(precondition(text));
        }
        all.pools.remove(&key);
        Ok(Value::object())
    })
}

fn set_policy(call: &Call<'_>, id: &str) -> Answer {
    let asked = &call.request.json()?["policy"];
    let bindings = projects::checked_bindings(call.inner, asked)?;
    call.inner.store.write(|state| {
        let pool = at(&mut state.privateca, call, id)?;
        projects::check_etag(asked, pool.policy_revision)?;
        pool.policy = bindings;
        pool.policy_revision += 1;
        Ok(projects::show_policy(&pool.policy, pool.policy_revision))
    })
}
