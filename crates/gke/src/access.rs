//! A cluster's `masterAuth`, `legacyAbac`, `anonymousAuthenticationConfig`, `rbacBindingConfig` and
//! `authenticatorGroupsConfig`: what may be asked for, and what follows for its API servers.

use machinery::{Value, json};
use policy::{AccessSettings, Anonymous};

use crate::ApiError;
use crate::record::Cluster;

/// GKE's answer to a user name or password for a control plane of 1.19 and later; there are no older ones.
const NO_BASIC_AUTH: &str = "Basic authentication was removed for GKE cluster versions >= 1.19. The cluster cannot be \
    created with basic authentication enabled. Instructions for choosing an alternative authentication method can be \
    found at: https://cloud.google.com/kubernetes-engine/docs/how-to/api-server-authentication.";

/// What the API servers of a cluster with this configuration do.
pub fn settings(body: &Value) -> AccessSettings {
    let may = |field: &str| body["rbacBindingConfig"][field].as_bool().unwrap_or(true);
    let limited = body.str_at(&["anonymousAuthenticationConfig", "mode"]) == "LIMITED";
    AccessSettings {
        legacy_abac: body["legacyAbac"]["enabled"].as_bool() == Some(true),
        anonymous: if limited { Anonymous::limited() } else { Anonymous::On },
        bind_authenticated: may("enableInsecureBindingSystemAuthenticated"),
        bind_unauthenticated: may("enableInsecureBindingSystemUnauthenticated"),
        guard_cluster_admin: true,
        security_group: security_group_of(body).to_owned(),
        encryption_key: crate::encryption::key_of(body).to_owned(),
    }
}

/// What a group for security is called, in any domain.
const SECURITY_GROUP: &str = "gke-security-groups@";

/// Is this the address of a group that clusters may look into?
pub fn is_security_group(email: &str) -> bool {
    email.strip_prefix(SECURITY_GROUP).is_some_and(|domain| !domain.is_empty() && !domain.contains('@'))
}

/// The group whose groups count in a cluster; empty for none.
fn security_group_of(body: &Value) -> &str {
    let config = &body["authenticatorGroupsConfig"];
    if config["enabled"].as_bool() == Some(true) { config.str_at(&["securityGroup"]) } else { "" }
}

/// An `AuthenticatorGroupsConfig` that is on names a group for security.
///
/// # Errors
/// 400 for any other.
pub(crate) fn check_groups(config: &Value) -> Result<(), ApiError> {
    let group = config.str_at(&["securityGroup"]);
    if config["enabled"].as_bool() != Some(true) && group.is_empty() || is_security_group(group) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Invalid value for authenticator_groups_config.security_group: {group:?}. The security group must be in the format \
         gke-security-groups@yourdomain.com."
    )))
}

/// The issuer of a cluster's service-account tokens.
pub fn issuer(project: &str, location: &str, cluster: &str) -> String {
    format!("https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster}")
}

/// `GetOpenIDConfig`: what relying parties read of that issuer, without credentials.
pub fn openid_config(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "sub", "kubernetes.io"],
        "grant_types": ["urn:kubernetes:grant_type:programmatic_authorization"],
    })
}

/// The one pool whose identities a project's pods can have.
pub fn workload_pool(project: &str) -> String {
    format!("{project}.svc.id.goog")
}

/// The pool that a cluster uses; empty without Workload Identity.
pub fn pool_of(body: &Value) -> &str {
    body.str_at(&["workloadIdentityConfig", "workloadPool"])
}

/// A `WorkloadIdentityConfig` names the project's pool, or none.
///
/// # Errors
/// 400 for any other.
pub fn check_workload_pool(project: &str, config: &Value) -> Result<(), ApiError> {
    let (asked, own) = (config.str_at(&["workloadPool"]), workload_pool(project));
    if asked.is_empty() || asked == own {
        return Ok(());
    }
    Err(ApiError::invalid(format!("Currently, the only supported identity namespace is \"{own}\".")))
}

/// Was a client certificate asked for at creation?
pub fn wants_client_certificate(body: &Value) -> bool {
    body["masterAuth"]["clientCertificateConfig"]["issueClientCertificate"].as_bool() == Some(true)
}

/// Refuses basic authentication; an empty user name means none, as older clients send it.
///
/// # Errors
/// 400 in GKE's words.
pub(crate) fn check_master_auth(auth: &Value) -> Result<(), ApiError> {
    let named = ["username", "password"].iter().any(|field| !auth.str_at(&[field]).is_empty());
    if named { Err(ApiError::invalid(NO_BASIC_AUTH)) } else { Ok(()) }
}

/// The configuration after a decoded `SetLegacyAbacRequest`.
pub fn set_legacy_abac(cluster: &Cluster, request: &Value) -> Value {
    let mut body = cluster.body.clone();
    let mut legacy = Value::object();
    if request["enabled"].as_bool() == Some(true) {
        legacy.set("enabled", true);
    }
    body.set("legacyAbac", legacy);
    body
}

/// The configuration after a decoded `SetMasterAuthRequest`: basic authentication can only be taken away, and there is
/// none.
///
/// # Errors
/// 400 for a user name or a password, or without an action.
pub fn set_master_auth(cluster: &Cluster, request: &Value) -> Result<Value, ApiError> {
    check_master_auth(&request["update"])?;
    match request.str_at(&["action"]) {
        "SET_USERNAME" => Ok(cluster.body.clone()),
        "SET_PASSWORD" | "GENERATE_PASSWORD" => Err(ApiError::invalid(NO_BASIC_AUTH)),
        _ => Err(ApiError::invalid("Must specify an action for SetMasterAuth.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_when_they_are_on_and_well_named() {
        let group = |config: Value| settings(&json!({"authenticatorGroupsConfig": config})).security_group;
        let good = json!({"enabled": true, "securityGroup": "gke-security-groups@example.com"});
        assert_eq!(group(good.clone()), "gke-security-groups@example.com");
        assert_eq!(group(json!({"securityGroup": "gke-security-groups@example.com"})), "");
        for right in [good, json!({}), json!({"enabled": false})] {
            assert!(check_groups(&right).is_ok(), "{right}");
        }
        for wrong in
            ["", "devs@example.com", "gke-security-groups@", "gke-security-groups@a@b", "GKE-security-groups@b"]
        {
            assert!(check_groups(&json!({"enabled": true, "securityGroup": wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_follow_the_fields() {
        let open = settings(&Value::object());
        assert_eq!(open, AccessSettings { guard_cluster_admin: true, ..AccessSettings::default() });
        let closed =
            settings(&json!({"legacyAbac": {"enabled": true}, "anonymousAuthenticationConfig": {"mode": "LIMITED"},
            "rbacBindingConfig": {"enableInsecureBindingSystemAuthenticated": false,
                "enableInsecureBindingSystemUnauthenticated": false}}));
        assert!(closed.legacy_abac && !closed.bind_authenticated && !closed.bind_unauthenticated);
        assert_eq!(closed.anonymous, Anonymous::limited());
    }

    #[test]
    fn there_is_no_basic_authentication() {
        assert!(check_master_auth(&json!({"username": "", "password": ""})).is_ok());
        for auth in [json!({"username": "admin"}), json!({"password": "x"})] {
            let error = check_master_auth(&auth).unwrap_err();
            assert!(error.code.http() == 400 && error.message.starts_with("Basic authentication was removed"));
        }
    }
}
