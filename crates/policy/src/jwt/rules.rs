//! What a configuration file says of claims and users, checked in upstream's words and order.

use machinery::names::{is_dns1123_subdomain, regex_error};
use machinery::{FieldError, FieldErrors, FieldPath, Value};

use super::ClaimMapping;
use super::config::known;
use super::expressions::{Expression, Expressions, Use};

const BOTH_SET: &str = "claim and expression can't both be set";
const NONE_SET: &str = "claim or expression is required";

/// Which paths an extra key may have after its domain.
const HTTP_PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

/// `claimValidationRules`: claims with the text they must have; expressions are added.
pub(super) fn claim_rules(
    value: &Value,
    path: &FieldPath,
    expressions: &mut Expressions,
    errors: &mut FieldErrors,
) -> Result<Vec<(String, String)>, String> {
    let mut required: Vec<(String, String)> = Vec::new();
    let mut seen = Vec::new();
    for (i, rule) in value.items().iter().enumerate() {
        let path = path.index(i);
        known(rule, &path.to_string(), &["claim", "requiredValue", "expression", "message"])?;
        let (claim, expression) = (rule.str_at(&["claim"]), rule.str_at(&["expression"]));
        let (wanted, message) = (rule.str_at(&["requiredValue"]), rule.str_at(&["message"]));
        match (claim.is_empty(), expression.is_empty()) {
            (false, false) => errors.push(FieldError::invalid(&path, &claim.into(), BOTH_SET)),
            (true, true) => errors.push(FieldError::required(&path, NONE_SET)),
            (false, true) => {
                if !message.is_empty() {
                    let why = "message can't be set when claim is set";
                    errors.push(FieldError::invalid(&path.child("message"), &message.into(), why));
                }
                if required.iter().any(|(other, _)| other == claim) {
                    errors.push(FieldError::duplicate(&path.child("claim"), &claim.into()));
                }
                required.push((claim.to_owned(), wanted.to_owned()));
            }
            (true, false) => {
                if !wanted.is_empty() {
                    let why = "requiredValue can't be set when expression is set";
                    errors.push(FieldError::invalid(&path.child("requiredValue"), &wanted.into(), why));
                }
                let at = path.child("expression");
                if seen.contains(&expression) {
                    errors.push(FieldError::duplicate(&at, &expression.into()));
                    continue;
                }
                seen.push(expression);
                match Expression::compile(expression, message, Use::ClaimRule, &at) {
                    Ok(rule) => expressions.claim_rules.push(rule),
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    Ok(required)
}

type Mapped = (ClaimMapping, Option<ClaimMapping>, Option<String>);

/// `claimMappings`: the claims for name, groups and uid; expressions are added.
pub(super) fn mappings(
    value: &Value,
    path: &FieldPath,
    expressions: &mut Expressions,
    errors: &mut FieldErrors,
) -> Result<Mapped, String> {
    let at = path.child("username");
    let username = prefixed(&value["username"], &at, true, &mut expressions.username, errors)?;
    let groups = prefixed(&value["groups"], &path.child("groups"), false, &mut expressions.groups, errors)?;
    let uid = uid(&value["uid"], &path.child("uid"), expressions, errors)?;
    extra(&value["extra"], &path.child("extra"), expressions, errors)?;
    // An address that nobody has verified is anybody's.
    if let Some(expression) = expressions.username.as_ref().filter(|expression| expression.reads("email")) {
        let mut others = expressions.extra.iter().map(|(_, other)| other).chain(&expressions.claim_rules);
        if !expression.reads("email_verified") && !others.any(|other| other.reads("email_verified")) {
            let why = "claims.email_verified must be used in claimMappings.username.expression or \
                       claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                       used in claimMappings.username.expression";
            let text = value.str_at(&["username", "expression"]);
            errors.push(FieldError::invalid(&at.child("expression"), &text.into(), why));
        }
    }
    Ok((username.unwrap_or_default(), groups, uid))
}

/// A claim with what is put before it, or an expression.
fn prefixed(
    value: &Value,
    path: &FieldPath,
    is_required: bool,
    into: &mut Option<Expression>,
    errors: &mut FieldErrors,
) -> Result<Option<ClaimMapping>, String> {
    known(value, &path.to_string(), &["claim", "prefix", "expression"])?;
    let (claim, expression, prefix) = (value.str_at(&["claim"]), value.str_at(&["expression"]), value.get("prefix"));
    match (claim.is_empty(), expression.is_empty()) {
        (false, false) => errors.push(FieldError::invalid(path, &"".into(), BOTH_SET)),
        (true, true) if is_required => errors.push(FieldError::required(path, NONE_SET)),
        (true, true) => return Ok(None),
        (true, false) => {
            if let Some(prefix) = prefix {
                let why = "prefix can't be set when expression is set";
                errors.push(FieldError::invalid(&path.child("prefix"), prefix, why));
            }
            match Expression::compile(expression, "", Use::Mapping, &path.child("expression")) {
                // With a prefix it is not looked at further.
                Ok(expression) => *into = prefix.is_none().then_some(expression),
                Err(error) => errors.push(error),
            }
            return Ok(None);
        }
        (false, true) if prefix.is_none() => {
            let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errors.push(FieldError::required(&path.child("prefix"), why));
        }
        (false, true) => {}
    }
    let prefix = prefix.and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some(ClaimMapping { claim: claim.to_owned(), prefix }))
}

fn uid(
    value: &Value,
    path: &FieldPath,
    expressions: &mut Expressions,
    errors: &mut FieldErrors,
) -> Result<Option<String>, String> {
    known(value, &path.to_string(), &["claim", "expression"])?;
    let (claim, expression) = (value.str_at(&["claim"]), value.str_at(&["expression"]));
    if !claim.is_empty() && !expression.is_empty() {
        errors.push(FieldError::invalid(path, &"".into(), BOTH_SET));
    } else if !expression.is_empty() {
        match Expression::compile(expression, "", Use::Mapping, &path.child("expression")) {
            Ok(expression) => expressions.uid = Some(expression),
            Err(error) => errors.push(error),
        }
    }
    Ok((!claim.is_empty()).then(|| claim.to_owned()))
}

fn extra(
    value: &Value,
    path: &FieldPath,
    expressions: &mut Expressions,
    errors: &mut FieldErrors,
) -> Result<(), String> {
    let mut seen = Vec::new();
    for (i, mapping) in value.items().iter().enumerate() {
        let path = path.index(i);
        known(mapping, &path.to_string(), &["key", "valueExpression"])?;
        let (key, expression) = (mapping.str_at(&["key"]), mapping.str_at(&["valueExpression"]));
        let at = path.child("key");
        check_domain_prefixed(key, &at, errors);
        if key != key.to_lowercase() {
            errors.push(FieldError::invalid(&at, &key.into(), "key must be lowercase"));
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.push(FieldError::invalid(&at, &key.into(), why));
        }
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&at, &key.into()));
            continue;
        }
        seen.push(key);
        let at = path.child("valueExpression");
        if expression.is_empty() {
            errors.push(FieldError::required(&at, "valueExpression is required"));
            continue;
        }
        match Expression::compile(expression, "", Use::Mapping, &at) {
            Ok(expression) => expressions.extra.push((key.to_owned(), expression)),
            Err(error) => errors.push(error),
        }
    }
    Ok(())
}

