//! Tokens of other issuers (OpenID Connect): what an authenticator is configured to accept, and whom the claims of a token
//! with a good signature stand for (`apiserver/plugin/pkg/authenticator/token/oidc`).

mod config;
mod expressions;
mod rules;

use base::Timestamp;
use machinery::Value;

pub use config::AuthenticationConfig;
pub use expressions::{Expression, Expressions};

use crate::UserInfo;

/// Clocks may differ by this for `nbf`, as in go-oidc; `exp` is taken at its word.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;

/// A claim that becomes a name, with what is put before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClaimMapping {
    pub claim: String,
    pub prefix: String,
}

/// One issuer whose tokens are accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtAuthenticator {
    /// The `iss` of its tokens, an https URL.
    pub issuer: String,
    /// Where its configuration is found; empty: below the issuer.
    pub discovery_url: String,
    /// PEM of who vouches for its server; empty: the system's authorities.
    pub certificate_authority: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// Claims that must be there with exactly this text.
    pub required: Vec<(String, String)>,
    pub username: ClaimMapping,
    pub groups: Option<ClaimMapping>,
    /// The claim that becomes the uid.
    pub uid: Option<String>,
    /// `alg` values that are taken.
    pub algorithms: Vec<String>,
    /// CEL that takes the place of the claims above, or judges them.
    pub expressions: Expressions,
}

impl JwtAuthenticator {
    /// Where the issuer's configuration is fetched.
    pub fn configuration_url(&self) -> String {
        if self.discovery_url.is_empty() {
            format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'))
        } else {
            self.discovery_url.clone()
        }
    }

    /// Is a token with this `iss` one of this issuer? Google's older tokens leave the scheme out.
    pub fn is_issuer_of(&self, iss: &str) -> bool {
        iss == self.issuer || iss == "accounts.google.com" && self.issuer == "https://accounts.google.com"
    }

    /// Whom the claims of a token with a good signature stand for.
    ///
    /// # Errors
    /// Upstream's text, for the log; the client sees 401.
    pub fn user(&self, claims: &Value, now: Timestamp) -> Result<UserInfo, String> {
        self.check(claims, now)?;
        let mut user = UserInfo::authenticated(&self.username(claims)?, &[]);
        let mut everybody = std::mem::replace(&mut user.groups, self.group_names(claims)?);
        user.uid = self.uid(claims)?;
        if let Some(jti) = claims["jti"].as_str().filter(|jti| !jti.is_empty()) {
            user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={jti}")]);
        }
        self.expressions.extra(claims, &mut user.extra)?;
        for (claim, wanted) in &self.required {
            if claims.get(claim).is_none() {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let found = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if found != wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        self.expressions.check_claims(claims)?;
        // The rules see the user before it becomes one of all that are authenticated.
        self.expressions.check_user(&user)?;
        user.groups.append(&mut everybody);
        user.groups.dedup();
        Ok(user)
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        match (&self.uid, &self.expressions.uid) {
            (Some(claim), _) => {
                let uid = text(claims, claim).map_err(|why| format!("oidc: parse uid claim {claim:?}: {why}"))?;
                Ok(uid.to_owned())
            }
            (None, Some(expression)) => expression.text(claims, "uid"),
            (None, None) => Ok(String::new()),
        }
    }

    /// Issuer, audience and times, in go-oidc's order.
    ///
    /// # Errors
    /// Upstream's text, for the log.
    pub fn check(&self, claims: &Value, now: Timestamp) -> Result<(), String> {
        let issuer = claims.str_at(&["iss"]);
        if !self.is_issuer_of(issuer) {
            return Err(format!(
                "oidc: id token issued by a different provider, expected {:?} got {issuer:?}",
                self.issuer
            ));
        }
        let claimed: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one.as_str()],
            list => list.items().iter().filter_map(Value::as_str).collect(),
        };
        if !self.audiences.iter().any(|a| claimed.contains(&a.as_str())) {
            return Err(format!(
                "oidc: expected audience in {} got {}",
                crate::rbac::go_list(&self.audiences),
                crate::rbac::go_list(&claimed)
            ));
        }
        let now = now.unix_seconds();
        let time = |key: &str| claims[key].as_f64().map(|seconds| seconds as i64);
        if time("exp").is_none_or(|exp| exp < now) {
            return Err("oidc: token is expired".to_owned());
        }
        if time("nbf").is_some_and(|nbf| now + NOT_BEFORE_LEEWAY_SECONDS < nbf) {
            return Err("oidc: current time is before the nbf (not before) time".to_owned());
        }
        Ok(())
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        if let Some(expression) = &self.expressions.username {
            return match expression.text(claims, "username")? {
                name if name.is_empty() => Err("oidc: empty username via CEL expression is not allowed".to_owned()),
                name => Ok(name),
            };
        }
        let ClaimMapping { claim, prefix } = &self.username;
        let name = text(claims, claim).map_err(|why| format!("oidc: parse username claims {claim:?}: {why}"))?;
        if claim == "email" && claims.get("email_verified").is_some() {
            match claims["email_verified"].as_bool() {
                Some(true) => {}
                Some(false) => return Err("oidc: email not verified".to_owned()),
                None => return Err("oidc: parse 'email_verified' claim: it is no boolean".to_owned()),
            }
        }
        Ok(format!("{prefix}{name}"))
    }

