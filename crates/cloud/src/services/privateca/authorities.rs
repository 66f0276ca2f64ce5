//! Root authorities of a pool, and the states they go through.
//!
//! ```text
//! create ─► STAGED ─enable─► ENABLED ◄─enable─ DISABLED ─delete─► DELETED ─(30 days)─► gone
//!                               └──disable──────►┘ ◄──undelete───────┘
//! ```

use std::time::Duration;

use gke::ApiError;
use machinery::{Value, json};
use pki::AuthorityKey;

use super::contents::{self, Validity};
use super::records::{Authority, Pool, algorithm};
use super::{
    Call, check_id, clusters, describe, exists, method_not_found, not_found, only, pools, precondition, seconds,
};
use crate::services::Answer;

const AUTHORITIES_MAX: usize = 100;
const LABELS_MAX: usize = 64;
const KIND: &str = "google.cloud.security.privateca.v1.CertificateAuthority";
/// How long a deleted authority can be had back.
const GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Answers what lies below `caPools/POOL/certificateAuthorities`.
pub(super) fn answer(call: &Call<'_>, pool: &str, rest: &[&str]) -> Answer {
    let (target, action) = match rest {
        [] => ("", ""),
        [target] => target.split_once(':').unwrap_or((target, "")),
        [_, "certificateRevocationLists", ..] => return Err(ApiError::unimplemented("certificateRevocationLists")),
        _ => return Err(method_not_found()),
    };
    let permission = match (call.request.verb.as_str(), target, action) {
        ("GET", "", "") => "privateca.certificateAuthorities.list",
        ("POST", "", "") => "privateca.certificateAuthorities.create",
        ("GET", _, "") => "privateca.certificateAuthorities.get",
        ("PATCH", _, "") | ("POST", _, "enable" | "disable") => "privateca.certificateAuthorities.update",
        ("DELETE", _, "") => "privateca.certificateAuthorities.delete",
        ("POST", _, "undelete") => "privateca.certificateAuthorities.update",
        ("POST", _, "activate") | ("GET", _, "fetch") => {
            return Err(ApiError::unimplemented(&format!("certificateAuthorities.{action}")));
        }
        _ => return Err(method_not_found()),
    };
    call.need(permission, (pool != "-").then_some(pool))?;
    match (call.request.verb.as_str(), target, action) {
        ("GET", "", _) => list(call, pool),
        ("POST", "", _) => create(call, pool),
        ("GET", ..) => {
            let pool = pools::found(call, pool)?;
            Ok(show(call, &pool, target, found(call, &pool, target)?))
        }
        ("PATCH", ..) => update(call, pool, target),
        ("DELETE", ..) => delete(call, pool, target),
        _ => switch(call, pool, target, action),
    }
}

pub(super) fn name(call: &Call<'_>, pool: &Pool, id: &str) -> String {
    format!("{}/certificateAuthorities/{id}", pool.name(&call.inner.project))
}

fn found<'a>(call: &Call<'_>, pool: &'a Pool, id: &str) -> Result<&'a Authority, ApiError> {
    pool.authorities.get(id).ok_or_else(|| not_found(&name(call, pool, id)))
}

fn show(call: &Call<'_>, pool: &Pool, id: &str, authority: &Authority) -> Value {
    let mut out = json!({
        "name": name(call, pool, id), "type": "SELF_SIGNED", "tier": pool.tier, "state": authority.state,
        "lifetime": authority.lifetime, "keySpec": {"algorithm": authority.algorithm},
        "pemCaCertificates": [authority.certificate], "createTime": authority.created, "updateTime": authority.updated,
    });
    out.set("config", authority.config.clone());
    out.set("caCertificateDescriptions", vec![describe::certificate(&authority.certificate)]);
    if !gke::is_empty(&authority.labels) {
        out.set("labels", authority.labels.clone());
    }
    if let Some((deleted, expires)) = &authority.deleted {
        out.set("deleteTime", deleted.as_str());
        out.set("expireTime", expires.as_str());
    }
    out
}