/// `IsDomainPrefixedPath` of apimachinery.
fn check_domain_prefixed(key: &str, path: &FieldPath, errors: &mut FieldErrors) {
    if key.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    let Some((host, rest)) = key.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return errors.push(FieldError::invalid(path, &key.into(), why));
    };
    errors.extend(is_dns1123_subdomain(host).into_iter().map(|why| FieldError::invalid(path, &host.into(), why)));
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(FieldError::invalid(path, &rest.into(), regex_error("Invalid path", HTTP_PATH, &[])));
    }
}

/// `userValidationRules`: expressions alone.
pub(super) fn user_rules(
    value: &Value,
    path: &FieldPath,
    expressions: &mut Expressions,
    errors: &mut FieldErrors,
) -> Result<(), String> {
    let mut seen = Vec::new();
    for (i, rule) in value.items().iter().enumerate() {
        let path = path.index(i);
        known(rule, &path.to_string(), &["expression", "message"])?;
        let (expression, at) = (rule.str_at(&["expression"]), path.child("expression"));
        if expression.is_empty() {
            errors.push(FieldError::required(&at, "expression is required"));
            continue;
        }
        if seen.contains(&expression) {
            errors.push(FieldError::duplicate(&at, &expression.into()));
            continue;
        }
        seen.push(expression);
        match Expression::compile(expression, rule.str_at(&["message"]), Use::UserRule, &at) {
            Ok(rule) => expressions.user_rules.push(rule),
            Err(error) => errors.push(error),
        }
    }
    Ok(())
}
