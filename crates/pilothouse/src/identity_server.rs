//! Answers an instance's questions about Google tokens: one JSON line in, one out, in order; between them a line whenever
//! accounts or policy have changed, so that the instance forgets what it was told before.

use std::sync::{Arc, OnceLock};

use policy::GoogleIdentity;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, watch};

/// Longer than any token.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Questions that wait for their answer.
const QUESTIONS_MAX: usize = 64;

type Resolve = dyn Fn(&str) -> Option<GoogleIdentity> + Send + Sync;

/// Who knows tokens.
#[derive(Clone)]
pub(crate) struct TokenDoor {
    /// Whom a token stands for; `None` for a token that is not known.
    pub(crate) resolve: Arc<Resolve>,
    /// Changes whenever answers may.
    pub(crate) changes: watch::Receiver<u64>,
}

#[derive(Deserialize)]
struct Question {
    token: String,
}

/// Serves until the instance closes its end. Without a door every token is unknown.
pub(crate) async fn serve(stream: UnixStream, door: Arc<OnceLock<TokenDoor>>) {
    let (reader, mut writer) = stream.into_split();
    let (sender, mut questions) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(read(reader, sender));
    let mut changes = door.get().map(|door| door.changes.clone());
    loop {
        let line = tokio::select! {
            question = questions.recv() => match question {
                Some(question) => answer(door.get().and_then(|door| (door.resolve)(&question))),
                None => return,
            },
            revision = changed(&mut changes) => json!({"revision": revision}),
        };
        if writer.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(reader: OwnedReadHalf, questions: mpsc::Sender<String>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        match (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let Ok(question) = serde_json::from_str::<Question>(&line) else { return };
        if questions.send(question.token).await.is_err() {
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
        let _ = door.set(TokenDoor { resolve, changes });
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve(far, door));
        let mut near = BufReader::new(near);
        near.get_mut().write_all(b"{\"token\":\"good\"}\n{\"token\":\"bad\"}\n").await.unwrap();
        let mut answers = [String::new(), String::new(), String::new()];
        near.read_line(&mut answers[0]).await.unwrap();
        near.read_line(&mut answers[1]).await.unwrap();
        revision.send_replace(7);
        near.read_line(&mut answers[2]).await.unwrap();
        assert!(answers[0].contains("a@b"), "{answers:?}");
        assert_eq!(answers[1..], ["null\n", "{\"revision\":7}\n"]);
    }
}
