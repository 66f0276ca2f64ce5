//! Whoever nobody here knows: an outside service is asked for a `TokenReview` (`--authentication-token-webhook-*`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use http::Method;
use machinery::{Value, json};
use policy::UserInfo;

use crate::identity::TokenHash;
use crate::outbound::Outbound;

const KEPT_MAX: usize = 4096;
/// Upstream's back-off: five tries, the first pause half a second, half longer each time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// The service and how it is asked.
#[derive(Clone)]
pub struct TokenWebhook {
    pub url: String,
    /// Trusts the service, and shows this server's own certificate where there is one; none for plain HTTP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The `Authorization` header, where there is one.
    pub authorization: Option<String>,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long answers are kept; zero: not at all.
    pub cache: Duration,
}

impl std::fmt::Debug for TokenWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenWebhook").field("url", &self.url).finish_non_exhaustive()
    }
}

type Answer = Option<(UserInfo, Vec<String>)>;
type Key = (TokenHash, Vec<String>);

/// The service with what it said.
pub(crate) struct Webhook {
    config: TokenWebhook,
    clock: Clock,
    kept: Mutex<BTreeMap<Key, (Duration, Answer)>>,
}

impl Webhook {
    pub(crate) fn new(config: TokenWebhook, clock: Clock) -> Self {
        Self { config, clock, kept: Mutex::default() }
    }

