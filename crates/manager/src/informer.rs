//! Keeps up with one list of objects: list, watch, resume where the watch ended, list again when that is too old.

use std::sync::Arc;
use std::time::Duration;

use machinery::{Status, Value, meta};
use tokio::sync::mpsc;

use crate::api::{Api, WatchEvent};

/// What an informer tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Everything there is, at a revision.
    Listed(Vec<Arc<Value>>, String),
    /// An object came or changed.
    Applied(Arc<Value>),
    /// An object went.
    Deleted(Arc<Value>),
}

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Runs until the receiver is gone. `wrap` makes the receiver's message of the news.
pub(crate) async fn run<M: Send>(
    api: Api,
    path: String,
    selector: String,
    sender: mpsc::Sender<M>,
    wrap: impl Fn(News) -> M + Send + Sync,
) {
    let mut revision: Option<String> = None;
    let mut retry = RETRY_FIRST;
    while !sender.is_closed() {
        match follow(&api, &path, &selector, &sender, &wrap, &mut revision).await {
            Ok(()) => retry = RETRY_FIRST,
            Err(status) => {
                if status.code == 410 {
                    revision = None;
                }
                tracing::debug!(%path, error = %status, "watch ended");
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = sender.closed() => return,
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// One list if needed and one watch, to its end.
async fn follow<M: Send>(
    api: &Api,
    path: &str,
    selector: &str,
    sender: &mpsc::Sender<M>,
    wrap: &(impl Fn(News) -> M + Send + Sync),
    revision: &mut Option<String>,
) -> Result<(), Status> {
    let from = match revision.clone() {
        Some(from) => from,
        None => {
            let (objects, at) = api.list(path, selector).await?;
            *revision = Some(at.clone());
            if sender.send(wrap(News::Listed(objects, at.clone()))).await.is_err() {
                return Ok(());
            }
            at
        }
    };
    let and = if selector.is_empty() { "" } else { "&" };
    let mut watch = api.watch(path, &format!("resourceVersion={from}{and}{selector}")).await?;
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = sender.closed() => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        let news = match event? {
            WatchEvent::Bookmark(at) => {
                *revision = Some(at);
                continue;
            }
            WatchEvent::Applied(object) => News::Applied(object),
            WatchEvent::Deleted(object) => News::Deleted(object),
        };
        if let News::Applied(object) | News::Deleted(object) = &news {
            *revision = Some(meta::resource_version(object).to_owned());
        }
        if sender.send(wrap(news)).await.is_err() {
            return Ok(());
        }
    }
}
