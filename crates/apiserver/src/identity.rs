//! The door for Google tokens: who owns a token, and which roles that account has, is known to the cloud.
//!
//! Answers are kept, but no longer than the token lives and the cloud's accounts and policy stay as they are: with each
//! change the cloud says so, and everything kept is forgotten. A door that is closed knows nobody.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Clock;
use policy::GoogleIdentity;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

use crate::encryption::{KeyAnswer, KeyQuestion, KeyService};

/// How long an answer is believed without a word from the cloud.
const KNOWN_FOR: Duration = Duration::from_secs(30);
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const KEPT_MAX: usize = 4096;
/// Longer than any answer.
const LINE_BYTES_MAX: u64 = 256 * 1024;
/// Longer than any Google token; what is longer is nobody's, and is not asked about.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

type Resolver = dyn Fn(String) -> Pin<Box<dyn Future<Output = Option<GoogleIdentity>> + Send>> + Send + Sync;
type Waiting = Arc<Mutex<VecDeque<Waiter>>>;

/// Who waits for the next answer.
enum Waiter {
    Token(oneshot::Sender<Option<GoogleIdentity>>),
    Key(oneshot::Sender<Result<KeyAnswer, String>>),
}

/// Where Google tokens are resolved.
#[derive(Clone, Default)]
pub enum Identity {
    /// Nowhere: such tokens are not accepted.
    #[default]
    None,
    /// By a function of this process; the number changes with accounts and policy.
    InProcess(Arc<Resolver>, watch::Receiver<u64>),
    /// At the other end of a socket: one JSON line `{"token": …}` per question, one line per answer, in order:
    /// `null` or `{"email": …, "emailScope": …, "roles": […], "securityGroups": {…}, "expires": …}`. Between them the other end says
    /// `{"revision": N}` whenever accounts, policy or keys have changed. A [`KeyQuestion`] stands in line with the tokens; its
    /// answer is a [`KeyAnswer`] or `{"error": …}`.
    Channel(Arc<Channel>),
}

/// This end of the socket.
pub struct Channel {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    /// Its sender goes when the socket closes.
    changes: watch::Receiver<u64>,
}

#[derive(Serialize)]
struct Question<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Changed {
        revision: u64,
    },
    #[serde(rename_all = "camelCase")]
    Answer {
        email: String,
        #[serde(default)]
        email_scope: bool,
        #[serde(default)]
        roles: Vec<String>,
        #[serde(default)]
        security_groups: BTreeMap<String, Vec<String>>,
        #[serde(default)]
        expires: Option<i64>,
    },
    Key(KeyAnswer),
    Failed {
        error: String,
    },
}

impl Channel {
    /// Writes a question and waits for its answer; `None` when the other end is gone.
    async fn ask<T>(&self, question: &impl Serialize, waiter: fn(oneshot::Sender<T>) -> Waiter) -> Option<T> {
        let mut line = zeroize::Zeroizing::new(serde_json::to_vec(question).ok()?);
        line.push(b'\n');
        let (sender, answer) = oneshot::channel();
        {
            // In line as it is written: answers come in that order.
            let mut writer = self.writer.lock().await;
            lock(&self.waiting).push_back(waiter(sender));
            writer.write_all(&line).await.ok()?;
        }
        answer.await.ok()
    }

    /// What the KMS says; `None` when the other end is gone.
    pub(crate) async fn ask_key(&self, question: &KeyQuestion) -> Option<Result<KeyAnswer, String>> {
        self.ask(question, Waiter::Key).await
    }

    /// Changes with accounts, policy and keys.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

impl Identity {
    /// Takes a function, and a number that changes when its answers may have.
    pub fn in_process<F, A>(resolve: F, changes: watch::Receiver<u64>) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Option<GoogleIdentity>> + Send + 'static,
    {
        Self::InProcess(Arc::new(move |token| Box::pin(resolve(token))), changes)
    }

    /// Takes a socket. Needs a tokio runtime.
    pub fn channel(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let (sender, changes) = watch::channel(0);
        let waiting = Waiting::default();
        tokio::spawn(listen(reader, waiting.clone(), sender));
        Self::Channel(Arc::new(Channel { writer: tokio::sync::Mutex::new(writer), waiting, changes }))
    }

    /// The KMS at the other end of the same socket.
    pub fn keys(&self) -> KeyService {
        match self {
            Self::Channel(channel) => KeyService::Channel(channel.clone()),
            Self::None | Self::InProcess(..) => KeyService::None,
        }
    }

    /// Changes with accounts and policy; `None` when nobody can tell any more.
    fn revision(&self) -> Option<u64> {
        let changes = match self {
            Self::None => return None,
            Self::InProcess(_, changes) => changes,
            Self::Channel(channel) => &channel.changes,
        };
        changes.has_changed().is_ok().then(|| *changes.borrow())
    }

