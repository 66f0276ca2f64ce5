//! Requests and replies as the services see them.

use bytes::Bytes;
use gke::ApiError;
pub(crate) use gke::query::{decode, pairs};
use http::HeaderMap;
use machinery::Value;

/// A request whose body was read.
pub(crate) struct Request {
    pub(crate) verb: String,
    /// As sent, without the query.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Does the connection come from a process of our own user? Asked only where it matters.
    pub(crate) same_user: bool,
}

impl Request {
    /// One that nobody sent: what is asked from inside.
    pub(crate) fn inside(verb: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            path: String::new(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            same_user: false,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The path's segments, decoded.
    pub(crate) fn segments(&self) -> Vec<String> {
        self.path.trim_start_matches('/').split('/').map(decode).collect()
    }

    /// The body as JSON; an empty one is an empty object.
    pub(crate) fn json(&self) -> Result<Value, ApiError> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::object());
        }
        let parsed = Value::from_slice(&self.body).map_err(|error| {
            ApiError::json(vec![(String::new(), format!("Invalid JSON payload received. {error}"))])
        })?;
        if parsed.as_object().is_none() {
            let text = "Invalid JSON payload received. Root element must be a message.";
            return Err(ApiError::json(vec![(String::new(), text.to_owned())]));
        }
        Ok(parsed)
    }

    /// The fields of a form body.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        pairs(&String::from_utf8_lossy(&self.body))
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Reply {
    /// JSON with the headers of Google's front end.
    pub(crate) fn json(code: u16, value: &Value) -> Self {
        let content_type = "application/json; charset=UTF-8";
        Self { code, content_type, headers: Vec::new(), body: value.to_vec().into() }
    }

    /// Plain text.
    pub(crate) fn text(code: u16, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self { code, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: text.into() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
