//! What a request is about, from method, path and query (`k8s.io/apiserver/pkg/endpoints/request`).

use http::Method;
use machinery::{Status, fields, labels};

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) is_resource: bool,
    /// get, list, watch, create, update, patch, delete, deletecollection; for paths the method in lower case.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    pub(crate) path: String,
    /// Is the method one that routes exist for? HEAD reads like GET to authorization, but has no route.
    pub(crate) routed: bool,
}

/// Subresources of namespaces that are not resources within them.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method and path; `watch` and `field_selector` of the query decide between list, watch and names.
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { verb: method.as_str().to_lowercase(), path: path.to_owned(), ..Self::default() };
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.first() {
            Some(&"api") if parts.len() >= 3 => {
                info.version = parts[1].to_owned();
                parts.drain(..2);
            }
            Some(&"apis") if parts.len() >= 4 => {
                (info.group, info.version) = (parts[1].to_owned(), parts[2].to_owned());
                parts.drain(..3);
            }
            _ => return info,
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        info.routed = matches!(*method, Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
        let mut watch_path = false;
        if matches!(parts.first(), Some(&"watch")) && parts.len() > 1 {
            watch_path = true;
            info.verb = "watch".to_owned();
            parts.remove(0);
        }
        if parts.first() == Some(&"namespaces")
            && let Some(namespace) = parts.get(1)
        {
            info.namespace = (*namespace).to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts.drain(..2);
            }
        }
        info.resource = parts.first().copied().unwrap_or_default().to_owned();
        info.name = parts.get(1).copied().map(decode).unwrap_or_default();
        info.subresource =
            parts.get(2..).map(|rest| rest.first().copied().unwrap_or_default()).unwrap_or_default().to_owned();
        if info.name.is_empty() {
            info.collection_verb(query, watch_path);
        }
        info
    }

    fn collection_verb(&mut self, query: &Query, watch_path: bool) {
        if self.verb == "get" {
            let watch = query.flag("watch");
            self.verb = if watch { "watch" } else { "list" }.to_owned();
        } else if self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if watch_path || matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            let selector = fields::Selector::parse(query.get("fieldSelector")).unwrap_or_default();
            if let Some(name) =
                selector.exact("metadata.name").filter(|n| machinery::names::is_valid_path_segment_name(n).is_empty())
            {
                self.name = name.to_owned();
            }
        }
    }
}

/// The decoded query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits at `&` and `=`, undoing percent and plus.
    pub(crate) fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode_plus(key), decode_plus(value))
        };
        Self(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    /// As text again, every unusual byte escaped.
    pub(crate) fn encoded(&self) -> String {
        let escape = |text: &str| -> String {
            let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
            text.as_bytes()
                .iter()
                .map(|b| if plain(b) { char::from(*b).to_string() } else { format!("%{b:02X}") })
                .collect()
        };
        self.0.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect::<Vec<_>>().join("&")
    }

    /// The first value; empty when absent.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// All values of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// True for anything but absent, `false` and `0` (`metav1` query conversion).
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "false" | "0" | "False" | "FALSE")
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let pair = (bytes.get(i + 1).copied().and_then(hex), bytes.get(i + 2).copied().and_then(hex));
        if let (b'%', (Some(high), Some(low))) = (bytes[i], pair) {
            out.push(high << 4 | low);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn decode_plus(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// `metav1.ListOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) labels: labels::Selector,
    pub(crate) fields: fields::Selector,
    pub(crate) limit: u64,
    pub(crate) continue_token: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks the options of a list or watch; `watch_list` is the feature gate `WatchList`.
    ///
    /// # Errors
    /// 400 for what cannot be read; 422 for combinations upstream refuses.
    pub(crate) fn parse(query: &Query, watch: bool, watch_list: bool) -> Result<Self, Status> {
        let number = |key: &str| -> Result<Option<u64>, Status> {
            match query.get(key) {
                "" => Ok(None),
                text => text
                    .parse::<i64>()
                    .map(|n| u64::try_from(n).ok())
                    .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
            }
        };
        let options = Self {
            labels: labels::Selector::parse(query.get("labelSelector")).map_err(Status::bad_request)?,
            fields: fields::Selector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?,
            limit: number("limit")?.unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            resource_version: query.get("resourceVersion").to_owned(),
            resource_version_match: query.get("resourceVersionMatch").to_owned(),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
            timeout_seconds: number("timeoutSeconds")?,
        };
        options.check(watch, watch_list)?;
        Ok(options)
    }

    fn check(&self, watch: bool, watch_list: bool) -> Result<(), Status> {
        use machinery::{FieldError, FieldPath};
        let path = FieldPath::new("resourceVersionMatch");
        let given = self.resource_version_match.as_str();
        let mut errors = Vec::new();
        if watch && let Some(_) = self.send_initial_events {
            if given != "NotOlderThan" {
                errors.push(FieldError::forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !watch_list {
                errors.push(FieldError::forbidden(
                    &FieldPath::new("sendInitialEvents"),
                    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                ));
            }
            if !matches!(given, "" | "NotOlderThan") {
                errors.push(FieldError::not_supported(&path, &given.into(), &["NotOlderThan"]));
            }
        } else if watch && !given.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
            if given != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, &given.into(), &["NotOlderThan"]));
            }
        } else if !watch && self.send_initial_events.is_some() {
            errors.push(FieldError::forbidden(
                &FieldPath::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        } else if !given.is_empty() {
            if self.resource_version.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !self.continue_token.is_empty() {
                errors
                    .push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(given, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(&path, &given.into(), &["Exact", "NotOlderThan", ""]));
            }
            if given == "Exact" && self.resource_version == "0" {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
    }

    /// The number in `resourceVersion`, `None` when absent.
    ///
    /// # Errors
    /// 400 when it is no number.
    pub(crate) fn revision(&self) -> Result<Option<u64>, Status> {
        revision(&self.resource_version).map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))
    }
}

/// The number of a `resourceVersion`, `None` when it is empty; otherwise why it is none.
pub(crate) fn revision(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let why =
        || format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
    text.parse().map(Some).map_err(|_| why())
}

/// The options of a write.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// Strict, Warn (default) or Ignore.
    pub(crate) validation: FieldValidation,
}

