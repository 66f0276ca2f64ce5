//! OAuth: tokens for keys and refresh tokens, and what a token tells.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gke::{ApiError, Code};
use machinery::{Value, json};

use crate::Inner;
use crate::http::{Reply, Request};
use crate::identity::TOKEN_SECONDS;
use crate::state::Token;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
pub(crate) const ISSUER: &str = "https://accounts.google.com";

/// Where tokens are asked for.
pub(super) fn is_token_path(path: &str) -> bool {
    matches!(path, "/token" | "/oauth2/v4/token" | "/o/oauth2/token")
}

/// Answers the OAuth paths; `None` for any other.
pub(super) fn answer(inner: &Inner, request: &Request) -> Option<Reply> {
    let path = request.path.as_str();
    let reply = match path {
        _ if is_token_path(path) => token(inner, request),
        "/tokeninfo" | "/oauth2/v1/tokeninfo" | "/oauth2/v3/tokeninfo" => token_info(inner, request),
        "/userinfo" | "/v1/userinfo" | "/oauth2/v1/userinfo" | "/oauth2/v2/userinfo" | "/oauth2/v3/userinfo" => {
            user_info(inner, request)
        }
        "/oauth2/v3/certs" => match identity_key(inner) {
            Ok(key) => Reply::json(200, &jwks(&key)),
            Err(error) => super::refusal(inner, &error),
        },
        "/revoke" => revoke(inner, request),
        _ => return None,
    };
    Some(reply.with("pragma", "no-cache"))
}

fn refuse(code: u16, error: &str, description: &str) -> Reply {
    Reply::json(code, &json!({"error": error, "error_description": description}))
}

