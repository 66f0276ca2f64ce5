//! The door to the API server: in process, or over HTTPS. Every controller and node has its own, with its own identity.

mod https;
mod in_process;

use std::sync::Arc;

use machinery::{GroupVersionResource, Status, Value, meta};

pub use https::HttpsClient;
pub use in_process::InProcess;

/// One request, the same whatever the door.
#[derive(Clone, Debug)]
pub struct Request {
    /// HTTP method.
    pub method: &'static str,
    /// Path, as `/api/v1/namespaces/default/pods`.
    pub path: String,
    /// Query without the question mark.
    pub query: String,
    /// Media type of the body.
    pub content_type: &'static str,
    /// What to accept; empty: JSON.
    pub accept: &'static str,
    /// Body.
    pub body: Option<Value>,
}

impl Request {
    /// GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path, None)
    }

    /// With a JSON body.
    pub fn new(method: &'static str, path: impl Into<String>, body: Option<Value>) -> Self {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        Self { method, path: path.into(), query: String::new(), content_type, accept: "", body }
    }

    /// With a query.
    #[must_use]
    pub fn query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// ADDED or MODIFIED.
    Applied(Arc<Value>),
    /// DELETED, with the last state.
    Deleted(Arc<Value>),
    /// Nothing happened up to this revision.
    Bookmark(String),
}

/// An open watch.
pub enum Watch {
    /// Over HTTPS.
    Https(https::Lines),
    /// In this process.
    InProcess(Box<apiserver::WatchStream>),
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// What the server said, 410 above all, or that the connection broke.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Status>> {
        match self {
            Self::Https(lines) => match lines.next().await? {
                Ok(line) => Some(event_of(line)),
                Err(status) => Some(Err(status)),
            },
            Self::InProcess(stream) => {
                let event = stream.next().await?;
                Some(in_process::event_of(&event, stream))
            }
        }
    }
}

fn event_of(mut line: Value) -> Result<WatchEvent, Status> {
    let object = line.get_mut("object").map(Value::take).unwrap_or_default();
    match line.str_at(&["type"]) {
        "ADDED" | "MODIFIED" => Ok(WatchEvent::Applied(Arc::new(object))),
        "DELETED" => Ok(WatchEvent::Deleted(Arc::new(object))),
        "BOOKMARK" => Ok(WatchEvent::Bookmark(meta::resource_version(&object).to_owned())),
        _ => Err(Status::from_value(&object)),
    }
}

/// The door. Clones share one connection.
#[derive(Clone)]
pub enum Api {
    /// Over TLS, as anybody else.
    Https(HttpsClient),
    /// In this process.
    InProcess(InProcess),
}

impl Api {
    /// Performs a request.
    ///
    /// # Errors
    /// The server's `Status`, or 503 when there is no connection.
    pub async fn call(&self, request: Request) -> Result<Arc<Value>, Status> {
        match self {
            Self::Https(client) => client.call(request).await.map(Arc::new),
            Self::InProcess(door) => door.call(request).await.map(Arc::new),
        }
    }

    /// All objects of a list, with the list's revision.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn list(&self, path: &str, query: &str) -> Result<(Vec<Arc<Value>>, String), Status> {
        if let Self::InProcess(door) = self {
            return door.list(path, query).await;
        }
        let list = self.call(Request::get(path).query(query)).await?;
        let mut list = Arc::unwrap_or_clone(list);
        let revision = meta::resource_version(&list).to_owned();
        let (version, kind) = (list.str_at(&["apiVersion"]).to_owned(), list.str_at(&["kind"]).to_owned());
        let kind = kind.strip_suffix("List").unwrap_or(&kind).to_owned();
        let items = list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        // Lists of built-in kinds leave out what their objects are.
        let named = items.into_iter().map(|mut item| {
            if item["kind"].is_null() && item.as_object().is_some() {
                item.set("kind", kind.as_str());
                item.set("apiVersion", version.as_str());
            }
            Arc::new(item)
        });
        Ok((named.collect(), revision))
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn watch(&self, path: &str, query: &str) -> Result<Watch, Status> {
        match self {
            Self::Https(client) => client.watch(path, query).await.map(Watch::Https),
            Self::InProcess(door) => door.watch(path, query).await.map(|w| Watch::InProcess(Box::new(w))),
        }
    }
}

/// Where a resource's objects are found: all of them, or those of a namespace.
pub fn collection_path(resource: &GroupVersionResource, namespace: &str) -> String {
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    let space = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    format!("{root}/{}{space}/{}", resource.api_version(), resource.resource)
}

/// One object, or a subresource of it.
pub fn object_path(resource: &GroupVersionResource, namespace: &str, name: &str, subresource: &str) -> String {
    let collection = collection_path(resource, namespace);
    if subresource.is_empty() { format!("{collection}/{name}") } else { format!("{collection}/{name}/{subresource}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let deployments = GroupVersionResource::new("apps", "v1", "deployments");
        let pods = GroupVersionResource::new("", "v1", "pods");
        assert_eq!(collection_path(&pods, ""), "/api/v1/pods");
        assert_eq!(
            object_path(&deployments, "default", "web", "status"),
            "/apis/apps/v1/namespaces/default/deployments/web/status"
        );
    }
}
