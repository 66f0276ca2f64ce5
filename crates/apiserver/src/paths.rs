//! Paths that are no resources: version, health, metrics, discovery, OpenAPI, OpenID.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use machinery::{Reason, Status, Value, json};
use registry::{Registry, discovery};

use crate::message::{Content, Reply};
use crate::server::Call;

/// Documents made from the registry, kept as long as it stays the same.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Option<(Arc<Registry>, Kept)>>);

type Kept = BTreeMap<String, (Bytes, String)>;

impl Documents {
    /// The document under `name`, made on first use; its bytes and ETag.
    pub(crate) fn get(
        &self,
        registry: &Arc<Registry>,
        name: &str,
        make: impl FnOnce(&Registry) -> Vec<u8>,
    ) -> (Bytes, String) {
        {
            let kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some((of, documents)) = &*kept
                && Arc::ptr_eq(of, registry)
                && let Some(found) = documents.get(name)
            {
                return found.clone();
            }
        }
        let body = Bytes::from(make(registry));
        let made = (body.clone(), hash(&body));
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *kept {
            Some((of, documents)) if Arc::ptr_eq(of, registry) => {
                documents.insert(name.to_owned(), made.clone());
            }
            other => *other = Some((registry.clone(), BTreeMap::from([(name.to_owned(), made.clone())]))),
        }
        made
    }
}

/// Upper-case hex SHA-512, as upstream's ETags.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// Checks of the health endpoints; all of them hold when anything is answered at all, but the store's.
const CHECKS: [&str; 6] = [
    "ping",
    "log",
    "etcd",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "informer-sync",
];

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

