//! Accounts, tokens and rights: who calls, and may they.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gke::ApiError;
use policy::GoogleIdentity;

use crate::http::Request;
use crate::pods::PodIdentity;
use crate::state::{Account, Binding, State, Token};
use crate::{Auth, CloudConfig, Inner};

const EMAIL_SCOPE: &str = "https://www.googleapis.com/auth/userinfo.email";
const CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Of access tokens.
pub(crate) const TOKEN_SECONDS: i64 = 3599;
/// Forgotten once there are more; the oldest expiry first.
const TOKENS_MAX: usize = 10_000;

/// The scopes of tokens that this sandbox hands out by itself.
pub(crate) fn all_scopes() -> Vec<String> {
    vec![CLOUD_SCOPE.to_owned(), EMAIL_SCOPE.to_owned()]
}

/// The project's service agent of Kubernetes Engine, which acts for it in the project.
pub(crate) fn agent_email(project_number: &str) -> String {
    format!("service-{project_number}@container-engine-robot.iam.gserviceaccount.com")
}

/// Owner, the two service accounts every project has, and the service agent with its role.
pub(crate) fn fresh_state(config: &CloudConfig) -> State {
    let mut state = State { created: config.clock.now().rfc3339(), ..State::default() };
    let number = &config.project_number;
    let compute = format!("{number}-compute@developer.gserviceaccount.com");
    let agent = agent_email(number);
    let accounts = [
        (config.account.clone(), false, "user", "roles/owner"),
        (compute, true, "serviceAccount", "roles/editor"),
        (agent, true, "serviceAccount", "roles/container.serviceAgent"),
    ];
    for (email, service, kind, role) in accounts {
        state.policy.push(Binding { role: role.to_owned(), members: vec![format!("{kind}:{email}")] });
        let name = if email.contains("-compute@") { "Compute Engine default service account" } else { "" };
        let account = new_account(service, name, &config.entropy);
        state.accounts.insert(email, account);
    }
    let services = [
        "cloudkms",
        "cloudresourcemanager",
        "compute",
        "container",
        "iam",
        "iamcredentials",
        "logging",
        "monitoring",
        "oslogin",
        "serviceusage",
        "storage-api",
        "sts",
    ];
    state.services = services.iter().map(|name| format!("{name}.googleapis.com")).collect();
    state
}

/// An account with a unique id of 21 digits.
pub(crate) fn new_account(service: bool, display_name: &str, entropy: &base::Entropy) -> Account {
    let number = u64::from_be_bytes(entropy.bytes()) % 1_000_000_000_000_000_000;
    let unique_id = format!("1{number:020}");
    Account {
        service,
        unique_id,
        display_name: display_name.to_owned(),
        keys: std::collections::BTreeMap::new(),
        system_key: None,
        policy: Vec::new(),
        policy_revision: 0,
    }
}

/// The account with this address, made if it is a person's; its address in lower case. Blocks for a write.
pub(crate) fn ensure_account(inner: &Inner, email: &str) -> Result<String, ApiError> {
    let email = email.to_lowercase();
    if inner.store.read().accounts.contains_key(&email) {
        return Ok(email);
    }
    let service = email.ends_with(".gserviceaccount.com");
    if service || !crate::services::is_address(&email) {
        let what = if service { "Unknown service account" } else { "Invalid address" };
        return Err(ApiError::not_found(format!("{what} {email}")));
    }
    let account = new_account(false, "", &inner.entropy);
    inner.store.write(|state| {
        state.accounts.entry(email.clone()).or_insert(account);
        Ok(())
    })?;
    Ok(email)
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) email: String,
    roles: Vec<String>,
}

impl Caller {
    pub(crate) fn may(&self, permission: &str) -> bool {
        self.roles.iter().any(|role| policy::iam::role_allows(role, permission))
    }
}