    async fn ask(&self, token: &str) -> Option<GoogleIdentity> {
        match self {
            Self::None => None,
            Self::InProcess(resolve, _) => resolve(token.to_owned()).await,
            Self::Channel(channel) => {
                let question = Question { token };
                channel.ask(&question, Waiter::Token).await.flatten()
            }
        }
    }
}

/// Reads lines until the socket ends; those who wait then are told nothing.
async fn listen(reader: OwnedReadHalf, waiting: Waiting, changes: watch::Sender<u64>) {
    let mut reader = BufReader::new(reader);
    let mut text = String::new();
    loop {
        text.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_line(&mut text).await {
            Ok(length) if length > 0 && text.ends_with('\n') => {}
            _ => break,
        }
        let Ok(line) = serde_json::from_str::<Option<Line>>(&text) else { break };
        if let Some(Line::Changed { revision }) = line {
            changes.send_replace(revision);
            continue;
        }
        let Some(waiter) = lock(&waiting).pop_front() else { continue };
        match (waiter, line) {
            (Waiter::Token(sender), Some(Line::Answer { email, email_scope, roles, security_groups, expires })) => {
                let _ = sender.send(Some(GoogleIdentity { email, email_scope, roles, security_groups, expires }));
            }
            (Waiter::Token(sender), None) => drop(sender.send(None)),
            (Waiter::Key(sender), Some(Line::Key(answer))) => drop(sender.send(Ok(answer))),
            (Waiter::Key(sender), Some(Line::Failed { error })) => drop(sender.send(Err(error))),
            // It answers something else than was asked: nothing of it can be believed any more.
            (Waiter::Token(_) | Waiter::Key(_), _) => break,
        }
    }
    drop(changes);
    lock(&waiting).clear();
    tracing::warn!("the cloud is gone; Google tokens are not accepted any more");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "Identity::None",
            Self::InProcess(..) => "Identity::InProcess",
            Self::Channel(_) => "Identity::Channel",
        })
    }
}

/// What a token is kept under: never the token itself, and looking it up tells nothing of near misses.
pub(crate) type TokenHash = [u8; 32];

/// The hash of a token.
pub(crate) fn hash(token: &str) -> TokenHash {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().unwrap_or([0; 32])
}

#[derive(Default)]
struct Kept {
    revision: u64,
    answers: BTreeMap<TokenHash, (Duration, Option<GoogleIdentity>)>,
}

/// The door with its memory.
pub(crate) struct Tokens {
    door: Identity,
    clock: Clock,
    kept: Mutex<Kept>,
}

impl Tokens {
    pub(crate) fn new(door: Identity, clock: Clock) -> Self {
        Self { door, clock, kept: Mutex::default() }
    }

    /// Whose token it is.
    pub(crate) async fn resolve(&self, token: &str) -> Option<GoogleIdentity> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let revision = self.door.revision()?;
        let (now, key) = (self.clock.monotonic(), hash(token));
        {
            let mut kept = lock(&self.kept);
            if kept.revision != revision {
                kept.answers.clear();
                kept.revision = revision;
            }
            if let Some((until, answer)) = kept.answers.get(&key)
                && *until > now
            {
                return answer.clone();
            }
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.door.ask(token)).await.ok().flatten();
        // What was asked before a change is good for this request and no other.
        if self.door.revision()? == revision {
            self.keep(revision, key, answer.clone(), now);
        }
        answer
    }

    fn keep(&self, revision: u64, key: TokenHash, answer: Option<GoogleIdentity>, now: Duration) {
        let mut kept = lock(&self.kept);
        if kept.answers.len() >= KEPT_MAX {
            kept.answers.retain(|_, (until, _)| *until > now);
        }
        if kept.answers.len() < KEPT_MAX && kept.revision == revision {
            let left = answer.as_ref().and_then(|a| a.expires).map(|at| at - self.clock.now().unix_seconds());
            let left = left.map_or(KNOWN_FOR, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
            let known_for = if answer.is_some() { left.min(KNOWN_FOR) } else { UNKNOWN_FOR };
            kept.answers.insert(key, (now + known_for, answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{FakeClock, Timestamp};

    use super::*;

    /// Answers each question with what `roles` says at that moment.
    async fn cloud(stream: UnixStream, mut changes: watch::Receiver<Vec<String>>) {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut revision = 0;
        loop {
            let line = tokio::select! {
                line = lines.next_line() => match line { Ok(Some(_)) => {
                    let roles = changes.borrow().clone();
                    serde_json::json!({"email": "a@b", "emailScope": true, "roles": roles})
                } _ => return },
                changed = changes.changed() => match changed { Ok(()) => {
                    revision += 1;
                    serde_json::json!({"revision": revision})
                } Err(_) => return },
            };
            writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_change_in_the_cloud_is_seen_and_a_closed_door_knows_nobody() {
        let (near, far) = UnixStream::pair().unwrap();
        let (policy, changes) = watch::channel(vec!["roles/viewer".to_owned()]);
        tokio::spawn(cloud(far, changes));
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1000));
        let tokens = Tokens::new(Identity::channel(near), clock.clock());
        let Identity::Channel(channel) = &tokens.door else { panic!("it is one") };
        let roles = async || tokens.resolve("t").await.map(|who| who.roles.join(","));
        assert_eq!(roles().await.as_deref(), Some("roles/viewer"));
        assert_eq!(lock(&tokens.kept).answers.len(), 1);
        let mut seen = channel.changes.clone();
        policy.send_replace(Vec::new());
        seen.changed().await.unwrap();
        assert_eq!(roles().await.as_deref(), Some(""), "the clock stands still, and yet");
        drop(policy);
        assert!(seen.changed().await.is_err());
        assert_eq!(roles().await, None);
        assert_eq!(tokens.resolve(&"x".repeat(TOKEN_BYTES_MAX + 1)).await, None);
    }

    #[tokio::test]
    async fn a_token_is_not_believed_past_its_end() {
        let clock = FakeClock::new(Timestamp::from_unix_seconds(1000));
        let (_changes, receiver) = watch::channel(0);
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let resolve = move |_| {
            *lock(&count) += 1;
            std::future::ready(Some(GoogleIdentity { expires: Some(1010), ..GoogleIdentity::default() }))
        };
        let tokens = Tokens::new(Identity::in_process(resolve, receiver), clock.clock());
        for (advance, times) in [(0, 1), (9, 1), (1, 2)] {
            clock.advance(Duration::from_secs(advance));
            tokens.resolve("t").await;
            assert_eq!(*lock(&asked), times);
        }
    }
}