impl Call<'_> {
    fn accept(&self) -> &str {
        self.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    fn not_found() -> Reply {
        crate::route::no_page()
    }

    pub(crate) async fn path(&self) -> Reply {
        let path = self.info.path.trim_end_matches('/');
        // This one asks nobody for a verb, upstream too.
        if path == "/openapi/v2" {
            return self.openapi_v2();
        }
        if !matches!(self.info.verb.as_str(), "get" | "head" | "options") {
            return Self::not_found();
        }
        match path {
            "" => self.root(),
            "/version" => self.version(),
            "/healthz" | "/livez" | "/readyz" => self.health(path, None).await,
            "/metrics" => Reply::text(200, self.server.metrics.render(self.server.config.clock.monotonic())),
            "/api" | "/apis" => self.groups(path == "/api"),
            "/openapi/v3" => self.openapi_v3_index(),
            "/.well-known/openid-configuration" | "/openid/v1/jwks" if self.unacceptable(path).is_some() => {
                self.unacceptable(path).unwrap_or_else(Self::not_found)
            }
            "/.well-known/openid-configuration" => self.openid_configuration().await,
            "/openid/v1/jwks" => match self.server.jwks().await {
                Some(keys) => cached(document(200, "application/jwk-set+json", keys.to_string().into_bytes())),
                None => Self::no_keys(),
            },
            _ => self.deeper(path).await,
        }
    }

    async fn deeper(&self, path: &str) -> Reply {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let registry = self.server.registry.load_full();
        let found = match parts.as_slice() {
            ["api", version] => discovery::resources(&registry, "", version),
            ["apis", group] => discovery::group(&registry, group),
            ["apis", group, version] => discovery::resources(&registry, group, version),
            ["healthz" | "livez" | "readyz", check @ ..] => {
                return self.health(&format!("/{}", parts[0]), Some(&check.join("/"))).await;
            }
            ["openapi", "v3", rest @ ..] => return self.openapi_v3(&rest.join("/")),
            _ => None,
        };
        match found {
            Some(value) => Reply::tree(200, value, ""),
            None => match parts.as_slice() {
                ["api", ..] => crate::route::unknown(&registry, ""),
                ["apis", group, _] => crate::route::unknown(&registry, group),
                _ => Self::not_found(),
            },
        }
    }

    fn root(&self) -> Reply {
        let registry = self.server.registry.load_full();
        let mut paths = vec![
            "/.well-known/openid-configuration".to_owned(),
            "/api".to_owned(),
            "/api/v1".to_owned(),
            "/apis".to_owned(),
        ];
        for (group, versions) in registry.groups().into_iter().filter(|(g, _)| !g.is_empty()) {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
        }
        paths.extend(
            ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
                .map(str::to_owned),
        );
        paths.sort_unstable();
        let mut value = Value::object();
        value.set("paths", paths);
        Reply::tree(200, value, "")
    }

    fn version(&self) -> Reply {
        let config = &self.server.config;
        let (major, minor) = config.minor.split_once('.').unwrap_or(("1", ""));
        let commit = &hash(config.git_version.as_bytes()).to_lowercase()[..40];
        let minor_number: u32 = minor.parse().unwrap_or(0);
        Reply::tree(
            200,
            json!({
                "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
                "minCompatibilityMajor": major, "minCompatibilityMinor": minor_number.saturating_sub(1).to_string(),
                "gitVersion": config.git_version, "gitCommit": commit, "gitTreeState": "clean",
                "buildDate": "2025-09-10T00:00:00Z", "goVersion": "go1.24.6", "compiler": "gc",
                "platform": "linux/amd64",
            }),
            "",
        )
    }

    async fn health(&self, path: &str, one: Option<&str>) -> Reply {
        let store = self.server.config.store.status().await.is_ok_and(|status| status.leader != 0);
        let excluded: Vec<&str> = self.query.all("exclude").collect();
        let holds = |check: &str| check != "etcd" || store;
        if let Some(check) = one {
            return match CHECKS.contains(&check) {
                false => Self::not_found(),
                true if holds(check) => Reply::text(200, "ok"),
                true => Reply::text(500, "internal server error: not ready\n"),
            };
        }
        let kind = path.trim_start_matches('/');
        let mut lines = String::new();
        let mut failed = false;
        for check in CHECKS {
            if excluded.contains(&check) {
                lines.push_str(&format!("[+]{check} excluded: ok\n"));
            } else if holds(check) {
                lines.push_str(&format!("[+]{check} ok\n"));
            } else {
                failed = true;
                lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
            }
        }
        if failed {
            return Reply::text(500, format!("{lines}{kind} check failed\n")).nosniff();
        }
        if self.query.has("verbose") {
            Reply::text(200, format!("{lines}{kind} check passed\n")).nosniff()
        } else {
            Reply::text(200, "ok").nosniff()
        }
    }

    fn groups(&self, core: bool) -> Reply {
        let registry = self.server.registry.load_full();
        // v2beta1 is not served any more since 1.33 (`AggregatedDiscoveryRemoveBetaType`).
        if self.accept().contains("APIGroupDiscoveryList") && accepts_v2(self.accept()) {
            let name = if core { "/api" } else { "/apis" };
            let made =
                self.server.documents.get(&registry, name, |registry| discovery::aggregated(registry, core).to_vec());
            let mut reply = self.with_etag(made, AGGREGATED);
            reply.headers.insert(header::VARY, HeaderValue::from_static("Accept"));
            reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
            return reply;
        }
        let address = format!("{}:{}", self.server.config.advertise_address, self.server.config.advertise_port);
        let value = if core { discovery::api_versions(&address) } else { discovery::groups(&registry) };
        Reply::tree(200, value, "")
    }

    /// The document, or 304 when the client has it.
    pub(crate) fn with_etag(&self, (body, etag): (Bytes, String), media: &str) -> Reply {
        let quoted = format!("\"{etag}\"");
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            headers.insert(header::ETAG, value);
        }
        let known = self.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let same = known.is_some_and(|k| k.split(',').any(|k| k.trim().trim_start_matches("W/") == quoted));
        let mut reply = if same { document(304, "", Bytes::new()) } else { document(200, media, body) };
        reply.headers = headers;
        reply
    }

    /// 406 as go-restful answers who wants another representation than the only one there is.
    fn unacceptable(&self, path: &str) -> Option<Reply> {
        let only = if path == "/openid/v1/jwks" { "application/jwk-set+json" } else { "application/json" };
        let accept = self.accept();
        let kinds = || accept.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
        if accept.is_empty() || kinds().any(|kind| kind == only || kind == "*/*") {
            return None;
        }
        let text = format!("406: Not Acceptable\n\nAvailable representations: {only}");
        Some(Status { generic: true, ..Status::new(Reason::NotAcceptable, text) }.into())
    }

    fn no_keys() -> Reply {
        Reply::text(503, "the keys are not made yet\n")
    }

    async fn openid_configuration(&self) -> Reply {
        let issuer = &self.server.config.issuer;
        if !issuer.starts_with("https://") {
            return Self::not_found();
        }
        let own = match self.server.config.jwks_uri.as_str() {
            "" => {
                let config = &self.server.config;
                format!("https://{}:{}/openid/v1/jwks", config.advertise_address, config.advertise_port)
            }
            uri => uri.to_owned(),
        };
        let Some(keys) = self.server.jwks().await else { return Self::no_keys() };
        let keys = keys["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let algorithms: BTreeSet<&str> = keys.iter().filter_map(|key| key["alg"].as_str()).collect();
        let value = json!({
            "issuer": issuer, "jwks_uri": own,
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms.into_iter().collect::<Vec<_>>(),
        });
        cached(document(200, "application/json", value.to_vec()))
    }
}

/// As upstream serves what relying parties read: it may be kept for an hour.
fn cached(mut reply: Reply) -> Reply {
    reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    reply
}

/// Does an Accept header take v2 itself, not only v2beta1?
fn accepts_v2(accept: &str) -> bool {
    accept.split(',').any(|one| one.split(';').any(|p| p.trim() == "v=v2"))
}

pub(crate) fn document(code: u16, media: &str, body: impl Into<Bytes>) -> Reply {
    Reply::new(code, Content::Bytes { content_type: media.to_owned(), body: body.into() })
}
