//! Answers an instance's questions about Google tokens: one JSON line in, one out, in order.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::fleet::TokenResolver;

/// Longer than any token.
const LINE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Question {
    token: String,
}

/// Serves until the instance closes its end.
pub(crate) async fn serve(stream: UnixStream, resolver: Arc<OnceLock<TokenResolver>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        match (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let Ok(question) = serde_json::from_str::<Question>(&line) else { return };
        let answer = match resolver.get().and_then(|resolve| resolve(&question.token)) {
            Some(google) => json!({"email": google.email, "emailScope": google.email_scope, "roles": google.roles}),
            None => serde_json::Value::Null,
        };
        if writer.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_known_token_is_answered_with_its_owner_and_an_unknown_one_with_nobody() {
        let resolver: Arc<OnceLock<TokenResolver>> = Arc::default();
        let known: TokenResolver = Arc::new(|token| {
            (token == "good").then(|| policy::GoogleIdentity { email: "a@b".to_owned(), ..Default::default() })
        });
        let _ = resolver.set(known);
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(serve(far, resolver));
        let mut near = BufReader::new(near);
        near.get_mut().write_all(b"{\"token\":\"good\"}\n{\"token\":\"bad\"}\n").await.unwrap();
        let mut answers = [String::new(), String::new()];
        for answer in &mut answers {
            near.read_line(answer).await.unwrap();
        }
        assert!(answers[0].contains("a@b"), "{answers:?}");
        assert_eq!(answers[1], "null\n");
    }
}
