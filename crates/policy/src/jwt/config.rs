//! `AuthenticationConfiguration` of `apiserver.config.k8s.io`: read strictly, checked in upstream's words
//! (`apiserver/pkg/apis/apiserver/validation`).

use machinery::{FieldError, FieldErrors, FieldPath, Value};

use super::JwtAuthenticator;
use super::expressions::Expressions;
use super::rules::{claim_rules, mappings, user_rules};
use crate::Anonymous;

/// Upstream's limit is 64 authenticators.
const AUTHENTICATORS_MAX: usize = 64;

/// A checked configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthenticationConfig {
    pub jwt: Vec<JwtAuthenticator>,
    /// `None` when the file does not speak of it.
    pub anonymous: Option<Anonymous>,
}

impl AuthenticationConfig {
    /// Reads the file's text, YAML or JSON. `own_issuers` are those of service-account tokens, which nobody else may have.
    ///
    /// # Errors
    /// What is wrong, field by field.
    pub fn parse(text: &[u8], own_issuers: &[String], algorithms: &[&str]) -> Result<Self, String> {
        let file = machinery::yaml::to_value_strict(text)?;
        let (version, kind) = (file.str_at(&["apiVersion"]), file.str_at(&["kind"]));
        if !matches!(version, "apiserver.config.k8s.io/v1beta1" | "apiserver.config.k8s.io/v1alpha1")
            || kind != "AuthenticationConfiguration"
        {
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        }
        let mut errors = FieldErrors::new();
        known(&file, "", &["apiVersion", "kind", "jwt", "anonymous"])?;
        let root = FieldPath::new("jwt");
        let list = file["jwt"].items();
        if list.len() > AUTHENTICATORS_MAX {
            errors.push(FieldError::too_many(&root, list.len(), AUTHENTICATORS_MAX));
        }
        let mut jwt: Vec<JwtAuthenticator> = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let path = root.index(i);
            let one = authenticator(item, &path, own_issuers, algorithms, &mut errors)?;
            let issuer = path.child("issuer");
            if jwt.iter().any(|other| other.issuer == one.issuer) {
                errors.push(FieldError::duplicate(&issuer.child("url"), &one.issuer.as_str().into()));
            }
            if !one.discovery_url.is_empty() && jwt.iter().any(|other| other.discovery_url == one.discovery_url) {
                errors.push(FieldError::duplicate(&issuer.child("discoveryURL"), &one.discovery_url.as_str().into()));
            }
            jwt.push(one);
        }
        let anonymous = anonymous(&file["anonymous"], &mut errors)?;
        aggregate(&errors)?;
        Ok(Self { jwt, anonymous })
    }
}

impl JwtAuthenticator {
    /// Checks what the `--oidc-*` flags say, in the same words.
    ///
    /// # Errors
    /// What is wrong, field by field.
    pub fn check_flags(&self, own_issuers: &[String]) -> Result<(), String> {
        let mut errors = FieldErrors::new();
        check_issuer(self, &FieldPath::new("jwt").index(0).child("issuer"), own_issuers, &mut errors);
        aggregate(&errors)
    }
}

