//! Requests and replies as the server's core sees them: callers in this process hand in and get back object trees, the
//! HTTP shell turns bytes into the same and back.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Method};
use machinery::{Reason, Status, Value, meta};
use policy::UserInfo;
use registry::Resource;
use registry::cache::Cached;
use rustls::pki_types::CertificateDer;

use crate::watch::WatchStream;

/// The other end of a connection, as TLS knows it. Its certificate is judged once.
#[derive(Debug)]
pub struct Peer {
    /// Where it comes from.
    pub remote: SocketAddr,
    /// The certificates it showed, leaf first; possession of the leaf's key is proven.
    pub certificates: Vec<CertificateDer<'static>>,
    pub(crate) judged: OnceLock<crate::authn::Judged>,
}

impl Peer {
    /// A peer with the certificates it showed in the handshake (none: empty).
    pub fn new(remote: SocketAddr, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { remote, certificates, judged: OnceLock::new() }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever is at the other end of a connection; credentials are in the certificate and the headers.
    Connection(Arc<Peer>),
    /// A caller in this process whose identity was verified before.
    Verified(UserInfo),
}

/// What was sent along.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// As received; the header `content-type` says what it is.
    Bytes(Bytes),
    /// An object, or a patch, whose kind the header `content-type` names.
    Tree(Value),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub caller: Caller,
    pub method: Method,
    /// Without the query.
    pub path: String,
    /// Without the question mark, still encoded.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Body,
}

impl Request {
    /// A request of a verified caller in this process. `query` may be empty.
    pub fn verified(user: &UserInfo, method: Method, path: &str, query: &str, body: Body) -> Self {
        Self {
            caller: Caller::Verified(user.clone()),
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: HeaderMap::new(),
            body,
        }
    }

    /// With a `content-type`, which patches need.
    #[must_use]
    pub fn content_type(mut self, media_type: &'static str) -> Self {
        self.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
        self
    }
}

/// A list as its parts; items are in the stored version.
#[derive(Clone, Debug)]
pub struct List {
    /// The row that was asked for.
    pub row: Arc<Resource>,
    pub items: Vec<Arc<Cached>>,
    pub resource_version: u64,
    /// Empty on the last page.
    pub continue_token: String,
    /// Objects after this page, when known.
    pub remaining: Option<u64>,
}

/// What a reply holds.
#[derive(Debug)]
pub enum Content {
    /// A failure, or a success that is told by a `Status`.
    Status(Status),
    /// An object in the stored version, to be shown in the row's.
    Object {
        object: Arc<Cached>,
        row: Arc<Resource>,
    },
    /// An object that is not stored: reviews, scales, statuses of success, discovery. `type_name` is the facts' type.
    Tree {
        object: Value,
        type_name: String,
    },
    List(List),
    Watch(WatchStream),
    /// A document that is no object.
    Bytes {
        content_type: String,
        body: Bytes,
    },
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Reply {
    /// HTTP code.
    pub code: u16,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Further headers, such as `ETag`.
    pub headers: HeaderMap,
    pub content: Content,
}

impl Reply {
    /// A reply without warnings or further headers.
    pub fn new(code: u16, content: Content) -> Self {
        Self { code, warnings: Vec::new(), headers: HeaderMap::new(), content }
    }

    /// A failure.
    pub fn failure(status: Status) -> Self {
        Self::new(status.code, Content::Status(status))
    }

    pub(crate) fn tree(code: u16, object: Value, type_name: &str) -> Self {
        Self::new(code, Content::Tree { object, type_name: type_name.to_owned() })
    }

    pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Self {
        Self::new(code, Content::Bytes { content_type: "text/plain; charset=utf-8".to_owned(), body: text.into() })
    }

    /// With the header that Go's `http.Error` sets.
    #[must_use]
    pub(crate) fn nosniff(mut self) -> Self {
        let name = http::header::X_CONTENT_TYPE_OPTIONS;
        self.headers.insert(name, http::HeaderValue::from_static("nosniff"));
        self
    }

    /// The object in the version asked for.
    ///
    /// # Errors
    /// The failure; 500 when the reply is no object.
    pub fn into_object(self) -> Result<Value, Status> {
        match self.content {
            Content::Status(status) => Err(status),
            Content::Object { object, row } => Ok(registry::convert(&object.object, &row)),
            Content::Tree { object, .. } if self.code >= 400 => Err(Status::from_value(&object)),
            Content::Tree { object, .. } => Ok(object),
            Content::List(_) | Content::Watch(_) | Content::Bytes { .. } => {
                Err(Status::internal("the reply is not an object"))
            }
        }
    }

    /// The list; its items share the watch cache's trees.
    ///
    /// # Errors
    /// The failure; 500 when the reply is no list.
    pub fn into_list(self) -> Result<List, Status> {
        match self.content {
            Content::Status(status) => Err(status),
            Content::List(list) => Ok(list),
            Content::Tree { object, .. } if self.code >= 400 => Err(Status::from_value(&object)),
            _ => Err(Status::internal("the reply is not a list")),
        }
    }

    /// The running watch.
    ///
    /// # Errors
    /// The failure; 500 when the reply is no watch.
    pub fn into_watch(self) -> Result<WatchStream, Status> {
        match self.content {
            Content::Status(status) => Err(status),
            Content::Watch(watch) => Ok(watch),
            _ => Err(Status::internal("the reply is not a watch")),
        }
    }
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::failure(status)
    }
}

/// `Status: Success` about an object.
pub(crate) fn success(code: u16, row: Option<&Resource>, object: Option<&Value>) -> Reply {
    let mut value = machinery::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let (Some(row), Some(object)) = (row, object) {
        let mut details = machinery::json!({"name": meta::name(object), "kind": row.plural.as_str()});
        if !row.gvk.group.is_empty() {
            details.set("group", row.gvk.group.as_str());
        }
        if !meta::uid(object).is_empty() {
            details.set("uid", meta::uid(object));
        }
        value.set("details", details);
    } else {
        value.set("code", i64::from(code));
    }
    Reply::tree(code, value, "meta/v1.Status")
}

/// 500 without a text of ours.
pub(crate) fn internal(why: impl std::fmt::Display) -> Status {
    Status::new(Reason::InternalError, format!("Internal error occurred: {why}"))
}