fn token(inner: &Inner, request: &Request) -> Reply {
    if request.verb != "POST" {
        return refuse(405, "invalid_request", "Use POST.");
    }
    let form = request.form();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let granted = match field("grant_type") {
        JWT_BEARER => {
            let Some((email, claims)) = inner.signed_assertion(field("assertion")) else {
                return refuse(400, "invalid_grant", "Invalid JWT Signature.");
            };
            let audience = claims["target_audience"].as_str().unwrap_or_default().to_owned();
            let scopes = claims["scope"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            if !audience.is_empty() {
                return match id_token(inner, &email, &audience) {
                    Ok(id_token) => Reply::json(200, &json!({"id_token": id_token})),
                    Err(error) => super::refusal(inner, &error),
                };
            }
            (email, scopes, true)
        }
        "refresh_token" => {
            let Some(found) = inner.token(field("refresh_token"), true) else {
                return refuse(400, "invalid_grant", "Bad Request");
            };
            (found.email, found.scopes, false)
        }
        "" => return refuse(400, "invalid_request", "Required parameter is missing: grant_type"),
        other => return refuse(400, "unsupported_grant_type", &format!("Invalid grant_type: {other}")),
    };
    match grant(inner, granted) {
        Ok(value) => Reply::json(200, &value),
        Err(error) => super::refusal(inner, &error),
    }
}

fn grant(inner: &Inner, (email, scopes, service): (String, Vec<String>, bool)) -> Result<Value, ApiError> {
    let id_token = id_token(inner, &email, "32555940559.apps.googleusercontent.com")?;
    let scope = scopes.join(" ");
    let token = inner.new_token(&email, scopes, Some(TOKEN_SECONDS))?;
    let mut out =
        json!({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer", "id_token": id_token});
    if !service {
        out.set("scope", scope);
    }
    Ok(out)
}

fn identity_key(inner: &Inner) -> Result<KeyPair, ApiError> {
    let internal = || ApiError::new(Code::Internal, "Internal error encountered.");
    let read = |text: &String| KeyPair::from_pkcs8(&STANDARD.decode(text).ok()?).ok();
    if let Some(key) = inner.store.read().identity_key.as_ref().and_then(read) {
        return Ok(key);
    }
    let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| internal())?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| internal())?;
    let text = STANDARD.encode(der.as_ref());
    let kept = inner.store.write(|state| Ok(state.identity_key.get_or_insert(text).clone()))?;
    read(&kept).ok_or_else(internal)
}

fn jwks(key: &KeyPair) -> Value {
    let public = key.public_key();
    let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
    let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
    json!({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": crate::identity::hash(&n)[..40], "n": n, "e": e}]})
}

/// A signed identity token of an account.
pub(super) fn id_token(inner: &Inner, email: &str, audience: &str) -> Result<String, ApiError> {
    let now = inner.clock.now().unix_seconds();
    let state = inner.store.read();
    let sub = state.accounts.get(email).map_or("0", |account| account.unique_id.as_str());
    let claims = json!({"iss": ISSUER, "aud": audience, "azp": email, "sub": sub, "email": email, "email_verified": true,
        "iat": now, "exp": now + TOKEN_SECONDS});
    sign_identity(inner, &claims)
}

/// A token with these claims, signed with the key behind `/oauth2/v3/certs`.
pub(crate) fn sign_identity(inner: &Inner, claims: &Value) -> Result<String, ApiError> {
    let key = identity_key(inner)?;
    let kid = jwks(&key)["keys"][0]["kid"].clone();
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": kid});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| ApiError::new(Code::Internal, "Internal error encountered."))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn sent_token(inner: &Inner, request: &Request) -> Option<Token> {
    let form = request.form();
    let in_form = form.iter().find(|(key, _)| key == "access_token").map_or("", |(_, value)| value.as_str());
    let bearer = request.header("authorization").split_once(' ').map_or("", |(_, token)| token);
    let token = [request.query("access_token"), in_form, bearer].into_iter().find(|token| !token.is_empty())?;
    let open = || {
        let identity = inner.resolve(token)?;
        Some(Token { email: identity.email, scopes: crate::identity::all_scopes(), expires: None, refresh: false })
    };
    inner.token(token, false).or_else(open)
}

fn token_info(inner: &Inner, request: &Request) -> Reply {
    let Some(token) = sent_token(inner, request) else {
        return refuse(400, "invalid_token", "Invalid Value");
    };
    let state = inner.store.read();
    let id = state.accounts.get(&token.email).map_or("0", |account| account.unique_id.as_str());
    let now = inner.clock.now().unix_seconds();
    let expires = token.expires.unwrap_or(now + 365 * 86_400);
    Reply::json(
        200,
        &json!({"azp": id, "aud": id, "sub": id, "scope": token.scopes.join(" "), "exp": expires.to_string(),
            "expires_in": (expires - now).to_string(), "email": token.email, "email_verified": "true",
            "access_type": "online"}),
    )
}

fn user_info(inner: &Inner, request: &Request) -> Reply {
    let Some(token) = sent_token(inner, request) else {
        return super::refusal(inner, &ApiError::invalid_credentials());
    };
    let state = inner.store.read();
    let id = state.accounts.get(&token.email).map_or("0", |account| account.unique_id.as_str());
    Reply::json(
        200,
        &json!({"sub": id, "id": id, "email": token.email, "email_verified": true, "verified_email": true}),
    )
}

fn revoke(inner: &Inner, request: &Request) -> Reply {
    let form = request.form();
    let in_form = form.iter().find(|(key, _)| key == "token").map_or("", |(_, value)| value.as_str());
    let token = if in_form.is_empty() { request.query("token") } else { in_form };
    let key = crate::identity::hash(token);
    if !inner.store.read().tokens.contains_key(&key) {
        return refuse(400, "invalid_token", "Token expired or revoked");
    }
    match inner.store.write(|state| Ok(state.tokens.remove(&key).is_some())) {
        Ok(_) => Reply::json(200, &Value::object()),
        Err(error) => super::refusal(inner, &error),
    }
}
