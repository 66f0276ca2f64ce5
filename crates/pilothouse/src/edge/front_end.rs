//! Google's front end before a cluster's DNS endpoint: TLS under the public name, then who calls, then IAM, then the API
//! server, with the caller's own credential.
//!
//! ```text
//! caller ─TLS─► front end ── Google token ──► container.clusters.connect? ──┐
//!   (any place)    │  ├────── Kubernetes' token, where it is on ────────────┼─ mutual TLS ─► API server (internal endpoint)
//!                  │  └────── client certificate, where it is on ───────────┘   the token, or X-Remote-User
//!                  └── nobody, or no right: 401, 403 from here; the API server hears nothing
//! ```
//! Authorized networks do not count here (reference: GKE behaviour §5).

mod forward;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use base::{Clock, Entropy};
use bytes::Bytes;
use gke::ApiError;
use gke::exposure::Endpoint;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pki::{ClientCertificates, ServingCertificate, Signer, server_config};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::edge::{Gate, PublicRoot};
use crate::identity_server::TokenDoor;
use forward::{ApiServer, Upstream};

/// Connections of one cluster's front end at once.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: &str = "container.clusters.connect";

/// The body of an answer: the API server's, or one of ours.
pub(super) type ReplyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// One cluster's name and what is behind it.
pub(crate) struct Site {
    /// `gke-….gke.goog`
    pub(crate) name: String,
    /// `projects/P/locations/L/clusters/C`
    pub(crate) resource: String,
    pub(crate) internal: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) tokens: Arc<OnceLock<TokenDoor>>,
    pub(crate) root: Arc<PublicRoot>,
    /// The certificate that is shown to the API server, once there is one.
    pub(crate) shown: Arc<OnceLock<CertificateDer<'static>>>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
}

/// What is made at the first connection.
struct Made {
    /// Without and with a question for the caller's certificate.
    tls: [TlsAcceptor; 2],
}

struct FrontEnd {
    site: Site,
    made: OnceCell<Made>,
    api_server: OnceCell<ApiServer>,
}

/// Who was let through, and how the API server hears of it.
enum Passage {
    /// By the token that the request carries.
    Token,
    /// User and groups of the caller's certificate.
    Certificate(String, Vec<String>),
}

/// Serves the name until `stopped` completes.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(
    site: Site,
    listener: std::net::TcpListener,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let front_end = Arc::new(FrontEnd { site, made: OnceCell::new(), api_server: OnceCell::new() });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => return Ok(()),
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "the front end cannot accept a connection");
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            warn!(name = front_end.site.name, "too many connections, one was closed");
            continue;
        };
        let front_end = Arc::clone(&front_end);
        tokio::spawn(async move {
            if let Err(error) = front_end.connection(stream, remote).await {
                debug!(%remote, "connection to the front end: {error:#}");
            }
            drop(slot);
        });
    }
}

