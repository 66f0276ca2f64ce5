//! Certificates that a pool issues, from a signing request or from a description.

use gke::ApiError;
use machinery::{Value, json};
use pki::pem;

use super::contents::{self, Source, Validity};
use super::records::{Authority, Certificate, Pool};
use super::{
    Call, authorities, check_id, describe, exists, method_not_found, not_found, only, pools, precondition, seconds,
};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use crate::services::Answer;

/// A pool remembers so many; the oldest is forgotten then. It stays valid.
const CERTIFICATES_MAX: usize = 500;
const REASONS: [&str; 9] = [
    "REVOCATION_REASON_UNSPECIFIED",
    "KEY_COMPROMISE",
    "CERTIFICATE_AUTHORITY_COMPROMISE",
    "AFFILIATION_CHANGED",
    "SUPERSEDED",
    "CESSATION_OF_OPERATION",
    "CERTIFICATE_HOLD",
    "PRIVILEGE_WITHDRAWN",
    "ATTRIBUTE_AUTHORITY_COMPROMISE",
];

/// A certificate that is asked for from inside: a cluster's.
pub(crate) struct NewCertificate<'a> {
    pub(crate) location: &'a str,
    pub(crate) pool: &'a str,
    /// The first of these that is enabled shall issue it.
    pub(crate) authorities: &'a [String],
    pub(crate) id: &'a str,
    /// A `Certificate`.
    pub(crate) body: Value,
}

/// Has a certificate issued, as a request of the caller would.
///
/// # Errors
/// As the request would be refused.
pub(crate) fn issue(inner: &Inner, caller: &Caller, new: &NewCertificate<'_>) -> Answer {
    let request = Request::inside("POST");
    let call = Call { inner, caller, request: &request, location: new.location };
    call.need("privateca.certificates.create", Some(new.pool))?;
    let pool = pools::found(&call, new.pool)?;
    let enabled = |id: &&String| pool.authorities.get(*id).is_some_and(|authority| authority.state == "ENABLED");
    let issuer = new.authorities.iter().find(enabled).ok_or_else(|| no_issuer(&call, &pool))?;
    create(&call, &pool, &new.body, &Options { id: new.id, issuer, validate_only: false })
}

/// Answers what lies below `caPools/POOL/certificates`.
pub(super) fn answer(call: &Call<'_>, pool: &str, rest: &[&str]) -> Answer {
    let (target, action) = match rest {
        [] => ("", ""),
        [target] => target.split_once(':').unwrap_or((target, "")),
        _ => return Err(method_not_found()),
    };
    let permission = match (call.request.verb.as_str(), target, action) {
        ("GET", "", "") => "privateca.certificates.list",
        ("POST", "", "") => "privateca.certificates.create",
        ("GET", _, "") => "privateca.certificates.get",
        ("PATCH", _, "") | ("POST", _, "revoke") => "privateca.certificates.update",
        _ => return Err(method_not_found()),
    };
    call.need(permission, (pool != "-").then_some(pool))?;
    if (target, call.request.verb.as_str()) == ("", "GET") {
        return list(call, pool);
    }
    let pool = pools::found(call, pool)?;
    match (call.request.verb.as_str(), target) {
        (_, "") => {
            let query = |field: &str| call.request.query(field);
            let options = Options {
                id: query("certificateId"),
                issuer: query("issuingCertificateAuthorityId"),
                validate_only: query("validateOnly").eq_ignore_ascii_case("true"),
            };
            create(call, &pool, &call.request.json()?, &options)
        }
        ("GET", id) => Ok(show(call, &pool, id, found(call, &pool, id)?)),
        ("POST", id) => revoke(call, &pool, id),
        (_, id) => update(call, &pool, id),
    }
}

fn name(call: &Call<'_>, pool: &Pool, id: &str) -> String {
    format!("{}/certificates/{id}", pool.name(&call.inner.project))
}

fn found<'a>(call: &Call<'_>, pool: &'a Pool, id: &str) -> Result<&'a Certificate, ApiError> {
    pool.certificates.get(id).ok_or_else(|| not_found(&name(call, pool, id)))
}