fn list(call: &Call<'_>, pool: &str) -> Answer {
    let state = call.inner.store.read();
    let now = call.now();
    let mut shown = Vec::new();
    for found in state.privateca.pools.values() {
        let here = (pool == "-" || found.id == pool) && (call.location == "-" || found.location == call.location);
        for (id, authority) in found.authorities.iter().filter(|(_, authority)| here && !authority.is_gone(now)) {
            let value = show(call, found, id, authority);
            if call.filter(&value)? {
                shown.push(value);
            }
        }
    }
    if pool != "-" {
        pools::found(call, pool)?;
    }
    call.page("certificateAuthorities", shown)
}

/// Labels as Google has them: a map of short texts.
pub(super) fn checked_labels(labels: &Value) -> Result<Value, ApiError> {
    let letters = |text: &str| {
        text.len() <= 63 && text.chars().all(|c| c.is_alphanumeric() && !c.is_uppercase() || matches!(c, '-' | '_'))
    };
    let good = |(key, value): (&str, &Value)| !key.is_empty() && letters(key) && value.as_str().is_some_and(letters);
    if labels.members().count() > LABELS_MAX || !labels.members().all(good) {
        return Err(ApiError::invalid("The labels are not valid."));
    }
    Ok(if labels.is_null() { Value::object() } else { labels.clone() })
}

fn create(call: &Call<'_>, pool: &str) -> Answer {
    let (id, body) = (call.request.query("certificateAuthorityId"), call.request.json()?);
    check_id("certificate_authority_id", id)?;
    let known = ["name", "type", "config", "lifetime", "keySpec", "labels"];
    only(&body, "certificate_authority", &known, &["gcsBucket", "subordinateConfig", "userDefinedAccessUrls"])?;
    match body.str_at(&["type"]) {
        "SELF_SIGNED" => {}
        "SUBORDINATE" => return Err(ApiError::unimplemented("certificateAuthority.type SUBORDINATE")),
        _ => return Err(ApiError::invalid("The type of a CertificateAuthority must be SELF_SIGNED or SUBORDINATE.")),
    }
    only(&body["keySpec"], "certificate_authority.key_spec", &["algorithm"], &["cloudKmsKeyVersion"])?;
    let pool = pools::found(call, pool)?;
    let lifetime = body.str_at(&["lifetime"]);
    let validity = Validity::from(call.now(), seconds("certificate_authority.lifetime", lifetime)?)?;
    let mut config = body["config"].clone();
    let contents = contents::of_config(&config, "certificate_authority.config", validity)?;
    if contents.ca == pki::CaContents::No || !contents.key_usages.contains(&pki::KeyUsagePurpose::KeyCertSign) {
        return Err(ApiError::invalid(
            "A CertificateAuthority's config must have ca_options.is_ca and key_usage.base_key_usage.cert_sign.",
        ));
    }
    if !gke::is_empty(&config["publicKey"]) {
        return Err(ApiError::invalid("The public_key of a CertificateAuthority's config must not be set."));
    }
    let name_of = name(call, &pool, id);
    if pool.authorities.contains_key(id) {
        return Err(exists(&name_of));
    }
    let kind = body.str_at(&["keySpec", "algorithm"]);
    let failed = |error: pki::SignerError| ApiError::invalid(format!("The certificate cannot be made: {error}."));
    let key = AuthorityKey::generate(algorithm(kind)?).map_err(failed)?;
    let certificate = key.certify_itself(&contents, &call.inner.entropy).map_err(failed)?;
    let pem = pki::pem::certificate(&certificate);
    config.set("publicKey", describe::public_key(&pem));
    let mut authority = Authority::staged(kind, &key, config, lifetime, call.now());
    authority.certificate = pem;
    authority.labels = checked_labels(&body["labels"])?;
    let shown = show(call, &pool, id, &authority);
    let now = call.now();
    call.change("create", (&name_of, KIND), |all| {
        let pool = pools::at(all, call, &pool.id)?;
        pool.authorities.retain(|_, authority| !authority.is_gone(now));
        if pool.authorities.contains_key(id) {
            return Err(exists(&name_of));
        }
        if pool.authorities.len() >= AUTHORITIES_MAX {
            return Err(precondition(format!("The CaPool has {AUTHORITIES_MAX} CertificateAuthorities already.")));
        }
        pool.authorities.insert(id.to_owned(), authority);
        Ok(shown)
    })
}

