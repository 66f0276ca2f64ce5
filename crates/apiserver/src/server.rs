//! The server: what it holds, and the straight line every request takes.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use arc_swap::ArcSwap;
use base::Rng;
use futures_util::FutureExt;
use http::HeaderMap;
use machinery::schema::Types;
use machinery::{Status, Value};
use pki::{ClientCertificates, ClientVerifier, ServingCertificate};
use policy::{AccessSettings, Attributes, Authorizers, Beside, Decision, GoogleIdentity, UserInfo};
use registry::defaults::Defaults;
use registry::{Options, Registry, Resource};
use tokio::sync::watch;

use crate::authn::Identified;
use crate::caches::Caches;
use crate::derived::Derived;
use crate::encryption::{Encryption, PlainStore};
use crate::identity::Tokens;
use crate::info::{Query, RequestInfo};
use crate::issuers::{Issuers, TrustedIssuer};
use crate::message::{Body, Caller, Peer, Reply, Request};
use crate::metrics::Metrics;
use crate::reader::CacheReader;
use crate::service_tokens::Verified;
use crate::token_webhook::Webhook;
use crate::{Config, Error};

/// A running API server. Clones are handles on the same one.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

/// Everything the server holds.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) types: Arc<Types>,
    pub(crate) defaults: Defaults,
    pub(crate) registry: Arc<ArcSwap<Registry>>,
    pub(crate) authorizers: Arc<ArcSwap<Authorizers>>,
    /// What the cluster's owner says of access; changes while the server runs.
    pub(crate) access: ArcSwap<AccessSettings>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) encryption: Arc<Encryption>,
    pub(crate) clients: ClientVerifier,
    pub(crate) front_proxies: Option<ClientVerifier>,
    pub(crate) serving: Arc<ServingCertificate>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) tokens: Tokens,
    pub(crate) verified: Verified,
    pub(crate) issuers: Issuers,
    pub(crate) webhook: Option<Webhook>,
    /// This server, for requests that it makes to itself.
    pub(crate) own: OnceLock<Weak<Inner>>,
    pub(crate) rng: Mutex<Rng>,
    /// Revision of the newest write whose effect the next request must see.
    pub(crate) written: AtomicU64,
    /// Writes of Services wait here for each other.
    pub(crate) service_turn: tokio::sync::Mutex<()>,
    /// The lease that new events get, and when it was granted.
    pub(crate) event_lease: tokio::sync::Mutex<Option<(i64, std::time::Duration)>>,
    pub(crate) metrics: Metrics,
    pub(crate) documents: crate::paths::Documents,
    pub(crate) openapi: crate::openapi::Documents,
    pub(crate) stop: watch::Sender<bool>,
}

/// A request whose caller is known.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Inner,
    pub(crate) info: RequestInfo,
    pub(crate) query: Query,
    pub(crate) user: UserInfo,
    /// Who acts as `user`, when it is somebody else.
    pub(crate) impersonator: Option<UserInfo>,
    pub(crate) google: Option<GoogleIdentity>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