/// The form in which tokens are kept.
pub(crate) fn hash(token: &str) -> String {
    digest(&SHA256, token.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Inner {
    /// A fresh token of an account; `seconds` until it expires, if it does.
    pub(crate) fn new_token(&self, email: &str, scopes: Vec<String>, seconds: Option<i64>) -> Result<String, ApiError> {
        self.issue("ya29.c.", email, scopes, seconds, false)
    }

    pub(crate) fn new_refresh_token(&self, email: &str, scopes: Vec<String>) -> Result<String, ApiError> {
        self.issue("1//0", email, scopes, None, true)
    }

    fn issue(
        &self,
        prefix: &str,
        email: &str,
        scopes: Vec<String>,
        seconds: Option<i64>,
        refresh: bool,
    ) -> Result<String, ApiError> {
        let token = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(self.entropy.bytes::<48>()));
        let now = self.clock.now().unix_seconds();
        let record = Token { email: email.to_owned(), scopes, expires: seconds.map(|s| now + s), refresh };
        let key = hash(&token);
        self.store.write(|state| {
            state.tokens.retain(|_, token| token.expires.is_none_or(|expires| expires > now));
            if state.tokens.len() >= TOKENS_MAX {
                let oldest = state.tokens.iter().filter(|(_, t)| t.expires.is_some()).min_by_key(|(_, t)| t.expires);
                if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                    state.tokens.remove(&oldest);
                }
            }
            state.tokens.insert(key, record);
            Ok(())
        })?;
        Ok(token)
    }

    /// The record of a live token. The look-up compares hashes of it, which tell nothing about near misses.
    pub(crate) fn token(&self, token: &str, refresh: bool) -> Option<Token> {
        let state = self.store.read();
        let wanted = hash(token);
        let (key, found) = state.tokens.get_key_value(&wanted)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(key.as_bytes(), wanted.as_bytes()).ok()?;
        let live = found.expires.is_none_or(|expires| expires > self.clock.now().unix_seconds());
        (live && found.refresh == refresh).then(|| found.clone())
    }

    /// The account that a service account's own signature vouches for: iss, exp and the signature must hold.
    pub(crate) fn signed_assertion(&self, jwt: &str) -> Option<(String, serde_json::Value)> {
        let claims = jwt.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
        let email = claims["iss"].as_str()?;
        let state = self.store.read();
        let account = state.accounts.get(email)?;
        let system = account.system_key.iter().map(|key| (&key.id, &key.public));
        let keys: Vec<serde_json::Value> = (account.keys.iter())
            .chain(system)
            .map(|(kid, key)| serde_json::json!({"kty": "RSA", "alg": "RS256", "kid": kid, "n": key.n, "e": key.e}))
            .collect();
        let claims = pki::verify_jwt(jwt, &serde_json::json!({"keys": keys}), &["RS256"])?;
        let now = self.clock.now().unix_seconds();
        let near = |key: &str, ok: fn(i64, i64) -> bool| claims[key].as_i64().is_some_and(|at| ok(at, now));
        let fresh = near("exp", |exp, now| exp > now - 60) && near("iat", |iat, now| iat < now + 600);
        fresh.then(|| (email.to_owned(), claims.clone()))
    }

    /// See [`crate::Cloud::resolve_token`].
    pub(crate) fn resolve(&self, token: &str) -> Option<GoogleIdentity> {
        let state = self.store.read();
        if let Some(found) = self.token(token, false) {
            // A pod has no email, whatever it asked for.
            let pod = PodIdentity::parse(&found.email).is_some();
            let email_scope = !pod && found.scopes.iter().any(|s| s == EMAIL_SCOPE || s == "email");
            return Some(GoogleIdentity {
                roles: self.roles(&state, &found.email),
                security_groups: state.security_groups_of(&found.email),
                email: found.email,
                email_scope,
                expires: found.expires,
            });
        }
        let open = self.auth == Auth::Open && !token.is_empty();
        open.then(|| GoogleIdentity {
            email: self.account.clone(),
            email_scope: true,
            roles: vec!["roles/owner".to_owned()],
            security_groups: state.security_groups_of(&self.account),
            expires: None,
        })
    }

    pub(crate) fn roles(&self, state: &State, email: &str) -> Vec<String> {
        if self.auth == Auth::Open { vec!["roles/owner".to_owned()] } else { state.roles_of(email) }
    }

    /// The project's service agent of Kubernetes Engine, as a caller.
    pub(crate) fn service_agent(&self) -> Caller {
        let email = agent_email(&self.project_number);
        Caller { roles: self.roles(&self.store.read(), &email), email }
    }

    /// Who sent the request: a token from here, or a service account's self-signed JWT.
    ///
    /// # Errors
    /// 401 in Google's words.
    pub(crate) fn authenticate(&self, request: &Request) -> Result<Caller, ApiError> {
        let state = self.store.read();
        let header = request.header("authorization");
        let bearer = header.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        let token = bearer.map_or(request.query("access_token"), |(_, token)| token.trim());
        if token.is_empty() && self.auth == Auth::Strict {
            return Err(if header.is_empty() { ApiError::login_required() } else { ApiError::invalid_credentials() });
        }
        let signed = || self.signed_assertion(token).filter(|(iss, c)| c["sub"].as_str().is_none_or(|sub| sub == iss));
        let email = self.token(token, false).map(|found| found.email).or_else(|| signed().map(|(email, _)| email));
        match email {
            Some(email) => Ok(Caller { roles: self.roles(&state, &email), email }),
            None if self.auth == Auth::Open => {
                Ok(Caller { email: self.account.clone(), roles: vec!["roles/owner".to_owned()] })
            }
            None => Err(ApiError::invalid_credentials()),
        }
    }
}
