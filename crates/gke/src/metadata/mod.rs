//! What a machine's metadata server says (`computeMetadata/v1`), as Compute Engine's does: a tree, and the rules by which it
//! is read. Tokens are made by whoever serves it.
//!
//! ```text
//! request ─guard─► answer(tree) ─► reply, or a token to be made        waits: answer again once the tree has changed
//! ```
//! See Compute Engine's "View and query VM metadata"; texts and headers are those of recorded answers.

mod machine;
mod page;
mod pods;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use machinery::{Value, json};

use crate::query::decode;
pub use machine::Machine;
pub use pods::{POD_SCOPES, answer_for_pod, internal_error, no_token};

/// Names under which a metadata server is asked, beside its own address.
const HOSTS: [&str; 4] = ["metadata.google.internal", "metadata", "metadata.goog", "169.254.169.254"];
const ROOT: &str = "/computeMetadata/v1";
const TEXT: &str = "application/text";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";

/// A place in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// One thing a line; an array in JSON.
    Lines(Vec<String>),
    /// An array in JSON, also where text is asked for.
    Array(Vec<String>),
    /// A directory whose entries are always the same; JSON writes their names in camel case.
    Fixed(Vec<(&'static str, Self)>),
    /// A directory whose entries have names of their own.
    Named(BTreeMap<String, Self>),
    /// A directory of numbered entries.
    Numbered(Vec<Self>),
    /// An access token of the account above it.
    Token,
    /// An identity token of the account above it.
    Identity,
}

/// A request as far as it matters.
#[derive(Clone, Default, Debug)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// As sent, without the query.
    pub path: String,
    /// Decoded.
    pub query: Vec<(String, String)>,
    /// The header `Host`.
    pub host: String,
    /// The header `Metadata-Flavor`.
    pub flavor: String,
    /// Is there a header `X-Forwarded-For`?
    pub forwarded: bool,
}

impl Request {
    /// A field of the query; empty when it is not there.
    pub fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn says_yes(&self, name: &str) -> bool {
        ["true", "on", "yes", "1"].contains(&self.query(name).to_ascii_lowercase().as_str())
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub code: u16,
    pub content_type: &'static str,
    pub body: String,
    /// What `last_etag` refers to.
    pub etag: Option<String>,
    /// Where it is instead.
    pub location: Option<String>,
}

impl Reply {
    /// An answer in this form.
    pub fn new(code: u16, content_type: &'static str, body: impl Into<String>) -> Self {
        Self { code, content_type, body: body.into(), etag: None, location: None }
    }

    /// An access token in the form in which clients look for it.
    pub fn token(access_token: &str, seconds: i64) -> Self {
        let body = json!({"access_token": access_token, "expires_in": seconds, "token_type": "Bearer"});
        Self::new(200, JSON, body.to_string())
    }

    /// An identity token.
    pub fn identity(token: &str) -> Self {
        Self::new(200, "text/html", token)
    }

    /// A refusal that says why in one line.
    pub fn refused(code: u16, why: &str) -> Self {
        Self::new(code, "text/plain; charset=utf-8", format!("{why}\n"))
    }

    fn value(content_type: &'static str, body: String) -> Self {
        let etag = Some(etag(&body));
        Self { etag, ..Self::new(200, content_type, body) }
    }
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// To say this.
    Done(Reply),
    /// To make an access token.
    Token {
        /// The account's name in the tree: `default`, or an email.
        account: String,
        /// Those asked for; none: all it has.
        scopes: Vec<String>,
    },
    /// To make an identity token.
    Identity {
        /// As for a token.
        account: String,
        /// Never empty.
        audience: String,
        /// With the machine in it?
        full: bool,
    },
}

/// How long an answer is to be held back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// The caller has this one: it waits for another.
    pub last_etag: Option<String>,
    /// Then it wants to know what is there all the same.
    pub timeout: Option<Duration>,
}

