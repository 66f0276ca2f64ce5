//! Who are you: from a verified certificate's subject, or from the claims of a verified service account token.
//!
//! Signatures are checked by the caller; here is what holds afterwards.

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::{GroupResource, Value, json};

use crate::UserInfo;
use crate::admission::Reader;

/// `iss` of the tokens in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// What kubelets ask for: after this time a token is warned about instead of refused.
pub const WARN_ONLY_SECONDS: i64 = 3607;
/// How long such a token lives in truth: a year.
pub const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;
const LEGACY: &str = "kubernetes.io/serviceaccount/";
/// A Secret with this label is no credential any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const EXTRA: &str = "authentication.kubernetes.io/";
/// Clock skew and deletion grace of tokens (`go-jose` `DefaultLeeway`).
const LEEWAY_SECONDS: i64 = 60;

/// The user of a client certificate that was verified against the cluster's CA: common name and organizations.
/// `None` without a common name. `sha256_hex` is the certificate's digest, for the credential id.
pub fn certificate_user(common_name: &str, organizations: &[String], sha256_hex: &str) -> Option<UserInfo> {
    if common_name.is_empty() {
        return None;
    }
    let mut user = UserInfo { name: common_name.to_owned(), groups: organizations.to_vec(), ..UserInfo::default() };
    user.add_group(crate::user::AUTHENTICATED);
    user.extra.insert(format!("{EXTRA}credential-id"), vec![format!("X509SHA256={sha256_hex}")]);
    Some(user)
}

/// The user of a Google token: the email, or `None` when the token's scope does not show it. Of the account's groups those
/// count that are in the cluster's group for security; an empty name is none.
pub fn google_user(identity: &crate::GoogleIdentity, security_group: &str) -> Option<UserInfo> {
    let groups: Vec<&str> =
        identity.security_groups.get(security_group).into_iter().flatten().map(String::as_str).collect();
    (identity.email_scope && !identity.email.is_empty()).then(|| UserInfo::authenticated(&identity.email, &groups))
}

/// What is longer is not even looked at (Go's servers take headers of 1 MiB).
const TOKEN_BYTES_MAX: usize = 1024 * 1024;

/// What a bearer token looks like.
#[derive(Clone, PartialEq, Debug)]
pub enum BearerToken {
    /// A JWT; its claims, not yet verified.
    Jwt { claims: Value },
    /// `abcdef.0123456789abcdef`: id and secret of a bootstrap token.
    Bootstrap { id: String, secret: String },
    /// Anything else; Google's are opaque.
    Opaque,
}

impl BearerToken {
    /// Tells the kind by form alone.
    pub fn of(token: &str) -> Self {
        if token.len() > TOKEN_BYTES_MAX {
            return Self::Opaque;
        }
        let lower = |s: &str, length: usize| {
            s.len() == length && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if let Some((id, secret)) = token.split_once('.')
            && lower(id, 6)
            && lower(secret, 16)
        {
            return Self::Bootstrap { id: id.to_owned(), secret: secret.to_owned() };
        }
        let parts: Vec<&str> = token.split('.').collect();
        let decoded = |part: &str| Value::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        match parts[..] {
            [header, payload, _] if decoded(header).is_some_and(|h| !h["alg"].is_null()) => {
                decoded(payload).map_or(Self::Opaque, |claims| Self::Jwt { claims })
            }
            _ => Self::Opaque,
        }
    }
}

/// The kinds an issued token may be bound to, beside its service account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound<'a> {
    pub pod: Option<&'a Value>,
    pub secret: Option<&'a Value>,
    /// Of a pod that is scheduled, or alone.
    pub node: Option<&'a Value>,
}