impl ApiServer {
    /// Reads the store, makes what a new cluster needs, and is ready when it returns.
    ///
    /// # Errors
    /// Settings or certificates that are not usable; a store that does not answer.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let facts = facts::set(&config.minor)
            .ok_or_else(|| Error::Config(format!("Kubernetes {} is not known", config.minor)))?;
        let options =
            Options { feature_gates: config.feature_gates.clone(), runtime_config: config.runtime_config.clone() };
        let registry = Registry::builtin(facts, &options).map_err(Error::Config)?;
        let mut defaults = Defaults::parse(facts.defaults);
        for (name, on) in registry.features().iter() {
            defaults.set_gate(name, on);
        }
        let rows = registry.stored();
        let types = Arc::new(Types::new(facts.types));
        let reader = crate::stored::Reader::new(types.clone(), registry.clone());
        let (derived, published) = Derived::new(registry);
        let (clock, entropy) = (config.clock.clone(), config.entropy.clone());
        let encryption = Encryption::start(config.keys.clone(), &config.access.encryption_key, clock, entropy).await;
        let store = PlainStore::new(config.store.clone(), encryption.clone());
        let (caches, feeder) = Caches::open(store, reader, rows, derived).await?;
        let serving = ServingCertificate::new(&config.serving).map_err(Error::Certificates)?;
        let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let tls = pki::server_config(serving.clone(), ClientCertificates::Requested, &alpn, &config.clock)
            .map_err(Error::Certificates)?;
        let verifier = |pem: &str| ClientVerifier::new(pem, &config.clock).map_err(Error::Certificates);
        let front_proxies =
            (!config.front_proxy_ca.is_empty()).then(|| verifier(&config.front_proxy_ca)).transpose()?;
        let inner = Inner {
            types,
            defaults,
            registry: published.registry,
            authorizers: published.authorizers,
            access: ArcSwap::from_pointee(config.access.clone()),
            caches,
            encryption,
            clients: verifier(&config.client_ca)?,
            front_proxies,
            serving,
            tls,
            tokens: Tokens::new(config.identity.clone(), config.clock.clone()),
            verified: Verified::default(),
            issuers: Issuers::new(&config.jwt, config.clock.clone()),
            webhook: config.webhook.clone().map(|webhook| Webhook::new(webhook, config.clock.clone())),
            own: OnceLock::new(),
            rng: Mutex::new(Rng::new(u64::from_le_bytes(config.entropy.bytes()))),
            written: AtomicU64::new(0),
            service_turn: tokio::sync::Mutex::default(),
            event_lease: tokio::sync::Mutex::default(),
            metrics: Metrics::new(config.clock.monotonic(), &config.host_name),
            documents: crate::paths::Documents::default(),
            openapi: crate::openapi::Documents::default(),
            stop: watch::Sender::new(false),
            config,
        };
        let server = Self { inner: Arc::new(inner) };
        let _ = server.inner.own.set(Arc::downgrade(&server.inner));
        server.inner.issuers.start(&server.inner.stop);
        tokio::spawn(feeder.run(server.inner.stop.subscribe()));
        server.inner.bootstrap().await?;
        tokio::spawn(crate::crd::run(server.inner.clone()));
        tokio::spawn(crate::authentication_config::keep(server.inner.clone()));
        tokio::spawn(crate::compact::run(server.inner.clone()));
        tokio::spawn(crate::encryption::keep(server.inner.clone()));
        tokio::spawn(crate::claims::repair(server.inner.clone()));
        Ok(server)
    }

    /// Ends watches and background tasks; requests under way are answered.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Takes the tokens of other issuers than before, once those are found; whether it did is counted.
    ///
    /// # Errors
    /// When one of them is not found within a minute: then nothing changes.
    pub async fn set_issuers(&self, issuers: &[TrustedIssuer]) -> Result<(), String> {
        self.inner.issuers.replace(issuers, &self.inner.stop).await
    }

    /// Counts a reload of the authentication configuration.
    pub fn count_authentication_reload(&self, is_success: bool) {
        self.inner.metrics.authentication_reload(is_success, self.inner.config.clock.now());
    }

    /// New connections are shown this certificate.
    ///
    /// # Errors
    /// When key and certificate do not belong together.
    pub fn replace_certificate(&self, identity: &pki::Identity) -> Result<(), Error> {
        self.inner.serving.replace(identity).map_err(Error::Certificates)
    }

    /// Other rules of access from the next request on; open watches stay. Under another key Secrets are stored anew, which
    /// goes on for a while after this.
    pub fn set_access(&self, settings: AccessSettings) {
        self.inner.encryption.set_key(&settings.encryption_key);
        self.inner.access.store(Arc::new(settings));
    }

    /// Whom the holder of these credentials is taken for, before any impersonation.
    ///
    /// # Errors
    /// 401 for credentials that are not good, and for none where nobody comes in without.
    pub async fn identify(&self, peer: &Peer, path: &str, headers: &HeaderMap) -> Result<UserInfo, Status> {
        self.inner.identify(peer, path, headers).await.map(|who| who.user)
    }

    /// Answers one request. A panic on the way is a 500 and harms nobody else.
    pub async fn handle(&self, request: Request) -> Reply {
        let started = self.inner.config.clock.monotonic();
        let method = request.method.clone();
        let reply = AssertUnwindSafe(self.inner.answer(request)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(%method, "a request panicked");
            let text = "This request caused apiserver to panic. Look in the logs for details.";
            Reply::failure(crate::message::internal(text))
        });
        let took = self.inner.config.clock.monotonic().saturating_sub(started);
        self.inner.metrics.request(&method, reply.code, took);
        reply
    }
}

