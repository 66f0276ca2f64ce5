//! Tokens of service accounts at the door: signatures once, claims each time; bound ones and those in Secrets.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use machinery::{GroupResource, Status, Value, json, meta};
use policy::UserInfo;
use policy::admission::Reader;
use policy::authn::{self, LEGACY_ISSUER};

use crate::identity::{TokenHash, hash};
use crate::message::{Body, Caller, Request};
use crate::server::Inner;

/// Tokens whose signature was found good, so that it is checked once.
#[derive(Default)]
pub(crate) struct Verified {
    claims: Mutex<BTreeMap<TokenHash, Arc<Value>>>,
    keys: tokio::sync::Mutex<Option<Arc<serde_json::Value>>>,
}

const VERIFIED_MAX: usize = 4096;
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

impl Inner {
    /// Are tokens with this `iss` ours to judge?
    pub(crate) fn is_own_issuer(&self, iss: &str) -> bool {
        iss == LEGACY_ISSUER || self.config.issuers().any(|own| own == iss)
    }

    /// Was the token's signature found good before?
    pub(crate) fn is_verified(&self, token: &TokenHash) -> bool {
        self.verified.claims.lock().unwrap_or_else(PoisonError::into_inner).contains_key(token)
    }

    /// Whom a token of ours stands for, and for which of the audiences it is.
    ///
    /// # Errors
    /// 401; 503 when the store does not answer.
    pub(crate) async fn service_account(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), Status> {
        let Some(claims) = self.verify(token).await else {
            tracing::info!(why = "its signature is not good", "a service account token is not accepted");
            return Err(Status::unauthorized());
        };
        let now = self.config.clock.now();
        // The token may be newer than what the caches show.
        self.caches.wait(self.written.load(Ordering::Acquire)).await?;
        let reader = self.reader();
        let judged = if claims.str_at(&["iss"]) == LEGACY_ISSUER {
            self.legacy(&claims, token, audiences, &reader)
        } else {
            let issuers: Vec<String> = self.config.issuers().cloned().collect();
            authn::check_claims(&claims, &issuers, audiences, now, &reader)
        };
        judged.map_err(|why| {
            tracing::info!(%why, "a service account token is not accepted");
            Status::unauthorized()
        })
    }

    fn legacy(
        &self,
        claims: &Value,
        token: &str,
        audiences: &[String],
        reader: &dyn Reader,
    ) -> Result<(UserInfo, Vec<String>), String> {
        let own = self.config.audiences();
        let met: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
        if met.is_empty() {
            return Err("a token of a Secret is for this server alone".to_owned());
        }
        let same = |stored: &[u8]| aws_lc_rs::constant_time::verify_slices_are_equal(stored, token.as_bytes()).is_ok();
        let (user, secret) = authn::check_legacy_claims(claims, &same, reader)?;
        self.note_use(&secret);
        user.map(|user| (user, met))
    }

    /// Labels the Secret with the day it was last used (upstream's `LegacyServiceAccountTokenTracking`).
    fn note_use(&self, secret: &Value) {
        let day = |at: base::Timestamp| at.rfc3339().split('T').next().unwrap_or_default().to_owned();
        let now = self.config.clock.now();
        let (today, tomorrow) = (day(now), day(now + std::time::Duration::from_secs(86_400)));
        let used = secret.str_at(&["metadata", "labels", LAST_USED]);
        if used == today || used == tomorrow {
            return;
        }
        let Some(server) = self.own.get().and_then(std::sync::Weak::upgrade) else { return };
        let mut patch = json!({"metadata": {"uid": meta::uid(secret), "labels": {}}});
        patch["metadata"]["labels"].set(LAST_USED, today);
        let path = format!("/api/v1/namespaces/{}/secrets/{}", meta::namespace(secret), meta::name(secret));
        tokio::spawn(async move {
            let own = UserInfo::authenticated("system:apiserver", &[policy::user::MASTERS]);
            let request = Request {
                caller: Caller::Verified(own.clone()),
                ..Request::verified(&own, Method::PATCH, &path, "", Body::Tree(patch))
            };
            let request = request.content_type("application/merge-patch+json");
            let reply = crate::ApiServer { inner: server }.handle(request).await;
            if reply.code >= 400 {
                tracing::warn!(path, code = reply.code, "the use of a token is not noted");
            }
        });
    }

    async fn verify(&self, token: &str) -> Option<Arc<Value>> {
        let key = hash(token);
        let known =
            |verified: &Verified| verified.claims.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(claims) = known(&self.verified) {
            return Some(claims);
        }
        let keys = self.jwks().await?;
        let claims = Arc::new(Value::from(pki::verify_jwt(token, &keys, &pki::TOKEN_ALGORITHMS)?));
        let mut kept = self.verified.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= VERIFIED_MAX {
            kept.clear();
        }
        kept.insert(key, claims.clone());
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
    pub(crate) fn bootstrap_user(&self, id: &str, given: &str) -> Option<UserInfo> {
        use base64::Engine;
        let name = format!("bootstrap-token-{id}");
        let secret = self.reader().get(&GroupResource::new("", "secrets"), "kube-system", &name)?;
        if secret.str_at(&["type"]) != "bootstrap.kubernetes.io/token" || meta::is_terminating(&secret) {
            return None;
        }
        let data = |key: &str| -> String {
            let bytes = base64::engine::general_purpose::STANDARD.decode(secret.str_at(&["data", key]));
            bytes.ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
        };
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(data("token-secret").as_bytes(), given.as_bytes());
        let expiration = data("expiration");
        let expired = !expiration.is_empty()
            && base::Timestamp::parse(&expiration).map_or(true, |at| at <= self.config.clock.now());
        if same.is_err() || data("token-id") != id || expired || data("usage-bootstrap-authentication") != "true" {
            return None;
        }
        let mut user = UserInfo::authenticated(&format!("system:bootstrap:{id}"), &["system:bootstrappers"]);
        for group in data("auth-extra-groups").split(',').filter(|g| g.starts_with("system:bootstrappers:")) {
            user.add_group(group);
        }
        Some(user)
    }
}