/// The claims of a new token, as upstream's `TokenRequest` issues them. `warn_after_seconds` is 3607 for the
/// kubelets' automatic mounts, whose tokens in truth live a year.
pub fn token_claims(
    account: &Value,
    bound: Bound<'_>,
    issuer: &str,
    audiences: &[String],
    now: Timestamp,
    (expiration_seconds, warn_after_seconds): (i64, Option<i64>),
    jti: &str,
) -> Value {
    use machinery::meta::{name, namespace, uid};
    let now = now.unix_seconds();
    let reference = |object: &Value| match uid(object) {
        "" => json!({"name": name(object)}),
        uid => json!({"name": name(object), "uid": uid}),
    };
    let mut private = json!({"namespace": namespace(account), "serviceaccount": reference(account)});
    for (key, object) in [("pod", bound.pod), ("secret", bound.secret), ("node", bound.node)] {
        if let Some(object) = object {
            private.set(key, reference(object));
        }
    }
    if let Some(seconds) = warn_after_seconds {
        private.set("warnafter", now + seconds);
    }
    json!({
        "aud": audiences, "exp": now + expiration_seconds, "iat": now, "iss": issuer, "jti": jti, "nbf": now,
        "sub": format!("{}{}:{}", crate::user::SERVICE_ACCOUNT_PREFIX, namespace(account), name(account)),
        "kubernetes.io": private,
    })
}

/// Checks the claims of a token with a good signature: issuer, audience, times, and that service account, pod, secret
/// and node are still the ones it was bound to. `audiences` are those the server accepts; the answer has the ones met.
///
/// # Errors
/// Upstream's text, for the log; the client sees 401.
pub fn check_claims(
    claims: &Value,
    issuers: &[String],
    audiences: &[String],
    now: Timestamp,
    reader: &dyn Reader,
) -> Result<(UserInfo, Vec<String>), String> {
    let issuer = claims.str_at(&["iss"]);
    if !issuers.iter().any(|i| i == issuer) {
        return Err(format!("service account token issuer {issuer:?} is not accepted"));
    }
    let met = audiences_met(claims, audiences)?;
    check_times(claims, now)?;
    let private = &claims["kubernetes.io"];
    let (namespace, account) = (private.str_at(&["namespace"]), &private["serviceaccount"]);
    let sub = claims.str_at(&["sub"]);
    let mut user = UserInfo::service_account(namespace, account.str_at(&["name"]), account.str_at(&["uid"]));
    if namespace.is_empty() || sub != user.name {
        return Err("service account name or namespace does not match the token's subject".to_owned());
    }
    check_bound(private, namespace, now, reader)?;
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("{EXTRA}{key}"), vec![value.to_owned()]);
        }
    };
    extra("pod-name", private.str_at(&["pod", "name"]));
    extra("pod-uid", private.str_at(&["pod", "uid"]));
    extra("node-name", private.str_at(&["node", "name"]));
    extra("node-uid", private.str_at(&["node", "uid"]));
    let jti = claims.str_at(&["jti"]);
    if !jti.is_empty() {
        extra("credential-id", &format!("JTI={jti}"));
    }
    Ok((user, met))
}

/// Checks the claims of a Secret's token with a good signature: the Secret must be there and hold this token (`same`
/// compares), the account must be the one it was made for. Answers with the Secret, whose use is worth a note even when
/// the token is marked invalid.
///
/// # Errors
/// Upstream's text, for the log; the client sees 401.
#[allow(clippy::type_complexity, reason = "the user may be refused after the Secret was found")]
pub fn check_legacy_claims(
    claims: &Value,
    same: &dyn Fn(&[u8]) -> bool,
    reader: &dyn Reader,
) -> Result<(Result<UserInfo, String>, std::sync::Arc<Value>), String> {
    let claim = |key: &str| match claims[format!("{LEGACY}{key}").as_str()].as_str() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("{key} claim is missing")),
    };
    let (namespace, secret_name) = (claim("namespace")?, claim("secret.name")?);
    let (account_name, account_uid) = (claim("service-account.name")?, claim("service-account.uid")?);
    let user = UserInfo::service_account(namespace, account_name, account_uid);
    if claims.str_at(&["sub"]) != user.name {
        return Err("sub claim is invalid".to_owned());
    }
    let gone = || "Token has been invalidated".to_owned();
    let secret = reader.get(&GroupResource::new("", "secrets"), namespace, secret_name).ok_or_else(gone)?;
    if machinery::meta::is_terminating(&secret) {
        return Err(gone());
    }
    let stored = base64::engine::general_purpose::STANDARD.decode(secret.str_at(&["data", "token"]));
    if !stored.is_ok_and(|stored| same(&stored)) {
        return Err("Token does not match server's copy".to_owned());
    }
    let account = reader
        .get(&GroupResource::new("", "serviceaccounts"), namespace, account_name)
        .ok_or_else(|| format!("serviceaccounts {account_name:?} not found"))?;
    if machinery::meta::is_terminating(&account) {
        return Err(format!("ServiceAccount {namespace}/{account_name} has been deleted"));
    }
    let uid = machinery::meta::uid(&account);
    if uid != account_uid {
        return Err(format!("ServiceAccount UID ({uid}) does not match claim ({account_uid})"));
    }
    if !secret.str_at(&["metadata", "labels", INVALID_SINCE]).is_empty() {
        let why = format!(
            "the token in secret {namespace}/{secret_name} for service account {namespace}/{account_name} has been marked \
             invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
             '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        );
        return Ok((Err(why), secret));
    }
    Ok((Ok(user), secret))
}