fn aggregate(errors: &FieldErrors) -> Result<(), String> {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Refuses members that are none.
pub(super) fn known(value: &Value, path: &str, members: &[&str]) -> Result<(), String> {
    match value.members().find(|(name, _)| !members.contains(name)) {
        Some((name, _)) => {
            let dot = if path.is_empty() { "" } else { "." };
            Err(format!("strict decoding error: unknown field \"{path}{dot}{name}\""))
        }
        None => Ok(()),
    }
}

fn texts(value: &Value, path: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("strict decoding error: {path} is no list of texts");
    value.items().iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn authenticator(
    value: &Value,
    path: &FieldPath,
    own_issuers: &[String],
    algorithms: &[&str],
    errors: &mut FieldErrors,
) -> Result<JwtAuthenticator, String> {
    let at = path.to_string();
    known(value, &at, &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"])?;
    let issuer = &value["issuer"];
    let members = ["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy"];
    known(issuer, &format!("{at}.issuer"), &members)?;
    let mapped = &value["claimMappings"];
    known(mapped, &format!("{at}.claimMappings"), &["username", "groups", "uid", "extra"])?;
    let mut expressions = Expressions::default();
    // What is wrong with the issuer is said first.
    let mut later = FieldErrors::new();
    let required =
        claim_rules(&value["claimValidationRules"], &path.child("claimValidationRules"), &mut expressions, &mut later)?;
    let (username, groups, uid) = mappings(mapped, &path.child("claimMappings"), &mut expressions, &mut later)?;
    user_rules(&value["userValidationRules"], &path.child("userValidationRules"), &mut expressions, &mut later)?;
    let one = JwtAuthenticator {
        issuer: issuer.str_at(&["url"]).to_owned(),
        discovery_url: issuer.str_at(&["discoveryURL"]).to_owned(),
        certificate_authority: issuer.str_at(&["certificateAuthority"]).to_owned(),
        audiences: texts(&issuer["audiences"], &format!("{at}.issuer.audiences"))?,
        required,
        username,
        groups,
        uid,
        algorithms: algorithms.iter().map(|a| (*a).to_owned()).collect(),
        expressions,
    };
    check_issuer(&one, &path.child("issuer"), own_issuers, errors);
    let policy = issuer.str_at(&["audienceMatchPolicy"]);
    let policy_path = path.child("issuer").child("audienceMatchPolicy");
    if one.audiences.len() > 1 && policy != "MatchAny" {
        let why = "audienceMatchPolicy must be MatchAny for multiple audiences";
        errors.push(FieldError::invalid(&policy_path, &policy.into(), why));
    } else if !matches!(policy, "" | "MatchAny") {
        let why = "audienceMatchPolicy must be empty or MatchAny for single audience";
        errors.push(FieldError::invalid(&policy_path, &policy.into(), why));
    }
    errors.append(&mut later);
    Ok(one)
}

fn check_issuer(one: &JwtAuthenticator, path: &FieldPath, own_issuers: &[String], errors: &mut FieldErrors) {
    let url = path.child("url");
    if one.issuer.is_empty() {
        errors.push(FieldError::required(&url, "URL is required"));
    } else {
        if own_issuers.contains(&one.issuer) {
            let why = format!("URL must not overlap with disallowed issuers: [{}]", own_issuers.join(" "));
            errors.push(FieldError::invalid(&url, &one.issuer.as_str().into(), why));
        }
        check_url(&one.issuer, &url, errors);
    }
    if !one.discovery_url.is_empty() {
        let discovery = path.child("discoveryURL");
        if one.issuer.trim_end_matches('/') == one.discovery_url.trim_end_matches('/') {
            let why = "discoveryURL must be different from URL";
            errors.push(FieldError::invalid(&discovery, &one.discovery_url.as_str().into(), why));
        }
        check_url(&one.discovery_url, &discovery, errors);
    }
    let audiences = path.child("audiences");
    if one.audiences.is_empty() {
        errors.push(FieldError::required(&audiences, format!("at least one {audiences} is required")));
    }
    for (i, audience) in one.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(FieldError::required(&audiences.index(i), "audience can't be empty"));
        }
        if one.audiences[..i].contains(audience) {
            errors.push(FieldError::duplicate(&audiences.index(i), &audience.as_str().into()));
        }
    }
}

fn check_url(url: &str, path: &FieldPath, errors: &mut FieldErrors) {
    let mut refuse = |why: &str| errors.push(FieldError::invalid(path, &url.into(), why));
    let Some(rest) = url.strip_prefix("https://") else { return refuse("URL scheme must be https") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        refuse("URL must not contain a username or password");
    }
    if rest.split('#').next().unwrap_or_default().contains('?') {
        refuse("URL must not contain a query");
    }
    if rest.contains('#') {
        refuse("URL must not contain a fragment");
    }
}

fn anonymous(value: &Value, errors: &mut FieldErrors) -> Result<Option<Anonymous>, String> {
    if value.is_null() {
        return Ok(None);
    }
    known(value, "anonymous", &["enabled", "conditions"])?;
    let mut paths = Vec::new();
    for (i, condition) in value["conditions"].items().iter().enumerate() {
        known(condition, &format!("anonymous.conditions[{i}]"), &["path"])?;
        paths.push(condition.str_at(&["path"]).to_owned());
    }
    let enabled = value["enabled"].as_bool() == Some(true);
    if !enabled && !paths.is_empty() {
        let at = FieldPath::new("anonymous").child("conditions");
        let why = "enabled should be set to true when conditions are defined";
        errors.push(FieldError::invalid(&at, &value["conditions"], why));
    }
    Ok(Some(match (enabled, paths.is_empty()) {
        (false, _) => Anonymous::Off,
        (true, true) => Anonymous::On,
        (true, false) => Anonymous::Paths(paths),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\n";

    fn parse(text: &str) -> Result<AuthenticationConfig, String> {
        AuthenticationConfig::parse(format!("{HEAD}{text}").as_bytes(), &["https://own".to_owned()], &["RS256"])
    }

    #[test]
    fn several_authenticators_and_anonymous_paths_are_read() {
        let config = parse(
            "jwt:\n- issuer: {url: https://a.example, audiences: [x, z], audienceMatchPolicy: MatchAny}\n  \
             claimMappings: {username: {claim: sub, prefix: \"a:\"}, groups: {claim: g, prefix: \"\"}, uid: {claim: id}}\n  \
             claimValidationRules: [{claim: hd, requiredValue: example.com}]\n\
             - issuer: {url: https://b.example, discoveryURL: https://c.example/conf, audiences: [x]}\n  \
             claimMappings: {username: {claim: email, prefix: \"\"}}\n\
             anonymous: {enabled: true, conditions: [{path: /livez}]}\n",
        )
        .unwrap();
        assert_eq!(config.anonymous, Some(Anonymous::Paths(vec!["/livez".to_owned()])));
        let [a, b] = &config.jwt[..] else { panic!("{config:?}") };
        assert_eq!(a.configuration_url(), "https://a.example/.well-known/openid-configuration");
        assert_eq!((a.required.len(), a.uid.as_deref(), a.groups.is_some()), (1, Some("id"), true));
        assert_eq!((b.configuration_url().as_str(), &b.groups), ("https://c.example/conf", &None));
        assert_eq!(parse("").unwrap(), AuthenticationConfig::default());
        assert_eq!(parse("anonymous: {enabled: false}").unwrap().anonymous, Some(Anonymous::Off));
    }

    /// The words of kube-apiserver 1.33.13 about that file.
    #[test]
    fn many_mistakes_are_told_as_upstream_tells_them() {
        let (file, said) = (
            include_str!("../../testdata/authentication/wrong.yaml"),
            include_str!("../../testdata/authentication/wrong.txt"),
        );
        let found = AuthenticationConfig::parse(file.as_bytes(), &["https://own".to_owned()], &["RS256"]).unwrap_err();
        assert_eq!(found, said.trim_end_matches('\n'));
    }

    fn issuer(url: &str) -> String {
        format!(
            "jwt: [{{issuer: {{url: {url}, audiences: [x]}}, claimMappings: {{username: {{claim: sub, prefix: \"\"}}}}}}]"
        )
    }

    fn mapped(mapping: &str) -> String {
        format!("jwt: [{{issuer: {{url: https://a, audiences: [x]}}, claimMappings: {{{mapping}}}}}]")
    }

    fn check(cases: &[(String, &str)]) {
        for (text, error) in cases {
            let found = parse(text).map(|read| panic!("{text}\n{read:?}")).unwrap_err();
            assert!(found.starts_with(error), "{text}\n{found}");
        }
    }

    #[test]
    fn what_is_wrong_with_expressions_is_named_by_field() {
        let extra = |extra: &str| mapped(&format!("username: {{claim: sub, prefix: \"\"}}, extra: [{{{extra}}}]"));
        let with = |more: &str| issuer("https://a").replace("claimMappings", &format!("{more}, claimMappings"));
        let ruled = |rule: &str| with(&format!("claimValidationRules: [{{{rule}}}]"));
        let guarded = |rule: &str| with(&format!("userValidationRules: [{{{rule}}}]"));
        check(&[
            (
                mapped("username: {expression: \"claims + 1\"}"),
                "jwt[0].claimMappings.username.expression: Invalid value: \"claims + 1\": compilation failed: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(map(string, any), int)'\n | claims + 1\n | .......^",
            ),
            (
                mapped("username: {expression: claims.sub, prefix: x}"),
                "jwt[0].claimMappings.username.prefix: Invalid value: \"x\": prefix can't be set when expression is set",
            ),
            (
                mapped("username: {expression: claims.email}"),
                "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ),
            (
                mapped("username: {claim: sub, prefix: \"\"}, uid: {claim: a, expression: claims.a}"),
                "jwt[0].claimMappings.uid: Invalid value: \"\": claim and expression can't both be set",
            ),
            (
                mapped("username: {claim: sub, prefix: \"\"}, uid: {expression: \"int('a')\"}"),
                "jwt[0].claimMappings.uid.expression: Internal error: program instantiation failed: type conversion error from 'string' to 'int'",
            ),
            (extra("key: \"\", valueExpression: claims.x"), "jwt[0].claimMappings.extra[0].key: Required value"),
            (
                extra("key: ab, valueExpression: claims.x"),
                "jwt[0].claimMappings.extra[0].key: Invalid value: \"ab\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (
                extra("key: A.b/c, valueExpression: claims.x"),
                "[jwt[0].claimMappings.extra[0].key: Invalid value: \"A.b\": a lowercase RFC 1123 subdomain",
            ),
            (
                extra("key: a.k8s.io/c, valueExpression: claims.x"),
                "jwt[0].claimMappings.extra[0].key: Invalid value: \"a.k8s.io/c\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
            ),
            (
                extra("key: a.b/c"),
                "jwt[0].claimMappings.extra[0].valueExpression: Required value: valueExpression is required",
            ),
            (
                ruled("expression: claims.ok"),
                "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.ok\": must evaluate to bool",
            ),
            (
                ruled("expression: \"true\", requiredValue: x"),
                "jwt[0].claimValidationRules[0].requiredValue: Invalid value: \"x\": requiredValue can't be set when expression is set",
            ),
            (
                ruled("claim: a, message: m"),
                "jwt[0].claimValidationRules[0].message: Invalid value: \"m\": message can't be set when claim is set",
            ),
            (ruled("message: m"), "jwt[0].claimValidationRules[0]: Required value: claim or expression is required"),
            (
                guarded("expression: user.unknown == 'a'"),
                "jwt[0].userValidationRules[0].expression: Invalid value: \"user.unknown == 'a'\": compilation failed: ERROR: <input>:1:5: undefined field 'unknown'",
            ),
            (
                guarded("expression: claims.sub == 'a'"),
                "jwt[0].userValidationRules[0].expression: Invalid value: \"claims.sub == 'a'\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'claims' (in container '')",
            ),
            (guarded("message: a"), "jwt[0].userValidationRules[0].expression: Required value: expression is required"),
        ]);
    }

    #[test]
    fn what_is_wrong_is_named_by_field() {
        let cases = [
            (issuer("http://a"), "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https"),
            (issuer("https://u:p@a"), "jwt[0].issuer.url: Invalid value: \"https://u:p@a\": URL must not contain a username or password"),
            (issuer("https://a/?q"), "jwt[0].issuer.url: Invalid value: \"https://a/?q\": URL must not contain a query"),
            (issuer("https://own"), "jwt[0].issuer.url: Invalid value: \"https://own\": URL must not overlap with disallowed issuers: [https://own]"),
            (mapped("username: {claim: sub}"), "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set."),
            (mapped("uid: {claim: x}"), "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (mapped("username: {claim: sub, prefix: \"\"}, colour: red"), "strict decoding error: unknown field \"jwt[0].claimMappings.colour\""),
            (
                "jwt: [{issuer: {url: https://a, audiences: [x, z]}, claimMappings: {username: {claim: sub, prefix: \"\"}}}]".to_owned(),
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
            (
                "jwt: [{issuer: {url: https://a}, claimMappings: {username: {claim: sub, prefix: \"\"}}}]".to_owned(),
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            ("anonymous: {enabled: false, conditions: [{path: /x}]}".to_owned(), "anonymous.conditions: Invalid value"),
            ("wrong: 1".to_owned(), "strict decoding error: unknown field \"wrong\""),
        ];
        check(&cases);
        let twice =
            parse(&format!("jwt: [{0}, {0}]", issuer("https://a").trim_start_matches("jwt: [").trim_end_matches(']')));
        assert!(twice.unwrap_err().starts_with("jwt[1].issuer.url: Duplicate value: \"https://a\""));
        assert!(AuthenticationConfig::parse(b"kind: Pod\napiVersion: v1", &[], &[]).is_err());
    }
}
