//! Who asks: client certificates, front proxies, bearer tokens, impersonation; else nobody in particular.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base::Timestamp;
use http::HeaderMap;
use machinery::{GroupResource, ObjectKey, Status, Value};
use policy::admission::Reader;
use policy::authn::{self, BearerToken};
use policy::{Attributes, GoogleIdentity, UserInfo};

use crate::message::Peer;
use crate::server::Inner;

/// A certificate's identity, or why it counts for nothing.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    user: Option<UserInfo>,
    front_proxy: bool,
    not_after: Timestamp,
}

/// Who it is; `google` for callers with a Google token, whose IAM roles count too.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    pub(crate) user: UserInfo,
    pub(crate) google: Option<GoogleIdentity>,
}

impl From<UserInfo> for Identified {
    fn from(user: UserInfo) -> Self {
        Self { user, google: None }
    }
}

/// Tokens whose signature was found good, so that it is checked once.
#[derive(Default)]
pub(crate) struct Verified {
    claims: Mutex<BTreeMap<String, Arc<Value>>>,
    keys: tokio::sync::Mutex<Option<Arc<serde_json::Value>>>,
}

const VERIFIED_MAX: usize = 4096;

impl Inner {
    fn judge(&self, peer: &Peer) -> Judged {
        let chain = &peer.certificates;
        let nobody = Judged { user: None, front_proxy: false, not_after: Timestamp::EPOCH };
        let Some(leaf) = chain.first() else { return nobody };
        let Ok(subject) = pki::subject(leaf) else { return nobody };
        let front_proxy = self.front_proxies.as_ref().is_some_and(|v| v.verify(chain).is_ok());
        let user = match self.clients.verify(chain) {
            Ok(()) => authn::certificate_user(&subject.common_name, &subject.organizations, &pki::sha256(leaf)),
            Err(error) => {
                if !front_proxy {
                    tracing::info!(remote = %peer.remote, subject = %subject.common_name, %error, "a client certificate is not accepted");
                }
                None
            }
        };
        Judged { user, front_proxy, not_after: subject.not_after }
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// 401 for credentials that are not good, and for none where anonymous callers are not let in.
    pub(crate) async fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Identified, Status> {
        let mut refused = false;
        if !peer.certificates.is_empty() {
            let judged = peer.judged.get_or_init(|| self.judge(peer));
            let valid = judged.not_after > self.config.clock.now();
            if judged.front_proxy
                && valid
                && let Some(user) = front_proxy_user(headers)
            {
                return Ok(user.into());
            }
            match &judged.user {
                Some(user) if valid => return Ok(user.clone().into()),
                _ => refused = !judged.front_proxy || !valid,
            }
        }
        if let Some(token) = bearer(headers) {
            return self.identify_token(token, &self.config.audiences()).await.map(|(who, _)| who);
        }
        if headers.contains_key(http::header::AUTHORIZATION) || refused || !self.config.anonymous {
            return Err(Status::unauthorized());
        }
        Ok(UserInfo::anonymous().into())
    }

    /// Who has a bearer token, and for which of the audiences it is.
    ///
    /// # Errors
    /// 401.
    pub(crate) async fn identify_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(Identified, Vec<String>), Status> {
        if let Some(user) = self.config.tokens.get(token) {
            let mut user = user.clone();
            user.add_group(policy::user::AUTHENTICATED);
            return Ok((user.into(), Vec::new()));
        }
        match BearerToken::of(token) {
            BearerToken::Jwt { claims } if claims.str_at(&["iss"]) == self.config.issuer => {
                let claims = self.verify(token).await.ok_or_else(Status::unauthorized)?;
                let now = self.config.clock.now();
                let issuers = [self.config.issuer.clone()];
                // The token may be newer than what the caches show.
                self.caches.wait(self.written.load(std::sync::atomic::Ordering::Acquire)).await?;
                match authn::check_claims(&claims, &issuers, audiences, now, &self.reader()) {
                    Ok((user, met)) => Ok((user.into(), met)),
                    Err(why) => {
                        tracing::info!(%why, "a service account token is not accepted");
                        Err(Status::unauthorized())
                    }
                }
            }
            BearerToken::Bootstrap { id, secret } => {
                self.bootstrap_user(&id, &secret).map(|u| (u.into(), Vec::new())).ok_or_else(Status::unauthorized)
            }
            BearerToken::Jwt { .. } | BearerToken::Opaque => {
                let google = self.tokens.resolve(token).await.ok_or_else(Status::unauthorized)?;
                let user = authn::google_user(&google).ok_or_else(Status::unauthorized)?;
                Ok((Identified { user, google: Some(google) }, Vec::new()))
            }
        }
    }

    async fn verify(&self, token: &str) -> Option<Arc<Value>> {
        if let Ok(known) = self.verified.claims.lock()
            && let Some(claims) = known.get(token)
        {
            return Some(claims.clone());
        }
        let keys = self.jwks().await?;
        let claims = Arc::new(Value::from(pki::verify_jwt(token, &keys)?));
        if let Ok(mut known) = self.verified.claims.lock() {
            if known.len() >= VERIFIED_MAX {
                known.clear();
            }
            known.insert(token.to_owned(), claims.clone());
        }
        Some(claims)
    }

    /// The keys that verify service-account tokens; waits while they are being made.
    pub(crate) async fn jwks(&self) -> Option<Arc<serde_json::Value>> {
        let mut keys = self.verified.keys.lock().await;
        if keys.is_none() {
            *keys = self.config.signer.jwks().await.ok().map(Arc::new);
        }
        keys.clone()
    }

    /// A bootstrap token is a Secret in kube-system.
    fn bootstrap_user(&self, id: &str, given: &str) -> Option<UserInfo> {
        use base64::Engine;
        let name = format!("bootstrap-token-{id}");
        let secret = self.reader().get(&GroupResource::new("", "secrets"), "kube-system", &name)?;
        if secret.str_at(&["type"]) != "bootstrap.kubernetes.io/token" {
            return None;
        }
        let data = |key: &str| -> String {
            let bytes = base64::engine::general_purpose::STANDARD.decode(secret.str_at(&["data", key]));
            bytes.ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
        };
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(data("token-secret").as_bytes(), given.as_bytes());
        let expiration = data("expiration");
        let expired =
            !expiration.is_empty() && Timestamp::parse(&expiration).map_or(true, |at| at <= self.config.clock.now());
        if same.is_err() || data("token-id") != id || expired || data("usage-bootstrap-authentication") != "true" {
            return None;
        }
        let mut user = UserInfo::authenticated(&format!("system:bootstrap:{id}"), &["system:bootstrappers"]);
        for group in data("auth-extra-groups").split(',').filter(|g| g.starts_with("system:bootstrappers:")) {
            user.add_group(group);
        }
        Some(user)
    }

    /// The user that the caller wants to be taken for, if it may.
    ///
    /// # Errors
    /// 403 when it may not; 500 as upstream answers for groups without a user.
    pub(crate) fn impersonate(&self, who: Identified, headers: &HeaderMap) -> Result<Identified, Status> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let (name, groups, uid) = (text("impersonate-user"), all("impersonate-group"), text("impersonate-uid"));
        let extra = prefixed(headers, "impersonate-extra-");
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extra.is_empty() {
                return Ok(who);
            }
            let wanted = "requested [] without impersonating a user";
            return Err(crate::message::internal(wanted));
        }
        let may = |group: &str, resource: &str, namespace: &str, subresource: &str, name: &str| {
            let a = Attributes {
                namespace,
                subresource,
                name,
                version: "v1",
                ..Attributes::resource(&who.user, "impersonate", group, resource)
            };
            let decision = self.authorizers.load().authorize(&a, who.google.as_ref());
            if decision.allowed { Ok(()) } else { Err(policy::forbidden(&a, &decision)) }
        };
        let mut user = UserInfo { name: name.clone(), uid: uid.clone(), groups, extra };
        match user.as_service_account() {
            Some((namespace, account)) => may("", "serviceaccounts", namespace, "", account)?,
            None => may("", "users", "", "", &name)?,
        }
        for group in &user.groups {
            may("", "groups", "", "", group)?;
        }
        if !uid.is_empty() {
            may("authentication.k8s.io", "uids", "", "", &uid)?;
        }
        for (key, values) in &user.extra {
            for value in values {
                may("authentication.k8s.io", "userextras", "", key, value)?;
            }
        }
        if let Some((namespace, _)) = user.as_service_account().map(|(n, a)| (n.to_owned(), a.to_owned()))
            && user.groups.is_empty()
        {
            user.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        if user.is_anonymous() {
            user.add_group(policy::user::UNAUTHENTICATED);
        } else if !user.in_group(policy::user::UNAUTHENTICATED) {
            user.add_group(policy::user::AUTHENTICATED);
        }
        Ok(user.into())
    }

    /// Is the object still there, by the caches?
    pub(crate) fn cached(&self, resource: &GroupResource, key: &ObjectKey) -> Option<Arc<Value>> {
        self.reader().get(resource, &key.namespace, &key.name)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

fn front_proxy_user(headers: &HeaderMap) -> Option<UserInfo> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let name = all("x-remote-user").into_iter().next().filter(|n| !n.is_empty())?;
    let uid = all("x-remote-uid").into_iter().next().unwrap_or_default();
    let mut user = UserInfo { name, uid, groups: all("x-remote-group"), extra: prefixed(headers, "x-remote-extra-") };
    if !user.is_anonymous() {
        user.add_group(policy::user::AUTHENTICATED);
    }
    Some(user)
}

fn prefixed(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix), value.to_str()) {
            extra.entry(key.replace("%2f", "/").replace("%2F", "/")).or_default().push(value.to_owned());
        }
    }
    extra
}