/// Does the caller want to wait for a change? What it says of the time was looked at by [`guard`].
pub fn waits(request: &Request) -> Option<Wait> {
    let given = |name| Some(request.query(name)).filter(|text: &&str| !text.is_empty());
    request.says_yes("wait_for_change").then(|| Wait {
        last_etag: given("last_etag").map(str::to_owned),
        timeout: given("timeout_sec").and_then(|text| text.parse().ok()).map(Duration::from_secs),
    })
}

/// The guards before anything is looked at: no other host's name (a page of a rebound name is asking), no proxy, and the
/// header that no page can make a browser send; and no wait that nobody can tell the end of. `own` is the server's address,
/// with and without its port.
pub fn guard(request: &Request, own: &[String]) -> Option<Reply> {
    let named = host_name(&request.host);
    let known = HOSTS.iter().any(|host| host.eq_ignore_ascii_case(named)) || own.contains(&request.host);
    let path = &request.path;
    if !known {
        return Some(page::forbidden(
            path,
            &format!("Host {} is not one of this server's.", page::escape(&request.host)),
        ));
    }
    if request.forwarded {
        return Some(page::forbidden(path, "Requests with an X-Forwarded-For header are refused."));
    }
    let public = matches!(path.as_str(), "" | "/");
    if !public && !request.flavor.eq_ignore_ascii_case("google") {
        return Some(page::forbidden(path, "Missing Metadata-Flavor:Google header."));
    }
    if request.method != "GET" {
        return Some(page::method_not_allowed(&request.method, path));
    }
    let seconds = request.query("timeout_sec");
    (!seconds.is_empty() && seconds.parse::<u64>().is_err())
        .then(|| page::bad_request(path, "timeout_sec is not a number of seconds."))
}

fn host_name(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Reads the tree under `computeMetadata/v1/`.
pub fn answer(tree: &Entry, request: &Request) -> Outcome {
    let path = decode(&request.path);
    let legacy = ["/0.1", "/computeMetadata/v1beta1"];
    if legacy.iter().any(|old| path.strip_prefix(old).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
        let why = "Legacy metadata endpoints are disabled. Please use the /v1/ endpoint.";
        return Outcome::Done(page::forbidden(&path, why));
    }
    match path.as_str() {
        "" | "/" => return Outcome::Done(Reply::value(TEXT, "computeMetadata/\n".to_owned())),
        "/computeMetadata" | ROOT => return Outcome::Done(moved(&path, request)),
        "/computeMetadata/" => return Outcome::Done(Reply::value(TEXT, "v1/\n".to_owned())),
        _ => {}
    }
    let Some(rest) = path.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')) else {
        return Outcome::Done(page::not_found(&path));
    };
    let (names, slash) = match rest.strip_suffix('/') {
        Some(names) => (names, true),
        None => (rest, rest.is_empty()),
    };
    let names: Vec<&str> = names.split('/').filter(|_| !names.is_empty()).collect();
    let Some(entry) = find(tree, &names) else { return Outcome::Done(page::not_found(&path)) };
    // Google forgives a slash after a value no more than another name would be.
    if slash && !entry.is_directory() {
        return Outcome::Done(page::not_found(&path));
    }
    let account = || names.iter().rev().nth(1).map(|name| (*name).to_owned()).unwrap_or_default();
    match entry {
        Entry::Token => {
            let scopes = request.query("scopes").split(',').map(str::trim).filter(|scope| !scope.is_empty());
            Outcome::Token { account: account(), scopes: scopes.map(str::to_owned).collect() }
        }
        Entry::Identity => {
            let audience = request.query("audience").trim().to_owned();
            if audience.is_empty() {
                return Outcome::Done(Reply::new(400, HTML, "non-empty audience parameter required\n"));
            }
            Outcome::Identity { account: account(), audience, full: request.query("format") == "full" }
        }
        directory if directory.is_directory() && !slash => Outcome::Done(moved(&path, request)),
        entry => Outcome::Done(read(entry, &path, request)),
    }
}

/// Is a value under this name part of what is asked for?
pub fn touches(request: &Request, name: &str) -> bool {
    let path = decode(&request.path);
    let whole = format!("{ROOT}/{name}");
    path == whole || request.says_yes("recursive") && whole.starts_with(&path) && path.ends_with('/')
}