impl FrontEnd {
    async fn made(&self) -> Result<&Made> {
        let make = async || -> Result<Made> {
            let Site { name, root, clock, .. } = &self.site;
            let serving = ServingCertificate::new(&root.issue(name).await?)?;
            let config = |clients| server_config(serving.clone(), clients, &[b"h2", b"http/1.1"], clock);
            let tls = [config(ClientCertificates::None)?, config(ClientCertificates::Requested)?];
            Ok(Made { tls: tls.map(TlsAcceptor::from) })
        };
        self.made.get_or_try_init(make).await
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) -> Result<()> {
        let _ = stream.set_nodelay(true);
        let asks = self.site.gate.settings().dns_certificates;
        let acceptor =
            &self.made().await.inspect_err(|error| warn!("the front end: {error:#}"))?.tls[usize::from(asks)];
        let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.context("no handshake")??;
        let shown: Vec<CertificateDer<'static>> = {
            let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect()
        };
        let upstream = Arc::new(Upstream::new(self.site.internal));
        let service = service_fn(move |request| {
            let (front_end, upstream, shown) = (Arc::clone(&self), Arc::clone(&upstream), shown.clone());
            async move { Ok::<_, Infallible>(front_end.respond(request, remote.ip(), &shown, &upstream).await) }
        });
        let served = apiserver::connection_builder().serve_connection_with_upgrades(TokioIo::new(tls), service).await;
        served.map_err(|error| anyhow::anyhow!("{error}"))
    }

    async fn respond(
        &self,
        request: http::Request<Incoming>,
        source: IpAddr,
        shown: &[CertificateDer<'static>],
        upstream: &Upstream,
    ) -> http::Response<ReplyBody> {
        let api_server = match self.api_server().await {
            Ok(api_server) => api_server,
            Err(error) => {
                warn!(name = self.site.name, "the front end: {error:#}");
                return self.refuse(&unavailable());
            }
        };
        match self.let_through(&request, source, shown, api_server) {
            Ok(passage) => match upstream.forward(request, source, &passage, api_server).await {
                Ok(response) => response,
                Err(error) => {
                    warn!(name = self.site.name, "the API server behind the front end: {error:#}");
                    self.refuse(&unavailable())
                }
            },
            Err(error) => {
                self.site.gate.note_refusal(Endpoint::Dns, source, &error.message);
                self.refuse(&error)
            }
        }
    }

    async fn api_server(&self) -> Result<&ApiServer> {
        let make = async || -> Result<ApiServer> {
            let signer = self.site.signer.borrow().clone().context("the cluster's signer is not there")?;
            let (api_server, shown) = ApiServer::new(&signer, self.site.internal.ip(), &self.site.clock).await?;
            let _ = self.site.shown.set(shown);
            Ok(api_server)
        };
        self.api_server.get_or_try_init(make).await
    }

    /// Google's tokens need the right to connect; Kubernetes' own credentials are the API server's to judge, where they are
    /// taken at all.
    fn let_through(
        &self,
        request: &http::Request<Incoming>,
        source: IpAddr,
        shown: &[CertificateDer<'static>],
        api_server: &ApiServer,
    ) -> Result<Passage, ApiError> {
        let (_, reason) = self.site.gate.decide(Endpoint::Dns, source);
        if !reason.allows() {
            return Err(ApiError::new(gke::Code::PermissionDenied, format!("Access denied: {reason}.")));
        }
        let settings = self.site.gate.settings();
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let bearer = header.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        if let Some((_, token)) = bearer {
            let google = self.site.tokens.get().and_then(|door| (door.resolve)(token.trim()));
            return match google {
                Some(google) if google.may(CONNECT) => Ok(Passage::Token),
                Some(_) => Err(ApiError::permission(CONNECT, &self.site.resource)),
                None if settings.dns_tokens => Ok(Passage::Token),
                None => Err(ApiError::invalid_credentials()),
            };
        }
        match api_server.identify(shown).filter(|_| settings.dns_certificates) {
            Some((user, groups)) => Ok(Passage::Certificate(user, groups)),
            None if header.is_empty() && shown.is_empty() => Err(ApiError::login_required()),
            None => Err(ApiError::invalid_credentials()),
        }
    }

    fn refuse(&self, error: &ApiError) -> http::Response<ReplyBody> {
        let id: String = self.site.entropy.bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = Full::new(Bytes::from(error.to_value(&id).to_vec())).map_err(|never| match never {});
        let mut builder = http::Response::builder()
            .status(error.code.http())
            .header("content-type", "application/json; charset=UTF-8")
            .header("server", "ESF");
        if error.code == gke::Code::Unauthenticated {
            builder = builder.header(WWW_AUTHENTICATE, "Bearer realm=\"https://accounts.google.com/\"");
        }
        builder.body(body.boxed_unsync()).expect("fixed headers")
    }
}

fn unavailable() -> ApiError {
    ApiError::new(gke::Code::Unavailable, "The service is currently unavailable.")
}

#[cfg(test)]
mod tests;