impl Inner {
    /// The answer, with what the client is to be told of the credential that it sent.
    async fn answer(&self, request: Request) -> Reply {
        let warning = match &request.caller {
            // Who is known by a certificate is not asked for a token.
            Caller::Connection(peer) if peer.certificates.is_empty() => crate::authn::ignored(&request.headers),
            Caller::Connection(_) | Caller::Verified(_) => None,
        };
        let mut reply = self.pass(request).await;
        if let Some(warning) = warning {
            reply.warnings.insert(0, warning.to_owned());
        }
        reply
    }

    /// parse → authenticate → audit → authorize → row → verb
    async fn pass(&self, mut request: Request) -> Reply {
        let query = Query::parse(&request.query);
        let info = RequestInfo::parse(&request.method, &request.path, &query);
        let limit = match crate::deadline::limit(&info, &query) {
            Ok(limit) => limit,
            Err(status) => return status.into(),
        };
        let who = match &request.caller {
            Caller::Verified(user) => Ok(Identified::from(user.clone())),
            Caller::Connection(peer) => self.identify(peer, &request.path, &request.headers).await,
        };
        crate::websocket_token::remove(&mut request.headers);
        if let Err(status) = self.caches.wait(self.written.load(Ordering::Acquire)).await {
            return status.into();
        }
        if let (Ok(_), Some(why)) = (&who, crate::authn::groundless(&request.headers)) {
            let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
            let uri = format!("{}{query}", request.path);
            return Reply::text(500, format!("Internal Server Error: {uri:?}: {why}\n")).nosniff();
        }
        let who = match who.and_then(|who| self.impersonate(who, &request.headers)) {
            Ok(who) => who,
            Err(status) => return status.into(),
        };
        let call = Call {
            server: self,
            info,
            query,
            user: who.user,
            impersonator: who.impersonator,
            google: who.google,
            headers: request.headers,
            body: request.body,
        };
        let mut audit = crate::audit::Audit::open(&call, &request.path, &request.query, &request.method);
        let reply = match call.authorize(&mut audit) {
            Ok(()) => crate::deadline::within(limit, call.dispatch()).await,
            Err(status) => status.into(),
        };
        if let Some(audit) = audit {
            audit.close(self, &reply);
        }
        reply
    }

    pub(crate) fn reader(&self) -> CacheReader<'_> {
        CacheReader { caches: &self.caches, registry: self.registry.load_full() }
    }

    /// Asks the authorizers as they are now.
    pub(crate) fn authorize(&self, attributes: &Attributes<'_>, google: Option<&GoogleIdentity>) -> Decision {
        let legacy_abac = self.access.load().legacy_abac;
        self.authorizers.load().authorize(attributes, Beside { google, legacy_abac })
    }

    pub(crate) fn with_rng<T>(&self, make: impl FnOnce(&mut Rng) -> T) -> T {
        let mut rng = self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        make(&mut rng)
    }

    /// The next request waits until the caches show this write.
    pub(crate) fn note_written(&self, row: &Resource, revision: u64) {
        let matters = match row.gvk.group.as_str() {
            "" => matches!(
                row.plural.as_str(),
                "namespaces" | "limitranges" | "resourcequotas" | "serviceaccounts" | "services" | "secrets" | "nodes"
            ),
            "rbac.authorization.k8s.io" | "apiextensions.k8s.io" | "scheduling.k8s.io" | "storage.k8s.io" => true,
            "node.k8s.io" | "admissionregistration.k8s.io" | "networking.k8s.io" => true,
            _ => false,
        };
        if matters {
            self.written.fetch_max(revision, Ordering::AcqRel);
        }
    }
}

