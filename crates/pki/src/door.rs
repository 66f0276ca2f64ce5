//! The door to a signer: in this process, or in another one at the end of an inherited socket.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot, watch};
use tracing::debug;
use zeroize::Zeroizing;

use crate::profile::{Authority, Profile};
use crate::signer::{Call, Requester, SignerCore};
use crate::{SignerError, pem};

/// Larger than any request or certificate.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Most fit into so much.
const FRAME_BYTES_USUAL: usize = 4 * 1024;
/// Calls that one connection has under way.
const CALLS_MAX: usize = 256;
/// How long a call waits for a signer that is started again.
const RESTART_WAIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };
/// Signers that may die of one call.
const ATTEMPTS_MAX: usize = 3;

/// Where certificates and tokens come from.
#[derive(Clone)]
pub enum Signer {
    /// In this process, as this requester.
    InProcess(Arc<SignerCore>, Requester),
    /// In another process.
    Socket(SignerClient),
}

impl Signer {
    /// A certificate for the key of a signing request in DER form.
    ///
    /// # Errors
    /// When the request is not valid, the requester may not have it, or the signer is gone.
    pub async fn issue(
        &self,
        csr: &[u8],
        profile: &Profile,
        lifetime: Option<Duration>,
    ) -> Result<CertificateDer<'static>, SignerError> {
        match self {
            Self::InProcess(core, requester) => core.issue(*requester, csr, profile, lifetime).await,
            Self::Socket(client) => {
                let csr = pem::request(csr);
                let lifetime_seconds = lifetime.map(|l| l.as_secs());
                let answer = client.call(Call::Issue { csr, profile: profile.clone(), lifetime_seconds }).await?;
                Ok(pem::certificates(&text(answer)?)?.remove(0))
            }
        }
    }

    /// An authority's certificate as PEM.
    ///
    /// # Errors
    /// When the signer is gone.
    pub async fn certificate(&self, authority: Authority) -> Result<String, SignerError> {
        match self {
            Self::InProcess(core, _) => Ok(core.certificate(authority)),
            Self::Socket(client) => text(client.call(Call::Certificate { authority }).await?),
        }
    }

    /// An authority's private key as PEM; only the metadata servers may have one, and only that of the etcd API CA.
    ///
    /// # Errors
    /// When the requester may not, or the signer is gone.
    pub async fn authority_key(&self, authority: Authority) -> Result<Zeroizing<String>, SignerError> {
        match self {
            Self::InProcess(core, requester) => core.authority_key(*requester, authority),
            Self::Socket(client) => client
                .ask(Call::AuthorityKey { authority })
                .await?
                .secret
                .ok_or_else(|| SignerError::Unavailable("an answer of the wrong form".to_owned())),
        }
    }

    /// A service-account token with these claims, RS256. Waits while the key is being made.
    ///
    /// # Errors
    /// When the requester may not, or the signer is gone.
    pub async fn sign_jwt(&self, claims: Value) -> Result<String, SignerError> {
        match self {
            Self::InProcess(core, requester) => text(core.answer(*requester, Call::SignJwt { claims }).await?),
            Self::Socket(client) => text(client.call(Call::SignJwt { claims }).await?),
        }
    }

    /// The JWK set that verifies those tokens. Waits while the key is being made.
    ///
    /// # Errors
    /// When the signer is gone.
    pub async fn jwks(&self) -> Result<Value, SignerError> {
        match self {
            Self::InProcess(core, _) => core.jwks().await,
            Self::Socket(client) => client.call(Call::Jwks).await,
        }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InProcess(..) => "Signer::InProcess",
            Self::Socket(_) => "Signer::Socket",
        })
    }
}

fn text(answer: Value) -> Result<String, SignerError> {
    match answer {
        Value::String(text) => Ok(text),
        _ => Err(SignerError::Unavailable("an answer of the wrong form".to_owned())),
    }
}

#[derive(Serialize, Deserialize)]
struct RequestFrame {
    id: u64,
    call: Call,
}

#[derive(Serialize, Deserialize)]
struct AnswerFrame {
    id: u64,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    result: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// A private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Zeroizing<String>>,
}

/// The way to a signer in another process; calls may overlap. When that process ends, calls wait a while for the next
/// one: whoever starts it hands its stream to [`SignerClient::reconnect`].
#[derive(Clone)]
pub struct SignerClient(Arc<watch::Sender<Option<Arc<Connection>>>>);

struct Connection {
    writer: AsyncMutex<OwnedWriteHalf>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    closed: bool,
    by_id: HashMap<u64, oneshot::Sender<AnswerFrame>>,
}

/// The signer's process ended before it answered.
struct Gone;