fn show(call: &Call<'_>, pool: &Pool, id: &str, certificate: &Certificate) -> Value {
    let mut out = certificate.source.clone();
    if !id.is_empty() {
        out.set("name", name(call, pool, id));
    }
    out.set("issuerCertificateAuthority", authorities::name(call, pool, &certificate.authority));
    out.set("lifetime", certificate.lifetime.as_str());
    out.set("createTime", certificate.created.as_str());
    out.set("updateTime", certificate.updated.as_str());
    out.set("pemCertificate", certificate.pem.as_str());
    out.set("certificateDescription", describe::certificate(&certificate.pem));
    if let Some(authority) = pool.authorities.get(&certificate.authority) {
        out.set("pemCertificateChain", json!([authority.certificate]));
    }
    if !gke::is_empty(&certificate.labels) {
        out.set("labels", certificate.labels.clone());
    }
    if let Some((reason, time)) = &certificate.revoked {
        out.set("revocationDetails", json!({"revocationState": reason, "revocationTime": time}));
    }
    out
}

fn list(call: &Call<'_>, pool: &str) -> Answer {
    if pool != "-" {
        pools::found(call, pool)?;
    }
    let state = call.inner.store.read();
    let mut shown = Vec::new();
    for found in state.privateca.pools.values() {
        let here = (pool == "-" || found.id == pool) && (call.location == "-" || found.location == call.location);
        for (id, certificate) in found.certificates.iter().filter(|_| here) {
            let value = show(call, found, id, certificate);
            if call.filter(&value)? {
                shown.push(value);
            }
        }
    }
    call.page("certificates", shown)
}

struct Options<'a> {
    id: &'a str,
    issuer: &'a str,
    validate_only: bool,
}

/// What is asked for, less what a pool may not issue.
fn create(call: &Call<'_>, pool: &Pool, body: &Value, options: &Options<'_>) -> Answer {
    let known = ["name", "pemCsr", "config", "lifetime", "labels", "subjectMode"];
    only(body, "certificate", &known, &["certificateTemplate"])?;
    let stored = pool.tier == "ENTERPRISE";
    if stored && !options.validate_only {
        check_id("certificate_id", options.id)?;
        if pool.certificates.contains_key(options.id) {
            return Err(exists(&name(call, pool, options.id)));
        }
    }
    let (issuer, authority) = issuer(call, pool, options.issuer)?;
    let lifetime = body.str_at(&["lifetime"]);
    let validity = validity(call, pool, authority, seconds("certificate.lifetime", lifetime)?)?;
    let source = Source::of(body)?;
    check_mode(pool, &source)?;
    let made = contents::of_source(&source, body.str_at(&["subjectMode"]), validity)?;
    contents::check_key(&pool.issuance_policy["allowedKeyTypes"], &made.public_key)?;
    let damaged = || ApiError::new(gke::Code::Internal, "Internal error encountered.");
    let own = pem::certificates(&authority.certificate).map_err(|_| damaged())?;
    let issued = authority.key()?.certify(&own[0], &made.contents, &made.public_key, &call.inner.entropy);
    let issued = issued.map_err(|error| ApiError::invalid(format!("The certificate cannot be made: {error}.")))?;
    let now = call.now().rfc3339_nanos();
    let mut kept = Certificate {
        pem: pem::certificate(&issued),
        authority: issuer.to_owned(),
        source: source.shown(body.str_at(&["subjectMode"])),
        lifetime: lifetime.to_owned(),
        labels: authorities::checked_labels(&body["labels"])?,
        created: now.clone(),
        updated: now,
        revoked: None,
    };
    if options.validate_only {
        let mut shown = show(call, pool, options.id, &kept);
        shown.remove("pemCertificate");
        return Ok(shown);
    }
    tracing::info!(
        pool = pool.id,
        authority = issuer,
        caller = call.caller.email,
        sha256 = pki::sha256(&issued),
        "issued a certificate"
    );
    if !stored {
        // The DevOps tier forgets what it issued.
        kept.labels = Value::object();
        return Ok(show(call, pool, "", &kept));
    }
    let shown = show(call, pool, options.id, &kept);
    call.inner.store.write(|state| {
        let pool = pools::at(&mut state.privateca, call, &pool.id)?;
        if pool.certificates.contains_key(options.id) {
            return Err(exists(&name(call, pool, options.id)));
        }
        while pool.certificates.len() >= CERTIFICATES_MAX {
            let oldest =
                pool.certificates.iter().min_by(|a, b| a.1.created.cmp(&b.1.created)).map(|(id, _)| id.clone());
            pool.certificates.remove(&oldest.unwrap_or_default());
        }
        pool.certificates.insert(options.id.to_owned(), kept);
        Ok(())
    })?;
    Ok(shown)
}