impl Call<'_> {
    fn authorize(&self, audit: &mut Option<crate::audit::Audit>) -> Result<(), Status> {
        let info = &self.info;
        let selector = self.equalities();
        let selector: Vec<(&str, &str)> = selector.iter().map(|(f, v)| (f.as_str(), v.as_str())).collect();
        let attributes = Attributes {
            user: &self.user,
            verb: &info.verb,
            namespace: &info.namespace,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            is_resource: info.is_resource,
            path: &info.path,
            field_selector: &selector,
        };
        let decision = self.server.authorize(&attributes, self.google.as_ref());
        if let Some(audit) = audit {
            audit.decided(&decision);
        }
        if decision.allowed { Ok(()) } else { Err(policy::forbidden(&attributes, &decision)) }
    }

    fn equalities(&self) -> Vec<(String, String)> {
        use machinery::fields::{Operator, Selector};
        if !self.info.is_resource || !self.query.has("fieldSelector") {
            return Vec::new();
        }
        let selector = Selector::parse(self.query.get("fieldSelector")).unwrap_or_default();
        let equal = selector.requirements().filter(|(_, op, _)| *op == Operator::Equals);
        equal.map(|(field, _, value)| (field.to_owned(), value.to_owned())).collect()
    }

    async fn dispatch(self) -> Reply {
        if !self.info.is_resource {
            return self.path().await;
        }
        let registry = self.server.registry.load_full();
        let Some(row) = registry.lookup(&self.info.group, &self.info.version, &self.info.resource).cloned() else {
            return crate::route::unknown(&registry, &self.info.group);
        };
        if let Some(reply) = crate::route::refusal(&row, &self.info) {
            return reply;
        }
        if let Some(warning) = row.warning.clone() {
            let mut reply = self.resource(row, &registry).await;
            reply.warnings.push(warning);
            return reply;
        }
        self.resource(row, &registry).await
    }

    async fn resource(self, row: Arc<Resource>, registry: &Registry) -> Reply {
        let reply = if !self.info.subresource.is_empty() {
            self.subresource(row, registry).await
        } else if row.etcd_prefix.is_empty() {
            self.virtual_resource(&row).await
        } else if row.custom.is_none() && !row.allows(&self.info.verb) {
            Err(Status::method_not_supported(&row.group_resource(), &self.info.verb))
        } else {
            match self.info.verb.as_str() {
                "get" => self.get(&row).await,
                "list" => self.list(&row).await,
                "watch" => self.watch(&row).await,
                "create" => self.create(&row).await,
                "update" => self.update(&row, registry::Subresource::None).await,
                "patch" => self.patch(&row, registry::Subresource::None).await,
                "delete" => self.delete(&row).await,
                "deletecollection" => self.delete_collection(&row).await,
                verb => Err(Status::method_not_supported(&row.group_resource(), verb)),
            }
        };
        reply.unwrap_or_else(Reply::from)
    }

    /// The bytes or tree of the body.
    pub(crate) fn has_body(&self) -> bool {
        match &self.body {
            Body::Empty => false,
            Body::Bytes(bytes) => !bytes.is_empty(),
            Body::Tree(tree) => !matches!(tree, Value::Null),
        }
    }
}
