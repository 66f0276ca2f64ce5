//! A node's certificates: kept between starts, asked for with the bootstrap credential when there are none, renewed before
//! they end (`client-go/util/certificate`, `pkg/kubelet/certificate/bootstrap`).
//!
//! ```text
//! stored and good? ──yes──────────────────────────────► client certificate ─► register, serve ─► renew at 70 to 90 %
//!        └─no─► bootstrap credential ─► request ─► approved, signed ─┘              └► serving certificate, the same way
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Rng, Timestamp};
use pki::{ClientIdentity, Identity, KeyRequest, ServingCertificate};
use registry::certificate_request::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};
use serde::{Deserialize, Serialize};

use super::request::{self, Filing, Refusal};
use crate::api::{Api, HttpsClient};
use crate::config::{Bootstrap, NodeSpec, NodesConfig};

const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];
const SERVING_USAGES: [&str; 2] = ["digital signature", "server auth"];
const NODES_GROUP: &str = "system:nodes";

/// The certificates of one node, and where they come from.
pub(super) struct Credentials {
    node: String,
    names: Vec<String>,
    ips: Vec<IpAddr>,
    bootstrap: Bootstrap,
    api: (std::net::SocketAddr, String, Option<IpAddr>),
    clock: Clock,
    client: Arc<ClientIdentity>,
    serving: Mutex<Option<Arc<ServingCertificate>>>,
    held: Mutex<Held>,
    rng: Mutex<Rng>,
}

/// What is kept, sealed, under the node's name.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    client: Option<Pair>,
    serving: Option<Pair>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Pair {
    chain: String,
    key: zeroize::Zeroizing<String>,
}

#[derive(Default)]
struct Held {
    client: Option<(Pair, Validity)>,
    serving: Option<(Pair, Validity)>,
}

/// When a certificate ends, and when it is time for the next.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_after: Timestamp,
    renew_at: Timestamp,
}

impl From<&Identity> for Pair {
    fn from(identity: &Identity) -> Self {
        Self { chain: identity.certificate_pem(), key: identity.key_pem() }
    }
}

impl Credentials {
    pub(super) fn new(config: &NodesConfig, spec: &NodeSpec, bootstrap: Bootstrap, seed: u64) -> Self {
        let parse = |text: &String| text.parse::<IpAddr>().ok();
        let mut ips: Vec<IpAddr> = [&spec.internal_ip, &spec.external_ip].into_iter().filter_map(parse).collect();
        // The address that stands for the machine here; without aliases all machines share 127.0.0.1.
        let own = spec.kubelet.map(|address| address.ip());
        ips.extend(own.filter(|ip| *ip != IpAddr::from([127, 0, 0, 1])));
        Self {
            node: spec.name.clone(),
            names: vec![spec.name.clone()],
            ips,
            client: bootstrap.client.clone(),
            bootstrap,
            api: (config.api_address, config.api_server_name.clone(), spec.source),
            clock: config.clock.clone(),
            serving: Mutex::default(),
            held: Mutex::default(),
            rng: Mutex::new(Rng::new(seed)),
        }
    }

    /// A client of the API server under the node's own certificate, whichever that is at the time.
    ///
    /// # Errors
    /// When the server's name cannot be used.
    pub(super) fn api(&self) -> Result<HttpsClient, machinery::Status> {
        let ca = &self.bootstrap.cluster_ca;
        let tls = pki::client_config_with(ca, self.client.clone(), &[b"h2"], &self.clock);
        let tls = tls.map_err(machinery::Status::internal)?;
        let (address, name, source) = &self.api;
        HttpsClient::new(*address, name, &tls, None, *source)
    }