    /// A list of texts, or one text.
    fn group_names(&self, claims: &Value) -> Result<Vec<String>, String> {
        if let Some(expression) = &self.expressions.groups {
            return expression.groups(claims);
        }
        let Some(ClaimMapping { claim, prefix }) = &self.groups else { return Ok(Vec::new()) };
        let wrong = || format!("oidc: parse groups claim {claim:?}: it is no text and no list of texts");
        let names: Vec<&str> = match claims.get(claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?,
            Some(_) => return Err(wrong()),
        };
        Ok(names.into_iter().map(|name| format!("{prefix}{name}")).collect())
    }
}

fn text<'a>(claims: &'a Value, claim: &str) -> Result<&'a str, String> {
    let value = claims.get(claim).ok_or_else(|| "claim not present".to_owned())?;
    value.as_str().ok_or_else(|| "it is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    fn authenticator() -> JwtAuthenticator {
        JwtAuthenticator {
            issuer: "https://issuer.example.com".to_owned(),
            discovery_url: String::new(),
            certificate_authority: String::new(),
            audiences: vec!["one".to_owned(), "two".to_owned()],
            required: vec![("hd".to_owned(), "example.com".to_owned())],
            username: ClaimMapping { claim: "email".to_owned(), prefix: "oidc:".to_owned() },
            groups: Some(ClaimMapping { claim: "roles".to_owned(), prefix: "g:".to_owned() }),
            uid: Some("sub".to_owned()),
            algorithms: vec!["RS256".to_owned()],
            expressions: Expressions::default(),
        }
    }

    const CONFIGURED: &str = r#"
apiVersion: apiserver.config.k8s.io/v1beta1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: https://issuer.example.com, audiences: [two]}
  claimMappings:
    username: {expression: "claims.email_verified ? 'x:' + claims.email : string('')"}
    groups: {expression: "dyn(claims.roles).map(r, 'g:' + r)"}
    uid: {expression: claims.sub}
    extra:
    - {key: example.org/hd, valueExpression: claims.hd}
    - {key: example.org/none, valueExpression: "''"}
  claimValidationRules:
  - {expression: "claims.hd == 'example.com'", message: wrong domain}
  userValidationRules:
  - {expression: "!user.username.startsWith('x:root')", message: no root}
  - {expression: "user.groups.all(g, g != 'system:authenticated')"}