impl SignerClient {
    /// Takes the stream; a task reads the answers until the signer closes it.
    pub fn new(stream: UnixStream) -> Self {
        Self(Arc::new(watch::Sender::new(Some(Connection::open(stream)))))
    }

    /// Goes on with the stream of the process that took the old one's place.
    pub fn reconnect(&self, stream: UnixStream) {
        self.0.send_replace(Some(Connection::open(stream)));
    }

    async fn call(&self, call: Call) -> Result<Value, SignerError> {
        Ok(self.ask(call).await?.result)
    }

    /// Asks until there is an answer: nothing that a signer does harms when it is done twice.
    async fn ask(&self, call: Call) -> Result<AnswerFrame, SignerError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut current = self.0.subscribe();
            let connected = tokio::time::timeout(RESTART_WAIT, current.wait_for(Option::is_some)).await;
            let Some(connection) = connected.ok().and_then(Result::ok).and_then(|found| found.clone()) else { break };
            match connection.call(call.clone()).await {
                Ok(answer) => return answer,
                Err(Gone) => {
                    self.0.send_if_modified(|now| {
                        let same = now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &connection));
                        if same {
                            *now = None;
                        }
                        same
                    });
                }
            }
        }
        Err(SignerError::Unavailable("its process is gone".to_owned()))
    }
}

impl Connection {
    fn open(stream: UnixStream) -> Arc<Self> {
        let (mut reader, writer) = stream.into_split();
        let connection = Arc::new(Self { writer: AsyncMutex::new(writer), waiting: Mutex::new(Waiting::default()) });
        let shared = Arc::clone(&connection);
        tokio::spawn(async move {
            while let Ok(Some(answer)) = read_frame::<AnswerFrame>(&mut reader).await {
                let waiter = shared.waiting.lock().ok().and_then(|mut w| w.by_id.remove(&answer.id));
                if let Some(waiter) = waiter {
                    let _ = waiter.send(answer);
                }
            }
            if let Ok(mut waiting) = shared.waiting.lock() {
                waiting.closed = true;
                waiting.by_id.clear();
            }
        });
        connection
    }

    async fn call(&self, call: Call) -> Result<Result<AnswerFrame, SignerError>, Gone> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().map_err(|_| Gone)?;
            if waiting.closed {
                return Err(Gone);
            }
            if waiting.by_id.len() >= CALLS_MAX {
                return Ok(Err(SignerError::Unavailable("too many calls under way".to_owned())));
            }
            waiting.next_id += 1;
            let id = waiting.next_id;
            waiting.by_id.insert(id, sender);
            id
        };
        write_frame(&mut *self.writer.lock().await, &RequestFrame { id, call }).await.map_err(|_| Gone)?;
        let answer = receiver.await.map_err(|_| Gone)?;
        Ok(match answer.error {
            Some(error) => Err(SignerError::Answered(error)),
            None => Ok(answer),
        })
    }
}

/// Answers the calls of one requester until it closes the stream.
pub async fn serve_signer(core: Arc<SignerCore>, requester: Requester, stream: UnixStream) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(AsyncMutex::new(writer));
    // A flood waits in the socket, not here.
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match read_frame::<RequestFrame>(&mut reader).await {
            Ok(Some(RequestFrame { id, call })) => {
                let (core, writer) = (Arc::clone(&core), Arc::clone(&writer));
                tokio::spawn(async move {
                    let _permit = permit;
                    let answered = match call {
                        Call::AuthorityKey { authority } => {
                            core.authority_key(requester, authority).map(|key| (Value::Null, Some(key)))
                        }
                        other => core.answer(requester, other).await.map(|result| (result, None)),
                    };
                    let answer = match answered {
                        Ok((result, secret)) => AnswerFrame { id, result, error: None, secret },
                        Err(error) => {
                            AnswerFrame { id, result: Value::Null, error: Some(error.to_string()), secret: None }
                        }
                    };
                    let _ = write_frame(&mut *writer.lock().await, &answer).await;
                });
            }
            Ok(None) => return,
            Err(error) => {
                debug!(target: "signer", %error, "closed a stream that does not speak the signer's language");
                return;
            }
        }
    }
}

pub(crate) async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), frame: &impl Serialize) -> io::Result<()> {
    // Long enough for a key, so that no copy of it stays behind where the buffer was before it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FRAME_BYTES_USUAL));
    bytes.extend(0_u32.to_be_bytes());
    serde_json::to_writer(&mut *bytes, frame)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    writer.write_all(&bytes).await
}

pub(crate) async fn read_frame<T: for<'a> Deserialize<'a>>(
    reader: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let length = match reader.read_u32().await {
        Ok(length) if length <= FRAME_BYTES_MAX => length,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long")),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut body = Zeroizing::new(vec![0; length as usize]);
    reader.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}
