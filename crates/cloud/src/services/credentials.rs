//! IAM Service Account Credentials v1: tokens and signatures in a service account's name, for callers that may have them,
//! themselves or by a chain of delegates; and the public halves of the keys that sign.
//!
//! ```text
//! caller ─implicitDelegation─► delegate 1 ─implicitDelegation─► delegate 2 ─getAccessToken, signJwt, …─► account
//! ```

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use gke::{ApiError, Code};
use machinery::{Value, json};

use super::Answer;
use super::iam::{denied, find};
use crate::Inner;
use crate::http::{Reply, Request};
use crate::identity::Caller;
use crate::state::{Key, State, SystemKey};

/// Of a token in an account's name.
const LIFETIME_SECONDS_MAX: i64 = 3600;
/// A signed JWT may live for so long.
const JWT_SECONDS_MAX: i64 = 12 * 3600;
const DELEGATE: &str = "iam.serviceAccounts.implicitDelegation";

/// The permission that an action on an account needs; `None` for what is not of this service.
pub(super) fn permission(action: &str) -> Option<&'static str> {
    match action {
        "generateAccessToken" => Some("iam.serviceAccounts.getAccessToken"),
        "generateIdToken" => Some("iam.serviceAccounts.getOpenIdToken"),
        "signBlob" => Some("iam.serviceAccounts.signBlob"),
        "signJwt" => Some("iam.serviceAccounts.signJwt"),
        _ => None,
    }
}

/// Answers `POST …/serviceAccounts/NAME:ACTION`, when the action is one of [`permission`]'s.
pub(super) fn answer(
    inner: &Inner,
    caller: &Caller,
    request: &Request,
    name: &str,
    (action, permission): (&str, &str),
) -> Answer {
    let body = request.json()?;
    let found = find(inner, name);
    let email = found.as_ref().map_or(name, |(email, _)| email.as_str()).to_owned();
    let delegates = delegates(inner, &body["delegates"])?;
    check_chain(inner, caller, &delegates, &email, permission)?;
    let (email, account) = found?;
    match action {
        "generateAccessToken" => access_token(inner, &email, &body),
        "generateIdToken" => identity_token(inner, &email, &account.unique_id, &body),
        "signBlob" => sign_blob(inner, &email, &body),
        _ => sign_jwt(inner, &email, &body),
    }
}

/// The addresses of `projects/-/serviceAccounts/NAME`; an unknown one stays as it is and may do nothing.
fn delegates(inner: &Inner, list: &Value) -> Result<Vec<String>, ApiError> {
    let wrong = |name: &str| ApiError::invalid(format!("Invalid form for delegate: {name}"));
    if !list.is_null() && list.as_array().is_none() {
        return Err(ApiError::invalid("Invalid value at 'delegates'"));
    }
    let address = |item: &Value| {
        let text = item.as_str().ok_or_else(|| wrong(&item.to_string()))?;
        // gcloud sends the name alone.
        let name = text.strip_prefix("projects/-/serviceAccounts/").unwrap_or(text);
        if name.is_empty() || name.contains('/') {
            return Err(wrong(text));
        }
        Ok(find(inner, name).map_or_else(|_| name.to_owned(), |(email, _)| email))
    };
    list.items().iter().map(address).collect()
}

/// Each one of the chain must hold its right on the next one.
fn check_chain(
    inner: &Inner,
    caller: &Caller,
    delegates: &[String],
    target: &str,
    permission: &str,
) -> Result<(), ApiError> {
    let state = inner.store.read();
    for (at, hop) in delegates.iter().map(String::as_str).chain([target]).enumerate() {
        let needed = if at == delegates.len() { permission } else { DELEGATE };
        let may = match at.checked_sub(1).map(|before| delegates[before].as_str()) {
            None => caller.may(needed) || holds(&state.roles_on(hop, &caller.email), needed),
            Some(before) => {
                let roles = [state.roles_of(before), state.roles_on(hop, before)].concat();
                is_account(&state, before) && holds(&roles, needed)
            }
        };
        if !may {
            return Err(denied(needed));
        }
    }
    Ok(())
}