"#;

    #[test]
    fn expressions_map_claims_and_judge_them() {
        let rules = AuthenticationConfig::parse(CONFIGURED.as_bytes(), &[], &["RS256"]).unwrap().jwt.remove(0);
        let now = Timestamp::from_unix_seconds(1000);
        let user = rules.user(&claims(), now).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane@example.com", "7"));
        assert_eq!(user.groups, ["g:dev", "g:ops", "system:authenticated"]);
        assert_eq!(user.extra["example.org/hd"], ["example.com"]);
        assert!(!user.extra.contains_key("example.org/none"));
        let cases = [
            ("email_verified", json!(false), "oidc: empty username via CEL expression is not allowed"),
            (
                "email",
                json!(5),
                "oidc: error evaluating username claim expression: expression 'claims.email_verified ? 'x:' + claims.email : string('')' resulted in error: no such overload",
            ),
            ("sub", json!(7), "oidc: error evaluating uid claim expression: uid claim expression must return a string"),
            (
                "roles",
                json!("ops"),
                "oidc: error evaluating group claim expression: expression 'dyn(claims.roles).map(r, 'g:' + r)' resulted in error: got 'types.String', expected iterable type",
            ),
            (
                "hd",
                json!([1]),
                "oidc: error evaluating extra claim expression: claims.hd: expression must return a string or a list of strings",
            ),
            (
                "hd",
                json!("evil.com"),
                "oidc: error evaluating claim validation expression: validation expression 'claims.hd == 'example.com'' failed: wrong domain",
            ),
            (
                "email",
                json!("root@example.com"),
                "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('x:root')' failed: no root",
            ),
        ];
        for (claim, value, text) in cases {
            let mut wrong = claims();
            wrong.set(claim, value);
            assert_eq!(rules.user(&wrong, now).unwrap_err(), text);
        }
        let mut lacking = claims();
        lacking.remove("hd");
        assert_eq!(rules.user(&lacking, now).unwrap_err(), "expression 'claims.hd' resulted in error: no such key: hd");
    }

    fn claims() -> Value {
        json!({"iss": "https://issuer.example.com", "aud": ["two"], "exp": 2000, "sub": "7", "email": "jane@example.com",
            "email_verified": true, "roles": ["dev", "ops"], "hd": "example.com", "jti": "j"})
    }

    #[test]
    fn claims_become_a_user() {
        let user = authenticator().user(&claims(), Timestamp::from_unix_seconds(1000)).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("oidc:jane@example.com", "7"));
        assert_eq!(user.groups, ["g:dev", "g:ops", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        let mut one = claims();
        one["roles"] = "ops".into();
        one["aud"] = "one".into();
        assert_eq!(authenticator().user(&one, Timestamp::EPOCH).unwrap().groups, ["g:ops", "system:authenticated"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("iss", json!("https://other"), "oidc: id token issued by a different provider"),
            ("aud", json!("three"), "oidc: expected audience in [\"one\" \"two\"] got [\"three\"]"),
            ("aud", Value::Null, "oidc: expected audience in"),
            ("exp", json!(999), "oidc: token is expired"),
            ("exp", json!("soon"), "oidc: token is expired"),
            ("nbf", json!(1061), "oidc: current time is before the nbf"),
            ("email", json!(5), "oidc: parse username claims \"email\""),
            ("email_verified", json!(false), "oidc: email not verified"),
            ("email_verified", json!("true"), "oidc: parse 'email_verified' claim"),
            ("roles", json!([1]), "oidc: parse groups claim \"roles\""),
            (
                "hd",
                json!("evil.com"),
                "oidc: required claim hd value does not match. Got = evil.com, want = example.com",
            ),
            ("sub", json!(7), "oidc: parse uid claim \"sub\""),
        ];
        for (claim, value, text) in cases {
            let mut wrong = claims();
            wrong.set(claim, value);
            let error = authenticator().user(&wrong, Timestamp::from_unix_seconds(1000)).unwrap_err();
            assert!(error.starts_with(text), "{claim}: {error}");
        }
        for claim in ["email", "hd", "sub", "exp", "iss", "aud"] {
            let mut lacking = claims();
            lacking.remove(claim);
            assert!(authenticator().user(&lacking, Timestamp::from_unix_seconds(1000)).is_err(), "{claim}");
        }
    }
}
