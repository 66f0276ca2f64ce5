//! Who asks: client certificates, front proxies, bearer tokens, impersonation; else nobody in particular.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use http::HeaderMap;
use machinery::{GroupResource, ObjectKey, Status, Value};
use policy::admission::Reader;
use policy::authn::{self, BearerToken};
use policy::{Attributes, GoogleIdentity, UserInfo};

use crate::config::RequestHeader;
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
    /// Who acts as `user`, when it is somebody else.
    pub(crate) impersonator: Option<UserInfo>,
}

impl From<UserInfo> for Identified {
    fn from(user: UserInfo) -> Self {
        Self { user, google: None, impersonator: None }
    }
}

impl Inner {
    fn judge(&self, peer: &Peer) -> Judged {
        let chain = &peer.certificates;
        let nobody = Judged { user: None, front_proxy: false, not_after: Timestamp::EPOCH };
        let Some(leaf) = chain.first() else { return nobody };
        let Ok(subject) = pki::subject(leaf) else { return nobody };
        let front_proxy = self.config.request_header.admits(&subject.common_name)
            && self.front_proxies.as_ref().is_some_and(|v| v.verify(chain).is_ok());
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
    pub(crate) async fn identify(&self, peer: &Peer, path: &str, headers: &HeaderMap) -> Result<Identified, Status> {
        let mut refused = false;
        if !peer.certificates.is_empty() {
            let judged = peer.judged.get_or_init(|| self.judge(peer));
            let valid = judged.not_after > self.config.clock.now();
            if judged.front_proxy
                && valid
                && let Some(user) = self.config.request_header.user(headers)
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
        let hidden = crate::websocket_token::find(headers).map_err(|why| {
            tracing::info!(remote = %peer.remote, why, "the token of a WebSocket is not accepted");
            Status::unauthorized()
        })?;
        if let Some(token) = hidden {
            return self.identify_token(&token, &self.config.audiences()).await.map(|(who, _)| who);
        }
        if is_basic(headers) || refused || !self.access.load().anonymous.admits(path) {
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
        let hash = crate::identity::hash(token);
        if let Some(user) = self.config.tokens.get(&hash) {
            let mut user = user.clone();
            user.add_group(policy::user::AUTHENTICATED);
            return self.for_this_server(user.into(), audiences);
        }
        // A token whose signature was found good before is one of ours: there is nothing to parse.
        let is_own = |form: &BearerToken| match form {
            BearerToken::Jwt { claims } => self.is_own_issuer(claims.str_at(&["iss"])),
            BearerToken::Bootstrap { .. } | BearerToken::Opaque => false,
        };
        let form = if self.is_verified(&hash) { None } else { Some(BearerToken::of(token)) };
        let refused = match form.filter(|form| !is_own(form)) {
            None => match self.service_account(token, audiences).await {
                Ok((user, met)) => return Ok((user.into(), met)),
                Err(status) => status,
            },
            Some(BearerToken::Jwt { claims }) => match self.issuers.user(token, claims.str_at(&["iss"])).await {
                Some(Ok(user)) => return self.for_this_server(user.into(), audiences),
                Some(Err(why)) => {
                    tracing::info!(%why, "a token is not accepted");
                    Status::unauthorized()
                }
                None => match self.google(token).await {
                    Some(who) => return self.for_this_server(who, audiences),
                    None => Status::unauthorized(),
                },
            },
            Some(BearerToken::Bootstrap { id, secret }) => match self.bootstrap_user(&id, &secret) {
                Some(user) if self.config.bootstrap_tokens => return self.for_this_server(user.into(), audiences),
                _ => Status::unauthorized(),
            },
            Some(BearerToken::Opaque) => match self.google(token).await {
                Some(who) => return self.for_this_server(who, audiences),
                None => Status::unauthorized(),
            },
        };
        // Whoever nobody else knows, as in upstream's union of authenticators.
        if refused.code == 401
            && let Some(webhook) = &self.webhook
            && let Some((user, met)) = webhook.user(token, audiences, &self.config.audiences()).await
        {
            return Ok((user.into(), met));
        }
        Err(refused)
    }

    /// Tokens that name no audience are for this server alone.
    fn for_this_server(&self, who: Identified, audiences: &[String]) -> Result<(Identified, Vec<String>), Status> {
        let own = self.config.audiences();
        let met: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
        if met.is_empty() { Err(Status::unauthorized()) } else { Ok((who, met)) }
    }

    async fn google(&self, token: &str) -> Option<Identified> {
        let google = self.tokens.resolve(token).await?;
        let user = authn::google_user(&google, &self.access.load().security_group)?;
        Some(Identified { user, google: Some(google), impersonator: None })
    }

    /// The user that the caller wants to be taken for, if it may.
    ///
    /// # Errors
    /// 403 when it may not.
    pub(crate) fn impersonate(&self, who: Identified, headers: &HeaderMap) -> Result<Identified, Status> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let (name, groups, uid) = (text("impersonate-user"), all("impersonate-group"), text("impersonate-uid"));
        let extra = prefixed(headers, "impersonate-extra-");
        if name.is_empty() {
            return Ok(who);
        }
        let may = |group: &str, resource: &str, namespace: &str, subresource: &str, name: &str| {
            let a = Attributes {
                namespace,
                subresource,
                name,
                version: "v1",
                ..Attributes::resource(&who.user, "impersonate", group, resource)
            };
            let decision = self.authorize(&a, who.google.as_ref());
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
        Ok(Identified { user, google: None, impersonator: Some(who.user) })
    }

    /// Is the object still there, by the caches?
    pub(crate) fn cached(&self, resource: &GroupResource, key: &ObjectKey) -> Option<Arc<Value>> {
        self.reader().get(resource, &key.namespace, &key.name)
    }
}

/// Why a wish to be somebody else makes no sense: groups, a UID or extras without a user. References are printed as Go
/// prints them.
pub(crate) fn groundless(headers: &HeaderMap) -> Option<String> {
    let has = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    if has("impersonate-user") {
        return None;
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let groups = headers.get_all("impersonate-group").iter();
    let mut all: Vec<String> = groups.map(|group| format!("{{Group  {}    }}", text(group))).collect();
    for (key, values) in prefixed(headers, "impersonate-extra-") {
        all.extend(values.iter().map(|value| format!("{{UserExtra  {value}  authentication.k8s.io/v1  {key}}}")));
    }
    if has("impersonate-uid") {
        let uid = headers.get("impersonate-uid").map(text).unwrap_or_default();
        all.push(format!("{{UID  {uid}  authentication.k8s.io/v1  }}"));
    }
    (!all.is_empty()).then(|| format!("requested [{}] without impersonating a user", all.join(" ")))
}

/// The second word of an `Authorization` header whose first is `Bearer`. Further words count for nothing, and after two spaces
/// there is no second word (`apiserver/pkg/authentication/request/bearertoken`).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut words = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.trim().split(' ');
    let is_bearer = words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    words.next().filter(|token| is_bearer && !token.is_empty())
}

/// What the sender of a token after two spaces is told, as nobody looks at it there.
pub(crate) fn ignored(headers: &HeaderMap) -> Option<&'static str> {
    let mut words = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.trim().split(' ');
    let is_bearer = words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    (is_bearer && words.next() == Some(""))
        .then_some("the provided Authorization header contains extra space before the bearer token, and is ignored")
}

/// Whether a password is shown. GKE has no use for one and says so; who shows anything else that is no token is anonymous.
fn is_basic(headers: &HeaderMap) -> bool {
    let header = headers.get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    header.trim_ascii().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
}

impl RequestHeader {
    /// May a proxy with this name speak for others?
    fn admits(&self, name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|n| n == name)
    }

    /// The user in the headers (`apiserver/pkg/authentication/request/headerrequest`): of the headers for names the first
    /// that has a value, of those for groups all.
    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let values = |names: &[String]| -> Vec<String> {
            let all = names.iter().flat_map(|name| headers.get_all(name.to_lowercase().as_str()));
            all.filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let first = |names: &[String]| values(names).into_iter().find(|value| !value.is_empty());
        let name = first(&self.username)?;
        let uid = first(&self.uid).unwrap_or_default();
        let mut extra = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            extra.append(&mut prefixed(headers, &prefix.to_lowercase()));
        }
        let mut user = UserInfo { name, uid, groups: values(&self.groups), extra };
        if !user.is_anonymous() {
            user.add_group(policy::user::AUTHENTICATED);
        }
        Some(user)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_headers_are_read_as_upstream_reads_them() {
        let cases = [
            ("Bearer t", Some("t"), false),
            (" bearer t more", Some("t"), false),
            ("Bearer  t", None, false),
            ("Bearer", None, false),
            ("Token t", None, false),
            ("Negotiate t", None, false),
            ("Basic dTpw", None, true),
            ("", None, false),
        ];
        for (text, token, basic) in cases {
            let value = http::HeaderValue::from_str(text).unwrap();
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
            assert_eq!((bearer(&headers), is_basic(&headers)), (token, basic), "{text:?}");
            assert_eq!(ignored(&headers).is_some(), text == "Bearer  t", "{text:?}");
        }
    }
}
