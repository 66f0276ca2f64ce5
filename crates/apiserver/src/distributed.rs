//! Distributed claims (OpenID Connect Core §5.6.2): the groups of a token that names where they are to be asked for.
//!
//! ```text
//! _claim_names {groups: src} ─► _claim_sources {src: {endpoint, access_token}} ─GET─► another JWT ─► its own issuer's keys ─► groups
//! ```
//! As kube-apiserver does it: for the claim of the groups alone, without redirections, with the trust of the issuer's own server.
//! What was heard is kept for as long as upstream keeps a token it found good.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use machinery::Value;
use policy::authn::BearerToken;
use policy::jwt::JwtAuthenticator;

use crate::identity::{TokenHash, hash};
use crate::issuers::{Issuer, TrustedIssuer};
use crate::outbound::Outbound;

const NAMES: &str = "_claim_names";
const SOURCES: &str = "_claim_sources";
/// How long claims are kept (upstream keeps whole tokens: `TokenSuccessCacheTTL`).
const KEPT: Duration = Duration::from_secs(10);
const KEPT_MAX: usize = 1024;
/// Issuers of such claims, beside the token's own: whoever answers for an endpoint names them.
const ISSUERS_MAX: usize = 16;
/// Success, as Go's client of upstream takes it.
const GOOD_CODES: std::ops::RangeInclusive<u16> = 200..=226;

/// What is remembered of other issuers, for the tokens of one.
#[derive(Default)]
pub(crate) struct Sources {
    issuers: tokio::sync::Mutex<BTreeMap<String, Arc<Issuer>>>,
    kept: Mutex<BTreeMap<TokenHash, (Duration, Value)>>,
}

/// Where a claim is to be asked for.
#[derive(Debug, PartialEq)]
struct Endpoint {
    url: String,
    access_token: String,
}

/// The endpoint of a claim that the token has not itself; `None` when there is nothing to ask for.
fn endpoint(claims: &Value, claim: &str) -> Result<Option<Endpoint>, String> {
    let Some(names) = claims.get(NAMES).filter(|_| claims.get(claim).is_none()) else { return Ok(None) };
    let texts = |object: &Value| {
        let is_good =
            object.is_null() || object.as_object().is_some() && object.members().all(|(_, v)| v.as_str().is_some());
        is_good.then_some(()).ok_or_else(|| "it is no object of texts".to_owned())
    };
    texts(names).map_err(|why| format!("oidc: error parsing distributed claim names: {why}"))?;
    let sources = claims.get(SOURCES).ok_or("oidc: no claim sources")?;
    let malformed = |why: String| format!("oidc: could not parse claim sources: {why}");
    if sources.as_object().is_none() && !sources.is_null() {
        return Err(malformed("it is no object".to_owned()));
    }
    for (name, source) in sources.members() {
        let fields = ["endpoint", "access_token", "JWT"].into_iter();
        let good = source.as_object().is_some()
            && fields.filter_map(|field| source.get(field)).all(|field| field.is_null() || field.as_str().is_some());
        if !good {
            return Err(malformed(format!("{name} is no source")));
        }
    }
    let Some(name) = names.get(claim).and_then(Value::as_str) else { return Ok(None) };
    let source = sources
        .get(name)
        .ok_or_else(|| format!("id token _claim_names contained a source {name} missing in _claims_sources"))?;
    let (url, access_token) = (source.str_at(&["endpoint"]).to_owned(), source.str_at(&["access_token"]).to_owned());
    // Without an endpoint it may be an aggregated claim, which upstream passes over.
    Ok((!url.is_empty()).then_some(Endpoint { url, access_token }))
}

/// The `iss` of a token nobody has looked at yet.
fn untrusted_issuer(token: &str) -> Result<String, String> {
    if token.starts_with('{') {
        return Err("token is not compact JWT".to_owned());
    }
    let BearerToken::Jwt { claims } = BearerToken::of(token) else { return Err("malformed token".to_owned()) };
    Ok(match claims.str_at(&["iss"]) {
        "accounts.google.com" => "https://accounts.google.com".to_owned(),
        issuer => issuer.to_owned(),
    })
}

impl Issuer {
    /// The claims of a token of this issuer, with the groups that it says to ask for elsewhere.
    ///
    /// # Errors
    /// Why they are not had, for the log: the token is not accepted then.
    pub(crate) async fn expand(&self, token: &str, mut claims: Value, clock: &Clock) -> Result<Value, String> {
        let Some(claim) = self.config.rules.groups.as_ref().map(|groups| groups.claim.clone()) else {
            return Ok(claims);
        };
        let expanding = |why: String| format!("oidc: could not expand distributed claims: {why}");
        let Some(endpoint) = endpoint(&claims, &claim).map_err(expanding)? else { return Ok(claims) };
        // Nobody is asked for the sake of a token that is not good for itself.
        self.config.rules.check(&claims, clock.now())?;
        let key = hash(token);
        let value = match self.sources.known(&key, clock.monotonic()) {
            Some(value) => value,
            None => {
                let value = self.resolve(&endpoint, &claim, clock).await.map_err(expanding)?;
                self.sources.keep(key, clock.monotonic(), value.clone());
                value
            }
        };
        claims.set(&claim, value);
        Ok(claims)
    }

