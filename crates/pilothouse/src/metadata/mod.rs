//! Metadata servers, on the fleet's side: what a hypervisor tells a machine of itself. What they say is decided in
//! [`gke::metadata`].
//!
//! ```text
//! instance ─ socket it was born with ─► its own server ─► the etcd API CA, bootstrap data, tokens
//! node, or whoever plays it ─► its own server ─► the machine, its account's tokens
//! pod, or whoever plays it ─► a server of its own ─► the pod's account's tokens
//! anybody else ─► closed at accept
//! ```

mod addresses;
mod callers;
mod http;
pub(crate) mod instance;
pub(crate) mod nodes;
mod pods;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use gke::metadata::{Reply, Request};
use tokio::sync::watch;

/// Compute Engine's number for a machine: any, but always the same for the same machine.
pub(crate) fn machine_id(cluster: &str, name: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{cluster}/{name}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    // Positive as a signed number too, which is how some clients read it.
    u64::from_be_bytes(first) >> 1
}

/// `kube-env`: one `NAME: "value"` a line, as YAML.
pub(crate) fn kube_env(values: &BTreeMap<&str, String>) -> String {
    let line = |(name, value): (&&str, &String)| {
        let value = serde_json::to_string(value).expect("text always serializes");
        format!("{name}: {value}\n")
    };
    values.iter().map(line).collect()
}

/// Answers at once, or with `wait_for_change` once what is asked for is another thing than the caller has, or its time is over.
async fn wait<'a>(
    request: &Request,
    mut changes: watch::Receiver<()>,
    look: impl Fn() -> BoxFuture<'a, Reply> + Send + Sync,
) -> Reply {
    let now = look().await;
    let Some(wait) = gke::metadata::waits(request) else { return now };
    let known = wait.last_etag.or_else(|| now.etag.clone());
    if now.code != 200 || now.etag != known {
        return now;
    }
    let changed = async {
        loop {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = look().await;
            if now.etag != known {
                return now;
            }
        }
    };
    match wait.timeout {
        Some(time) => tokio::time::timeout(time, changed).await.unwrap_or(now),
        None => changed.await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn request(query: &[(&str, &str)]) -> Request {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Request { query, ..Request::default() }
    }

    fn reply(body: &str) -> Reply {
        Reply { etag: Some(body.to_owned()), ..Reply::new(200, "text/plain", body) }
    }

    #[tokio::test]
    async fn a_wait_ends_with_a_change_of_what_was_asked_for() {
        let (changes, said) = (watch::Sender::new(()), Mutex::new("a".to_owned()));
        let look = || -> BoxFuture<'_, Reply> { Box::pin(async { reply(&said.lock().unwrap().clone()) }) };
        let ask = async |query: &[(&str, &str)]| wait(&request(query), changes.subscribe(), look).await.body;
        assert_eq!(ask(&[]).await, "a");
        assert_eq!(ask(&[("wait_for_change", "true"), ("last_etag", "0")]).await, "a", "the caller has another one");
        assert_eq!(ask(&[("wait_for_change", "true"), ("timeout_sec", "0")]).await, "a");
        let waiting = ask(&[("wait_for_change", "true"), ("last_etag", "a")]);
        let changing = async {
            changes.send_replace(());
            tokio::task::yield_now().await;
            *said.lock().unwrap() = "b".to_owned();
            changes.send_replace(());
        };
        assert_eq!(tokio::join!(waiting, changing).0, "b");
    }
}