    /// Takes the certificates of an earlier start that are still good; whether the client's is among them.
    pub(super) async fn load(&self) -> bool {
        let (vault, file) = (self.bootstrap.vault.clone(), self.file());
        let loaded = tokio::task::spawn_blocking(move || vault.load(&file)).await;
        let kept = match loaded {
            Ok(Ok(Some(bytes))) => serde_json::from_slice::<Kept>(&bytes).unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(node = self.node, error, "the stored certificates cannot be read");
                Kept::default()
            }
            _ => Kept::default(),
        };
        if let Some((identity, pair)) = kept.serving.and_then(|pair| self.good(pair)) {
            self.take_serving(&identity, pair);
        }
        let Some((identity, pair)) = kept.client.and_then(|pair| self.good(pair)) else { return false };
        self.take_client(&identity, pair)
    }

    /// Is it for this node, of today's authority, and not over?
    fn good(&self, pair: Pair) -> Option<(Identity, Pair)> {
        let identity = Identity::from_pem(&pair.chain, &pair.key).ok()?;
        let subject = pki::subject(identity.chain().first()?).ok()?;
        let ours = subject.common_name == format!("system:node:{}", self.node);
        let issued = pki::is_issued_by(identity.chain().first()?, &self.bootstrap.cluster_ca);
        let now = self.clock.now();
        (ours && issued && subject.not_before <= now && now < subject.not_after).then_some((identity, pair))
    }

    /// The first client certificate.
    ///
    /// # Errors
    /// When there is no bootstrap credential, or the request is not granted.
    pub(super) async fn join(&self) -> Result<(), Refusal> {
        let unavailable = |text: String| Refusal::Api(machinery::Status::unavailable(text));
        let secret = (self.bootstrap.secret)().await.map_err(unavailable)?;
        let failed = |error: pki::SignerError| unavailable(error.to_string());
        let tls = pki::client_config(&self.bootstrap.cluster_ca, Some(&secret), &[b"h2"], &self.clock);
        let (address, name, source) = &self.api;
        let api = Api::Https(HttpsClient::new(*address, name, &*tls.map_err(failed)?, None, *source)?);
        let key = self.new_key(&[], &[]).map_err(failed)?;
        let pem = match &self.bootstrap.attest {
            Some(attest) => attest(key.der()).map_err(failed)?,
            None => key.pem(),
        };
        let name = digested_name(&key, &self.user());
        let filing = Filing { name: Some(&name), signer: KUBELET_CLIENT_SIGNER, usages: &CLIENT_USAGES, pem: &pem };
        let chain = request::certificate(&api, &filing).await?;
        self.complete_client(&key, &chain).map_err(failed)?;
        self.keep().await;
        Ok(())
    }

    /// The next client certificate, asked for with this one.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub(super) async fn renew_client(&self, api: &HttpsClient) -> Result<(), Refusal> {
        let failed = |error: pki::SignerError| Refusal::Api(machinery::Status::unavailable(error.to_string()));
        let key = self.new_key(&[], &[]).map_err(failed)?;
        let pem = key.pem();
        let filing = Filing { name: None, signer: KUBELET_CLIENT_SIGNER, usages: &CLIENT_USAGES, pem: &pem };
        let chain = request::certificate(&Api::Https(api.clone()), &filing).await?;
        self.complete_client(&key, &chain).map_err(failed)?;
        // What is open goes on under the certificate that ends.
        api.disconnect().await;
        self.keep().await;
        Ok(())
    }

    /// The first or next serving certificate.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub(super) async fn renew_serving(&self, api: &HttpsClient) -> Result<(), Refusal> {
        let failed = |error: pki::SignerError| Refusal::Api(machinery::Status::unavailable(error.to_string()));
        let key = self.new_key(&self.names, &self.ips).map_err(failed)?;
        let pem = key.pem();
        let filing = Filing { name: None, signer: KUBELET_SERVING_SIGNER, usages: &SERVING_USAGES, pem: &pem };
        let chain = request::certificate(&Api::Https(api.clone()), &filing).await?;
        let identity = key.complete(&chain).map_err(failed)?;
        self.take_serving(&identity, Pair::from(&identity));
        self.keep().await;
        Ok(())
    }

    /// The certificate that the node's own server shows, once there is one.
    pub(super) fn serving(&self) -> Option<Arc<ServingCertificate>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the client's and the serving certificate are good.
    pub(super) fn validity(&self) -> (Option<Validity>, Option<Validity>) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        (held.client.as_ref().map(|(_, v)| *v), held.serving.as_ref().map(|(_, v)| *v))
    }

    /// Renews what is due, for ever. `served` is called once there is a serving certificate.
    pub(super) async fn look_after(&self, api: &HttpsClient, served: impl Fn() + Send + Sync) {
        let mut retry = super::RETRY_FIRST;
        loop {
            let (client, serving) = self.validity();
            if serving.is_some() {
                served();
            }
            let now = self.clock.now();
            let due = |held: Option<Validity>| held.map_or(now, |held| held.renew_at);
            let next = due(client).min(due(serving));
            if next > now {
                tokio::time::sleep(next.since(now).min(LOOK_AGAIN)).await;
                continue;
            }
            let of_client = due(client) <= now;
            let outcome = if of_client { self.renew_client(api).await } else { self.renew_serving(api).await };
            match outcome {
                Ok(()) => tracing::info!(node = self.node, "has a new certificate"),
                Err(error) => tracing::warn!(node = self.node, %error, "no new certificate yet"),
            }
            let (client, serving) = self.validity();
            let still_due = if of_client { client } else { serving }.is_none_or(|v| v.renew_at <= self.clock.now());
            if still_due {
                // Refused, or so short-lived that it is time for the next already.
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(super::REFUSED_RETRY_MAX);
            } else {
                retry = super::RETRY_FIRST;
            }
        }
    }

    fn user(&self) -> String {
        format!("system:node:{}", self.node)
    }

    fn file(&self) -> String {
        format!("node-{}", self.node)
    }

    fn new_key(&self, names: &[String], ips: &[IpAddr]) -> Result<KeyRequest, pki::SignerError> {
        KeyRequest::new(&self.user(), &[NODES_GROUP.to_owned()], names, ips)
    }

    fn complete_client(&self, key: &KeyRequest, chain: &str) -> Result<(), pki::SignerError> {
        let identity = key.complete(chain)?;
        self.take_client(&identity, Pair::from(&identity));
        Ok(())
    }

    fn take_client(&self, identity: &Identity, pair: Pair) -> bool {
        let Some(validity) = self.validity_of(identity) else { return false };
        if self.client.replace(identity).is_err() {
            return false;
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).client = Some((pair, validity));
        true
    }

    fn take_serving(&self, identity: &Identity, pair: Pair) {
        let Some(validity) = self.validity_of(identity) else { return };
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match &*serving {
            Some(serving) => serving.replace(identity),
            None => ServingCertificate::new(identity).map(|new| *serving = Some(new)),
        };
        if taken.is_ok() {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).serving = Some((pair, validity));
        }
    }

    /// At 70 to 90 % of a certificate's life it is time for the next, so that nodes that came together do not ask together.
    fn validity_of(&self, identity: &Identity) -> Option<Validity> {
        let subject = pki::subject(identity.chain().first()?).ok()?;
        let life = subject.not_after.since(subject.not_before);
        let share = self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(201);
        let renew_at = subject.not_before + life * u32::try_from(700 + share).unwrap_or(800) / 1000;
        Some(Validity { not_after: subject.not_after, renew_at })
    }

    async fn keep(&self) {
        let kept = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let pair = |held: &Option<(Pair, Validity)>| held.as_ref().map(|(pair, _)| pair.clone());
            Kept { client: pair(&held.client), serving: pair(&held.serving) }
        };
        let bytes = zeroize::Zeroizing::new(serde_json::to_vec(&kept).expect("text always serializes"));
        let (vault, file) = (self.bootstrap.vault.clone(), self.file());
        let saved = tokio::task::spawn_blocking(move || vault.save(&file, &bytes)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(node = self.node, error, "the node's certificates are not stored");
        }
    }
}

/// The longest sleep until a certificate is looked at again: the wall clock may be moved meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// The name under which a kubelet files its first request: from key, subject and usages.
fn digested_name(key: &KeyRequest, user: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let parts = [user, NODES_GROUP].into_iter().chain(CLIENT_USAGES).map(str::as_bytes);
    let key = key.public_key();
    let stream: String =
        std::iter::once(key.as_slice()).chain(parts).map(|part| URL_SAFE_NO_PAD.encode(part) + "|").collect();
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(pki::sha512_256(stream.as_bytes())))
}
