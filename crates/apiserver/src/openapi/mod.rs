//! `/openapi/v2` and `/openapi/v3`: the documents and how they are asked for (`k8s.io/kube-openapi`, `pkg/handler` and
//! `pkg/handler3`).
//!
//! ```text
//! rows ──document──► JSON tree ──► JSON or, for v2, protobuf ──gzip──► kept until the rows change
//! ```
//! Nothing is made before it is asked for; documents are kept compressed, as kubectl takes v2.

mod document;
mod kept;
mod paths;

use std::sync::Arc;

use http::{HeaderValue, header};
use machinery::openapi::{Version, encode_v2};
use machinery::{Value, json};
use registry::{Registry, Resource};

pub(crate) use kept::Documents;
use kept::Made;

use crate::message::{Content, Reply};
use crate::paths::{document as bytes_reply, hash};
use crate::server::Call;

/// The forms of v2: what clients ask for, what the answer is called.
const V2_FORMS: [(&str, &str); 3] = [
    ("json", "application/json"),
    ("com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF),
    ("com.github.proto-openapi.spec.v2.v1.0+protobuf", PROTOBUF),
];
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

impl Call<'_> {
    pub(crate) fn openapi_v2(&self) -> Reply {
        let mut reply = match v2_form(self.header(header::ACCEPT)) {
            Some(media) => {
                let made = self.v2(media == PROTOBUF);
                let packed = takes_gzip(self.header(header::ACCEPT_ENCODING));
                let body = if packed { made.packed() } else { made.plain() };
                let mut reply = self.with_etag((body, made.etag.clone()), media);
                if packed && reply.code == 200 {
                    reply.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                reply
            }
            None => Self::not_acceptable(),
        };
        reply.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        reply.headers.append(header::VARY, HeaderValue::from_static("Accept"));
        reply
    }

    /// Both forms have the ETag of the JSON, as upstream's.
    fn v2(&self, protobuf: bool) -> Made {
        let registry = self.server.registry.load_full();
        let server = self.server;
        server.openapi.get(&registry, if protobuf { "v2 protobuf" } else { "v2" }, |registry| {
            let versions = registry.group_versions();
            let rows = versions.iter().flat_map(|v| registry.rows_of(&v.group, &v.version));
            let rows: Vec<&Resource> = rows.map(|row| &**row).collect();
            let tree = document::of(&server.types, &rows, &places(registry), Version::V2, &server.config.git_version);
            let text = tree.to_vec();
            let etag = hash(&text);
            if protobuf { Made::new(&encode_v2(&tree), etag) } else { Made::new(&text, etag) }
        })
    }

    pub(crate) fn openapi_v3_index(&self) -> Reply {
        let registry = self.server.registry.load_full();
        let mut paths = Value::object();
        for place in places(&registry) {
            let hash = self.stamp(&registry, &place);
            paths.set(&place, json!({"serverRelativeURL": format!("/openapi/v3/{place}?hash={hash}")}));
        }
        let mut value = Value::object();
        value.set("paths", paths);
        bytes_reply(200, "text/plain; charset=utf-8", value.to_vec())
    }

    /// What stands for a document of v3 in `hash` and its ETag: a hash of what it is made from, so that who wants the
    /// index does not have all documents made. For clients it is opaque.
    fn stamp(&self, registry: &Registry, place: &str) -> String {
        let mut text = format!("{} {} {place}\n", env!("CARGO_PKG_VERSION"), self.server.config.git_version);
        rows_at(registry, place).iter().for_each(|row| document::describe(row, &mut text));
        hash(text.as_bytes())
    }

    pub(crate) fn openapi_v3(&self, place: &str) -> Reply {
        let registry = self.server.registry.load_full();
        if !places(&registry).iter().any(|known| known == place) {
            return bytes_reply(404, "", "");
        }
        let takes = |clause: &Clause<'_>| clause.takes("application", "json");
        let mut reply = if clauses(self.header(header::ACCEPT)).iter().any(takes) {
            self.v3_document(&registry, place)
        } else {
            Self::not_acceptable()
        };
        reply.headers.append(header::VARY, HeaderValue::from_static("Accept"));
        reply
    }

    /// The document; under the hash of the index it may be kept for ever, under another one it is elsewhere.
    fn v3_document(&self, registry: &Arc<Registry>, place: &str) -> Reply {
        let etag = self.stamp(registry, place);
        let asked = self.query.get("hash");
        if !asked.is_empty() && asked != etag {
            let mut reply = bytes_reply(301, "", "");
            if let Ok(there) = HeaderValue::from_str(&format!("/openapi/v3/{place}?hash={etag}")) {
                reply.headers.insert(header::LOCATION, there);
            }
            return reply;
        }
        let server = self.server;
        let made = server.openapi.get(registry, &format!("v3 {place}"), |registry| {
            let (rows, here) = (rows_at(registry, place), [place.to_owned()]);
            let tree = document::of(&server.types, &rows, &here, Version::V3, &server.config.git_version);
            Made::new(&tree.to_vec(), etag)
        });
        let mut reply = self.with_etag((made.plain(), made.etag.clone()), "application/json");
        if !asked.is_empty() {
            reply.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        }
        reply
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// 406 without a word.
    fn not_acceptable() -> Reply {
        Reply::new(406, Content::Bytes { content_type: String::new(), body: bytes::Bytes::new() })
    }
}

/// Where documents of v3 are, sorted: `api`, `api/v1`, `apis`, `apis/apps`, `apis/apps/v1`…
fn places(registry: &Registry) -> Vec<String> {
    let mut places = vec!["api".to_owned(), "apis".to_owned()];
    for (group, versions) in registry.groups() {
        let place = if group.is_empty() { "api".to_owned() } else { format!("apis/{group}") };
        places.extend(versions.iter().map(|version| format!("{place}/{version}")));
        places.push(place);
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// The rows of a version's place; none of others.
fn rows_at<'a>(registry: &'a Registry, place: &'a str) -> Vec<&'a Resource> {
    let parts: Vec<&str> = place.split('/').collect();
    match parts.as_slice() {
        ["api", version] => registry.rows_of("", version).map(|row| &**row).collect(),
        ["apis", group, version] => registry.rows_of(group, version).map(|row| &**row).collect(),
        _ => Vec::new(),
    }
}

/// The first form that a clause of an Accept header takes, best clause first.
fn v2_form(accept: &str) -> Option<&'static str> {
    let form = |clause: &Clause<'_>| V2_FORMS.iter().find(|(sub, _)| clause.takes("application", sub));
    clauses(accept).iter().find_map(form).map(|(_, media)| *media)
}

/// One clause of an Accept header.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    q: f32,
}

impl Clause<'_> {
    fn takes(&self, kind: &str, sub: &str) -> bool {
        (self.kind == kind || self.kind == "*") && (self.sub == sub || self.sub == "*")
    }
}

/// As `goautoneg` reads them, best first: a clause of no use is left out, one of weight 0 counts as the worst.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let accept = if accept.is_empty() { "*/*" } else { accept };
    let clause = |text| -> Option<Clause<'_>> {
        let text: &str = text;
        let mut parts = text.split(';');
        let (kind, sub) = match parts.next()?.trim_matches(' ').split_once('/') {
            Some((kind, sub)) if !sub.is_empty() && !sub.contains('/') => (kind.trim(), sub.trim()),
            None if text.trim_matches(' ').starts_with('*') => ("*", "*"),
            _ => return None,
        };
        let q = parts.find_map(|p| p.trim().strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        Some(Clause { kind, sub, q })
    };
    let mut found: Vec<Clause<'_>> = accept.split(',').filter_map(clause).collect();
    let rank = |clause: &Clause<'_>| (clause.kind == "*", clause.sub == "*");
    found.sort_by(|a, b| b.q.total_cmp(&a.q).then(rank(a).cmp(&rank(b))));
    found
}

/// Does an Accept-Encoding header name gzip, with a weight above 0?
fn takes_gzip(encodings: &str) -> bool {
    encodings.split(',').any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_negotiated_as_upstream_does_it() {
        let json = Some("application/json");
        for (accept, form) in [
            ("", json),
            ("*/*", json),
            ("*", json),
            ("application/*", json),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(PROTOBUF)),
            ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", Some(PROTOBUF)),
            ("application/json;q=0.5, application/com.github.proto-openapi.spec.v2.v1.0+protobuf", Some(PROTOBUF)),
            ("*/*, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(PROTOBUF)),
            ("text/html, application/json", json),
            ("text/html", None),
            ("application/yaml", None),
            ("application", None),
        ] {
            assert_eq!(v2_form(accept), form, "{accept}");
        }
    }

    #[test]
    fn gzip_is_sent_to_those_who_name_it() {
        for (encodings, taken) in [
            ("", false),
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*", false),
            ("deflate", false),
        ] {
            assert_eq!(takes_gzip(encodings), taken, "{encodings}");
        }
    }
}
