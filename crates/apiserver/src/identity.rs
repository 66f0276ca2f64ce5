//! The door for Google tokens: who owns a token is known to the cloud. Answers are kept for a moment; no answer means
//! nobody.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::Clock;
use policy::GoogleIdentity;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long an answer is believed.
const KNOWN_FOR: Duration = Duration::from_secs(30);
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const KEPT_MAX: usize = 4096;

type Resolver = dyn Fn(String) -> Pin<Box<dyn Future<Output = Option<GoogleIdentity>> + Send>> + Send + Sync;

/// Where Google tokens are resolved.
#[derive(Clone, Default)]
pub enum Identity {
    /// Nowhere: such tokens are not accepted.
    #[default]
    None,
    /// By a function of this process.
    InProcess(Arc<Resolver>),
    /// At the other end of a socket: one JSON line `{"token": …}` per question, one line per answer, in order:
    /// `null` or `{"email": …, "emailScope": …, "roles": […]}`.
    Channel(Arc<tokio::sync::Mutex<BufReader<UnixStream>>>),
}

#[derive(Serialize)]
struct Question<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    email: String,
    #[serde(default)]
    email_scope: bool,
    #[serde(default)]
    roles: Vec<String>,
}

impl Identity {
    /// Takes a function.
    pub fn in_process<F, A>(resolve: F) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Option<GoogleIdentity>> + Send + 'static,
    {
        Self::InProcess(Arc::new(move |token| Box::pin(resolve(token))))
    }

    /// Takes a socket.
    pub fn channel(stream: UnixStream) -> Self {
        Self::Channel(Arc::new(tokio::sync::Mutex::new(BufReader::new(stream))))
    }

    async fn ask(&self, token: &str) -> Option<GoogleIdentity> {
        match self {
            Self::None => None,
            Self::InProcess(resolve) => resolve(token.to_owned()).await,
            Self::Channel(stream) => {
                let mut stream = stream.lock().await;
                let mut line = serde_json::to_vec(&Question { token }).ok()?;
                line.push(b'\n');
                stream.get_mut().write_all(&line).await.ok()?;
                let mut answer = String::new();
                stream.read_line(&mut answer).await.ok()?;
                let answer: Option<Answer> = serde_json::from_str(&answer).ok()?;
                answer.map(|a| GoogleIdentity { email: a.email, email_scope: a.email_scope, roles: a.roles })
            }
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "Identity::None",
            Self::InProcess(_) => "Identity::InProcess",
            Self::Channel(_) => "Identity::Channel",
        })
    }
}

/// The door with its memory.
pub(crate) struct Tokens {
    door: Identity,
    clock: Clock,
    kept: Mutex<BTreeMap<String, (Duration, Option<GoogleIdentity>)>>,
}

impl Tokens {
    pub(crate) fn new(door: Identity, clock: Clock) -> Self {
        Self { door, clock, kept: Mutex::default() }
    }

    /// Whose token it is.
    pub(crate) async fn resolve(&self, token: &str) -> Option<GoogleIdentity> {
        if matches!(self.door, Identity::None) {
            return None;
        }
        let now = self.clock.monotonic();
        if let Ok(kept) = self.kept.lock()
            && let Some((until, answer)) = kept.get(token)
            && *until > now
        {
            return answer.clone();
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.door.ask(token)).await.ok().flatten();
        if let Ok(mut kept) = self.kept.lock() {
            if kept.len() >= KEPT_MAX {
                kept.retain(|_, (until, _)| *until > now);
            }
            if kept.len() < KEPT_MAX {
                let until = now + if answer.is_some() { KNOWN_FOR } else { UNKNOWN_FOR };
                kept.insert(token.to_owned(), (until, answer.clone()));
            }
        }
        answer
    }
}