fn audiences_met(claims: &Value, accepted: &[String]) -> Result<Vec<String>, String> {
    let claimed: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one.as_str()],
        list => list.items().iter().filter_map(Value::as_str).collect(),
    };
    let met: Vec<String> = accepted.iter().filter(|a| claimed.contains(&a.as_str())).cloned().collect();
    if met.is_empty() {
        return Err(format!(
            "token audiences {} is invalid for the target audiences {}",
            crate::rbac::go_list(&claimed),
            crate::rbac::go_list(accepted)
        ));
    }
    Ok(met)
}

fn check_times(claims: &Value, now: Timestamp) -> Result<(), String> {
    let now = now.unix_seconds();
    let time = |key: &str| claims[key].as_f64().map(|seconds| seconds as i64);
    if time("exp").is_none_or(|exp| now - LEEWAY_SECONDS > exp) {
        return Err("service account token has expired".to_owned());
    }
    if time("nbf").is_some_and(|nbf| now + LEEWAY_SECONDS < nbf) {
        return Err("service account token is not valid yet".to_owned());
    }
    if time("iat").is_some_and(|iat| now + LEEWAY_SECONDS < iat) {
        return Err("service account token is issued in the future".to_owned());
    }
    Ok(())
}

fn check_bound(private: &Value, namespace: &str, now: Timestamp, reader: &dyn Reader) -> Result<(), String> {
    let get = |resource: &str, namespace: &str, reference: &Value| {
        reader.get(&GroupResource::new("", resource), namespace, reference.str_at(&["name"]))
    };
    let deleted = |object: &Value| {
        Timestamp::parse(object.str_at(&["metadata", "deletionTimestamp"]))
            .is_ok_and(|at| at.unix_seconds() < now.unix_seconds() - LEEWAY_SECONDS)
    };
    let account = &private["serviceaccount"];
    let name = account.str_at(&["name"]);
    let found =
        get("serviceaccounts", namespace, account).ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
    if machinery::meta::uid(&found) != account.str_at(&["uid"]) {
        let uid = machinery::meta::uid(&found);
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.str_at(&["uid"])));
    }
    if deleted(&found) {
        return Err(format!("service account {namespace}/{name} has been deleted"));
    }
    let bound_to_pod = !private["pod"].is_null();
    for (key, resource, kind, scope) in
        [("secret", "secrets", "secret", namespace), ("pod", "pods", "pod", namespace), ("node", "nodes", "node", "")]
    {
        let reference = &private[key];
        if reference.is_null() || key == "node" && bound_to_pod {
            continue;
        }
        let gone = || "service account token has been invalidated".to_owned();
        let object = get(resource, scope, reference).ok_or_else(gone)?;
        let (uid, claim) = (machinery::meta::uid(&object), reference.str_at(&["uid"]));
        if uid != claim {
            let title = if kind == "secret" { "secret" } else { kind };
            return Err(format!("{title} UID ({uid}) does not match service account {kind} ref claim ({claim})"));
        }
        if deleted(&object) {
            return Err(gone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::MapReader;

    fn reader() -> MapReader {
        let mut reader = MapReader::default();
        reader.put("", "serviceaccounts", json!({"metadata": {"namespace": "d", "name": "sa", "uid": "su"}}));
        reader.put("", "pods", json!({"metadata": {"namespace": "d", "name": "p", "uid": "pu"}}));
        reader
    }

    #[test]
    fn a_bound_token_holds_while_account_and_pod_are_the_same() {
        let reader = reader();
        let account = reader.get(&GroupResource::new("", "serviceaccounts"), "d", "sa").unwrap();
        let pod = reader.get(&GroupResource::new("", "pods"), "d", "p").unwrap();
        let now = Timestamp::from_unix_seconds(1000);
        let audiences = ["api".to_owned()];
        let bound = Bound { pod: Some(&pod), ..Bound::default() };
        let claims = token_claims(&account, bound, "iss", &audiences, now, (3600, Some(60)), "j");
        let check = |claims: &Value, at: i64| {
            check_claims(claims, &["iss".to_owned()], &audiences, Timestamp::from_unix_seconds(at), &reader)
        };
        let (user, met) = check(&claims, 1000).unwrap();
        assert_eq!((user.name.as_str(), met), ("system:serviceaccount:d:sa", audiences.to_vec()));
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["pu"]);
        assert_eq!(check(&claims, 4661).unwrap_err(), "service account token has expired");
        let mut other = claims.clone();
        other["kubernetes.io"]["pod"]["uid"] = "old".into();
        assert_eq!(check(&other, 1000).unwrap_err(), "pod UID (pu) does not match service account pod ref claim (old)");
        let mut gone = claims.clone();
        gone["kubernetes.io"]["pod"]["name"] = "gone".into();
        assert_eq!(check(&gone, 1000).unwrap_err(), "service account token has been invalidated");
        let mut foreign = claims;
        foreign["iss"] = "other".into();
        assert!(check(&foreign, 1000).is_err());
    }

    #[test]
    fn a_secrets_token_holds_while_secret_and_account_are_the_same() {
        let mut reader = reader();
        let account = reader.get(&GroupResource::new("", "serviceaccounts"), "d", "sa").unwrap();
        let secret = |label: &str| {
            json!({"metadata": {"namespace": "d", "name": "s", "labels": {"kubernetes.io/legacy-token-invalid-since": label}},
                "data": {"token": "dG9rZW4="}})
        };
        reader.put("", "secrets", secret(""));
        let claims = json!({"iss": LEGACY_ISSUER, "sub": "system:serviceaccount:d:sa",
            "kubernetes.io/serviceaccount/namespace": "d", "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "sa",
            "kubernetes.io/serviceaccount/service-account.uid": machinery::meta::uid(&account)});
        let check = |reader: &MapReader, claims: &Value, token: &str| {
            check_legacy_claims(claims, &|stored| stored == token.as_bytes(), reader).and_then(|(user, _)| user)
        };
        assert_eq!(check(&reader, &claims, "token").unwrap().name, "system:serviceaccount:d:sa");
        assert_eq!(check(&reader, &claims, "other").unwrap_err(), "Token does not match server's copy");
        let mut other = claims.clone();
        other.set("sub", "system:serviceaccount:d:admin");
        assert_eq!(check(&reader, &other, "token").unwrap_err(), "sub claim is invalid");
        let mut before = claims.clone();
        before.set("kubernetes.io/serviceaccount/service-account.uid", "old");
        assert_eq!(check(&reader, &before, "token").unwrap_err(), "ServiceAccount UID (su) does not match claim (old)");
        reader.put("", "secrets", secret("2026-01-01"));
        assert!(check(&reader, &claims, "token").unwrap_err().contains("has been marked invalid"));
        let mut gone = claims;
        gone.set("kubernetes.io/serviceaccount/secret.name", "gone");
        assert_eq!(check(&reader, &gone, "token").unwrap_err(), "Token has been invalidated");
    }

    #[test]
    fn tokens_are_told_apart_by_form() {
        assert_eq!(BearerToken::of("ya29.abc"), BearerToken::Opaque);
        assert_eq!(BearerToken::of("a.b.c"), BearerToken::Opaque);
        assert!(matches!(BearerToken::of("abcdef.0123456789abcdef"), BearerToken::Bootstrap { .. }));
        let jwt =
            format!("{}.{}.x", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode(r#"{"iss":"i"}"#));
        assert_eq!(BearerToken::of(&jwt), BearerToken::Jwt { claims: json!({"iss": "i"}) });
    }
}