/// What to do about unknown fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl WriteOptions {
    /// Reads and checks the options; `kind` is the options' kind in complaints.
    ///
    /// # Errors
    /// 422 in upstream's words.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        use machinery::{FieldError, FieldPath};
        let mut errors = Vec::new();
        let dry: Vec<&str> = query.all("dryRun").filter(|d| !d.is_empty()).collect();
        if dry.iter().any(|d| *d != "All") {
            errors.push(FieldError::not_supported_list(&FieldPath::new("dryRun"), &dry, &["All"]));
        }
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let path = FieldPath::new("fieldValidation");
                errors.push(FieldError::not_supported(&path, &other.into(), &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        check_manager(query.get("fieldManager"), &mut errors);
        if errors.is_empty() {
            Ok(Self { dry_run: !dry.is_empty(), validation })
        } else {
            Err(Status::invalid("meta.k8s.io", kind, "", &errors))
        }
    }
}

/// `fieldManager`: at most so many bytes, all of them printable.
const MANAGER_BYTES_MAX: usize = 128;

fn check_manager(manager: &str, errors: &mut machinery::FieldErrors) {
    use machinery::{FieldError, FieldPath};
    let path = FieldPath::new("fieldManager");
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, MANAGER_BYTES_MAX));
    }
    if let Some((at, bad)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(bad));
        errors.push(FieldError::invalid(&path, &manager.into(), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_verb_resource_and_object() {
        let cases = [
            ("GET", "/api/v1/namespaces/default/pods/x", "", "get||v1|default|pods||x"),
            ("GET", "/api/v1/pods", "watch=1", "watch||v1||pods||"),
            ("GET", "/apis/apps/v1/namespaces/n/deployments/d/scale", "", "get|apps|v1|n|deployments|scale|d"),
            ("GET", "/api/v1/namespaces/n", "", "get||v1|n|namespaces||n"),
            ("PUT", "/api/v1/namespaces/n/finalize", "", "update||v1|n|namespaces|finalize|n"),
            ("DELETE", "/api/v1/namespaces/n/pods", "", "deletecollection||v1|n|pods||"),
            ("GET", "/api/v1/namespaces/n/pods", "fieldSelector=metadata.name%3Dp", "list||v1|n|pods||p"),
            ("GET", "/api/v1/watch/pods", "", "watch||v1||pods||"),
            (
                "POST",
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                "",
                "create|authorization.k8s.io|v1||subjectaccessreviews||",
            ),
        ];
        for (method, path, query, expect) in cases {
            let i = RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query));
            let got = [i.verb, i.group, i.version, i.namespace, i.resource, i.subresource, i.name].join("|");
            assert_eq!(got, expect, "{method} {path}?{query}");
        }
        assert!(!RequestInfo::parse(&Method::GET, "/healthz", &Query::default()).is_resource);
        assert!(!RequestInfo::parse(&Method::GET, "/apis/apps/v1", &Query::default()).is_resource);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let check = |query: &str, watch| ListOptions::parse(&Query::parse(query), watch, true).is_ok();
        assert!(check("limit=5&resourceVersion=0", false));
        assert!(!check("resourceVersionMatch=Exact", false));
        assert!(!check("resourceVersionMatch=Exact&resourceVersion=0", false));
        assert!(!check("sendInitialEvents=true", true));
        assert!(check("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true));
        assert!(!check("limit=x", false));
        let off = ListOptions::parse(&Query::parse("sendInitialEvents=true&resourceVersionMatch=Exact"), true, false);
        assert_eq!(off.err().map(|s| s.causes.len()), Some(3));
        assert!(WriteOptions::parse(&Query::parse("dryRun=Some"), "CreateOptions").is_err());
        let manager = |m: &str| WriteOptions::parse(&Query::parse(&format!("fieldManager={m}")), "PatchOptions");
        assert!(manager("kubectl-edit").is_ok());
        assert_eq!(
            manager("a%00").unwrap_err().message,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\x00\": invalid character U+0000 (at position 1)"
        );
        assert!(manager(&"x".repeat(129)).is_err());
    }

    /// `METHOD PATH?QUERY`, as the HTTP library hands it on.
    fn target(bytes: &[u8]) -> Option<(Method, http::Uri)> {
        let text = String::from_utf8_lossy(bytes);
        let (method, target) = text.split_once(' ')?;
        Some((Method::from_bytes(method.as_bytes()).ok()?, target.parse().ok()?))
    }

    #[test]
    fn any_request_line_says_what_it_is_about_and_nothing_else() {
        let seeds = [
            "GET /api/v1/namespaces/default/pods/x/log?follow=true&container=c",
            "DELETE /apis/apps/v1/namespaces/n/deployments?labelSelector=a%20in%20(b,c),!d&propagationPolicy=Foreground",
            "GET /api/v1/watch/namespaces/n/pods/p?resourceVersion=0&fieldSelector=metadata.name%3Dp,status.phase!%3DX",
            "PATCH /api/v1/nodes/n/status?dryRun=All&fieldManager=m&fieldValidation=Strict",
            "GET /apis/apps/v1/deployments?limit=5&continue=e30&resourceVersionMatch=Exact&resourceVersion=9&watch=0",
            "GET /openid/v1/jwks?x",
        ];
        let words = [
            "/",
            "//",
            "/../",
            "/./",
            "%2f",
            "%2F..",
            "%00",
            "%",
            "%zz",
            "%ff",
            "+",
            "&",
            "=",
            ";",
            "namespaces",
            "/namespaces/",
            "kube-system",
            "/watch",
            "/api",
            "/apis/",
            "watch=1",
            "metadata.name=",
            "fieldSelector=metadata.name%3D..",
            "limit=-1",
            "99999999999999999999",
            "é",
            "HEAD ",
            "POST ",
        ];
        fuzz::Fuzz::of(seeds).words(words).run(|bytes| {
            let Some((method, uri)) = target(bytes) else { return };
            let query = Query::parse(uri.query().unwrap_or_default());
            assert_eq!(Query::parse(&query.encoded()), query);
            let info = RequestInfo::parse(&method, uri.path(), &query);
            let path = uri.path();
            assert_eq!(info.path, path);
            let prefixed = ["/api/", "/apis/"]
                .iter()
                .any(|prefix| format!("/{}", path.trim_start_matches('/')).starts_with(prefix));
            assert!(prefixed || !info.is_resource, "{info:?}");
            if info.is_resource {
                // Each part is one segment of the path: whoever is judged by them is judged by what was asked for.
                let segments: Vec<&str> = path.split('/').collect();
                for part in [&info.group, &info.version, &info.namespace, &info.resource, &info.subresource] {
                    assert!(part.is_empty() || segments.contains(&part.as_str()), "{part}: {info:?}");
                }
                let named = segments.iter().any(|segment| decode(segment) == info.name);
                let collection = ["list", "watch", "deletecollection"].contains(&info.verb.as_str());
                assert!(info.name.is_empty() || named || collection, "{info:?}");
                // What changes things is never judged as reading.
                let reads = ["get", "list", "watch"].contains(&info.verb.as_str());
                let watches = info.verb == "watch" && path.contains("/watch/");
                assert!(!reads || watches || method == Method::GET || method == Method::HEAD, "{info:?}");
            }
            let _ =
                (ListOptions::parse(&query, info.verb == "watch", true), WriteOptions::parse(&query, "PatchOptions"));
        });
    }
}