fn holds(roles: &[String], permission: &str) -> bool {
    roles.iter().any(|role| policy::iam::role_allows(role, permission))
}

fn is_account(state: &State, email: &str) -> bool {
    state.accounts.get(email).is_some_and(|account| account.service)
}

/// Seconds of `"300s"`; the usual hour when nothing is said.
fn lifetime(text: &str) -> Result<i64, ApiError> {
    if text.is_empty() {
        return Ok(LIFETIME_SECONDS_MAX);
    }
    let seconds = text.strip_suffix('s').and_then(|text| text.parse::<i64>().ok());
    let wrong = || {
        ApiError::invalid(format!(
            "Invalid value at 'lifetime' (type.googleapis.com/google.protobuf.Duration), \"{text}\""
        ))
    };
    match seconds.ok_or_else(wrong)? {
        seconds @ 1..=LIFETIME_SECONDS_MAX => Ok(seconds),
        _ => Err(ApiError::invalid("The access token lifetime cannot exceed 3600 seconds.")),
    }
}

fn access_token(inner: &Inner, email: &str, body: &Value) -> Answer {
    let scopes: Vec<String> = body["scope"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let seconds = lifetime(body.str_at(&["lifetime"]))?;
    if scopes.is_empty() {
        return Err(ApiError::invalid("Scope required."));
    }
    let token = inner.new_token(email, scopes, Some(seconds))?;
    let expires = inner.clock.now() + std::time::Duration::from_secs(seconds.unsigned_abs());
    let expires = base::Timestamp::from_unix_seconds(expires.unix_seconds()).rfc3339();
    Ok(json!({"accessToken": token, "expireTime": expires}))
}

fn identity_token(inner: &Inner, email: &str, id: &str, body: &Value) -> Answer {
    let audience = body.str_at(&["audience"]);
    if audience.is_empty() {
        return Err(ApiError::invalid("Audience required."));
    }
    let now = inner.clock.now().unix_seconds();
    let mut claims = json!({"aud": audience, "azp": id, "exp": now + LIFETIME_SECONDS_MAX, "iat": now,
        "iss": super::oauth::ISSUER, "sub": id});
    if body["includeEmail"].as_bool() == Some(true) {
        claims.set("email", email);
        claims.set("email_verified", true);
    }
    Ok(json!({"token": super::oauth::sign_identity(inner, &claims)?}))
}

/// `payload` here, `bytesToSign` in IAM v1, whose answer calls the signature by another name.
fn sign_blob(inner: &Inner, email: &str, body: &Value) -> Answer {
    let older = body["payload"].is_null() && !body["bytesToSign"].is_null();
    let (field, answer) = if older { ("bytesToSign", "signature") } else { ("payload", "signedBlob") };
    let text = body.str_at(&[field]);
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| {
        ApiError::invalid(format!("Invalid value at '{field}' (TYPE_BYTES), Base64 decoding failed for \"{text}\""))
    })?;
    let (id, key) = system_key(inner, email)?;
    let mut out = json!({"keyId": id});
    out.set(answer, STANDARD.encode(signature(&key, &bytes)?));
    Ok(out)
}

/// The claims are signed as they were sent.
fn sign_jwt(inner: &Inner, email: &str, body: &Value) -> Answer {
    let payload = body.str_at(&["payload"]);
    let claims = Value::from_slice(payload.as_bytes()).ok().filter(|claims| claims.as_object().is_some());
    let claims = claims.ok_or_else(|| ApiError::invalid("Payload must be a serialized JSON object."))?;
    if let Some(expires) = claims.get("exp") {
        let left = expires.as_i64().map(|expires| expires - inner.clock.now().unix_seconds());
        if !left.is_some_and(|left| (1..=JWT_SECONDS_MAX).contains(&left)) {
            let text = "The exp claim must be an integer timestamp that is not in the past and no more than 12 hours in the future.";
            return Err(ApiError::invalid(text));
        }
    }
    let (id, key) = system_key(inner, email)?;
    let header = json!({"alg": "RS256", "kid": id, "typ": "JWT"});
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(signature(&key, signed.as_bytes())?);
    Ok(json!({"keyId": id, "signedJwt": format!("{signed}.{signature}")}))
}