    async fn resolve(&self, endpoint: &Endpoint, claim: &str, clock: &Clock) -> Result<Value, String> {
        let jwt =
            self.ask(endpoint).await.map_err(|why| format!("while getting distributed claim {claim:?}: {why}"))?;
        let url = &endpoint.url;
        let name = untrusted_issuer(&jwt)
            .map_err(|why| format!("getting untrusted issuer from endpoint {url} failed for claim {claim:?}: {why}"))?;
        let unknown = |why: String| format!("verifying untrusted issuer {name} failed: {why}");
        let other =
            if name == self.config.rules.issuer { None } else { Some(self.source(&name).await.map_err(unknown)?) };
        let issuer = other.as_deref().unwrap_or(self);
        let verified = issuer.claims(&jwt, clock).await.and_then(|claims| {
            issuer.config.rules.check(&claims, clock.now())?;
            Ok(claims)
        });
        let claims = verified.map_err(|why| format!("verify distributed claim token: {why}"))?;
        claims
            .get(claim)
            .cloned()
            .ok_or_else(|| format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}"))
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<String, String> {
        let authorization = format!("Bearer {}", endpoint.access_token);
        let mut request = Outbound::get(&endpoint.url);
        request.authorization = (!endpoint.access_token.is_empty()).then_some(authorization.as_str());
        let (code, body) = request.send(Some(&self.config.tls)).await?;
        if !GOOD_CODES.contains(&code) {
            return Err(format!("error while getting distributed claim JWT: {code}"));
        }
        let text = std::str::from_utf8(&body).map_err(|_| "could not decode distributed claim response")?;
        Ok(text.trim().to_owned())
    }

    /// The issuer under this name, found when it is first named.
    async fn source(&self, name: &str) -> Result<Arc<Self>, String> {
        if !name.starts_with("https://") {
            return Err("it is no https URL".to_owned());
        }
        let mut issuers = self.sources.issuers.lock().await;
        if let Some(known) = issuers.get(name) {
            return Ok(Arc::clone(known));
        }
        if issuers.len() >= ISSUERS_MAX {
            return Err("too many issuers are named by distributed claims".to_owned());
        }
        let rules =
            JwtAuthenticator { issuer: name.to_owned(), discovery_url: String::new(), ..self.config.rules.clone() };
        let issuer = Self::new(&TrustedIssuer { rules, tls: Arc::clone(&self.config.tls) });
        issuer.find().await?;
        issuers.insert(name.to_owned(), Arc::clone(&issuer));
        Ok(issuer)
    }
}

impl Sources {
    fn known(&self, token: &TokenHash, now: Duration) -> Option<Value> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(token).filter(|(at, _)| now.saturating_sub(*at) < KEPT).map(|(_, value)| value.clone())
    }

    fn keep(&self, token: TokenHash, now: Duration, value: Value) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (at, _)| now.saturating_sub(*at) < KEPT);
        if kept.len() < KEPT_MAX {
            kept.insert(token, (now, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn only_groups_that_the_token_has_not_itself_are_asked_for() {
        let at = |url: &str, token: &str| Ok(Some(Endpoint { url: url.to_owned(), access_token: token.to_owned() }));
        let names = json!({"groups": "src1"});
        let sources = json!({"src1": {"endpoint": "https://x", "access_token": "t"}, "src2": {"JWT": "a.b.c"}});
        let cases = [
            (json!({}), Ok(None)),
            (json!({"groups": ["a"], NAMES: names, SOURCES: 5}), Ok(None)),
            (json!({NAMES: names, SOURCES: sources}), at("https://x", "t")),
            (json!({NAMES: {"groups": "src2"}, SOURCES: sources}), Ok(None)),
            (json!({NAMES: {"other": "src1"}, SOURCES: sources}), Ok(None)),
            (json!({NAMES: names, SOURCES: {"src1": {"endpoint": "https://x"}}}), at("https://x", "")),
        ];
        for (claims, expected) in cases {
            assert_eq!(endpoint(&claims, "groups"), expected, "{claims}");
        }
        let wrong = [
            (json!({NAMES: names}), "oidc: no claim sources"),
            (json!({NAMES: [1], SOURCES: {}}), "oidc: error parsing distributed claim names"),
            (json!({NAMES: {"groups": 1}, SOURCES: {}}), "oidc: error parsing distributed claim names"),
            (json!({NAMES: names, SOURCES: []}), "oidc: could not parse claim sources"),
            (json!({NAMES: names, SOURCES: {"src1": {"endpoint": 5}}}), "oidc: could not parse claim sources"),
            (
                json!({NAMES: names, SOURCES: {}}),
                "id token _claim_names contained a source src1 missing in _claims_sources",
            ),
        ];
        for (claims, text) in wrong {
            let why = endpoint(&claims, "groups").unwrap_err();
            assert!(why.starts_with(text), "{claims}: {why}");
        }
    }
}
