//! Security Token Service v1 (RFC 8693), as GKE's metadata server on a node uses it: the token of a Kubernetes service
//! account, made for the project's workload pool, for an access token of the pod at Google.

use gke::access;
use machinery::{Value, json};

use crate::Inner;
use crate::http::{Reply, Request};
use crate::identity::TOKEN_SECONDS;
use crate::pods::PodIdentity;

/// Where tokens are exchanged.
pub(super) const PATH: &str = "/v1/token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: [&str; 2] = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];

/// A refusal in OAuth's form.
struct Refusal(&'static str, String);

/// Does the project have this workload pool? It does as long as a cluster uses it.
pub(super) fn has_pool(inner: &Inner, pool: &str) -> bool {
    pool == access::workload_pool(&inner.project)
        && inner.store.read().clusters.iter().any(|cluster| access::pool_of(&cluster.body) == pool)
}

/// Answers `/v1/token`; whoever has the subject's token needs no other credential.
pub(super) fn answer(inner: &Inner, request: &Request) -> Reply {
    if request.verb != "POST" {
        return super::refusal(inner, &super::method_not_found());
    }
    match exchange(inner, request) {
        Ok(answer) => Reply::json(200, &answer).with("pragma", "no-cache"),
        Err(Refusal(error, why)) => {
            tracing::info!(error, why, "a token was not exchanged");
            Reply::json(400, &json!({"error": error, "error_description": why}))
        }
    }
}

fn exchange(inner: &Inner, request: &Request) -> Result<Value, Refusal> {
    let invalid = |what: &str| Refusal("invalid_request", format!("Invalid value for \"{what}\""));
    let fields =
        Fields::of(request).ok_or_else(|| Refusal("invalid_request", "Invalid JSON payload received.".to_owned()))?;
    if fields.get("grant_type") != EXCHANGE {
        return Err(invalid("grantType"));
    }
    if fields.get("requested_token_type") != ACCESS_TOKEN {
        return Err(invalid("requestedTokenType"));
    }
    if !JWT.contains(&fields.get("subject_token_type").as_str()) {
        return Err(invalid("subjectTokenType"));
    }
    let scopes: Vec<String> = fields.get("scope").split_whitespace().map(str::to_owned).collect();
    if scopes.is_empty() {
        return Err(invalid("scope"));
    }
    let (id, issuer, pool) = provider(inner, &fields.get("audience"))?;
    let (pod, left) = subject(inner, &fields.get("subject_token"), (&id, &issuer, &pool))?;
    let seconds = left.min(TOKEN_SECONDS);
    let unavailable = |error: gke::ApiError| Refusal("server_error", error.message);
    let token = inner.new_token(&pod.member_name(), scopes, Some(seconds)).map_err(unavailable)?;
    Ok(json!({"access_token": token, "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": seconds}))
}

/// `identitynamespace:POOL:ISSUER`: the cluster's id, its issuer and pool.
fn provider(inner: &Inner, audience: &str) -> Result<(String, String, String), Refusal> {
    let invalid = || {
        let why = "The target service indicated by the \"audience\" parameters is invalid. This might either be because \
                   the pool or provider is disabled or deleted or because it doesn't exist.";
        Refusal("invalid_target", why.to_owned())
    };
    let (pool, issuer) =
        audience.strip_prefix("identitynamespace:").and_then(|rest| rest.split_once(':')).ok_or_else(invalid)?;
    let state = inner.store.read();
    let named = |c: &&gke::Cluster| access::issuer(&inner.project, &c.location, &c.name) == issuer;
    let cluster = state.clusters.iter().find(named).filter(|c| access::pool_of(&c.body) == pool).ok_or_else(invalid)?;
    if pool != access::workload_pool(&inner.project) {
        return Err(invalid());
    }
    Ok((cluster.id.clone(), issuer.to_owned(), pool.to_owned()))
}

/// Whom the token stands for, and for how many seconds more.
fn subject(inner: &Inner, token: &str, (id, issuer, pool): (&str, &str, &str)) -> Result<(PodIdentity, i64), Refusal> {
    let bad = |why: String| Refusal("invalid_grant", why);
    let keys = super::container::keys_of(inner, id).map_err(|error| Refusal("server_error", error.message))?;
    let claims = pki::verify_jwt(token, &keys, &["RS256"])
        .ok_or_else(|| bad("The signature of the ID Token could not be verified.".to_owned()))?;
    let said = claims["iss"].as_str().unwrap_or_default();
    if said != issuer {
        return Err(bad(format!("The issuer in ID Token {said} does not match the expected ones: {issuer}")));
    }
    let audiences: Vec<&str> = match &claims["aud"] {
        serde_json::Value::Array(list) => list.iter().filter_map(serde_json::Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !audiences.contains(&pool) {
        let said = audiences.join(", ");
        return Err(bad(format!("The audience in ID Token [{said}] does not match the expected audience {pool}.")));
    }
    let (now, time) = (inner.clock.now().unix_seconds(), |name: &str| claims[name].as_i64());
    let issued = time("iat").unwrap_or_default();
    let left = time("exp").unwrap_or_default() - now;
    if left <= 0 {
        return Err(bad(format!("ID Token issued at {issued} is stale to sign-in.")));
    }
    if time("nbf").unwrap_or(issued).max(issued) > now + 60 {
        return Err(bad(format!("ID Token issued at {issued} is not valid yet.")));
    }
    let subject = claims["sub"].as_str().unwrap_or_default();
    let pod = PodIdentity::of_subject(pool, subject)
        .ok_or_else(|| bad("The ID Token is not a service account's.".to_owned()))?;
    Ok((pod, left))
}

/// The request's fields: a form, or JSON with the same names in camel case.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(request: &Request) -> Option<Self> {
        if !request.header("content-type").starts_with("application/json") {
            return Some(Self(request.form()));
        }
        let body = request.json().ok()?;
        let text = |(name, value): (&str, &Value)| Some((snake(name), value.as_str()?.to_owned()));
        Some(Self(body.members().filter_map(text).collect()))
    }

    fn get(&self, name: &str) -> String {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

fn snake(name: &str) -> String {
    name.chars()
        .flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
        .collect()
}