/// Changes one authority in an operation; what it becomes is the answer.
fn change(
    call: &Call<'_>,
    pool: &str,
    id: &str,
    verb: &str,
    change: impl FnOnce(&mut Authority) -> Result<(), ApiError>,
) -> Answer {
    let pool = pools::found(call, pool)?;
    let name = name(call, &pool, id);
    found(call, &pool, id)?;
    let now = call.now();
    call.change(verb, (&name, KIND), |all| {
        let pool = pools::at(all, call, &pool.id)?;
        let authority = pool.authorities.get_mut(id).ok_or_else(|| not_found(&name))?;
        change(authority)?;
        authority.updated = now.rfc3339_nanos();
        let shown = authority.clone();
        pool.authorities.retain(|_, authority| !authority.is_gone(now));
        Ok(show(call, pool, id, &shown))
    })
}

fn update(call: &Call<'_>, pool: &str, id: &str) -> Answer {
    let labels = checked_labels(&call.request.json()?["labels"])?;
    match call.request.query("updateMask") {
        "labels" => change(call, pool, id, "update", |authority| {
            authority.labels = labels;
            Ok(())
        }),
        other => Err(ApiError::unimplemented(&format!("updateMask {other}"))),
    }
}

fn switch(call: &Call<'_>, pool: &str, id: &str, action: &str) -> Answer {
    let body = call.request.json()?;
    let known: &[&str] = if action == "disable" { &["requestId", "ignoreDependentResources"] } else { &["requestId"] };
    only(&body, "request", known, &[])?;
    let (from, to): (&[&str], &str) = match action {
        "enable" => (&["STAGED", "DISABLED"], "ENABLED"),
        "disable" => (&["STAGED", "ENABLED"], "DISABLED"),
        _ => (&["DELETED"], "DISABLED"),
    };
    if action == "disable" && body["ignoreDependentResources"].as_bool() != Some(true) {
        clusters::check_not_last(call, &pools::found(call, pool)?, id)?;
    }
    change(call, pool, id, action, |authority| {
        if !from.contains(&authority.state.as_str()) {
            return Err(wrong_state(&authority.state, from));
        }
        to.clone_into(&mut authority.state);
        authority.deleted = None;
        Ok(())
    })
}

fn wrong_state(state: &str, allowed: &[&str]) -> ApiError {
    let allowed = allowed.join(" or ");
    precondition(format!("The CertificateAuthority must be in state {allowed}, but it is in state {state}."))
}

fn delete(call: &Call<'_>, pool: &str, id: &str) -> Answer {
    // gcloud writes `True`.
    let asked = |field: &str| call.request.query(field).eq_ignore_ascii_case("true");
    let now = call.now();
    let pool = pools::found(call, pool)?;
    let live = |certificate: &super::records::Certificate| {
        certificate.authority == id
            && certificate.revoked.is_none()
            && pki::pem::certificates(&certificate.pem)
                .and_then(|list| pki::subject(&list[0]))
                .is_ok_and(|subject| subject.not_after > now)
    };
    if !asked("ignoreActiveCertificates") && pool.certificates.values().any(live) {
        return Err(precondition(
            "The CertificateAuthority has active certificates. To delete it anyway, set the `ignore_active_certificates` \
             parameter.",
        ));
    }
    let expires = if asked("skipGracePeriod") { now } else { now + GRACE };
    change(call, &pool.id, id, "delete", |authority| {
        let from = ["STAGED", "DISABLED"];
        if !from.contains(&authority.state.as_str()) {
            return Err(wrong_state(&authority.state, &from));
        }
        "DELETED".clone_into(&mut authority.state);
        authority.deleted = Some((now.rfc3339_nanos(), expires.rfc3339_nanos()));
        Ok(())
    })
}