fn internal() -> ApiError {
    ApiError::new(Code::Internal, "Internal error encountered.")
}

fn signature(key: &KeyPair, bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).map_err(|_| internal())?;
    Ok(signature)
}

/// The key that Google keeps for an account, with its id; made when it is first needed.
fn system_key(inner: &Inner, email: &str) -> Result<(String, KeyPair), ApiError> {
    let read = |key: &SystemKey| {
        let pair = KeyPair::from_pkcs8(&STANDARD.decode(&key.private).ok()?).ok()?;
        Some((key.id.clone(), pair))
    };
    let kept = inner.store.read().accounts.get(email).and_then(|account| account.system_key.clone());
    if let Some(key) = kept.as_ref().and_then(read) {
        return Ok(key);
    }
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| internal())?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| internal())?;
    let made = SystemKey {
        id: inner.entropy.bytes::<20>().iter().map(|byte| format!("{byte:02x}")).collect(),
        private: STANDARD.encode(der.as_ref()),
        public: public_half(inner, email, &pair, der.as_ref())?,
    };
    let kept = inner.store.write(|state| {
        let account = state.accounts.get_mut(email).ok_or_else(|| ApiError::not_found("Unknown service account"))?;
        // Somebody else may have been first.
        Ok(account.system_key.get_or_insert(made).clone())
    })?;
    read(&kept).ok_or_else(internal)
}

/// The numbers of a key that was made here, with a certificate around it.
pub(super) fn public_half(inner: &Inner, email: &str, pair: &KeyPair, pkcs8: &[u8]) -> Result<Key, ApiError> {
    let public = pair.public_key();
    let name = find(inner, email)?.1.unique_id;
    Ok(Key {
        n: URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
        e: URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        uploaded: false,
        created: inner.clock.now().rfc3339(),
        certificate: pki::account_certificate(pkcs8, &name, &inner.clock, &inner.entropy).map_err(|_| internal())?,
    })
}

/// The pages `/service_accounts/v1/metadata/{x509,jwk}/EMAIL` and `/robot/v1/…` of www.googleapis.com, which need no
/// credential; `None` for other paths.
pub(super) fn public_keys(inner: &Inner, request: &Request) -> Option<Reply> {
    let owned = request.segments();
    let segments: Vec<&str> = owned.iter().map(String::as_str).collect();
    let ["service_accounts" | "robot", "v1", "metadata", form @ ("x509" | "jwk"), email] = segments[..] else {
        return None;
    };
    if request.verb != "GET" {
        return None;
    }
    Some(match keys_of(inner, email) {
        Ok(keys) if form == "jwk" => {
            let jwk = |(id, key): &(String, Key)| json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": id.as_str(), "n": key.n.as_str(), "e": key.e.as_str()});
            Reply::json(200, &json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()}))
        }
        Ok(keys) => {
            let mut out = Value::object();
            for (id, key) in keys.iter().filter(|(_, key)| !key.certificate.is_empty()) {
                out.set(id, key.certificate.as_str());
            }
            Reply::json(200, &out)
        }
        Err(error) => super::refusal(inner, &error),
    })
}

fn keys_of(inner: &Inner, email: &str) -> Result<Vec<(String, Key)>, ApiError> {
    let unknown = || ApiError::not_found(format!("Not found; Gaia id not found for email {email}"));
    let (email, _) = find(inner, email).map_err(|_| unknown())?;
    system_key(inner, &email)?;
    let state = inner.store.read();
    let account = state.accounts.get(&email).ok_or_else(unknown)?;
    let system = account.system_key.iter().map(|key| (key.id.clone(), key.public.clone()));
    Ok(system.chain(account.keys.iter().map(|(id, key)| (id.clone(), key.clone()))).collect())
}