    /// Whom the token stands for and for which of the audiences it is; `None` for nobody, also when the service cannot
    /// be asked: that is in the log.
    pub(crate) async fn user(&self, token: &str, audiences: &[String], implicit: &[String]) -> Answer {
        let key = (crate::identity::hash(token), audiences.to_vec());
        let now = self.clock.monotonic();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((until, answer)) = kept
            && until > now
        {
            return answer;
        }
        let answer = match self.ask(token, audiences).await {
            Ok(status) => judge(&status, audiences, implicit),
            // An outage is no answer: the next request asks again.
            Err(why) => {
                tracing::error!(why, "the token webhook does not answer");
                return None;
            }
        };
        if !self.config.cache.is_zero() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= KEPT_MAX {
                kept.retain(|_, (until, _)| *until > now);
            }
            if kept.len() < KEPT_MAX {
                kept.insert(key, (now + self.config.cache, answer.clone()));
            }
        }
        answer
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Value, String> {
        let mut review = json!({"kind": "TokenReview", "apiVersion":
            format!("authentication.k8s.io/{}", self.config.version), "metadata": {"creationTimestamp": null},
            "spec": {"token": token}, "status": {"user": {}}});
        review["spec"].set("audiences", audiences.to_vec());
        let body = bytes::Bytes::from(review.to_vec());
        let mut pause = PAUSE;
        let mut tried = 0;
        loop {
            let request = Outbound {
                method: Method::POST,
                url: &self.config.url,
                authorization: self.config.authorization.as_deref(),
                body: body.clone(),
            };
            tried += 1;
            let why = match request.send(self.config.tls.as_ref()).await {
                Ok((200 | 201, body)) => {
                    let answer = Value::from_slice(&body).map_err(|e| e.to_string())?;
                    return Ok(answer["status"].clone());
                }
                // As upstream: what may be better in a moment is tried again.
                Ok((code @ (429 | 500..), _)) => format!("it answered {code}"),
                Ok((code, _)) => return Err(format!("it answered {code}")),
                Err(why) => why,
            };
            if tried >= TRIES {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
        }
    }
}

/// Upstream's rules for audiences: those the service names, else this server's own, must meet the wanted ones.
fn judge(status: &Value, wanted: &[String], implicit: &[String]) -> Answer {
    if status["authenticated"].as_bool() != Some(true) {
        if let Some(error) = status["error"].as_str().filter(|e| !e.is_empty()) {
            tracing::info!(error, "the token webhook knows nobody with this token");
        }
        return None;
    }
    let named: Vec<String> = status["audiences"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let got = if named.is_empty() { implicit } else { &named };
    let met: Vec<String> = wanted.iter().filter(|audience| got.contains(audience)).cloned().collect();
    let mut user = UserInfo::from_value(&status["user"]);
    if met.is_empty() || user.name.is_empty() {
        return None;
    }
    user.add_group(policy::user::AUTHENTICATED);
    Some((user, met))
}

/// Where a webhook is, how it is trusted, and the `Authorization` header it wants.
pub type WebhookAddress = (String, Option<Arc<rustls::ClientConfig>>, Option<String>);

/// The kubeconfig of a webhook (`--authentication-token-webhook-config-file`): its current context's server and user.
///
/// # Errors
/// When the file is none, or says what is not supported.
pub fn read_webhook_config(
    text: &str,
    read: impl Fn(&str) -> Result<String, String>,
    clock: &Clock,
) -> Result<WebhookAddress, String> {
    let file = machinery::yaml::to_value(text.as_bytes())?;
    let named = |list: &str, name: &str| {
        let found = file[list].items().iter().find(|entry| entry.str_at(&["name"]) == name).cloned();
        found.ok_or_else(|| format!("{list} has no {name:?}"))
    };
    let context = named("contexts", file.str_at(&["current-context"]))?;
    let cluster = named("clusters", context.str_at(&["context", "cluster"]))?;
    let user = match context.str_at(&["context", "user"]) {
        "" => Value::Null,
        name => named("users", name)?,
    };
    let data = |value: &Value, name: &str| -> Result<String, String> {
        use base64::Engine;
        let inline = value.str_at(&[&format!("{name}-data")]);
        if !inline.is_empty() {
            let bytes = base64::engine::general_purpose::STANDARD.decode(inline).map_err(|e| e.to_string())?;
            return String::from_utf8(bytes).map_err(|e| e.to_string());
        }
        match value.str_at(&[name]) {
            "" => Ok(String::new()),
            path => read(path),
        }
    };
    let (cluster, user) = (&cluster["cluster"], &user["user"]);
    for unsupported in ["exec", "auth-provider"] {
        if !user[unsupported].is_null() {
            return Err(format!("users[].user.{unsupported} is not supported"));
        }
    }
    if cluster["insecure-skip-tls-verify"].as_bool() == Some(true) {
        return Err("clusters[].cluster.insecure-skip-tls-verify is not supported".to_owned());
    }
    let url = cluster.str_at(&["server"]).to_owned();
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(format!("the server {url:?} is no URL"));
    }
    let authority = data(cluster, "certificate-authority")?;
    if authority.is_empty() && url.starts_with("https://") {
        return Err("clusters[].cluster.certificate-authority is required for https".to_owned());
    }
    let (certificate, key) = (data(user, "client-certificate")?, data(user, "client-key")?);
    let identity = match certificate.is_empty() {
        true => None,
        false => Some(pki::Identity::from_pem(&certificate, &key).map_err(|e| e.to_string())?),
    };
    let tls = match authority.is_empty() {
        true => None,
        false => Some(pki::client_config(&authority, identity.as_ref(), &[], clock).map_err(|e| e.to_string())?),
    };
    let token = user.str_at(&["token"]).to_owned();
    let token = if token.is_empty() && !user.str_at(&["tokenFile"]).is_empty() {
        read(user.str_at(&["tokenFile"]))?.trim().to_owned()
    } else {
        token
    };
    let authorization = match (token.is_empty(), user.str_at(&["username"])) {
        (false, _) => Some(format!("Bearer {token}")),
        (true, "") => None,
        (true, name) => {
            use base64::Engine;
            let pair = format!("{name}:{}", user.str_at(&["password"]));
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        }
    };
    Ok((url, tls, authorization))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_of_the_service_or_of_this_server_must_meet_the_wanted_ones() {
        let (api, other) = (vec!["api".to_owned()], vec!["other".to_owned()]);
        let yes = json!({"authenticated": true, "user": {"username": "jane", "groups": ["dev"]}});
        let (user, met) = judge(&yes, &api, &api).unwrap();
        assert_eq!((user.name.as_str(), met), ("jane", api.clone()));
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
        assert!(judge(&yes, &other, &api).is_none());
        let mut named = yes.clone();
        named["audiences"] = vec!["other"].into();
        assert!(judge(&named, &other, &api).is_some() && judge(&named, &api, &api).is_none());
        for no in [
            json!({}),
            json!({"authenticated": false, "user": {"username": "x"}, "error": "no"}),
            json!({"authenticated": true}),
        ] {
            assert!(judge(&no, &api, &api).is_none());
        }
    }

    #[test]
    fn a_kubeconfig_says_where_the_service_is() {
        let clock = base::FakeClock::new(base::Timestamp::EPOCH).clock();
        let text = "current-context: c\nclusters: [{name: a, cluster: {server: \"http://127.0.0.1:1/x\"}}]\n\
            contexts: [{name: c, context: {cluster: a, user: u}}]\nusers: [{name: u, user: {tokenFile: /t}}]\n";
        let read = |path: &str| if path == "/t" { Ok("secret\n".to_owned()) } else { Err(format!("no {path}")) };
        let (url, tls, authorization) = read_webhook_config(text, read, &clock).unwrap();
        assert!(url.ends_with("/x") && tls.is_none() && authorization.as_deref() == Some("Bearer secret"));
        for bad in
            ["", "current-context: x", &text.replace("http:", "ftp:"), &text.replace("tokenFile: /t", "exec: {}")]
        {
            assert!(read_webhook_config(bad, read, &clock).is_err(), "{bad}");
        }
    }
}
