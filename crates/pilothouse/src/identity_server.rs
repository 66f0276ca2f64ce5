//! Answers an instance's questions about Google tokens, and about its cluster's keys in Cloud KMS: one JSON line in, one out,
//! in order; between them a line whenever accounts, policy or keys have changed, so that the instance forgets what it was
//! told before.

use std::sync::{Arc, OnceLock};

use apiserver::{KeyAnswer, KeyQuestion};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use policy::GoogleIdentity;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// Longer than any token.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Questions that wait for their answer.
const QUESTIONS_MAX: usize = 64;

type AskKey = dyn Fn(&str, KeyQuestion) -> Result<KeyAnswer, String> + Send + Sync;
type Resolve = dyn Fn(&str) -> Option<GoogleIdentity> + Send + Sync;

/// Who knows tokens.
#[derive(Clone)]
pub(crate) struct TokenDoor {
    /// Whom a token stands for; `None` for a token that is not known.
    pub(crate) resolve: Arc<Resolve>,
    /// What Cloud KMS does for the cluster with this id. Blocks.
    pub(crate) keys: Arc<AskKey>,
    /// Changes whenever answers may.
    pub(crate) changes: watch::Receiver<u64>,
}

/// The door to a cloud in this process.
pub(crate) fn door_of(cloud: &cloud::Cloud) -> TokenDoor {
    let (resolving, encrypting) = (cloud.clone(), cloud.clone());
    TokenDoor {
        resolve: Arc::new(move |token: &str| resolving.resolve_token(token)),
        keys: Arc::new(move |cluster: &str, question| ask_cloud(&encrypting, cluster, question)),
        changes: cloud.access_changes(),
    }
}

fn ask_cloud(cloud: &cloud::Cloud, cluster: &str, question: KeyQuestion) -> Result<KeyAnswer, String> {
    let bytes = |text: String| {
        let text = Zeroizing::new(text);
        STANDARD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|error| error.to_string())
    };
    match question {
        KeyQuestion::Encrypt { key, plaintext } => {
            let made = cloud.encrypt_for(cluster, &key, &bytes(plaintext)?).map_err(|error| error.message)?;
            Ok(KeyAnswer { version: made.version, data: STANDARD.encode(made.ciphertext) })
        }
        KeyQuestion::Decrypt { key, ciphertext } => {
            let found = cloud.decrypt_for(cluster, &key, &bytes(ciphertext)?).map_err(|error| error.message)?;
            Ok(KeyAnswer { version: found.0, data: STANDARD.encode(&found.1[..]) })
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Question {
    Token { token: String },
    Key(KeyQuestion),
}

/// Serves the instance of a cluster until it closes its end. Without a door every token is unknown, and every key refused.
pub(crate) async fn serve(stream: UnixStream, door: Arc<OnceLock<TokenDoor>>, cluster: String) {
    let (reader, mut writer) = stream.into_split();
    let (sender, mut questions) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(read(reader, sender));
    let mut changes = door.get().map(|door| door.changes.clone());
    loop {
        let line = tokio::select! {
            question = questions.recv() => match question {
                Some(Question::Token { token }) => answer(door.get().and_then(|door| (door.resolve)(&token))),
                Some(Question::Key(question)) => key_answer(door.get(), &cluster, question).await,
                None => return,
            },
            revision = changed(&mut changes) => json!({"revision": revision}),
        };
        if writer.write_all(Zeroizing::new(format!("{line}\n")).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(reader: OwnedReadHalf, questions: mpsc::Sender<Question>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        match (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let Ok(question) = serde_json::from_str::<Question>(&line) else { return };
        if questions.send(question).await.is_err() {
            return;
        }
    }
}

/// The next revision; never, when there is none any more.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = changes
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    std::future::pending().await
}

fn answer(google: Option<GoogleIdentity>) -> serde_json::Value {
    match google {
        Some(google) => json!({"email": google.email, "emailScope": google.email_scope, "roles": google.roles,
            "securityGroups": google.security_groups, "expires": google.expires}),
        None => serde_json::Value::Null,
    }
}

async fn key_answer(door: Option<&TokenDoor>, cluster: &str, question: KeyQuestion) -> serde_json::Value {
    let Some(ask) = door.map(|door| door.keys.clone()) else { return json!({"error": "the cloud is not there"}) };
    let cluster = cluster.to_owned();
    // Keys are sealed on disk when they change, which may be now.
    match tokio::task::spawn_blocking(move || ask(&cluster, question)).await {
        Ok(Ok(answer)) => json!(answer),
        Ok(Err(error)) => json!({"error": error}),
        Err(error) => json!({"error": error.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_answered_in_order_and_changes_are_told() {
        let door: Arc<OnceLock<TokenDoor>> = Arc::default();
        let (revision, changes) = watch::channel(1);
        let resolve = Arc::new(|token: &str| {
            (token == "good").then(|| GoogleIdentity { email: "a@b".to_owned(), ..GoogleIdentity::default() })
        });
        let keys = Arc::new(|cluster: &str, question: KeyQuestion| match question {
            KeyQuestion::Encrypt { key, .. } => {
                Ok(KeyAnswer { version: format!("{cluster} {key}"), data: String::new() })
            }
            KeyQuestion::Decrypt { .. } => Err("no".to_owned()),
        });
        let _ = door.set(TokenDoor { resolve, keys, changes });
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve(far, door, "c".to_owned()));
        let mut near = BufReader::new(near);
        near.get_mut().write_all(b"{\"token\":\"good\"}\n{\"token\":\"bad\"}\n").await.unwrap();
        let mut answers = [String::new(), String::new(), String::new()];
        near.read_line(&mut answers[0]).await.unwrap();
        near.read_line(&mut answers[1]).await.unwrap();
        revision.send_replace(7);
        near.read_line(&mut answers[2]).await.unwrap();
        assert!(answers[0].contains("a@b"), "{answers:?}");
        assert_eq!(answers[1..], ["null\n", "{\"revision\":7}\n"]);
        let questions =
            b"{\"encrypt\":{\"key\":\"k\",\"plaintext\":\"\"}}\n{\"decrypt\":{\"key\":\"k\",\"ciphertext\":\"\"}}\n";
        near.get_mut().write_all(questions).await.unwrap();
        for expected in ["{\"data\":\"\",\"version\":\"c k\"}\n", "{\"error\":\"no\"}\n"] {
            let mut answer = String::new();
            near.read_line(&mut answer).await.unwrap();
            assert_eq!(answer, expected);
        }
    }
}