fn moved(path: &str, request: &Request) -> Reply {
    let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let location = Some(format!("http://{}{path}/{query}", request.host).replace(['\r', '\n'], ""));
    Reply { location, ..Reply::new(301, HTML, format!("{path}/\n")) }
}

fn find<'a>(tree: &'a Entry, names: &[&str]) -> Option<&'a Entry> {
    names.iter().try_fold(tree, |entry, name| match entry {
        Entry::Fixed(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, entry)| entry),
        Entry::Named(entries) => entries.get(*name),
        Entry::Numbered(entries) => entries.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

fn read(entry: &Entry, path: &str, request: &Request) -> Reply {
    let recursive = request.says_yes("recursive");
    let alt = match request.query("alt") {
        "" => None,
        "json" => Some(true),
        "text" => Some(false),
        _ => return page::bad_request(path, "The parameter alt is json or text."),
    };
    match (entry.is_directory(), recursive) {
        (true, false) if alt.is_some() => page::bad_request(path, "The parameter alt goes with recursive=true here."),
        (true, false) => Reply::value(TEXT, entry.listing()),
        (true, true) if alt == Some(false) => {
            let mut lines = String::new();
            entry.lines("", &mut lines);
            Reply::value(TEXT, lines)
        }
        (true, true) => Reply::value(JSON, entry.json().to_string()),
        (false, _) if alt.unwrap_or(recursive) => Reply::value(JSON, entry.json().to_string()),
        (false, _) => Reply::value(TEXT, entry.text()),
    }
}

impl Entry {
    /// A text.
    pub fn text_of(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn is_directory(&self) -> bool {
        matches!(self, Self::Fixed(_) | Self::Named(_) | Self::Numbered(_))
    }

    fn is_made_when_asked(&self) -> bool {
        matches!(self, Self::Token | Self::Identity)
    }

    fn children(&self) -> Vec<(String, &Self)> {
        match self {
            Self::Fixed(entries) => entries.iter().map(|(name, entry)| ((*name).to_owned(), entry)).collect(),
            Self::Named(entries) => entries.iter().map(|(name, entry)| (name.clone(), entry)).collect(),
            Self::Numbered(entries) => entries.iter().enumerate().map(|(i, entry)| (i.to_string(), entry)).collect(),
            _ => Vec::new(),
        }
    }

    fn listing(&self) -> String {
        let slash = |entry: &Self| if entry.is_directory() { "/" } else { "" };
        self.children().iter().map(|(name, entry)| format!("{name}{}\n", slash(entry))).collect()
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Lines(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
            other => other.json().to_string(),
        }
    }

    /// `path value`, one line each.
    fn lines(&self, path: &str, out: &mut String) {
        if self.is_made_when_asked() {
            return;
        }
        match self {
            Self::Lines(lines) => lines.iter().for_each(|line| {
                let _ = writeln!(out, "{path} {line}");
            }),
            entry if entry.is_directory() => {
                for (name, entry) in entry.children() {
                    let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    entry.lines(&path, out);
                }
            }
            value => {
                let _ = writeln!(out, "{path} {}", value.text());
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => json!(number),
            Self::Lines(lines) | Self::Array(lines) => {
                lines.iter().map(|line| Value::from(line.as_str())).collect::<Vec<_>>().into()
            }
            Self::Numbered(entries) => entries.iter().map(Self::json).collect::<Vec<_>>().into(),
            Self::Fixed(_) | Self::Named(_) => {
                let mut object = Value::object();
                for (name, entry) in self.children() {
                    if !entry.is_made_when_asked() {
                        let name = if matches!(self, Self::Fixed(_)) { camel(&name) } else { name };
                        object.set(&name, entry.json());
                    }
                }
                object
            }
            Self::Token | Self::Identity => Value::Null,
        }
    }
}

/// `numeric-project-id` as JSON names it.
fn camel(name: &str) -> String {
    let mut parts = name.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut done, part| {
        let mut letters = part.chars();
        done.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        done.push_str(letters.as_str());
        done
    })
}

/// 16 hex digits that tell contents apart (FNV-1a); no secret is kept by them.
fn etag(body: &str) -> String {
    let hash = body
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