fn no_issuer(call: &Call<'_>, pool: &Pool) -> ApiError {
    precondition(format!("There are no enabled CAs in CaPool {}.", pool.name(&call.inner.project)))
}

/// The authority that was asked for, or any that is enabled. One that is staged issues only where it is named.
fn issuer<'a>(call: &Call<'_>, pool: &'a Pool, asked: &'a str) -> Result<(&'a str, &'a Authority), ApiError> {
    if asked.is_empty() {
        let enabled = pool.authorities.iter().find(|(_, authority)| authority.state == "ENABLED");
        return enabled.map(|(id, authority)| (id.as_str(), authority)).ok_or_else(|| no_issuer(call, pool));
    }
    let authority = pool.authorities.get(asked).ok_or_else(|| not_found(&authorities::name(call, pool, asked)))?;
    match authority.state.as_str() {
        "ENABLED" | "STAGED" => Ok((asked, authority)),
        state => Err(precondition(format!(
            "CertificateAuthority {} is in state {state}: it must be ENABLED or STAGED to issue certificates.",
            authorities::name(call, pool, asked)
        ))),
    }
}

/// As long as was asked for, but no longer than the authority itself.
fn validity(call: &Call<'_>, pool: &Pool, authority: &Authority, asked: u64) -> Result<Validity, ApiError> {
    let policy = |field: &str| pool.issuance_policy[field].as_str().map(|text| seconds(field, text)).transpose();
    if let Some(most) = policy("maximumLifetime")?.filter(|most| asked > *most) {
        return Err(ApiError::invalid(format!(
            "The requested lifetime of {asked}s exceeds the CaPool's maximum_lifetime of {most}s."
        )));
    }
    let backdate = policy("backdateDuration")?.unwrap_or(0);
    let mut validity = Validity::from(call.now(), asked)?.backdated(backdate);
    let last = pem::certificates(&authority.certificate).and_then(|list| pki::subject(&list[0]));
    if let Ok(last) = last {
        validity.not_after = validity.not_after.min(last.not_after);
        validity.not_before = validity.not_before.max(last.not_before);
    }
    Ok(validity)
}

/// A policy that names the ways allows no other.
fn check_mode(pool: &Pool, source: &Source) -> Result<(), ApiError> {
    let modes = &pool.issuance_policy["allowedIssuanceModes"];
    let (field, what) = match source {
        Source::Request(_) => ("allowCsrBasedIssuance", "CSR-based"),
        Source::Config(_) => ("allowConfigBasedIssuance", "Config-based"),
    };
    if modes.is_null() || modes[field].as_bool() == Some(true) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("{what} issuance is not allowed by the CaPool's issuance policy.")))
}

fn revoke(call: &Call<'_>, pool: &Pool, id: &str) -> Answer {
    found(call, pool, id)?;
    let body = call.request.json()?;
    let reason = body.str_at(&["reason"]);
    if !REASONS.contains(&reason) {
        return Err(ApiError::invalid("The reason of a revocation must be set."));
    }
    let now = call.now().rfc3339();
    change(call, pool, id, |certificate| {
        if certificate.revoked.is_some() {
            return Err(precondition(format!("Certificate {} is already revoked.", name(call, pool, id))));
        }
        certificate.revoked = Some((reason.to_owned(), now.clone()));
        Ok(())
    })
}

fn update(call: &Call<'_>, pool: &Pool, id: &str) -> Answer {
    found(call, pool, id)?;
    let labels = authorities::checked_labels(&call.request.json()?["labels"])?;
    match call.request.query("updateMask") {
        "labels" => change(call, pool, id, |certificate| {
            certificate.labels = labels;
            Ok(())
        }),
        other => Err(ApiError::unimplemented(&format!("updateMask {other}"))),
    }
}

fn change(
    call: &Call<'_>,
    pool: &Pool,
    id: &str,
    change: impl FnOnce(&mut Certificate) -> Result<(), ApiError>,
) -> Answer {
    let now = call.now().rfc3339_nanos();
    let changed = call.inner.store.write(|state| {
        let found = pools::at(&mut state.privateca, call, &pool.id)?;
        let certificate = found.certificates.get_mut(id).ok_or_else(|| not_found(&name(call, pool, id)))?;
        change(certificate)?;
        certificate.updated = now;
        Ok(certificate.clone())
    })?;
    Ok(show(call, pool, id, &changed))
}
