//! Straight into the API server of this process, with an identity that was verified when the door was made.

use apiserver::{ApiServer, Body, Caller, Content, WatchKind, WatchStream};
use http::{HeaderMap, HeaderValue, Method, header};
use machinery::{Status, Value, meta};
use std::sync::Arc;

use super::{Request, WatchEvent};

/// A door for one identity.
#[derive(Clone)]
pub struct InProcess {
    server: ApiServer,
    caller: Caller,
}

impl InProcess {
    /// `caller` must be a verified one.
    pub fn new(server: ApiServer, caller: Caller) -> Self {
        Self { server, caller }
    }

    async fn handle(&self, request: Request) -> Result<apiserver::Reply, Status> {
        let mut headers = HeaderMap::new();
        if !request.accept.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_static(request.accept));
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static("pilothouse"));
        let body = match request.body {
            Some(tree) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(request.content_type));
                Body::Tree(tree)
            }
            None => Body::Empty,
        };
        let method = Method::from_bytes(request.method.as_bytes()).map_err(Status::internal)?;
        let (path, query, caller) = (request.path, request.query, self.caller.clone());
        Ok(self.server.handle(apiserver::Request { caller, method, path, query, headers, body }).await)
    }

    pub(super) async fn call(&self, request: Request) -> Result<Value, Status> {
        let reply = self.handle(request).await?;
        match reply.content {
            Content::Bytes { body, .. } => Value::from_slice(&body).map_err(Status::internal),
            // A deleted collection answers with what it held: nobody here looks at it.
            Content::List(_) => Ok(Value::Null),
            _ => reply.into_object(),
        }
    }

    pub(super) async fn list(&self, path: &str, query: &str) -> Result<(Vec<Arc<Value>>, String), Status> {
        let list = self.handle(Request::get(path).query(query)).await?.into_list()?;
        let items = list.items.iter().map(|cached| registry::shared(&cached.object, &list.row));
        Ok((items.collect(), list.resource_version.to_string()))
    }

    pub(super) async fn watch(&self, path: &str, query: &str) -> Result<WatchStream, Status> {
        let query = format!("watch=true&allowWatchBookmarks=true&{query}");
        self.handle(Request::get(path).query(query)).await?.into_watch()
    }
}

/// An event as informers take it.
pub(super) fn event_of(event: &apiserver::WatchEvent, stream: &WatchStream) -> Result<WatchEvent, Status> {
    let object = event.shown(&stream.row);
    match event.kind {
        WatchKind::Added | WatchKind::Modified => Ok(WatchEvent::Applied(object)),
        WatchKind::Deleted => Ok(WatchEvent::Deleted(object)),
        WatchKind::Bookmark => Ok(WatchEvent::Bookmark(meta::resource_version(&object).to_owned())),
        WatchKind::Error => Err(Status::from_value(&object)),
    }
}
